# SPDX-License-Identifier: Apache-2.0
"""DHCPv4 messages and the values of their options, for client and server.

Layer: wire. Runs in: any thread.

    message  := op (1), 1 (1), 6 (1), hops (1), xid (4), secs (2), flags (2),
                ciaddr (4), yiaddr (4), siaddr (4), giaddr (4), chaddr (16),
                sname (64), file (128), 63825363, options
    options  := (0 | option)*, 255, anything
    option   := code (1), size (1), size bytes

How the options of one message become one mapping of code to value:

- Option 52 says that `file` (1), `sname` (2) or both (3) hold options too; they
  follow those of the options field in this order.
- A code that comes again continues the value of the first (RFC 3396).
- Option 250 right behind option 121 or 249, or behind another such 250,
  continues that value: SecureNAT splits long route lists so.

What a peer leaves out (the end mark, padding) is not missed; an option that
reaches beyond its field is an error.

Source: RFC 2131 section 2, RFC 2132, RFC 3396, RFC 3397, RFC 3442;
docs/reference/dhcp.md#quirks.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from sevpn.errors import LocalProtocolError, RemoteProtocolError
from sevpn.wire.ethernet import MacAddress

__all__ = [
    "BROADCAST_FLAG",
    "CLIENT_PORT",
    "INFINITE_LEASE",
    "MAX_NAMES",
    "MIN_MESSAGE_SIZE",
    "SERVER_PORT",
    "Message",
    "MessageType",
    "Op",
    "Option",
    "StaticRoute",
    "decode_addresses",
    "decode_classless_routes",
    "decode_message",
    "decode_names",
    "decode_number",
    "decode_static_routes",
    "encode_addresses",
    "encode_classless_routes",
    "encode_message",
    "encode_names",
    "encode_static_routes",
    "is_host_name",
]

CLIENT_PORT: Final = 68
"""Where clients listen."""

SERVER_PORT: Final = 67
"""Where servers and relays listen."""

BROADCAST_FLAG: Final = 0x8000
"""In `flags`: please answer by broadcast, I cannot receive unicast yet."""

INFINITE_LEASE: Final = 0xFFFFFFFF
"""In option 51: the lease never ends."""

MIN_MESSAGE_SIZE: Final = 300
"""Bytes that old servers and relays insist on (RFC 1542 section 2.1)."""

MAX_NAMES: Final = 32
"""Names of one search list that are read; what follows is an error."""

_FIXED: Final = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE: Final = b"\x63\x82\x53\x63"
_ETHERNET: Final = (1, 6)
_NOWHERE: Final = IPv4Address(0)
_PAD: Final = 0
_END: Final = 255
_MAX_PART: Final = 255
_MAX_NAME_SIZE: Final = 253
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


class Op(enum.IntEnum):
    """Which way a message goes."""

    REQUEST = 1
    """To a server."""

    REPLY = 2
    """To a client."""


class MessageType(enum.IntEnum):
    """The value of option 53."""

    DISCOVER = 1
    """Who has an address for me?"""

    OFFER = 2
    """This one could be yours."""

    REQUEST = 3
    """I want this one, or keep it."""

    DECLINE = 4
    """Somebody else has it."""

    ACK = 5
    """It is yours."""

    NAK = 6
    """It is not yours."""

    RELEASE = 7
    """I do not need it any more."""

    INFORM = 8
    """I have an address; tell me the rest."""


class Option(enum.IntEnum):
    """The options that are named anywhere in sevpn."""

    SUBNET_MASK = 1
    ROUTERS = 3
    DNS_SERVERS = 6
    HOST_NAME = 12
    DOMAIN_NAME = 15
    MTU = 26
    STATIC_ROUTES = 33
    NTP_SERVERS = 42
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER_ID = 54
    PARAMETER_LIST = 55
    MESSAGE = 56
    MAX_SIZE = 57
    RENEWAL_TIME = 58
    REBINDING_TIME = 59
    CLIENT_ID = 61
    SEARCH_LIST = 119
    CLASSLESS_ROUTES = 121
    MICROSOFT_ROUTES = 249
    SECURENAT_CONTINUATION = 250


_ROUTE_OPTIONS: Final = (Option.CLASSLESS_ROUTES, Option.MICROSOFT_ROUTES)


@dataclass(frozen=True, slots=True)
class StaticRoute:
    """A way to a network that a DHCP server names."""

    destination: IPv4Network
    """Where to; 0.0.0.0/0 is the default route."""

    gateway: IPv4Address | None
    """By which neighbour; None: the network is on the link itself."""

    def __str__(self) -> str:
        return (
            f"{self.destination} via {self.gateway}"
            if self.gateway
            else f"{self.destination} on the link"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One DHCP message of a client with an Ethernet address."""

    op: Op
    """Which way it goes."""

    xid: int
    """The client's number for the exchange, 32 bits."""

    chaddr: MacAddress
    """The client."""

    secs: int = 0
    """Seconds since the client began, at most 65535."""

    flags: int = 0
    """:data:`BROADCAST_FLAG` or 0."""

    hops: int = 0
    """Relays that it passed."""

    ciaddr: IPv4Address = _NOWHERE
    """The address that the client has and answers ARP for, else 0.0.0.0."""

    yiaddr: IPv4Address = _NOWHERE
    """The address that the server gives."""

    siaddr: IPv4Address = _NOWHERE
    """The server to boot from; SoftEther servers write into it what they like."""

    giaddr: IPv4Address = _NOWHERE
    """The relay."""

    sname: bytes = b""
    """Name of the server to boot from, at most 64 bytes, without zeros behind; empty if it held options."""

    file: bytes = b""
    """What to boot, at most 128 bytes, likewise."""

    options: Mapping[int, bytes] = field(default_factory=dict[int, bytes])
    """Code to whole value, in the order in which they stand, without pads, 52 and 255."""

    @property
    def message_type(self) -> MessageType | None:
        """The value of option 53; None if it is absent or unknown."""
        value = self.options.get(Option.MESSAGE_TYPE, b"")
        if len(value) != 1 or value[0] not in tuple(MessageType):
            return None
        return MessageType(value[0])


