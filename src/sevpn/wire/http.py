# SPDX-License-Identifier: Apache-2.0
r"""The part of HTTP/1.1 that carries the handshake.

Layer: wire. Runs in: any thread; one reader per connection and direction.

    request  := "POST /vpnsvc/vpn.cgi HTTP/1.1" end, header, end, body
    response := "HTTP/1.1 200 OK" end, header, end, body
    header   := (name ":" value end)*        one Content-Length among them
    end      := CR LF, or LF alone

There is no chunked coding, no compression, no redirect and no pipelining. After
the last response the same connection carries the session, so whatever was read
past a body is handed over to the byte: :meth:`HttpReader.trailing`.

The reader walks through these states:

    head ──empty line──> body [Content-Length] ──whole──> head of the next message
     │ └──a response without a length that is no Pack's──> message without body; over
     └──more than 8 KiB or 64 lines, or no HTTP──> error

Source: docs/reference/protocol.md#http; SoftEtherVPN, Mayaqua/HTTP.c,
RecvHttpHeader(), HttpClientSend() and HttpServerSend().
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, field
from typing import Final, Literal

from sevpn.errors import LocalProtocolError, RemoteProtocolError
from sevpn.wire.text import display_line

__all__ = [
    "MAX_BODY_SIZE",
    "MAX_HEADER_LINES",
    "MAX_HEADER_SIZE",
    "PACK_TYPE",
    "Headers",
    "HttpReader",
    "Request",
    "Response",
    "encode_date",
    "encode_request",
    "encode_response",
]

MAX_HEADER_SIZE: Final = 8192
"""Bytes before a body, first line and line ends included. Our choice; official messages need 250."""

MAX_HEADER_LINES: Final = 64
"""Lines after the first one. Our choice; official readers keep 128."""

MAX_BODY_SIZE: Final = 1 << 20
"""Bytes of a body, unless the reader is told less. Our choice: a Welcome with the longest message has 90 KiB."""

PACK_TYPE: Final = "application/octet-stream"
"""The Content-Type of every Pack."""

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)

Headers = tuple[tuple[str, str], ...]
"""Names and values in their order; names compare without regard to case."""

_LINE: Final = re.compile(r"([!-9;-~]+)[ \t]*:[ \t]*(.*?)[ \t]*", re.DOTALL)
_STATUS: Final = re.compile(r"(HTTP/\d\.\d) +(\d{3})(?: +(.*))?", re.IGNORECASE)
_EXCERPT_SIZE: Final = 200


def _find(headers: Headers, name: str) -> str | None:
    return next((v for n, v in headers if n.lower() == name.lower()), None)


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sends."""

    method: str
    """`POST`, as written; servers compare it without regard to case."""

    target: str
    """Path, as written; compared likewise."""

    headers: Headers = ()
    """Without Content-Length when built for sending."""

    body: bytes = field(default=b"", repr=False)
    """The Pack or the signature; may hold secrets."""

    version: str = "HTTP/1.1"
    """As written."""

    def header(self, name: str) -> str | None:
        """Return the first value of that header, None if absent."""
        return _find(self.headers, name)

    def is_for(self, method: str, target: str) -> bool:
        """Tell whether this is *method* on *target*, without regard to case."""
        return (self.method.upper(), self.target.lower()) == (
            method.upper(),
            target.lower(),
        )

    @property
    def carries_pack(self) -> bool:
        """Whether the body is declared to be a Pack and there is one."""
        return bool(self.body) and _is_pack_type(self.headers)


@dataclass(frozen=True, slots=True)
class Response:
    """What a server answers."""

    status: int
    """200 for every Pack, those that carry an error included."""

    reason: str = "OK"
    """The words after the status."""

    headers: Headers = ()
    """Without Content-Length when built for sending."""

    body: bytes = field(default=b"", repr=False)
    """The Pack; may hold secrets."""

    version: str = "HTTP/1.1"
    """As written."""

    is_whole: bool = True
    """Whether the body was read. False for a foreign answer without a usable length."""

    def header(self, name: str) -> str | None:
        """Return the first value of that header, None if absent."""
        return _find(self.headers, name)

    @property
    def status_line(self) -> str:
        """The first line, safe to show."""
        return display_line(f"{self.version} {self.status} {self.reason}", 100)

    @property
    def carries_pack(self) -> bool:
        """Whether this is an answer that a SoftEther server gives with a Pack."""
        return _is_pack_answer(self.status, self.version, self.headers)


