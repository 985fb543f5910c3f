# SPDX-License-Identifier: Apache-2.0
"""The options of `up`: each is a profile key, and only what was given counts."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from sevpn.cli.options import given, tunnel_options
from sevpn.config.keys import KEYS


@click.command()
@tunnel_options
def command(**values: Any) -> dict[str, Any]:
    return given(values)


def parsed(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(command, words, standalone_mode=False)
    assert done.exception is None, done.exception
    found: dict[str, Any] = done.return_value
    return found


def option_names() -> set[str]:
    return {parameter.name or "" for parameter in command.params}


def test_each_option_is_a_key_of_a_profile() -> None:
    assert option_names() <= set(KEYS)


def test_each_key_is_an_option_but_those_that_are_the_target_or_the_name() -> None:
    assert set(KEYS) - option_names() == {"host", "name"}


def test_what_is_not_given_is_not_there() -> None:
    """So that the profile and the environment are not overridden by defaults."""
    assert parsed() == {}


def test_zero_and_no_are_values() -> None:
    assert parsed("--metric", "0", "--no-dhcp", "--no-accept-dns") == {
        "metric": 0,
        "dhcp": False,
        "accept_dns": False,
    }


def test_the_last_of_a_pair_of_flags_counts() -> None:
    assert parsed("--once", "--no-once") == {"once": False}


def test_what_may_be_repeated_is_kept_in_order() -> None:
    assert parsed("--dns", "192.0.2.2", "--dns", "192.0.2.1") == {
        "dns": ("192.0.2.2", "192.0.2.1")
    }


@pytest.mark.parametrize(
    "words",
    [
        ("--port", "0"),
        ("--port", "65536"),
        ("--port", "https"),
        ("--mtu", "575"),
        ("--mtu", "1587"),
        ("--metric", "-1"),
        ("--metric", "4294967296"),
        ("--ip", "5"),
        ("--auth", "none"),
        ("--privacy", "some"),
        ("--dns-mode", "resolve"),
        ("--user",),
        ("--nothing", "x"),
    ],
)
def test_what_is_out_of_range_is_a_wrong_command_line(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(command, words, standalone_mode=False)

    assert isinstance(done.exception, click.UsageError)


def test_the_password_itself_is_no_option() -> None:
    """`--password` takes a reference: a command line is seen by everybody."""
    (option,) = (p for p in command.params if p.name == "password")
    assert isinstance(option, click.Option)
    assert option.metavar == "REF"
    assert "file:PATH" in (option.help or "")


def test_every_option_has_a_sentence() -> None:
    for option in command.params:
        assert isinstance(option, click.Option)
        assert (option.help or "").endswith((".", "]")), option.name
