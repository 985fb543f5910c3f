# SPDX-License-Identifier: Apache-2.0
"""What a tunnel changes on its host, against the real server, and how it is undone."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from sevpn.testing.lab import SERVER, Client, Hub, Network
from sevpn.testing.machine import eventually
from sevpn.testing.peers import Dnsmasq

pytestmark = [pytest.mark.netns, pytest.mark.interop]

INNER = "198.51.100.1"
ROUTES = "10.66.0.0/16,198.51.100.7,0.0.0.0/0,198.51.100.1"


def login(hub: Hub) -> tuple[str, ...]:
    return (hub.target, "--pin", hub.pin, "--user", "alice")


@pytest.fixture
def bridged_hub(plain_hub: Hub) -> Iterator[Hub]:
    """A hub bridged to a TAP of the server's machine, with the address INNER."""
    plain_hub.server.bridge_tap(plain_hub.name, plain_hub.name.lower(), f"{INNER}/24")
    yield plain_hub
    plain_hub.server.command(
        f"BridgeDelete {plain_hub.name} /DEVICE:{plain_hub.name.lower()}"
    )


@pytest.fixture
def dnsmasq(bridged_hub: Hub) -> Iterator[Dnsmasq]:
    """A DHCP server that offers everything: routes 121 and 249, names, MTU."""
    made = Dnsmasq(
        bridged_hub.server.machine,
        f"tap_{bridged_hub.name.lower()}",
        [
            "dhcp-range=198.51.100.50,198.51.100.99,1h",
            f"dhcp-option=121,{ROUTES}",
            f"dhcp-option=249,{ROUTES}",
            "dhcp-option=6,198.51.100.1,198.51.100.2",
            "dhcp-option=15,corp.test",
            "dhcp-option=119,corp.test,lab.corp.test",
            "dhcp-option=26,1400",
        ],
    )
    yield made
    made.stop()


def test_nothing_is_seized_that_was_not_asked_for(client: Client, hub: Hub) -> None:
    before = client.machine.snapshot()

    with client.up(*login(hub), password="secret") as tunnel:
        during = client.machine.snapshot()
        assert during.resolv_conf == before.resolv_conf
        assert [r for r in during.routes if r.startswith("default")] == [
            r for r in before.routes if r.startswith("default")
        ]
        assert tunnel.stop().code == 0

    assert client.machine.snapshot() == before


@pytest.mark.parametrize("metric", [0, 50, 100])
def test_the_default_gateway_wins_whatever_the_uplink_has(
    network: Network, hub: Hub, metric: int
) -> None:
    with network.client(default_metric=metric) as client:
        before = client.machine.snapshot()

        with client.up(
            *login(hub), "--accept-default-gateway", password="secret"
        ) as tunnel:
            routes = tunnel.status()["routes"]
            way = client.machine.ip("route", "get", "203.0.113.9")[0]
            assert way["dev"] == tunnel.status()["interface"]["name"]
            assert way["gateway"] == "192.168.30.1"
            assert client.machine.ip("route", "get", SERVER)[0]["dev"] == "eth0"
            assert ("0.0.0.0/1" in " ".join(routes)) == (metric <= 50)
            assert tunnel.stop().code == 0

        assert client.machine.snapshot() == before


def test_classless_routes_split_the_tunnel(
    client: Client, bridged_hub: Hub, dnsmasq: Dnsmasq
) -> None:
    before = client.machine.snapshot()

    with client.up(
        *login(bridged_hub), "--accept-static-routes", password="secret"
    ) as tunnel:
        status = tunnel.status()
        assert client.machine.ip("route", "get", "10.66.1.1")[0]["gateway"] == (
            "198.51.100.7"
        )
        # The default route inside option 121 was not asked for.
        assert client.machine.ip("route", "get", "203.0.113.9")[0]["dev"] == "eth0"
        assert status["lease"]["domain"] == "corp.test"
        assert status["interface"]["mtu"] == 1400
        assert dnsmasq.leases() == [status["lease"]["address"].split("/")[0]]
        assert tunnel.stop().code == 0

    assert client.machine.snapshot() == before
    eventually(lambda: dnsmasq.leases() == [], what="the release of the lease")


def test_the_default_route_inside_option_121_is_taken_when_asked_for(
    client: Client, bridged_hub: Hub, dnsmasq: Dnsmasq
) -> None:
    with client.up(
        *login(bridged_hub),
        *("--accept-static-routes", "--accept-default-gateway"),
        password="secret",
    ):
        assert dnsmasq.leases()
        way = client.machine.ip("route", "get", "203.0.113.9")[0]
        assert way["gateway"] == INNER
        assert client.machine.pings(INNER)


