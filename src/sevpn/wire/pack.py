# SPDX-License-Identifier: Apache-2.0
"""The Pack: named lists of typed values, the body of every handshake message.

Layer: wire. Runs in: any thread.

Every number is unsigned and big-endian:

    pack    := u32 count, count times element
    element := u32 name size + 1, name, u32 kind, u32 count, count times value
    value   := INT     u32
               DATA    u32 size, size bytes
               STR     u32 size, size bytes of UTF-8, no NUL
               UNISTR  u32 size, size bytes of UTF-8, the last one a NUL
               INT64   u64

Only the name's size field counts one byte more than there is. Names are
compared without regard to ASCII case. Bytes after the last element are ignored.

What other readers let pass or misread, this one refuses: a name that occurs
twice, an unknown kind, an element without values, a length beyond the end.

Source: docs/reference/protocol.md#pack; SoftEtherVPN, Mayaqua/Pack.c,
ReadPack() and WritePack(); Mayaqua/Memory.c, ReadBufStr().
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final, assert_never

from sevpn.errors import LocalProtocolError, RemoteProtocolError
from sevpn.wire.cursor import Reader, Writer

__all__ = [
    "MAX_ELEMENT_COUNT",
    "MAX_NAME_SIZE",
    "MAX_VALUE_COUNT",
    "Element",
    "Kind",
    "Pack",
    "Value",
    "data",
    "decode_pack",
    "encode_pack",
    "integer",
    "integer64",
    "ip_elements",
    "text",
    "unitext",
]

MAX_ELEMENT_COUNT: Final = 4096
"""Elements of one Pack. Our choice: a Welcome has about 70; official readers take 262144."""

MAX_VALUE_COUNT: Final = 4096
"""Values of one element. Our choice: a redirect lists at most 128 ports."""

MAX_NAME_SIZE: Final = 64
"""Bytes of a name. Official readers keep 63 of them."""

Value = int | bytes | str
"""What an element holds: int for INT and INT64, bytes for DATA, str for STR and UNISTR."""


class Kind(enum.IntEnum):
    """The kind of all values of an element; the numbers are those on the wire."""

    INT = 0
    DATA = 1
    STR = 2
    UNISTR = 3
    INT64 = 4


@dataclass(frozen=True, slots=True)
class Element:
    """A name and its values.

    Raises:
        LocalProtocolError: The name or a value cannot be sent.
    """

    name: str
    """1 to 64 printable ASCII characters."""

    kind: Kind
    """The kind of all values."""

    values: tuple[Value, ...] = field(repr=False)
    """At least one; never shown by `repr`, because some are secrets."""

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise LocalProtocolError(f"{self.name!r} cannot be an element's name")
        if not 1 <= len(self.values) <= MAX_VALUE_COUNT:
            raise LocalProtocolError(
                f"element {self.name} cannot have {len(self.values)} values: 1 to {MAX_VALUE_COUNT} can be sent"
            )
        if not all(_fits(value, self.kind) for value in self.values):
            raise LocalProtocolError(
                f"element {self.name} has a value that is no {self.kind.name}"
            )


def _is_name(name: str) -> bool:
    return 1 <= len(name) <= MAX_NAME_SIZE and name.isascii() and name.isprintable()


def _fits(value: Value, kind: Kind) -> bool:
    match kind:
        case Kind.INT:
            return isinstance(value, int) and 0 <= value < 1 << 32
        case Kind.INT64:
            return isinstance(value, int) and 0 <= value < 1 << 64
        case Kind.DATA:
            return isinstance(value, bytes)
        case Kind.STR | Kind.UNISTR:
            return isinstance(value, str) and "\0" not in value and _is_unicode(value)
        case _:
            assert_never(kind)


def _is_unicode(value: str) -> bool:
    """Tell whether *value* has no lone surrogates, as command-line arguments may."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


# --- building ----------------------------------------------------------------


def integer(name: str, *values: int) -> Element:
    """Return an INT element; booleans are sent as 0 and 1."""
    return Element(name, Kind.INT, tuple(int(value) for value in values))


def integer64(name: str, *values: int) -> Element:
    """Return an INT64 element."""
    return Element(name, Kind.INT64, values)


