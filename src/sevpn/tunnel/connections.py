# SPDX-License-Identifier: Apache-2.0
"""The connections of a session after the first: opened over time, kept, replaced.

Layer: tunnel. Runs in: the control thread, on the event loop. One keeper per session
that wants more than one connection.

    ConnectionPlan     pure: when is the next one opened, and when is it no use
    ConnectionKeeper   its shell: opens them, one at a time, and gives them to the pump

          ┌─────────┐ 0.2 s after the last one, 1 s after a loss ┌─────────┐
          │ waiting ├───────────────────────────────────────────>│ opening │
          └─────────┘<───────────────────────────────────────────┴────┬────┘
            ^    ^     opened; or failed: 1, 2, 4 … 30 s              │
       lost │    ├── enough are open                                  │
            │    └── or the server says 15: until one is lost, or its   │
            │        time-out is over                                  │
            └─────────────────────────────────────────────────        │
    error 13 or 14, another certificate, all lost at once ────────────┴──> given up

A session that is given up is logged in anew by who listens: that is all the healing
there is, because one server in wide use lets a session die of the end of one of its
connections and says nothing (docs/reference/protocol-data.md#one-end-of-several).

Source: docs/reference/protocol-data.md#connections; SoftEtherVPN, Cedar/Session.c,
ClientAdditionalConnectChance().
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from sevpn.errors import (
    CertificateError,
    ConnectionLostError,
    LocalProtocolError,
    RefusedError,
    SevpnError,
    SilenceError,
)
from sevpn.log import get_logger
from sevpn.protocol.codes import ServerError
from sevpn.protocol.joining import Direction
from sevpn.protocol.messages import MAX_CONNECTIONS, SessionOptions, Welcome
from sevpn.transport.stream import SecureStream
from sevpn.tunnel.opening import OpenedConnection

__all__ = [
    "ConnectionKeeper",
    "ConnectionPlan",
    "ConnectionSink",
    "KeeperListener",
    "connections_to_open",
    "session_options",
]

log = get_logger(__name__)

_PACE_S: Final = 0.2
"""Between two connections; servers set no limit: our own choice."""

_SETTLE_S: Final = 1.0
"""After a loss: what ends together ends within this time, and is not worth replacing."""

_MAX_DELAY_S: Final = 30.0
"""To which the delay after failures grows."""

_SHORT_LIVES: Final = 3
"""So many in a row that were added and lived less than a second, within 30 s."""

_ENDED: Final = frozenset({ServerError.SESSION_TIMEOUT, ServerError.INVALID_PROTOCOL})


def session_options(
    connections: int,
    *,
    is_half_duplex: bool,
    use_compress: bool = False,
    can_resume: bool = False,
    mode: Literal["client", "bridge", "monitor"] = "client",
) -> SessionOptions:
    """Return what a Login asks for so that *connections* are granted, and no more.

    QoS is asked for where it has enough connections: a server that grants it grants
    at least 2, and 4 with half duplex. A session that is to be taken up again asks for
    more than it wants, one for each direction, so that it can be joined while the
    server still lists all that are dead.
    """
    least = 2 if is_half_duplex else 1
    return SessionOptions(
        max_connections=min(
            max(connections, least) + (least if can_resume else 0),
            MAX_CONNECTIONS,
        ),
        half_connection=is_half_duplex,
        use_compress=use_compress,
        qos=connections >= 2 * least,
        mode=mode,
    )


def connections_to_open(connections: int, welcome: Welcome) -> int:
    """Return how many of the *connections* that are wanted the session can have."""
    least = 2 if welcome.half_connection else 1
    return min(max(connections, least), welcome.max_connections)


# --- what to do, and when ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Open:
    """One connection that is open."""

    direction: Direction
    since: float


class ConnectionPlan:
    """Decides when a connection is opened, and when the session is given up.

    The first connection is number 1, as it is for the pump.

    Args:
        wanted: Connections to have open, the first included.
        first: Which way the first one carries frames.
        timeout_s: After so many seconds the server forgets a connection that died
            without its knowledge.
        now: Seconds on a monotonic clock, as every *now*.
    """

    def __init__(
        self, *, wanted: int, first: Direction, timeout_s: float, now: float
    ) -> None:
        self._wanted = wanted
        self._timeout_s = timeout_s
        self._open = {1: _Open(first, now)}
        self._next_at = now
        self._full_until = -math.inf
        self._failures = 0
        self._losses_began_at = -math.inf
        self._losses = 0
        self._short_lives: deque[float] = deque(maxlen=_SHORT_LIVES)

    @property
    def is_futile(self) -> bool:
        """Whether connections that are added are ended at once, time and again."""
        return len(self._short_lives) == _SHORT_LIVES

    @property
    def next_attempt_at(self) -> float:
        """When to open another connection; infinite while none is wanted."""
        if len(self._open) >= self._wanted:
            return math.inf
        return max(self._next_at, self._full_until)

    def fits(self, direction: Direction) -> bool:
        """Say whether a connection of this direction leaves a way in both."""
        is_last = len(self._open) + 1 >= self._wanted
        directions = [direction, *(one.direction for one in self._open.values())]
        return not is_last or (
            any(one.carries_to_server for one in directions)
            and any(one.carries_to_client for one in directions)
        )

    def opened(self, number: int, direction: Direction, now: float) -> None:
        """Note a connection that is open now."""
        self._open[number] = _Open(direction, now)
        self._failures = 0
        self._next_at = now + _PACE_S

    def failed(self, error: SevpnError | None, now: float) -> SevpnError | None:
        """Note an attempt that came to nothing.

        Args:
            error: How it ended; None for a connection that did not fit.
            now: When.

        Returns:
            Why the session is to be given up; None if it is not.
        """
        if isinstance(error, CertificateError):
            return error
        if isinstance(error, RefusedError):
            if error.code in _ENDED:
                return error
            if error.code == ServerError.TOO_MANY_CONNECTION:
                # The server lists some of which it does not know yet that they are dead.
                self._full_until = now + self._timeout_s
        self._failures += 1
        self._next_at = now + _delay_s(self._failures)
        return None

    def lost(self, number: int, now: float) -> SevpnError | None:
        """Note the end of a connection, and return why the session is to be given up, if it is."""
        gone = self._open.pop(number, None)
        if gone is None:
            return None
        self._full_until = -math.inf  # there is room again
        if now - self._losses_began_at > _SETTLE_S:
            self._losses_began_at, self._losses = now, 0
        self._losses += 1
        self._judge_life(number, gone, now)
        self._next_at = max(self._next_at, now + _delay_s(len(self._short_lives) + 1))
        if self.is_futile:
            return ConnectionLostError(
                f"the server ended {_SHORT_LIVES} connections as soon as they had joined the session: "
                "logging in anew"
            )
        is_any_older = any(
            one.since < self._losses_began_at for one in self._open.values()
        )
        if self._losses > 1 and not is_any_older:
            return ConnectionLostError(
                "all connections of the session ended within a second: logging in anew"
            )
        return None

    def _judge_life(self, number: int, gone: _Open, now: float) -> None:
        """Count the connections in a row that were added in vain."""
        lives = self._short_lives
        while lives and now - lives[0] > _MAX_DELAY_S:
            lives.popleft()
        # One that was added since and lives shows that adding is not in vain.
        if lives and any(
            lives[-1] < one.since <= now - _SETTLE_S for one in self._open.values()
        ):
            lives.clear()
        if number != 1 and now - gone.since < _SETTLE_S:
            lives.append(now)


def _delay_s(failures: int) -> float:
    """Return the pause after so many failures in a row: 1, 2, 4 … 30 s."""
    return min(_SETTLE_S * 2.0 ** min(failures - 1, 10), _MAX_DELAY_S)


# --- doing it ----------------------------------------------------------------


class ConnectionSink(Protocol):
    """Who takes the connections: the pump."""

    def add(
        self,
        stream: SecureStream,
        *,
        leftover: bytes = b"",
        may_send: bool = True,
        may_receive: bool = True,
    ) -> int:
        """Take a connection and return its number; LocalProtocolError without a session."""
        ...


@dataclass(frozen=True, slots=True)
class KeeperListener:
    """Who wants to know of the connections."""

    opened: Callable[[int, Direction], None]
    """A connection joined: its number and direction."""

    failed: Callable[[SevpnError], None]
    """An attempt failed; there will be others."""

    lost: Callable[[int, SevpnError], None]
    """A connection ended while others live."""

    given_up: Callable[[SevpnError], None]
    """The session is no use any more; the keeper has ended."""


class ConnectionKeeper:
    """Keeps a session's connections open; see the module.

    Args:
        wanted: Connections to have open, the first included; over 1.
        first: Which way the first one carries frames.
        timeout_s: The session's, of the Welcome.
        open_one: Opens another connection of the session.
        sink: Takes it.
        listener: Hears of all that happens.
        clock: Seconds on the monotonic clock.
    """

    def __init__(
        self,
        *,
        wanted: int,
        first: Direction,
        timeout_s: float,
        open_one: Callable[[], Awaitable[OpenedConnection]],
        sink: ConnectionSink,
        listener: KeeperListener,
        clock: Callable[[], float],
    ) -> None:
        self._plan = ConnectionPlan(
            wanted=wanted, first=first, timeout_s=timeout_s, now=clock()
        )
        self._open_one = open_one
        self._sink = sink
        self._listener = listener
        self._clock = clock
        self._news = asyncio.Event()
        self._hears = asyncio.Event()
        self._speaks = asyncio.Event()
        self._note(first)
        self._task: asyncio.Task[None] | None = None
        self._is_over = False

    def start(self) -> None:
        """Begin; once."""
        self._task = asyncio.create_task(self._run())

    def close(self) -> None:
        """End; what is being opened is closed, what the sink has is left to it."""
        self._is_over = True
        if self._task is not None:
            self._task.cancel()

    def lost(self, number: int, error: SevpnError) -> None:
        """Hear from the sink that a connection ended."""
        if self._is_over:
            return
        self._listener.lost(number, error)
        self._heed(self._plan.lost(number, self._clock()))
        self._news.set()

    @property
    def is_futile(self) -> bool:
        """Whether the session is given up because whatever joins it is ended at once."""
        return self._plan.is_futile

    async def wait_until_both_ways(self, patience_s: float) -> None:
        """Wait until connections lead from the server to here and from here to it.

        Raises:
            SilenceError: They did not in time.
        """
        try:
            async with asyncio.timeout(patience_s):
                await self._hears.wait()
                await self._speaks.wait()
        except TimeoutError:
            raise SilenceError(
                f"no connection in the other direction could be opened within {patience_s:.0f} s, "
                "and half duplex needs one: try without --half-duplex"
            ) from None

    async def _run(self) -> None:
        try:
            while not self._is_over:
                await self._wait_for_turn()
                await self._attempt()
        except LocalProtocolError as error:
            # The session has ended, and the pump is about to say so.
            log.debug("no more connections", cause=error)
        except Exception as error:
            log.exception("a bug", cause=error)
            self._heed(
                LocalProtocolError(
                    f"a bug in sevpn: {type(error).__name__}: {error}; run with --debug and report it"
                )
            )

    async def _wait_for_turn(self) -> None:
        while (delay_s := self._plan.next_attempt_at - self._clock()) > 0:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if math.isinf(delay_s) else delay_s):
                    await self._news.wait()

    async def _attempt(self) -> None:
        """Open one connection.

        Raises:
            LocalProtocolError: The session has ended.
        """
        try:
            opened = await self._open_one()
        except SevpnError as error:
            reason = self._plan.failed(error, self._clock())
            if reason is None:
                self._listener.failed(error)
            self._heed(reason)
            return
        direction = opened.direction
        if not self._plan.fits(direction):
            # A close_notify: the session is to live on.
            opened.stream.close(polite=True)
            self._plan.failed(None, self._clock())
            return
        number = self._hand_over(opened)
        self._plan.opened(number, direction, self._clock())
        self._note(direction)
        self._listener.opened(number, direction)

    def _note(self, direction: Direction) -> None:
        if direction.carries_to_client:
            self._hears.set()
        if direction.carries_to_server:
            self._speaks.set()

    def _hand_over(self, opened: OpenedConnection) -> int:
        with contextlib.ExitStack() as undo:
            undo.callback(opened.stream.close, polite=True)
            number = self._sink.add(
                opened.stream,
                leftover=opened.leftover,
                may_send=opened.direction.carries_to_server,
                may_receive=opened.direction.carries_to_client,
            )
            undo.pop_all()
        return number

    def _heed(self, reason: SevpnError | None) -> None:
        """Give the session up, if there is a reason."""
        if reason is None or self._is_over:
            return
        self._is_over = True
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self._listener.given_up(reason)
