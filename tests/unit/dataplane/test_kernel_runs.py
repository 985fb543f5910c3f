# SPDX-License-Identifier: Apache-2.0
"""The laws of the kernel's runs.py, for both of its forms."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings, strategies as st

from kernel_forms import Form, both_forms, each_form
from kernel_packets import NO_OFFLOAD, Tap, frames_of
from kernel_traffic import traffic
from sevpn.dataplane.kernel.runs import Run
from sevpn.wire.block import BlockReader, encode_batch
from sevpn.wire.ethernet import MacAddress
from sevpn.wire.udp import UdpDatagram, udp_frame

ALL = 1 << 30
A, B, C = (bytes.fromhex(f"5eaf0000000{number}") for number in (1, 2, 3))


class Buffer:
    """Frames with something between them, as in any buffer."""

    def __init__(self, frames: Sequence[bytes], gap: int = 4) -> None:
        self.data = bytearray()
        self.starts = array("i")
        self.sizes = array("i", map(len, frames))
        for frame in frames:
            self.data += b"\xee" * gap
            self.starts.append(len(self.data))
            self.data += frame
        # An empty array has no place for C to point to.
        self.starts.append(0)
        self.sizes.append(0)
        self.data += b"\xee"


def runs_of(form: Form, frames: Sequence[bytes], first: int = 0) -> list[Run]:
    buffer = Buffer(frames)
    count = len(frames) - first
    return form.runs().find(buffer.data, buffer.starts, buffer.sizes, first, count)


def packet(
    target: bytes = B, source: bytes = A, *, address: int = 1, protocol: int = 6
) -> bytes:
    head = target + source + b"\x08\x00"
    ip = b"\x45" + bytes(8) + bytes([protocol, 0, 0])
    return (
        head
        + ip
        + bytes([10, 0, 0, address])
        + bytes([10, 0, 0, 99])
        + b"ports and more"
    )


def packet6(*, address: int = 1, size: int = 60) -> bytes:
    head = B + A + b"\x86\xdd" + b"\x60" + bytes(7)
    return (head + bytes(15) + bytes([address])).ljust(size, b"\x07")


def datagram(source: int, target: int, *, fragment: int = 0) -> bytes:
    frame = bytearray(
        udp_frame(
            UdpDatagram(source, target, b"hello"),
            source_mac=MacAddress(A),
            destination_mac=MacAddress(B),
            source=IPv4Address("10.0.0.1"),
            destination=IPv4Address("10.0.0.2"),
        )
    )
    frame[20:22] = fragment.to_bytes(2, "big")
    return bytes(frame)


TAGGED = B + A + b"\x81\x00\0\x05\x08\x00" + bytes(40)
ARP = B + A + b"\x08\x06" + bytes(28)
ODD = {
    "ARP": ARP,
    "a VLAN tag": TAGGED,
    "no IP": B + A + b"\x88\xb5" + bytes(50),
    "the shortest frame": B + A + b"\x08\x00",
    "too short for IPv4": packet()[:33],
    "too short for IPv6": packet6(size=53),
    "a question to a DHCP server": datagram(68, 67),
    "an answer of a DHCP server": datagram(67, 68),
    "from a DHCP server": datagram(67, 5000),
    "from a DHCP client": datagram(68, 5000),
    "to a DHCP server": datagram(5000, 67),
    "to a DHCP client": datagram(5000, 68),
    "DHCP in a first fragment": datagram(68, 67, fragment=0x2000),
}
PLAIN = {
    "TCP": packet(),
    "the shortest packet of IPv4": packet()[:34],
    "any protocol": packet(protocol=253),
    "IPv6": packet6(),
    "the shortest packet of IPv6": packet6(size=54),
    "a datagram": datagram(5000, 5001),
    "a later fragment": datagram(68, 67, fragment=0x2001),
    "a datagram that ends before its ports": datagram(68, 67)[:41],
}


# --- find --------------------------------------------------------------------


@each_form
def test_frames_of_the_same_addresses_are_one_run(form: Form) -> None:
    frames = [packet()] * 5

    assert runs_of(form, frames) == [(0, 5, B + A, b"\x0a\0\0\x01")]
    assert runs_of(form, frames, 2) == [(2, 5, B + A, b"\x0a\0\0\x01")]
    assert runs_of(form, []) == []


@each_form
@pytest.mark.parametrize(
    "other",
    [
        packet(target=C),
        packet(source=C),
        packet(address=2),
        packet6(),
        ARP,
    ],
    ids=["target", "source", "address", "family", "odd"],
)
def test_another_address_begins_another_run(form: Form, other: bytes) -> None:
    found = runs_of(form, [packet(), packet(), other, packet()])

    assert [run[:2] for run in found] == [(0, 2), (2, 3), (3, 4)]
    assert found[0][2:] == found[2][2:] != found[1][2:]


@each_form
def test_addresses_of_ipv6_are_compared_whole(form: Form) -> None:
    found = runs_of(form, [packet6(), packet6(), packet6(address=2)])

    assert found == [
        (0, 2, B + A, bytes(15) + b"\x01"),
        (2, 3, B + A, bytes(15) + b"\x02"),
    ]


@each_form
@pytest.mark.parametrize("what", ODD)
def test_what_needs_a_second_look_has_no_addresses(form: Form, what: str) -> None:
    assert runs_of(form, [packet(), ODD[what], packet()])[1] == (1, 2, b"", b"")


@each_form
@pytest.mark.parametrize("what", PLAIN)
def test_what_its_addresses_alone_decide_about_is_plain(form: Form, what: str) -> None:
    ((_, _, key, address),) = runs_of(form, [PLAIN[what]])

    assert key == B + A
    assert len(address) == (16 if "IPv6" in what else 4)


@each_form
@settings(max_examples=60)
@given(frames=st.lists(st.sampled_from([*ODD.values(), *PLAIN.values(), packet(C, B)])))
def test_runs_cover_all_frames_in_their_order(form: Form, frames: list[bytes]) -> None:
    found = runs_of(form, frames)

    ends = [0, *(end for _, end, _, _ in found)]
    assert [first for first, _, _, _ in found] == ends[:-1]
    assert ends[-1] == len(frames)
    assert all(first < end for first, end, _, _ in found)
    for first, end, key, address in found:
        for frame in frames[first:end]:
            assert frame.startswith(key)
            assert frame[26:30] == address or frame[22:38] == address or not address


# --- encode ------------------------------------------------------------------


def encoded(form: Form, frames: Sequence[bytes], first: int, count: int) -> bytes:
    runs = form.runs()
    buffer = Buffer(frames)
    size = runs.encode(buffer.data, buffer.starts, buffer.sizes, first, count)
    return bytes(runs.out[:size])


@each_form
@settings(max_examples=30)
@given(count=st.integers(0, 300), first=st.integers(0, 3), size=st.integers(14, 1600))
def test_batches_are_those_of_the_readable_form(
    form: Form, count: int, first: int, size: int
) -> None:
    frames = [number.to_bytes(2, "big") * (size // 2) for number in range(count + 9)]
    meant = frames[first : first + count]

    data = encoded(form, frames, first, count)

    expected = [meant[at : at + 128] for at in range(0, count, 128)]
    assert data == b"".join(map(encode_batch, expected))


@each_form
def test_a_burst_of_the_largest_frames_fits(form: Form) -> None:
    frames = [bytes(1600)] * 512

    assert BlockReader().feed(encoded(form, frames, 0, 512)) == frames


@each_form
@pytest.mark.parametrize("size", [1600, 14])
def test_what_does_not_fit_is_refused(form: Form, size: int) -> None:
    count = 821264 // (size + 4) + 1

    with pytest.raises(AssertionError, match="more than fits"):
        encoded(form, [bytes(size)] * count, 0, count)


@each_form
def test_a_place_outside_of_the_arrays_is_refused(form: Form) -> None:
    runs = form.runs()
    buffer = Buffer([packet()])
    places = (buffer.data, buffer.starts, buffer.sizes)

    for first, count in ((-1, 1), (0, -1), (1, 2), (3, 0)):
        with pytest.raises(AssertionError):
            runs.encode(*places, first, count)
        with pytest.raises(AssertionError):
            runs.find(*places, first, count)
    for begin, end in ((-1, 4), (5, 4), (0, len(buffer.data) + 1)):
        with pytest.raises(AssertionError):
            runs.walk(buffer.data, begin, end)


# --- walk --------------------------------------------------------------------


@each_form
@settings(max_examples=20)
@given(frames=traffic(most=300))
def test_the_frames_of_a_group_are_found_where_the_cutter_put_them(
    form: Form, frames: list[bytes]
) -> None:
    runs = form.runs()
    found: list[bytes] = []
    with Tap() as tap:
        tap.send([NO_OFFLOAD + frame for frame in frames])
        cutter = form.cutter(tap.descriptor, has_header=True)
        groups = cutter.collect(ALL, ALL, 1, False)  # noqa: FBT003 - C's
        expected = frames_of(cutter.out, groups)
        for _, begin, end, frame_count in groups:
            count = runs.walk(cutter.out, begin, end)
            assert count == frame_count
            found += [
                bytes(cutter.out[start : start + size])
                for start, size in zip(
                    runs.starts[:count], runs.sizes[:count], strict=True
                )
            ]

    assert found == expected


@each_form
def test_no_more_frames_are_found_than_there_is_room_for(form: Form) -> None:
    data = bytearray(encode_batch([bytes(14)] * 128) * 5)

    assert form.runs().walk(data, 0, len(data)) == 512


@each_form
@given(data=st.binary(max_size=60), begin=st.integers(0, 10))
def test_whatever_is_walked_nothing_outside_is_found(
    form: Form, data: bytes, begin: int
) -> None:
    runs = form.runs()
    begin = min(begin, len(data))

    count = runs.walk(bytearray(data), begin, len(data))

    for start, size in zip(runs.starts[:count], runs.sizes[:count], strict=True):
        assert begin + 8 <= start <= start + size <= len(data)


# --- both --------------------------------------------------------------------


@both_forms
@settings(max_examples=40)
@given(frames=traffic(most=60), first=st.integers(0, 5))
def test_both_forms_find_and_encode_alike(
    one: Form, other: Form, frames: list[bytes], first: int
) -> None:
    first = min(first, len(frames))
    count = len(frames) - first

    assert runs_of(one, frames, first) == runs_of(other, frames, first)
    assert encoded(one, frames, first, count) == encoded(other, frames, first, count)
