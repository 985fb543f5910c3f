# SPDX-License-Identifier: Apache-2.0
"""SecureStream against a TLS socket: one bulk transfer over loopback, each direction.

    sender process ──TLS over loopback──> receiver process

    send      SecureStream or SSLSocket, 48 KiB at a time  ──>  a trivial receiver
    receive   a trivial sender  ──>  SecureStream or SSLSocket, 128 KiB at a time

Run: `python -m bench.bench_stream [--mib 256] [--rounds 5]`.

The two take turns in one run, each without ever blocking in a send. What counts is
the ratio, SSLSocket's seconds per GB by SecureStream's: over 1, SecureStream is the
faster. The other side is the same for both.
"""

from __future__ import annotations

import argparse
import multiprocessing
import select
import socket
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from sevpn.testing.certs import Issued, make_authority
from sevpn.transport.stream import SecureStream
from sevpn.transport.tls import TrustPolicy, client_context

BATCH: Final = bytes(48 * 1024)  # 32 frames, as the pump joins them under load
CHUNK_SIZE: Final = 128 * 1024

Measured = Callable[[socket.socket, int], None]


def trivial_peer(listener: socket.socket, issued: Issued, size: int) -> None:
    """Serve connections for ever: sends *size* bytes if it hears `R`, else swallows them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    buffer = bytearray(CHUNK_SIZE)
    while True:
        sock, _ = listener.accept()
        with context.wrap_socket(sock, server_side=True) as tls:
            if tls.recv(1) == b"R":
                for _ in range(size // len(BATCH)):
                    tls.sendall(BATCH)
            else:
                left = size // len(BATCH) * len(BATCH)
                while left > 0:
                    left -= tls.recv_into(buffer)
            tls.sendall(b"!")
            tls.recv(1)


def set_up(sock: socket.socket) -> SecureStream:
    context = client_context(TrustPolicy(insecure=True))
    stream = SecureStream(sock, context, server_name="localhost", verified_by="none")
    tls = stream._tls  # noqa: SLF001 - the set-up runs on a loop otherwise
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            send_all(stream)
            await_readable(stream)
            stream._fill()  # noqa: SLF001 - likewise
        else:
            send_all(stream)
            return stream


def await_readable(stream: SecureStream) -> None:
    select.select([stream.fileno()], [], [])


def send_all(stream: SecureStream) -> None:
    while not stream.flush():
        select.select([], [stream.fileno()], [])


def read_exactly(stream: SecureStream, size: int) -> None:
    left = size
    buffer = memoryview(bytearray(CHUNK_SIZE))
    while left > 0:
        count = stream.read_into(buffer)
        left -= count
        if not count:
            await_readable(stream)


def stream_sends(sock: socket.socket, size: int) -> None:
    stream = set_up(sock)
    stream.queue(b"S")
    for _ in range(size // len(BATCH)):
        stream.queue(BATCH)
        send_all(stream)
    read_exactly(stream, 1)


def stream_receives(sock: socket.socket, size: int) -> None:
    stream = set_up(sock)
    stream.queue(b"R")
    send_all(stream)
    read_exactly(stream, size // len(BATCH) * len(BATCH) + 1)


def wrapped(sock: socket.socket) -> ssl.SSLSocket:
    sock.setblocking(True)  # noqa: FBT003 - the standard library's name
    context = client_context(TrustPolicy(insecure=True))
    return context.wrap_socket(sock, server_hostname="localhost")


def socket_sends(sock: socket.socket, size: int) -> None:
    with wrapped(sock) as tls:
        tls.sendall(b"S")
        tls.setblocking(False)  # noqa: FBT003 - the data thread never blocks, either
        for _ in range(size // len(BATCH)):
            left = memoryview(BATCH)
            while left:
                try:
                    left = left[tls.send(left) :]
                except ssl.SSLWantWriteError:
                    select.select([], [tls], [])
        tls.setblocking(True)  # noqa: FBT003 - as above
        tls.recv(1)


def socket_receives(sock: socket.socket, size: int) -> None:
    with wrapped(sock) as tls:
        tls.sendall(b"R")
        left = size // len(BATCH) * len(BATCH) + 1
        while left > 0:
            left -= len(tls.recv(CHUNK_SIZE))


def measure(port: int, run: Measured, size: int) -> tuple[float, float]:
    """Return processor seconds and seconds of real time, both per GB."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)  # noqa: FBT003 - the standard library's name
        began, began_at = time.process_time(), time.monotonic()
        run(sock, size)
        used, took = time.process_time() - began, time.monotonic() - began_at
        return used / size * 1e9, took / size * 1e9


def compare(
    port: int, runs: Mapping[str, tuple[Measured, Measured]], *, size: int, rounds: int
) -> None:
    for name, (ours, theirs) in runs.items():
        pairs = [
            (measure(port, ours, size), measure(port, theirs, size))
            for _ in range(rounds)
        ]
        for number, what in enumerate(("processor", "real time")):
            mine = statistics.median(pair[0][number] for pair in pairs)
            other = statistics.median(pair[1][number] for pair in pairs)
            ratio = statistics.median(
                pair[1][number] / pair[0][number] for pair in pairs
            )
            print(
                f"{name:8} {what:10} SecureStream {mine:.2f} s/GB   "
                f"SSLSocket {other:.2f} s/GB   ratio {ratio:.2f}"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mib", type=int, default=256, help="MiB per transfer")
    parser.add_argument("--rounds", type=int, default=5, help="transfers of each")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        issued = make_authority(Path(folder)).issue("bench", hosts=["localhost"])
        peer = multiprocessing.get_context("fork").Process(
            target=trivial_peer, args=(listener, issued, args.mib << 20), daemon=True
        )
        peer.start()
        try:
            runs = {
                "send": (stream_sends, socket_sends),
                "receive": (stream_receives, socket_receives),
            }
            port = listener.getsockname()[1]
            compare(port, runs, size=args.mib << 20, rounds=args.rounds)
        finally:
            peer.terminate()
            peer.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
