# SPDX-License-Identifier: Apache-2.0
"""A session that compresses: the pump, in both forms of the frame path, and its far end."""

from __future__ import annotations

import os
import time
import zlib

import pytest

from integration.test_pump_frames import arp_frame, tcp_frame
from sevpn.errors import ConnectionLostError, RemoteProtocolError
from sevpn.testing.rig import FarEnd, PumpRig
from sevpn.wire.block import BlockReader, encode_batch
from sevpn.wire.deflate import Inflater, deflate_items

pytestmark = pytest.mark.usefixtures("kernel")


class DeflatedEnd:
    """The far end of a compressed connection."""

    def __init__(self, far: FarEnd) -> None:
        self.far = far
        self._inflater = Inflater()
        self._plain = b""

    def frames(self, count: int) -> list[bytes]:
        """Return the next frames, keep-alives skipped."""
        frames: list[bytes] = []
        while len(frames) < count:
            frames += self._cut()
            if len(frames) < count:
                self._plain += self._inflater.feed(self.far.socket.recv(65536))
        return frames

    def _cut(self) -> list[bytes]:
        plain, self._plain = self._plain, b""
        return BlockReader().feed(plain)


def test_each_frame_of_the_host_goes_out_deflated() -> None:
    frame = tcp_frame(1, size=1514)
    with PumpRig() as rig:
        far = rig.attach(is_compressed=True)
        rig.port.host_sends(frame)
        received = b""
        while len(received) < 8:
            received += far.socket.recv(65536)
        while received[:4] == b"\xff" * 4:  # the first keep-alive
            received = received[8 + int.from_bytes(received[4:8], "big") :]
            received += b"" if len(received) > 8 else far.socket.recv(65536)

        assert received[:4] == bytes((0, 0, 0, 1))
        assert zlib.decompress(received[8:]) == frame
        assert rig.counters.outbound_bytes == len(frame)


def test_a_flood_passes_both_ways_whole_and_in_order() -> None:
    sent = [
        tcp_frame(number, size=60 + number % 700) + os.urandom(number % 700)
        for number in range(1000)
    ]
    with PumpRig() as rig:
        far = rig.attach(is_compressed=True)
        end = DeflatedEnd(far)
        got_out, got_in = [], []
        for begin in range(0, len(sent), 50):
            piece = sent[begin : begin + 50]
            rig.port.host_sends(*piece)
            got_out += end.frames(len(piece))
            far.send(deflate_items(encode_batch(piece)))
            got_in += [rig.port.host_receives() for _ in piece]

        assert got_out == sent
        assert got_in == sent


def test_what_inflates_to_more_than_a_read_takes_is_not_left_behind() -> None:
    # 16 KiB of these inflate to more than a megabyte, and no more bytes will come.
    frames = [tcp_frame(number, size=1514) for number in range(100)]
    with PumpRig() as rig:
        far = rig.attach(is_compressed=True)
        far.send(deflate_items(encode_batch(frames)))

        # The twin of the TAP has no room for all of them, so that they are counted.
        deadline = time.monotonic() + 5
        while rig.counters.inbound_frames < len(frames) and time.monotonic() < deadline:
            rig.turn()
        assert rig.counters.inbound_frames == len(frames)


def test_what_came_with_the_welcome_is_inflated_too() -> None:
    stream = deflate_items(encode_batch([tcp_frame(1), tcp_frame(2)]))
    with PumpRig() as rig:
        far = rig.attach(leftover=stream[:30], is_compressed=True)
        far.send(stream[30:])

        assert [rig.port.host_receives() for _ in range(2)] == [
            tcp_frame(1),
            tcp_frame(2),
        ]


def test_control_sees_its_frames_and_a_further_connection_compresses_too() -> None:
    with PumpRig() as rig:
        rig.pump.sieve.is_proving = True
        rig.attach(is_compressed=True)
        second = rig.add()
        second.send(deflate_items(encode_batch([arp_frame()])))

        assert rig.handed_frames() == [arp_frame()]


@pytest.mark.parametrize(
    "block", [tcp_frame(7), zlib.compress(bytes(2_000_000), 9)], ids=["raw", "bomb"]
)
def test_a_block_that_is_no_frame_is_skipped_and_the_session_lives(
    block: bytes,
) -> None:
    bad = bytes((0, 0, 0, 1)) + len(block).to_bytes(4, "big") + block
    with PumpRig() as rig:
        far = rig.attach(is_compressed=True)
        far.send(bad + deflate_items(encode_batch([tcp_frame(8)])))

        assert rig.port.host_receives() == tcp_frame(8)
        assert rig.lost.empty()


def test_a_size_over_its_limit_ends_the_session() -> None:
    with PumpRig() as rig:
        far = rig.attach(is_compressed=True)
        far.send(b"HTTP/1.1 200 OK\r\n\r\n")

        assert isinstance(rig.lost_error(), RemoteProtocolError)


def test_frames_before_an_end_are_not_lost_by_it() -> None:
    frames = [tcp_frame(1), tcp_frame(2)]
    with PumpRig() as rig:
        far = rig.attach(is_compressed=True)
        far.send(deflate_items(encode_batch(frames)))
        far.socket.close()

        assert [rig.port.host_receives() for _ in frames] == frames
        assert isinstance(rig.lost_error(), ConnectionLostError)
