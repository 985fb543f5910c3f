# SPDX-License-Identifier: Apache-2.0
"""The server's end of one TCP connection with TLS.

Layer: server. Runs in: the event loop.

    handshake()   TLS, within a deadline
    receive(), send()       the login, one coroutine per connection
    start(on_data, on_end)  the session: no coroutine any more, each turn of the
                            loop hands over what has come in
    close()       as the original ends connections: TCP alone, no close_notify

asyncio's own TLS is not used because it ends politely, hides how much waits to
be sent, and knows no reset: the three things a server for tests must decide.

Faults count bytes here: a stream that was told to end after so many sent bytes
ends exactly there, whatever the layers above had in mind; for received bytes, at
the end of the TLS record in which they came.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Final, TypeVar

from sevpn.errors import ConnectionLostError, SilenceError

__all__ = ["Stream"]

_CHUNK: Final = 65536
"""Bytes asked of TLS at once; it gives one record, 16 KiB, at most."""

_RECORDS_PER_TURN: Final = 16
"""After so many records other connections have their turn."""

_LINGER_RESET: Final = struct.pack("ii", 1, 0)

_Ended = (OSError, ssl.SSLError)

T = TypeVar("T")


class Stream:
    """One connection.

    Args:
        sock: Accepted, non-blocking; the stream owns it from here on.
        context: The server's TLS settings.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peer: tuple[str, int] = sock.getpeername()[:2]
        """The client's address and port."""
        self._loop = asyncio.get_running_loop()
        self._socket = context.wrap_socket(
            sock, server_side=True, do_handshake_on_connect=False
        )
        self._outbound: deque[memoryview] = deque()
        self._is_writer_set = False
        self._is_reading = False
        self._on_data: Callable[[bytes], None] | None = None
        self._on_end: Callable[[str], None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.is_taken = False
        """Whether a session owns it."""
        self.is_closed = False
        """Whether this end has closed it."""
        self.pending_bytes = 0
        """Bytes that wait for the socket."""
        self.received_bytes = 0
        """Bytes received inside TLS."""
        self.sent_bytes = 0
        """Bytes sent inside TLS."""
        self.end_after_received: int | None = None
        """Fault: close at this many received bytes."""
        self.end_after_sent: int | None = None
        """Fault: close at this many sent bytes."""
        self.ends_with_reset = False
        """Fault: those two reset the connection instead of closing it."""

    # --- one coroutine: the login --------------------------------------------

    async def handshake(self, deadline_s: float) -> None:
        """Set up TLS.

        Raises:
            ConnectionLostError: The client went, or TLS failed.
            SilenceError: It took too long.
        """

        async def shake() -> None:
            while True:
                try:
                    self._socket.do_handshake()
                except ssl.SSLWantReadError:
                    await self._ready(self._loop.add_reader, self._loop.remove_reader)
                except ssl.SSLWantWriteError:
                    await self._ready(self._loop.add_writer, self._loop.remove_writer)
                except _Ended as error:
                    raise ConnectionLostError(f"TLS was not set up: {error}") from error
                else:
                    return

        await self._within(shake(), deadline_s, "TLS was not set up")

    async def receive(self, deadline_s: float) -> bytes:
        """Return what has come in, at least one byte.

        Raises:
            ConnectionLostError: The connection ended.
            SilenceError: Nothing came in time.
        """

        async def wait() -> bytes:
            while True:
                data = self._read()
                if data:
                    return data
                await self._ready(self._loop.add_reader, self._loop.remove_reader)

        return await self._within(wait(), deadline_s, "no request came")

    async def send(self, data: bytes, deadline_s: float) -> None:
        """Send all of *data*.

        Raises:
            ConnectionLostError: The connection ended.
            SilenceError: The client did not take it in time.
        """

        async def drain() -> None:
            while self.pending_bytes:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)
                self._flush()

        self.write(data)
        await self._within(drain(), deadline_s, "the answer was not taken")
        if self.is_closed:
            raise ConnectionLostError("the connection was closed")

    # --- callbacks: the session ----------------------------------------------

    def start(
        self, on_data: Callable[[bytes], None], on_end: Callable[[str], None]
    ) -> None:
        """Hand over what comes in from now on.

        Args:
            on_data: Gets each piece.
            on_end: Called once, with the cause, when the connection has ended by
                itself; never for :meth:`close`.
        """
        self._on_data = on_data
        self._on_end = on_end
        self.resume()

    def pause(self) -> None:
        """Stop reading; the client runs into TCP's back-pressure."""
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._socket)

    def resume(self) -> None:
        """Read again."""
        if self._on_data is not None and not self.is_closed and not self._is_reading:
            self._is_reading = True
            self._loop.add_reader(self._socket, self._readable)
            # TLS may hold bytes already that the socket will not announce again.
            self._loop.call_soon(self._readable)

    def write(self, data: bytes) -> None:
        """Queue *data* and send what the socket takes; look at :attr:`pending_bytes`."""
        if self.is_closed or not data:
            return
        view = memoryview(data)
        limit = self.end_after_sent
        if limit is not None:
            view = view[: max(0, limit - self.sent_bytes - self.pending_bytes)]
        self._outbound.append(view)
        self.pending_bytes += len(view)
        if not self._is_writer_set:
            self._flush_or_end()

    def close(self, *, reset: bool = False) -> None:
        """End the connection with FIN, or with RST.

        What waits to be sent is lost. Never sends close_notify, as the original.
        """
        if self.is_closed:
            return
        self.is_closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._outbound.clear()
        self.pending_bytes = 0
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        raw = socket.socket(fileno=self._socket.detach())
        with contextlib.suppress(OSError):
            if reset:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
            else:
                raw.shutdown(socket.SHUT_RDWR)
                # Unread bytes would turn the FIN into a reset.
                for _ in range(64):
                    if not raw.recv(_CHUNK):
                        break
        raw.close()

    # --- inside --------------------------------------------------------------

    def _read(self) -> bytes:
        """Return one record, or nothing when there is none.

        Raises:
            ConnectionLostError: The connection ended.
        """
        if self.is_closed:
            raise ConnectionLostError("the connection was closed")
        try:
            data = self._socket.recv(_CHUNK)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return b""
        except _Ended as error:
            raise ConnectionLostError(f"the connection broke: {error}") from error
        if not data:
            raise ConnectionLostError("the client closed the connection")
        self.received_bytes += len(data)
        limit = self.end_after_received
        if limit is not None and self.received_bytes >= limit:
            self.close(reset=self.ends_with_reset)
            raise ConnectionLostError(f"a fault ended it after {limit} received bytes")
        return data

    def _readable(self) -> None:
        on_data = self._on_data
        if on_data is None:
            return
        for _ in range(_RECORDS_PER_TURN):
            if not self._is_reading or self.is_closed:
                return
            try:
                data = self._read()
            except ConnectionLostError as error:
                self._end(str(error))
                return
            if not data:
                return
            on_data(data)
        self._loop.call_soon(self._readable)

    def _flush_or_end(self) -> None:
        """Send what the socket takes, and the rest when it takes more."""
        try:
            self._flush()
        except ConnectionLostError as error:
            self._end(str(error))
            return
        wants_writer = self._on_data is not None and bool(self._outbound)
        if wants_writer != self._is_writer_set and not self.is_closed:
            self._is_writer_set = wants_writer
            if wants_writer:
                self._loop.add_writer(self._socket, self._flush_or_end)
            else:
                self._loop.remove_writer(self._socket)

    def _flush(self) -> None:
        outbound = self._outbound
        while outbound:
            view = outbound[0]
            try:
                count = self._socket.send(view) if view else 0
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return
            except _Ended as error:
                raise ConnectionLostError(f"the connection broke: {error}") from error
            self.sent_bytes += count
            self.pending_bytes -= count
            if count == len(view):
                outbound.popleft()
            else:
                outbound[0] = view[count:]
        if self.end_after_sent is not None and self.sent_bytes >= self.end_after_sent:
            self.close(reset=self.ends_with_reset)
            raise ConnectionLostError(
                f"a fault ended it after {self.sent_bytes} sent bytes"
            )

    def _end(self, cause: str) -> None:
        on_end, self._on_end = self._on_end, None
        self.close()
        if on_end is not None:
            on_end(cause)

    async def _ready(
        self,
        add: Callable[[socket.socket, Callable[[], None]], None],
        remove: Callable[[socket.socket], bool],
    ) -> None:
        """Wait until the socket can be read or written, or is closed."""
        waiter = self._waiter = self._loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        add(self._socket, wake)
        try:
            await waiter
        finally:
            self._waiter = None
            if not self.is_closed:
                remove(self._socket)

    async def _within(
        self, work: Coroutine[None, None, T], deadline_s: float, what: str
    ) -> T:
        try:
            async with asyncio.timeout(deadline_s):
                return await work
        except TimeoutError as error:
            raise SilenceError(f"{what} within {deadline_s:g} s") from error
