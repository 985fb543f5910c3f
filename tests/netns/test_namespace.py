# SPDX-License-Identifier: Apache-2.0
"""`--netns`: the TAP, its routes and its names in another namespace, the transport outside.

client ── eth0 ── server          the transport
  └── namespace "blue" ── sevpn0  all else
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from typing import Any, Final

import pytest

from sevpn.testing.lab import SERVER, Client, EmbeddedServer, Network
from sevpn.testing.machine import eventually

pytestmark = pytest.mark.netns

TARGET = f"{SERVER}/TEST"
GATEWAY = "10.77.0.254"
IN_BLUE = ("ip", "netns", "exec", "blue")
STATE_OF_BLUE: Final = (
    "ip -n blue link; ip -n blue address; ip -n blue route; ip -n blue -6 route; ip -n blue rule;"
    "ip -n blue route show table all proto 224;"
    "find /etc/netns -exec stat -c '%n %F %a' {} + 2> /dev/null || true"
)


@pytest.fixture
def client(network: Network) -> Iterator[Client]:
    with network.client() as made:
        made.machine.sh("ip netns add blue; ip -n blue link set lo up")
        yield made
        made.machine.sh("ip netns del blue 2> /dev/null || true")


def login(server: EmbeddedServer) -> tuple[str, ...]:
    return (TARGET, "--pin", server.pin, "--user", "alice", "--no-resume")


def blue(client: Client, *words: str) -> list[dict[str, Any]]:
    return client.machine.ip("-n", "blue", *words)


def pings_from_blue(client: Client) -> bool:
    return client.machine.pings(GATEWAY, netns="blue")


def state_of_blue(client: Client) -> str:
    return client.machine.sh(STATE_OF_BLUE)


@pytest.mark.parametrize("place", ["blue", "/run/netns/blue"])
def test_the_tunnel_is_in_the_namespace_and_its_transport_is_not(
    client: Client, server: EmbeddedServer, place: str
) -> None:
    outside, inside = client.machine.snapshot(), state_of_blue(client)
    with client.up(
        *login(server),
        *("--netns", place, "--accept-default-gateway", "--dns", "10.77.0.53"),
        password="secret",
    ) as tunnel:
        gained = outside.difference(client.machine.snapshot())
        assert [line for line in gained if "/run/sevpn/t/" not in line] == []
        status = tunnel.status()
        assert status["interface"]["name"] == "sevpn0"
        (address,) = [
            a["local"]
            for link in blue(client, "address", "show", "dev", "sevpn0")
            for a in link["addr_info"]
            if a["family"] == "inet"
        ]
        assert status["lease"]["address"].startswith(address)
        (default,) = blue(client, "route", "show", "default")
        assert (default["dev"], default["gateway"]) == ("sevpn0", GATEWAY)
        assert pings_from_blue(client)
        assert not client.machine.pings(GATEWAY, count=1)
        # As a program in the namespace sees it, and one outside.
        seen = client.machine.check(*IN_BLUE, "cat", "/etc/resolv.conf")
        assert "nameserver 10.77.0.53" in seen
        assert "10.77.0.53" not in client.machine.read("/etc/resolv.conf")

        server.do("[server.cut(s) for s in server.sessions()]")
        eventually(
            lambda: tunnel.status()["counters"]["reconnects"] == 1, what="a reconnect"
        )
        tunnel.wait()
        assert pings_from_blue(client)
        assert tunnel.stop().code == 0
    assert client.machine.snapshot() == outside
    assert state_of_blue(client) == inside


def test_a_kill_is_undone_by_cleanup_inside_the_namespace_too(
    client: Client, server: EmbeddedServer
) -> None:
    client.machine.write("/etc/netns/blue/resolv.conf", "nameserver 192.0.2.99\n")
    client.machine.sh("chmod 755 /etc/netns /etc/netns/blue")
    outside, inside = client.machine.snapshot(), state_of_blue(client)
    with client.up(
        *login(server),
        *("--netns", "blue", "--accept-default-gateway", "--dns", "10.77.0.53"),
        password="secret",
    ) as tunnel:
        tunnel.stop(signal.SIGKILL)
    # What a TAP's end does not take along.
    client.machine.sh("ip -n blue route add 203.0.113.9 dev lo proto 224")

    done = client.sevpn("cleanup")

    assert done.code == 0
    assert "restore /etc/netns/blue/resolv.conf" in done.out
    assert "ip -n blue route del 203.0.113.9" in done.out
    assert client.machine.read("/etc/netns/blue/resolv.conf") == (
        "nameserver 192.0.2.99\n"
    )
    assert client.machine.snapshot() == outside
    assert state_of_blue(client) == inside
    assert client.sevpn("cleanup").out.strip() == "nothing was left behind"


_KILLS: Final = """
import itertools, os, signal, subprocess, sys
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from sevpn.net.host import Host, cleanup
from sevpn.net.model import HostState, Resolver, Route, Rule
from sevpn.net.netns import NetworkNamespace, host_in
from sevpn.wire.ethernet import MacAddress

def life(fatal):
    steps = 0
    def checkpoint(line):
        nonlocal steps
        steps += 1
        if steps == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
    place = NetworkNamespace("blue")
    host = host_in(place, Host(tunnel="t", runtime_dir=Path("/run/sevpn"), etc_dir=place.etc, dns_mode="file",
        netns=place.path, by_mark=True, checkpoint=checkpoint))
    host.recover()
    tap = host.open_tap(None, MacAddress(b"\\x5e\\0\\0\\0\\0\\1"), 1500)
    host.pin_server([ip_address("203.0.113.1")])
    tap.set_carrier(True)
    table = host.marks.table
    default = Route(ip_network("0.0.0.0/0"), ip_address("10.0.0.1"), tap.name, 50, table=table)
    rule = Rule(4, host.marks.preference + 2, table, host.marks.own, is_not=True)
    state = HostState(tap.name, 1400, (ip_interface("10.0.0.5/24"),), (default,), Resolver((ip_address("10.0.0.1"),)), (rule,))
    host.apply(state)
    host.release_addresses()
    host.apply(state)
    host.undo()
    host.close()

