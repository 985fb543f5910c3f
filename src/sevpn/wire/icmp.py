# SPDX-License-Identifier: Apache-2.0
"""The two ICMP messages of a ping.

Layer: wire. Runs in: any thread.

    echo := 8 for a request, 0 for a reply (1), 0 (1), checksum (2),
            identifier (2), sequence (2), payload

Source: RFC 792.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

from sevpn.errors import RemoteProtocolError
from sevpn.wire.ipv4 import internet_checksum

__all__ = ["Echo", "EchoKind", "decode_echo", "encode_echo"]

_HEADER: Final = struct.Struct("!BBHHH")


class EchoKind(enum.IntEnum):
    """Which half of a ping."""

    REPLY = 0
    """The same bytes back."""

    REQUEST = 8
    """Please send these bytes back."""


@dataclass(frozen=True, slots=True)
class Echo:
    """One half of a ping; a reply repeats the other three fields of its request."""

    kind: EchoKind
    """Which half."""

    identifier: int
    """The asker's number for this ping, 0 to 65535."""

    sequence: int
    """The number of this request within the ping, 0 to 65535."""

    payload: bytes
    """Any bytes."""


def encode_echo(echo: Echo) -> bytes:
    """Return the bytes of *echo*, the payload of an IPv4 packet."""
    numbers = (echo.identifier, echo.sequence)
    unsummed = _HEADER.pack(echo.kind, 0, 0, *numbers) + echo.payload
    total = internet_checksum(unsummed)
    return _HEADER.pack(echo.kind, 0, total, *numbers) + echo.payload


def decode_echo(data: bytes | memoryview) -> Echo | None:
    """Read an ICMP message; None if it is a whole one that is no half of a ping.

    Raises:
        RemoteProtocolError: It is cut, or its checksum is wrong.
    """
    if len(data) < _HEADER.size or internet_checksum(data):
        raise RemoteProtocolError(
            f"an ICMP message of {len(data)} bytes is cut or wrongly summed"
        )
    kind, code, _, identifier, sequence = _HEADER.unpack_from(data)
    if code or kind not in tuple(EchoKind):
        return None
    return Echo(EchoKind(kind), identifier, sequence, bytes(data[_HEADER.size :]))
