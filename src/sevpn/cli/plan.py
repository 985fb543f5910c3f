# SPDX-License-Identifier: Apache-2.0
"""`sevpn plan`: what `up` would change on this host, and what it would not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from sevpn.cli.common import Output, command as make_command
from sevpn.cli.job import mac_of, settings_of
from sevpn.cli.options import given, tunnel_options
from sevpn.config.profile import Settings
from sevpn.errors import ResolveError
from sevpn.net.dns.detect import choose, look
from sevpn.net.preview import Preview, preview
from sevpn.net.rtnetlink import Netlink
from sevpn.transport.resolve import Address, resolve

__all__ = ["command"]

_LOOK_UP_S: Final = 10.0


@make_command("plan")
@click.argument("target")
@tunnel_options
@click.option("--name", metavar="NAME", help="What to call the tunnel.")
def command(output: Output, target: str, name: str | None, **values: Any) -> None:
    """Show what `up TARGET` would change on this host; change nothing.

    The server's name is looked up; nothing is sent to the server. What only
    DHCP will tell stands in capitals.
    """
    settings = settings_of(
        target, name=name, overrides=given(values), environ=os.environ
    )
    addresses, trouble = _addresses(settings)
    netlink = Netlink()
    planned = preview(
        settings,
        found=netlink.find(),
        servers=addresses,
        mac=mac_of(settings),
        dns=choose(settings.dns_mode, look(Path("/etc"))),
    )
    netlink.close()
    warnings = [*trouble, *planned.warnings]
    output.answer(
        {
            "tunnel": settings.tunnel_name,
            "server": [str(address) for address in addresses],
            "changes": list(planned.changes),
            "unchanged": list(planned.unchanged),
            "warnings": warnings,
        },
        _render(planned, warnings),
    )


def _addresses(settings: Settings) -> tuple[Sequence[Address], list[str]]:
    """Look the server's name up; not finding it is a warning, since nothing is dialled."""

    async def look_up() -> Sequence[Address]:
        async with asyncio.timeout(_LOOK_UP_S):
            return await resolve(settings.host, family=settings.ip)

    try:
        return asyncio.run(look_up()), []
    except ResolveError as error:
        return (), [str(error)]
    except TimeoutError:
        return (), [
            f"the name servers did not answer for {settings.host} within {_LOOK_UP_S:.0f} s"
        ]


def _render(planned: Preview, warnings: Sequence[str]) -> str:
    lines = ["would change:", *(f"  {line}" for line in planned.changes)]
    if planned.unchanged:
        lines += ["would leave alone:", *(f"  {line}" for line in planned.unchanged)]
    if warnings:
        lines += ["warnings:", *(f"  {line}" for line in warnings)]
    return "\n".join(lines)
