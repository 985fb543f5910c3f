# SPDX-License-Identifier: Apache-2.0
"""From the host as found to the host as wanted."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given, strategies as st

from sevpn.net.marks import Marks
from sevpn.net.model import (
    MAIN_TABLE,
    RTPROTO,
    Found,
    FoundAddress,
    FoundRoute,
    HostState,
    Interface,
    Link,
    Network,
    Resolver,
    Route,
    Rule,
)
from sevpn.net.plan import (
    AddAddress,
    AddRoute,
    AddRule,
    Change,
    Made,
    MoveRoute,
    RemoveAddress,
    RemoveRoute,
    RemoveRule,
    SetBridge,
    SetMtu,
    SetResolver,
    SetUp,
    plan,
    plan_pins,
    plan_removal,
    with_half_defaults,
)

TAP = "sevpn0"
RESOLVER = Resolver((ip_address("10.0.0.1"),), ("corp.example",))


def link(
    name: str,
    *,
    index: int = 7,
    mtu: int = 1500,
    is_up: bool = True,
    alias: str | None = None,
) -> Link:
    return Link(
        index,
        name,
        "5e:00:00:00:00:01",
        mtu,
        is_up=is_up,
        has_carrier=is_up,
        alias=alias,
    )


def tap(*, mtu: int = 1500, is_up: bool = True) -> Link:
    return link(TAP, mtu=mtu, is_up=is_up, alias="sevpn office")


def route(
    destination: str,
    gateway: str | None = None,
    *,
    device: str = TAP,
    metric: int = 50,
    onlink: bool = False,
) -> Route:
    via = ip_address(gateway) if gateway else None
    return Route(ip_network(destination), via, device, metric, onlink=onlink)


def ours(value: Route) -> FoundRoute:
    return FoundRoute(value, RTPROTO)


def foreign(
    destination: str,
    gateway: str | None = None,
    *,
    device: str = "eth0",
    metric: int = 0,
    protocol: int = 3,
    is_unicast: bool = True,
    is_usable: bool = True,
    onlink: bool = False,
) -> FoundRoute:
    return FoundRoute(
        replace(
            route(destination, gateway, device=device, metric=metric, onlink=onlink),
            kind="unicast" if is_unicast else "other",
        ),
        protocol,
        is_usable=is_usable,
    )


def state(
    *addresses: str,
    routes: tuple[Route, ...] = (),
    mtu: int = 1500,
    resolver: Resolver | None = None,
) -> HostState:
    return HostState(
        TAP, mtu, tuple(ip_interface(text) for text in addresses), routes, resolver
    )


def on_tap(*addresses: str) -> tuple[FoundAddress, ...]:
    return tuple(
        FoundAddress(TAP, ip_interface(text), is_link_local=False) for text in addresses
    )


def text(changes: tuple[Change, ...]) -> list[str]:
    return [change.describe() for change in changes]


# --- a table of its own ---


def test_rules_come_when_their_table_is_full_and_go_before_it_is_emptied() -> None:
    wanted = replace(
        state("10.0.0.5/24"), routes=tuple(IN_TABLE[:3]), rules=tuple(RULES[:2])
    )

    coming = plan(Found(links=(tap(),)), wanted, made=Made(), marks=MARKS)
    found = Found(
        links=(tap(),),
        addresses=on_tap("10.0.0.5/24"),
        elsewhere=tuple(map(ours, wanted.routes)),
        rules=wanted.rules,
    )
    going = plan(found, state("10.0.0.5/24"), made=Made(), marks=MARKS)

    assert text(coming) == [
        "ip address add 10.0.0.5/24 dev sevpn0",
        "ip route add 10.0.0.0/24 dev sevpn0 table 57568 scope link metric 50 proto 224",
        "ip route add throw 192.0.2.0/24 table 57568 proto 224",
        "ip route add default via 10.0.0.1 dev sevpn0 table 57568 metric 50 proto 224",
        "ip rule add pref 9000 from all uidrange 1000-1000 lookup main protocol 224",
        "ip rule add pref 9001 not from all fwmark 0xe0e0 lookup 57568 protocol 224",
    ]
    assert [type(change) for change in going] == [RemoveRule] * 2 + [RemoveRoute] * 3


def test_tables_and_rules_of_another_tunnel_are_left_alone() -> None:
    theirs = Marks.of(1)
    found = Found(
        links=(tap(),),
        elsewhere=(ours(replace(IN_TABLE[2], table=theirs.table)),),
        rules=(replace(RULES[1], preference=theirs.preference + 1),),
    )

    assert plan(found, state(), made=Made(), marks=MARKS) == ()


# --- the TAP -----------------------------------------------------------------


def test_a_new_tap_gets_link_addresses_routes_and_names_in_this_order() -> None:
    wanted = state(
        "10.0.0.5/24",
        routes=(
            route("0.0.0.0/0", "10.0.0.1"),
            route("10.7.0.0/16", "10.0.0.1"),
            route("10.8.0.0/16"),
        ),
        mtu=1400,
        resolver=RESOLVER,
    )

    changes = plan(Found(links=(tap(is_up=False),)), wanted, made=Made())

    assert text(changes) == [
        "ip link set sevpn0 mtu 1400",
        "ip link set sevpn0 up",
        "ip address add 10.0.0.5/24 dev sevpn0",
        "ip route add 10.8.0.0/16 dev sevpn0 scope link metric 50 proto 224",
        "ip route add 10.7.0.0/16 via 10.0.0.1 dev sevpn0 metric 50 proto 224",
        "ip route add default via 10.0.0.1 dev sevpn0 metric 50 proto 224",
        "write /etc/resolv.conf: nameserver 10.0.0.1, search corp.example",
    ]


def test_a_state_that_is_there_already_needs_no_change() -> None:
    default = route("0.0.0.0/0", "10.0.0.1")
    wanted = state("10.0.0.5/24", routes=(default,), resolver=RESOLVER)
    found = Found((tap(),), on_tap("10.0.0.5/24"), (ours(default),))
    made = Made(wanted.addresses, RESOLVER)

    assert plan(found, wanted, made=made) == ()


def test_releasing_takes_names_first_and_addresses_last() -> None:
    default, static = route("0.0.0.0/0", "10.0.0.1"), route("10.7.0.0/16")
    found = Found((tap(),), on_tap("10.0.0.5/24"), (ours(static), ours(default)))
    made = Made((ip_interface("10.0.0.5/24"),), RESOLVER)

    changes = plan(found, state(), made=made)

    assert text(changes) == [
        "restore /etc/resolv.conf",
        "ip route del default via 10.0.0.1 dev sevpn0 metric 50 proto 224",
        "ip route del 10.7.0.0/16 dev sevpn0 scope link metric 50 proto 224",
        "ip address del 10.0.0.5/24 dev sevpn0",
    ]


def test_another_address_sets_its_family_up_afresh_and_leaves_the_other_alone() -> None:
    default, six = (
        route("0.0.0.0/0", "10.0.0.1"),
        route("2001:db8:7::/48", "2001:db8::1"),
    )
    found = Found(
        (tap(),), on_tap("10.0.0.5/24", "2001:db8::5/64"), (ours(default), ours(six))
    )
    made = Made((ip_interface("10.0.0.5/24"), ip_interface("2001:db8::5/64")))
    wanted = state("10.0.0.6/24", "2001:db8::5/64", routes=(default, six))

    assert text(plan(found, wanted, made=made)) == [
        "ip route del default via 10.0.0.1 dev sevpn0 metric 50 proto 224",
        "ip address del 10.0.0.5/24 dev sevpn0",
        "ip address add 10.0.0.6/24 dev sevpn0",
        "ip route add default via 10.0.0.1 dev sevpn0 metric 50 proto 224",
    ]


def test_addresses_that_others_put_on_the_tap_stay() -> None:
    found = Found((tap(),), on_tap("10.0.0.5/24", "192.168.9.9/24", "fe80::1/64"))

    changes = plan(found, state(), made=Made((ip_interface("10.0.0.5/24"),)))

    assert changes == (RemoveAddress(TAP, ip_interface("10.0.0.5/24")),)


def test_an_address_that_somebody_removed_is_added_again_but_not_removed_twice() -> (
    None
):
    made = Made((ip_interface("10.0.0.5/24"),))
    found = Found(links=(tap(),))

    assert plan(found, state("10.0.0.5/24"), made=made) == (
        AddAddress(TAP, ip_interface("10.0.0.5/24")),
    )
    assert plan(found, state(), made=made) == ()


def test_routes_of_others_into_the_tap_and_ours_elsewhere_stay() -> None:
    found = Found(
        links=(tap(),),
        routes=(
            foreign("10.9.0.0/16", device=TAP),
            ours(route("203.0.113.7/32", "192.0.2.1", device="eth0", metric=0)),
        ),
    )

    assert plan(found, state(), made=Made()) == ()


def test_only_the_route_that_differs_is_replaced() -> None:
    kept, old, new = (
        route("10.7.0.0/16"),
        route("10.8.0.0/16", "10.0.0.1"),
        route("10.8.0.0/16", "10.0.0.2"),
    )
    found = Found(links=(tap(),), routes=(ours(kept), ours(old)))

    assert plan(found, state(routes=(kept, new)), made=Made()) == (
        RemoveRoute(old),
        AddRoute(new),
    )


def test_other_name_servers_replace_ours_in_one_step() -> None:
    other = Resolver((ip_address("10.0.0.2"),))

    changes = plan(
        Found(links=(tap(),)), state(resolver=other), made=Made(resolver=RESOLVER)
    )

    assert changes == (SetResolver(other, RESOLVER, TAP),)
    assert text(changes) == ["write /etc/resolv.conf: nameserver 10.0.0.2"]


def test_a_tap_that_is_not_there_yet_is_only_turned_on() -> None:
    assert plan(Found(), state(mtu=1400), made=Made()) == (SetUp(TAP, is_up=True),)


@pytest.mark.parametrize(
    ("resolver", "line"),
    [
        (
            replace(RESOLVER, way="resolved"),
            "resolvectl dns sevpn0 10.0.0.1; resolvectl domain sevpn0 corp.example '~.'",
        ),
        (
            replace(RESOLVER, search=(), domains=("corp.example",), way="resolved"),
            "resolvectl dns sevpn0 10.0.0.1; resolvectl domain sevpn0 '~corp.example'",
        ),
        (
            replace(RESOLVER, way="resolvconf"),
            "resolvconf -a: nameserver 10.0.0.1, search corp.example",
        ),
    ],
)
def test_each_way_of_setting_names_is_written_as_one_would_type_it(
    resolver: Resolver, line: str
) -> None:
    assert SetResolver(resolver, None, TAP).describe() == line


# --- inverses ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "inverse"),
    [
        (SetMtu(TAP, 1400, 1500), "ip link set sevpn0 mtu 1500"),
        (SetUp(TAP, is_up=True), "ip link set sevpn0 down"),
        (
            AddAddress(TAP, ip_interface("10.0.0.5/24")),
            "ip address del 10.0.0.5/24 dev sevpn0",
        ),
        (
            RemoveAddress(TAP, ip_interface("10.0.0.5/24")),
            "ip address add 10.0.0.5/24 dev sevpn0",
        ),
        (
            AddRoute(route("::/0", "fe80::1")),
            "ip -6 route del default via fe80::1 dev sevpn0 metric 50 proto 224",
        ),
        (
            RemoveRoute(route("10.8.0.0/16")),
            "ip route add 10.8.0.0/16 dev sevpn0 scope link metric 50 proto 224",
        ),
        (
            MoveRoute(
                route("203.0.113.7/32", "198.51.100.1", device="wlan0", metric=0),
                route("203.0.113.7/32", "192.0.2.1", device="eth0", metric=0),
            ),
            "ip route replace 203.0.113.7 via 192.0.2.1 dev eth0 proto 224",
        ),
        (SetResolver(RESOLVER, None), "restore /etc/resolv.conf"),
        (
            SetResolver(replace(RESOLVER, way="resolvconf"), None, TAP),
            "resolvconf -d",
        ),
        (
            SetResolver(replace(RESOLVER, way="resolved"), None, TAP),
            "resolvectl revert sevpn0",
        ),
    ],
)
def test_each_change_knows_what_takes_it_back(change: Change, inverse: str) -> None:
    assert change.inverse().describe() == inverse
    assert change.inverse().inverse() == change


# --- half-defaults -----------------------------------------------------------

HALVES = [
    "0.0.0.0/1 via 10.0.0.1 dev sevpn0 metric 50",
    "128.0.0.0/1 via 10.0.0.1 dev sevpn0 metric 50",
]
DEFAULT = "default via 10.0.0.1 dev sevpn0 metric 50"


@pytest.mark.parametrize(
    ("rival", "expected"),
    [
        (foreign("0.0.0.0/0", "192.0.2.1", metric=0), [DEFAULT, *HALVES]),
        (foreign("0.0.0.0/0", "192.0.2.1", metric=50), [DEFAULT, *HALVES]),
        (
            foreign("0.0.0.0/0", "192.0.2.1", metric=0, is_usable=False),
            [DEFAULT, *HALVES],
        ),
        (foreign("0.0.0.0/0", "192.0.2.1", metric=100), [DEFAULT]),
        (foreign("0.0.0.0/1", "192.0.2.1", metric=0), [DEFAULT]),
        (foreign("::/0", "fe80::1", metric=0), [DEFAULT]),
        (ours(route("0.0.0.0/0", "10.1.0.1", device="sevpn1")), [DEFAULT]),
        (foreign("0.0.0.0/0", "10.0.0.9", device=TAP, metric=0), [DEFAULT]),
    ],
)
def test_halves_help_exactly_where_another_default_would_win(
    rival: FoundRoute, expected: list[str]
) -> None:
    wanted = state("10.0.0.5/24", routes=(route("0.0.0.0/0", "10.0.0.1"),))

    helped = with_half_defaults(wanted, Found(links=(tap(),), routes=(rival,)))

    assert [str(entry) for entry in helped.routes] == expected


def test_an_ipv6_default_of_the_same_metric_leaves_the_work_to_the_halves() -> None:
    wanted = state("2001:db8::5/64", routes=(route("::/0", "2001:db8::1"),))
    rival = foreign("::/0", "fe80::1", metric=50)

    helped = with_half_defaults(wanted, Found(links=(tap(),), routes=(rival,)))

    assert [str(entry) for entry in helped.routes] == [
        "::/1 via 2001:db8::1 dev sevpn0 metric 50",
        "8000::/1 via 2001:db8::1 dev sevpn0 metric 50",
    ]


def test_an_ipv6_default_of_a_smaller_metric_leaves_ours_beside_the_halves() -> None:
    wanted = state(routes=(route("::/0", "2001:db8::1"),))

    helped = with_half_defaults(
        wanted, Found(routes=(foreign("::/0", "fe80::1", metric=20),))
    )

    assert len(helped.routes) == 3


def test_routes_that_are_no_default_stay_alone() -> None:
    wanted = state(routes=(route("10.7.0.0/16"),))

    assert (
        with_half_defaults(wanted, Found(routes=(foreign("0.0.0.0/0", "192.0.2.1"),)))
        == wanted
    )


# --- routes to the server ----------------------------------------------------

SERVER = ip_address("203.0.113.7")
PIN = route("203.0.113.7/32", "192.0.2.1", device="eth0", metric=0)
UPLINK = foreign("0.0.0.0/0", "192.0.2.1", metric=100)


def test_a_server_is_held_to_the_best_way_of_today() -> None:
    planned = plan_pins(Found(routes=(UPLINK,)), [SERVER, SERVER])

    assert text(planned.changes) == [
        "ip route add 203.0.113.7 via 192.0.2.1 dev eth0 proto 224"
    ]
    assert planned.standing == (PIN,)
    assert planned.lost == ()


def test_a_server_on_the_link_gets_a_route_on_the_link() -> None:
    on_link = foreign("203.0.113.0/24", protocol=2)

    planned = plan_pins(Found(routes=(UPLINK, on_link)), [SERVER])

    assert text(planned.changes) == [
        "ip route add 203.0.113.7 dev eth0 scope link proto 224"
    ]


def test_an_ipv6_server_is_held_by_a_link_local_router() -> None:
    uplink = foreign("::/0", "fe80::1", metric=1024)

    planned = plan_pins(Found(routes=(uplink,)), [ip_address("2001:db8::7")])

    assert text(planned.changes) == [
        "ip -6 route add 2001:db8::7 via fe80::1 dev eth0 metric 1024 proto 224"
    ]


def test_the_word_onlink_is_taken_over_from_the_uplink() -> None:
    uplink = foreign("0.0.0.0/0", "172.31.1.1", onlink=True)

    planned = plan_pins(Found(routes=(uplink,)), [SERVER])

    assert text(planned.changes) == [
        "ip route add 203.0.113.7 via 172.31.1.1 dev eth0 onlink proto 224"
    ]


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "192.0.2.2", "::1", "fe80::7%eth0", "fe80::7"]
)
def test_no_route_is_needed_to_this_host_or_along_a_zone(address: str) -> None:
    own = FoundAddress("eth0", ip_interface("192.0.2.2/24"), is_link_local=False)

    planned = plan_pins(
        Found(addresses=(own,), routes=(UPLINK,)), [ip_address(address)]
    )

    assert planned.changes == ()
    assert planned.lost == ()


def test_a_route_that_is_right_already_is_shared_and_left() -> None:
    planned = plan_pins(Found(routes=(UPLINK, ours(PIN))), [SERVER])

    assert planned.changes == ()
    assert planned.standing == (PIN,)


def test_a_route_moves_when_the_next_hop_has_moved() -> None:
    wifi = foreign("0.0.0.0/0", "198.51.100.1", device="wlan0", metric=600)

    planned = plan_pins(Found(routes=(wifi, ours(PIN))), [SERVER])

    assert text(planned.changes) == [
        "ip route replace 203.0.113.7 via 198.51.100.1 dev wlan0 proto 224"
    ]


def test_an_identical_route_of_somebody_else_is_enough() -> None:
    other = foreign("203.0.113.7/32", "192.0.2.1")

    planned = plan_pins(Found(routes=(UPLINK, other)), [SERVER])

    assert planned.changes == ()
    assert planned.standing == ()


@pytest.mark.parametrize(
    "other",
    [
        foreign(
            "203.0.113.7/32", "192.0.2.1", metric=100
        ),  # loses against the metric of ours
        foreign("203.0.113.7/32", "192.0.2.1", is_usable=False),
        foreign("203.0.113.7/32", "10.0.0.1", device=TAP),  # would lead into the tunnel
    ],
)
def test_a_route_of_somebody_else_that_does_not_hold_is_not_enough(
    other: FoundRoute,
) -> None:
    planned = plan_pins(Found(links=(tap(),), routes=(UPLINK, other)), [SERVER])

    assert text(planned.changes) == [
        "ip route add 203.0.113.7 via 192.0.2.1 dev eth0 proto 224"
    ]


def test_a_server_without_any_way_is_reported_and_keeps_what_it_has() -> None:
    planned = plan_pins(Found(routes=(ours(PIN),)), [SERVER])

    assert planned.changes == ()
    assert planned.lost == (SERVER,)


def test_a_route_of_ours_into_the_tap_is_not_the_one_to_the_server() -> None:
    inside = ours(route("203.0.113.7/32", "10.0.0.1", metric=0))

    planned = plan_pins(Found(links=(tap(),), routes=(UPLINK, inside)), [SERVER])

    assert planned.changes == (AddRoute(PIN),)


def test_removal_spares_living_tunnels_and_other_people() -> None:
    routes = [
        ours(PIN),
        ours(route("203.0.113.8/32", "192.0.2.1", device="eth0", metric=0)),
        ours(route("0.0.0.0/0", "10.0.0.1")),
        foreign("203.0.113.9/32", "192.0.2.1"),
    ]

    changes = plan_removal(
        routes, keep=[ip_address("203.0.113.8")], living_devices={TAP}
    )

    assert changes == (RemoveRoute(PIN),)


# --- a law -------------------------------------------------------------------

NETWORKS = st.sampled_from(
    [
        "0.0.0.0/0",
        "10.7.0.0/16",
        "10.8.0.0/16",
        "10.8.9.0/24",
        "::/0",
        "2001:db8:7::/48",
    ]
)
ADDRESSES = st.sampled_from(
    ["10.0.0.5/24", "10.0.0.6/24", "2001:db8::5/64", "2001:db8::6/64"]
)


MARKS = Marks.of(0)

IN_TABLE = [
    Route(ip_network("0.0.0.0/0"), ip_address("10.0.0.1"), TAP, 50, table=MARKS.table),
    Route(ip_network("10.0.0.0/24"), None, TAP, 50, table=MARKS.table),
    Route(ip_network("192.0.2.0/24"), None, "", 0, table=MARKS.table, kind="throw"),
    Route(ip_network("::/0"), None, "", 1024, table=MARKS.table, kind="unreachable"),
]

RULES = [
    Rule(4, MARKS.preference, MAIN_TABLE, uids=(1000, 1000)),
    Rule(4, MARKS.preference + 1, MARKS.table, MARKS.own, is_not=True),
    Rule(6, MARKS.preference + 1, MARKS.table, MARKS.own, is_not=True),
]


@st.composite
def host_states(draw: st.DrawFn) -> HostState:
    networks: list[Network] = [ip_network(text) for text in draw(st.sets(NETWORKS))]
    addresses: list[Interface] = [
        ip_interface(text) for text in draw(st.sets(ADDRESSES, max_size=3))
    ]
    resolver = draw(
        st.sampled_from([None, RESOLVER, Resolver((ip_address("10.0.0.9"),))])
    )
    routes = tuple(
        Route(network, None, TAP, draw(st.sampled_from([50, 60])))
        for network in networks
    )
    routes += tuple(draw(st.sets(st.sampled_from(IN_TABLE))))
    return HostState(
        TAP,
        draw(st.sampled_from([1400, 1500])),
        tuple(addresses),
        routes,
        resolver,
        tuple(draw(st.lists(st.sampled_from(RULES), unique=True))),
    )


@given(host_states(), host_states())
def test_carrying_out_a_plan_leaves_nothing_to_plan(
    before: HostState, after: HostState
) -> None:
    found, made = Found(links=(tap(is_up=False),)), Made()
    for wanted in (before, after):
        for change in plan(found, wanted, made=made, marks=MARKS):
            found, made = carry_out(change, found, made)

    assert plan(found, after, made=made, marks=MARKS) == ()
    there = (*found.routes, *found.elsewhere)
    assert {entry.route for entry in there} == set(after.routes)
    assert set(found.rules) == set(after.rules)
    assert {entry.interface for entry in found.addresses} == set(after.addresses)
    assert made.resolver == after.resolver


def change_rules(rules: list[Rule], change: AddRule | RemoveRule) -> None:
    if isinstance(change, RemoveRule):
        rules.remove(change.rule)
    else:
        assert change.rule not in rules
        rules.append(change.rule)


def carry_out(change: Change, found: Found, made: Made) -> tuple[Found, Made]:
    """Do what a kernel would: it refuses doubles, and drops routes with a family's last address."""
    links, addresses, routes, rules = (
        list(found.links),
        list(found.addresses),
        [*found.routes, *found.elsewhere],
        list(found.rules),
    )
    match change:
        case SetMtu() | SetUp():
            (before,) = links
            mtu = change.mtu if isinstance(change, SetMtu) else before.mtu
            is_up = change.is_up if isinstance(change, SetUp) else before.is_up
            links = [link(TAP, mtu=mtu, is_up=is_up, alias="sevpn office")]
        case AddAddress():
            new = FoundAddress(TAP, change.interface, is_link_local=False)
            assert new not in addresses
            addresses.append(new)
            made = Made((*made.addresses, change.interface), made.resolver)
        case RemoveAddress():
            addresses.remove(FoundAddress(TAP, change.interface, is_link_local=False))
            made = Made(
                tuple(a for a in made.addresses if a != change.interface), made.resolver
            )
            version = change.interface.version
            if not any(a.interface.version == version for a in addresses):
                routes = [
                    r
                    for r in routes
                    if r.route.destination.version != version or not r.route.device
                ]
        case AddRoute():
            assert ours(change.route) not in routes
            routes.append(ours(change.route))
        case RemoveRoute():
            routes.remove(ours(change.route))
        case AddRule() | RemoveRule():
            change_rules(rules, change)
        case SetResolver():
            assert change.before == made.resolver
            made = Made(made.addresses, change.resolver)
        case MoveRoute() | SetBridge():
            raise AssertionError("no state here asks for it")
    main = tuple(entry for entry in routes if entry.route.table == MAIN_TABLE)
    elsewhere = tuple(entry for entry in routes if entry.route.table != MAIN_TABLE)
    return Found(tuple(links), tuple(addresses), main, elsewhere, tuple(rules)), made