def _is_pack_type(headers: Headers) -> bool:
    return (_find(headers, "Content-Type") or "").lower() == PACK_TYPE


def _is_pack_answer(status: int, version: str, headers: Headers) -> bool:
    return status == 200 and version.upper() == "HTTP/1.1" and _is_pack_type(headers)


# --- writing -----------------------------------------------------------------


def encode_date(at: dt.datetime) -> str:
    """Return the value of a `Date` header (RFC 9110, section 5.6.7).

    The standard library's own is part of its mail package, which takes longer to import
    than a login does.

    Args:
        at: When, in UTC.
    """
    day, month = _DAYS[at.weekday()], _MONTHS[at.month - 1]
    return f"{day}, {at.day:02} {month} {at.year:04} {at:%H:%M:%S} GMT"


def encode_request(request: Request) -> bytes:
    """Return the bytes of *request*, Content-Length added, headers sorted by name.

    Raises:
        LocalProtocolError: A header is empty (servers drop the connection for
            it) or would break the line.
    """
    first = f"{request.method} {request.target} {request.version}"
    return _encode(first, request.headers, request.body)


def encode_response(response: Response) -> bytes:
    """Return the bytes of *response*; as :func:`encode_request`."""
    first = f"{response.version} {response.status} {response.reason}"
    return _encode(first, response.headers, response.body)


def _encode(first: str, headers: Headers, body: bytes) -> bytes:
    lines = [first]
    for name, value in sorted((*headers, ("Content-Length", str(len(body))))):
        if not value.strip() or not name.strip() or not (name + value).isprintable():
            raise LocalProtocolError(f"header {name!r} cannot be sent")
        lines.append(f"{name}: {value}")
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body


# --- reading -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Head:
    """Everything before a body."""

    message: Request | Response
    body_size: int


