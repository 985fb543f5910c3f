# SPDX-License-Identifier: Apache-2.0
# The C types of runs.py.

cimport cython

from sevpn.dataplane.kernel.constants cimport *
from sevpn.dataplane.kernel.primitives cimport copy, get16, get32, is_same, put32


cdef class Runs:
    cdef readonly bytearray out
    cdef readonly int[::1] starts
    cdef readonly int[::1] sizes
    cdef unsigned char *_out
    cdef unsigned char *_data
    cdef int[::1] _starts
    cdef int[::1] _sizes

    cpdef Py_ssize_t walk(self, bytearray data, Py_ssize_t begin, Py_ssize_t end) except -1

    @cython.locals(behind=Py_ssize_t, end=Py_ssize_t, at=Py_ssize_t, size=int, source=Py_ssize_t)
    cpdef list find(self, bytearray data, int[::1] starts, int[::1] sizes, Py_ssize_t first, Py_ssize_t count)

    @cython.locals(end=Py_ssize_t)
    cpdef Py_ssize_t encode(self, bytearray data, int[::1] starts, int[::1] sizes, Py_ssize_t first, Py_ssize_t count) except -1

    @cython.locals(count=Py_ssize_t, left="unsigned int", at=Py_ssize_t, word="unsigned int")
    cdef Py_ssize_t _walk(self, Py_ssize_t begin, Py_ssize_t end) noexcept nogil

    @cython.locals(at=Py_ssize_t, size=int, index=Py_ssize_t, other=Py_ssize_t)
    cdef Py_ssize_t _end_of(self, Py_ssize_t first, Py_ssize_t behind) noexcept nogil

    @cython.locals(source=Py_ssize_t)
    cdef bint _goes_alike(self, Py_ssize_t at, Py_ssize_t other, int size) noexcept nogil

    @cython.locals(ethertype="unsigned int")
    cdef int _address_size(self, Py_ssize_t at, Py_ssize_t size) noexcept nogil

    @cython.locals(udp=Py_ssize_t, source="unsigned int", target="unsigned int")
    cdef bint _is_dhcp(self, Py_ssize_t at, Py_ssize_t size) noexcept nogil

    @cython.locals(end=Py_ssize_t, index=Py_ssize_t, size=Py_ssize_t)
    cdef Py_ssize_t _encode(self, Py_ssize_t first, Py_ssize_t count) noexcept nogil
