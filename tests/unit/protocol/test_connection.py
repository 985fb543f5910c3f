# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from sevpn.errors import LocalProtocolError
from sevpn.protocol.connection import Connection, keepalive_interval_s


@pytest.mark.parametrize(
    ("timeout_s", "interval_s"),
    [(60.0, 3.0), (20.0, 3.0), (9.0, 3.0), (6.0, 2.0), (5.0, 5 / 3)],
)
def test_keepalives_come_every_three_seconds_but_thrice_per_timeout_at_least(
    timeout_s: float, interval_s: float
) -> None:
    assert keepalive_interval_s(timeout_s) == pytest.approx(interval_s)


def test_the_first_keepalive_is_due_at_once() -> None:
    connection = Connection(1, now=100.0, timeout_s=20.0)

    assert connection.next_deadline() == 100.0
    assert connection.take_keepalive(100.0)


def test_a_keepalive_is_due_once_per_interval() -> None:
    connection = Connection(1, now=0.0, timeout_s=20.0)

    due = [
        now
        for now in (0.0, 0.0, 1.0, 2.9, 3.0, 3.1, 5.9, 6.0)
        if connection.take_keepalive(now)
    ]

    assert due == [0.0, 3.0, 6.0]


def test_missed_keepalives_are_not_made_up_for() -> None:
    connection = Connection(1, now=0.0, timeout_s=20.0)

    assert connection.take_keepalive(1000.0)
    assert not connection.take_keepalive(1000.0)
    assert connection.take_keepalive(1003.0)


def test_received_items_move_the_silence_on_and_not_the_keepalives() -> None:
    connection = Connection(1, now=0.0, timeout_s=20.0)
    connection.received(15.0)

    assert not connection.is_silent(34.9)
    assert connection.is_silent(35.0)
    assert connection.next_deadline() == 0.0


def test_a_connection_that_only_sends_is_never_silent() -> None:
    connection = Connection(1, now=0.0, timeout_s=20.0, may_receive=False)
    connection.received(5.0)

    assert not connection.is_silent(1e9)
    assert connection.take_keepalive(0.0)
    assert connection.next_deadline() == 3.0


def test_a_connection_that_only_receives_sends_no_keepalives() -> None:
    connection = Connection(1, now=0.0, timeout_s=20.0, may_send=False)

    assert not connection.take_keepalive(1e9)
    assert connection.next_deadline() == 20.0


def test_a_connection_that_carries_nothing_is_our_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        Connection(1, now=0.0, timeout_s=20.0, may_send=False, may_receive=False)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, math.inf, math.nan])
def test_a_timeout_that_is_no_duration_is_our_mistake(timeout_s: float) -> None:
    with pytest.raises(LocalProtocolError):
        Connection(1, now=0.0, timeout_s=timeout_s)
