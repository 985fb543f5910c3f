# SPDX-License-Identifier: Apache-2.0
# The C types of sieve.py, whose gate is asked for in each turn.


cdef class Sieve:
    cdef object _on_gate
    cdef bint _is_open
    cdef bytes _octets
    cdef public bint is_transparent
    cdef public bint is_proving
