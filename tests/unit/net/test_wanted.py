# SPDX-License-Identifier: Apache-2.0
"""From lease and settings to the state that this host should have."""

from __future__ import annotations

import re
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Any, Literal

import hypothesis
import pytest
from hypothesis import strategies as st

from sevpn.config.profile import Settings
from sevpn.net.model import (
    RTPROTO,
    Found,
    FoundAddress,
    FoundRoute,
    NamesWay,
    Network,
    Route,
)
from sevpn.net.wanted import MAX_ROUTES, Wanted, wanted_state
from sevpn.protocol.ipv6 import Ipv6Settings
from sevpn.protocol.lease import Lease, StaticRoute
from sevpn.wire.ethernet import MacAddress

TAP = "sevpn0"
ROUTER = "192.168.30.1"
MAC = MacAddress.parse("5e:00:00:00:00:02")


def static(*texts: str) -> tuple[StaticRoute, ...]:
    """Read `10.7.0.0/16 192.168.30.1`, or without gateway for a route on the link."""
    routes: list[StaticRoute] = []
    for text in texts:
        destination, _, gateway = text.partition(" ")
        routes.append(
            StaticRoute(
                IPv4Network(destination), IPv4Address(gateway) if gateway else None
            )
        )
    return tuple(routes)


def lease(
    address: str = "192.168.30.10/24",
    *,
    router: str | None = ROUTER,
    classless: tuple[StaticRoute, ...] | None = None,
    old: tuple[StaticRoute, ...] = (),
    dns: tuple[str, ...] = (),
    **other: Any,
) -> Lease:
    return Lease(
        address=IPv4Interface(address),
        router=IPv4Address(router) if router else None,
        classless_routes=classless,
        static_routes=old,
        dns=tuple(IPv4Address(text) for text in dns),
        server=IPv4Address(ROUTER),
        server_mac=MAC,
        obtained_at=0.0,
        renew_at=1.0,
        rebind_at=2.0,
        expires_at=3.0,
        **other,
    )


def want(
    given: Lease | None,
    *,
    found: Found | None = None,
    names_way: NamesWay = "file",
    **settings: Any,
) -> Wanted:
    # What becomes of IPv6 has tests of its own.
    settings.setdefault("ipv6", "off")
    return wanted_state(
        Settings(host="vpn.example", **settings),
        lease=given,
        device=TAP,
        found=found or Found(),
        names_way=names_way,
    )


def routes(wanted: Wanted) -> list[str]:
    return [
        str(route).replace(f" dev {TAP}", "").replace(" scope link", "")
        for route in wanted.state.routes
    ]


DEFAULT = f"default via {ROUTER} metric 50"
STATIC = "10.7.0.0/16 via 192.168.30.1 metric 50"


# --- nothing that was not asked for --------------------------------------------


def test_without_options_only_the_address_is_taken() -> None:
    wanted = want(
        lease(
            classless=static("10.7.0.0/16 192.168.30.1"),
            dns=("192.168.30.1",),
            domain="corp",
        )
    )

    assert wanted.state.addresses == (ip_interface("192.168.30.10/24"),)
    assert wanted.state.routes == ()
    assert wanted.state.resolver is None
    assert not wanted.carries_foreign_traffic
    assert wanted.address == ip_interface("192.168.30.10/24")
    assert wanted.gateway == ip_address(ROUTER)
    assert wanted.warnings == ()


# --- default route and static routes: the whole table ---------------------------

WITH_DEFAULT = static("10.7.0.0/16 192.168.30.1", "0.0.0.0/0 192.168.30.2")
WITHOUT_DEFAULT = static("10.7.0.0/16 192.168.30.1")
OLD = static("10.8.0.0/16 192.168.30.1")


