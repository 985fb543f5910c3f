# SPDX-License-Identifier: Apache-2.0
"""The tunnel's life as dialogues: what it hears, and what it does then."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sevpn.errors import (
    AuthenticationError,
    ConnectionLostError,
    DialError,
    HostError,
    LeaseError,
    SevpnError,
)
from sevpn.tunnel import machine as m
from sevpn.tunnel.policy import FOREVER, Rules

RESET = ConnectionLostError("reset")
NO_LEASE = LeaseError("no lease")
REFUSED = DialError("refused")
WRONG_PASSWORD = AuthenticationError("no", code=9)
NO_TUN = HostError("no tun", operation="open-tap")

OPENING = (
    m.AddressesKnown(),
    m.HelloSeen(),
    m.SessionOpened(),
    m.LeaseObtained(),
    m.HostConfigured(),
    m.Proven(),
)


class Talk:
    """A dialogue with the machine on a clock of its own."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.state: m.State = m.Down()
        self.rules = rules or Rules()
        self._did: list[m.Action] = []
        self._lines: list[str] = []

    def hear(self, *events: m.Event, at: float = 0.0) -> Talk:
        for event in events:
            step = m.step(self.state, event, now=at, rules=self.rules, jitter=0.0)
            self._lines.append(
                f"{at:8.1f}  {event!r}\n          -> {step.state!r}  {step.actions!r}"
            )
            self.state = step.state
            self._did += step.actions
        return self

    def did(self) -> list[m.Action]:
        done, self._did = self._did, []
        return done

    def connected(self, *, at: float = 0.0) -> Talk:
        self.hear(m.TurnOn(), *OPENING, at=at)
        assert isinstance(self.state, m.Connected), self
        self.did()
        return self

    def __repr__(self) -> str:
        return "\n".join(self._lines)


def test_from_nothing_to_connected() -> None:
    talk = Talk()

    talk.hear(m.TurnOn())
    assert talk.did() == [m.OpenSession()]
    talk.hear(m.AddressesKnown())
    assert isinstance(talk.state, m.Connecting)
    talk.hear(m.HelloSeen())
    assert isinstance(talk.state, m.Authenticating)
    talk.hear(m.SessionOpened())
    assert talk.did() == [m.ObtainLease()]
    talk.hear(m.LeaseObtained())
    assert talk.did() == [m.ConfigureHost()]
    talk.hear(m.HostConfigured())
    assert talk.did() == [m.Prove()]
    talk.hear(m.Proven())
    assert isinstance(talk.state, m.Connected)
    assert talk.did() == []


def test_turning_off_restores_the_host_and_ends() -> None:
    talk = Talk().connected()

    talk.hear(m.TurnOff())
    assert talk.did() == [m.LeaveAndRestore()]
    talk.hear(m.TurnOff(), m.Heal(), m.SessionLost(RESET))
    assert talk.did() == []
    talk.hear(m.Left())
    assert talk.state == m.Down()


@pytest.mark.parametrize("heard", range(len(OPENING)))
def test_turning_off_works_at_every_stage(heard: int) -> None:
    talk = Talk().hear(m.TurnOn(), *OPENING[:heard])
    talk.did()

    talk.hear(m.TurnOff())

    assert talk.did() == [m.LeaveAndRestore()], talk


@pytest.mark.parametrize("heard", range(len(OPENING)))
def test_what_belongs_to_another_stage_changes_nothing(heard: int) -> None:
    talk = Talk().hear(m.TurnOn(), *OPENING[:heard])
    talk.did()
    stage = talk.state

    talk.hear(*OPENING[:heard], *OPENING[heard + 1 :])

    assert talk.did() == []
    assert talk.state == stage


def test_a_lost_session_is_healed_at_once_and_then_with_growing_delays() -> None:
    talk = Talk().connected()

    talk.hear(m.SessionLost(RESET), at=60.0)
    assert talk.did() == [m.CloseSession(), m.ReleaseHost(), m.SetTimer(at=60.0)]
    talk.hear(m.TimerFired(), at=60.0)
    assert talk.did() == [m.OpenSession()]
    talk.hear(m.StepFailed(REFUSED), at=61.0)
    assert talk.did() == [m.CloseSession(), m.ReleaseHost(), m.SetTimer(at=66.0)]
    talk.hear(m.TimerFired(), m.StepFailed(REFUSED), at=66.0)
    assert talk.did()[-1] == m.SetTimer(at=76.0)


