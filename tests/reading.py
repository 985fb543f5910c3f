# SPDX-License-Identifier: Apache-2.0
"""Reads a stream the way the pump does, into memory of the caller's."""

from __future__ import annotations

from sevpn.dataplane.ports import SecureStream

__all__ = ["read_some"]


def read_some(stream: SecureStream, limit: int) -> bytes:
    """Return what is here, at most *limit* bytes."""
    room = memoryview(bytearray(limit))
    return bytes(room[: stream.read_into(room)])
