# SPDX-License-Identifier: Apache-2.0
"""From samples to figures: medians, spreads, ratios, percentiles."""

from __future__ import annotations

import json
import math

import pytest
from bench.figures import Document, Spread, percentile, ratios, spread
from hypothesis import given, strategies as st

values = st.lists(
    st.none() | st.floats(min_value=0.001, max_value=1e6), min_size=1, max_size=9
)


def test_a_spread_is_the_median_and_the_extremes() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(median=2.0, low=1.0, high=3.0, count=3)


def test_a_round_without_a_value_does_not_count() -> None:
    assert spread([None, 4.0, math.nan]) == Spread(4.0, 4.0, 4.0, 1)


def test_nothing_measured_is_no_spread() -> None:
    assert spread([None, None]) is None
    assert spread([]) is None


def test_ratios_are_taken_within_a_round() -> None:
    # Of the medians, 2 and 20, the ratio would be 0.1.
    assert ratios([1.0, 2.0, 30.0], [20.0, 10.0, 30.0]) == [0.05, 0.2, 1.0]


def test_a_ratio_to_nothing_is_unknown() -> None:
    assert ratios([1.0, 1.0, None], [0.0, None, 1.0]) == [None, None, None]


def test_rounds_that_only_one_had_are_left_out() -> None:
    assert ratios([1.0, 2.0], [1.0]) == [1.0]


@given(values)
def test_the_median_lies_between_the_extremes(series: list[float | None]) -> None:
    found = spread(series)

    known = [value for value in series if value is not None]
    if found is None:
        assert not known
    else:
        assert found.low <= found.median <= found.high
        assert found.count == len(known)


@given(values)
def test_the_ratio_to_itself_is_one(series: list[float | None]) -> None:
    assert all(ratio in (None, 1.0) for ratio in ratios(series, series))


def test_a_percentile_is_a_value_that_was_measured() -> None:
    hundred = [float(number) for number in range(1, 101)]

    assert percentile(reversed(hundred), 0.5) == 50
    assert percentile(hundred, 0.99) == 99
    assert percentile(hundred, 1.0) == 100
    assert percentile([7.0], 0.0) == 7


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_a_document_comes_back_from_json() -> None:
    document = Document(at="2026-01-01", host={"kernel": "Linux 6.1"})
    document.add("rate/out/1", "sevpn", 2.0)
    document.add("rate/out/1", "sevpn", None)

    again = Document.from_json(json.loads(json.dumps(document.to_json())))

    assert again == document
    assert again.series("rate/out/1", "sevpn") == [2.0, None]
    assert again.series("rate/out/1", "nobody") == []


def test_a_document_of_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="format 99"):
        Document.from_json(Document().to_json() | {"format": 99})


def test_what_was_measured_again_takes_the_place_of_what_there_was() -> None:
    document = Document(
        samples={"heal/own": {"sevpn": [9.0]}, "idle/cpu": {"sevpn": [0.1]}},
        missing={"sevpn": "not compiled", "openvpn": "no package"},
        lines=[{"section": "Long paths", "row": "old"}],
        remarks=["first"],
    )

    document.take(
        Document(
            samples={"heal/own": {"sevpn": [1.0, 1.0]}},
            forms={"sevpn": {"kernel": "compiled"}},
            missing={"wireguard-go": "no package"},
            remarks=["second"],
        )
    )

    assert document.samples == {
        "heal/own": {"sevpn": [1.0, 1.0]},
        "idle/cpu": {"sevpn": [0.1]},
    }
    assert document.missing == {"openvpn": "no package", "wireguard-go": "no package"}
    assert document.lines == [{"section": "Long paths", "row": "old"}]
    assert document.remarks == ["first", "second"]