@pytest.mark.parametrize(
    ("classless", "router", "default", "accept", "expected"),
    [
        # option 121/249, option 3, --accept-default-gateway, --accept-static-routes
        (None, ROUTER, False, False, []),
        (None, ROUTER, True, False, [DEFAULT]),
        (None, ROUTER, False, True, ["10.8.0.0/16 via 192.168.30.1 metric 50"]),
        (None, ROUTER, True, True, ["10.8.0.0/16 via 192.168.30.1 metric 50", DEFAULT]),
        (None, None, True, True, ["10.8.0.0/16 via 192.168.30.1 metric 50"]),
        (WITHOUT_DEFAULT, ROUTER, True, False, [DEFAULT]),
        (WITHOUT_DEFAULT, ROUTER, False, True, [STATIC]),
        (WITHOUT_DEFAULT, ROUTER, True, True, [STATIC]),
        (WITHOUT_DEFAULT, None, True, True, [STATIC]),
        (WITH_DEFAULT, ROUTER, True, False, [DEFAULT]),
        (WITH_DEFAULT, ROUTER, False, True, [STATIC]),
        (
            WITH_DEFAULT,
            ROUTER,
            True,
            True,
            [STATIC, "default via 192.168.30.2 metric 50"],
        ),
        (
            WITH_DEFAULT,
            None,
            True,
            True,
            [STATIC, "default via 192.168.30.2 metric 50"],
        ),
        (WITH_DEFAULT, None, True, False, []),
        ((), ROUTER, True, True, []),
    ],
)
def test_which_options_become_routes(
    classless: tuple[StaticRoute, ...] | None,
    router: str | None,
    default: bool,
    accept: bool,
    expected: list[str],
) -> None:
    wanted = want(
        lease(router=router, classless=classless, old=OLD),
        accept_default_gateway=default,
        accept_static_routes=accept,
    )

    assert routes(wanted) == expected
    assert wanted.carries_foreign_traffic == bool(expected)
    has_default = any(route.startswith("default") for route in expected)
    assert any("no default route" in warning for warning in wanted.warnings) == (
        default and not has_default
    )


def test_a_default_that_securenat_hides_is_named_with_the_way_to_have_it() -> None:
    wanted = want(
        lease(classless=WITHOUT_DEFAULT),
        accept_default_gateway=True,
        accept_static_routes=True,
    )

    (warning,) = wanted.warnings
    assert "give --gateway 192.168.30.1" in warning
    assert wanted.gateway == ip_address(ROUTER)


def test_a_default_only_among_static_routes_names_the_option_to_have_it() -> None:
    (warning,) = want(
        lease(router=None, classless=WITH_DEFAULT), accept_default_gateway=True
    ).warnings

    assert "give --accept-static-routes" in warning


def test_a_lease_without_any_gateway_names_the_option_to_have_one() -> None:
    (warning,) = want(lease(router=None), accept_default_gateway=True).warnings

    assert "give --gateway with its address" in warning


@pytest.mark.parametrize("classless", [None, WITH_DEFAULT, WITHOUT_DEFAULT])
def test_a_given_gateway_wins_over_all_of_the_lease(
    classless: tuple[StaticRoute, ...] | None,
) -> None:
    wanted = want(
        lease(classless=classless),
        gateway=ip_address("192.168.30.254"),
        accept_default_gateway=True,
        accept_static_routes=True,
    )

    assert routes(wanted)[-1] == "default via 192.168.30.254 metric 50"
    assert sum("default" in route for route in routes(wanted)) == 1
    assert wanted.gateway == ip_address("192.168.30.254")
    assert wanted.warnings == ()


def test_a_given_gateway_alone_takes_no_default_route() -> None:
    wanted = want(lease(), gateway=ip_address("192.168.30.254"))

    assert routes(wanted) == []
    assert wanted.gateway == ip_address("192.168.30.254")


def test_a_gateway_outside_of_the_subnet_is_on_the_link() -> None:
    wanted = want(lease(router="10.99.0.1"), accept_default_gateway=True)

    assert routes(wanted) == ["default via 10.99.0.1 metric 50 onlink"]


def test_a_default_without_a_gateway_is_on_the_link() -> None:
    classless = static("0.0.0.0/0", "10.7.0.0/16", "10.8.0.0/16 10.99.0.1")
    wanted = want(
        lease(classless=classless),
        accept_default_gateway=True,
        accept_static_routes=True,
    )

    assert routes(wanted) == [
        "10.7.0.0/16 metric 50",
        "10.8.0.0/16 via 10.99.0.1 metric 50 onlink",
        "default metric 50",
    ]
    assert wanted.gateway == ip_address(ROUTER)


@pytest.mark.parametrize("router", ["192.168.30.0", "192.168.30.255", "192.168.30.10"])
def test_a_router_that_is_none_is_left_out_and_told(router: str) -> None:
    wanted = want(lease(router=router), accept_default_gateway=True)

    assert routes(wanted) == []
    assert wanted.gateway is None
    assert any(
        router in warning and "administrator" in warning for warning in wanted.warnings
    )


