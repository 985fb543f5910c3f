# SPDX-License-Identifier: Apache-2.0
"""The laws of the kernel's merge.py, for both of its forms.

The TAP is a pair of sockets that keep the borders of packets. The receiver cuts what
was merged with cut.py, which is held against scapy elsewhere: one is the inverse of
the other.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from kernel_forms import INTERPRETED, Form, each_form
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
    Tap,
    checksum,
    ones_sum,
    payload_at,
    run_of,
    virtio,
)
from kernel_traffic import assert_same_traffic, frames_behind, traffic
from sevpn.dataplane.kernel.merge import Merger

TIMESTAMPS = b"\x01\x01\x08\x0a\0\0\0\1\0\0\0\2"
LATER = b"\x01\x01\x08\x0a\0\0\0\2\0\0\0\2"


def write(merger: Merger, frames: Sequence[bytes], *, first: int = 0) -> int:
    """Give frames to a merger, out of an arena in which other bytes lie between them."""
    arena = bytearray()
    starts, sizes = array("i"), array("i")
    for frame in frames:
        arena += b"\xee" * 4
        starts.append(len(arena))
        sizes.append(len(frame))
        arena += frame
    # A memory view of no items is none that the compiled form takes.
    starts.append(0)
    sizes.append(0)
    before = bytes(arena)
    taken = merger.write(arena, starts, sizes, first, len(frames) - first)
    assert bytes(arena) == before, "the frames are the caller's"
    assert taken == len(frames) - first - merger.lost_count
    assert sum(merger.losses().values()) == merger.lost_count
    return taken


def written(
    form: Form, segments: Sequence[Segment | bytes], *, has_header: bool = True
) -> list[bytes]:
    """Return the writes that frames become; none may be lost."""
    frames = [
        segment if isinstance(segment, bytes) else segment.frame()
        for segment in segments
    ]
    with Tap() as tap:
        merger = form.merger(tap.descriptor, has_header=has_header)
        assert write(merger, frames) == len(frames)
        packets = tap.received()
    assert merger.write_count == len(packets)
    if has_header:
        assert_same_traffic(frames, frames_behind(form, packets))
    return packets


def counts(packets: Sequence[bytes]) -> list[int]:
    """How many segments each write holds."""
    return [
        -(-(len(packet) - 10 - head) // size) if kind else 1
        for packet in packets
        for _, kind, head, size, _, _ in [struct.unpack_from("<BBHHHH", packet)]
    ]


def alone(segments: Sequence[Segment]) -> list[bytes]:
    """What is written of segments that are not merged."""
    return [NO_OFFLOAD + segment.frame() for segment in segments]


# --- what is merged ----------------------------------------------------------


@each_form
def test_44_segments_become_one_write(form: Form) -> None:
    run = run_of(44, size=1448, options=TIMESTAMPS)

    (packet,) = written(form, run)

    head = 14 + 20 + 32
    assert packet[:10] == virtio(1, 1, head, 1448, 34, 16)
    assert len(packet) == 10 + head + 44 * 1448
    assert packet[10 + head :] == b"".join(
        payload_at(segment.sequence, 1448) for segment in run
    )


@each_form
def test_the_headers_of_a_super_segment_are_those_of_the_first_with_new_lengths(
    form: Form,
) -> None:
    run = run_of(3, size=500, tos=2)

    (packet,) = written(form, run)

    frame = packet[10:]
    first = run[0].frame()
    assert frame[:16] == first[:16]
    assert frame[16:18] == (40 + 1500).to_bytes(2, "big")
    assert frame[18:24] == first[18:24]
    assert checksum(frame[14:34]) == 0
    assert frame[26:50] == first[26:50]
    pseudo = ones_sum(frame[26:34] + struct.pack("!HH", 6, 20 + 1500))
    assert frame[50:52] == pseudo.to_bytes(2, "big")
    assert frame[52:54] == first[52:54]


@each_form
def test_ipv6_is_merged_as_well(form: Form) -> None:
    run = run_of(44, version=6, size=1428, options=TIMESTAMPS, label=77, tos=0x12)

    (packet,) = written(form, run)

    head = 14 + 40 + 32
    assert packet[:10] == virtio(1, 4, head, 1428, 54, 16)
    frame = packet[10:]
    first = run[0].frame()
    assert frame[:18] == first[:18]
    assert frame[18:20] == (32 + 44 * 1428).to_bytes(2, "big")
    assert frame[20:70] == first[20:70]
    pseudo = ones_sum(frame[22:54] + struct.pack("!HH", 6, 32 + 44 * 1428))
    assert frame[70:72] == pseudo.to_bytes(2, "big")


@each_form
def test_interleaved_flows_become_a_write_each(form: Form) -> None:
    runs = [
        run_of(4, flow=flow, version=4 if flow % 2 else 6, size=200 + flow)
        for flow in range(1, 33)
    ]

    packets = written(form, list(itertools.chain(*zip(*runs, strict=True))))

    assert counts(packets) == [4] * 32


@each_form
@pytest.mark.parametrize("flow_count", [33, 40, 70])
def test_more_flows_than_there_is_room_for_stay_in_order(
    form: Form, flow_count: int
) -> None:
    runs = [run_of(5, flow=flow) for flow in range(1, flow_count + 1)]

    packets = written(form, list(itertools.chain(*zip(*runs, strict=True))))

    assert sum(counts(packets)) == flow_count * 5


@each_form
def test_a_shorter_segment_is_the_last_of_its_write(form: Form) -> None:
    run = run_of(2, size=100)
    short = replace(run[1], sequence=run[1].sequence + 100, size=60, identification=9)
    more = run_of(2, sequence=short.sequence + 60, size=60, identification=10)

    assert counts(written(form, [*run, short, *more])) == [3, 2]


@each_form
def test_a_longer_segment_begins_a_write(form: Form) -> None:
    run = run_of(2, size=100)
    more = run_of(2, sequence=run[1].sequence + 100, size=101, identification=9)

    assert counts(written(form, [*run, *more])) == [2, 2]


@each_form
def test_psh_ends_a_write_and_stays_with_the_last(form: Form) -> None:
    run = run_of(4)
    run[1] = replace(run[1], flags=ACK | PSH)

    first, second = packets = written(form, run)

    assert counts(packets) == [2, 2]
    assert first[10 + 47] == ACK | PSH
    assert second[10 + 47] == ACK


@each_form
def test_a_pushed_segment_alone_is_written_as_it_is(form: Form) -> None:
    run = run_of(3, flags=ACK | PSH)

    assert written(form, run) == alone(run)


@each_form
def test_ece_in_all_segments_is_no_obstacle(form: Form) -> None:
    assert counts(written(form, run_of(5, flags=ACK | ECE))) == [5]


@each_form
def test_identification_and_sequence_number_may_wrap(form: Form) -> None:
    run = run_of(6, identification=0xFFFD, sequence=0xFFFFFF00)

    assert counts(written(form, run)) == [6]


@each_form
@pytest.mark.parametrize(
    ("step", "fragment", "counted"),
    [
        (1, 0x4000, [4]),
        (1, 0x0000, [4]),
        # One that cannot be fragmented needs no identification (RFC 6864).
        (0, 0x4000, [4]),
        (0, 0x0000, [1, 1, 1, 1]),
        (2, 0x4000, [1, 1, 1, 1]),
        (0xFFFF, 0x4000, [1, 1, 1, 1]),
    ],
)
def test_the_identification_grows_by_one_or_is_of_no_meaning(
    form: Form, step: int, fragment: int, counted: list[int]
) -> None:
    assert counts(written(form, run_of(4, step=step, fragment=fragment))) == counted


@each_form
def test_an_identification_that_stops_or_starts_to_grow_ends_a_write(
    form: Form,
) -> None:
    run = run_of(6)
    still = [replace(segment, identification=min(9, segment.identification)) for segment in run]  # fmt: skip
    moving = [replace(segment, identification=max(9, segment.identification)) for segment in run]  # fmt: skip

    assert counts(written(form, still)) == [3, 3]
    assert counts(written(form, moving)) == [3, 3]


@each_form
@pytest.mark.parametrize(
    ("size", "version", "counted"),
    [
        (1460, 4, [44, 26]),
        (1448, 4, [45, 25]),
        (1500, 4, [43, 27]),
        (1428, 6, [45, 25]),
        (100, 4, [64, 6]),
        (1, 6, [64, 6]),
    ],
)
def test_no_write_is_larger_than_a_packet_may_be_or_has_more_than_64_pieces(
    form: Form, size: int, version: int, counted: list[int]
) -> None:
    packets = written(form, run_of(70, size=size, version=version))

    assert counts(packets) == counted
    assert all(len(packet) - 10 - 14 <= 65535 for packet in packets)


@each_form
def test_the_largest_packet_is_full_to_the_last_byte(form: Form) -> None:
    size = (65535 - 40) // 45
    run = run_of(45, size=size)
    left = 65535 - 40 - 45 * size
    last: dict[str, Any] = {
        "sequence": run[0].sequence + 45 * size,
        "identification": 7 + 45,
    }

    (packet,) = written(form, [*run, replace(run[0], size=left, **last)])
    assert len(packet) == 10 + 14 + 65535

    packets = written(form, [*run, replace(run[0], size=left + 1, **last)])
    assert counts(packets) == [45, 1]


@each_form
def test_padding_is_left_out_of_what_is_merged(form: Form) -> None:
    run = run_of(4, size=4)
    padded = [
        replace(segment, padding=bytes(6) if index % 2 else b"\xff")
        for index, segment in enumerate(run)
    ]

    (packet,) = written(form, padded)

    assert len(packet) == 10 + 54 + 16
    assert b"\xff" not in packet[64:]


@each_form
def test_a_padded_segment_alone_keeps_its_padding(form: Form) -> None:
    segment = Segment(size=2, padding=b"\xff\xfe\xfd\xfc")

    assert written(form, [segment]) == alone([segment])


@each_form
def test_nothing_is_kept_for_the_next_call(form: Form) -> None:
    run = [segment.frame() for segment in run_of(4)]
    with Tap() as tap:
        merger = form.merger(tap.descriptor, has_header=True)
        write(merger, run[:2])
        first = tap.received()
        write(merger, run[2:])
        second = tap.received()

    assert counts(first) == counts(second) == [2]


@each_form
def test_only_the_frames_asked_for_are_written(form: Form) -> None:
    run = [segment.frame() for segment in run_of(5)]
    with Tap() as tap:
        merger = form.merger(tap.descriptor, has_header=True)
        write(merger, run, first=3)
        packets = tap.received()
        assert merger.write(bytearray(1), array("i", [0]), array("i", [0]), 0, 0) == 0
        assert tap.received() == []

    assert [frame for frame, _ in frames_behind(form, packets)] == run[3:]


@each_form
@pytest.mark.parametrize(
    ("first", "count", "starts", "sizes"),
    [(-1, 1, 1, 1), (0, -1, 1, 1), (0, 2, 1, 2), (0, 2, 2, 1), (1, 1, 1, 1)],
)
def test_no_place_beyond_the_tables_is_used(
    form: Form, first: int, count: int, starts: int, sizes: int
) -> None:
    merger = form.merger(-1, has_header=True)
    tables = array("i", [0] * starts), array("i", [14] * sizes)

    with pytest.raises(AssertionError):
        merger.write(bytearray(14), *tables, first, count)


# --- what is not merged ------------------------------------------------------

DIFFERENCES: dict[str, dict[str, Any]] = {
    "time to live": {"ttl": 63},
    "type of service": {"tos": 1},
    "may be fragmented": {"fragment": 0},
    "reserved bit of IPv4": {"fragment": 0xC000},
    "more fragments": {"fragment": 0x2000},
    "fragment offset": {"fragment": 1},
    "IPv4 options": {"ip_options": b"\x01\x01\x01\x00"},
    "one VLAN": {"tags": (5,)},
    "two VLANs": {"tags": (5, 6)},
    "acknowledgement": {"ack": 78},
    "window": {"window": 502},
    "urgent pointer": {"urgent": 1},
    "reserved bits of TCP": {"reserved": 1},
    "ECE": {"flags": ACK | ECE},
    "CWR": {"flags": ACK | CWR},
    "URG": {"flags": ACK | URG},
    "FIN": {"flags": ACK | FIN},
    "SYN": {"flags": ACK | SYN},
    "RST": {"flags": ACK | RST},
    "no ACK": {"flags": 0},
    "options": {"options": TIMESTAMPS},
    "no options": {"options": b""},
    "timestamps": {"options": LATER},
    "another flow": {"flow": 2},
    "another sender": {"source": bytes(6)},
    "another version": {"ip_version": 5},
    "bad TCP checksum": {"tcp_error": 1},
    "bad IPv4 checksum": {"ip_error": 1},
    "gap in the sequence": {"sequence": 1101},
    "overlap": {"sequence": 1099},
    "the same again": {"sequence": 1000},
    "gap in the identification": {"identification": 20},
    "identification backwards": {"identification": 6},
}
OF_IPV4 = {
    "may be fragmented", "reserved bit of IPv4", "more fragments", "fragment offset", "IPv4 options",
    "bad IPv4 checksum", "gap in the identification", "identification backwards",
}  # fmt: skip
OF_IPV6: dict[str, dict[str, Any]] = {
    "flow label": {"label": 1},
    "destination options": {"extension": b"\0\1\4\0\0\0\0"},
    "hop-by-hop options": {"extension": b"\0\1\4\0\0\0\0", "extension_kind": 0},
    "authentication": {"extension": b"\0" * 15, "extension_kind": 51},
    "an unknown header": {"extension": b"\0" * 7, "extension_kind": 200},
    "a fragment alone": {"extension": b"\0" * 7, "extension_kind": 44},
    "the first fragment": {"extension": b"\0\0\1\0\0\0\7", "extension_kind": 44},
    "a later fragment": {"extension": b"\0\0\x10\0\0\0\7", "extension_kind": 44},
}
CASES = [
    *(pytest.param(4, fields, id=f"IPv4: {name}") for name, fields in DIFFERENCES.items()),
    *(
        pytest.param(6, fields, id=f"IPv6: {name}")
        for name, fields in (DIFFERENCES | OF_IPV6).items()
        if name not in OF_IPV4
    ),
]  # fmt: skip


@each_form
@pytest.mark.parametrize(("version", "fields"), CASES)
def test_a_segment_that_differs_is_not_merged_with_the_one_before_or_behind_it(
    form: Form, version: int, fields: dict[str, Any]
) -> None:
    options = TIMESTAMPS if fields.get("options") in (b"", LATER) else b""
    run = run_of(3, version=version, options=options)
    run[1] = replace(run[1], **fields)

    packets = written(form, run)

    assert sorted(packets) == sorted(alone(run))


@each_form
@pytest.mark.parametrize(("version", "fields"), CASES)
def test_merging_goes_on_behind_a_segment_that_differs(
    form: Form, version: int, fields: dict[str, Any]
) -> None:
    options = TIMESTAMPS if fields.get("options") in (b"", LATER) else b""
    run = run_of(9, version=version, options=options)
    run[4] = replace(run[4], **fields)

    found = counts(written(form, run))

    assert sorted(found) == [1, 4, 4]


@each_form
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "fields",
    [
        {"flags": ACK | FIN},
        {"flags": ACK | SYN},
        {"flags": ACK | RST},
        {"flags": ACK | URG},
        {"flags": ACK | CWR},
        {"flags": 0},
        {"reserved": 1},
        # The checksums are right, which is no proof of sense.
        {"words": 4},
        {"words": 15},
        {"words": 1},
        {"tcp_error": 1},
    ],
)
def test_what_is_odd_is_not_merged_with_its_like(
    form: Form, version: int, fields: dict[str, Any]
) -> None:
    run = run_of(3, version=version, size=20, **fields)

    assert written(form, run) == alone(run)


@each_form
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("prefix", [b"\xff\xfe", b"\xff\xff", b"\xc0\xa8", b"\xfd\x00"])  # fmt: skip
def test_any_addresses_are_merged(form: Form, version: int, prefix: bytes) -> None:
    # Their sum and the length together may need a carry.
    for size in (1, 1000):
        run = run_of(40, version=version, prefix=prefix, size=size)
        assert counts(written(form, run)) == [40]


@each_form
@pytest.mark.parametrize("version", [4, 6])
def test_acknowledgements_of_one_flow_do_not_end_the_run_of_another(
    form: Form, version: int
) -> None:
    run = run_of(6, version=version)
    bare = [Segment(version=version, flow=2, size=0, ack=ack) for ack in range(6)]
    mixed = [item for pair in zip(run, bare, strict=True) for item in pair]

    assert counts(written(form, mixed)) == [1] * 6 + [6]


@each_form
@pytest.mark.parametrize("where", [0, 1, 2, 3])
@pytest.mark.parametrize("fields", [{"tcp_error": 1}, {"ip_error": 0x8000}, {"tcp_error": 0xFFFE}])  # fmt: skip
def test_a_bad_checksum_arrives_bad(
    form: Form, where: int, fields: dict[str, Any]
) -> None:
    run = run_of(4)
    run[where] = replace(run[where], **fields)

    packets = written(form, run)

    assert NO_OFFLOAD + run[where].frame() in packets
    frames = [frame for frame, _ in frames_behind(form, packets)]
    assert frames == [segment.frame() for segment in run]


@each_form
@pytest.mark.parametrize("version", [4, 6])
def test_a_header_only_segment_stays_between_its_neighbours(
    form: Form, version: int
) -> None:
    run = run_of(4, version=version)
    bare = replace(run[2], size=0, ack=99)

    packets = written(form, [*run[:2], bare, *run[2:]])

    assert counts(packets) == [2, 1, 2]
    assert packets[1] == NO_OFFLOAD + bare.frame()


@each_form
@pytest.mark.parametrize(
    "fields",
    [
        {"fragment": 0x2000},
        {"fragment": 0x0001},
        {"ip_options": b"\x01" * 4},
        {"version": 6, "extension": b"\0\1\4\0\0\0\0"},
        {"ip_version": 6},
    ],
)
def test_where_tcp_may_hide_nothing_passes(form: Form, fields: dict[str, Any]) -> None:
    run = run_of(4)
    other = run_of(4, flow=2, version=6)
    strange = replace(run[2], **fields)
    before = [run[0], other[0], run[1], other[1]]
    behind = [run[2], other[2], run[3], other[3]]

    packets = written(form, [*before, strange, *behind])

    assert counts(packets) == [2, 2, 1, 2, 2]
    assert packets[2] == NO_OFFLOAD + strange.frame()


@each_form
@pytest.mark.parametrize(
    "frame",
    [
        Segment().frame()[:53],
        Segment().frame()[:34],
        Segment().frame()[:60],
        Segment(size=0).frame()[:46] + b"\x40" + Segment(size=0).frame()[47:],
        Segment(size=0).frame()[:46] + b"\x60" + Segment(size=0).frame()[47:],
        Segment().frame()[:16] + b"\x00\x27" + Segment().frame()[18:],
        Segment(version=6).frame()[:60],
        Segment(version=6).frame()[:18] + b"\x00\x13" + Segment(version=6).frame()[20:],
        Segment(version=6).frame()[:18] + b"\x00\x00" + Segment(version=6).frame()[20:],
        Segment(version=6).frame()[:53],
    ],
)
def test_a_damaged_segment_is_written_as_it_is(form: Form, frame: bytes) -> None:
    run = run_of(4)

    packets = written(form, [*run[:2], frame, *run[2:]])

    assert NO_OFFLOAD + frame in packets
    assert sum(counts(packets)) == 5


@each_form
@pytest.mark.parametrize(
    "segment",
    [
        Segment(size=2, options=TIMESTAMPS),
        Segment(size=2, version=6),
        Segment(size=2, ip_options=b"\x01" * 4),
        Segment(size=2, version=6, extension=b"\0\1\4\0\0\0\0"),
        Segment(size=2, tags=(5,)),
    ],
)
def test_no_frame_is_read_beyond_its_end(form: Form, segment: Segment) -> None:
    frame = segment.frame()
    for size in range(14, len(frame) + 1):
        # The frame is the last in the arena: Python would say so.
        assert written(form, [frame[:size]]) == [NO_OFFLOAD + frame[:size]]
        packets = written(form, [segment, frame[:size]])
        assert sorted(packets) == sorted(
            [NO_OFFLOAD + segment.frame(), *written(form, [frame[:size]])]
        )


@each_form
def test_behind_the_tag_of_a_provider_nothing_is_merged(form: Form) -> None:
    frames = [
        frame[:12] + b"\x88\xa8\0\5" + frame[12:]
        for frame in (segment.frame() for segment in run_of(3))
    ]

    assert written(form, frames) == [NO_OFFLOAD + frame for frame in frames]


@each_form
def test_frames_that_are_no_tcp_keep_their_order(form: Form) -> None:
    others = [bytes(12) + b"\x08\x06" + bytes([number] * 28) for number in range(5)]
    run = run_of(5)
    mixed = [item for pair in zip(run, others, strict=True) for item in pair]

    packets = written(form, mixed)

    assert counts(packets) == [1] * 5 + [5]
    assert [packet[10:] for packet in packets[:5]] == others


@each_form
def test_a_plain_tap_gets_each_frame_as_it_is(form: Form) -> None:
    run = run_of(5)

    packets = written(form, [*run, bytes(14)], has_header=False)

    assert packets == [*(segment.frame() for segment in run), bytes(14)]


# --- the law -----------------------------------------------------------------


@each_form
@settings(max_examples=100)
@given(frames=traffic())
def test_what_a_receiver_gets_is_what_went_in(form: Form, frames: list[bytes]) -> None:
    written(form, frames)


@each_form
@settings(max_examples=25)
@given(frames=traffic(has_damage=False), cuts=st.lists(st.integers(1, 40), max_size=4))
def test_the_law_holds_over_several_calls(
    form: Form, frames: list[bytes], cuts: list[int]
) -> None:
    with Tap() as tap:
        merger = form.merger(tap.descriptor, has_header=True)
        at = 0
        for cut in [*cuts, len(frames)]:
            part = frames[at : at + cut]
            at += len(part)
            write(merger, part)
            assert_same_traffic(part, frames_behind(form, tap.received()))


# --- losses ------------------------------------------------------------------


@each_form
@pytest.mark.parametrize("has_header", [True, False])
def test_a_full_tap_loses_what_it_does_not_take_and_no_more(
    form: Form, has_header: bool
) -> None:
    # Each is a flow of its own, pushed: nothing is merged, and the order is theirs.
    frames = [Segment(flow=flow, flags=ACK | PSH).frame() for flow in range(250)] * 4
    with Tap() as tap:
        merger = form.merger(tap.descriptor, has_header=has_header)

        taken = write(merger, frames)
        packets = tap.received()

        assert 0 < taken < len(frames)
        assert merger.losses() == {errno.EAGAIN: len(frames) - taken}
        assert merger.write_count == len(frames)
        head = NO_OFFLOAD if has_header else b""
        assert packets == [head + frame for frame in frames[:taken]]

        # The TAP has room again: what was lost stays lost, and is not counted twice.
        assert write(merger, frames[:3]) == 3
        assert merger.losses() == {}
        assert merger.lost_count == 0
        assert tap.received() == [head + frame for frame in frames[:3]]


@each_form
def test_a_write_that_is_refused_loses_its_own_segments_alone(form: Form) -> None:
    large = run_of(40, size=1448)
    small = run_of(3, flow=2)
    tail = run_of(3, flow=3)
    frames = [segment.frame() for segment in [*small, *large, *tail]]
    with Tap() as tap:
        tap.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        merger = form.merger(tap.descriptor, has_header=True)

        taken = write(merger, frames)

        assert taken == 6
        assert merger.losses() == {errno.EMSGSIZE: 40}
        assert merger.write_count == 3
        received = frames_behind(form, tap.received())
    assert [frame for frame, _ in received] == frames[:3] + frames[-3:]


@each_form
@pytest.mark.parametrize("has_header", [True, False])
@pytest.mark.parametrize(
    ("path", "flags", "number"),
    [
        # Nothing is mapped at 0: the kernel answers EIO.
        ("/proc/self/mem", os.O_RDWR, errno.EIO),
        ("/dev/full", os.O_RDWR, errno.ENOSPC),
        ("/dev/null", os.O_RDONLY, errno.EBADF),
    ],
)
def test_a_tap_that_refuses_all_is_counted_by_its_error(
    form: Form, path: str, flags: int, number: int, has_header: bool
) -> None:
    run = [segment.frame() for segment in run_of(3)]
    frames = [*run, bytes(60)]
    descriptor = os.open(path, flags)
    try:
        merger = form.merger(descriptor, has_header=has_header)
        assert write(merger, frames) == 0
    finally:
        os.close(descriptor)

    assert merger.losses() == {number: 4}
    assert merger.lost[number] == 4
    assert merger.write_count == (2 if has_header else 4)


@each_form
def test_a_closed_tap_is_no_signal(form: Form) -> None:
    with Tap() as tap:
        tap.host.close()
        merger = form.merger(tap.descriptor, has_header=True)
        assert write(merger, [bytes(60)] * 3) == 0

    assert merger.losses() == {errno.EPIPE: 3}


def test_each_error_is_counted_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    # Only the interpreted form's system call can be told what to answer.
    answers = iter([0, errno.EIO, errno.ENOBUFS, 0, errno.EBADFD, errno.EIO, 0])
    monkeypatch.setattr(INTERPRETED.merge, "write_pieces", lambda *_: next(answers))
    runs = [
        segment.frame()
        for flow, size in ((1, 1), (2, 4), (3, 3), (4, 2), (5, 1), (6, 5), (7, 1))
        for segment in run_of(size, flow=flow)
    ]
    merger = INTERPRETED.merger(-1, has_header=True)

    assert write(merger, runs) == 1 + 2 + 1

    assert merger.losses() == {errno.EIO: 4 + 5, errno.ENOBUFS: 3, errno.EBADFD: 1}
