# SPDX-License-Identifier: Apache-2.0
"""What goes through the kernel in its tests: TCP segments, virtio headers, and a pair of sockets for a TAP.

Apart from the product's own code on purpose: what tests it must not share its faults.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self

from sevpn.dataplane.kernel.cut import Group

__all__ = [
    "ACK",
    "CWR",
    "ECE",
    "FIN",
    "NO_OFFLOAD",
    "PSH",
    "RST",
    "SYN",
    "URG",
    "Segment",
    "Tap",
    "batches_of",
    "checksum",
    "frames_of",
    "ones_sum",
    "run_of",
    "virtio",
]

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))

IPV4: Final = 0x0800
IPV6: Final = 0x86DD
VLAN: Final = 0x8100
TCP: Final = 6

_PATTERN: Final = bytes(
    (number * number + number // 256) & 255 for number in range(70000)
)


def virtio(  # noqa: PLR0917 - in the order of the header
    flags: int = 0,
    kind: int = 0,
    head: int = 0,
    size: int = 0,
    start: int = 0,
    offset: int = 0,
) -> bytes:
    """A virtio header: flags, GSO type, header size, segment size, checksum start and offset."""
    return struct.pack("<BBHHHH", flags, kind, head, size, start, offset)


NO_OFFLOAD: Final = virtio()
"""The virtio header of a frame that is what it is."""


def ones_sum(data: bytes) -> int:
    """The one's complement sum of 16-bit words, word by word (RFC 1071)."""
    padded = data + bytes(len(data) & 1)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes) -> int:
    """The complement of the sum: what an IP or TCP header holds."""
    return ones_sum(data) ^ 0xFFFF


def payload_at(sequence: int, size: int) -> bytes:
    """The bytes that a flow has from *sequence* on: two neighbours never look alike."""
    begin = sequence % 251
    return _PATTERN[begin : begin + size]


@dataclass(frozen=True)
class Segment:
    """A TCP segment; :meth:`frame` makes it with right checksums, less the errors asked for."""

    version: int = 4
    """Of IP."""

    flow: int = 1
    """Which flow; it stands in the addresses and ports."""

    prefix: bytes = b"\x0a\x00"
    """The beginning of both addresses."""

    sequence: int = 1000
    """Sequence number."""

    size: int = 100
    """Bytes of payload."""

    flags: int = ACK
    """TCP flags."""

    words: int = 0
    """What the size of the TCP header is said to be instead, in words."""

    reserved: int = 0
    """The four bits between the size of the TCP header and the flags."""

    ack: int = 77
    """Acknowledgement number."""

    window: int = 501
    """Receive window."""

    urgent: int = 0
    """Urgent pointer."""

    options: bytes = b""
    """TCP options, a multiple of four bytes."""

    tos: int = 0
    """Type of service, or traffic class."""

    label: int = 0
    """Flow label."""

    ttl: int = 64
    """Time to live, or hop limit."""

    identification: int = 7
    """Of IPv4."""

    fragment: int = 0x4000
    """Flags and offset of IPv4."""

    ip_options: bytes = b""
    """IPv4 options, a multiple of four bytes."""

    extension: bytes = b""
    """Behind `next header`: an IPv6 extension header, a multiple of 8 bytes less one."""

    extension_kind: int = 60
    """Which extension header; destination options."""

    ip_version: int = 0
    """What the version field says instead."""

    tags: tuple[int, ...] = ()
    """VLAN tags."""

    source: bytes = bytes.fromhex("5eaf00000002")
    """MAC address of the sender."""

    padding: bytes = b""
    """Behind the packet."""

    tcp_error: int = 0
    """Added to the TCP checksum."""

    ip_error: int = 0
    """Added to the IPv4 header's checksum."""

    def frame(self) -> bytes:
        """The Ethernet frame."""
        segment = self._segment()
        network = self._ipv4(segment) if self.version == 4 else self._ipv6(segment)
        tags = b"".join(struct.pack("!HH", VLAN, tag) for tag in self.tags)
        ethertype = IPV4 if self.version == 4 else IPV6
        return (
            bytes.fromhex("5eaf00000001")
            + self.source
            + tags
            + ethertype.to_bytes(2, "big")
            + network
            + segment
            + self.padding
        )

    def _addresses(self) -> bytes:
        if self.version == 4:
            return self.prefix + bytes([0, self.flow]) + self.prefix + bytes([1, 1])
        return (
            self.prefix
            + bytes(13)
            + bytes([self.flow])
            + self.prefix
            + bytes(12)
            + bytes([1, 1])
        )

    def _segment(self) -> bytes:
        payload = payload_at(self.sequence, self.size)
        words = self.words or (20 + len(self.options)) // 4
        head = struct.pack(
            "!HHIIBBHHH",
            1000 + self.flow,
            443,
            self.sequence & 0xFFFFFFFF,
            self.ack,
            words << 4 | self.reserved,
            self.flags,
            self.window,
            0,
            self.urgent,
        )
        whole = head + self.options + payload
        pseudo = self._addresses() + struct.pack("!HH", TCP, len(whole))
        value = (checksum(pseudo + whole) + self.tcp_error) & 0xFFFF
        return whole[:16] + value.to_bytes(2, "big") + whole[18:]

    def _ipv4(self, segment: bytes) -> bytes:
        size = 20 + len(self.ip_options)
        head = struct.pack(
            "!BBHHHBBH8s",
            (self.ip_version or 4) << 4 | size // 4,
            self.tos,
            size + len(segment),
            self.identification & 0xFFFF,
            self.fragment,
            self.ttl,
            TCP,
            0,
            self._addresses(),
        )
        head += self.ip_options
        value = (checksum(head) + self.ip_error) & 0xFFFF
        return head[:10] + value.to_bytes(2, "big") + head[12:]

    def _ipv6(self, segment: bytes) -> bytes:
        extension = bytes([TCP]) + self.extension if self.extension else b""
        return (
            struct.pack(
                "!IHBB32s",
                (self.ip_version or 6) << 28 | self.tos << 20 | self.label,
                len(extension) + len(segment),
                self.extension_kind if extension else TCP,
                self.ttl,
                self._addresses(),
            )
            + extension
        )


