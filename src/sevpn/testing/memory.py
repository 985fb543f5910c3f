# SPDX-License-Identifier: Apache-2.0
"""Twins of the pump's ports that need no device, no network and no TLS.

Layer: testing. Runs in: any thread; each end is for one thread.

    MemoryPort     a TAP: what the pump reads and writes, and the host's side of it
    MemoryStream   a connection to the server, in the clear

Both stand on socket pairs, so that epoll, full queues and the end of the far
side are the kernel's own and not imitated.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from typing import Final

from sevpn.errors import ConnectionLostError

__all__ = ["MemoryPort", "MemoryStream", "memory_stream"]

_LONGEST_FRAME: Final = 65536


class MemoryPort:
    """A :class:`sevpn.dataplane.ports.FramePort`, and the host behind it.

    Args:
        queue_bytes: How much the host's side may leave unread, roughly; the
            kernel doubles it and counts its own overhead.
    """

    def __init__(self, *, queue_bytes: int | None = None) -> None:
        self._port, self._host = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET
        )
        self._port.settimeout(0)
        if queue_bytes is not None:
            self._port.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, queue_bytes)
        self._write_errno = 0

    # --- the pump's side ---

    @property
    def has_header(self) -> bool:
        """False: frames are what they are."""
        return False

    def fileno(self) -> int:
        """Return the descriptor that is readable while the host's frames wait."""
        return self._port.fileno()

    def read(self) -> bytes | None:
        """Return the host's next frame, or None.

        Raises:
            OSError: EBADFD: the host's side was unplugged.
        """
        try:
            frame = self._port.recv(_LONGEST_FRAME)
        except BlockingIOError:
            return None
        if not frame:
            raise OSError(errno.EBADFD, os.strerror(errno.EBADFD))
        return frame

    def write(self, frame: bytes | memoryview, /) -> None:
        """Give a frame to the host.

        Raises:
            BlockingIOError: The host's queue is full.
            OSError: What :meth:`refuse_writes` asked for.
        """
        if self._write_errno:
            raise OSError(self._write_errno, os.strerror(self._write_errno))
        self._port.send(frame)

    # --- the test's side ---

    def host_sends(self, *frames: bytes) -> None:
        """Have the host send frames; waits while the pump does not read."""
        for frame in frames:
            self._host.send(frame)

    def host_receives(self, *, timeout_s: float = 5.0) -> bytes:
        """Return the next frame that the host was given.

        Raises:
            TimeoutError: None came in time.
        """
        if not select.select((self._host,), (), (), timeout_s)[0]:
            raise TimeoutError(f"the host was given no frame within {timeout_s} s")
        return self._host.recv(_LONGEST_FRAME)

    def set_host_blocking(self, *, is_blocking: bool) -> None:
        """Say whether :meth:`host_sends` waits for the pump, or raises BlockingIOError."""
        self._host.setblocking(is_blocking)

    def refuse_writes(self, number: int) -> None:
        """Answer each write with that errno; 0 ends it."""
        self._write_errno = number

    def unplug(self) -> None:
        """Let the device vanish below the pump."""
        self._host.close()

    def close(self) -> None:
        """Close both sides; idempotent."""
        self._port.close()
        self._host.close()


class MemoryStream:
    """A :class:`sevpn.dataplane.ports.SecureStream` in the clear.

    Args:
        sock: One end of a connected pair; owned by the stream now.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        self._socket = sock
        self._queued = bytearray()
        self.was_polite: bool | None = None
        """How it was closed; None while it is open."""

    @property
    def pending_bytes(self) -> int:
        """Bytes that were queued and not sent."""
        return len(self._queued)

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    def read_into(self, room: memoryview, /) -> int:
        """Write what is here into *room*, and return how much it was.

        Raises:
            ConnectionLostError: The far end is closed.
        """
        try:
            size = self._socket.recv_into(room)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ConnectionLostError(
                f"the connection broke: {error.strerror}"
            ) from error
        if not size and len(room):
            raise ConnectionLostError("the server closed the connection")
        return size

    def queue(self, data: bytes | memoryview, /) -> None:
        """Add to what is to be sent."""
        self._queued += data

    def flush(self) -> bool:
        """Send what the kernel takes, and say whether that was all.

        Raises:
            ConnectionLostError: The far end is closed.
        """
        while self._queued:
            try:
                sent = self._socket.send(self._queued)
            except BlockingIOError:
                return False
            except OSError as error:
                raise ConnectionLostError(
                    f"the connection broke: {error.strerror}"
                ) from error
            del self._queued[:sent]
        return True

    def close(self, polite: bool) -> None:  # noqa: FBT001 - the protocol's form
        """Close, and remember how."""
        self.was_polite = polite
        self._socket.close()


def memory_stream(
    *, buffer_bytes: int | None = None
) -> tuple[MemoryStream, socket.socket]:
    """Return a stream and its far end, a blocking socket with a time-out of 5 s.

    Args:
        buffer_bytes: Size of the stream's send buffer, roughly, to fill it soon.
    """
    near, far = socket.socketpair()
    if buffer_bytes is not None:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
    far.settimeout(5.0)
    return MemoryStream(near), far
