# SPDX-License-Identifier: Apache-2.0
"""One connection before its session: TLS, the signature, the login.

Layer: server. Runs in: the event loop, one coroutine per connection; it ends when
the connection becomes part of a session.

    accepted ──TLS──> signature ──> Hello ──> login ──granted──> session
                       │ 19 requests            │ 30 noops
                       └────> closed <──────────┴──> error Pack, closed a while later

Each request has a deadline as a whole, so that a client that drips bytes is no
worse than a silent one; nothing longer than 64 KiB is held.

What is answered to a request that is no signature, and whether the connection then
goes on, is as real servers do it.

Source: docs/reference/protocol.md#signature; SoftEtherVPN, Cedar/Protocol.c,
ServerDownloadSignature() and ServerAccept(); Cedar/Connection.c,
ConnectionAccept().
"""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from sevpn.errors import (
    ConnectionLostError,
    RemoteProtocolError,
    SevpnError,
    SilenceError,
)
from sevpn.log import get_logger
from sevpn.protocol.envelope import (
    MAX_REQUEST_BODY,
    PACK_TARGET,
    SIGNATURE_TARGET,
    is_signature,
    is_signature_size,
    pack_response,
)
from sevpn.protocol.messages import (
    Hello,
    encode_error,
    encode_hello,
    encode_noop,
    is_noop,
)
from sevpn.server.config import ServerConfig
from sevpn.server.faults import (
    AnswerError,
    Close,
    CloseAfter,
    Delay,
    Faults,
    Send,
    Silence,
    Stage,
)
from sevpn.server.login import Code
from sevpn.server.stream import Stream
from sevpn.wire.http import (
    HttpReader,
    Request,
    Response,
    encode_date,
    encode_response,
)
from sevpn.wire.pack import Pack, decode_pack

__all__ = ["Admission", "Door", "serve_connection"]

log = get_logger(__name__)

_MAX_SIGNATURE_TRIES: Final = 19
_MAX_NOOPS: Final = 30
_CHALLENGE_SIZE: Final = 20

_TAG: Final = "9C37197CA7C2428388C2E6E59B829B30"
"""By this the official client knows the web page of a server of its kind."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer to a login, and who gets the connection afterwards."""

    answer: Pack
    """The Welcome, or what lets a connection join a session."""

    take: Callable[[Stream, bytes], None]
    """Called with the connection and what was read past the login."""

    abandon: Callable[[], None]
    """Called instead when the connection ends before that."""


class Door(Protocol):
    """Who decides about logins: the server."""

    @property
    def config(self) -> ServerConfig:
        """Its product, version and deadlines."""
        ...

    @property
    def faults(self) -> Faults:
        """What goes wrong."""
        ...

    def admit(
        self, login: Pack, challenge: bytes, *, here: str, peer: str
    ) -> Admission | Pack:
        """Answer a login: with a session, or with a Pack after which the connection ends.

        Args:
            login: What the client sent.
            challenge: Of this connection's Hello.
            here: The server's address on this connection.
            peer: The client's.
        """
        ...


class _Over(Exception):  # noqa: N818 - it is no error, it unwinds the coroutine
    """The connection has ended, by a fault or by a rule."""


async def serve_connection(
    sock: socket.socket, context: ssl.SSLContext, door: Door
) -> None:
    """Lead one connection from its first byte to its session.

    Args:
        sock: Accepted, non-blocking; closed in the end unless a session has taken it.
        context: The server's TLS settings.
        door: Who decides.
    """
    stream: Stream | None = None
    try:
        await _meet_in_the_clear(sock, door.faults)
        stream = Stream(sock, context)
        await _Handshake(stream, door).run()
    except _Over:
        pass
    except SevpnError as error:
        log.debug("connection ended", cause=error)
    except OSError as error:
        log.debug("connection broke", cause=error)
    else:
        return
    finally:
        if stream is None:
            sock.close()
        elif not stream.is_taken:
            stream.close(reset=stream.ends_with_reset)


async def _meet_in_the_clear(sock: socket.socket, faults: Faults) -> None:
    """Do what goes wrong before TLS."""
    loop = asyncio.get_running_loop()
    match faults.take(Stage.ACCEPT):
        case Send(data, goes_on, repeats):
            for _ in range(repeats):
                await loop.sock_sendall(sock, data)
            if not goes_on:
                raise _Over
        case Silence():
            await _until_closed(sock)
            raise _Over
        case Delay(seconds):
            await asyncio.sleep(seconds)
        case Close(is_reset):
            if is_reset:
                sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
                )
            raise _Over
        case CloseAfter() | AnswerError() | None:
            pass


