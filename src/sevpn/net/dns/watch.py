# SPDX-License-Identifier: Apache-2.0
"""Tells when somebody else may have changed this host's name servers.

Layer: net. Runs in: the event loop of the control thread; one inotify descriptor.

    event ── 150 ms ── callback        further events in between count as one

What happened is not looked at; whoever is called looks at the files. Our own
writes are events, too. Paths that do not exist yet are tried again after each
event: a folder such as /run/systemd/resolve comes and goes with its daemon. A
file that is a mount point of its own says nothing to the watch of its folder, so
it is watched by itself, and again by its new number when it was replaced.

Source: inotify(7).
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from sevpn.errors import HostError

__all__ = ["COALESCE_S", "Watcher"]

COALESCE_S: Final = 0.15
"""A resolver's scripts write several files within some ten milliseconds."""

# IN_MODIFY, IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE, IN_DELETE_SELF
_MASK: Final = 0x2 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400
_DONT_FOLLOW: Final = 0x02000000
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC
_READ_SIZE: Final = 1 << 16


class Watcher:
    """Watches files and folders.

    Args:
        paths: Which; they need not exist.
        callback: Called on the event loop, 150 ms after the first event.
    """

    def __init__(self, paths: Iterable[Path], callback: Callable[[], None]) -> None:
        self._paths = tuple(dict.fromkeys(paths))
        self._callback = callback
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = -1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Begin.

        Args:
            loop: Where the callback is called; the running one, if omitted. From a
                thread other than the loop's, while the loop waits for it.

        Raises:
            HostError: The kernel gives no inotify (its limit for this user).
        """
        descriptor: int = self._libc.inotify_init1(_FLAGS)
        if descriptor < 0:
            reason = os.strerror(ctypes.get_errno())
            raise HostError(
                f"cannot watch the name servers: {reason}; see fs.inotify.max_user_instances",
                operation="watch",
            )
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop() if loop is None else loop
        self.look_again()
        self._loop.add_reader(descriptor, self._on_readable)

    def stop(self) -> None:
        """End; safe to call again. The callback is not called any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._descriptor >= 0:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def again_in(self, delay_s: float) -> None:
        """Call the callback in *delay_s* seconds, whatever happens, unless it comes before."""
        if self._descriptor >= 0 and self._loop is not None and self._timer is None:
            self._timer = self._loop.call_later(delay_s, self._fire)

    def look_again(self) -> None:
        """Watch what has come to be there since."""
        # The same file again is no second watch.
        for path in self._paths:
            self._libc.inotify_add_watch(
                self._descriptor,
                os.fsencode(path),
                ctypes.c_uint32(_MASK | _DONT_FOLLOW),
            )

    def _on_readable(self) -> None:
        try:
            os.read(self._descriptor, _READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EINTR:
                raise
        self.look_again()
        if self._loop is not None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(COALESCE_S, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._callback()
