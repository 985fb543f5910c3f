# SPDX-License-Identifier: Apache-2.0
"""Whether the network has moved away from under a tunnel, as tables."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from sevpn.net.model import Address
from sevpn.net.nexthop import NextHop
from sevpn.net.uplink import Underlay
from sevpn.tunnel.roaming import Live, judge_attempt, judge_live

SERVER = IPv4Address("203.0.113.1")
HOME = IPv4Address("192.0.2.2")
PHONE = IPv4Address("198.51.100.2")
CABLE = NextHop("eth0", IPv4Address("192.0.2.1"), source=HOME)
RADIO = NextHop("wlan0", IPv4Address("198.51.100.1"), source=PHONE)


def underlay(
    way: NextHop | None,
    *addresses: Address,
    defaults: tuple[tuple[NextHop, int], ...] = (),
) -> Underlay:
    return Underlay({SERVER: way}, frozenset(addresses), frozenset(defaults))


LIVE = Live(SERVER, HOME, CABLE)


@pytest.mark.parametrize(
    ("now", "word"),
    [
        (underlay(RADIO, HOME, PHONE), "via 198.51.100.1 dev wlan0 now"),
        (underlay(NextHop("eth0", None), HOME), "dev eth0 now"),
        (underlay(RADIO, PHONE), "lost the address 192.0.2.2"),
        (underlay(CABLE, PHONE), "lost the address 192.0.2.2"),
        (underlay(None), "lost the address 192.0.2.2"),
    ],
    ids=["another uplink", "no router any more", "moved", "renumbered", "unplugged"],
)
def test_a_connection_is_dropped_whose_way_or_address_has_gone(
    now: Underlay, word: str
) -> None:
    reason = judge_live(LIVE, now)

    assert reason is not None
    assert word in reason


@pytest.mark.parametrize(
    ("live", "now"),
    [
        (LIVE, underlay(CABLE, HOME)),
        (LIVE, underlay(None, HOME)),
        (LIVE, underlay(NextHop("eth0", CABLE.gateway, source=PHONE), HOME, PHONE)),
        (LIVE, Underlay({}, frozenset({HOME}))),
        (Live(SERVER, HOME, None), underlay(RADIO, HOME)),
        (Live(SERVER, ip_address("127.0.0.5"), CABLE), underlay(CABLE)),
    ],
    ids=[
        "nothing has changed",
        "the carrier is gone, and may come back",
        "a further address on the same uplink",
        "a peer that was not looked for",
        "a way that was not known",
        "within this host",
    ],
)
def test_a_connection_stays_that_may_still_be_of_use(live: Live, now: Underlay) -> None:
    assert judge_live(live, now) is None


def test_an_address_with_a_zone_is_the_same_without() -> None:
    live = Live(SERVER, IPv6Address("fe80::2%eth0"), None)

    assert judge_live(live, Underlay({}, frozenset({ip_address("fe80::2")}))) is None


@pytest.mark.parametrize(
    ("then", "now", "word"),
    [
        (underlay(CABLE), underlay(RADIO), "dev wlan0 now, and was via 192.0.2.1"),
        (underlay(None), underlay(CABLE), "dev eth0 now, and was none"),
        (
            underlay(CABLE),
            underlay(NextHop("eth0", CABLE.gateway, source=PHONE)),
            "dev eth0 now",
        ),
        (
            Underlay(),
            Underlay(defaults=frozenset({(RADIO, 600), (CABLE, 100)})),
            "another uplink: default via 192.0.2.1 dev eth0",
        ),
    ],
    ids=["moved", "there was none", "another address", "nothing looked up yet"],
)
def test_an_attempt_begins_again_when_there_is_another_way(
    then: Underlay, now: Underlay, word: str
) -> None:
    reason = judge_attempt(then, now)

    assert reason is not None
    assert word in reason


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (underlay(CABLE), underlay(CABLE)),
        (underlay(CABLE), underlay(None)),
        (
            underlay(CABLE, defaults=((CABLE, 100), (RADIO, 600))),
            underlay(CABLE, defaults=((CABLE, 100),)),
        ),
        (Underlay(), underlay(CABLE)),
    ],
    ids=["the same", "the way is gone", "another uplink is gone", "a new address"],
)
def test_an_attempt_goes_on_when_nothing_new_is_there(
    then: Underlay, now: Underlay
) -> None:
    assert judge_attempt(then, now) is None
