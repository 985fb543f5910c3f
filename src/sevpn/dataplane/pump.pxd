# SPDX-License-Identifier: Apache-2.0
# The C types of pump.py: what a turn touches. What is not here stays a method of Python.

cimport cython

from sevpn.dataplane.sieve cimport Sieve

cdef int _BURST_FRAMES
cdef Py_ssize_t _COLLECT_BYTES
cdef Py_ssize_t _STUCK_BYTES


cdef class _Link:
    cdef readonly int number
    cdef readonly object stream
    cdef readonly int fd
    cdef readonly object inlet
    cdef bytes leftover
    cdef readonly bint may_send
    cdef bint may_have_more
    cdef bint owes_poke
    cdef unsigned int watched


cdef class Pump:
    cdef readonly object counters
    cdef readonly Sieve sieve
    cdef public bint has_priority
    cdef readonly double heard_at
    cdef readonly double connection_heard_at
    cdef object _mailbox
    cdef object _path
    cdef int _tap_fd
    # Public are those that tests assign.
    cdef public object _on_frames
    cdef public object _on_lost
    cdef object _on_connection_lost
    cdef object _clock
    cdef readonly object _thread
    cdef readonly object _epoll
    cdef bint _is_tap_watched
    cdef bint _is_tap_ready
    cdef bint _is_called
    cdef bint _is_stopping
    cdef object _timers
    cdef dict _links
    cdef list _senders
    cdef int _last_number
    cdef bint _is_compressed
    cdef object _udp
    cdef object _udp_inlet
    cdef bint _is_udp_watched
    cdef double _due_at
    cdef bint _is_busy
    cdef list _unsent
    cdef object _standing
    cdef double _burst_ends_at
    cdef int _burst_count

    cdef _turn(self)

    @cython.locals(link=_Link, is_due=bint)
    cdef _pump(self, timers, double now)

    @cython.locals(link=_Link, fd=int, events="unsigned int")
    cdef _wait(self)

    @cython.locals(due_at=double)
    cdef _patience_s(self)

    @cython.locals(size=Py_ssize_t)
    cdef _receive(self, _Link link, timers, double now)

    cdef Py_ssize_t _read(self, _Link link, room) except -1

    cdef _collect(self, double now)

    @cython.locals(room=Py_ssize_t, count=int, has_priority=bint)
    cdef _send_from_tap(self, double now)

    @cython.locals(link=_Link)
    cdef bint _has_room(self) except -1

    @cython.locals(total=Py_ssize_t, index=Py_ssize_t)
    cdef Py_ssize_t _send_groups(self, list groups) except -1

    @cython.locals(frames=Py_ssize_t, size=Py_ssize_t, is_one_of_several=bint)
    cdef _send(self, _Link link, group)

    cdef _put(self, _Link link, data)

    cdef _flush(self, _Link link)

    @cython.locals(link=_Link, sender=_Link)
    cpdef _poke(self)

    @cython.locals(link=_Link, wanted="unsigned int", is_wanted=bint)
    cdef _watch(self)
