# SPDX-License-Identifier: Apache-2.0
"""Blocks: how Ethernet frames travel inside one connection.

Layer: wire. Runs in: any thread; one reader per connection and direction.

After the handshake, each direction of a connection is a sequence of items.
Every integer is an unsigned 32-bit big-endian number:

    item       := batch | keep-alive
    batch      := count, count times (size, size bytes)    count may be 0
    keep-alive := 0xFFFFFFFF, size, size bytes             size at most 512

A block of size 0 is legal and holds nothing; a block of up to 3200 bytes is
legal too, but no frame is longer than 1600 bytes or shorter than its 14-byte
header: such blocks are dropped and the connection lives.

The reader walks through these states; a number in brackets is what it waits for:

    count [4] ──0──────────────> count
        │ └──0xFFFFFFFF──> keep-alive size [4] ──> keep-alive [size] ──> count
        └──n──> size [4] ──> block [size] ──n times──> count

This is the reference form, for the embedded server and the tests. The pump
reads with `dataplane/buffers.py`, which a differential test holds against it.

Source: docs/reference/protocol-data.md#items; SoftEtherVPN, Cedar/Connection.c,
ConnectionReceive() and SendKeepAlive().
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final, assert_never

from sevpn.errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "EMPTY_BATCH",
    "FULL_BATCH",
    "KEEPALIVE_MARK",
    "MAX_BLOCK_SIZE",
    "MAX_FRAME_SIZE",
    "MAX_KEEPALIVE_SIZE",
    "MIN_FRAME_SIZE",
    "BlockReader",
    "encode_batch",
    "encode_keepalive",
]

MAX_BLOCK_SIZE: Final = 3200
"""Bytes of one block on the wire; beyond it the peer closes: docs/reference/protocol-data.md#limits."""

MAX_FRAME_SIZE: Final = 1600
"""Bytes of one frame; peers drop longer ones without a word."""

MIN_FRAME_SIZE: Final = 14
"""Bytes of an Ethernet header; hubs drop shorter frames."""

MAX_KEEPALIVE_SIZE: Final = 512
"""Bytes of filler in a keep-alive; beyond it the peer closes."""

KEEPALIVE_MARK: Final = 0xFFFFFFFF
"""The word that stands where a batch has its count."""

FULL_BATCH: Final = 128
"""Blocks that the peers send per turn, and the most that we put into one batch."""

EMPTY_BATCH: Final = bytes(4)
"""A batch of no blocks: ignored, but it wakes a sleeping peer (the poke)."""


