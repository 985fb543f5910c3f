# SPDX-License-Identifier: Apache-2.0
"""One end of a session's UDP flow: what to make of datagrams, when to send by them.

Layer: protocol; pure. Runs in: the data thread, or the embedded server's loop.

                    own ticks come back                  10 s without a break
    ┌─────────────┐ ───────────────────> ┌─────────────┐ ───────────────────> ┌───────┐
    │   unheard   │                      │   stable    │                      │ ready │
    └─────────────┘ <─────────────────── └─────────────┘                      └───┬───┘
           ^           silence (2.1 or 9 s)                                       │
           └──────────────────────────────────────────────────────────────────────┘

While it is ready, this end may send frames by UDP; it takes them in any state. What
this end echoes is what makes the peer ready: :attr:`Acceleration.echoes` keeps the
peer on TCP while it is false, and :meth:`Acceleration.withdraw` sends it back there.
An end that hears nothing any more speaks rarely, so that the peer takes it for silent:
a path may fail in one direction.

Of a replayed datagram only the first is taken: the IVs of the last 8,000 to 16,000
datagrams are remembered, and what is older than those is as stale as what is 30 s old.

Source: docs/reference/protocol-data.md#udp; SoftEtherVPN, Cedar/UdpAccel.c,
UdpAccelProcessRecvPacket(), UdpAccelPoll() and UdpAccelIsSendReady().
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

from sevpn.errors import RemoteProtocolError
from sevpn.protocol.udpterms import Terms
from sevpn.wire.accel import (
    INNER_SIZE,
    Inner,
    Rc4,
    decode_inner,
    encode_head,
    encode_inner,
    seal_of,
)

__all__ = ["IV_PREFIX_SIZE", "Acceleration", "DropCause", "Endpoint"]

IV_PREFIX_SIZE: Final = 12
"""Random bytes that the IVs begin with; version 2 has room for the first 4."""

Endpoint: TypeAlias = tuple[str, int]
"""Address and port, as a socket gives and takes them."""

DropCause: TypeAlias = Literal["foreign", "stale", "replayed"]
"""Why a datagram was not taken: not of this session; too old; taken before."""

_WINDOW_MS: Final = 30_000
_STABLE_S: Final = 10.0
_FAST_SILENCE_S: Final = 2.1
_SLOW_SILENCE_S: Final = 9.0
_FAST_INTERVAL_S: Final = (0.5, 1.0)
_SLOW_INTERVAL_S: Final = (1.0, 3.0)

_GENERATION: Final = 8192
"""Datagrams of one generation of IVs; two are kept, some 2 MB at most."""

_COUNTER_SIZE: Final = 8


class Acceleration:
    """One end of the flow.

    Deadlines that are handled late, early or twice do no harm.

    Args:
        terms: What was agreed on.
        iv_prefix: :data:`IV_PREFIX_SIZE` random bytes.
        jitter: Returns a random number from 0 to 1 for each keep-alive.
        now: The time.
        echoes: As the attribute.
        rc4: A faster cipher for version 1, if there is one.
    """

    def __init__(
        self,
        terms: Terms,
        *,
        iv_prefix: bytes,
        jitter: Callable[[], float],
        now: float,
        echoes: bool = True,
        rc4: Rc4 | None = None,
    ) -> None:
        self.peer: Endpoint = (str(terms.peer), terms.port)
        """Where to send; it moves with the peer."""
        self.echoes = echoes
        """Whether the peer is told that its datagrams arrive; assign it freely."""
        self.heard_at = -math.inf
        """When the peer last showed that it hears this end."""
        self.dropped: dict[DropCause, int] = {"foreign": 0, "stale": 0, "replayed": 0}
        """Datagrams that were not taken."""
        self._terms = terms
        self._sealing = seal_of(terms.version, terms.send_key, rc4)
        self._opening = seal_of(terms.version, terms.receive_key, rc4)
        self._cookie = terms.receive_cookie
        self._iv_size = self._sealing.iv_size
        self._iv_prefix = iv_prefix[: self._iv_size - _COUNTER_SIZE]
        self._iv_count = 0
        self._jitter = jitter
        self._began_at = now
        self._silence_s = _FAST_SILENCE_S if terms.is_fast else _SLOW_SILENCE_S
        self._interval_s = _FAST_INTERVAL_S if terms.is_fast else _SLOW_INTERVAL_S
        self._peer_tick = 0
        self._echoed_tick = 0
        self._stable_since = math.inf
        self._keepalive_at = now
        self._received_at = math.inf
        self._is_sparse = False
        # IVs that were taken: those of the present generation and of the one before.
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()
        self._old_tick = 0  # the greatest of the old generation
        self._floor = 0  # what was forgotten with the generation before it

    @property
    def overhead(self) -> int:
        """Bytes that a datagram has beyond its frame, without padding."""
        return INNER_SIZE + self._sealing.overhead

    # --- receiving ---

    def receive(
        self, datagrams: Sequence[tuple[bytes, Endpoint]], now: float
    ) -> list[Inner]:
        """Take datagrams; return what those say that are of this session, once each.

        The others are dropped, and counted.

        Args:
            datagrams: Anything, and where each came from.
            now: The time.
        """
        taken: list[Inner] = []
        said = self._tick(now)  # nobody has heard what was not said yet
        # Looked up once: there are a hundred thousand datagrams a second.
        iv_size, own_cookie = self._iv_size, self._cookie
        opened = self._opening.open_all([datagram for datagram, _ in datagrams])
        for (datagram, source), packet in zip(datagrams, opened, strict=True):
            try:
                # The empty packet is none.
                inner = decode_inner(packet or b"")
            except RemoteProtocolError:
                self.dropped["foreign"] += 1
                continue
            cookie, tick, echo, _, _ = inner
            iv, young = datagram[:iv_size], self._young
            if cookie != own_cookie or not tick:
                self.dropped["foreign"] += 1
            elif tick <= self._floor or tick + _WINDOW_MS <= self._peer_tick:
                self.dropped["stale"] += 1
            elif iv in young or iv in self._old:
                self.dropped["replayed"] += 1
            else:
                taken.append(inner)
                young.add(iv)
                if len(young) >= _GENERATION:
                    self._begin_generation()
                if tick > self._peer_tick:
                    self._peer_tick = tick
                    self.peer = source
                if self._echoed_tick < echo <= said:
                    self._echoed_tick = echo
        if taken:
            self._note_life(said, now)
        return taken

    def _begin_generation(self) -> None:
        """Forget the IVs of the generation before this one."""
        self._floor = self._old_tick
        self._old, self._young = self._young, set()
        self._old_tick = self._peer_tick

    def _note_life(self, said: int, now: float) -> None:
        """Note that something came; it counts if it shows that this end is heard."""
        self._received_at = now
        if self._is_sparse:
            self._is_sparse = False
            self._keepalive_at = now
        if not self._echoed_tick or self._echoed_tick + _WINDOW_MS < said:
            return
        if now - self.heard_at > self._silence_s:
            self._stable_since = now
        self.heard_at = now

    # --- sending ---

    def is_heard(self, now: float) -> bool:
        """Whether both directions work at the moment."""
        return now - self.heard_at <= self._silence_s

    def is_ready(self, now: float) -> bool:
        """Whether both directions have worked for long enough to send frames."""
        return self.is_heard(now) and now - self._stable_since >= _STABLE_S

    def seal(self, frame: bytes, now: float, *, is_deflated: bool = False) -> bytes:
        """Return the datagram of one frame, for :attr:`peer`; of none, a keep-alive.

        Args:
            frame: An Ethernet frame, or a zlib stream of one.
            now: The time.
            is_deflated: Which of the two.
        """
        inner = encode_inner(
            Inner(*self._marks(now), frame=frame, is_deflated=is_deflated)
        )
        return self.seal_all([inner])[0]

    def head(self, now: float) -> bytes:
        """Return what all inner packets begin with that are sealed now."""
        return encode_head(*self._marks(now))

    def seal_all(self, inners: Sequence[bytes]) -> list[bytes]:
        """Return the datagrams of inner packets, for :attr:`peer`.

        Args:
            inners: They begin with :meth:`head`.
        """
        prefix, first = self._iv_prefix, self._iv_count + 1
        self._iv_count += len(inners)
        ivs = [
            prefix + number.to_bytes(_COUNTER_SIZE, "big")
            for number in range(first, first + len(inners))
        ]
        return self._sealing.seal_all(inners, ivs)

    def _marks(self, now: float) -> tuple[int, int, int]:
        """Return cookie, tick and echo."""
        echo = self._peer_tick if self.echoes else 0
        return self._terms.send_cookie, self._tick(now), echo

    def _tick(self, now: float) -> int:
        return 1 + max(0, int((now - self._began_at) * 1000))

    def withdraw(self, now: float) -> None:
        """Say nothing for as long as the peer would take it for a sign of life.

        Afterwards the peer is on TCP, and stays there until this end echoes again.
        """
        self.echoes = False
        self._stable_since = math.inf
        self.heard_at = -math.inf
        self._echoed_tick = 0
        self._keepalive_at = now + _WINDOW_MS / 1000 + self._silence_s

    # --- time ---

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` wants to be called."""
        return self._keepalive_at

    def handle_deadline(self, now: float) -> list[tuple[bytes, Endpoint]]:
        """Return the keep-alives that are due at *now*, and where each goes."""
        if now < self._keepalive_at:
            return []
        low, high = self._interval_s
        self._keepalive_at = now + low + (high - low) * self._jitter()
        # Where only this end hears nothing, the peer would go on sending into the
        # void for 30 s, since what it hears echoes its ticks from before. Gaps that
        # it takes for silence bring it back to TCP.
        if now - self._received_at > self._silence_s:
            self._is_sparse = True
            self._keepalive_at += self._silence_s
        keepalive = self.seal(b"", now)
        targets = [self.peer]
        if not self.is_ready(now):
            targets += self._alternatives()
        return [(keepalive, target) for target in targets]

    def _alternatives(self) -> list[Endpoint]:
        """Return where else the peer may be, as long as nothing has come from it."""
        terms = self._terms
        addresses = [self.peer[0], str(terms.peer)]
        if terms.reported is not None:
            addresses.append(str(terms.reported))
        places = [
            (address, port)
            for address in addresses
            for port in (self.peer[1], terms.port)
        ]
        return [place for place in dict.fromkeys(places) if place != self.peer]