class HttpReader:
    """Reads the messages of one direction of one connection.

    Call :meth:`next_message` until it returns None after each :meth:`feed`: what
    is held back is then at most one message, plus what one call has fed.

    Args:
        role: Whose reader this is: a ``client`` reads responses, a ``server``
            requests.
        max_body: Bytes of the largest body; :data:`MAX_BODY_SIZE` at most makes
            sense. May be changed between two messages.
    """

    def __init__(
        self, role: Literal["client", "server"], max_body: int = MAX_BODY_SIZE
    ) -> None:
        self._role: Final = role
        self.max_body = max_body
        """Bytes of the largest body that is read."""
        self._held = bytearray()
        self._head: _Head | None = None
        self._is_over = False

    @property
    def pending(self) -> Request | Response | None:
        """The message whose body is not complete yet, without it; else None."""
        return self._head.message if self._head else None

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the stream. Copied: the caller may reuse its buffer."""
        self._held += data

    def next_message(self) -> Request | Response | None:
        """Return the next whole message, None if more bytes are needed.

        Neither the messages nor the kind of an error depend on where the stream
        was cut. A response that is no Pack's answer and has no usable length
        comes without its body (`is_whole` False); it is the last one.

        A request without Content-Length has an empty body. What a server says
        to a wrong method, path or length is the server's business.

        Raises:
            RemoteProtocolError: The bytes are no HTTP, or break a limit. Drop
                the reader and its connection.
            LocalProtocolError: Called again after an error or the last message.

        Any other exception is a bug.
        """
        if self._is_over:
            raise LocalProtocolError("an HTTP reader was asked after its last message")
        try:
            return self._read()
        except RemoteProtocolError:
            self._is_over = True
            raise

    def trailing(self) -> bytes:
        """Return, and forget, the bytes behind the message just returned.

        They belong to the session when that message was the Welcome.
        """
        rest = bytes(self._held)
        self._held.clear()
        return rest

    def _read(self) -> Request | Response | None:
        head = self._head
        if head is None:
            lines = self._take_lines()
            if lines is None:
                return None
            self._head = head = self._decode_head(lines)
        if isinstance(head.message, Response) and not head.message.is_whole:
            self._is_over = True
            return head.message
        if len(self._held) < head.body_size:
            return None
        self._head = None
        body = bytes(self._held[: head.body_size])
        del self._held[: head.body_size]
        return _with_body(head.message, body)

    def _take_lines(self) -> list[str] | None:
        if self._role == "client" and not b"HTTP/".startswith(self._held[:5].upper()):
            raise RemoteProtocolError(
                f"the answer is not HTTP, it begins {display_line(self._first_line())!r}"
            )
        lines: list[str] = []
        start = 0
        while (end := self._held.find(b"\n", start, MAX_HEADER_SIZE)) >= 0:
            line = self._held[start:end].removesuffix(b"\r").decode("latin-1")
            start = end + 1
            if not line and lines:
                del self._held[:start]
                return lines
            lines.append(line)
            if len(lines) > MAX_HEADER_LINES + 1:
                raise RemoteProtocolError(
                    f"the HTTP header has more than {MAX_HEADER_LINES} lines"
                )
        if len(self._held) >= MAX_HEADER_SIZE:
            raise RemoteProtocolError(
                f"the HTTP header is longer than {MAX_HEADER_SIZE} bytes"
            )
        return None

    def _first_line(self) -> bytes:
        return bytes(self._held[:_EXCERPT_SIZE]).split(b"\n")[0]

    def _decode_head(self, lines: list[str]) -> _Head:
        headers = tuple(self._decode_line(line) for line in lines[1:])
        if self._role == "server":
            return self._decode_request(lines[0], headers)
        return self._decode_response(lines[0], headers)

    def _decode_line(self, line: str) -> tuple[str, str]:
        match = _LINE.fullmatch(line)
        if match is None:
            raise RemoteProtocolError(
                f"{display_line(line, 60)!r} is no line of an HTTP header"
            )
        # Official servers drop the connection for a header without a value.
        if not match[2] and self._role == "server":
            raise RemoteProtocolError(
                f"the HTTP header {display_line(match[1], 60)!r} is empty"
            )
        return match[1], match[2]

    def _decode_request(self, first: str, headers: Headers) -> _Head:
        words = first.split()
        if len(words) != 3 or not words[2].upper().startswith("HTTP/"):
            raise RemoteProtocolError(
                f"{display_line(first, 60)!r} is no HTTP request line"
            )
        message = Request(words[0], words[1], headers, version=words[2])
        return _Head(message, self._body_size(headers) or 0)

    def _decode_response(self, first: str, headers: Headers) -> _Head:
        match = _STATUS.fullmatch(first)
        if match is None:
            raise RemoteProtocolError(
                f"{display_line(first, 60)!r} is no HTTP status line"
            )
        version, status, reason = match[1], int(match[2]), match[3] or ""
        if _is_pack_answer(status, version, headers):
            size = self._body_size(headers)
            if not size:
                raise RemoteProtocolError("the HTTP answer has no Content-Length")
            return _Head(Response(status, reason, headers, version=version), size)
        size = self._foreign_size(headers)
        message = Response(
            status, reason, headers, version=version, is_whole=size is not None
        )
        return _Head(message, size or 0)

    def _foreign_size(self, headers: Headers) -> int | None:
        """Return the size of a body that is no Pack, None if it is not worth reading."""
        try:
            return self._body_size(headers)
        except RemoteProtocolError:
            return None

    def _body_size(self, headers: Headers) -> int | None:
        """Return the length that the header announces, None if it has none.

        Raises:
            RemoteProtocolError: It has two, another coding, no number or too much.
        """
        if _find(headers, "Transfer-Encoding") is not None:
            raise RemoteProtocolError(
                "the HTTP message has a Transfer-Encoding, which this protocol does not know"
            )
        lengths = [v for n, v in headers if n.lower() == "content-length"]
        if not lengths:
            return None
        if len(lengths) > 1:
            raise RemoteProtocolError("the HTTP header has two Content-Length lines")
        length = lengths[0]
        if not (length.isascii() and length.isdigit()):
            raise RemoteProtocolError(
                f"the HTTP Content-Length is no number: {display_line(length, 60)!r}"
            )
        # Compared by digits first: int() of a very long number is expensive.
        if len(length.lstrip("0")) > 10 or int(length) > self.max_body:
            raise RemoteProtocolError(
                f"the HTTP body is announced with {display_line(length, 60)} bytes: at most {self.max_body} are taken"
            )
        return int(length)


def _with_body(message: Request | Response, body: bytes) -> Request | Response:
    if isinstance(message, Request):
        return Request(
            message.method, message.target, message.headers, body, message.version
        )
    return Response(
        message.status, message.reason, message.headers, body, message.version
    )
