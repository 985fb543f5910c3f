# SPDX-License-Identifier: Apache-2.0
"""Super-segments that are cut, against frames that were made one by one."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest
from hypothesis import given, strategies as st

from sevpn.testing.line import Train
from sevpn.testing.segments import VIRTIO_SIZE, cut, train_of

FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80


@dataclass(frozen=True)
class Segment:
    """A TCP segment and all that stands around it."""

    is_ipv6: bool
    tagged: bool
    ip_options: bytes
    tcp_options: bytes
    identification: int
    sequence: int
    flags: int
    payload: bytes

    def packet(self, gso_size: int) -> bytes:
        """Return it as a TAP gives it: one frame (0), or many."""
        tcp_size = 20 + len(self.tcp_options) + len(self.payload)
        ethernet = bytes(12) + (b"\x81\x00\x00\x07" if self.tagged else b"")
        if self.is_ipv6:
            addresses = bytes(range(32))
            ip = struct.pack("!IHBB", 6 << 28, tcp_size, 6, 64) + addresses
            ethernet += b"\x86\xdd"
        else:
            addresses = bytes([192, 0, 2, 1, 198, 51, 100, 7])
            ip_size = 20 + len(self.ip_options)
            head = struct.pack(
                "!BBHHHBBH",
                0x40 | ip_size // 4,
                0,
                ip_size + tcp_size,
                self.identification,
                0x4000,
                64,
                6,
                0,
            )
            ip = head + addresses + self.ip_options
            ip = ip[:10] + struct.pack("!H", ~ones_sum(ip) & 0xFFFF) + ip[12:]
            ethernet += b"\x08\x00"
        pseudo = ones_sum(addresses + struct.pack("!II", 6, tcp_size))
        tcp = struct.pack(
            "!HHIIBBHHH",
            40000,
            443,
            self.sequence,
            77,
            (20 + len(self.tcp_options)) // 4 << 4,
            self.flags,
            500,
            pseudo,
            0,
        )
        tcp += self.tcp_options
        header_size = len(ethernet) + len(ip) + len(tcp)
        gso_type = (4 if self.is_ipv6 else 1) if gso_size else 0
        virtio = struct.pack(
            "=BBHHHH",
            1,
            gso_type,
            header_size,
            gso_size,
            len(ethernet) + len(ip),
            16,
        )
        return virtio + ethernet + ip + tcp + self.payload

    def part(self, gso_size: int, first: int, count: int) -> bytes:
        """Return some of its frames, made as if they had been sent like that."""
        begin, end = first * gso_size, (first + count) * gso_size
        flags = self.flags
        if end < len(self.payload):
            flags &= ~(FIN | PSH)
        if first:
            flags &= ~CWR
        other = Segment(
            self.is_ipv6,
            self.tagged,
            self.ip_options,
            self.tcp_options,
            (self.identification + first) % 2**16,
            (self.sequence + begin) % 2**32,
            flags,
            self.payload[begin:end],
        )
        return other.packet(gso_size if count > 1 else 0)


def ones_sum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def same_checksum(packet: bytes) -> bytes:
    """Return a packet in which 0xFFFF, the other zero, is 0 in the TCP checksum."""
    (start,) = struct.unpack_from("=H", packet, 6)
    at = VIRTIO_SIZE + start + 16
    check = packet[at : at + 2].replace(b"\xff\xff", b"\x00\x00")
    return packet[:at] + check + packet[at + 2 :]


words = st.integers(0, 5).map(lambda count: bytes(range(1, 4 * count + 1)))
segments = st.builds(
    Segment,
    is_ipv6=st.booleans(),
    tagged=st.booleans(),
    ip_options=words,
    tcp_options=words,
    identification=st.integers(0, 2**16 - 1),
    sequence=st.integers(0, 2**32 - 1),
    flags=st.sampled_from([ACK, ACK | PSH, ACK | PSH | FIN, ACK | CWR | PSH]),
    payload=st.integers(2, 3000).map(lambda size: bytes(n % 251 for n in range(size))),
)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[Segment, int, int, int]:
    segment = draw(segments)
    gso_size = draw(st.integers(1, len(segment.payload) - 1))
    total = -(-len(segment.payload) // gso_size)
    first = draw(st.integers(0, total - 1))
    return segment, gso_size, first, draw(st.integers(1, total - first))


@given(cuts())
def test_a_part_is_what_would_have_been_sent_alone(
    choice: tuple[Segment, int, int, int],
) -> None:
    segment, gso_size, first, count = choice

    part = cut(segment.packet(gso_size), first, count)

    assert same_checksum(part) == same_checksum(segment.part(gso_size, first, count))


@given(cuts(), st.data())
def test_a_part_of_a_part_is_a_part(
    choice: tuple[Segment, int, int, int], data: st.DataObject
) -> None:
    segment, gso_size, first, count = choice
    packet = segment.packet(gso_size)
    part = cut(packet, first, count)
    if count == 1:
        assert train_of(part).count == 1
        return
    inner = data.draw(st.integers(0, count - 1))

    assert same_checksum(cut(part, inner, 1)) == same_checksum(
        cut(packet, first + inner, 1)
    )


@given(segments, st.integers(1, 4000))
def test_a_train_is_as_long_as_its_frames(segment: Segment, gso_size: int) -> None:
    packet = segment.packet(gso_size)
    header_size = len(packet) - len(segment.payload) - VIRTIO_SIZE

    train = train_of(packet)

    payload_size = (
        (train.count - 1) * (train.size - header_size) + train.last_size - header_size
    )
    assert payload_size == len(segment.payload)
    assert train.size == header_size + gso_size
    assert header_size < train.last_size <= train.size


def test_a_frame_that_is_no_super_segment_is_a_train_of_one() -> None:
    assert train_of(bytes(VIRTIO_SIZE) + bytes(60)) == Train(1, 60, 60)


def test_a_single_frame_cannot_be_cut() -> None:
    with pytest.raises(AssertionError, match="single frame"):
        cut(bytes(VIRTIO_SIZE) + bytes(60), 0, 1)
