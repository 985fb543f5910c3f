# SPDX-License-Identifier: Apache-2.0
# The C types of receive.py.

cimport cython

from sevpn.dataplane.kernel.constants cimport *
from sevpn.dataplane.kernel.primitives cimport get16, is_same, piece, receive_messages


cdef class Receiver:
    cdef readonly object arena
    cdef readonly bytearray names
    cdef unsigned char[::1] _arena
    cdef unsigned char *_names
    cdef int[::1] _sizes
    cdef int[::1] _steps

    @cython.locals(count=int, index=int, at=Py_ssize_t, end=Py_ssize_t, step=Py_ssize_t, size=Py_ssize_t, found=list, name=bytearray)
    cpdef list receive(self, int descriptor)

    cdef int _receive(self, int descriptor) noexcept nogil
