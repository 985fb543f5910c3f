# SPDX-License-Identifier: Apache-2.0
"""The laws of the kernel's cut.py, for both of its forms; scapy is the oracle."""

from __future__ import annotations

import errno
import functools
import os
import struct
import threading
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from kernel_forms import FORMS, Form, each_form
from kernel_packets import (
    ACK,
    NO_OFFLOAD,
    PSH,
    Segment,
    Tap,
    frames_of,
    payload_at,
    virtio,
)
from scapy_oracle import (
    ARP,
    IP,
    TCP,
    UDP,
    Dot1Q,
    Ether,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Packet,
    Raw,
    frames_of_card,
    is_right,
    super_segment,
    unfinished,
)
from sevpn.dataplane.kernel.constants import OUT_SIZE, PACKET_SIZE
from sevpn.dataplane.kernel.cut import Cutter
from sevpn.wire.block import BlockReader

ALL = 1 << 30
"""A limit that is none."""

ETHER = Ether(dst="5e:af:00:00:00:01", src="5e:af:00:00:00:02")
TCP4, TCP6, UDP_SEGMENTS, ECN = 1, 4, 5, 0x80


def ip4(**fields: Any) -> Packet:
    wanted: dict[str, Any] = {"src": "10.0.0.1", "dst": "10.0.0.2", "id": 7}
    return IP(**(wanted | fields))


def ip6(**fields: Any) -> Packet:
    wanted: dict[str, Any] = {"src": "fd00::1", "dst": "fd00::2"}
    return IPv6(**(wanted | fields))


def tcp(**fields: Any) -> Packet:
    wanted: dict[str, Any] = {"sport": 40000, "dport": 443, "seq": 1000, "flags": "A"}
    return TCP(**(wanted | fields))


def cutter_of(form: Form, descriptor: int = -1) -> Cutter:
    return form.cutter(descriptor, has_header=True)


@functools.cache
def shared_cutter(form: Form) -> Cutter:
    """One that many examples use, one after the other."""
    return cutter_of(form)


def drops_of(cutter: Cutter) -> tuple[int, int, int]:
    """Runts, oversized, malformed."""
    return cutter.dropped_runts, cutter.dropped_oversized, cutter.dropped_malformed


def cut(form: Form, packet: bytes) -> list[bytes]:
    """Cut one packet, none of which is dropped."""
    cutter = shared_cutter(form)
    frames = frames_of(cutter.out, cutter.cut(packet))
    assert drops_of(cutter) == (0, 0, 0)
    assert cutter.frame_count == len(frames)
    assert cutter.frame_bytes == sum(map(len, frames))
    return frames


def dropped(form: Form, packet: bytes) -> tuple[int, int, int]:
    """Cut one packet, all of which is dropped."""
    cutter = shared_cutter(form)
    assert cutter.cut(packet) == []
    assert cutter.frame_count == cutter.frame_bytes == 0
    return drops_of(cutter)


# --- super-segments ----------------------------------------------------------

words = st.integers(0, 4).map(lambda count: b"\x01" * 4 * count)
"""Options that do nothing, of IPv4 or of TCP."""

tags = st.lists(st.integers(1, 4094).map(lambda number: Dot1Q(vlan=number)), max_size=2)

networks = st.one_of(
    st.builds(
        ip4,
        id=st.sampled_from([0, 7, 0xFFFE, 0xFFFF]),
        flags=st.sampled_from(["", "DF"]),
        tos=st.integers(0, 255),
        ttl=st.integers(1, 255),
        options=words,
    ),
    st.tuples(
        st.builds(
            ip6,
            tc=st.integers(0, 255),
            fl=st.integers(0, 0xFFFFF),
            hlim=st.integers(1, 255),
        ),
        st.lists(
            st.sampled_from(
                [
                    IPv6ExtHdrHopByHop(),
                    IPv6ExtHdrDestOpt(),
                    IPv6ExtHdrRouting(addresses=["fd00::9", "fd00::10"]),
                ]
            ),
            max_size=2,
        ),
    ).map(lambda parts: stack(parts[0], *parts[1])),
)

transports = st.one_of(
    st.builds(
        tcp,
        seq=st.sampled_from([0, 1000, 0x7FFFFFF0, 0xFFFFFF00, 0xFFFFFFFF]),
        flags=st.integers(0, 255).map(lambda flags: flags & 0xFB),
        window=st.integers(0, 0xFFFF),
        options=st.lists(
            st.sampled_from([("NOP", None), ("Timestamp", (1, 2)), ("MSS", 1460)]),
            max_size=3,
        ),
    ),
    st.builds(UDP, sport=st.just(40000), dport=st.integers(1, 65535)),
)


def stack(*layers: Packet) -> Packet:
    whole = layers[0].copy()
    for layer in layers[1:]:
        whole /= layer.copy()
    return whole


