# SPDX-License-Identifier: Apache-2.0
"""Compression: the blocks of a session in which each frame is deflated.

Layer: wire. Runs in: any thread; one inflater per connection and direction.

Where a session compresses, every block of either direction is a zlib stream of its
own (RFC 1950), however small the frame; nothing marks one that is not. Counts,
sizes and keep-alives stay as they are, so that a compressed connection is

    count, count times (size, zlib stream)  <──>  count, count times (size, frame)

and both functions here turn the one form of the items into the other.

A block that is no zlib stream, or more than one frame, becomes an empty one, which
everybody skips: real peers drop it as well, and the connection lives. What a block
may expand to is bounded before memory is taken.

Source: docs/reference/protocol-data.md#compression; SoftEtherVPN, Mayaqua/Memory.c,
Compress() and Uncompress().
"""

from __future__ import annotations

import zlib
from typing import Final

from sevpn.errors import LocalProtocolError, RemoteProtocolError
from sevpn.wire.block import (
    KEEPALIVE_MARK,
    MAX_BLOCK_SIZE,
    MAX_FRAME_SIZE,
    MAX_KEEPALIVE_SIZE,
)

__all__ = ["Inflater", "deflate_items", "inflate_frame"]

_LEVEL: Final = 6
"""As the official programs have it."""

_WINDOW_BITS: Final = 11
_MEMORY_LEVEL: Final = 5
"""A frame has at most 1600 bytes, and a window of 2048 sees all of it. With zlib's
defaults most of the time goes into clearing 256 KiB: 76 us for a full frame instead
of 20, on the machine of docs/explanation/performance.md. Any window can be inflated."""

_WORD: Final = 4


def inflate_frame(block: bytes | bytearray | memoryview) -> bytes:
    """Return the frame in a compressed block; nothing if there is none.

    Takes at most 1601 bytes for the result, whatever *block* claims to hold.
    """
    machine = zlib.decompressobj()
    try:
        frame = machine.decompress(block, MAX_FRAME_SIZE + 1)
    except zlib.error:
        return b""
    return frame if machine.eof and len(frame) <= MAX_FRAME_SIZE else b""


def _deflate(frame: memoryview) -> bytes:
    machine = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS, _MEMORY_LEVEL)
    return machine.compress(frame) + machine.flush()


def deflate_items(items: bytes | memoryview) -> bytes:
    """Return items of plain frames with each frame deflated.

    Args:
        items: Whole batches and keep-alives, as :mod:`sevpn.wire.block` has them.

    Raises:
        LocalProtocolError: The last item is not whole.
    """
    parts: list[bytes | memoryview] = []
    view = memoryview(items)
    at, end = 0, len(view)
    blocks_left = 0
    while at + _WORD <= end:
        word = int.from_bytes(view[at : at + _WORD], "big")
        if blocks_left:
            at += _WORD + word
            block = _deflate(view[at - word : at]) if word else b""
            parts += (len(block).to_bytes(_WORD, "big"), block)
            blocks_left -= 1
        elif word == KEEPALIVE_MARK:
            begin = at
            at += 2 * _WORD + int.from_bytes(view[at + 4 : at + 8], "big")
            parts.append(view[begin:at])
        else:
            parts.append(view[at : at + _WORD])
            blocks_left = word
            at += _WORD
    if at != end or blocks_left:
        raise LocalProtocolError("items to deflate end in the middle of one")
    return b"".join(parts)


class Inflater:
    """Turns the bytes of a compressed connection into those of a plain one.

    Holds back at most one incomplete block or keep-alive.
    """

    def __init__(self) -> None:
        self._held = b""
        self._blocks_left = 0
        self.dropped_count = 0
        """Blocks that were no zlib stream of one frame."""

    def feed(self, data: bytes | bytearray | memoryview) -> bytes:
        """Take the next bytes and return the plain form of what they complete.

        The result, joined, does not depend on where the stream was cut.

        Args:
            data: Any number of bytes. Copied: the caller may reuse its buffer.

        Returns:
            Counts, sizes, frames and keep-alives, up to 76 times as many bytes as
            *data* has.

        Raises:
            RemoteProtocolError: A size is over its limit. Drop the inflater and
                its connection.
        """
        stream = self._held + bytes(data)
        parts: list[bytes] = []
        at, end = 0, len(stream)
        while at + _WORD <= end:
            word = int.from_bytes(stream[at : at + _WORD], "big")
            if self._blocks_left:
                following = at + _WORD + _checked(word, MAX_BLOCK_SIZE, "block")
                if following > end:
                    break
                self._take_block(stream[at + _WORD : following], parts)
                at = following
            elif word == KEEPALIVE_MARK:
                if at + 2 * _WORD > end:
                    break
                word = int.from_bytes(stream[at + _WORD : at + 2 * _WORD], "big")
                following = (
                    at + 2 * _WORD + _checked(word, MAX_KEEPALIVE_SIZE, "keep-alive")
                )
                if following > end:
                    break
                parts.append(stream[at:following])
                at = following
            else:
                self._blocks_left = word
                parts.append(stream[at : at + _WORD])
                at += _WORD
        self._held = stream[at:]
        return b"".join(parts)

    def _take_block(self, block: bytes, parts: list[bytes]) -> None:
        frame = inflate_frame(block) if block else b""
        self.dropped_count += bool(block) and not frame
        parts += (len(frame).to_bytes(_WORD, "big"), frame)
        self._blocks_left -= 1


def _checked(size: int, limit: int, what: str) -> int:
    if size > limit:
        raise RemoteProtocolError(
            f"a {what} of {size} bytes was announced: at most {limit} are allowed"
        )
    return size
