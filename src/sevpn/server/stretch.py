# SPDX-License-Identifier: Apache-2.0
"""Neighbouring frames in a buffer, which the hub hands on as a whole.

Layer: server. Runs in: the event loop.

    data     │ … │ frame │ … │ frame │ … │ frame │ … │ frame │ … │
    index            4           5           6           7
                                         └ Stretch(first=6, count=2)

Only what stands on the compiled kernel of the data path makes and takes stretches;
whoever does not know them gets frames of their own.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace

__all__ = ["Stretch"]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some frames; its length is how many.

    The buffer is the reader's: whoever takes a stretch is done with it, or has copied
    it, when the call returns.
    """

    data: bytearray
    """Holds the frames."""

    starts: array[int]
    """Where each frame of the buffer begins."""

    sizes: array[int]
    """How long each is, 14 to 1600."""

    first: int
    """Index of the first frame that is meant."""

    count: int
    """How many are meant."""

    def __len__(self) -> int:
        return self.count

    def part(self, first: int, end: int) -> Stretch:
        """Return the frames from index *first* of the buffer up to index *end*."""
        return replace(self, first=first, count=end - first)

    def frame(self, index: int) -> bytes:
        """Return a copy of the frame with that index in the buffer."""
        start = self.starts[index]
        return bytes(self.data[start : start + self.sizes[index]])

    def frames(self) -> list[bytes]:
        """Return copies of the frames."""
        return [self.frame(self.first + number) for number in range(self.count)]