@settings(max_examples=25)
@given(
    layers=st.tuples(tags, networks, transports),
    size=st.integers(1, 1300),
    count=st.integers(0, 5),
    rest=st.integers(0, 1300),
    ecn=st.sampled_from([0, ECN]),
)
def test_a_super_segment_becomes_the_frames_that_a_network_card_makes_of_it(
    layers: tuple[list[Packet], Packet, Packet],
    size: int,
    count: int,
    rest: int,
    ecn: int,
) -> None:
    payload = payload_at(0, size * count + min(rest, size))
    packet = stack(ETHER, *layers[0], layers[1], layers[2], Raw(payload))

    frames = frames_of_card(packet, size)
    for form in FORMS:
        assert cut(form, super_segment(packet, size, ecn=ecn)) == frames
    assert all(map(is_right, frames))
    assert b"".join(map(payload_of, frames)) == payload


def payload_of(frame: bytes) -> bytes:
    packet = Ether(frame)
    layer = packet[TCP] if TCP in packet else packet[UDP]
    return bytes(layer.payload)


@each_form
@pytest.mark.parametrize("network", [ip4(), ip6()], ids=["IPv4", "IPv6"])
def test_fin_and_psh_stay_with_the_last_frame_and_cwr_with_the_first(
    form: Form, network: Packet
) -> None:
    packet = ETHER / network / tcp(flags="FPACEU") / Raw(bytes(250))

    frames = cut(form, super_segment(packet, 100, ecn=ECN))

    flags = [str(Ether(frame)[TCP].flags) for frame in frames]
    assert [set(some) for some in flags] == [set("AUEC"), set("AUE"), set("FPAUE")]


@each_form
def test_identification_and_sequence_number_wrap(form: Form) -> None:
    packet = ETHER / ip4(id=0xFFFE) / tcp(seq=0xFFFFFFF0) / Raw(bytes(32))

    found = [Ether(frame) for frame in cut(form, super_segment(packet, 10))]

    assert [frame[IP].id for frame in found] == [0xFFFE, 0xFFFF, 0, 1]
    assert [frame[TCP].seq for frame in found] == [0xFFFFFFF0, 0xFFFFFFFA, 4, 14]
    assert [len(frame[TCP].payload) for frame in found] == [10, 10, 10, 2]


@each_form
@pytest.mark.parametrize("network", [ip4(), ip6()], ids=["IPv4", "IPv6"])
def test_a_super_segment_without_payload_is_one_frame(
    form: Form, network: Packet
) -> None:
    packet = ETHER / network / tcp(flags="FA")

    assert cut(form, super_segment(packet, 1400)) == [bytes(packet)]


@each_form
@pytest.mark.parametrize("network", [ip4(), ip6()], ids=["IPv4", "IPv6"])
def test_the_largest_super_segments_are_cut(form: Form, network: Packet) -> None:
    payload = payload_at(0, 65535 - 40 - 20)
    packet = ETHER / network / tcp() / Raw(payload)

    frames = cut(form, super_segment(packet, 1440))

    assert len(frames) == 46
    assert frames == frames_of_card(packet, 1440)


@each_form
def test_a_checksum_of_zero_is_written_as_all_ones_for_udp_alone(form: Form) -> None:
    for transport, field in ((UDP(sport=1, dport=2), 40), (tcp(), 50)):
        bare = ETHER / ip4(id=0) / transport / Raw(bytes(2))
        value = bytes(bare)[field : field + 2]
        # What is the checksum of zeros, put in their place, makes it zero.
        packet = ETHER / ip4(id=0) / transport / Raw(value + value)

        first, second = cut(form, super_segment(packet, 2))

        wanted = b"\xff\xff" if UDP in packet else b"\0\0"
        assert first[field : field + 2] == wanted
        if UDP in packet:
            assert second[field : field + 2] == wanted
        assert is_right(first)
        assert is_right(second)


# --- frames with an unfinished checksum --------------------------------------


@settings(max_examples=20)
@given(layers=st.tuples(tags, networks, transports), size=st.integers(0, 1300))
def test_an_unfinished_checksum_is_finished(
    layers: tuple[list[Packet], Packet, Packet], size: int
) -> None:
    packet = stack(ETHER, *layers[0], layers[1], layers[2], Raw(payload_at(0, size)))
    frame, start, offset = unfinished(packet)

    for form in FORMS:
        found = cut(form, virtio(1, start=start, offset=offset) + frame)
        assert found == [bytes(packet)]


@each_form
def test_an_unfinished_checksum_of_zero_is_all_ones_for_udp(form: Form) -> None:
    bare = bytes(ETHER / ip4() / UDP(sport=1, dport=2) / Raw(bytes(2)))
    packet = ETHER / ip4() / UDP(sport=1, dport=2) / Raw(bare[40:42])
    frame, start, offset = unfinished(packet)

    (found,) = cut(form, virtio(1, start=start, offset=offset) + frame)

    assert found[40:42] == b"\xff\xff"
    assert is_right(found)


@each_form
@pytest.mark.parametrize("flags", [0, 2], ids=["nothing said", "checked already"])
def test_a_finished_frame_is_left_alone(form: Form, flags: int) -> None:
    frame = Segment(tcp_error=1, ip_error=1).frame()

    assert cut(form, virtio(flags, start=34, offset=16) + frame) == [frame]


