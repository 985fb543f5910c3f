# SPDX-License-Identifier: Apache-2.0
"""`sevpn reconnect`: drop the session and heal now."""

from __future__ import annotations

import click

from sevpn.cli.common import Output, command as make_command
from sevpn.cli.running import chosen
from sevpn.control import client

__all__ = ["command"]


@make_command("reconnect")
@click.argument("name", required=False)
def command(output: Output, name: str | None) -> None:
    """Make the running tunnel NAME log in anew, with a fresh lease.

    Without NAME: the only one that runs.
    """
    tunnel, path = chosen(name, required=True)
    client.ask(path, "reconnect")
    output.answer(
        {"reconnect": tunnel},
        f"{tunnel} reconnects; 'sevpn status {tunnel}' shows how far it is",
    )