def test_a_session_that_is_cut_again_and_again_backs_off() -> None:
    talk = Talk().connected()

    talk.hear(m.SessionLost(RESET), m.TimerFired(), *OPENING, at=1.0)
    assert isinstance(talk.state, m.Connected)
    talk.did()
    talk.hear(m.SessionLost(RESET), at=2.0)

    assert talk.did()[-1] == m.SetTimer(at=7.0), talk


def test_a_session_that_lasted_forgets_the_failures_before_it() -> None:
    talk = Talk().connected()

    talk.hear(m.SessionLost(RESET), m.TimerFired(), *OPENING, at=1.0)
    talk.hear(m.SessionLost(RESET), at=1.0 + m.STABLE_S)

    assert talk.did()[-1] == m.SetTimer(at=1.0 + m.STABLE_S), talk


def test_a_network_that_moves_away_ends_the_session_without_a_goodbye() -> None:
    talk = Talk().connected()

    talk.hear(m.Heal("the way has moved"), at=1.0)

    assert talk.did() == [
        m.CloseSession(polite=False),
        m.ReleaseHost(),
        m.OpenSession(),
    ]
    assert isinstance(talk.state, m.Resolving)


def test_a_network_that_moves_while_nothing_is_tried_makes_it_try_at_once() -> None:
    talk = Talk().connected()
    talk.hear(m.SessionLost(RESET), m.TimerFired(), m.StepFailed(REFUSED), at=60.0)
    assert isinstance(talk.state, m.Waiting)
    talk.did()

    talk.hear(m.Heal("there is a way"), at=61.0)

    assert talk.did() == [m.OpenSession()]


def test_a_session_that_lasted_and_moved_forgets_the_failures_before_it() -> None:
    talk = Talk().connected()
    talk.hear(m.SessionLost(RESET), m.TimerFired(), *OPENING, at=1.0)
    talk.hear(m.Heal("moved"), at=1.0 + m.STABLE_S)
    talk.did()

    talk.hear(m.StepFailed(REFUSED), at=20.0)

    assert talk.did()[-1] == m.SetTimer(at=20.0), talk


def test_an_early_timer_does_not_dial() -> None:
    talk = Talk(Rules(retries=FOREVER)).hear(m.TurnOn(), m.StepFailed(REFUSED))
    talk.did()

    talk.hear(m.TimerFired(), at=4.9)
    assert talk.did() == []
    talk.hear(m.TimerFired(), at=5.0)
    assert talk.did() == [m.OpenSession()]
    talk.hear(m.TimerFired(), at=5.0)
    assert talk.did() == []


def test_a_wrong_password_ends_after_one_attempt() -> None:
    talk = Talk().hear(
        m.TurnOn(), m.AddressesKnown(), m.HelloSeen(), m.StepFailed(WRONG_PASSWORD)
    )

    assert talk.did() == [m.OpenSession(), m.LeaveAndRestore()]
    talk.hear(m.Left())
    assert talk.state == m.Failed(WRONG_PASSWORD)


def test_a_host_that_cannot_ends_the_tunnel_even_after_a_proof() -> None:
    talk = Talk().connected()

    talk.hear(m.LeaseChanged(), m.StepFailed(NO_TUN))

    assert talk.did() == [m.ConfigureHost(), m.LeaveAndRestore()]


def test_a_lost_lease_is_replaced_in_the_same_session() -> None:
    talk = Talk().connected()

    talk.hear(m.LeaseLost())
    assert talk.did() == [m.ReleaseHost(), m.ObtainLease()]
    talk.hear(m.LeaseObtained(), m.HostConfigured(), m.Proven())
    assert isinstance(talk.state, m.Connected)


@pytest.mark.parametrize("heard", [4, 5])
def test_a_lease_that_goes_while_it_is_being_set_is_replaced(heard: int) -> None:
    talk = Talk().hear(m.TurnOn(), *OPENING[:heard])
    talk.did()

    talk.hear(m.LeaseLost())

    assert talk.did() == [m.ReleaseHost(), m.ObtainLease()], talk


@pytest.mark.parametrize("heard", [4, 5])
def test_a_lease_that_changes_while_it_is_being_set_is_set_again(heard: int) -> None:
    talk = Talk().hear(m.TurnOn(), *OPENING[:heard])
    talk.did()

    talk.hear(m.LeaseChanged())

    assert talk.did() == [m.ConfigureHost()], talk