def state():
    return subprocess.run(["sh", "-c", sys.argv[1]], capture_output=True, check=True).stdout

before = state()
for step in itertools.count(1):
    pid = os.fork()
    if not pid:
        life(step)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    cleanup(Path("/run/sevpn"))
    assert state() == before, f"killed at step {step}"
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        break
print(step - 1)
"""


@pytest.mark.parametrize("has_folder", [True, False])
def test_a_kill_at_each_step_is_undone_inside_the_namespace(
    client: Client, *, has_folder: bool
) -> None:
    if has_folder:
        client.machine.write("/etc/netns/blue/resolv.conf", "nameserver 192.0.2.99\n")
        client.machine.sh("chmod 755 /etc/netns /etc/netns/blue")
    outside = client.machine.snapshot()

    steps = client.machine.check(sys.executable, "-c", _KILLS, STATE_OF_BLUE)

    assert int(steps) > 15
    assert client.machine.snapshot() == outside


def test_a_kill_is_undone_by_the_next_start(
    client: Client, server: EmbeddedServer
) -> None:
    inside = state_of_blue(client)
    options = (*login(server), "--netns", "blue", "--dns", "10.77.0.53")
    with client.up(*options, password="secret") as tunnel:
        tunnel.stop(signal.SIGKILL)
    with client.up(*options, password="secret") as tunnel:
        assert pings_from_blue(client)
        assert tunnel.stop().code == 0

    assert state_of_blue(client) == inside


def test_plan_looks_into_the_namespace(client: Client) -> None:
    client.machine.sh("ip -n blue tuntap add sevpn0 mode tap")

    done = client.sevpn("plan", TARGET, "--netns", "blue", "--accept-default-gateway")

    assert done.code == 0, done.err
    assert "ip tuntap add sevpn1" in done.out
    assert f"route add {SERVER}" not in done.out


@pytest.mark.parametrize(
    ("place", "code", "word"),
    [
        ("green", 78, "make it with `ip netns add green`"),
        ("/proc/self/ns/uts", 78, "it is no network namespace"),
        ("/nowhere/at/all", 78, "no network namespace /nowhere/at/all"),
        ("..", 65, "must be a network namespace's name"),
    ],
)
def test_a_namespace_that_is_none_is_refused_and_nothing_is_changed(
    client: Client, server: EmbeddedServer, place: str, code: int, word: str
) -> None:
    before = client.machine.snapshot()

    done = client.sevpn(
        *("up", *login(server), "--netns", place), env={"SEVPN_PASSWORD": "secret"}
    )

    assert done.code == code, done.err
    assert word in done.err
    assert client.machine.snapshot() == before


def test_names_for_a_namespace_without_a_name_are_refused(
    client: Client, server: EmbeddedServer
) -> None:
    done = client.sevpn(
        *("up", *login(server), "--netns", "/proc/self/ns/net", "--accept-dns"),
        env={"SEVPN_PASSWORD": "secret"},
    )

    assert done.code == 65
    assert "only a namespace with a name" in done.err


def test_two_namespaces_have_a_default_route_and_names_each(
    client: Client, server: EmbeddedServer
) -> None:
    client.machine.sh("ip netns add green; ip -n green link set lo up")
    options = ("--accept-default-gateway", "--dns", "10.77.0.53")
    with (
        client.up(
            *login(server), *options, "--netns", "blue", name="a", password="secret"
        ) as first,
        client.up(
            *login(server), *options, "--netns", "green", name="b", password="secret"
        ) as second,
    ):
        assert first.status()["state"] == second.status()["state"] == "connected"
        assert pings_from_blue(client)
        third = client.sevpn(
            *("up", *login(server), *options, "--netns", "blue", "--name", "c"),
            *("--tap", "other"),
            env={"SEVPN_PASSWORD": "secret"},
        )
    assert third.code == 78
    assert "tunnel 'a'" in third.err
    client.machine.sh("ip netns del green")


def test_an_uplink_that_moves_outside_is_followed_inside(
    network: Network, client: Client, server: EmbeddedServer
) -> None:
    network.second_uplink(client, metric=200)
    words = ("203.0.113.1/TEST", "--pin", server.pin, "--user", "alice", "--no-resume")
    with client.up(*words, "--netns", "blue", password="secret") as tunnel:
        client.machine.sh("ip address flush dev eth0")

        eventually(
            lambda: tunnel.status()["counters"]["reconnects"] == 1, what="a session"
        )
        tunnel.wait()
        assert pings_from_blue(client)
        assert tunnel.stop().code == 0


def test_an_interface_that_goes_inside_is_made_again(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), "--netns", "blue", password="secret") as tunnel:
        client.machine.sh("ip -n blue link del sevpn0")

        eventually(
            lambda: tunnel.status()["counters"]["reconnects"] == 1, what="a session"
        )
        tunnel.wait()
        assert pings_from_blue(client)


def test_a_name_that_runs_in_a_namespace_runs_nowhere_else(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), "--netns", "blue", password="secret"):
        before = client.machine.snapshot()
        done = client.sevpn(
            *("up", *login(server), "--name", "t"), env={"SEVPN_PASSWORD": "secret"}
        )
        assert client.machine.snapshot() == before

    assert done.code == 78
    assert "running already" in done.err
