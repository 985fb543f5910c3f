# SPDX-License-Identifier: Apache-2.0
"""Tells when the network of this host, or its packet filter, has changed.

Layer: net. Runs in: the event loop of the control thread; its own netlink socket.

    event ── 10 ms ── callback ── rest    of links, addresses, routes and rules
    event ── 10 ms ── callback            of the packet filter

Further events in between count as one.

The events themselves are not looked at: the kernel removes IPv4 routes without
telling when an address or a link goes, so a mirror of its tables would be wrong.
Whoever is called asks. A full queue (ENOBUFS) is an event, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import socket
from collections.abc import Callable
from typing import Final, NamedTuple

from sevpn.errors import HostError
from sevpn.log import get_logger

__all__ = ["NETWORK", "PACKET_FILTER", "Monitor", "Subject", "rest_after"]

log = get_logger(__name__)

_COALESCE_S: Final = 0.01
"""A flush and the load behind it are one change. An uplink that comes or goes makes a
dozen events within some 100 ms; each look may be the one that lets a tunnel follow."""

_NETLINK_NETFILTER: Final = 12
_GROUP_NFTABLES: Final = 1 << (7 - 1)
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x40000
"""RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, and
IPV6_RULE, which has no name of that kind."""

_REST: Final = 5.0
"""Owed after a callback, so many times what it took: where tables are large and never hold
still, as on a router with BGP, looking at them must not fill a processor."""

_MAX_REST_S: Final = 5.0

_ALLOWANCE_S: Final = 0.3
"""Rest that may be owed: a transition takes several looks, and none of them may wait."""


class Subject(NamedTuple):
    """What can be watched."""

    name: str
    """As messages call it."""

    protocol: int
    """Of netlink."""

    groups: int
    """Whose events are asked for."""

    rests: bool
    """Whether there is a rest after a callback."""


NETWORK: Final = Subject("the network", socket.NETLINK_ROUTE, _GROUPS, rests=True)
"""Links, addresses, routes and rules."""

PACKET_FILTER: Final = Subject(
    "the packet filter", _NETLINK_NETFILTER, _GROUP_NFTABLES, rests=False
)
"""Rulesets. While we wait, nothing is held, which is why nobody rests."""

_DRAIN_COUNT: Final = 256
"""Datagrams read in one go; the loop comes back for the rest."""


def rest_after(took_s: float) -> float:
    """Return how much rest a callback costs that took so long."""
    return min(_REST * took_s, _MAX_REST_S)


class Monitor:
    """Watches something of the current network namespace.

    Args:
        callback: Called on the event loop, some ms after the first event, of whomever.
        subject: What is watched.
    """

    def __init__(
        self, callback: Callable[[], None], subject: Subject = NETWORK
    ) -> None:
        self._subject = subject
        self._callback = callback
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._rests_until = -math.inf

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Begin, in the network namespace of the calling thread; anew if it was begun.

        Args:
            loop: Where the callback is called; the running one, if omitted. From a
                thread other than the loop's, while the loop waits for it.

        Raises:
            HostError: No netlink.
        """
        self.stop()
        with contextlib.ExitStack() as stack:
            try:
                sock = stack.enter_context(
                    socket.socket(
                        socket.AF_NETLINK,
                        socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                        self._subject.protocol,
                    )
                )
                sock.bind((0, self._subject.groups))
            except OSError as error:
                raise HostError(
                    f"cannot watch {self._subject.name}: {os.strerror(error.errno or 0)}",
                    operation="watch",
                ) from error
            stack.pop_all()
        self._socket = sock
        self._loop = asyncio.get_running_loop() if loop is None else loop
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

    def again_in(self, delay_s: float) -> None:
        """Call in *delay_s* seconds even if nothing changes until then."""
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(delay_s, self._fire)

    def _on_readable(self) -> None:
        if self._socket is None or self._loop is None:
            return
        for _ in range(_DRAIN_COUNT):
            try:
                self._socket.recv(1)  # the rest of the datagram is thrown away with it
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # events were lost, others come
                    log.warning("cannot read what changed; looking again", cause=error)
                    break
        if self._timer is None:
            rest_s = self._rests_until - _ALLOWANCE_S - self._loop.time()
            delay_s = max(_COALESCE_S, rest_s)
            self._timer = self._loop.call_later(delay_s, self._fire)

    def _fire(self) -> None:
        assert self._loop is not None, "it was started"
        self._timer = None
        began_at = self._loop.time()
        try:
            self._callback()
        finally:
            now = self._loop.time()
            if self._subject.rests:
                rest_s = rest_after(now - began_at)
                self._rests_until = max(self._rests_until, now) + rest_s
