# SPDX-License-Identifier: Apache-2.0
"""Tells when the network of this host has changed.

Layer: net. Runs in: the event loop of the control thread; its own netlink socket.

    event ── 150 ms ── callback        further events in between count as one

The events themselves are not looked at: the kernel removes IPv4 routes without
telling when an address or a link goes, so a mirror of its tables would be wrong.
Whoever is called asks. A full queue (ENOBUFS) is an event, too.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Final

from sevpn.errors import HostError

__all__ = ["COALESCE_S", "Monitor"]

COALESCE_S: Final = 0.15
"""An uplink that comes or goes makes a dozen events within some 100 ms."""

_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE."""

_DRAIN_COUNT: Final = 256
"""Datagrams read in one go; the loop comes back for the rest."""


class Monitor:
    """Watches links, addresses and routes of the current network namespace.

    Args:
        callback: Called on the event loop, 150 ms after the first event.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, on the running event loop.

        Raises:
            HostError: No netlink.
        """
        sock = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            socket.NETLINK_ROUTE,
        )
        try:
            sock.bind((0, _GROUPS))
        except OSError as error:
            sock.close()
            raise HostError(
                f"cannot watch the network: {os.strerror(error.errno or 0)}",
                operation="watch",
            ) from error
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._on_readable)

    def stop(self) -> None:
        """End; safe to call again. The callback is not called any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None and self._loop is not None:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _on_readable(self) -> None:
        if self._socket is None or self._loop is None:
            return
        for _ in range(_DRAIN_COUNT):
            try:
                self._socket.recv(1)  # the rest of the datagram is thrown away with it
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
        if self._timer is None:
            self._timer = self._loop.call_later(COALESCE_S, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._callback()