# --- packets that contradict their header ------------------------------------

SEGMENT4 = Segment(size=300).frame()
SEGMENT6 = Segment(version=6, size=300).frame()
HEAD4 = {"flags": 1, "kind": TCP4, "head": 54, "size": 100, "start": 34, "offset": 16}
HEAD6 = {"flags": 1, "kind": TCP6, "head": 74, "size": 100, "start": 54, "offset": 16}


def changed(frame: bytes, at: int, value: int) -> bytes:
    return frame[:at] + bytes([value]) + frame[at + 1 :]


MALFORMED = {
    "segments of no size": virtio(**(HEAD4 | {"size": 0})) + SEGMENT4,
    "checksum start at the end": virtio(**(HEAD4 | {"start": 354})) + SEGMENT4,
    "checksum start beyond the end": virtio(**(HEAD4 | {"start": 65535})) + SEGMENT4,
    "checksum start in the IPv4 header": virtio(**(HEAD4 | {"start": 33})) + SEGMENT4,
    "checksum start before the packet": virtio(**(HEAD4 | {"start": 0})) + SEGMENT4,
    "checksum start in the IPv6 header": virtio(**(HEAD6 | {"start": 53})) + SEGMENT6,
    "no room for a TCP header": virtio(**(HEAD4 | {"start": 335})) + SEGMENT4,
    "TCP header beyond the end": virtio(**(HEAD4 | {"start": 334}))
    + changed(SEGMENT4, 346, 0x60),
    "TCP header under 20 bytes": virtio(**HEAD4) + changed(SEGMENT4, 46, 0x40),
    "TCP header of no bytes": virtio(**HEAD4) + changed(SEGMENT4, 46, 0x00),
    "UDP header beyond the end": virtio(
        **(HEAD4 | {"kind": UDP_SEGMENTS, "start": 347, "offset": 6})
    )
    + SEGMENT4,
    "IPv4 header under 20 bytes": virtio(**HEAD4) + changed(SEGMENT4, 14, 0x44),
    "IPv4 header behind the TCP header": virtio(**HEAD4)
    + changed(SEGMENT4, 14, 0x46),
    "IPv4 of another version": virtio(**HEAD4) + changed(SEGMENT4, 14, 0x55),
    "IPv6 of another version": virtio(**HEAD6) + changed(SEGMENT6, 14, 0x40),
    "IPv6 as IPv4": virtio(**(HEAD6 | {"kind": TCP4})) + SEGMENT6,
    "IPv4 as IPv6": virtio(**(HEAD4 | {"kind": TCP6})) + SEGMENT4,
    "no IP at all": virtio(**HEAD4) + bytes(ETHER / ARP()) + bytes(300),
    "tags up to the end": virtio(**HEAD4) + bytes(12) + b"\x81\x00\x00\x01" * 80,
    "a runt of a super-segment": virtio(**HEAD4) + SEGMENT4[:14],
    "IPv6 that ends in its header": virtio(**HEAD6) + SEGMENT6[:53],
    "UDP fragments (kind 3)": virtio(**(HEAD4 | {"kind": 3})) + SEGMENT4,
    "an unknown kind": virtio(**(HEAD4 | {"kind": 0x7F})) + SEGMENT4,
    "a kind of no meaning": virtio(**(HEAD4 | {"kind": 2})) + SEGMENT4,
    "unfinished, starts at the end": virtio(1, start=354, offset=0) + SEGMENT4,
    "unfinished, field ends beyond": virtio(1, start=300, offset=53) + SEGMENT4,
    "unfinished, all beyond": virtio(1, start=65535, offset=65535) + SEGMENT4,
}  # fmt: skip


@each_form
@pytest.mark.parametrize("name", MALFORMED)
def test_a_packet_that_its_virtio_header_contradicts_is_dropped_and_counted(
    form: Form, name: str
) -> None:
    assert dropped(form, MALFORMED[name]) == (0, 0, 1)


@each_form
@pytest.mark.parametrize("size", [0, 1, 9, 10, 23])
def test_a_packet_shorter_than_its_headers_is_a_runt(form: Form, size: int) -> None:
    assert dropped(form, (virtio(**HEAD4) + SEGMENT4)[:size]) == (1, 0, 0)


@each_form
def test_the_last_places_for_a_checksum_are_in_the_packet(form: Form) -> None:
    (found,) = cut(form, virtio(1, start=300, offset=52) + SEGMENT4)

    assert len(found) == len(SEGMENT4)
    assert found[:352] == SEGMENT4[:352]


