# SPDX-License-Identifier: Apache-2.0
"""What each way to tell this host its name servers can do.

Layer: net. Runs in: the control thread; a call blocks for milliseconds, or until
its own deadline where another program does the work.

    resolved.py     a link's settings in systemd-resolved; gone with the link
    resolvconf.py   an entry of ours in openresolv's or Debian's resolvconf
    file.py         /etc/resolv.conf itself

`detect.py` chooses, `names.py` joins them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sevpn.net.model import Resolver

__all__ = ["Backend", "Owner", "server_texts"]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose name servers they are."""

    tunnel: str
    """The tunnel's name: letters, digits, `.` and `-`."""

    device: str
    """Its TAP."""


def server_texts(resolver: Resolver, owner: Owner) -> list[str]:
    """Return the servers as a resolv.conf names them: a link-local one with its interface."""
    return [
        f"{server}%{owner.device}" if server.is_link_local else str(server)
        for server in resolver.servers
    ]


class Backend(Protocol):
    """One way; the same call again changes nothing."""

    def set(self, resolver: Resolver, owner: Owner) -> None:
        """Set *resolver*, and read back that it is so.

        Raises:
            HostError: It cannot be set; it is then as it was, or :meth:`restore`
                makes it so.
        """
        ...

    def restore(self, owner: Owner) -> None:
        """Take away what *owner* has set; nothing is fine.

        Raises:
            HostError: It cannot be taken away.
        """
        ...

    def is_in_place(self, resolver: Resolver, owner: Owner) -> bool:
        """Whether what *owner* has set is still what this host uses."""
        ...

    def watched(self) -> tuple[Path, ...]:
        """Return the files and folders that change when somebody else interferes."""
        ...
