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

__all__ = ["given", "login_options", "server_options", "tunnel_options"]

_GROUPS: Final[tuple[tuple[tuple[str, ...], dict[str, Any]], ...]] = (
    # login
    (
        ("--user",),
        {"metavar": "NAME", "help": "Log in as NAME; without it, anonymously."},
    ),
    (
        ("--auth",),
        {
            "type": click.Choice(["anonymous", "password", "plain", "certificate"]),
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
        ("--otp",),
        {
            "metavar": "REF",
            "help": "Where a one-time password is, which is appended to the password; 'prompt' asks.",
        },
    ),
    (
        ("--cert",),
        {
            "metavar": "FILE",
            "help": "Log in with this certificate (PEM, DER or PKCS #12); its key must be of RSA.",
        },
    ),
    (
        ("--key",),
        {
            "metavar": "REF",
            "help": "Where its private key is, as file:PATH. [in FILE]",
        },
    ),
    (
        ("--key-password",),
        {"metavar": "REF", "help": "Where the key's pass phrase is. [asked for]"},
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
        ("--resume/--no-resume",),
        {"help": "Take a cut session up again before a new login. [on]"},
    ),
    (
        ("--compress/--no-compress",),
        {"help": "Deflate each frame: for slow links only. [off]"},
    ),
    (
        ("--udp",),
        {
            "type": click.Choice(["off", "auto", "on"]),
            "help": "UDP acceleration: where TCP does badly, or wherever it can be had. [auto]",
        },
    ),
    (
        ("--udp-v1/--no-udp-v1",),
        {"help": "Use its version 1, which does not notice changed packets. [off]"},
    ),
    (
        ("--udp-port",),
        {
            "type": click.IntRange(1, 65535),
            "help": "Local port of its socket. [any]",
        },
    ),
    (
        ("--proxy",),
        {
            "metavar": "URL",
            "help": "Reach the server by http://, socks4:// or socks5://[USER@]HOST:PORT; env: by HTTPS_PROXY's.",
        },
    ),
    (
        ("--proxy-password",),
        {
            "metavar": "REF",
            "help": "Where the password for the proxy is, as for --password.",
        },
    ),
    (
        ("--legacy-tls/--no-legacy-tls",),
        {
            "help": "Accept TLS 1.0 and 1.1, short keys and old ciphers: for servers of long ago."
        },
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
    (
        ("--netns",),
        {
            "metavar": "NAME|PATH",
            "help": "Put interface, routes and name servers into this network namespace.",
        },
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
        ("--ipv6",),
        {
            "type": click.Choice(["auto", "block", "off"]),
            "help": "Use the IPv6 that the tunnel offers, refuse IPv6, or leave it alone. [auto]",
        },
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
    (
        ("--include",),
        {
            "metavar": "CIDR|NAME",
            "multiple": True,
            "help": "Send this network or host through the tunnel; may be repeated.",
        },
    ),
    (
        ("--exclude",),
        {
            "metavar": "CIDR|NAME",
            "multiple": True,
            "help": "Keep this network or host out of the tunnel; may be repeated.",
        },
    ),
    (
        ("--exclude-uid",),
        {
            "metavar": "UID",
            "multiple": True,
            "help": "Keep this user's programs out of the tunnel (with --route-mode mark).",
        },
    ),
    (
        ("--lan",),
        {
            "type": click.Choice(["private", "none", "all"]),
            "help": "Which subnets of this host stay reachable. [mark: private, host: all]",
        },
    ),
    (
        ("--route-mode",),
        {
            "type": click.Choice(["host", "mark"]),
            "help": "Routes in the main table, or in one of their own with policy rules. [host]",
        },
    ),
    (
        ("--mark",),
        {
            "type": click.IntRange(1, 2**32 - 1),
            "help": "Firewall mark of the tunnel's own sockets. [57568 and up]",
        },
    ),
    (
        ("--policy-route-table",),
        {
            "type": click.IntRange(1, 2**32 - 1),
            "metavar": "N",
            "help": "Replies from the leased address always leave by the tunnel, by table N.",
        },
    ),
    (
        ("--connmark/--no-connmark",),
        {
            "help": "With --policy-route-table: also what answers forwarded (DNAT) connections."
        },
    ),
    # lock
    (
        ("--lock",),
        {
            "type": click.Choice(["off", "auto", "on"]),
            "help": "Let nothing leave but by the tunnel: while sevpn runs, or until it ends as it should. [off]",
        },
    ),
    (
        ("--lock-allow",),
        {
            "metavar": "CIDR",
            "multiple": True,
            "help": "Let this network be reached in spite of the lock; may be repeated.",
        },
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
        ("--split-dns",),
        {
            "metavar": "DOMAIN",
            "multiple": True,
            "help": "Send only names below this domain through the tunnel; may be repeated.",
        },
    ),
    (
        ("--dns-mode",),
        {
            "type": click.Choice(["auto", "resolved", "resolvconf", "file", "off"]),
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


_LOGIN: Final = frozenset({"--user", "--password", "--hub"})
_SERVER: Final = frozenset(
    {
        "--port",
        "--ca",
        "--server-name",
        "--pin",
        "--insecure/--no-insecure",
        "--ip",
        "--proxy",
        "--proxy-password",
        "--legacy-tls/--no-legacy-tls",
        "--connect-timeout",
    }
)


_OTHERS: Final = frozenset(
    {
        "--address",
        "--gateway",
        "--hostname",
        "--ipv6",
        "--dhcp/--no-dhcp",
        "--accept-default-gateway/--no-accept-default-gateway",
        "--accept-static-routes/--no-accept-static-routes",
        "--metric",
        "--include",
        "--exclude",
        "--exclude-uid",
        "--lan",
        "--route-mode",
        "--mark",
        "--policy-route-table",
        "--connmark/--no-connmark",
        "--lock",
        "--lock-allow",
        "--accept-dns/--no-accept-dns",
        "--dns",
        "--search",
        "--split-dns",
        "--dns-mode",
        "--netns",
    }
)
"""What is about addresses, routes and names, which a way between networks has none of."""


def transport_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `up` but those about addresses, routes and names."""
    names = {flag for flags, _ in _GROUPS for flag in flags} - _OTHERS
    return _options_of(frozenset(names), function)


def login_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say who asks, with a password."""
    return _options_of(_LOGIN, function)


def server_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how a server is reached and trusted."""
    return _options_of(_SERVER, function)


def _options_of(
    names: frozenset[str], function: Callable[..., Any]
) -> Callable[..., Any]:
    for flags, settings in reversed(_GROUPS):
        if names.intersection(flags):
            function = click.option(*flags, default=None, **settings)(function)
    return function


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Return only what the command line says."""
    return {
        key: value for key, value in values.items() if value is not None and value != ()
    }
