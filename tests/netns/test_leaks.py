# SPDX-License-Identifier: Apache-2.0
"""What leaves by the physical links while a tunnel is wanted: the leak matrix.

A program sends, every 5 ms, a datagram, an ICMP echo and a request to connect: to a
name server, to that of the uplink, to an address of IPv4, one of IPv6, and the VPN
server's own. A capture on both uplinks counts what leaves, in phases without a gap; the
tunnel's own questions for the server's name are counted apart, and so is whatever else
leaves but ARP, neighbour discovery, and the tunnel's connection. The outcome is the
table of docs/explanation/security.md.
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
from sevpn.testing.machine import Machine, connect, eventually
from sevpn.testing.services import NameServer

pytestmark = pytest.mark.netns

PAGE: Final = Path(__file__).parents[2] / "docs/explanation/security.md"
SERVER: Final = "203.0.113.1"
INSIDE: Final = "10.77.0.1"
RESOLVER: Final = "192.0.2.1"
SECOND: Final = "198.18.1.1"
UPLINKS: Final = ("eth0", "eth1")
LONG_ENOUGH_S: Final = 0.3
"""Sixty times what is sent between two datagrams of a kind."""

PHASES: Final = (
    "connecting",
    "coming up",
    "up",
    "server dead",
    "reconnecting",
    "uplink changed",
    "SIGKILL",
    "restart",
    "clean stop",
)
"""In their order; after the clean stop all of it must leave again."""

KINDS: Final = (
    "DNS",
    "DNS of the uplink",
    "IPv4",
    "IPv6",
    "the server's own address",
)
OTHER: Final = "anything else"
OWN: Final = "own look-ups"
TABLE: Final = "sevpn_t"
PROBES: Final = {
    "DNS": ("198.51.100.53", 53),
    "DNS of the uplink": (RESOLVER, 53),
    "IPv4": ("198.51.100.77", 9),
    "IPv6": ("2001:db8:77::1", 9),
    "the server's own address": (SERVER, 9),
}

_SEND: Final = """
import contextlib, json, socket, sys, time
probes = json.loads(sys.argv[1])

def echo(is_six):
    head = bytes([128 if is_six else 8, 0, 0, 0, 0, 77, 0, 1])
    check = 0xFFFF - ((head[0] << 8) + 77 + 1)
    return head if is_six else head[:2] + check.to_bytes(2, "big") + head[4:]

print("ready", flush=True)
while True:
    for address, port in probes:
        is_six = ":" in address
        family = socket.AF_INET6 if is_six else socket.AF_INET
        icmp = socket.IPPROTO_ICMPV6 if is_six else socket.IPPROTO_ICMP
        for kind, protocol in ((socket.SOCK_DGRAM, 0), (socket.SOCK_RAW, icmp), (socket.SOCK_STREAM, 0)):
            with socket.socket(family, kind, protocol) as sock:
                sock.setblocking(False)
                with contextlib.suppress(OSError):  # what the lock refuses; the counter tells
                    if kind == socket.SOCK_STREAM:
                        sock.connect((address, port))
                    else:
                        sock.sendto(echo(is_six) if protocol else bytes(40), (address, port if not protocol else 0))
    time.sleep(0.005)
"""

# Everything that the kernel hands to the link itself passes here, after all filters.
_COUNT: Final = """
import json, socket, sys, threading
own, server, *interfaces = sys.argv[2:]
kinds = {socket.inet_pton(socket.AF_INET6 if ":" in a else socket.AF_INET, a): k
         for k, (a, _) in json.loads(sys.argv[1]).items()}
own, server = socket.inet_aton(own), socket.inet_aton(server)
lock, counts = threading.Lock(), {}
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))

def kind_of(frame):
    if frame[12:14] == b"\\x08\\0":
        protocol, to, behind = frame[23], frame[30:34], frame[14 + (frame[14] & 15) * 4:]
        if to == server and protocol == 6 and behind[2:4] == b"\\x01\\xbb":
            return None  # the tunnel's connection
        if to == own and protocol == 17 and any(behind[8:]):
            return "own look-ups"  # the probes are all zeros
    elif frame[12:14] == b"\\x86\\xdd":
        protocol, to, behind = frame[20], frame[38:54], frame[54:]
        if protocol == 0 or (protocol == 58 and 130 <= behind[0] <= 143 and behind[0] != 128):
            return None  # the neighbourhood: solicitations, reports
    else:
        return None if frame[12:14] == b"\\x08\\x06" else "anything else"
    return kinds.get(to, "anything else")

