# SPDX-License-Identifier: Apache-2.0
"""The page and the picture: verdicts, tables, SVG that is well-formed."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree as ET

import pytest
from bench.catalog import CANDIDATES, MEASURES, TARGETS, Target
from bench.figures import Document, Spread
from bench.plot import PANELS, draw
from bench.table import judge, judged, number, page, show


def document(samples: dict[str, dict[str, list[float | None]]]) -> Document:
    return Document(
        at="2026-01-01 00:00 UTC",
        host={"processor": "2 cores"},
        settings={"rounds": 3},
        samples=samples,
    )


FAST = document(
    {
        "rate/out/1": {"sevpn": [2.0, 2.2, 2.25], "official": [1.0, 1.0, 1.5]},
        "cpu/out/1": {"sevpn": [1.0, 1.0, 1.2], "official-tuned": [2.0, 2.0, 2.0]},
        "loss/out/64/flood": {"sevpn": [0.0, 1.0, 2.0], "official": [0.0, 3.0, 1.5]},
        "memory/load": {"sevpn": [60.0]},
    }
)


def test_all_targets_are_of_known_measures_and_candidates() -> None:
    for target in TARGETS:
        assert target.measure in MEASURES
        assert target.ours in CANDIDATES
        assert target.theirs is None or target.theirs in CANDIDATES
        assert target.title


def test_no_target_stands_there_twice() -> None:
    names = [(target.measure, target.ours, target.theirs) for target in TARGETS]
    assert len(set(names)) == len(names)


def test_more_throughput_than_promised_is_met() -> None:
    found = judge(FAST, Target("rate/out/1", 1.7, "sevpn", "official"))

    assert found.figure == Spread(2.0, 1.5, 2.2, 3)
    assert found.verdict == "met"


def test_less_throughput_than_promised_is_missed() -> None:
    found = judge(FAST, Target("rate/out/1", 2.5, "sevpn", "official"))
    assert found.verdict == "missed"


def test_less_processor_time_than_promised_is_met() -> None:
    met = judge(FAST, Target("cpu/out/1", 0.5, "sevpn", "official-tuned"))
    missed = judge(FAST, Target("cpu/out/1", 0.4, "sevpn", "official-tuned"))

    assert (met.verdict, missed.verdict) == ("met", "missed")


def test_losses_are_compared_by_their_difference_since_they_may_be_nothing() -> None:
    found = judge(FAST, Target("loss/out/64/flood", 0.0, "sevpn", "official"))

    assert found.figure == Spread(0.0, -2.0, 0.5, 3)
    assert found.verdict == "met"


def test_a_value_itself_is_judged_where_it_is_compared_with_nobody() -> None:
    assert judge(FAST, Target("memory/load", 53)).verdict == "missed"


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    found = judge(FAST, Target("rate/out/1", 1.0, "sevpn", "openvpn"))
    assert (found.figure, found.verdict) == (None, "not measured")


def test_all_targets_are_judged() -> None:
    assert [item.target for item in judged(FAST)] == TARGETS


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"),
        (0.01234, "0.0123"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (-12.34, "-12.3"),
        (12345.6, "12,346"),
    ],
)
def test_a_figure_has_the_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


def test_a_figure_of_several_rounds_shows_their_extremes() -> None:
    assert show(Spread(2.0, 1.5, 2.5, 3)) == "2.00 (1.50 to 2.50)"
    assert show(Spread(2.0, 2.0, 2.0, 1)) == "2.00"


def test_the_page_names_who_is_missing_and_in_which_form_candidates_ran() -> None:
    filled = document(FAST.samples)
    filled.missing["openvpn"] = "no package"
    filled.forms["sevpn"] = {"kernel": "compiled"}
    filled.remarks.append("a remark")

    text = page(filled)

    assert f"- not there: {CANDIDATES['openvpn']}: no package" in text
    assert "- sevpn, compiled: kernel compiled" in text
    assert "- a remark" in text


def test_the_page_shows_missed_promises() -> None:
    text = page(FAST)

    assert (
        "| VmRSS under load: sevpn, compiled | 60.0 MiB | ≤ 53 MiB | **missed** |"
        in text
    )
    assert "≤ 0.65 ×, wished ≤ 0.5 ×" in text  # noqa: RUF001 - the sign


def test_promises_whose_row_did_not_run_are_left_out() -> None:
    assert "heal after a reset" not in page(FAST)


def test_each_line_of_a_table_has_as_many_cells_as_its_head() -> None:
    lines = page(FAST).splitlines()
    for is_table, group in itertools.groupby(lines, lambda line: line.startswith("|")):
        if is_table:
            assert len({line.count("|") for line in group}) == 1


def test_the_page_shows_the_long_paths() -> None:
    filled = document({})
    line = {
        "section": "Long paths",
        "row": "100 ms",
        "value": 0.9,
        "unit": "x",
        "target": ">= 0.8",
        "is_met": True,
    }
    filled.lines = [line, line | {"is_met": False}, line | {"target": ""}]

    text = page(filled)

    assert "| 100 ms | 0.90 x | >= 0.8 | met |" in text
    assert "| 100 ms | 0.90 x | >= 0.8 | **missed** |" in text
    assert "| 100 ms | 0.90 x |  |  |" in text


def test_the_picture_is_well_formed_and_has_a_bar_for_each_series() -> None:
    root = ET.fromstring(draw(FAST))  # noqa: S314 - we made it

    bars = root.findall("{http://www.w3.org/2000/svg}rect")
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(bars) == sum(
        len(FAST.samples[key]) for key in PANELS if key in FAST.samples
    )
    assert all(float(bar.get("width", "")) > 0 for bar in bars)


def test_the_longest_bar_leaves_room_for_its_figure() -> None:
    root = ET.fromstring(draw(FAST))  # noqa: S314 - we made it

    for bar in root.findall("{http://www.w3.org/2000/svg}rect"):
        end = float(bar.get("x", "")) + float(bar.get("width", ""))
        assert end < float(root.get("width", "")) - 50


def test_a_picture_of_nothing_is_well_formed() -> None:
    assert len(ET.fromstring(draw(document({})))) == 1  # noqa: S314 - we made it


def test_zeros_make_bars_of_no_length() -> None:
    zero = document({"rate/out/1": {"sevpn": [0.0, 0.0]}})

    bar = ET.fromstring(draw(zero)).find("{http://www.w3.org/2000/svg}rect")  # noqa: S314 - we made it

    assert bar is not None
    assert bar.get("width") == "0.0"
