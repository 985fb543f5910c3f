# SPDX-License-Identifier: Apache-2.0
"""Batches to and from the bytes of a connection, without moving a frame twice.

Layer: dataplane. Runs in: the data thread; one :class:`BlockCutter` per connection.

Inbound, a chunk of the stream is cut in place: each frame is a slice of it, and
keeps it alive until the frame is written. What a chunk ends inside of is carried
over and completed with the next chunk:

    chunk 1                           chunk 2
    ┌───────┬────────────┬──────┐     ┌──────┬────────────┬─────
    │ count │ size block │ size │ blo │ ck   │ size block │ size …
    └───────┴────────────┴──────┘     └──────┴────────────┴─────
                         └ carry ┘    └──────┘ joined to the carry, nothing else is copied

The carry never holds more than one block or keep-alive: 3204 bytes. The format
and its limits are those of `wire/block.py`, the readable form of the same thing;
a differential test holds the two against each other.

Outbound, the sizes stand ready as bytes, so that a batch is one join.

Source: docs/reference/protocol-data.md#items.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from sevpn.errors import RemoteProtocolError
from sevpn.wire.block import (
    FULL_BATCH,
    KEEPALIVE_MARK,
    MAX_BLOCK_SIZE,
    MAX_FRAME_SIZE,
    MAX_KEEPALIVE_SIZE,
    MIN_FRAME_SIZE,
)

__all__ = ["LARGE_BATCH", "BlockCutter", "join_batch"]

_WORDS: Final = tuple(number.to_bytes(4, "big") for number in range(MAX_FRAME_SIZE + 1))
"""The size word of each possible frame, and the count word of each possible batch."""

_WORD: Final = struct.Struct("!I").unpack_from

_LOOK: Final = struct.Struct("!I12xH9xB").unpack_from
"""A block's size, and of an IPv4 frame in it the EtherType and the protocol.

