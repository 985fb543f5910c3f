# SPDX-License-Identifier: Apache-2.0
"""The pump: moves frames between this host's TAP and the connections of a session.

Layer: dataplane. Runs in: one thread of its own per tunnel, the data thread.
`start`, `stop`, `attach`, `add`, `detach`, `inject`, `has_priority` and the sieve's
attributes are for the control thread; everything else is the data thread's alone.

The pump lives as long as the tunnel and survives reconnects: sessions are
attached and detached below a living TAP. One turn of its loop:

                      ┌───────────────── control thread ────────────────┐
      on_frames, on_lost ^                          │ attach, add, detach, inject, stop
     ┌───────────────────┼──────────────────────────┼───────────────────┐
     │ 1 wait            │                          v                   │
     │ 2 obey            │  <───────────────── bell (eventfd)           │
     │ 3 receive ────────┼── connection, UDP -> chunk -> Inlet -> TAP   │
     │ 4 hand over <─────┴── what control should see                    │
     │ 5 collect  injected frames, then TAP -> groups -> connections    │
     │ 6 keep     poke, keep-alives, silence                            │
     │ 7 watch    what is worth waking up for                           │
     └──────────────────────────────────────────────────────────────────┘

How frames get from a chunk to the TAP, and from the TAP into groups of batches, is
the business of the frame path (`path.py`), which there is in two forms.

With several connections each inner flow keeps to one: the path names a slot for
each group, and the slots are the connections that this end may send on. With
priority, the youngest of them carries frames of priority and none else of the host's.
Frames of control take the connection with the least before it.

Buffers. An inbound chunk belongs to the path and is free when stage 4 ends; what
control gets is copied. A group belongs to the path until the next collection; what
the burst limit holds back is sent before that.

Nothing here grows without bound: a connection that does not take what is queued
stops the reading of the TAP. What waits there for too long loses a frame now and
then (`standing.py`), so that the host's TCP sends slower instead of making everybody
wait. A TAP that takes nothing costs the frame, never a keep-alive. Of
several connections one that is stuck does not stop the others: its flows lose
frames beyond a limit, as behind any router.

Compiled where there is a compiler: pump.pxd gives the C types of what a turn touches
(docs/decisions/0019-compiled-turn.md).

Source: docs/reference/protocol-data.md#pump.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Literal

from sevpn.dataplane.buffers import join_batch
from sevpn.dataplane.choice import TCP_INFO_SIZE
from sevpn.dataplane.deflated import DeflatedStream
from sevpn.dataplane.mailbox import Mailbox
from sevpn.dataplane.outbound import Outbound, outbound_of, tcp_info_of
from sevpn.dataplane.path import Group, Inlet, open_path
from sevpn.dataplane.ports import FramePort, SecureStream
from sevpn.dataplane.sieve import Sieve
from sevpn.dataplane.standing import StandingQueue
from sevpn.dataplane.udpflow import UdpFlow
from sevpn.errors import (
    InterfaceGoneError,
    LocalProtocolError,
    SevpnError,
    TransportError,
)
from sevpn.log import get_logger
from sevpn.metrics.counters import Counters
from sevpn.protocol.session import (
    CloseConnection,
    SendKeepAlive,
    SessionTimers,
)
from sevpn.wire.block import (
    EMPTY_BATCH,
    FULL_BATCH,
    MAX_KEEPALIVE_SIZE,
    encode_keepalive,
)
from sevpn.wire.ethernet import MacAddress

__all__ = ["Pump"]

log = get_logger(__name__)

_COLLECT_BYTES: Final = 256 * 1024
"""Read from the TAP per turn, so that the other direction has its turn."""

_BACKLOG_BYTES: Final = 64 * 1024
"""With more than this waiting for a socket, nothing of our own is added to it."""

_STUCK_BYTES: Final = 512 * 1024
"""With more than this waiting for one socket of several, its frames are dropped."""

_BURST_FRAMES: Final = 512
"""Frames handed to TCP per millisecond or turn, whichever is longer.