def data(name: str, *values: bytes) -> Element:
    """Return a DATA element."""
    return Element(name, Kind.DATA, values)


def text(name: str, *values: str) -> Element:
    """Return a STR element. Official readers trim blanks and tabs at both ends."""
    return Element(name, Kind.STR, values)


def unitext(name: str, *values: str) -> Element:
    """Return a UNISTR element. Official readers trim blanks and tabs at both ends."""
    return Element(name, Kind.UNISTR, values)


def ip_elements(
    name: str, address: IPv4Address | IPv6Address | None
) -> tuple[Element, ...]:
    """Return the four elements that carry an address under *name*.

    Args:
        name: The base name.
        address: None is sent as the IPv4 address 0.0.0.0, "unspecified".
    """
    # The number's bytes are the address's octets in reverse: 192.0.2.10 travels
    # as 0a 02 00 c0. For IPv4 the array is zero, as 4.x and 5.01 send it.
    number, array = 0, bytes(16)
    if isinstance(address, IPv6Address):
        array = address.packed
    elif address is not None:
        number = int.from_bytes(address.packed, "little")
    return (
        integer(f"{name}@ipv6_bool", isinstance(address, IPv6Address)),
        data(f"{name}@ipv6_array", array),
        integer(f"{name}@ipv6_scope_id", 0),
        integer(name, number),
    )


class Pack:
    """Elements in the order of sending, found by name without regard to ASCII case.

    The getters follow the official ones: what is absent, or of another kind, is 0
    or empty, and of several values the first one counts. Ask with `in`, or
    :meth:`find`, where absence matters.

    Args:
        elements: No name may occur twice.

    Raises:
        LocalProtocolError: A name occurs twice.
    """

    __slots__ = ("_elements",)

    def __init__(self, elements: Iterable[Element] = ()) -> None:
        self._elements: dict[str, Element] = {}
        for element in elements:
            if element.name.lower() in self._elements:
                raise LocalProtocolError(
                    f"element {element.name} occurs twice in a Pack"
                )
            self._elements[element.name.lower()] = element

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._elements

    def __iter__(self) -> Iterator[Element]:
        return iter(self._elements.values())

    def __len__(self) -> int:
        return len(self._elements)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pack) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Pack({', '.join(element.name for element in self)})"

    def with_elements(self, *elements: Element) -> Pack:
        """Return a Pack with *elements* after those of this one."""
        return Pack((*self, *elements))

    def find(self, name: str, *kinds: Kind) -> Element | None:
        """Return the element of that name if it is of one of *kinds*."""
        element = self._elements.get(name.lower())
        return element if element is not None and element.kind in kinds else None

    def get_int(self, name: str) -> int:
        """Return the first INT or INT64 of that name, or 0."""
        return next(iter(self.get_ints(name)), 0)

    def get_bool(self, name: str) -> bool:
        """Tell whether the first number of that name is not 0."""
        return self.get_int(name) != 0

    def get_data(self, name: str) -> bytes:
        """Return the first DATA of that name, or nothing."""
        element = self.find(name, Kind.DATA)
        values = element.values if element else ()
        return next((value for value in values if isinstance(value, bytes)), b"")

    def get_str(self, name: str) -> str:
        """Return the first STR or UNISTR of that name, or nothing; not trimmed."""
        return next(iter(self.get_strs(name)), "")

    def get_word(self, name: str) -> str:
        """Return :meth:`get_str` without blanks and tabs at both ends."""
        return self.get_str(name).strip(" \t")

    def get_ints(self, name: str) -> tuple[int, ...]:
        """Return all INT or INT64 values of that name."""
        element = self.find(name, Kind.INT, Kind.INT64)
        values = element.values if element else ()
        return tuple(value for value in values if isinstance(value, int))

    def get_strs(self, name: str) -> tuple[str, ...]:
        """Return all STR or UNISTR values of that name; not trimmed."""
        element = self.find(name, Kind.STR, Kind.UNISTR)
        values = element.values if element else ()
        return tuple(value for value in values if isinstance(value, str))

    def get_ip(self, name: str) -> IPv4Address | IPv6Address | None:
        """Return the address under *name*, or None if there is none.

        An IPv4-mapped IPv6 address is returned as IPv4. The unspecified address
        comes in three forms (0.0.0.0, ::, ::ffff:0.0.0.0); ask `is_unspecified`.
        """
        if self.get_bool(f"{name}@ipv6_bool"):
            octets = self.get_data(f"{name}@ipv6_array")
            if len(octets) != 16:
                return None
            address = IPv6Address(octets)
            return address.ipv4_mapped or address
        if self.find(name, Kind.INT) is None:
            return None
        return IPv4Address(self.get_int(name).to_bytes(4, "little"))


