# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given, strategies as st

from sevpn.protocol.acceleration import Acceleration, Endpoint
from sevpn.protocol.udpterms import Terms, Version
from sevpn.wire.accel import Inner, encode_inner, seal_of

CLIENT, SERVER = ("192.0.2.10", 5000), ("198.51.100.1", 40000)
KEYS = {1: (b"c" * 20, b"s" * 20), 2: (b"c" * 128, b"s" * 128)}
FRAME = b"\xaa" * 60


def an_end(
    *,
    is_client: bool = True,
    version: Version = 2,
    is_fast: bool = True,
    reported: IPv4Address | None = None,
    echoes: bool = True,
) -> Acceleration:
    mine, yours = KEYS[version] if is_client else reversed(KEYS[version])
    here, there = (77, 88) if is_client else (88, 77)
    peer = SERVER if is_client else CLIENT
    terms = Terms(
        version=version,
        send_key=mine,
        receive_key=yours,
        send_cookie=there,
        receive_cookie=here,
        is_fast=is_fast,
        peer=IPv4Address(peer[0]),
        port=peer[1],
        reported=reported,
    )
    return Acceleration(
        terms, iv_prefix=b"prefix bytes", jitter=lambda: 0.0, now=0.0, echoes=echoes
    )


def take(
    end: Acceleration, datagram: bytes, source: Endpoint, now: float
) -> Inner | None:
    """Give a datagram to an end, and return what it has taken."""
    taken = end.receive([(datagram, source)], now)
    return taken[0] if taken else None


class Pair:
    """A client and a server that hear all keep-alives of each other."""

    def __init__(self, *, version: Version = 2, is_fast: bool = True) -> None:
        self.client = an_end(version=version, is_fast=is_fast)
        self.server = an_end(is_client=False, version=version, is_fast=is_fast)

    def talk(self, begin: float, end: float) -> None:
        for tenth in range(round(begin * 10), round(end * 10) + 1):
            now = tenth / 10
            for datagram, _ in self.client.handle_deadline(now):
                take(self.server, datagram, CLIENT, now)
            for datagram, _ in self.server.handle_deadline(now):
                take(self.client, datagram, SERVER, now)


class Forger:
    """The server's end of the wire, which says what a test wants."""

    def __init__(self) -> None:
        self._seal = seal_of(2, KEYS[2][1])
        self._count = 0

    def datagram(
        self, tick: int, *, echo: int = 1, cookie: int = 77, iv: bytes = b""
    ) -> bytes:
        self._count += 1
        iv = iv or self._count.to_bytes(12, "big")
        packet = encode_inner(Inner(cookie, tick, echo, FRAME))
        return self._seal.seal_all([packet], [iv])[0]


@pytest.mark.parametrize("version", [1, 2])
def test_a_frame_arrives_at_the_other_end(version: Version) -> None:
    pair = Pair(version=version)

    inner = take(pair.server, pair.client.seal(FRAME, 1.0), CLIENT, 1.0)

    assert inner is not None
    assert (inner.frame, inner.is_deflated) == (FRAME, False)
    assert pair.client.overhead == {1: 63, 2: 51}[version]


def test_a_deflated_frame_is_marked() -> None:
    pair = Pair()

    inner = take(
        pair.server, pair.client.seal(FRAME, 1.0, is_deflated=True), CLIENT, 1.0
    )

    assert inner is not None
    assert inner.is_deflated


def test_both_ends_are_ready_after_ten_seconds_without_a_break() -> None:
    pair = Pair()

    pair.talk(0.0, 9.9)
    assert pair.client.is_heard(9.9)
    assert not pair.client.is_ready(9.9)

    pair.talk(10.0, 10.6)
    assert pair.client.is_ready(10.6)
    assert pair.server.is_ready(10.6)


@pytest.mark.parametrize(("is_fast", "limit_s"), [(True, 2.1), (False, 9.0)])
def test_silence_ends_it_and_the_next_period_begins_from_zero(
    is_fast: bool, limit_s: float
) -> None:
    pair = Pair(is_fast=is_fast)
    pair.talk(0.0, 15.0)
    heard_at = pair.client.heard_at

    assert pair.client.is_ready(heard_at + limit_s - 0.01)
    assert not pair.client.is_ready(heard_at + limit_s + 0.01)

    pair.talk(30.0, 39.0)
    assert not pair.client.is_ready(39.0)
    pair.talk(39.0, 42.0)
    assert pair.client.is_ready(42.0)


@pytest.mark.parametrize(("is_fast", "interval_s"), [(True, 0.5), (False, 1.0)])
def test_keepalives_come_at_intervals(is_fast: bool, interval_s: float) -> None:
    end = an_end(is_fast=is_fast)

    assert end.next_deadline() == 0.0
    assert len(end.handle_deadline(0.0)) == 1
    assert end.handle_deadline(0.0) == []
    assert end.next_deadline() == interval_s


def test_an_end_that_is_heard_and_hears_nothing_sends_the_other_one_back_to_tcp() -> (
    None
):
    pair = Pair()
    pair.talk(0.0, 15.0)
    for tenth in range(151, 400):
        now = tenth / 10
        for datagram, _ in pair.client.handle_deadline(now):
            take(pair.server, datagram, CLIENT, now)
        pair.server.handle_deadline(now)  # goes into the void
        assert now < 20.0 or not pair.server.is_ready(now)

    pair.talk(40.0, 55.0)
    assert pair.client.is_ready(55.0)
    assert pair.server.is_ready(55.0)


