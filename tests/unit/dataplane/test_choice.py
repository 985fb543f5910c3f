# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from sevpn.dataplane.choice import (
    TCP_INFO_SIZE,
    Choice,
    TcpSample,
    choose,
    read_sample,
)

CALM = TcpSample(0, 0, 0, 0, rtt_s=0.05, best_rtt_s=0.05)
GOOD = replace(CALM, sent=1000, received=1000)


def after(sample: TcpSample, *looks: TcpSample, now: float = 0.0) -> Choice:
    """Return the choice after looks that are each taken against *sample*."""
    choice = Choice()
    for look in looks:
        choice = choose(choice, sample, look, now)
    return choice


BAD = {
    "sent 3 of 1000": replace(GOOD, retransmitted=3),
    "3 of 1000 segments came": replace(GOOD, out_of_order=3),
    "round trips take 260 ms": replace(GOOD, rtt_s=0.26),
}


def test_tcp_that_does_well_is_left_alone() -> None:
    assert after(CALM, GOOD, GOOD, GOOD) == Choice()


@pytest.mark.parametrize("reason", BAD)
def test_two_bad_looks_in_a_row_choose_udp_and_say_why(reason: str) -> None:
    bad = BAD[reason]

    assert not after(CALM, bad).wants_udp
    assert not after(CALM, bad, GOOD, bad).wants_udp

    choice = after(CALM, bad, bad)
    assert choice.wants_udp
    assert reason in choice.reason


@pytest.mark.parametrize(
    "look",
    [
        replace(GOOD, retransmitted=2),
        replace(GOOD, out_of_order=2),
        replace(GOOD, rtt_s=0.24),
        replace(CALM, sent=99, retransmitted=99),
        replace(CALM, received=99, out_of_order=99),
        replace(CALM, sent=49, received=50, rtt_s=5.0),
        replace(GOOD, rtt_s=1.8, best_rtt_s=0.6),
    ],
)
def test_a_little_or_too_few_segments_are_no_reason(look: TcpSample) -> None:
    assert not after(CALM, look, look, look).wants_udp


def test_udp_is_held_and_then_tcp_is_tried_again() -> None:
    bad = BAD["sent 3 of 1000"]
    choice = after(CALM, bad, bad, now=1000.0)

    assert choose(choice, CALM, GOOD, 1299.0) == choice

    again = choose(choice, CALM, GOOD, 1300.0)
    assert not again.wants_udp
    assert "tried again" in again.reason


def test_each_hold_is_twice_as_long_up_to_an_hour() -> None:
    bad, choice, now, holds = BAD["sent 3 of 1000"], Choice(), 0.0, []
    for _ in range(6):
        choice = choose(choose(choice, CALM, bad, now), CALM, bad, now)
        assert choice.wants_udp
        holds.append(choice.until - now)
        now = choice.until
        choice = choose(choice, CALM, GOOD, now)

    assert holds == [300.0, 600.0, 1200.0, 2400.0, 3600.0, 3600.0]


def test_the_kernels_numbers_are_read_where_they_stand() -> None:
    info = bytearray(TCP_INFO_SIZE)
    for at, value in ((68, 50_000), (100, 7), (136, 1000), (140, 900), (148, 40_000), (224, 5)):  # fmt: skip
        struct.pack_into("=I", info, at, value)

    assert read_sample(bytes(info)) == TcpSample(7, 1000, 5, 900, 0.05, 0.04)


def test_an_older_kernel_says_nothing() -> None:
    assert read_sample(bytes(TCP_INFO_SIZE - 1)) is None
