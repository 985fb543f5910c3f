# SPDX-License-Identifier: Apache-2.0
"""One direction of an emulated link, on a clock that is a number."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, strategies as st

from sevpn.errors import ConfigError
from sevpn.testing.line import MAX_HELD_SIZE, Line, Run, Train, Way

MEGABIT = 1e6


def single(size: int) -> Train:
    return Train(1, size, size)


@dataclass(frozen=True)
class Arrival:
    at: float
    run: Run[int]


def carry(
    way: Way, offers: list[tuple[float, Train]], *, seed: int = 1
) -> tuple[Line[int], list[Arrival]]:
    """Offer trains at their times, and take what arrives exactly when it does."""
    line: Line[int] = Line(way, seed)
    arrivals: list[Arrival] = []

    def take_until(end: float) -> None:
        while (at := line.next_at()) is not None and at <= end:
            arrivals.extend(Arrival(at, run) for run in line.take(at))

    for number, (now, train) in enumerate(offers):
        take_until(now)
        line.offer(number, train, now)
    take_until(math.inf)
    return line, arrivals


def frames(arrivals: list[Arrival]) -> list[tuple[int, int]]:
    """Return (train, frame) of all that arrived, in order."""
    return [
        (arrival.run.packet, arrival.run.first + index)
        for arrival in arrivals
        for index in range(arrival.run.count)
    ]


def size_of(train: Train, index: int) -> int:
    return train.size if index < train.count - 1 else train.last_size


trains = st.builds(
    lambda count, size, rest: Train(count, size, min(size, rest)),
    st.integers(1, 45),
    st.integers(60, 1514),
    st.integers(60, 1514),
)
offers = st.lists(st.tuples(st.floats(0, 0.02), trains), min_size=1, max_size=25).map(
    lambda steps: [
        (sum(gap for gap, _ in steps[: number + 1]), train)
        for number, (_, train) in enumerate(steps)
    ]
)
small_s = st.floats(0, 0.2)
chance = st.sampled_from([0.0, 0.0, 0.05, 0.5, 1.0])
ways = st.builds(
    Way,
    delay_s=small_s,
    jitter_s=small_s,
    loss=chance,
    reorder=chance,
    reorder_s=small_s,
    rate_bits_per_s=st.none() | st.floats(1e5, 1e9),
    queue_size=st.none() | st.integers(0, 100_000),
    queue_s=st.none() | small_s,
    mtu=st.none() | st.integers(100, 1500),
)


# --- laws ----------------------------------------------------------------------


@given(ways, offers, st.integers(0, 9))
def test_nothing_is_invented_and_every_frame_is_accounted_for(
    way: Way, offers: list[tuple[float, Train]], seed: int
) -> None:
    line, arrivals = carry(way, offers, seed=seed)

    came = frames(arrivals)
    assert len(came) == len(set(came))
    assert set(came) <= {
        (number, index)
        for number, (_, train) in enumerate(offers)
        for index in range(train.count)
    }
    counts = line.counts
    assert counts.offered == sum(train.count for _, train in offers)
    assert counts.taken == len(came)
    assert counts.offered == (
        counts.taken + counts.lost + counts.dropped + counts.too_long
    )


@given(ways, offers)
def test_order_is_kept_unless_reordering_is_asked_for(
    way: Way, offers: list[tuple[float, Train]]
) -> None:
    _, arrivals = carry(replace(way, reorder=0.0), offers)

    assert frames(arrivals) == sorted(frames(arrivals))


@given(ways, offers)
def test_nothing_arrives_before_its_delay_has_passed(
    way: Way, offers: list[tuple[float, Train]]
) -> None:
    _, arrivals = carry(way, offers)

    for arrival in arrivals:
        assert arrival.at >= offers[arrival.run.packet][0] + way.delay_s


@given(ways, offers, st.floats(1e5, 1e9))
def test_the_rate_is_never_exceeded(
    way: Way, offers: list[tuple[float, Train]], rate: float
) -> None:
    way = replace(way, jitter_s=0.0, reorder=0.0, rate_bits_per_s=rate)
    _, arrivals = carry(way, offers)

    sizes = [
        sum(
            size_of(offers[arrival.run.packet][1], arrival.run.first + index)
            for index in range(arrival.run.count)
        )
        for arrival in arrivals
    ]
    for begin in range(len(arrivals) - 1):
        time_s = arrivals[-1].at - arrivals[begin].at
        assert sum(sizes[begin + 1 :]) * 8 <= rate * (time_s + 1e-9)


@given(ways, offers)
def test_without_loss_nothing_is_lost_below_the_queue_limit(
    way: Way, offers: list[tuple[float, Train]]
) -> None:
    plain = replace(way, loss=0.0, queue_size=None, queue_s=None, mtu=None)
    _, arrivals = carry(plain, offers)

    assert len(frames(arrivals)) == sum(train.count for _, train in offers)


@given(offers, st.floats(1e5, 1e8), st.integers(0, 100_000))
def test_what_waits_is_never_over_the_queue_limit(
    offers: list[tuple[float, Train]], rate: float, queue_size: int
) -> None:
    way = Way(rate_bits_per_s=rate, queue_size=queue_size)
    _, arrivals = carry(way, offers)

    longest = max(queue_size, 1514) * 8 / rate
    for arrival in arrivals:
        assert arrival.at - offers[arrival.run.packet][0] <= longest + 1e-9


@given(ways, offers, st.integers(0, 9))
def test_the_same_seed_gives_the_same_fate(
    way: Way, offers: list[tuple[float, Train]], seed: int
) -> None:
    assert carry(way, offers, seed=seed)[1] == carry(way, offers, seed=seed)[1]


@given(ways, offers)
def test_a_train_meets_the_fate_of_single_frames(
    way: Way, offers: list[tuple[float, Train]]
) -> None:
    way = replace(way, jitter_s=0.0)  # which a train draws once
    singles = [
        (now, single(size_of(train, index)))
        for now, train in offers
        for index in range(train.count)
    ]
    names = [
        (number, index)
        for number, (_, train) in enumerate(offers)
        for index in range(train.count)
    ]

    together, apart = carry(way, offers), carry(way, singles)

    assert together[0].counts == apart[0].counts
    assert set(frames(together[1])) == {
        names[arrival.run.packet] for arrival in apart[1]
    }


# --- examples --------------------------------------------------------------------


def test_a_frame_leaves_when_its_last_byte_has_and_arrives_a_delay_later() -> None:
    way = Way(delay_s=0.05, rate_bits_per_s=MEGABIT)

    _, arrivals = carry(way, [(1.0, single(1250)), (1.0, single(2500))])

    assert [arrival.at for arrival in arrivals] == pytest.approx([1.06, 1.08])


def test_jitter_is_between_nothing_and_its_limit() -> None:
    way = Way(delay_s=0.1, jitter_s=0.05)

    _, arrivals = carry(way, [(float(second), single(100)) for second in range(300)])

    late = [arrival.at - arrival.run.packet - 0.1 for arrival in arrivals]
    assert min(late) < 0.005
    assert max(late) > 0.045
    assert all(-1e-9 <= time_s <= 0.05 + 1e-9 for time_s in late)


def test_loss_is_about_what_was_asked_for_and_cuts_trains() -> None:
    line, arrivals = carry(Way(loss=0.1), [(0.0, Train(40, 1514, 700))] * 100)

    assert 300 < line.counts.lost < 500
    assert len(arrivals) > 300
    assert line.counts.taken == 4000 - line.counts.lost


def test_a_frame_that_is_held_back_is_overtaken_by_its_neighbours() -> None:
    line, arrivals = carry(
        Way(reorder=0.2, reorder_s=0.5), [(0.0, Train(10, 1514, 1514))], seed=4
    )

    came = [index for _, index in frames(arrivals)]
    assert sorted(came) == list(range(10))
    late = came[-line.counts.held_back :]
    assert 0 < len(late) < 10
    assert came[: -len(late)] == sorted(set(range(10)) - set(late))
    assert arrivals[-1].at == pytest.approx(0.5)


def test_a_full_queue_drops_the_tail_of_a_train() -> None:
    way = Way(rate_bits_per_s=MEGABIT, queue_size=5000)

    line, arrivals = carry(way, [(0.0, Train(8, 1000, 1000))])

    assert frames(arrivals) == [(0, index) for index in range(5)]
    assert line.counts.dropped == 3


def test_a_queue_may_be_limited_by_time() -> None:
    way = Way(rate_bits_per_s=MEGABIT, queue_s=0.0205)

    # A kilobyte takes 8 ms: the fourth would wait for 24.
    line, arrivals = carry(way, [(0.0, Train(8, 1000, 1000))])

    assert frames(arrivals) == [(0, index) for index in range(3)]
    assert line.counts.dropped == 5


def test_an_empty_queue_takes_a_frame_of_any_size() -> None:
    way = Way(rate_bits_per_s=MEGABIT, queue_size=100)

    line, _ = carry(way, [(0.0, single(1514)), (1.0, single(1514))])

    assert line.counts.taken == 2


def test_a_packet_over_the_mtu_is_dropped_and_the_last_of_a_train_may_pass() -> None:
    _, arrivals = carry(
        Way(mtu=1400), [(0.0, Train(3, 1415, 500)), (0.0, Train(3, 1414, 500))]
    )

    assert frames(arrivals) == [(0, 2), (1, 0), (1, 1), (1, 2)]


def test_what_is_lost_has_used_the_wire() -> None:
    way = Way(rate_bits_per_s=MEGABIT, loss=0.5)

    line, arrivals = carry(way, [(0.0, single(1250))] * 40)

    assert 0 < line.counts.lost < 40
    assert arrivals[-1].at == pytest.approx(0.01 * (arrivals[-1].run.packet + 1))


def test_memory_is_bounded_whatever_the_queue_is() -> None:
    line: Line[int] = Line(Way(delay_s=1e6), seed=1)
    count = MAX_HELD_SIZE // 65_550 + 3
    for number in range(count):
        line.offer(number, single(65_550), 0.0)

    assert line.counts.dropped == 3
    line.take(1e6)
    line.offer(0, single(65_550), 1e6)
    assert line.counts.dropped == 3


def test_lateness_is_the_takers_and_the_worst_counts() -> None:
    line: Line[str] = Line(Way(delay_s=1.0), seed=1)
    for second in (0.0, 1.0, 2.0):
        line.offer("a frame", single(100), second)

    for now in (1.0, 2.25, 3.125):
        line.take(now)

    assert line.counts.late_s == 0.25


def test_a_change_counts_from_the_next_frame_on_and_keeps_the_order() -> None:
    line: Line[str] = Line(Way(delay_s=1.0), seed=1)
    line.offer("slow", single(100), 0.0)
    line.way = Way(delay_s=0.1)
    line.offer("fast", single(100), 0.1)

    assert line.take(0.9) == []
    assert [run.packet for run in line.take(1.0)] == ["slow", "fast"]
    assert line.next_at() is None


@pytest.mark.parametrize(
    "values",
    [
        {"delay_s": -0.1},
        {"jitter_s": math.inf},
        {"reorder_s": math.nan},
        {"queue_size": -1},
        {"queue_s": -1.0},
        {"loss": 1.01},
        {"reorder": -0.01},
        {"rate_bits_per_s": 0},
        {"mtu": 0},
    ],
)
def test_a_value_that_cannot_be_is_named(values: dict[str, float]) -> None:
    (name,) = values
    with pytest.raises(ConfigError, match=f"{name} .* of a link"):
        Way(**values)  # type: ignore[arg-type]  # one of them by its name