def test_news_of_a_lease_before_there_is_one_changes_nothing() -> None:
    talk = Talk().hear(m.TurnOn())
    before = talk.state
    talk.did()

    talk.hear(m.LeaseChanged(), m.LeaseLost(), m.TurnOn(), m.TimerFired(), m.Left())

    assert (talk.state, talk.did()) == (before, [])


def test_reconnecting_by_hand_begins_anew_from_every_state_but_off() -> None:
    talk = Talk().connected()
    talk.hear(m.Heal())
    assert talk.did() == [m.CloseSession(), m.ReleaseHost(), m.OpenSession()]
    talk.hear(m.Heal())
    assert talk.did() == [m.CloseSession(), m.ReleaseHost(), m.OpenSession()]
    talk.hear(m.StepFailed(REFUSED))
    talk.did()
    talk.hear(m.Heal())
    assert talk.did() == [m.OpenSession()]


def test_turning_off_while_waiting_leaves() -> None:
    talk = Talk(Rules(retries=FOREVER)).hear(m.TurnOn(), m.StepFailed(REFUSED))
    talk.did()

    talk.hear(m.TurnOff())

    assert talk.did() == [m.LeaveAndRestore()]


def test_a_failed_tunnel_can_be_turned_on_again() -> None:
    talk = Talk().hear(m.TurnOn(), m.StepFailed(NO_TUN), m.Left())
    talk.did()

    talk.hear(m.TurnOn())

    assert talk.did() == [m.OpenSession()]


_EVENTS = st.sampled_from(
    [
        m.TurnOn(),
        m.TurnOff(),
        m.Heal(),
        m.TimerFired(),
        *OPENING,
        m.LeaseChanged(),
        m.LeaseLost(),
        m.StepFailed(REFUSED),
        m.StepFailed(NO_LEASE),
        m.StepFailed(WRONG_PASSWORD),
        m.SessionLost(RESET),
        m.Left(),
    ]
)


@given(st.lists(st.tuples(_EVENTS, st.floats(0, 10)), max_size=60))
def test_no_order_of_events_leaves_a_session_without_an_end(
    history: list[tuple[m.Event, float]],
) -> None:
    """Every session that is opened is closed or left before the next, and off means left."""
    talk = Talk(Rules(retries=FOREVER))
    now, is_open = 0.0, False
    for event, later in history:
        now += later
        talk.hear(event, at=now)
        for action in talk.did():
            match action:
                case m.OpenSession():
                    assert not is_open, talk
                    is_open = True
                case m.CloseSession() | m.LeaveAndRestore():
                    is_open = False
                case _:
                    pass
        if isinstance(talk.state, m.Down | m.Failed | m.Waiting):
            assert not is_open, talk


def test_the_error_that_ended_the_tunnel_is_kept() -> None:
    talk = Talk(Rules(once=True)).hear(m.TurnOn(), m.StepFailed(RESET), m.Left())

    assert isinstance(talk.state, m.Failed)
    assert isinstance(talk.state.error, SevpnError)
    assert talk.state.error is RESET


@pytest.mark.parametrize(
    "late",
    [
        *OPENING,
        m.LeaseChanged(),
        m.LeaseLost(),
        m.SessionLost(RESET),
        m.StepFailed(RESET),
    ],
)
@pytest.mark.parametrize(
    "heard", [(m.TurnOff(),), (m.TurnOff(), m.Left()), (m.StepFailed(NO_LEASE),)]
)
def test_late_news_of_what_was_given_up_changes_nothing(
    late: m.Event, heard: tuple[m.Event, ...]
) -> None:
    talk = Talk(Rules(retries=FOREVER)).hear(m.TurnOn(), *heard)
    before = talk.state
    talk.did()

    talk.hear(late)

    assert (talk.state, talk.did()) == (before, []), talk


@pytest.mark.parametrize(
    "asked", [m.TurnOff(), m.Heal(), m.TimerFired(), m.Left(), m.Resumed()]
)
def test_a_tunnel_that_is_down_has_nothing_to_end_or_to_heal(asked: m.Event) -> None:
    talk = Talk().hear(asked)

    assert (talk.state, talk.did()) == (m.Down(), []), talk


def test_what_was_asked_for_already_changes_nothing_when_connected() -> None:
    talk = Talk().connected()
    before = talk.state

    talk.hear(m.TurnOn(), m.TimerFired(), m.Left(), *OPENING)

    assert (talk.state, talk.did()) == (before, [])
