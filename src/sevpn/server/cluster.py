# SPDX-License-Identifier: Apache-2.0
"""A cluster of embedded servers: a controller that redirects, members that take tickets.

Layer: server. Runs in: the event loop.

    client ── login ──> controller ── ticket, address, certificate ──> client
                             └─ the ticket is told to the member         │
                                       member <── login with the ticket ─┘

A ticket logs in once, within a minute.

Source: docs/reference/protocol.md#redirect; SoftEtherVPN, Cedar/Protocol.c,
ServerAccept().
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from sevpn.protocol.messages import (
    AuthType,
    LoginRequest,
    Redirect,
    encode_redirect,
)
from sevpn.wire.pack import Pack

__all__ = ["Cluster", "Member"]

_TICKET_SIZE: Final = 20
_TICKET_LIFE_S: Final = 60.0
_MAX_TICKETS: Final = 4096


@dataclass(frozen=True, slots=True)
class Member:
    """Where a controller sends its logins."""

    address: IPv4Address | IPv6Address
    """The member's address."""

    port: int
    """Its TCP port."""

    certificate: bytes = field(repr=False)
    """What it is said to present (DER)."""

    expect: Callable[[bytes, str], None] = field(repr=False)
    """Tells it of a ticket, and whose it is."""


class Cluster:
    """One server's part in a cluster; at first it stands alone."""

    def __init__(self) -> None:
        self.member: Member | None = None
        """Who gets the logins that succeed; nobody else if None."""
        self._tickets: dict[bytes, tuple[str, float]] = {}

    def redirect(self, user: str, message: str) -> Pack:
        """Return the answer that sends a login of *user* to the member."""
        assert self.member is not None, "who asks has looked"
        ticket = secrets.token_bytes(_TICKET_SIZE)
        self.member.expect(ticket, user)
        return encode_redirect(
            Redirect(
                address=self.member.address,
                ports=(self.member.port,),
                ticket=ticket,
                certificate=self.member.certificate,
                message=message,
            )
        )

    def expect(self, ticket: bytes, user: str, now: float) -> None:
        """Take a ticket of *user* for a minute; beyond thousands the oldest are forgotten."""
        if len(self._tickets) >= _MAX_TICKETS:
            del self._tickets[next(iter(self._tickets))]
        self._tickets[ticket] = (user, now + _TICKET_LIFE_S)

    def redeem(self, login: LoginRequest, now: float) -> str | None:
        """Return whose ticket a Login shows, and forget it; None if it shows none that counts."""
        if login.auth_type != AuthType.TICKET:
            return None
        user, ends_at = self._tickets.pop(login.ticket, (None, 0.0))
        return user if now < ends_at else None
