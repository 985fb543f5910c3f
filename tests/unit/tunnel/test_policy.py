# SPDX-License-Identifier: Apache-2.0
"""The failure table, row by row."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sevpn.errors import Failure
from sevpn.tunnel.policy import FOREVER, PATIENCE_S, End, Retry, Rules, Run, decide

FIRST = Run(started_at=0.0, failures=1)
AFTER_PROOF = Run(started_at=0.0, proven=True, failures=1)


def after(
    failure: Failure, run: Run, rules: Rules | None = None, *, now: float = 1.0
) -> Retry | End:
    return decide(failure, run, rules or Rules(), now=now, jitter=0.0)


@pytest.mark.parametrize(
    ("failure", "before", "later"),
    [
        (Failure.SECRET, End(), Retry(0.0)),
        (Failure.CONFIG, End(), End()),
        (Failure.REFUSED, End(), End()),
        (Failure.TEMPORARY, Retry(5.0), Retry(0.0)),
        (Failure.UNREACHABLE, End(), Retry(0.0)),
        (Failure.PEER, End(), Retry(0.0)),
        (Failure.UNTRUSTED, End(), Retry(0.0)),
        (Failure.HOST, End(), End()),
        (Failure.BUG, End(), End()),
    ],
)
def test_the_table(failure: Failure, before: Retry | End, later: Retry | End) -> None:
    assert after(failure, FIRST) == before
    assert after(failure, AFTER_PROOF) == later


def test_a_temporary_failure_is_retried_for_a_minute() -> None:
    assert after(Failure.TEMPORARY, FIRST, now=PATIENCE_S - 0.1) == Retry(5.0)
    assert after(Failure.TEMPORARY, FIRST, now=PATIENCE_S) == End()


def test_a_secret_that_worked_is_tried_three_times() -> None:
    run = Run(started_at=0.0, proven=True)
    answers = []
    for _ in range(3):
        run = run.failed(Failure.SECRET)
        answers.append(after(Failure.SECRET, run))

    assert answers == [Retry(0.0), Retry(5.0), End()]


def test_a_wrong_secret_is_tried_once_even_with_retries_forever() -> None:
    assert after(Failure.SECRET, FIRST, Rules(retries=FOREVER)) == End()


def test_retries_make_an_unreachable_server_worth_waiting_for() -> None:
    rules = Rules(retries=2)

    assert after(Failure.UNREACHABLE, Run(0.0, failures=2), rules) == Retry(10.0)
    assert after(Failure.UNREACHABLE, Run(0.0, failures=3), rules) == End()
    assert after(
        Failure.UNREACHABLE, Run(0.0, failures=999), Rules(retries=FOREVER)
    ) == Retry(60.0)


def test_once_ends_at_the_first_failure_before_a_proof_of_any_kind() -> None:
    for failure in Failure:
        assert after(failure, FIRST, Rules(once=True)) == End()


def test_neither_once_nor_retries_limit_a_tunnel_that_was_proven() -> None:
    run = Run(0.0, proven=True, failures=99)

    for rules in (Rules(once=True), Rules(retries=2)):
        assert after(Failure.UNREACHABLE, run, rules) == Retry(60.0)


def test_a_given_delay_also_holds_for_the_first_retry_after_a_proof() -> None:
    assert after(Failure.TEMPORARY, AFTER_PROOF, Rules(delay_s=2.0)) == Retry(2.0)


def test_the_delay_doubles_up_to_the_maximum() -> None:
    delays = [
        after(Failure.TEMPORARY, Run(0.0, failures=n), Rules(retries=FOREVER))
        for n in (1, 2, 3, 4, 5, 6)
    ]

    assert delays == [
        Retry(5.0),
        Retry(10.0),
        Retry(20.0),
        Retry(40.0),
        Retry(60.0),
        Retry(60.0),
    ]


@given(st.integers(1, 10_000), st.floats(-1, 1), st.booleans())
def test_jitter_stays_within_a_fifth(
    failures: int, jitter: float, proven: bool
) -> None:
    run = Run(0.0, proven=proven, failures=failures)
    rules = Rules(retries=FOREVER)
    plain = decide(Failure.TEMPORARY, run, rules, now=0.0, jitter=0.0)
    jittered = decide(Failure.TEMPORARY, run, rules, now=0.0, jitter=jitter)

    assert isinstance(plain, Retry)
    assert isinstance(jittered, Retry)
    assert 0.8 * plain.delay_s - 1e-9 <= jittered.delay_s <= 1.2 * plain.delay_s + 1e-9
