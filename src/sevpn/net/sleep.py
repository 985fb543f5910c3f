# SPDX-License-Identifier: Apache-2.0
"""Tells that this machine has slept.

Layer: net. Runs in: the event loop of the control thread.

    CLOCK_BOOTTIME   goes on while the machine sleeps
    CLOCK_MONOTONIC  stands still meanwhile, and so do the event loop's timers

What their difference grows by between two looks is time slept. A look is taken

    every 5 s        by a timer on the clock that goes on: overdue when the machine
                     wakes, so it fires at once then
    when told so     `PrepareForSleep` of systemd-logind, where there is a system bus

and whenever somebody asks for one (:meth:`SleepWatch.look`).

Source: timerfd_create(2), clock_gettime(2); org.freedesktop.login1(5).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import time
from collections.abc import Callable
from typing import Final

from sevpn.errors import HostError
from sevpn.log import get_logger
from sevpn.net.bus import Signals, has_system_bus

__all__ = ["LEAST_S", "SleepWatch"]

log = get_logger(__name__)

LEAST_S: Final = 1.0
"""Less is none: the two clocks are read one after the other."""

_EVERY_S: Final = 5
_TIMERSPEC: Final = struct.Struct("=qqqq")
"""Interval and first time, in seconds and nanoseconds each."""

_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC

_LOGIND: Final = (
    "type='signal',sender='org.freedesktop.login1',path='/org/freedesktop/login1',"
    "interface='org.freedesktop.login1.Manager',member='PrepareForSleep'"
)


def _time_slept() -> float:
    """Return how long this machine has slept since it was started, in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(
        time.CLOCK_MONOTONIC
    )


class SleepWatch:
    """Watches for sleep from :meth:`start` to :meth:`stop`.

    Args:
        callback: Called on the event loop with the seconds slept, after each sleep.
        time_slept: Returns the seconds slept since some moment in the past.
        every_s: Between two looks.
    """

    def __init__(
        self,
        callback: Callable[[float], None],
        *,
        time_slept: Callable[[], float] = _time_slept,
        every_s: int = _EVERY_S,
    ) -> None:
        self._every_s = every_s
        self._callback = callback
        self._time_slept = time_slept
        self._before_s = time_slept()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer = -1
        self._signals: Signals | None = None

    def start(self) -> None:
        """Begin, on the running event loop.

        Raises:
            HostError: The kernel has no such timer.
        """
        self._before_s = self._time_slept()
        self._loop = asyncio.get_running_loop()
        self._timer = _timer_on_boottime(self._every_s)
        self._loop.add_reader(self._timer, self._on_timer)
        if has_system_bus():
            try:
                self._signals = Signals(_LOGIND)
            except HostError as error:
                log.debug("logind is not listened to", cause=error)
            else:
                self._loop.add_reader(self._signals.fileno(), self._on_signal)

    def stop(self) -> None:
        """End; safe to call again. The callback is not called any more."""
        if self._loop is None:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(self._timer)
        os.close(self._timer)
        self._stop_signals()
        self._loop = None

    def look(self) -> None:
        """Call the callback if the machine has slept since the last look."""
        now_s = self._time_slept()
        slept_s, self._before_s = now_s - self._before_s, now_s
        if slept_s >= LEAST_S:
            self._callback(slept_s)

    def _on_timer(self) -> None:
        try:
            os.read(self._timer, 8)
        except BlockingIOError:
            return
        self.look()

    def _on_signal(self) -> None:
        assert self._signals is not None, "it is read while it is there"
        try:
            self._signals.read()
        except HostError as error:
            log.debug("logind is not listened to any more", cause=error)
            self._stop_signals()
        self.look()

    def _stop_signals(self) -> None:
        if self._signals is None:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._signals.fileno())
        self._signals.close()
        self._signals = None


def _timer_on_boottime(every_s: int) -> int:
    """Return the descriptor of a timer that counts the time asleep, too.

    `os.timerfd_create` exists from Python 3.13 on.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    timer: int = libc.timerfd_create(time.CLOCK_BOOTTIME, _FLAGS)
    if timer < 0:
        raise _no_timer(ctypes.get_errno())
    spec = ctypes.create_string_buffer(_TIMERSPEC.pack(every_s, 0, every_s, 0))
    if libc.timerfd_settime(timer, 0, spec, None) != 0:
        number = ctypes.get_errno()
        os.close(timer)
        raise _no_timer(number)
    return timer


def _no_timer(number: int) -> HostError:
    return HostError(
        f"the kernel has no timer that goes on while the machine sleeps: {os.strerror(number)}",
        operation="watch-sleep",
    )
