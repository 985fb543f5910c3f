# SPDX-License-Identifier: Apache-2.0
"""Cuts what the TAP hands over into blocks that the hub accepts.

Layer: dataplane. Runs in: the data thread.

With offloads the host's stack leaves to us what a network card would do: a packet
may come with its checksum unfinished, and as a super-segment of up to 64 KB that
stands for many frames with one set of headers:

    TAP      │ virtio │ Ethernet IP TCP │ payload of n segments           │
    blocks   │ count │ size Ethernet IP TCP payload │ size Ethernet IP TCP payload │ …

Each frame gets its own lengths, IPv4 identification, sequence number and
checksums. FIN and PSH stay with the last one, CWR with the first (RFC 3168
section 6.1.2). Frames of one flow are given the same slot, which the pump turns
into a connection; a batch holds 128 frames at most, all of one slot.

    virtio header: flags, gso type, (header size), segment size, checksum start, checksum offset

Source: Linux, include/uapi/linux/virtio_net.h; RFC 791, 8200, 9293, 768, 1071.
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
        BURST,
        CWR,
        EAGAIN,
        EBADFD,
        ETH_SIZE,
        FIN,
        FRAGMENT,
        FULL_BATCH,
        GSO_ECN,
        GSO_NONE,
        GSO_TCP4,
        GSO_TCP6,
        GSO_UDP,
        ICMP,
        IPV4,
        IPV6,
        LARGE_FRAME,
        MAX_BATCHES,
        MAX_FRAME,
        MIN_FRAME,
        NEEDS_CHECKSUM,
        OUT_SIZE,
        PACKET_SIZE,
        PSH,
        TCP,
        UDP,
        VIRTIO_SIZE,
        VLAN,
        VLAN_OUTER,
    )
    from sevpn.dataplane.kernel.primitives import (
        copy,
        get16,
        get16_little,
        get32,
        ones_sum,
        put16,
        put32,
        read_into,
    )

__all__ = ["Cutter", "Group"]

Group = tuple[int, int, int, int]
"""Slot, begin and end in `out`, and frames: whole batches that may be sent in one go."""


class Cutter:
    """Reads a TAP and writes blocks.

    Args:
        descriptor: Of the TAP, non-blocking.
        has_header: Whether each packet begins with a virtio header.
    """

    def __init__(self, descriptor: int, *, has_header: bool) -> None:
        self.out = bytearray(OUT_SIZE)
        """The blocks of the last :meth:`collect`."""
        self.packet = bytearray(PACKET_SIZE)
        """The packet at hand."""
        self.frame_count = 0
        """Frames in :attr:`out`."""
        self.frame_bytes = 0
        """Their bytes."""
        self.is_drained = False
        """Whether the TAP had nothing more."""
        self.sheds = False
        """Whether the next large frame is to be dropped; false once it was."""
        self.dropped_standing = 0
        """Frames dropped so."""
        self.dropped_runts = 0
        """Frames under 14 bytes."""
        self.dropped_oversized = 0
        """Frames over 1600 bytes: the TAP's MTU is too large."""
        self.dropped_malformed = 0
        """Packets whose virtio header contradicts them."""
        self._descriptor = descriptor
        self._header_size = VIRTIO_SIZE if has_header else 0
        self._out = self.out
        self._packet = self.packet
        self._end = 0
        self._held_size = 0
        self._slot_count = 1
        self._has_priority = False
        self._batch_slots = array("i", bytes(4 * MAX_BATCHES))
        self._batch_begins = array("i", bytes(4 * MAX_BATCHES))
        self._batch_frames = array("i", bytes(4 * MAX_BATCHES))
        self._batch_count = 0
        self._slot = -1
        self._frames_of_batch = 0

    def collect(
        self, frame_limit: int, byte_limit: int, slot_count: int, has_priority: bool
    ) -> list[Group]:
        """Read the TAP until it is empty or a limit is reached.

        Args:
            frame_limit: Frames after which no further packet is read; dropped
                packets count as well.
            byte_limit: Likewise, their bytes.
            slot_count: Over how many slots flows are spread, 1 or more.
            has_priority: Whether frames of priority go to a slot of their own,
                whose number is *slot_count*.

        Returns:
            The groups to send, oldest first; they lie in :attr:`out` until the
            next call.

        Raises:
            OSError: The TAP is gone (EBADFD) or was turned off (EIO).
        """
        self._slot_count = slot_count
        self._has_priority = has_priority
        with cython.nogil:
            failure = self._collect(frame_limit, byte_limit)
        if failure:
            raise OSError(failure, "the TAP cannot be read")
        return self._groups()

    def cut(self, packet: bytes) -> list[Group]:
        """Cut one *packet* as if it had been read: what would not fit is left out."""
        size = min(len(packet), PACKET_SIZE)
        self.packet[:size] = packet[:size]
        self._begin()
        self._cut_packet(size)
        self._end_batch()
        return self._groups()

    # --- batches ---

    def _begin(self) -> None:
        self.frame_count = 0
        self.frame_bytes = 0
        self.is_drained = False
        self.dropped_runts = 0
        self.dropped_oversized = 0
        self.dropped_malformed = 0
        self.dropped_standing = 0
        self._end = 0
        self._batch_count = 0
        self._slot = -1
        self._frames_of_batch = 0

    def _collect(self, frame_limit: int, byte_limit: int) -> int:
        """Return 0, or the errno of the TAP."""
        self._begin()
        if self._held_size:
            size = self._held_size
            self._held_size = 0
            self._cut_packet(size)
        packets = 0
        while (
            packets < frame_limit
            and self.frame_count < frame_limit
            and self.frame_bytes < byte_limit
        ):
            packets += 1
            size = read_into(self._descriptor, self._packet, 0, PACKET_SIZE)
            if size == -EAGAIN:
                self.is_drained = True
                break
            if size <= 0:
                # What was read before is lost with the TAP.
                return -size if size else EBADFD
            if not self._cut_packet(size):
                self._held_size = size
                break
        self._end_batch()
        return 0

    def _block(self, size: int, slot: int) -> int:
        """Begin the block of a frame; return where the frame goes."""
        if slot != self._slot or self._frames_of_batch == FULL_BATCH:
            self._end_batch()
            self._batch_slots[self._batch_count] = slot
            self._batch_begins[self._batch_count] = self._end
            self._batch_count += 1
            self._slot = slot
            self._end += 4
        at = self._end + 4
        put32(self._out, self._end, size)
        self._end = at + size
        self._frames_of_batch += 1
        self.frame_count += 1
        self.frame_bytes += size
        return at

    def _end_batch(self) -> None:
        if self._batch_count:
            last = self._batch_count - 1
            self._batch_frames[last] = self._frames_of_batch
            put32(self._out, self._batch_begins[last], self._frames_of_batch)
        self._frames_of_batch = 0

    def _groups(self) -> list[Group]:
        """Join neighbouring batches of one slot, up to a burst."""
        groups: list[Group] = []
        slot = -1
        begin = 0
        frames = 0
        for index in range(self._batch_count):
            here = self._batch_begins[index]
            more = self._batch_frames[index]
            if frames and (self._batch_slots[index] != slot or frames + more > BURST):
                groups.append((slot, begin, here, frames))
                begin = here
                frames = 0
            slot = self._batch_slots[index]
            frames += more
        if frames:
            groups.append((slot, begin, self._end, frames))
        return groups

    # --- packets ---

    def _cut_packet(self, size: int) -> bool:
        """Cut the packet at hand; say False if there is no room for it at the moment."""
        frame = self._header_size
        end = size
        if size < frame + MIN_FRAME:
            self.dropped_runts += 1
            return True
        if size == PACKET_SIZE:
            # The end of it may be missing.
            self.dropped_oversized += 1
            return True
        flags = 0
        kind = GSO_NONE
        if frame:
            flags = self._packet[0]
            kind = self._packet[1] & ~GSO_ECN
        if kind != GSO_NONE:
            return self._cut_segments(frame, end, kind)
        if size - frame > MAX_FRAME:
            self.dropped_oversized += 1
            return True
        if not self._has_room(1, size - frame):
            return False
        if self.sheds and size - frame >= LARGE_FRAME:
            self._shed()
            return True
        if flags & NEEDS_CHECKSUM and not self._finish_checksum(frame, end):
            self.dropped_malformed += 1
            return True
        at = self._block(size - frame, self._slot_of(frame, end))
        copy(self._out, at, self._packet, frame, size - frame)
        return True

    def _shed(self) -> None:
        """Note that a frame is dropped."""
        self.sheds = False
        self.dropped_standing += 1

    def _has_room(self, count: int, frame_bytes: int) -> bool:
        """Whether so many frames fit behind those that are there."""
        # A frame has its size before it, and perhaps the count of a batch.
        return (
            self._end + frame_bytes + 8 * count <= OUT_SIZE
            and self._batch_count + count // FULL_BATCH + 2 <= MAX_BATCHES
        )

    def _finish_checksum(self, frame: int, end: int) -> bool:
        """Put the checksum in that the host left to us; say False if there is no place for it."""
        start = frame + get16_little(self._packet, 6)
        offset = get16_little(self._packet, 8)
        if start + offset + 2 > end:
            return False
        # The field holds the sum of the pseudo header.
        value = ones_sum(self._packet, start, end - start) ^ 0xFFFF
        # 6 is UDP, where zero means that there is none (RFC 768).
        put16(
            self._packet,
            start + offset,
            0xFFFF if value == 0 and offset == 6 else value,
        )
        return True

    def _cut_segments(self, frame: int, end: int, kind: int) -> bool:
        """Cut a super-segment; say False if there is no room for its frames at the moment."""
        segment = get16_little(self._packet, 4)
        transport = frame + get16_little(self._packet, 6)
        network = self._network_of(frame, end)
        body = self._body_of(network, transport, end, kind)
        if body == 0 or segment == 0:
            self.dropped_malformed += 1
            return True
        head_size = body - frame
        count = (end - body + segment - 1) // segment
        if count == 0:
            count = 1
        largest = min(end - body, segment)
        if head_size + largest > MAX_FRAME:
            self.dropped_oversized += count
            return True
        total = count * head_size + (end - body)
        if total + 8 * count > OUT_SIZE:
            self.dropped_oversized += count
            return True
        if not self._has_room(count, total):
            return False
        slot = self._slot_of(frame, end)
        # The field holds the sum of the pseudo header, with the length of the whole.
        field = transport + (6 if kind == GSO_UDP else 16)
        pseudo = get16(self._packet, field) + (0xFFFF - ((end - transport) & 0xFFFF))
        put16(self._packet, field, 0)
        index = 0
        if self.sheds and count > 1 and head_size + segment >= LARGE_FRAME:
            self._shed()
            index = 1
        while index < count:
            size = min(end - body - index * segment, segment)
            at = self._block(head_size + size, slot)
            copy(self._out, at, self._packet, frame, head_size)
            copy(self._out, at + head_size, self._packet, body + index * segment, size)
            self._fix_network(at + network - frame, at + head_size + size, index)
            self._fix_transport(
                at + transport - frame,
                at + head_size + size,
                pseudo,
                index,
                segment,
                index + 1 == count,
                kind,
            )
            index += 1
        return True

    def _network_of(self, frame: int, end: int) -> int:
        """Return where the IP header begins, or 0."""
        at = frame + 12
        while at + 6 <= end and (
            get16(self._packet, at) == VLAN or get16(self._packet, at) == VLAN_OUTER
        ):
            at += 4
        at += 2
        if at + 20 > end:
            return 0
        ethertype = get16(self._packet, at - 2)
        version = self._packet[at] >> 4
        if ethertype == IPV4 and version == 4 and self._packet[at] & 15 >= 5:
            return at
        if ethertype == IPV6 and version == 6 and at + 40 <= end:
            return at
        return 0

    def _body_of(self, network: int, transport: int, end: int, kind: int) -> int:
        """Return where the payload of a super-segment begins, or 0 if it makes no sense."""
        if network == 0:
            return 0
        is_ipv4 = self._packet[network] >> 4 == 4
        if kind == (GSO_TCP6 if is_ipv4 else GSO_TCP4):
            return 0
        least = (self._packet[network] & 15) * 4 if is_ipv4 else 40
        if transport < network + least:
            return 0
        if kind == GSO_UDP:
            body = transport + 8
        elif kind == GSO_TCP4 or kind == GSO_TCP6:
            if transport + 20 > end:
                return 0
            body = transport + (self._packet[transport + 12] >> 4) * 4
            if body < transport + 20:
                return 0
        else:
            return 0
        return body if body <= end else 0

    def _fix_network(self, network: int, end: int, index: int) -> None:
        """Put the lengths, the identification and the checksum of frame *index* in."""
        if self._out[network] >> 4 == 6:
            put16(self._out, network + 4, end - network - 40)
            return
        put16(self._out, network + 2, end - network)
        put16(self._out, network + 4, get16(self._out, network + 4) + index)
        put16(self._out, network + 10, 0)
        size = (self._out[network] & 15) * 4
        put16(self._out, network + 10, ones_sum(self._out, network, size) ^ 0xFFFF)

    def _fix_transport(
        self,
        transport: int,
        end: int,
        pseudo: int,
        index: int,
        segment: int,
        is_last: bool,
        kind: int,
    ) -> None:
        """Put the sequence number, flags, length and checksum of frame *index* in."""
        field = transport + 16
        if kind == GSO_UDP:
            field = transport + 6
            put16(self._out, transport + 4, end - transport)
        else:
            put32(
                self._out,
                transport + 4,
                get32(self._out, transport + 4) + index * segment,
            )
            flags = self._out[transport + 13]
            if not is_last:
                flags &= ~(FIN | PSH)
            if index:
                flags &= ~CWR
            self._out[transport + 13] = flags
        size = end - transport
        value = ones_sum(self._out, transport, size) + pseudo + size
        while value > 0xFFFF:
            value = (value & 0xFFFF) + (value >> 16)
        value ^= 0xFFFF
        if value == 0 and kind == GSO_UDP:
            value = 0xFFFF
        put16(self._out, field, value)

    # --- flows ---

    def _slot_of(self, frame: int, end: int) -> int:
        """Return the slot of the flow that a packet belongs to."""
        if self._has_priority and self._is_prior(frame, end):
            return self._slot_count
        if self._slot_count == 1:
            return 0
        mixed = 1566083941
        network = self._network_of(frame, end)
        at = frame
        words = 3
        ports = 0
        if network and self._packet[network] >> 4 == 4:
            at = network + 12
            words = 2
            protocol = self._packet[network + 9]
            if not get16(self._packet, network + 6) & FRAGMENT:
                ports = network + (self._packet[network] & 15) * 4
        elif network:
            at = network + 8
            words = 8
            protocol = self._packet[network + 6]
            ports = network + 40
        else:
            protocol = 0
        if ports and (protocol == TCP or protocol == UDP) and ports + 4 <= end:
            mixed = self._mix(mixed, get32(self._packet, ports))
        while words:
            mixed = self._mix(mixed, get32(self._packet, at))
            at += 4
            words -= 1
        return (mixed >> 8) % self._slot_count

    def _mix(self, mixed: int, word: int) -> int:
        mixed = ((mixed ^ word) * 16777619) & 0x7FFFFFFF
        return mixed ^ (mixed >> 15)

    def _is_prior(self, frame: int, end: int) -> bool:
        """Whether a frame has priority: the rule of docs/reference/protocol-data.md#qos."""
        if end - frame < ETH_SIZE + 20 or get16(self._packet, frame + 12) != IPV4:
            return False
        service = self._packet[frame + 15]
        return (service != 0 and service != 8) or (
            self._packet[frame + 23] == ICMP and 34 <= end - frame <= 128
        )
