# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sevpn.dataplane.buffers import BlockCutter, join_batch
from sevpn.errors import RemoteProtocolError
from sevpn.wire.block import EMPTY_BATCH, BlockReader, encode_batch, encode_keepalive

TCP = bytes(12) + b"\x08\x00" + bytes(9) + b"\x06"


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def batch(*blocks: bytes) -> bytes:
    """A batch of any blocks, those included that hold no frame."""
    return number(len(blocks)) + b"".join(
        number(len(block)) + block for block in blocks
    )


def is_tcp(frame: bytes) -> bool:
    return len(frame) >= 24 and frame[12:14] == b"\x08\x00" and frame[23] == 6


blocks = st.one_of(
    st.binary(max_size=40),
    st.binary(min_size=1590, max_size=1610),
    st.binary(max_size=60).map(lambda tail: TCP + tail),
    st.sampled_from([bytes(3200), TCP + bytes(1600 - 24), TCP + bytes(1601 - 24)]),
)
items = st.one_of(
    st.lists(blocks, max_size=5).map(lambda some: batch(*some)),
    st.binary(max_size=512).map(encode_keepalive),
    st.just(EMPTY_BATCH),
)
streams = st.one_of(
    st.lists(items, max_size=6).map(b"".join),
    st.tuples(st.lists(items, max_size=3).map(b"".join), st.binary(max_size=40)).map(
        b"".join
    ),
)


class Collected:
    """All that a cutter brought over many chunks."""

    def __init__(self) -> None:
        self.cutter = BlockCutter()
        self.tcp: list[bytes] = []
        self.others: list[bytes] = []
        self.dropped = 0
        self.full_batches = 0
        self.error = ""

    def feed(self, chunk: bytes | memoryview) -> None:
        if self.error:
            return
        try:
            self.cutter.feed(chunk)
        except RemoteProtocolError as error:
            self.error = str(error)
        self.tcp += map(bytes, self.cutter.tcp_frames)
        self.others += map(bytes, self.cutter.others)
        self.dropped += self.cutter.dropped_runts + self.cutter.dropped_oversized
        self.full_batches += self.cutter.has_full_batch


def cut_whole(stream: bytes) -> Collected:
    collected = Collected()
    collected.feed(stream)
    return collected


@given(streams, st.lists(st.integers(0, 12000), max_size=8), st.booleans())
def test_the_cutter_agrees_with_the_reference_reader_wherever_the_stream_is_cut(
    stream: bytes, cuts: list[int], as_view: bool
) -> None:
    reader = BlockReader()
    expected: list[bytes] = []
    error = ""
    try:
        # Byte by byte, so that frames before an error are known, too.
        for byte in stream:
            expected += reader.feed(bytes([byte]))
    except RemoteProtocolError as problem:
        error = str(problem)

    got = Collected()
    inner = sorted(min(cut, len(stream)) for cut in cuts)
    for start, end in zip([0, *inner], [*inner, len(stream)], strict=True):
        chunk = stream[start:end]
        got.feed(memoryview(chunk) if as_view else chunk)

    assert got.error == error
    assert got.tcp == [frame for frame in expected if is_tcp(frame)]
    assert got.others == [frame for frame in expected if not is_tcp(frame)]
    assert got.dropped == reader.dropped_count


@given(st.lists(st.binary(min_size=14, max_size=1600), max_size=128))
def test_a_joined_batch_is_the_reference_encoding(frames: list[bytes]) -> None:
    assert join_batch(frames, list(map(len, frames))) == encode_batch(frames)


def test_frames_are_slices_of_the_chunk_and_not_copies() -> None:
    stream = batch(TCP, TCP)
    cutter = BlockCutter()
    cutter.feed(stream)

    assert all(frame.obj is stream for frame in cutter.tcp_frames)


def test_only_what_a_chunk_ends_inside_of_is_carried() -> None:
    cutter = BlockCutter()
    cutter.feed(
        number(9) + (number(1600) + bytes(1600)) * 3 + number(3200) + bytes(3199)
    )

    assert len(cutter._carry) == 3203


def test_a_short_frame_at_the_very_end_is_not_held_back() -> None:
    cutter = BlockCutter()
    cutter.feed(batch(bytes(14)))

    assert [bytes(frame) for frame in cutter.others] == [bytes(14)]


def test_a_short_frame_does_not_borrow_its_successors_bytes() -> None:
    # The 10 bytes behind a bare header stand where IPv4 keeps the protocol.
    header = bytes(12) + b"\x08\x00"
    assert len(cut_whole(batch(header, bytes(5) + b"\x06" + bytes(20))).others) == 2


@pytest.mark.parametrize(
    ("counts", "is_full"),
    [([31], False), ([128], True), ([200], True), ([64], True), ([100, 99], False)],
)
def test_a_batch_is_full_when_the_server_makes_no_larger_ones(
    counts: list[int], is_full: bool
) -> None:
    cutter = BlockCutter()
    for count in counts:
        cutter.feed(batch(*[TCP] * count))

    assert cutter.has_full_batch is is_full


def test_a_full_batch_counts_when_it_ends() -> None:
    stream = batch(*[TCP] * 128)
    cutter = BlockCutter()
    cutter.feed(stream[:-1])
    assert not cutter.has_full_batch

    cutter.feed(stream[-1:])
    assert cutter.has_full_batch

    cutter.feed(EMPTY_BATCH)
    assert not cutter.has_full_batch


@pytest.mark.parametrize(
    "item",
    [
        EMPTY_BATCH,
        encode_keepalive(b""),
        encode_keepalive(bytes(9)),
        batch(b""),
        batch(TCP),
    ],
)
def test_a_complete_item_is_noted_when_it_ends(item: bytes) -> None:
    cutter = BlockCutter()
    for byte in item[:-1]:
        cutter.feed(bytes([byte]))
    assert not cutter.has_items

    cutter.feed(item[-1:])
    assert cutter.has_items

    cutter.feed(b"\x00")
    assert not cutter.has_items


def test_runts_and_oversized_blocks_are_told_apart_and_empty_ones_ignored() -> None:
    cutter = BlockCutter()
    cutter.feed(batch(b"", bytes(1), bytes(13), bytes(1601)))

    assert (cutter.dropped_runts, cutter.dropped_oversized) == (2, 1)
    assert cutter.others == []


@pytest.mark.parametrize(
    "stream",
    [
        number(1) + number(3201),
        number(0xFFFFFFFF) + number(513),
        number(2) + number(14) + bytes(14) + number(9999),
    ],
)
def test_sizes_over_the_limit_are_refused_before_their_bytes_come(
    stream: bytes,
) -> None:
    assert "at most" in cut_whole(stream).error
