# SPDX-License-Identifier: Apache-2.0
"""The command line: finds the command, and turns every ending into an exit code.

Layer: cli. Runs in: the main thread.

A command's module is imported only when that command runs, so that `status`
does not pay for TLS and netlink. Each module of :data:`_COMMANDS` offers a click
command named `command`.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Final

import click

from sevpn import __version__
from sevpn.cli.common import Output, fold_common_options, nearest
from sevpn.cli.exit import ExitCode, report
from sevpn.errors import SevpnError

__all__ = ["cli", "main"]

_COMMANDS: Final = {
    "up": "connect, and stay connected until Ctrl-C",
    "down": "ask a running tunnel to leave",
    "reconnect": "drop the session and heal now",
    "status": "show what runs and how it is",
    "plan": "show what `up` would change on this host",
    "doctor": "check this host, and each step of a login",
    "hubs": "list a server's hubs",
    "passwd": "change one's own password on a hub",
    "profile": "saved settings; import and export those of the official client",
    "bridge": "join a hub to a bridge of this host",
    "capture": "write all frames of a hub as pcapng (--monitor)",
    "bypass": "run a program outside all tunnels",
    "unlock": "lift the lock that a dead tunnel has left",
    "cleanup": "undo what a dead process left behind",
    "serve": "run the embedded server, for labs and tests",
    "demo": "server and client in private namespaces, and a report",
    "completion": "print the completion script of a shell",
}

# `-user`, as other SoftEther clients write it; `-vq` is two short flags.
_SINGLE_DASH_LONG: Final = re.compile(r"^-(?P<name>[a-z][a-z0-9-]+)(?P<value>=.*)?$")
_SHORT_FLAGS: Final = frozenset("vqwkh")


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, in the order of the help page."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in _COMMANDS:
            return None
        made: click.Command = importlib.import_module(f"sevpn.cli.{cmd_name}").command
        return made

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a wrong word is answered with the nearest right one."""
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            ctx.fail(
                f"no command {args[0]!r}{nearest(args[0], list(_COMMANDS))}; 'sevpn --help' lists them"
            )
        return super().resolve_command(ctx, args)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 ok, 64 usage, 65 configuration, 69 unreachable, 75 temporary, 76 protocol, 77 refused, "
    "78 impossible on this host, 79 certificate not trusted.",
)
@click.version_option(__version__, prog_name="sevpn")
def cli() -> None:
    """A SoftEther VPN client: one command from nothing to a proven network."""


fold_common_options(cli)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_run(words))


def _run(words: list[str]) -> int:
    output = Output(
        as_json="--json" in words[: words.index("--")]
        if "--" in words
        else "--json" in words
    )
    try:
        _refuse_single_dashes(words)
        code = cli.main(words, prog_name="sevpn", standalone_mode=False, obj=output)
    except click.UsageError as error:
        context = error.ctx.command_path if error.ctx is not None else "sevpn"
        click.echo(
            f"sevpn: {error.format_message()}\nTry '{context} --help'.", err=True
        )
        return ExitCode.USAGE
    except click.ClickException as error:
        click.echo(f"sevpn: {error.format_message()}", err=True)
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        return 130
    except SevpnError as error:
        return report(error, as_json=output.as_json)
    except BrokenPipeError:
        # The reader of a pipe went (`sevpn events | head`); Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception as error:
        if output.debug:
            raise
        click.echo(
            f"sevpn: a bug: {type(error).__name__}: {error}; run again with --debug and report it",
            err=True,
        )
        return ExitCode.BUG
    return code if isinstance(code, int) else ExitCode.OK


def _refuse_single_dashes(words: list[str]) -> None:
    for word in words:
        if word == "--":
            return
        found = _SINGLE_DASH_LONG.match(word)
        if found and not set(found["name"]) <= _SHORT_FLAGS:
            raise click.UsageError(f"long options have two dashes: --{found['name']}")
