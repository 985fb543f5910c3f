# SPDX-License-Identifier: Apache-2.0
"""The timers of a session, over all its connections.

Layer: protocol; pure. Runs in: the data thread, or the embedded server's loop.

A session is one login; it has 1 to 32 connections, which come and go:

                      added()                       removed(), or silent
    ┌───────────┐ ─────────────────> ┌───────────┐ ─────────────────────> ┌───────────┐
    │ none open │                    │ some open │                        │ none open │
    └─────┬─────┘ <───────────────── └─────┬─────┘ <───────────────────── └─────┬─────┘
          │           removed()            │              added()               │
          └───────── nothing heard on any connection for timeout_s ────────────>┤
                                                                              ended

A session outlives its last connection for a time-out, as it does on the server,
so that a later connection may join it again. Whether to wait for that is the
caller's business.

Source: docs/reference/protocol-data.md#timeouts; SoftEtherVPN,
Cedar/Session.c, SessionMain().
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sevpn.errors import Failure, LocalProtocolError, SilenceError
from sevpn.protocol.connection import Connection

__all__ = ["Action", "CloseConnection", "EndSession", "SendKeepAlive", "SessionTimers"]


@dataclass(frozen=True, slots=True)
class SendKeepAlive:
    """A keep-alive is due."""

    connection: int
    """On this connection."""


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """A connection is dead while the session lives; it is forgotten already."""

    connection: int
    """This one."""

    error: SilenceError
    """Why, for the log."""


@dataclass(frozen=True, slots=True)
class EndSession:
    """The session is dead, with all its connections; the timers are stopped."""

    error: SilenceError
    """Why, for people."""


Action = SendKeepAlive | CloseConnection | EndSession
"""What a deadline asks for."""


class SessionTimers:
    """Keep-alives and silence of one session.

    Deadlines that are handled late, early or twice do no harm.

    Args:
        timeout_s: The time-out of the Welcome, in seconds.
        now: When the session began.
    """

    def __init__(self, *, timeout_s: float, now: float) -> None:
        self._timeout_s = timeout_s
        self._heard_at = now
        self._connections: dict[int, Connection] = {}
        self._is_over = False

    @property
    def connections(self) -> tuple[int, ...]:
        """The connections that are open, oldest first."""
        return tuple(self._connections)

    def added(
        self,
        number: int,
        now: float,
        *,
        may_send: bool = True,
        may_receive: bool = True,
    ) -> None:
        """A connection joins; its first keep-alive is due at once.

        Args:
            number: The caller's name for it.
            now: When its handshake ended.
            may_send: Whether this end sends on it.
            may_receive: Whether this end receives on it.

        Raises:
            LocalProtocolError: The number is in use, or the session is over.
        """
        if self._is_over or number in self._connections:
            raise LocalProtocolError(
                f"connection {number} cannot join: the number is in use or the session is over"
            )
        self._connections[number] = Connection(
            number,
            now=now,
            timeout_s=self._timeout_s,
            may_send=may_send,
            may_receive=may_receive,
        )
        self._heard_at = max(self._heard_at, now)

    def removed(self, number: int) -> None:
        """A connection is gone; an unknown number is one that was forgotten earlier."""
        self._connections.pop(number, None)

    def received(self, number: int, now: float) -> None:
        """Complete items came in on a connection; an unknown number is ignored."""
        connection = self._connections.get(number)
        if connection is not None:
            connection.received(now)
            self._heard_at = now

    def sent(self, now: float) -> None:
        """Items went out; on a server that keeps a session alive too, though no connection."""
        self._heard_at = max(self._heard_at, now)

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` wants to be called; infinity when it is over."""
        if self._is_over:
            return math.inf
        deadlines = [
            connection.next_deadline() for connection in self._connections.values()
        ]
        return min([self._heard_at + self._timeout_s, *deadlines])

    def handle_deadline(self, now: float) -> list[Action]:
        """Return what is due at *now*, keep-alives in the order of the connections."""
        if self._is_over:
            return []
        if now >= self._heard_at + self._timeout_s:
            self._is_over = True
            self._connections.clear()
            return [EndSession(self._silence("the session was given up"))]
        actions: list[Action] = []
        for number, connection in tuple(self._connections.items()):
            if connection.is_silent(now):
                del self._connections[number]
                actions.append(
                    CloseConnection(
                        number, self._silence(f"connection {number} was given up")
                    )
                )
            elif connection.take_keepalive(now):
                actions.append(SendKeepAlive(number))
        return actions

    def _silence(self, consequence: str) -> SilenceError:
        return SilenceError(
            f"the server sent nothing for {self._timeout_s:g} s: {consequence}",
            failure=Failure.TEMPORARY,
        )
