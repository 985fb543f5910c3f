# SPDX-License-Identifier: Apache-2.0
"""How frames flow through the pump; the test plays the host and the server."""

from __future__ import annotations

import contextlib
import errno
import time

import pytest

from sevpn.errors import LocalProtocolError
from sevpn.testing.clock import VirtualClock
from sevpn.testing.memory import MemoryPort
from sevpn.testing.rig import OUR_MAC, PumpRig
from sevpn.wire.block import EMPTY_BATCH, BlockReader, encode_batch

pytestmark = pytest.mark.usefixtures("kernel")

HUB_MAC = bytes.fromhex("00ae11223344")
PEER_MAC = bytes.fromhex("5e0000000002")


def tcp_frame(number: int, *, size: int = 60) -> bytes:
    head = OUR_MAC.octets + PEER_MAC + b"\x08\x00\x45" + bytes(8) + b"\x06" + bytes(10)
    return head + number.to_bytes(4, "big") + bytes(size - len(head) - 4)


def arp_frame(source: bytes = PEER_MAC, number: int = 0) -> bytes:
    return b"\xff" * 6 + source + b"\x08\x06" + bytes(24) + number.to_bytes(4, "big")


def test_a_single_frame_of_the_host_goes_out_at_once() -> None:
    with PumpRig() as rig:
        far = rig.attach()
        rig.port.host_sends(tcp_frame(1))

        assert far.frames(1) == [tcp_frame(1)]


def test_a_single_frame_waits_for_no_clock() -> None:
    """There is no moment for which a frame is kept: time stands still here."""
    with PumpRig(clock=lambda: 1000.0) as rig:
        far = rig.attach()
        for number in range(3):
            rig.port.host_sends(tcp_frame(number))

            assert far.frames(1) == [tcp_frame(number)]


def test_a_hundred_acknowledgements_at_once_are_a_turn_or_two() -> None:
    turns = 0

    def clock() -> float:
        nonlocal turns
        turns += 1
        return time.monotonic()

    acknowledgements = [tcp_frame(number, size=66) for number in range(100)]
    with PumpRig(clock=clock) as rig:
        far = rig.attach()
        far.keepalives(1)
        rig.turn()
        before = turns
        far.send(encode_batch(acknowledgements))

        assert [rig.port.host_receives() for _ in range(100)] == acknowledgements
        # Two looks at the clock for each turn.
        assert turns - before <= 10


def test_frames_of_the_host_arrive_whole_and_in_order() -> None:
    sent = [tcp_frame(number, size=60 + number % 1455) for number in range(3000)]
    with PumpRig() as rig:
        far = rig.attach()
        got = []
        for begin in range(0, len(sent), 100):
            rig.port.host_sends(*sent[begin : begin + 100])
            got += far.frames(100)

        assert got == sent
        assert rig.counters.outbound_frames == len(sent)
        assert rig.counters.outbound_bytes == sum(map(len, sent))


def test_no_batch_is_longer_than_a_turn_of_the_server() -> None:
    frames = [tcp_frame(number) for number in range(200)]
    with PumpRig() as rig:
        rig.pump.sieve.is_open = False
        far = rig.attach()
        far.keepalives(1)
        rig.port.host_sends(*frames)
        rig.pump.sieve.is_open = True

        counts: list[int] = []
        got = b""
        while sum(counts) < len(frames):
            got += far.socket.recv(65536)
            while len(got) >= 4 and len(got) >= 4 + int.from_bytes(got[:4], "big") * 64:
                counts.append(int.from_bytes(got[:4], "big"))
                got = got[4 + counts[-1] * 64 :]

    assert counts == [128, 72]


def test_frames_of_the_hub_arrive_whole_and_in_order() -> None:
    sent = [tcp_frame(number, size=60 + number % 1455) for number in range(1000)]
    with PumpRig() as rig:
        far = rig.attach()
        got = []
        for begin in range(0, len(sent), 50):
            far.send(encode_batch(sent[begin : begin + 50]))
            got += [rig.port.host_receives() for _ in range(50)]

        assert got == sent
        assert rig.counters.inbound_frames == len(sent)
        assert rig.counters.inbound_bytes == sum(map(len, sent))