async def _until_closed(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while await loop.sock_recv(sock, 4096):
        pass


class _Handshake:
    """The coroutine's state.

    Args:
        stream: The connection; TLS is not set up yet.
        door: Who decides.
    """

    def __init__(self, stream: Stream, door: Door) -> None:
        self._stream = stream
        self._door = door
        self._deadline_s = door.config.deadline_s
        self._reader = HttpReader("server", MAX_REQUEST_BODY)

    async def run(self) -> None:
        """Go all the way, or raise.

        Raises:
            SevpnError: The connection is of no use any more.
            _Over: Likewise, on purpose.
        """
        await self._stream.handshake(self._deadline_s)
        await self._fail_at(Stage.TLS)
        await self._wait_for_signature()
        await self._fail_at(Stage.HELLO)
        challenge = secrets.token_bytes(_CHALLENGE_SIZE)
        await self._send_pack(encode_hello(self._hello(challenge)))
        login = await self._wait_for_login()
        answer = self._door.admit(
            login, challenge, here=self._stream.local, peer=self._stream.peer[0]
        )
        if isinstance(answer, Pack):
            await self._fail_at(Stage.WELCOME)
            await self._refuse(answer)
        try:
            await self._fail_at(Stage.WELCOME)
            await self._send_pack(answer.answer)
            await self._fail_at(Stage.SESSION)
        except BaseException:
            answer.abandon()
            raise
        self._stream.is_taken = True
        answer.take(self._stream, self._reader.trailing())

    def _hello(self, challenge: bytes) -> Hello:
        config = self._door.config
        return Hello(
            product=config.product,
            version=config.version,
            build=config.build,
            challenge=challenge,
        )

    # --- stages -----------------------------------------------------------------

    async def _wait_for_signature(self) -> None:
        for _ in range(_MAX_SIGNATURE_TRIES):
            request = await self._next_request()
            if request.is_for("POST", SIGNATURE_TARGET) and is_signature(request.body):
                return
            await self._send(_answer_to_stranger(request))
            if request.is_for("POST", SIGNATURE_TARGET) and not is_signature_size(
                len(request.body)
            ):
                raise ConnectionLostError("a signature of the wrong size was refused")
        raise ConnectionLostError("no signature came within 19 requests")

    async def _wait_for_login(self) -> Pack:
        login = await self._next_pack()
        if login is None:
            await self._refuse(encode_error(Code.DISCONNECTED))
        return login

    async def _next_pack(self) -> Pack | None:
        """Return what is no noop; None if it cannot be read, or after too many of them."""
        try:
            pack = _login_pack(await self._next_request())
            for _ in range(_MAX_NOOPS):
                if not is_noop(pack):
                    return pack
                await self._send_pack(encode_noop())
                pack = _login_pack(await self._next_request())
            return None if is_noop(pack) else pack
        except RemoteProtocolError as error:
            log.debug("login cannot be read", peer=self._stream.peer[0], cause=error)
            return None

    async def _refuse(self, answer: Pack) -> NoReturn:
        """Send an error, and leave the connection to the client, which closes it at once."""
        await self._send_pack(answer)
        try:
            while True:
                await self._stream.receive(self._deadline_s)
        except (ConnectionLostError, SilenceError):
            raise _Over from None

    async def _fail_at(self, stage: Stage) -> None:
        """Do what goes wrong at this stage, if anything does."""
        match self._door.faults.take(stage):
            case None:
                return
            case AnswerError(code):
                await self._refuse(encode_error(code))
            case Silence():
                await self._stay_silent()
            case Delay(seconds):
                await asyncio.sleep(seconds)
            case Close(is_reset):
                self._stream.close(reset=is_reset)
                raise _Over
            case CloseAfter(sent, received, is_reset):
                self._stream.end_after_sent = sent
                self._stream.end_after_received = received
                self._stream.ends_with_reset = is_reset
            case Send(data, goes_on, repeats):
                for _ in range(repeats):
                    await self._send(data)
                if not goes_on:
                    raise _Over

    async def _stay_silent(self) -> None:
        """Read and say nothing until the client goes."""
        while True:
            await self._stream.receive(3600)

    # --- requests and answers ---------------------------------------------------

    async def _next_request(self) -> Request:
        """Return the next request.

        Raises:
            RemoteProtocolError: It is no HTTP, or too long.
            ConnectionLostError: The connection ended.
            SilenceError: It was not complete in time.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._deadline_s
        while True:
            message = self._reader.next_message()
            if isinstance(message, Request):
                return message
            left = until - loop.time()
            if left <= 0:
                raise SilenceError(
                    f"a request was not complete within {self._deadline_s:g} s"
                )
            self._reader.feed(await self._stream.receive(left))

    async def _send_pack(self, pack: Pack) -> None:
        date = encode_date(dt.datetime.now(dt.UTC))
        await self._send(pack_response(pack, random=secrets.token_bytes, date=date))

    async def _send(self, data: bytes) -> None:
        await self._stream.send(data, self._deadline_s)


def _answer_to_stranger(request: Request) -> bytes:
    """Return what real servers say to a request that is no signature.

    The official client may begin with a `GET /` to find out whether a proxy stands
    between. It goes on only if the body of the answer, whatever its status, begins as
    that of an official server's 403 does, or holds :data:`_TAG` (seen with 5.01.9674).
    """
    method = request.method.upper()
    if method not in {"GET", "HEAD", "POST"}:
        status, reason = 501, "Method Not Implemented"
    elif request.target == "/" or request.is_for("POST", SIGNATURE_TARGET):
        status, reason = 403, "Forbidden"
    else:
        status, reason = 404, "Not Found"
    headers = (
        ("Connection", "Keep-Alive"),
        ("Content-Type", "text/html; charset=iso-8859-1"),
        ("Date", encode_date(dt.datetime.now(dt.UTC))),
        ("Keep-Alive", "timeout=15; max=19"),
    )
    body = f"<html><body><h1>{status} {reason}</h1></body><!-- {_TAG} --></html>\r\n"
    return encode_response(Response(status, reason, headers, body.encode()))


def _login_pack(request: Request) -> Pack:
    """Return the Pack of a request.

    Raises:
        RemoteProtocolError: It is none, or does not come as one.
    """
    is_ours = (
        request.is_for("POST", PACK_TARGET) and request.version.upper() == "HTTP/1.1"
    )
    if not is_ours or not request.carries_pack:
        raise RemoteProtocolError("the request carries no Pack")
    return decode_pack(request.body)
