# SPDX-License-Identifier: Apache-2.0
"""`sevpn completion SHELL`: print the script that completes sevpn's words."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from sevpn.cli.common import Output, command as make_command

__all__ = ["command"]


@make_command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, output: Output, shell: str) -> None:
    """Print the completion script of SHELL.

    bash: source <(sevpn completion bash)
    """
    made = get_completion_class(shell)
    assert made is not None, "click knows the three shells"
    script = made(context.find_root().command, {}, "sevpn", "_SEVPN_COMPLETE").source()
    output.answer({"shell": shell, "script": script}, script)
