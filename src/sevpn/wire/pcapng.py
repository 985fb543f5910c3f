# SPDX-License-Identifier: Apache-2.0
"""Captures of Ethernet frames in the format pcapng.

Layer: wire. Runs in: any thread; writes only.

    file    := section, interface, packet*
    block   := type (4), size (4), body padded to 4 bytes, size again (4)
    section := magic (4), 1.0 (4), size of the section: unknown (8), options
    packet  := interface 0 (4), time in microseconds (8, high half first), size (4),
               size on the wire (4), bytes

All numbers are little-endian, as the magic says.

Source: the pcapng specification, draft-ietf-opsawg-pcapng, sections 4.1 to 4.3.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["SNAP_SIZE", "pcapng_head", "pcapng_packet"]

SNAP_SIZE: Final = 65535
"""Bytes that are kept of a frame at most; larger ones there are not."""

_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_PACKET: Final = 6
_MAGIC: Final = 0x1A2B3C4D
_ETHERNET: Final = 1
_END, _APPLICATION, _NAME = 0, 4, 2


def pcapng_head(name: str, application: str) -> bytes:
    """Return what a capture begins with.

    Args:
        name: What the frames are of, for people.
        application: Who writes them.
    """
    section = struct.pack("<IHHq", _MAGIC, 1, 0, -1)
    section += _option(_APPLICATION, application) + _option(_END, "")
    interface = struct.pack("<HHI", _ETHERNET, 0, SNAP_SIZE)
    interface += _option(_NAME, name) + _option(_END, "")
    return _block(_SECTION, section) + _block(_INTERFACE, interface)


def pcapng_packet(frame: bytes, *, at_s: float) -> bytes:
    """Return the block of one frame.

    Args:
        frame: A whole Ethernet frame, without its checksum.
        at_s: When it was seen, in seconds since 1970.
    """
    kept = frame[:SNAP_SIZE]
    time_us = int(at_s * 1_000_000)
    head = struct.pack(
        "<IIIII", 0, time_us >> 32, time_us & 0xFFFFFFFF, len(kept), len(frame)
    )
    return _block(_PACKET, head + _padded(kept))


def _option(code: int, value: str) -> bytes:
    data = value.encode()
    return struct.pack("<HH", code, len(data)) + _padded(data)


def _block(kind: int, body: bytes) -> bytes:
    size = len(body) + 12
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
