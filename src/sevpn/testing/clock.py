# SPDX-License-Identifier: Apache-2.0
"""A clock that stands still until a test moves it.

Layer: testing. Runs in: any thread.
"""

from __future__ import annotations

__all__ = ["VirtualClock"]


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
