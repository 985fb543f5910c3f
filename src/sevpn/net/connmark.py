# SPDX-License-Identifier: Apache-2.0
"""Answers to forwarded connections leave by the tunnel that the connections came in by.

Layer: net. Runs in: the control thread.

A host that forwards what comes in by the tunnel to others, as with DNAT to a namespace
or a virtual machine, gets their answers from another interface, with other addresses:
no rule about addresses knows them. So the connection is marked when it comes in, and
its packets bear that mark whenever they come in from elsewhere; a policy rule sends
them to the policy table (`routing.py`).

    iif TAP, new connection        ct mark := REPLY
    iif other, ct mark REPLY       meta mark := REPLY

The table belongs to the process and vanishes with it.

Source: nft(8), "ct", "meta".
"""

from __future__ import annotations

from sevpn.net.lock import table_name
from sevpn.net.marks import Marks
from sevpn.net.nft import Nftables

__all__ = ["ConnectionMarks", "ruleset"]


def ruleset(tunnel: str, device: str, marks: Marks, *, is_there: bool = False) -> str:
    """Return the text for nft that marks what comes in by *device*; it replaces what *is_there*."""
    table = _table_of(tunnel)
    lines = [
        *([f"delete table inet {table}"] if is_there else []),
        f"table inet {table} {{",
        "flags owner",
        "chain pre {",
        "type filter hook prerouting priority mangle; policy accept;",
        f'iifname "{device}" ct state new ct mark set {marks.reply:#x}',
        f'iifname != "{device}" ct mark {marks.reply:#x} meta mark set ct mark',
        "}",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _table_of(tunnel: str) -> str:
    # Told from a lock's by its beginning.
    return f"connmark_{table_name(tunnel)}"


class ConnectionMarks:
    """The marks of one tunnel's connections.

    Args:
        tunnel: The tunnel's name.
    """

    def __init__(self, tunnel: str) -> None:
        self._tunnel = tunnel
        self._nftables = Nftables()

    def load(self, device: str, marks: Marks) -> None:
        """Mark what comes in by *device*; replaces what was there.

        Raises:
            HostError: The packet filter refused, or there is none.
        """
        is_there = self._nftables.has_table(_table_of(self._tunnel))
        self._nftables.run(ruleset(self._tunnel, device, marks, is_there=is_there))

    def close(self) -> None:
        """Mark no more; the table vanishes. Safe to call again."""
        self._nftables.close()
