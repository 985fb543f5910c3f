# SPDX-License-Identifier: Apache-2.0
"""A session's UDP flow: the socket, the machine, and when frames go that way.

Layer: dataplane. Runs in: the data thread; a server's runs in its event loop. The
attributes of :class:`UdpFlow` may be read from any thread.

    off ──────────────────> probing ─────────────────> up
     ^   wished, or TCP       │ ^     10 s of echoes    │
     │   does badly (auto)    │ └───────────────────────┤ silence
     └────────────────────────┴─────────────────────────┘ TCP is tried again (auto),
                                                          or the socket is of no use

With `auto` nothing is said before TCP does badly: a server then stays on TCP, too,
since nobody echoes its ticks. What cannot go in one packet of the path goes by TCP.

Source: docs/reference/protocol-data.md#udp.
"""

from __future__ import annotations

import math
import random
import secrets
import socket
import struct
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from sevpn.dataplane.buffers import join_batch
from sevpn.dataplane.choice import LOOK_S, Choice, TcpSample, choose, read_sample
from sevpn.dataplane.datagrams import DatagramSocket
from sevpn.dataplane.kernel.wrap import wrap_frames
from sevpn.dataplane.path import is_compiled
from sevpn.log import get_logger
from sevpn.protocol.acceleration import IV_PREFIX_SIZE, Acceleration
from sevpn.protocol.udpterms import Terms
from sevpn.wire.accel import INNER_SIZE, Rc4, rc4_of_library
from sevpn.wire.block import FULL_BATCH, MAX_FRAME_SIZE, MIN_FRAME_SIZE
from sevpn.wire.deflate import inflate_frame

__all__ = ["Rest", "State", "UdpFlow", "Wish", "choose_rc4"]

log = get_logger(__name__)

Wish = Literal["auto", "on"]
"""Whether frames go by UDP where it helps, or wherever it can be had."""

State = Literal["off", "probing", "up"]
"""As `status` shows it."""

_DEFAULT_MTU: Final = 1500
_SMALLEST_MTU: Final = 1280
"""What IPv6 promises, and what practically all paths of IPv4 take."""

_NARROW_S: Final = 600.0
"""How long a path that refused a datagram counts as narrow: as long as the kernel keeps
what routers say of it (ip(7), mtu_expires)."""

_HEADERS: Final = {4: 28, 6: 48}
"""Bytes of the IP and UDP headers."""

_POKE_FRAMES: Final = 64
"""Frames from a server without a word of ours, after which it may be asleep on more:
docs/reference/protocol-data.md#poke."""

_PATH_MTU: Final = struct.Struct("=60xI")
"""Where struct tcp_info has the MTU of the path."""


class Rest(NamedTuple):
    """What has to go by TCP of what was to be sent; a tuple, for there are thousands a second."""

    data: bytes
    """Whole batches."""

    frames: int
    """How many there are in them."""

    size: int
    """Their bytes."""


