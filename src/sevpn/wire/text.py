# SPDX-License-Identifier: Apache-2.0
"""Text of a peer, made safe to show.

Layer: wire. Runs in: any thread.

A server chooses its product string, its message of the day and every byte of a
foreign answer. On a terminal or in a log such text may move the cursor, recolour
the screen, forge a line or turn the reading direction; so whatever a peer wrote
passes here before anybody shows it. Left out are control characters (C0, C1),
surrogates, line and paragraph separators, and the characters that steer the
reading direction. Source: docs/reference/protocol.md#text; Unicode UAX #9.
"""

from __future__ import annotations

import unicodedata
from typing import Final

__all__ = ["display_line", "display_text"]

_DIRECTION_MARKS: Final = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_UNSHOWN: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})


def _is_shown(character: str) -> bool:
    return (
        character not in _DIRECTION_MARKS
        and unicodedata.category(character) not in _UNSHOWN
    )


def display_line(text: str | bytes, limit: int = 200) -> str:
    """Return *text* as one line of at most *limit* characters.

    Line ends and tabs become blanks; a text that was cut ends in an ellipsis.

    Args:
        text: Anything; bytes are read as UTF-8, with replacement characters.
        limit: Characters of the result, 1 or more.
    """
    line = " ".join(display_text(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def display_text(text: str | bytes, limit: int = 65536) -> str:
    """Return *text* with its lines kept.

    Args:
        text: Anything; bytes are read as UTF-8, with replacement characters.
        limit: Bytes or characters that are looked at; the rest is cut off.
    """
    cut = text[:limit]
    if isinstance(cut, bytes):
        cut = cut.decode("utf-8", "replace")
    lines = cut.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ").split("\n")
    return "\n".join("".join(filter(_is_shown, line)) for line in lines)
