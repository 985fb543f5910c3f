# SPDX-License-Identifier: Apache-2.0
"""ARP for IPv4 over Ethernet.

Layer: wire. Runs in: any thread.

    packet := 0001 0800 06 04, operation (2),
              sender MAC (6), sender IPv4 (4), target MAC (6), target IPv4 (4)

Four uses of the same 28 bytes, told apart by who is named:

    question      request, sender is the asker, target MAC 00:00:00:00:00:00
    answer        reply,   sender is the one that was asked for
    probe         request, sender IPv4 0.0.0.0: is the address free?
    announcement  request, sender IPv4 = target IPv4: the address is mine

Source: RFC 826; RFC 5227 section 1.1.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from sevpn.errors import RemoteProtocolError
from sevpn.wire.ethernet import BROADCAST, EtherType, Frame, MacAddress, encode_frame

__all__ = [
    "ArpOperation",
    "ArpPacket",
    "announcement",
    "answer",
    "decode_arp",
    "encode_arp",
    "probe",
    "question",
]

_PACKET: Final = struct.Struct("!HHBBH6s4s6s4s")
_ETHERNET_IPV4: Final = (1, EtherType.IPV4, 6, 4)
_NOBODY: Final = MacAddress(bytes(6))
_NO_ADDRESS: Final = IPv4Address(0)


class ArpOperation(enum.IntEnum):
    """What an ARP packet says."""

    REQUEST = 1
    """Who has the target address?"""

    REPLY = 2
    """The sender has the sender address."""


@dataclass(frozen=True, slots=True)
class ArpPacket:
    """One ARP packet."""

    operation: int
    """See :class:`ArpOperation`; other values are decoded as they are."""

    sender_mac: MacAddress
    """Who speaks."""

    sender_ip: IPv4Address
    """The speaker's address; 0.0.0.0 in a probe."""

    target_mac: MacAddress
    """Who is spoken to; in a request all zero, and to be ignored."""

    target_ip: IPv4Address
    """The address that is asked for, or of the one that is answered."""


def encode_arp(packet: ArpPacket) -> bytes:
    """Return the 28 bytes of *packet*."""
    return _PACKET.pack(
        *_ETHERNET_IPV4,
        packet.operation,
        packet.sender_mac.octets,
        packet.sender_ip.packed,
        packet.target_mac.octets,
        packet.target_ip.packed,
    )


def decode_arp(data: bytes | memoryview) -> ArpPacket:
    """Read an ARP packet; bytes behind the 28 are padding and ignored.

    Raises:
        RemoteProtocolError: It is shorter, or not about IPv4 over Ethernet.
    """
    if len(data) < _PACKET.size:
        raise RemoteProtocolError(
            f"an ARP packet of {len(data)} bytes is too short: it has 28"
        )
    *kind, operation, sender_mac, sender_ip, target_mac, target_ip = (
        _PACKET.unpack_from(data)
    )
    if tuple(kind) != _ETHERNET_IPV4:
        raise RemoteProtocolError("an ARP packet is not about IPv4 over Ethernet")
    return ArpPacket(
        operation,
        MacAddress(sender_mac),
        IPv4Address(sender_ip),
        MacAddress(target_mac),
        IPv4Address(target_ip),
    )


def question(mac: MacAddress, address: IPv4Address, target: IPv4Address) -> bytes:
    """Return the broadcast frame in which *mac* with *address* asks for *target*."""
    return _frame(
        BROADCAST, ArpPacket(ArpOperation.REQUEST, mac, address, _NOBODY, target)
    )


def probe(mac: MacAddress, address: IPv4Address) -> bytes:
    """Return the broadcast frame in which *mac* asks whether *address* is free."""
    return question(mac, _NO_ADDRESS, address)


def announcement(mac: MacAddress, address: IPv4Address) -> bytes:
    """Return the broadcast frame that tells the segment that *mac* has *address*."""
    return question(mac, address, address)


def answer(
    mac: MacAddress, address: IPv4Address, *, to: MacAddress, asked_by: IPv4Address
) -> bytes:
    """Return the unicast frame that tells *to* (with the address *asked_by*) that *mac* has *address*."""
    return _frame(to, ArpPacket(ArpOperation.REPLY, mac, address, to, asked_by))


def _frame(destination: MacAddress, packet: ArpPacket) -> bytes:
    return encode_frame(
        Frame(destination, packet.sender_mac, EtherType.ARP, encode_arp(packet))
    )
