# SPDX-License-Identifier: Apache-2.0
"""The pump: moves frames between this host's TAP and the connections of a session.

Layer: dataplane. Runs in: one thread of its own per tunnel, the data thread.
`start`, `stop`, `attach`, `detach`, `inject` and the sieve's attributes are for
the control thread; everything else is the data thread's alone.

The pump lives as long as the tunnel and survives reconnects: sessions are
attached and detached below a living TAP. One turn of its loop:

                      ┌───────────────── control thread ────────────────┐
      on_frames, on_lost ^                          │ attach, detach, inject, stop
     ┌───────────────────┼──────────────────────────┼───────────────────┐
     │ 1 wait            │                          v                   │
     │ 2 obey            │  <───────────────── bell (eventfd)           │
     │ 3 receive ────────┼── connection -> chunk -> BlockCutter         │
     │ 4 deliver  <──────┴── frames -> Sieve -> TAP, or on_frames       │
     │ 5 collect  injected frames, then TAP -> batches -> connection    │
     │ 6 keep     poke, keep-alives, silence                            │
     │ 7 watch    what is worth waking up for                           │
     └──────────────────────────────────────────────────────────────────┘

Buffers. An inbound chunk belongs to the frames that were cut from it and is free
when stage 4 ends; what control gets is copied. An outbound frame belongs to the
pump from the read to the join of its batch; the batch belongs to the connection.

Nothing here grows without bound: a connection that does not take what is queued
stops the reading of the TAP, so that the kernel's queue discipline decides what
is dropped, and a TAP that takes nothing costs the frame, never a keep-alive.

Source: docs/reference/protocol-data.md#pump.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import random
import select
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from sevpn.dataplane.buffers import BlockCutter, join_batch
from sevpn.dataplane.mailbox import Mailbox
from sevpn.dataplane.ports import FramePort, SecureStream
from sevpn.dataplane.sieve import CONTROL, HOST, Sieve
from sevpn.errors import HostError, LocalProtocolError, SevpnError, TransportError
from sevpn.log import get_logger
from sevpn.metrics.counters import Counters, DropReason
from sevpn.protocol.session import (
    CloseConnection,
    EndSession,
    SendKeepAlive,
    SessionTimers,
)
from sevpn.wire.block import (
    EMPTY_BATCH,
    FULL_BATCH,
    MAX_FRAME_SIZE,
    MAX_KEEPALIVE_SIZE,
    MIN_FRAME_SIZE,
    encode_keepalive,
)
from sevpn.wire.ethernet import MacAddress

__all__ = ["Pump"]

log = get_logger(__name__)

_CHUNK_BYTES: Final = 128 * 1024
"""Read from a connection per turn: chosen by bench/bench_pump.py."""

_COLLECT_BYTES: Final = 256 * 1024
"""Read from the TAP per turn, so that the other direction has its turn."""

_BACKLOG_BYTES: Final = 128 * 1024
"""With more than this waiting for the socket, the TAP is not read."""

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

_TAP_ERRORS: Final[dict[int | None, DropReason]] = {
    errno.EAGAIN: "tap-full",
    errno.ENOBUFS: "tap-full",
    errno.EIO: "tap-down",
}


@dataclass(slots=True)
class _Link:
    """One connection, as the pump sees it."""

    number: int
    stream: SecureStream
    fd: int
    leftover: bytes
    cutter: BlockCutter = field(default_factory=BlockCutter)
    may_have_more: bool = True
    """Whether bytes may be here already that epoll does not know of."""
    owes_poke: bool = False
    """Whether a full batch came in and nothing was sent since."""
    watched: int = select.EPOLLIN
    """What epoll watches of it."""


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
        clock: Seconds on the monotonic clock.
    """

    def __init__(
        self,
        tap: FramePort,
        *,
        mac: MacAddress,
        on_frames: Callable[[list[bytes]], None],
        on_lost: Callable[[SevpnError], None],
        clock: Callable[[], float],
    ) -> None:
        self._mailbox = Mailbox()
        self.counters = Counters()
        """Totals; read them from any thread."""
        self.sieve = Sieve(mac, on_gate=self._mailbox.ring)
        """Decides about inbound frames; its attributes are control's to set."""
        self._tap = tap
        self._tap_fd = tap.fileno()
        self._on_frames = on_frames
        self._on_lost = on_lost
        self._clock = clock
        self._thread = threading.Thread(
            target=self._run, name="sevpn-data", daemon=True
        )
        self._epoll = select.epoll()
        self._epoll.register(self._mailbox, select.EPOLLIN)
        self._is_tap_watched = False
        self._is_stopping = False
        self._timers: SessionTimers | None = None
        self._links: dict[int, _Link] = {}  # by descriptor
        self._burst_ends_at = -math.inf
        self._burst_count = 0

    # --- for the control thread ---

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
        self, stream: SecureStream, *, leftover: bytes, timeout_s: float
    ) -> None:
        """Begin a session with its first connection; the pump owns *stream* from now on.

        Args:
            stream: Fresh from the handshake.
            leftover: What came behind the Welcome and belongs to the session.
            timeout_s: The time-out of the Welcome, in seconds.

        Raises:
            LocalProtocolError: There is a session already, or the thread is not
                running: the stream is still the caller's.
        """
        if not self._order(lambda: self._attach(stream, leftover, timeout_s)):
            raise LocalProtocolError(
                "no session can be attached: the data thread is not running"
            )

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
        is_tap_ready = self._wait()
        self._mailbox.carry_out_orders()
        if self._timers is not None:
            self._pump(self._timers, self._clock(), is_tap_ready=is_tap_ready)
        elif self._mailbox.has_frames:
            self._forget_injected()

    def _pump(self, timers: SessionTimers, now: float, *, is_tap_ready: bool) -> None:
        # Before silence is judged, hear what came in the meantime: the machine
        # may have slept.
        is_due = now >= timers.next_deadline()
        for link in tuple(self._links.values()):
            if link.may_have_more or is_due:
                # What the host was given makes it answer, most often at once.
                is_tap_ready |= self._receive(link, timers, now)
        self._collect(now, is_tap_ready=is_tap_ready)
        self._keep(timers, now)
        self._watch()

    # --- 1 wait ---

    def _wait(self) -> bool:
        """Sleep until there is something to do; say whether the TAP has frames."""
        is_tap_ready = False
        for fd, events in self._epoll.poll(self._patience_s()):
            if fd == self._tap_fd:
                is_tap_ready = True
            elif fd == self._mailbox.fileno():
                self._mailbox.hush()
            else:
                link = self._links[fd]
                if events & select.EPOLLOUT:
                    link.stream.flush()
                # An error or a hang-up shows itself to the reader.
                link.may_have_more |= bool(events & ~select.EPOLLOUT)
        return is_tap_ready

    def _patience_s(self) -> float | None:
        """Return how long nothing is due; None is for ever."""
        if self._timers is None:
            return None
        if any(link.may_have_more for link in self._links.values()):
            return 0
        due_at = self._timers.next_deadline()
        if self._burst_count >= _BURST_FRAMES:
            due_at = min(due_at, self._burst_ends_at)
        return max(0.0, due_at - self._clock())

    # --- 2 obey ---

    def _attach(self, stream: SecureStream, leftover: bytes, timeout_s: float) -> None:
        if self._timers is not None:
            raise LocalProtocolError("no session can be attached: there is one already")
        now = self._clock()
        timers = SessionTimers(timeout_s=timeout_s, now=now)
        link = _Link(number=1, stream=stream, fd=stream.fileno(), leftover=leftover)
        timers.added(link.number, now)
        self._epoll.register(link.fd, link.watched)
        self._links[link.fd] = link
        self._timers = timers
        self._forget_injected()

    def _detach(self, *, polite: bool) -> None:
        if polite:
            with contextlib.suppress(TransportError):
                self._say_goodbye()
        for link in tuple(self._links.values()):
            self._close(link, polite=polite)
        self._timers = None
        self._forget_injected()
        self._watch_tap(wanted=False)

    def _say_goodbye(self) -> None:
        """Send what was injected, and wait a moment until it is in the socket."""
        # A wait in real time, like epoll's, whatever the clock shows.
        until = time.monotonic() + _GOODBYE_S
        for link in self._links.values():
            self._send_injected(link)
            poll = select.poll()
            poll.register(link.fd, select.POLLOUT)
            while not link.stream.flush() and (room_s := until - time.monotonic()) > 0:
                poll.poll(room_s * 1000)

    def _close(self, link: _Link, *, polite: bool) -> None:
        del self._links[link.fd]
        self._epoll.unregister(link.fd)
        link.stream.close(polite=polite)

    def _forget_injected(self) -> None:
        frames, refused = self._mailbox.take_frames()
        self.counters.drop("no-session", len(frames) + refused)

    def _lose(self, error: SevpnError) -> None:
        """Give the session up and tell so; the pump lives on."""
        self._detach(polite=False)
        self._on_lost(error)

    def _stop(self) -> None:
        self._detach(polite=True)
        self._is_stopping = True

    def _end(self) -> None:
        self._mailbox.close()
        self._epoll.close()
        for link in self._links.values():
            link.stream.close(polite=False)

    # --- 3 receive ---

    def _receive(self, link: _Link, timers: SessionTimers, now: float) -> bool:
        """Take one chunk from a connection; say whether the host was given frames."""
        chunk = link.leftover or link.stream.read_available(_CHUNK_BYTES)
        # A shorter chunk is all there was; epoll knows of what comes next.
        link.may_have_more = bool(link.leftover) or len(chunk) >= _CHUNK_BYTES
        link.leftover = b""
        if not chunk:
            return False
        cutter = link.cutter
        cutter.feed(chunk)
        link.owes_poke |= cutter.has_full_batch
        if cutter.has_items:
            timers.received(link.number, now)
        return self._deliver(cutter)

    # --- 4 deliver ---

    def _deliver(self, cutter: BlockCutter) -> bool:
        """Give the cutter's frames to whom they concern; say whether the host got any."""
        frames, to_sift = cutter.tcp_frames, cutter.others
        counters = self.counters
        counters.inbound_frames += len(frames) + len(to_sift)
        counters.inbound_bytes += sum(map(len, frames)) + sum(map(len, to_sift))
        counters.drop("runt", cutter.dropped_runts)
        counters.drop("oversized", cutter.dropped_oversized)
        if not self.sieve.passes_tcp:
            frames, to_sift = [], frames + to_sift
        if to_sift:
            frames += self._sift(to_sift)
        self._write(frames)
        return bool(frames)

    def _sift(self, frames: list[memoryview]) -> list[memoryview]:
        """Hand control its frames, and return the host's."""
        decide = self.sieve.decide
        for_host: list[memoryview] = []
        for_control: list[memoryview] = []
        dropped = 0
        for frame in frames:
            verdict = decide(frame)
            if verdict & HOST:
                for_host.append(frame)
            if verdict & CONTROL:
                for_control.append(frame)
            dropped += not verdict
        self.counters.drop("not-ready", dropped)
        if for_control:
            self.counters.drop(
                "control-full", max(0, len(for_control) - _HANDED_FRAMES)
            )
            self._on_frames([bytes(frame) for frame in for_control[:_HANDED_FRAMES]])
        return for_host

    def _write(self, frames: list[memoryview]) -> None:
        write = self._tap.write
        for frame in frames:
            try:
                write(frame)
            except OSError as error:
                self.counters.drop(_TAP_ERRORS.get(error.errno, "tap-refused"))

    # --- 5 collect ---

    def _collect(self, now: float, *, is_tap_ready: bool) -> None:
        if now >= self._burst_ends_at:
            self._burst_ends_at = now + _BURST_S
            self._burst_count = 0
        for link in self._links.values():
            if self._mailbox.has_frames and link.stream.pending_bytes <= _BACKLOG_BYTES:
                self._send_injected(link)
            if is_tap_ready and self.sieve.is_open:
                self._send_from_tap(link)

    def _send_injected(self, link: _Link) -> None:
        frames, refused = self._mailbox.take_frames()
        self.counters.drop("inject-full", refused)
        while frames:
            self._send(link, frames[:FULL_BATCH])
            frames = frames[FULL_BATCH:]

    def _send_from_tap(self, link: _Link) -> None:
        """Send what the TAP holds, up to the limits of a turn."""
        read_next = self._tap.read
        room = _COLLECT_BYTES
        while room > 0 and link.stream.pending_bytes <= _BACKLOG_BYTES:
            limit = min(FULL_BATCH, _BURST_FRAMES - self._burst_count)
            try:
                frames = list(islice(iter(read_next, None), max(0, limit)))
            except OSError as error:
                raise HostError(
                    f"the TAP cannot be read any more: {error.strerror}",
                    operation="read-tap",
                ) from error
            if frames:
                room -= self._send(link, frames)
            if len(frames) < FULL_BATCH:
                return

    def _send(self, link: _Link, frames: list[bytes]) -> int:
        """Send *frames* as one batch; return their bytes."""
        sizes = list(map(len, frames))
        if min(sizes) < MIN_FRAME_SIZE or max(sizes) > MAX_FRAME_SIZE:
            frames = self._without_misfits(frames)
            sizes = list(map(len, frames))
        link.stream.queue(join_batch(frames, sizes))
        link.stream.flush()
        link.owes_poke = False
        total = sum(sizes)
        self._burst_count += len(frames)
        self.counters.outbound_frames += len(frames)
        self.counters.outbound_bytes += total
        return total

    def _without_misfits(self, frames: list[bytes]) -> list[bytes]:
        """Drop what the protocol cannot carry: a TAP with too large an MTU has such frames."""
        self.counters.drop("runt", sum(len(frame) < MIN_FRAME_SIZE for frame in frames))
        self.counters.drop(
            "oversized", sum(len(frame) > MAX_FRAME_SIZE for frame in frames)
        )
        return [
            frame for frame in frames if MIN_FRAME_SIZE <= len(frame) <= MAX_FRAME_SIZE
        ]

    # --- 6 keep ---

    def _keep(self, timers: SessionTimers, now: float) -> None:
        """Wake the server where it may sleep, and do what the session's timers ask for."""
        for link in self._links.values():
            if link.owes_poke:
                self._say(link, EMPTY_BATCH)
        if now < timers.next_deadline():
            return
        for action in timers.handle_deadline(now):
            match action:
                case SendKeepAlive(number):
                    for link in self._links.values():
                        if link.number == number:
                            self._keep_alive(link)
                case CloseConnection(_, error) | EndSession(error):
                    # With one connection there is no session without it.
                    raise error

    def _keep_alive(self, link: _Link) -> None:
        # Behind a full backlog it would tell the server nothing in time, and
        # one every few seconds is a leak while the server does not read.
        if link.stream.pending_bytes <= _BACKLOG_BYTES:
            self._say(
                link, encode_keepalive(os.urandom(random.randrange(MAX_KEEPALIVE_SIZE)))
            )

    def _say(self, link: _Link, item: bytes) -> None:
        link.stream.queue(item)
        link.stream.flush()
        link.owes_poke = False

    # --- 7 watch ---

    def _watch(self) -> None:
        """Have epoll watch what can be worked on: anything else would only turn the loop."""
        has_room = self._burst_count < _BURST_FRAMES
        for link in self._links.values():
            pending = link.stream.pending_bytes
            has_room = has_room and pending <= _BACKLOG_BYTES
            wanted = select.EPOLLIN | select.EPOLLOUT if pending else select.EPOLLIN
            if wanted != link.watched:
                self._epoll.modify(link.fd, wanted)
                link.watched = wanted
        self._watch_tap(wanted=has_room and self.sieve.is_open)

    def _watch_tap(self, *, wanted: bool) -> None:
        if wanted == self._is_tap_watched:
            return
        if wanted:
            self._epoll.register(self._tap_fd, select.EPOLLIN)
        else:
            self._epoll.unregister(self._tap_fd)
        self._is_tap_watched = wanted