# --- a port of a bridge ----------------------------------------------------------


def test_the_tap_becomes_a_port_and_stays_one() -> None:
    bridge = replace(link("br0", index=9), kind="bridge")
    wanted = replace(state(), bridge="br0")

    coming = plan(Found(links=(tap(), bridge)), wanted, made=Made())
    there = Found(links=(replace(tap(), master=9), bridge))

    assert text(coming) == ["ip link set sevpn0 master br0"]
    assert plan(there, wanted, made=Made()) == ()
    # The bridge lets go of the TAP when that goes; until then nothing is taken away.
    assert plan(there, state(), made=Made()) == ()


@pytest.mark.parametrize(
    ("change", "back"),
    [
        (
            SetBridge(TAP, "br0", None),
            "ip link set sevpn0 nomaster",
        ),
        (
            AddRule(RULES[0]),
            "ip rule del pref 9000 from all uidrange 1000-1000 lookup main protocol 224",
        ),
        (
            RemoveRule(RULES[2]),
            "ip -6 rule add pref 9001 not from all fwmark 0xe0e0 lookup 57568 protocol 224",
        ),
    ],
)
def test_each_change_of_rules_and_ports_can_be_taken_back(
    change: AddRule | RemoveRule | SetBridge, back: str
) -> None:
    assert change.inverse().describe() == back
    assert change.inverse().inverse() == change