def run_of(
    count: int,
    first: Segment | None = None,
    /,
    *,
    step: int = 1,
    **fields: Any,
) -> list[Segment]:
    """Return *count* segments that follow each other, as one sender makes them.

    Args:
        count: How many.
        first: The first one.
        step: By how much the IPv4 identification grows.
        **fields: What else the first one has.
    """
    first = replace(first or Segment(), **fields)
    return [
        replace(
            first,
            sequence=first.sequence + index * first.size,
            identification=first.identification + index * step,
        )
        for index in range(count)
    ]


# --- the TAP -----------------------------------------------------------------


class Tap:
    """Two sockets that keep the borders of packets: the kernel's end, and the host's."""

    def __init__(self) -> None:
        self.ours, self.host = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.ours, self.host):
            end.settimeout(0)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 212992)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ours.close()
        self.host.close()

    @property
    def descriptor(self) -> int:
        """What the kernel reads and writes."""
        return self.ours.fileno()

    def send(self, packets: Sequence[bytes]) -> None:
        """Let the host hand over packets."""
        for packet in packets:
            self.host.send(packet)

    def received(self) -> list[bytes]:
        """What the host was given since the last call."""
        packets: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                packets.append(self.host.recv(1 << 17))
        return packets


# --- blocks ------------------------------------------------------------------


def batches_of(data: bytes) -> Iterator[list[bytes]]:
    """Read whole batches, with nothing left behind the last."""
    at = 0
    while at < len(data):
        (count,) = struct.unpack_from("!I", data, at)
        at += 4
        frames = []
        for _ in range(count):
            (size,) = struct.unpack_from("!I", data, at)
            frames.append(data[at + 4 : at + 4 + size])
            assert len(frames[-1]) == size
            at += 4 + size
        yield frames


def frames_of(out: bytearray, groups: Sequence[Group]) -> list[bytes]:
    """Return the frames of all groups, and look whether the groups are what they say."""
    frames: list[bytes] = []
    last = 0
    for _, begin, end, count in groups:
        assert begin == last
        last = end
        batches = list(batches_of(bytes(out[begin:end])))
        assert all(1 <= len(batch) <= 128 for batch in batches)
        # The pump reckons with it: no other batch than the last is less than full.
        assert all(len(batch) == 128 for batch in batches[:-1])
        found = [frame for batch in batches for frame in batch]
        assert len(found) == count <= 512
        frames += found
    return frames
