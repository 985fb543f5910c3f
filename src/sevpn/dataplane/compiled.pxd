# SPDX-License-Identifier: Apache-2.0
# The C types of compiled.py.

cimport cython

from sevpn.dataplane.kernel.cut cimport Cutter
from sevpn.dataplane.kernel.merge cimport Merger
from sevpn.dataplane.kernel.scan cimport BlockState, Scanner
from sevpn.dataplane.sieve cimport Sieve


cdef class CompiledInlet:
    cdef readonly bint has_items
    cdef readonly bint has_full_batch
    cdef readonly bint has_fed_host
    cdef readonly list for_control
    cdef CompiledPath _path
    cdef BlockState _state

    cpdef room(self)

    @cython.locals(scanner=Scanner)
    cpdef take(self, Py_ssize_t size)


cdef class CompiledPath:
    cdef readonly str kernel
    cdef readonly bint is_drained
    cdef public bint sheds
    cdef Scanner scanner
    cdef object _port
    cdef Sieve _sieve
    cdef object _counters
    cdef Cutter _cutter
    cdef Merger _merger
    cdef object _out

    @cython.locals(scanner=Scanner, count=Py_ssize_t)
    cdef tuple deliver(self)

    @cython.locals(scanner=Scanner, taken=Py_ssize_t)
    cdef _write(self, Py_ssize_t count)

    @cython.locals(cutter=Cutter)
    cdef _note_drops(self)
