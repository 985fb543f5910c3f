# SPDX-License-Identifier: Apache-2.0
"""Answers to DNS questions about a few names; just enough for a client to see a name resolve.

Layer: server. Runs in: the event loop; pure.

    message  := id (2), flags (2), counts (4 x 2), question, answer*
    question := (size, label)*, 0, type (2), class (2)

A name that is there has A records only: other types get an empty answer. A name
that is not gets NXDOMAIN. What is no question with one name gets nothing.

Source: RFC 1035, 4.1; RFC 2308.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Final

__all__ = ["answer_question"]

_HEAD: Final = struct.Struct("!HHHHHH")
_IS_RESPONSE: Final = 0x8000
_OPCODE: Final = 0x7800
_RECURSION_WANTED: Final = 0x0100
_ANSWER: Final = 0x8480  # response, authoritative, recursion available
_NO_SUCH_NAME: Final = 3
_IN: Final = 1
_A: Final = 1
_TTL_S: Final = 30
_MAX_NAME_SIZE: Final = 255


def answer_question(question: bytes, names: Mapping[str, IPv4Address]) -> bytes | None:
    """Return the answer to *question*, or None if it deserves none.

    Args:
        question: A DNS message of any content.
        names: The names that there are, in lower case and without a dot at the end.
    """
    if len(question) < _HEAD.size:
        return None
    number, flags, count, *_ = _HEAD.unpack_from(question)
    if flags & (_IS_RESPONSE | _OPCODE) or count != 1:
        return None
    found = _read_name(question)
    if found is None:
        return None
    name, end = found
    kind, group = struct.unpack_from("!HH", question, end)
    body = question[_HEAD.size : end + 4]
    address = names.get(name)
    records = b""
    if address is not None and (kind, group) == (_A, _IN):
        # 0xC00C points to the name in the question.
        records = struct.pack("!HHHIH4s", 0xC00C, _A, _IN, _TTL_S, 4, address.packed)
    code = 0 if address is not None else _NO_SUCH_NAME
    head = _HEAD.pack(
        number, _ANSWER | flags & _RECURSION_WANTED | code, 1, 1 if records else 0, 0, 0
    )
    return head + body + records


def _read_name(question: bytes) -> tuple[str, int] | None:
    """Return the name asked for and where it ends; None if it is cut or compressed."""
    labels: list[str] = []
    position = _HEAD.size
    while position < len(question) and position - _HEAD.size <= _MAX_NAME_SIZE:
        size = question[position]
        position += 1
        if size == 0:
            return (
                (".".join(labels), position) if position + 4 <= len(question) else None
            )
        if size > 63:
            return None
        labels.append(question[position : position + size].decode("latin-1").lower())
        position += size
    return None
