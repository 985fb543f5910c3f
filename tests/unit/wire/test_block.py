# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from sevpn.errors import LocalProtocolError, RemoteProtocolError
from sevpn.wire.block import (
    EMPTY_BATCH,
    MAX_BLOCK_SIZE,
    MAX_KEEPALIVE_SIZE,
    BlockReader,
    encode_batch,
    encode_keepalive,
)

VECTORS = {
    name: bytes.fromhex(value)
    for name, value in (
        line.split(":")
        for line in (Path(__file__).parents[2] / "vectors" / "block.hex")
        .read_text()
        .splitlines()
        if line and not line.startswith("#")
    )
}

A, B, C = b"\xaa" * 14, b"\xbb" * 15, b"\xcc" * 14

frames = st.lists(st.binary(min_size=14, max_size=1600), max_size=6)
items = st.one_of(
    frames.map(encode_batch),
    st.binary(max_size=512).map(encode_keepalive),
    st.just(EMPTY_BATCH),
)


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def test_the_vector_of_two_blocks_is_encoded_byte_for_byte() -> None:
    assert encode_batch([A, B]) == VECTORS["two-blocks"]


def test_the_vector_of_two_blocks_is_read() -> None:
    assert BlockReader().feed(VECTORS["two-blocks"]) == [A, B]


def test_the_vectors_of_keepalives_are_encoded_byte_for_byte() -> None:
    assert encode_keepalive(b"\1\2\3") == VECTORS["keepalive-of-three"]
    assert encode_keepalive(b"") == VECTORS["keepalive-of-none"]


def test_a_batch_of_nothing_is_the_vector_of_the_poke() -> None:
    assert encode_batch([]) == EMPTY_BATCH == VECTORS["empty-batch"]


def test_keepalives_and_empty_batches_are_swallowed_and_counted() -> None:
    reader = BlockReader()
    stream = b"".join(
        VECTORS[name]
        for name in (
            "keepalive-of-three",
            "empty-batch",
            "two-blocks",
            "keepalive-of-none",
        )
    )

    assert reader.feed(stream) == [A, B]
    assert (reader.keepalive_count, reader.batch_count, reader.dropped_count) == (
        2,
        2,
        0,
    )


def test_an_empty_block_is_skipped_and_is_no_loss() -> None:
    reader = BlockReader()

    assert reader.feed(VECTORS["empty-block"]) == [C]
    assert reader.dropped_count == 0


def test_an_empty_block_may_end_a_batch() -> None:
    reader = BlockReader()

    assert reader.feed(number(1) + number(0) + VECTORS["two-blocks"]) == [A, B]
    assert reader.batch_count == 2


@pytest.mark.parametrize("size", [1, 13, 1601, MAX_BLOCK_SIZE])
def test_a_block_that_holds_no_frame_is_dropped_and_the_connection_lives(
    size: int,
) -> None:
    reader = BlockReader()

    assert reader.feed(
        number(1) + number(size) + bytes(size) + VECTORS["two-blocks"]
    ) == [A, B]
    assert reader.dropped_count == 1


@pytest.mark.parametrize("size", [14, 1600])
def test_frames_of_the_smallest_and_the_largest_size_pass(size: int) -> None:
    assert BlockReader().feed(encode_batch([bytes(size)])) == [bytes(size)]


@pytest.mark.parametrize("size", [MAX_BLOCK_SIZE + 1, 0xFFFFFFFF])
def test_a_block_over_the_limit_is_refused_before_its_bytes_come(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"a block of {size} bytes"):
        BlockReader().feed(number(1) + number(size))


def test_a_keepalive_of_the_largest_size_passes() -> None:
    reader = BlockReader()

    assert reader.feed(encode_keepalive(bytes(MAX_KEEPALIVE_SIZE))) == []
    assert reader.keepalive_count == 1


def test_a_keepalive_over_the_limit_is_refused_before_its_bytes_come() -> None:
    with pytest.raises(RemoteProtocolError, match="a keep-alive of 513 bytes"):
        BlockReader().feed(number(0xFFFFFFFF) + number(MAX_KEEPALIVE_SIZE + 1))


def test_text_is_refused_at_the_eighth_byte() -> None:
    reader = BlockReader()

    assert reader.feed(b"HTTP/1.") == []
    with pytest.raises(RemoteProtocolError):
        reader.feed(b"1")


def test_a_reader_that_raised_takes_nothing_any_more() -> None:
    reader = BlockReader()
    with pytest.raises(RemoteProtocolError):
        reader.feed(b"HTTP/1.1")

    with pytest.raises(LocalProtocolError):
        reader.feed(VECTORS["two-blocks"])


def test_a_batch_without_end_holds_no_more_than_one_block() -> None:
    reader = BlockReader()
    reader.feed(number(0xFFFFFFFE))

    for _ in range(300):
        assert reader.feed(number(14) + A) == [A]
    assert reader.batch_count == 0
    assert len(reader._held) == 0


@pytest.mark.parametrize("size", [0, 13, 1601])
def test_a_frame_of_a_wrong_size_is_not_encoded(size: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"a frame of {size} bytes"):
        encode_batch([bytes(size)])


def test_a_filler_over_the_limit_is_not_encoded() -> None:
    with pytest.raises(LocalProtocolError):
        encode_keepalive(bytes(MAX_KEEPALIVE_SIZE + 1))


def test_the_readers_result_does_not_share_the_callers_buffer() -> None:
    buffer = bytearray(VECTORS["two-blocks"])
    result = BlockReader().feed(memoryview(buffer))
    buffer[:] = bytes(len(buffer))

    assert result == [A, B]


@given(frames)
def test_what_was_encoded_is_read_back(sent: list[bytes]) -> None:
    assert BlockReader().feed(encode_batch(sent)) == sent


@given(st.lists(items, max_size=5), st.data())
def test_the_result_does_not_depend_on_the_cuts(
    stream_items: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(stream_items)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    whole, pieces = BlockReader(), BlockReader()

    expected = whole.feed(stream)
    got = [
        frame
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for frame in pieces.feed(stream[start:end])
    ]

    assert got == expected
    assert (whole.batch_count, whole.keepalive_count) == (
        pieces.batch_count,
        pieces.keepalive_count,
    )


def test_byte_by_byte_gives_the_same() -> None:
    reader = BlockReader()
    stream = (
        VECTORS["keepalive-of-three"] + VECTORS["two-blocks"] + VECTORS["empty-block"]
    )

    assert [frame for byte in stream for frame in reader.feed(bytes([byte]))] == [
        A,
        B,
        C,
    ]


def test_the_begin_of_a_further_item_changes_nothing() -> None:
    assert BlockReader().feed(VECTORS["two-blocks"] + VECTORS["two-blocks"][:30]) == [
        A,
        B,
        A,
    ]
