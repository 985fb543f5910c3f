# SPDX-License-Identifier: Apache-2.0
"""Messages of DHCPv6.

Layer: wire. Runs in: any thread.

    message  := type (1), transaction (3), option*
    option   := code (2), size (2), value
    IA_NA    := id (4), T1 (4), T2 (4), option*        code 3
    address  := address (16), preferred (4), valid (4), option*    code 5, inside IA_NA
    status   := code (2), text                          code 13, at any level

Read is what a client needs; options that it does not know are skipped.

Source: RFC 8415 sections 8 and 21; RFC 3646 (name servers, search list).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address
from typing import Final

from sevpn.errors import RemoteProtocolError
from sevpn.wire.ra import decode_names

__all__ = [
    "CLIENT_PORT",
    "RELAYS_AND_SERVERS",
    "SERVER_PORT",
    "Dhcpv6Message",
    "Dhcpv6Type",
    "LeasedAddress",
    "decode_dhcpv6",
    "encode_dhcpv6",
]

CLIENT_PORT: Final = 546
SERVER_PORT: Final = 547
RELAYS_AND_SERVERS: Final = IPv6Address("ff02::1:2")
"""Every relay agent and server of the link."""

_MAX_ID: Final = 130
"""Bytes of an identifier at most (RFC 8415 section 11.1)."""

_MAX_ADDRESSES: Final = 16
_CLIENT_ID, _SERVER_ID, _IA_NA, _IA_ADDRESS = 1, 2, 3, 5
_REQUESTED, _ELAPSED, _STATUS, _RAPID = 6, 8, 13, 14
_SERVERS, _SEARCH, _REFRESH = 23, 24, 32
_IA_HEAD: Final = struct.Struct("!III")
_ADDRESS: Final = struct.Struct("!16sII")


class Dhcpv6Type(IntEnum):
    """What a message is (RFC 8415 section 7.3)."""

    SOLICIT = 1
    ADVERTISE = 2
    REQUEST = 3
    RENEW = 5
    REBIND = 6
    REPLY = 7
    RELEASE = 8
    INFORMATION_REQUEST = 11


@dataclass(frozen=True, slots=True)
class LeasedAddress:
    """One address of an IA_NA."""

    address: IPv6Address
    """Which."""

    preferred_s: int
    """For how many seconds it is the one to use."""

    valid_s: int
    """For how many seconds it may be used; 0: not any more."""


@dataclass(frozen=True, slots=True)
class Dhcpv6Message:
    """One message."""

    kind: Dhcpv6Type
    """What it is."""

    transaction: int
    """Its number, 24 bits: an answer repeats the question's."""

    client_id: bytes = b""
    """Whose it is."""

    server_id: bytes = b""
    """The server's identifier."""

    association: int | None = None
    """The number of the IA_NA; `None`: there is none."""

    renew_s: int = 0
    """T1, in seconds; 0: the client chooses."""

    rebind_s: int = 0
    """T2, likewise."""

    addresses: tuple[LeasedAddress, ...] = ()
    """In the IA_NA."""

    status: int = 0
    """0 success, else why not; that of the IA_NA where the message itself has none."""

    is_rapid: bool = False
    """Whether two messages are enough (Rapid Commit)."""

    servers: tuple[IPv6Address, ...] = ()
    """Name servers."""

    search: tuple[str, ...] = ()
    """Search domains, of any characters: judge before use."""

    refresh_s: int | None = None
    """After how many seconds settings without a lease are asked for again."""


