# SPDX-License-Identifier: Apache-2.0
"""`sevpn bridge`: join a hub to a bridge of this host."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import click

from sevpn.cli.common import Output, command as make_command
from sevpn.cli.job import prepare
from sevpn.cli.options import given, transport_options
from sevpn.cli.up import stay

__all__ = ["command"]


@make_command("bridge")
@click.argument("target")
@click.option(
    "--to",
    "bridge",
    metavar="BRIDGE",
    required=True,
    help="The bridge to join; it must be there.",
)
@click.option("--name", metavar="NAME", help="What to call the tunnel.")
@transport_options
def command(
    output: Output, target: str, bridge: str, name: str | None, **values: Any
) -> int:
    """Join the hub of TARGET to a bridge of this host, until Ctrl-C.

    Frames of all hosts pass both ways; this host gets no address, route or name
    server. The user needs the right to bridge. Two ways between the same networks
    make a loop: see docs/how-to/bridge.md.
    """
    output.start_log()
    overrides = given(values) | {"ipv6": "off", "lock": "off"}
    prepared = prepare(
        target,
        name=name,
        overrides=overrides,
        environ=os.environ,
        mode="bridge",
        bridge=bridge,
    )
    return asyncio.run(stay(prepared, output, on_connected=lambda: None))
