# SPDX-License-Identifier: Apache-2.0
"""RC4 with a key per datagram, which version 1 of UDP acceleration asks for.

Layer: dataplane. Runs in: the data thread, or the embedded server's loop.

A cipher of a library is made to be set up once and used for long: setting it up costs
more than all of a datagram here. RC4 protects nothing any more, and has nothing to
lose by being our own; the tests hold it against the library's.

Each step of RC4 waits for the one before it, so a processor has little to do with one
text; two take their steps in turns, in little more time than one.

    state   0 … 255 of the one │ 256 … 511 of the other, a word each

Source: RFC 7465 for why not; docs/reference/protocol-data.md#udp for where.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

__all__ = ["rc4_all"]

_IN_ORDER: Final = array("I", [*range(256)] * 2)


def rc4_all(keys: Sequence[bytes], texts: Sequence[bytes]) -> list[bytes]:
    """Return *texts* encrypted, or decrypted, which is the same; each with its own key.

    Args:
        keys: All of one size, 1 to 256 bytes.
        texts: As many, of any sizes.
    """
    assert len(keys) == len(texts), "a key for each text"
    found: list[bytes] = []
    last = len(texts) - 1
    for at in range(0, last + 1, 2):
        # Without a partner the last one takes its steps beside nothing.
        beside = min(at + 1, last)
        key, other_key = keys[at], keys[beside]
        assert 0 < len(key) == len(other_key) <= 256, "no key, or two sizes"
        text = bytearray(texts[at])
        other = bytearray(texts[beside] if beside > at else b"")
        words = array("I", _IN_ORDER)
        _set_up(words, key, other_key, len(key))
        _apply(words, text, len(text), other, len(other))
        found.append(bytes(text))
        if beside > at:
            found.append(bytes(other))
    return found


def _set_up(words: array[int], key: bytes, other_key: bytes, size: int) -> None:
    one = other = turn = 0
    for index in range(256):
        value = words[index]
        one = (one + value + key[turn]) & 255
        words[index] = words[one]
        words[one] = value
        value = words[256 + index]
        other = (other + value + other_key[turn]) & 255
        words[256 + index] = words[256 + other]
        words[256 + other] = value
        turn += 1
        if turn == size:
            turn = 0


def _apply(
    words: array[int], text: bytearray, size: int, other: bytearray, other_size: int
) -> None:
    shorter = min(size, other_size)
    index = here = there = 0
    for at in range(shorter):
        index = (index + 1) & 255
        value = words[index]
        here = (here + value) & 255
        opposite = words[here]
        words[index] = opposite
        words[here] = value
        text[at] ^= words[(value + opposite) & 255]
        value = words[256 + index]
        there = (there + value) & 255
        opposite = words[256 + there]
        words[256 + index] = opposite
        words[256 + there] = value
        other[at] ^= words[256 + ((value + opposite) & 255)]
    _go_on(words, 0, index, here, text, shorter, size)
    _go_on(words, 256, index, there, other, shorter, other_size)


def _go_on(
    words: array[int],
    base: int,
    index: int,
    here: int,
    text: bytearray,
    begin: int,
    size: int,
) -> None:
    """Take the steps of the longer one of two."""
    for at in range(begin, size):
        index = (index + 1) & 255
        value = words[base + index]
        here = (here + value) & 255
        opposite = words[base + here]
        words[base + index] = opposite
        words[base + here] = value
        text[at] ^= words[base + ((value + opposite) & 255)]
