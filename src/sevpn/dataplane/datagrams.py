# SPDX-License-Identifier: Apache-2.0
"""A UDP socket that moves many datagrams at once, where the kernel can.

Layer: dataplane. Runs in: the thread that owns the socket; nothing here blocks.

    send     equal sizes in a row ──sendmsg, UDP_SEGMENT──> one call for up to 64
    receive  one call <──recvmmsg, UDP_GRO── what waits, and of that at once what came in a row from one place

Nothing is fragmented on the way: what is too large for it is refused with EMSGSIZE.

Source: udp(7); ip(7), IP_MTU_DISCOVER; socket(7), SO_RCVBUFFORCE.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from sevpn.dataplane.kernel.receive import Datagram, Receiver
from sevpn.protocol.acceleration import Endpoint

__all__ = ["DatagramSocket"]

_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_SIZE: Final = struct.Struct("=H")
_MOST_SEGMENTS: Final = 64
_MOST_BYTES: Final = 65_000

_BUFFER_BYTES: Final = 4 * 1024 * 1024
"""Asked for; the kernel gives who may not configure the network what net.core.rmem_max
says, which is often less than comes while this end has its turn elsewhere."""

_BUFFERS: Final = ((socket.SO_RCVBUF, 33), (socket.SO_SNDBUF, 32))
"""Options by which a buffer is asked for, and by which it is taken (SO_RCVBUFFORCE)."""

_MTU_DISCOVER: Final = {
    socket.AF_INET: (socket.IPPROTO_IP, 10),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 23),
}
_NEVER_FRAGMENT: Final = 2

_PASSING: Final = frozenset(
    (errno.EAGAIN, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOBUFS, errno.ENOMEM, errno.EINTR)
)  # fmt: skip
"""Errors that cost a datagram and nothing else."""

_NO_SEGMENTS: Final = frozenset(
    (errno.EIO, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOPROTOOPT)
)
"""What a kernel or card says that cannot cut."""


class DatagramSocket:
    """A socket; see the module.

    Args:
        sock: A UDP socket that is bound; owned by this object.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        sock.settimeout(0)
        level, option = _MTU_DISCOVER[socket.AddressFamily(sock.family)]
        sock.setsockopt(level, option, _NEVER_FRAGMENT)
        self.has_segments = _can(sock, _UDP_SEGMENT, 0)
        """Whether the kernel cuts what is sent."""
        self.has_gro = _can(sock, _UDP_GRO, 1)
        """Whether it joins what is received."""
        self._receiver: Receiver | None = None
        self.dropped_count = 0
        """Datagrams that the kernel did not take."""

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def enlarge(self) -> None:
        """Ask for buffers that hold a burst: while nothing is said, small ones do."""
        for option, forced in _BUFFERS:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, forced, _BUFFER_BYTES)
            except OSError:  # without CAP_NET_ADMIN
                self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)

    def close(self) -> None:
        """Close the socket; harmless when it is closed."""
        self._socket.close()

    # --- sending ---

    def send(self, datagrams: Sequence[bytes], to: Endpoint) -> int:
        """Send *datagrams* in their order; what finds no room is lost, and counted.

        Returns:
            How many there were before one that was too large for the path; all of
            them if there was none.

        Raises:
            OSError: The socket is of no use any more: no route, a packet filter.
        """
        done = 0
        for run in self._runs(datagrams):
            sent = self._send_run(run, to)
            done += sent
            if sent < len(run):
                break
        return done

    def _runs(self, datagrams: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
        """Cut into what one call can send: of one size, but for a shorter one at the end."""
        if not self.has_segments:
            yield from ([datagram] for datagram in datagrams)
            return
        begin, total = 0, 0
        for index, datagram in enumerate(datagrams):
            size = len(datagrams[begin])
            count = index - begin
            is_over = count and (
                len(datagram) > size
                or len(datagrams[index - 1]) < size
                or count >= _MOST_SEGMENTS
                or total + len(datagram) > _MOST_BYTES
            )
            if is_over:
                yield datagrams[begin:index]
                begin, total = index, 0
            total += len(datagram)
        if datagrams:
            yield datagrams[begin:]

    def _send_run(self, run: Sequence[bytes], to: Endpoint) -> int:
        """Send what one call takes; return how many there were before one too large for the path."""
        try:
            if len(run) == 1:
                self._socket.sendto(run[0], to)
            else:
                size = _SIZE.pack(len(run[0]))
                self._socket.sendmsg(
                    run, [(socket.IPPROTO_UDP, _UDP_SEGMENT, size)], 0, to
                )
        except OSError as error:
            if error.errno in _PASSING:
                self.dropped_count += len(run)
                return len(run)
            if error.errno == errno.EMSGSIZE:
                return 0
            if len(run) > 1 and error.errno in _NO_SEGMENTS:
                return self._send_singly(run, to)
            raise
        return len(run)

    def _send_singly(self, run: Sequence[bytes], to: Endpoint) -> int:
        """Send one by one what the kernel did not cut; return as :meth:`_send_run`.

        Some kernels give the same answer (EINVAL) where the path takes no datagram of
        this size: then it is not the cutting that they cannot do.
        """
        for index, datagram in enumerate(run):
            if not self._send_run([datagram], to):
                return index
        self.has_segments = False
        return len(run)

    # --- receiving ---

    def receive(self) -> list[Datagram]:
        """Return datagrams that are here, and where each came from; none when none waits.

        At most 32 times what the kernel joins, so that a flood does not hold the thread.

        Raises:
            OSError: The socket is of no use any more.
        """
        if self._receiver is None:
            self._receiver = Receiver()
        try:
            return self._receiver.receive(self.fileno())
        except OSError as error:
            if error.errno in _PASSING or error.errno == errno.EMSGSIZE:
                return []
            raise


def _can(sock: socket.socket, option: int, value: int) -> bool:
    try:
        sock.setsockopt(socket.IPPROTO_UDP, option, value)
    except OSError:
        return False
    return True
