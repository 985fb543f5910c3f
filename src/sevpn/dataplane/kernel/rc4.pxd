# SPDX-License-Identifier: Apache-2.0
# The C types of rc4.py.

cimport cython


@cython.locals(found=list, last=Py_ssize_t, at=Py_ssize_t, beside=Py_ssize_t, key=bytes, other_key=bytes, text=bytearray, other=bytearray, words="unsigned int[::1]")
cpdef list rc4_all(keys, texts)

@cython.locals(index=int, turn=int, one="unsigned int", other="unsigned int", value="unsigned int")
cdef void _set_up(unsigned int[::1] words, const unsigned char *key, const unsigned char *other_key, int size) noexcept nogil

@cython.locals(shorter=Py_ssize_t, at=Py_ssize_t, index="unsigned int", here="unsigned int", there="unsigned int", value="unsigned int", opposite="unsigned int")
cdef void _apply(unsigned int[::1] words, unsigned char *text, Py_ssize_t size, unsigned char *other, Py_ssize_t other_size) noexcept nogil

@cython.locals(at=Py_ssize_t, value="unsigned int", opposite="unsigned int")
cdef void _go_on(unsigned int[::1] words, int base, unsigned int index, unsigned int here, unsigned char *text, Py_ssize_t begin, Py_ssize_t size) noexcept nogil
