# SPDX-License-Identifier: Apache-2.0
# The C types of stream.py: what the data thread calls for each chunk and batch.

cimport cython


cdef class SecureStream:
    cdef readonly Py_ssize_t pending_bytes
    cdef public object verified_by
    cdef readonly object peer_address
    cdef readonly object local_address
    cdef public object _tls
    cdef object _sock
    cdef readonly object _incoming
    cdef readonly object _outgoing
    cdef object _sending
    cdef object _arrived
    cdef bint _has_ended
    cdef bint _is_drained
    cdef object _ending

    @cython.locals(got=Py_ssize_t, fills=int, size=Py_ssize_t, wanted=Py_ssize_t)
    cpdef Py_ssize_t read_into(self, room) except -1

    cdef bint _may_decrypt(self) except -1

    @cython.locals(size=Py_ssize_t)
    cdef Py_ssize_t _decrypt_into(self, room) except? -1

    @cython.locals(size=Py_ssize_t)
    cpdef bint _fill(self) except -1

    cpdef queue(self, data)

    @cython.locals(sent=Py_ssize_t)
    cpdef bint flush(self) except -1
