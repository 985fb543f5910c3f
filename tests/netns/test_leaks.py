# SPDX-License-Identifier: Apache-2.0
"""What leaves by the physical link while a tunnel is wanted: the leak matrix.

A program sends, every 5 ms, a question to a name server, a datagram of IPv4, one of
IPv6, and one to the VPN server's own address. A capture on the link counts what
leaves, phase by phase; the tunnel's own questions for the server's name are counted
apart. The outcome is the table of docs/explanation/security.md.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import pytest

from sevpn.testing.lab import Client, EmbeddedServer, Network, Up
from sevpn.testing.machine import Machine, eventually
from sevpn.testing.services import NameServer

pytestmark = pytest.mark.netns

PAGE: Final = Path(__file__).parents[2] / "docs/explanation/security.md"
SERVER: Final = "203.0.113.1"
INSIDE: Final = "10.77.0.1"
RESOLVER: Final = "192.0.2.1"
LONG_ENOUGH_S: Final = 0.3
"""Sixty times what is sent between two datagrams of a kind."""

PHASES: Final = (
    "connecting",
    "up",
    "server dead",
    "reconnecting",
    "uplink changed",
    "SIGKILL",
    "restart",
)
"""In their order; what comes after the clean stop must leave again."""

KINDS: Final = ("DNS", "IPv4", "IPv6", "the server's own address")
OWN: Final = "own look-ups"
TABLE: Final = "sevpn_t"
PROBES: Final = {
    "DNS": ("198.51.100.53", 53),
    "IPv4": ("198.51.100.77", 9),
    "IPv6": ("2001:db8:77::1", 9),
    "the server's own address": (SERVER, 9),
}

_SEND: Final = """
import contextlib, json, socket, sys, time
probes = json.loads(sys.argv[1])
print("ready", flush=True)
while True:
    for address, port in probes:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            with contextlib.suppress(OSError):  # what the lock refuses; the counter tells
                sock.sendto(b"\\0" * 40, (address, port))
    time.sleep(0.005)
"""

# Everything that the kernel hands to the link itself passes here, after all filters.
_COUNT: Final = """
import json, socket, struct, sys, threading
interface, own = sys.argv[2:]
kinds = {(socket.inet_pton(socket.AF_INET6 if ":" in a else socket.AF_INET, a), p): k
         for k, (a, p) in json.loads(sys.argv[1]).items()}
kinds[(socket.inet_aton(own), 53)] = "own look-ups"
lock, counts = threading.Lock(), {}
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
sock.bind((interface, 0))

def count():
    while True:
        frame, (_, _, direction, *_) = sock.recvfrom(2048)
        if direction != socket.PACKET_OUTGOING:
            continue
        kind = frame[12:14]
        if kind == b"\\x08\\0" and frame[23] == 17:
            key = frame[30:34], struct.unpack_from("!H", frame, 14 + (frame[14] & 15) * 4 + 2)[0]
        elif kind == b"\\x86\\xdd" and frame[20] == 17:
            key = frame[38:54], struct.unpack_from("!H", frame, 56)[0]
        else:
            continue
        with lock:
            name = kinds.get(key)
            if name:
                counts[name] = counts.get(name, 0) + 1

threading.Thread(target=count, daemon=True).start()
print("ready", flush=True)
for _ in sys.stdin:
    with lock:
        print(json.dumps(counts), flush=True)
        counts.clear()
"""


class Link:
    """The client's physical link, with somebody who sends and somebody who counts."""

    def __init__(self, machine: Machine) -> None:
        self._counter = machine.popen(
            ["python3", "-c", _COUNT, json.dumps(PROBES), "eth0", RESOLVER],
            stdin=subprocess.PIPE,
        )
        self._sender = machine.popen(
            ["python3", "-c", _SEND, json.dumps(list(PROBES.values()))]
        )
        self._machine = machine
        for process in (self._counter, self._sender):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

    def counted(self) -> dict[str, int]:
        """Return what has left since the last call, by kind."""
        assert self._counter.stdin is not None
        assert self._counter.stdout is not None
        self._counter.stdin.write("\n")
        self._counter.stdin.flush()
        counts: dict[str, int] = json.loads(self._counter.stdout.readline())
        return counts

    def stop(self) -> None:
        self._machine.end(self._sender)
        self._machine.end(self._counter)


@pytest.fixture
def resolver(network: Network) -> Iterator[None]:
    network.server.sh("ip addr add 2001:db8:1::1/64 dev br0 nodad; true")
    made = NameServer(network.server, RESOLVER, answer=SERVER)
    yield
    made.stop()


def start_server(network: Network) -> EmbeddedServer:
    return EmbeddedServer(
        network.server,
        tap=f"{INSIDE}/24",
    )


def prepare(client: Client) -> None:
    client.machine.sh(
        f"echo nameserver {RESOLVER} > /etc/resolv.conf;"
        "ip -6 addr add 2001:db8:1::2/64 dev eth0 nodad;"
        "ip -6 route add default via 2001:db8:1::1 dev eth0"
    )


