# SPDX-License-Identifier: Apache-2.0
"""Bridging two places through a hub of the real server, and watching the hub.

left: host 10.66.0.1 ── br0 ── sevpn ══ hub ══ sevpn ── br0 ── right: host 10.66.0.2
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator

import pytest
from scapy.layers.l2 import ARP, Ether
from scapy.utils import PcapNgReader

from sevpn.testing.lab import Client, Hub, Network
from sevpn.testing.machine import Machine, connect, eventually

pytestmark = [pytest.mark.netns, pytest.mark.interop]


def login(hub: Hub) -> tuple[str, ...]:
    return (hub.target, "--pin", hub.pin, "--user", "alice")


@pytest.fixture
def places(network: Network) -> Iterator[tuple[Client, Client, Machine, Machine]]:
    """Two clients with a bridge each, and a host behind each bridge."""
    with (
        network.client() as left,
        network.client() as right,
        Machine("west") as west,
        Machine("east") as east,
    ):
        for client, host, number in ((left, west, 1), (right, east, 2)):
            client.machine.sh("ip link add br0 type bridge; ip link set br0 up")
            connect(
                host,
                client.machine,
                interfaces=("eth0", "port"),
                addresses=(f"10.66.0.{number}/24", ""),
            )
            client.machine.sh("ip link set port master br0")
        yield left, right, west, east


def begin(
    client: Client, hub: Hub, *options: str, kernel: str = ""
) -> subprocess.Popen[str]:
    return client.machine.popen(
        [client.program, "bridge", *login(hub), *options],
        env={"SEVPN_PASSWORD": "secret", "SEVPN_KERNEL": kernel},
    )


def test_two_places_are_one_network(
    places: tuple[Client, Client, Machine, Machine], plain_hub: Hub
) -> None:
    left, right, west, east = places
    # Whichever form of the kernel moves the frames.
    tunnels = [
        begin(client, plain_hub, "--to", "br0", "--name", name, kernel=kernel)
        for client, name, kernel in ((left, "west", ""), (right, "east", "python"))
    ]
    eventually(lambda: is_up(left, "west") and is_up(right, "east"), what="bridges")

    # Hosts that no server has ever heard of reach each other, by any protocol.
    assert west.pings("10.66.0.2")
    assert east.pings("10.66.0.1")
    (neighbour,) = west.ip("neigh", "show", "10.66.0.2")
    (address,) = east.ip("link", "show", "eth0")
    assert neighbour["lladdr"] == address["address"]
    # This host takes no part: no address, no route, no name server.
    assert left.machine.ip("-4", "address", "show", "dev", "sevpn0") == []
    status = left.sevpn("status", "west")
    assert "no spanning tree" in status.out

    # It heals like any tunnel.
    for name in plain_hub.server.sessions(plain_hub.name):
        plain_hub.server.disconnect(plain_hub.name, name)
    eventually(lambda: west.pings("10.66.0.2", count=1, wait_s=2), what="the way again")
    for tunnel in tunnels:
        tunnel.send_signal(signal.SIGTERM)
        assert tunnel.wait(30) == 0
    assert not west.pings("10.66.0.2", count=1, wait_s=1)
    assert "sevpn0" not in left.machine.check("ip", "link")


def test_with_spanning_tree_a_second_way_is_kept_closed(
    places: tuple[Client, Client, Machine, Machine], plain_hub: Hub
) -> None:
    left, right, west, _ = places
    # A cable besides the hub; the bridges learn of each other within seconds.
    connect(
        left.machine, right.machine, interfaces=("loop", "loop"), addresses=("", "")
    )
    for client in (left, right):
        client.machine.sh(
            "ip link set br0 type bridge stp_state 1 forward_delay 200 hello_time 100;"
            "ip link set loop master br0"
        )
    eventually(lambda: west.pings("10.66.0.2", count=1), what="the way by the cable")

    for client, name in ((left, "west"), (right, "east")):
        begin(client, plain_hub, "--to", "br0", "--name", name)
    eventually(lambda: is_up(left, "west") and is_up(right, "east"), what="bridges")

    def states() -> list[str]:
        return [
            port["state"]
            for client in (left, right)
            for port in json.loads(client.machine.check("bridge", "-j", "link"))
            if port["ifname"] in {"sevpn0", "loop"}
        ]

    eventually(lambda: min(states()) == "blocking", what="a way that is closed")
    eventually(lambda: west.pings("10.66.0.2", count=1), what="the other way")
    assert "no spanning tree" not in left.sevpn("status", "west").out


def is_up(client: Client, name: str) -> bool:
    return client.sevpn("status", name, "--check", "ready").code == 0


def test_a_bridge_says_how_few_hosts_the_hub_takes(
    client: Client, plain_hub: Hub
) -> None:
    client.machine.sh("ip link add br0 type bridge; ip link set br0 up")
    plain_hub.server.set_policy(plain_hub.name, "alice", NoBridge="yes")

    bridge = begin(client, plain_hub, "--to", "br0", "--name", "west")
    eventually(lambda: is_up(client, "west"), what="the bridge")

    said = " ".join(client.sevpn("status", "west").out.split())
    assert "3 MAC addresses at most" in said
    assert "(policy NoBridge)" in said
    bridge.send_signal(signal.SIGTERM)
    assert bridge.wait(30) == 0


@pytest.mark.parametrize(
    ("bridge", "code", "words"),
    [
        ("br0", 77, "right to bridge"),
        ("nobody", 78, "ip link add nobody type bridge"),
        ("eth0", 78, "there is no bridge eth0"),
    ],
)
def test_what_stands_in_the_way_of_a_bridge_is_said(
    client: Client, plain_hub: Hub, bridge: str, code: int, words: str
) -> None:
    client.machine.sh("ip link add br0 type bridge")
    if code == 77:
        plain_hub.server.set_policy(
            plain_hub.name, "alice", NoBridge="yes", NoRouting="yes"
        )

    done = client.sevpn(
        *("bridge", *login(plain_hub), "--to", bridge, "--once"),
        env={"SEVPN_PASSWORD": "secret"},
    )

    assert done.code == code
    assert words in done.err
    assert "sevpn" not in client.machine.check("ip", "link")


@pytest.mark.parametrize(
    ("subnet", "options"),
    [("198.51.103", ()), ("198.51.104", ("--half-duplex", "--udp", "on"))],
    ids=["plainly", "whatever a tunnel would be"],
)
def test_a_watcher_sees_the_frames_of_all(
    network: Network,
    client: Client,
    plain_hub: Hub,
    subnet: str,
    options: tuple[str, ...],
) -> None:
    plain_hub.user("watcher", MonitorPort="yes")
    plain_hub.server.bridge_tap(
        plain_hub.name, f"watched{subnet[-1]}", f"{subnet}.1/24"
    )
    addresses = (
        *("--no-dhcp", "--address", f"{subnet}.2/24"),
        *("--gateway", f"{subnet}.1"),
    )
    before = shown(client.machine)
    watcher = client.machine.popen(
        [
            *(client.program, "capture", "--monitor", plain_hub.target),
            *("--pin", plain_hub.pin, "--user", "watcher", "-w", "/run/hub.pcapng"),
            *options,
        ],
        env={"SEVPN_PASSWORD": "secret"},
    )
    eventually(lambda: plain_hub.server.sessions(plain_hub.name), what="the watcher")
    during = shown(client.machine)
    assert during == before

    with (
        network.client() as other,
        other.up(*login(plain_hub), *addresses, password="secret", name="other"),
    ):
        assert other.machine.pings(f"{subnet}.1", count=3)
    watcher.send_signal(signal.SIGINT)
    _, said = watcher.communicate(timeout=30)

    assert watcher.returncode == 0
    assert "frames" in said
    with PcapNgReader(f"/proc/{client.machine.pid}/root/run/hub.pcapng") as capture:
        frames = [Ether(bytes(frame)) for frame in capture]
    assert len(frames) >= 6
    asked = {frame[ARP].pdst for frame in frames if ARP in frame}
    assert f"{subnet}.1" in asked


def shown(machine: Machine) -> str:
    asked = ("link", "-4 address", "route", "rule")
    return "".join(machine.check("ip", *words.split(), "show") for words in asked)


def test_who_may_not_watch_is_told_what_to_ask_for(
    client: Client, plain_hub: Hub
) -> None:
    client.machine.write("/run/older.pcapng", "of yesterday")

    for file in ("/run/nothing.pcapng", "/run/older.pcapng"):
        done = client.sevpn(
            *("capture", "--monitor", *login(plain_hub), "-w", file),
            env={"SEVPN_PASSWORD": "secret"},
        )
        assert done.code == 77
        assert "monitor right" in done.err

    # Without a login no file is begun, and none is lost.
    assert client.machine.sh("ls /run/*.pcapng") == "/run/older.pcapng\n"
    assert client.machine.read("/run/older.pcapng") == "of yesterday"
    barred = client.sevpn("capture", "--monitor", *login(plain_hub), "-w", "/run")
    assert (barred.code, "cannot write /run" in barred.err) == (78, True)
