# SPDX-License-Identifier: Apache-2.0
"""`sevpn cleanup`: undo what a dead process left behind."""

from __future__ import annotations

import os

import click

from sevpn.cli.common import Output, command as make_command
from sevpn.config.paths import Paths
from sevpn.net.bypass import remove_if_unused
from sevpn.net.host import cleanup
from sevpn.net.journal import shared_lock

__all__ = ["command"]


@make_command("cleanup")
@click.argument("name", required=False)
def command(output: Output, name: str | None) -> None:
    """Restore what killed tunnels left: host routes, resolv.conf, run files.

    With NAME: of that tunnel only. Running tunnels are not touched. May be called
    at any time, and again.
    """
    paths = Paths.for_user(os.environ, os.geteuid())
    undone = cleanup(paths.runtime_dir, tunnel=name)
    with shared_lock(paths.runtime_dir):
        undone += remove_if_unused()
    output.answer({"undone": undone}, "\n".join(undone) or "nothing was left behind")
