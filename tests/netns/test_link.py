# SPDX-License-Identifier: Apache-2.0
"""The emulated link between real kernels: what its settings do, within wide margins."""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sevpn.testing.lab import SERVER, EmbeddedServer, Network
from sevpn.testing.link import Link, LinkSpec, Way
from sevpn.testing.machine import Machine, eventually

pytestmark = pytest.mark.netns

ADDRESS = "192.0.2.1"

UDP_SERVER = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
sock.bind(("192.0.2.1", 7))
print("ready", flush=True)
while True:
    data, peer = sock.recvfrom(2000)
    sock.sendto(data, peer)
"""

# Round-trip times of those that come back; each is waited for, 0.5 s at most.
ROUND_TRIPS = """
import json, socket, sys, time
count, size = int(sys.argv[1]), int(sys.argv[2])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(0.5)
times = []
for number in range(count):
    began_at = time.monotonic()
    sock.sendto(bytes([number]) * size, ("192.0.2.1", 7))
    try:
        while sock.recv(2000)[0] != number:
            pass
    except TimeoutError:
        continue
    times.append(time.monotonic() - began_at)
print(json.dumps(times))
"""

# How many of a burst come back.
BURST = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
sock.settimeout(1)
for number in range(int(sys.argv[1])):
    sock.sendto(bytes(200), ("192.0.2.1", 7))
count = 0
try:
    while True:
        sock.recv(2000)
        count += 1
except TimeoutError:
    print(count)
"""

TCP_SERVER = """
import hashlib, socket, time
listener = socket.create_server(("192.0.2.1", 9))
print("ready", flush=True)
peer, _ = listener.accept()
digest, began_at, size = hashlib.sha256(), time.monotonic(), 0
while data := peer.recv(1 << 20):
    digest.update(data)
    size += len(data)
print(digest.hexdigest(), size, time.monotonic() - began_at, flush=True)
"""

TCP_CLIENT = """
import hashlib, random, socket, sys
data = random.Random(7).randbytes(int(sys.argv[1]))
with socket.create_connection(("192.0.2.1", 9)) as sock:
    sock.sendall(data)
print(hashlib.sha256(data).hexdigest())
"""


@pytest.fixture(name="machines")
def make_machines() -> Iterator[tuple[Machine, Machine]]:
    with Machine("client") as client, Machine("server") as server:
        yield client, server


def start(machine: Machine, program: str) -> subprocess.Popen[str]:
    process = machine.popen([sys.executable, "-c", program])
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def round_trips(client: Machine, *, count: int = 9, size: int = 100) -> list[float]:
    times: list[float] = json.loads(client.python(ROUND_TRIPS, str(count), str(size)))
    return times


def send(machines: tuple[Machine, Machine], size: int) -> tuple[float, int]:
    """Send over TCP, check what came, and return how long it took and its size."""
    client, server = machines
    receiver = start(server, TCP_SERVER)
    sent = client.python(TCP_CLIENT, str(size)).strip()
    out, _ = receiver.communicate(timeout=60)
    digest, count, time_s = out.split()
    assert digest == sent
    return float(time_s), int(count)


def test_the_delay_counts_in_both_directions(
    machines: tuple[Machine, Machine],
) -> None:
    Link(*machines, LinkSpec(Way(delay_s=0.05), Way(delay_s=0.1)))
    start(machines[1], UDP_SERVER)

    times = round_trips(machines[0])

    assert len(times) == 9
    assert min(times) >= 0.15
    assert statistics.median(times) < 0.3


def test_loss_is_seen_and_counted(machines: tuple[Machine, Machine]) -> None:
    link = Link(*machines, LinkSpec(outbound=Way(loss=0.3)))
    start(machines[1], UDP_SERVER)
    round_trips(machines[0], count=9)  # who has the address is known now

    came_back = int(machines[0].python(BURST, "400"))

    assert 180 < came_back < 380
    outbound, inbound = link.counts()
    assert outbound.lost >= 400 - came_back
    assert outbound.taken + outbound.lost == outbound.offered
    assert inbound.lost == 0


def test_a_link_is_changed_while_it_runs(machines: tuple[Machine, Machine]) -> None:
    link = Link(*machines, LinkSpec())
    start(machines[1], UDP_SERVER)
    assert len(round_trips(machines[0], count=2)) == 2

    link.set(inbound=Way(loss=1.0))
    assert round_trips(machines[0], count=2) == []

    link.set(inbound=Way())
    assert len(round_trips(machines[0], count=2)) == 2
    assert link.spec == LinkSpec()


def test_a_packet_over_the_mtu_does_not_pass(
    machines: tuple[Machine, Machine],
) -> None:
    link = Link(*machines, LinkSpec.both(Way(mtu=1300)))
    start(machines[1], UDP_SERVER)

    assert len(round_trips(machines[0], count=2, size=1300 - 28)) == 2
    assert round_trips(machines[0], count=2, size=1300 - 27) == []
    assert link.counts()[0].too_long == 2


def test_the_rate_bounds_bytes_over_time(machines: tuple[Machine, Machine]) -> None:
    Link(
        *machines,
        LinkSpec.both(Way(delay_s=0.01, rate_bits_per_s=40e6, queue_s=0.1)),
    )

    time_s, size = send(machines, 6_000_000)

    assert 10e6 < size * 8 / time_s < 40e6


def test_super_segments_that_are_cut_arrive_whole(
    machines: tuple[Machine, Machine],
) -> None:
    way = Way(delay_s=0.002, loss=0.01, reorder=0.01, reorder_s=0.004)
    link = Link(*machines, LinkSpec.both(way))

    send(machines, 6_000_000)

    outbound, _ = link.counts()
    assert outbound.lost > 5
    assert outbound.held_back > 5


def test_a_link_that_cannot_be_made_says_why(
    machines: tuple[Machine, Machine],
) -> None:
    with pytest.raises(AssertionError, match=r"the link has ended:\n[^$]*OSError"):
        Link(*machines, LinkSpec(), interfaces=("lo", "eth0"))


def test_a_link_that_is_cut_leaves_no_interface(
    machines: tuple[Machine, Machine],
) -> None:
    Link(*machines, LinkSpec()).stop()

    for machine in machines:
        eventually(functools.partial(is_bare, machine), what="the end of the TAP")


def is_bare(machine: Machine) -> bool:
    return [link["ifname"] for link in machine.ip("link")] == ["lo"]


def test_a_tunnel_works_behind_a_link() -> None:
    network = Network(link=LinkSpec.both(Way(delay_s=0.03, loss=0.005)))
    try:
        server = EmbeddedServer(network.server)
        with (
            network.client() as client,
            client.up(
                f"{SERVER}/TEST",
                *("--pin", server.pin, "--user", "alice"),
                password="secret",
            ),
        ):
            assert client.machine.pings("10.77.0.254", count=5)
            assert client.link is not None
            assert client.link.counts()[0].taken > 10
        server.stop()
    finally:
        network.close()
