# SPDX-License-Identifier: Apache-2.0
"""The command line finds its commands, and turns every ending into a code."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from sevpn.cli import main as subject
from sevpn.errors import LeaseError


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        subject.main(words)
    code = caught.value.code
    assert isinstance(code, int)
    return code


def test_every_command_that_is_listed_is_there() -> None:
    for name in subject._COMMANDS:
        assert importlib.import_module(f"sevpn.cli.{name}").command.name == name


@pytest.mark.parametrize("words", [("--help",), ("up", "--help"), ("--version",)])
def test_help_is_no_error(words: tuple[str, ...]) -> None:
    assert run(*words) == 0


def test_a_wrong_word_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("statsu") == 64
    assert "did you mean 'status'?" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["-user", "-accept-dns", "-tap=x"])
def test_single_dashes_are_refused_with_the_right_form(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("up", "vpn.test/HUB", word) == 64
    assert f"-{word.partition('=')[0]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [("--json", "down", "nix"), ("down", "nix", "--json")]
)
def test_global_options_stand_on_either_side(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 0
    assert capsys.readouterr().out == '{"down": null}\n'


def test_an_error_of_ours_is_a_line_and_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise LeaseError("no lease: ask somebody")

    monkeypatch.setattr(subject.cli, "main", fail)

    assert run("status") == 75
    assert capsys.readouterr().err == "sevpn: no lease: ask somebody\n"


def test_a_bug_is_told_as_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(subject.cli, "main", fail)

    assert run("status") == 70
    assert "a bug: ZeroDivisionError: oops" in capsys.readouterr().err


def test_asking_imports_neither_tls_nor_netlink() -> None:
    script = (
        "import sys; from sevpn.cli.main import main\n"
        "try: main(['status'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('ssl', 'asyncio', 'pyroute2', 'jeepney', 'cryptography', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines()[-1] == "[]"
