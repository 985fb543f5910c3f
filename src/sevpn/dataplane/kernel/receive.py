# SPDX-License-Identifier: Apache-2.0
"""Reads what waits at a UDP socket: many datagrams in one system call.

Layer: dataplane. Runs in: the thread that owns the socket.

    arena   │ message              │ message              │ …  32 rooms of 64 KiB
            └ datagram │ datagram ─┘ what the kernel joined of one sender (UDP_GRO)

Where datagrams come singly, as they do from a server without UDP_SEGMENT, the system
calls would cost as much as their decryption. The arena is mapped: of a room that only
ever held a datagram there is but the first page.

Source: recvmmsg(2); udp(7), UDP_GRO.
"""

# To basedpyright the imports below may not happen; mypy checks the same lines.
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import socket
import sys
from array import array

try:
    import cython
except ImportError:
    from sevpn.dataplane.kernel import interpreted as cython

if not cython.compiled:  # the compiled form has these from the .pxd
    from sevpn.dataplane.kernel.constants import MESSAGE_ROOM, MESSAGES, NAME_SIZE
    from sevpn.dataplane.kernel.primitives import (
        get16,
        is_same,
        piece,
        receive_messages,
    )

__all__ = ["Datagram", "Receiver"]

Datagram = tuple[bytes, tuple[str, int]]
"""What came, and the address and port that it came from."""


class Receiver:
    """Room for what one call reads. Never used by two threads at once."""

    def __init__(self) -> None:
        self.arena = mmap.mmap(-1, MESSAGES * MESSAGE_ROOM)
        """What the last call read."""
        self.names = bytearray(MESSAGES * NAME_SIZE)
        """Whom it came from, as the kernel writes it."""
        with contextlib.suppress(OSError):  # a kernel without huge pages
            self.arena.madvise(mmap.MADV_NOHUGEPAGE)
        self._arena = self.arena
        self._names = self.names
        self._sizes = array("i", bytes(4 * MESSAGES))
        self._steps = array("i", bytes(4 * MESSAGES))

    def receive(self, descriptor: int) -> list[Datagram]:
        """Return the datagrams of at most 32 messages that wait now, in their order.

        Args:
            descriptor: A UDP socket of IPv4 or IPv6.

        Returns:
            Empty where none waits, or all that wait hold nothing.

        Raises:
            OSError: As of recvmmsg(2); EAGAIN is none.
        """
        with cython.nogil:
            count = self._receive(descriptor)
        if count < 0:
            _refuse(-count)
        found: list[Datagram] = []
        source = "", 0
        for index in range(count):
            if index == 0 or not is_same(
                self._names,
                index * NAME_SIZE,
                self._names,
                (index - 1) * NAME_SIZE,
                NAME_SIZE,
            ):
                name = self.names[index * NAME_SIZE : (index + 1) * NAME_SIZE]
                source = _endpoint(name)
            at = index * MESSAGE_ROOM
            end = at + self._sizes[index]
            step = self._steps[index]
            if step <= 0:
                step = MESSAGE_ROOM
            while at < end:
                size = min(step, end - at)
                found.append((piece(self._arena, at, size), source))
                at += size
        return found

    def _receive(self, descriptor: int) -> int:
        return receive_messages(
            descriptor, self._arena, self._sizes, self._steps, self._names
        )


def _refuse(number: int) -> None:
    if number not in {errno.EAGAIN, errno.EINTR}:
        raise OSError(number, os.strerror(number))


def _endpoint(name: bytearray) -> tuple[str, int]:
    """Return the address and port of a socket's name, struct sockaddr_in or sockaddr_in6."""
    family = int.from_bytes(name[:2], sys.byteorder)
    port = get16(name, 2)
    if family == socket.AF_INET:
        return socket.inet_ntop(family, name[4:8]), port
    if family != socket.AF_INET6:
        return "", 0
    zone = int.from_bytes(name[24:28], sys.byteorder)
    # As the socket module writes it: a link-local address is one of an interface.
    suffix = f"%{socket.if_indextoname(zone)}" if zone else ""
    return socket.inet_ntop(family, name[8:24]) + suffix, port
