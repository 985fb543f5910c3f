# SPDX-License-Identifier: Apache-2.0
"""Clocks that do what a test wants: one stands still, one jumps.

Layer: testing. Runs in: any thread.
"""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["JumpingLoop", "VirtualClock"]


class VirtualClock:
    """Stands in for every `Callable[[], float]` that tells the monotonic time.

    Args:
        now: Seconds that it shows first.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        """Seconds that it shows; assign it to jump, backwards too."""

    def __call__(self) -> float:
        """Return :attr:`now`."""
        return self.now

    def advance(self, duration_s: float) -> float:
        """Let time pass, and return the new time."""
        self.now += duration_s
        return self.now


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop on which waiting takes no time: its clock jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 1000.0
        """Seconds that its clock shows."""

    def time(self) -> float:
        """Return :attr:`at`."""
        return self.at

    def _run_once(self) -> None:
        # asyncio has no public place to look at the timers before it waits.
        loop: Any = self
        if not loop._ready and loop._scheduled:  # noqa: SLF001 - likewise
            self.at = max(self.at, loop._scheduled[0].when())  # noqa: SLF001
        parent: Any = super()
        parent._run_once()  # noqa: SLF001
