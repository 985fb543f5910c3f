# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sevpn.wire.text import display_line, display_text


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("plain text", "plain text"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("\x9b2Jcleared", "2Jcleared"),
        ("exe.\u202etxt", "exe.txt"),
        ("\u2066a\u2069\u200f\u061c", "a"),
        ("one\ttwo", "one two"),
        ("one\u2028two", "onetwo"),
        ("no\u00a0break\u3000wide", "no break wide"),
        ("zero\u200bwidth\u00ad\ufeff", "zerowidth"),
        ("tag\U000e0041", "tag"),
        ("\ud800lone", "lone"),
        ("Grüße, 世界", "Grüße, 世界"),
    ],
)
def test_what_steers_a_terminal_is_left_out(sent: str, shown: str) -> None:
    assert display_text(sent) == shown


def test_lines_are_kept_in_a_text_and_joined_in_a_line() -> None:
    assert display_text("one\r\ntwo\rthree\nfour") == "one\ntwo\nthree\nfour"
    assert display_line(" one\r\ntwo\tthree ") == "one two three"


def test_bytes_are_read_as_utf_8_with_replacements() -> None:
    assert display_text(b"gr\xc3\xbc\xffn") == "grü\ufffdn"


def test_a_long_line_ends_in_an_ellipsis() -> None:
    assert display_line("abcdef", 4) == "abc…"
    assert display_line("abcd", 4) == "abcd"


def test_a_long_text_is_cut() -> None:
    assert display_text(b"x" * 70000) == "x" * 65536


@given(st.one_of(st.text(), st.binary()), st.integers(1, 50))
def test_no_line_is_dangerous_or_too_long(sent: str | bytes, limit: int) -> None:
    line = display_line(sent, limit)

    assert len(line) <= limit
    assert line.isprintable()
    assert "\n" in display_text(f"{sent!s}\n")
