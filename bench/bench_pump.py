# SPDX-License-Identifier: Apache-2.0
"""The pump against a trivial loop: two of either, back to back, interleaved in one run.

    sender ─> TAP ─> pump A ─> connection ─> pump B ─> TAP ─> receiver
    └──── namespace A ────┘    loopback      └──── namespace B ────┘

Run as root: `python -m bench.bench_pump [--seconds 3] [--rounds 3] [--tls] [--udp]`.

Each pump has a process of its own; one TCP stream (or small UDP frames) runs
through. Pump A shows the outbound side, pump B the inbound side. The trivial loop
does no more than it must: read frames, join them with their sizes, send; receive,
cut, write. It knows no limits, timers, sieve, back-pressure or second session, and
no super-segments: the pump has them where the kernel is compiled, and with
SEVPN_KERNEL=python in the environment it has a plain TAP, too.

Where the machine has other work, throughput says little; processor seconds per
GB, which each process measures of itself, and the ratio of the two are what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import select
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

from sevpn.dataplane import ports
from sevpn.dataplane.path import is_compiled
from sevpn.dataplane.pump import Pump
from sevpn.net.tap import Tap, open_tap
from sevpn.server.certificate import make_identity, server_context
from sevpn.testing.memory import MemoryStream
from sevpn.transport.stream import SecureStream
from sevpn.transport.tls import TrustPolicy, client_context
from sevpn.wire.ethernet import MacAddress

WARM_UP_S = 1.0
MACS = (MacAddress.parse("5e:00:00:00:00:0a"), MacAddress.parse("5e:00:00:00:00:0b"))


class Mover(Protocol):
    """A pump or its rival."""

    def begin(self, tap: Tap, mac: MacAddress, stream: ports.SecureStream) -> None:
        """Move frames between the two from now on, in a thread of its own."""
        ...

    def moved(self) -> tuple[int, int]:
        """Frames and bytes so far, both directions together."""
        ...


class ThePump:
    """The real thing."""

    def begin(self, tap: Tap, mac: MacAddress, stream: ports.SecureStream) -> None:
        """Attach the one session."""
        self._pump = Pump(
            tap, mac=mac, on_frames=lambda _: None, on_lost=print, clock=time.monotonic
        )
        self._pump.sieve.is_open = True
        self._pump.start()
        self._pump.attach(stream, leftover=b"", timeout_s=20.0)

    def moved(self) -> tuple[int, int]:
        """As counted by the pump."""
        counters = self._pump.counters
        return (
            counters.inbound_frames + counters.outbound_frames,
            counters.inbound_bytes + counters.outbound_bytes,
        )


class TheTrivialLoop:
    """What is left of a pump when everything that can be left out is."""

    def begin(self, tap: Tap, mac: MacAddress, stream: ports.SecureStream) -> None:
        """Start to turn."""
        del mac
        self._frames = self._bytes = 0
        threading.Thread(target=self._run, args=(tap, stream), daemon=True).start()

    def moved(self) -> tuple[int, int]:
        """As counted by the loop."""
        return self._frames, self._bytes

    def _run(self, tap: Tap, stream: ports.SecureStream) -> None:
        epoll = select.epoll()
        epoll.register(tap.fileno(), select.EPOLLIN)
        epoll.register(stream.fileno(), select.EPOLLIN)
        held = b""
        chunk = memoryview(bytearray(65536))
        while True:
            epoll.poll()
            held += chunk[: stream.read_into(chunk)]
            at = left = 0
            while at + 4 <= len(held):
                (size,) = struct.unpack_from("!I", held, at)
                if not left:
                    left, at = size, at + 4
                    continue
                if at + 4 + size > len(held):
                    break
                tap.write(held[at + 4 : at + 4 + size])
                self._frames += 1
                self._bytes += size
                at, left = at + 4 + size, left - 1
            # What is cut short begins a new batch of as many blocks as are left.
            held = (left.to_bytes(4, "big") if left else b"") + held[at:]
            frames: list[bytes] = []
            while len(frames) < 128 and (frame := tap.read()) is not None:
                frames.append(frame)
            if frames:
                stream.queue(
                    len(frames).to_bytes(4, "big")
                    + b"".join(
                        len(frame).to_bytes(4, "big") + frame for frame in frames
                    )
                )
                self._frames += len(frames)
                self._bytes += sum(map(len, frames))
            while not stream.flush():
                select.select((), (stream,), ())


MOVERS: dict[str, Callable[[], Mover]] = {"pump": ThePump, "loop": TheTrivialLoop}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tls", action="store_true", help="TLS on the connection")
    parser.add_argument(
        "--udp", action="store_true", help="frames of 106 bytes instead of a TCP stream"
    )
    parser.add_argument("--only", choices=sorted(MOVERS))
    options = parser.parse_args()
    names = [options.only] if options.only else sorted(MOVERS)
    results: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {
        name: [] for name in names
    }
    for _ in range(options.rounds):
        for name in names:
            results[name].append(measure(name, options))
    for side, index in (("outbound", 0), ("inbound", 1)):
        for name in names:
            print(
                f"{side:9}{name:5}"
                + "".join(
                    f"{statistics.median(pair[index][key] for pair in results[name]):12.3f} {key}"
                    for key in (
                        "Gbit/s",
                        "CPU s/GB",
                        "of it user",
                        "us/frame",
                        "kframes/s",
                    )
                )
            )
        if len(names) > 1:
            ratio = [
                statistics.median(
                    pump[index][key] / loop[index][key]
                    for pump, loop in zip(results["pump"], results["loop"], strict=True)
                )
                for key in ("Gbit/s", "CPU s/GB")
            ]
            print(
                f"{side:9}ratio pump/loop: throughput {ratio[0]:.2f}, CPU per byte {ratio[1]:.2f}"
            )


def measure(
    name: str, options: argparse.Namespace
) -> tuple[dict[str, float], dict[str, float]]:
    """One run of two movers; what each of them measured."""
    listener = socket.create_server(("127.0.0.1", 0))
    near = socket.create_connection(listener.getsockname())
    far, _ = listener.accept()
    listener.close()
    for sock in (near, far):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ready = os.pipe()
    ends = [
        fork(run_end, name, options, index, sock, ready)
        for index, sock in enumerate((near, far))
    ]
    near.close()
    far.close()
    os.close(ready[0])
    os.close(ready[1])
    out, into = (json.loads(read_all(fd)) for fd in ends)
    for _ in ends:
        os.wait()
    return out, into


def fork(run: Callable[..., str | None], *args: object) -> int:
    """Run in a child; return a descriptor that brings what it returned."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        return reader
    os.close(reader)
    code = 1
    try:
        os.write(writer, (run(*args) or "").encode())
        code = 0
    finally:
        os._exit(code)


