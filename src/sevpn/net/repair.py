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

from collections.abc import Callable
from functools import partial
from pathlib import Path

from sevpn.errors import HostError
from sevpn.net.dns.file import ResolvConf
from sevpn.net.journal import TunnelLock, tunnel_folders
from sevpn.net.model import Found, Route
from sevpn.net.plan import plan_removal
from sevpn.net.rtnetlink import Netlink
from sevpn.net.tunnels import Living, living_tunnels

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
        only: Clear the run folder of this tunnel only. Routes and resolv.conf
            that belong to nobody are removed in any case.
        checkpoint: Called before each step, for tests that crash there.

    Returns:
        A line for each thing that was undone.

    Raises:
        HostError: Something could not be undone; the rest was.
    """
    found = netlink.find()
    living = living_tunnels(run_folder, found, mine=mine)
    steps: list[tuple[str, Callable[[], object]]] = []
    owner = resolv_conf.owner()
    if owner is None:
        resolv_conf.forget_stale_copy()
    elif owner not in living:
        steps.append(("restore /etc/resolv.conf", resolv_conf.restore))
    steps += [
        (f"ip route del {route}", partial(netlink.remove_route, route))
        for route in _orphans(found, living)
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
    spared = {*living, mine}
    for folder in tunnel_folders(run_folder):
        lock = TunnelLock(folder)
        if folder.name not in spared and only in {None, folder.name} and lock.take():
            checkpoint(f"clear {folder.name}")
            lock.clear()
            done.append(f"clear the run folder of {folder.name}")
    return done


def _orphans(found: Found, living: dict[str, Living]) -> list[Route]:
    # A living tunnel that nobody knows the servers of might need any of them.
    if not all(tunnel.has_record for tunnel in living.values()):
        return []
    changes = plan_removal(
        found.routes,
        keep={address for tunnel in living.values() for address in tunnel.servers},
        living_devices=found.devices_of_tunnels(),
    )
    return [change.route for change in changes]