def test_a_router_that_is_none_among_static_routes_is_left_out_too() -> None:
    classless = static(
        "0.0.0.0/0 127.0.0.1", "10.7.0.0/16 224.0.0.1", "10.8.0.0/16 192.168.30.10"
    )
    wanted = want(
        lease(classless=classless),
        accept_default_gateway=True,
        accept_static_routes=True,
    )

    assert routes(wanted) == []
    assert any("127.0.0.1" in warning for warning in wanted.warnings)
    assert any("10.7.0.0/16, 10.8.0.0/16" in warning for warning in wanted.warnings)


def test_the_metric_is_that_of_the_option() -> None:
    wanted = want(
        lease(old=OLD),
        metric=700,
        accept_default_gateway=True,
        accept_static_routes=True,
    )

    assert [route.metric for route in wanted.state.routes] == [700, 700]


# --- nonsense ------------------------------------------------------------------


def test_destinations_that_cannot_be_are_left_out_in_one_sentence() -> None:
    classless = static(
        "127.0.0.0/8",
        "224.0.0.0/8",
        "0.0.0.0/32",
        "127.1.0.0/16",
        "10.7.0.0/16 192.168.30.1",
    )
    wanted = want(lease(classless=classless), accept_static_routes=True)

    assert routes(wanted) == [STATIC]
    (warning,) = wanted.warnings
    assert "127.0.0.0/8, 224.0.0.0/8, 0.0.0.0/32 and 1 more" in warning


def test_more_routes_than_any_sane_server_offers_are_cut() -> None:
    many = static(
        *(f"10.{n // 256}.{n % 256}.0/24 192.168.30.1" for n in range(MAX_ROUTES + 1))
    )
    wanted = want(lease(classless=many), accept_static_routes=True)

    assert len(wanted.state.routes) == MAX_ROUTES
    assert any(
        f"{MAX_ROUTES + 1} static routes" in warning for warning in wanted.warnings
    )


def test_of_two_routes_to_one_destination_the_first_counts() -> None:
    classless = static("10.7.0.0/16 192.168.30.1", "10.7.0.0/16 192.168.30.2")

    assert routes(want(lease(classless=classless), accept_static_routes=True)) == [
        STATIC
    ]


@pytest.mark.parametrize(
    "pieces",
    [
        ("0.0.0.0/1", "128.0.0.0/1"),
        ("0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/2", "192.0.0.0/2"),
    ],
)
def test_a_default_route_in_pieces_needs_the_same_consent(
    pieces: tuple[str, ...],
) -> None:
    classless = static(*pieces, "10.7.0.0/16 192.168.30.1")

    refused = want(lease(classless=classless), accept_static_routes=True)
    taken = want(
        lease(classless=classless),
        accept_static_routes=True,
        accept_default_gateway=True,
    )

    assert routes(refused) == [STATIC]
    assert any("--accept-default-gateway" in warning for warning in refused.warnings)
    assert len(taken.state.routes) == len(pieces) + 1


def test_one_half_alone_is_a_route_like_any_other() -> None:
    wanted = want(
        lease(classless=static("0.0.0.0/1 192.168.30.1")), accept_static_routes=True
    )

    assert routes(wanted) == ["0.0.0.0/1 via 192.168.30.1 metric 50"]


def test_the_servers_own_address_never_goes_through_the_tunnel() -> None:
    network: Network = ip_network("203.0.113.7/32")
    pinned = Found(
        routes=(
            FoundRoute(Route(network, ip_address("192.0.2.1"), "eth0", 0), RTPROTO),
        )
    )
    classless = static("203.0.113.7/32 192.168.30.1", "203.0.113.0/24 192.168.30.1")

    wanted = want(lease(classless=classless), found=pinned, accept_static_routes=True)

    assert routes(wanted) == ["203.0.113.0/24 via 192.168.30.1 metric 50"]
    (warning,) = wanted.warnings
    assert "203.0.113.7/32" in warning
    assert "the VPN server's own address" in warning


def test_a_route_that_wins_elsewhere_is_told() -> None:
    lan = FoundRoute(Route(ip_network("10.7.0.0/16"), None, "eth0", 0), 2)
    worse = FoundRoute(Route(ip_network("10.8.0.0/16"), None, "eth0", 100), 2)
    classless = static("10.7.0.0/16 192.168.30.1", "10.8.0.0/16 192.168.30.1")

    wanted = want(
        lease(classless=classless),
        found=Found(routes=(lan, worse)),
        accept_static_routes=True,
    )

    (warning,) = wanted.warnings
    assert "10.7.0.0/16 to eth0" in warning


