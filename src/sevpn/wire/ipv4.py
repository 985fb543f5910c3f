# SPDX-License-Identifier: Apache-2.0
"""IPv4 packets, and the checksum that the Internet protocols share.

Layer: wire. Runs in: any thread.

    packet := 4 and header words (1), service (1), total size (2),
              identification (2), flags and fragment offset (2),
              time to live (1), protocol (1), header checksum (2),
              source (4), destination (4), options, payload

Source: RFC 791 section 3.1; RFC 1071.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from sevpn.errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "MAX_PAYLOAD_SIZE",
    "IpProtocol",
    "Ipv4Packet",
    "decode_ipv4",
    "encode_ipv4",
    "internet_checksum",
]

_HEADER: Final = struct.Struct("!BBHHHBBH4s4s")
_MORE_FRAGMENTS: Final = 0x2000
_FRAGMENT_BITS: Final = 0x3FFF
"""The flag for more fragments, and the offset."""

MAX_PAYLOAD_SIZE: Final = 0xFFFF - _HEADER.size
"""Bytes behind a header without options: the total size is a 16-bit number."""


class IpProtocol(enum.IntEnum):
    """What a packet carries; the values that are named anywhere in sevpn."""

    ICMP = 1
    """Control messages of IPv4."""

    TCP = 6
    """A segment."""

    UDP = 17
    """A datagram."""

    ICMPV6 = 58
    """Control messages of IPv6, neighbour discovery among them."""


@dataclass(frozen=True, slots=True)
class Ipv4Packet:
    """One IPv4 packet, or a fragment of one; options are not kept."""

    source: IPv4Address
    """Who sent it; 0.0.0.0 while the sender has no address."""

    destination: IPv4Address
    """Who shall receive it."""

    protocol: int
    """What the payload is, see :class:`IpProtocol`."""

    payload: bytes
    """The rest, without what followed the packet in its frame."""

    ttl: int = 64
    """Routers that it may still pass, 0 to 255."""

    identification: int = 0
    """The same for all fragments of one packet."""

    is_fragment: bool = False
    """Whether this is only a part of a packet; such are read and never written."""


def internet_checksum(data: bytes | memoryview) -> int:
    """Return the ones' complement of the ones' complement sum of *data*'s 16-bit words.

    Data that holds its own right checksum gives 0. An odd last byte counts as
    if a zero followed. RFC 1071.
    """
    # The sum of 16-bit words modulo 65535 is the number itself modulo 65535,
    # as 65536 leaves 1; one division in C beats a loop in Python.
    number = int.from_bytes(data, "big") << (8 * (len(data) & 1))
    if not number:
        return 0xFFFF
    return 0xFFFF - (number % 0xFFFF or 0xFFFF)


def encode_ipv4(packet: Ipv4Packet) -> bytes:
    """Return the bytes of *packet*: 20 bytes of header, then the payload.

    Raises:
        LocalProtocolError: The payload has more than :data:`MAX_PAYLOAD_SIZE`
            bytes, or the packet is a fragment.
    """
    if len(packet.payload) > MAX_PAYLOAD_SIZE or packet.is_fragment:
        raise LocalProtocolError(
            f"an IPv4 packet with {len(packet.payload)} bytes of payload cannot be sent:"
            f" at most {MAX_PAYLOAD_SIZE} in one piece can"
        )
    header = bytearray(
        _HEADER.pack(
            0x45,
            0,
            _HEADER.size + len(packet.payload),
            packet.identification,
            0,
            packet.ttl,
            packet.protocol,
            0,
            packet.source.packed,
            packet.destination.packed,
        )
    )
    header[10:12] = internet_checksum(bytes(header)).to_bytes(2, "big")
    return bytes(header) + packet.payload


def decode_ipv4(data: bytes | memoryview) -> Ipv4Packet:
    """Read a packet; bytes behind its total size are padding and ignored.

    Raises:
        RemoteProtocolError: The header is cut, of another version or wrongly
            summed, or the packet is longer than *data*.
    """
    if len(data) < _HEADER.size:
        raise RemoteProtocolError(
            f"an IPv4 packet of {len(data)} bytes is too short: its header has 20"
        )
    (
        first,
        _,
        size,
        identification,
        fragment,
        ttl,
        protocol,
        _,
        source,
        destination,
    ) = _HEADER.unpack_from(data)
    header_size = (first & 0x0F) * 4
    if first >> 4 != 4 or not _HEADER.size <= header_size <= size <= len(data):
        raise RemoteProtocolError(
            f"an IPv4 packet has the version {first >> 4}, a header of {header_size}"
            f" and a size of {size} in {len(data)} bytes"
        )
    if internet_checksum(data[:header_size]):
        raise RemoteProtocolError("an IPv4 header has a wrong checksum")
    return Ipv4Packet(
        IPv4Address(source),
        IPv4Address(destination),
        protocol,
        bytes(data[header_size:size]),
        ttl=ttl,
        identification=identification,
        is_fragment=bool(fragment & _FRAGMENT_BITS),
    )
