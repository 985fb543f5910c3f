# SPDX-License-Identifier: Apache-2.0
"""The laws of the kernel's scan.py, for both of its forms; `wire/block.py` is the oracle."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given, settings, strategies as st

from kernel_forms import Form, each_form
from sevpn.dataplane.kernel.scan import CHUNK_SIZE
from sevpn.dataplane.sieve import HOST, Sieve
from sevpn.errors import RemoteProtocolError
from sevpn.wire.block import EMPTY_BATCH, BlockReader, encode_batch, encode_keepalive
from sevpn.wire.ethernet import MacAddress

OURS = bytes.fromhex("5eaf00000001")
HUB = bytes.fromhex("00ae12345678")
PEER = bytes.fromhex("5eaf00000002")


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def batch(*blocks: bytes) -> bytes:
    """A batch of any blocks, those included that hold no frame."""
    return number(len(blocks)) + b"".join(
        number(len(block)) + block for block in blocks
    )


class Reading:
    """All that a scanner found in the chunks of one connection."""

    def __init__(self, form: Form) -> None:
        self.scanner = form.scanner()
        self.state = form.block_state()
        self.frames: list[bytes] = []
        self.dropped = 0
        self.full_batches = 0
        self.items = 0
        self.error = ""

    def feed(self, chunk: bytes) -> None:
        if self.error:
            return
        scanner = self.scanner
        room = scanner.room(self.state)
        room[: len(chunk)] = chunk
        try:
            found = scanner.scan(self.state, len(chunk))
            assert found == scanner.frame_count
        except RemoteProtocolError as error:
            self.error = str(error)
        frames = [
            bytes(scanner.arena[start : start + size])
            for start, size in zip(
                scanner.starts[: scanner.frame_count],
                scanner.sizes[: scanner.frame_count],
                strict=True,
            )
        ]
        assert scanner.frame_bytes == sum(map(len, frames))
        assert self.state.tail_size <= 3203
        assert len(self.state.tail) == 3204
        self.frames += frames
        self.dropped += scanner.dropped_runts + scanner.dropped_oversized
        self.full_batches += scanner.has_full_batch
        self.items += scanner.has_items

    def feed_all(self, stream: bytes, cuts: Iterable[int] = ()) -> Reading:
        places = [0, *sorted({min(cut, len(stream)) for cut in cuts}), len(stream)]
        for begin, end in itertools.pairwise(places):
            for at in range(begin, end, CHUNK_SIZE):
                self.feed(stream[at : min(end, at + CHUNK_SIZE)])
        return self


def read_by_the_reference(stream: bytes) -> tuple[list[bytes], BlockReader, str]:
    """Return what the readable form finds, a byte at a time: it loses the frames of a call that raises."""
    reader = BlockReader()
    frames: list[bytes] = []
    try:
        for value in stream:
            frames += reader.feed(bytes([value]))
    except RemoteProtocolError as error:
        return frames, reader, str(error)
    return frames, reader, ""


blocks = st.one_of(
    st.binary(max_size=40),
    st.binary(min_size=1598, max_size=1602),
    st.sampled_from([bytes(13), bytes(14), bytes(1600), bytes(1601), bytes(3200)]),
)
items = st.one_of(
    st.lists(blocks, max_size=5).map(lambda some: batch(*some)),
    st.binary(max_size=512).map(encode_keepalive),
    st.just(EMPTY_BATCH),
)
endings = st.one_of(
    st.just(b""),
    st.binary(max_size=40),
    st.sampled_from(
        [
            number(1) + number(3201),
            number(1) + number(0xFFFFFFFF),
            number(0xFFFFFFFE) + number(14) + bytes(14) + number(0x80000000),
            number(0xFFFFFFFF) + number(513),
            number(0xFFFFFFFF) * 2,
            number(2) + number(3200) + bytes(3199),
        ]
    ),
)
streams = st.tuples(st.lists(items, max_size=6).map(b"".join), endings).map(b"".join)


@each_form
@settings(max_examples=40)
@given(stream=streams, cuts=st.lists(st.integers(0, 12000), max_size=8))
def test_any_cut_gives_the_frames_that_the_reference_reader_gives(
    form: Form, stream: bytes, cuts: list[int]
) -> None:
    frames, reader, error = read_by_the_reference(stream)

    found = Reading(form).feed_all(stream, cuts)

    assert found.frames == frames
    assert found.error == error
    if not error:
        assert found.dropped == reader.dropped_count


@each_form
@settings(max_examples=10)
@given(stream=streams)
def test_a_byte_at_a_time_gives_the_same_frames(form: Form, stream: bytes) -> None:
    whole = Reading(form).feed_all(stream)
    pieces = Reading(form).feed_all(stream, range(len(stream)))

    assert pieces.frames == whole.frames
    assert pieces.error == whole.error
    assert pieces.dropped == whole.dropped


@each_form
@settings(max_examples=15)
@given(
    streams=st.lists(streams, min_size=2, max_size=3),
    order=st.lists(st.integers(0, 2), max_size=30),
    step=st.integers(1, 4000),
)
def test_connections_share_the_arena_and_nothing_else(
    form: Form, streams: list[bytes], order: list[int], step: int
) -> None:
    readings = [Reading(form) for _ in streams]
    for reading in readings:
        reading.scanner = readings[0].scanner
    rests = list(streams)
    for turn in [*order, *(list(range(len(streams))) * 10)]:
        index = turn % len(streams)
        readings[index].feed(rests[index][:step])
        rests[index] = rests[index][step:]

    for stream, rest, reading in zip(streams, rests, readings, strict=True):
        alone = Reading(form).feed_all(stream[: len(stream) - len(rest)])
        assert (reading.frames, reading.error) == (alone.frames, alone.error)


# --- limits ------------------------------------------------------------------


@each_form
@pytest.mark.parametrize(
    ("size", "frames", "runts", "oversized"),
    [
        (0, 0, 0, 0),
        (1, 0, 1, 0),
        (13, 0, 1, 0),
        (14, 1, 0, 0),
        (1600, 1, 0, 0),
        (1601, 0, 0, 1),
        (3200, 0, 0, 1),
    ],
)
def test_what_no_frame_can_be_is_dropped_and_counted(
    form: Form, size: int, frames: int, runts: int, oversized: int
) -> None:
    reading = Reading(form).feed_all(batch(bytes(size)))

    assert len(reading.frames) == frames
    assert reading.scanner.dropped_runts == runts
    assert reading.scanner.dropped_oversized == oversized
    assert reading.scanner.has_items
    assert not reading.error


@each_form
@pytest.mark.parametrize("size", [3201, 3202, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_block_over_the_limit_ends_the_connection_before_it_comes(
    form: Form, size: int
) -> None:
    reading = Reading(form).feed_all(number(2) + number(14) + OURS + PEER + b"\x08\x00")
    assert len(reading.frames) == 1

    reading.feed(number(size))

    assert reading.error == (
        f"a block of {size} bytes was announced: at most 3200 are allowed"
    )
    assert reading.frames == [OURS + PEER + b"\x08\x00"]


@each_form
def test_what_stood_before_the_fault_is_there_all_the_same(form: Form) -> None:
    reading = Reading(form).feed_all(number(2) + number(20) + bytes(20) + number(3201))

    assert reading.error
    assert reading.frames == [bytes(20)]


@each_form
@pytest.mark.parametrize("size", [513, 3200, 0x80000000, 0xFFFFFFFF])
def test_a_keepalive_over_the_limit_ends_the_connection(form: Form, size: int) -> None:
    reading = Reading(form).feed_all(number(0xFFFFFFFF) + number(size))

    assert reading.error == (
        f"a keep-alive of {size} bytes was announced: at most 512 are allowed"
    )


@each_form
@pytest.mark.parametrize("size", [0, 1, 512])
def test_a_keepalive_within_the_limit_is_an_item_and_nothing_more(
    form: Form, size: int
) -> None:
    stream = encode_keepalive(bytes(size))
    reading = Reading(form).feed_all(stream[:-1] if size else stream[:-4])
    assert reading.items == 0

    reading.feed(stream[-1:] if size else stream[-4:])

    assert reading.items == 1
    assert reading.frames == []
    assert reading.full_batches == 0


@each_form
def test_an_empty_batch_is_an_item(form: Form) -> None:
    reading = Reading(form).feed_all(EMPTY_BATCH)

    assert reading.scanner.has_items
    assert not reading.scanner.has_full_batch
    assert reading.frames == []


@each_form
def test_a_mark_among_the_sizes_is_a_size(form: Form) -> None:
    reading = Reading(form).feed_all(number(1) + number(0xFFFFFFFF))

    assert reading.error.startswith("a block of 4294967295 bytes")


@each_form
def test_a_batch_of_nearly_endless_blocks_is_read_as_it_comes(form: Form) -> None:
    reading = Reading(form).feed_all(number(0xFFFFFFFE))
    assert reading.state.blocks_left == 0xFFFFFFFE

    for _ in range(3):
        reading.feed(number(14) + bytes(14))

    assert reading.frames == [bytes(14)] * 3
    assert reading.state.blocks_left == 0xFFFFFFFB
    assert reading.full_batches == 0


@each_form
def test_the_densest_chunk_fits_behind_the_longest_tail(form: Form) -> None:
    small = number(14) + bytes(14)
    longest = number(3200) + bytes(3199)
    reading = Reading(form).feed_all(number(0xFFFFFFFE) + longest)
    assert reading.state.tail_size == 3203

    chunk = (b"\0" + small * (CHUNK_SIZE // 18 + 1))[:CHUNK_SIZE]
    reading.feed(chunk)

    assert len(reading.frames) == (CHUNK_SIZE - 1) // 18
    assert reading.scanner.dropped_oversized == 1
    assert not reading.error


@each_form
def test_the_tail_holds_the_longest_unfinished_items(form: Form) -> None:
    block = Reading(form).feed_all(number(1) + number(3200) + bytes(3199))
    assert block.state.tail_size == 3203

    keepalive = Reading(form).feed_all(encode_keepalive(bytes(512))[:-1])
    assert keepalive.state.tail_size == 519

    block.feed(b"\0")
    keepalive.feed(b"\0")
    assert block.state.tail_size == keepalive.state.tail_size == 0
    assert block.scanner.dropped_oversized == 1
    assert keepalive.items == 1


@each_form
def test_there_is_always_room_for_a_whole_chunk(form: Form) -> None:
    reading = Reading(form).feed_all(number(1) + number(3200) + bytes(3199))

    assert len(reading.scanner.room(reading.state)) == CHUNK_SIZE


@each_form
@pytest.mark.parametrize("size", [-1, CHUNK_SIZE + 1])
def test_no_more_is_scanned_than_there_was_room_for(form: Form, size: int) -> None:
    reading = Reading(form)
    reading.scanner.room(reading.state)

    with pytest.raises(AssertionError, match="more than there was room for"):
        reading.scanner.scan(reading.state, size)


# --- full batches ------------------------------------------------------------


def full(form: Form, *counts: int) -> list[bool]:
    """For batches of so many blocks: which the scanner calls full."""
    reading = Reading(form)
    said = []
    for count in counts:
        reading.feed(batch(*[bytes(14)] * count))
        said.append(bool(reading.scanner.has_full_batch))
    return said


@each_form
@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((127, 128), (True, True)),
        ((128, 127, 129), (True, False, True)),
        ((31,), (False,)),
        ((32,), (True,)),
        # The largest so far, or one as large again.
        ((32, 40, 39, 40, 41), (True, True, False, True, True)),
        ((1, 5, 31, 31), (False, False, False, False)),
        ((300, 128, 127, 299), (True, True, False, True)),
    ],
)
def test_a_batch_is_full_with_128_or_as_many_as_the_largest_from_32_on(
    form: Form, counts: tuple[int, ...], said: tuple[bool, ...]
) -> None:
    assert full(form, *counts) == list(said)


@each_form
def test_a_full_batch_counts_when_its_last_block_ends(form: Form) -> None:
    stream = batch(*[bytes(14)] * 128)
    reading = Reading(form).feed_all(stream[:-1])
    assert not reading.scanner.has_full_batch

    reading.feed(stream[-1:])
    assert reading.scanner.has_full_batch

    reading.feed(batch(bytes(14)))
    assert not reading.scanner.has_full_batch


# --- sift --------------------------------------------------------------------


def sieve() -> Sieve:
    """One that is open and proves nothing."""
    opened = Sieve(MacAddress(OURS))
    opened.is_open = True
    return opened


def ipv4(protocol: int, rest: bytes, *, words: int = 5, fragment: int = 0) -> bytes:
    head = bytearray(20)
    head[0] = 0x40 | words
    head[6:8] = fragment.to_bytes(2, "big")
    head[9] = protocol
    return OURS + PEER + b"\x08\x00" + bytes(head) + bytes(max(0, words * 4 - 20)) + rest  # fmt: skip


def dhcp(*, kind: int = 2, port: int = 68, hardware: bytes = OURS) -> bytes:
    """The beginning of a UDP datagram with a BOOTP message."""
    return (
        (67).to_bytes(2, "big")
        + port.to_bytes(2, "big")
        + bytes(4)
        + bytes([kind])
        + bytes(27)
        + hardware
        + bytes(200)
    )


def ipv6(source: bytes, protocol: int, kind: int) -> bytes:
    head = bytearray(40)
    head[0] = 0x60
    head[6] = protocol
    return OURS + source + b"\x86\xdd" + bytes(head) + bytes([kind]) + bytes(23)


SPECIMENS = {
    "arp": OURS + PEER + b"\x08\x06" + bytes(28),
    "arp of the hub": OURS + HUB + b"\x08\x06" + bytes(28),
    "arp of no length": OURS + PEER + b"\x08\x06",
    "dhcp reply": ipv4(17, dhcp()),
    "dhcp reply behind options": ipv4(17, dhcp(), words=15),
    "dhcp reply, first fragment": ipv4(17, dhcp(), fragment=0x2000),
    "dhcp reply, may not be fragmented": ipv4(17, dhcp(), fragment=0x4000),
    "solicitation of the hub": ipv6(HUB, 58, 135),
    "router advertisement": ipv6(PEER, 58, 134),
    "dhcpv6 to a client": ipv6(PEER, 17, 0)[:54] + b"\x02\x23\x02\x22" + bytes(20),
}
"""Frames that are not the host's alone."""

