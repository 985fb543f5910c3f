# SPDX-License-Identifier: Apache-2.0
"""`sevpn down`: ask a running tunnel to leave, and wait until the host is restored."""

from __future__ import annotations

from typing import Final

import click

from sevpn.cli.common import Output, command as make_command
from sevpn.cli.running import chosen
from sevpn.control import client
from sevpn.errors import ControlError

__all__ = ["command"]

_PATIENCE_S: Final = 30.0


@make_command("down")
@click.argument("name", required=False)
def command(output: Output, name: str | None) -> None:
    """Ask the running tunnel NAME to leave politely, and wait for it.

    Without NAME: the only one that runs. Succeeds if nothing runs.
    """
    found = chosen(name, required=False)
    if found is None:
        output.answer(
            {"down": None}, "nothing runs" if name is None else f"{name} is not running"
        )
        return
    tunnel, path = found
    if not client.turn_off(path, patience_s=_PATIENCE_S):
        raise ControlError(
            f"{tunnel} has not left within {_PATIENCE_S:.0f} s: look at its log, or end its process"
        )
    output.answer({"down": tunnel}, f"{tunnel} is down, the host is restored")
