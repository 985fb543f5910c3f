# SPDX-License-Identifier: Apache-2.0
"""The gate: what counts as worse than the stored run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench.figures import Document, Spread
from bench.gate import broken_promises, compare, is_worse, latest, main, missing


def run(*rates: float) -> Document:
    """Return a run in which sevpn was so many times as fast as the official client."""
    return Document(
        samples={
            "rate/out/1": {"sevpn": list(rates), "official": [1.0] * len(rates)},
        }
    )


def test_a_median_below_all_stored_rounds_is_worse() -> None:
    stored, new = Spread(2.0, 1.9, 2.1, 5), Spread(1.5, 1.4, 1.6, 5)
    assert is_worse(stored, new, is_at_least=True)
    assert not is_worse(new, stored, is_at_least=True)


def test_of_a_cost_more_is_worse() -> None:
    stored, new = Spread(0.5, 0.45, 0.55, 5), Spread(0.7, 0.65, 0.75, 5)
    assert is_worse(stored, new, is_at_least=False)
    assert not is_worse(new, stored, is_at_least=False)


@pytest.mark.parametrize("is_at_least", [True, False])
def test_a_median_within_the_spread_of_either_run_is_not_worse(
    is_at_least: bool,
) -> None:
    wide, narrow = Spread(2.0, 1.0, 3.0, 5), Spread(1.2, 1.1, 1.3, 5)

    assert not is_worse(wide, narrow, is_at_least=is_at_least)
    assert not is_worse(narrow, wide, is_at_least=is_at_least)


def test_figures_of_two_rounds_are_not_compared() -> None:
    assert compare(run(2.0, 2.0), run(1.0, 1.0, 1.0)) == []


def test_only_what_both_runs_have_is_compared() -> None:
    compared = compare(run(2.0, 2.1, 2.2), run(1.0, 1.1, 1.2))

    assert [(item.target.theirs, item.is_worse) for item in compared] == [
        ("official", True)
    ]


def long_path(row: str, *, is_met: bool, target: str = ">= 3") -> dict[str, object]:
    return {"row": row, "value": 1.0, "unit": "x", "target": target, "is_met": is_met}


def test_what_the_new_run_does_not_have_is_named() -> None:
    stored, new = run(2.0, 2.1, 2.2), run(2.0)
    stored.lines = [
        long_path("promised", is_met=True),
        long_path("told", is_met=True, target=""),
    ]

    figure, row = missing(stored, new)
    assert "official client" in figure
    assert row == "promised"
    assert missing(new, stored) == []
    assert missing(stored, stored) == []


def test_a_long_path_is_worse_when_its_promise_is_not_kept_any_more() -> None:
    stored, new = run(2.0, 2.1, 2.2), run(2.0, 2.1, 2.2)
    stored.lines = [long_path("a", is_met=True), long_path("b", is_met=False)]
    new.lines = [long_path("a", is_met=False), long_path("b", is_met=False)]

    assert broken_promises(stored, new) == ["a"]
    assert broken_promises(new, stored) == []


def test_the_latest_run_is_the_last_by_date_and_not_the_new_one(tmp_path: Path) -> None:
    for name in ("2026-01-02-x.json", "2026-01-01-x.json", "latest.md"):
        (tmp_path / name).write_text("{}")

    assert latest(tmp_path) == tmp_path / "2026-01-02-x.json"
    assert (
        latest(tmp_path, but=tmp_path / "2026-01-02-x.json")
        == tmp_path / "2026-01-01-x.json"
    )
    assert latest(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("rates", "code"), [((2.0, 2.1, 2.2), 0), ((1.0, 1.1, 1.2), 1), ((1.0,), 2)]
)
def test_the_exit_code_tells(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rates: tuple[float, ...],
    code: int,
) -> None:
    for name, document in {"old": run(2.0, 2.1, 2.2), "new": run(*rates)}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document.to_json()))

    words = [str(tmp_path / "new.json"), "--stored", str(tmp_path / "old.json")]
    assert main(words) == code

    said = capsys.readouterr()
    assert ("WORSE" in said.out) == (code == 1)
    assert ("in common" in said.err) == (code == 2)
