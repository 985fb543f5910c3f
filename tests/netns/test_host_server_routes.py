# SPDX-License-Identifier: Apache-2.0
"""Routes to the server: by today's best way, shared, following, left to others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from sevpn.net.host import Host
from sevpn.net.rtnetlink import Netlink
from sevpn.testing.machine import eventually
from sevpn.testing.sandbox import add_uplink, ip, ip_json, sandboxed, wait_until_up
from sevpn.wire.ethernet import MacAddress

pytestmark = pytest.mark.netns

SERVER = ip_address("203.0.113.7")
OTHER = ip_address("203.0.113.8")
SIX = ip_address("2001:db8:f::7")


def make_host(run: Path, tunnel: str = "office") -> Host:
    host = Host(tunnel=tunnel, runtime_dir=run, etc_dir=run)
    host.recover()
    host.open_tap(None, MacAddress(b"\x5e\0\0\0\0" + tunnel.encode()[:1]), 1500)
    return host


def ours() -> list[str]:
    """Return our routes, as `ip` shows them, IPv4 first."""
    lines = (ip("route show proto 224") + ip("-6 route show proto 224")).splitlines()
    return [line.removesuffix("pref medium").strip() for line in lines]


@sandboxed
def test_the_server_is_held_by_the_uplink_and_let_go_again(tmp_path: Path) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    add_uplink("eth0", "2001:db8::2/64", gateway="fe80::1")
    before = ip("route") + ip("-6 route")
    host = make_host(tmp_path)

    assert host.pin_server([SERVER, SIX]) == ()

    assert ours() == [
        "203.0.113.7 via 192.0.2.1 dev eth0",
        "2001:db8:f::7 via fe80::1 dev eth0 metric 1024",
    ]
    assert host.describe().routes == tuple(ours())
    (link,) = ip_json("link show sevpn0")
    assert link["ifalias"] == "sevpn office 203.0.113.7 2001:db8:f::7"
    host.undo()
    assert ip("route") + ip("-6 route") == before


@sandboxed
def test_a_server_on_the_link_gets_a_route_on_the_link_and_this_host_none(
    tmp_path: Path,
) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    host = make_host(tmp_path)

    addresses = ["192.0.2.9", "192.0.2.2", "127.0.0.1", "::1", "fe80::7%eth0"]
    assert host.pin_server([ip_address(text) for text in addresses]) == ()

    assert ours() == ["192.0.2.9 dev eth0 scope link"]
    host.undo()
    assert ours() == []


@sandboxed
def test_the_longest_prefix_and_the_smallest_metric_decide(tmp_path: Path) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1", metric=100)
    add_uplink("wlan0", "198.51.100.2/24", gateway="198.51.100.1", metric=600)
    ip("route add 203.0.113.8/31 via 198.51.100.9 metric 900")
    ip("route add blackhole 203.0.113.10/32")
    host = make_host(tmp_path)

    lost = host.pin_server([SERVER, OTHER, ip_address("203.0.113.10")])

    assert ours() == [
        "203.0.113.7 via 192.0.2.1 dev eth0",
        "203.0.113.8 via 198.51.100.9 dev wlan0",
    ]
    assert lost == (ip_address("203.0.113.10"),)
    host.undo()


@sandboxed
def test_a_route_of_somebody_else_is_left_and_never_deleted(tmp_path: Path) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    ip("route add 203.0.113.7 via 192.0.2.1 dev eth0")
    host = make_host(tmp_path)

    host.pin_server([SERVER])
    assert ours() == []
    host.undo()

    assert "203.0.113.7 via 192.0.2.1 dev eth0" in ip("route")


@sandboxed
def test_a_route_of_somebody_else_in_the_place_of_ours_is_not_deleted(
    tmp_path: Path,
) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    host = make_host(tmp_path)
    host.pin_server([SERVER])
    ip("route replace 203.0.113.7 via 192.0.2.1 dev eth0 proto static")

    host.undo()

    assert "203.0.113.7 via 192.0.2.1 dev eth0 proto static" in ip("route")


@sandboxed
def test_another_look_up_replaces_the_addresses(tmp_path: Path) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    host = make_host(tmp_path)
    host.pin_server([SERVER])

    host.pin_server([OTHER])

    assert ours() == ["203.0.113.8 via 192.0.2.1 dev eth0"]
    host.undo()


@sandboxed
def test_without_an_uplink_the_address_is_lost_until_there_is_one(
    tmp_path: Path,
) -> None:
    host = make_host(tmp_path)

    assert host.pin_server([SERVER]) == (SERVER,)
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    assert [change.describe() for change in host.repin()] == [
        "ip route add 203.0.113.7 via 192.0.2.1 dev eth0 proto 224"
    ]

    assert host.repin() == ()
    host.undo()


@sandboxed
def test_the_route_follows_a_link_that_loses_its_carrier(tmp_path: Path) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1", metric=100)
    add_uplink("wlan0", "198.51.100.2/24", gateway="198.51.100.1", metric=600)
    host = make_host(tmp_path)
    host.pin_server([SERVER])

    ip("link set eth0-peer down")
    # The kernel's worker notices it when it has time.
    eventually(lambda: "linkdown" in ip("route show default dev eth0"))
    host.repin()

    assert ours() == ["203.0.113.7 via 198.51.100.1 dev wlan0"]
    ip("link set eth0-peer up")
    wait_until_up("eth0", "eth0-peer")
    host.repin()
    assert ours() == ["203.0.113.7 via 192.0.2.1 dev eth0"]
    host.undo()


@sandboxed
def test_the_route_follows_by_itself_when_the_kernel_took_the_old_way_silently(
    tmp_path: Path,
) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1", metric=100)
    add_uplink("wlan0", "198.51.100.2/24", gateway="198.51.100.1", metric=600)

    async def scenario() -> None:
        host = make_host(tmp_path)
        host.pin_server([SERVER])
        calls: list[int] = []

        def follow() -> None:
            calls.append(len(host.repin()))

        host.watch(follow)
        ip("address delete 192.0.2.2/24 dev eth0")
        await until(lambda: ours() == ["203.0.113.7 via 198.51.100.1 dev wlan0"])
        ip("route delete 203.0.113.7")
        await until(lambda: ours() == ["203.0.113.7 via 198.51.100.1 dev wlan0"])
        # A burst is one call, and what we change ourselves leads to no further change.
        await asyncio.sleep(0.4)
        assert sum(calls) == 2
        assert calls[-1] == 0
        burst = len(calls)
        for number in range(20):
            ip(f"route add 198.18.{number}.0/24 dev wlan0")
        await asyncio.sleep(0.4)
        assert 1 <= len(calls) - burst <= 4
        host.undo()
        ip("route add 198.18.99.0/24 dev wlan0")
        await asyncio.sleep(0.3)
        assert ours() == []

    asyncio.run(scenario())


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(150):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(ours())


@sandboxed
def test_two_tunnels_to_one_server_share_its_route_whichever_ends_first(
    tmp_path: Path,
) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    for first, last in (("a", "b"), ("b", "a")):
        hosts = {name: make_host(tmp_path, name) for name in ("a", "b")}
        hosts["a"].pin_server([SERVER])
        hosts["b"].pin_server([SERVER, OTHER])

        hosts[first].undo()
        assert "203.0.113.7 via 192.0.2.1 dev eth0" in ours()
        hosts[last].undo()
        assert ours() == []


@sandboxed
def test_a_route_with_several_hops_is_read_and_the_first_living_one_taken(
    tmp_path: Path,
) -> None:
    add_uplink("eth0", "192.0.2.2/24")
    add_uplink("wlan0", "198.51.100.2/24")
    ip(
        "route add default nexthop via 192.0.2.1 dev eth0 nexthop via 198.51.100.1 dev wlan0"
    )
    host = make_host(tmp_path)
    host.pin_server([SERVER])
    assert ours() == ["203.0.113.7 via 192.0.2.1 dev eth0"]

    ip("link set eth0-peer down")
    # The kernel's worker notices it when it has time.
    eventually(lambda: "linkdown" in ip("route show default"))
    host.repin()

    assert ours() == ["203.0.113.7 via 198.51.100.1 dev wlan0"]
    host.undo()


@sandboxed
def test_an_ipv4_server_may_be_held_by_an_ipv6_router(tmp_path: Path) -> None:
    add_uplink("eth0", "192.0.2.2/24")
    ip("-4 route add default via inet6 fe80::1 dev eth0")
    host = make_host(tmp_path)

    host.pin_server([SERVER])

    assert ours() == ["203.0.113.7 via inet6 fe80::1 dev eth0"]
    host.undo()
    assert ours() == []


@sandboxed
def test_a_router_outside_of_every_subnet_is_taken_over_as_onlink(
    tmp_path: Path,
) -> None:
    add_uplink("eth0", "192.0.2.2/32")
    ip("route add default via 172.31.1.1 dev eth0 onlink")
    host = make_host(tmp_path)

    host.pin_server([SERVER])

    assert ours() == ["203.0.113.7 via 172.31.1.1 dev eth0 onlink"]
    host.undo()


@sandboxed
def test_all_of_a_large_table_is_read() -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    for number in range(250):
        ip(f"route add 10.{number}.0.0/16 via 192.0.2.1")
    netlink = Netlink()

    routes = netlink.routes()

    shown = ip_json("route") + ip_json("-6 route")
    assert len(routes) == len(shown) == 254
    assert {
        str(found.route.destination)
        for found in routes
        if found.route.destination.prefixlen != 0
    } == {route["dst"] for route in shown if route["dst"] != "default"}
    netlink.close()


@pytest.mark.parametrize("family", ["", "-6 "])
def test_a_policy_rule_is_a_change_of_the_network_too(
    tmp_path: Path, family: str
) -> None:
    @sandboxed
    def scene() -> None:
        async def scenario() -> None:
            calls: list[None] = []
            host = make_host(tmp_path)
            host.watch(lambda: calls.append(None))
            ip(f"{family}rule add to all lookup main preference 5000")
            await until(lambda: bool(calls))
            host.unwatch()
            host.undo()

        asyncio.run(scenario())

    scene()
