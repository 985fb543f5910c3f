# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from sevpn.errors import (
    CertificateError,
    ConnectionLostError,
    Failure,
    LocalProtocolError,
    SevpnError,
    SilenceError,
)
from sevpn.protocol.codes import error_from_code
from sevpn.protocol.joining import Direction
from sevpn.protocol.messages import SessionOptions, Welcome
from sevpn.transport.stream import SecureStream
from sevpn.tunnel.connections import (
    ConnectionKeeper,
    ConnectionPlan,
    KeeperListener,
    connections_to_open,
    session_options,
)
from sevpn.tunnel.opening import OpenedConnection

LOST = ConnectionLostError("the connection ended: reset")
OTHER_CERTIFICATE = CertificateError("another", sha256="ab" * 32, reason="pin")
BOTH, TO_CLIENT, TO_SERVER = Direction


def refusal(code: int) -> SevpnError:
    return error_from_code(code, hub="OFFICE", user="alice", host="vpn.example")


def welcome(**granted: Any) -> Welcome:
    return Welcome(
        session_name="SID-ALICE-1",
        connection_name="CID-1",
        session_key=b"k" * 20,
        **granted,
    )


# --- what is asked for ---------------------------------------------------------


@pytest.mark.parametrize(
    ("connections", "is_half", "asked", "qos"),
    [
        (1, False, 1, False),
        (2, False, 2, True),
        (8, False, 8, True),
        (1, True, 2, False),
        (3, True, 3, False),
        (4, True, 4, True),
        (32, True, 32, True),
    ],
)
def test_a_login_asks_for_what_servers_grant_without_adding_connections(
    connections: int, is_half: bool, asked: int, qos: bool
) -> None:
    options = session_options(connections, is_half_duplex=is_half)

    assert options == SessionOptions(
        max_connections=asked, half_connection=is_half, qos=qos
    )
    assert asked >= (2 if qos else 1) * (2 if is_half else 1)


@pytest.mark.parametrize(
    ("connections", "is_half", "asked"),
    [(1, False, 2), (8, False, 9), (32, False, 32), (1, True, 4), (8, True, 10)],
)
def test_a_session_to_be_taken_up_again_has_room_beside_all_its_dead_connections(
    connections: int, is_half: bool, asked: int
) -> None:
    options = session_options(connections, is_half_duplex=is_half, can_resume=True)

    assert options.max_connections == asked


@pytest.mark.parametrize(
    ("connections", "granted", "is_half", "opened"),
    [(1, 8, False, 1), (8, 8, False, 8), (8, 3, False, 3), (1, 2, True, 2)],
)
def test_no_more_are_opened_than_wanted_and_granted(
    connections: int, granted: int, is_half: bool, opened: int
) -> None:
    answered = welcome(max_connections=granted, half_connection=is_half)

    assert connections_to_open(connections, answered) == opened


# --- the plan ------------------------------------------------------------------


def a_plan(wanted: int = 4, first: Direction = BOTH) -> ConnectionPlan:
    return ConnectionPlan(wanted=wanted, first=first, timeout_s=20.0, now=100.0)


def grown(wanted: int = 4) -> ConnectionPlan:
    """A plan whose connections 1 to *wanted* opened long ago."""
    plan = a_plan(wanted)
    for number in range(2, wanted + 1):
        plan.opened(number, BOTH, 100.0)
    return plan


def test_connections_open_one_after_another_until_there_are_enough() -> None:
    plan = a_plan(3)

    assert plan.next_attempt_at == 100.0
    plan.opened(2, BOTH, 100.5)
    assert plan.next_attempt_at == 100.7
    plan.opened(3, BOTH, 101.0)
    assert plan.next_attempt_at == math.inf


def test_failures_are_repeated_ever_more_slowly_until_one_succeeds() -> None:
    plan = a_plan()
    delays: list[float] = []
    for _ in range(7):
        assert plan.failed(SilenceError("silence"), 100.0) is None
        delays.append(plan.next_attempt_at - 100.0)

    assert delays == [1, 2, 4, 8, 16, 30, 30]
    plan.opened(2, BOTH, 200.0)
    plan.failed(LOST, 200.0)
    assert plan.next_attempt_at == 201.0


