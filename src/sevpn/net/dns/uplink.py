# SPDX-License-Identifier: Apache-2.0
"""The name servers of the network underneath, which this host asked before the tunnel.

Layer: net. Runs in: any thread; reads files of at most 64 KiB.

    resolv.conf with our marker     the copy of what was there before
    resolv.conf                     unless it names a program on this host only
    what that program has learned   systemd-resolved, NetworkManager, resolvconf

Those that the tunnel has set itself do not count: they are reached through it.

Source: resolv.conf(5), systemd-resolved(8), resolvconf(8).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from sevpn.net.dns.detect import servers_in
from sevpn.net.dns.file import marker_owner
from sevpn.net.model import Address

__all__ = ["MAX_UPLINK_SERVERS", "host_names", "named_servers", "uplink_servers"]

MAX_UPLINK_SERVERS: Final = 8
"""Name servers that are asked at most."""

_MAX_SIZE: Final = 1 << 16
_LEARNED: Final = (
    "run/systemd/resolve/resolv.conf",
    "run/NetworkManager/no-stub-resolv.conf",
    "run/resolvconf/interfaces/*",
    "run/resolvconf/interface/*",
)
_OURS: Final = "tun.sevpn."


def uplink_servers(
    etc: Path, *, ours: Collection[Address] = (), root: Path = Path("/")
) -> tuple[Address, ...]:
    """Return the name servers to ask past the tunnel; none where none are known.

    Args:
        etc: Where resolv.conf is.
        ours: What the tunnel has set.
        root: Where `/run` is.
    """
    for text in _candidates(etc, root):
        servers = [
            server
            for server in _servers(text)
            if server not in ours and not server.is_loopback
        ]
        if servers:
            return tuple(dict.fromkeys(servers))[:MAX_UPLINK_SERVERS]
    return ()


def host_names(etc: Path) -> dict[str, list[Address]]:
    """Return the names of /etc/hosts, in lower case, with their addresses."""
    names: dict[str, list[Address]] = {}
    for line in _read(etc / "hosts").splitlines():
        address, *words = line.partition("#")[0].split() or [""]
        try:
            parsed = ip_address(address)
        except ValueError:
            continue
        for word in words:
            names.setdefault(word.lower().removesuffix("."), []).append(parsed)
    return names


def named_servers(etc: Path) -> tuple[Address, ...]:
    """Return the name servers that resolv.conf names now, but programs on this host."""
    servers = _servers(_read(etc / "resolv.conf"))
    return tuple(server for server in servers if not server.is_loopback)


def _candidates(etc: Path, root: Path) -> Iterable[str]:
    text = _read(etc / "resolv.conf")
    if marker_owner(text.encode()) is not None:
        text = _read(etc / ".resolv.conf.sevpn-saved")
    yield text
    for pattern in _LEARNED:
        paths = [
            path
            for path in sorted(root.glob(pattern))
            if not path.name.startswith(_OURS)
        ]
        yield "\n".join(map(_read, paths))


def _servers(text: str) -> list[Address]:
    servers: list[Address] = []
    for word in servers_in(text):
        with contextlib.suppress(ValueError):
            servers.append(ip_address(word))
    return servers


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_SIZE).decode("utf-8", "replace")
    except OSError:
        return ""
