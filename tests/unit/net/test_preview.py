# SPDX-License-Identifier: Apache-2.0
"""What `plan` tells before anything is changed."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from sevpn.config.profile import Settings
from sevpn.net.dns.detect import Choice
from sevpn.net.model import Found, FoundRoute, Link, Route
from sevpn.net.preview import Preview, preview
from sevpn.wire.ethernet import MacAddress

SERVER = ip_address("203.0.113.7")
MAC = MacAddress.parse("5e:00:00:00:00:01")


def host(*, metric: int = 0, taken: tuple[str, ...] = ()) -> Found:
    links = tuple(
        Link(9, name, None, 1500, is_up=True, has_carrier=True, alias=None)
        for name in taken
    )
    default = Route(ip_network("0.0.0.0/0"), ip_address("192.0.2.1"), "eth0", metric)
    return Found(links=links, routes=(FoundRoute(default, 3),))


def show(
    found: Found | None = None, *, choice: Choice | None = None, **settings: Any
) -> Preview:
    return preview(
        Settings(host="vpn.example", **({"ipv6": "off"} | settings)),
        found=host() if found is None else found,
        servers=[SERVER],
        mac=MAC,
        dns=choice or Choice("file", "a plain file"),
    )


def test_without_options_the_default_route_and_names_stay() -> None:
    shown = show()

    assert shown.changes == (
        "ip tuntap add sevpn0 mode tap",
        "ip link set sevpn0 address 5e:00:00:00:00:01 mtu 1500",
        "ip route add 203.0.113.7 via 192.0.2.1 dev eth0 proto 224",
        "ip link set sevpn0 up",
        "ip address add ADDRESS/PREFIX dev sevpn0    (from DHCP)",
    )
    assert shown.unchanged == (
        "the default route (default via 192.0.2.1 dev eth0): --accept-default-gateway would change it",
        "static routes that DHCP offers are left out: --accept-static-routes would add them",
        "name servers (/etc/resolv.conf): --accept-dns would change them",
    )
    assert shown.warnings == ()


def test_with_all_options_nothing_stays() -> None:
    shown = show(
        accept_default_gateway=True, accept_static_routes=True, accept_dns=True
    )

    assert shown.changes[-5:] == (
        "ip route add DESTINATION via GATEWAY dev sevpn0 metric 50 proto 224    (each of DHCP options 121, 249 or 33)",
        "ip route add default via GATEWAY dev sevpn0 metric 50 proto 224",
        "ip route add 0.0.0.0/1 via GATEWAY dev sevpn0 metric 50 proto 224",
        "ip route add 128.0.0.0/1 via GATEWAY dev sevpn0 metric 50 proto 224",
        "write /etc/resolv.conf: nameserver SERVERS    (from DHCP)",
    )
    assert shown.unchanged == ()


def test_a_full_tunnel_shows_that_ipv6_may_be_refused_and_when() -> None:
    auto = show(accept_default_gateway=True, ipv6="auto").changes
    block = show(accept_default_gateway=True, ipv6="block").changes
    off = show(accept_default_gateway=True).changes

    refused = [line for line in block if line not in off]
    assert any("unreachable" in line for line in refused)
    assert any("ip -6 rule add" in line for line in refused)
    note = "    (unless the hub has IPv6)"
    assert auto == tuple(line + note * (line in refused) for line in block)


def test_by_mark_only_the_refusal_depends_on_the_hub() -> None:
    shown = show(accept_default_gateway=True, ipv6="auto", lock="on").changes

    noted = [line for line in shown if line.endswith("(unless the hub has IPv6)")]
    assert [line.split(" table ")[0] for line in noted] == [
        "ip -6 route add throw fe80::/10",
        "ip -6 route add unreachable default",
    ]
    assert any(line.startswith("ip -6 rule add") for line in shown)


def test_connections_that_are_marked_show_their_rules() -> None:
    shown = show(policy_route_table=77, connmark=True).changes

    assert 'nft iifname "sevpn0" ct state new ct mark set 0xe0e2' in shown
    assert (
        "ip rule add pref 9000 from all fwmark 0xe0e2 lookup 77 protocol 224" in shown
    )


def test_halves_are_shown_only_where_they_are_needed() -> None:
    shown = show(
        host(metric=100), accept_default_gateway=True, gateway=ip_address("10.0.0.1")
    )

    assert (
        shown.changes[-1]
        == "ip route add default via 10.0.0.1 dev sevpn0 metric 50 proto 224"
    )


def test_static_addresses_are_shown_as_they_would_be_set() -> None:
    shown = show(
        dhcp=False,
        address=(ip_interface("10.0.0.5/24"),),
        gateway=ip_address("10.0.0.1"),
        accept_default_gateway=True,
        dns=(ip_address("10.0.0.1"),),
        mtu=1400,
        tap="office",
    )

    assert shown.changes == (
        "ip tuntap add office mode tap",
        "ip link set office address 5e:00:00:00:00:01 mtu 1400",
        "ip route add 203.0.113.7 via 192.0.2.1 dev eth0 proto 224",
        "ip link set office up",
        "ip address add 10.0.0.5/24 dev office",
        "ip route add 0.0.0.0/1 via 10.0.0.1 dev office metric 50 proto 224",
        "ip route add 128.0.0.0/1 via 10.0.0.1 dev office metric 50 proto 224",
        "ip route add default via 10.0.0.1 dev office metric 50 proto 224",
        "write /etc/resolv.conf: nameserver 10.0.0.1",
    )


def test_given_name_servers_are_shown() -> None:
    shown = preview(
        Settings(host="vpn.example", dns=(ip_address("10.0.0.9"),)),
        found=host(),
        servers=[],
        mac=MAC,
        dns=Choice("file", "a plain file"),
    )

    assert shown.changes[-1] == "write /etc/resolv.conf: nameserver 10.0.0.9"


def test_the_next_free_name_is_shown() -> None:
    assert (
        show(host(taken=("sevpn0", "sevpn1"))).changes[0]
        == "ip tuntap add sevpn2 mode tap"
    )


def test_names_that_are_left_alone_say_why() -> None:
    shown = show(choice=Choice("off", "--dns-mode off: left alone"), accept_dns=True)

    assert "name servers: --dns-mode off: left alone" in shown.unchanged
    assert not any("resolv.conf" in line for line in shown.changes)


def test_a_host_without_any_way_to_the_server_is_told() -> None:
    shown = show(Found())

    assert shown.warnings == ("this host has no route to 203.0.113.7",)
    assert (
        "the default route (there is none): --accept-default-gateway would change it"
        in shown.unchanged
    )