@pytest.mark.parametrize("code", [13, 14])
def test_a_session_that_the_server_does_not_know_is_given_up(code: int) -> None:
    error = refusal(code)

    assert a_plan().failed(error, 100.0) is error
    assert error.failure is Failure.TEMPORARY


def test_another_certificate_ends_the_session() -> None:
    assert a_plan().failed(OTHER_CERTIFICATE, 100.0) is OTHER_CERTIFICATE


def test_a_full_session_is_not_added_to_until_there_is_room() -> None:
    plan = a_plan(4)
    plan.opened(2, BOTH, 100.0)

    assert plan.failed(refusal(15), 100.0) is None
    assert plan.next_attempt_at == 120.0
    plan.lost(2, 110.0)
    assert plan.next_attempt_at == 111.0


def test_a_session_full_of_dead_connections_is_added_to_once_they_are_forgotten() -> (
    None
):
    plan = a_plan(4)

    plan.failed(refusal(15), 100.0)
    assert plan.next_attempt_at == 120.0
    plan.failed(refusal(15), 120.0)
    assert plan.next_attempt_at == 140.0
    plan.opened(2, BOTH, 140.0)
    assert plan.next_attempt_at == 140.2


def test_another_refusal_is_repeated() -> None:
    plan = a_plan()

    assert plan.failed(refusal(10), 100.0) is None
    assert plan.next_attempt_at == 101.0


def test_a_lost_connection_is_replaced_after_a_moment() -> None:
    plan = grown(4)

    assert plan.lost(1, 200.0) is None
    assert plan.next_attempt_at == 201.0
    plan.opened(5, BOTH, 201.1)
    assert plan.next_attempt_at == math.inf


def test_an_unknown_connection_is_no_loss() -> None:
    plan = grown(2)

    assert plan.lost(9, 200.0) is None
    assert plan.next_attempt_at == math.inf


def test_losses_one_after_another_are_replaced_each() -> None:
    plan = grown(2)
    number = 2
    for turn in range(10):
        assert plan.lost(number, 200.0 + 60 * turn) is None
        number += 1
        plan.opened(number, BOTH, 201.0 + 60 * turn)


def test_a_session_whose_old_connections_all_end_within_a_second_is_given_up() -> None:
    plan = grown(3)

    assert plan.lost(3, 200.0) is None
    plan.opened(4, BOTH, 200.3)
    assert plan.lost(2, 200.4) is None
    reason = plan.lost(1, 200.9)

    assert reason is not None
    assert "within a second" in str(reason)
    assert reason.failure is Failure.TEMPORARY


def test_a_session_of_which_one_old_connection_is_left_lives() -> None:
    plan = grown(4)

    assert [plan.lost(number, 200.0) for number in (2, 3, 4)] == [None] * 3


def test_a_session_whose_new_connections_end_at_once_is_given_up() -> None:
    plan = a_plan(2)
    now, delays = 100.0, []
    for number in (2, 3):
        plan.opened(number, BOTH, now)
        assert plan.lost(number, now + 0.1) is None
        delays.append(plan.next_attempt_at - now - 0.1)
        now = plan.next_attempt_at
    plan.opened(4, BOTH, now)
    assert not plan.is_futile

    reason = plan.lost(4, now + 0.1)

    assert delays == [pytest.approx(2), pytest.approx(4)]
    assert reason is not None
    assert "as soon as they had joined" in str(reason)
    assert plan.is_futile


def test_an_added_connection_that_lives_shows_that_adding_is_not_in_vain() -> None:
    plan = a_plan(32)
    now = 100.0
    for number in range(2, 20, 2):
        plan.opened(number, BOTH, now)
        assert plan.lost(number, now + 0.1) is None
        plan.opened(number + 1, BOTH, now + 0.3)
        now += 2.0


def test_connections_that_end_at_once_now_and_then_are_replaced_each() -> None:
    plan = a_plan(2)
    now = 100.0
    for number in range(2, 12):
        plan.opened(number, BOTH, now)
        assert plan.lost(number, now + 0.1) is None
        now += 40.0


