# SPDX-License-Identifier: Apache-2.0
"""Router solicitations and advertisements of IPv6.

Layer: wire. Runs in: any thread.

    solicitation  := 133 (1), 0 (1), checksum (2), 0 (4), options
    advertisement := 134 (1), 0 (1), checksum (2), hop limit (1), M O and preference (1),
                     lifetime (2), reachable (4), retransmit (4), options
    option        := type (1), size in units of 8 bytes (1), value
      3  prefix   := length (1), L A (1), valid (4), preferred (4), 0 (4), prefix (16)
      5  MTU      := 0 (2), MTU (4)
      24 route    := length (1), preference (1), lifetime (4), prefix (0, 8 or 16)
      25 servers  := 0 (2), lifetime (4), address (16)+
      31 search   := 0 (2), lifetime (4), name+, 0*

Whoever sends them must be on the link: hop limit 255, a link-local source.

Source: RFC 4861 sections 4.1, 4.2, 4.6 and 6.1.2; RFC 4191 section 2.3; RFC 8106.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from typing import Final

from sevpn.errors import RemoteProtocolError
from sevpn.wire.ipv4 import IpProtocol
from sevpn.wire.ipv6 import decode_ipv6, encode_icmpv6
from sevpn.wire.nd import check_nd, nd_options

__all__ = [
    "ALL_ROUTERS",
    "INFINITE_S",
    "PrefixInformation",
    "RouteInformation",
    "RouterAdvertisement",
    "decode_names",
    "decode_ra",
    "router_solicitation",
]

ALL_ROUTERS: Final = IPv6Address("ff02::2")
"""Every router of the link."""

INFINITE_S: Final = 0xFFFFFFFF
"""A lifetime that does not end."""

_SOLICITATION: Final = 133
_ADVERTISEMENT: Final = 134
_HEAD: Final = struct.Struct("!BBHBBHII")
_PREFIX: Final = struct.Struct("!BBII4x16s")
_MAX_LABEL: Final = 63
_MAX_NAME: Final = 253
_MAX_NAMES: Final = 32


@dataclass(frozen=True, slots=True)
class PrefixInformation:
    """A subnet of the link."""

    prefix: IPv6Network
    """Which."""

    is_on_link: bool
    """Whether its addresses are reached without a router."""

    is_autonomous: bool
    """Whether hosts may make an address of their own in it."""

    valid_s: int
    """For how many seconds such an address may be used; :data:`INFINITE_S`: for ever."""

    preferred_s: int
    """For how many of them it is the one to use."""


@dataclass(frozen=True, slots=True)
class RouteInformation:
    """A network that the sender leads to."""

    prefix: IPv6Network
    """Which."""

    preference: int
    """1: high, 0: medium, -1: low."""

    lifetime_s: int
    """For how many seconds; 0: not any more."""


@dataclass(frozen=True, slots=True)
class RouterAdvertisement:
    """What a router says of its link."""

    source: IPv6Address
    """The router, a link-local address."""

    is_managed: bool = False
    """Whether addresses are to be asked for by DHCPv6 (M)."""

    has_other: bool = False
    """Whether other settings are (O)."""

    preference: int = 0
    """As a default router: 1 high, 0 medium, -1 low."""

    lifetime_s: int = 0
    """For how many seconds it is a default router; 0: it is none."""

    mtu: int | None = None
    """The link's MTU, if said."""

    prefixes: tuple[PrefixInformation, ...] = ()
    """The link's subnets."""

    routes: tuple[RouteInformation, ...] = ()
    """Where it leads to."""

    servers: tuple[tuple[IPv6Address, int], ...] = ()
    """Name servers, each with its lifetime in seconds."""

    search: tuple[tuple[str, int], ...] = ()
    """Search domains, likewise; of any characters: judge before use."""


def router_solicitation(source: IPv6Address) -> bytes:
    """Return the packet that asks all routers of the link to speak."""
    body = bytes([_SOLICITATION, 0, 0, 0, 0, 0, 0, 0])
    return encode_icmpv6(source, ALL_ROUTERS, body)


