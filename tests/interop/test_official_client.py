# SPDX-License-Identifier: Apache-2.0
"""Debian's SoftEther client against the embedded server, on machines of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from interop.test_offload import SIZE, transfer
from interop.test_udp import COUNTERS, DROP, load, seen
from sevpn.testing import lab
from sevpn.testing.machine import Machine, connect, eventually
from sevpn.testing.peers import OfficialClient, missing_peers

pytestmark = [
    pytest.mark.interop,
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(missing_peers() is not None, reason=str(missing_peers())),
]

CONFIG = """
listen = ["192.0.2.1:443"]

[[hubs]]
name = "TEST"
gateway = "198.51.100.1/24"

[hubs.dhcp]

[hubs.tap]
name = "inside"
address = "198.51.100.9/24"

[[hubs.users]]
name = "alice"
password = "env:PASSWORD"

[[hubs.users]]
name = "bob"
auth = "plain"
password = "env:PASSWORD"

[[hubs.users]]
name = "anonymous"
auth = "anonymous"
"""


BULK_SIZE = 20_000_000

SENDER = """
import socket, sys
with socket.create_server(("198.51.100.9", 4000)) as listener:
    with listener.accept()[0] as sock:
        sock.sendall(bytes(int(sys.argv[1])))
"""

RECEIVER = """
import socket
count = 0
with socket.create_connection(("198.51.100.9", 4000), 5) as sock:
    while piece := sock.recv(1 << 20):
        count += len(piece)
print(count)
"""


# Bytes that nobody can deflate.
ASK_CLOSED_PORT = """
import errno, os, socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(1)
    sock.connect((sys.argv[1], 7))
    sock.send(os.urandom(1200))
    try:
        sock.recv(1)
    except TimeoutError:
        print("silence")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


