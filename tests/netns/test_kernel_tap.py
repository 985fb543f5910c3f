# SPDX-License-Identifier: Apache-2.0
"""The kernel of the data path against the host's own stack, which merges and cuts as well.

    in0 ── bridge ── out0

What is written to one TAP comes out of the other. A TAP without offloads gets
super-segments cut by the host; one with offloads gets them as they are.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import platform
import socket
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import pytest

from kernel_forms import Form, each_form
from kernel_packets import ACK, ECE, PSH, Segment, frames_of, run_of
from kernel_traffic import assert_same_traffic
from scapy_oracle import UDP, Ether
from sevpn.net.tap import Tap, open_tap
from sevpn.testing.sandbox import ip, sandboxed

pytestmark = pytest.mark.netns

SOURCE: Final = Segment().source
ALL: Final = 1 << 30


@contextlib.contextmanager
def bridged(*, offload: bool) -> Iterator[tuple[Tap, Tap]]:
    """Give two TAPs on a bridge, the first with offloads."""
    ip("link add bridge0 type bridge")
    with contextlib.ExitStack() as stack:
        taps = []
        for name, has_header in (("in0", True), ("out0", offload)):
            tap = open_tap(name, offload=has_header)
            stack.callback(tap.close)
            assert tap.has_header == has_header, tap.notices
            ip(f"link set {name} addrgenmode none master bridge0 up")
            tap.set_carrier(True)
            taps.append(tap)
        ip("link set bridge0 addrgenmode none up")
        wait_until_bridged(*taps)
        yield taps[0], taps[1]


def wait_until_bridged(first: Tap, second: Tap) -> None:
    """Wait until frames pass: the bridge learns of a carrier some milliseconds later."""
    until = time.monotonic() + 5
    mark = b"\xff" * 6 + bytes.fromhex("5e0000000009") + b"\x88\xb5" + bytes(46)
    while True:
        first.write(mark)
        time.sleep(0.02)
        packet = _read(second)
        while packet is not None:
            if packet.endswith(mark):
                return
            packet = _read(second)
        assert time.monotonic() < until, "the bridge passes nothing"


def _read(tap: Tap) -> bytes | None:
    try:
        return os.read(tap.fileno(), 1 << 17)
    except BlockingIOError:
        return None


def merge(form: Form, tap: Tap, frames: Sequence[bytes]) -> int:
    """Write frames to a TAP; return how many system calls that took."""
    merger = form.merger(tap.fileno(), has_header=True)
    starts = array("i", itertools.accumulate(map(len, frames), initial=0))
    sizes = array("i", map(len, frames))
    taken = merger.write(bytearray().join(frames), starts, sizes, 0, len(frames))
    assert taken == len(frames), merger.losses()
    return int(merger.write_count)


def traffic() -> list[bytes]:
    """Some flows, and what may end a run."""
    runs = [
        run_of(30, size=1448, options=b"\x01\x01\x08\x0a\0\0\0\1\0\0\0\2"),
        run_of(30, flow=2, version=6, size=1428, label=9, tos=2),
        run_of(30, flow=3, size=500, fragment=0, identification=0xFFF0),
        run_of(30, flow=4, size=1000, flags=ACK | ECE, sequence=0xFFFFF000),
        run_of(30, flow=5, size=7, step=0),
    ]
    runs[0][11] = replace(runs[0][11], flags=ACK | PSH)
    runs[1][7] = replace(runs[1][7], tcp_error=1)
    runs[2][20] = replace(runs[2][20], size=0, ack=99)
    segments = itertools.chain(*zip(*runs, strict=True))
    return [segment.frame() for segment in segments]


def gather(read: Callable[[], Sequence[bytes]], count: int) -> list[bytes]:
    """Read until so many frames of ours have come; leave out what the host says of itself."""
    until = time.monotonic() + 5
    frames: list[bytes] = []
    while len(frames) < count and time.monotonic() < until:
        found = read()
        frames += [frame for frame in found if frame[6:12] == SOURCE]
        if not any(found):
            time.sleep(0.005)
    return frames


@each_form
@sandboxed
def test_the_host_cuts_what_was_merged_into_what_it_was(form: Form) -> None:
    frames = traffic()
    with bridged(offload=False) as (first, second):
        writes = merge(form, first, frames)
        received = gather(lambda: [_read(second) or b""], len(frames))

    assert writes < len(frames) / 8
    # As which frame of its write one came the host does not say.
    indexed = [(frame, _index_of(frame, frames)) for frame in received]
    assert_same_traffic(frames, indexed)


def _index_of(frame: bytes, sent: Sequence[bytes]) -> int:
    """Return how far the identification is from what it was; -1: the frame is what it was."""
    if frame in sent:
        return -1
    same = next(one for one in sent if one[26:50] == frame[26:50])
    return int.from_bytes(frame[18:20], "big") - int.from_bytes(same[18:20], "big")


@each_form
@sandboxed
def test_what_was_merged_crosses_the_host_whole_and_is_cut_here(form: Form) -> None:
    frames = traffic()
    with bridged(offload=True) as (first, second):
        merge(form, first, frames)
        cutter = form.cutter(second.fileno(), has_header=True)

        def collect() -> list[bytes]:
            groups = cutter.collect(ALL, ALL, 1, has_priority=False)
            return frames_of(cutter.out, groups)

        received = gather(collect, len(frames))

    indexed = [(frame, _index_of(frame, frames)) for frame in received]
    assert_same_traffic(frames, indexed)


@each_form
@sandboxed
def test_datagrams_that_the_host_leaves_together_are_cut_here(form: Form) -> None:
    """UDP segmentation: from Linux 6.2 on; an older one cuts them itself."""
    tap = open_tap("uso0", offload=True)
    ip("link set uso0 addrgenmode none up")
    ip("address add 10.9.0.1/24 dev uso0")
    ip("neigh replace 10.9.0.2 lladdr 5e:00:00:00:00:02 dev uso0 nud permanent")
    tap.set_carrier(True)
    data = bytes(range(250)) * 18
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT
        sock.bind(("10.9.0.1", 5000))

        whole: list[bytes] = []
        until = time.monotonic() + 5
        while not whole and time.monotonic() < until:  # the carrier is a moment old
            sock.sendto(data, ("10.9.0.2", 6000))
            whole = gather_datagrams(
                lambda: [_read(tap) or b""], bytes_wanted=len(data), within_s=0.5
            )
        while _read(tap) is not None:
            pass
        sock.sendto(data, ("10.9.0.2", 6000))
        cutter = form.cutter(tap.fileno(), has_header=True)
        frames = gather_datagrams(
            lambda: frames_of(
                cutter.out, cutter.collect(ALL, ALL, 1, has_priority=False)
            ),
            bytes_wanted=len(data),
        )
    tap.close()

    if tuple(map(int, platform.release().split(".")[:2])) >= (6, 2):
        # VIRTIO_NET_HDR_GSO_UDP_L4
        assert {packet[1] & 0x7F for packet in whole} == {5}
    assert [len(frame) - 42 for frame in frames] == [1000] * 4 + [500]
    assert b"".join(frame[42:] for frame in frames) == data
    for frame in frames:
        packet = Ether(frame)
        said = packet[UDP].chksum
        del packet[UDP].chksum
        assert Ether(bytes(packet))[UDP].chksum == said


def gather_datagrams(
    read: Callable[[], Sequence[bytes]], *, bytes_wanted: int, within_s: float = 5.0
) -> list[bytes]:
    """Read until so much payload of UDP port 6000 has come."""
    until = time.monotonic() + within_s
    found: list[bytes] = []
    while sum(map(len, found)) < bytes_wanted and time.monotonic() < until:
        found += [data for data in read() if b"\x13\x88\x17\x70" in data[:60]]
    return found


@each_form
@sandboxed
def test_a_tap_that_is_down_or_gone_loses_what_it_is_given_and_says_why(
    form: Form,
) -> None:
    frames = [segment.frame() for segment in run_of(3)]
    tap = open_tap("gone0", offload=True)
    try:
        merger = form.merger(tap.fileno(), has_header=True)
        tables = array("i", [0]), array("i", [len(frames[0])])
        assert merger.write(bytearray(frames[0]), *tables, 0, 1) == 0
        assert merger.losses() == {errno.EIO: 1}

        ip("link delete gone0")

        assert merger.write(bytearray(frames[0]), *tables, 0, 1) == 0
        assert merger.losses() == {errno.EBADFD: 1}
        with pytest.raises(OSError, match="the TAP cannot be read") as caught:
            form.cutter(tap.fileno(), has_header=True).collect(
                ALL, ALL, 1, has_priority=False
            )
        assert caught.value.errno == errno.EBADFD
    finally:
        tap.close()