def encode_message(
    message: Message,
    *,
    min_size: int = MIN_MESSAGE_SIZE,
    continuation: int | None = None,
) -> bytes:
    """Return the bytes of *message*.

    Options go out in the order of their mapping, with no pad before the end mark:
    SecureNAT takes a pad for an option and does not answer. Zeros may follow it.

    Args:
        message: What to send.
        min_size: Zeros are added up to so many bytes.
        continuation: The code under which a value's bytes beyond 255 are sent;
            None repeats its own code (RFC 3396). 250 is what SecureNAT does.

    Raises:
        LocalProtocolError: `sname` or `file` is too long for its field, or an
            option has the code 0, 52 or 255.
    """
    if len(message.sname) > 64 or len(message.file) > 128:
        raise LocalProtocolError("sname or file does not fit into a DHCP message")
    fixed = _FIXED.pack(
        message.op,
        *_ETHERNET,
        message.hops,
        message.xid,
        message.secs,
        message.flags,
        message.ciaddr.packed,
        message.yiaddr.packed,
        message.siaddr.packed,
        message.giaddr.packed,
        message.chaddr.octets,
        message.sname,
        message.file,
        _COOKIE,
    )
    options = b"".join(
        _encode_option(code, value, continuation)
        for code, value in message.options.items()
    )
    return (fixed + options + bytes([_END])).ljust(min_size, b"\0")


def _encode_option(code: int, value: bytes, continuation: int | None) -> bytes:
    if code in (_PAD, Option.OVERLOAD, _END):
        raise LocalProtocolError(f"option {code} is no option that has a value")
    encoded = bytearray()
    for at in range(0, len(value) or 1, _MAX_PART):
        part = value[at : at + _MAX_PART]
        encoded += bytes([code, len(part)]) + part
        code = code if continuation is None else continuation
    return bytes(encoded)


