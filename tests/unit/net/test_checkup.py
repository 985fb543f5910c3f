# SPDX-License-Identifier: Apache-2.0
"""What facts of a host mean, check by check."""

from __future__ import annotations

import errno
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from sevpn.net.checkup import Finding, HostFacts, Vpn, judge
from sevpn.net.dns.detect import Choice
from sevpn.net.model import Found, FoundRoute, Route

DEFAULT = FoundRoute(
    Route(IPv4Network("0.0.0.0/0"), IPv4Address("192.0.2.1"), "eth0", 100), protocol=3
)
WELL = HostFacts(
    found=Found(routes=(DEFAULT,)),
    tun_error=None,
    has_net_admin=True,
    is_root=True,
    strict_rp_filter=(),
    filter_error=None,
    locks=(),
    dns=Choice("file", "nobody else manages it"),
    vpns=(),
    running=(),
    dead=(),
    now=datetime(2026, 11, 23, tzinfo=UTC),
    is_ntp_synchronized=True,
)


def finding(facts: HostFacts, check: str, *, wants_names: bool = False) -> Finding:
    (found,) = [
        one
        for one in judge(facts, metric=50, wants_names=wants_names)
        if one.check == check
    ]
    return found


def test_of_a_host_that_is_well_there_is_nothing_to_say() -> None:
    found = judge(WELL, metric=50, wants_names=True)

    assert {one.level for one in found} == {"ok"}
    assert not any(one.fix for one in found)


@pytest.mark.parametrize(
    ("changes", "check", "level", "words"),
    [
        ({"tun_error": errno.ENOENT}, "tun", "problem", "modprobe tun"),
        ({"tun_error": errno.EACCES}, "tun", "problem", "chmod 0666"),
        ({"tun_error": errno.EIO}, "tun", "problem", "dmesg"),
        ({"has_net_admin": False}, "rights", "problem", "--cap-add NET_ADMIN"),
        ({"has_net_admin": False, "is_root": False}, "rights", "problem", "sudo"),
        (
            {"now": datetime(1970, 1, 1, tzinfo=UTC)},
            "clock",
            "problem",
            "set the clock",
        ),
        ({"is_ntp_synchronized": False}, "clock", "note", "time service"),
        ({"found": Found()}, "uplink", "note", "no default route"),
        ({"strict_rp_filter": ("eth0",)}, "rp_filter", "note", "strict on eth0"),
        (
            {"vpns": (Vpn("wg0", "WireGuard", has_default=False),)},
            "vpns",
            "note",
            "wg0 (WireGuard)",
        ),
        (
            {"vpns": (Vpn("wg0", "WireGuard", has_default=True),)},
            "vpns",
            "note",
            "inside of that one",
        ),
        ({"dns": "resolvconf is broken"}, "names", "note", "resolvconf is broken"),
        ({"filter_error": "not there"}, "nft", "note", "install nftables"),
        ({"locks": ("sevpn_office",)}, "lock", "problem", "sevpn unlock"),
        ({"dead": ("office",)}, "tunnels", "problem", "sevpn cleanup"),
        ({"running": ("office",)}, "tunnels", "ok", "office"),
    ],
)
def test_each_fact_has_its_finding_and_what_to_do(
    changes: dict[str, Any], check: str, level: str, words: str
) -> None:
    found = finding(replace(WELL, **changes), check)

    assert found.level == level
    assert words in f"{found.text} {found.fix}"


def test_names_that_are_wanted_and_cannot_be_set_are_a_problem() -> None:
    broken = replace(WELL, dns="resolvconf is broken")

    assert finding(broken, "names", wants_names=True).level == "problem"


def test_a_default_route_that_would_win_is_told() -> None:
    rival = replace(DEFAULT, route=replace(DEFAULT.route, metric=0))

    found = finding(replace(WELL, found=Found(routes=(rival,))), "default")

    assert found.level == "note"
    assert "eth0 with metric 0" in found.text
