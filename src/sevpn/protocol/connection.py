# SPDX-License-Identifier: Apache-2.0
"""One connection of a session after its handshake: which way it goes, and its clocks.

Layer: protocol; pure. Runs in: the data thread, or the embedded server's loop.

A connection carries frames both ways or, in a half-duplex session, one way
only. Who may send on it sends keep-alives; who may receive on it gives it up
after a silence:

    added ──> open ──keepalive_at──> open      the next one is due an interval later
                │ ^
                │ └──received()── silent_at moves on
                └──silent_at──> silent         for good: close it and forget it

Only complete items count as heard: a peer that trickles bytes inside one block
is as good as silent. Keep-alives go out on a fixed schedule, whatever else is
sent, so that the peer hears one even behind a stream of frames that it drops.

Source: docs/reference/protocol-data.md#timeouts; SoftEtherVPN,
Cedar/Connection.c, ConnectionReceive(), ConnectionSend() and SendKeepAlive().
"""

from __future__ import annotations

import math
from typing import Final

from sevpn.errors import LocalProtocolError

__all__ = ["MAX_KEEPALIVE_INTERVAL_S", "Connection", "keepalive_interval_s"]

MAX_KEEPALIVE_INTERVAL_S: Final = 3.0
"""Seconds between keep-alives: our own choice, shorter than the official 4 to 10.

It bounds how long a one-way burst may hang in a server that sleeps.
"""


def keepalive_interval_s(timeout_s: float) -> float:
    """Return the seconds between two keep-alives of a session with that time-out."""
    return min(MAX_KEEPALIVE_INTERVAL_S, timeout_s / 3)


class Connection:
    """The clocks of one connection.

    Args:
        number: The caller's name for it, unique in its session.
        now: When its handshake ended; the first keep-alive is due at once.
        timeout_s: The session's time-out in seconds, over 0.
        may_send: Whether this end sends on it.
        may_receive: Whether this end receives on it.

    Raises:
        LocalProtocolError: It carries nothing, or the time-out is no duration.
    """

    def __init__(
        self,
        number: int,
        *,
        now: float,
        timeout_s: float,
        may_send: bool = True,
        may_receive: bool = True,
    ) -> None:
        if not (may_send or may_receive):
            raise LocalProtocolError(
                f"connection {number} may neither send nor receive"
            )
        if not (timeout_s > 0 and math.isfinite(timeout_s)):
            raise LocalProtocolError(
                f"a session time-out of {timeout_s} s is no duration"
            )
        self.number = number
        """The caller's name for it."""
        self.may_send = may_send
        """Whether this end sends on it."""
        self.may_receive = may_receive
        """Whether this end receives on it."""
        self._timeout_s = timeout_s
        self._interval_s = keepalive_interval_s(timeout_s)
        self._keepalive_at = now if may_send else math.inf
        self._silent_at = now + timeout_s if may_receive else math.inf

    def received(self, now: float) -> None:
        """Note that a complete block or keep-alive came in, or an empty batch."""
        if self.may_receive:
            self._silent_at = now + self._timeout_s

    def next_deadline(self) -> float:
        """Return when something is due next; never infinite, for one way at least is open."""
        return min(self._keepalive_at, self._silent_at)

    def is_silent(self, now: float) -> bool:
        """Say whether the peer has been silent for the whole time-out."""
        return now >= self._silent_at

    def take_keepalive(self, now: float) -> bool:
        """Say whether a keep-alive is due, and if so, plan the next one.

        Keep-alives that were missed (the machine slept) are not made up for.
        """
        if now < self._keepalive_at:
            return False
        self._keepalive_at = now + self._interval_s
        return True
