# SPDX-License-Identifier: Apache-2.0
"""Long repetitions, by `make soak`: nothing grows, nothing is left, nothing wears out."""

from __future__ import annotations

import functools
import signal
import sys
import time

import pytest

from sevpn.testing.lab import SERVER, Client, EmbeddedServer, Network, Up
from sevpn.testing.machine import eventually

pytestmark = [pytest.mark.netns, pytest.mark.soak, pytest.mark.timeout(1500)]

GATEWAY = "10.77.0.254"
ALL = ("--accept-default-gateway", "--dns", "10.77.0.53")


def login(server: EmbeddedServer) -> tuple[str, ...]:
    return (f"{SERVER}/TEST", "--pin", server.pin, "--user", "alice")


def rss_kib(client: Client, pid: int) -> int:
    lines = client.machine.read(f"/proc/{pid}/status").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def descriptors(client: Client, pid: int) -> int:
    return len(client.machine.sh(f"ls /proc/{pid}/fd").split())


def has_healed(tunnel: Up, times: int) -> bool:
    status = tunnel.status()
    if status.get("state") != "connected":
        return False
    return bool(status["counters"]["reconnects"] == times)


def test_fifty_kills_are_undone_each_time(
    client: Client, server: EmbeddedServer
) -> None:
    before = client.machine.snapshot()

    for number in range(50):
        with client.up(*login(server), *ALL, password="secret", state=None) as tunnel:
            # At another moment of its life each time.
            time.sleep(0.3 + 0.03 * number)
            tunnel.stop(signal.SIGKILL)
        assert client.sevpn("cleanup").code == 0
        assert client.machine.snapshot() == before, number


def test_fifty_reconnects_leak_nothing(client: Client, server: EmbeddedServer) -> None:
    with client.up(
        *login(server), *ALL, "--reconnect-delay", "0.1", password="secret"
    ) as tunnel:
        pid = tunnel.process.pid
        sizes = []
        for times in range(1, 51):
            client.sevpn("reconnect", "t")
            eventually(
                functools.partial(has_healed, tunnel, times), what=f"reconnect {times}"
            )
            if times % 10 == 0:
                sizes.append((rss_kib(client, pid), descriptors(client, pid)))

        assert sizes[-1][1] == sizes[0][1], sizes
        assert sizes[-1][0] - sizes[0][0] < 2048, sizes
        assert client.machine.pings(GATEWAY)


def test_ten_minutes_of_traffic_without_a_loss_of_the_session(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), password="secret") as tunnel:
        first = rss_kib(client, tunnel.process.pid)
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            assert client.machine.pings(GATEWAY, count=5)
            time.sleep(1)
        status = tunnel.status()
        assert status["counters"]["reconnects"] == 0
        assert status["latency_ms"]["gateway"] is not None
        assert rss_kib(client, tunnel.process.pid) - first < 2048


_SINK = """
import socket, threading
def drain(sock):
    room = bytearray(1 << 20)
    while sock.recv_into(room):
        pass
def feed(sock):
    data = bytes(1 << 18)
    while True:
        sock.sendall(data)
with socket.create_server(("{inside}", 5001)) as listener:
    print("ready", flush=True)
    while True:
        sock = listener.accept()[0]
        way = sock.recv(1)
        threading.Thread(target=drain if way == b"o" else feed, args=(sock,), daemon=True).start()
"""

_LOAD = """
import socket, sys, time
sock = socket.create_connection(("{inside}", 5001))
sock.sendall(sys.argv[1].encode())
room, data, moved = bytearray(1 << 20), bytes(1 << 18), 0
until = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    if sys.argv[1] == "o":
        sock.sendall(data)
        moved += len(data)
    else:
        moved += sock.recv_into(room)
print(moved)
"""


def test_ten_minutes_under_load_take_no_more_memory(
    network: Network, client: Client
) -> None:
    inside = "10.77.0.1"
    server = EmbeddedServer(
        network.server,
        tap=f"{inside}/24",
    )
    sink = network.server.popen([sys.executable, "-c", _SINK.format(inside=inside)])
    assert sink.stdout is not None
    assert sink.stdout.readline() == "ready\n"
    try:
        with client.up(*login(server), password="secret") as tunnel:
            pid = tunnel.process.pid
            loads = [
                client.machine.popen(
                    [sys.executable, "-c", _LOAD.format(inside=inside), way, "600"]
                )
                for way in ("o", "i")
            ]
            time.sleep(60)  # buffers have been used by then
            sizes = [rss_kib(client, pid)]
            for _ in range(17):
                time.sleep(30)
                sizes.append(rss_kib(client, pid))
            moved = [int(load.communicate(timeout=120)[0]) for load in loads]

            assert tunnel.status()["counters"]["reconnects"] == 0
            assert min(moved) > 10**9
            assert max(sizes) < 53 * 1024, sizes
            assert max(sizes) - sizes[0] < 1024, sizes
    finally:
        network.server.end(sink)
        server.stop()
