# SPDX-License-Identifier: Apache-2.0
"""RC4 with a key per datagram, which version 1 of UDP acceleration asks for.

Layer: dataplane. Runs in: the data thread.

A cipher of a library is made to be set up once and used for long: setting it up costs
more than all of a datagram here. RC4 protects nothing any more, and has nothing to
lose by being our own; the tests hold it against the library's.

Source: RFC 7465 for why not; docs/reference/protocol-data.md#udp for where.
"""

# To basedpyright the imports below may not happen; mypy checks the same lines.
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Final

__all__ = ["rc4"]

_IN_ORDER: Final = bytes(range(256))


def rc4(key: bytes, data: bytes) -> bytes:
    """Return *data* encrypted, or decrypted, which is the same.

    Args:
        key: 1 to 256 bytes.
        data: Any number.
    """
    assert 0 < len(key) <= 256, "no key"
    state = bytearray(_IN_ORDER)
    out = bytearray(data)
    _set_up(state, key, len(key))
    _apply(state, out, len(out))
    return bytes(out)


def _set_up(state: bytearray, key: bytes, size: int) -> None:
    other = 0
    for index in range(256):
        value = state[index]
        other = (other + value + key[index % size]) & 255
        state[index] = state[other]
        state[other] = value


def _apply(state: bytearray, data: bytearray, size: int) -> None:
    index = other = 0
    for at in range(size):
        index = (index + 1) & 255
        value = state[index]
        other = (other + value) & 255
        opposite = state[other]
        state[index] = opposite
        state[other] = value
        data[at] ^= state[(value + opposite) & 255]
