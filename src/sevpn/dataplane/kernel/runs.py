# SPDX-License-Identifier: Apache-2.0
"""Finds neighbouring frames that go the same way, and encodes frames where they lie.

Layer: dataplane. Runs in: the embedded server's loop.

A switch would ask its tables about each frame. Bulk traffic asks the same over and
over; frames of one run share one answer:

    frames   A─>B 10.0.0.1 │ A─>B 10.0.0.1 │ ARP │ A─>B 10.0.0.1 │ A─>C 10.0.0.1
    runs     └───────────── 0, 2 ──────────┘ 2, 3  └──── 3, 4 ───┘ └─── 4, 5 ───┘

Plain frames are packets of IPv4 and IPv6 that only their addresses decide about.
ARP, DHCP over IPv4, frames with a VLAN tag, all that is no IP, and what is too short
for its own header need a second look.

Source: docs/reference/protocol-data.md#items for blocks; `server/hub.py` for what
needs a second look.
"""

# To basedpyright the imports below may not happen; mypy checks the same lines.
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from array import array

try:
    import cython
except ImportError:
    from sevpn.dataplane.kernel import interpreted as cython

if not cython.compiled:  # the compiled form has these from the .pxd
    from sevpn.dataplane.kernel.constants import (
        BATCHES_SIZE,
        BURST,
        DHCP_CLIENT,
        DHCP_SERVER,
        ETH_SIZE,
        FRAGMENT_OFFSET,
        FULL_BATCH,
        IPV4,
        IPV6,
        UDP,
    )
    from sevpn.dataplane.kernel.primitives import copy, get16, get32, is_same, put32

__all__ = ["Run", "Runs"]

Run = tuple[int, int, bytes, bytes]
"""Index of the first frame and of the one behind the last; both MAC addresses as they
stand in the frames, and the IP source. The last two are empty where a second look is due."""


class Runs:
    """Divides frames into runs, and makes batches of them."""

    def __init__(self) -> None:
        self.out = bytearray(BATCHES_SIZE)
        """The batches of the last :meth:`encode`."""
        self.starts = array("i", bytes(4 * BURST))
        """Where each frame of the last :meth:`walk` begins."""
        self.sizes = array("i", bytes(4 * BURST))
        """How long each is."""
        self._out = self.out
        self._data = self.out
        self._starts = self.starts
        self._sizes = self.sizes

    def walk(self, data: bytearray, begin: int, end: int) -> int:
        """Find the frames of whole batches, those of a group of the `Cutter`.

        Args:
            data: Holds the batches.
            begin: Where the first begins.
            end: Where the last ends.

        Returns:
            How many frames, 512 at most: :attr:`starts` and :attr:`sizes` tell where they lie.
        """
        assert 0 <= begin <= end <= len(data), "not in the buffer"
        self._data = data
        with cython.nogil:
            return self._walk(begin, end)

    def find(
        self,
        data: bytearray,
        starts: array[int],
        sizes: array[int],
        first: int,
        count: int,
    ) -> list[Run]:
        """Divide *count* frames from index *first* on into runs.

        Args:
            data: Holds the frames.
            starts: Where each begins.
            sizes: How long each is, 14 or more.
            first: Index of the first.
            count: How many.

        Returns:
            The runs, in the order of the frames; neighbours may be alike where
            a second look is due.
        """
        assert first >= 0 <= count, "a negative place"
        assert first + count <= min(len(starts), len(sizes)), "not so many frames"
        self._data = data
        self._starts = starts
        self._sizes = sizes
        found: list[Run] = []
        behind = first + count
        while first < behind:
            with cython.nogil:
                end = self._end_of(first, behind)
            at = self._starts[first]
            size = self._address_size(at, self._sizes[first])
            if size:
                source = at + (26 if size == 4 else 22)
                found.append(
                    (
                        first,
                        end,
                        bytes(data[at : at + 12]),
                        bytes(data[source : source + size]),
                    )
                )
            else:
                found.append((first, end, b"", b""))
            first = end
        return found

    def encode(
        self,
        data: bytearray,
        starts: array[int],
        sizes: array[int],
        first: int,
        count: int,
    ) -> int:
        """Make batches of *count* frames from index *first* on; return their bytes in :attr:`out`.

        Args:
            data: Holds the frames.
            starts: Where each begins.
            sizes: How long each is.
            first: Index of the first.
            count: How many; all those of a chunk of the `Scanner` fit.
        """
        assert first >= 0 <= count, "a negative place"
        assert first + count <= min(len(starts), len(sizes)), "not so many frames"
        self._data = data
        self._starts = starts
        self._sizes = sizes
        with cython.nogil:
            end = self._encode(first, count)
        assert end >= 0, "more than fits"
        return end

    # --- walk ---

    def _walk(self, begin: int, end: int) -> int:
        count = 0
        left = 0
        at = begin
        while at + 4 <= end and count < BURST:
            word = get32(self._data, at)
            at += 4
            if left == 0:
                left = word
                continue
            if word > end - at:
                break
            self.starts[count] = at
            self.sizes[count] = word
            count += 1
            left -= 1
            at += word
        return count

    # --- find ---

    def _end_of(self, first: int, behind: int) -> int:
        """Return the index behind the last frame of the run that begins with *first*."""
        at = self._starts[first]
        size = self._address_size(at, self._sizes[first])
        index = first + 1
        while index < behind:
            other = self._starts[index]
            if self._address_size(other, self._sizes[index]) != size:
                break
            if size and not self._goes_alike(at, other, size):
                break
            index += 1
        return index

    def _goes_alike(self, at: int, other: int, size: int) -> bool:
        """Whether two plain frames have the same addresses, but for the IP destination."""
        source = 26 if size == 4 else 22
        return is_same(self._data, at, self._data, other, ETH_SIZE) and is_same(
            self._data, at + source, self._data, other + source, size
        )

    def _address_size(self, at: int, size: int) -> int:
        """Return the size of a plain frame's IP source, 4 or 16; 0 if a second look is due."""
        ethertype = get16(self._data, at + 12)
        if ethertype == IPV6:
            return 16 if size >= ETH_SIZE + 40 else 0
        if ethertype != IPV4 or size < ETH_SIZE + 20:
            return 0
        if self._data[at + 23] == UDP and self._is_dhcp(at, size):
            return 0
        return 4

    def _is_dhcp(self, at: int, size: int) -> bool:
        """Whether a datagram comes from or goes to one of the ports of DHCP."""
        if get16(self._data, at + 20) & FRAGMENT_OFFSET:
            return False
        udp = ETH_SIZE + (self._data[at + 14] & 15) * 4
        if udp + 8 > size:
            return False
        source = get16(self._data, at + udp)
        target = get16(self._data, at + udp + 2)
        return (
            source == DHCP_SERVER
            or source == DHCP_CLIENT
            or target == DHCP_SERVER
            or target == DHCP_CLIENT
        )

    # --- encode ---

    def _encode(self, first: int, count: int) -> int:
        """Return the bytes of all batches; -1 if they do not fit."""
        end = 0
        index = 0
        while index < count:
            if index % FULL_BATCH == 0:
                if end + 4 > BATCHES_SIZE:
                    return -1
                put32(self._out, end, min(count - index, FULL_BATCH))
                end += 4
            size = self._sizes[first + index]
            if end + 4 + size > BATCHES_SIZE:
                return -1
            put32(self._out, end, size)
            copy(self._out, end + 4, self._data, self._starts[first + index], size)
            end += 4 + size
            index += 1
        return end