def count():
    while True:
        frame, (interface, _, direction, *_) = sock.recvfrom(2048)
        if direction == socket.PACKET_OUTGOING and interface in interfaces:
            kind = kind_of(frame)
            if kind is not None:
                with lock:
                    counts[kind] = counts.get(kind, 0) + 1

threading.Thread(target=count, daemon=True).start()
print("ready", flush=True)
for _ in sys.stdin:
    with lock:
        print(json.dumps(counts), flush=True)
        counts.clear()
"""


class Link:
    """The client's physical links, with somebody who sends and somebody who counts."""

    def __init__(self, machine: Machine) -> None:
        self._counter = machine.popen(
            ["python3", "-c", _COUNT, json.dumps(PROBES), RESOLVER, SERVER, *UPLINKS],
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
    connect(
        client.machine,
        network.server,
        interfaces=("eth1", f"second-{mode}"),
        addresses=("198.18.1.2/24", f"{SECOND}/24"),
    )
    server = start_server(network)
    link = Link(client.machine)
    left: dict[str, dict[str, int]] = {name: {} for name in PHASES}

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

    def phase(
        name: str, until: Callable[[], object], *, stays_s: float = LONG_ENOUGH_S
    ) -> None:
        """Count what leaves from the end of the phase before on."""
        eventually(until, what=name)
        time.sleep(stays_s)
        for kind, count in link.counted().items():
            left[name][kind] = left[name].get(kind, 0) + count

    deafen(network.server, is_deaf=True)
    with begin() as tunnel:
        eventually(is_begun, what="the lock")
        link.counted()  # what left before the first lock
        phase("connecting", lambda: True)
        deafen(network.server, is_deaf=False)
        phase(
            "coming up", lambda: tunnel.status().get("state") == "connected", stays_s=0
        )
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
        phase("SIGKILL", is_begun, stays_s=0)
        phase("restart", lambda: tunnel.status().get("state") == "connected")
        assert tunnel.stop().code == 0
    phase("clean stop", lambda: True)
    link.stop()
    server.stop()
    # The next client's has the same addresses.
    network.server.sh(f"ip link del second-{mode}")
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
    """Take the uplink away that the tunnel uses, once, and see it up again by the other one."""
    if SECOND not in client.machine.check("ip", "-4", "route", "show", "default"):
        client.machine.sh(
            f"ip route add default via {SECOND} dev eth1 metric 200;"
            "ip -4 address flush dev eth0"
        )
    status = tunnel.status()
    is_again: bool = status["counters"]["reconnects"] >= 2
    return is_again and tunnel.status().get("state") == "connected"


def shown(measurements: dict[str, dict[str, dict[str, int]]]) -> list[str]:
    """Return the rows of the table on the page."""
    rows = []
    for mode, phases in measurements.items():
        for kind in (*KINDS, OTHER, OWN):
            cells = ["leaves" if phases[name].get(kind) else "0" for name in PHASES]
            rows.append(f"| {mode} | {kind} | {' | '.join(cells)} |")
    return rows


def test_the_leak_matrix(
    network: Network,
    resolver: None,  # noqa: ARG001
    record_property: Callable[[str, object], None],
) -> None:
    measurements = {}
    for mode in ("off", "auto", "on"):
        with network.client() as client:
            measurements[mode] = measured(network, client, mode)

    rows = shown(measurements)
    for row in (f"| lock | what | {' | '.join(PHASES)} |", *rows):
        record_property("shown", row)  # by the suite
    held = PHASES[:-1]
    for kind in (*KINDS, OTHER):
        assert [measurements["on"][name].get(kind, 0) for name in held] == [0] * 8
        awake = [name for name in held if name != "SIGKILL"]
        assert [measurements["auto"][name].get(kind, 0) for name in awake] == [0] * 7
    for kind in KINDS:
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
    assert [certain(row) for row in rows] == [certain(row) for row in table]


def certain(row: str) -> list[str]:
    """Return the cells that come out alike in each run.

    Without a lock a phase may be over before anything was sent in it, and so may be the
    moment between a start and its lock; and when a name is asked for depends on how long
    a phase takes.
    """
    _, mode, kind, *cells, _ = (cell.strip() for cell in row.split("|"))
    if mode == "off" or kind == OWN:
        return [mode, kind]
    if mode == "auto":
        cells[PHASES.index("SIGKILL")] = ""
    return [mode, kind, *cells]


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
