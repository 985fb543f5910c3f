# SPDX-License-Identifier: Apache-2.0
# The C types of scan.py.

cimport cython

from sevpn.dataplane.kernel.constants cimport *
from sevpn.dataplane.kernel.primitives cimport get16, get32


cdef class BlockState:
    cdef readonly bytearray tail
    cdef readonly Py_ssize_t tail_size
    cdef readonly unsigned int blocks_left
    cdef bint is_full
    cdef unsigned int largest


cdef class Scanner:
    cdef readonly bytearray arena
    cdef readonly int[::1] starts
    cdef readonly int[::1] sizes
    cdef readonly Py_ssize_t frame_count
    cdef readonly Py_ssize_t frame_bytes
    cdef readonly bint has_items
    cdef readonly bint has_full_batch
    cdef readonly Py_ssize_t dropped_runts
    cdef readonly Py_ssize_t dropped_oversized
    cdef unsigned char *_data
    cdef unsigned int _wrong_size

    cpdef memoryview room(self, BlockState state)

    @cython.locals(end=Py_ssize_t, left=Py_ssize_t)
    cpdef Py_ssize_t scan(self, BlockState state, Py_ssize_t size) except -1

    @cython.locals(at=Py_ssize_t, word="unsigned int")
    cdef Py_ssize_t _scan(self, BlockState state, Py_ssize_t end) noexcept nogil

    cdef void _begin_batch(self, BlockState state, unsigned int count) noexcept nogil

    cdef void _take(self, Py_ssize_t at, Py_ssize_t size) noexcept nogil

    @cython.locals(taken=Py_ssize_t, index=Py_ssize_t)
    cpdef list sift(self)

    @cython.locals(count=Py_ssize_t, index=Py_ssize_t)
    cpdef list take_all(self)

    @cython.locals(kept=Py_ssize_t, taken=Py_ssize_t, index=Py_ssize_t, at=int, size=int)
    cdef Py_ssize_t _sift(self) noexcept nogil

    @cython.locals(ethertype="unsigned int", udp=Py_ssize_t)
    cdef bint _is_plain(self, Py_ssize_t at, Py_ssize_t size) noexcept nogil

    @cython.locals(protocol="unsigned int")
    cdef bint _is_plain6(self, Py_ssize_t at) noexcept nogil
