# SPDX-License-Identifier: Apache-2.0
"""The best way to an address, past all tunnels."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from sevpn.net.model import RTPROTO, Family, FoundRoute, Route, RouteKind
from sevpn.net.nexthop import (
    NextHop,
    best_next_hop,
    is_held_by_others,
    probe_addresses,
    server_route,
)


def found(
    destination: str,
    gateway: str | None = None,
    *,
    device: str = "eth0",
    metric: int = 0,
    protocol: int = 3,
    is_unicast: bool = True,
    is_usable: bool = True,
) -> FoundRoute:
    via = ip_address(gateway) if gateway else None
    kind: RouteKind = "unicast" if is_unicast else "other"
    route = Route(ip_network(destination), via, device, metric, kind=kind)
    return FoundRoute(route, protocol, is_usable=is_usable)


SERVER = ip_address("203.0.113.7")
ETHERNET = found("0.0.0.0/0", "192.0.2.1", metric=100)
WIFI = found("0.0.0.0/0", "198.51.100.1", device="wlan0", metric=600)


def best(*routes: FoundRoute, address: str = "203.0.113.7") -> str | None:
    hop = best_next_hop(routes, ip_address(address), ignored_devices={"sevpn0"})
    return None if hop is None else f"{hop.device} {hop.gateway}"


def test_without_a_route_there_is_no_way() -> None:
    assert best() is None
    assert best(found("198.51.100.0/24")) is None


def test_the_longest_prefix_wins_whatever_the_metric() -> None:
    assert (
        best(found("203.0.113.0/24", "192.0.2.9", metric=900), ETHERNET)
        == "eth0 192.0.2.9"
    )


def test_the_smaller_metric_wins_among_equals_and_the_first_of_the_same() -> None:
    assert best(WIFI, ETHERNET) == "eth0 192.0.2.1"
    assert (
        best(found("0.0.0.0/0", "192.0.2.2", metric=100), ETHERNET) == "eth0 192.0.2.2"
    )


@pytest.mark.parametrize(
    "route",
    [
        found("203.0.113.7/32", "192.0.2.9", protocol=RTPROTO),
        found("0.0.0.0/1", "10.0.0.1", device="sevpn0"),
        found("0.0.0.0/0", "192.0.2.9", is_usable=False),
        found("::/0", "fe80::1"),
    ],
)
def test_our_own_routes_dead_ones_and_the_other_family_do_not_count(
    route: FoundRoute,
) -> None:
    assert best(route, ETHERNET) == "eth0 192.0.2.1"


def test_a_route_that_refuses_is_no_way_even_beside_a_default() -> None:
    assert best(ETHERNET, found("203.0.113.0/24", is_unicast=False)) is None


def test_the_zone_of_an_address_does_not_enter_its_route() -> None:
    route = server_route(
        ip_address("2001:db8::7"), NextHop("eth0", ip_address("fe80::1"))
    )

    assert str(route) == "2001:db8::7 via fe80::1 dev eth0 metric 1024"
    assert (
        str(server_route(SERVER, NextHop("eth0", None)))
        == "203.0.113.7 dev eth0 scope link"
    )


def test_a_refusing_route_of_somebody_else_holds_nothing() -> None:
    route = server_route(SERVER, NextHop("eth0", ip_address("192.0.2.1")))

    assert is_held_by_others([found("203.0.113.7/32", "192.0.2.1")], route)
    assert not is_held_by_others([found("203.0.113.7/32", is_unicast=False)], route)
    assert not is_held_by_others([found("203.0.113.7/32", protocol=RTPROTO)], route)


@pytest.mark.parametrize(("family", "count"), [(4, 2), (6, 1)])
def test_each_half_that_has_public_addresses_is_asked_about(
    family: Family, count: int
) -> None:
    probes = probe_addresses([], family, device="sevpn0")

    assert len(probes) == count
    assert all(address.is_global for address in probes)


def test_an_address_with_a_route_of_its_own_elsewhere_is_not_asked_about() -> None:
    first = probe_addresses([], 4, device="sevpn0")
    routes = [
        found(f"{first[0]}/32", "192.0.2.1"),
        found(f"{first[1]}/32", "10.0.0.1", device="sevpn0"),
    ]

    low, high = probe_addresses(routes, 4, device="sevpn0")

    assert low != first[0]
    assert high == first[1]


def test_rival_halves_are_no_excuse_and_a_half_that_is_covered_whole_is_left_out() -> (
    None
):
    halves = [found("0.0.0.0/1", "192.0.2.1"), found("128.0.0.0/1", "192.0.2.1")]
    covered = [found("0.0.0.0/2", "192.0.2.1"), found("64.0.0.0/2", "192.0.2.1")]

    assert len(probe_addresses(halves, 4, device="sevpn0")) == 2
    assert len(probe_addresses(covered, 4, device="sevpn0")) == 1
