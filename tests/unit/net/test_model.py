# SPDX-License-Identifier: Apache-2.0
"""How routes and aliases are written and read."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, strategies as st

from sevpn.net.model import Alias, Found, FoundRoute, HostState, Link, Route

FIRST, SECOND = ip_address("203.0.113.7"), ip_address("2001:db8::7")


@pytest.mark.parametrize(
    ("route", "text"),
    [
        (
            Route(ip_network("0.0.0.0/0"), ip_address("10.0.0.1"), "tap0", 50),
            "default via 10.0.0.1 dev tap0 metric 50",
        ),
        (
            Route(ip_network("10.7.0.0/16"), None, "tap0", 0),
            "10.7.0.0/16 dev tap0 scope link",
        ),
        (
            Route(ip_network("2001:db8::/32"), None, "tap0", 50),
            "2001:db8::/32 dev tap0 metric 50",
        ),
        (
            Route(ip_network("10.7.0.0/16"), ip_address("fe80::1"), "tap0", 7),
            "10.7.0.0/16 via inet6 fe80::1 dev tap0 metric 7",
        ),
        (
            Route(
                ip_network("10.7.0.9/32"),
                ip_address("10.9.9.9"),
                "tap0",
                0,
                ip_address("10.0.0.5"),
                onlink=True,
            ),
            "10.7.0.9 via 10.9.9.9 dev tap0 src 10.0.0.5 onlink",
        ),
    ],
)
def test_a_route_is_written_as_ip_writes_it(route: Route, text: str) -> None:
    assert str(route) == text


def test_an_alias_names_the_tunnel_and_its_servers() -> None:
    alias = Alias("office", (FIRST, SECOND))

    assert str(alias) == "sevpn office 203.0.113.7 2001:db8::7"
    assert Alias.parse(str(alias)) == alias
    assert Alias.parse("sevpn office") == Alias("office")


@pytest.mark.parametrize("text", [None, "", "uplink", "sevpnish", "my sevpn office"])
def test_the_alias_of_somebody_else_is_none_of_ours(text: str | None) -> None:
    assert Alias.parse(text) is None


@given(
    st.lists(st.ip_addresses(v=6), max_size=40),
    st.text("abcdefghij.-0123456789", min_size=1, max_size=63),
)
def test_an_alias_fits_into_the_kernel_and_says_when_it_is_cut(
    addresses: list[object], name: str
) -> None:
    servers = tuple(ip_address(str(address)) for address in addresses)

    text = str(Alias(name, servers))
    read = Alias.parse(text)

    assert len(text) <= 255
    assert read is not None
    assert read.tunnel == name
    assert read.servers == servers[: len(read.servers)]
    assert read.is_complete == (len(read.servers) == len(servers))
    assert Alias.parse(str(read)) == read


def test_living_taps_are_known_by_their_alias() -> None:
    links = (
        Link(1, "eth0", None, 1500, is_up=True, has_carrier=True, alias="uplink"),
        Link(2, "vpn7", None, 1500, is_up=True, has_carrier=True, alias="sevpn office"),
    )
    found = Found(links=links)

    assert found.devices_of_tunnels() == {"vpn7"}
    assert found.tunnels() == {"vpn7": Alias("office")}
    assert found.link("eth0") is links[0]
    assert found.link("eth1") is None


def test_a_state_knows_whose_default_it_takes() -> None:
    default = Route(ip_network("::/0"), ip_address("fe80::1"), "tap0", 50)

    assert HostState("tap0", 1500, (), (default,), None).default_families == {6}
    assert HostState("tap0", 1500, (), (), None).default_families == frozenset()
    assert FoundRoute(default, 224).is_ours