def test_an_end_that_echoes_nothing_keeps_the_other_on_tcp() -> None:
    pair = Pair()
    pair.client.echoes = False

    pair.talk(0.0, 15.0)

    assert pair.client.is_ready(15.0)
    assert not pair.server.is_heard(15.0)


def test_who_withdraws_is_silent_until_the_other_end_has_gone_back_to_tcp() -> None:
    pair = Pair()
    pair.talk(0.0, 15.0)

    pair.client.withdraw(15.0)
    pair.talk(15.1, 20.0)
    assert not pair.server.is_ready(20.0)
    assert pair.client.next_deadline() >= 45.0

    pair.talk(20.0, 70.0)
    assert not pair.server.is_heard(70.0)


def test_an_echo_of_more_than_30_seconds_ago_is_no_sign_of_life() -> None:
    end, forger = an_end(), Forger()

    take(end, forger.datagram(1, echo=1), SERVER, 30.1)

    assert not end.is_heard(30.1)


def test_an_echo_of_what_was_never_said_counts_for_nothing() -> None:
    end, forger = an_end(), Forger()

    take(end, forger.datagram(1, echo=10_000), SERVER, 1.0)

    assert not end.is_heard(1.0)


def test_a_copy_is_dropped() -> None:
    end, datagram = an_end(), Forger().datagram(5)

    assert take(end, datagram, SERVER, 1.0) is not None
    assert take(end, datagram, SERVER, 1.0) is None
    assert end.dropped == {"foreign": 0, "stale": 0, "replayed": 1}


def test_what_comes_out_of_order_is_taken_within_30_seconds() -> None:
    end, forger = an_end(), Forger()
    take(end, forger.datagram(40_000), SERVER, 1.0)

    assert take(end, forger.datagram(11_000), SERVER, 1.0) is not None
    assert take(end, forger.datagram(10_000), SERVER, 1.0) is None
    assert end.dropped["stale"] == 1


def test_a_copy_of_what_was_forgotten_is_stale() -> None:
    end, forger = an_end(), Forger()
    first = forger.datagram(1)
    take(end, first, SERVER, 1.0)
    for tick in range(2, 16_390):
        take(end, forger.datagram(tick), SERVER, 1.0)

    assert take(end, first, SERVER, 1.0) is None
    assert end.dropped == {"foreign": 0, "stale": 1, "replayed": 0}


def test_foreign_datagrams_are_counted_and_dropped() -> None:
    end, forger = an_end(), Forger()

    assert take(end, b"", SERVER, 1.0) is None
    assert take(end, bytes(100), SERVER, 1.0) is None
    assert take(end, forger.datagram(1, cookie=78), SERVER, 1.0) is None
    assert take(end, forger.datagram(0), SERVER, 1.0) is None
    assert end.dropped["foreign"] == 4
    assert end.peer == SERVER


def test_the_peer_moves_with_a_greater_tick_only() -> None:
    end, forger = an_end(), Forger()
    elsewhere: Endpoint = ("203.0.113.5", 6)
    take(end, forger.datagram(10), SERVER, 1.0)

    take(end, forger.datagram(10), elsewhere, 1.0)
    take(end, forger.datagram(9), elsewhere, 1.0)
    assert end.peer == SERVER

    take(end, forger.datagram(11), elsewhere, 1.0)
    assert end.peer == elsewhere


def test_keepalives_go_wherever_the_peer_may_be_until_it_is_ready() -> None:
    end = an_end(reported=IPv4Address("10.0.0.1"))
    assert [place for _, place in end.handle_deadline(0.0)] == [
        SERVER,
        ("10.0.0.1", 40000),
    ]

    take(end, Forger().datagram(1), ("203.0.113.5", 6), 1.0)
    assert [place for _, place in end.handle_deadline(1.0)] == [
        ("203.0.113.5", 6),
        ("203.0.113.5", 40000),
        ("198.51.100.1", 6),
        SERVER,
        ("10.0.0.1", 6),
        ("10.0.0.1", 40000),
    ]


def test_keepalives_of_a_ready_end_go_to_one_place() -> None:
    pair = Pair()
    pair.client = an_end(reported=IPv4Address("10.0.0.1"))
    pair.talk(0.0, 15.0)

    assert len(pair.client.handle_deadline(20.0)) > 1  # after a silence
    pair.talk(20.0, 31.0)
    assert len(pair.client.handle_deadline(32.0)) == 1


def test_no_iv_is_used_twice() -> None:
    end = an_end()

    packets = [end.head(1.0) + b"\0\0\0"] * 500
    datagrams = [
        *(end.seal(FRAME, 1.0) for _ in range(500)),
        *end.seal_all(packets),
    ]
    assert len({datagram[:12] for datagram in datagrams}) == 1000


@given(
    datagrams=st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), max_size=30
    )
)
def test_whatever_an_authentic_peer_says_is_taken_at_most_once(
    datagrams: list[tuple[int, int]],
) -> None:
    end, forger = an_end(), Forger()

    for tick, echo in datagrams:
        datagram = forger.datagram(tick, echo=echo)
        first = take(end, datagram, SERVER, 5.0)
        assert take(end, datagram, SERVER, 5.0) is None
        assert first is None or first.tick == tick