@each_form
@settings(max_examples=60)
@given(
    flags=st.sampled_from([0, 1, 1, 1, 255]),
    kind=st.sampled_from([0, TCP4, TCP6, UDP_SEGMENTS, TCP4 | ECN, 3, 255]),
    head=st.integers(0, 65535),
    size=st.one_of(st.integers(0, 40), st.integers(0, 65535)),
    start=st.one_of(st.sampled_from([34, 54]), st.integers(0, 70), st.integers(0, 65535)),
    offset=st.one_of(st.sampled_from([6, 16]), st.integers(0, 65535)),
    frame=st.one_of(
        st.binary(max_size=100),
        st.sampled_from([SEGMENT4, SEGMENT6]),
        st.tuples(
            st.sampled_from([SEGMENT4, SEGMENT6]), st.integers(0, 60), st.integers(0, 255)
        ).map(lambda found: changed(*found)),
    ),
)  # fmt: skip
def test_no_virtio_header_does_harm(  # noqa: PLR0917 - hypothesis hands them over
    form: Form,
    flags: int,
    kind: int,
    head: int,
    size: int,
    start: int,
    offset: int,
    frame: bytes,
) -> None:
    cutter = shared_cutter(form)

    groups = cutter.cut(virtio(flags, kind, head, size, start, offset) + frame)

    frames = frames_of(cutter.out, groups)
    assert len(cutter.out) == OUT_SIZE
    assert len(cutter.packet) == PACKET_SIZE
    assert len(frames) == cutter.frame_count
    assert all(14 <= len(frame) <= 1600 for frame in frames)
    assert bool(frames) != any(drops_of(cutter))


# --- sizes -------------------------------------------------------------------


@each_form
def test_a_frame_of_1600_bytes_is_sent_and_one_of_1601_dropped(form: Form) -> None:
    frame = bytes(1600)

    assert cut(form, NO_OFFLOAD + frame) == [frame]
    assert dropped(form, NO_OFFLOAD + frame + b"\0") == (0, 1, 0)


@each_form
def test_a_frame_of_14_bytes_is_sent_and_one_of_13_dropped(form: Form) -> None:
    frame = bytes(14)

    assert cut(form, NO_OFFLOAD + frame) == [frame]
    assert dropped(form, NO_OFFLOAD + frame[:13]) == (1, 0, 0)


@each_form
def test_segments_that_make_frames_over_1600_bytes_are_dropped_one_by_one(
    form: Form,
) -> None:
    packet = ETHER / ip4() / tcp() / Raw(bytes(5000))

    frames = cut(form, super_segment(packet, 1600 - 54))
    assert [len(frame) for frame in frames] == [1600, 1600, 1600, 54 + 362]

    assert dropped(form, super_segment(packet, 1601 - 54)) == (0, 4, 0)


@each_form
def test_a_large_segment_size_is_no_matter_while_the_payload_is_small(
    form: Form,
) -> None:
    packet = ETHER / ip4() / tcp() / Raw(bytes(1000))

    assert cut(form, super_segment(packet, 65535)) == [bytes(packet)]


@each_form
def test_65000_segments_of_one_byte_are_dropped_because_they_do_not_fit(
    form: Form,
) -> None:
    packet = ETHER / ip4() / tcp() / Raw(bytes(65000))

    assert dropped(form, super_segment(packet, 1)) == (0, 65000, 0)


@each_form
def test_a_few_segments_of_one_byte_are_cut(form: Form) -> None:
    packet = ETHER / ip4() / tcp() / Raw(payload_at(0, 300))

    frames = cut(form, super_segment(packet, 1))

    assert len(frames) == 300
    assert b"".join(frame[54:] for frame in frames) == payload_at(0, 300)


