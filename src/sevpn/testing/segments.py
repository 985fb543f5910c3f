# SPDX-License-Identifier: Apache-2.0
"""Super-segments of a TAP: how many frames one is, and how some of them look.

Layer: testing. Runs in: any thread; pure. Apart from the product's own kernel on
purpose: what tests it must not share its faults.

    packet := virtio header (10 bytes), Ethernet frame

    flags (1)  GSO type (1)  header size (2)  segment size (2)  checksum start (2), offset (2)

Numbers of the virtio header are in the byte order of the machine. A packet whose GSO
type is TCPv4 or TCPv6 is one long TCP segment that stands for many; flag 1 says that
its checksum field holds the sum of the pseudo-header alone, length included, and that
the rest is added on the way out.

Source: linux/virtio_net.h; linux/net/ipv4/tcp_offload.c, tcp_gso_segment().
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from sevpn.testing.line import Train

__all__ = ["VIRTIO_SIZE", "cut", "train_of"]

VIRTIO_SIZE: Final = 10
"""Bytes of the virtio header before each frame."""

_VIRTIO: Final = struct.Struct("=BBHHHH")
_TCP4, _TCP6 = 1, 4
_GSO_TYPES: Final = (_TCP4, _TCP6)
_FIN_PSH: Final = 0x09
_CWR: Final = 0x80


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things are in a super-segment; offsets from the begin of the packet."""

    gso_type: int
    segment_size: int
    network: int
    transport: int
    payload: int

    @property
    def header_size(self) -> int:
        """Bytes of Ethernet, IP and TCP headers."""
        return self.payload - VIRTIO_SIZE


def _layout(packet: bytes) -> _Layout | None:
    """Return the layout of a super-segment; None: the packet is one frame."""
    fields: tuple[int, ...] = _VIRTIO.unpack_from(packet)
    _, gso_type, _, segment_size, start, _ = fields
    if gso_type not in _GSO_TYPES:
        return None
    network = VIRTIO_SIZE + 14
    while packet[network - 2 : network] in (b"\x81\x00", b"\x88\xa8"):
        network += 4
    transport = VIRTIO_SIZE + start
    payload = transport + (packet[transport + 12] >> 4) * 4
    return _Layout(gso_type, segment_size, network, transport, payload)


def train_of(packet: bytes) -> Train:
    """Return the frames that a packet of a TAP stands for on a wire."""
    found = _layout(packet)
    if found is None:
        size = len(packet) - VIRTIO_SIZE
        return Train(1, size, size)
    payload_size = len(packet) - found.payload
    count = max(1, -(-payload_size // found.segment_size))
    rest = payload_size - (count - 1) * found.segment_size
    return Train(
        count, found.header_size + found.segment_size, found.header_size + rest
    )


def cut(packet: bytes, first: int, count: int) -> bytes:
    """Return the packet for some neighbours of :func:`train_of`'s frames.

    Args:
        packet: One that stands for more than *count* frames.
        first: The first of them, counted from 0.
        count: How many.
    """
    found = _layout(packet)
    assert found is not None, "a single frame cannot be cut"
    begin = found.payload + first * found.segment_size
    end = min(begin + count * found.segment_size, len(packet))
    head = bytearray(packet[: found.payload])
    _write_virtio(head, found, is_single=count == 1)
    removed_size = len(packet) - found.payload - (end - begin)
    if found.gso_type == _TCP4:
        _write_ipv4(head, found.network, first, removed_size)
    else:
        _add(head, found.network + 4, -removed_size)
    _write_tcp(
        head,
        found.transport,
        moved_size=begin - found.payload,
        removed_size=removed_size,
        is_last=end == len(packet),
    )
    return bytes(head) + packet[begin:end]


def _write_virtio(head: bytearray, found: _Layout, *, is_single: bool) -> None:
    flags, _, _, _, start, offset = _VIRTIO.unpack_from(head)
    gso = (0, 0) if is_single else (found.gso_type, found.segment_size)
    # The kernel refuses a packet that is shorter than its header size says.
    _VIRTIO.pack_into(head, 0, flags, gso[0], found.header_size, gso[1], start, offset)


def _write_ipv4(head: bytearray, network: int, first: int, removed_size: int) -> None:
    _add(head, network + 2, -removed_size)
    _add(head, network + 4, first)  # the identification counts up, frame by frame
    size = (head[network] & 15) * 4
    head[network + 10 : network + 12] = bytes(2)
    words = struct.unpack_from(f"!{size // 2}H", head, network)
    struct.pack_into("!H", head, network + 10, ~_fold(sum(words)) & 0xFFFF)


def _write_tcp(
    head: bytearray,
    transport: int,
    *,
    moved_size: int,
    removed_size: int,
    is_last: bool,
) -> None:
    (sequence,) = struct.unpack_from("!I", head, transport + 4)
    struct.pack_into("!I", head, transport + 4, (sequence + moved_size) & 0xFFFFFFFF)
    if not is_last:
        head[transport + 13] &= ~_FIN_PSH
    if moved_size:
        head[transport + 13] &= ~_CWR
    (check,) = struct.unpack_from("!H", head, transport + 16)
    # One's complement: to take a length away is to add its complement.
    struct.pack_into(
        "!H", head, transport + 16, _fold(check + (~removed_size & 0xFFFF))
    )


def _add(head: bytearray, at: int, number: int) -> None:
    """Add to a 16-bit number."""
    (old,) = struct.unpack_from("!H", head, at)
    struct.pack_into("!H", head, at, (old + number) & 0xFFFF)


def _fold(total: int) -> int:
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
