# SPDX-License-Identifier: Apache-2.0
"""One session and what carries it: the connections and the UDP flow that the pump is given.

Layer: tunnel. Runs in: the control thread, on the event loop. One per login.

               begin()                       leave(), or all are lost
    (login) ───────────> carried by the pump ────────────────────────> without connections
                                  ^                                        │        │
                                  └─────────────── resume() ───────────────┘        │
                                                                           close()  v
                                                                                  (over)

The session itself is the server's; what is here is this end of it.

Source: docs/reference/protocol-data.md#connections and #resumption.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sevpn.dataplane import ports
from sevpn.dataplane.joining import JoiningStream
from sevpn.dataplane.pump import Pump
from sevpn.dataplane.udpflow import UdpFlow
from sevpn.errors import SevpnError
from sevpn.protocol.joining import Direction
from sevpn.transport.stream import SecureStream
from sevpn.transport.udp import open_udp
from sevpn.tunnel.connections import (
    ConnectionKeeper,
    KeeperListener,
    connections_to_open,
)
from sevpn.tunnel.opening import (
    AskedConnection,
    Joiner,
    OpenedConnection,
    OpenedSession,
    UdpSide,
)
from sevpn.tunnel.report import Reporter
from sevpn.tunnel.resuming import (
    JOIN_S,
    can_resume,
    rejoin,
    wait_until_heard,
    wait_until_joined,
)

__all__ = ["LiveSession", "SessionWishes"]


@dataclass(frozen=True, slots=True)
class SessionWishes:
    """What the user wants of a session's connections."""

    connections: int
    """How many are to be open."""

    udp: Literal["off", "auto", "on"]
    """When frames go by UDP."""

    resume: bool
    """Whether it is taken up again."""


