# SPDX-License-Identifier: Apache-2.0
"""What C and Python cannot spell alike; `primitives.pxd` is the C half.

Layer: dataplane. Runs in: the data thread.

Both halves promise the same, and none checks a bound: the callers do, once per
packet. Integers on the wire are big-endian; those of a virtio header are
little-endian.
"""

from __future__ import annotations

import errno
import os
from array import array
from typing import Final

__all__ = [
    "copy",
    "get16",
    "get16_little",
    "get32",
    "is_same",
    "ones_sum",
    "put16",
    "put16_little",
    "put32",
    "read_into",
    "write_pieces",
]

_ALL_ONES: Final = 0xFFFF


def copy(
    target: bytearray, at: int, source: bytearray, begin: int, size: int, /
) -> None:
    """Copy *size* bytes; the two ranges must not overlap."""
    target[at : at + size] = source[begin : begin + size]


def is_same(
    one: bytearray, at: int, other: bytearray, begin: int, size: int, /
) -> bool:
    """Whether two ranges hold the same bytes."""
    return one[at : at + size] == other[begin : begin + size]


def ones_sum(data: bytearray, begin: int, size: int, /) -> int:
    """Return the one's complement sum of big-endian 16-bit words (RFC 1071).

    An odd last byte counts as the upper half of a word. The sum of anything but
    zeros is 1 to 65535, never 0.
    """
    value = int.from_bytes(data[begin : begin + size], "big") << (8 * (size & 1))
    return value % _ALL_ONES or (_ALL_ONES if value else 0)


def get16(data: bytearray, at: int, /) -> int:
    """Return the 16-bit integer at *at*."""
    return data[at] << 8 | data[at + 1]


def get32(data: bytearray, at: int, /) -> int:
    """Return the 32-bit integer at *at*."""
    return int.from_bytes(data[at : at + 4], "big")


def get16_little(data: bytearray, at: int, /) -> int:
    """Return the little-endian 16-bit integer at *at*."""
    return data[at] | data[at + 1] << 8


def put16(data: bytearray, at: int, value: int, /) -> None:
    """Write the lower 16 bits of *value*."""
    data[at : at + 2] = (value & _ALL_ONES).to_bytes(2, "big")


def put32(data: bytearray, at: int, value: int, /) -> None:
    """Write the lower 32 bits of *value*."""
    data[at : at + 4] = (value & 0xFFFFFFFF).to_bytes(4, "big")


def put16_little(data: bytearray, at: int, value: int, /) -> None:
    """Write the lower 16 bits of *value*, little-endian."""
    data[at : at + 2] = (value & _ALL_ONES).to_bytes(2, "little")


def read_into(descriptor: int, data: bytearray, at: int, size: int, /) -> int:
    """Read at most *size* bytes; return how many, or the negative errno."""
    try:
        return os.readv(descriptor, [memoryview(data)[at : at + size]])
    except OSError as error:
        return -(error.errno or errno.EIO)


def write_pieces(
    descriptor: int,
    head: bytearray,
    head_size: int,
    data: bytearray,
    starts: array[int],
    sizes: array[int],
    first: int,
    count: int,
    /,
) -> int:
    """Write the first bytes of *head*, and *count* pieces of *data*, as one packet.

    Args:
        descriptor: Where to.
        head: What comes first.
        head_size: How much of it; may be 0.
        data: Holds the pieces.
        starts: Where each piece begins.
        sizes: How long each is.
        first: Index of the first piece.
        count: Pieces, 0 to 64.

    Returns:
        0, or the errno.
    """
    view = memoryview(data)
    pieces = [memoryview(head)[:head_size]]
    pieces += [
        view[starts[index] : starts[index] + sizes[index]]
        for index in range(first, first + count)
    ]
    try:
        os.writev(descriptor, pieces)
    except OSError as error:
        return error.errno or errno.EIO
    return 0
