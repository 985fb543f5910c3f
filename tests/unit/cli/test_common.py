# SPDX-License-Identifier: Apache-2.0
"""What all commands share: where their words go, and how much is said."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from sevpn.cli.common import Output, command, fold_common_options, nearest
from sevpn.log import Form


@pytest.fixture(autouse=True)
def _restored_log() -> Iterator[None]:
    logger = logging.getLogger("sevpn")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@click.group()
def group() -> None:
    """Nothing but commands."""


fold_common_options(group)


@command("say")
@click.argument("word")
def say(output: Output, word: str) -> Output:
    output.answer({"word": word}, word)
    output.note("a remark")
    return output


group.add_command(say)


def test_an_answer_is_text_or_an_object() -> None:
    assert CliRunner().invoke(group, ["say", "hello"]).stdout == "hello\n"
    assert (
        CliRunner().invoke(group, ["say", "hello", "--json"]).stdout
        == '{"word": "hello"}\n'
    )


def test_an_answer_without_words_is_no_empty_line() -> None:
    assert CliRunner().invoke(group, ["say", ""]).stdout == ""
    assert CliRunner().invoke(group, ["--json", "say", ""]).stdout == '{"word": ""}\n'


def test_a_remark_is_no_answer() -> None:
    done = CliRunner().invoke(group, ["say", "hello", "--json"])

    assert done.stderr == "a remark\n"
    assert json.loads(done.stdout) == {"word": "hello"}


def test_quiet_leaves_the_answer_and_no_remark() -> None:
    done = CliRunner().invoke(group, ["say", "hello", "--quiet"])

    assert (done.stdout, done.stderr) == ("hello\n", "")


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        (["-v"], {"verbose"}),
        (["--verbose"], {"verbose"}),
        (["--debug"], {"debug"}),
        (["-q"], {"quiet"}),
        (["--json", "-v"], {"as_json", "verbose"}),
        ([], set()),
    ],
)
def test_a_global_option_counts_before_and_behind_the_command(
    flags: list[str], changed: set[str]
) -> None:
    wanted = Output(**dict.fromkeys(changed, True))
    for words in (["say", "x", *flags], [*flags, "say", "x"], ["say", *flags, "x"]):
        done = CliRunner().invoke(group, words, standalone_mode=False)
        assert done.return_value == wanted, words


def test_a_word_behind_two_dashes_is_no_option() -> None:
    done = CliRunner().invoke(group, ["say", "--", "--json"])

    assert done.stdout == "--json\n"


@pytest.mark.parametrize(
    ("output", "level"),
    [
        (Output(), logging.WARNING),
        (Output(verbose=True), logging.INFO),
        (Output(debug=True), logging.DEBUG),
        (Output(debug=True, verbose=True), logging.DEBUG),
        (Output(quiet=True), logging.ERROR),
        (Output(quiet=True, debug=True), logging.ERROR),
    ],
)
def test_the_log_says_as_much_as_is_wanted(output: Output, level: int) -> None:
    output.start_log()

    assert logging.getLogger("sevpn").level == level


@pytest.mark.parametrize(
    ("as_json", "journal", "form"),
    [
        (False, None, Form.TERMINAL),
        (False, "8:1234", Form.JOURNAL),
        (True, None, Form.JSON),
        (True, "8:1234", Form.JSON),
    ],
)
def test_the_log_has_the_form_of_who_reads_it(
    monkeypatch: pytest.MonkeyPatch, as_json: bool, journal: str | None, form: Form
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    if journal is not None:
        monkeypatch.setenv("JOURNAL_STREAM", journal)
    heard = io.StringIO()
    monkeypatch.setattr("sys.stderr", heard)

    Output(as_json=as_json).start_log()
    logging.getLogger("sevpn.test").warning("beware")

    line = heard.getvalue()
    assert line.startswith("<4>") == (form is Form.JOURNAL)
    assert line.startswith("{") == (form is Form.JSON)
    assert "beware" in line


def test_only_a_person_at_a_terminal_is_shown_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    assert Output().is_terminal
    assert not Output(as_json=True).is_terminal

    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert not Output().is_terminal


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("statsu", " (did you mean 'status'?)"),
        ("offic", " (did you mean 'office'?)"),
        ("xyz", ""),
        ("", ""),
    ],
)
def test_the_nearest_word_is_offered_if_one_is_near(word: str, said: str) -> None:
    assert nearest(word, ["status", "up", "office"]) == said
    assert nearest(word, []) == ""
