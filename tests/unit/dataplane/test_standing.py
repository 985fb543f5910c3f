# SPDX-License-Identifier: Apache-2.0
"""When a queue that never empties loses a frame."""

from __future__ import annotations

from itertools import pairwise

from sevpn.dataplane.standing import INTERVAL_S, StandingQueue

STEP_S = 0.001


def drops(queue: StandingQueue, *, start: float, duration_s: float) -> list[float]:
    """Let something wait all the time; return when a frame was dropped."""
    count = round(duration_s / STEP_S)
    times = [start + step * STEP_S for step in range(count)]
    return [now for now in times if queue.waits(now)]


def test_a_burst_loses_nothing() -> None:
    queue = StandingQueue()

    assert drops(queue, start=5.0, duration_s=INTERVAL_S) == []


def test_a_queue_that_empties_in_time_loses_nothing() -> None:
    queue = StandingQueue()
    for start in range(10):
        assert drops(queue, start=float(start), duration_s=0.09) == []
        queue.empty()


def test_a_queue_that_stands_loses_one_frame_and_then_ever_sooner() -> None:
    lost = drops(StandingQueue(), start=5.0, duration_s=2.0)

    assert abs(lost[0] - (5.0 + INTERVAL_S)) < 2 * STEP_S
    pauses = [later - earlier for earlier, later in pairwise(lost)]
    assert len(pauses) > 10
    assert all(later <= earlier + 2 * STEP_S for earlier, later in pairwise(pauses))
    assert pauses[-1] < INTERVAL_S / 3


def test_once_empty_it_loses_nothing_for_a_while() -> None:
    queue = StandingQueue()
    drops(queue, start=5.0, duration_s=2.0)
    queue.empty()

    assert drops(queue, start=7.0, duration_s=INTERVAL_S) == []


def test_a_queue_that_stands_again_soon_is_dealt_with_sooner() -> None:
    queue = StandingQueue()
    first = drops(queue, start=5.0, duration_s=1.0)
    queue.empty()
    again = drops(queue, start=6.2, duration_s=1.0)
    queue.empty()
    long_after = drops(queue, start=60.0, duration_s=1.0)

    assert len(again) > len(first) == len(long_after)