def decode_message(data: bytes | memoryview) -> Message:
    """Read a message.

    Raises:
        RemoteProtocolError: It is cut, not of DHCP over Ethernet, or an option
            reaches beyond its field.
    """
    if len(data) < _FIXED.size:
        raise RemoteProtocolError(
            f"a DHCP message of {len(data)} bytes is too short: it has at least {_FIXED.size}"
        )
    (
        op,
        *hardware,
        hops,
        xid,
        secs,
        flags,
        ci,
        yi,
        si,
        gi,
        chaddr,
        sname,
        file,
        cookie,
    ) = _FIXED.unpack_from(data)
    if op not in tuple(Op) or tuple(hardware) != _ETHERNET or cookie != _COOKIE:
        raise RemoteProtocolError("a DHCP message is not of DHCP over Ethernet")
    options, overload = _decode_options(bytes(data[_FIXED.size :]), sname, file)
    return Message(
        op=Op(op),
        hops=hops,
        xid=xid,
        secs=secs,
        flags=flags,
        ciaddr=IPv4Address(ci),
        yiaddr=IPv4Address(yi),
        siaddr=IPv4Address(si),
        giaddr=IPv4Address(gi),
        chaddr=MacAddress(chaddr[:6]),
        sname=b"" if overload & 2 else sname.rstrip(b"\0"),
        file=b"" if overload & 1 else file.rstrip(b"\0"),
        options=options,
    )


