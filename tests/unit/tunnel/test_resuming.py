# SPDX-License-Identifier: Apache-2.0
"""When a session is worth taking up again, and where the machine goes with it."""

from __future__ import annotations

import pytest

from sevpn.errors import (
    ConnectionLostError,
    Failure,
    InterfaceGoneError,
    NotProvenError,
    SevpnError,
    SilenceError,
)
from sevpn.protocol.messages import Welcome
from sevpn.tunnel import machine as m
from sevpn.tunnel.policy import Rules, Run
from sevpn.tunnel.resuming import can_resume

WELCOME = Welcome(
    session_name="SID-ALICE-1", connection_name="CID-1", session_key=bytes(20)
)
LOST = ConnectionLostError("the connection ended")
GONE = InterfaceGoneError("the interface is gone", operation="watch")
RULES = Rules()
RESUMING = m.Resuming(Run(started_at=0.0, proven=True), 5.0, LOST)
MOVED = m.Resuming(Run(started_at=0.0, proven=True), 5.0, "another uplink")


def go(state: m.State, event: m.Event, now: float = 100.0) -> m.Step:
    return m.step(state, event, now=now, rules=RULES, jitter=0.0)


@pytest.mark.parametrize(
    ("error", "age_s", "is_worth_it"),
    [
        (LOST, 0.0, True),
        (None, 0.0, True),
        (SilenceError("nothing", failure=Failure.TEMPORARY), 6.0, True),
        (LOST, 19.9, True),
        (LOST, 20.0, False),
        (None, 3600.0, False),
        (GONE, 0.0, False),
        (NotProvenError("the gateway is dead"), 0.0, False),
    ],
)
def test_a_session_is_worth_it_while_the_server_may_know_it(
    error: SevpnError | None, age_s: float, is_worth_it: bool
) -> None:
    assert (
        can_resume(WELCOME, heard_at=50.0, now=50.0 + age_s, error=error) == is_worth_it
    )


def test_a_lost_session_is_taken_up_again_before_anything_is_given_up() -> None:
    connected = m.Connected(Run(started_at=0.0, proven=True), since=5.0)

    assert go(connected, m.SessionLost(LOST, can_resume=True)) == m.Step(
        RESUMING, (m.ResumeSession(),)
    )
    assert go(connected, m.Heal("another uplink", can_resume=True)) == m.Step(
        MOVED, (m.ResumeSession(),)
    )
    assert m.ReleaseHost() in go(connected, m.SessionLost(LOST)).actions
    assert m.ReleaseHost() in go(connected, m.Heal()).actions


def test_a_resumed_session_is_as_old_as_it_was() -> None:
    assert go(RESUMING, m.Resumed()) == m.Step(m.Connected(RESUMING.run, 5.0))


@pytest.mark.parametrize(
    "event", [m.StepFailed(GONE), m.SessionLost(LOST), m.LeaseLost()]
)
def test_what_fails_ends_as_if_it_had_not_been_tried(event: m.Event) -> None:
    untried = go(m.Connected(RESUMING.run, 5.0), m.SessionLost(LOST))
    unmoved = go(m.Connected(RESUMING.run, 5.0), m.Heal("another uplink"))

    assert go(RESUMING, event) == untried
    assert go(MOVED, event) == unmoved


def test_the_network_may_move_again_meanwhile() -> None:
    step = go(RESUMING, m.Heal("a third uplink", can_resume=True))

    assert step.state == m.Resuming(RESUMING.run, 5.0, "a third uplink")
    assert step.actions == (m.ResumeSession(),)


def test_the_user_may_want_otherwise_meanwhile() -> None:
    assert isinstance(go(RESUMING, m.TurnOff()).state, m.Disconnecting)
    assert isinstance(go(RESUMING, m.Heal()).state, m.Resolving)


@pytest.mark.parametrize(
    "event", [m.TurnOn(), m.TimerFired(), m.LeaseChanged(), m.Proven(), m.HelloSeen()]
)
def test_late_news_changes_nothing(event: m.Event) -> None:
    assert go(RESUMING, event) == m.Step(RESUMING)
