# SPDX-License-Identifier: Apache-2.0
"""Undoing what dead tunnels left.

Layer: net. Runs in: the control thread, under the shared lock.

It is found without any journal, too:

    routes       ours by protocol number, not into a living TAP, not to the server
                 of a living tunnel; in a tunnel's table, where it does not live
    rules        ours by protocol number, with the preferences of no living tunnel
    resolv.conf  the marker names a tunnel that does not live; or no marker, and a
                 saved copy lies beside it
    resolvconf   the name of an entry is a tunnel's that does not live
    run folder   nobody holds its lock

Only the journal knows of a reverse path filter that was made loose.

A tunnel whose TAP is in another namespace leaves things there, too: the same is done
inside the namespace that its journal names, if it is still there, and for each
/etc/netns/NAME/resolv.conf.

Who lives is the business of `tunnels.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path

from sevpn.errors import HostError
from sevpn.net.dns.names import orphans
from sevpn.net.journal import (
    Journal,
    Record,
    TunnelLock,
    network_namespace,
    tunnel_folders,
)
from sevpn.net.marks import slot_of_rule, slot_of_table
from sevpn.net.model import Found
from sevpn.net.netns import NetworkNamespace, etc_folders
from sevpn.net.plan import RemoveRoute, RemoveRule, plan_removal
from sevpn.net.rtnetlink import Netlink
from sevpn.net.strictness import restore
from sevpn.net.tunnels import Known, dead_tunnels, living_tunnels

__all__ = ["clean_dead", "remove_folders"]


def clean_dead(
    netlink: Netlink,
    run_folder: Path,
    etc: Path,
    *,
    mine: str | None = None,
    only: str | None = None,
    checkpoint: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Undo what dead tunnels left; what living ones have is not touched.

    Args:
        netlink: The kernel.
        run_folder: Where the tunnels' run folders are.
        etc: Where resolv.conf is.
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
    # That of the tunnel that asks is its predecessor's.
    dead = _records(run_folder, but=spared)
    steps = _names(etc, spared)
    steps += [
        (change.describe(), partial(_carry_out, netlink, change))
        for change in _orphans(found, spared.values())
    ]
    here = network_namespace()
    for record in dead:
        steps += _inside(record, run_folder, mine=mine)
        filters = {
            device: was
            for device, was in record.filters.items()
            if not any(device in tunnel.filters for tunnel in spared.values())
        }
        if filters and record.namespace == here:
            line = f"restore the reverse path filter of {', '.join(sorted(filters))}"
            steps.append((line, partial(restore, filters)))
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
    for record in dead:
        remove_folders(map(Path, record.folders))
    for folder in tunnel_folders(run_folder):
        lock = TunnelLock(folder)
        if folder.name not in {*spared, mine} and lock.take():
            checkpoint(f"clear {folder.name}")
            lock.clear()
            done.append(f"clear the run folder of {folder.name}")
    return done


def remove_folders(folders: Iterable[Path]) -> None:
    """Remove folders that we made, unless somebody has put something into them."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


_Steps = list[tuple[str, Callable[[], object]]]


def _names(etc: Path, spared: Collection[str]) -> _Steps:
    """Return what is to be done about name servers, here and for other namespaces."""
    files = {etc: "/etc/resolv.conf"}
    files |= {folder: str(folder / "resolv.conf") for folder in etc_folders()}
    return [
        step
        for folder, name in files.items()
        for step in orphans(folder, spared, name=name)
    ]


def _records(run_folder: Path, *, but: Collection[str]) -> list[Record]:
    """Return the journals of dead tunnels."""
    read = (
        Journal(folder).read()
        for folder in tunnel_folders(run_folder)
        if folder.name not in but
    )
    return [record for record in read if record is not None]


def _inside(record: Record, run_folder: Path, *, mine: str | None) -> _Steps:
    """Return what is to be done in the namespace of *record*, if that is still there."""
    if not record.netns:
        return []
    namespace = NetworkNamespace(record.netns)
    if not namespace.is_same_as(record.namespace):
        return []

    def strays() -> list[RemoveRoute | RemoveRule]:
        netlink = Netlink()
        try:
            found = netlink.find()
            return _orphans(
                found, living_tunnels(run_folder, found, mine=mine).values()
            )
        finally:
            netlink.close()

    def remove(change: RemoveRoute | RemoveRule) -> None:
        netlink = Netlink()
        try:
            _carry_out(netlink, change)
        finally:
            netlink.close()

    try:
        changes = namespace.run(strays)
    except HostError:
        return []  # it went this very moment
    finally:
        namespace.close()
    return [
        (
            change.describe().replace("ip ", f"ip -n {namespace.path.name} ", 1),
            partial(_run_once, namespace, remove, change),
        )
        for change in changes
    ]


def _carry_out(netlink: Netlink, change: RemoveRoute | RemoveRule) -> None:
    if isinstance(change, RemoveRule):
        netlink.remove_rule(change.rule)
    else:
        netlink.remove_route(change.route)


def _run_once(
    namespace: NetworkNamespace,
    remove: Callable[[RemoveRoute | RemoveRule], None],
    change: RemoveRoute | RemoveRule,
) -> None:
    try:
        namespace.run(remove, change)
    finally:
        namespace.close()


def _orphans(found: Found, spared: Collection[Known]) -> list[RemoveRoute | RemoveRule]:
    # A living tunnel that nobody knows the servers of might need any of them.
    if not all(tunnel.has_record for tunnel in spared):
        return []
    slots = {tunnel.slot for tunnel in spared}
    rules = [rule for rule in found.rules if slot_of_rule(rule) not in {*slots, None}]
    # What leads into a TAP has gone with it; the rest of its table stays.
    routes = [
        entry.route
        for entry in found.elsewhere
        if entry.route.device not in found.devices_of_tunnels()
        and slot_of_table(entry.route.table) not in {*slots, None}
    ]
    return [
        *map(RemoveRule, rules),
        *map(RemoveRoute, routes),
        *plan_removal(
            found.routes,
            keep={place for tunnel in spared for place in tunnel.places},
            living_devices=found.devices_of_tunnels(),
        ),
    ]
