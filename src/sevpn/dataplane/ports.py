# SPDX-License-Identifier: Apache-2.0
"""What the pump joins: a port of frames at this host, and byte streams to the server.

Layer: dataplane. Runs in: the data thread calls all of it.

    host ── FramePort (the TAP) ── Pump ── SecureStream ── server

`net/tap.py` and `transport/stream.py` are the real ones, `testing/memory.py` has
a twin of each. None of these calls may block.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["FramePort", "SecureStream"]


class FramePort(Protocol):
    """Where frames enter and leave this host: one frame per call.

    With :attr:`has_header` each packet bears a virtio header and may be a
    super-segment; only the compiled path reads those, from the descriptor.
    """

    @property
    def has_header(self) -> bool:
        """Whether packets bear a virtio header."""
        ...

    def fileno(self) -> int:
        """Return the descriptor that epoll watches for frames to read."""
        ...

    def read(self) -> bytes | None:
        """Return the next frame that the host sends, or None when none waits.

        Raises:
            OSError: The port is gone.
        """
        ...

    def write(self, frame: bytes | memoryview, /) -> object:
        """Give one frame, without a virtio header, to the host; the result means nothing.

        The frame's memory is the pump's again when this returns.

        Raises:
            BlockingIOError: The host takes no more at the moment.
            OSError: The host refused it: EIO when the interface is down.
        """
        ...


class SecureStream(Protocol):
    """A byte stream to the server whose far end is trusted."""

    @property
    def pending_bytes(self) -> int:
        """Bytes that were queued and are not in the kernel yet."""
        ...

    def fileno(self) -> int:
        """Return the descriptor that epoll watches; constant until :meth:`close`."""
        ...

    def read_into(self, room: memoryview, /) -> int:
        """Write what is here into *room* and return how many bytes that were.

        Less than its size means that nothing is held back: what else there is
        waits in the kernel, and the descriptor is readable if there is anything.

        Raises:
            TransportError: The stream ended or broke.
        """
        ...

    def queue(self, data: bytes | memoryview, /) -> None:
        """Add *data* to what is to be sent; nothing need be sent before :meth:`flush`.

        The caller may reuse its memory when this returns.
        """
        ...

    def flush(self) -> bool:
        """Send what the kernel takes now, and say whether that was all.

        Raises:
            TransportError: The stream broke.
        """
        ...

    def close(self, polite: bool) -> None:  # noqa: FBT001 - the one thing to say about closing
        """Close; never raises.

        Args:
            polite: Tell the peer first that no more will come (close_notify).
        """
        ...