def encode_batch(frames: Iterable[bytes]) -> bytes:
    """Join *frames* to one batch.

    Args:
        frames: Whole Ethernet frames of 14 to 1600 bytes; none is fine.

    Raises:
        LocalProtocolError: A frame has another size.
    """
    parts = [b""]
    for frame in frames:
        if not MIN_FRAME_SIZE <= len(frame) <= MAX_FRAME_SIZE:
            raise LocalProtocolError(
                f"a frame of {len(frame)} bytes does not fit into a block: 14 to 1600 do"
            )
        parts += (len(frame).to_bytes(4, "big"), frame)
    parts[0] = (len(parts) // 2).to_bytes(4, "big")
    return b"".join(parts)


def encode_keepalive(filler: bytes) -> bytes:
    """Encode a keep-alive.

    Args:
        filler: At most :data:`MAX_KEEPALIVE_SIZE` bytes that mean nothing;
            official peers send a random number of random bytes.

    Raises:
        LocalProtocolError: The filler is longer.
    """
    if len(filler) > MAX_KEEPALIVE_SIZE:
        raise LocalProtocolError(
            f"a keep-alive of {len(filler)} bytes is too long: at most 512"
        )
    return KEEPALIVE_MARK.to_bytes(4, "big") + len(filler).to_bytes(4, "big") + filler


class _State(enum.Enum):
    """What the next bytes are."""

    COUNT = enum.auto()
    SIZE = enum.auto()
    BLOCK = enum.auto()
    KEEPALIVE_SIZE = enum.auto()
    KEEPALIVE = enum.auto()


class BlockReader:
    """Reads one direction of one connection.

    Holds back at most one incomplete block or keep-alive.
    """

    def __init__(self) -> None:
        self._state = _State.COUNT
        self._wanted = 4
        self._held = bytearray()
        self._blocks_left = 0
        self._is_broken = False
        self.batch_count = 0
        """Batches read whole, those of no blocks included."""
        self.keepalive_count = 0
        """Keep-alives read whole."""
        self.dropped_count = 0
        """Blocks that cannot hold a frame: under 14 or over 1600 bytes; empty ones are not counted."""

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Take the next bytes of the stream and return the frames they complete.

        The result does not depend on where the stream was cut, except that the
        frames completed by the very call that raises are lost with it.

        Args:
            data: Any number of bytes. Copied: the caller may reuse its buffer.

        Returns:
            Whole Ethernet frames of 14 to 1600 bytes, oldest first; empty if
            *data* ends inside a block. Keep-alives are swallowed and counted.

        Raises:
            RemoteProtocolError: A size is over :data:`MAX_BLOCK_SIZE` or
                :data:`MAX_KEEPALIVE_SIZE`. Drop the reader and its connection.
            LocalProtocolError: The reader was fed after it had raised.

        Any other exception is a bug.
        """
        if self._is_broken:
            raise LocalProtocolError(
                "a block reader was fed after it had found malformed blocks"
            )
        frames: list[bytes] = []
        view = memoryview(data)
        while True:
            missing = self._wanted - len(self._held)
            self._held += view[:missing]
            if missing > len(view):
                return frames
            view = view[missing:]
            piece, self._held = bytes(self._held), bytearray()
            self._step(piece, frames)

    def _step(self, piece: bytes, frames: list[bytes]) -> None:
        """Take exactly the bytes that were wanted, and say how many are wanted next."""
        match self._state:
            case _State.COUNT:
                self._begin_item(int.from_bytes(piece, "big"))
            case _State.SIZE:
                self._await(_State.BLOCK, self._checked(piece, MAX_BLOCK_SIZE, "block"))
            case _State.BLOCK:
                self._take_block(piece, frames)
            case _State.KEEPALIVE_SIZE:
                self._await(
                    _State.KEEPALIVE,
                    self._checked(piece, MAX_KEEPALIVE_SIZE, "keep-alive"),
                )
            case _State.KEEPALIVE:
                self.keepalive_count += 1
                self._await(_State.COUNT, 4)
            case _:
                assert_never(self._state)

    def _begin_item(self, count: int) -> None:
        if count == KEEPALIVE_MARK:
            self._await(_State.KEEPALIVE_SIZE, 4)
        elif count:
            self._blocks_left = count
            self._await(_State.SIZE, 4)
        else:
            # Legal, and neither the end of the stream nor an error.
            self.batch_count += 1
            self._await(_State.COUNT, 4)

    def _take_block(self, block: bytes, frames: list[bytes]) -> None:
        if MIN_FRAME_SIZE <= len(block) <= MAX_FRAME_SIZE:
            frames.append(block)
        elif block:
            self.dropped_count += 1
        self._blocks_left -= 1
        if self._blocks_left:
            self._await(_State.SIZE, 4)
        else:
            self.batch_count += 1
            self._await(_State.COUNT, 4)

    def _await(self, state: _State, wanted: int) -> None:
        self._state = state
        self._wanted = wanted

    def _checked(self, piece: bytes, limit: int, what: str) -> int:
        size = int.from_bytes(piece, "big")
        if size > limit:
            self._is_broken = True
            raise RemoteProtocolError(
                f"a {what} of {size} bytes was announced: at most {limit} are allowed"
            )
        return size
