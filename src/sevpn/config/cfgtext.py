# SPDX-License-Identifier: Apache-2.0
"""SoftEther's configuration text: folders of named values, one to a line.

Layer: config. Runs in: any thread. Looks at nothing outside its arguments.

    declare root
    {
        uint Port 443
        string HubName OFFICE$20NORTH      a blank, `$` and control characters as $XX
        byte ServerCert MIIB…              base64; what is empty is a single $

        declare ClientAuth
        {
            …
        }
    }

Names and type words count without case. What a line is not is passed over, as the
original does, but for braces that do not match: a file that was cut is refused.
Writers put values before folders, each sorted by name; readers need no order.

Source: docs/reference/vpn-files.md; SoftEtherVPN Cfg.c (CfgReadNextTextBUF,
CfgSaveExW3).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from sevpn.errors import ConfigError

__all__ = ["MAX_SIZE", "Folder", "Value", "read_text", "write_text"]

MAX_SIZE: Final = 1024 * 1024
"""Longest file in bytes; our own choice: the official client's own with hundreds of accounts."""

_MAX_LINE: Final = 64 * 1024
_MAX_DEPTH: Final = 8
_MAX_ENTRIES: Final = 10_000

_BOM: Final = b"\xef\xbb\xbf"
_ESCAPE: Final = re.compile(rb"\$([0-9A-Fa-f]{2})")
_MAX_UINT: Final = 2**32 - 1
_MAX_UINT64: Final = 2**64 - 1


class Number64(int):
    """A number that is written as `uint64`."""


Value: TypeAlias = str | bool | int | bytes
"""What a name can hold: `string`, `bool`, `uint` (or `uint64`, :class:`Number64`), `byte`."""


@dataclass(slots=True)
class Folder:
    """A folder: values and folders by name, of which case does not count."""

    values: dict[str, tuple[str, Value]] = field(default_factory=dict)
    """By the name in small letters: the name as written, and its value."""

    folders: dict[str, tuple[str, Folder]] = field(default_factory=dict)
    """Likewise."""

    def set(self, name: str, value: Value) -> None:
        """Set a value."""
        self.values[name.lower()] = (name, value)

    def open(self, name: str) -> Folder:
        """Return the folder *name*, new if there was none."""
        return self.folders.setdefault(name.lower(), (name, Folder()))[1]

    def folder(self, name: str) -> Folder | None:
        """Return the folder *name*, or `None`."""
        found = self.folders.get(name.lower())
        return None if found is None else found[1]

    def take(self, name: str, kind: type[Value]) -> Value | None:
        """Remove a value and return it; `None` if there is none of that type.

        One of another type stays where it is.
        """
        found = self.values.get(name.lower())
        if found is None or not _is_of(found[1], kind):
            return None
        del self.values[name.lower()]
        return found[1]

    def names(self, prefix: str = "") -> Iterable[str]:
        """Return the names of all values, those of inner folders with their path."""
        for name, _ in self.values.values():
            yield prefix + name
        for name, folder in self.folders.values():
            yield from folder.names(f"{prefix}{name}/")


def _is_of(value: Value, kind: type[Value]) -> bool:
    # To Python true is a number; here it is not.
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


# --- reading -----------------------------------------------------------------


def read_text(data: bytes) -> Folder:
    """Return the folder `root` of a file.

    Raises:
        ConfigError: It is no such file, was cut, or is beyond the limits. The text
            begins with a verb, and repeats nothing of the file, which may hold secrets.
    """
    if len(data) > MAX_SIZE:
        raise ConfigError(f"is longer than {MAX_SIZE} bytes")
    if data.startswith(b"SEVPN_DB"):
        raise ConfigError(
            "is in the binary form: let the official client write it as text, or export the account"
        )
    reader = _Reader()
    for number, line in enumerate(data.removeprefix(_BOM).splitlines(), 1):
        if len(line) > _MAX_LINE:
            raise ConfigError(f"has a line of more than {_MAX_LINE} bytes ({number})")
        reader.read(line, number)
    return reader.root()


