# SPDX-License-Identifier: Apache-2.0
# The C types of cut.py.

cimport cython

from sevpn.dataplane.kernel.constants cimport *
from sevpn.dataplane.kernel.primitives cimport copy, get16, get16_little, get32, ones_sum, put16, put32, read_into


cdef class Cutter:
    cdef readonly bytearray out
    cdef readonly bytearray packet
    cdef readonly Py_ssize_t frame_count
    cdef readonly Py_ssize_t frame_bytes
    cdef readonly bint is_drained
    cdef readonly Py_ssize_t dropped_runts
    cdef readonly Py_ssize_t dropped_oversized
    cdef readonly Py_ssize_t dropped_malformed
    cdef public bint sheds
    cdef readonly Py_ssize_t dropped_standing
    cdef int _descriptor
    cdef Py_ssize_t _header_size
    cdef unsigned char *_out
    cdef unsigned char *_packet
    cdef Py_ssize_t _end
    cdef Py_ssize_t _held_size
    cdef int _slot_count
    cdef bint _has_priority
    cdef int[::1] _batch_slots
    cdef int[::1] _batch_begins
    cdef int[::1] _batch_frames
    cdef int _batch_count
    cdef int _slot
    cdef int _frames_of_batch

    @cython.locals(failure=int)
    cpdef list collect(self, Py_ssize_t frame_limit, Py_ssize_t byte_limit, int slot_count, bint has_priority)

    @cython.locals(size=Py_ssize_t)
    cpdef list cut(self, bytes packet)

    cdef void _begin(self) noexcept nogil

    @cython.locals(size=Py_ssize_t, packets=Py_ssize_t)
    cdef int _collect(self, Py_ssize_t frame_limit, Py_ssize_t byte_limit) noexcept nogil

    @cython.locals(at=Py_ssize_t)
    cdef Py_ssize_t _block(self, Py_ssize_t size, int slot) noexcept nogil

    @cython.locals(last=int)
    cdef void _end_batch(self) noexcept nogil

    @cython.locals(slot=int, begin=int, frames=int, index=int, here=int, more=int)
    cdef list _groups(self)

    @cython.locals(frame=Py_ssize_t, end=Py_ssize_t, flags=int, kind=int, at=Py_ssize_t)
    cdef bint _cut_packet(self, Py_ssize_t size) noexcept nogil

    cdef void _shed(self) noexcept nogil

    cdef bint _has_room(self, Py_ssize_t count, Py_ssize_t frame_bytes) noexcept nogil

    @cython.locals(start=Py_ssize_t, offset=Py_ssize_t, value="unsigned int")
    cdef bint _finish_checksum(self, Py_ssize_t frame, Py_ssize_t end) noexcept nogil

    @cython.locals(segment=Py_ssize_t, transport=Py_ssize_t, network=Py_ssize_t, body=Py_ssize_t,
                   head_size=Py_ssize_t, count=Py_ssize_t, largest=Py_ssize_t, total=Py_ssize_t, slot=int,
                   field=Py_ssize_t, pseudo="unsigned int", index=Py_ssize_t, size=Py_ssize_t, at=Py_ssize_t)
    cdef bint _cut_segments(self, Py_ssize_t frame, Py_ssize_t end, int kind) noexcept nogil

    @cython.locals(at=Py_ssize_t, ethertype="unsigned int", version=int)
    cdef Py_ssize_t _network_of(self, Py_ssize_t frame, Py_ssize_t end) noexcept nogil

    @cython.locals(is_ipv4=bint, least=Py_ssize_t, body=Py_ssize_t)
    cdef Py_ssize_t _body_of(self, Py_ssize_t network, Py_ssize_t transport, Py_ssize_t end, int kind) noexcept nogil

    @cython.locals(size=Py_ssize_t)
    cdef void _fix_network(self, Py_ssize_t network, Py_ssize_t end, Py_ssize_t index) noexcept nogil

    @cython.locals(field=Py_ssize_t, flags=int, size=Py_ssize_t, value="unsigned int")
    cdef void _fix_transport(self, Py_ssize_t transport, Py_ssize_t end, unsigned int pseudo, Py_ssize_t index,
                             Py_ssize_t segment, bint is_last, int kind) noexcept nogil

    @cython.locals(mixed="unsigned int", network=Py_ssize_t, at=Py_ssize_t, words=int, ports=Py_ssize_t, protocol=int)
    cdef int _slot_of(self, Py_ssize_t frame, Py_ssize_t end) noexcept nogil

    cdef unsigned int _mix(self, unsigned int mixed, unsigned int word) noexcept nogil

    @cython.locals(service=int)
    cdef bint _is_prior(self, Py_ssize_t frame, Py_ssize_t end) noexcept nogil
