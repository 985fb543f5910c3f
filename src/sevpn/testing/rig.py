# SPDX-License-Identifier: Apache-2.0
"""A pump on the test bench: the test plays the host and the server.

Layer: testing. Runs in: the test's thread, beside the pump's own.

    with PumpRig() as rig:
        far = rig.attach()
        rig.port.host_sends(frame)
        assert far.frames(1) == [frame]
"""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import time
from collections.abc import Callable
from typing import Self

from sevpn import forms
from sevpn.dataplane.ports import FramePort
from sevpn.dataplane.pump import Pump
from sevpn.dataplane.udpflow import UdpFlow
from sevpn.errors import SevpnError
from sevpn.metrics.counters import Counters
from sevpn.testing.memory import MemoryPort, MemoryStream, memory_stream
from sevpn.wire.block import BlockReader
from sevpn.wire.ethernet import MacAddress

__all__ = ["OUR_MAC", "FarEnd", "PumpRig"]

OUR_MAC = MacAddress.parse("5e:00:00:00:00:01")
"""The TAP's address on the bench."""

_PATIENCE_S = 5.0


class FarEnd:
    """The server's end of one connection: everything that came is remembered."""

    def __init__(self, stream: MemoryStream, sock: socket.socket) -> None:
        self.stream = stream
        """The pump's end, to look at its state."""
        self.socket = sock
        """The raw far end, blocking, with a time-out."""
        self.number = 1
        """What the pump calls the connection."""
        self._frames: list[bytes] = []
        self._reader = BlockReader()

    @property
    def keepalive_count(self) -> int:
        """Keep-alives seen so far by :meth:`frames` and :meth:`hear_until`."""
        return self._reader.keepalive_count

    @property
    def batch_count(self) -> int:
        """Batches seen so far, pokes included."""
        return self._reader.batch_count

    def send(self, data: bytes) -> None:
        """Send raw bytes to the pump."""
        self.socket.sendall(data)

    def hear_until(self, is_enough: Callable[[], bool]) -> None:
        """Read until *is_enough*.

        Raises:
            TimeoutError: It did not become so in time.
            EOFError: The pump closed the connection before.
        """
        while not is_enough():
            data = self.socket.recv(65536)
            if not data:
                raise EOFError("the pump closed the connection")
            self._frames += self._reader.feed(data)

    def keepalives(self, count: int) -> None:
        """Read until there were *count* keep-alives in all; raises likewise."""
        self.hear_until(lambda: self.keepalive_count >= count)

    def is_quiet(self) -> bool:
        """Say whether nothing waits to be read."""
        return not select.select((self.socket,), (), (), 0)[0]

    def frames(self, count: int) -> list[bytes]:
        """Return the next *count* frames; raises like :meth:`hear_until`."""
        self.hear_until(lambda: len(self._frames) >= count)
        frames, self._frames = self._frames[:count], self._frames[count:]
        return frames

    def drain(self) -> list[bytes]:
        """Return the frames that have come by now, without waiting for more."""
        while not self.is_quiet():
            self._frames += self._reader.feed(self.socket.recv(65536))
        frames, self._frames = self._frames, []
        return frames

    def rest(self) -> list[bytes]:
        """Return all frames up to the end of the connection."""
        with contextlib.suppress(EOFError):
            self.hear_until(lambda: False)
        frames, self._frames = self._frames, []
        return frames


class PumpRig:
    """A running pump with its gate open, stopped when the `with` block ends.

    Args:
        port: The TAP's twin; one with default queues if omitted.
        tap: Stands in for the port; the test is the host by other means.
        clock: The real one if omitted.
    """

    def __init__(
        self,
        *,
        port: MemoryPort | None = None,
        tap: FramePort | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.port = port or MemoryPort()
        """The TAP, and the host behind it."""
        self.lost: queue.Queue[SevpnError] = queue.Queue()
        """What `on_lost` was called with."""
        self.lost_connections: queue.Queue[tuple[int, SevpnError]] = queue.Queue()
        """What `on_connection_lost` was called with."""
        self.handed: queue.Queue[list[bytes]] = queue.Queue()
        """What `on_frames` was called with."""
        form: type[Pump] = forms.in_form("sevpn.dataplane.pump").Pump
        self.pump = form(
            tap or self.port,
            mac=OUR_MAC,
            on_frames=self.handed.put,
            on_lost=self.lost.put,
            on_connection_lost=self._connection_lost,
            clock=clock,
        )
        """The pump itself."""
        self.pump.sieve.is_open = True
        self._far_ends: list[FarEnd] = []

    def _connection_lost(self, number: int, error: SevpnError) -> None:
        self.lost_connections.put((number, error))

    def attach(
        self,
        *,
        leftover: bytes = b"",
        timeout_s: float = 20.0,
        buffer_bytes: int | None = None,
        may_receive: bool = True,
        is_compressed: bool = False,
        udp: UdpFlow | None = None,
    ) -> FarEnd:
        """Begin a session and return its far end."""
        far = self._far_end(buffer_bytes)
        try:
            self.pump.attach(
                far.stream,
                leftover=leftover,
                timeout_s=timeout_s,
                may_receive=may_receive,
                is_compressed=is_compressed,
                udp=udp,
            )
        except BaseException:
            far.stream.close(polite=False)
            raise
        self.turn()
        return far

    def add(
        self,
        *,
        buffer_bytes: int | None = None,
        may_send: bool = True,
        may_receive: bool = True,
    ) -> FarEnd:
        """Add a connection to the session and return its far end."""
        far = self._far_end(buffer_bytes)
        try:
            far.number = self.pump.add(
                far.stream, may_send=may_send, may_receive=may_receive
            )
        except BaseException:
            far.stream.close(polite=False)
            raise
        self.turn()
        return far

    def _far_end(self, buffer_bytes: int | None) -> FarEnd:
        far = FarEnd(*memory_stream(buffer_bytes=buffer_bytes))
        self._far_ends.append(far)
        return far

    def turn(self) -> None:
        """Have the pump take one whole turn at least, orders included."""
        self.pump.inject([])
        # The first order may be met by a turn that has looked around already; the
        # second one is not, and when the third is met that turn is over.
        for _ in range(3):
            self.pump.sync()

    @property
    def counters(self) -> Counters:
        """What the pump has counted, after a turn: frames are counted behind their going."""
        self.turn()
        return self.pump.counters

    def lost_error(self) -> SevpnError:
        """Return why the session was lost; raises queue.Empty if it was not in time."""
        return self.lost.get(timeout=_PATIENCE_S)

    def handed_frames(self) -> list[bytes]:
        """Return the next frames for control; raises queue.Empty if none came in time."""
        return self.handed.get(timeout=_PATIENCE_S)

    def __enter__(self) -> Self:
        self.pump.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.pump.stop()
        self.port.close()
        for far in self._far_ends:
            far.socket.close()