class EmbeddedServer:
    """`sevpn serve` on a machine, and what it tells."""

    def __init__(self, machine: Machine) -> None:
        machine.write("/etc/serve.toml", CONFIG)
        self._process = machine.popen(
            [
                sys.executable,
                "-m",
                "sevpn",
                "serve",
                "--json",
                "--config",
                "/etc/serve.toml",
            ],
            env={"PASSWORD": "secret"},
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._text = ""
        self.events: list[dict[str, Any]] = []
        eventually(lambda: self.heard("serving"), what="the start of serve")

    def _read(self) -> str:
        assert self._process.stdout is not None
        try:
            return os.read(self._process.stdout.fileno(), 1 << 20).decode()
        except BlockingIOError:
            return ""

    def heard(self, event: str) -> list[dict[str, Any]]:
        """Return the events of that name so far."""
        self._text += self._read()
        *lines, self._text = self._text.split("\n")
        self.events += [json.loads(line) for line in lines]
        return [one for one in self.events if one["event"] == event]


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    with Machine("server") as server, Machine("client") as client:
        connect(client, server)
        yield server, client


def begin(
    client: OfficialClient,
    *,
    user: str,
    password: str,
    kind: str,
    connections: str = "/MAXTCP:1 /HALF:no /NOQOS:no",
    is_compressed: bool = False,
) -> str:
    """Have the client connect, and return its interface at once."""
    client.command("NicCreate se0")
    client.command(
        f"AccountCreate t1 /SERVER:192.0.2.1:443 /HUB:TEST /USERNAME:{user} /NICNAME:se0"
    )
    client.command(f"AccountPasswordSet t1 /PASSWORD:{password} /TYPE:{kind}")
    client.command(
        f"AccountDetailSet t1 {connections} /INTERVAL:1 /TTL:0 /BRIDGE:no /MONITOR:no /NOTRACK:no /DISABLEUDP:no"
    )
    if is_compressed:
        client.command("AccountCompressEnable t1")
    client.command("AccountRetrySet t1 /NUM:999 /INTERVAL:5")
    client.command("AccountConnect t1")
    return "vpn_se0"


@pytest.mark.parametrize(
    ("user", "kind"), [("alice", "standard"), ("bob", "radius"), ("alice", "radius")]
)
def test_the_official_client_connects_and_passes_traffic(
    machines: tuple[Machine, Machine], user: str, kind: str
) -> None:
    server_machine, client_machine = machines
    server = EmbeddedServer(server_machine)
    client = OfficialClient(client_machine)

    nic = begin(client, user=user, password="secret", kind=kind)
    (login,) = eventually(lambda: server.heard("login"), what="the login")
    client_machine.sh(f"ip addr add 198.51.100.50/24 dev {nic}; ip link set {nic} up")

    assert "Client" in login["client"]
    assert client_machine.pings("198.51.100.1", count=5), "the virtual gateway"
    assert client_machine.pings("198.51.100.9", count=5), "a host behind the TAP"
    assert server_machine.pings("198.51.100.50", count=5), "the client, from there"
    received = _download(server_machine, client_machine)
    assert received == BULK_SIZE


@pytest.mark.parametrize(
    ("connections", "count"),
    [
        ("/MAXTCP:8 /HALF:no /NOQOS:yes", 8),
        ("/MAXTCP:8 /HALF:yes /NOQOS:yes", 8),
        ("/MAXTCP:8 /HALF:yes /NOQOS:no", 8),
        ("/MAXTCP:1 /HALF:no /NOQOS:no", 2),
    ],
)
def test_the_official_client_opens_all_its_connections_and_passes_traffic(
    machines: tuple[Machine, Machine], connections: str, count: int
) -> None:
    server_machine, client_machine = machines
    EmbeddedServer(server_machine)
    client = OfficialClient(client_machine)

    nic = begin(
        client,
        user="alice",
        password="secret",
        kind="standard",
        connections=connections,
    )
    # It opens one a second.
    eventually(
        lambda: _established(client_machine) == count,
        within_s=30,
        what=f"{count} connections",
    )
    client_machine.sh(f"ip addr add 198.51.100.50/24 dev {nic}; ip link set {nic} up")

    assert client_machine.pings("198.51.100.1", count=5), "the virtual gateway"
    assert client_machine.pings("198.51.100.9", count=5), "a host behind the TAP"
    assert server_machine.pings("198.51.100.50", count=5), "the client, from there"
    assert _download(server_machine, client_machine) == BULK_SIZE
    assert _established(client_machine) == count


@pytest.mark.parametrize(
    ("connections", "count"),
    [
        ("/MAXTCP:1 /HALF:no /NOQOS:yes", 1),
        ("/MAXTCP:8 /HALF:no /NOQOS:yes", 8),
        ("/MAXTCP:8 /HALF:yes /NOQOS:yes", 8),
    ],
)
def test_the_official_client_compresses_and_passes_traffic(
    machines: tuple[Machine, Machine], connections: str, count: int
) -> None:
    server_machine, client_machine = machines
    EmbeddedServer(server_machine)
    client = OfficialClient(client_machine)

    nic = begin(
        client,
        user="alice",
        password="secret",
        kind="standard",
        connections=connections,
        is_compressed=True,
    )
    eventually(
        lambda: _established(client_machine) == count,
        within_s=30,
        what=f"{count} connections",
    )
    client_machine.sh(f"ip addr add 198.51.100.50/24 dev {nic}; ip link set {nic} up")

    assert client_machine.pings("198.51.100.9", count=5), "a host behind the TAP"
    assert _download(server_machine, client_machine) == BULK_SIZE
    assert client.status()["Use of Compression"].startswith("Yes")


def test_the_official_client_passes_traffic_by_udp(
    machines: tuple[Machine, Machine],
) -> None:
    server_machine, client_machine = machines
    EmbeddedServer(server_machine)
    client = OfficialClient(client_machine)

    nic = begin(client, user="alice", password="secret", kind="standard")
    fit_for_udp(client_machine, server_machine, nic)
    wait_for_udp(client, server_machine)

    by_udp, by_tcp = bulk_both_ways(server_machine, client_machine)
    assert by_udp > 5 * by_tcp
    assert client_machine.pings("198.51.100.9")


def test_the_official_client_uses_all_of_it_at_once(
    machines: tuple[Machine, Machine],
) -> None:
    """Eight connections, half duplex, compression and UDP acceleration."""
    server_machine, client_machine = machines
    EmbeddedServer(server_machine)
    client = OfficialClient(client_machine)

    nic = begin(
        client,
        user="alice",
        password="secret",
        kind="standard",
        connections="/MAXTCP:8 /HALF:yes /NOQOS:yes",
        is_compressed=True,
    )
    fit_for_udp(client_machine, server_machine, nic)
    eventually(
        lambda: _established(client_machine) == 8, within_s=30, what="8 connections"
    )
    wait_for_udp(client, server_machine)

    by_udp, by_tcp = bulk_both_ways(server_machine, client_machine)
    assert by_udp > 5 * by_tcp

    # Without UDP it is the connections that carry all, each its own way and deflated.
    load(server_machine, DROP)
    eventually(
        lambda: "No" in client.status().get("UDP Acceleration is Active", ""),
        within_s=30,
        what="the client's notice of it",
    )
    eventually(lambda: client_machine.pings("198.51.100.9"), what="traffic by TCP")
    before = seen(server_machine)
    assert _download(server_machine, client_machine) == BULK_SIZE
    zeros = seen(server_machine)["by_tcp"] - before["by_tcp"]
    assert zeros < BULK_SIZE / 5
    by_udp, by_tcp = bulk_both_ways(server_machine, client_machine, port=4200)
    assert by_tcp > 2 * SIZE
    assert by_udp < SIZE / 100
    busy = [pair for pair in _carried(client_machine) if max(pair) > SIZE / 20]
    assert all(max(pair) > 20 * min(pair) for pair in busy)
    assert {sent > received for sent, received in busy} == {True, False}

    server_machine.check("nft", "delete", "table", "inet", "cut")
    wait_for_udp(client, server_machine)
    by_udp, by_tcp = bulk_both_ways(server_machine, client_machine, port=4300)
    assert by_udp > 5 * by_tcp
    assert _established(client_machine) == 8
    status = client.status()
    assert status["Use of Compression"].startswith("Yes")
    assert status["Half Duplex TCP Connection Mode"].startswith("Yes")


def fit_for_udp(client: Machine, server: Machine, nic: str) -> None:
    """Give the inner interfaces an MTU whose frames fit into a datagram; count outside.

    Nobody clamps the MSS: full frames would go by TCP.
    """
    client.sh(f"ip addr add 198.51.100.50/24 dev {nic}; ip link set {nic} mtu 1380 up")
    server.sh("ip link set inside mtu 1380")
    load(server, COUNTERS)


def wait_for_udp(client: OfficialClient, server: Machine) -> None:
    """Wait until both ends send by UDP: each one counts its ten seconds for itself."""
    eventually(
        lambda: "Yes" in client.status().get("UDP Acceleration is Active", ""),
        within_s=30,
        what="UDP at the client",
    )

    def goes_by_udp() -> bool:
        before = seen(server)
        answer = client.machine.python(ASK_CLOSED_PORT, "198.51.100.9").strip()
        # The question, and the answer that quotes more than 500 bytes of it.
        grown = seen(server)["by_udp"] - before["by_udp"]
        return answer == "ECONNREFUSED" and grown > 1200 + 500

    eventually(goes_by_udp, within_s=30, what="UDP in both directions")


def bulk_both_ways(
    server: Machine, client: Machine, *, port: int = 4100
) -> tuple[int, int]:
    """Send bulk up and down, and return how many bytes went by UDP and by TCP."""
    before = seen(server)
    transfer(client, server, "198.51.100.9", port)
    transfer(server, client, "198.51.100.50", port + 1)
    after = seen(server)
    return after["by_udp"] - before["by_udp"], after["by_tcp"] - before["by_tcp"]


def _carried(machine: Machine) -> list[tuple[int, int]]:
    """Return the bytes that each connection to the server has sent and received."""
    listed = machine.check("ss", "-Htin", "state", "established", "dport", "=", ":443")
    sent, received = (
        [int(found) for found in re.findall(rf"bytes_{word}:(\d+)", listed)]
        for word in ("sent", "received")
    )
    return list(zip(sent, received, strict=True))


def _established(machine: Machine) -> int:
    """Count the connections to the server."""
    listed = machine.check("ss", "-Htn", "state", "established", "dport", "=", ":443")
    return len(listed.splitlines())


def _download(server: Machine, client: Machine) -> int:
    """Fetch bytes over TCP from behind the TAP, and return how many came."""
    sender = server.popen([sys.executable, "-c", SENDER, str(BULK_SIZE)])
    eventually(
        lambda: "198.51.100.9:4000" in server.check("ss", "-ltn"), what="the sender"
    )
    count = int(client.python(RECEIVER))
    sender.wait(10)
    return count


def test_the_official_client_is_told_that_its_password_is_wrong(
    machines: tuple[Machine, Machine],
) -> None:
    server_machine, client_machine = machines
    server = EmbeddedServer(server_machine)
    client = OfficialClient(client_machine)

    begin(client, user="alice", password="wrong", kind="standard")

    (refused, *_) = eventually(lambda: server.heard("refused"), what="the refusal")
    assert refused["error"] == 9
    eventually(
        lambda: "(code 9)" in client_machine.sh("cat /var/log/softether/*/*.log"),
        what="the client's word for it",
    )
    assert server.heard("login") == []


# That traffic flows after a cut is no test: 5.01.9674 with OpenSSL 3 comes back, and each
# time takes its new connection for broken after a quarter of a second, because the end of
# the old one has left an error in the queue of its thread (SoftEtherVPN issue 1995).


def test_the_official_client_logs_in_again_after_it_was_thrown_out(
    machines: tuple[Machine, Machine],
) -> None:
    server_machine, client_machine = machines
    server = lab.EmbeddedServer(server_machine)
    client = OfficialClient(client_machine)
    begin(client, user="alice", password="secret", kind="standard")
    eventually(lambda: server.do("len(server.sessions())") == "1", what="the login")

    server.do("server.disconnect(server.sessions()[0])")

    eventually(
        lambda: server.do("len(server.sessions())") == "1",
        within_s=30,
        what="another login",
    )
    assert server.do("server.sessions()[0].name") == "'SID-ALICE-2'"
    # One of the three tried to join the session that is over, and was told so.
    assert int(server.do("server.login_count")) >= 3