def _decode_options(
    data: bytes, sname: bytes, file: bytes
) -> tuple[dict[int, bytes], int]:
    """Return all options of a message, and the value of option 52 (0 if absent)."""
    parts = list(_parts(data))
    # Only the options field itself can say that the others hold options too.
    overload = next((part[:1] for code, part in parts if code == Option.OVERLOAD), b"")
    mask = int.from_bytes(overload, "big")
    if mask & 1:
        parts += _parts(file)
    if mask & 2:
        parts += _parts(sname)
    return _joined(parts), mask


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Walk through one field of options up to its end mark, or its end."""
    at = 0
    while at < len(data) and data[at] != _END:
        code = data[at]
        if code == _PAD:
            at += 1
            continue
        value_at = at + 2
        end = value_at + data[at + 1] if value_at <= len(data) else value_at
        if end > len(data):
            raise RemoteProtocolError(
                f"option {code} of a DHCP message reaches beyond its field"
            )
        yield code, data[value_at:end]
        at = end


def _joined(parts: Iterable[tuple[int, bytes]]) -> dict[int, bytes]:
    """Concatenate what belongs together; see the module."""
    values: dict[int, bytearray] = {}
    continued = _PAD
    for code, part in parts:
        if code == Option.OVERLOAD:
            continue
        if code != Option.SECURENAT_CONTINUATION or continued not in _ROUTE_OPTIONS:
            continued = code
        values.setdefault(continued, bytearray()).extend(part)
    return {code: bytes(value) for code, value in values.items()}


# --- the values of options ---------------------------------------------------


def decode_number(value: bytes, size: int) -> int:
    """Read an unsigned number of exactly *size* bytes.

    Raises:
        RemoteProtocolError: The value has another size.
    """
    if len(value) != size:
        raise RemoteProtocolError(f"it has {len(value)} bytes instead of {size}")
    return int.from_bytes(value, "big")


def decode_addresses(value: bytes) -> tuple[IPv4Address, ...]:
    """Read one or more addresses: options 1, 3, 6, 42, 50 and 54.

    Raises:
        RemoteProtocolError: There is none, or the last is cut.
    """
    if not value or len(value) % 4:
        raise RemoteProtocolError(
            f"it has {len(value)} bytes, which is no number of addresses"
        )
    return tuple(IPv4Address(value[at : at + 4]) for at in range(0, len(value), 4))


def encode_addresses(*addresses: IPv4Address) -> bytes:
    """Return the value that names *addresses*."""
    return b"".join(address.packed for address in addresses)


def decode_classless_routes(value: bytes) -> tuple[StaticRoute, ...]:
    """Read options 121 and 249; host bits are masked off.

    Raises:
        RemoteProtocolError: A prefix is longer than 32, or the last route is cut.
    """
    routes: list[StaticRoute] = []
    at = 0
    while at < len(value):
        prefix = value[at]
        gateway_at = at + 1 + (prefix + 7) // 8
        if prefix > 32 or gateway_at + 4 > len(value):
            raise RemoteProtocolError(
                f"a route with a prefix of {prefix} bits is cut or impossible"
            )
        network = value[at + 1 : gateway_at].ljust(4, b"\0")
        routes.append(
            StaticRoute(
                IPv4Network((network, prefix), strict=False),
                _gateway(value[gateway_at : gateway_at + 4]),
            )
        )
        at = gateway_at + 4
    return tuple(routes)


def encode_classless_routes(routes: Iterable[StaticRoute]) -> bytes:
    """Return the value of options 121 and 249."""
    encoded = bytearray()
    for route in routes:
        prefix = route.destination.prefixlen
        encoded.append(prefix)
        encoded += route.destination.network_address.packed[: (prefix + 7) // 8]
        encoded += (route.gateway or _NOWHERE).packed
    return bytes(encoded)


def decode_static_routes(value: bytes) -> tuple[StaticRoute, ...]:
    """Read option 33, which has no masks.

    A destination is the network of its class (A, B or C) if it has no host bits
    in it, else a single host. The default route may not stand here.

    Raises:
        RemoteProtocolError: There is no route, the last is cut, or one has the
            destination 0.0.0.0.
    """
    pairs = decode_addresses(value)
    if len(pairs) % 2:
        raise RemoteProtocolError("its last route has no gateway")
    routes: list[StaticRoute] = []
    for destination, gateway in zip(pairs[::2], pairs[1::2], strict=True):
        if not int(destination):
            raise RemoteProtocolError("it holds a default route")
        routes.append(StaticRoute(_classful(destination), _gateway(gateway.packed)))
    return tuple(routes)


def encode_static_routes(routes: Iterable[StaticRoute]) -> bytes:
    """Return the value of option 33; the prefixes are lost."""
    return b"".join(
        route.destination.network_address.packed + (route.gateway or _NOWHERE).packed
        for route in routes
    )


def _classful(address: IPv4Address) -> IPv4Network:
    first = address.packed[0]
    prefix = 8 if first < 128 else 16 if first < 192 else 24
    network = IPv4Network((int(address), prefix), strict=False)
    return network if network.network_address == address else IPv4Network(address)


def _gateway(packed: bytes) -> IPv4Address | None:
    return IPv4Address(packed) if any(packed) else None


def decode_names(value: bytes) -> tuple[str, ...]:
    """Read option 119, a list of compressed domain names.

    The names are returned as they are, U+FFFD for each byte that is no ASCII:
    check them with :func:`is_host_name` before anything else sees them.

    Raises:
        RemoteProtocolError: A name is cut or longer than 253 bytes, a pointer
            does not point backwards, or there are over :data:`MAX_NAMES` names.
    """
    names: list[str] = []
    at = 0
    while at < len(value):
        if len(names) == MAX_NAMES:
            raise RemoteProtocolError(f"it holds over {MAX_NAMES} names")
        name, at = _decode_name(value, at)
        names.append(name)
    return tuple(names)


def _decode_name(value: bytes, at: int) -> tuple[str, int]:
    """Read the name at *at*; return it, and where the next one stands."""
    labels: list[bytes] = []
    size = 0
    next_at = 0
    begins_at = at
    while True:
        length = value[at] if at < len(value) else _MAX_PART
        if length == 0:
            break
        if length >= 0xC0 and at + 1 < len(value):
            # Each pointer must point before the piece that it stands in, so that
            # any name ends.
            target = (length & 0x3F) << 8 | value[at + 1]
            next_at = next_at or at + 2
            if target >= begins_at:
                raise RemoteProtocolError("a pointer in it does not point backwards")
            at = begins_at = target
            continue
        label = value[at + 1 : at + 1 + length]
        size += length + 1
        if length > 63 or len(label) < length or size > _MAX_NAME_SIZE + 1:
            raise RemoteProtocolError("a name in it is cut or too long")
        labels.append(label)
        at += 1 + length
    return b".".join(labels).decode("ascii", "replace"), next_at or at + 1


def encode_names(names: Iterable[str]) -> bytes:
    """Return the value of option 119, without compression.

    Raises:
        LocalProtocolError: One of them is no name of hosts or domains.
    """
    encoded = bytearray()
    for name in names:
        if not is_host_name(name):
            raise LocalProtocolError(f"{name!r} is no domain name")
        for label in name.split("."):
            encoded += bytes([len(label)]) + label.encode("ascii")
        encoded.append(0)
    return bytes(encoded)


def is_host_name(name: str) -> bool:
    """Say whether *name* may go to a resolver: letters, digits, hyphens, dots; at most 253.

    No label is empty, longer than 63, or begins or ends with a hyphen, and there
    is no dot at the end. An underscore is not allowed: hosts and search domains
    have none (RFC 1123 section 2.1).
    """
    return len(name) <= _MAX_NAME_SIZE and all(
        _LABEL.fullmatch(label) for label in name.split(".")
    )
