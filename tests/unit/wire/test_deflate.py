# SPDX-License-Identifier: Apache-2.0
"""Compressed blocks: both directions, hostile ones, and what they may cost."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest
from hypothesis import given, strategies as st

from sevpn.errors import LocalProtocolError, RemoteProtocolError
from sevpn.wire.block import (
    EMPTY_BATCH,
    BlockReader,
    encode_batch,
    encode_keepalive,
)
from sevpn.wire.deflate import Inflater, deflate_items, inflate_frame

FRAME = bytes(range(256)) * 6


def block(content: bytes) -> bytes:
    """Return a batch of one block."""
    return bytes((0, 0, 0, 1)) + len(content).to_bytes(4, "big") + content


frames = st.lists(st.binary(min_size=14, max_size=1600), max_size=6)


@given(st.lists(frames, max_size=4), st.data())
def test_what_is_deflated_comes_back_wherever_it_is_cut(
    batches: list[list[bytes]], data: st.DataObject
) -> None:
    items = b"".join(
        part
        for number, batch in enumerate(batches)
        for part in (encode_batch(batch), encode_keepalive(bytes(number)))
    )
    stream = deflate_items(items)
    cut = data.draw(st.integers(0, len(stream)))
    inflater = Inflater()

    assert inflater.feed(stream[:cut]) + inflater.feed(stream[cut:]) == items
    assert inflater.dropped_count == 0


def test_a_stream_that_comes_byte_by_byte_is_read_like_a_whole_one() -> None:
    items = encode_batch([FRAME, bytes(60)]) + encode_keepalive(b"xyz") + EMPTY_BATCH
    inflater = Inflater()

    read = [inflater.feed(bytes((octet,))) for octet in deflate_items(items)]

    assert b"".join(read) == items


def test_keep_alives_and_counts_stay_as_they_are() -> None:
    items = encode_keepalive(b"filler") + EMPTY_BATCH

    assert deflate_items(items) == items


def test_each_frame_is_a_zlib_stream_of_its_own() -> None:
    stream = deflate_items(encode_batch([FRAME, FRAME]))
    size = int.from_bytes(stream[4:8], "big")

    assert stream[:4] == bytes((0, 0, 0, 2))
    assert zlib.decompress(stream[8 : 8 + size]) == FRAME
    assert zlib.decompress(stream[12 + size :]) == FRAME


def test_the_largest_frame_fits_into_a_block_however_random_it_is() -> None:
    frame = zlib.compress(bytes(range(256)) * 40, 9) * 40

    stream = deflate_items(encode_batch([frame[:1600]]))

    assert len(stream) < 1640
    assert inflate_frame(stream[8:]) == frame[:1600]


@pytest.mark.parametrize("level", range(10))
@pytest.mark.parametrize("window", [9, 12, 15])
def test_a_stream_of_any_level_and_window_is_inflated(level: int, window: int) -> None:
    machine = zlib.compressobj(level, zlib.DEFLATED, window)

    assert inflate_frame(machine.compress(FRAME) + machine.flush()) == FRAME


def test_what_an_official_program_sends_is_inflated() -> None:
    # compress2() of its level: docs/reference/protocol-data.md#compression.
    assert zlib.compress(FRAME, 6)[:2] == b"\x78\x9c"
    assert inflate_frame(zlib.compress(FRAME, 6)) == FRAME


@pytest.mark.parametrize(
    "content",
    [
        FRAME,
        b"\x78\x9c",
        zlib.compress(FRAME)[:-1],
        zlib.compress(FRAME)[:-4] + bytes(4),
        zlib.compress(bytes(1601)),
        zlib.compress(bytes(3_000_000), 9)[:3200],
    ],
    ids=["raw", "head", "cut", "checksum", "too-long", "bomb"],
)
def test_a_block_that_holds_no_frame_becomes_an_empty_one(content: bytes) -> None:
    inflater = Inflater()

    assert inflater.feed(block(content) + deflate_items(encode_batch([FRAME]))) == (
        block(b"") + encode_batch([FRAME])
    )
    assert inflater.dropped_count == 1


def test_an_empty_block_is_no_loss() -> None:
    inflater = Inflater()

    assert inflater.feed(block(b"")) == block(b"")
    assert deflate_items(block(b"")) == block(b"")
    assert inflater.dropped_count == 0


def test_a_bomb_costs_no_more_than_a_frame() -> None:
    bomb = zlib.compress(bytes(3_000_000), 9)
    assert len(bomb) <= 3200
    stream = bytes((0, 0, 0, 100)) + block(bomb)[4:] * 100
    inflater = Inflater()
    inflater.feed(block(bomb))

    tracemalloc.start()
    plain = inflater.feed(stream)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert plain == bytes((0, 0, 0, 100)) + bytes(400)
    assert inflater.dropped_count == 101
    assert peak < 4 * len(stream)


def test_what_a_chunk_inflates_to_is_bounded() -> None:
    stream = deflate_items(encode_batch([bytes(1600)] * 128))

    assert len(Inflater().feed(stream)) < 80 * len(stream)


@pytest.mark.parametrize(
    "stream",
    [
        bytes.fromhex("00000001 00000c81"),
        bytes.fromhex("ffffffff 00000201"),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
def test_a_size_over_its_limit_is_refused_before_it_is_held(stream: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="was announced"):
        Inflater().feed(stream)


@given(st.binary(max_size=4000))
def test_any_bytes_are_items_or_an_error(stream: bytes) -> None:
    reader = BlockReader()
    try:
        plain = Inflater().feed(stream)
    except RemoteProtocolError:
        return
    reader.feed(plain)


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_items_that_are_not_whole_are_a_bug_of_the_caller(cut: int) -> None:
    with pytest.raises(LocalProtocolError):
        deflate_items(encode_batch([bytes(60)])[:-cut])


def test_half_a_keep_alive_is_a_bug_of_the_caller() -> None:
    with pytest.raises(LocalProtocolError):
        deflate_items(encode_keepalive(b"abc")[:-1])
    with pytest.raises(LocalProtocolError):
        deflate_items(bytes((0, 0, 0, 2)))
