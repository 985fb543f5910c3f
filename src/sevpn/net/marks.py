# SPDX-License-Identifier: Apache-2.0
"""The numbers that belong to one tunnel: its firewall mark, its table, its rules.

Layer: net. Runs in: any thread; pure but for :func:`set_mark`.

    own         0xe0e0 + 16·slot   SO_MARK of the tunnel's own sockets
    bypass      0xe0e1             mark of packets that shall pass all tunnels by
    reply       0xe0e2 + 16·slot   mark of packets that answer what came in by the tunnel
    table       0xe0e0 + 16·slot   routing table of `--route-mode mark`
    preference  9000 + 10·slot     of the first of its policy rules

The slot is the smallest that no other living tunnel of this host has. The numbers
are those of nobody in iproute2's files; one that somebody else uses as a mark is
changed with `--mark`.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from sevpn.errors import ConfigError
from sevpn.net.model import Rule

__all__ = [
    "BYPASS_MARK",
    "MAX_SLOTS",
    "Marks",
    "check_numbers",
    "free_slot",
    "set_mark",
    "slot_of_rule",
    "slot_of_table",
]

_BASE: Final = 0xE0E0
_STEP: Final = 16
_FIRST_PREFERENCE: Final = 9000
_PREFERENCES: Final = 10

MAX_SLOTS: Final = 256
"""Tunnels of one host at most: preferences 9000 to 11559, well before the main table's 32766."""

BYPASS_MARK: Final = _BASE + 1
"""The mark of packets that shall pass all tunnels by; the same for all of them."""


@dataclass(frozen=True, slots=True)
class Marks:
    """One tunnel's numbers."""

    own: int
    """The firewall mark of its own sockets."""

    bypass: int
    """The firewall mark of packets that shall pass it by."""

    reply: int
    """The firewall mark of packets that answer what came in by it."""

    table: int
    """Its routing table, in `mark` mode."""

    preference: int
    """The first of the ten preferences that its policy rules may have."""

    def has(self, rule: Rule) -> bool:
        """Whether *rule*, which is sevpn's, is this tunnel's."""
        return 0 <= rule.preference - self.preference < _PREFERENCES

    @classmethod
    def of(cls, slot: int, own: int | None = None) -> Marks:
        """Return the numbers of a slot.

        Args:
            slot: From 0 to :data:`MAX_SLOTS` - 1.
            own: Another mark than the slot's.
        """
        number = _BASE + _STEP * slot
        return cls(
            own=number if own is None else own,
            bypass=BYPASS_MARK,
            reply=number + 2,
            table=number,
            preference=_FIRST_PREFERENCE + _PREFERENCES * slot,
        )


def check_numbers(*, mark: int | None, table: int | None) -> None:
    """Refuse numbers of the user's choice that are those of sevpn's own tunnels.

    Args:
        mark: `--mark`.
        table: `--policy-route-table`.

    Raises:
        ConfigError: One is.
    """
    last = _BASE + _STEP * MAX_SLOTS - 1
    if mark is not None and _BASE <= mark <= last:
        raise ConfigError(
            f"the mark {mark:#x} ({mark}) is of those that sevpn gives its tunnels itself, {_BASE:#x} to {last:#x}: "
            "choose another --mark, or leave it out"
        )
    if table is not None and _BASE <= table <= last:
        raise ConfigError(
            f"the table {table} is of those that sevpn's tunnels use themselves, {_BASE} to {last}: "
            "choose another --policy-route-table"
        )


def free_slot(taken: Collection[int]) -> int:
    """Return the smallest slot that is not among *taken*; with all taken, the last."""
    return next((slot for slot in range(MAX_SLOTS) if slot not in taken), MAX_SLOTS - 1)


def slot_of_table(table: int) -> int | None:
    """Return the slot whose table *table* is; `None`: that of none."""
    slot, rest = divmod(table - _BASE, _STEP)
    return slot if rest == 0 and 0 <= slot < MAX_SLOTS else None


def slot_of_rule(rule: Rule) -> int | None:
    """Return the slot whose rule *rule* is; `None`: that of none."""
    slot = (rule.preference - _FIRST_PREFERENCE) // _PREFERENCES
    return slot if 0 <= slot < MAX_SLOTS else None


def set_mark(sock: socket.socket, mark: int) -> None:
    """Give the packets of *sock* the firewall mark *mark*.

    Raises:
        OSError: Without CAP_NET_ADMIN (from Linux 5.17 on CAP_NET_RAW will do).
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