@pytest.mark.parametrize("cut", [1, 3, 4, 6, 8, 50, 68, 69, 131])
def test_a_batch_that_is_cut_anywhere_arrives_whole(cut: int) -> None:
    stream = encode_batch([tcp_frame(1), tcp_frame(2)])
    with PumpRig() as rig:
        far = rig.attach()
        far.send(stream[:cut])
        rig.turn()
        far.send(stream[cut:])

        assert [rig.port.host_receives() for _ in range(2)] == [
            tcp_frame(1),
            tcp_frame(2),
        ]


def test_bytes_that_came_with_the_welcome_are_not_lost() -> None:
    stream = encode_batch([tcp_frame(1), tcp_frame(2)])
    with PumpRig() as rig:
        far = rig.attach(leftover=stream[:70])
        far.send(stream[70:])

        assert [rig.port.host_receives() for _ in range(2)] == [
            tcp_frame(1),
            tcp_frame(2),
        ]


def test_bytes_that_came_before_the_pump_watched_are_not_lost() -> None:
    with PumpRig() as rig:
        rig.attach(leftover=encode_batch([tcp_frame(1)]))

        assert rig.port.host_receives() == tcp_frame(1)


# --- the gate ---


def test_behind_a_closed_gate_only_injected_frames_go_out() -> None:
    with PumpRig() as rig:
        rig.pump.sieve.is_open = False
        far = rig.attach()
        rig.port.host_sends(tcp_frame(1))
        rig.pump.inject([tcp_frame(2)])

        assert far.frames(1) == [tcp_frame(2)]
        rig.turn()
        assert rig.counters.outbound_frames == 1

        rig.pump.sieve.is_open = True
        assert far.frames(1) == [tcp_frame(1)]


def test_behind_a_closed_gate_the_host_gets_nothing() -> None:
    with PumpRig() as rig:
        rig.pump.sieve.is_open = False
        far = rig.attach()
        far.send(encode_batch([tcp_frame(1), arp_frame(), tcp_frame(2)]))

        assert rig.handed_frames() == [arp_frame()]
        rig.turn()
        assert rig.counters.dropped_frames == {"not-ready": 2}
        with pytest.raises(TimeoutError):
            rig.port.host_receives(timeout_s=0.01)


def test_a_poll_of_the_hub_is_for_control_alone() -> None:
    with PumpRig() as rig:
        far = rig.attach()
        far.send(encode_batch([arp_frame(HUB_MAC), tcp_frame(1)]))

        assert rig.handed_frames() == [arp_frame(HUB_MAC)]
        assert rig.port.host_receives() == tcp_frame(1)


def test_while_proving_control_sees_what_is_for_us_and_the_host_has_it_too() -> None:
    with PumpRig() as rig:
        rig.pump.sieve.is_proving = True
        far = rig.attach()
        far.send(encode_batch([tcp_frame(1)]))

        assert rig.handed_frames() == [tcp_frame(1)]
        assert rig.port.host_receives() == tcp_frame(1)


def test_a_flood_for_control_is_cut_off_and_counted() -> None:
    frames = [arp_frame(HUB_MAC, number) for number in range(100)]
    with PumpRig() as rig:
        far = rig.attach()
        far.send(encode_batch(frames))

        assert rig.handed_frames() == frames[:64]
        rig.turn()
        assert rig.counters.dropped_frames == {"control-full": 36}


# --- the poke ---


def test_a_full_batch_is_answered_by_an_empty_one() -> None:
    with PumpRig() as rig:
        far = rig.attach()
        far.keepalives(1)
        far.send(encode_batch([tcp_frame(number) for number in range(128)]))

        assert far.socket.recv(100) == EMPTY_BATCH


@pytest.mark.parametrize("count", [1, 31])
def test_a_short_batch_is_not_answered(count: int) -> None:
    with PumpRig() as rig:
        far = rig.attach()
        far.keepalives(1)
        far.send(encode_batch([tcp_frame(number) for number in range(count)]))
        rig.port.host_receives()
        rig.turn()

        assert far.is_quiet()


