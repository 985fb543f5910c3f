# SPDX-License-Identifier: Apache-2.0
"""Random traffic of several TCP flows and what comes between, valid and not; and the law of merging it.

What a receiver finds when it cuts each write to the TAP as the host would is what
went in: per flow in order, and the rest in its order. A frame in which TCP may hide
(a fragment, options, an extension header) stays behind all that came before it.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from hypothesis import strategies as st

from kernel_forms import Form
from kernel_packets import (
    ACK,
    CWR,
    ECE,
    FIN,
    NO_OFFLOAD,
    PSH,
    RST,
    SYN,
    URG,
    Segment,
    checksum,
    frames_of,
)
from sevpn.dataplane.kernel.cut import Cutter

__all__ = ["assert_same_traffic", "damaged", "frames_behind", "traffic"]

BARRIER: Final = b"barrier"
OTHERS: Final = b"others"

CHANGES: Final[dict[str, dict[str, object]]] = {
    "push": {"flags": ACK | PSH},
    "fin": {"flags": ACK | FIN},
    "fin and push": {"flags": ACK | FIN | PSH},
    "syn": {"flags": SYN},
    "rst": {"flags": RST},
    "urg": {"flags": ACK | URG, "urgent": 3},
    "ece": {"flags": ACK | ECE},
    "cwr": {"flags": ACK | CWR},
    "no ack": {"flags": 0},
    "reserved": {"reserved": 1},
    "urgent": {"urgent": 9},
    "ack": {"ack": 78},
    "window": {"window": 502},
    "options": {"options": b"\x01\x01\x08\x0a\0\0\0\1\0\0\0\2"},
    "later options": {"options": b"\x01\x01\x08\x0a\0\0\0\2\0\0\0\2"},
    "tos": {"tos": 3},
    "label": {"label": 5},
    "ttl": {"ttl": 63},
    "fragment": {"fragment": 0x2000},
    "last fragment": {"fragment": 0x0010},
    "may be fragmented": {"fragment": 0},
    "evil": {"fragment": 0xC000},
    "ip options": {"ip_options": b"\x01\x01\x01\x00"},
    "extension": {"extension": b"\0\1\4\0\0\0\0"},
    "hop by hop": {"extension": b"\0\1\4\0\0\0\0", "extension_kind": 0},
    "another version": {"ip_version": 5},
    "tagged": {"tags": (5,)},
    "another sender": {"source": bytes.fromhex("5eaf00000009")},
    "padding": {"padding": bytes(6)},
    "bad tcp": {"tcp_error": 0x101},
    "bad ip": {"ip_error": 0x101},
}
"""What may be wrong, or merely another, with a segment; some last for the rest of the flow."""

LASTING: Final = {
    "ack", "window", "options", "later options", "tos", "label", "ttl", "may be fragmented", "another sender",
}  # fmt: skip

OTHER_FRAMES: Final = (
    bytes(12) + b"\x08\x06" + bytes(28),
    bytes(14),
    bytes(12) + b"\x08\x00\x45" + bytes(8) + b"\x11" + bytes(30),
    bytes(12) + b"\x08\x00\x45" + bytes(8) + b"\x06" + bytes(10),
    bytes(12) + b"\x86\xdd\x60" + bytes(5) + b"\x3a" + bytes(50),
    bytes(12) + b"\x86\xdd\x60" + bytes(5) + b"\x3b" + bytes(33),
    bytes(12) + b"\x86\xdd\x60" + bytes(5) + b"\x06" + bytes(33),
)


class Flow:
    """A sender: what it sends follows what it sent, unless told otherwise."""

    def __init__(self, number: int) -> None:
        self.next = Segment(
            version=6 if number % 3 == 2 else 4,
            flow=number + 1,
            sequence=0xFFFFFF00 if number == 4 else 1000 * number,
            identification=0xFFF8 if number == 3 else number,
            fragment=0 if number == 1 else 0x4000,
            prefix=b"\xff\xfe" if number in {5, 7, 8} else b"\x0a\x00",
        )
        self.step = 0 if number == 6 else 1

    def send(self, size: int, change: str) -> bytes:
        """Return the next frame."""
        segment = replace(self.next, size=size)
        match change:
            case "gap":
                segment = replace(segment, sequence=segment.sequence + 1)
            case "again":
                segment = replace(segment, sequence=segment.sequence - size)
            case "id gap":
                segment = replace(segment, identification=segment.identification + 2)
            case _:
                segment = replace(segment, **CHANGES.get(change, {}))  # type: ignore[arg-type] # a table of fields
        if change in LASTING:
            self.next = segment
        self.next = replace(
            self.next,
            sequence=segment.sequence + size,
            identification=segment.identification + self.step,
        )
        return segment.frame()


plain_sizes = st.sampled_from([100, 100, 100, 100, 100, 60, 1448, 1, 0])
steps = st.tuples(
    st.integers(0, 9),
    plain_sizes,
    st.one_of(
        st.just(""),
        st.just(""),
        st.just(""),
        st.just(""),
        st.sampled_from([*CHANGES, "gap", "again", "id gap"]),
    ),
    st.integers(1, 5),
)


@st.composite
def traffic(draw: st.DrawFn, *, has_damage: bool = True, most: int = 100) -> list[bytes]:  # fmt: skip
    """Return frames of ten flows, others between them, and some with bytes changed."""
    flows = [Flow(number) for number in range(10)]
    frames: list[bytes] = []
    for number, size, change, times in draw(st.lists(steps, max_size=30)):
        # Bursts, as they come of real senders; a change is of the first alone.
        frames += [flows[number].send(size, change)]
        frames += [flows[number].send(size, "") for _ in range(times - 1)]
    for frame in draw(st.lists(st.sampled_from(OTHER_FRAMES), max_size=3)):
        frames.insert(draw(st.integers(0, len(frames))), frame)
    if has_damage and frames:
        for _ in range(draw(st.integers(0, 4))):
            at = draw(st.integers(0, len(frames) - 1))
            frames[at] = draw(damaged(frames[at]))
    return frames[:most]


@st.composite
def damaged(draw: st.DrawFn, frame: bytes) -> bytes:
    """Return the frame with a byte changed, or shorter, or longer."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return frame[: draw(st.integers(14, len(frame)))]
    if kind == 1:
        return frame + bytes(draw(st.integers(1, 20)))
    # The headers are where the decisions are made.
    at = draw(st.integers(0, min(len(frame), 80) - 1))
    value = draw(st.sampled_from([0, 1, 4, 6, 0x45, 0x46, 0x50, 0x80, 0xFF]))
    return frame[:at] + bytes([value]) + frame[at + 1 :]


