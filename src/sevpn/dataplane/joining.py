# SPDX-License-Identifier: Apache-2.0
"""A connection that has asked to join a session and has no answer yet, for the pump to use.

Layer: dataplane. Runs in: the data thread; `has_joined` is read from any.

    Pump ── queue(items) ──────────────────────────> stream: behind the request
    Pump <── read_into(items) ── ClientJoin <─────── stream: the answer before them

Servers read one thing after the other, so frames may follow the request at once: a
session that is taken up again goes on a round trip earlier. Where the server says no
they are lost, as they would have been without a connection.

Source: docs/reference/protocol-data.md#resumption.
"""

from __future__ import annotations

import contextlib
from typing import Final

from sevpn.dataplane.layer import StreamLayer
from sevpn.dataplane.ports import SecureStream
from sevpn.errors import TransportError
from sevpn.protocol.joining import ClientJoin, Joined

__all__ = ["JoiningStream"]

_READ_SIZE: Final = 16 * 1024
"""Read at once while the answer is awaited; what is behind it waits here."""


class JoiningStream(StreamLayer):
    """A :class:`sevpn.dataplane.ports.SecureStream` whose far end has yet to say yes.

    Args:
        stream: The connection, on which the request has been sent; this object owns it.
        request: Understands the answer.
    """

    def __init__(self, stream: SecureStream, request: ClientJoin) -> None:
        super().__init__(stream)
        self._request = request
        self._items = memoryview(b"")
        self.has_joined = False
        """Whether the server has let the connection join."""

    def read_into(self, room: memoryview, /) -> int:
        """Write the items that are here into *room*, and return how many bytes that were.

        Raises:
            TransportError: The stream ended or broke.
            RefusedError: The server does not let the connection join.
            RemoteProtocolError: What it says is no answer.
        """
        while not self.has_joined:
            if not self._hear():
                return 0
        if not self._items:
            return self._stream.read_into(room)
        piece = self._items[: len(room)]
        self._items = self._items[len(piece) :]
        got = len(piece)
        room[:got] = piece
        # Whether the stream has ended is seen by who reads on.
        with contextlib.suppress(TransportError):
            got += self._stream.read_into(room[got:])
        return got

    def _hear(self) -> bool:
        """Give the machine what is here; say whether that was anything."""
        arrived = memoryview(bytearray(_READ_SIZE))
        size = self._stream.read_into(arrived)
        if size:
            self._request.receive_data(arrived[:size])
        while (event := self._request.next_event()) is not None:
            if isinstance(event, Joined):
                self._items = memoryview(event.trailing)
                self.has_joined = True
        return bool(size)
