# SPDX-License-Identifier: Apache-2.0
"""Ethernet frames and MAC addresses.

Layer: wire. Runs in: any thread.

    frame := destination (6), source (6), EtherType (2, big-endian), payload

Frames here carry neither preamble nor check sequence. A hub cuts the padding to
60 bytes off IP packets and accepts shorter frames, so nothing is padded here and
nothing is expected to be.

Source: IEEE 802.3 clause 3; docs/reference/dhcp.md#frames.
"""

from __future__ import annotations

import enum
import re
import struct
from dataclasses import dataclass
from typing import Final

from sevpn.errors import RemoteProtocolError

__all__ = [
    "BROADCAST",
    "EtherType",
    "Frame",
    "MacAddress",
    "decode_frame",
    "encode_frame",
]

_HEADER: Final = struct.Struct("!6s6sH")
_TEXT: Final = re.compile(r"[0-9a-f]{2}(?:([:-])[0-9a-f]{2})(?:\1[0-9a-f]{2}){4}")
_HUB_PREFIX: Final = b"\x00\xae"


class EtherType(enum.IntEnum):
    """What a frame carries; the values that are named anywhere in sevpn."""

    IPV4 = 0x0800
    """An IPv4 packet."""

    ARP = 0x0806
    """An ARP packet."""

    VLAN = 0x8100
    """An 802.1Q tag, then the real EtherType."""

    IPV6 = 0x86DD
    """An IPv6 packet."""


@dataclass(frozen=True, slots=True, order=True)
class MacAddress:
    """A 48-bit MAC address; `str()` gives lower-case hex with colons.

    Raises:
        ValueError: There are not exactly six octets.
    """

    octets: bytes
    """The six octets, in the order in which they are sent."""

    def __post_init__(self) -> None:
        if len(self.octets) != 6:
            raise ValueError(f"a MAC address has 6 octets, not {len(self.octets)}")

    @classmethod
    def parse(cls, text: str) -> MacAddress:
        """Read `5e:00:53:00:00:01` or `5E-00-53-00-00-01`.

        Raises:
            ValueError: The text is anything else.
        """
        text = text.lower()
        if not _TEXT.fullmatch(text):
            raise ValueError(
                f"{text!r} is no MAC address: write it like 5e:00:53:00:00:01"
            )
        return cls(bytes.fromhex(text.replace(":", "").replace("-", "")))

    def __str__(self) -> str:
        return self.octets.hex(":")

    @property
    def is_multicast(self) -> bool:
        """Whether it names a group of stations, all of them included."""
        return bool(self.octets[0] & 1)

    @property
    def is_broadcast(self) -> bool:
        """Whether it names all stations."""
        return self.octets == b"\xff" * 6

    @property
    def is_hub(self) -> bool:
        """Whether it has the prefix 00:AE of a hub's own frames: docs/reference/protocol-data.md#hub-polls."""
        return self.octets.startswith(_HUB_PREFIX)


BROADCAST: Final = MacAddress(b"\xff" * 6)
"""All stations of the segment."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One Ethernet frame."""

    destination: MacAddress
    """Who shall receive it."""

    source: MacAddress
    """Who sent it."""

    ethertype: int
    """What the payload is, see :class:`EtherType`; under 1536 it is a length (802.3)."""

    payload: bytes
    """The rest, with padding if the sender put any."""


def encode_frame(frame: Frame) -> bytes:
    """Return the bytes of *frame*, without padding and check sequence."""
    return (
        _HEADER.pack(frame.destination.octets, frame.source.octets, frame.ethertype)
        + frame.payload
    )


def decode_frame(data: bytes | memoryview) -> Frame:
    """Read a frame; the payload is copied.

    Raises:
        RemoteProtocolError: There are fewer than 14 bytes.
    """
    if len(data) < _HEADER.size:
        raise RemoteProtocolError(
            f"a frame of {len(data)} bytes is too short: its header has 14"
        )
    destination, source, ethertype = _HEADER.unpack_from(data)
    return Frame(
        MacAddress(destination),
        MacAddress(source),
        ethertype,
        bytes(data[_HEADER.size :]),
    )
