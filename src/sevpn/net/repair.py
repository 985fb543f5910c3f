# SPDX-License-Identifier: Apache-2.0
"""Undoing what dead tunnels left.

Layer: net. Runs in: the control thread, under the shared lock.

It is found without any journal, too:

    routes       ours by protocol number, not into a living TAP, not to the server
                 of a living tunnel
    resolv.conf  the marker names a tunnel that does not live; or no marker, and a
                 saved copy lies beside it
    run folder   nobody holds its lock

Who lives is the business of `tunnels.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from sevpn.errors import HostError
from sevpn.net.dns.file import ResolvConf
from sevpn.net.journal import TunnelLock, tunnel_folders
from sevpn.net.model import Found, Route
from sevpn.net.plan import plan_removal
from sevpn.net.rtnetlink import Netlink
from sevpn.net.tunnels import Known, dead_tunnels, living_tunnels

__all__ = ["clean_dead"]


def clean_dead(
    netlink: Netlink,
    run_folder: Path,
    resolv_conf: ResolvConf,
    *,
    mine: str | None = None,
    only: str | None = None,
    checkpoint: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Undo what dead tunnels left; what living ones have is not touched.

    Args:
        netlink: The kernel.
        run_folder: Where the tunnels' run folders are.
        resolv_conf: The file of names.
        mine: The tunnel that asks: it holds its lock and counts as dead, because
            it has made nothing yet. Its folder stays.
        only: Leave alone what another dead tunnel's journal names. What no journal
            names is removed in any case.
        checkpoint: Called before each step, for tests that crash there.

    Returns:
        A line for each thing that was undone.

    Raises:
        HostError: Something could not be undone; the rest was.
    """
    found = netlink.find()
    spared = living_tunnels(run_folder, found, mine=mine)
    if only is not None:
        spared |= dead_tunnels(run_folder, but={*spared, only, mine})
    steps: list[tuple[str, Callable[[], object]]] = []
    owner = resolv_conf.owner()
    if owner is None:
        if resolv_conf.has_stale_copy:
            steps.append(
                ("forget the saved copy of resolv.conf", resolv_conf.forget_stale_copy)
            )
    elif owner not in spared:
        steps.append(("restore /etc/resolv.conf", resolv_conf.restore))
    steps += [
        (f"ip route del {route}", partial(netlink.remove_route, route))
        for route in _orphans(found, spared.values())
    ]
    done: list[str] = []
    errors: list[HostError] = []
    for line, step in steps:
        checkpoint(line)
        try:
            step()
            done.append(line)
        except HostError as error:
            errors.append(error)
    if errors:
        raise errors[0]  # the folders stay: they say what is still to be done
    for folder in tunnel_folders(run_folder):
        lock = TunnelLock(folder)
        if folder.name not in {*spared, mine} and lock.take():
            checkpoint(f"clear {folder.name}")
            lock.clear()
            done.append(f"clear the run folder of {folder.name}")
    return done


def _orphans(found: Found, spared: Collection[Known]) -> list[Route]:
    # A living tunnel that nobody knows the servers of might need any of them.
    if not all(tunnel.has_record for tunnel in spared):
        return []
    changes = plan_removal(
        found.routes,
        keep={address for tunnel in spared for address in tunnel.servers},
        living_devices=found.devices_of_tunnels(),
    )
    return [change.route for change in changes]
