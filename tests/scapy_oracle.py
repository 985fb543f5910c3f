# SPDX-License-Identifier: Apache-2.0
"""Scapy as an oracle: what frames a network card would make of a super-segment.

Only the layers that are needed are imported (0.4 s), without reading the host's
routes and without scapy's cache folder.
"""

from __future__ import annotations

from typing import Any, Final

import scapy.main

scapy.main.SCAPY_CACHE_FOLDER = None  # before scapy.data is imported: it would write

from scapy.config import conf  # noqa: E402 - see above

conf.route_autoload = False  # before scapy.route is imported: it would read
conf.route6_autoload = False

from scapy.layers.inet import IP, TCP, UDP  # noqa: E402 - see above
from scapy.layers.inet6 import (  # noqa: E402 - see above
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether  # noqa: E402 - see above
from scapy.packet import Packet, Raw  # noqa: E402 - see above

from kernel_packets import checksum, ones_sum, virtio  # noqa: E402 - tests/

__all__ = [
    "ARP",
    "IP",
    "TCP",
    "UDP",
    "Dot1Q",
    "Ether",
    "IPv6",
    "IPv6ExtHdrDestOpt",
    "IPv6ExtHdrFragment",
    "IPv6ExtHdrHopByHop",
    "IPv6ExtHdrRouting",
    "Packet",
    "Raw",
    "frames_of_card",
    "is_right",
    "super_segment",
    "unfinished",
]

TCP4, TCP6, UDP_SEGMENTS, ECN = 1, 4, 5, 0x80

_FIN_PSH: Final = 0x09
_CWR: Final = 0x80


def _transport(packet: Packet) -> tuple[Any, int, int]:
    """The layer of TCP or UDP, the place of its checksum, and where its payload begins."""
    if TCP in packet:
        return packet[TCP], 16, len(packet[TCP]) - len(packet[TCP].payload)
    return packet[UDP], 6, 8


def unfinished(packet: Packet) -> tuple[bytes, int, int]:
    """Return the frame with the sum of the pseudo header in the place of the checksum.

    Returns:
        The frame, and where its checksum starts and stands.
    """
    layer, offset, _ = _transport(packet)
    raw = bytes(packet)
    start = len(raw) - len(bytes(layer))
    field = start + offset
    whole = int.from_bytes(raw[field : field + 2], "big")
    rest = ones_sum(raw[start:field] + bytes(2) + raw[field + 2 :])
    # Checksum = complement of (pseudo + rest): what is looked for is pseudo.
    pseudo = ones_sum(
        (whole ^ 0xFFFF).to_bytes(2, "big") + (rest ^ 0xFFFF).to_bytes(2, "big")
    )
    return raw[:field] + pseudo.to_bytes(2, "big") + raw[field + 2 :], start, offset


def super_segment(packet: Packet, size: int, *, ecn: int = 0) -> bytes:
    """Return the packet as the host's stack hands it over, to be cut into payloads of *size*."""
    frame, start, offset = unfinished(packet)
    _, _, head = _transport(packet)
    kind = UDP_SEGMENTS if UDP in packet else TCP4 if IP in packet else TCP6
    return virtio(1, kind | ecn, start + head, size, start, offset) + frame


def frames_of_card(packet: Packet, size: int) -> list[bytes]:
    """Return the frames that a network card makes of a packet, built by scapy one by one."""
    layer, _, _ = _transport(packet)
    payload = bytes(layer.payload)
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
    head = Ether(bytes(packet)[: -len(payload)]) if payload else Ether(bytes(packet))
    _forget_sums(head)
    frames = []
    for index, piece in enumerate(pieces):
        frame = head.copy()
        if IP in frame:
            frame[IP].id = (frame[IP].id + index) & 0xFFFF
        if TCP in frame:
            _number(frame[TCP], index * size, is_last=index == len(pieces) - 1)
        frames.append(bytes(frame / Raw(piece)))
    return frames


def _number(tcp: Any, moved: int, *, is_last: bool) -> None:
    """Give a TCP header its sequence number and flags."""
    tcp.seq = (tcp.seq + moved) & 0xFFFFFFFF
    flags = int(tcp.flags)
    if moved:
        flags &= ~_CWR
    if not is_last:
        flags &= ~_FIN_PSH
    tcp.flags = flags


def is_right(frame: bytes) -> bool:
    """Whether scapy, reading a frame, finds its lengths and checksums right."""
    packet = Ether(frame)
    _forget_sums(packet)
    return bytes(packet) == frame and _has_right_sum(packet)


def _forget_sums(packet: Packet) -> None:
    """Let scapy find out lengths and checksums when it builds the packet."""
    for layer, fields in (
        (IP, ("len", "chksum")),
        (IPv6, ("plen",)),
        (TCP, ("chksum",)),
        (UDP, ("len", "chksum")),
    ):
        if layer in packet:
            for field in fields:
                packet[layer].delfieldval(field)


def _has_right_sum(packet: Packet) -> bool:
    """Whether the IPv4 header sums up: the oracle of the oracle."""
    if IP not in packet:
        return True
    raw = bytes(packet[IP])
    return checksum(raw[: (raw[0] & 15) * 4]) == 0
