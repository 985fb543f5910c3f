# SPDX-License-Identifier: Apache-2.0
"""The options of `up` and of what else opens a tunnel.

Layer: cli. Each is also a profile key (`_` for `-`) and an environment variable
`SEVPN_<KEY>`; docs/reference/profile.md lists them. An option that is not given
is not in the dictionary that the command gets, so that the profile, then the
environment, then the command line can each override the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

__all__ = ["given", "tunnel_options"]

_GROUPS: Final[tuple[tuple[tuple[str, ...], dict[str, Any]], ...]] = (
    # login
    (
        ("--user",),
        {"metavar": "NAME", "help": "Log in as NAME; without it, anonymously."},
    ),
    (
        ("--auth",),
        {
            "type": click.Choice(["anonymous", "password", "plain"]),
            "help": "How to log in: 'plain' for RADIUS and the like.",
        },
    ),
    (
        ("--password",),
        {
            "metavar": "REF",
            "help": "Where the password is: prompt, file:PATH, env:NAME, cred:NAME, cmd:COMMAND, keyring:NAME, "
            "or hash:REF for a SoftEther password hash.",
        },
    ),
    (
        ("--hub",),
        {"metavar": "HUB", "help": "The virtual hub; overrides the target's."},
    ),
    (
        ("--port",),
        {"type": click.IntRange(1, 65535), "help": "TCP port; overrides the target's."},
    ),
    # trust
    (
        ("--ca",),
        {
            "metavar": "FILE",
            "help": "Trust these CA certificates (PEM) instead of the system's.",
        },
    ),
    (
        ("--server-name",),
        {"metavar": "NAME", "help": "The name that the certificate must carry."},
    ),
    (
        ("--pin",),
        {
            "metavar": "sha256:HEX",
            "multiple": True,
            "help": "Accept exactly this certificate; may be repeated.",
        },
    ),
    (("--insecure/--no-insecure",), {"help": "Do not verify the server at all."}),
    # transport
    (
        ("--ip",),
        {
            "type": click.Choice(["any", "4", "6"]),
            "help": "IP version to reach the server by.",
        },
    ),
    (
        ("--connections",),
        {
            "type": click.IntRange(1, 32),
            "help": "TCP connections of the session. [1]",
        },
    ),
    (
        ("--half-duplex/--no-half-duplex",),
        {"help": "Use each connection in one direction only; at least 2. [off]"},
    ),
    (
        ("--connect-timeout",),
        {"metavar": "DURATION", "help": "Longest time to the server's Hello. [30s]"},
    ),
    # interface
    (("--tap",), {"metavar": "NAME", "help": "Interface name; '%d' counts. [sevpn%d]"}),
    (
        ("--mac",),
        {"metavar": "MAC", "help": "MAC address. [derived from machine and profile]"},
    ),
    (
        ("--mtu",),
        {"type": click.IntRange(576, 1586), "help": "MTU. [1500, or the lease's]"},
    ),
    # addresses
    (("--dhcp/--no-dhcp",), {"help": "Ask for an address through the tunnel. [on]"}),
    (
        ("--address",),
        {
            "metavar": "CIDR",
            "multiple": True,
            "help": "Static address, with --no-dhcp.",
        },
    ),
    (
        ("--gateway",),
        {"metavar": "IP", "help": "Gateway in the tunnel; overrides the lease's."},
    ),
    (
        ("--hostname",),
        {"metavar": "NAME", "help": "Host name to tell the DHCP server."},
    ),
    # routing
    (
        ("--accept-default-gateway/--no-accept-default-gateway",),
        {"help": "Send everything through the tunnel."},
    ),
    (
        ("--accept-static-routes/--no-accept-static-routes",),
        {"help": "Take the routes that DHCP offers."},
    ),
    (
        ("--metric",),
        {"type": click.IntRange(0, 2**32 - 1), "help": "Metric of our routes. [50]"},
    ),
    # dns
    (
        ("--accept-dns/--no-accept-dns",),
        {"help": "Use the name servers that DHCP offers."},
    ),
    (
        ("--dns",),
        {
            "metavar": "IP",
            "multiple": True,
            "help": "Use this name server; may be repeated.",
        },
    ),
    (
        ("--search",),
        {
            "metavar": "DOMAIN",
            "multiple": True,
            "help": "Search domain; may be repeated.",
        },
    ),
    (
        ("--dns-mode",),
        {
            "type": click.Choice(["auto", "file", "off"]),
            "help": "How DNS is set. [auto]",
        },
    ),
    # life
    (
        ("--reconnect-delay",),
        {"metavar": "DURATION", "help": "First delay between attempts. [5s]"},
    ),
    (
        ("--reconnect-max-delay",),
        {"metavar": "DURATION", "help": "Longest delay. [60s]"},
    ),
    (
        ("--retries",),
        {"metavar": "N|forever", "help": "How often a failed attempt is repeated."},
    ),
    (("--once/--no-once",), {"help": "End at the first failure; do not reconnect."}),
    # privacy
    (
        ("--privacy",),
        {
            "type": click.Choice(["full", "minimal"]),
            "help": "full: tell the server this host's name and system. [minimal]",
        },
    ),
)


def tunnel_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of section "options of up" to a command."""
    for flags, settings in reversed(_GROUPS):
        function = click.option(*flags, default=None, **settings)(function)
    return function


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Return only what the command line says."""
    return {
        key: value for key, value in values.items() if value is not None and value != ()
    }
