# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from sevpn.errors import Failure, LocalProtocolError
from sevpn.protocol.session import (
    Action,
    CloseConnection,
    EndSession,
    SendKeepAlive,
    SessionTimers,
)


def told(actions: list[Action]) -> list[str]:
    """One word per action, so that a dialogue reads as text."""
    words = []
    for action in actions:
        match action:
            case SendKeepAlive(number):
                words.append(f"keep-alive {number}")
            case CloseConnection(number, _):
                words.append(f"close {number}")
            case EndSession(_):
                words.append("end")
    return words


def a_session(*numbers: int) -> SessionTimers:
    session = SessionTimers(timeout_s=20.0, now=0.0)
    for number in numbers:
        session.added(number, 0.0)
    return session


def test_the_first_keepalive_goes_out_as_the_connection_joins() -> None:
    session = a_session(1)

    assert session.next_deadline() == 0.0
    assert told(session.handle_deadline(0.0)) == ["keep-alive 1"]
    assert session.next_deadline() == 3.0


def test_each_connection_has_its_own_keepalives() -> None:
    session = a_session(1)
    session.handle_deadline(0.0)
    session.added(2, 1.0)

    assert told(session.handle_deadline(1.0)) == ["keep-alive 2"]
    assert told(session.handle_deadline(3.0)) == ["keep-alive 1"]
    assert told(session.handle_deadline(4.0)) == ["keep-alive 2"]


def test_an_early_or_repeated_deadline_does_nothing() -> None:
    session = a_session(1)
    session.handle_deadline(0.0)

    assert session.handle_deadline(0.0) == []
    assert session.handle_deadline(2.9) == []


def test_what_a_server_says_keeps_its_session_and_none_of_the_connections() -> None:
    session = a_session(1, 2)
    session.received(2, 15.0)

    session.sent(15.0)

    assert told(session.handle_deadline(20.0))[0] == "close 1"
    session.sent(30.0)
    session.sent(29.0)  # late news
    assert told(session.handle_deadline(35.0)) == ["close 2"]
    assert session.next_deadline() == 50.0
    assert told(session.handle_deadline(50.0)) == ["end"]


def test_a_session_that_hears_nothing_ends_with_a_temporary_failure() -> None:
    session = a_session(1)
    session.handle_deadline(0.0)

    (end,) = session.handle_deadline(20.0)

    assert isinstance(end, EndSession)
    assert "20 s" in str(end.error)
    assert end.error.failure is Failure.TEMPORARY
    assert session.connections == ()


def test_an_ended_session_has_no_deadline_and_does_nothing_more() -> None:
    session = a_session(1)
    session.handle_deadline(20.0)

    assert session.next_deadline() == math.inf
    assert session.handle_deadline(40.0) == []
    session.received(1, 41.0)
    assert session.next_deadline() == math.inf


def test_an_ended_session_takes_no_connection() -> None:
    session = a_session()
    session.handle_deadline(20.0)

    with pytest.raises(LocalProtocolError):
        session.added(1, 21.0)


def test_a_number_in_use_is_our_mistake() -> None:
    session = a_session(1)

    with pytest.raises(LocalProtocolError):
        session.added(1, 0.0)


def test_received_items_keep_the_session_alive() -> None:
    session = a_session(1)
    session.received(1, 15.0)

    assert told(session.handle_deadline(34.9)) == ["keep-alive 1"]
    assert told(session.handle_deadline(35.0)) == ["end"]


def test_one_silent_connection_is_closed_while_the_session_lives() -> None:
    session = a_session(1, 2)
    session.handle_deadline(0.0)
    session.received(2, 10.0)

    actions = session.handle_deadline(20.0)

    assert told(actions) == ["close 1", "keep-alive 2"]
    assert isinstance(actions[0], CloseConnection)
    assert "connection 1" in str(actions[0].error)
    assert session.connections == (2,)
    assert told(session.handle_deadline(30.0)) == ["end"]


def test_a_session_outlives_its_last_connection_for_the_timeout() -> None:
    session = a_session(1)
    session.received(1, 5.0)
    session.removed(1)

    assert session.next_deadline() == 25.0
    assert session.handle_deadline(24.0) == []
    session.added(2, 24.0)
    assert told(session.handle_deadline(25.0)) == ["keep-alive 2"]
    assert told(session.handle_deadline(44.0)) == ["end"]


def test_what_a_forgotten_connection_still_brings_is_ignored() -> None:
    session = a_session(1)
    session.removed(1)
    session.removed(1)
    session.received(1, 19.0)

    assert told(session.handle_deadline(20.0)) == ["end"]


def test_a_half_duplex_pair_sends_on_one_and_listens_on_the_other() -> None:
    session = a_session()
    session.added(1, 0.0, may_receive=False)
    session.added(2, 0.0, may_send=False)

    assert told(session.handle_deadline(0.0)) == ["keep-alive 1"]
    session.received(2, 19.0)
    assert told(session.handle_deadline(38.0)) == ["keep-alive 1"]
    assert told(session.handle_deadline(39.0)) == ["end"]


def test_a_deadline_far_too_late_ends_the_session_once() -> None:
    session = a_session(1, 2)

    assert told(session.handle_deadline(1e6)) == ["end"]
    assert session.handle_deadline(1e6) == []
