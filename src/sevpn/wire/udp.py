# SPDX-License-Identifier: Apache-2.0
"""UDP datagrams.

Layer: wire. Runs in: any thread.

    datagram := source port (2), destination port (2), size (2), checksum (2), payload

The checksum covers a pseudo-header too (addresses, protocol, size). A checksum
of 0 means that there is none, which IPv6 forbids; one that comes out as 0 is sent
as FFFF.

Checksums are written but not verified here: a DHCP server behind a virtual network
card hands its answers over before they are summed up, and a SoftEther server
changes DHCP messages without mending their sum (docs/reference/dhcp.md#quirks).

Source: RFC 768; RFC 8200 section 8.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from sevpn.errors import LocalProtocolError, RemoteProtocolError
from sevpn.wire.ethernet import EtherType, Frame, MacAddress, encode_frame
from sevpn.wire.ipv4 import (
    MAX_PAYLOAD_SIZE,
    IpProtocol,
    Ipv4Packet,
    encode_ipv4,
    internet_checksum,
)

__all__ = ["UdpDatagram", "decode_udp", "encode_udp", "udp_frame"]

_HEADER: Final = struct.Struct("!HHHH")


@dataclass(frozen=True, slots=True)
class UdpDatagram:
    """One UDP datagram."""

    source_port: int
    """The sender's port, 0 to 65535."""

    destination_port: int
    """The receiver's port, 0 to 65535."""

    payload: bytes
    """What it carries."""


def encode_udp(
    datagram: UdpDatagram,
    *,
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
    checksum: bool,
) -> bytes:
    """Return the bytes of *datagram*.

    Args:
        datagram: What to send.
        source: The packet's source address, which the checksum covers.
        destination: The packet's destination address, likewise.
        checksum: Whether to sum it up; else the field is 0, which any receiver of IPv4 accepts.

    Raises:
        LocalProtocolError: It does not fit into one IPv4 packet.
    """
    size = _HEADER.size + len(datagram.payload)
    if size > MAX_PAYLOAD_SIZE:
        raise LocalProtocolError(
            f"a UDP datagram of {size} bytes cannot be sent: at most {MAX_PAYLOAD_SIZE} can"
        )
    ports = (datagram.source_port, datagram.destination_port)
    unsummed = _HEADER.pack(*ports, size, 0) + datagram.payload
    if not checksum:
        return unsummed
    # IPv6 has wider fields in another order, which does not change a sum.
    pseudo_header = (
        source.packed + destination.packed + struct.pack("!HH", IpProtocol.UDP, size)
    )
    total = internet_checksum(pseudo_header + unsummed) or 0xFFFF
    return _HEADER.pack(*ports, size, total) + datagram.payload


def decode_udp(data: bytes | memoryview) -> UdpDatagram:
    """Read a datagram; bytes behind its size are ignored, and so is the checksum.

    Raises:
        RemoteProtocolError: It is cut, or says that it is shorter than its header.
    """
    if len(data) < _HEADER.size:
        raise RemoteProtocolError(
            f"a UDP datagram of {len(data)} bytes is too short: its header has 8"
        )
    source_port, destination_port, size, _ = _HEADER.unpack_from(data)
    if not _HEADER.size <= size <= len(data):
        raise RemoteProtocolError(
            f"a UDP datagram says that it has {size} bytes: there are {len(data)}"
        )
    return UdpDatagram(source_port, destination_port, bytes(data[_HEADER.size : size]))


def udp_frame(
    datagram: UdpDatagram,
    *,
    source_mac: MacAddress,
    destination_mac: MacAddress,
    source: IPv4Address,
    destination: IPv4Address,
    checksum: bool = True,
    identification: int = 0,
) -> bytes:
    """Return the whole Ethernet frame that carries *datagram*.

    Raises:
        LocalProtocolError: It does not fit into one IPv4 packet.
    """
    payload = encode_udp(
        datagram, source=source, destination=destination, checksum=checksum
    )
    packet = Ipv4Packet(
        source, destination, IpProtocol.UDP, payload, identification=identification
    )
    return encode_frame(
        Frame(destination_mac, source_mac, EtherType.IPV4, encode_ipv4(packet))
    )
