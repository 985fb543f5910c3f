# SPDX-License-Identifier: Apache-2.0
"""Uplinks that come, go and change under a tunnel, against the embedded server.

client ── eth0 192.0.2.N ═════ 192.0.2.1 ──┐
      └── eth1 198.51.100.2 ═ 198.51.100.1 ─┴─ server 203.0.113.1 ── inside 10.77.0.1
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from typing import Final

import pytest

from sevpn.testing.lab import Client, EmbeddedServer, Network
from sevpn.testing.machine import eventually

pytestmark = pytest.mark.netns

SERVER: Final = "203.0.113.1"
"""An address of the server that is on neither uplink's subnet."""

INSIDE: Final = "10.77.0.1"
SECOND: Final = "198.51.100.1"

CHUNK: Final = 16384
CHUNKS: Final = 150

_SEND: Final = """
import socket, sys, time
listener = socket.create_server((sys.argv[1], 9000))
print("ready", flush=True)
peer, _ = listener.accept()
for number in range(int(sys.argv[3])):
    peer.sendall(number.to_bytes(2, "big") * (int(sys.argv[2]) // 2))
    time.sleep(0.01)
peer.shutdown(socket.SHUT_WR)
peer.recv(1)
"""

_RECEIVE: Final = """
import hashlib, socket, sys
sock = socket.create_connection((sys.argv[1], 9000), 10)
sock.settimeout(30)
seen, digest, said = 0, hashlib.sha256(), False
while piece := sock.recv(1 << 16):
    seen += len(piece)
    digest.update(piece)
    if not said:
        print("flowing", flush=True)
        said = True
print(seen, digest.hexdigest(), flush=True)
"""


@pytest.fixture
def server(network: Network) -> Iterator[EmbeddedServer]:
    made = EmbeddedServer(
        network.server,
        tap=f"{INSIDE}/24",
    )
    yield made
    made.stop()


def login(server: EmbeddedServer) -> tuple[str, ...]:
    return (f"{SERVER}/TEST", "--pin", server.pin, "--user", "alice", "--no-resume")


