# SPDX-License-Identifier: Apache-2.0
"""When a session is worth taking up again, and where the machine goes with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from sevpn.errors import (
    CertificateError,
    ConnectionLostError,
    Failure,
    InterfaceGoneError,
    NotProvenError,
    SevpnError,
    SilenceError,
)
from sevpn.protocol.messages import Welcome
from sevpn.testing.clock import JumpingLoop
from sevpn.tunnel import machine as m
from sevpn.tunnel.policy import Rules, Run
from sevpn.tunnel.resuming import can_resume, rejoin, wait_until_heard

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


# --- how it is tried -----------------------------------------------------------


class Underlay:
    """A way to the server that is there from a moment on, and a server behind it."""

    def __init__(self, *, way_at: float = 0.0, answer_after_s: float = 0.0) -> None:
        self.loop = JumpingLoop()
        self.began_at = self.loop.time()
        self.dialled_at: float | None = None
        self._way_at = way_at
        self._answer_after_s = answer_after_s

    @property
    def age_s(self) -> float:
        return self.loop.time() - self.began_at

    def has_way(self) -> bool:
        return self.age_s >= self._way_at

    async def join(self) -> str:
        self.dialled_at = self.age_s
        await asyncio.sleep(self._answer_after_s)
        return "joined"

    def rejoin(self, *, patience_s: float = 20.0) -> str:
        return self.run(rejoin(self.join, has_way=self.has_way, patience_s=patience_s))

    def run(self, what: Awaitable[str]) -> str:
        async def go() -> str:
            return await what

        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            return runner.run(go())


def test_it_is_joined_as_soon_as_there_is_a_way() -> None:
    underlay = Underlay(way_at=3.0)

    assert underlay.rejoin() == "joined"
    assert underlay.dialled_at == pytest.approx(3.0, abs=0.11)


def test_a_way_that_comes_when_the_server_has_forgotten_is_too_late() -> None:
    underlay = Underlay(way_at=3.0)

    with pytest.raises(SilenceError):
        underlay.rejoin(patience_s=2.0)
    assert underlay.dialled_at is None


def test_a_server_that_does_not_answer_is_logged_in_to_anew_after_five_seconds() -> (
    None
):
    underlay = Underlay(answer_after_s=6.0)

    with pytest.raises(SilenceError) as silence:
        underlay.rejoin()
    assert silence.value.failure is Failure.TEMPORARY
    assert underlay.age_s == pytest.approx(5.0)


def test_a_session_that_was_to_be_forgotten_already_is_not_waited_for() -> None:
    underlay = Underlay(way_at=1.0)

    with pytest.raises(SilenceError):
        underlay.rejoin(patience_s=-3.0)
    assert underlay.age_s == pytest.approx(0.0)


def test_what_the_server_says_is_passed_on() -> None:
    underlay = Underlay()
    other = CertificateError("another one", sha256="", reason="pin")

    async def join() -> str:
        raise other

    with pytest.raises(CertificateError) as refused:
        underlay.run(rejoin(join, has_way=lambda: True, patience_s=20.0))
    assert refused.value is other


@pytest.mark.parametrize("after_s", [0.0, 0.9])
def test_what_comes_within_a_second_shows_that_the_connection_was_taken(
    after_s: float,
) -> None:
    underlay = Underlay()

    async def listen() -> str:
        await wait_until_heard(
            lambda: 100.0 if underlay.age_s >= after_s else 99.0, since=100.0
        )
        return "heard"

    assert underlay.run(listen()) == "heard"
    assert underlay.age_s == pytest.approx(after_s, abs=0.02)


def test_a_second_of_silence_shows_that_it_was_dropped() -> None:
    underlay = Underlay()

    async def listen() -> str:
        await wait_until_heard(lambda: 99.9, since=100.0)
        return "heard"

    with pytest.raises(SilenceError, match="says nothing"):
        underlay.run(listen())
    assert underlay.age_s == pytest.approx(1.0)


# --- the machine ---------------------------------------------------------------


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
