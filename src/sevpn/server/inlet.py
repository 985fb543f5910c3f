# SPDX-License-Identifier: Apache-2.0
"""What comes in on a connection of a session: cut into frames and given to the hub.

Layer: server. Runs in: the event loop.

    room() ── the stream writes ──> take(): cut ──> forward(): the hub

There are two forms, as of the client's data path: on the compiled kernel frames stay
where they lie and go to the hub as a stretch; without it each is a slice.
"""

from __future__ import annotations

from typing import Protocol

from sevpn.dataplane.buffers import BlockCutter
from sevpn.dataplane.kernel.scan import BlockState
from sevpn.dataplane.path import CHUNK_BYTES, is_compiled
from sevpn.server.hub import Hub, Port
from sevpn.server.stretch import Stretch

__all__ = ["Inlet", "open_inlet"]


class Inlet(Protocol):
    """The direction from the client of one connection.

    The attributes tell what the last :meth:`take` brought.
    """

    has_items: bool
    """Whether anything was completed: a block, a keep-alive, an empty batch."""

    frame_count: int
    """How many frames."""

    def room(self) -> memoryview:
        """Return where the next bytes of the connection go."""
        ...

    def take(self, size: int, /) -> None:
        """Cut the *size* bytes that were written there.

        Raises:
            RemoteProtocolError: A size is over its limit; drop the connection.
        """
        ...

    def forward(self, source: Port, /) -> None:
        """Give the frames to the hub, before the next :meth:`room` of any of its inlets."""
        ...


class _ScannedInlet:
    """On the kernel: all connections of a hub read into one buffer."""

    def __init__(self, hub: Hub) -> None:
        self.has_items = False
        self.frame_count = 0
        self._hub = hub
        self._scanner = hub.scanner
        self._state = BlockState()

    def room(self) -> memoryview:
        return self._scanner.room(self._state)[:CHUNK_BYTES]

    def take(self, size: int, /) -> None:
        scanner = self._scanner
        self.frame_count = scanner.scan(self._state, size)
        self.has_items = scanner.has_items

    def forward(self, source: Port, /) -> None:
        scanner = self._scanner
        stretch = Stretch(
            scanner.arena, scanner.starts, scanner.sizes, 0, scanner.frame_count
        )
        self._hub.forward_stretch(source, stretch)


class _SlicedInlet:
    """For the interpreter."""

    def __init__(self, hub: Hub) -> None:
        self.has_items = False
        self.frame_count = 0
        self._hub = hub
        self._room = memoryview(bytearray(CHUNK_BYTES))
        self._cutter = BlockCutter()

    def room(self) -> memoryview:
        return self._room

    def take(self, size: int, /) -> None:
        cutter = self._cutter
        # A copy: frames may wait in the hub or for a session.
        cutter.feed(bytes(self._room[:size]))
        self.has_items = cutter.has_items
        self.frame_count = len(cutter.tcp_frames) + len(cutter.others)

    def forward(self, source: Port, /) -> None:
        self._hub.forward(source, self._cutter.others, self._cutter.tcp_frames)


def open_inlet(hub: Hub) -> Inlet:
    """Return the direction from the client of a new connection, in the better form that there is."""
    return _ScannedInlet(hub) if is_compiled() else _SlicedInlet(hub)
