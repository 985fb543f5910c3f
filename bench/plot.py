# SPDX-License-Identifier: Apache-2.0
"""The results as a picture: bars in SVG, with nothing but strings. Pure.

Four panels below each other: throughput outbound and inbound with one stream, and
the client's processor time per GB of both. A bar is the median, the thin line over
it reaches from the least round to the greatest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

from bench.catalog import CANDIDATES, MEASURES
from bench.figures import Document, Spread, spread
from bench.table import number

PANELS: Final = ("rate/out/1", "rate/in/1", "cpu/out/1", "cpu/in/1")
"""What is drawn, from the top."""

_WIDTH: Final = 860
_LEFT: Final = 270
_RIGHT: Final = 120
_BAR: Final = 16
_STEP: Final = 24
_HEAD: Final = 46

# The colours stand on a light and on a dark page.
_OURS: Final = "#2f81f7"
_THEIRS: Final = "#8b949e"
_TEXT: Final = "#6e7781"


def draw(document: Document) -> str:
    """Return the picture; a panel without samples is left out."""
    parts: list[str] = []
    top = 8
    for key in PANELS:
        bars = [
            (name, figure)
            for name in CANDIDATES
            if (figure := spread(document.series(key, name))) is not None
        ]
        if bars:
            parts += _panel(key, bars, top)
            top += _HEAD + _STEP * len(bars)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}"',
            f' width="{_WIDTH}" height="{top}" role="img" fill="{_TEXT}"',
            ' font-family="system-ui, sans-serif" font-size="13">',
            "<title>Throughput and processor time of each candidate</title>",
            *parts,
            "</svg>",
            "",
        ]
    )


def _panel(key: str, bars: Sequence[tuple[str, Spread]], top: int) -> list[str]:
    measure = MEASURES[key]
    title = f"{measure.title}, {measure.unit} ({measure.better} is better)"
    parts = [
        f'<text x="0" y="{top + 22}" font-size="15" font-weight="600">{escape(title)}</text>'
    ]
    greatest = max(figure.high for _, figure in bars)
    scale = (_WIDTH - _LEFT - _RIGHT) / greatest if greatest > 0 else 0.0
    for index, (name, figure) in enumerate(bars):
        parts += _bar(name, figure, top + _HEAD - 12 + index * _STEP, scale)
    return parts


def _bar(name: str, figure: Spread, top: int, scale: float) -> list[str]:
    length = figure.median * scale
    low, high = _LEFT + figure.low * scale, _LEFT + figure.high * scale
    middle = top + _BAR / 2
    colour = _OURS if name.startswith("sevpn") else _THEIRS
    parts = [
        f'<text x="{_LEFT - 8}" y="{top + 13}" text-anchor="end">{escape(CANDIDATES[name])}</text>',
        f'<rect x="{_LEFT}" y="{top}" width="{length:.1f}" height="{_BAR}" fill="{colour}"/>',
        f'<text x="{max(_LEFT + length, high) + 8:.1f}" y="{top + 13}">{escape(number(figure.median))}</text>',
    ]
    if figure.count > 1:
        parts.append(
            f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {top + 4}v8M{high:.1f} {top + 4}v8"'
            ' stroke="#d29922" fill="none"/>'
        )
    return parts
