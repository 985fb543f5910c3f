# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from ipaddress import IPv4Address

from hypothesis import given, strategies as st

from sevpn.server.pool import Pool, lease_end

ALICE, BOB = b"\x5e\0\0\0\0\1", b"\x5e\0\0\0\0\2"


def ip(last: int) -> IPv4Address:
    return IPv4Address(0x0A000000 + last)


def a_pool(count: int = 3) -> Pool:
    return Pool(ip(10), ip(9 + count))


def test_the_lowest_free_address_is_offered() -> None:
    pool = a_pool()

    assert pool.offer(ALICE, None, 0.0) == ip(10)
    assert pool.offer(BOB, None, 0.0) == ip(11)


def test_an_offer_is_repeated_and_kept_for_ten_seconds() -> None:
    pool = a_pool()
    pool.offer(ALICE, None, 0.0)

    assert pool.offer(ALICE, None, 5.0) == ip(10)
    assert pool.offer(BOB, ip(10), 14.0) == ip(11)
    assert pool.offer(b"carol!", ip(10), 15.0) == ip(10)


def test_a_wanted_address_is_offered_if_it_is_free_and_in_the_range() -> None:
    pool = a_pool()

    assert pool.offer(ALICE, ip(12), 0.0) == ip(12)
    assert pool.offer(BOB, ip(99), 0.0) == ip(10)


def test_a_reserved_address_is_never_given() -> None:
    pool = Pool(ip(1), ip(2), reserved=(ip(1),))

    assert pool.offer(ALICE, ip(1), 0.0) == ip(2)
    assert not pool.is_for(ip(1), ALICE, 0.0)


def test_an_empty_pool_offers_nothing() -> None:
    pool = a_pool(1)
    pool.take(ip(10), ALICE, 100.0)

    assert pool.offer(BOB, None, 0.0) is None
    assert pool.offer(BOB, None, 100.0) == ip(10)


def test_a_lease_ends_and_its_owner_is_remembered() -> None:
    pool = a_pool()
    pool.take(ip(12), ALICE, 100.0)

    assert pool.leases(99.0) == {ip(12): ALICE}
    assert pool.leases(100.0) == {}
    assert pool.offer(ALICE, None, 200.0) == ip(12)
    assert pool.offer(BOB, None, 200.0) == ip(10)


def test_addresses_that_were_nobodys_go_first() -> None:
    pool = a_pool(2)
    pool.take(ip(10), ALICE, 1.0)

    assert pool.offer(BOB, None, 5.0) == ip(11)
    assert pool.offer(b"carol!", None, 5.0) == ip(10)


def test_a_second_lease_of_one_client_replaces_the_first() -> None:
    pool = a_pool()
    pool.take(ip(10), ALICE, 100.0)
    pool.take(ip(11), ALICE, 100.0)

    assert pool.leases(0.0) == {ip(11): ALICE}


def test_only_the_owner_gives_an_address_back() -> None:
    pool = a_pool()
    pool.take(ip(10), ALICE, 100.0)
    pool.release(ip(10), BOB)
    assert pool.leases(0.0) == {ip(10): ALICE}

    pool.release(ip(10), ALICE)
    assert pool.leases(0.0) == {}


def test_a_declined_address_is_nobodys_for_ten_minutes() -> None:
    pool = a_pool()
    pool.take(ip(10), ALICE, 100.0)
    pool.decline(ip(10), BOB, 0.0)
    assert pool.is_for(ip(10), ALICE, 0.0)

    pool.decline(ip(10), ALICE, 0.0)
    assert not pool.is_for(ip(10), ALICE, 0.0)
    assert pool.offer(ALICE, ip(10), 1.0) == ip(11)
    assert pool.is_for(ip(10), BOB, 600.0)


def test_a_lease_for_ever_never_ends() -> None:
    assert lease_end(5.0, 0xFFFFFFFF) == math.inf
    assert lease_end(5.0, 60) == 65.0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["offer", "take", "release", "decline"]),
            st.integers(1, 6),
            st.integers(9, 14),
            st.floats(0, 20),
        ),
        max_size=60,
    )
)
def test_no_address_ever_has_two_owners(
    steps: list[tuple[str, int, int, float]],
) -> None:
    pool = a_pool()
    now = 0.0
    for verb, who, last, waited in steps:
        now += waited
        mac, address = bytes([who]) * 6, ip(last)
        if verb == "offer":
            offered = pool.offer(mac, address, now)
            assert offered is None or pool.is_for(offered, mac, now)
        elif verb == "take" and pool.is_for(address, mac, now):
            pool.take(address, mac, now + 30)
            assert not pool.is_for(address, b"others", now)
        elif verb == "release":
            pool.release(address, mac)
        else:
            pool.decline(address, mac, now)
        owners = list(pool.leases(now).values())
        assert len(owners) == len(set(owners))