Looking at all three at once costs hardly more than reading the size alone.
"""

_LOOK_SIZE: Final = 28
_SMALLEST_LOOK: Final = 24
_IPV4: Final = 0x0800
_TCP: Final = 6

LARGE_BATCH: Final = 32
"""Smaller batches never count as full, however small all of them are."""

_LONGEST_ITEM: Final = 4 + MAX_BLOCK_SIZE
"""Bytes of the longest thing that is read in one piece: a block with its size."""


def join_batch(frames: Sequence[bytes | memoryview], sizes: Sequence[int]) -> bytes:
    """Join *frames* to one batch: `wire.block.encode_batch` without its checks.

    Args:
        frames: At most 128 frames of 14 to 1600 bytes.
        sizes: The length of each: the caller knows them already.
    """
    parts: list[bytes | memoryview] = [b""] * (1 + 2 * len(frames))
    parts[0] = _WORDS[len(frames)]
    parts[1::2] = map(_WORDS.__getitem__, sizes)
    parts[2::2] = frames
    return b"".join(parts)


class BlockCutter:
    """Cuts one direction of one connection into frames.

    After each :meth:`feed` the attributes say what it brought; the next call
    starts them anew. Frames of IPv4 with TCP stand apart because they are nearly
    all of a bulk transfer and never need a second look; their order among each
    other is kept, as is that of the rest.
    """

    __slots__ = (
        "_blocks_left",
        "_carry",
        "_is_full",
        "_largest",
        "dropped_oversized",
        "dropped_runts",
        "has_full_batch",
        "has_items",
        "others",
        "tcp_frames",
    )

    def __init__(self) -> None:
        self._carry = b""
        self._blocks_left = 0
        self._is_full = False
        self._largest = LARGE_BATCH
        self.tcp_frames: list[memoryview] = []
        """Frames of IPv4 with TCP."""
        self.others: list[memoryview] = []
        """All other frames."""
        self.has_items = False
        """Whether anything was completed: a block, a keep-alive, an empty batch."""
        self.has_full_batch = False
        """Whether a batch ended that was as large as this server makes them: it may be
        asleep on the rest."""
        self.dropped_runts = 0
        """Blocks shorter than an Ethernet header, empty ones not counted."""
        self.dropped_oversized = 0
        """Blocks longer than a frame may be."""

    def feed(self, chunk: bytes | memoryview) -> None:
        """Cut the next bytes of the stream.

        Args:
            chunk: Any number of bytes. The frames point into it: it must not
                change while they are in use.

        Raises:
            RemoteProtocolError: A size is over its limit. The attributes hold
                what stood before it; drop the cutter and its connection.
        """
        self.tcp_frames = []
        self.others = []
        self.has_items = self.has_full_batch = False
        self.dropped_runts = self.dropped_oversized = 0
        start = 0
        carried = len(self._carry)
        if carried:
            # Whatever began in the carry ends in the first bytes of the chunk.
            joined = b"".join((self._carry, chunk[:_LONGEST_ITEM]))
            end = self._cut(joined, 0, carried)
            if end < carried:
                self._carry = joined[end:]
                return
            start = end - carried
        end = self._cut(chunk, start, len(chunk))
        self._carry = bytes(chunk[end:])

    def _cut(self, data: bytes | memoryview, position: int, stop: int) -> int:
        """Cut the items that begin before *stop* and are complete; return where the next begins."""
        while position < stop:
            begin = position
            if self._blocks_left:
                position = self._cut_blocks(data, position, stop)
            else:
                position = self._cut_head(data, position)
            if position == begin:
                break
        return position

    def _cut_head(self, data: bytes | memoryview, position: int) -> int:
        """Take a count, or a whole keep-alive; return *position* if it is incomplete."""
        if position + 4 > len(data):
            return position
        count: int = _WORD(data, position)[0]
        if count != KEEPALIVE_MARK:
            self._blocks_left = count
            # An administrator may have chosen another size for a full turn than 128.
            self._is_full = count >= min(FULL_BATCH, self._largest)
            self._largest = max(self._largest, count)
            self.has_items |= not count
            return position + 4
        if position + 8 > len(data):
            return position
        size: int = _WORD(data, position + 4)[0]
        if size > MAX_KEEPALIVE_SIZE:
            raise RemoteProtocolError(
                f"a keep-alive of {size} bytes was announced: at most {MAX_KEEPALIVE_SIZE} are allowed"
            )
        end = position + 8 + size
        if end > len(data):
            return position
        self.has_items = True
        return end

    def _cut_blocks(self, data: bytes | memoryview, position: int, stop: int) -> int:
        """Take blocks of one batch; return where the first incomplete one begins, or what follows."""
        view = memoryview(data)
        length = len(data)
        look_until = length - _LOOK_SIZE
        add_tcp = self.tcp_frames.append
        left = self._blocks_left
        while left and position < stop:
            if position <= look_until:
                size, ethertype, protocol = _LOOK(data, position)
            elif position + 4 <= length:
                (size,) = _WORD(data, position)
                ethertype = protocol = 0
            else:
                break
            begin = position + 4
            end = begin + size
            if size > MAX_BLOCK_SIZE:
                raise RemoteProtocolError(
                    f"a block of {size} bytes was announced: at most {MAX_BLOCK_SIZE} are allowed"
                )
            if end > length:
                break
            if (
                protocol == _TCP
                and ethertype == _IPV4
                and _SMALLEST_LOOK <= size <= MAX_FRAME_SIZE
            ):
                add_tcp(view[begin:end])
            else:
                self._take_other(view[begin:end])
            position = end
            left -= 1
        self._end_blocks(left)
        return position

    def _take_other(self, block: memoryview) -> None:
        size = len(block)
        if MIN_FRAME_SIZE <= size <= MAX_FRAME_SIZE:
            self.others.append(block)
        elif size > MAX_FRAME_SIZE:
            self.dropped_oversized += 1
        elif size:
            self.dropped_runts += 1

    def _end_blocks(self, left: int) -> None:
        self.has_items |= left < self._blocks_left
        self.has_full_batch |= not left and self._is_full
        self._blocks_left = left