HARMLESS = {
    "tcp": ipv4(6, bytes(60)),
    "dhcp reply, later fragment": ipv4(17, dhcp(), fragment=0x0001),
    "dhcp reply, cut": ipv4(17, dhcp())[: 14 + 20 + 3],
    "udp to another port": ipv4(17, dhcp(port=69)),
    "neighbour solicitation of another": ipv6(PEER, 58, 135),
    "tcp of the hub": ipv6(HUB, 6, 135),
    "dhcpv6 to a server": ipv6(PEER, 17, 0)[:54] + b"\x02\x22\x02\x23" + bytes(20),
    "dhcpv6, cut": ipv6(PEER, 17, 0)[:54] + b"\x02\x23\x02",
    "advertisement, cut": ipv6(PEER, 58, 134)[:54],
    "nothing": OURS + PEER + b"\x08\x00",
    "vlan": OURS + HUB + b"\x81\x00\x00\x01\x08\x06" + bytes(28),
    "spanning tree": OURS + PEER + b"\x00\x26" + bytes(38),
}
"""Frames that stay."""


def sifted(form: Form, *frames: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return the frames that stay, and those that are taken out."""
    reading = Reading(form).feed_all(encode_batch(frames))
    scanner = reading.scanner
    before = scanner.frame_count
    taken = [bytes(view) for view in scanner.sift()]
    stay = [
        bytes(scanner.arena[scanner.starts[index] :][: scanner.sizes[index]])
        for index in range(scanner.frame_count)
    ]
    assert len(stay) + len(taken) == before == len(frames)
    return stay, taken


@each_form
@pytest.mark.parametrize("name", SPECIMENS)
def test_what_may_concern_control_is_taken_out(form: Form, name: str) -> None:
    frame = SPECIMENS[name]
    assert sieve().decide(memoryview(frame)) != HOST

    assert sifted(form, frame) == ([], [frame])


@each_form
@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_the_hosts_alone_stays(form: Form, name: str) -> None:
    frame = HARMLESS[name]
    assert sieve().decide(memoryview(frame)) == HOST

    assert sifted(form, frame) == ([frame], [])


@st.composite
def suspects(draw: st.DrawFn) -> bytes:
    """A specimen with a few bytes changed, cut or lengthened."""
    frame = bytearray(
        draw(st.sampled_from([*SPECIMENS.values(), *HARMLESS.values()]))[:120]
    )
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(frame) - 1))
        frame[at] = draw(st.sampled_from([0, 1, 2, 6, 8, 17, 58, 68, 69, 0xAE, 255]))
    size = draw(st.integers(14, 160))
    return bytes(frame[:size]) + bytes(max(0, size - len(frame)))


@each_form
@settings(max_examples=60)
@given(frames=st.lists(suspects(), max_size=12))
def test_no_frame_stays_that_the_sieve_would_not_give_to_the_host_alone(
    form: Form, frames: list[bytes]
) -> None:
    decide = sieve().decide

    stay, taken = sifted(form, *frames)

    assert all(decide(memoryview(frame)) == HOST for frame in stay)
    assert sorted(stay + taken) == sorted(frames)
    # In the order in which they came.
    rest = iter(frames)
    assert all(frame in rest for frame in stay)


def fill(size: int) -> bytes:
    """Blocks of so many bytes together, 104 or more; most are too long to be frames."""
    count, rest = divmod(size - 104, 2004)
    return batch(*[bytes(2000)] * count, bytes(100 + rest))[4:]


@each_form
@pytest.mark.parametrize("name", [*SPECIMENS, *HARMLESS])
def test_no_frame_is_read_beyond_its_end(form: Form, name: str) -> None:
    whole = (SPECIMENS | HARMLESS)[name]
    for size in {14, 20, 24, 35, 41, 53, 54, min(70, len(whole))}:
        frame = whole[:size]
        reading = Reading(form)
        reading.feed(number(0xFFFFFFFE) + number(3200) + bytes(3199))
        reading.feed(
            b"\0" + fill(CHUNK_SIZE - 1 - 4 - len(frame)) + number(len(frame)) + frame
        )

        # The frame is the last in the arena, but for a byte: Python would say so.
        scanner = reading.scanner
        assert reading.frames[-1] == frame
        assert scanner.starts[scanner.frame_count - 1] + len(frame) == len(scanner.arena) - 1  # fmt: skip
        if not scanner.sift():
            assert sieve().decide(memoryview(frame)) == HOST


@each_form
def test_bulk_traffic_needs_no_second_look(form: Form) -> None:
    frames = [*HARMLESS.values()] * 20

    assert sifted(form, *frames) == (frames, [])


@each_form
def test_all_frames_can_be_taken_out(form: Form) -> None:
    frames = [*SPECIMENS.values(), *HARMLESS.values()]
    scanner = Reading(form).feed_all(encode_batch(frames)).scanner

    assert [bytes(view) for view in scanner.take_all()] == frames
    assert scanner.frame_count == 0
    assert scanner.take_all() == []
