# SPDX-License-Identifier: Apache-2.0
"""TCP to the first of several addresses that answers: happy eyeballs.

Layer: transport. Runs in: the control thread, on the event loop.

An attempt is begun for the first address; whenever an attempt fails, or 250 ms
have passed without an answer, the next one begins beside those under way. The
first to succeed wins, the others are closed:

    address 1  ───────────────────────x refused
    address 2  . . . . . ──────────────────> connected, wins
    address 3  . . . . . . . . . . . . . ──x closed

Source: RFC 8305 section 5.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address
from typing import Final

from sevpn.errors import DialError
from sevpn.transport.resolve import Address

__all__ = ["STAGGER_S", "dial"]

STAGGER_S: Final = 0.25
"""Between the beginnings of two attempts; RFC 8305 section 8."""

_NOTSENT_LOWAT: Final = 128 * 1024
"""Bytes that may wait unsent in the kernel: enough to keep the path full, few enough
that what is urgent need not wait long (docs/reference/protocol-data.md#back-pressure)."""

_TCP_NOTSENT_LOWAT: Final = 25

_SEND_BUFFER: Final = 16 * 1024 * 1024
"""Bytes that may be under way unacknowledged: 500 Mbit/s over 250 ms. Linux allows a
socket 4 MiB by itself, which bounds 100 ms to 250 Mbit/s (docs/explanation/performance.md).
What is unsent is bounded above, so that this adds no delay."""

_SO_SNDBUFFORCE: Final = 32
"""Beyond net.core.wmem_max; needs CAP_NET_ADMIN, which `up` has and `exec` has not."""

_REASONS: Final = {
    errno.ECONNREFUSED: "refused",
    errno.ETIMEDOUT: "no answer",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ENETUNREACH: "no route",
    errno.EACCES: "blocked by this host's firewall",
    errno.EPERM: "blocked by this host's firewall",
    errno.EADDRNOTAVAIL: "no address of that family here",
    errno.EAFNOSUPPORT: "no address of that family here",
}


async def dial(
    addresses: Sequence[Address],
    port: int,
    *,
    host: str,
    prepare: Callable[[socket.socket], None] = lambda _: None,
) -> tuple[socket.socket, Address]:
    """Connect to the first of *addresses* that answers.

    Args:
        addresses: In the order in which to try them; at least one.
        port: TCP port.
        host: What the user calls it, for the error.
        prepare: Called with each socket before it connects, to mark or bind it.

    Returns:
        A connected, non-blocking socket, which the caller owns, and its address.

    Raises:
        DialError: None answered; each is named with its reason. There is no
            deadline here: cancel the call. No socket stays open then, either.
    """
    race = _Race(host, port, prepare)
    with contextlib.ExitStack() as undo:
        try:
            winner = await race.run(addresses)
            undo.callback(winner[0].close)
        finally:
            await race.end()  # may be cancelled, too
        undo.pop_all()
    return winner


class _Race:
    """The attempts under way."""

    def __init__(
        self, host: str, port: int, prepare: Callable[[socket.socket], None]
    ) -> None:
        self._host = host
        self._port = port
        self._prepare = prepare
        self._runners: dict[asyncio.Task[socket.socket], Address] = {}
        self._failures: list[str] = []

    async def run(self, addresses: Sequence[Address]) -> tuple[socket.socket, Address]:
        waiting = list(addresses)
        while waiting or self._runners:
            if waiting:
                self._start(waiting.pop(0))
            winner = await self._wait(STAGGER_S if waiting else None)
            if winner is not None:
                return winner
        raise DialError(
            f"{self._host} port {self._port} cannot be reached ({'; '.join(self._failures)}): "
            "check server, port, and the firewalls between"
        )

    async def end(self) -> None:
        """Close all attempts; one that connected at this very moment, too."""
        for task in self._runners:
            task.cancel()
        for result in await asyncio.gather(*self._runners, return_exceptions=True):
            if isinstance(result, socket.socket):
                result.close()

    def _start(self, address: Address) -> None:
        self._runners[asyncio.ensure_future(self._attempt(address))] = address

    async def _wait(
        self, patience_s: float | None
    ) -> tuple[socket.socket, Address] | None:
        """Wait for one attempt to end; return it if it won."""
        done, _ = await asyncio.wait(
            self._runners, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            error = task.exception()
            if error is None:
                address = self._runners.pop(task)
                return task.result(), address
            if not isinstance(error, OSError):
                raise error
            self._failures.append(f"{self._runners.pop(task)} {_reason(error)}")
        return None

    async def _attempt(self, address: Address) -> socket.socket:
        family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        with contextlib.ExitStack() as undo:
            undo.callback(sock.close)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _NOTSENT_LOWAT)
            with contextlib.suppress(PermissionError):
                sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
            self._prepare(sock)
            await asyncio.get_running_loop().sock_connect(
                sock, _endpoint(address, self._port)
            )
            undo.pop_all()
        return sock


def _endpoint(
    address: Address, port: int
) -> tuple[str, int] | tuple[str, int, int, int]:
    if not isinstance(address, IPv6Address):
        return str(address), port
    plain = str(address).partition("%")[0]
    return plain, port, 0, _scope(address.scope_id)


def _scope(zone: str | None) -> int:
    """Return the number of the interface that *zone* names.

    Raises:
        OSError: There is none.
    """
    if zone is None:
        return 0
    try:
        number = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
    except ValueError:  # a NUL, or thousands of digits
        number = -1
    if not 0 <= number < 1 << 32:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    return number


def _reason(error: OSError) -> str:
    number = error.errno or 0
    return _REASONS.get(number) or (os.strerror(number) if number else str(error))