class _Reader:
    """Line by line into the folder that is open."""

    def __init__(self) -> None:
        self._top = Folder()
        self._open = [self._top]
        self._count = 0

    def read(self, line: bytes, number: int) -> None:
        words = [word for word in re.split(rb"[ \t]+", line) if word][:3]
        if words[:1] == [b"}"]:
            self._close(number)
        elif len(words) >= 2 and words[0].lower() == b"declare":
            self._declare(_text(words[1], number), number)
        elif len(words) == 3:
            self._count_one()
            _read_value(self._open[-1], words, number)

    def root(self) -> Folder:
        root = self._top.folder("root")
        if root is None:
            raise ConfigError(
                "is no configuration text of SoftEther: it has no folder 'root'"
            )
        if len(self._open) > 1:
            raise ConfigError("ends inside of a folder: it was cut")
        return root

    def _declare(self, name: str, line: int) -> None:
        self._count_one()
        if len(self._open) > _MAX_DEPTH:
            raise ConfigError(f"nests folders too deep (line {line})")
        self._open.append(self._open[-1].open(name))

    def _close(self, line: int) -> None:
        if len(self._open) == 1:
            raise ConfigError(f"closes a folder that is not open (line {line})")
        self._open.pop()

    def _count_one(self) -> None:
        self._count += 1
        if self._count > _MAX_ENTRIES:
            raise ConfigError(f"has more than {_MAX_ENTRIES} entries")


def _read_value(folder: Folder, words: list[bytes], line: int) -> None:
    kind, word = words[0].lower(), words[2]
    name = _text(words[1], line)
    match kind:
        case b"string":
            folder.set(name, _text(word, line))
        case b"bool":
            is_number = word.isdigit() and len(word) <= 20
            folder.set(name, word.lower() == b"true" or (is_number and int(word) != 0))
        case b"uint":
            folder.set(name, _number(word, _MAX_UINT, line))
        case b"uint64":
            folder.set(name, Number64(_number(word, _MAX_UINT64, line)))
        case b"byte":
            folder.set(name, _octets(word, line))
        case _:
            pass


def _number(word: bytes, most: int, line: int) -> int:
    try:
        number = int(word[:24].decode("ascii"), 16 if word[:2].lower() == b"0x" else 10)
    except ValueError:
        number = -1
    if not 0 <= number <= most or len(word) > 24:
        raise ConfigError(f"has a wrong number in line {line}")
    return number


def _octets(word: bytes, line: int) -> bytes:
    if word == b"$":
        return b""
    try:
        return base64.b64decode(word, validate=True)
    except binascii.Error:
        raise ConfigError(f"has wrong base64 in line {line}") from None


def _text(word: bytes, line: int) -> str:
    if word == b"$":
        return ""
    plain = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), word)
    try:
        return plain.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"is not UTF-8 text in line {line}") from None


# --- writing -----------------------------------------------------------------


def write_text(root: Folder, *, comment: str) -> bytes:
    """Return the file of a folder `root`: UTF-8 with its mark, lines that end with CR LF.

    Args:
        root: The folder.
        comment: One line that says what it is.
    """
    lines = [f"# {comment}", "", *_folder_lines("root", root, 0)]
    return _BOM + "".join(line + "\r\n" for line in lines).encode("utf-8")


def _folder_lines(name: str, folder: Folder, depth: int) -> Iterable[str]:
    indent = "\t" * depth
    yield f"{indent}declare {_escaped(name)}"
    yield f"{indent}{{"
    for _, (value_name, value) in sorted(folder.values.items()):
        yield f"{indent}\t{_value_line(value_name, value)}"
    for _, (inner_name, inner) in sorted(folder.folders.items()):
        yield ""
        yield from _folder_lines(inner_name, inner, depth + 1)
    yield f"{indent}}}"


def _value_line(name: str, value: Value) -> str:
    word = _escaped(name)
    match value:
        case bool():
            return f"bool {word} {'true' if value else 'false'}"
        case Number64():
            return f"uint64 {word} {int(value)}"
        case int():
            return f"uint {word} {value}"
        case bytes():
            return f"byte {word} {base64.b64encode(value).decode('ascii') or '$'}"
        case str():
            return f"string {word} {_escaped(value)}"


def _escaped(text: str) -> str:
    if not text:
        return "$"
    return "".join(
        f"${ord(letter):02X}" if letter <= " " or letter == "$" else letter
        for letter in text
    )
