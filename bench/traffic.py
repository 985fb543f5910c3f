# SPDX-License-Identifier: Apache-2.0
"""What runs on the machines of the lab: senders, receivers, echoes, bare TLS.

    traffic.py send ADDRESS PORT --size 22 --seconds 2 [--per-second N | --count N]
    traffic.py sink ADDRESS PORT
    traffic.py ping ADDRESS --count 200 --interval 0.01
    traffic.py tls-serve ADDRESS PORT CERTIFICATE KEY
    traffic.py tls-client ADDRESS PORT {out,in} --seconds 2 [--memory]

Each is a program of its own, needs nothing but the standard library, and prints one
JSON object at its end; `sink` and `tls-serve` first print a line `ready`. Times are
those of the monotonic clock, which all machines of a lab share.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

_SEQUENCE: Final = struct.Struct("!Q")
_FIRST_S: Final = 5.0
_QUIET_S: Final = 0.6  # the official server holds back what is left for 0.26 s
_BUFFER_SIZE: Final = 1 << 25
_SO_RCVBUFFORCE: Final = 33
_SO_TIMESTAMPNS: Final = 35
_UDP_SEGMENT: Final = 103
_RECORD_SIZE: Final = 1 << 14
_BATCH_SIZE: Final = 1 << 17


# --- UDP ---------------------------------------------------------------------


def send(options: argparse.Namespace) -> dict[str, Any]:
    """Send numbered datagrams: a count of them, for some time, or at a pace."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((options.address, options.port))
    payload = bytearray(options.size)
    if options.count:
        return _send_at_once(sock, options.size, options.count)
    sent = 0
    began_at = time.monotonic()
    end_at = began_at + options.seconds
    while True:
        now = time.monotonic()
        if now >= end_at:
            break
        if options.per_second:
            wanted = int((now - began_at) * options.per_second)
        else:
            wanted = sent + 64
        for number in range(sent, wanted):
            _SEQUENCE.pack_into(payload, 0, number)
            try:
                sock.send(payload)
            except OSError:  # a full queue is a loss like any other
                continue
        if options.per_second and wanted == sent:
            time.sleep(0.0005)
        sent = wanted
    return {"sent": sent, "began_at": began_at, "ended_at": time.monotonic()}


def _send_at_once(sock: socket.socket, size: int, count: int) -> dict[str, Any]:
    """Send a count of datagrams as fast as a program can: the kernel cuts them."""
    datagrams = [
        _SEQUENCE.pack(number) + bytes(size - _SEQUENCE.size) for number in range(count)
    ]
    sock.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, size)
    together = 1400 // size
    pieces = [
        b"".join(datagrams[at : at + together]) for at in range(0, count, together)
    ]
    began_at = time.monotonic()
    try:
        for piece in pieces:
            sock.send(piece)
    except OSError:  # an interface that sums nothing, on a kernel before 6.11
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, 0)
        began_at = time.monotonic()
        for datagram in datagrams:
            sock.send(datagram)
    return {"sent": count, "began_at": began_at, "ended_at": time.monotonic()}


def sink(options: argparse.Namespace) -> dict[str, Any]:
    """Receive until nothing has come for a while."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_SIZE)
    sock.bind((options.address, options.port))
    print("ready", flush=True)
    buffer = bytearray(2048)
    count = reordered = 0
    highest = -1
    first_at = last_at = 0.0
    sock.settimeout(_FIRST_S)
    with contextlib.suppress(TimeoutError):
        while True:
            sock.recv_into(buffer)
            last_at = time.monotonic()
            if not count:
                first_at = last_at
                sock.settimeout(_QUIET_S)
            count += 1
            number = _SEQUENCE.unpack_from(buffer)[0]
            if number > highest:
                highest = number
            else:
                reordered += 1
    return {
        "count": count,
        "reordered": reordered,
        "first_at": first_at,
        "last_at": last_at,
    }


# --- ICMP --------------------------------------------------------------------


def ping(options: argparse.Namespace) -> dict[str, Any]:
    """Ask for echoes at a pace, whether or not the one before has come.

    An answer's time is the kernel's, so that a busy processor does not lengthen it.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    sock.connect((options.address, 0))
    mark = os.getpid() & 0xFFFF
    sent: dict[int, int] = {}
    took_ms: list[float] = []
    next_at = time.monotonic()
    for number in range(options.count):
        sent[number] = time.time_ns()
        with contextlib.suppress(OSError):
            sock.send(_echo(mark, number))
        next_at += options.interval
        _hear(sock, mark, sent, took_ms, next_at)
    _hear(sock, mark, sent, took_ms, time.monotonic() + _QUIET_S, is_last=True)
    return {"sent": options.count, "rtt_ms": took_ms}


