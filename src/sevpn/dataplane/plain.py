# SPDX-License-Identifier: Apache-2.0
"""The frame path for the interpreter: no object per frame but the frame.

Layer: dataplane. Runs in: the data thread.

    inbound   chunk ──BlockCutter──> slices of it ──Sieve──> one write per frame
    outbound  one read per frame ──> join_batch: 128 frames at most

The TAP is a plain one: with virtio headers the cutting and merging would cost the
interpreter more than they save (docs/decisions/0007-kernel.md).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Final, Literal

from sevpn.dataplane.buffers import BlockCutter, join_batch
from sevpn.dataplane.kernel.constants import LARGE_FRAME
from sevpn.dataplane.path import CHUNK_BYTES, TAP_ERRORS, Group, sift
from sevpn.dataplane.ports import FramePort
from sevpn.dataplane.sieve import Sieve
from sevpn.metrics.counters import Counters
from sevpn.wire.block import FULL_BATCH, MAX_FRAME_SIZE, MIN_FRAME_SIZE

__all__ = ["PlainPath", "is_prior", "slot_of"]

_IPV4: Final = b"\x08\x00"
_IPV6: Final = b"\x86\xdd"
_ICMP: Final = 1
_WITH_PORTS: Final = (6, 17)


class PlainInlet:
    """A :class:`sevpn.dataplane.path.Inlet`."""

    def __init__(
        self,
        arena: bytearray,
        write: Callable[[list[memoryview]], None],
        *,
        sieve: Sieve,
        counters: Counters,
    ) -> None:
        self.has_items = False
        self.has_full_batch = False
        self.has_fed_host = False
        self.for_control: list[memoryview] = []
        self._view = memoryview(arena)
        self._write = write
        self._sieve = sieve
        self._counters = counters
        self._cutter = BlockCutter()

    def room(self) -> memoryview:
        """Return the arena: what the last chunk ended inside of was copied away."""
        return self._view

    def take(self, size: int, /) -> None:
        """Cut the chunk and hand its frames to whom they concern."""
        cutter = self._cutter
        cutter.feed(self._view[:size])
        self.has_items = cutter.has_items
        self.has_full_batch = cutter.has_full_batch
        self.for_control = []
        frames, to_sift = cutter.tcp_frames, cutter.others
        counters = self._counters
        counters.inbound_frames += len(frames) + len(to_sift)
        counters.inbound_bytes += sum(map(len, frames)) + sum(map(len, to_sift))
        counters.drop("runt", cutter.dropped_runts)
        counters.drop("oversized", cutter.dropped_oversized)
        if not self._sieve.passes_tcp:
            frames, to_sift = [], frames + to_sift
        if to_sift:
            for_host, self.for_control = sift(
                to_sift, sieve=self._sieve, counters=counters
            )
            frames += for_host
        self.has_fed_host = bool(frames)
        self._write(frames)


class PlainPath:
    """A :class:`sevpn.dataplane.path.FramePath` over a plain TAP."""

    kernel: Literal["compiled", "python"] = "python"

    def __init__(self, port: FramePort, *, sieve: Sieve, counters: Counters) -> None:
        self.is_drained = False
        self.sheds = False
        self._port = port
        self._sieve = sieve
        self._counters = counters
        self._arena = bytearray(CHUNK_BYTES)

    def open_inlet(self) -> PlainInlet:
        """Return the inbound direction of a new connection."""
        return PlainInlet(
            self._arena, self._write, sieve=self._sieve, counters=self._counters
        )

    def _write(self, frames: list[memoryview]) -> None:
        write = self._port.write
        for frame in frames:
            try:
                write(frame)
            except OSError as error:
                self._counters.drop(TAP_ERRORS.get(error.errno, "tap-refused"))

    def collect(
        self, frame_limit: int, *, slot_count: int, has_priority: bool
    ) -> list[Group]:
        """Read what one batch takes."""
        limit = min(FULL_BATCH, frame_limit)
        frames = list(islice(iter(self._port.read, None), limit))
        self.is_drained = len(frames) < limit
        if self.sheds:
            self._shed(frames)
        if not frames:
            return []
        sizes = list(map(len, frames))
        if min(sizes) < MIN_FRAME_SIZE or max(sizes) > MAX_FRAME_SIZE:
            frames = self._without_misfits(frames)
            if not frames:
                return []
            sizes = list(map(len, frames))
        if slot_count == 1 and not has_priority:
            return [Group(0, join_batch(frames, sizes), len(frames), sum(sizes))]
        by_slot: dict[int, list[bytes]] = {}
        for frame in frames:
            slot = (
                slot_count
                if has_priority and is_prior(frame)
                else slot_of(frame, slot_count)
            )
            by_slot.setdefault(slot, []).append(frame)
        return [_group(slot, share) for slot, share in by_slot.items()]

    def _shed(self, frames: list[bytes]) -> None:
        """Drop the first large frame, if there is one."""
        for index, frame in enumerate(frames):
            if len(frame) >= LARGE_FRAME:
                del frames[index]
                self.sheds = False
                self._counters.drop("standing")
                return

    def _without_misfits(self, frames: list[bytes]) -> list[bytes]:
        """Drop what the protocol cannot carry: a TAP with too large an MTU has such frames."""
        drop = self._counters.drop
        drop("runt", sum(len(frame) < MIN_FRAME_SIZE for frame in frames))
        drop("oversized", sum(len(frame) > MAX_FRAME_SIZE for frame in frames))
        return [
            frame for frame in frames if MIN_FRAME_SIZE <= len(frame) <= MAX_FRAME_SIZE
        ]


def _group(slot: int, frames: list[bytes]) -> Group:
    sizes = list(map(len, frames))
    return Group(slot, join_batch(frames, sizes), len(frames), sum(sizes))


def slot_of(frame: bytes, slot_count: int) -> int:
    """Return the slot of a frame's flow: addresses and ports decide, where it has some."""
    kind = frame[12:14]
    if kind == _IPV4 and len(frame) >= 34:
        key = frame[26:34]
        # A fragment has no ports of its own, and must not overtake its siblings.
        if frame[23] in _WITH_PORTS and not (frame[20] & 0x3F or frame[21]):
            transport = 14 + (frame[14] & 15) * 4
            key += frame[transport : transport + 4]
    elif kind == _IPV6 and len(frame) >= 54:
        key = frame[22:54]
        if frame[20] in _WITH_PORTS:
            key += frame[54:58]
    else:
        key = frame[:12]
    return hash(key) % slot_count


def is_prior(frame: bytes) -> bool:
    """Whether a frame has priority: the rule of docs/reference/protocol-data.md#qos."""
    if len(frame) < 34 or frame[12:14] != _IPV4:
        return False
    return frame[15] not in (0, 8) or (frame[23] == _ICMP and len(frame) <= 128)