def test_a_subnet_on_both_sides_is_told() -> None:
    own = (
        FoundAddress("eth0", ip_interface("192.168.30.77/24"), is_link_local=False),
        FoundAddress(TAP, ip_interface("192.168.30.10/24"), is_link_local=False),
        FoundAddress("lo", ip_interface("127.0.0.1/8"), is_link_local=False),
        FoundAddress("eth0", ip_interface("fe80::1/64"), is_link_local=True),
        FoundAddress("wlan0", ip_interface("2001:db8::1/64"), is_link_local=False),
    )

    (warning,) = want(lease(), found=Found(addresses=own)).warnings

    assert "192.168.30.0/24 of eth0" in warning


# --- MTU and names ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "offered", "expected"),
    [
        (None, None, 1500),
        (None, 1400, 1400),
        (1300, 1400, 1300),
        (1450, 1400, 1400),
        (9000, 1500, 1500),
    ],
)
def test_the_smaller_mtu_counts(
    link: int | None, offered: int | None, expected: int
) -> None:
    assert want(lease(mtu=offered), mtu=link).state.mtu == expected


def test_names_of_the_lease_are_taken_when_asked_for() -> None:
    wanted = want(
        lease(dns=("192.168.30.1", "192.168.30.1"), domain="corp.example"),
        accept_dns=True,
    )

    assert wanted.state.resolver is not None
    assert wanted.state.resolver.servers == (ip_address("192.168.30.1"),)
    assert wanted.state.resolver.search == ("corp.example",)


def test_the_search_list_counts_before_the_domain_and_the_users_before_both() -> None:
    given = lease(
        dns=("192.168.30.1",), domain="corp.example", search=("a.example", "b.example")
    )

    by_lease = want(given, accept_dns=True).state.resolver
    by_user = want(given, accept_dns=True, search=("c.example.",)).state.resolver

    assert by_lease is not None
    assert by_lease.search == ("a.example", "b.example")
    assert by_user is not None
    assert by_user.search == ("c.example",)


def test_name_servers_that_the_user_names_are_consent_enough() -> None:
    wanted = want(lease(dns=("192.168.30.1",)), dns=(ip_address("2001:db8::53"),))

    assert wanted.state.resolver is not None
    assert wanted.state.resolver.servers == (ip_address("2001:db8::53"),)


def test_dns_mode_off_leaves_names_alone() -> None:
    assert (
        want(
            lease(dns=("192.168.30.1",)), accept_dns=True, dns_mode="off"
        ).state.resolver
        is None
    )


def test_a_lease_without_name_servers_is_told() -> None:
    wanted = want(lease(), accept_dns=True)

    assert wanted.state.resolver is None
    assert "give --dns" in wanted.warnings[0]


def test_more_name_servers_than_the_c_library_reads_are_told() -> None:
    wanted = want(
        lease(dns=("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")), accept_dns=True
    )

    assert wanted.state.resolver is not None
    assert len(wanted.state.resolver.servers) == 3
    assert wanted.warnings == ("this host takes 3 name servers; left out: 10.0.0.4",)


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "a\nnameserver 6.6.6.6",
        "",
        "a..b",
        "$(reboot)",
        "`reboot`",
        "a;reboot",
        "*",
        "-n",
        "~corp",
        "ü.example",
        "x" * 64,
        ".".join(["x" * 63] * 4),
    ],
)
def test_what_is_no_domain_never_reaches_the_file(name: str) -> None:
    wanted = want(
        lease(dns=("10.0.0.1",), search=(name, "corp.example")), accept_dns=True
    )

    assert wanted.state.resolver is not None
    assert wanted.state.resolver.search == ("corp.example",)
    assert "no domain name" in wanted.warnings[0]


@hypothesis.given(
    st.lists(st.text(max_size=70), max_size=40), st.sampled_from(["file", "resolved"])
)
def test_whatever_a_lease_offers_only_labels_get_through(
    offered: list[str], way: NamesWay
) -> None:
    wanted = want(
        lease(dns=("10.0.0.1",), search=tuple(offered)), names_way=way, accept_dns=True
    )

    assert wanted.state.resolver is not None
    for name in wanted.state.resolver.search:
        assert re.fullmatch(r"[A-Za-z0-9_.-]{1,253}", name)
        assert not any(label.startswith("-") for label in name.split("."))


