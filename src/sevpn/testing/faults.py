# SPDX-License-Identifier: Apache-2.0
"""Servers that are no SoftEther server, or a malicious one.

Layer: testing. Runs in: threads of its own, one per connection.

    with HostileServer("web-page") as hostile:      on loopback, in this process
        … connect to hostile.port …

    machine.popen([sys.executable, "-m", "sevpn.testing.faults", "web-page", "192.0.2.1", "443"])

What a server of the protocol does wrong on purpose is asked of the embedded server:
sevpn/server/faults.py. Here are those who do not speak it, and ready-made bytes
that break it: :data:`MALFORMED_ANSWERS` for the Hello and the Welcome,
:data:`MALFORMED_BLOCKS` for the session.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, Self

from sevpn.server.certificate import Identity, make_identity, server_context
from sevpn.wire.http import PACK_TYPE, Response, encode_response

__all__ = [
    "BEHAVIOURS",
    "MALFORMED_ANSWERS",
    "MALFORMED_BLOCKS",
    "HostileServer",
    "pack_answer",
]

_PATIENCE_S: Final = 60.0


def pack_answer(body: bytes) -> bytes:
    """Return the HTTP answer that claims *body* is a Pack."""
    headers = (("Connection", "Keep-Alive"), ("Content-Type", PACK_TYPE))
    return encode_response(Response(200, "OK", headers, body))


def _head(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join((*lines, "", "")).encode() + body


_OK: Final = "HTTP/1.1 200 OK"
_PACK_LINE: Final = f"Content-Type: {PACK_TYPE}"

MALFORMED_ANSWERS: Final[Mapping[str, bytes]] = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "binary": bytes(range(256)),
    "a web page": _head(
        _OK, "Content-Type: text/html", "Content-Length: 5", body=b"hello"
    ),
    "a redirect": _head(
        "HTTP/1.1 302 Found", "Location: http://login.example/", "Content-Length: 0"
    ),
    "no length": _head(_OK, _PACK_LINE, body=bytes(4)),
    "two lengths": _head(
        _OK, _PACK_LINE, "Content-Length: 4", "Content-Length: 5", body=bytes(4)
    ),
    "a length that is none": _head(_OK, _PACK_LINE, "Content-Length: -4"),
    "a length of 2 GiB": _head(_OK, _PACK_LINE, "Content-Length: 2147483648"),
    "chunks": _head(_OK, _PACK_LINE, "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "an endless header": _OK.encode() + b"\r\nX: " + b"x" * 100_000,
    "endless header lines": _OK.encode() + b"\r\nX: x" * 10_000,
    "a Pack of garbage": pack_answer(b"\xff" * 64),
    "a Pack with too many elements": pack_answer(b"\x7f\xff\xff\xff"),
    "a Pack with a value of 4 GiB": pack_answer(
        struct.pack(">II", 1, 6) + b"hello" + struct.pack(">III", 1, 1, 0xFFFFFFFF)
    ),
    "a Pack that is cut": pack_answer(struct.pack(">II", 1, 6) + b"hel"),
    "an element of no value": pack_answer(
        struct.pack(">II", 1, 6) + b"hello" + struct.pack(">II", 2, 0)
    ),
    "an unknown type": pack_answer(
        struct.pack(">II", 1, 6) + b"hello" + struct.pack(">II", 9, 1)
    ),
    "an element twice": pack_answer(
        struct.pack(">I", 2)
        + 2 * (struct.pack(">I", 2) + b"a" + struct.pack(">III", 0, 1, 1))
    ),
    "an empty Pack": pack_answer(bytes(4)),
}
"""Answers that are none, by what is wrong with them. Each must be refused with bounded memory."""

MALFORMED_BLOCKS: Final[Mapping[str, bytes]] = {
    "text": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a block of 3201 bytes": struct.pack(">II", 1, 3201),
    "a block of 4 GiB": struct.pack(">II", 1, 0xFFFFFFFF),
    "a keep-alive of 513 bytes": struct.pack(">II", 0xFFFFFFFF, 513),
    "a keep-alive of 4 GiB": struct.pack(">II", 0xFFFFFFFF, 0xFFFFFFFF),
}
"""What ends a session, by what is wrong with it."""


# --- servers -----------------------------------------------------------------------


def _garbage(sock: socket.socket, _context: ssl.SSLContext) -> None:
    sock.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
    _wait_for_end(sock)


def _endless_garbage(sock: socket.socket, _context: ssl.SSLContext) -> None:
    while True:
        sock.sendall(b"\x00\xff" * 4096)


def _silence(sock: socket.socket, _context: ssl.SSLContext) -> None:
    _wait_for_end(sock)


def _silence_inside_tls(sock: socket.socket, context: ssl.SSLContext) -> None:
    with context.wrap_socket(sock, server_side=True) as stream:
        _wait_for_end(stream)


def _close(_sock: socket.socket, _context: ssl.SSLContext) -> None:
    pass


def _reset(sock: socket.socket, _context: ssl.SSLContext) -> None:
    sock.recv(65536)  # else the client's connect() itself may fail
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _close_inside_tls(sock: socket.socket, context: ssl.SSLContext) -> None:
    with context.wrap_socket(sock, server_side=True):
        pass


def _plain_http(sock: socket.socket, _context: ssl.SSLContext) -> None:
    sock.recv(65536)
    sock.sendall(_head("HTTP/1.1 400 Bad Request", "Content-Length: 0"))


def _web_page(sock: socket.socket, context: ssl.SSLContext) -> None:
    page = b"<html><title>It works!</title></html>"
    with context.wrap_socket(sock, server_side=True) as stream:
        while stream.recv(65536):
            stream.sendall(
                _head(
                    "HTTP/1.1 404 Not Found",
                    "Server: nginx",
                    "Content-Type: text/html",
                    f"Content-Length: {len(page)}",
                    body=page,
                )
            )


def _endless_page(sock: socket.socket, context: ssl.SSLContext) -> None:
    with context.wrap_socket(sock, server_side=True) as stream:
        stream.recv(65536)
        stream.sendall(_head(_OK, "Content-Type: text/html"))
        while True:
            stream.sendall(b"x" * 16384)


def _drip(sock: socket.socket, context: ssl.SSLContext) -> None:
    """One byte a second: no single wait is long, the whole is."""
    with context.wrap_socket(sock, server_side=True) as stream:
        answer = _head(_OK, _PACK_LINE, "Content-Length: 1000")
        for octet in itertools.chain(answer, itertools.repeat(0)):
            stream.sendall(bytes([octet]))
            time.sleep(1)


BEHAVIOURS: Final[Mapping[str, Callable[[socket.socket, ssl.SSLContext], None]]] = {
    "garbage": _garbage,
    "endless-garbage": _endless_garbage,
    "silence": _silence,
    "tls-silence": _silence_inside_tls,
    "close": _close,
    "reset": _reset,
    "tls-close": _close_inside_tls,
    "plain-http": _plain_http,
    "web-page": _web_page,
    "endless-page": _endless_page,
    "drip": _drip,
}
"""What a :class:`HostileServer` can be, by name."""


class HostileServer:
    """A server that does one wrong thing to each who connects.

    Args:
        behaviour: A key of :data:`BEHAVIOURS`, or bytes: sent inside TLS as the
            answer to whatever comes first, before the end.
        address: Where to listen.
        port: TCP port; 0 lets the kernel choose.
        identity: The certificate; made here if not given.
        close_at: Instead of all those bytes, send so many and close.
    """

    def __init__(
        self,
        behaviour: str | bytes,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        identity: Identity | None = None,
        close_at: int | None = None,
    ) -> None:
        self.connection_count = 0
        """Connections so far."""
        self.identity = identity or make_identity((address, "localhost"))
        """Its certificate and key."""
        self._context = server_context(self.identity)
        self._behave = (
            BEHAVIOURS[behaviour]
            if isinstance(behaviour, str)
            else _sender(behaviour[:close_at])
        )
        self._listener = socket.create_server((address, port))
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        # A thread that waits in accept() is not woken by close().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in tuple(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connection_count += 1
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(_PATIENCE_S)
        # wrap_socket() takes the descriptor away; this copy can still be shut down.
        handle = sock.dup()
        self._open.add(handle)
        with sock, handle, contextlib.suppress(OSError):
            self._behave(sock, self._context)
        self._open.discard(handle)


def _sender(data: bytes) -> Callable[[socket.socket, ssl.SSLContext], None]:
    def behave(sock: socket.socket, context: ssl.SSLContext) -> None:
        with context.wrap_socket(sock, server_side=True) as stream:
            stream.recv(65536)
            stream.sendall(data)

    return behave


def _wait_for_end(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


if __name__ == "__main__":
    with HostileServer(sys.argv[1], address=sys.argv[2], port=int(sys.argv[3])) as made:
        print(made.identity.sha256, flush=True)  # noqa: T201 - for the test that started it
        threading.Event().wait()
