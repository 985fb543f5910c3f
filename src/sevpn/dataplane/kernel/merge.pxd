# SPDX-License-Identifier: Apache-2.0
# The C types of merge.py.

cimport cython

from sevpn.dataplane.kernel.constants cimport *
from sevpn.dataplane.kernel.primitives cimport (
    copy, get16, get32, is_same, ones_sum, put16, put16_little, write_pieces,
)


cdef class Merger:
    cdef readonly Py_ssize_t write_count
    cdef readonly int[::1] lost
    cdef readonly Py_ssize_t lost_count
    cdef int _descriptor
    cdef bint _has_header
    cdef bytearray _head
    cdef unsigned char *_head_bytes
    cdef unsigned char *_data
    cdef int[::1] _starts
    cdef int[::1] _sizes
    cdef int[::1] _frame
    cdef int[::1] _size
    cdef int[::1] _tcp
    cdef int[::1] _segment
    cdef int[::1] _payload
    cdef int[::1] _count
    cdef unsigned int[::1] _next
    cdef int[::1] _step
    cdef int[::1] _is_pushed
    cdef int[::1] _piece_starts
    cdef int[::1] _piece_sizes
    cdef int _victim
    cdef int _tcp_at
    cdef int _body_at
    cdef int _body_size

    @cython.locals(number=int)
    cpdef Py_ssize_t write(self, bytearray data, int[::1] starts, int[::1] sizes, Py_ssize_t first, Py_ssize_t count) except -1

    @cython.locals(number=int)
    cpdef dict losses(self)

    @cython.locals(index=Py_ssize_t)
    cdef void _pass(self, Py_ssize_t first, Py_ssize_t count) noexcept nogil

    @cython.locals(index=Py_ssize_t, at=int, size=int, kind=int, flow=int)
    cdef void _merge(self, Py_ssize_t first, Py_ssize_t count) noexcept nogil

    @cython.locals(ethertype="unsigned int", end=int)
    cdef int _look(self, int at, int size) noexcept nogil

    @cython.locals(tcp=int, body=int)
    cdef int _look_inside(self, int at, int end) noexcept nogil

    cdef int _look_short(self, int at) noexcept nogil

    @cython.locals(protocol=int)
    cdef int _look_behind(self, int at) noexcept nogil

    @cython.locals(flags=int)
    cdef bint _has_plain_flags(self, int tcp) noexcept nogil

    @cython.locals(flow=int)
    cdef int _find(self, int at) noexcept nogil

    @cython.locals(ports=int)
    cdef bint _is_same_flow(self, int first, int flow, int at) noexcept nogil

    @cython.locals(is_pushed=int, flow=int)
    cdef void _take(self, Py_ssize_t index, int at, int size) noexcept nogil

    cdef void _open(self, int flow, int at, int size) noexcept nogil

    @cython.locals(first=int, tcp=int, count=int, head_size=int)
    cdef bint _fits(self, int flow, int at) noexcept nogil

    @cython.locals(step=int)
    cdef bint _fits_ipv4(self, int flow, int first, int at, int count) noexcept nogil

    @cython.locals(value="unsigned int")
    cdef bint _is_whole(self, int at, int tcp, int size) noexcept nogil

    @cython.locals(place=int)
    cdef void _append(self, int flow) noexcept nogil

    cdef void _write_alone(self, Py_ssize_t index) noexcept nogil

    @cython.locals(flow=int)
    cdef void _flush_all(self) noexcept nogil

    @cython.locals(count=int, place=int, head_size=int)
    cdef void _flush(self, int flow) noexcept nogil

    @cython.locals(index=int)
    cdef void _clear_header(self) noexcept nogil

    @cython.locals(first=int, tcp=int, head_size=int, network=int, transport=int, size=int, value="unsigned int")
    cdef int _make_head(self, int flow) noexcept nogil

    cdef void _note(self, int failure, int count) noexcept nogil
