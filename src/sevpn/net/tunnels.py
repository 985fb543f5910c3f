# SPDX-License-Identifier: Apache-2.0
"""Which other tunnels live on this host, what they need, and what they have taken.

Layer: net. Runs in: the control thread, under the shared lock.

A tunnel lives when somebody holds the lock of its run folder, or when there is a
TAP whose alias says so: the second holds even when /run/sevpn was deleted under
it, and then the alias says which servers it needs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from pathlib import Path

from sevpn.errors import HostError
from sevpn.net.journal import (
    Journal,
    Record,
    TunnelLock,
    network_namespace,
    tunnel_folders,
)
from sevpn.net.marks import slot_of_rule, slot_of_table
from sevpn.net.model import (
    MAIN_TABLE,
    Address,
    Found,
    HostState,
    Network,
    family_of,
    is_default,
)

__all__ = [
    "Known",
    "claims_of",
    "dead_tunnels",
    "living_tunnels",
    "refuse_what_is_taken",
    "taken_slots",
]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a tunnel, other than the one that asks."""

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

    excluded: frozenset[Network] = frozenset()
    """Networks whose routes past the tunnel it needs."""

    filters: Mapping[str, int] = field(default_factory=dict[str, int])
    """Devices whose reverse path filter it needs loose, with what they were."""

    slot: int = -1
    """Which numbers of `marks.py` it has; -1: not known."""

    has_record: bool = True
    """False when it may need routes that nothing names any more."""

    @property
    def places(self) -> frozenset[Address | Network]:
        """What it needs routes past the tunnel to."""
        return self.servers | self.excluded


def living_tunnels(
    run_folder: Path, found: Found, *, mine: str | None
) -> dict[str, Known]:
    """Return the living tunnels but *mine*, by name.

    Args:
        run_folder: Where the tunnels' run folders are.
        found: The host as it is.
        mine: The tunnel that asks; `None` when none does.
    """
    living: dict[str, Known] = {}
    for folder in tunnel_folders(run_folder):
        if folder.name != mine and not _is_free(TunnelLock(folder)):
            living[folder.name] = _from_record(folder.name, Journal(folder).read())
    for device, alias in found.tunnels().items():
        if alias.tunnel == mine:
            continue
        # Without its run folder, the alias alone must say what it needs.
        known = living.get(alias.tunnel, Known(alias.tunnel, has_record=False))
        living[alias.tunnel] = Known(
            alias.tunnel,
            known.pid,
            known.devices | {device},
            known.servers | frozenset(alias.servers),
            known.claims | _claims_seen(found, device),
            known.excluded,
            known.filters,
            known.slot,
            has_record=known.has_record or alias.is_complete,
        )
    return {
        name: tunnel if tunnel.devices else replace(tunnel, has_record=True)
        for name, tunnel in living.items()
    }


def taken_slots(run_folder: Path, found: Found, *, mine: str | None) -> set[int]:
    """Return the slots that *mine* may not have, see `marks.py`.

    Those of living tunnels, and those whose rules or tables are there: of somebody
    whose files are gone.
    """
    living = living_tunnels(run_folder, found, mine=mine).values()
    seen = {slot_of_rule(rule) for rule in found.rules}
    seen |= {slot_of_table(entry.route.table) for entry in found.elsewhere}
    return {tunnel.slot for tunnel in living} | {
        slot for slot in seen if slot is not None
    }


def dead_tunnels(run_folder: Path, *, but: Collection[str | None]) -> dict[str, Known]:
    """Return what dead tunnels have left a journal about, those named in *but* left out."""
    records = {
        folder.name: Journal(folder).read()
        for folder in tunnel_folders(run_folder)
        if folder.name not in but
    }
    return {
        name: _from_record(name, record)
        for name, record in records.items()
        if record is not None
    }


def _is_free(lock: TunnelLock) -> bool:
    """Whether nobody holds *lock*; harmless, because locks are taken under the shared one only."""
    is_free = lock.take()
    lock.release()
    return is_free


def _from_record(name: str, record: Record | None) -> Known:
    if record is None:
        # It is only just starting; or its files were deleted, then its TAP tells.
        return Known(name, has_record=False)
    is_here = record.namespace == network_namespace()
    claims = frozenset(
        claim for claim in record.claims if is_here or claim.startswith("dns")
    )
    servers = frozenset(_parsed(record.servers)) if is_here else frozenset[Address]()
    return Known(
        name,
        record.pid,
        servers=servers,
        claims=claims,
        excluded=_networks(record.excluded) if is_here else frozenset(),
        filters=record.filters if is_here else {},
        slot=record.slot,
    )


def _claims_seen(found: Found, device: str) -> frozenset[str]:
    return frozenset(
        f"default-{family_of(entry.route.destination)}"
        for entry in (*found.routes, *found.elsewhere)
        if (
            entry.route.table == MAIN_TABLE
            or slot_of_table(entry.route.table) is not None
        )
        and entry.is_ours
        and entry.route.device == device
        and is_default(entry.route.destination)
    )


def _parsed(texts: tuple[str, ...]) -> list[Address]:
    """Return the addresses among *texts*; a file may hold anything."""
    addresses: list[Address] = []
    for text in texts:
        try:
            addresses.append(ip_address(text))
        except ValueError:
            continue
    return addresses


def _networks(texts: tuple[str, ...]) -> frozenset[Network]:
    networks: set[Network] = set()
    for text in texts:
        with contextlib.suppress(ValueError):
            networks.add(ip_network(text))
    return frozenset(networks)


def claims_of(state: HostState) -> frozenset[str]:
    """Return what *state* needs that only one tunnel can have."""
    claims = {f"default-{family}" for family in state.default_families}
    # In systemd-resolved each link has servers of its own.
    takes_dns = state.resolver is not None and state.resolver.way != "resolved"
    return frozenset(claims | ({"dns"} if takes_dns else set[str]()))


def refuse_what_is_taken(
    claims: frozenset[str], others: Mapping[str, Known], *, resolver_owner: str | None
) -> None:
    """Refuse if one of *claims* belongs to one of *others*.

    Args:
        claims: What is needed.
        others: The other living tunnels, by name.
        resolver_owner: Whose resolv.conf is now, by its marker.

    Raises:
        HostError: It does; the text names the tunnel.
    """
    for other in others.values():
        for claim in sorted(claims & other.claims):
            raise _is_taken(claim, other)
    if "dns" in claims and resolver_owner is not None and resolver_owner in others:
        raise _is_taken("dns", others[resolver_owner])


def _is_taken(claim: str, other: Known) -> HostError:
    process = f" (process {other.pid})" if other.pid else ""
    if claim.startswith("dns"):
        where = claim.partition(" ")[2] or "this host"
        return HostError(
            f"tunnel {other.name!r}{process} has set the name servers of {where}, and only one can: "
            f"end it with `sevpn down {other.name}`, or leave out --accept-dns",
            operation="claim-dns",
        )
    return HostError(
        f"tunnel {other.name!r}{process} has the default route of this host, and only one can: "
        f"end it with `sevpn down {other.name}`, or leave out --accept-default-gateway",
        operation="claim-default",
    )