def test_systemd_resolved_takes_more_servers_and_domains() -> None:
    given = lease(
        dns=tuple(f"10.0.0.{number}" for number in range(1, 19)),
        search=tuple(f"a{number}.example" for number in range(33)),
    )

    wanted = want(given, names_way="resolved", accept_dns=True)

    assert wanted.state.resolver is not None
    assert len(wanted.state.resolver.servers) == 16
    assert len(wanted.state.resolver.search) == 32
    assert wanted.state.resolver.way == "resolved"
    assert wanted.warnings == (
        "this host takes 16 name servers; left out: 10.0.0.17, 10.0.0.18",
        "search domains from a32.example on are left out: this host takes 32 of 8096 characters together",
    )


def test_domains_of_split_dns_are_consent_enough() -> None:
    wanted = want(
        lease(dns=("10.0.0.1",)), names_way="resolved", split_dns=("corp.example",)
    )

    assert wanted.state.resolver is not None
    assert wanted.state.resolver.domains == ("corp.example",)


@pytest.mark.parametrize(
    ("count", "size", "expected"), [(7, 10, 6), (6, 10, 6), (5, 60, 4)]
)
def test_search_lists_are_as_long_as_old_c_libraries_take(
    count: int, size: int, expected: int
) -> None:
    search = tuple(f"{number}".rjust(size, "x") for number in range(count))

    wanted = want(lease(dns=("10.0.0.1",), search=search), accept_dns=True)

    assert wanted.state.resolver is not None
    assert wanted.state.resolver.search == search[:expected]
    assert len(wanted.warnings) == (expected < count)


# --- without DHCP ---------------------------------------------------------------


def test_static_addresses_and_gateway_come_from_the_settings() -> None:
    wanted = want(
        None,
        dhcp=False,
        address=(ip_interface("2001:db8::5/64"), ip_interface("10.0.0.5/24")),
        gateway=ip_address("10.0.0.1"),
        accept_default_gateway=True,
        dns=(ip_address("10.0.0.1"),),
    )

    assert wanted.state.addresses == (
        ip_interface("2001:db8::5/64"),
        ip_interface("10.0.0.5/24"),
    )
    assert wanted.address == ip_interface("10.0.0.5/24")
    assert routes(wanted) == ["default via 10.0.0.1 metric 50"]
    assert wanted.gateway == ip_address("10.0.0.1")
    assert wanted.state.resolver is not None


def test_an_ipv6_gateway_gives_an_ipv6_default_and_no_ipv4_one_to_prove_by() -> None:
    wanted = want(
        None,
        dhcp=False,
        address=(ip_interface("2001:db8::5/64"),),
        gateway=ip_address("fe80::1"),
        accept_default_gateway=True,
        metric=0,
    )

    assert routes(wanted) == ["default via fe80::1 metric 1"]
    assert wanted.address is None
    assert wanted.gateway is None


def test_static_addresses_without_a_gateway_have_none() -> None:
    wanted = want(
        None, dhcp=False, address=(ip_interface("10.0.0.5/24"),), accept_dns=True
    )

    assert routes(wanted) == []
    assert wanted.gateway is None
    assert "give --dns" in wanted.warnings[0]


# --- IPv6 ------------------------------------------------------------------------

SIX = Ipv6Settings(
    addresses=(IPv6Interface("2001:db8:5::5/64"), IPv6Interface("2001:db8:6::5/128")),
    on_link=(IPv6Network("2001:db8:5::/64"), IPv6Network("2001:db8:6::/64")),
    router=IPv6Address("fe80::1"),
    routes=(
        (IPv6Network("2001:db8:8::/48"), IPv6Address("fe80::1")),
        (IPv6Network("fe80::/10"), IPv6Address("fe80::1")),
    ),
    dns=(IPv6Address("2001:db8::53"),),
    search=("six.test",),
)


def want_six(*, offered: Ipv6Settings = SIX, **settings: Any) -> Wanted:
    return wanted_state(
        Settings(host="vpn.example", **settings),
        lease=lease(),
        device=TAP,
        found=Found(),
        ipv6=offered,
    )


def test_of_ipv6_only_addresses_and_their_subnets_come_unasked() -> None:
    wanted = want_six()

    assert [str(each) for each in wanted.state.addresses][1:] == [
        "2001:db8:5::5/64",
        "2001:db8:6::5/128",
    ]
    assert routes(wanted) == ["2001:db8:6::/64 metric 50"]
    assert wanted.state.resolver is None
    assert not wanted.carries_foreign_traffic


