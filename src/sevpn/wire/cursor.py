# SPDX-License-Identifier: Apache-2.0
"""A reader that never passes the end, and a writer of the same numbers.

Layer: wire. Runs in: any thread; one reader or writer per value.

Every number is unsigned and big-endian. The reader compares each length with
the bytes that are left before it copies anything, so a length field of a peer
can never make us allocate more than the peer has sent.
"""

from __future__ import annotations

from sevpn.errors import RemoteProtocolError

__all__ = ["Reader", "Writer"]


class Reader:
    """Reads numbers and byte strings from a value that is all there.

    Args:
        data: The whole value. Not copied: it must not change while it is read.
        what: What the value is, for the text of an error: ``Pack``.
    """

    def __init__(self, data: bytes | bytearray | memoryview, *, what: str) -> None:
        self._view = memoryview(data)
        self._what = what
        self._offset = 0

    @property
    def remaining(self) -> int:
        """The number of bytes that are not read yet."""
        return len(self._view) - self._offset

    def take(self, size: int, of: str) -> bytes:
        """Return the next *size* bytes.

        Args:
            size: 0 or more.
            of: What these bytes are, for the text of an error.

        Raises:
            RemoteProtocolError: Fewer are left; nothing was allocated or read.
        """
        if size > self.remaining:
            raise RemoteProtocolError(
                f"the {self._what} ends inside {of}: {size} bytes are announced, {self.remaining} are there"
            )
        start = self._offset
        self._offset += size
        return bytes(self._view[start : self._offset])

    def u32(self, of: str) -> int:
        """Return the next four bytes as a number; as :meth:`take`."""
        return int.from_bytes(self.take(4, of), "big")

    def u64(self, of: str) -> int:
        """Return the next eight bytes as a number; as :meth:`take`."""
        return int.from_bytes(self.take(8, of), "big")


class Writer:
    """Joins numbers and byte strings.

    A number that does not fit is a bug of the caller: OverflowError.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def put(self, data: bytes) -> None:
        """Append *data* as it is."""
        self._parts.append(data)

    def u32(self, value: int) -> None:
        """Append *value* in four bytes."""
        self._parts.append(value.to_bytes(4, "big"))

    def u64(self, value: int) -> None:
        """Append *value* in eight bytes."""
        self._parts.append(value.to_bytes(8, "big"))

    def joined(self) -> bytes:
        """Return everything that was appended so far."""
        return b"".join(self._parts)
