# SPDX-License-Identifier: Apache-2.0
"""Which address belongs to whom: the memory of a DHCP server.

Layer: server. Runs in: the event loop; pure.

    free ──offer──> offered ──take──> leased ──expiry, release──> free
      ^                │ 10 s           │ decline
      └────────────────┘                └──────> in conflict ──10 min──> free

Addresses belong to MAC addresses: the client identifier is not looked at, as in
SecureNAT. The last owner of a free address gets it again while nobody else has.

Source: RFC 2131, 4.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

__all__ = ["Pool"]

_OFFER_S: Final = 10.0
_CONFLICT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class _Held:
    """An address that is not free."""

    mac: bytes | None
    """Whose; None is in conflict with somebody unknown."""
    until: float
    """When it becomes free."""
    is_leased: bool
    """Whether it is more than an offer."""


class Pool:
    """A range of addresses.

    Args:
        first: The lowest.
        last: The highest.
        reserved: Addresses of the range that are never given out.
    """

    def __init__(
        self,
        first: IPv4Address,
        last: IPv4Address,
        *,
        reserved: tuple[IPv4Address, ...] = (),
    ) -> None:
        self._first = first
        self._last = last
        self._reserved = frozenset(reserved)
        self._held: dict[IPv4Address, _Held] = {}
        # At most one entry per address, so the range bounds both tables.
        self._last_owner: dict[IPv4Address, bytes] = {}

    def __contains__(self, address: IPv4Address) -> bool:
        return self._first <= address <= self._last and address not in self._reserved

    def leases(self, now: float) -> dict[IPv4Address, bytes]:
        """Return the addresses that are leased, and the MAC address each belongs to."""
        return {
            address: held.mac
            for address, held in self._held.items()
            if held.is_leased and held.mac is not None and now < held.until
        }

    def is_for(self, address: IPv4Address, mac: bytes, now: float) -> bool:
        """Whether *mac* may have *address*: it is in the range, and its own or free."""
        held = self._holder(address, now)
        return address in self and (held is None or held.mac == mac)

    def offer(
        self, mac: bytes, wanted: IPv4Address | None, now: float
    ) -> IPv4Address | None:
        """Choose an address for *mac* and keep it for it for a while.

        Args:
            mac: Of the client.
            wanted: What it asks for.
            now: The time.

        Returns:
            Its own address, else the wanted one, else its last one, else the lowest
            that is free and was nobody's, else the lowest that is free; None if none is.
        """
        address = self._choose(mac, wanted, now)
        if address is not None and not self._is_leased_to(address, mac, now):
            self._held[address] = _Held(mac, now + _OFFER_S, is_leased=False)
        return address

    def take(self, address: IPv4Address, mac: bytes, until: float) -> None:
        """Lease an address for which :meth:`is_for` said yes; infinity is for ever."""
        for other, held in tuple(self._held.items()):
            if held.mac == mac and other != address:
                del self._held[other]
        self._held[address] = _Held(mac, until, is_leased=True)
        self._last_owner[address] = mac

    def release(self, address: IPv4Address, mac: bytes) -> None:
        """Free an address that its owner gives back; others cannot."""
        held = self._held.get(address)
        if held is not None and held.mac == mac:
            del self._held[address]

    def decline(self, address: IPv4Address, mac: bytes, now: float) -> None:
        """Give an address to nobody for a while: its owner says somebody has it already."""
        held = self._held.get(address)
        if held is not None and held.mac == mac:
            self._held[address] = _Held(None, now + _CONFLICT_S, is_leased=False)

    def _choose(
        self, mac: bytes, wanted: IPv4Address | None, now: float
    ) -> IPv4Address | None:
        own = [address for address, held in self._held.items() if held.mac == mac]
        for address in own:
            if self._holder(address, now) is not None:
                return address
        if wanted is not None and self.is_for(wanted, mac, now):
            return wanted
        for address, owner in self._last_owner.items():
            if owner == mac and self.is_for(address, mac, now):
                return address
        lowest: IPv4Address | None = None
        for number in range(int(self._first), int(self._last) + 1):
            address = IPv4Address(number)
            if address in self and self._holder(address, now) is None:
                if address not in self._last_owner:
                    return address
                lowest = lowest or address
        return lowest

    def _is_leased_to(self, address: IPv4Address, mac: bytes, now: float) -> bool:
        held = self._holder(address, now)
        return held is not None and held.mac == mac and held.is_leased

    def _holder(self, address: IPv4Address, now: float) -> _Held | None:
        held = self._held.get(address)
        if held is not None and now >= held.until:
            del self._held[address]
            return None
        return held


def lease_end(now: float, lease_s: int) -> float:
    """Return when a lease ends that begins now; 4294967295 seconds are for ever."""
    return math.inf if lease_s == 0xFFFFFFFF else now + lease_s
