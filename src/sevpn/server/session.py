# SPDX-License-Identifier: Apache-2.0
"""One session of the embedded server: a port of a hub, with connections.

Layer: server. Runs in: the event loop.

                     login                    connection lost, cut or silent
    (nothing) ───────────────> connected ───────────────────────────────> ghost
                                   ^                                        │ │
                                   └────────── additional_connect ──────────┘ │
    (nothing) <── nothing heard or said for the time-out, or disconnect ──────┘

A session may have several connections. In a half-duplex one each has one direction,
the first from the client to here. Frames to the client go, batch by batch, on the
connection that was late least often, and of several such on the youngest; with QoS
the youngest of all carries the urgent ones alone.

A ghost keeps its name, its entries in the hub's tables and its key for the rest of
the time-out, since there is no way to log out. It does not count against
MultiLogins, while a session whose client has vanished without a FIN does: its
connection still stands. What is said keeps a session, but no connection
(tests/interop/test_session_clocks.py).

Source: docs/reference/protocol.md#leaving; SoftEtherVPN, Cedar/Session.c,
SessionMain(); Cedar/Connection.c, ConnectionReceive() and ConnectionSend().
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, assert_never, cast

from sevpn.dataplane.buffers import join_batch
from sevpn.dataplane.plain import is_prior
from sevpn.errors import LocalProtocolError, RemoteProtocolError
from sevpn.log import get_logger
from sevpn.protocol.joining import Direction, next_direction
from sevpn.protocol.messages import SESSION_KEY_SIZE
from sevpn.protocol.session import (
    CloseConnection,
    EndSession,
    SendKeepAlive,
    SessionTimers,
)
from sevpn.server.faults import Faults
from sevpn.server.hub import FrameBytes, Hub, Port
from sevpn.server.inlet import Inlet, open_inlet
from sevpn.server.login import Granted
from sevpn.server.stream import Codec, Stream
from sevpn.server.stretch import Stretch
from sevpn.server.udp import SessionUdp
from sevpn.wire.block import FULL_BATCH, encode_keepalive
from sevpn.wire.deflate import Inflater, deflate_items

__all__ = ["Ending", "Session", "SessionCounters"]

log = get_logger(__name__)

_NAP_S: Final = 0.256
_MAX_WAITING: Final = 1024
_QUOTA: Final = 2_560_000
_SMALLEST_QUOTA: Final = 320_000

Ending = Literal["fin", "reset", "silence"]
"""How one connection dies: the last one as if its cable were cut."""


@dataclass(slots=True)
class SessionCounters:
    """Totals of one session."""

    received_frames: int = 0
    """Frames from the client."""

    received_bytes: int = 0
    """Their bytes."""

    sent_frames: int = 0
    """Frames to the client."""

    sent_bytes: int = 0
    """Their bytes, sizes of blocks included."""

    dropped_frames: int = 0
    """Frames to the client that were lost: no connection, or too much waiting."""


@dataclass(slots=True)
class _Connection:
    """One connection of the session."""

    number: int
    stream: Stream
    direction: Direction
    inlet: Inlet
    late_count: int = 0
    """Batches since it last took all that it was given at once."""
    is_dead: bool = False
    """Whether nothing of it arrives any more, at either end: a fault."""


class Session(Port):
    """The session.

    Args:
        name: As `SID-ALICE-1`.
        granted: What the login decided.
        hub: What it is plugged into, by :meth:`join`'s caller.
        faults: What goes wrong.
        clock: Seconds on a monotonic clock.
    """

    def __init__(
        self,
        name: str,
        granted: Granted,
        hub: Hub,
        *,
        faults: Faults,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(name, granted.policy)
        self.user = granted.user.name
        """Whose it is."""
        self.hub_name = granted.hub
        """Which hub it is on."""
        self.client = granted.client
        """What the client says it is."""
        self.unique_id = granted.unique_id
        """16 bytes of the client's installation, or none."""
        self.key = secrets.token_bytes(SESSION_KEY_SIZE)
        """Lets further connections join; a secret."""
        self.max_connections = granted.max_connections
        """How many it may have."""
        self.is_half_duplex = granted.is_half_duplex
        """Whether each of them has one direction."""
        self.has_qos = granted.has_qos
        """Whether urgent frames have a connection of their own."""
        self.is_compressed = granted.is_compressed
        """Whether each frame is deflated."""
        self.timeout_s = float(granted.policy.timeout_s)
        """Seconds of silence after which it ends."""
        self.is_over = False
        """Whether it has ended."""
        self.udp: SessionUdp | None = None
        """Its UDP flow, if it was granted one."""
        self.counters = SessionCounters()
        """Totals."""
        self._hub = hub
        self._faults = faults
        self._clock = clock
        self._timers = SessionTimers(timeout_s=self.timeout_s, now=clock())
        self._connections: dict[int, _Connection] = {}
        self._made_count = 0
        self._senders: list[_Connection] = []  # those to the client, oldest first
        # Connections that are about to join; they count, as the first one does already.
        self._reserved: list[Direction] = [self.first_direction]
        # Those of a vanished client, which the server does not know are dead.
        self._phantoms: dict[int, Direction] = {}
        # Frames that wait for a sleeping session: the fault sleeps_on_bursts.
        self._waiting: deque[FrameBytes] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._quota = max(_QUOTA // self.max_connections, _SMALLEST_QUOTA)

    def __repr__(self) -> str:
        return f"<Session {self.name}>"

    @property
    def connection_count(self) -> int:
        """Its connections, as far as the server knows."""
        return len(self._connections) + len(self._reserved) + len(self._phantoms)

    @property
    def first_direction(self) -> Direction:
        """Which way the first connection carries frames; nobody is told."""
        return Direction.TO_SERVER if self.is_half_duplex else Direction.BOTH

    @property
    def connections(self) -> dict[int, Direction]:
        """The numbers of the connections that are there, oldest first, and their directions."""
        return {number: one.direction for number, one in self._connections.items()}

    @property
    def sent_bytes(self) -> dict[int, int]:
        """Bytes sent inside TLS on each connection."""
        return {
            number: one.stream.sent_bytes for number, one in self._connections.items()
        }

    @property
    def received_bytes(self) -> dict[int, int]:
        """Bytes received inside TLS on each connection."""
        return {
            number: one.stream.received_bytes
            for number, one in self._connections.items()
        }

    @property
    def peers(self) -> tuple[tuple[str, int], ...]:
        """Address and port of the client, per connection."""
        return tuple(
            connection.stream.peer for connection in self._connections.values()
        )

    # --- connections ------------------------------------------------------------

    def reserve(self) -> Direction:
        """Promise a place to one more connection, and say which way it will carry frames."""
        direction = Direction.BOTH
        if self.is_half_duplex:
            known = (one.direction for one in self._connections.values())
            direction = next_direction(
                [*known, *self._reserved, *self._phantoms.values()]
            )
        self._reserved.append(direction)
        return direction

    def release(self, direction: Direction) -> None:
        """Take back a promise: the connection ended before it could join."""
        if direction in self._reserved:
            self._reserved.remove(direction)

    def join(
        self, stream: Stream, trailing: bytes, direction: Direction = Direction.BOTH
    ) -> None:
        """Take a connection whose handshake is done.

        Args:
            stream: The connection; the session owns it from here on.
            trailing: What was read past the handshake.
            direction: As it was promised.
        """
        self.release(direction)
        if self.is_over or stream.is_closed:
            stream.close()
            return
        self._made_count += 1
        number = self._made_count
        connection = _Connection(number, stream, direction, open_inlet(self._hub))
        self._connections[number] = connection
        if direction.carries_to_client:
            self._senders.append(connection)
        self._timers.added(
            number,
            self._clock(),
            may_send=direction.carries_to_client,
            may_receive=direction.carries_to_server,
        )
        # Of one that only sends nothing else would tell that its client has vanished.
        stream.give_up_after(self.timeout_s)
        if self.is_compressed:
            stream.codec = Codec(Inflater().feed, deflate_items)
        stream.start(
            connection.inlet.room,
            lambda size: self._received(connection, size),
            lambda cause: self._lost(connection, cause),
        )
        if self._faults.is_pausing_reads:
            stream.pause()
        trailing = self._decoded(connection, trailing)
        while trailing and not stream.is_closed:
            room = connection.inlet.room()
            piece, trailing = trailing[: len(room)], trailing[len(room) :]
            room[: len(piece)] = piece
            self._received(connection, len(piece))
        self.tick()

    def _decoded(self, connection: _Connection, trailing: bytes) -> bytes:
        """Return what was read past the handshake as plain items."""
        codec = connection.stream.codec
        try:
            return trailing if codec is None else codec.decode(trailing)
        except RemoteProtocolError as error:
            connection.stream.close()
            self._lost(connection, str(error))
            return b""

    def cut(self, *, reset: bool = True, is_noticed: bool = True) -> None:
        """End the connections; the session becomes a ghost.

        Args:
            reset: With RST instead of FIN.
            is_noticed: Whether the server knows; if not, the ghost counts against
                MultiLogins until the time-out, as after a client's power cut.
        """
        if is_noticed:
            self._phantoms.clear()
            self._reserved.clear()
        for connection in tuple(self._connections.values()):
            connection.stream.close(reset=reset)
            self._forget(connection)
            if is_noticed:
                self._timers.removed(connection.number)
            else:
                self._phantoms[connection.number] = connection.direction

    def kill(self, number: int | None = None, *, how: Ending) -> None:
        """End one connection; the session goes on with the others, if there are any.

        Args:
            number: Which one, see :attr:`connections`; the youngest if None.
            how: With FIN, with RST, or by silence in both directions, which both
                ends notice after the time-out.

        Raises:
            LocalProtocolError: There is no such connection.
        """
        found = next(reversed(self._connections), 0) if number is None else number
        connection = self._connections.get(found)
        if connection is None:
            raise LocalProtocolError(f"session {self.name} has no connection {found}")
        if how == "silence":
            connection.is_dead = True
            connection.stream.pause()
            return
        connection.stream.close(reset=how == "reset")
        self._lost(connection, f"a fault: {how}")

    def _forget(self, connection: _Connection) -> None:
        del self._connections[connection.number]
        if connection in self._senders:
            self._senders.remove(connection)

    def end(self) -> None:
        """End the session for good, with FIN and without a reason."""
        self.is_over = True
        if self.udp is not None:
            self.udp.end()
        self._waiting.clear()
        self.cut(reset=False)

    def set_reading(self, *, is_reading: bool) -> None:
        """Stop or go on reading what the client sends."""
        for connection in self._connections.values():
            if is_reading and not connection.is_dead:
                connection.stream.resume()
            else:
                connection.stream.pause()

    def write_raw(self, data: bytes) -> None:
        """Send bytes that need not be a batch, on the youngest connection to the client."""
        for connection in self._senders[-1:]:
            connection.stream.write(data)

    def _received(self, connection: _Connection, size: int) -> None:
        inlet = connection.inlet
        try:
            inlet.take(size)
        except RemoteProtocolError as error:
            connection.stream.close()
            self._lost(connection, str(error))
            return
        if inlet.has_items:
            self._timers.received(connection.number, self._clock())
        if self._waiting:
            self._take_turn()
        if not inlet.frame_count:
            return
        counters = self.counters
        counters.received_frames += inlet.frame_count
        counters.received_bytes += size
        if not self._faults.drops_frames and not self.is_over:
            inlet.forward(self)

    def _lost(self, connection: _Connection, cause: str) -> None:
        if connection.number not in self._connections:
            return
        self._forget(connection)
        self._timers.removed(connection.number)
        log.debug("connection lost", session=self.name, cause=cause)
        if self._faults.connections_end_together:
            self.cut(reset=False)

    # --- frames -----------------------------------------------------------------

    def deliver(self, frames: Sequence[FrameBytes]) -> None:
        """Send frames to the client; what finds no room is lost, as behind a real server."""
        if self._faults.sleeps_on_bursts or self._waiting:
            self._queue(frames)
        else:
            self._send(frames)

    def deliver_stretch(self, stretch: Stretch) -> None:
        """Send frames to the client, likewise."""
        if self._faults.sleeps_on_bursts or self._waiting:
            self._queue(stretch.frames())
        else:
            self._send(stretch)

    def _send(self, frames: Sequence[FrameBytes] | Stretch) -> None:
        senders = self._senders
        if not senders or self._faults.drops_frames:
            self.counters.dropped_frames += len(frames)
        elif self.udp is not None and self.udp.is_up():
            self._accelerate(self.udp, senders[0], frames)
        elif len(senders) == 1:
            self._write(senders[0], frames)
        else:
            self._spread(senders, frames)

    def _accelerate(
        self,
        udp: SessionUdp,
        sender: _Connection,
        frames: Sequence[FrameBytes] | Stretch,
    ) -> None:
        """Send frames by UDP, and those that are too large for it on a connection."""
        counters = self.counters
        counters.sent_frames += len(frames)
        batches: bytes | memoryview
        if isinstance(frames, Stretch):
            batches = self._hub.encode(frames)
        else:
            # The cast: views are joined just as bytes are.
            views = cast("Sequence[bytes]", frames)
            batches = b"".join(
                join_batch(part, list(map(len, part)))
                for part in (
                    views[at : at + FULL_BATCH]
                    for at in range(0, len(views), FULL_BATCH)
                )
            )
        counters.sent_bytes += len(batches)
        rest = udp.send(batches)
        if rest and sender.stream.pending_bytes < self._quota:
            sender.stream.write_items(rest)

    def _spread(
        self, senders: list[_Connection], frames: Sequence[FrameBytes] | Stretch
    ) -> None:
        """Send frames on one of several connections, urgent ones on another."""
        if self.has_qos:
            if isinstance(frames, Stretch):
                frames = frames.frames()
            youngest = senders[-1]
            senders = senders[:-1]
            urgent = [frame for frame in frames if _is_urgent(frame)]
            if urgent:
                self._write(youngest, urgent)
                frames = [frame for frame in frames if not _is_urgent(frame)]
        if frames:
            # Of equals the last one, which is the youngest.
            chosen = min(reversed(senders), key=lambda sender: sender.late_count)
            self._write(chosen, frames)
        for sender in senders:
            is_late = sender.stream.pending_bytes > 0
            sender.late_count = sender.late_count + 1 if is_late else 0

    def _write(
        self, connection: _Connection, frames: Sequence[FrameBytes] | Stretch
    ) -> None:
        counters = self.counters
        stream = connection.stream
        if connection.is_dead:
            counters.dropped_frames += len(frames)
            return
        if isinstance(frames, Stretch):
            self._write_stretch(stream, frames)
            return
        for start in range(0, len(frames), FULL_BATCH):
            piece = frames[start : start + FULL_BATCH]
            if stream.pending_bytes >= self._quota:
                counters.dropped_frames += len(piece)
                continue
            # The cast: views are joined just as bytes are.
            batch = join_batch(cast("Sequence[bytes]", piece), list(map(len, piece)))
            counters.sent_frames += len(piece)
            counters.sent_bytes += len(batch)
            stream.write_items(batch)

    def _write_stretch(self, stream: Stream, stretch: Stretch) -> None:
        counters = self.counters
        if stream.pending_bytes >= self._quota:
            counters.dropped_frames += len(stretch)
            return
        batches = self._hub.encode(stretch)
        counters.sent_frames += len(stretch)
        counters.sent_bytes += len(batches)
        stream.write_items(batches)

    def _queue(self, frames: Sequence[FrameBytes]) -> None:
        """Let frames wait for the next turn; those that come to an empty queue wake it."""
        room = _MAX_WAITING - len(self._waiting)
        self.counters.dropped_frames += max(0, len(frames) - room)
        is_woken = not self._waiting
        self._waiting.extend(frames[:room])
        if is_woken:
            self._take_turn()

    def _take_turn(self) -> None:
        """Send what one turn of the original sends, and sleep on the rest."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        count = min(len(self._waiting), FULL_BATCH)
        self._send([self._waiting.popleft() for _ in range(count)])
        if self._waiting:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(_NAP_S, self._take_turn)

    # --- time -------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Return when :meth:`tick` wants to be called."""
        return self._timers.next_deadline()

    def tick(self) -> None:
        """Send keep-alives and end what is silent; afterwards :attr:`is_over` may be true."""
        for action in self._timers.handle_deadline(self._clock()):
            match action:
                case SendKeepAlive(number):
                    self._keep_alive(number)
                case CloseConnection(number, error):
                    self._close_silent(number, str(error))
                case EndSession():
                    self.end()
                case _:
                    assert_never(action)

    def _keep_alive(self, number: int) -> None:
        connection = self._connections.get(number)
        if connection is None or connection.is_dead:
            return
        if not self._faults.are_keepalives_silent:
            # To a server what it says is a sign of life, too.
            self._timers.sent(self._clock())
            filler = secrets.token_bytes(secrets.randbelow(512))
            connection.stream.write_items(encode_keepalive(filler))

    def _close_silent(self, number: int, cause: str) -> None:
        connection = self._connections.get(number)
        if connection is None:
            self._phantoms.pop(number, None)
        else:
            connection.stream.close()
            self._forget(connection)
            log.debug("connection is silent", session=self.name, cause=cause)


def _is_urgent(frame: FrameBytes) -> bool:
    # The cast: views are looked at just as bytes are.
    return is_prior(cast("bytes", frame))
