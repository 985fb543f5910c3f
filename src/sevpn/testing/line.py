# SPDX-License-Identifier: Apache-2.0
"""One direction of an emulated link: when each frame arrives, and whether.

Layer: testing. Runs in: any thread; pure: the caller's clock, a seeded generator.

    offer ── too long? ── queue full? ── wire at a rate ── lost? ── delay, jitter ── held back? ── take
              dropped       dropped      one at a time     gone    in order          overtaken

A rate is kept byte by byte: a frame leaves when its last byte has, and the next one
begins then; there is no burst allowance. A frame counts with its Ethernet header,
without preamble and checksum. What is lost has used the wire, as on a real path.

A super-segment (testing/segments.py) is a train of frames. Each of them meets its
own fate here, as single frames would; those that travel on side by side stay one run,
which arrives when the last of them does, and with one jitter.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from sevpn.errors import ConfigError

__all__ = ["MAX_HELD_SIZE", "Counts", "Line", "Run", "Train", "Way"]

T = TypeVar("T")

MAX_HELD_SIZE: Final = 256 << 20
"""Bytes that a line holds at most, whatever queue and delay are: two seconds at
1 Gbit/s. More is dropped as from a full queue."""


@dataclass(frozen=True, slots=True)
class Way:
    """What a link does to the frames that go one way; as it stands: nothing.

    Raises:
        ConfigError: A value cannot be.
    """

    delay_s: float = 0.0
    """How long a frame is under way after it has left the wire, seconds."""

    jitter_s: float = 0.0
    """At most so much more delay, evenly spread, seconds; the order is kept."""

    loss: float = 0.0
    """Probability that a frame is lost, each by itself."""

    reorder: float = 0.0
    """Probability that a frame is held back while later ones overtake it."""

    reorder_s: float = 0.01
    """How long a frame is held back, seconds."""

    rate_bits_per_s: float | None = None
    """Bits of frames each second; `None`: no limit, and no queue."""

    queue_size: int | None = None
    """Bytes that wait for the wire or are on it at most, one frame at least; `None`: no limit."""

    queue_s: float | None = None
    """How long a frame waits for the wire at most, seconds; `None`: no limit."""

    mtu: int | None = None
    """Bytes of the longest packet, without its Ethernet header; longer ones are
    dropped without a word, as by a switch; `None`: no limit."""

    def __post_init__(self) -> None:
        for name in ("delay_s", "jitter_s", "reorder_s", "queue_size", "queue_s"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"{name} {value} of a link must be 0 or more")
        for name in ("loss", "reorder"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name} {getattr(self, name)} of a link is a probability: 0 to 1"
                )
        for name in ("rate_bits_per_s", "mtu"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} {value} of a link must be over 0")


@dataclass(frozen=True, slots=True)
class Train:
    """Frames that are offered in a row."""

    count: int
    """How many; 1 at least."""

    size: int
    """Bytes of each but the last, with Ethernet header."""

    last_size: int
    """Bytes of the last."""


@dataclass(frozen=True, slots=True)
class Run(Generic[T]):
    """Neighbours of a train that arrive together."""

    packet: T
    """What was offered with the train."""

    first: int
    """The first of them, counted from 0."""

    count: int
    """How many; the train's if nothing happened to it."""


@dataclass(slots=True)
class Counts:
    """What became of the frames so far."""

    offered: int = 0
    """Frames that came in."""

    taken: int = 0
    """Frames that came out."""

    lost: int = 0
    """Frames lost on the way."""

    dropped: int = 0
    """Frames that found the queue full."""

    too_long: int = 0
    """Frames over the MTU."""

    held_back: int = 0
    """Frames that were held back for others to overtake; they count elsewhere, too."""

    late_s: float = 0.0
    """How late a frame was taken at worst, seconds: what the machine was busy."""


@dataclass(order=True, slots=True)
class _Held(Generic[T]):
    """A run under way; the number keeps equals in order."""

    at: float
    number: int
    size: int = field(compare=False)
    run: Run[T] = field(compare=False)


class Line(Generic[T]):
    """One direction; see the module. `now` never goes back.

    Args:
        way: What happens to frames; :attr:`way` may be set at any time and counts for
            what is offered from then on. Frames under way keep their time, and what is
            offered later does not overtake them.
        seed: The same frames at the same times meet the same fate.
    """

    def __init__(self, way: Way, seed: int) -> None:
        self.way = way
        self.counts = Counts()
        self._random = random.Random(seed)
        self._held: list[_Held[T]] = []
        self._held_size = 0
        self._number = 0
        self._wire_free_at = 0.0
        self._last_at = 0.0

    def offer(self, packet: T, train: Train, now: float) -> None:
        """Send a train of frames; *packet* comes back with each run of them."""
        way, draw = self.way, self._random.random
        self.counts.offered += train.count
        delay_s = way.delay_s + (way.jitter_s * draw() if way.jitter_s else 0.0)
        first, run_size, at = 0, 0, 0.0  # the run that is being gathered
        for index in range(train.count):
            size = train.size if index < train.count - 1 else train.last_size
            left_at = self._pass_wire(size, now)
            if left_at is not None:
                arrives_at = max(left_at + delay_s, self._last_at)
                if not (way.reorder and draw() < way.reorder):
                    run_size += size
                    at = arrives_at
                    continue
                self.counts.held_back += 1
                self._hold(Run(packet, index, 1), arrives_at + way.reorder_s, size)
            self._end_run(packet, first, index, run_size, at)
            first, run_size = index + 1, 0
        self._end_run(packet, first, train.count, run_size, at)

    def _pass_wire(self, size: int, now: float) -> float | None:
        """Return when the last byte of a frame has left; None: it does not arrive."""
        way = self.way
        if way.mtu is not None and size > way.mtu + 14:
            self.counts.too_long += 1
            return None
        if self._held_size + size > MAX_HELD_SIZE or self._is_full(size, now):
            self.counts.dropped += 1
            return None
        left_at = now
        if way.rate_bits_per_s is not None:
            left_at = max(now, self._wire_free_at) + 8 * size / way.rate_bits_per_s
            self._wire_free_at = left_at
        if way.loss and self._random.random() < way.loss:
            self.counts.lost += 1
            return None
        return left_at

    def _is_full(self, size: int, now: float) -> bool:
        wait_s = self._wire_free_at - now
        way = self.way
        if way.rate_bits_per_s is None or wait_s <= 0:
            return False
        if way.queue_s is not None and wait_s > way.queue_s:
            return True
        waiting = wait_s * way.rate_bits_per_s / 8
        return way.queue_size is not None and waiting + size > way.queue_size

    def _end_run(self, packet: T, first: int, end: int, size: int, at: float) -> None:
        if end > first:
            self._last_at = at
            self._hold(Run(packet, first, end - first), at, size)

    def _hold(self, run: Run[T], at: float, size: int) -> None:
        self._number += 1
        self._held_size += size
        heapq.heappush(self._held, _Held(at, self._number, size, run))

    def next_at(self) -> float | None:
        """Return when the next run arrives; None: nothing is under way."""
        return self._held[0].at if self._held else None

    def take(self, now: float) -> list[Run[T]]:
        """Return what has arrived by now, in the order of arrival."""
        runs: list[Run[T]] = []
        while self._held and self._held[0].at <= now:
            held = heapq.heappop(self._held)
            self._held_size -= held.size
            self.counts.taken += held.run.count
            self.counts.late_s = max(self.counts.late_s, now - held.at)
            runs.append(held.run)
        return runs
