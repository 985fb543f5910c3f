# SPDX-License-Identifier: Apache-2.0
"""How a connection's outbound direction does, by the word of the kernel's TCP.

Layer: dataplane. Runs in: the data thread, rarely.

An answer that does not come may be an answer to a question that is still waiting in
the kernel, behind what an upload has filled it with; or the question never arrived,
although the server goes on talking. TCP tells them apart:

    clear   all that was sent has been acknowledged: the server has got the question
    slow    some has not, and acknowledgements come: wait
    stuck   some has not, and was sent again and again without any effect

Source: tcp(7), struct tcp_info of linux/tcp.h.
"""

from __future__ import annotations

import enum
import socket
import struct
from typing import Final

__all__ = ["Outbound", "judge", "outbound_of", "tcp_info_of"]

_RECENT_MS: Final = 1000
"""Of our own choice: above the round trips of satellites."""

_RETRANSMITS: Final = 2
"""Time-outs in a row: one may be a lost packet."""

_RETRANSMITS_AT: Final = 2
_UNACKNOWLEDGED_AT: Final = 24
_LAST_ACK_AT: Final = 56
_SIZE: Final = 60
_NUMBER: Final = struct.Struct("=I")


class Outbound(enum.IntEnum):
    """How it does; the greater, the worse."""

    CLEAR = 0
    """Nothing is under way, or nothing is known."""

    SLOW = 1
    """What is under way arrives."""

    STUCK = 2
    """What is under way does not arrive."""


def outbound_of(fd: int) -> Outbound:
    """Return how a TCP socket does.

    Args:
        fd: Of the socket, which stays the caller's. Of any other kind of socket
            nothing is known.
    """
    return judge(tcp_info_of(fd, _SIZE))


def tcp_info_of(fd: int, size: int) -> bytes:
    """Return the kernel's struct tcp_info of a socket, as far as the kernel knows it.

    Args:
        fd: As above; of another kind of socket nothing comes.
        size: Bytes to ask for.
    """
    sock = socket.socket(fileno=fd)
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    except OSError:
        return b""
    finally:
        sock.detach()


def judge(info: bytes) -> Outbound:
    """Return what the kernel's struct tcp_info says; too short a one says nothing."""
    if len(info) < _SIZE or not _NUMBER.unpack_from(info, _UNACKNOWLEDGED_AT)[0]:
        return Outbound.CLEAR
    if info[_RETRANSMITS_AT] >= _RETRANSMITS:
        return Outbound.STUCK
    is_recent = _NUMBER.unpack_from(info, _LAST_ACK_AT)[0] < _RECENT_MS
    return Outbound.SLOW if is_recent else Outbound.CLEAR