class LiveSession:
    """See the module.

    Args:
        opened: From the login; its streams belong to the pump from :meth:`begin` on.
        wishes: What the user wants of it.
        pump: Carries it.
        joiner: Opens its further connections.
        report: Is told of each.
        given_up: Called when the session is of no use any more, with the reason.
        clock: Seconds on the monotonic clock.
    """

    def __init__(
        self,
        opened: OpenedSession,
        wishes: SessionWishes,
        *,
        pump: Pump,
        joiner: Joiner,
        report: Reporter,
        given_up: Callable[[SevpnError], None],
        clock: Callable[[], float],
    ) -> None:
        self.opened = opened
        """What the login brought."""
        self.welcome = opened.welcome
        """What the server granted."""
        self.has_connections = False
        """Whether the pump has any of it."""
        self.udp: UdpFlow | None = None
        """Its UDP flow, if it has one."""
        self._wishes = wishes
        self._pump = pump
        self._joiner = joiner
        self._report = report
        self._given_up = given_up
        self._clock = clock
        self._keeper: ConnectionKeeper | None = None
        if wishes.udp != "off" and isinstance(side := opened.udp, UdpSide):
            self.udp = UdpFlow(side.sock, side.terms, wish=wishes.udp)

    def begin(self) -> None:
        """Give the pump the connection of the login, and open the others over time."""
        welcome = self.welcome
        first = Direction.TO_SERVER if welcome.half_connection else Direction.BOTH
        self._pump.has_priority = welcome.qos
        self.has_connections = True
        self._attach(self.opened.stream, self.opened.leftover, first)
        self._keep_connections(first)

    async def wait_until_both_ways(self, patience_s: float) -> None:
        """Wait until there is a connection in each direction: with half duplex a second one.

        Raises:
            SilenceError: There was none in time.
        """
        if self._keeper is not None:
            await self._keeper.wait_until_both_ways(patience_s)

    def may_go_on(self, error: SevpnError | None) -> bool:
        """Whether it is worth taking up again.

        Args:
            error: How the last connection was lost; `None`: the network underneath moved.
        """
        is_futile = self._keeper is not None and self._keeper.is_futile
        return (
            self._wishes.resume
            and not is_futile
            and can_resume(
                self.welcome,
                heard_at=self._pump.heard_at,
                now=self._clock(),
                error=error,
            )
        )

    async def resume(
        self,
        *,
        has_way: Callable[[], bool],
        dialled: Callable[[SecureStream], None],
    ) -> None:
        """Take it up again after :meth:`leave`, and wait until the server speaks in it.

        With full duplex what waits in the TAP goes along with the request, and a refusal
        comes as the loss of the session, by the pump. With half duplex the answer is
        waited for, since it says which way frames go, and then a second connection.

        Args:
            has_way: Whether this host can reach the server.
            dialled: Called with the connection before the pump has it.

        Raises:
            SilenceError: There was no way, or no answer, in time.
            SevpnError: As of :class:`Joiner`.
        """
        first = await rejoin(
            self._come_back,
            has_way=has_way,
            patience_s=self._pump.heard_at + self.welcome.timeout_s - self._clock(),
        )
        began_at = self._clock()
        with contextlib.ExitStack() as undo:
            undo.callback(first.stream.close, polite=True)
            dialled(first.stream)
            self._move_udp(first.stream)
            if isinstance(first, OpenedConnection):
                direction, has_joined = first.direction, _yes
                self._attach(first.stream, first.leftover, direction)
            else:
                joining = JoiningStream(first.stream, first.request)
                direction, has_joined = Direction.BOTH, lambda: joining.has_joined
                self._attach(joining, b"", direction)
            undo.pop_all()
        self.has_connections = True
        await wait_until_joined(has_joined)
        self._keep_connections(direction)
        if self._keeper is not None:
            await self._keeper.wait_until_both_ways(JOIN_S)
        await wait_until_heard(lambda: self._pump.connection_heard_at, since=began_at)

    async def _come_back(self) -> AskedConnection | OpenedConnection:
        if self.welcome.half_connection:
            return await self._joiner.join()
        return await self._joiner.ask()

    def connection_lost(self, number: int, error: SevpnError) -> None:
        """Hear from the pump that a connection ended while others live."""
        if self._keeper is not None:
            self._keeper.lost(number, error)

    def leave(self, *, polite: bool) -> None:
        """Close the connections; the session may go on without."""
        self.has_connections = False
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None
        self._pump.detach(polite=polite)

    def close(self, *, polite: bool) -> None:
        """Close all that is open."""
        self.leave(polite=polite)
        if self.udp is not None:
            self.udp.end("the session ended")
            self.udp = None

    def _attach(
        self, stream: ports.SecureStream, leftover: bytes, direction: Direction
    ) -> None:
        self._pump.attach(
            stream,
            leftover=leftover,
            timeout_s=self.welcome.timeout_s,
            may_send=direction.carries_to_server,
            may_receive=direction.carries_to_client,
            is_compressed=self.welcome.use_compress,
            udp=self.udp,
        )

    def _move_udp(self, stream: SecureStream) -> None:
        """Let the UDP flow leave from where this end is now."""
        udp, wish = self.udp, self._joiner.destination.udp
        if udp is None or udp.is_over or wish is None:
            return
        udp.pause()
        prepare = self._joiner.destination.dialing.prepare
        try:
            udp.move(open_udp(stream.local_address, wish.port, prepare=prepare))
        except OSError as error:
            udp.end(f"no socket on port {wish.port} ({error.strerror})")

    def _keep_connections(self, first: Direction) -> None:
        wanted = connections_to_open(self._wishes.connections, self.welcome)
        self._report.granted(wanted, self._wishes.connections, self.welcome)
        if wanted == 1:
            return
        self._keeper = ConnectionKeeper(
            wanted=wanted,
            first=first,
            timeout_s=self.welcome.timeout_s,
            open_one=self._joiner.join,
            sink=self._pump,
            listener=KeeperListener(
                opened=self._report.connection_opened,
                failed=self._report.connection_failed,
                lost=self._report.connection_lost,
                given_up=self._given_up,
            ),
            clock=self._clock,
        )
        self._keeper.start()


def _yes() -> bool:
    """The answer has been waited for already."""
    return True
