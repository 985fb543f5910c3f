# SPDX-License-Identifier: Apache-2.0
"""`sevpn unlock`: lift the lock that a tunnel has left."""

from __future__ import annotations

import os

import click

from sevpn.cli.common import Output, command as make_command
from sevpn.config.paths import Paths
from sevpn.config.target import check_tunnel_name
from sevpn.errors import ConfigError, HostError
from sevpn.net.journal import shared_lock
from sevpn.net.lock import locked_tunnels, table_name, unlock
from sevpn.net.nft import Nftables
from sevpn.net.rtnetlink import Netlink
from sevpn.net.tunnels import living_tunnels

__all__ = ["command"]


@make_command("unlock")
@click.argument("name", required=False)
def command(output: Output, name: str | None) -> None:
    """Let everything leave this host again, after a tunnel with --lock on has died.

    With NAME: the lock of that tunnel only. A tunnel that runs keeps its lock; end
    it with `sevpn down`. What was stored to hold the lock after a reboot goes, too.
    """
    if name is not None:
        try:
            check_tunnel_name(name)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    paths = Paths.for_user(os.environ, os.geteuid())
    nftables, netlink = Nftables(), Netlink()
    try:
        with shared_lock(paths.runtime_dir):
            tables = locked_tunnels(nftables)
            if name is not None:
                tables = [table for table in tables if table == table_name(name)]
            living = living_tunnels(paths.runtime_dir, netlink.find(), mine=None)
            held = {table_name(tunnel): tunnel for tunnel in living}
            for table in tables:
                if table in held:
                    raise HostError(
                        f"tunnel {held[table]!r} is running and holds its lock: `sevpn down {held[table]}` ends both",
                        operation="unlock",
                    )
            done = unlock(tables, nftables, paths.locks_dir, tunnel=name)
    finally:
        nftables.close()
        netlink.close()
    output.answer({"unlocked": done}, "\n".join(done) or "nothing was locked")
