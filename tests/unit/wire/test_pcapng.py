# SPDX-License-Identifier: Apache-2.0
"""Captures, as scapy reads them."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given, strategies as st
from scapy.utils import rdpcap

from sevpn.wire.pcapng import SNAP_SIZE, pcapng_head, pcapng_packet


@given(
    st.lists(st.binary(min_size=14, max_size=2000), max_size=4),
    st.integers(0, 2**32),
    st.text(max_size=20),
)
def test_a_capture_is_read_as_it_was_written(
    frames: list[bytes], second: int, name: str
) -> None:
    data = pcapng_head(name, "sevpn") + b"".join(
        pcapng_packet(frame, at_s=second + 0.5) for frame in frames
    )

    read = rdpcap(BytesIO(data))

    assert [bytes(frame) for frame in read] == frames
    assert [float(frame.time) for frame in read] == pytest.approx(
        [second + 0.5] * len(frames)
    )


def test_a_frame_that_is_too_large_is_cut_and_its_size_told() -> None:
    block = pcapng_packet(bytes(SNAP_SIZE + 9), at_s=0.0)

    assert int.from_bytes(block[20:24], "little") == SNAP_SIZE
    assert int.from_bytes(block[24:28], "little") == SNAP_SIZE + 9