def test_what_was_asked_for_is_taken_in_ipv6_too() -> None:
    wanted = want_six(
        accept_default_gateway=True, accept_static_routes=True, accept_dns=True
    )

    assert "2001:db8:8::/48 via fe80::1 metric 50" in routes(wanted)
    assert "default via fe80::1 metric 50" in routes(wanted)
    assert not any("fe80::/10" in line for line in routes(wanted))
    assert wanted.state.rules == ()
    assert wanted.state.resolver is not None
    assert wanted.state.resolver.servers[-1] == ip_address("2001:db8::53")
    assert "six.test" in wanted.state.resolver.search


def test_half_the_world_is_no_static_route_where_no_default_was_asked_for() -> None:
    router = IPv6Address("fe80::1")
    halves = Ipv6Settings(
        routes=tuple(
            (IPv6Network(text), router)
            for text in ("::/1", "8000::/1", "2001:db8::/32")
        )
    )

    careful = want_six(offered=halves, accept_static_routes=True)
    assert routes(careful) == ["2001:db8::/32 via fe80::1 metric 50"]
    assert "::/1, 8000::/1" in careful.warnings[-1]
    assert "--accept-default-gateway" in careful.warnings[-1]
    full = want_six(
        offered=halves, accept_static_routes=True, accept_default_gateway=True
    )
    assert "::/1 via fe80::1 metric 50" in routes(full)


@pytest.mark.parametrize(
    ("settings", "is_refused"),
    [
        ({"accept_default_gateway": True}, True),
        ({"accept_default_gateway": True, "ipv6": "off"}, False),
        ({}, False),
        ({"ipv6": "block"}, True),
    ],
)
def test_without_a_router_a_full_tunnel_refuses_ipv6(
    settings: dict[str, Any], *, is_refused: bool
) -> None:
    state = want_six(offered=Ipv6Settings(), **settings).state

    refusals = [route for route in state.routes if route.kind == "unreachable"]
    assert [str(route) for route in refusals] == [
        "unreachable default table 57568 metric 1024"
    ] * is_refused
    assert [rule.family for rule in state.rules if rule.is_not] == [6] * is_refused


@pytest.mark.parametrize(("mode", "count"), [("auto", 3), ("block", 1), ("off", 1)])
def test_blocked_or_left_alone_nothing_of_ipv6_is_taken(mode: str, count: int) -> None:
    assert len(want_six(ipv6=mode).state.addresses) == count


@pytest.mark.parametrize(
    ("settings", "offered_mtu", "source"),
    [({"mtu": 1279}, None, "--mtu"), ({}, 576, "DHCP option 26")],
)
def test_an_mtu_that_is_too_small_for_ipv6_leaves_it_out_and_says_why(
    settings: dict[str, Any], offered_mtu: int | None, source: str
) -> None:
    wanted = wanted_state(
        Settings(host="vpn.example", accept_default_gateway=True, **settings),
        lease=lease(mtu=offered_mtu),
        device=TAP,
        found=Found(),
        ipv6=SIX,
    )

    assert [address.version for address in wanted.state.addresses] == [4]
    assert any(source in warning for warning in wanted.warnings)
    # A full tunnel without IPv6 inside: it is refused, and does not leave outside.
    assert "unreachable" in {route.kind for route in wanted.state.routes}


def test_without_ipv6_in_the_hub_a_small_mtu_is_nothing_to_speak_of() -> None:
    assert want_six(offered=Ipv6Settings(), mtu=576).warnings == ()


# --- the server's own address ----------------------------------------------------


@pytest.mark.parametrize("server", ["203.0.113.7", "2001:db8::7"])
def test_no_route_leads_the_tunnels_own_packets_into_it(server: str) -> None:
    place = ip_network(server)
    offered = Ipv6Settings(
        routes=((IPv6Network("2001:db8::7/128"), IPv6Address("fe80::1")),)
    )

    def wanted(mode: Literal["host", "mark"]) -> Wanted:
        return wanted_state(
            Settings(
                host="vpn.example",
                include=(place,),
                accept_static_routes=True,
                route_mode=mode,
            ),
            lease=lease(classless=static("203.0.113.7/32 192.168.30.1")),
            device=TAP,
            found=Found(),
            ipv6=offered,
            servers=(ip_address(server),),
        )

    by_host = wanted("host")
    assert place not in {route.destination for route in by_host.state.routes}
    assert any(f"{server} is what the tunnel" in line for line in by_host.warnings)
    # By mark only the tunnel's own packets go past it: everybody else may go inside.
    assert place in {route.destination for route in wanted("mark").state.routes}
