# SPDX-License-Identifier: Apache-2.0
"""The kernel's answers in our types, and what it refuses in words."""

from __future__ import annotations

import asyncio
import ctypes
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from sevpn.errors import Failure, HostError, InterfaceGoneError, PrivilegeError
from sevpn.net import rtnetlink
from sevpn.net.model import MAIN_TABLE, Route, Rule
from sevpn.net.nexthop import NextHop
from sevpn.net.rtnetlink import Netlink
from sevpn.testing.sandbox import add_uplink, ip, ip_json, sandboxed

pytestmark = pytest.mark.netns


def route(
    destination: str,
    gateway: str | None = None,
    *,
    device: str = "eth0",
    metric: int = 50,
) -> Route:
    return Route(
        ip_network(destination),
        ip_address(gateway) if gateway else None,
        device,
        metric,
    )


@sandboxed
def test_links_and_addresses_are_what_ip_shows() -> None:
    add_uplink("eth0", "192.0.2.2/24")
    add_uplink("eth0", "2001:db8::2/64")
    ip("link set eth0 mtu 1400 alias some-text")
    netlink = Netlink()

    found = netlink.find()

    assert [
        (link.index, link.name, link.mtu, link.mac, link.alias) for link in found.links
    ] == [
        (
            link["ifindex"],
            link["ifname"],
            link["mtu"],
            link["address"],
            link.get("ifalias"),
        )
        for link in ip_json("link")
    ]
    assert sorted(
        (entry.device, str(entry.interface), entry.is_link_local)
        for entry in found.addresses
    ) == sorted(
        (
            link["ifname"],
            f"{entry['local']}/{entry['prefixlen']}",
            entry["scope"] == "link",
        )
        for link in ip_json("address")
        for entry in link["addr_info"]
    )
    netlink.close()


@sandboxed
def test_a_point_to_point_address_is_ours_and_not_the_peers() -> None:
    add_uplink("eth0", "192.0.2.2 peer 192.0.2.1/32")
    netlink = Netlink()

    own = [
        entry
        for entry in netlink.addresses()
        if entry.device == "eth0" and entry.interface.version == 4
    ]

    assert [str(entry.interface.ip) for entry in own] == ["192.0.2.2"]
    netlink.close()


@sandboxed
def test_the_kernel_is_asked_for_its_own_decision() -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    ip("route add prohibit 198.51.100.0/24")
    netlink = Netlink()

    assert netlink.route_to(ip_address("203.0.113.7")) == NextHop(
        "eth0", ip_address("192.0.2.1")
    )
    assert netlink.route_to(ip_address("192.0.2.9")) == NextHop("eth0", None)
    assert netlink.route_to(ip_address("192.0.2.2")) == NextHop("lo", None)
    assert netlink.route_to(ip_address("198.51.100.1")) is None
    assert netlink.route_to(ip_address("2001:db8::1")) is None
    netlink.close()


@sandboxed
def test_adding_and_removing_twice_is_fine() -> None:
    add_uplink("eth0", "192.0.2.2/24")
    netlink = Netlink()
    address = ip_interface("10.0.0.5/24")
    for _ in range(2):
        netlink.add_address("eth0", address)
        netlink.add_route(route("10.7.0.0/16", "10.0.0.1"))
        netlink.add_route(route("2001:db8:7::/48"))
    assert len(ip("route show proto 224").splitlines()) == 1
    for _ in range(2):
        netlink.remove_route(route("10.7.0.0/16", "10.0.0.1"))
        netlink.remove_route(route("2001:db8:7::/48"))
        netlink.remove_address("eth0", address)
    assert ip("route show proto 224") + ip("-6 route show proto 224") == ""
    assert len(ip_json("-4 address show dev eth0")[0]["addr_info"]) == 1
    netlink.close()


@sandboxed
def test_a_route_of_somebody_else_is_never_removed_by_ours() -> None:
    add_uplink("eth0", "192.0.2.2/24")
    add_uplink("eth0", "2001:db8::2/64")
    ip("route add 10.7.0.0/16 via 192.0.2.1 metric 50")
    ip("-6 route add 2001:db8:7::/48 via fe80::1 dev eth0 metric 50")
    netlink = Netlink()

    netlink.remove_route(route("10.7.0.0/16", "192.0.2.1"))
    netlink.remove_route(route("2001:db8:7::/48", "fe80::1"))

    assert "10.7.0.0/16 via 192.0.2.1" in ip("route")
    assert "2001:db8:7::/48 via fe80::1" in ip("-6 route")
    netlink.close()


