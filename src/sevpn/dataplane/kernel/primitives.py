# SPDX-License-Identifier: Apache-2.0
"""What C and Python cannot spell alike; `primitives.pxd` is the C half.

Layer: dataplane. Runs in: the data thread.

Both halves promise the same, and none checks a bound: the callers do, once per
packet. Integers on the wire are big-endian; those of a virtio header are
little-endian.
"""

from __future__ import annotations

import errno
import mmap
import os
import socket
import struct
from array import array
from ipaddress import ip_address
from typing import Final

from sevpn.dataplane.kernel.constants import MESSAGE_ROOM, MESSAGES, NAME_SIZE

__all__ = [
    "copy",
    "get16",
    "get16_little",
    "get32",
    "is_same",
    "ones_sum",
    "piece",
    "put16",
    "put16_little",
    "put32",
    "read_into",
    "receive_messages",
    "wrapped",
    "write_pieces",
]

_ALL_ONES: Final = 0xFFFF
_UDP_GRO: Final = 104
_GRO_SIZE: Final = struct.Struct("=i")


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


def get32(data: bytearray | bytes, at: int, /) -> int:
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


def piece(data: mmap.mmap, at: int, size: int, /) -> bytes:
    """Return *size* bytes from *at* on."""
    return data[at : at + size]


def wrapped(head: bytes, data: bytes, at: int, size: int, /) -> bytes:
    """Return an inner packet: *head*, the size and no mark, and so many bytes from *at* on."""
    return head + size.to_bytes(2, "big") + b"\0" + data[at : at + size]


def receive_messages(
    descriptor: int,
    arena: mmap.mmap,
    sizes: array[int],
    steps: array[int],
    names: bytearray,
    /,
) -> int:
    """Read the messages that wait at a UDP socket, without waiting for more.

    Args:
        descriptor: The socket.
        arena: Takes each message at a multiple of 65,536, 32 of them.
        sizes: Takes the size of each.
        steps: Takes the size of the datagrams that a message was joined of; 0: it is one.
        names: Takes struct sockaddr_in or sockaddr_in6 of each sender, 28 bytes each,
            filled up with zeros.

    Returns:
        How many, or the negative errno where there is none.
    """
    with socket.socket(fileno=os.dup(descriptor)) as copied:
        for index in range(MESSAGES):
            at = index * MESSAGE_ROOM
            try:
                size, extras, _, place = copied.recvmsg_into(
                    [memoryview(arena)[at : at + MESSAGE_ROOM]],
                    socket.CMSG_SPACE(_GRO_SIZE.size),
                    socket.MSG_DONTWAIT,
                )
            except OSError as error:
                return index or -(error.errno or errno.EIO)
            sizes[index] = size
            steps[index] = 0
            for level, kind, value in extras:
                if (level, kind) == (socket.IPPROTO_UDP, _UDP_GRO):
                    (steps[index],) = _GRO_SIZE.unpack_from(value)
            name = _name_of(place).ljust(NAME_SIZE, b"\0")
            names[index * NAME_SIZE : (index + 1) * NAME_SIZE] = name
    return MESSAGES


def _name_of(place: tuple[str, int] | tuple[str, int, int, int]) -> bytes:
    """Return a socket's name as the kernel writes it."""
    address = ip_address(place[0])
    if len(place) == 2:
        return struct.pack("=H2s4s", socket.AF_INET, place[1].to_bytes(2, "big"), address.packed)  # fmt: skip
    _, port, flow, zone = place
    return struct.pack(
        "=H2s4s16sI",
        socket.AF_INET6,
        port.to_bytes(2, "big"),
        flow.to_bytes(4, "big"),
        address.packed,
        zone,
    )
