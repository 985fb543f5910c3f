# SPDX-License-Identifier: Apache-2.0
"""Finds the frames in what came of a connection, where they lie.

Layer: dataplane. Runs in: the data thread.

All connections read into one arena; what a chunk ends inside of is carried in the
connection's :class:`BlockState` and put before its next chunk:

    arena   │ tail of this connection │ what the stream wrote           │
            └─────────────────────────┴─────────────────────────────────┘
            │ count │ size frame │ size frame │ … │ size fra│  carried: at most 3203 bytes

The format and its limits are those of `wire/block.py`, its readable form; a
differential test holds the two against each other.

Source: docs/reference/protocol-data.md#items.
"""

# To basedpyright the imports below may not happen; mypy checks the same lines.
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from array import array
from typing import Final

from sevpn.errors import RemoteProtocolError

try:
    import cython
except ImportError:
    from sevpn.dataplane.kernel import interpreted as cython

if not cython.compiled:  # the compiled form has these from the .pxd
    from sevpn.dataplane.kernel.constants import (
        ARP,
        DHCP6_CLIENT,
        DHCP_CLIENT,
        ETH_SIZE,
        FRAGMENT_OFFSET,
        FULL_BATCH,
        ICMP6,
        IPV4,
        IPV6,
        KEEPALIVE_MARK,
        LARGE_BATCH,
        MAX_BLOCK,
        MAX_FRAME,
        MAX_KEEPALIVE,
        MIN_FRAME,
        NEIGHBOUR_SOLICITATION,
        ROUTER_ADVERTISEMENT,
        UDP,
    )
    from sevpn.dataplane.kernel.primitives import get16, get32

__all__ = ["CHUNK_SIZE", "BlockState", "Scanner"]

CHUNK_SIZE: Final = 256 * 1024
"""Bytes of a connection that are scanned at once, at most."""

_TAIL_SIZE: Final = 4 + 3200
"""Bytes that an unfinished item has at most: a block's size and all but one of its bytes."""

_MAX_FRAMES: Final = (CHUNK_SIZE + _TAIL_SIZE) // (4 + 14)
"""Frames in a chunk, at most."""


class BlockState:
    """Where one direction of one connection stands between two chunks."""

    def __init__(self) -> None:
        self.tail = bytearray(_TAIL_SIZE)
        self.tail_size = 0
        self.blocks_left = 0
        self.is_full = False
        self.largest = LARGE_BATCH


