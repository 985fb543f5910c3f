# SPDX-License-Identifier: Apache-2.0
"""The results as a page of Markdown. Pure.

promises        each target: the figure with its spread, the limit, the verdict
measures        tables with a column for each candidate, medians
sections        what other programs measured and judged: long paths, roaming …
circumstances   host, versions, forms, who was missing, remarks
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from bench.catalog import CANDIDATES, MEASURES, TARGETS, Target
from bench.figures import Document, Spread, ratios, spread

Verdict = Literal["met", "missed", "not measured"]


@dataclass(frozen=True, slots=True)
class Judged:
    """A target and what became of it."""

    target: Target
    """What is promised."""

    figure: Spread | None
    """What was measured; `None`: nothing."""

    verdict: Verdict
    """Whether the promise is kept: the median decides."""


def judge(document: Document, target: Target) -> Judged:
    """Return what became of one target."""
    ours = document.series(target.measure, target.ours)
    if target.theirs is None:
        figure = spread(ours)
    elif target.measure.startswith("loss/"):
        figure = _more_lost(document, target)
    else:
        figure = spread(ratios(ours, document.series(target.measure, target.theirs)))
    if figure is None:
        return Judged(target, None, "not measured")
    is_met = (
        figure.median >= target.limit
        if target.is_at_least
        else figure.median <= target.limit
    )
    return Judged(target, figure, "met" if is_met else "missed")


def _more_lost(document: Document, target: Target) -> Spread | None:
    """Return by how many points of a hundred more is lost: 0 by 0 is no ratio."""
    assert target.theirs is not None
    pairs = zip(
        document.series(target.measure, target.ours),
        document.series(target.measure, target.theirs),
        strict=False,
    )
    return spread(
        mine - other if mine is not None and other is not None else None
        for mine, other in pairs
    )


def judged(document: Document) -> list[Judged]:
    """Return what became of all targets."""
    return [judge(document, target) for target in TARGETS]


def number(value: float) -> str:
    """Return a figure with three digits that count."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 0.1 or not size:
        return f"{value:.2f}"
    return f"{value:.3g}"


def show(figure: Spread) -> str:
    """Return median and extremes: `2.10 (1.95 to 2.20)`."""
    if figure.count == 1:
        return number(figure.median)
    return f"{number(figure.median)} ({number(figure.low)} to {number(figure.high)})"


# --- the page ----------------------------------------------------------------


def page(document: Document) -> str:
    """Return all of it as Markdown."""
    rounds = document.settings.get("rounds", 0)
    lines = [
        "# Results of the benchmark",
        "",
        f"{document.at}, {rounds:g} rounds; {', '.join(document.host.values())}.",
        "What each row means and what limits it is said in [README.md](../README.md).",
        "",
        "![Throughput and processor time of each candidate](latest.svg)",
        "",
        "## What is promised",
        "",
        "Ratios are medians of the rounds' ratios, with the least and the greatest.",
        "",
        *promises(document),
        "",
        *measures(document),
        *sections(document),
        *circumstances(document),
    ]
    return "\n".join(lines).rstrip() + "\n"


def promises(document: Document) -> list[str]:
    """Return the table of targets."""
    lines = ["| what | figure | promised | |", "| --- | --- | --- | --- |"]
    for item in judged(document):
        target = item.target
        if target.measure not in document.samples:
            continue  # its row was not asked for
        sign = "≥" if target.is_at_least else "≤"
        unit = _unit(target)
        limit = f"{sign} {target.limit:g}{unit}"
        if target.stretch is not None:
            limit += f", wished {sign} {target.stretch:g}{unit}"
        figure = f"{show(item.figure)}{unit}" if item.figure else ""
        verdict = "**missed**" if item.verdict == "missed" else item.verdict
        lines.append(f"| {target.title} | {figure} | {limit} | {verdict} |")
    return lines


def _unit(target: Target) -> str:
    if target.theirs is None:
        return f" {MEASURES[target.measure].unit}"
    return " points" if target.measure.startswith("loss/") else " ×"  # noqa: RUF001 - the sign


_SECTIONS: Final = {
    "Throughput": ("rate/",),
    "Processor time per GB": ("cpu/", "kernel/", "server-cpu/"),
    "What is busy": ("client-thread/", "server-thread/"),
    "Packets": ("pps/", "loss/", "pcpu/", "scpu/", "burst/"),
    "Round trips": ("added/", "rtt/"),
    "Memory, start, idle": ("memory/", "idle/", "start/", "heal/"),
}


def measures(document: Document) -> list[str]:
    """Return a table for each kind of measure: medians, with a line for each one."""
    lines: list[str] = []
    for title, beginnings in _SECTIONS.items():
        keys = [
            key
            for key in MEASURES
            if key.startswith(beginnings) and document.samples.get(key)
        ]
        if not keys:
            continue
        who = [
            key
            for key in CANDIDATES
            if any(key in document.samples[measure] for measure in keys)
        ]
        lines += [f"## {title}", "", *_table(document, keys, who), ""]
    return lines


def _table(document: Document, keys: Sequence[str], who: Sequence[str]) -> list[str]:
    lines = [
        f"| medians | {' | '.join(CANDIDATES[key] for key in who)} |",
        f"| --- |{' --- |' * len(who)}",
    ]
    for key in keys:
        figures = [spread(document.series(key, candidate)) for candidate in who]
        cells = [number(figure.median) if figure else "" for figure in figures]
        measure = MEASURES[key]
        lines.append(f"| {measure.title}, {measure.unit} | {' | '.join(cells)} |")
    return lines


def sections(document: Document) -> list[str]:
    """Return a table of what each program measured and judged by itself."""
    lines: list[str] = []
    for title in dict.fromkeys(line["section"] for line in document.lines):
        lines += [
            f"## {title}",
            "",
            "| what | figure | promised | |",
            "| --- | --- | --- | --- |",
            *(_line(line) for line in document.lines if line["section"] == title),
            "",
        ]
    return lines


def _line(line: Mapping[str, Any]) -> str:
    verdict = "" if not line["target"] else "met" if line["is_met"] else "**missed**"
    figure = f"{number(line['value'])} {line['unit']}"
    return f"| {line['row']} | {figure} | {line['target']} | {verdict} |"


def circumstances(document: Document) -> list[str]:
    """Return what a reader must know beside the figures."""
    lines = ["## Circumstances", ""]
    lines += [f"- {name}: {value}" for name, value in document.host.items()]
    lines += [f"- {name}: {value}" for name, value in document.versions.items()]
    lines += [
        f"- {CANDIDATES.get(key, key)}: {', '.join(f'{name} {value}' for name, value in form.items())}"
        for key, form in document.forms.items()
    ]
    lines += [
        f"- not there: {CANDIDATES.get(key, key)}: {reason}"
        for key, reason in document.missing.items()
    ]
    lines += [f"- {remark}" for remark in document.remarks]
    return lines
