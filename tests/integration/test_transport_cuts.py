# SPDX-License-Identifier: Apache-2.0
"""Trusted streams whose bytes arrive in any pieces, and whose peer leaves at any byte.

A relay stands between the client and a TLS server and decides what passes:

    SecureStream ──TCP──> relay ──TCP──> TLS server
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from integration.tls_peer import (
    echo,
    listening,
    opened,
    server_context,
    wait_for,
)
from reading import read_some
from sevpn.errors import ConnectionLostError, Failure, SevpnError, SilenceError
from sevpn.testing.certs import Issued, make_authority
from sevpn.transport.stream import SecureStream


@pytest.fixture(scope="module")
def leaf(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    folder: Path = tmp_path_factory.mktemp("cuts")
    return make_authority(folder).issue("relayed", addresses=["127.0.0.1"])


@contextmanager
def tls_behind_relay(
    leaf: Issued,
    talk: Callable[[ssl.SSLSocket], None],
    *,
    piece_size: int = 65536,
    cut_after: int | None = None,
) -> Generator[int]:
    """Serve TLS behind a relay that passes *piece_size* bytes at a time to the client.

    The relay closes after *cut_after* bytes of the server's, if that is given.
    """
    context = server_context(leaf)

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as tls:
            talk(tls)

    with listening(serve) as inner:

        def relay(client: socket.socket) -> None:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with socket.create_connection(("127.0.0.1", inner), timeout=5) as server:
                _relay(client, server, piece_size, cut_after)

        with listening(relay) as outer:
            yield outer


def _relay(
    client: socket.socket, server: socket.socket, piece_size: int, cut_after: int | None
) -> None:
    passed = 0
    while True:
        ready, _, _ = select.select([client, server], [], [], 5)
        if not ready:
            return
        if client in ready:
            data = client.recv(65536)
            if not data:
                return
            server.sendall(data)
        if server in ready:
            room = (
                piece_size if cut_after is None else min(piece_size, cut_after - passed)
            )
            data = server.recv(room) if room else b""
            if not data:
                return
            client.sendall(data)
            passed += len(data)


async def received(stream: SecureStream, size: int) -> bytes:
    got = b""
    while len(got) < size:
        data = await stream.receive()
        assert data, "the stream ended early"
        got += data
    return got


@pytest.mark.parametrize("piece_size", [1, 7, 1447])
def test_what_arrives_does_not_depend_on_the_pieces(
    leaf: Issued, piece_size: int
) -> None:
    payload = bytes(range(256)) * 16

    async def run(port: int) -> bytes:
        async with asyncio.timeout(20):
            stream = await opened(port)
            await stream.send(payload)
            got = await received(stream, len(payload))
            stream.close(polite=True)
            return got

    with tls_behind_relay(leaf, echo, piece_size=piece_size) as port:
        assert asyncio.run(run(port)) == payload


def test_a_stream_that_a_loop_has_used_goes_on_in_a_thread(leaf: Issued) -> None:
    async def run(port: int) -> SecureStream:
        stream = await opened(port)
        await stream.send(b"on the loop")
        assert await received(stream, 11) == b"on the loop"
        return stream

    heard: list[bytes] = []

    def drive(stream: SecureStream) -> None:
        stream.queue(b"in a thread")
        assert stream.flush()
        wait_for(stream)
        heard.append(read_some(stream, 65536))
        stream.close(polite=True)

    with tls_behind_relay(leaf, echo) as port:
        stream = asyncio.run(run(port))
        thread = threading.Thread(target=drive, args=(stream,))
        thread.start()
        thread.join(10)

    assert heard == [b"in a thread"]


def test_no_more_is_read_than_was_asked_for(leaf: Issued) -> None:
    payload = bytes(range(256)) * 1000

    def talk(tls: ssl.SSLSocket) -> None:
        tls.sendall(payload)
        tls.recv(1)

    with tls_behind_relay(leaf, talk) as port:
        stream = asyncio.run(opened(port))
        got = b""
        while len(got) < len(payload):
            piece = read_some(stream, 1000)
            assert len(piece) <= 1000
            got += piece
            if not piece:
                wait_for(stream)
        assert read_some(stream, 1000) == b""
        stream.close(polite=True)

    assert got == payload


# A server's part of the handshake is over 1 KiB: record header, ServerHello,
# certificate.
@pytest.mark.parametrize("cut_after", [0, 1, 4, 5, 6, 90, 127, 128, 200, 500])
def test_a_server_that_leaves_during_the_handshake_is_told_as_such(
    leaf: Issued, cut_after: int
) -> None:
    with (
        tls_behind_relay(leaf, echo, cut_after=cut_after) as port,
        pytest.raises(SevpnError) as caught,
    ):
        asyncio.run(opened(port))

    assert isinstance(caught.value, ConnectionLostError)
    assert caught.value.failure is Failure.PEER


def test_a_handshake_that_is_given_up_closes_its_connection() -> None:
    has_begun, has_ended = threading.Event(), threading.Event()

    def swallow(sock: socket.socket) -> None:
        while sock.recv(65536):
            has_begun.set()
        has_ended.set()

    async def run(port: int) -> None:
        task = asyncio.create_task(opened(port))
        assert await asyncio.to_thread(has_begun.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(has_ended.wait, 5)

    with listening(swallow) as port:
        asyncio.run(run(port))


def test_a_handshake_that_never_ends_costs_the_deadline() -> None:
    def held(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(b"\x16\x03\x03\x40\x00")  # a record of 16 KiB, never ended
        while sock.recv(65536):
            pass

    with listening(held) as port, pytest.raises(SilenceError):
        asyncio.run(opened(port, timeout_s=0.2))


@pytest.mark.parametrize("unread_size", [0, 10, 5000])
def test_a_polite_end_is_polite_although_not_all_was_read(
    leaf: Issued, unread_size: int
) -> None:
    context = server_context(leaf)
    heard: list[bytes] = []
    sent = threading.Event()

    def talk(sock: socket.socket) -> None:
        with context.wrap_socket(
            sock, server_side=True, suppress_ragged_eofs=False
        ) as tls:
            tls.sendall(bytes(1 + unread_size))
            sent.set()
            heard.extend(iter(lambda: tls.recv(100), b""))
            heard.append(b"close_notify")

    with listening(talk) as port:  # a relay would hide who ended what
        stream = asyncio.run(opened(port))
        assert sent.wait(5)
        while not read_some(stream, 1):
            wait_for(stream)
        stream.queue(b"last words")
        stream.close(polite=True)

    assert heard == [b"last words", b"close_notify"]
