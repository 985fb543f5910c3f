# SPDX-License-Identifier: Apache-2.0
"""Inner packets of UDP acceleration, in both forms of the kernel, beside the wire's own."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from kernel_forms import Form, each_form
from sevpn.wire.accel import Inner, encode_head, encode_inner
from sevpn.wire.block import encode_batch

HEAD = encode_head(7, 8, 9)

batches = st.lists(
    st.lists(st.binary(min_size=14, max_size=300), max_size=5), max_size=4
)


@each_form
@given(batches=batches, limit=st.integers(13, 301))
def test_what_fits_is_wrapped_and_the_rest_is_left(
    form: Form, batches: list[list[bytes]], limit: int
) -> None:
    whole = b"".join(encode_batch(frames) for frames in batches)
    frames = [frame for batch in batches for frame in batch]

    fitting, others = form.wrap_frames(whole, HEAD, limit)

    assert fitting == [
        encode_inner(Inner(7, 8, 9, frame)) for frame in frames if len(frame) <= limit
    ]
    assert others == [frame for frame in frames if len(frame) > limit]


@each_form
def test_of_nothing_there_is_nothing(form: Form) -> None:
    assert form.wrap_frames(b"", HEAD, 1400) == ([], [])


@each_form
def test_the_largest_frame_is_wrapped(form: Form) -> None:
    frame = bytes(range(256)) * 6 + bytes(64)

    fitting, others = form.wrap_frames(encode_batch([frame]), HEAD, 1600)

    assert (fitting, others) == ([encode_inner(Inner(7, 8, 9, frame))], [])


@each_form
def test_a_batch_that_ends_early_is_refused_wherever_it_ends(form: Form) -> None:
    whole = encode_batch([bytes(20), bytes(14)])

    for size in range(1, len(whole)):
        with pytest.raises(AssertionError, match="ends early"):
            form.wrap_frames(whole[:size], HEAD, 1400)
