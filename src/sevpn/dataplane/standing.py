# SPDX-License-Identifier: Apache-2.0
"""Tells when a queue that never empties is to lose a frame.

Layer: dataplane. Runs in: the data thread. No clock of its own.

What the host sends faster than the connection takes it waits at the TAP, whose
ring holds a thousand packets and drops nothing before it is full: megabytes, and on a
slow path seconds. A burst may wait; a queue that has not been empty for a while
is delay for everybody and good for nothing. TCP makes room when it loses a frame:

              waits(now)                   100 ms without empty()
    ┌───────┐ ──────────> ┌──────────────┐ ─────────────────────> ┌──────────┐
    │ empty │             │ perhaps only │                        │ standing │ one frame now,
    │       │ <────────── │ a burst      │        empty()         │          │ then ever sooner
    └───────┘   empty()   └──────────────┘ <───────────────────── └──────────┘

It is CoDel's law (RFC 8289), with "was it ever empty" in place of the time that a
frame has waited, which nobody can tell of the TAP.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["INTERVAL_S", "StandingQueue"]

INTERVAL_S: Final = 0.1
"""How long a queue may stand: the round trip of a long path (RFC 8289 section 4.3)."""

_MEMORY_S: Final = 16 * INTERVAL_S
"""A queue that stands again so soon is not given as much time as the first."""


class StandingQueue:
    """One queue, as it is seen from its lower end."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._drop_at = math.inf
        self._count = 0
        self._last_drop_at = -math.inf

    def empty(self) -> None:
        """Note that nothing waits."""
        self._since = None
        self._drop_at = math.inf

    def waits(self, now: float) -> bool:
        """Note that something waits that cannot go on; return whether to drop a frame now."""
        if self._since is None:
            self._since = now
            self._drop_at = now + INTERVAL_S
            is_old = now - self._last_drop_at > _MEMORY_S
            self._count = 0 if is_old else max(0, self._count - 2)
            return False
        if now < self._drop_at:
            return False
        self._count += 1
        self._last_drop_at = now
        self._drop_at = now + INTERVAL_S / math.sqrt(self._count)
        return True
