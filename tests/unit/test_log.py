# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import enum
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

import pytest
from hypothesis import given, strategies as st

from sevpn.config.secret import PasswordHash, Secret
from sevpn.errors import SilenceError
from sevpn.log import Form, LineFormatter, configure, get_logger

log = get_logger("sevpn.test")


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Thing:
    secret: Secret


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    logger = logging.getLogger("sevpn")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def lines(
    form: Form, event: str = "hello", level: int = logging.DEBUG, /, **facts: object
) -> str:
    stream = io.StringIO()
    configure(stream, level=level, form=form)
    log.info(event, **facts)
    return stream.getvalue()


def test_a_terminal_line_has_time_level_event_and_facts() -> None:
    line = lines(
        Form.TERMINAL,
        "session lost",
        cause=SilenceError("no word for 20 s"),
        retry_in_s=1.0,
    )

    assert re.fullmatch(
        r'\d\d:\d\d:\d\d info session lost cause="no word for 20 s" retry_in_s=1\.0\n',
        line,
    )


def test_a_journal_line_begins_with_its_level() -> None:
    assert (
        lines(Form.JOURNAL, "session lost", hub="OFFICE")
        == "<6>session lost hub=OFFICE\n"
    )


def test_a_json_line_is_one_object() -> None:
    line = json.loads(
        lines(Form.JSON, "session lost", retry_in_s=1.5, routes=["a"], cause=None)
    )

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "info",
        "logger": "sevpn.test",
        "event": "session lost",
        "retry_in_s": 1.5,
        "routes": ["a"],
        "cause": None,
    }


def test_a_fact_with_the_name_of_a_fixed_key_gives_way() -> None:
    line = json.loads(lines(Form.JSON, "hello", event="x", level=3))

    assert (line["event"], line["level"]) == ("hello", "info")
    assert (line["fact_event"], line["fact_level"]) == ("x", 3)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (None, "none"), (True, "yes"), (False, "no"), (7, "7"), (2.0, "2.0"), (0.123456789, "0.123457"), (float("inf"), "inf"),
        ("OFFICE", "OFFICE"), ("", '""'), ("a b", '"a b"'), ('a"b\\', '"a\\"b\\\\"'), ("ハブ", '"ハブ"'),
        ("a\nb\x1b[2J\x9b", '"a\\nb\\x1b[2J\\x9b"'), ("\udcff\u202e", '"\\udcff\\u202e"'),
        (IPv4Address("192.0.2.1"), "192.0.2.1"), (Colour.RED, "red"),
        (b"key", '"<3 bytes>"'), (bytearray(2), '"<2 bytes>"'), (memoryview(b"1234"), '"<4 bytes>"'),
        ([1, "a b"], '1,"a b"'), ((), "none"), (frozenset({1}), "1"), ({"a": 1, 2: "x"}, "a:1,2:x"), ({}, "none"),
        (SilenceError("no word"), '"no word"'), (SilenceError(""), "SilenceError"),
        (OSError(13, "Denied"), '"PermissionError: [Errno 13] Denied"'), (KeyError(), "KeyError"),
        (Secret("hunter2"), "***"), ([Secret("hunter2")], "***"), (PasswordHash(b"x" * 20), "***"),
    ],
)  # fmt: skip
def test_a_fact_is_one_word_or_quoted(value: object, word: str) -> None:
    line = lines(Form.JOURNAL, fact=value)

    assert line == f"<6>hello fact={word}\n"


def test_no_form_shows_a_secret() -> None:
    for form in Form:
        line = lines(
            form,
            a=Secret("hunter2"),
            b={"c": [Secret("hunter2")]},
            d=Thing(Secret("hunter2")),
        )
        assert "hunter2" not in line
        assert "***" in line


def test_long_facts_are_cut() -> None:
    line = json.loads(
        lines(
            Form.JSON,
            text="x" * 5000,
            items=list(range(500)),
            table={str(n): n for n in range(500)},
        )
    )

    assert len(line["text"]) == 1000
    assert line["text"].endswith("…")
    assert len(line["items"]) == len(line["table"]) == 100


def test_what_is_below_the_level_is_not_shown() -> None:
    assert lines(Form.JOURNAL, "hello", logging.WARNING) == ""


def test_each_level_has_its_name_and_number() -> None:
    stream = io.StringIO()
    configure(stream, level=logging.DEBUG, form=Form.JOURNAL)

    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")

    assert stream.getvalue() == "<7>a\n<6>b\n<4>c\n<3>d\n"
    assert log.is_enabled_for(logging.DEBUG)


def test_the_last_configuration_holds() -> None:
    first = io.StringIO()
    configure(first, form=Form.JOURNAL)

    assert lines(Form.JOURNAL) == "<6>hello\n"
    assert first.getvalue() == ""


@pytest.mark.parametrize("form", list(Form))
def test_a_bug_is_logged_with_its_traceback(form: Form) -> None:
    stream = io.StringIO()
    configure(stream, form=form)
    try:
        os.environ["NO_SUCH_VARIABLE"]
    except KeyError:
        log.exception("a task ended", task="pump")

    text = stream.getvalue()
    assert "KeyError: 'NO_SUCH_VARIABLE'" in text
    if form is Form.JOURNAL:
        assert all(line.startswith("<3>") for line in text.splitlines())
    if form is Form.JSON:
        assert "Traceback" in json.loads(text)["traceback"]


def test_a_record_of_the_standard_library_is_shown_too() -> None:
    record = logging.LogRecord(
        "sevpn.x", logging.CRITICAL, "f", 1, "took %d s", (3,), None
    )

    assert LineFormatter(Form.JOURNAL).format(record) == "<3>took 3 s"


@given(
    st.text(),
    st.dictionaries(
        st.from_regex("[a-z_]{1,8}", fullmatch=True), st.text(), max_size=3
    ),
)
def test_no_text_breaks_out_of_its_line(event: str, facts: dict[str, str]) -> None:
    record = logging.LogRecord("sevpn.x", logging.INFO, "f", 1, "%s", (event,), None)
    record.sevpn_facts = facts

    for form in Form:
        line = LineFormatter(form).format(record)
        assert line.isprintable()
    line = LineFormatter(Form.JSON).format(record)
    assert json.loads(line)["event"] == event
