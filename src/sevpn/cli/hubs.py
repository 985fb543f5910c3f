# SPDX-License-Identifier: Apache-2.0
"""`sevpn hubs`: lists the hubs of a server."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Final

import click

from sevpn.cli.common import Output, command as make_command
from sevpn.cli.job import destination_of, settings_of
from sevpn.cli.options import given, server_options
from sevpn.protocol.credentials import Anonymous

__all__ = ["command"]

_OF_LOGINS: Final = (
    *("SEVPN_USER", "SEVPN_AUTH", "SEVPN_PASSWORD", "SEVPN_OTP"),
    *("SEVPN_CERT", "SEVPN_KEY"),
)
"""Beginnings of variables that say who logs in: nobody does here."""


@make_command("hubs")
@click.argument("target")
@server_options
def command(output: Output, target: str, **values: Any) -> None:
    """List the hubs of a server, but for those that hide.

    TARGET is HOST[:PORT], or a profile's name. Nothing has to be proved.
    """
    from sevpn.tunnel.account import list_hubs  # noqa: PLC0415 - brings TLS, which `--help` does not need

    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OF_LOGINS)
    }
    settings = settings_of(target, name=None, overrides=given(values), environ=environ)
    output.start_log()
    destination = destination_of(settings, Anonymous(""), environ)
    names = asyncio.run(list_hubs(destination))
    output.answer(
        {"host": settings.host, "port": settings.port, "hubs": list(names)},
        "\n".join(names),
    )
    if not names:
        output.note(
            f"{settings.host} shows no hub: its hubs may hide; ask its administrator"
        )