def decode_ra(data: bytes | memoryview) -> RouterAdvertisement | None:
    """Read an IPv6 packet; None if it is a whole one that is no advertisement.

    Options that are unknown, or whose value makes no sense, are skipped.

    Raises:
        RemoteProtocolError: It is cut, passed a router, is wrongly summed, comes from
            no link-local address, or has an option without a size.
    """
    packet = decode_ipv6(data)
    body = packet.payload
    if packet.protocol != IpProtocol.ICMPV6 or body[:1] != bytes([_ADVERTISEMENT]):
        return None
    check_nd(packet, smallest=_HEAD.size)
    if not packet.source.is_link_local:
        raise RemoteProtocolError(
            f"a router advertisement comes from {packet.source}, which is no link-local address"
        )
    _, _, _, _, flags, lifetime_s, _, _ = _HEAD.unpack_from(body)
    found = _Options()
    for kind, value in nd_options(body[_HEAD.size :]):
        _READERS.get(kind, _skip)(value, found)
    return RouterAdvertisement(
        source=packet.source,
        is_managed=bool(flags & 0x80),
        has_other=bool(flags & 0x40),
        preference=_preference(flags),
        lifetime_s=lifetime_s,
        mtu=found.mtu,
        prefixes=tuple(found.prefixes),
        routes=tuple(found.routes),
        servers=tuple(found.servers),
        search=tuple(found.search),
    )


@dataclass(slots=True)
class _Options:
    """What the options say, as far as they were read."""

    mtu: int | None = None
    prefixes: list[PrefixInformation] = field(default_factory=list[PrefixInformation])
    routes: list[RouteInformation] = field(default_factory=list[RouteInformation])
    servers: list[tuple[IPv6Address, int]] = field(
        default_factory=list[tuple[IPv6Address, int]]
    )
    search: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])


def _preference(flags: int) -> int:
    """Return 1, 0 or -1; the fourth value stands for medium (RFC 4191 section 2.1)."""
    return {1: 1, 3: -1}.get(flags >> 3 & 3, 0)


def _skip(_value: bytes, _found: _Options) -> None:
    pass


def _read_prefix(value: bytes, found: _Options) -> None:
    if len(value) != _PREFIX.size:
        return
    length, flags, valid_s, preferred_s, address = _PREFIX.unpack(value)
    if length > 128 or preferred_s > valid_s:
        return
    found.prefixes.append(
        PrefixInformation(
            IPv6Network((address, length), strict=False),
            is_on_link=bool(flags & 0x80),
            is_autonomous=bool(flags & 0x40),
            valid_s=valid_s,
            preferred_s=preferred_s,
        )
    )


def _read_mtu(value: bytes, found: _Options) -> None:
    if len(value) == 6:
        found.mtu = int.from_bytes(value[2:], "big")


def _read_route(value: bytes, found: _Options) -> None:
    length, bits = value[0], value[1]
    prefix = value[6:22]
    # The prefix may be cut to what its length needs.
    if length > 128 or len(prefix) * 8 < length:
        return
    found.routes.append(
        RouteInformation(
            IPv6Network((prefix.ljust(16, b"\0"), length), strict=False),
            preference=_preference(bits),
            lifetime_s=int.from_bytes(value[2:6], "big"),
        )
    )


def _read_servers(value: bytes, found: _Options) -> None:
    lifetime_s = int.from_bytes(value[2:6], "big")
    for at in range(6, len(value) - 15, 16):
        found.servers.append((IPv6Address(value[at : at + 16]), lifetime_s))


def _read_search(value: bytes, found: _Options) -> None:
    lifetime_s = int.from_bytes(value[2:6], "big")
    found.search += [(name, lifetime_s) for name in decode_names(value[6:])]


_READERS: Final = {
    3: _read_prefix,
    5: _read_mtu,
    24: _read_route,
    25: _read_servers,
    31: _read_search,
}


def decode_names(data: bytes) -> list[str]:
    """Return domain names as labels stand one behind the other; what is cut is left out.

    Args:
        data: `(size, label)+, 0` for each name; zeros behind the last are padding.
    """
    names: list[str] = []
    labels: list[str] = []
    at = 0
    while at < len(data) and len(names) < _MAX_NAMES:
        size = data[at]
        if size > _MAX_LABEL or at + 1 + size > len(data):
            return names
        if size:
            labels.append(data[at + 1 : at + 1 + size].decode("ascii", "replace"))
        elif labels:
            name = ".".join(labels)
            names += [name] if len(name) <= _MAX_NAME else []
            labels = []
        at += 1 + size
    return names
