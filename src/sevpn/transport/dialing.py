# SPDX-License-Identifier: Apache-2.0
"""How every outer socket of one tunnel comes to be.

Layer: transport. Runs in: the control thread.

One value, made from the settings, that goes along with every attempt to open a
connection: the first, further ones, the one to a cluster's member. What must hold
for all of them (a mark, a proxy, the version of IP) is therefore said in one place.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from sevpn.transport.proxy import Proxy
from sevpn.transport.resolve import Family, LookUp, look_up

__all__ = ["DIRECTLY", "Dialing", "Prepare"]

Prepare: TypeAlias = Callable[[socket.socket], None]
"""Marks or binds a socket before it connects; may raise OSError."""


def _nothing(_sock: socket.socket) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Dialing:
    """How every outer socket of one tunnel comes to be."""

    family: Family = "any"
    """The versions of IP that our sockets may use: to the proxy, if there is one."""

    proxy: Proxy | None = None
    """Who connects in our place. Its name is looked up here, the server's there."""

    prepare: Prepare = _nothing
    """Called with each socket before it connects."""

    resolve: LookUp = look_up
    """Looks names up; the system's way unless something better is known."""

    legacy_tls: bool = False
    """Whether TLS 1.0 and 1.1, short keys and old ciphers will do."""


DIRECTLY = Dialing()
"""By whatever way the system has."""
