# SPDX-License-Identifier: Apache-2.0
"""Whether UDP would serve a session better than its TCP connection does.

Layer: dataplane; pure. Runs in: the data thread, every few seconds of traffic.

On a fast clean path TLS over TCP is several times faster than sealed datagrams. On
one that loses packets, or that holds them up, TCP inside TCP is repaired twice. So:

              two bad looks in a row
    ┌───────┐ ─────────────────────> ┌───────┐
    │  tcp  │                        │  udp  │
    └───────┘ <───────────────────── └───────┘
                 after the hold, which is twice as long each time UDP was wanted again

While UDP carries the frames TCP shows nothing, hence the hold instead of a look.
Bad is what was retransmitted to the server, what arrived from it out of order, or a
round trip far above the best one of the connection.

Source: tcp(7), struct tcp_info of linux/tcp.h; the limits are of our own choice:
docs/reference/protocol-data.md#udp-auto.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final

__all__ = ["LOOK_S", "TCP_INFO_SIZE", "Choice", "TcpSample", "choose", "read_sample"]

LOOK_S: Final = 2.0
"""Between two looks, where there is traffic."""

_BAD_SHARE: Final = 0.003
"""Of the segments; at 0.3 % and 50 ms one flow of TCP gets some 5 Mbit/s."""

_ENOUGH_SEGMENTS: Final = 100
"""Fewer say nothing about a share."""

_BAD_RTT_FACTOR: Final = 4
_BAD_RTT_S: Final = 0.2
"""A round trip this much above the best one, and four times as long, is a standing queue."""

_BAD_LOOKS: Final = 2
_FIRST_HOLD_S: Final = 300.0
_LONGEST_HOLD_S: Final = 3600.0

_RTT_AT: Final = 68
_TOTAL_RETRANS_AT: Final = 100
_SEGMENTS_AT: Final = 136
_MIN_RTT_AT: Final = 148
_OUT_OF_ORDER_AT: Final = 224
TCP_INFO_SIZE: Final = 228
"""Bytes of struct tcp_info that are looked at: Linux 5.4 and later have them."""
_NUMBER: Final = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class TcpSample:
    """What the kernel says of a connection; numbers are totals since it began."""

    retransmitted: int
    """Segments sent again."""

    sent: int
    """Segments sent."""

    out_of_order: int
    """Segments that came before others which they should have followed."""

    received: int
    """Segments received."""

    rtt_s: float
    """The smoothed round trip in seconds."""

    best_rtt_s: float
    """The shortest round trip lately, in seconds."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and what it takes to choose again."""

    wants_udp: bool = False
    """Whether frames should travel by UDP."""

    reason: str = "TCP does well"
    """Why, for people."""

    until: float = 0.0
    """When UDP is given up for another look at TCP."""

    bad_looks: int = 0
    """Bad ones in a row."""

    hold_s: float = _FIRST_HOLD_S
    """For how long UDP is held next time."""


def read_sample(info: bytes) -> TcpSample | None:
    """Return what the kernel's struct tcp_info says; `None` where it is too old to say it."""
    if len(info) < TCP_INFO_SIZE:
        return None
    segments_out, segments_in = struct.unpack_from("=II", info, _SEGMENTS_AT)

    def number(at: int) -> int:
        return int(_NUMBER.unpack_from(info, at)[0])

    return TcpSample(
        retransmitted=number(_TOTAL_RETRANS_AT),
        sent=segments_out,
        out_of_order=number(_OUT_OF_ORDER_AT),
        received=segments_in,
        rtt_s=number(_RTT_AT) / 1e6,
        best_rtt_s=number(_MIN_RTT_AT) / 1e6,
    )


def choose(choice: Choice, before: TcpSample, after: TcpSample, now: float) -> Choice:
    """Return the next choice.

    Args:
        choice: The last one.
        before: What the connection was like at the last look.
        after: What it is like now.
        now: The time, in seconds.
    """
    if choice.wants_udp:
        if now < choice.until:
            return choice
        return Choice(
            reason="TCP is tried again",
            hold_s=min(2 * choice.hold_s, _LONGEST_HOLD_S),
        )
    problem = _problem(before, after)
    if problem is None:
        return replace(choice, bad_looks=0, reason="TCP does well")
    if choice.bad_looks + 1 < _BAD_LOOKS:
        return replace(choice, bad_looks=choice.bad_looks + 1)
    return replace(
        choice,
        wants_udp=True,
        reason=problem,
        until=now + choice.hold_s,
        bad_looks=0,
    )


def _problem(before: TcpSample, after: TcpSample) -> str | None:
    sent = after.sent - before.sent
    lost = after.retransmitted - before.retransmitted
    if sent >= _ENOUGH_SEGMENTS and lost >= sent * _BAD_SHARE:
        return f"TCP sent {lost} of {sent} segments again"
    received = after.received - before.received
    early = after.out_of_order - before.out_of_order
    if received >= _ENOUGH_SEGMENTS and early >= received * _BAD_SHARE:
        return f"{early} of {received} segments came out of order over TCP"
    moved = sent + received
    best = after.best_rtt_s
    is_slow = after.rtt_s >= max(_BAD_RTT_FACTOR * best, best + _BAD_RTT_S)
    if moved >= _ENOUGH_SEGMENTS and is_slow:
        return f"TCP's round trips take {after.rtt_s * 1000:.0f} ms, at best {best * 1000:.0f}"
    return None