@sandboxed
def test_an_ipv4_route_of_the_same_metric_stays_in_front_of_ours() -> None:
    add_uplink("eth0", "192.0.2.2/24")
    ip("route add 10.7.0.0/16 via 192.0.2.1 metric 50")
    netlink = Netlink()

    netlink.add_route(route("10.7.0.0/16", "192.0.2.9"))

    assert ip_json("route get 10.7.0.1")[0]["gateway"] == "192.0.2.1"
    netlink.remove_route(route("10.7.0.0/16", "192.0.2.9"))
    assert len(ip_json("route show 10.7.0.0/16")) == 1
    netlink.close()


@sandboxed
def test_an_ipv6_route_of_the_same_metric_is_refused_and_not_joined() -> None:
    add_uplink("eth0", "2001:db8::2/64")
    ip("-6 route add 2001:db8:7::/48 via fe80::1 dev eth0 metric 50")
    netlink = Netlink()

    with pytest.raises(HostError, match="choose another --metric"):
        netlink.add_route(route("2001:db8:7::/48", "fe80::2"))

    assert len(ip_json("-6 route show 2001:db8:7::/48")) == 1
    netlink.close()


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (
            lambda n: n.add_route(route("10.7.0.0/16", "198.18.0.1")),
            "invalid gateway; its gateway is not reachable",
        ),
        (lambda n: n.add_route(route("10.7.0.0/16", device="none0")), "none0 is gone"),
        (
            lambda n: n.add_address("none0", ip_interface("10.0.0.5/24")),
            "none0 is gone",
        ),
        (lambda n: n.set_link("none0", mtu=1400), "none0 is gone"),
        (lambda n: n.set_link("eth0", mtu=7), "mtu less than device minimum"),
        (lambda n: n.set_link("eth0", mac="01:00:5e:00:00:01"), "set eth0 to mac"),
        (lambda n: n.set_link("eth0", alias="x" * 300), "alias"),
    ],
)
def test_what_the_kernel_refuses_is_said_in_words(
    act: Callable[[Netlink], object], sentence: str
) -> None:
    @sandboxed
    def scenario() -> None:
        add_uplink("eth0", "192.0.2.2/24")
        netlink = Netlink()
        with pytest.raises(HostError, match=sentence) as caught:
            act(netlink)
        # An interface that goes can come again; anything else stays as it is.
        goes = isinstance(caught.value, InterfaceGoneError)
        assert caught.value.failure is (Failure.TEMPORARY if goes else Failure.HOST)
        assert goes == ("is gone" in sentence)
        netlink.close()

    scenario()


@sandboxed
def test_a_link_that_is_down_takes_no_route() -> None:
    add_uplink("eth0", "192.0.2.2/24")
    ip("link set eth0 down")
    netlink = Netlink()

    with pytest.raises(HostError, match="down"):
        netlink.add_route(route("10.7.0.0/16"))
    netlink.close()


@sandboxed
def test_without_the_capability_the_next_step_is_named() -> None:
    add_uplink("eth0", "192.0.2.2/24")
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    data[0] &= ~(1 << 12)
    assert libc.capset(header, data) == 0
    netlink = Netlink()

    assert netlink.link("eth0") is not None
    with pytest.raises(
        PrivilegeError, match="sudo, or give it the capability CAP_NET_ADMIN"
    ):
        netlink.add_address("eth0", ip_interface("10.0.0.5/24"))
    netlink.close()


@sandboxed
def test_a_write_that_the_library_garbles_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_uplink("eth0", "192.0.2.2/24")
    netlink = Netlink()
    # What a renamed keyword does: the library drops it and the kernel says yes.
    whole = Netlink._route_message

    def garbled(self: Netlink, wanted: Route, operation: str) -> object:
        message = whole(self, wanted, operation)
        message["attrs"] = [
            ("RTA_PRIORITI" if n == "RTA_PRIORITY" else n, v)
            for n, v in message["attrs"]
        ]
        return message

    monkeypatch.setattr(Netlink, "_route_message", garbled)

    with pytest.raises(HostError, match="said yes and shows"):
        netlink.add_route(route("10.7.0.0/16"))
    netlink.close()


@sandboxed
def test_it_works_inside_a_running_event_loop_and_starts_no_thread() -> None:
    async def scenario() -> int:
        netlink = Netlink()
        before = threading.active_count()
        links = netlink.links()
        assert threading.active_count() == before
        netlink.close()
        return len(links)

    assert asyncio.run(scenario()) == 1


