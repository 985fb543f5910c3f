# SPDX-License-Identifier: Apache-2.0
"""The frame path on top of the kernel: super-segments at the TAP, where it takes them.

Layer: dataplane. Runs in: the data thread.

    inbound   chunk ──Scanner──> places of the frames ──sift──> Merger ──> few writes
                                                        └──> Sieve: ARP, DHCP, while proving
    outbound  few reads ──> Cutter: batches in one buffer, in groups of up to 512 frames

Compiled itself where there is a compiler: compiled.pxd gives the C types.
"""

from __future__ import annotations

from typing import Final, Literal

from sevpn.dataplane.kernel.cut import Cutter
from sevpn.dataplane.kernel.merge import Merger
from sevpn.dataplane.kernel.scan import BlockState, Scanner
from sevpn.dataplane.path import CHUNK_BYTES, TAP_ERRORS, Group, sift
from sevpn.dataplane.ports import FramePort
from sevpn.dataplane.sieve import Sieve
from sevpn.metrics.counters import Counters
from sevpn.wire.block import FULL_BATCH

__all__ = ["CompiledPath"]

_COLLECT_BYTES: Final = 128 * 1024
"""Read from the TAP in one go, give or take a super-segment."""


class CompiledInlet:
    """A :class:`sevpn.dataplane.path.Inlet`."""

    def __init__(self, path: CompiledPath) -> None:
        self.has_items = False
        self.has_full_batch = False
        self.has_fed_host = False
        self.for_control: list[memoryview] = []
        self._path = path
        self._state = BlockState()

    def room(self) -> memoryview:
        """Return the arena behind what the last chunk ended inside of."""
        return self._path.scanner.room(self._state)[:CHUNK_BYTES]

    def take(self, size: int, /) -> None:
        """Scan the chunk and hand its frames to whom they concern."""
        scanner = self._path.scanner
        scanner.scan(self._state, size)
        self.has_items = scanner.has_items
        self.has_full_batch = scanner.has_full_batch
        self.for_control, self.has_fed_host = self._path.deliver()


class CompiledPath:
    """A :class:`sevpn.dataplane.path.FramePath` on top of the kernel."""

    def __init__(self, port: FramePort, *, sieve: Sieve, counters: Counters) -> None:
        self.kernel: Literal["compiled", "python"] = "compiled"
        self.is_drained = False
        self.sheds = False
        self.scanner = Scanner()
        """Holds the chunk at hand, of whichever connection."""
        self._port = port
        self._sieve = sieve
        self._counters = counters
        self._cutter = Cutter(port.fileno(), has_header=port.has_header)
        self._merger = Merger(port.fileno(), has_header=port.has_header)
        self._out = memoryview(self._cutter.out)

    def open_inlet(self) -> CompiledInlet:
        """Return the inbound direction of a new connection."""
        return CompiledInlet(self)

    def deliver(self) -> tuple[list[memoryview], bool]:
        """Give the scanned frames to the host and to control.

        Returns:
            Control's frames, and whether the host was given any.
        """
        scanner, counters = self.scanner, self._counters
        counters.inbound_frames += scanner.frame_count
        counters.inbound_bytes += scanner.frame_bytes
        if scanner.dropped_runts or scanner.dropped_oversized:
            counters.drop("runt", scanner.dropped_runts)
            counters.drop("oversized", scanner.dropped_oversized)
        for_host: list[memoryview] = []
        for_control: list[memoryview] = []
        others = scanner.sift() if self._sieve.passes_tcp else scanner.take_all()
        if others:
            for_host, for_control = sift(others, sieve=self._sieve, counters=counters)
        count = scanner.frame_count
        if count:
            self._write(count)
        for frame in for_host:
            self._write_one(frame)
        return for_control, bool(count or for_host)

    def _write(self, count: int) -> None:
        scanner, merger = self.scanner, self._merger
        taken = merger.write(scanner.arena, scanner.starts, scanner.sizes, 0, count)
        if taken < count:
            for number, frames in merger.losses().items():
                self._counters.drop(TAP_ERRORS.get(number, "tap-refused"), frames)

    def _write_one(self, frame: memoryview) -> None:
        try:
            self._port.write(frame)
        except OSError as error:
            self._counters.drop(TAP_ERRORS.get(error.errno, "tap-refused"))

    def collect(
        self, frame_limit: int, *, slot_count: int, has_priority: bool
    ) -> list[Group]:
        """Read packets until a limit is reached, and cut them."""
        cutter = self._cutter
        cutter.sheds = self.sheds
        groups = cutter.collect(frame_limit, _COLLECT_BYTES, slot_count, has_priority)
        self.is_drained = cutter.is_drained
        self.sheds = cutter.sheds
        self._note_drops()
        out = self._out
        return [
            Group(slot, out[begin:end], frames, end - begin - _overhead_bytes(frames))
            for slot, begin, end, frames in groups
        ]

    def _note_drops(self) -> None:
        """Count what the last collection did not take."""
        cutter, counters = self._cutter, self._counters
        if (
            cutter.dropped_runts
            or cutter.dropped_oversized
            or cutter.dropped_malformed
            or cutter.dropped_standing
        ):
            counters.drop("runt", cutter.dropped_runts)
            counters.drop("oversized", cutter.dropped_oversized)
            counters.drop("malformed", cutter.dropped_malformed)
            counters.drop("standing", cutter.dropped_standing)


def _overhead_bytes(frames: int) -> int:
    """Return the bytes of the sizes and counts in a group: all of its batches but the last are full."""
    return 4 * (frames + -(-frames // FULL_BATCH))
