# SPDX-License-Identifier: Apache-2.0
"""A redirect moves the host's ways: lock, route and mark follow to the farm member.

client ── eth0 192.0.2.N ══ 192.0.2.1 ─┬─ controller 203.0.113.1, which only redirects
                                       ├─ member 198.51.100.88, with the hub's TAP
       ── the tunnel ═══ 10.77.0.1 ────┴─ 198.51.100.77, to both sides
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import pytest

from netns.test_lock import way_of
from sevpn.testing.lab import Client, EmbeddedServer, Network, Up
from sevpn.testing.machine import Machine, eventually
from sevpn.testing.services import HttpServer, fetch

pytestmark = pytest.mark.netns

CONTROLLER: Final = "203.0.113.1"
MEMBER: Final = "198.51.100.88"
INSIDE: Final = "10.77.0.1"
FAR: Final = "198.51.100.77"
WITHIN: Final = "10.77.0.88"
"""Where another member listens: in the subnet that the tunnel leads to."""

FULL: Final = ("--accept-default-gateway", "--gateway", INSIDE)
LOCK: Final = ("--lock", "on")
MARK: Final = ("--route-mode", "mark")

_MEMBER: Final = """
    global member
    inside = TapConfig(name="inside", address=IPv4Interface("10.77.0.1/24"))
    member = Server(ServerConfig(listen=("{0}:443",), hubs=(HubConfig(
        name="TEST", users=hub.users, gateway=hub.gateway, dhcp=hub.dhcp, tap=inside),)))
    await member.start()
    server.send_logins_to(member, IPv4Address("{0}"))
"""


@pytest.fixture(scope="module")
def places(network: Network) -> Iterator[None]:
    addresses = (MEMBER, FAR, WITHIN)
    network.server.sh(
        "echo 1 > /proc/sys/net/ipv4/ip_forward;"
        + ";".join(f"ip addr add {address}/32 dev lo" for address in addresses)
    )
    made = HttpServer(network.server, FAR, port=8080)
    yield
    made.stop()


def a_farm(network: Network, member: str) -> EmbeddedServer:
    return EmbeddedServer(
        network.server,
        setup=_MEMBER.format(member),
        config=f"listen=('{CONTROLLER}:443',),",
    )


@pytest.fixture
def farm(network: Network, places: None) -> Iterator[EmbeddedServer]:  # noqa: ARG001
    made = a_farm(network, MEMBER)
    yield made
    made.stop()


@pytest.fixture
def farm_within(network: Network, places: None) -> Iterator[EmbeddedServer]:  # noqa: ARG001
    made = a_farm(network, WITHIN)
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def nothing_stored(client: Client) -> Iterator[None]:
    yield
    client.sevpn("unlock")


def login(farm: EmbeddedServer) -> tuple[str, ...]:
    return (f"{CONTROLLER}/TEST", "--pin", farm.pin, "--user", "alice", *FULL)


def goes_inside(client: Client) -> bool:
    """Whether the world is reached through the tunnel."""
    peer = fetch(client.machine, f"http://{FAR}:8080", size=100_000).peer
    return peer.startswith("10.77.0.")


def let_through(client: Client) -> str:
    """Return the addresses that the lock lets the tunnel's own packets go to."""
    listed = client.machine.check("nft", "list", "set", "inet", "sevpn_t", "servers4")
    found = re.search(r"elements = \{ ([^}]*) \}", listed)
    return "" if found is None else found[1]


def pinned(machine: Machine) -> list[str]:
    """Return what our host routes of the main table lead to."""
    routes = machine.ip("route", "show", "table", "main", "proto", "224", "type", "unicast")  # fmt: skip
    return [route["dst"] for route in routes if route["dev"] == "eth0"]


def is_at(tunnel: Up, address: str) -> None:
    assert tunnel.wait()["server"]["address"] == address


def log_in_again(tunnel: Up) -> None:
    """Have it ask the controller once more, which the lock must let it reach."""
    before = tunnel.status()["counters"]["reconnects"]
    tunnel.client.sevpn("reconnect", "t")
    eventually(
        lambda: tunnel.status()["counters"]["reconnects"] > before, what="a new login"
    )
    tunnel.wait()