class Scanner:
    """Cuts chunks into frames without moving them."""

    def __init__(self) -> None:
        self.arena = bytearray(_TAIL_SIZE + CHUNK_SIZE)
        """Where the frames lie until the next :meth:`room`."""
        self.starts = array("i", bytes(4 * _MAX_FRAMES))
        """Where each frame begins in the arena."""
        self.sizes = array("i", bytes(4 * _MAX_FRAMES))
        """How long each is."""
        self.frame_count = 0
        """Frames that the chunk completed, and that :meth:`sift` left."""
        self.frame_bytes = 0
        """Their bytes."""
        self.has_items = False
        """Whether the chunk completed anything: a block, a keep-alive, an empty batch."""
        self.has_full_batch = False
        """Whether a batch ended that was as large as this server makes them."""
        self.dropped_runts = 0
        """Blocks shorter than an Ethernet header, empty ones not counted."""
        self.dropped_oversized = 0
        """Blocks longer than a frame may be."""
        self._data = self.arena
        self._wrong_size = 0

    def room(self, state: BlockState) -> memoryview:
        """Return where the next bytes of that connection are to be written."""
        size = state.tail_size
        self.arena[:size] = state.tail[:size]
        return memoryview(self.arena)[size : size + CHUNK_SIZE]

    def scan(self, state: BlockState, size: int) -> int:
        """Find the frames in the tail and the *size* bytes that :meth:`room` took.

        Returns:
            How many frames: :attr:`starts` and :attr:`sizes` tell where they lie.

        Raises:
            RemoteProtocolError: A size is over its limit. The attributes hold
                what stood before it; drop the state and its connection.
        """
        assert 0 <= size <= CHUNK_SIZE, "more than there was room for"
        with cython.nogil:
            end = self._scan(state, state.tail_size + size)
        if end < 0:
            what, limit = ("keep-alive", 512) if end == -2 else ("block", 3200)
            raise RemoteProtocolError(
                f"a {what} of {self._wrong_size} bytes was announced: at most {limit} are allowed"
            )
        left = state.tail_size + size - end
        state.tail[:left] = self.arena[end : end + left]
        state.tail_size = left
        return self.frame_count

    def _scan(self, state: BlockState, end: int) -> int:
        """Return where the first unfinished item begins; -1 or -2 for a block or keep-alive too long."""
        self.frame_count = 0
        self.frame_bytes = 0
        self.dropped_runts = 0
        self.dropped_oversized = 0
        self.has_items = False
        self.has_full_batch = False
        at = 0
        while at + 4 <= end:
            word = get32(self._data, at)
            if state.blocks_left:
                if word > MAX_BLOCK:
                    self._wrong_size = word
                    return -1
                if at + 4 + word > end:
                    break
                self._take(at + 4, word)
                at += 4 + word
                state.blocks_left -= 1
                self.has_items = True
                if state.blocks_left == 0 and state.is_full:
                    self.has_full_batch = True
            elif word == KEEPALIVE_MARK:
                if at + 8 > end:
                    break
                word = get32(self._data, at + 4)
                if word > MAX_KEEPALIVE:
                    self._wrong_size = word
                    return -2
                if at + 8 + word > end:
                    break
                at += 8 + word
                self.has_items = True
            else:
                self._begin_batch(state, word)
                at += 4
        return at

    def _begin_batch(self, state: BlockState, count: int) -> None:
        state.blocks_left = count
        # An administrator may have chosen another size for a full turn than 128.
        state.is_full = count >= FULL_BATCH or count >= state.largest
        state.largest = max(state.largest, count)
        if count == 0:
            self.has_items = True

    def _take(self, at: int, size: int) -> None:
        if MIN_FRAME <= size <= MAX_FRAME:
            self.starts[self.frame_count] = at
            self.sizes[self.frame_count] = size
            self.frame_count += 1
            self.frame_bytes += size
        elif size > MAX_FRAME:
            self.dropped_oversized += 1
        elif size > 0:
            self.dropped_runts += 1

    def sift(self) -> list[memoryview]:
        """Take out the frames that need a second look, and return them.

        Those that stay, in their order, are the host's alone while the gate is
        open and nothing is being proven; see `dataplane/sieve.py`.
        """
        taken = self._sift()
        view = memoryview(self.arena)
        # The taken ones stand behind those that stay.
        return [
            view[self.starts[index] : self.starts[index] + self.sizes[index]]
            for index in range(self.frame_count, self.frame_count + taken)
        ]

    def take_all(self) -> list[memoryview]:
        """Take out all frames, and return them."""
        view = memoryview(self.arena)
        count = self.frame_count
        self.frame_count = 0
        return [
            view[self.starts[index] : self.starts[index] + self.sizes[index]]
            for index in range(count)
        ]

    def _sift(self) -> int:
        """Bring the frames that stay to the front; return how many do not."""
        kept = 0
        index = 0
        while index < self.frame_count:
            at = self.starts[index]
            size = self.sizes[index]
            if self._is_plain(at, size):
                # What stands there is one that goes: they keep no order, and need none.
                self.starts[index] = self.starts[kept]
                self.sizes[index] = self.sizes[kept]
                self.starts[kept] = at
                self.sizes[kept] = size
                kept += 1
            index += 1
        taken = self.frame_count - kept
        self.frame_count = kept
        return taken

    def _is_plain(self, at: int, size: int) -> bool:
        """Whether a frame cannot concern anybody but the host."""
        ethertype = get16(self._data, at + 12)
        if ethertype == IPV4:
            if size < ETH_SIZE + 28 or self._data[at + 23] != UDP:
                return True
            # A first fragment has the ports: the sieve looks at it, too.
            if get16(self._data, at + 20) & FRAGMENT_OFFSET:
                return True
            udp = ETH_SIZE + (self._data[at + 14] & 15) * 4
            return udp + 4 > size or get16(self._data, at + udp + 2) != DHCP_CLIENT
        if ethertype == IPV6:
            return size < ETH_SIZE + 44 or self._is_plain6(at)
        return ethertype != ARP

    def _is_plain6(self, at: int) -> bool:
        """The same of a packet of IPv6 with four bytes of payload or more."""
        protocol = self._data[at + 20]
        if protocol == ICMP6:
            if self._data[at + 54] == NEIGHBOUR_SOLICITATION:
                return get16(self._data, at + 6) != 0x00AE
            return self._data[at + 54] != ROUTER_ADVERTISEMENT
        return protocol != UDP or get16(self._data, at + 56) != DHCP6_CLIENT