@pytest.mark.usefixtures("dnsmasq")
def test_name_servers_are_set_and_restored(client: Client, bridged_hub: Hub) -> None:
    before = client.machine.snapshot()

    with client.up(*login(bridged_hub), "--accept-dns", password="secret") as tunnel:
        text = client.machine.read("/etc/resolv.conf")
        assert "nameserver 198.51.100.1\nnameserver 198.51.100.2\n" in text
        assert "search corp.test lab.corp.test" in text
        assert tunnel.status()["dns"]["backend"] == "file"
        assert tunnel.stop(signal.SIGINT).code == 0

    assert client.machine.snapshot() == before


@pytest.mark.usefixtures("dnsmasq")
def test_a_killed_tunnel_is_undone_by_cleanup(client: Client, bridged_hub: Hub) -> None:
    before = client.machine.snapshot()
    options = ("--accept-default-gateway", "--accept-dns")

    with client.up(*login(bridged_hub), *options, password="secret") as tunnel:
        tunnel.stop(signal.SIGKILL)

    assert client.machine.snapshot() != before
    assert client.sevpn("cleanup").code == 0
    assert client.machine.snapshot() == before
    assert client.sevpn("cleanup").code == 0


@pytest.mark.usefixtures("dnsmasq")
def test_cleanup_needs_no_journal(client: Client, bridged_hub: Hub) -> None:
    before = client.machine.snapshot()
    options = ("--accept-default-gateway", "--accept-dns")

    with client.up(*login(bridged_hub), *options, password="secret") as tunnel:
        tunnel.stop(signal.SIGKILL)
        client.machine.sh("rm -rf /run/sevpn")

    assert client.sevpn("cleanup").code == 0
    assert client.machine.snapshot() == before


@pytest.mark.usefixtures("dnsmasq")
def test_the_next_start_undoes_what_a_killed_one_left(
    client: Client, bridged_hub: Hub
) -> None:
    before = client.machine.snapshot()

    with client.up(*login(bridged_hub), "--accept-dns", password="secret") as tunnel:
        tunnel.stop(signal.SIGKILL)
    with client.up(*login(bridged_hub), password="secret") as tunnel:
        assert client.machine.snapshot().resolv_conf == before.resolv_conf
        assert tunnel.stop().code == 0

    assert client.machine.snapshot() == before


@pytest.mark.parametrize("first", ["one", "two"])
def test_two_tunnels_to_one_server_share_its_route_in_either_order(
    client: Client, hub: Hub, plain_hub: Hub, first: str
) -> None:
    before = client.machine.snapshot()
    static = ("--no-dhcp", "--address", "198.51.100.9/24")

    with (
        client.up(*login(hub), name="one", password="secret") as one,
        client.up(*login(plain_hub), *static, name="two", password="secret") as two,
    ):
        ours = [
            r for r in client.machine.snapshot().routes if r.startswith(f"{SERVER} ")
        ]
        assert len(ours) == 1
        earlier, later = (one, two) if first == "one" else (two, one)
        assert earlier.stop().code == 0
        assert ours[0] in client.machine.snapshot().routes
        assert later.status()["state"] == "connected"
        assert later.stop().code == 0

    assert client.machine.snapshot() == before


def test_a_second_tunnel_may_not_take_the_default_route_too(
    client: Client, hub: Hub
) -> None:
    hub.user("bob")
    gateway = "--accept-default-gateway"

    with client.up(*login(hub), gateway, name="one", password="secret"):
        done = client.sevpn(
            *("up", hub.target, "--pin", hub.pin, "--user", "bob", gateway),
            *("--name", "two"),
            env={"SEVPN_PASSWORD": "secret"},
        )

    assert done.code == 78
    assert "'one'" in done.err


def test_down_waits_until_the_host_is_restored(client: Client, hub: Hub) -> None:
    before = client.machine.snapshot()

    with client.up(*login(hub), "--accept-default-gateway", password="secret") as up:
        assert client.sevpn("down", "t").code == 0
        assert client.machine.snapshot() == before
        assert up.stop().code == 0
    assert client.sevpn("down").code == 0


def test_a_detached_tunnel_outlives_its_command(client: Client, hub: Hub) -> None:
    before = client.machine.snapshot()

    done = client.sevpn(
        *("up", *login(hub), "--name", "d", "--detach"),
        env={"SEVPN_PASSWORD": "secret"},
    )

    assert done.code == 0
    assert client.machine.pings("192.168.30.1")
    assert client.sevpn("status", "--check", "ready").code == 0
    assert client.sevpn("down", "d").code == 0
    assert client.sevpn("status", "--check", "live").code == 1
    assert client.machine.snapshot() == before


def test_a_detached_tunnel_that_fails_tells_its_exit_code(
    client: Client, hub: Hub
) -> None:
    done = client.sevpn(
        *("up", *login(hub), "--detach"), env={"SEVPN_PASSWORD": "wrong"}
    )

    assert done.code == 77
    assert "server error 9" in done.err
