# SPDX-License-Identifier: Apache-2.0
"""What all commands share: the global options, and where their output goes.

Layer: cli. Runs in: the main thread.

`--verbose`, `--debug`, `--quiet` and `--json` may stand before or after the
command. :func:`command` makes a click command that takes them; :class:`Output`
is what became of them.
"""

from __future__ import annotations

import difflib
import functools
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from sevpn.log import Form, configure

__all__ = ["Output", "command", "fold_common_options", "nearest"]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Output:
    """How much is said, and in which form."""

    verbose: bool = False
    """Say more."""
    debug: bool = False
    """Say everything, and show tracebacks."""
    quiet: bool = False
    """Say errors only."""
    as_json: bool = False
    """One JSON object per answer or event, on standard output."""

    def answer(self, value: Any, text: str) -> None:
        """Print a command's answer: *value* as JSON, else *text*."""
        if self.as_json:
            click.echo(json.dumps(value))
        elif text:
            click.echo(text)

    def note(self, text: str) -> None:
        """Print a remark that is no answer, on standard error."""
        if not self.quiet:
            click.echo(text, err=True)

    def start_log(self) -> None:
        """Let the log of this process go to standard error, as much as is wanted."""
        level = logging.WARNING
        if self.quiet:
            level = logging.ERROR
        elif self.debug:
            level = logging.DEBUG
        elif self.verbose:
            level = logging.INFO
        form = Form.JSON if self.as_json else Form.TERMINAL
        if "JOURNAL_STREAM" in os.environ and not self.as_json:
            form = Form.JOURNAL
        configure(sys.stderr, level=level, form=form)

    @property
    def is_terminal(self) -> bool:
        """Whether a person watches standard error."""
        return sys.stderr.isatty() and not self.as_json


def fold_common_options(function: F) -> F:
    """Add the global options to a command or group."""
    options = (
        ("verbose", ("-v", "--verbose"), "Say more."),
        ("debug", ("--debug",), "Say everything, and show tracebacks."),
        ("quiet", ("-q", "--quiet"), "Say errors only."),
        ("as_json", ("--json", "as_json"), "Print JSON for programs."),
    )
    for name, flags, text in options:
        decorate = click.option(
            *flags,
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_remember(name),
            help=text,
        )
        function = decorate(function)
    return function


def command(name: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a click command that takes the global options and gets an :class:`Output` first."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def call(*arguments: Any, **values: Any) -> Any:
            context = click.get_current_context()
            return function(
                context.find_root().ensure_object(Output), *arguments, **values
            )

        return fold_common_options(click.command(name)(call))

    return decorate


def nearest(word: str, known: list[str]) -> str:
    """Return ` (did you mean 'x'?)`, or nothing when no known word is near."""
    found = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _remember(name: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(
        context: click.Context, _parameter: click.Parameter, value: bool
    ) -> None:
        output = context.find_root().ensure_object(Output)
        if value:
            setattr(output, name, True)

    return callback