The server decodes at once all that its TCP holds and drops beyond 1024 blocks:
docs/reference/protocol-data.md#bursts.
"""

_BURST_S: Final = 0.001

_HANDED_FRAMES: Final = 64
"""Frames handed to control per chunk: a flood must not fill the event loop."""

_STOP_S: Final = 5.0
"""How long the end of the thread may take before it is a bug."""

_GOODBYE_S: Final = 0.25
"""How long a polite end waits for the last frames to reach the socket."""


class _Link:
    """One connection, as the pump sees it."""

    def __init__(
        self,
        number: int,
        stream: SecureStream,
        inlet: Inlet,
        leftover: bytes,
        *,
        may_send: bool,
    ) -> None:
        self.number = number
        self.stream = stream
        self.fd = stream.fileno()
        self.inlet = inlet
        self.leftover = leftover
        self.may_send = may_send
        self.may_have_more = True
        """Whether bytes may be here already that epoll does not know of."""
        self.owes_poke = False
        """Whether a full batch came in and nothing was sent since."""
        self.watched = select.EPOLLIN
        """What epoll watches of it."""


def _pending(link: _Link) -> int:
    return link.stream.pending_bytes


def _nothing(_number: int, _error: SevpnError) -> None:
    """Nobody wants to know of a single connection."""


class Pump:
    """Moves frames; see the module.

    Args:
        tap: Where the host's frames come from and go to; used, never closed.
        mac: The TAP's address.
        on_frames: Called in the data thread with whole frames that control
            should see, at most 64 at a time. It must not block.
        on_lost: Called in the data thread when a session has ended by itself;
            its streams are closed by then, and the pump is ready for the next.
            An error of kind `BUG` tells of a crash in here.
        on_connection_lost: Called in the data thread with the number of a
            connection that has ended by itself while others go on; its stream
            is closed by then.
        clock: Seconds on the monotonic clock.
        kernel: Which form of the frame path; the better one that there is, if omitted.
        counters: Totals to go on counting; new ones if omitted.
    """

    def __init__(
        self,
        tap: FramePort,
        *,
        mac: MacAddress,
        on_frames: Callable[[list[bytes]], None],
        on_lost: Callable[[SevpnError], None],
        on_connection_lost: Callable[[int, SevpnError], None] = _nothing,
        clock: Callable[[], float],
        kernel: Literal["compiled", "python"] | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._mailbox = Mailbox()
        self.counters = Counters() if counters is None else counters
        """Totals; read them from any thread."""
        self.sieve = Sieve(mac, on_gate=self._mailbox.ring)
        """Decides about inbound frames; its attributes are control's to set."""
        self.has_priority = False
        """Whether the server grants QoS: of several connections the youngest then
        carries frames of priority alone; assign it freely."""
        self.heard_at = -math.inf
        """When something whole last came from the server, keep-alives included, on
        *clock*; read it from any thread."""
        self.connection_heard_at = -math.inf
        """The same of its connections alone: UDP goes on while a server drops one that
        it has just let join."""
        self._path = open_path(
            tap, sieve=self.sieve, counters=self.counters, kernel=kernel
        )
        self._tap_fd = tap.fileno()
        self._on_frames = on_frames
        self._on_lost = on_lost
        self._on_connection_lost = on_connection_lost
        self._clock = clock
        self._thread = threading.Thread(
            target=self._run, name="sevpn-data", daemon=True
        )
        self._epoll = select.epoll()
        self._epoll.register(self._mailbox, select.EPOLLIN)
        self._is_tap_watched = False
        self._is_tap_ready = False  # whether the TAP may have frames
        self._is_called = False  # whether the bell has rung
        self._is_stopping = False
        self._timers: SessionTimers | None = None
        self._links: dict[int, _Link] = {}  # by descriptor, oldest first
        self._senders: list[_Link] = []  # those that this end may send on, likewise
        self._last_number = 0
        self._is_compressed = False
        self._udp: UdpFlow | None = None
        self._udp_inlet: Inlet | None = None
        self._is_udp_watched = False
        self._due_at = math.inf  # never later than the timers' next deadline
        self._is_busy = (
            False  # whether a connection may have more that epoll does not know of
        )
        self._unsent: list[Group] = []
        self._standing = StandingQueue()
        self._burst_ends_at = -math.inf
        self._burst_count = 0

    # --- for the control thread ---

    @property
    def kernel(self) -> Literal["compiled", "python"]:
        """Which form of the frame path is in use."""
        return self._path.kernel

    @property
    def connection_count(self) -> int:
        """Connections that are open at the moment."""
        return len(self._links)

    def start(self) -> None:
        """Start the data thread; once."""
        self._thread.start()

    def stop(self) -> None:
        """End the session politely, if there is one, and the thread.

        Calling it again, or without :meth:`start`, is harmless.

        Raises:
            LocalProtocolError: The thread does not end within seconds.
        """
        if self._thread.ident is None:
            self._end()
            return
        self._order(self._stop)
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            raise LocalProtocolError(
                f"the data thread did not end within {_STOP_S:g} s"
            )

    def attach(
        self,
        stream: SecureStream,
        *,
        leftover: bytes,
        timeout_s: float,
        may_send: bool = True,
        may_receive: bool = True,
        is_compressed: bool = False,
        udp: UdpFlow | None = None,
    ) -> None:
        """Begin a session with its first connection, number 1; the pump owns *stream* from now on.

        Args:
            stream: Fresh from the handshake.
            leftover: What came behind the Welcome and belongs to the session.
            timeout_s: The time-out of the Welcome, in seconds.
            may_send: Whether this end sends on it.
            may_receive: Whether this end receives on it: not on the first one of
                a half-duplex session.
            is_compressed: Whether each frame is deflated, on all its connections.
            udp: Its UDP flow, which stays the caller's: not to be touched before
                the session is detached, but for its attributes.

        Raises:
            LocalProtocolError: There is a session already, or the thread is not
                running: the stream is still the caller's.
        """

        def begin() -> None:
            if self._timers is not None:
                raise LocalProtocolError(
                    "no session can be attached: there is one already"
                )
            self._timers = SessionTimers(timeout_s=timeout_s, now=self._clock())
            self._last_number = 0
            self._is_compressed = is_compressed
            self._forget_injected()
            self._join(stream, leftover, may_send=may_send, may_receive=may_receive)
            self._udp = udp

        if not self._order(begin):
            raise LocalProtocolError(
                "no session can be attached: the data thread is not running"
            )

    def add(
        self,
        stream: SecureStream,
        *,
        leftover: bytes = b"",
        may_send: bool = True,
        may_receive: bool = True,
    ) -> int:
        """Add a connection to the session and return its number; the pump owns *stream* from now on.

        Args:
            stream: Fresh from its handshake.
            leftover: What came behind the answer.
            may_send: Whether this end sends on it.
            may_receive: Whether this end receives on it.

        Raises:
            LocalProtocolError: There is no session, or the thread is not running:
                the stream is still the caller's.
        """

        def join() -> None:
            if self._timers is None:
                raise LocalProtocolError("no connection can be added: no session")
            self._join(stream, leftover, may_send=may_send, may_receive=may_receive)

        if not self._order(join):
            raise LocalProtocolError(
                "no connection can be added: the data thread is not running"
            )
        return self._last_number

    def detach(self, *, polite: bool) -> None:
        """End the session and close its streams; without a session nothing happens.

        `on_lost` is not called for this session any more, but may have been
        just before.

        Args:
            polite: Send what was injected before, and tell the server that no
                more will come; a slow connection is given a quarter of a second.
        """
        self._order(lambda: self._detach(polite=polite))

    def inject(self, frames: Sequence[bytes]) -> None:
        """Send *frames* to the hub before any of the TAP's; callable from any thread.

        They are dropped and counted where 256 wait already, or without a session.

        Raises:
            LocalProtocolError: A frame is shorter than 14 or longer than 1600 bytes.
        """
        self._mailbox.inject(frames)

    def outbound(self) -> Outbound:
        """Return how what is sent to the server does; of several connections, the worst."""
        states: list[Outbound] = []
        self._order(
            lambda: states.extend(outbound_of(link.fd) for link in self._senders)
        )
        return max(states, default=Outbound.CLEAR)

    def sync(self) -> None:
        """Wait until the data thread has seen all that was asked of it before."""
        self._order(lambda: None)

    def _order(self, carry_out: Callable[[], None]) -> bool:
        if threading.current_thread() is self._thread:
            raise LocalProtocolError("the data thread cannot wait for itself")
        return self._thread.ident is not None and self._mailbox.order(carry_out)

    # --- the data thread ---

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                self._turn_safely()
        except Exception as error:
            log.exception("the data thread died of a bug", cause=error)
        finally:
            self._end()

    def _turn_safely(self) -> None:
        try:
            self._turn()
        except SevpnError as error:
            self._lose(error)
        except Exception as error:
            log.exception(
                "bug in the data thread; the session is given up", cause=error
            )
            # Without a session to give up, the next turn would fail like this one.
            self._is_stopping = not self._links
            self._lose(
                LocalProtocolError(f"the data thread failed, which is a bug: {error!r}")
            )

    def _turn(self) -> None:
        self._wait()
        if self._is_called:
            # Stilled no sooner, so that what goes wrong before leaves it ringing.
            self._mailbox.hush()
            self._mailbox.carry_out_orders()
        if self._timers is not None:
            self._pump(self._timers, self._clock())
        elif self._mailbox.has_frames:
            self._forget_injected()

    def _pump(self, timers: SessionTimers, now: float) -> None:
        # Before silence is judged, hear what came in the meantime: the machine
        # may have slept.
        is_due = now >= self._due_at
        self._is_busy = False
        for link in tuple(self._links.values()):
            if link.may_have_more or is_due:
                self._receive(link, timers, now)
                self._is_busy |= link.may_have_more
        if self._udp is not None:
            self._attend_udp(self._udp, now)
        self._collect(now)
        self._poke()
        if is_due:
            self._keep(timers, now)
        self._watch()

    # --- 1 wait ---

    def _wait(self) -> None:
        """Sleep until there is something to do, and note what."""
        self._is_tap_ready = self._is_called = False
        for fd, events in self._epoll.poll(self._patience_s()):
            if fd == self._tap_fd:
                self._is_tap_ready = True
            elif fd == self._mailbox.fileno():
                self._is_called = True
            elif (link := self._links.get(fd)) is not None:
                # An error or a hang-up shows itself to the reader.
                link.may_have_more |= bool(events & ~select.EPOLLOUT)
                if events & select.EPOLLOUT:
                    self._flush(link)

    def _patience_s(self) -> float | None:
        """Return how long nothing is due; None is for ever."""
        if self._timers is None:
            return None
        if self._is_busy:
            return 0
        due_at = self._due_at
        if self._udp is not None:
            due_at = min(due_at, self._udp.next_deadline())
        if self._burst_count >= _BURST_FRAMES:
            due_at = min(due_at, self._burst_ends_at)
        return max(0.0, due_at - self._clock())

    # --- 2 obey ---

    def _join(
        self,
        stream: SecureStream,
        leftover: bytes,
        *,
        may_send: bool,
        may_receive: bool,
    ) -> None:
        assert self._timers is not None, "both callers have seen to it"
        self._last_number += 1
        if self._is_compressed:
            stream, leftover = DeflatedStream(stream, leftover), b""
        link = _Link(
            self._last_number,
            stream,
            self._path.open_inlet(),
            leftover,
            may_send=may_send,
        )
        self._timers.added(
            link.number, self._clock(), may_send=may_send, may_receive=may_receive
        )
        self._due_at = self._timers.next_deadline()
        self._is_busy = True
        self._epoll.register(link.fd, link.watched)
        self._links[link.fd] = link
        if may_send:
            self._senders.append(link)

    def _detach(self, *, polite: bool) -> None:
        if polite:
            with contextlib.suppress(TransportError):
                self._say_goodbye()
        for link in tuple(self._links.values()):
            self._close(link, polite=polite)
        self._timers = None
        self._leave_udp()
        self._forget_injected()
        self._watch_tap(wanted=False)

    def _say_goodbye(self) -> None:
        """Send what was injected, and wait a moment until it is in the socket."""
        # A wait in real time, like epoll's, whatever the clock shows.
        until = time.monotonic() + _GOODBYE_S
        self._send_injected()
        for link in tuple(self._senders):
            poll = select.poll()
            poll.register(link.fd, select.POLLOUT)
            while not link.stream.flush() and (room_s := until - time.monotonic()) > 0:
                poll.poll(room_s * 1000)

    def _close(self, link: _Link, *, polite: bool) -> None:
        del self._links[link.fd]
        if link.may_send:
            self._senders.remove(link)
        self._epoll.unregister(link.fd)
        link.stream.close(polite=polite)

    def _forget_injected(self) -> None:
        frames, refused = self._mailbox.take_frames()
        unsent = sum(group.frames for group in self._unsent)
        self._unsent = []
        self.counters.drop("no-session", len(frames) + refused + unsent)

    def _lose(self, error: SevpnError) -> None:
        """Give the session up and tell so; the pump lives on."""
        self._detach(polite=False)
        self._on_lost(error)

    def _lose_connection(self, link: _Link, error: TransportError) -> None:
        """Go on without a connection; without the last one there is no session."""
        if self._links.get(link.fd) is not link:
            return  # it was lost a moment ago, before its last words
        if len(self._links) == 1 or self._timers is None:
            raise error
        self._timers.removed(link.number)
        # Polite: a server with OpenSSL 3 before 5.02.5185 takes an end without
        # close_notify for one of all connections (docs/reference/protocol-data.md#connections).
        self._close(link, polite=True)
        self._on_connection_lost(link.number, error)

    def _stop(self) -> None:
        self._detach(polite=True)
        self._is_stopping = True

    def _end(self) -> None:
        self._mailbox.close()
        self._epoll.close()
        for link in self._links.values():
            link.stream.close(polite=False)

    # --- 3 receive ---

    def _receive(self, link: _Link, timers: SessionTimers, now: float) -> None:
        """Take one chunk from a connection."""
        inlet = link.inlet
        room = inlet.room()
        try:
            size = self._read(link, room)
        except TransportError as error:
            self._lose_connection(link, error)
            return
        # A shorter chunk is all there was; epoll knows of what comes next.
        link.may_have_more = bool(link.leftover) or size >= len(room)
        if not size:
            return
        inlet.take(size)
        link.owes_poke |= inlet.has_full_batch
        # What the host was given makes it answer, most often at once.
        self._is_tap_ready |= inlet.has_fed_host
        if inlet.has_items:
            timers.received(link.number, now)
            self.heard_at = self.connection_heard_at = now
        if inlet.for_control:
            self._hand_over(inlet.for_control)

    def _read(self, link: _Link, room: memoryview) -> int:
        if not link.leftover:
            return link.stream.read_into(room)
        piece = link.leftover[: len(room)]
        room[: len(piece)] = piece
        link.leftover = link.leftover[len(piece) :]
        return len(piece)

    def _attend_udp(self, udp: UdpFlow, now: float) -> None:
        """Do what there is to do on UDP."""
        if udp.is_look_due(now) and self._senders:
            udp.look(tcp_info_of(self._senders[0].fd, TCP_INFO_SIZE), now)
        if not udp.begin(now):
            return
        if not self._is_udp_watched:
            self._epoll.register(udp.fileno(), select.EPOLLIN)
            self._is_udp_watched = True
        batches = udp.receive(now)
        if udp.has_items:
            self.heard_at = now
        if batches:
            self._take_batches(batches)
        if now >= udp.next_deadline():
            udp.keep(now)
        if udp.is_over:
            self._leave_udp()

    def _take_batches(self, batches: bytes) -> None:
        """Give frames that came by UDP the same way as the others."""
        if self._udp_inlet is None:
            self._udp_inlet = self._path.open_inlet()
        inlet = self._udp_inlet
        while batches:
            room = inlet.room()
            piece, batches = batches[: len(room)], batches[len(room) :]
            room[: len(piece)] = piece
            inlet.take(len(piece))
            self._is_tap_ready |= inlet.has_fed_host
            if inlet.for_control:
                self._hand_over(inlet.for_control)

    def _leave_udp(self) -> None:
        """Let go of the UDP flow, whose socket is its owner's to close."""
        udp, self._udp = self._udp, None
        if udp is not None and self._is_udp_watched and not udp.is_over:
            self._epoll.unregister(udp.fileno())
        self._is_udp_watched = False

    # --- 4 hand over ---

    def _hand_over(self, frames: list[memoryview]) -> None:
        """Give control what it should see."""
        self.counters.drop("control-full", max(0, len(frames) - _HANDED_FRAMES))
        self._on_frames([bytes(frame) for frame in frames[:_HANDED_FRAMES]])

    # --- 5 collect ---

    def _collect(self, now: float) -> None:
        if now >= self._burst_ends_at:
            self._burst_ends_at = now + _BURST_S
            self._burst_count = 0
        if not self._senders:
            return
        if self._mailbox.has_frames and _pending(self._freest()) <= _BACKLOG_BYTES:
            self._send_injected()
        if self._unsent:
            groups, self._unsent = self._unsent, []
            self._send_groups(groups)
        if self._is_tap_ready and self.sieve.is_open:
            self._send_from_tap(now)

    def _send_injected(self) -> None:
        frames, refused = self._mailbox.take_frames()
        self.counters.drop("inject-full", refused)
        while frames:
            part, frames = frames[:FULL_BATCH], frames[FULL_BATCH:]
            if not self._senders:  # the last of them went with the part before
                self.counters.drop("no-session", len(part))
                continue
            sizes = list(map(len, part))
            group = Group(0, join_batch(part, sizes), len(part), sum(sizes))
            self._send(self._freest(), group)

    def _freest(self) -> _Link:
        """Return the connection with the least before it; there is one. Of equals the oldest."""
        return min(self._senders, key=_pending)

    def _send_from_tap(self, now: float) -> None:
        """Send what the TAP holds, up to the limits of a turn."""
        room = _COLLECT_BYTES
        while (
            room > 0
            and not self._unsent
            and self._burst_count < _BURST_FRAMES
            and self._has_room()
        ):
            count = len(self._senders)
            has_priority = self.has_priority and count > 1
            try:
                groups = self._path.collect(
                    _BURST_FRAMES - self._burst_count,
                    slot_count=count - has_priority,
                    has_priority=has_priority,
                )
            except OSError as error:
                raise InterfaceGoneError(
                    f"the interface of the tunnel cannot be read any more ({error.strerror}): somebody has removed it",
                    operation="read-tap",
                ) from error
            room -= self._send_groups(groups)
            if self._path.is_drained:
                self._standing.empty()
                return
            if not groups:  # a flood of what is dropped may not hold the thread
                return
        # Something is left. If it waits for us alone it is gone when we have caught up.
        if room < _COLLECT_BYTES and not self._has_room() and self._standing.waits(now):
            self._path.sheds = True

    def _has_room(self) -> bool:
        """Whether any connection takes more: with none the TAP is not read.

        It does when all that was queued is in the socket, which holds what is
        needed until it is writable again (TCP_NOTSENT_LOWAT).
        """
        for link in self._senders:
            if not link.stream.pending_bytes:
                return True
        return self._is_udp_up

    @property
    def _is_udp_up(self) -> bool:
        return self._udp is not None and self._udp.state == "up"

    def _send_groups(self, groups: list[Group]) -> int:
        """Send groups until the burst limit holds the rest back; return their bytes."""
        total = 0
        for index, group in enumerate(groups):
            if self._burst_count >= _BURST_FRAMES:
                self._unsent = groups[index:]
                break
            total += group.size
            if not self._senders:  # the last of them went with the group before
                self.counters.drop("no-session", group.frames)
                continue
            # A connection that has gone since leaves its flows to the youngest.
            self._send(self._senders[min(group.slot, len(self._senders) - 1)], group)
        return total

    def _send(self, link: _Link, group: Group) -> None:
        """Send a group: by UDP what can go there, the rest on *link*."""
        data, frames, size = group.data, group.frames, group.size
        is_one_of_several = len(self._senders) > 1
        if self._udp is not None and self._udp.is_up(now := self._clock()):
            is_one_of_several = True
            data, frames, size = self._udp.send(data, now)
        self._burst_count += group.frames
        self.counters.outbound_frames += group.frames
        self.counters.outbound_bytes += group.size
        if is_one_of_several and link.stream.pending_bytes > _STUCK_BYTES:
            self.counters.outbound_frames -= frames
            self.counters.outbound_bytes -= size
            self.counters.drop("backlog", frames)
        elif data:
            self._put(link, data)

    def _put(self, link: _Link, data: bytes | memoryview) -> None:
        link.owes_poke = False
        try:
            link.stream.queue(data)
            link.stream.flush()
        except TransportError as error:
            self._lose_connection(link, error)

    def _flush(self, link: _Link) -> None:
        try:
            link.stream.flush()
        except TransportError as error:
            self._lose_connection(link, error)

    # --- 6 keep ---

    def _poke(self) -> None:
        """Wake the server where it may sleep."""
        for link in tuple(self._links.values()):
            if link.owes_poke:
                link.owes_poke = False
                # Any connection will do, if this one only receives.
                sender = link if link.may_send else next(iter(self._senders), None)
                if sender is not None:
                    self._put(sender, EMPTY_BATCH)

    def _keep(self, timers: SessionTimers, now: float) -> None:
        """Do what the session's timers ask for."""
        for action in timers.handle_deadline(now):
            # No `match`, which Cython before 3.3 does not know.
            if isinstance(action, SendKeepAlive):
                self._keep_alive(action.connection)
            elif isinstance(action, CloseConnection):
                for link in tuple(self._links.values()):
                    if link.number == action.connection:
                        self._lose_connection(link, action.error)
            else:
                raise action.error
        # What is heard from now on only puts it off.
        self._due_at = timers.next_deadline()

    def _keep_alive(self, number: int) -> None:
        # Behind a full backlog it would tell the server nothing in time, and
        # one every few seconds is a leak while the server does not read.
        for link in tuple(self._links.values()):
            if link.number == number and link.stream.pending_bytes <= _BACKLOG_BYTES:
                filler = os.urandom(random.randrange(MAX_KEEPALIVE_SIZE))
                self._put(link, encode_keepalive(filler))

    # --- 7 watch ---

    def _watch(self) -> None:
        """Have epoll watch what can be worked on: anything else would only turn the loop."""
        for link in self._links.values():
            pending = link.stream.pending_bytes
            wanted = select.EPOLLIN | select.EPOLLOUT if pending else select.EPOLLIN
            if wanted != link.watched:
                self._epoll.modify(link.fd, wanted)
                link.watched = wanted
        is_wanted = (
            self.sieve.is_open
            and not self._unsent
            and self._burst_count < _BURST_FRAMES
            and self._has_room()
        )
        if is_wanted != self._is_tap_watched:
            self._watch_tap(wanted=is_wanted)

    def _watch_tap(self, *, wanted: bool) -> None:
        if wanted == self._is_tap_watched:
            return
        if wanted:
            self._epoll.register(self._tap_fd, select.EPOLLIN)
        else:
            self._epoll.unregister(self._tap_fd)
        self._is_tap_watched = wanted