def _echo(mark: int, number: int) -> bytes:
    """Return an echo request of 64 bytes."""
    message = struct.pack("!BBHHH56x", 8, 0, 0, mark, number & 0xFFFF)
    total = sum(struct.unpack("!32H", message))
    total = (total >> 16) + (total & 0xFFFF)
    return (
        message[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + message[4:]
    )


def _hear(
    sock: socket.socket,
    mark: int,
    sent: dict[int, int],
    took_ms: list[float],
    until: float,
    *,
    is_last: bool = False,
) -> None:
    """Take answers until a time; at last only until none is owed."""
    while (left := until - time.monotonic()) > 0 and (sent or not is_last):
        if not select.select([sock], [], [], left)[0]:
            return
        data, notes, _, _ = sock.recvmsg(2048, 64)
        head = (data[0] & 15) * 4
        kind, _, _, theirs, number = struct.unpack_from("!BBHHH", data, head)
        at = sent.pop(number, None) if kind == 0 and theirs == mark else None
        if at is None:
            continue
        seconds, nanoseconds = struct.unpack("qq", notes[0][2])
        took_ms.append((seconds * 1_000_000_000 + nanoseconds - at) / 1e6)


# --- TLS ---------------------------------------------------------------------


def tls_serve(options: argparse.Namespace) -> dict[str, Any]:
    """Serve until the standard input ends: `I` asks for a stream, `O` announces one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate, options.key)
    listener = socket.create_server((options.address, options.port))
    threading.Thread(target=_accept, args=(listener, context), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    return {}


def _accept(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        sock, _ = listener.accept()
        with (
            contextlib.suppress(OSError),
            context.wrap_socket(sock, server_side=True) as tls,
        ):
            if tls.recv(1) == b"I":
                batch = bytes(_BATCH_SIZE)
                while True:
                    tls.sendall(batch)
            buffer = bytearray(_BATCH_SIZE)
            while tls.recv_into(buffer):
                pass


def tls_client(options: argparse.Namespace) -> dict[str, Any]:
    """Move bytes for some time; tell how many, and the processor time of this process."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    sock = socket.create_connection((options.address, options.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    step = (
        _in_memory(sock, context, options.way)
        if options.memory
        else _wrapped(sock, context, options.way)
    )
    moved = 0
    before = os.times()
    began_at = time.monotonic()
    while time.monotonic() < began_at + options.seconds:
        for _ in range(16):
            moved += step()
    seconds = time.monotonic() - began_at
    after = os.times()
    return {
        "payload_bytes": moved,
        "seconds": seconds,
        "user_s": after.user - before.user,
        "system_s": after.system - before.system,
    }


def _wrapped(
    sock: socket.socket, context: ssl.SSLContext, way: str
) -> Callable[[], int]:
    """One record per system call, as the standard library does it."""
    tls = context.wrap_socket(sock)
    if way == "in":
        tls.sendall(b"I")
        buffer = bytearray(_BATCH_SIZE)
        return lambda: tls.recv_into(buffer)
    tls.sendall(b"O")
    record = bytes(_RECORD_SIZE)
    return lambda: tls.send(record)


def _in_memory(
    sock: socket.socket, context: ssl.SSLContext, way: str
) -> Callable[[], int]:
    """Many records per system call."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            incoming.write(sock.recv(_BATCH_SIZE))
        else:
            break
    tls.write(b"I" if way == "in" else b"O")
    sock.sendall(outgoing.read())
    batch = bytes(_BATCH_SIZE)
    buffer = bytearray(_BATCH_SIZE)

    def out() -> int:
        size = tls.write(batch)
        sock.sendall(outgoing.read())
        return size

    def into() -> int:
        count = 0
        try:
            count = tls.read(len(buffer), buffer)  # type: ignore[assignment]  # with a buffer it is a count
        except ssl.SSLWantReadError:
            incoming.write(sock.recv(_BATCH_SIZE))
        return count

    return into if way == "in" else out


# --- command line ------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)

    def verb(
        name: str, run: Callable[[argparse.Namespace], dict[str, Any]], *words: str
    ) -> argparse.ArgumentParser:
        found = verbs.add_parser(name, help=(run.__doc__ or "").splitlines()[0])
        found.set_defaults(run=run)
        for word in words:
            found.add_argument(word, type=int if word == "port" else str)
        return found

    sender = verb("send", send, "address", "port")
    sender.add_argument("--size", type=int, required=True)
    sender.add_argument("--seconds", type=float, default=1.0)
    sender.add_argument("--per-second", type=int, default=0)
    sender.add_argument("--count", type=int, default=0)
    verb("sink", sink, "address", "port")
    pinger = verb("ping", ping, "address")
    pinger.add_argument("--count", type=int, default=100)
    pinger.add_argument("--interval", type=float, default=0.01)
    verb("tls-serve", tls_serve, "address", "port", "certificate", "key")
    client = verb("tls-client", tls_client, "address", "port")
    client.add_argument("way", choices=("out", "in"))
    client.add_argument("--seconds", type=float, default=1.0)
    client.add_argument("--memory", action="store_true")
    return parser


def main() -> None:
    options = _parser().parse_args()
    print(json.dumps(options.run(options)))


if __name__ == "__main__":
    main()