def with_long_head(size: int) -> tuple[bytes, int]:
    """A super-segment of so many bytes of payload whose frames are 1592 bytes long, 48 of them payload."""
    head = 1592 - 48
    padding = bytes([6, (head - 54 - 20) // 8 - 1]) + bytes(head - 54 - 20 - 2)
    segment = Segment(version=6, size=0).frame()
    frame = segment[:18] + struct.pack("!H", len(padding) + 20 + size) + b"\x3c"
    frame += segment[21:54] + padding + segment[54:] + payload_at(0, size)
    return virtio(1, TCP6, head, 48, head - 20, 16) + frame, head


@each_form
def test_a_super_segment_that_just_fits_fills_the_room_and_no_more(form: Form) -> None:
    most = OUT_SIZE // 1600
    packet, head = with_long_head(most * 48)
    cutter = cutter_of(form)

    frames = frames_of(cutter.out, cutter.cut(packet))

    assert len(frames) == most
    assert b"".join(frame[head:] for frame in frames) == payload_at(0, most * 48)
    assert len(cutter.out) == OUT_SIZE

    packet, _ = with_long_head(most * 48 + 1)
    assert dropped(form, packet) == (0, most + 1, 0)


@each_form
@pytest.mark.parametrize("more", [0, 1, 5000])
def test_a_packet_whose_end_may_be_missing_is_dropped(form: Form, more: int) -> None:
    packet = ETHER / ip4() / tcp() / Raw(bytes(65535 - 40))
    whole = super_segment(packet, 1400)
    too_long = whole + bytes(PACKET_SIZE - len(whole) + more)
    assert len(too_long) >= PACKET_SIZE

    assert dropped(form, too_long) == (0, 1, 0)


# --- batches and groups ------------------------------------------------------


@each_form
def test_batches_hold_128_frames_and_groups_512(form: Form) -> None:
    packet = ETHER / ip4() / tcp() / Raw(payload_at(0, 1100 * 4))
    cutter = cutter_of(form)

    groups = cutter.cut(super_segment(packet, 4))

    assert [frames for _, _, _, frames in groups] == [512, 512, 76]
    assert {slot for slot, _, _, _ in groups} == {0}
    frames = frames_of(cutter.out, groups)
    assert b"".join(frame[54:] for frame in frames) == payload_at(0, 1100 * 4)


@each_form
@pytest.mark.parametrize("count", [1, 127, 128, 129, 256, 513])
def test_the_reference_reader_finds_the_frames_in_the_blocks(
    form: Form, count: int
) -> None:
    packet = ETHER / ip6() / tcp() / Raw(payload_at(0, count * 3))
    cutter = cutter_of(form)
    reader = BlockReader()

    frames = []
    for _, begin, end, _ in cutter.cut(super_segment(packet, 3)):
        frames += reader.feed(cutter.out[begin:end])

    assert len(frames) == count
    assert b"".join(frame[74:] for frame in frames) == payload_at(0, count * 3)
    assert reader.batch_count == -(-count // 128)
    assert reader.dropped_count == 0


# --- collect -----------------------------------------------------------------


@each_form
def test_collect_reads_until_the_tap_is_empty(form: Form) -> None:
    frames = [Segment(flow=flow, size=flow).frame() for flow in range(1, 20)]
    with Tap() as tap:
        cutter = cutter_of(form, tap.descriptor)
        tap.send([NO_OFFLOAD + frame for frame in frames])

        groups = cutter.collect(ALL, ALL, 1, has_priority=False)

        assert frames_of(cutter.out, groups) == frames
        assert cutter.is_drained
        assert cutter.frame_count == 19
        assert cutter.frame_bytes == sum(map(len, frames))


@each_form
def test_an_empty_tap_gives_nothing(form: Form) -> None:
    with Tap() as tap:
        cutter = cutter_of(form, tap.descriptor)

        assert cutter.collect(ALL, ALL, 1, has_priority=False) == []
        assert cutter.is_drained


@each_form
def test_collect_cuts_super_segments_between_frames(form: Form) -> None:
    packet = ETHER / ip4() / tcp() / Raw(payload_at(0, 5000))
    single = Segment(flow=3).frame()
    with Tap() as tap:
        cutter = cutter_of(form, tap.descriptor)
        tap.send([NO_OFFLOAD + single, super_segment(packet, 1448), NO_OFFLOAD + single])  # fmt: skip

        groups = cutter.collect(ALL, ALL, 1, has_priority=False)

        assert frames_of(cutter.out, groups) == [
            single,
            *frames_of_card(packet, 1448),
            single,
        ]


@each_form
def test_a_plain_tap_has_no_header(form: Form) -> None:
    frames = [bytes(14), Segment().frame(), bytes(1600)]
    with Tap() as tap:
        cutter = form.cutter(tap.descriptor, has_header=False)
        tap.send([*frames, bytes(13), bytes(1601)])

        groups = cutter.collect(ALL, ALL, 1, has_priority=False)

        assert frames_of(cutter.out, groups) == frames
        assert drops_of(cutter) == (1, 1, 0)


@each_form
def test_no_packet_is_read_beyond_the_limit_of_frames(form: Form) -> None:
    frames = [Segment(size=size).frame() for size in range(7)]
    with Tap() as tap:
        cutter = cutter_of(form, tap.descriptor)
        tap.send([NO_OFFLOAD + frame for frame in frames])

        found = []
        drained = []
        for _ in range(3):
            found.append(
                frames_of(cutter.out, cutter.collect(3, ALL, 1, has_priority=False))
            )
            drained.append(bool(cutter.is_drained))

    assert found == [frames[:3], frames[3:6], frames[6:]]
    assert drained == [False, False, True]


@each_form
def test_no_packet_is_read_beyond_the_limit_of_bytes(form: Form) -> None:
    with Tap() as tap:
        cutter = cutter_of(form, tap.descriptor)
        tap.send([NO_OFFLOAD + bytes(1000)] * 5)

        counts = []
        for _ in range(3):
            cutter.collect(ALL, 1001, 1, has_priority=False)
            counts.append(cutter.frame_count)

    assert counts == [2, 2, 1]


@each_form
def test_a_limit_is_passed_by_one_super_segment_at_most(form: Form) -> None:
    packet = super_segment(ETHER / ip4() / tcp() / Raw(bytes(3000)), 100)
    with Tap() as tap:
        cutter = cutter_of(form, tap.descriptor)
        tap.send([packet] * 3)

        counts = []
        for _ in range(2):
            cutter.collect(31, ALL, 1, has_priority=False)
            counts.append(cutter.frame_count)

    assert counts == [60, 30]


@each_form
def test_packets_that_are_dropped_count_towards_the_limit(form: Form) -> None:
    with Tap() as tap:
        cutter = cutter_of(form, tap.descriptor)
        tap.send([NO_OFFLOAD] * 6 + [NO_OFFLOAD + bytes(14)])

        assert cutter.collect(4, ALL, 1, has_priority=False) == []
        assert drops_of(cutter) == (4, 0, 0)
        assert not cutter.is_drained

        cutter.collect(4, ALL, 1, has_priority=False)
        assert drops_of(cutter) == (2, 0, 0)
        assert cutter.frame_count == 1


@each_form
def test_a_packet_for_which_there_is_no_room_comes_first_the_next_time(
    form: Form,
) -> None:
    packet, head = with_long_head(400 * 48)
    last = Segment(flow=9).frame()
    with Tap() as tap:
        cutter = cutter_of(form, tap.descriptor)
        tap.send([packet] * 3 + [NO_OFFLOAD + last])

        first = frames_of(cutter.out, cutter.collect(ALL, ALL, 1, has_priority=False))
        assert not cutter.is_drained
        second = frames_of(cutter.out, cutter.collect(ALL, ALL, 1, has_priority=False))
        assert cutter.is_drained

    assert len(first) == 800
    assert len(second) == 401
    assert second[:400] == first[:400]
    assert b"".join(frame[head:] for frame in second[:-1]) == payload_at(0, 400 * 48)
    assert second[-1] == last
    assert len(cutter.out) == OUT_SIZE


@each_form
def test_a_collection_ends_when_its_table_of_batches_is_full(form: Form) -> None:
    frames = [Segment(flow=flow).frame() for flow in range(1, 20)]
    slots = slots_of(form, [NO_OFFLOAD + frame for frame in frames], 2)
    packets = [NO_OFFLOAD + frames[slots.index(slot)] for slot in (0, 1)] * 1050
    with Tap() as tap:
        # More than a socket's buffer takes: both ends wait for each other.
        tap.ours.settimeout(None)
        tap.host.settimeout(None)
        feeder = threading.Thread(target=tap.send, args=(packets,), daemon=True)
        feeder.start()
        cutter = cutter_of(form, tap.descriptor)

        first = cutter.collect(ALL, ALL, 2, has_priority=False)
        assert len(frames_of(cutter.out, first)) == len(first) == 2047
        assert not cutter.is_drained

        second = cutter.collect(2100 - 2047, ALL, 2, has_priority=False)
        assert len(frames_of(cutter.out, second)) == 2100 - 2047
        feeder.join()

    assert [slot for slot, _, _, _ in first + second] == [0, 1] * 1050


@each_form
def test_a_tap_that_is_gone_is_said_with_ebadfd(form: Form) -> None:
    with Tap() as tap:
        cutter = cutter_of(form, tap.descriptor)
        tap.send([NO_OFFLOAD + bytes(14)])
        tap.host.close()

        with pytest.raises(OSError, match="the TAP cannot be read") as caught:
            cutter.collect(ALL, ALL, 1, has_priority=False)

    assert caught.value.errno == errno.EBADFD


@each_form
def test_a_tap_that_fails_says_how(form: Form) -> None:
    # Nothing is mapped at 0: the kernel answers EIO.
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="the TAP cannot be read") as caught:
            cutter_of(form, memory).collect(ALL, ALL, 1, has_priority=False)
    finally:
        os.close(memory)

    assert caught.value.errno == errno.EIO


@each_form
def test_a_cutter_works_on_after_a_failure(form: Form) -> None:
    cutter = cutter_of(form)
    with pytest.raises(OSError, match="the TAP cannot be read") as caught:
        cutter.collect(ALL, ALL, 1, has_priority=False)
    assert caught.value.errno == errno.EBADF

    frame = Segment().frame()
    assert frames_of(cutter.out, cutter.cut(NO_OFFLOAD + frame)) == [frame]


# --- frames that are shed ---


def shed(form: Form, packets: list[bytes]) -> tuple[list[bytes], int, bool]:
    """Collect with a frame to shed: what is left, how many were shed, and whether one is still to be."""
    with Tap() as tap:
        cutter = cutter_of(form, tap.descriptor)
        tap.send(packets)
        cutter.sheds = True
        frames = frames_of(cutter.out, cutter.collect(ALL, ALL, 1, has_priority=False))
        assert drops_of(cutter) == (0, 0, 0)
        assert cutter.frame_count == len(frames)
        return frames, cutter.dropped_standing, bool(cutter.sheds)


@each_form
def test_the_first_large_frame_is_shed_and_no_other(form: Form) -> None:
    frames = [bytes(599), bytes(600), bytes(600), bytes(1600)]

    left = shed(form, [NO_OFFLOAD + frame for frame in frames])

    assert left == ([frames[0], *frames[2:]], 1, False)


@each_form
def test_small_frames_are_never_shed(form: Form) -> None:
    packet = ETHER / ip4() / tcp() / Raw(bytes(3000))
    small = [bytes(599), Segment(size=0).frame()]
    packets = [NO_OFFLOAD + frame for frame in small]

    left = shed(form, [*packets, super_segment(packet, 599 - 54)])

    assert left == ([*small, *frames_of_card(packet, 599 - 54)], 0, True)


@each_form
def test_a_super_segment_loses_its_first_frame_and_keeps_the_rest_as_it_was(
    form: Form,
) -> None:
    for network in (ip4(), ip6()):
        packet = ETHER / network / tcp(flags="PAC") / Raw(payload_at(0, 5000))

        left = shed(form, [super_segment(packet, 1400)] * 2)

        frames = frames_of_card(packet, 1400)
        assert left == (frames[1:] + frames, 1, False)


@each_form
def test_what_is_shed_is_counted_once(form: Form) -> None:
    with Tap() as tap:
        cutter = cutter_of(form, tap.descriptor)
        cutter.sheds = True
        tap.send([NO_OFFLOAD + bytes(1000)])
        assert cutter.collect(ALL, ALL, 1, has_priority=False) == []
        assert cutter.dropped_standing == 1

        assert cutter.collect(ALL, ALL, 1, has_priority=False) == []
        assert cutter.dropped_standing == 0


# --- slots -------------------------------------------------------------------


def slots_of(
    form: Form, packets: list[bytes], slots: int = 8, *, has_priority: bool = False
) -> list[int]:
    """Return the slot of each packet: each is collected alone."""
    found = []
    with Tap() as tap:
        cutter = cutter_of(form, tap.descriptor)
        for packet in packets:
            tap.send([packet])
            groups = cutter.collect(ALL, ALL, slots, has_priority)
            assert groups, "the packet was dropped"
            assert {slot for slot, _, _, _ in groups} == {groups[0][0]}
            found.append(groups[0][0])
    return found


def slot_of(form: Form, frame: bytes, *, has_priority: bool = False) -> int:
    (found,) = slots_of(form, [NO_OFFLOAD + frame], has_priority=has_priority)
    return found


@each_form
@pytest.mark.parametrize("network", [ip4(), ip6()], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("tag", [(), (Dot1Q(vlan=5),)], ids=["untagged", "tagged"])
def test_a_flow_has_one_slot_whatever_its_packets_look_like(
    form: Form, network: Packet, tag: tuple[Packet, ...]
) -> None:
    for port in range(1, 6):
        base = stack(ETHER, *tag, network)
        options = [("Timestamp", (1, 2))]
        plain = base / tcp(sport=port) / Raw(bytes(10))
        long = base / tcp(sport=port, seq=9, flags="PA", options=options)
        found = slots_of(
            form,
            [
                NO_OFFLOAD + bytes(plain),
                NO_OFFLOAD + bytes(base / tcp(sport=port, flags="S")),
                super_segment(long / Raw(bytes(5000)), 1000),
                super_segment(plain, 3),
            ],
        )
        assert len(set(found)) == 1


@each_form
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("slots", [2, 3, 8, 31, 32])
def test_flows_are_spread_over_all_slots(form: Form, version: int, slots: int) -> None:
    frames = [
        NO_OFFLOAD + Segment(version=version, flow=flow, size=0).frame()
        for flow in range(250)
    ]

    found = slots_of(form, frames, slots)

    counts = [found.count(slot) for slot in range(slots)]
    assert sum(counts) == 250
    assert min(counts) > 0
    assert max(counts) < 3 * 250 / slots


@each_form
def test_the_connections_of_one_host_to_another_are_spread_by_their_ports(
    form: Form,
) -> None:
    for transport in (TCP, UDP):
        packets = [
            NO_OFFLOAD + bytes(ETHER / ip4() / transport(sport=port, dport=5201))
            for port in range(40000, 40064)
        ]
        counts = [slots_of(form, packets).count(slot) for slot in range(8)]
        assert min(counts) >= 2


@each_form
def test_all_fragments_of_a_datagram_have_one_slot(form: Form) -> None:
    for port in range(1, 6):
        datagram = bytes(UDP(sport=port, dport=53) / Raw(bytes(3000)))
        fragments = [
            NO_OFFLOAD
            + bytes(ETHER / ip4(flags=more, frag=at // 8, proto=17) / Raw(datagram[at : at + 1000]))
            for at, more in ((0, "MF"), (1000, "MF"), (2000, 0))
        ]  # fmt: skip
        assert len(set(slots_of(form, fragments))) == 1


@each_form
def test_all_fragments_of_a_datagram_of_ipv6_have_one_slot(form: Form) -> None:
    """Each looks as if it had other ports: the later ones have none."""
    for port in range(1, 6):
        datagram = bytes(UDP(sport=port, dport=53) / Raw(bytes(range(250)) * 12))
        fragments = [
            NO_OFFLOAD
            + bytes(
                ETHER
                / ip6()
                / IPv6ExtHdrFragment(nh=17, id=port, m=more, offset=at // 8)
                / Raw(datagram[at : at + 1000])
            )
            for at, more in ((0, 1), (1000, 1), (2000, 0))
        ]
        assert len(set(slots_of(form, fragments))) == 1


@each_form
def test_frames_of_no_flow_go_by_their_addresses(form: Form) -> None:
    for last in range(1, 6):
        ether = Ether(dst=f"5e:af:00:00:00:0{last}", src="5e:af:00:00:00:02")
        found = slots_of(
            form,
            [
                NO_OFFLOAD + bytes(ether / ARP()),
                NO_OFFLOAD + bytes(ether)[:12] + b"\x88\xcc",
                NO_OFFLOAD + bytes(ether)[:12] + b"\x08\x00" + bytes(19),
                NO_OFFLOAD + bytes(ether)[:12] + b"\x86\xdd\x60" + bytes(38),
                NO_OFFLOAD + bytes(ether)[:12] + b"\x81\x00\x00\x05",
                NO_OFFLOAD
                + bytes(ether)[:12]
                + b"\x88\xa8\x00\x05\x08\x00"
                + bytes(28),
            ],
        )
        assert len(set(found)) == 1


@each_form
@pytest.mark.parametrize("version", [4, 6])
def test_what_has_no_ports_goes_by_its_addresses(form: Form, version: int) -> None:
    for last in range(1, 6):
        network = ip4(dst=f"10.0.0.{last}") if version == 4 else ip6(dst=f"fd00::{last}")  # fmt: skip
        field = "proto" if version == 4 else "nh"
        found = []
        for protocol, rest in (
            (1, b"\x08\x00\x11\x11\x00\x01"),
            (1, b"\x00\x00\x22\x22\x00\x02"),
            (58, b"\x80\x00\x33\x33\x00\x03"),
            (50, b"\x12\x34\x56\x78\x9a\xbc"),
            # TCP and UDP whose ports are cut off.
            (6, b"\x9c\x40\x01"),
            (17, b"\x9c\x41\x02"),
        ):
            layer = network.copy()
            layer.setfieldval(field, protocol)
            found.append(NO_OFFLOAD + bytes(ETHER / layer / Raw(rest)))
        assert len(set(slots_of(form, found))) == 1


@each_form
def test_with_one_slot_all_is_in_it(form: Form) -> None:
    frames = [NO_OFFLOAD + Segment(flow=flow).frame() for flow in range(20)]

    assert set(slots_of(form, frames, 1)) == {0}


PRIOR = {
    "low delay": ip4(tos=0x10) / tcp(),
    "DSCP of voice": ip4(tos=0xB8) / UDP(),
    "ECN alone": ip4(tos=0x02) / tcp(),
    "a small ping": ip4() / Raw(bytes(64)),
    "the smallest ping": ip4(),
    "the largest ping": ip4() / Raw(bytes(128 - 34)),
}
NOT_PRIOR = {
    "bulk": ip4() / tcp() / Raw(bytes(1000)),
    "high throughput": ip4(tos=0x08) / tcp(),
    "a large ping": ip4() / Raw(bytes(129 - 34)),
    "IPv6": ip6(tc=0xB8) / tcp(),
    "ARP": ARP(),
}


def with_icmp(packet: Packet) -> Packet:
    """The packet, as ICMP if it is nothing yet."""
    if IP in packet and TCP not in packet and UDP not in packet:
        packet = packet.copy()
        packet[IP].proto = 1
    return packet


@each_form
@pytest.mark.parametrize("name", PRIOR)
def test_a_frame_of_priority_goes_to_the_slot_behind_the_others(
    form: Form, name: str
) -> None:
    frame = bytes(ETHER / with_icmp(PRIOR[name]))

    assert slot_of(form, frame, has_priority=True) == 8
    assert slot_of(form, frame) < 8


@each_form
@pytest.mark.parametrize("name", NOT_PRIOR)
def test_a_frame_without_priority_keeps_its_slot(form: Form, name: str) -> None:
    frame = bytes(ETHER / with_icmp(NOT_PRIOR[name]))

    assert slot_of(form, frame, has_priority=True) == slot_of(form, frame)


@each_form
def test_priority_needs_no_second_slot(form: Form) -> None:
    packets = [
        NO_OFFLOAD + bytes(ETHER / with_icmp(PRIOR["low delay"])),
        NO_OFFLOAD + bytes(ETHER / NOT_PRIOR["bulk"]),
        super_segment(ETHER / ip4(tos=16) / tcp() / Raw(bytes(300)), 100),
    ]

    assert slots_of(form, packets, 1, has_priority=True) == [1, 0, 1]


@each_form
def test_frames_stay_in_order_within_their_slot(form: Form) -> None:
    segments = [
        replace(Segment(flow=flow, size=20), sequence=number * 20, flags=ACK | PSH)
        for number in range(6)
        for flow in (1, 2, 3, 4, 5, 6)
    ]
    frames = [segment.frame() for segment in segments]
    with Tap() as tap:
        cutter = cutter_of(form, tap.descriptor)
        tap.send([NO_OFFLOAD + frame for frame in frames])

        groups = cutter.collect(ALL, ALL, 4, has_priority=False)

    assert frames_of(cutter.out, groups) == frames
    for group in groups:
        found = frames_of(cutter.out[group[1] :], [(0, 0, group[2] - group[1], group[3])])  # fmt: skip
        assert found
