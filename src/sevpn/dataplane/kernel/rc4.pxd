# SPDX-License-Identifier: Apache-2.0
# The C types of rc4.py.

cimport cython


@cython.locals(state=bytearray, out=bytearray)
cpdef bytes rc4(bytes key, bytes data)

@cython.locals(index=int, other="unsigned int", value="unsigned int")
cdef void _set_up(unsigned char *state, const unsigned char *key, int size) noexcept nogil

@cython.locals(at=Py_ssize_t, index="unsigned int", other="unsigned int", value="unsigned int", opposite="unsigned int")
cdef void _apply(unsigned char *state, unsigned char *data, Py_ssize_t size) noexcept nogil
