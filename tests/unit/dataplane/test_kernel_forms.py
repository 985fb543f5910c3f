# SPDX-License-Identifier: Apache-2.0
"""The compiled and the interpreted kernel do the same with the same random traffic, valid or not."""

from __future__ import annotations

from array import array
from typing import Any

from hypothesis import given, settings, strategies as st

from kernel_forms import Form, both_forms
from kernel_packets import NO_OFFLOAD, Segment, Tap, frames_of, payload_at, virtio
from kernel_traffic import damaged, traffic
from sevpn.dataplane.kernel.cut import Cutter, Group
from sevpn.dataplane.kernel.scan import BlockState, Scanner
from sevpn.errors import RemoteProtocolError

ALL = 1 << 30

# --- cut ---------------------------------------------------------------------


def state_of(cutter: Cutter, groups: list[Group]) -> tuple[Any, ...]:
    """Everything that a cutter says of its last collection."""
    end = groups[-1][2] if groups else 0
    return (
        groups,
        bytes(cutter.out[:end]),
        cutter.frame_count,
        cutter.frame_bytes,
        bool(cutter.is_drained),
        cutter.dropped_runts,
        cutter.dropped_oversized,
        cutter.dropped_malformed,
        cutter.dropped_standing,
        bool(cutter.sheds),
    )


segments = st.builds(
    Segment,
    version=st.sampled_from([4, 6]),
    flow=st.integers(0, 5),
    sequence=st.sampled_from([0, 1000, 0xFFFFFFF0]),
    size=st.one_of(st.integers(0, 200), st.sampled_from([1448, 3000, 20000, 60000])),
    flags=st.integers(0, 255),
    options=st.sampled_from([b"", bytes(4), bytes(40)]),
    tos=st.sampled_from([0, 8, 16]),
    identification=st.sampled_from([0, 0xFFFF]),
    fragment=st.sampled_from([0, 0x4000, 0x2000, 5]),
    ip_options=st.sampled_from([b"", b"", b"\x01" * 40]),
    extension=st.sampled_from([b"", b"", b"\0\1\4\0\0\0\0"]),
    tags=st.sampled_from([(), (), (1,), (1, 2)]),
    padding=st.sampled_from([b"", bytes(6)]),
)


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """What a TAP may hand over: most of it makes sense."""
    segment = draw(segments)
    frame = segment.frame()
    if draw(st.integers(0, 3)) == 0:
        frame = draw(damaged(frame))
    start = len(frame) - len(segment.padding) - segment.size - len(segment.options) - 20
    head = virtio(
        draw(st.sampled_from([1, 1, 1, 0])),
        draw(st.sampled_from([0, 1, 4, 5, 0x81, 0x84, 3])),
        start & 0xFFFF,
        draw(st.sampled_from([0, 1, 50, 1400, 1448, 1600, 65535])),
        draw(st.sampled_from([start & 0xFFFF] * 6 + [0, 34, 65535])),
        draw(st.sampled_from([16, 16, 16, 6, 0, 65535])),
    )
    return (head + frame)[: draw(st.sampled_from([70000] * 8 + [9, 60]))]


@both_forms
@settings(max_examples=60)
@given(
    found=st.lists(packets(), max_size=3),
    slots=st.sampled_from([1, 1, 2, 8, 32]),
    has_priority=st.booleans(),
    limit=st.sampled_from([ALL, ALL, 1, 50]),
    sheds=st.booleans(),
)
def test_both_forms_cut_alike(  # noqa: PLR0917 - hypothesis hands them over
    one: Form,
    other: Form,
    found: list[bytes],
    slots: int,
    has_priority: bool,
    limit: int,
    sheds: bool,
) -> None:
    states = []
    for form in (one, other):
        with Tap() as tap:
            tap.send(found)
            cutter = form.cutter(tap.descriptor, has_header=True)
            cutter.sheds = sheds
            states.append(
                [
                    state_of(cutter, cutter.collect(limit, ALL, slots, has_priority))
                    for _ in range(2)
                ]
            )
            groups = cutter.collect(ALL, ALL, slots, has_priority)
            states[-1].append(state_of(cutter, groups))
            frames_of(cutter.out, groups)

    assert states[0] == states[1]


