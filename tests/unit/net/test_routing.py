# SPDX-License-Identifier: Apache-2.0
"""Which table a tunnel's routes stand in, and which packets look there."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from sevpn.net.marks import Marks
from sevpn.net.model import Found, FoundAddress, FoundRoute, Link, Route
from sevpn.net.routing import Arranged, Inside, Lan, Wishes, arrange, local_networks

TAP = "sevpn0"
MARKS = Marks.of(0)
MARK = Wishes(by_mark=True)
DEFAULT = Route(ip_network("0.0.0.0/0"), ip_address("10.0.0.1"), TAP, 50)
STATIC = Route(ip_network("10.7.0.0/16"), ip_address("10.0.0.1"), TAP, 50)
UPLINK = FoundRoute(
    Route(ip_network("0.0.0.0/0"), ip_address("192.168.1.1"), "eth0", 100), 3
)


def on(device: str, *addresses: str) -> tuple[FoundAddress, ...]:
    return tuple(
        FoundAddress(device, ip_interface(text), is_link_local=text.startswith("fe80"))
        for text in addresses
    )


HOST = Found(
    addresses=(*on("lo", "127.0.0.1/8"), *on("eth0", "192.168.1.7/24")),
    routes=(UPLINK,),
)


def inside(*routes: Route, excluded: tuple[str, ...] = ()) -> Inside:
    return Inside(
        device=TAP,
        addresses=(ip_interface("10.0.0.5/24"),),
        routes=routes,
        excluded=tuple(map(ip_network, excluded)),
        routers=(ip_address("10.0.0.1"),),
        metric=50,
    )


def arranged(
    wishes: Wishes,
    *routes: Route,
    found: Found = HOST,
    excluded: tuple[str, ...] = (),
) -> Arranged:
    return arrange(
        wishes,
        inside(*routes, excluded=excluded),
        found=found,
        marks=MARKS,
    )


def text(what: Arranged) -> list[str]:
    return [str(item) for item in (*what.routes, *what.rules)]


# --- host ----------------------------------------------------------------------


def test_in_host_mode_routes_stay_in_the_main_table_and_there_are_no_rules() -> None:
    what = arranged(Wishes(), DEFAULT, STATIC, excluded=("192.0.2.0/24",))

    assert what == Arranged((DEFAULT, STATIC), (), (ip_network("192.0.2.0/24"),))


def test_what_lies_within_something_excluded_does_not_go_inside() -> None:
    what = arranged(Wishes(), DEFAULT, STATIC, excluded=("10.0.0.0/8",))

    assert what.routes == (DEFAULT,)


# --- mark ----------------------------------------------------------------------


def test_in_mark_mode_all_but_our_own_packets_look_into_the_tunnels_table() -> None:
    what = arranged(MARK, DEFAULT, excluded=("192.0.2.0/24",))

    assert text(what) == [
        "default via 10.0.0.1 dev sevpn0 table 57568 metric 50",
        "10.0.0.0/24 dev sevpn0 table 57568 scope link metric 50",
        "throw 192.0.2.0/24 table 57568",
        "throw 192.168.1.0/24 table 57568",
        "throw 224.0.0.0/4 table 57568",
        "throw 255.255.255.255 table 57568",
        "pref 9001 from all fwmark 0xe0e1 lookup main",
        "pref 9002 not from all fwmark 0xe0e0 lookup 57568",
    ]
    assert what.excluded == ()


def test_a_split_tunnel_by_mark_has_no_need_of_holes_for_the_lan() -> None:
    assert text(arranged(MARK, STATIC))[:2] == [
        "10.7.0.0/16 via 10.0.0.1 dev sevpn0 table 57568 metric 50",
        "10.0.0.0/24 dev sevpn0 table 57568 scope link metric 50",
    ]
    assert not any("throw" in line for line in text(arranged(MARK, STATIC)))


def test_without_routes_there_are_no_rules() -> None:
    assert arranged(MARK) == Arranged((), (), ())


def test_an_excluded_users_packets_look_into_the_main_table_first() -> None:
    rules = arranged(Wishes(by_mark=True, exclude_uids=(33, 1000)), DEFAULT).rules

    assert [str(rule) for rule in rules] == [
        "pref 9001 from all fwmark 0xe0e1 lookup main",
        "pref 9001 from all uidrange 33-33 lookup main",
        "pref 9001 from all uidrange 1000-1000 lookup main",
        "pref 9002 not from all fwmark 0xe0e0 lookup 57568",
    ]


def test_each_family_has_its_own_rules_and_only_where_it_has_routes() -> None:
    six = Route(ip_network("::/0"), ip_address("fe80::1"), TAP, 50)

    assert {rule.family for rule in arranged(MARK, DEFAULT).rules} == {4}
    assert {rule.family for rule in arranged(MARK, DEFAULT, six).rules} == {
        4,
        6,
    }


# --- the neighbourhood -----------------------------------------------------------


@pytest.mark.parametrize(
    ("lan", "networks"),
    [
        ("none", []),
        ("private", ["10.0.0.0/8", "192.168.1.0/24", "fd00:1::/64"]),
        ("all", ["8.0.0.0/6", "192.168.1.0/24", "203.0.113.0/24", "fd00:1::/64"]),
    ],
)
def test_of_the_neighbourhood_only_private_parts_count_by_themselves(
    lan: Lan, networks: list[str]
) -> None:
    found = Found(
        links=(
            Link(
                9, "sevpn1", None, 1500, is_up=True, has_carrier=True, alias="sevpn o"
            ),
        ),
        addresses=(
            *on("lo", "127.0.0.1/8"),
            *on("eth0", "203.0.113.7/24", "192.168.1.7/24", "fd00:1::7/64"),
            *on("eth1", "9.9.9.9/6"),  # a hostile network's, with all of 10/8 inside
            *on(TAP, "10.0.0.5/24"),
            *on("sevpn1", "10.9.0.5/24"),
        ),
    )

    shown = local_networks(found, lan, device=TAP)

    assert [str(network) for network in shown] == networks


# --- replies ---------------------------------------------------------------------


def test_a_policy_table_holds_the_way_for_the_leased_address() -> None:
    assert text(arranged(Wishes(policy_table=77))) == [
        "10.0.0.0/24 dev sevpn0 table 77 scope link metric 50",
        "default via 10.0.0.1 dev sevpn0 table 77 metric 50",
        "pref 9000 from 10.0.0.5/32 lookup 77",
    ]


def test_with_the_default_route_inside_what_came_by_an_uplink_stays_there() -> None:
    assert text(arranged(Wishes(policy_table=77), DEFAULT))[3:] == [
        "default via 192.168.1.1 dev eth0 table 57568 metric 100",
        "throw 192.168.1.0/24 table 57568",
        "pref 9000 from 10.0.0.5/32 lookup 77",
        "pref 9001 from 192.168.1.7/32 lookup 57568",
    ]
    assert text(arranged(Wishes(policy_table=77, by_mark=True), DEFAULT))[-4:] == [
        "pref 9000 from 10.0.0.5/32 lookup 77",
        "pref 9001 from all fwmark 0xe0e1 lookup main",
        "pref 9001 from 192.168.1.7/32 lookup main",
        "pref 9002 not from all fwmark 0xe0e0 lookup 57568",
    ]


def test_two_uplinks_of_one_metric_cannot_both_stand_in_the_table() -> None:
    twin = replace(
        UPLINK, route=replace(UPLINK.route, gateway=ip_address("192.168.1.2"))
    )
    found = replace(HOST, routes=(UPLINK, twin))

    defaults = [
        route
        for route in arranged(Wishes(policy_table=77), DEFAULT, found=found).routes
        if route.device == "eth0"
    ]

    assert [str(route.gateway) for route in defaults] == ["192.168.1.1"]
