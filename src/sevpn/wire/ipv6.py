# SPDX-License-Identifier: Apache-2.0
"""IPv6 packets, and their sums.

Layer: wire. Runs in: any thread.

    packet   := 6 (4 bits), class and label (28 bits), payload size (2), next header (1),
                hop limit (1), source (16), destination (16), payload

What sevpn reads of IPv6 has no extension headers: neighbour discovery may have none,
and DHCPv6 within a link needs none.

Source: RFC 8200 sections 3 and 8.1; RFC 2464 section 7 (multicast frames).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from typing import Final

from sevpn.errors import RemoteProtocolError
from sevpn.wire.ethernet import MacAddress
from sevpn.wire.ipv4 import IpProtocol, internet_checksum

__all__ = [
    "Ipv6Packet",
    "checksum6",
    "decode_ipv6",
    "encode_icmpv6",
    "encode_ipv6",
    "interface_id",
    "link_local",
    "multicast_mac",
]

_HEADER: Final = struct.Struct("!IHBB16s16s")
_UNIVERSAL: Final = 0x02


@dataclass(frozen=True, slots=True)
class Ipv6Packet:
    """One IPv6 packet without extension headers."""

    source: IPv6Address
    """Who sends it."""

    destination: IPv6Address
    """For whom."""

    protocol: int
    """What the payload is, an :class:`~sevpn.wire.ipv4.IpProtocol` number."""

    payload: bytes
    """What it carries."""

    hop_limit: int = 255
    """How many routers it may yet pass; 255 for what must have passed none."""


def encode_ipv6(packet: Ipv6Packet) -> bytes:
    """Return the bytes of *packet*; a payload over 65535 bytes is a bug of the caller."""
    header = _HEADER.pack(
        6 << 28,
        len(packet.payload),
        packet.protocol,
        packet.hop_limit,
        packet.source.packed,
        packet.destination.packed,
    )
    return header + packet.payload


def decode_ipv6(data: bytes | memoryview) -> Ipv6Packet:
    """Read a packet; bytes behind its size are padding and ignored.

    Raises:
        RemoteProtocolError: It is cut, or no IPv6.
    """
    if len(data) < _HEADER.size:
        raise RemoteProtocolError(
            f"an IPv6 packet of {len(data)} bytes is too short: its header has 40"
        )
    first, size, protocol, hop_limit, source, destination = _HEADER.unpack_from(data)
    payload = bytes(data[_HEADER.size : _HEADER.size + size])
    if first >> 28 != 6 or len(payload) < size:
        raise RemoteProtocolError(
            f"an IPv6 packet has the version {first >> 28} and {size} bytes of payload in {len(data)} bytes"
        )
    return Ipv6Packet(
        IPv6Address(source), IPv6Address(destination), protocol, payload, hop_limit
    )


def encode_icmpv6(
    source: IPv6Address, destination: IPv6Address, message: bytes
) -> bytes:
    """Return the packet of an ICMPv6 message to the link, summed up.

    Args:
        source: Who sends it.
        destination: For whom.
        message: Its bytes, with zeros where the sum goes.
    """
    packet = Ipv6Packet(source, destination, IpProtocol.ICMPV6, message)
    total = checksum6(packet).to_bytes(2, "big")
    return encode_ipv6(replace(packet, payload=message[:2] + total + message[4:]))


def checksum6(packet: Ipv6Packet) -> int:
    """Return the sum over pseudo-header and payload; 0 where the payload holds a right one."""
    summed = packet.source.packed + packet.destination.packed
    summed += struct.pack("!II", len(packet.payload), packet.protocol)
    return internet_checksum(summed + packet.payload)


def link_local(mac: MacAddress) -> IPv6Address:
    """Return the link-local address that belongs to *mac* (RFC 4291 appendix A)."""
    return IPv6Address(b"\xfe\x80" + bytes(6) + interface_id(mac))


def interface_id(mac: MacAddress) -> bytes:
    """Return the 8 bytes that tell *mac* from others in a subnet."""
    octets = mac.octets
    first = octets[0] ^ _UNIVERSAL
    return bytes([first]) + octets[1:3] + b"\xff\xfe" + octets[3:]


def multicast_mac(group: IPv6Address) -> MacAddress:
    """Return the MAC address of frames to *group*."""
    return MacAddress(b"\x33\x33" + group.packed[12:])
