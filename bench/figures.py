# SPDX-License-Identifier: Apache-2.0
"""From what was measured to figures: medians, spreads, ratios of one round. Pure.

    Document ── samples: {measure: {candidate: [a value for each round]}}
       │
       ├─ spread()   median, least and greatest of the rounds
       └─ ratio()    per round, ours by theirs; then the median of these

A ratio is taken within a round, since the candidates of a round take turns within
seconds: what disturbs the machine disturbs them alike. A value that could not be
measured is `None`, and its round counts for nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

FORMAT: Final = 2
"""Of the stored document; another number is another meaning."""

MISSED: Final = 3
"""Exit code of a program that judges by itself, where a promise is missed; 1 is that of
a crash."""

Series = list[float | None]
"""A value for each round."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What several rounds gave."""

    median: float
    """The figure."""

    low: float
    """The least of the rounds."""

    high: float
    """The greatest."""

    count: int
    """Rounds."""


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of a program that measures and judges by itself."""

    row: str
    """What was measured."""

    value: float
    """The figure."""

    unit: str
    """Its unit."""

    target: str
    """What is promised; empty: nothing, it is there to compare."""

    is_met: bool
    """Whether the promise is kept."""


def at_least(row: str, value: float, unit: str, limit: float) -> Line:
    """Return a line that promises *limit* or more."""
    return Line(row, round(value, 3), unit, f">= {limit:g}", value >= limit)


def at_most(row: str, value: float, unit: str, limit: float) -> Line:
    """Return a line that promises *limit* or less."""
    return Line(row, round(value, 3), unit, f"<= {limit:g}", value <= limit)


def plain(row: str, value: float, unit: str) -> Line:
    """Return a line that is there to compare."""
    return Line(row, round(value, 3), unit, "", True)  # noqa: FBT003 - nothing is promised


@dataclass
class Document:
    """One run of the benchmark, as it is stored."""

    at: str = ""
    """When, UTC."""

    host: dict[str, str] = field(default_factory=dict)
    """What it ran on; nothing that names the machine."""

    versions: dict[str, str] = field(default_factory=dict)
    """Of the programs."""

    settings: dict[str, float] = field(default_factory=dict)
    """Rounds and seconds."""

    forms: dict[str, dict[str, str]] = field(default_factory=dict)
    """What candidates say of themselves: which kernel runs, whether UDP is used."""

    missing: dict[str, str] = field(default_factory=dict)
    """Candidates that could not take part, with the reason."""

    remarks: list[str] = field(default_factory=list)
    """What a reader of the figures must know."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    """What a program of its own measured and judged (`bench_link.py` and others): its
    section, and the fields of :class:`Line`."""

    samples: dict[str, dict[str, Series]] = field(default_factory=dict)
    """By measure and candidate: a value for each round."""

    def add(self, measure: str, candidate: str, value: float | None) -> None:
        """Append the value of the next round."""
        self.samples.setdefault(measure, {}).setdefault(candidate, []).append(value)

    def take(self, later: Document) -> None:
        """Put what was measured later in the place of what there is of it."""
        self.samples |= later.samples
        self.forms |= later.forms
        there = {name for series in later.samples.values() for name in series}
        self.missing = {
            name: reason for name, reason in self.missing.items() if name not in there
        } | later.missing
        sections = {line["section"] for line in later.lines}
        kept = [line for line in self.lines if line["section"] not in sections]
        self.lines = kept + later.lines
        self.remarks += later.remarks

    def series(self, measure: str, candidate: str) -> Series:
        """Return the values of all rounds; empty if it was not measured."""
        return self.samples.get(measure, {}).get(candidate, [])

    def to_json(self) -> dict[str, Any]:
        """Return what `json.dump` takes."""
        return {"format": FORMAT} | {
            name: getattr(self, name) for name in self.__dataclass_fields__
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Document:
        """Return the document that was stored.

        Raises:
            ValueError: It is of another format.
        """
        if value.get("format") != FORMAT:
            raise ValueError(
                f"results of format {value.get('format')!r}; this is format {FORMAT}"
            )
        return cls(**{name: value[name] for name in cls.__dataclass_fields__})


def spread(values: Iterable[float | None]) -> Spread | None:
    """Return the median and the extremes; `None` if nothing was measured."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    return Spread(statistics.median(known), min(known), max(known), len(known))


def ratios(ours: Series, theirs: Series) -> Series:
    """Return ours by theirs, round by round; `None` where one is unknown or theirs is 0."""
    return [
        mine / other if mine is not None and other else None
        for mine, other in zip(ours, theirs, strict=False)
    ]


def percentile(values: Iterable[float], share: float) -> float:
    """Return the least value that at least *share* of all do not exceed (nearest rank).

    Raises:
        ValueError: There are no values.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values, no percentile")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
