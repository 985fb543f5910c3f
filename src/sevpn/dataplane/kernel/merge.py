# SPDX-License-Identifier: Apache-2.0
"""Gives frames to the host, neighbouring segments of a TCP flow in one write.

Layer: dataplane. Runs in: the data thread.

One large write costs the host's stack hardly more than one frame. What a network
card's driver would let the kernel merge is merged here by the same rules
(GRO), so that no end host can tell:

    arena   │ … │ headers payload │ … │ headers payload │ … │ headers payload │
                  │       └───────────────────┐ └─────────────────┐ │
    write   virtio, headers with new lengths, payload, payload, payload

A flow is open while its next segment may come in the same chunk:

    (none) ──segment──> open ──next segment that fits──> open
                         │ ^
                         │ └── segment that does not fit: flush, then open anew
                         └──short or PSH, or anything else of the flow, or the end──> flushed

A segment fits when nothing but its IPv4 identification, sequence number, length,
checksums and PSH differs from what the one before it foretells, and when its
checksums are right: what arrives damaged is handed on damaged. Frames of one flow
keep their order. Frames that are no segments are written as they are, in their
order among each other.

Source: Linux, net/ipv4/tcp_offload.c, tcp_gro_receive(), af_inet.c,
inet_gro_receive(), and ip6_offload.c for the rules; RFC 1071, 6864.
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
        ACK,
        ALL_BITS,
        ALONE,
        CWR,
        DATA,
        DONT_FRAGMENT,
        ETH_SIZE,
        FIN,
        FRAGMENT,
        GSO_TCP4,
        GSO_TCP6,
        ICMP6,
        IPV4,
        IPV6,
        MAX_FLOWS,
        MAX_PACKET,
        MAX_PIECES,
        NEEDS_CHECKSUM,
        NO_NEXT,
        ODD,
        PSH,
        RST,
        STRANGE,
        SYN,
        TCP,
        UDP,
        URG,
        VIRTIO_SIZE,
    )
    from sevpn.dataplane.kernel.primitives import (
        copy,
        get16,
        get32,
        is_same,
        ones_sum,
        put16,
        put16_little,
        write_pieces,
    )

__all__ = ["Merger"]


class Merger:
    """Writes frames to a TAP.

    Args:
        descriptor: Of the TAP, non-blocking.
        has_header: Whether the TAP takes a virtio header before each packet;
            without, nothing is merged.
    """

    def __init__(self, descriptor: int, *, has_header: bool) -> None:
        self.write_count = 0
        """System calls of the last :meth:`write`."""
        self.lost = array("i", bytes(4 * 256))
        """Frames that the TAP did not take in the last :meth:`write`, by errno."""
        self.lost_count = 0
        """All of them."""
        self._descriptor = descriptor
        self._has_header = has_header
        self._head = bytearray(VIRTIO_SIZE + ETH_SIZE + 60 + 60)
        self._head_bytes = self._head
        self._data = self._head
        self._starts = array("i", [0])
        self._sizes = array("i", [0])
        # The flows that are open, a column each.
        self._frame = array("i", bytes(4 * MAX_FLOWS))  # where the first one begins
        self._size = array("i", bytes(4 * MAX_FLOWS))  # how long it is; 0: not open
        self._tcp = array("i", bytes(4 * MAX_FLOWS))  # its TCP header
        self._segment = array("i", bytes(4 * MAX_FLOWS))  # its payload
        self._payload = array("i", bytes(4 * MAX_FLOWS))  # that of all
        self._count = array("i", bytes(4 * MAX_FLOWS))  # how many there are
        self._next = array("I", bytes(4 * MAX_FLOWS))  # the next sequence number
        self._step = array("i", bytes(4 * MAX_FLOWS))  # of the IPv4 identification
        self._is_pushed = array("i", bytes(4 * MAX_FLOWS))  # PSH in the last one
        self._piece_starts = array("i", bytes(4 * MAX_FLOWS * MAX_PIECES))
        self._piece_sizes = array("i", bytes(4 * MAX_FLOWS * MAX_PIECES))
        self._victim = 0
        # The frame at hand, as :meth:`_look` found it.
        self._tcp_at = 0
        self._body_at = 0
        self._body_size = 0

    def write(
        self,
        data: bytearray,
        starts: array[int],
        sizes: array[int],
        first: int,
        count: int,
    ) -> int:
        """Write *count* frames from index *first* on; return how many the TAP took.

        Args:
            data: Holds the frames.
            starts: Where each begins.
            sizes: How long each is, 14 or more.
            first: Index of the first.
            count: How many.
        """
        assert first >= 0 <= count, "a negative place"
        assert first + count <= min(len(starts), len(sizes)), "not so many frames"
        self._data = data
        self._starts = starts
        self._sizes = sizes
        if self.lost_count:
            for number in range(256):
                self.lost[number] = 0
            self.lost_count = 0
        self.write_count = 0
        with cython.nogil:
            if self._has_header:
                self._merge(first, count)
            else:
                self._pass(first, count)
        return count - self.lost_count

    def losses(self) -> dict[int, int]:
        """Return the frames that the last :meth:`write` lost, by errno."""
        return {number: self.lost[number] for number in range(256) if self.lost[number]}

    # --- frames ---

    def _pass(self, first: int, count: int) -> None:
        """Write each frame as it is."""
        index = first
        while index < first + count:
            self._note(
                write_pieces(
                    self._descriptor,
                    self._head_bytes,
                    0,
                    self._data,
                    self._starts,
                    self._sizes,
                    index,
                    1,
                ),
                1,
            )
            index += 1

    def _merge(self, first: int, count: int) -> None:
        """Write all frames, merged where that may be."""
        index = first
        while index < first + count:
            at = self._starts[index]
            size = self._sizes[index]
            kind = self._look(at, size)
            if kind == DATA:
                self._take(index, at, size)
            else:
                if kind == ODD:
                    flow = self._find(at)
                    if flow >= 0:
                        self._flush(flow)
                elif kind == STRANGE:
                    self._flush_all()
                self._write_alone(index)
            index += 1
        self._flush_all()

    def _look(self, at: int, size: int) -> int:
        """Find out what a frame is.

        Returns:
            DATA for a segment that may be merged, ODD for another one of TCP,
            ALONE for what is no TCP, STRANGE for what may hide some.
        """
        if size < ETH_SIZE + 40:
            return ALONE if size < ETH_SIZE + 20 else self._look_short(at)
        ethertype = get16(self._data, at + 12)
        if ethertype == IPV4:
            if self._data[at + 23] != TCP:
                return ALONE
            if self._data[at + 14] != 0x45 or get16(self._data, at + 20) & FRAGMENT:
                return STRANGE
            self._tcp_at = at + ETH_SIZE + 20
            end = at + ETH_SIZE + get16(self._data, at + 16)
        elif ethertype == IPV6:
            if self._data[at + 20] != TCP:
                return self._look_behind(at)
            if self._data[at + 14] >> 4 != 6:
                return STRANGE
            self._tcp_at = at + ETH_SIZE + 40
            end = self._tcp_at + get16(self._data, at + 18)
        else:
            return ALONE
        if end > at + size or self._tcp_at + 20 > end:
            return STRANGE
        return self._look_inside(at, end)

    def _look_inside(self, at: int, end: int) -> int:
        """Look at a TCP header, and at what it heads."""
        tcp = self._tcp_at
        body = tcp + (self._data[tcp + 12] >> 4) * 4
        if body < tcp + 20 or body > end:
            return STRANGE
        self._body_at = body
        self._body_size = end - body
        if body == end or not self._has_plain_flags(tcp):
            return ODD
        if (
            tcp - at == ETH_SIZE + 20
            and ones_sum(self._data, at + ETH_SIZE, 20) != 0xFFFF
        ):
            return ODD
        return DATA

    def _look_short(self, at: int) -> int:
        """Look at a frame that is too short for TCP: it may claim to be TCP all the same."""
        if get16(self._data, at + 12) == IPV4 and self._data[at + 23] == TCP:
            return STRANGE
        return ALONE

    def _look_behind(self, at: int) -> int:
        """Look at a packet of IPv6 whose next header is not TCP."""
        protocol = self._data[at + 20]
        if protocol == UDP or protocol == ICMP6 or protocol == NO_NEXT:
            return ALONE
        return STRANGE

    def _has_plain_flags(self, tcp: int) -> bool:
        """Whether the flags are those of mere data: ACK, perhaps PSH and ECE."""
        flags = self._data[tcp + 13]
        return (
            flags & (ACK | FIN | SYN | RST | URG | CWR) == ACK
            and self._data[tcp + 12] & 15 == 0
        )

    # --- flows ---

    def _find(self, at: int) -> int:
        """Return the open flow of the frame at hand, or -1."""
        flow = 0
        while flow < MAX_FLOWS:
            if self._size[flow] and self._is_same_flow(self._frame[flow], flow, at):
                return flow
            flow += 1
        return -1

    def _is_same_flow(self, first: int, flow: int, at: int) -> bool:
        """Whether Ethernet header, addresses and ports are the same."""
        ports = self._tcp[flow] - first
        # The ports first: they are what tells most flows apart.
        if ports != self._tcp_at - at or not is_same(
            self._data, first + ports, self._data, at + ports, 4
        ):
            return False
        if not is_same(self._data, first, self._data, at, ETH_SIZE):
            return False
        if ports == ETH_SIZE + 20:
            return is_same(self._data, first + 26, self._data, at + 26, 8)
        return is_same(self._data, first + 22, self._data, at + 22, 32)

    def _take(self, index: int, at: int, size: int) -> None:
        """Add a segment to its flow, or begin one with it."""
        is_pushed = self._data[self._tcp_at + 13] & PSH
        flow = self._find(at)
        if flow >= 0:
            if self._fits(flow, at):
                self._append(flow)
                if is_pushed or self._body_size < self._segment[flow]:
                    self._flush(flow)
                return
            self._flush(flow)
        if is_pushed:
            # Nothing may follow it: it is whole as it is.
            self._write_alone(index)
            return
        self._open(flow, at, size)

    def _open(self, flow: int, at: int, size: int) -> None:
        """Begin a flow, in the place of *flow* if that is one."""
        if flow < 0:
            flow = 0
            while flow < MAX_FLOWS and self._size[flow]:
                flow += 1
            if flow == MAX_FLOWS:
                flow = self._victim
                self._victim = (self._victim + 1) % MAX_FLOWS
                self._flush(flow)
        self._frame[flow] = at
        self._size[flow] = size
        self._tcp[flow] = self._tcp_at
        self._segment[flow] = self._body_size
        self._payload[flow] = self._body_size
        self._count[flow] = 1
        self._next[flow] = (
            get32(self._data, self._tcp_at + 4) + self._body_size
        ) & ALL_BITS
        self._is_pushed[flow] = 0
        self._piece_starts[flow * MAX_PIECES] = self._body_at
        self._piece_sizes[flow * MAX_PIECES] = self._body_size

    def _fits(self, flow: int, at: int) -> bool:
        """Whether the segment at hand may follow those of the flow."""
        first = self._frame[flow]
        tcp = self._tcp[flow]
        count = self._count[flow]
        head_size = self._body_at - at - ETH_SIZE
        if (
            self._body_size > self._segment[flow]
            or count == MAX_PIECES
            or head_size + self._payload[flow] + self._body_size > MAX_PACKET
            or get32(self._data, self._tcp_at + 4) != self._next[flow]
            # Acknowledgement; header size and flags but PSH; window; urgent pointer; options.
            or not is_same(self._data, tcp + 8, self._data, self._tcp_at + 8, 5)
            or self._data[tcp + 13] != self._data[self._tcp_at + 13] & ~PSH
            or not is_same(self._data, tcp + 14, self._data, self._tcp_at + 14, 2)
            or not is_same(self._data, tcp + 18, self._data, self._tcp_at + 18, 2)
            or not is_same(
                self._data,
                tcp + 20,
                self._data,
                self._tcp_at + 20,
                self._body_at - self._tcp_at - 20,
            )
        ):
            return False
        if tcp - first == ETH_SIZE + 20:
            if not self._fits_ipv4(flow, first, at, count):
                return False
        # Version, traffic class and flow label; hop limit.
        elif (
            not is_same(self._data, first + 14, self._data, at + 14, 4)
            or self._data[first + 21] != self._data[at + 21]
        ):
            return False
        if count == 1 and not self._is_whole(
            first, tcp, self._segment[flow] + self._body_at - self._tcp_at
        ):
            return False
        return self._is_whole(
            at, self._tcp_at, self._body_size + self._body_at - self._tcp_at
        )

    def _fits_ipv4(self, flow: int, first: int, at: int, count: int) -> bool:
        """Whether type of service, fragment field, time to live and identification agree."""
        if self._data[first + 15] != self._data[at + 15] or not is_same(
            self._data, first + 20, self._data, at + 20, 3
        ):
            return False
        step = (get16(self._data, at + 18) - get16(self._data, first + 18)) & 0xFFFF
        if count == 1:
            # One that cannot be fragmented needs no identification (RFC 6864).
            self._step[flow] = step
            return step == 1 or (
                step == 0
                and get16(self._data, at + 20) & DONT_FRAGMENT == DONT_FRAGMENT
            )
        return step == (self._step[flow] * count) & 0xFFFF

    def _is_whole(self, at: int, tcp: int, size: int) -> bool:
        """Whether the TCP checksum is right."""
        if tcp - at == ETH_SIZE + 20:
            value = ones_sum(self._data, at + 26, 8)
        else:
            value = ones_sum(self._data, at + 22, 32)
        value += TCP + size + ones_sum(self._data, tcp, size)
        while value > 0xFFFF:
            value = (value & 0xFFFF) + (value >> 16)
        return value == 0xFFFF

    def _append(self, flow: int) -> None:
        place = flow * MAX_PIECES + self._count[flow]
        self._piece_starts[place] = self._body_at
        self._piece_sizes[place] = self._body_size
        self._count[flow] += 1
        self._payload[flow] += self._body_size
        self._next[flow] = (self._next[flow] + self._body_size) & ALL_BITS
        self._is_pushed[flow] = self._data[self._tcp_at + 13] & PSH

    # --- writing ---

    def _write_alone(self, index: int) -> None:
        """Write a frame as it is."""
        self._clear_header()
        self._note(
            write_pieces(
                self._descriptor,
                self._head_bytes,
                VIRTIO_SIZE,
                self._data,
                self._starts,
                self._sizes,
                index,
                1,
            ),
            1,
        )

    def _flush_all(self) -> None:
        flow = 0
        while flow < MAX_FLOWS:
            if self._size[flow]:
                self._flush(flow)
            flow += 1

    def _flush(self, flow: int) -> None:
        """Write what a flow has gathered, and forget it."""
        count = self._count[flow]
        place = flow * MAX_PIECES
        self._clear_header()
        if count == 1:
            self._piece_starts[place] = self._frame[flow]
            self._piece_sizes[place] = self._size[flow]
            head_size = VIRTIO_SIZE
        else:
            head_size = self._make_head(flow)
        self._size[flow] = 0
        self._note(
            write_pieces(
                self._descriptor,
                self._head_bytes,
                head_size,
                self._data,
                self._piece_starts,
                self._piece_sizes,
                place,
                count,
            ),
            count,
        )

    def _clear_header(self) -> None:
        index = 0
        while index < VIRTIO_SIZE:
            self._head_bytes[index] = 0
            index += 1

    def _make_head(self, flow: int) -> int:
        """Make the headers of a super-segment; return their size."""
        first = self._frame[flow]
        tcp = self._tcp[flow] - first
        head_size = self._piece_starts[flow * MAX_PIECES] - first
        copy(self._head_bytes, VIRTIO_SIZE, self._data, first, head_size)
        network = VIRTIO_SIZE + ETH_SIZE
        transport = VIRTIO_SIZE + tcp
        size = head_size - tcp + self._payload[flow]
        self._head_bytes[0] = NEEDS_CHECKSUM
        put16_little(self._head_bytes, 2, head_size)
        put16_little(self._head_bytes, 4, self._segment[flow])
        put16_little(self._head_bytes, 6, tcp)
        put16_little(self._head_bytes, 8, 16)
        if tcp == ETH_SIZE + 20:
            self._head_bytes[1] = GSO_TCP4
            put16(self._head_bytes, network + 2, size + 20)
            put16(self._head_bytes, network + 10, 0)
            put16(
                self._head_bytes,
                network + 10,
                ones_sum(self._head_bytes, network, 20) ^ 0xFFFF,
            )
            value = ones_sum(self._head_bytes, network + 12, 8)
        else:
            self._head_bytes[1] = GSO_TCP6
            put16(self._head_bytes, network + 4, size)
            value = ones_sum(self._head_bytes, network + 8, 32)
        # The host finishes the checksum, or needs none at all: it gets the sum of the pseudo header.
        value += TCP + size
        while value > 0xFFFF:
            value = (value & 0xFFFF) + (value >> 16)
        put16(self._head_bytes, transport + 16, value)
        self._head_bytes[transport + 13] |= self._is_pushed[flow]
        return VIRTIO_SIZE + head_size

    def _note(self, failure: int, count: int) -> None:
        """Count a write, and the frames that it lost."""
        self.write_count += 1
        if failure:
            self.lost[failure & 255] += count
            self.lost_count += count