def test_a_server_that_makes_smaller_batches_is_woken_behind_its_largest() -> None:
    with PumpRig() as rig:
        far = rig.attach()
        far.keepalives(1)
        far.send(encode_batch([tcp_frame(number) for number in range(64)]))
        assert far.socket.recv(100) == EMPTY_BATCH

        far.send(encode_batch([tcp_frame(number) for number in range(63)]))
        rig.turn()
        assert far.is_quiet()


def test_frames_of_the_host_stand_in_for_the_poke() -> None:
    with PumpRig() as rig:
        far = rig.attach()
        far.keepalives(1)
        rig.pump.sieve.is_open = False
        rig.turn()
        rig.pump.inject([tcp_frame(1)])
        far.send(encode_batch([tcp_frame(number) for number in range(128)]))
        far.frames(1)
        rig.turn()

        # Either frame and chunk met in one turn, or the poke came beside the frame.
        assert far.batch_count in {1, 2}


# --- back-pressure ---


def test_a_server_that_does_not_read_stops_the_reading_of_the_tap_and_nothing_is_lost() -> (
    None
):
    frames = [tcp_frame(number, size=1500) for number in range(1500)]
    with PumpRig(port=MemoryPort(queue_bytes=8192), clock=VirtualClock()) as rig:
        far = rig.attach(buffer_bytes=4096)
        rig.port.set_host_blocking(is_blocking=False)
        taken = 0
        still_at = time.monotonic() + 0.2
        while time.monotonic() < still_at:
            try:
                rig.port.host_sends(frames[taken])
            except BlockingIOError:
                time.sleep(0.005)
            else:
                taken += 1
                still_at = time.monotonic() + 0.2
        rig.turn()
        # The limit, and the one batch that went over it.
        assert far.stream.pending_bytes <= 128 * 1024 + 128 * 1504 + 4
        assert taken < 400

        assert far.frames(taken) == frames[:taken]
        rig.port.set_host_blocking(is_blocking=True)
        rig.port.host_sends(frames[taken])
        assert far.frames(1) == [frames[taken]]
        assert rig.counters.dropped_frames == {}


def test_what_waits_for_long_loses_a_large_frame_now_and_then_and_no_small_one(
    kernel: str,
) -> None:
    # So that the port holds more than one collection: 128 frames, or 128 KiB.
    large = 1500 if kernel == "compiled" else 700
    clock = VirtualClock()
    with PumpRig(port=MemoryPort(queue_bytes=1 << 20), clock=clock) as rig:
        far = rig.attach(buffer_bytes=4096)
        rig.port.set_host_blocking(is_blocking=False)
        sent: list[bytes] = []
        reader = BlockReader()
        got: list[bytes] = []
        for number in range(200):  # four seconds; the server takes 8 KiB every 20 ms
            with contextlib.suppress(BlockingIOError):
                for size in (60, *[large] * 20):
                    frame = tcp_frame(number, size=size)
                    rig.port.host_sends(frame)
                    sent.append(frame)
            clock.advance(0.02)
            rig.turn()
            if not far.is_quiet():
                got += reader.feed(far.socket.recv(8192))
            rig.turn()
        rig.pump.sieve.is_open = False

        lost = rig.pump.counters.dropped_frames["standing"]
        assert rig.pump.counters.dropped_frames.keys() == {"standing"}
        assert 3 <= lost < 60
        small = [frame for frame in got if len(frame) == 60]
        assert small == [frame for frame in sent if len(frame) == 60][: len(small)]
        assert len(small) > 20


def test_a_full_tap_costs_the_frame_and_no_keepalive() -> None:
    clock = VirtualClock()
    with PumpRig(port=MemoryPort(queue_bytes=4096), clock=clock) as rig:
        far = rig.attach()
        far.send(encode_batch([tcp_frame(number, size=1500) for number in range(60)]))
        rig.turn()
        while rig.counters.inbound_frames < 60:
            rig.turn()
        dropped = rig.counters.dropped_frames["tap-full"]
        assert 0 < dropped < 60

        clock.advance(3.0)
        rig.turn()
        far.keepalives(2)
        assert [rig.port.host_receives() for _ in range(60 - dropped)]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EIO, "tap-down"),
        (errno.EINVAL, "tap-refused"),
        (errno.ENOBUFS, "tap-full"),
        (errno.EAGAIN, "tap-full"),
    ],
)
def test_a_frame_that_the_tap_refuses_is_counted_by_reason(
    number: int, reason: str
) -> None:
    # While proving, both forms write each frame through the port.
    with PumpRig() as rig:
        rig.pump.sieve.is_proving = True
        far = rig.attach()
        rig.port.refuse_writes(number)
        far.send(encode_batch([tcp_frame(1), tcp_frame(2)]))
        while rig.counters.inbound_frames < 2:
            rig.turn()
        rig.turn()

        assert rig.counters.dropped_frames == {reason: 2}