def read_all(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


def run_end(
    name: str,
    options: argparse.Namespace,
    index: int,
    sock: socket.socket,
    ready: tuple[int, int],
) -> str:
    stream: ports.SecureStream = (
        secure(sock, is_server=bool(index)) if options.tls else MemoryStream(sock)
    )
    if ctypes.CDLL(None).unshare(0x40000000):
        sys.exit("bench_pump: needs root for its own network namespaces")
    # The trivial loop knows nothing of super-segments.
    tap = open_tap("bench0", offload=name == "pump" and is_compiled())
    mac = MACS[index]
    for command in (
        f"ip link set dev bench0 address {mac} mtu 1500",
        f"ip addr add 10.9.9.{index + 1}/24 dev bench0",
        "sysctl -qw net.ipv6.conf.bench0.disable_ipv6=1",
        "ip link set dev bench0 up",
        f"ip neigh replace 10.9.9.{2 - index} lladdr {MACS[1 - index]} dev bench0",
    ):
        subprocess.run(command.split(), check=True)
    tap.set_carrier(True)
    mover = MOVERS[name]()
    if index:
        traffic = fork(receive, options)
        os.write(ready[1], b"x")
    else:
        os.read(ready[0], 1)
        time.sleep(0.1)
        traffic = fork(send, options)
    mover.begin(tap, mac, stream)
    time.sleep(WARM_UP_S)
    before = (time.monotonic(), *os.times()[:2], *mover.moved())
    time.sleep(options.seconds)
    after = (time.monotonic(), *os.times()[:2], *mover.moved())
    wall_s, user_s, system_s, frames, size = (
        late - early for early, late in zip(before, after, strict=True)
    )
    cpu_s = user_s + system_s
    time.sleep(0.3)
    os.close(traffic)
    return json.dumps(
        {
            "Gbit/s": size * 8 / wall_s / 1e9,
            "CPU s/GB": cpu_s / size * 1e9,
            "of it user": user_s / size * 1e9,
            "us/frame": cpu_s / frames * 1e6,
            "kframes/s": frames / wall_s / 1e3,
        }
    )


def send(options: argparse.Namespace) -> None:
    end_at = time.monotonic() + WARM_UP_S + options.seconds + 0.2
    if options.udp:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(("10.9.9.2", 5001))
        while time.monotonic() < end_at:
            for _ in range(32):
                with contextlib.suppress(OSError):
                    sock.send(bytes(64))
        return
    stream = socket.create_connection(("10.9.9.2", 5001), timeout=5)
    data = bytes(1 << 18)
    with contextlib.suppress(OSError):
        while time.monotonic() < end_at:
            stream.send(data)


def receive(options: argparse.Namespace) -> None:
    end_at = time.monotonic() + WARM_UP_S + options.seconds + 1.0
    if options.udp:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("10.9.9.2", 5001))
    else:
        listener = socket.create_server(("10.9.9.2", 5001))
        listener.settimeout(5)
        sock, _ = listener.accept()
    sock.settimeout(1.0)
    buffer = bytearray(1 << 20)
    with contextlib.suppress(OSError):
        while time.monotonic() < end_at and sock.recv_into(buffer):
            pass


class ServerEnd(SecureStream):
    """The other end of a TLS connection; the client has none of its own."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__(
            sock,
            client_context(TrustPolicy(insecure=True)),
            server_name=None,
            verified_by="none",
        )
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)


def secure(sock: socket.socket, *, is_server: bool) -> SecureStream:
    """Set up TLS on *sock*, as the product does."""
    sock.settimeout(0)
    stream = (
        ServerEnd(sock, server_context(make_identity()))
        if is_server
        else SecureStream(
            sock,
            client_context(TrustPolicy(insecure=True)),
            server_name=None,
            verified_by="none",
        )
    )
    asyncio.run(stream.handshake())
    return stream


if __name__ == "__main__":
    main()