def test_the_last_connection_must_leave_a_way_in_both_directions() -> None:
    plan = a_plan(3, TO_SERVER)

    assert plan.fits(TO_SERVER)
    plan.opened(2, TO_SERVER, 100.0)
    assert not plan.fits(TO_SERVER)
    assert plan.fits(TO_CLIENT)
    assert plan.fits(BOTH)
    plan.failed(None, 100.0)
    assert plan.next_attempt_at == 101.0


def test_without_the_first_one_a_way_to_the_server_is_needed() -> None:
    plan = a_plan(2, TO_SERVER)
    plan.opened(2, TO_CLIENT, 100.0)
    plan.lost(1, 200.0)

    assert not plan.fits(TO_CLIENT)
    assert plan.fits(TO_SERVER)


Happening = Callable[[ConnectionPlan, int, float], object]

HAPPENINGS: dict[str, Happening] = {
    "opened": lambda plan, number, now: plan.opened(number, BOTH, now),
    "failed": lambda plan, _, now: plan.failed(LOST, now),
    "full": lambda plan, _, now: plan.failed(refusal(15), now),
    "lost": lambda plan, number, now: plan.lost(number // 2, now),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(HAPPENINGS)), st.floats(0, 40))))
def test_whatever_happens_the_next_attempt_is_at_most_30_s_away_or_never(
    story: list[tuple[str, float]],
) -> None:
    plan, now = a_plan(3), 100.0
    for number, (name, passed_s) in enumerate(story, start=2):
        now += passed_s
        HAPPENINGS[name](plan, number, now)

        assert plan.next_attempt_at <= now + 30 or plan.next_attempt_at == math.inf


# --- the keeper ----------------------------------------------------------------


@dataclass
class Stream:
    """A connection that only remembers how it was closed."""

    was_polite: bool | None = None

    def close(self, polite: bool) -> None:
        self.was_polite = polite


@dataclass
class Sink:
    """A pump that only counts."""

    taken: list[dict[str, Any]] = field(default_factory=list)
    has_session: bool = True

    def add(self, stream: SecureStream, **how: Any) -> int:
        if not self.has_session:
            raise LocalProtocolError("no session")
        self.taken.append({"stream": stream, **how})
        return len(self.taken) + 1


class Kept:
    """A keeper between a server and a pump that do as they are told.

    The clock stands unless a test moves it, so that what is due later never comes.
    """

    def __init__(
        self,
        *outcomes: Direction | BaseException,
        wanted: int = 4,
        first: Direction = BOTH,
    ) -> None:
        self.outcomes = list(outcomes)
        self.streams: list[Stream] = []
        self.sink = Sink()
        self.told: list[tuple[Any, ...]] = []
        self.now = 100.0
        self.keeper = ConnectionKeeper(
            wanted=wanted,
            first=first,
            timeout_s=20.0,
            open_one=self._open,
            sink=self.sink,
            listener=KeeperListener(
                opened=lambda number, way: self.told.append(("opened", number, way)),
                failed=lambda error: self.told.append(("failed", error)),
                lost=lambda number, error: self.told.append(("lost", number, error)),
                given_up=lambda error: self.told.append(("given up", error)),
            ),
            clock=lambda: self.now,
        )

    async def _open(self) -> OpenedConnection:
        await asyncio.sleep(0)
        if not self.outcomes:
            await asyncio.Event().wait()
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        self.streams.append(Stream())
        return OpenedConnection(
            cast("SecureStream", self.streams[-1]), outcome, b"more"
        )

    async def settle(self) -> None:
        """Let everything happen that is due now."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def go_on(self, seconds: float) -> None:
        """Let time pass: the keeper looks at the clock when there is news."""
        self.now += seconds
        self.keeper._news.set()
        await self.settle()


def asynchronous(
    function: Callable[[], Coroutine[Any, Any, None]],
) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(function())

    run.__name__ = function.__name__
    return run


@asynchronous
async def test_connections_are_given_to_the_pump_until_there_are_enough() -> None:
    kept = Kept(BOTH, BOTH, BOTH, BOTH, wanted=3)
    kept.keeper.start()
    await kept.settle()
    assert len(kept.sink.taken) == 1

    await kept.go_on(0.3)
    await kept.go_on(0.3)

    assert kept.told == [("opened", 2, BOTH), ("opened", 3, BOTH)]
    assert kept.sink.taken[0] == {
        "stream": kept.streams[0],
        "leftover": b"more",
        "may_send": True,
        "may_receive": True,
    }
    kept.keeper.close()


@asynchronous
async def test_directions_say_who_may_send() -> None:
    kept = Kept(TO_CLIENT, TO_SERVER, wanted=3, first=TO_SERVER)
    kept.keeper.start()
    await kept.keeper.wait_until_both_ways(5)
    await kept.go_on(0.3)

    ways = [(one["may_send"], one["may_receive"]) for one in kept.sink.taken]
    assert ways == [(False, True), (True, False)]
    kept.keeper.close()


@asynchronous
async def test_a_connection_that_does_not_fit_is_closed_and_asked_for_again() -> None:
    kept = Kept(TO_SERVER, TO_CLIENT, wanted=2, first=TO_SERVER)
    kept.keeper.start()
    await kept.settle()

    assert kept.streams[0].was_polite is True
    assert kept.sink.taken == []
    await kept.go_on(1.0)
    assert kept.told == [("opened", 2, TO_CLIENT)]
    kept.keeper.close()


@asynchronous
async def test_a_failure_is_told_and_repeated() -> None:
    kept = Kept(LOST, BOTH, wanted=2)
    kept.keeper.start()
    await kept.settle()
    assert kept.told == [("failed", LOST)]

    await kept.go_on(1.0)

    assert kept.told[1:] == [("opened", 2, BOTH)]
    kept.keeper.close()


@asynchronous
async def test_a_session_that_is_over_is_given_up_once() -> None:
    error = refusal(13)
    kept = Kept(error, BOTH)
    kept.keeper.start()
    await kept.go_on(5.0)

    assert kept.told == [("given up", error)]
    kept.keeper.lost(1, LOST)
    assert kept.told == [("given up", error)]


@asynchronous
async def test_a_lost_connection_is_told_and_replaced() -> None:
    kept = Kept(BOTH, BOTH, wanted=2)
    kept.keeper.start()
    await kept.settle()
    await kept.go_on(60.0)
    kept.keeper.lost(2, LOST)
    await kept.settle()
    assert kept.told == [("opened", 2, BOTH), ("lost", 2, LOST)]

    await kept.go_on(1.0)

    assert kept.told[2:] == [("opened", 3, BOTH)]
    kept.keeper.close()


@asynchronous
async def test_a_session_that_dies_of_one_end_is_given_up_while_another_is_opened() -> (
    None
):
    kept = Kept(BOTH, wanted=3)
    kept.keeper.start()
    await kept.go_on(60.0)
    kept.keeper.lost(1, LOST)
    kept.keeper.lost(2, LOST)
    await kept.settle()

    assert [one[0] for one in kept.told] == ["opened", "lost", "lost", "given up"]


@asynchronous
async def test_a_pump_without_a_session_ends_the_keeper_in_silence() -> None:
    kept = Kept(BOTH)
    kept.sink.has_session = False
    kept.keeper.start()
    await kept.settle()

    assert kept.told == []
    assert kept.streams[0].was_polite is True
    assert len(asyncio.all_tasks()) == 1


@asynchronous
async def test_a_bug_gives_the_session_up() -> None:
    kept = Kept(RuntimeError("oops"))
    kept.keeper.start()
    await kept.settle()

    ((what, error),) = kept.told
    assert (what, error.failure) == ("given up", Failure.BUG)
    assert "oops" in str(error)


@asynchronous
async def test_a_closed_keeper_opens_nothing_and_tells_nothing() -> None:
    kept = Kept(BOTH, BOTH)
    kept.keeper.close()
    kept.keeper.start()
    await kept.settle()
    assert kept.sink.taken == []

    kept.keeper.close()
    kept.keeper.lost(1, LOST)
    await kept.settle()
    assert kept.told == []


@asynchronous
async def test_half_duplex_without_a_way_back_is_told_in_time() -> None:
    kept = Kept(wanted=2, first=TO_SERVER)
    kept.keeper.start()

    with pytest.raises(SilenceError, match="half duplex needs one"):
        await kept.keeper.wait_until_both_ways(0.01)
    kept.keeper.close()