def test_frames_that_no_block_can_hold_are_dropped_and_the_rest_goes_on() -> None:
    with PumpRig() as rig:
        far = rig.attach()
        rig.port.host_sends(
            bytes(1601), tcp_frame(1), bytes(13), tcp_frame(2, size=1600)
        )

        assert far.frames(2) == [tcp_frame(1), tcp_frame(2, size=1600)]
        rig.turn()
        assert rig.counters.dropped_frames == {"oversized": 1, "runt": 1}
        assert rig.counters.outbound_frames == 2


def test_blocks_that_hold_no_frame_are_counted() -> None:
    blocks = [b"", bytes(13), bytes(1601), tcp_frame(1)]
    stream = len(blocks).to_bytes(4, "big") + b"".join(
        len(block).to_bytes(4, "big") + block for block in blocks
    )
    with PumpRig() as rig:
        far = rig.attach()
        far.send(stream)

        assert rig.port.host_receives() == tcp_frame(1)
        rig.turn()
        assert rig.counters.dropped_frames == {"oversized": 1, "runt": 1}
        assert rig.counters.inbound_frames == 1


def test_after_a_burst_of_512_frames_the_pump_takes_a_breath() -> None:
    clock = VirtualClock()
    with PumpRig(clock=clock) as rig:
        far = rig.attach()
        # The TAP's twin holds few frames that nobody reads: more would stop the test.
        rig.port.host_sends(*(tcp_frame(number) for number in range(520)))

        far.frames(512)
        for _ in range(3):
            rig.turn()
        assert rig.counters.outbound_frames == 512

        clock.advance(0.001)
        assert len(far.frames(8)) == 8


# --- injected frames ---


def test_injected_frames_are_bounded_while_the_server_does_not_read() -> None:
    with PumpRig() as rig:
        rig.pump.sieve.is_open = False  # so that all is read at once
        far = rig.attach(buffer_bytes=4096)
        rig.port.host_sends(*(tcp_frame(number, size=1500) for number in range(85)))
        rig.pump.sieve.is_open = True
        while far.stream.pending_bytes <= 64 * 1024:
            rig.turn()
        sent_before = rig.counters.outbound_frames

        rig.pump.inject([tcp_frame(number) for number in range(200)])
        rig.pump.inject([tcp_frame(number) for number in range(200, 400)])
        rig.turn()
        assert rig.counters.outbound_frames == sent_before

        far.frames(sent_before)
        while rig.counters.outbound_frames < sent_before + 256:
            far.frames(1)
        rig.turn()
        assert rig.counters.dropped_frames == {"inject-full": 144}


def test_frames_injected_without_a_session_are_dropped() -> None:
    with PumpRig() as rig:
        rig.pump.inject([tcp_frame(1)])
        rig.turn()
        assert rig.counters.dropped_frames == {"no-session": 1}

        far = rig.attach()
        rig.pump.inject([tcp_frame(2)])
        assert far.frames(1) == [tcp_frame(2)]


def test_the_tap_is_not_read_without_a_session() -> None:
    with PumpRig() as rig:
        rig.port.host_sends(tcp_frame(1))
        rig.turn()
        assert rig.counters.outbound_frames == 0

        assert rig.attach().frames(1) == [tcp_frame(1)]


@pytest.mark.parametrize("size", [13, 1601])
def test_a_frame_of_a_wrong_size_is_not_injected(size: int) -> None:
    with PumpRig() as rig, pytest.raises(LocalProtocolError):
        rig.pump.inject([bytes(size)])