def encode_dhcpv6(message: Dhcpv6Message, *, elapsed_s: float) -> bytes:
    """Return the bytes of a client's message.

    Args:
        message: What to say; what a server only says is left out.
        elapsed_s: Since the first message of the exchange.
    """
    hundredths = min(int(elapsed_s * 100), 0xFFFF)
    wanted = struct.pack("!HHH", _SERVERS, _SEARCH, _REFRESH)
    if message.kind is not Dhcpv6Type.INFORMATION_REQUEST:
        wanted = wanted[:4]
    parts = [
        struct.pack("!I", message.kind << 24 | message.transaction),
        _option(_CLIENT_ID, message.client_id),
        _option(_SERVER_ID, message.server_id) if message.server_id else b"",
        _option(_ELAPSED, hundredths.to_bytes(2, "big")),
        _option(_REQUESTED, wanted) if message.kind is not Dhcpv6Type.RELEASE else b"",
        _option(_RAPID, b"") if message.is_rapid else b"",
    ]
    if message.association is not None:
        # Times are the server's business (RFC 8415 section 21.4).
        addresses = [
            _option(_IA_ADDRESS, _ADDRESS.pack(each.address.packed, 0, 0))
            for each in message.addresses
        ]
        head = _IA_HEAD.pack(message.association, 0, 0)
        parts.append(_option(_IA_NA, head + b"".join(addresses)))
    return b"".join(parts)


def decode_dhcpv6(data: bytes) -> Dhcpv6Message | None:
    """Read a message; None for a type that no client knows.

    Raises:
        RemoteProtocolError: It is cut, or an option is longer than what is left.
    """
    if len(data) < 4:
        raise RemoteProtocolError(
            f"a DHCPv6 message of {len(data)} bytes is too short: its header has 4"
        )
    try:
        kind = Dhcpv6Type(data[0])
    except ValueError:
        return None
    options = _options(data[4:])
    association = _association(options.get(_IA_NA, b""))
    refresh = options.get(_REFRESH, b"")
    status = _status(options)
    return Dhcpv6Message(
        kind=kind,
        transaction=int.from_bytes(data[1:4], "big"),
        client_id=options.get(_CLIENT_ID, b"")[:_MAX_ID],
        server_id=options.get(_SERVER_ID, b"")[:_MAX_ID],
        association=association.number,
        renew_s=association.renew_s,
        rebind_s=association.rebind_s,
        addresses=association.addresses,
        status=status or association.status,
        is_rapid=_RAPID in options,
        servers=_servers(options.get(_SERVERS, b"")),
        search=tuple(decode_names(options.get(_SEARCH, b""))),
        refresh_s=int.from_bytes(refresh, "big") if len(refresh) == 4 else None,
    )


@dataclass(frozen=True, slots=True)
class _Association:
    number: int | None = None
    renew_s: int = 0
    rebind_s: int = 0
    addresses: tuple[LeasedAddress, ...] = ()
    status: int = 0


def _association(value: bytes) -> _Association:
    if len(value) < _IA_HEAD.size:
        return _Association()
    number, renew_s, rebind_s = _IA_HEAD.unpack_from(value)
    inner = _all_options(value[_IA_HEAD.size :])
    addresses = [
        _leased(content)
        for code, content in inner
        if code == _IA_ADDRESS and len(content) >= _ADDRESS.size
    ]
    return _Association(
        number,
        renew_s,
        rebind_s,
        tuple(addresses[:_MAX_ADDRESSES]),
        _status(dict(inner)),
    )


def _leased(content: bytes) -> LeasedAddress:
    address, preferred_s, valid_s = _ADDRESS.unpack_from(content)
    # An address whose own status is no success is none (RFC 8415 section 18.2.10.1).
    status = _status(dict(_all_options(content[_ADDRESS.size :])))
    return LeasedAddress(IPv6Address(address), preferred_s, 0 if status else valid_s)


def _status(options: dict[int, bytes]) -> int:
    return int.from_bytes(options.get(_STATUS, b"")[:2], "big")


def _servers(value: bytes) -> tuple[IPv6Address, ...]:
    ends = range(16, len(value) + 1, 16)
    return tuple(IPv6Address(value[end - 16 : end]) for end in ends)[:_MAX_ADDRESSES]


def _options(data: bytes) -> dict[int, bytes]:
    """Return the first option of each code."""
    found: dict[int, bytes] = {}
    for code, value in _all_options(data):
        found.setdefault(code, value)
    return found


def _all_options(data: bytes) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if at + 4 + size > len(data):
            raise RemoteProtocolError(
                f"a DHCPv6 option announces {size} bytes where {max(0, len(data) - at - 4)} are left"
            )
        found.append(
            (int.from_bytes(data[at : at + 2], "big"), data[at + 4 : at + 4 + size])
        )
        at += 4 + size
    return found


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("!HH", code, len(value)) + value
