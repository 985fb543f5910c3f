# SPDX-License-Identifier: Apache-2.0
"""What routers say, and for how long it counts."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest

from sevpn.protocol.routers import (
    MAX_NAMES,
    MAX_PREFIXES,
    MAX_ROUTERS,
    MAX_ROUTES,
    Routers,
)
from sevpn.wire.ethernet import MacAddress
from sevpn.wire.ra import (
    INFINITE_S,
    PrefixInformation,
    RouteInformation,
    RouterAdvertisement,
)

MAC = MacAddress.parse("5e:00:00:00:00:01")
FIRST, SECOND = IPv6Address("fe80::1"), IPv6Address("fe80::2")
NET = IPv6Network("2001:db8:5::/64")
FAR = IPv6Network("2001:db8:7::/48")
DNS = IPv6Address("2001:db8::53")


def routers() -> Routers:
    made = Routers(MAC)
    made.start(0.0)
    return made


def said(
    source: IPv6Address = FIRST, lifetime_s: int = 1800, **more: Any
) -> RouterAdvertisement:
    return RouterAdvertisement(source, lifetime_s=lifetime_s, **more)


def prefix(
    network: IPv6Network = NET,
    valid_s: int = 10000,
    *,
    is_on_link: bool = True,
    is_autonomous: bool = True,
) -> PrefixInformation:
    return PrefixInformation(
        network,
        is_on_link=is_on_link,
        is_autonomous=is_autonomous,
        valid_s=valid_s,
        preferred_s=valid_s,
    )


def test_routers_are_asked_four_times_and_no_more() -> None:
    known = routers()
    asked = []
    while (at := known.next_deadline()) is not None:
        if known.is_question_due(at):
            asked.append(at)

    assert asked == [0.0, 1.0, 4.0, 8.0]


def test_the_first_that_speaks_ends_the_questions() -> None:
    known = routers()
    known.hear(said(), 0.5)

    assert known.next_deadline() == 1800.5
    assert not known.is_question_due(9.0)
    assert known.router == FIRST


def test_of_several_the_preferred_one_leads_and_of_equals_the_first() -> None:
    known = routers()
    known.hear(said(FIRST), 0.0)
    known.hear(said(SECOND), 0.0)
    assert known.router == FIRST

    known.hear(said(SECOND, preference=1), 0.0)
    assert known.router == SECOND


def test_one_that_is_no_default_router_still_speaks_for_the_link() -> None:
    known = routers()
    known.hear(said(lifetime_s=0, is_managed=True, has_other=True), 0.0)

    assert known.router is None
    assert known.is_managed
    assert known.has_other


def test_what_is_not_renewed_ends() -> None:
    known = routers()
    known.hear(
        said(
            lifetime_s=10,
            prefixes=(prefix(valid_s=20),),
            routes=(RouteInformation(FAR, 0, 30),),
            servers=((DNS, 40),),
            search=(("corp.test", 50),),
        ),
        0.0,
    )
    ends = []
    while (at := known.next_deadline()) is not None:
        ends.append(at)
        known.pass_time(at)

    assert ends == [10.0, 20.0, 30.0, 40.0, 50.0]
    assert (known.router, known.addresses, known.routes) == (None, (), ())
    assert (known.servers, known.search, known.on_link) == ((), (), ())


def test_a_lifetime_of_nothing_ends_it_at_once() -> None:
    known = routers()
    everything = said(
        routes=(RouteInformation(FAR, 0, 30),),
        servers=((DNS, INFINITE_S),),
        search=(("corp.test", 50),),
    )
    known.hear(everything, 0.0)
    known.hear(
        said(
            lifetime_s=0,
            routes=(RouteInformation(FAR, 0, 0),),
            servers=((DNS, 0),),
            search=(("corp.test", 0),),
        ),
        1.0,
    )

    assert (known.router, known.routes, known.servers, known.search) == (
        None,
        (),
        (),
        (),
    )


def test_an_address_is_made_in_each_autonomous_subnet_of_64_bits() -> None:
    known = routers()
    known.hear(
        said(
            prefixes=(
                prefix(),
                prefix(IPv6Network("2001:db8:6::/64"), is_on_link=False),
                prefix(IPv6Network("2001:db8:7::/64"), is_autonomous=False),
                prefix(IPv6Network("2001:db8:8::/56")),
                prefix(IPv6Network("fe80::/64")),
                prefix(IPv6Network("2001:db8:9::/64"), valid_s=0),
            )
        ),
        0.0,
    )

    assert [str(address) for address in known.addresses] == [
        "2001:db8:5:0:5c00:ff:fe00:1/64",
        "2001:db8:6:0:5c00:ff:fe00:1/128",
    ]
    assert [str(network) for network in known.on_link] == [
        "2001:db8:5::/64",
        "2001:db8:7::/64",
        "2001:db8:8::/56",
    ]


@pytest.mark.parametrize(
    ("network", "is_taken"),
    [
        ("::/0", False),
        ("2000::/3", False),
        ("2001:db8::/47", False),
        ("2001:db8::/48", True),
    ],
)
def test_half_the_world_is_no_subnet(network: str, is_taken: bool) -> None:
    known = routers()

    known.hear(said(prefixes=(prefix(IPv6Network(network)),)), 0.0)

    assert list(known.on_link) == [IPv6Network(network)] * is_taken


def test_nobody_can_end_a_subnet_sooner_than_in_two_hours() -> None:
    known = routers()
    known.hear(said(prefixes=(prefix(valid_s=10000),)), 0.0)

    known.hear(said(lifetime_s=0, prefixes=(prefix(valid_s=1),)), 0.0)
    assert known.next_deadline() == 7200.0
    known.hear(said(lifetime_s=0, prefixes=(prefix(valid_s=1),)), 6000.0)
    assert known.next_deadline() == 7200.0  # what was left was less already
    known.hear(said(lifetime_s=0, prefixes=(prefix(valid_s=3000),)), 6000.0)
    assert known.next_deadline() == 9000.0  # it may be renewed at any time
    known.hear(said(lifetime_s=0, prefixes=(prefix(valid_s=INFINITE_S),)), 6000.0)
    assert known.next_deadline() is None


def test_a_route_leads_by_the_one_who_is_preferred_for_it() -> None:
    known = routers()
    known.hear(said(FIRST, routes=(RouteInformation(FAR, 0, 30),)), 0.0)
    known.hear(said(SECOND, routes=(RouteInformation(FAR, 1, 30),)), 0.0)
    third = IPv6Address("fe80::3")
    known.hear(said(third, routes=(RouteInformation(FAR, -1, 30),)), 0.0)
    known.hear(
        said(routes=(RouteInformation(IPv6Network("::/0"), 1, 30),)), 0.0
    )  # a default route is the router's own lifetime

    assert known.routes == ((FAR, SECOND),)


def test_no_table_grows_beyond_its_size() -> None:
    known = routers()
    for number in range(200):
        known.hear(
            said(
                IPv6Address(f"fe80::{number + 1:x}"),
                prefixes=(prefix(IPv6Network(f"2001:db8:{number:x}::/64")),),
                routes=(
                    RouteInformation(IPv6Network(f"2001:db8:{number:x}::/48"), 0, 9),
                ),
                servers=((IPv6Address(f"2001:db8::{number:x}"), 9),),
                search=((f"{number}.test", 9),),
            ),
            0.0,
        )

    assert len(known._routers) == MAX_ROUTERS
    assert len(known.on_link) == MAX_PREFIXES
    assert len(known.routes) == MAX_ROUTES
    assert len(known.servers) == MAX_NAMES
    assert len(known.search) == MAX_NAMES