def test_the_library_is_loaded_in_part_only_and_late() -> None:
    program = (
        "import sys; before = 'sqlite3' in sys.modules; import sevpn.net.host; from sevpn.net.rtnetlink import Netlink;"
        "assert not [m for m in sys.modules if m.startswith('pyroute2')];"
        "Netlink().links();"
        "assert not [m for m in sys.modules if m.startswith('pyroute2')];"
        "assert ('sqlite3' in sys.modules) == before;"
        "import pyroute2; pyroute2.IPRoute"
    )
    subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", program], check=True
    )


@sandboxed
def test_a_library_that_cannot_be_loaded_in_part_is_loaded_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> object:
        raise ImportError("another layout")

    monkeypatch.setattr(rtnetlink, "_codec", None)
    monkeypatch.setattr(rtnetlink, "_import_bare", fail)
    netlink = Netlink()

    assert [link.name for link in netlink.links()] == ["lo"]
    netlink.close()


# --- other tables, and the rules that lead there ---

TABLE = 57568


@sandboxed
def test_routes_of_other_tables_and_of_other_kinds_are_what_ip_shows() -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    netlink = Netlink()
    routes = [
        replace(route("0.0.0.0/0", "192.0.2.1"), table=TABLE),
        Route(ip_network("10.0.0.0/8"), None, "", 0, table=TABLE, kind="throw"),
        Route(ip_network("::/0"), None, "", 1024, table=TABLE, kind="unreachable"),
    ]

    for each in (*routes, *routes):  # the second time each is there already
        netlink.add_route(each)

    found = netlink.find()
    assert [entry.route for entry in found.elsewhere] == routes
    assert not any(entry.is_ours for entry in found.routes)
    lines = ip(f"route show table {TABLE}") + ip(f"-6 route show table {TABLE}")
    assert [line.split(" proto")[0] for line in lines.splitlines()] == [
        "default via 192.0.2.1 dev eth0",
        "throw 10.0.0.0/8",
        "unreachable default dev lo",
    ]
    for each in (*routes, *routes):
        netlink.remove_route(each)
    assert netlink.find().elsewhere == ()
    netlink.close()


@sandboxed
def test_rules_are_what_ip_shows_and_those_of_others_stay() -> None:
    ip("rule add pref 9000 fwmark 0xe0e1 lookup main protocol static")
    ip("-6 rule add pref 9005 from 2001:db8::/64 suppress_prefixlength 0 lookup main")
    rules = [
        Rule(4, 9000, MAIN_TABLE, mark=0xE0E1),
        Rule(4, 9000, MAIN_TABLE, uids=(1000, 1001)),
        Rule(4, 9001, TABLE, mark=0xE0E0, is_not=True),
        Rule(4, 9002, 99, source=ip_network("10.0.0.5/32")),
        Rule(6, 9001, TABLE, mark=0xE0E0, is_not=True),
    ]
    netlink = Netlink()

    for rule in rules[1:] * 2:
        netlink.add_rule(rule)

    assert netlink.find().rules == tuple(rules[1:])
    shown = [line for line in ip("rule").splitlines() if "proto 224" in line]
    assert [line.replace("\t", " ").split(" proto")[0] for line in shown] == [
        "9000: from all uidrange 1000-1001 lookup main",
        "9001: not from all fwmark 0xe0e0 lookup 57568",
        "9002: from 10.0.0.5 lookup 99",
    ]
    for rule in rules * 2:  # the first is somebody else's
        netlink.remove_rule(rule)
    assert netlink.find().rules == ()
    assert "fwmark 0xe0e1 lookup main proto static" in ip("rule")
    assert "suppress_prefixlength 0" in ip("-6 rule")
    netlink.close()


@sandboxed
def test_a_socket_with_a_source_address_or_a_mark_is_asked_about_as_such() -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    add_uplink("eth1", "198.51.100.2/24")
    netlink = Netlink()
    other = ip_address("198.51.100.1")
    netlink.add_route(
        replace(route("0.0.0.0/0", str(other), device="eth1"), table=TABLE)
    )
    netlink.add_rule(Rule(4, 9001, TABLE, source=ip_network("198.51.100.2/32")))
    netlink.add_rule(Rule(4, 9002, TABLE, mark=7))
    far = ip_address("203.0.113.7")

    by_source = netlink.route_to(far, source=ip_address("198.51.100.2"))

    assert by_source == NextHop("eth1", other)
    assert netlink.route_to(far, mark=7) == NextHop("eth1", other)
    assert netlink.route_to(far) == NextHop("eth0", ip_address("192.0.2.1"))
    netlink.close()
