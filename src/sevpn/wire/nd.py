# SPDX-License-Identifier: Apache-2.0
"""Neighbour discovery of IPv6: solicitations and advertisements.

Layer: wire. Runs in: any thread.

    solicitation  := 135 (1), 0 (1), checksum (2), 0 (4), target (16), options
    advertisement := 136 (1), 0 (1), checksum (2), R S O and 0 (4), target (16), options
    option        := type (1), size in units of 8 bytes (1), value

Option 1 is the sender's MAC address, option 2 the target's.

Whoever sends them must be on the link: the hop limit is 255.

Source: RFC 4861 sections 4.3, 4.4, 4.6 and 7.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

from sevpn.errors import RemoteProtocolError
from sevpn.wire.ethernet import MacAddress
from sevpn.wire.ipv4 import IpProtocol
from sevpn.wire.ipv6 import Ipv6Packet, checksum6, decode_ipv6, encode_icmpv6

__all__ = [
    "ALL_NODES",
    "NeighbourAdvertisement",
    "NeighbourSolicitation",
    "check_nd",
    "decode_nd",
    "encode_nd",
    "nd_options",
]

ALL_NODES: Final = IPv6Address("ff02::1")
"""Every node of the link."""

_MESSAGE: Final = struct.Struct("!BBHI16s")
_SOLICITATION: Final = 135
_ADVERTISEMENT: Final = 136
_SOURCE_MAC: Final = 1
_TARGET_MAC: Final = 2
_MAC_SIZE: Final = 6
_ROUTER: Final = 0x80000000
_SOLICITED: Final = 0x40000000
_OVERRIDE: Final = 0x20000000
# RFC 4861 section 7.1: a packet that passed a router has less; it is a forgery.
_HOP_LIMIT: Final = 255


@dataclass(frozen=True, slots=True)
class NeighbourSolicitation:
    """Who has the target address?"""

    source: IPv6Address
    """The asker; `::` while it checks whether the target is free."""

    destination: IPv6Address
    """The target itself, or its solicited-node group."""

    target: IPv6Address
    """The address that is asked for."""

    source_mac: MacAddress | None = None
    """The asker's MAC address, if it said."""


@dataclass(frozen=True, slots=True)
class NeighbourAdvertisement:
    """The source has the target address."""

    source: IPv6Address
    """Who speaks."""

    destination: IPv6Address
    """The asker, or all nodes."""

    target: IPv6Address
    """The address that is spoken of."""

    target_mac: MacAddress | None = None
    """Its MAC address, if said."""

    is_router: bool = False
    """Whether the speaker is a router."""

    is_solicited: bool = False
    """Whether it answers a solicitation."""

    is_override: bool = False
    """Whether receivers shall replace what they knew."""


def encode_nd(message: NeighbourSolicitation | NeighbourAdvertisement) -> bytes:
    """Return the whole IPv6 packet, the payload of a frame."""
    if isinstance(message, NeighbourSolicitation):
        kind, flags = _SOLICITATION, 0
        option = _mac_option(_SOURCE_MAC, message.source_mac)
    else:
        kind, flags = _ADVERTISEMENT, _flags(message)
        option = _mac_option(_TARGET_MAC, message.target_mac)
    body = _MESSAGE.pack(kind, 0, 0, flags, message.target.packed) + option
    return encode_icmpv6(message.source, message.destination, body)


def decode_nd(
    data: bytes | memoryview,
) -> NeighbourSolicitation | NeighbourAdvertisement | None:
    """Read an IPv6 packet; None if it is a whole one that is neither message.

    Bytes behind the packet's size are padding and ignored.

    Raises:
        RemoteProtocolError: It is cut, passed a router, is wrongly summed, or
            has a broken option.
    """
    packet = decode_ipv6(data)
    body = packet.payload
    if packet.protocol != IpProtocol.ICMPV6 or not body.startswith(
        (bytes([_SOLICITATION]), bytes([_ADVERTISEMENT]))
    ):
        return None
    check_nd(packet, smallest=_MESSAGE.size)
    kind, _, _, flags, target = _MESSAGE.unpack_from(body)
    options = {
        number: MacAddress(value)
        for number, value in nd_options(body[_MESSAGE.size :])
        if len(value) == _MAC_SIZE
    }
    addresses = packet.source, packet.destination, IPv6Address(target)
    if kind == _SOLICITATION:
        return NeighbourSolicitation(*addresses, options.get(_SOURCE_MAC))
    return NeighbourAdvertisement(
        *addresses,
        options.get(_TARGET_MAC),
        is_router=bool(flags & _ROUTER),
        is_solicited=bool(flags & _SOLICITED),
        is_override=bool(flags & _OVERRIDE),
    )


def check_nd(packet: Ipv6Packet, *, smallest: int) -> None:
    """Check what makes a message of neighbour discovery one, whichever it is.

    Args:
        packet: It.
        smallest: How many bytes it has before its options.

    Raises:
        RemoteProtocolError: It is cut, passed a router or is wrongly summed.
    """
    body = packet.payload
    if (
        packet.hop_limit != _HOP_LIMIT
        or len(body) < smallest
        or body[1]
        or checksum6(packet)
    ):
        raise RemoteProtocolError(
            f"a neighbour discovery message of {len(body)} bytes with hop limit"
            f" {packet.hop_limit} is cut, wrongly summed or comes from beyond a router"
        )


def nd_options(data: bytes) -> list[tuple[int, bytes]]:
    """Return types and values; a packet of a link has room for some hundred.

    Raises:
        RemoteProtocolError: One is cut, or has no size.
    """
    options: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        # RFC 4861 section 4.6: a size of 0 makes the whole message invalid.
        size = data[at + 1] * 8 if at + 1 < len(data) else 0
        if not 0 < size <= len(data) - at:
            raise RemoteProtocolError(
                f"an option of a neighbour discovery message has {size} bytes"
                f" where {len(data) - at} are left"
            )
        options.append((data[at], data[at + 2 : at + size]))
        at += size
    return options


def _flags(message: NeighbourAdvertisement) -> int:
    return (
        message.is_router * _ROUTER
        | message.is_solicited * _SOLICITED
        | message.is_override * _OVERRIDE
    )


def _mac_option(kind: int, mac: MacAddress | None) -> bytes:
    return bytes([kind, 1]) + mac.octets if mac else b""
