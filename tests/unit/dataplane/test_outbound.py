# SPDX-License-Identifier: Apache-2.0
"""What the kernel's account of a TCP connection means for its outbound direction."""

from __future__ import annotations

import struct

import pytest

from sevpn.dataplane.outbound import Outbound, judge


def info(*, unacknowledged: int, retransmits: int = 0, since_ack_ms: int = 0) -> bytes:
    """Return the head of struct tcp_info: 8 bytes, then numbers of 4 bytes each."""
    numbers = [0] * 13
    numbers[4] = unacknowledged  # behind rto, ato, snd_mss, rcv_mss
    numbers[12] = since_ack_ms  # last_ack_recv
    return bytes([1, 0, retransmits, 0, 0, 0, 0, 0]) + struct.pack("=13I", *numbers)


@pytest.mark.parametrize(
    ("said", "outbound"),
    [
        (info(unacknowledged=0), Outbound.CLEAR),
        (info(unacknowledged=0, since_ack_ms=60000), Outbound.CLEAR),
        (info(unacknowledged=30, since_ack_ms=200), Outbound.SLOW),
        (info(unacknowledged=30, since_ack_ms=200, retransmits=1), Outbound.SLOW),
        (info(unacknowledged=1, since_ack_ms=1500), Outbound.CLEAR),
        (info(unacknowledged=1, since_ack_ms=200, retransmits=2), Outbound.STUCK),
        (info(unacknowledged=9, since_ack_ms=9000, retransmits=5), Outbound.STUCK),
        (info(unacknowledged=9)[:40], Outbound.CLEAR),
        (b"", Outbound.CLEAR),
    ],
)
def test_what_arrives_is_told_from_what_waits_and_what_is_lost(
    said: bytes, outbound: Outbound
) -> None:
    assert judge(said) is outbound


def test_of_several_the_worst_is_the_greatest() -> None:
    assert max(Outbound.SLOW, Outbound.STUCK, Outbound.CLEAR) is Outbound.STUCK