# --- bytes -------------------------------------------------------------------


def encode_pack(pack: Pack) -> bytes:
    """Return the bytes of *pack*, its elements in their order."""
    writer = Writer()
    writer.u32(len(pack))
    for element in pack:
        writer.u32(len(element.name) + 1)
        writer.put(element.name.encode("ascii"))
        writer.u32(element.kind)
        writer.u32(len(element.values))
        for value in element.values:
            _put_value(writer, element.kind, value)
    return writer.joined()


def _put_value(writer: Writer, kind: Kind, value: Value) -> None:
    match value:
        case int() if kind is Kind.INT64:
            writer.u64(value)
        case int():
            writer.u32(value)
        case bytes():
            writer.u32(len(value))
            writer.put(value)
        case str():
            octets = value.encode("utf-8") + (b"\0" if kind is Kind.UNISTR else b"")
            writer.u32(len(octets))
            writer.put(octets)
        case _:
            assert_never(value)


def decode_pack(data: bytes | bytearray | memoryview) -> Pack:
    """Return the Pack that *data* begins with.

    Text that is no UTF-8 is read with replacement characters and ends at its
    first NUL. Bytes after the last element are ignored.

    Args:
        data: The whole body of a message; the caller has bounded its size.

    Raises:
        RemoteProtocolError: The bytes are no Pack, or one with more than
            :data:`MAX_ELEMENT_COUNT` elements, :data:`MAX_VALUE_COUNT` values in
            one of them, or :data:`MAX_NAME_SIZE` bytes in a name.

    Any other exception is a bug.
    """
    reader = Reader(data, what="Pack")
    count = reader.u32("its number of elements")
    if count > MAX_ELEMENT_COUNT:
        raise RemoteProtocolError(
            f"the Pack announces {count} elements: at most {MAX_ELEMENT_COUNT} are taken"
        )
    elements: dict[str, Element] = {}
    for _ in range(count):
        element = _take_element(reader)
        if element.name.lower() in elements:
            raise RemoteProtocolError(
                f"the Pack names its element {element.name} twice"
            )
        elements[element.name.lower()] = element
    return Pack(elements.values())


def _take_element(reader: Reader) -> Element:
    name = _take_name(reader)
    number = reader.u32(f"the kind of {name}")
    count = reader.u32(f"the number of values of {name}")
    try:
        kind = Kind(number)
    except ValueError:
        raise RemoteProtocolError(
            f"the Pack gives {name} the unknown kind {number}"
        ) from None
    if not 1 <= count <= MAX_VALUE_COUNT:
        raise RemoteProtocolError(
            f"the Pack gives {name} {count} values: 1 to {MAX_VALUE_COUNT} are taken"
        )
    return Element(
        name, kind, tuple(_take_value(reader, kind, name) for _ in range(count))
    )


def _take_name(reader: Reader) -> str:
    size = reader.u32("the size of a name") - 1
    if not 1 <= size <= MAX_NAME_SIZE:
        raise RemoteProtocolError(
            f"the Pack has a name of {max(size, 0)} bytes: 1 to {MAX_NAME_SIZE} are taken"
        )
    name = reader.take(size, "a name").decode("latin-1")
    if not _is_name(name):
        raise RemoteProtocolError(f"the Pack has a name that is no word: {name!a}")
    return name


def _take_value(reader: Reader, kind: Kind, name: str) -> Value:
    of = f"a value of {name}"
    match kind:
        case Kind.INT:
            return reader.u32(of)
        case Kind.INT64:
            return reader.u64(of)
        case Kind.DATA:
            return reader.take(reader.u32(of), of)
        case Kind.STR | Kind.UNISTR:
            octets = reader.take(reader.u32(of), of)
            return octets.partition(b"\0")[0].decode("utf-8", "replace")
        case _:
            assert_never(kind)
