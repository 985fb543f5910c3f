# SPDX-License-Identifier: Apache-2.0
"""What crosses from other threads into the data thread: orders and frames.

Layer: dataplane. Runs in: `order`, `inject` and `ring` in any thread but the
data thread, `inject` and `ring` there too; the rest in the data thread.

    control thread                    Mailbox                    data thread
    order(f) ── waits ─────> orders ──────────────────────> carry_out_orders()
             <─ result, or what f raised ────────────────────────┘
    inject(frames) ────────> frames, at most 256 ─────────> take_frames()
    ring() ────────────────> bell, an eventfd ────────────> fileno(), in its epoll
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from sevpn.errors import LocalProtocolError
from sevpn.wire.block import MAX_FRAME_SIZE, MIN_FRAME_SIZE

__all__ = ["MAX_WAITING_FRAMES", "Mailbox"]

MAX_WAITING_FRAMES: Final = 256
"""Frames that may wait: our own choice, far more than all our machines say at once."""

_ANSWER_S: Final = 5.0
"""How long an order may take before it is a bug: a turn of the pump is some milliseconds."""


@dataclass(slots=True)
class _Order:
    """Something to be done in the data thread, and how it went."""

    carry_out: Callable[[], None]
    done: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None


class Mailbox:
    """Orders and frames for the data thread, until it is closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._orders: deque[_Order] = deque()
        self._frames: list[bytes] = []
        self._refused_count = 0
        self._is_closed = False
        self.has_frames = False
        """Whether frames wait, or some were refused since :meth:`take_frames`."""

    # --- for other threads ---

    def order(self, carry_out: Callable[[], None]) -> bool:
        """Have the data thread call *carry_out*, and wait until it has.

        Returns:
            False if the mailbox is closed and nothing was done.

        Raises:
            LocalProtocolError: The data thread does not answer.
            Exception: Whatever *carry_out* raised.
        """
        order = _Order(carry_out)
        with self._lock:
            if self._is_closed:
                return False
            self._orders.append(order)
        self.ring()
        if not order.done.wait(_ANSWER_S):
            raise LocalProtocolError(
                f"the data thread did not answer within {_ANSWER_S:g} s"
            )
        if order.error is not None:
            raise order.error
        return True

    def inject(self, frames: Sequence[bytes]) -> None:
        """Leave frames to be sent; those that find no room are dropped and counted.

        Raises:
            LocalProtocolError: A frame is shorter than 14 or longer than 1600 bytes.
        """
        for frame in frames:
            if not MIN_FRAME_SIZE <= len(frame) <= MAX_FRAME_SIZE:
                raise LocalProtocolError(
                    f"a frame of {len(frame)} bytes was injected: 14 to 1600 fit"
                )
        with self._lock:
            room = MAX_WAITING_FRAMES - len(self._frames)
            self._frames += frames[:room]
            self._refused_count += len(frames[room:])
            self.has_frames = bool(self._frames or self._refused_count)
        self.ring()

    def ring(self) -> None:
        """Wake the data thread."""
        with self._lock:
            if not self._is_closed:
                os.eventfd_write(self._bell, 1)

    # --- for the data thread ---

    def fileno(self) -> int:
        """Return the bell: readable once somebody has rung."""
        return self._bell

    def hush(self) -> None:
        """Still the bell, before looking at what there is."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def carry_out_orders(self) -> None:
        """Do what has been ordered by now, in that order, and answer."""
        for _ in range(len(self._orders)):
            order = self._orders.popleft()
            try:
                order.carry_out()
            except Exception as error:  # noqa: BLE001 - raised again where it was ordered
                order.error = error
            order.done.set()

    def take_frames(self) -> tuple[list[bytes], int]:
        """Return the frames that wait, and how many were refused since the last call."""
        with self._lock:
            frames, refused = self._frames, self._refused_count
            self._frames, self._refused_count = [], 0
            self.has_frames = False
        return frames, refused

    def close(self) -> None:
        """Take nothing more; orders that still wait raise where they were given. Idempotent."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            os.close(self._bell)
        while self._orders:
            order = self._orders.popleft()
            order.error = LocalProtocolError("the data thread has ended")
            order.done.set()