# --- the law -----------------------------------------------------------------


@functools.cache
def _cutter(form: Form) -> Cutter:
    return form.cutter(-1, has_header=True)


def frames_behind(form: Form, writes: Sequence[bytes]) -> list[tuple[bytes, int]]:
    """Return what a receiver gets of writes to the TAP, and as which frame of its write; -1: not merged."""
    cutter = _cutter(form)
    found: list[tuple[bytes, int]] = []
    for packet in writes:
        if packet[:10] == NO_OFFLOAD:
            found.append((packet[10:], -1))
            continue
        frames = frames_of(cutter.out, cutter.cut(packet))
        assert cutter.dropped_malformed == cutter.dropped_oversized == 0
        assert len(frames) > 1, "one frame needs no merging"
        found += [(frame, index) for index, frame in enumerate(frames)]
    return found


def assert_same_traffic(
    sent: Sequence[bytes], received: Sequence[tuple[bytes, int]]
) -> None:
    """Compare what went in with what came out, flow by flow."""
    ours = _by_flow([(frame, -1) for frame in sent])
    theirs = _by_flow(received)
    assert list(map(sorted, ours)) == list(map(sorted, theirs))
    for epoch, other_epoch in zip(ours, theirs, strict=True):
        for flow, frames in epoch.items():
            found = other_epoch[flow]
            assert len(found) == len(frames)
            for (frame, _), (other, index) in zip(frames, found, strict=True):
                assert other in _alike(frame, index), (
                    f"sent     {frame.hex()}\nreceived {other.hex()}"
                )


def _by_flow(
    frames: Sequence[tuple[bytes, int]],
) -> list[dict[bytes, list[tuple[bytes, int]]]]:
    """Sort frames by flows, between each two barriers."""
    epochs: list[dict[bytes, list[tuple[bytes, int]]]] = [{}]
    for frame, index in frames:
        flow = _flow_of(frame)
        epochs[-1].setdefault(flow, []).append((frame, index))
        if flow == BARRIER:
            epochs.append({})
    return epochs


def _flow_of(frame: bytes) -> bytes:
    """Return what tells the flow of a frame from others."""
    ethertype = int.from_bytes(frame[12:14], "big")
    if ethertype == 0x0800 and len(frame) >= 34 and frame[23] == 6:
        fragment = int.from_bytes(frame[20:22], "big") & 0x3FFF
        if frame[14] != 0x45 or fragment or len(frame) < 54:
            return BARRIER
        return frame[:14] + frame[26:38]
    if ethertype == 0x86DD and len(frame) >= 74:
        if frame[14] >> 4 != 6 or frame[20] not in (6, 17, 58, 59):
            return BARRIER
        if frame[20] == 6:
            return frame[:14] + frame[22:58]
    return OTHERS


def _alike(frame: bytes, index: int) -> tuple[bytes, ...]:
    """Return what may stand for a frame that was merged as the one of that index.

    Padding behind the packet has no meaning; and neither has the identification of
    a packet that may not be fragmented (RFC 6864): if it is the same in all, cutting
    counts it up.
    """
    if index < 0:
        return (frame,)
    if frame[12:14] == b"\x86\xdd":
        return (frame[: 54 + int.from_bytes(frame[18:20], "big")],)
    frame = frame[: 14 + int.from_bytes(frame[16:18], "big")]
    if not frame[20] & 0x40:
        return (frame,)
    return (frame, _with_identification(frame, index))


def _with_identification(frame: bytes, more: int) -> bytes:
    (number,) = struct.unpack_from("!H", frame, 18)
    head = bytearray(frame[14:34])
    struct.pack_into("!H", head, 4, (number + more) & 0xFFFF)
    head[10:12] = bytes(2)
    struct.pack_into("!H", head, 10, checksum(bytes(head)))
    return frame[:14] + bytes(head) + frame[34:]
