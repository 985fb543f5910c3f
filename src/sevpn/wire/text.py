# SPDX-License-Identifier: Apache-2.0
"""Text of a peer, made safe to show.

Layer: wire. Runs in: any thread.

A server chooses its product string, its message of the day and every byte of a
foreign answer. On a terminal or in a log such text may move the cursor, recolour
the screen, forge a line, hide itself or turn the reading direction; so whatever a
peer wrote passes here before anybody shows it. What Unicode does not call
printable is left out: control characters (C0, C1), format characters, with them
those of the reading direction, surrogates, and what is not assigned. Blanks of
any kind become the ordinary one.

Source: docs/reference/protocol.md#text; Unicode UAX #9 and UAX #44.
"""

from __future__ import annotations

import unicodedata

__all__ = ["display_line", "display_text"]


def display_line(text: str | bytes, limit: int = 200) -> str:
    """Return *text* as one line of at most *limit* characters.

    Line ends become blanks, and several blanks one; a text that was cut ends in
    an ellipsis. The result is printable in the sense of `str.isprintable`.

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
    lines = cut.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join("".join(map(_shown, line)) for line in lines)


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    # A blank is a separator of this very line: U+2028 and the like are not.
    return " " if character == "\t" or unicodedata.category(character) == "Zs" else ""
