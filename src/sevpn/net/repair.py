# SPDX-License-Identifier: Apache-2.0
"""Which tunnels live, and undoing what dead ones left.

Layer: net. Runs in: the control thread, under the shared lock.

A tunnel lives when somebody holds the lock of its run folder, or when there is a
TAP whose alias says so: the second holds even when /run/sevpn was deleted under
it. What a dead one leaves is found without its journal, too:

    routes     ours by protocol number, not into a living TAP, not to the server
               of a living tunnel
    resolv.conf  the marker names a tunnel that does not live; or no marker, and a
               saved copy lies beside it
    run folder   nobody holds its lock
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path

from sevpn.errors import HostError
from sevpn.net.dns.file import ResolvConf
from sevpn.net.journal import (
    Journal,
    Record,
    TunnelLock,
    network_namespace,
    tunnel_folders,
)
from sevpn.net.model import Address, Found, Route, family_of, is_default
from sevpn.net.plan import plan_removal
from sevpn.net.rtnetlink import Netlink

__all__ = ["Living", "clean_dead", "living_tunnels", "parsed"]


@dataclass(frozen=True, slots=True)
class Living:
    """A tunnel that lives, other than the one that asks."""

    name: str
    """Its name."""

    pid: int | None = None
    """Its process, where known."""

    devices: frozenset[str] = frozenset()
    """Its TAPs in this namespace; none while it has not opened one."""

    servers: frozenset[Address] = frozenset()
    """Addresses whose routes it needs."""

    claims: frozenset[str] = frozenset()
    """What only one tunnel may have, and it has."""

    is_known: bool = True
    """False when it may need routes that no record names."""


def living_tunnels(
    run_folder: Path, found: Found, *, mine: str | None
) -> dict[str, Living]:
    """Return the living tunnels but *mine*, by name.

    Args:
        run_folder: Where the tunnels' run folders are.
        found: The host as it is.
        mine: The tunnel that asks; `None` when none does.
    """
    living: dict[str, Living] = {}
    for folder in tunnel_folders(run_folder):
        lock = TunnelLock(folder)
        if folder.name == mine:
            continue
        if lock.take():
            lock.release()
            continue
        record = Journal(folder).read()
        living[folder.name] = _from_record(folder.name, record)
    for device, alias in found.tunnels().items():
        if alias.tunnel == mine:
            continue
        known = living.get(alias.tunnel, Living(alias.tunnel, is_known=False))
        living[alias.tunnel] = Living(
            alias.tunnel,
            known.pid,
            known.devices | {device},
            known.servers | frozenset(alias.servers),
            known.claims | _claims_seen(found, device),
            is_known=known.is_known or alias.is_complete,
        )
    return living


def _from_record(name: str, record: Record | None) -> Living:
    if record is None:
        return Living(name, is_known=False)
    is_here = record.namespace == network_namespace()
    claims = frozenset(claim for claim in record.claims if is_here or claim == "dns")
    servers = frozenset(parsed(record.servers)) if is_here else frozenset[Address]()
    return Living(name, record.pid, servers=servers, claims=claims)


def _claims_seen(found: Found, device: str) -> frozenset[str]:
    return frozenset(
        f"default-{family_of(entry.route.destination)}"
        for entry in found.routes
        if entry.is_ours
        and entry.route.device == device
        and is_default(entry.route.destination)
    )


def parsed(texts: tuple[str, ...]) -> list[Address]:
    """Return the addresses among *texts*; a file may hold anything."""
    addresses: list[Address] = []
    for text in texts:
        try:
            addresses.append(ip_address(text))
        except ValueError:
            continue
    return addresses


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
    if not all(tunnel.is_known for tunnel in living.values()):
        return []
    changes = plan_removal(
        found.routes,
        keep={address for tunnel in living.values() for address in tunnel.servers},
        living_devices=found.devices_of_tunnels(),
    )
    return [change.route for change in changes]
