# SPDX-License-Identifier: Apache-2.0
"""What the tests of trusted streams share: peers on loopback, and the client's side.

with tls_server(leaf, echo) as port:
    stream = asyncio.run(opened(port, INSECURE))
    stream.queue(b"hello")
    assert drained(stream, 5) == b"hello"
"""

from __future__ import annotations

import asyncio
import hashlib
import select
import socket
import ssl
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress

from reading import read_some
from sevpn.testing.certs import Issued
from sevpn.transport.dialing import Dialing
from sevpn.transport.resolve import Address, Family
from sevpn.transport.stream import SecureStream, open_stream
from sevpn.transport.tls import TrustPolicy

INSECURE = TrustPolicy(insecure=True)

_PATIENCE_S = 10.0


# --- peers -------------------------------------------------------------------


@contextmanager
def listening(
    talk: Callable[[socket.socket], None], address: str = "127.0.0.1"
) -> Generator[int]:
    """Let *talk* have each connection, one after the other, in a thread; yields the port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, 0), family=family)

    def run() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.settimeout(_PATIENCE_S)
            with sock, suppress(OSError):
                talk(sock)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(2 * _PATIENCE_S)


def server_context(issued: Issued) -> ssl.SSLContext:
    """Return what a server with this certificate needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    return context


@contextmanager
def tls_server(issued: Issued, talk: Callable[[ssl.SSLSocket], None]) -> Generator[int]:
    """Serve TLS; an end of the client's without close_notify is an error to *talk*."""
    context = server_context(issued)

    def wrapped(sock: socket.socket) -> None:
        with (
            suppress(ssl.SSLError),
            context.wrap_socket(
                sock, server_side=True, suppress_ragged_eofs=False
            ) as tls,
        ):
            talk(tls)

    with listening(wrapped) as port:
        yield port


def unheard(_: socket.socket) -> None:
    """Close at once."""


def silent(sock: socket.socket) -> None:
    """Read until the peer goes, and say nothing."""
    while sock.recv(65536):
        pass


def echo(tls: ssl.SSLSocket) -> None:
    """Say what is heard."""
    while data := tls.recv(65536):
        tls.sendall(data)


# --- the client's side -------------------------------------------------------


async def opened(
    port: int,
    trust: TrustPolicy = INSECURE,
    *,
    host: str = "127.0.0.1",
    timeout_s: float = 5.0,
    family: Family = "any",
    legacy_tls: bool = False,
) -> SecureStream:
    """Open a stream to a peer; raises what `open_stream` does."""

    async def nothing(_: Sequence[Address]) -> None:
        pass

    return await open_stream(
        host,
        port,
        trust=trust,
        timeout_s=timeout_s,
        on_addresses=nothing,
        dialing=Dialing(family=family, legacy_tls=legacy_tls),
    )


def open_and_close(
    port: int, trust: TrustPolicy, *, host: str = "127.0.0.1"
) -> SecureStream:
    """Open a stream, and end it politely; what it knows of its peer stays."""

    async def run() -> SecureStream:
        stream = await opened(port, trust, host=host)
        stream.close(polite=True)
        return stream

    return asyncio.run(run())


def drained(stream: SecureStream, size: int) -> bytes:
    """Read *size* bytes as the data thread does, sending what waits meanwhile."""
    got = bytearray()
    while len(got) < size:
        if data := read_some(stream, 131072):
            got += data
        else:
            stream.flush()
            wait_for(stream, to_send=bool(stream.pending_bytes))
    return bytes(got)


def wait_for(stream: SecureStream, *, to_send: bool = False) -> None:
    """Wait until there may be something to read, or room to send."""
    ours = [stream.fileno()]
    select.select(ours, ours if to_send else [], [], _PATIENCE_S)


def sha256_of(issued: Issued) -> str:
    """Return the fingerprint of a certificate."""
    der = ssl.PEM_cert_to_DER_cert(issued.certificate.read_text())
    return hashlib.sha256(der).hexdigest()
