# SPDX-License-Identifier: Apache-2.0
"""Compare a new run's ratios with the stored ones; by hand, not in the test suite.

    python -m bench.gate NEW.json [--stored OLD.json]

A ratio is worse when it has left what the rounds of both runs scatter over: the new
median is beyond the stored run's worst round, and the stored median beyond the new
run's best. What a program of its own judged has no rounds: a line is worse if it kept
its promise and does so no more. What the new run does not have is named.

Exit code: 0 nothing is worse, 1 something is or is missing, 2 nothing can be compared.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.catalog import Target
from bench.figures import Document, Spread
from bench.table import judged, show

RESULTS: Final = Path(__file__).with_name("results")
"""Where `make bench` stores its runs."""

_ROUNDS: Final = 3  # of fewer nobody knows how they scatter


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure in two runs."""

    target: Target
    """Which figure."""

    stored: Spread
    """As it was."""

    new: Spread
    """As it is."""

    is_worse: bool
    """Whether it is worse by more than the rounds scatter."""


def compare(stored: Document, new: Document) -> list[Compared]:
    """Return the figures that both runs have, each with enough rounds."""
    before = {item.target: item.figure for item in judged(stored)}
    found: list[Compared] = []
    for item in judged(new):
        old, figure = before.get(item.target), item.figure
        if old is None or figure is None or min(old.count, figure.count) < _ROUNDS:
            continue
        worse = is_worse(old, figure, is_at_least=item.target.is_at_least)
        found.append(Compared(item.target, old, figure, worse))
    return found


def missing(stored: Document, new: Document) -> list[str]:
    """Return what the stored run has, with enough rounds, and the new one has not."""
    there = {
        item.target
        for item in judged(new)
        if item.figure is not None and item.figure.count >= _ROUNDS
    }
    names = [
        item.target.title
        for item in judged(stored)
        if item.figure is not None
        and item.figure.count >= _ROUNDS
        and item.target not in there
    ]
    rows = {line["row"] for line in new.lines}
    return names + [row for row in _promised(stored) if row not in rows]


def broken_promises(stored: Document, new: Document) -> list[str]:
    """Return the lines that kept their promise, and do so no more."""
    kept = {row for row, line in _promised(stored).items() if line["is_met"]}
    return [
        row
        for row, line in _promised(new).items()
        if row in kept and not line["is_met"]
    ]


def _promised(document: Document) -> dict[str, dict[str, Any]]:
    return {line["row"]: line for line in document.lines if line["target"]}


def is_worse(stored: Spread, new: Spread, *, is_at_least: bool) -> bool:
    """Whether *new* is worse than *stored*, and each outside of the other's rounds."""
    if is_at_least:
        return new.median < stored.low and stored.median > new.high
    return new.median > stored.high and stored.median < new.low


def latest(results: Path, *, but: Path | None = None) -> Path | None:
    """Return the run that was stored last, by its name, which begins with the date."""
    paths = sorted(results.glob("*.json"))
    if but is not None:
        paths = [path for path in paths if path.resolve() != but.resolve()]
    return paths[-1] if paths else None


def load(path: Path) -> Document:
    """Return a stored run.

    Raises:
        ValueError: It is none.
    """
    return Document.from_json(json.loads(path.read_text()))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gate", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("new", type=Path, help="a run: JSON written by bench.run")
    parser.add_argument(
        "--stored", type=Path, help="what to compare with [the last in bench/results]"
    )
    options = parser.parse_args(words)
    path = options.stored or latest(RESULTS, but=options.new)
    if path is None:
        print("gate: no run is stored", file=sys.stderr)
        return 2
    stored, new = load(path), load(options.new)
    if stored.host != new.host:
        print("gate: the runs are of different machines", file=sys.stderr)
    compared = compare(stored, new)
    if not compared:
        print(
            f"gate: the runs have no figure of {_ROUNDS} rounds or more in common",
            file=sys.stderr,
        )
        return 2
    for item in compared:
        verdict = "WORSE" if item.is_worse else "ok"
        print(
            f"{verdict:6}{item.target.title}: {show(item.stored)} -> {show(item.new)}"
        )
    broken, absent = broken_promises(stored, new), missing(stored, new)
    for row in broken:
        print(f"WORSE {row}: its promise was kept")
    for name in absent:
        print(f"MISSING {name}")
    is_well = not any(item.is_worse for item in compared) and not broken + absent
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