def test_the_lock_lets_the_member_through_and_the_controller_no_more(
    client: Client, farm: EmbeddedServer
) -> None:
    with client.up(*login(farm), *LOCK, password="secret") as tunnel:
        for login_count in (1, 2):
            is_at(tunnel, MEMBER)
            assert farm.do("server.login_count") == str(login_count)
            assert let_through(client) == MEMBER
            # The controller's address is now one like any other.
            assert way_of(client, CONTROLLER, 443).startswith("10.77.0.")
            assert goes_inside(client)
            assert tunnel.status()["lock"] == "open"
            if login_count == 1:
                log_in_again(tunnel)
        tunnel.stop()


def test_without_either_the_host_route_is_the_members_alone(
    client: Client, farm: EmbeddedServer
) -> None:
    with client.up(*login(farm), password="secret") as tunnel:
        for login_count in (1, 2):
            is_at(tunnel, MEMBER)
            assert farm.do("server.login_count") == str(login_count)
            assert pinned(client.machine) == [MEMBER]
            assert goes_inside(client)
            if login_count == 1:
                log_in_again(tunnel)
        tunnel.stop()

    assert pinned(client.machine) == []


def test_while_no_member_takes_the_login_the_lock_holds(
    client: Client, farm: EmbeddedServer
) -> None:
    options = ("--no-resume", "--reconnect-delay", "1")
    with client.up(*login(farm), *LOCK, *options, password="secret") as tunnel:
        farm.do("member.faults.at(Stage.WELCOME, AnswerError(9), times=None)")
        client.sevpn("reconnect", "t")
        tunnel.wait("waiting")

        # Who is dialled next are these two, and nobody else.
        assert set(let_through(client).split(", ")) <= {CONTROLLER, MEMBER}
        assert tunnel.status()["lock"] == "holding"
        assert not way_of(client, FAR).startswith("192.0.2.")

        farm.do("member.faults.clear()")
        is_at(tunnel, MEMBER)
        assert let_through(client) == MEMBER
        assert goes_inside(client)
        tunnel.stop()


def test_by_mark_the_tunnels_packets_find_the_member_wherever_it_is(
    network: Network, client: Client, farm: EmbeddedServer
) -> None:
    """The member is behind another uplink than its controller, with a strict filter."""
    machine = client.machine
    gateway = network.second_uplink(client, subnet="198.18.9", metric=None)
    machine.sh(f"ip route add {MEMBER}/32 via {gateway} dev eth1")
    filters = "/proc/sys/net/ipv4/conf/eth1/rp_filter"
    machine.sh(f"echo 1 > {filters}")
    main = machine.ip("route", "show", "table", "main")

    with client.up(*login(farm), *MARK, password="secret") as tunnel:
        for login_count in (1, 2):
            is_at(tunnel, MEMBER)
            assert farm.do("server.login_count") == str(login_count)
            assert goes_inside(client)
            assert "198.18.9.2:" in machine.check("ss", "-Htn", "dst", MEMBER)
            # Answers of the member come in where only marked packets leave.
            assert machine.read(filters).strip() == "2"
            after = machine.ip("route", "show", "table", "main")
            assert [route for route in after if route["dev"] != "sevpn0"] == main
            # Other programs reach the member through the tunnel, as all else.
            (way,) = machine.ip("route", "get", MEMBER)
            assert way["dev"] == "sevpn0"
            if login_count == 1:
                log_in_again(tunnel)
        tunnel.stop()

    assert machine.read(filters).strip() == "1"
    assert machine.ip("route", "show", "table", "main") == main


def test_by_mark_a_member_within_the_tunnels_subnet_is_held_to_the_uplink(
    client: Client, farm_within: EmbeddedServer
) -> None:
    with client.up(*login(farm_within), *MARK, *LOCK, password="secret") as tunnel:
        for login_count in (1, 2):
            is_at(tunnel, WITHIN)
            assert farm_within.do("server.login_count") == str(login_count)
            assert goes_inside(client)
            assert pinned(client.machine) == [WITHIN]
            assert let_through(client) == WITHIN
            if login_count == 1:
                log_in_again(tunnel)
        tunnel.stop()

    assert pinned(client.machine) == []
