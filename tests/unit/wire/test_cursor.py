# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sevpn.errors import RemoteProtocolError
from sevpn.wire.cursor import Reader, Writer


def test_numbers_are_big_endian() -> None:
    writer = Writer()
    writer.u32(1)
    writer.u64(2)
    writer.put(b"xy")

    assert writer.joined() == b"\0\0\0\1" + b"\0\0\0\0\0\0\0\2" + b"xy"


def test_a_reader_counts_down_what_remains() -> None:
    reader = Reader(b"\0\0\0\7abc", what="thing")

    assert reader.u32("a number") == 7
    assert reader.remaining == 3
    assert reader.take(3, "a tail") == b"abc"
    assert reader.remaining == 0
    assert reader.take(0, "nothing") == b""


def test_a_length_beyond_the_end_is_refused_and_reads_nothing() -> None:
    reader = Reader(b"abc", what="thing")

    with pytest.raises(
        RemoteProtocolError,
        match="the thing ends inside a tail: 4294967295 bytes are announced, 3 are there",
    ):
        reader.take(0xFFFFFFFF, "a tail")
    assert reader.take(3, "a tail") == b"abc"


def test_what_was_taken_does_not_change_with_the_buffer() -> None:
    buffer = bytearray(b"abcd")
    taken = Reader(buffer, what="thing").take(4, "it")
    buffer[:] = b"wxyz"

    assert taken == b"abcd"


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary())
def test_what_is_written_is_read_back(small: int, large: int, rest: bytes) -> None:
    writer = Writer()
    writer.u32(small)
    writer.u64(large)
    writer.put(rest)
    reader = Reader(writer.joined(), what="thing")

    assert reader.u32("a number") == small
    assert reader.u64("a number") == large
    assert reader.take(reader.remaining, "the rest") == rest