def measured(network: Network, client: Client, mode: str) -> dict[str, dict[str, int]]:
    """Lead a tunnel through all phases; return what left in each, by kind."""
    prepare(client)
    server = start_server(network)
    link = Link(client.machine)
    left: dict[str, dict[str, int]] = {}

    def begin() -> AbstractContextManager[Up]:
        return client.up(
            *("vpn.test/TEST", "--pin", server.pin, "--user", "alice", "--lock", mode),
            *("--accept-default-gateway", "--gateway", INSIDE, "--no-resume"),
            *("--reconnect-delay", "300ms", "--reconnect-max-delay", "1s"),
            password="secret",
            state=None,
        )

    def is_begun() -> bool:
        """Whether the start has come as far as loading its lock, if it has one."""
        return mode == "off" or TABLE in client.machine.check("nft", "list", "tables")

    def phase(name: str, until: Callable[[], object]) -> None:
        link.counted()
        eventually(until, what=name)
        time.sleep(LONG_ENOUGH_S)
        left[name] = link.counted()

    deafen(network.server, is_deaf=True)
    with begin() as tunnel:
        eventually(is_begun, what="the lock")
        phase("connecting", lambda: True)
        deafen(network.server, is_deaf=False)
        tunnel.wait("connected")
        phase("up", lambda: True)
        deafen(network.server, is_deaf=True)
        phase("server dead", lambda: tunnel.status()["state"] != "connected")
        deafen(network.server, is_deaf=False)
        phase("reconnecting", lambda: tunnel.status()["state"] == "connected")
        phase("uplink changed", lambda: change_uplink(client, tunnel))
        tunnel.process.send_signal(signal.SIGKILL)
        tunnel.process.wait()
        phase("SIGKILL", lambda: True)
    with begin() as tunnel:
        eventually(is_begun, what="the lock")
        phase("restart", lambda: tunnel.status().get("state") == "connected")
        assert tunnel.stop().code == 0
    phase("clean stop", lambda: True)
    link.stop()
    server.stop()
    return left


def deafen(server: Machine, *, is_deaf: bool) -> None:
    """Let the server hear nothing of what its clients say, or all of it again."""
    if is_deaf:
        server.sh(
            "nft -f - <<END\ntable ip deaf {\nchain in {\n"
            "type filter hook input priority 0;\ntcp dport 443 drop\n}\n}\nEND"
        )
    else:
        server.sh("nft delete table ip deaf")


def change_uplink(client: Client, tunnel: Up) -> bool:
    """Take the address away that the tunnel uses, once, and see it up again."""
    shown = client.machine.check("ip", "-4", "address", "show", "dev", "eth0")
    if "192.0.2.240" not in shown:
        client.machine.sh(
            "ip -4 address flush dev eth0; ip address add 192.0.2.240/24 dev eth0;"
            "ip route add default via 192.0.2.1 dev eth0 metric 100"
        )
    status = tunnel.status()
    is_again: bool = status["counters"]["reconnects"] >= 2
    return is_again and tunnel.status().get("state") == "connected"


def shown(measurements: dict[str, dict[str, dict[str, int]]]) -> list[str]:
    """Return the rows of the table on the page."""
    rows = []
    for mode, phases in measurements.items():
        for kind in (*KINDS, OWN):
            cells = ["leaves" if phases[name].get(kind) else "0" for name in PHASES]
            rows.append(f"| {mode} | {kind} | {' | '.join(cells)} |")
    return rows


def test_the_leak_matrix(network: Network, resolver: None) -> None:  # noqa: ARG001
    measurements = {}
    for mode in ("off", "auto", "on"):
        with network.client() as client:
            measurements[mode] = measured(network, client, mode)

    rows = shown(measurements)
    print("\n".join(rows))  # noqa: T201 - the suite shows it
    for kind in KINDS:
        assert [measurements["on"][name].get(kind, 0) for name in PHASES] == [0] * 7
        held = [name for name in PHASES if name != "SIGKILL"]
        assert [measurements["auto"][name].get(kind, 0) for name in held] == [0] * 6
        # The counter counts: without a lock, and after the end, all of it leaves.
        for mode in ("off", "auto", "on"):
            assert measurements[mode]["clean stop"].get(kind, 0) > 0, (mode, kind)
        assert measurements["off"]["connecting"].get(kind, 0) > 0
    # Where the tunnel has its own way to a name, it asks; not while it is up.
    for mode in ("auto", "on"):
        own = {name: measurements[mode][name].get(OWN, 0) for name in PHASES}
        assert own["up"] == 0
        assert sum(own.values()) > 0
    table = re.findall(r"^\| (?:off|auto|on) \|.*$", PAGE.read_text(), re.MULTILINE)
    assert len(table) == len(rows)
    # Without a lock a phase may be over before anything was sent in it; and when a
    # name is asked for depends on how long a phase takes.
    assert [row for row in rows if "| off" not in row and OWN not in row] == [
        row for row in table if "| off" not in row and OWN not in row
    ]


@pytest.mark.parametrize(
    "count", [5, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
)
def test_over_kills_and_restarts_nothing_leaves_and_the_host_comes_back(
    network: Network, count: int
) -> None:
    with network.client() as client:
        prepare(client)
        server = start_server(network)
        before = everything(client.machine)
        link = Link(client.machine)
        for number in range(count):
            with client.up(
                *(f"{SERVER}/TEST", "--pin", server.pin, "--user", "alice"),
                *("--accept-default-gateway", "--gateway", INSIDE, "--lock", "on"),
                password="secret",
            ) as tunnel:
                if number == 0:
                    link.counted()  # what left before the first lock
                tunnel.process.send_signal(signal.SIGKILL)
                tunnel.process.wait()
            assert link.counted() == {}, f"after kill {number + 1} of {count}"
        client.sevpn("cleanup")
        assert link.counted() == {}
        client.sevpn("unlock")
        link.stop()
        assert everything(client.machine) == before
        server.stop()


def everything(machine: Machine) -> str:
    """Return what a tunnel may change, link-local addresses apart."""
    asked = ("link", "-4 address", "-4 route", "-6 route", "rule", "-6 rule")
    shown = [machine.check("ip", *words.split(), "show") for words in asked]
    ruleset = machine.check("nft", "list", "ruleset")
    return "".join([*shown, ruleset, machine.read("/etc/resolv.conf")])