@both_forms
@settings(max_examples=20)
@given(frames=traffic())
def test_both_forms_give_a_flow_the_same_slot(
    one: Form, other: Form, frames: list[bytes]
) -> None:
    states = []
    for form in (one, other):
        with Tap() as tap:
            tap.send([NO_OFFLOAD + frame for frame in frames])
            cutter = form.cutter(tap.descriptor, has_header=True)
            states.append(state_of(cutter, cutter.collect(ALL, ALL, 7, True)))  # noqa: FBT003 - C's

    assert states[0] == states[1]


# --- scan --------------------------------------------------------------------


def state_of_scan(scanner: Scanner, state: BlockState, error: str) -> tuple[Any, ...]:
    """Everything that a scanner says of a chunk, and its list of second looks."""
    before = (
        error,
        scanner.frame_count,
        scanner.frame_bytes,
        bool(scanner.has_items),
        bool(scanner.has_full_batch),
        scanner.dropped_runts,
        scanner.dropped_oversized,
        list(scanner.starts[: scanner.frame_count]),
        list(scanner.sizes[: scanner.frame_count]),
        state.blocks_left,
        state.tail_size,
        bytes(state.tail[: state.tail_size]),
    )
    taken = [bytes(view) for view in scanner.sift()]
    count = scanner.frame_count
    return (
        before,
        taken,
        count,
        list(scanner.starts[:count]),
        list(scanner.sizes[:count]),
    )


numbers = st.one_of(
    st.integers(0, 40),
    st.sampled_from([127, 128, 129, 512, 513, 1600, 1601, 3200, 3201, 0xFFFFFFFF, 0xFFFFFFFE]),
).map(lambda value: value.to_bytes(4, "big"))  # fmt: skip


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Batches, and what may be wrong with them."""
    parts = []
    for _ in range(draw(st.integers(0, 4))):
        frames = draw(traffic(most=40))
        parts.append(draw(st.one_of(st.just(len(frames).to_bytes(4, "big")), numbers)))
        parts += [len(frame).to_bytes(4, "big") + frame for frame in frames]
        parts.append(draw(st.one_of(st.just(b""), numbers, st.binary(max_size=30))))
    return b"".join(parts)


@both_forms
@settings(max_examples=30)
@given(stream=streams(), step=st.one_of(st.integers(1, 100), st.integers(1, 20000)))
def test_both_forms_scan_alike(
    one: Form, other: Form, stream: bytes, step: int
) -> None:
    states: list[list[Any]] = []
    for form in (one, other):
        scanner = form.scanner()
        state = form.block_state()
        said = []
        for at in range(0, min(len(stream), step * 200), step):
            chunk = stream[at : at + step]
            scanner.room(state)[: len(chunk)] = chunk
            error = ""
            try:
                scanner.scan(state, len(chunk))
            except RemoteProtocolError as caught:
                error = str(caught)
            said.append(state_of_scan(scanner, state, error))
            if error:
                break
        states.append(said)

    assert states[0] == states[1]


# --- merge -------------------------------------------------------------------


@both_forms
@settings(max_examples=60)
@given(frames=traffic(), has_header=st.booleans())
def test_both_forms_merge_alike(
    one: Form, other: Form, frames: list[bytes], has_header: bool
) -> None:
    arena = bytearray().join(frames) or bytearray(1)
    starts, sizes = array("i", [0]), array("i")
    for frame in frames:
        sizes.append(len(frame))
        starts.append(starts[-1] + len(frame))
    sizes.append(0)
    states = []
    for form in (one, other):
        with Tap() as tap:
            merger = form.merger(tap.descriptor, has_header=has_header)
            half = len(frames) // 2
            said: list[Any] = []
            for first, count in ((0, half), (half, len(frames) - half)):
                taken = merger.write(arena, starts, sizes, first, count)
                said += [taken, merger.write_count, merger.lost_count, merger.losses()]
            states.append((said, tap.received()))

    assert states[0] == states[1]


@both_forms
def test_both_forms_cut_the_largest_packets_alike(one: Form, other: Form) -> None:
    segment = Segment(size=65535 - 40)
    packet = virtio(1, 1, 54, 1448, 34, 16) + segment.frame()
    states = []
    for form in (one, other):
        cutter = form.cutter(-1, has_header=True)
        states.append(state_of(cutter, cutter.cut(packet)))

    assert states[0] == states[1]
    assert states[0][2] == 46
    assert states[0][1].endswith(payload_at(segment.sequence, 65495)[-335:])
