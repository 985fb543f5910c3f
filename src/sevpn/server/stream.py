# SPDX-License-Identifier: Apache-2.0
"""The server's end of one TCP connection with TLS.

Layer: server. Runs in: the event loop.

    handshake()   TLS, within a deadline
    receive(), send()      the login, one coroutine per connection
    start(room, take, …)   the session: no coroutine any more, each turn of the
                           loop writes what has come in to where it is wanted
    close()       as the original ends connections: TCP alone, no close_notify

asyncio's own TLS is not used because it ends politely, hides how much waits to
be sent, and knows no reset: the three things a server for tests must decide.

TLS runs in memory, beside the socket: a system call moves many of its records.

    write(data) ──TLS──> _outgoing ──> _outbound ──socket.send──> kernel
    room(), take() <──TLS── _incoming <─────────────socket.recv── kernel

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
from dataclasses import dataclass
from typing import Final, TypeVar

from sevpn.errors import ConnectionLostError, RemoteProtocolError, SilenceError

__all__ = ["Codec", "Stream"]

_REQUEST_SIZE: Final = 16 * 1024
"""Bytes of a login that are read at once."""

_READ_SIZE: Final = 128 * 1024
"""Bytes of a session that are read from the socket at once."""

_FILLS_PER_TURN: Final = 4
"""After so many reads of the socket other connections have their turn."""

_CLOSED: Final = "the connection was closed"

_LINGER_RESET: Final = struct.pack("ii", 1, 0)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Codec:
    """What a session's items look like on the connection, where that is not as they are."""

    decode: Callable[[bytes | memoryview], bytes]
    """Takes the next bytes and returns plain items; raises RemoteProtocolError."""

    encode: Callable[[bytes | memoryview], bytes]
    """Returns what whole items are sent as."""


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
        self.local: str = sock.getsockname()[0]
        """The server's address."""
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._outbound: deque[memoryview] = deque()
        self._arrived = memoryview(bytearray(_REQUEST_SIZE))
        self._encoded = memoryview(b"")
        self._ending: str | None = None
        self._is_writer_set = False
        self._is_reading = False
        self._room: Callable[[], memoryview] | None = None
        self._take: Callable[[int], None] | None = None
        self._on_end: Callable[[str], None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.codec: Codec | None = None
        """What the session's items pass through, if anything; set before :meth:`start`."""
        self.is_taken = False
        """Whether a session owns it."""
        self.is_closed = False
        """Whether this end has closed it."""
        self.pending_bytes = 0
        """Bytes that wait for the socket, encrypted."""
        self.received_bytes = 0
        """Bytes received inside TLS."""
        self.sent_bytes = 0
        """Bytes sent inside TLS, those included that wait for the socket."""
        self.end_after_received: int | None = None
        """Fault: close at this many received bytes."""
        self.end_after_sent: int | None = None
        """Fault: close at this many sent bytes."""
        self.ends_with_reset = False
        """Fault: those two reset the connection instead of closing it."""

    def give_up_after(self, silence_s: float) -> None:
        """Let the connection break when what is sent is not acknowledged for so long."""
        self._socket.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(silence_s * 1000)
        )

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
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    await self._drain()
                    await self._arrival("TLS was not set up: ")
                except ssl.SSLError as error:
                    with contextlib.suppress(ConnectionLostError):
                        self._send_records()  # the alert that says why
                    raise ConnectionLostError(f"TLS was not set up: {error}") from error
                else:
                    await self._drain()
                    return

        await self._within(shake(), deadline_s, "TLS was not set up")

    async def receive(self, deadline_s: float) -> bytes:
        """Return what has come in, at least one byte.

        Raises:
            ConnectionLostError: The connection ended.
            SilenceError: Nothing came in time.
        """
        room = memoryview(bytearray(_REQUEST_SIZE))

        async def wait() -> bytes:
            while True:
                size = self._read_into(room)
                if size:
                    return bytes(room[:size])
                await self._arrival()

        return await self._within(wait(), deadline_s, "no request came")

    async def send(self, data: bytes, deadline_s: float) -> None:
        """Send all of *data*.

        Raises:
            ConnectionLostError: The connection ended.
            SilenceError: The client did not take it in time.
        """
        self.write(data)
        await self._within(self._drain(), deadline_s, "the answer was not taken")
        if self.is_closed:
            raise ConnectionLostError(_CLOSED)

    async def _arrival(self, what: str = "") -> None:
        """Wait until something has come in.

        Raises:
            ConnectionLostError: The connection ended.
        """
        while not self._fill():
            if self._ending or self.is_closed:
                raise ConnectionLostError(what + (self._ending or _CLOSED))
            await self._ready(self._loop.add_reader, self._loop.remove_reader)

    async def _drain(self) -> None:
        """Wait until all was sent.

        Raises:
            ConnectionLostError: The connection ended.
        """
        self._send_records()
        while self.pending_bytes:
            await self._ready(self._loop.add_writer, self._loop.remove_writer)
            self._flush()

    # --- callbacks: the session ----------------------------------------------

    def start(
        self,
        room: Callable[[], memoryview],
        take: Callable[[int], None],
        on_end: Callable[[str], None],
    ) -> None:
        """Hand over what comes in from now on.

        Args:
            room: Returns where the next bytes go.
            take: Called with how many were written there, 1 or more.
            on_end: Called once, with the cause, when the connection has ended by
                itself; never for :meth:`close`.
        """
        self._room = room
        self._take = take
        self._on_end = on_end
        self._arrived = memoryview(bytearray(_READ_SIZE))
        if self.codec is not None:
            self._encoded = memoryview(bytearray(_REQUEST_SIZE))
        self.resume()

    def pause(self) -> None:
        """Stop reading; the client runs into TCP's back-pressure."""
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._socket)

    def resume(self) -> None:
        """Read again."""
        if self._take is not None and not self.is_closed and not self._is_reading:
            self._is_reading = True
            self._loop.add_reader(self._socket, self._readable)
            # TLS may hold bytes already that the socket will not announce again.
            self._loop.call_soon(self._readable)

    def write_items(self, items: bytes | memoryview) -> None:
        """Send whole items of the session, as :meth:`write` does."""
        self.write(items if self.codec is None else self.codec.encode(items))

    def write(self, data: bytes | memoryview) -> None:
        """Encrypt *data* and send what the socket takes; look at :attr:`pending_bytes`.

        The memory is the caller's again when this returns.
        """
        if self.is_closed or not data:
            return
        view = memoryview(data)
        limit = self.end_after_sent
        if limit is not None:
            view = view[: max(0, limit - self.sent_bytes)]
        try:
            if view:
                self.sent_bytes += self._tls.write(view)
        except ssl.SSLError as error:
            self._end(f"the connection broke: {error}")
            return
        self._push()

    def close(self, *, reset: bool = False) -> None:
        """End the connection with FIN, or with RST.

        What waits to be sent is lost. Never sends close_notify, as the original.
        """
        if self.is_closed:
            return
        self.is_closed = True
        self._is_reading = False
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._outbound.clear()
        self.pending_bytes = 0
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        with contextlib.suppress(OSError):
            if reset:
                self._socket.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET
                )
            else:
                self._socket.shutdown(socket.SHUT_RDWR)
                # Unread bytes would turn the FIN into a reset.
                for _ in range(64):
                    if not self._socket.recv_into(self._arrived):
                        break
        self._socket.close()

    # --- inside: what comes in -------------------------------------------------

    def _fill(self) -> bool:
        """Take from the socket what is there; return whether it was anything."""
        if self._ending is not None or self.is_closed:
            return False
        try:
            size = self._socket.recv_into(self._arrived)
        except BlockingIOError:
            return False
        except OSError as error:
            self._ending = f"the connection broke: {error}"
            return False
        if not size:
            self._ending = "the client closed the connection"
            return False
        self._incoming.write(self._arrived[:size])
        return True

    def _read_into(self, room: memoryview) -> int:
        """Write what is here into *room* and return how many bytes that were.

        Less than its size means that TLS holds nothing back. The end of the
        connection is noted in `_ending`.
        """
        got = 0
        fills = _FILLS_PER_TURN
        while got < len(room) and not self.is_closed:
            try:
                # With a buffer it returns a size, whatever its stub says.
                size = int(self._tls.read(len(room) - got, room[got:]))
            except ssl.SSLWantReadError:
                # Records may be without data; what stays in the socket keeps it readable.
                fills -= 1
                if fills < 0 or not self._fill():
                    break
                continue
            except ssl.SSLError as error:
                self._ending = f"the connection broke: {error}"
                break
            if not size:
                self._ending = "the client closed the connection"
                break
            self.received_bytes += size
            limit = self.end_after_received
            if limit is not None and self.received_bytes >= limit:
                self._ending = f"a fault ended it after {limit} received bytes"
                self.close(reset=self.ends_with_reset)
                break
            got += size
        return got

    def _readable(self) -> None:
        if self._room is None or self._take is None or not self._is_reading:
            return
        if self.codec is None:
            room = self._room()
            size = self._read_into(room)
            if size:
                self._take(size)
        else:
            room = self._encoded
            size = self._read_into(room)
            self._take_decoded(self.codec, room[:size])
        if self._ending is not None:
            self._end(self._ending)
        elif self._outgoing.pending:  # TLS has answered something itself
            self._push()
        if size == len(room):
            self._loop.call_soon(self._readable)

    def _take_decoded(self, codec: Codec, data: memoryview) -> None:
        try:
            plain = memoryview(codec.decode(data))
        except RemoteProtocolError as error:
            self._end(str(error))
            return
        while plain and not self.is_closed:
            assert self._room is not None, "read only after start()"
            assert self._take is not None, "likewise"
            room = self._room()
            piece = plain[: len(room)]
            room[: len(piece)] = piece
            plain = plain[len(piece) :]
            self._take(len(piece))

    # --- inside: what goes out ---------------------------------------------------

    def _take_records(self) -> None:
        """Take out of TLS what it has made.

        At once and all of it: its buffer moves what is left whenever more is added.
        """
        if self._outgoing.pending:
            records = memoryview(self._outgoing.read())
            self._outbound.append(records)
            self.pending_bytes += len(records)

    def _send_records(self) -> None:
        self._take_records()
        self._flush()

    def _push(self) -> None:
        """Send what the socket takes, unless it is full already."""
        self._take_records()
        if not self._is_writer_set:
            self._flush_or_end()

    def _flush_or_end(self) -> None:
        """Send what the socket takes, and the rest when it takes more."""
        try:
            self._flush()
        except ConnectionLostError as error:
            self._end(str(error))
            return
        wants_writer = self._take is not None and bool(self._outbound)
        if wants_writer != self._is_writer_set and not self.is_closed:
            self._is_writer_set = wants_writer
            if wants_writer:
                self._loop.add_writer(self._socket, self._flush_or_end)
            else:
                self._loop.remove_writer(self._socket)

    def _flush(self) -> None:
        """Send what the socket takes.

        Raises:
            ConnectionLostError: The connection broke, or a fault ended it.
        """
        outbound = self._outbound
        while outbound:
            records = outbound[0]
            try:
                count = self._socket.send(records)
            except BlockingIOError:
                return
            except OSError as error:
                raise ConnectionLostError(f"the connection broke: {error}") from error
            self.pending_bytes -= count
            if count == len(records):
                outbound.popleft()
            else:
                outbound[0] = records[count:]
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
