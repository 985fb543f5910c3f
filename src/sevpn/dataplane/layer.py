# SPDX-License-Identifier: Apache-2.0
"""A stream on top of another one: what it does not change it passes on.

Layer: dataplane. Runs in: the data thread.
"""

from __future__ import annotations

from sevpn.dataplane.ports import SecureStream

__all__ = ["StreamLayer"]


class StreamLayer:
    """A :class:`sevpn.dataplane.ports.SecureStream` that is another one in all things.

    Args:
        stream: The connection; this object owns it.
    """

    def __init__(self, stream: SecureStream) -> None:
        self._stream = stream

    @property
    def pending_bytes(self) -> int:
        """Bytes, as the stream below has them, that are not in the kernel yet."""
        return self._stream.pending_bytes

    def fileno(self) -> int:
        """Return the descriptor that epoll watches."""
        return self._stream.fileno()

    def read_into(self, room: memoryview, /) -> int:
        """Write what is here into *room* and return how many bytes that were.

        Raises:
            TransportError: The stream ended or broke.
        """
        return self._stream.read_into(room)

    def queue(self, data: bytes | memoryview, /) -> None:
        """Add *data* to what is to be sent."""
        self._stream.queue(data)

    def flush(self) -> bool:
        """Send what the kernel takes now, and say whether that was all.

        Raises:
            TransportError: The stream broke.
        """
        return self._stream.flush()

    def close(self, polite: bool) -> None:  # noqa: FBT001 - the protocol's form
        """Close; never raises."""
        self._stream.close(polite)