class UdpFlow:
    """One end of the flow of a session.

    Args:
        sock: A UDP socket that is bound; owned by the flow.
        terms: What was agreed on.
        wish: When frames are to go this way.
    """

    def __init__(self, sock: socket.socket, terms: Terms, *, wish: Wish) -> None:
        self.version = terms.version
        """The version of the datagrams."""
        self.state: State = "off"
        """What it does."""
        self.reason: str | None = "TCP does well"
        """Why it is not up; while it is up with `auto`, why TCP is not enough."""
        self.sent_frames = 0
        """Frames that left by UDP."""
        self.received_frames = 0
        """Frames that came by UDP."""
        self.has_items = False
        """Whether the last :meth:`receive` brought anything of the peer."""
        self.is_over = False
        """Whether the socket is closed."""
        self._malformed = 0
        self._refused = 0  # by sockets before this one
        self._socket = DatagramSocket(sock)
        self._terms = terms
        self._wish: Wish = wish
        self._machine: Acceleration | None = None
        self._choice = Choice()
        self._sample: TcpSample | None = None
        self._look_at = -math.inf
        self._mtu = _DEFAULT_MTU
        self._narrow_until = -math.inf
        self._unanswered = 0

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    @property
    def machine(self) -> Acceleration | None:
        """The machine, once anything was said."""
        return self._machine

    @property
    def dropped_datagrams(self) -> dict[str, int]:
        """Datagrams that were not taken, by reason; one that never happened is absent.

        `foreign`, `stale` and `replayed` came from somebody else, too late, or twice;
        `malformed` ones held no frame; `refused` ones had no room at the kernel's.
        """
        refused = self._refused + self._socket.dropped_count
        counts: list[tuple[str, int]] = (
            [] if self._machine is None else [*self._machine.dropped.items()]
        )
        counts += [("malformed", self._malformed), ("refused", refused)]
        return {reason: count for reason, count in counts if count}

    # --- life ---

    def begin(self, now: float) -> bool:
        """Begin to probe, if that is wished by now; say whether the socket is to be read."""
        if self.is_over or not (self._wish == "on" or self._choice.wants_udp):
            return self._machine is not None and not self.is_over
        if self._machine is None:
            self._socket.enlarge()
            self._machine = Acceleration(
                self._terms,
                iv_prefix=secrets.token_bytes(IV_PREFIX_SIZE),
                jitter=random.random,
                now=now,
                rc4=choose_rc4() if self.version == 1 else None,
            )
        if self.state == "off":
            self._change("probing", "nothing has come from the server by UDP yet")
        return True

    def pause(self) -> None:
        """Close the socket for now, before :meth:`move`."""
        self._socket.close()
        self._change("off", "the session was cut")

    def move(self, sock: socket.socket) -> None:
        """Go on with another socket: the session was taken up again, perhaps from elsewhere."""
        self._refused += self._socket.dropped_count
        self._socket = DatagramSocket(sock)
        self._mtu = _DEFAULT_MTU
        if self._machine is not None:
            self._socket.enlarge()

    def end(self, reason: str | None = None) -> None:
        """Close the socket; the session goes on by TCP."""
        self.is_over = True
        self._socket.close()
        self._change("off", reason or self.reason)

    def _change(self, state: State, reason: str | None) -> None:
        if state != self.state:
            log.info("UDP acceleration", state=state, reason=reason)
        self.reason = reason
        self.state = state

    def _fail(self, error: OSError) -> None:
        self.end(
            f"the socket failed ({error.strerror}): a packet filter or a route is in the way"
        )

    # --- receiving ---

    def receive(self, now: float) -> bytes:
        """Return batches of the frames that have come; nothing if there are none."""
        self.has_items = False
        machine = self._machine
        if machine is None or self.is_over:
            return b""
        try:
            datagrams = self._socket.receive()
        except OSError as error:
            self._fail(error)
            return b""
        taken = machine.receive(datagrams, now)
        self.has_items = bool(taken)
        # Those without a frame are keep-alives.
        whole = [
            inflate_frame(inner.frame) if inner.is_deflated else inner.frame
            for inner in taken
            if inner.frame
        ]
        frames = [
            frame for frame in whole if MIN_FRAME_SIZE <= len(frame) <= MAX_FRAME_SIZE
        ]
        self._malformed += len(whole) - len(frames)
        self.received_frames += len(frames)
        self._unanswered += len(frames)
        if self._unanswered >= _POKE_FRAMES:
            self._say([machine.seal(b"", now)])
        return _batches_of(frames)

    def discard(self) -> None:
        """Throw away what has come: a fault of the embedded server."""
        self._socket.receive()

    # --- sending ---

    def is_up(self, now: float) -> bool:
        """Whether frames are to go this way."""
        if self._machine is None or self.is_over:
            return False
        is_wanted = self._wish == "on" or self._choice.wants_udp
        if is_wanted and self._machine.is_ready(now):
            if self.state != "up":
                self._change(
                    "up", self._choice.reason if self._wish == "auto" else None
                )
            return True
        if self.state == "up":
            self._change("probing", "the server was silent on UDP for too long")
        return False

    def send(self, batches: bytes | memoryview, now: float) -> Rest:
        """Send frames, and return those that have to go by TCP.

        Args:
            batches: Whole batches.
            now: The time.
        """
        machine = self._machine
        assert machine is not None, "the caller has asked whether it is up"
        limit = self._mtu - _HEADERS[self._terms.peer.version] - machine.overhead
        inners, large = wrap_frames(bytes(batches), machine.head(now), limit)
        done = self._say(machine.seal_all(inners))
        self.sent_frames += done
        if done < len(inners) and not self.is_over:
            # The path has become narrower than it was.
            if self._mtu <= _SMALLEST_MTU:
                self.end("the path takes no packet of 1280 bytes")
            self._mtu = _SMALLEST_MTU
            self._narrow_until = now + _NARROW_S
        large += [inner[INNER_SIZE:] for inner in inners[done:]]
        return Rest(_batches_of(large), len(large), sum(map(len, large)))

    def _say(self, datagrams: list[bytes]) -> int:
        """Send to the peer; return how many left, or were lost for want of room."""
        assert self._machine is not None, "there is something to send"
        self._unanswered = 0
        try:
            return self._socket.send(datagrams, self._machine.peer)
        except OSError as error:
            self._fail(error)
            return 0

    # --- time ---

    def next_deadline(self) -> float:
        """Return when :meth:`keep` wants to be called."""
        if self._machine is None or self.is_over:
            return math.inf
        return self._machine.next_deadline()

    def keep(self, now: float) -> None:
        """Send keep-alives that are due."""
        if self._machine is None or self.is_over:
            return
        for keepalive, target in self._machine.handle_deadline(now):
            try:
                self._socket.send([keepalive], target)
            except OSError as error:
                # Where the peer may be besides need not be reachable.
                if target == self._machine.peer:
                    self._fail(error)
                    return
        self.is_up(now)

    def look(self, tcp_info: bytes, now: float) -> None:
        """Look at the TCP connection, if it is time to.

        Args:
            tcp_info: The kernel's struct tcp_info of the connection.
            now: The time.
        """
        if now < self._look_at or self.is_over:
            return
        self._look_at = now + LOOK_S
        if len(tcp_info) >= _PATH_MTU.size and now >= self._narrow_until:
            path_mtu = max(_PATH_MTU.unpack_from(tcp_info)[0], _SMALLEST_MTU)
            self._mtu = min(_DEFAULT_MTU, path_mtu)
        sample = read_sample(tcp_info)
        before, self._sample = self._sample, sample
        if sample is None and self._wish == "auto" and self.state == "off":
            self.reason = "the kernel does not tell how TCP does (Linux 5.4 or newer would): --udp on needs no such word"
        if self._wish == "on" or sample is None or before is None:
            return
        was_wanted = self._choice.wants_udp
        self._choice = choose(self._choice, before, sample, now)
        if self._choice.wants_udp and not was_wanted and self._machine is not None:
            self._machine.echoes = True
        if was_wanted and not self._choice.wants_udp and self._machine is not None:
            self._machine.withdraw(now)
            self._change("off", self._choice.reason)
        if self.state == "off":
            self.reason = self._choice.reason

    def is_look_due(self, now: float) -> bool:
        """Whether :meth:`look` has something to do."""
        return now >= self._look_at and not self.is_over


def choose_rc4(library: Callable[[], Rc4 | None] = rc4_of_library) -> Rc4:
    """Return the kernel's, where it is machine code: else the library's is faster by far, if it has one."""
    from sevpn.dataplane.kernel.rc4 import rc4_all  # noqa: PLC0415 - mostly nobody wants it

    return rc4_all if is_compiled() else library() or rc4_all


def _batches_of(frames: list[bytes]) -> bytes:
    """Return *frames* in whole batches."""
    parts = (frames[at : at + FULL_BATCH] for at in range(0, len(frames), FULL_BATCH))
    return b"".join(join_batch(part, list(map(len, part))) for part in parts)