@pytest.mark.parametrize(
    ("change", "is_full", "resumes"),
    [
        ("ip address flush dev eth0", True, True),
        ("ip address flush dev eth0", False, False),
        ("ip link set eth0 down", True, False),
        ("ip link set eth0 down", True, True),
        (f"ip route add default via {SECOND} dev eth1 metric 10", True, True),
    ],
    ids=[
        "address lost",
        "address lost, split",
        "link down",
        "link down, resumed",
        "better uplink",
    ],
)
def test_a_transfer_goes_on_when_the_default_route_moves_to_another_uplink(
    network: Network,
    client: Client,
    server: EmbeddedServer,
    *,
    change: str,
    is_full: bool,
    resumes: bool,
) -> None:
    network.second_uplink(client, metric=200)
    options = ["--accept-default-gateway"] * is_full + ["--resume"] * resumes
    with client.up(*login(server), *options, password="secret") as tunnel:
        sender = network.server.popen(
            ["python3", "-c", _SEND, INSIDE, str(CHUNK), str(CHUNKS)]
        )
        assert sender.stdout is not None
        assert sender.stdout.readline() == "ready\n"
        receiver = client.machine.popen(["python3", "-c", _RECEIVE, INSIDE])
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "flowing\n"

        client.machine.sh(change)

        out, err = receiver.communicate(timeout=60)
        want = b"".join(n.to_bytes(2, "big") * (CHUNK // 2) for n in range(CHUNKS))
        assert out.split() == [str(len(want)), hashlib.sha256(want).hexdigest()], err
        status = tunnel.wait()
        again = (status["counters"]["reconnects"], status["session"]["resumed"])
        assert again == ((0, 1) if resumes else (1, 0))
        (pinned,) = client.machine.ip("route", "show", f"{SERVER}/32")
        assert (pinned["dev"], pinned["gateway"]) == ("eth1", SECOND)
        network.server.end(sender)


def test_the_last_uplink_goes_and_another_one_comes(
    network: Network, client: Client, server: EmbeddedServer
) -> None:
    with client.up(
        *login(server),
        *("--accept-default-gateway", "--reconnect-delay", "60s"),
        password="secret",
    ) as tunnel:
        before = client.machine.ip("route", "show", "default")
        client.machine.sh("ip address flush dev eth0")
        status = tunnel.wait("waiting")
        assert "no route" in status["last_error"]
        assert not client.machine.ip("route", "show", "default")

        # The next attempt has a minute yet; the uplink does not wait for it.
        network.second_uplink(client, metric=100)

        status = tunnel.wait("connected")
        assert status["counters"]["reconnects"] == 1
        assert client.machine.pings(INSIDE)
        (default,) = [
            route
            for route in client.machine.ip("route", "show", "default")
            if route["dev"] == "sevpn0"
        ]
        assert default in before


def test_an_attempt_that_hangs_begins_again_when_another_uplink_appears(
    network: Network, client: Client, server: EmbeddedServer
) -> None:
    # Whatever goes to this router is lost, and nobody says so.
    client.machine.sh(
        "ip neigh replace 192.0.2.1 lladdr 02:00:00:00:00:99 nud permanent dev eth0"
    )
    with client.up(
        *login(server),
        *("--connect-timeout", "10m"),
        password="secret",
        state="connecting",
    ) as tunnel:
        network.second_uplink(client, metric=10)

        status = tunnel.wait("connected")
        # Whichever is seen first: that there is another default, or the way by it.
        assert "dev eth1" in status["last_error"]


def test_a_further_uplink_that_is_not_better_changes_nothing(
    network: Network, client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), password="secret") as tunnel:
        network.second_uplink(client, metric=500)
        client.machine.sh("ip address add 192.0.2.222/24 dev eth0")
        client.machine.sh(f"ip route del {SERVER}/32")  # it comes back by the event
        eventually(
            lambda: client.machine.ip("route", "show", f"{SERVER}/32"),
            what="the host route",
        )

        assert client.machine.pings(INSIDE)
        status = tunnel.status()
        assert (status["state"], status["counters"]["reconnects"]) == ("connected", 0)


_CAPTURE: Final = """
import select, socket, sys, time
sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0003))
sock.bind((sys.argv[1], 3))
print("ready", flush=True)
server, others, own = socket.inet_aton(sys.argv[2]), 0, 0
while not select.select([sys.stdin], [], [], 0)[0]:
    if select.select([sock], [], [], 0.05)[0]:
        packet, (_, kind, direction, *_) = sock.recvfrom(65536)
        if direction == 4 and kind == 0x0800:
            is_own = packet[9] == 6 and packet[16:20] == server
            own, others = own + is_own, others + (not is_own)
print(own, others, flush=True)
"""
"""Count what the host sends into an interface: TCP to the server, and the rest."""


def test_the_tunnels_own_packets_never_enter_it_while_the_last_uplink_is_away(
    network: Network, client: Client, server: EmbeddedServer
) -> None:
    network.second_uplink(client, metric=60)
    client.machine.sh("ip link set eth0 down")
    with client.up(
        *login(server), "--accept-default-gateway", password="secret"
    ) as tunnel:
        capture = client.machine.popen(
            ["python3", "-c", _CAPTURE, "sevpn0", SERVER], stdin=subprocess.PIPE
        )
        assert capture.stdin is not None
        assert capture.stdout is not None
        assert capture.stdout.readline() == "ready\n"

        # Without its neighbour the default route takes nothing.
        assert client.machine.pings("10.77.0.254")
        # The kernel forgets the route to the server, and not the address.
        client.machine.sh("ip link set eth1 down")
        assert not client.machine.ip("route", "show", f"{SERVER}/32")
        # What goes into the tunnel now, and what is said again of it, is in the way.
        client.machine.pings(INSIDE, count=20, wait_s=0.1)
        client.machine.sh(
            f"ip link set eth1 up; ip route add default via {SECOND} dev eth1 metric 60"
        )

        eventually(lambda: client.machine.pings(INSIDE, count=1), what="traffic")
        capture.stdin.write("end\n")
        capture.stdin.flush()
        own, others = map(int, capture.stdout.readline().split())
        assert own == 0
        assert others > 0, "the capture sees nothing"
        # It was the same cable, and the same address: nothing had to begin again.
        assert tunnel.wait()["counters"]["reconnects"] == 0


def test_the_name_servers_of_the_old_uplink_hold_nobody_up(
    network: Network, client: Client, server: EmbeddedServer
) -> None:
    network.second_uplink(client, metric=200)
    client.machine.sh(f"echo '{SERVER} vpn.lab.test' >> /etc/hosts")
    words = ("vpn.lab.test/TEST", "--pin", server.pin, "--user", "alice", "--no-resume")
    with client.up(*words, password="secret") as tunnel:
        # From now on the name is asked of a name server that was on the old uplink.
        client.machine.sh("sed -i /vpn.lab.test/d /etc/hosts")

        client.machine.sh("ip address flush dev eth0")

        eventually(
            lambda: tunnel.status()["counters"]["reconnects"] == 1, what="a session"
        )
        assert client.machine.pings(INSIDE)
        assert "vpn.lab.test" not in (tunnel.status()["last_error"] or "")
