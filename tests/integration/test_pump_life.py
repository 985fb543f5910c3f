# SPDX-License-Identifier: Apache-2.0
"""Sessions that begin and end below a living pump; the test plays the server."""

from __future__ import annotations

import contextlib
import logging
import threading
import time

import pytest

from sevpn.dataplane.pump import Pump
from sevpn.errors import (
    ConnectionLostError,
    Failure,
    HostError,
    LocalProtocolError,
    RemoteProtocolError,
    SevpnError,
    SilenceError,
)
from sevpn.testing.clock import VirtualClock
from sevpn.testing.memory import MemoryPort
from sevpn.testing.rig import OUR_MAC, PumpRig
from sevpn.wire.block import EMPTY_BATCH, encode_batch, encode_keepalive

pytestmark = pytest.mark.usefixtures("kernel")

FRAME = OUR_MAC.octets + bytes(6) + b"\x08\x00" + bytes(46)
ARP = b"\xff" * 6 + bytes(6) + b"\x08\x06" + bytes(28)
BROKEN = b"\x00\x00\x00\x01\x00\x00\xff\xff"


def assert_works(rig: PumpRig) -> None:
    """A new session carries a frame each way."""
    far = rig.attach()
    rig.port.host_sends(FRAME)
    assert far.frames(1) == [FRAME]
    far.send(encode_batch([FRAME]))
    assert rig.port.host_receives() == FRAME


# --- keep-alives and silence ---


def test_a_session_begins_with_a_keepalive() -> None:
    with PumpRig() as rig:
        far = rig.attach()

        far.keepalives(1)


def test_keepalives_follow_every_three_seconds() -> None:
    clock = VirtualClock()
    with PumpRig(clock=clock) as rig:
        far = rig.attach()
        for count in (1, 2, 3):
            far.keepalives(count)
            clock.advance(2.9)
            rig.turn()
            assert far.is_quiet()
            clock.advance(0.1)
            rig.turn()


def test_a_server_without_a_word_for_the_timeout_loses_the_session() -> None:
    clock = VirtualClock()
    with PumpRig(clock=clock) as rig:
        far = rig.attach(timeout_s=20.0)
        clock.advance(19.9)
        rig.turn()
        assert rig.lost.empty()

        clock.advance(0.1)
        rig.turn()
        error = rig.lost_error()

        assert isinstance(error, SilenceError)
        assert error.failure is Failure.TEMPORARY
        assert far.stream.was_polite is False
        assert_works(rig)


@pytest.mark.parametrize(
    "item", [EMPTY_BATCH, encode_keepalive(b""), encode_batch([FRAME])]
)
def test_any_complete_item_counts_as_a_word(item: bytes) -> None:
    clock = VirtualClock()
    with PumpRig(clock=clock) as rig:
        far = rig.attach(timeout_s=20.0)
        clock.advance(15.0)
        far.send(item)
        rig.turn()
        clock.advance(15.0)
        rig.turn()
        assert rig.lost.empty()

        clock.advance(5.0)
        rig.turn()
        assert isinstance(rig.lost_error(), SilenceError)


def test_the_bytes_of_an_unfinished_block_count_for_nothing() -> None:
    clock = VirtualClock()
    with PumpRig(clock=clock) as rig:
        far = rig.attach(timeout_s=20.0)
        far.send(b"\x00\x00\x00\x01\x00\x00\x05\x00")
        for _ in range(20):
            far.send(b"x")
            rig.turn()
            clock.advance(1.0)
        rig.turn()

        assert isinstance(rig.lost_error(), SilenceError)


def test_what_came_while_the_machine_slept_is_read_before_silence_is_judged() -> None:
    clock = VirtualClock()
    with PumpRig(clock=clock) as rig:
        far = rig.attach(timeout_s=20.0)
        rig.turn()
        gate = threading.Event()

        def hold_up() -> None:
            gate.wait(5)

        ordering = threading.Thread(target=rig.pump._order, args=(hold_up,))
        ordering.start()
        time.sleep(0.01)
        far.send(encode_keepalive(b""))
        clock.advance(1000.0)
        gate.set()
        ordering.join()
        rig.turn()
        rig.turn()

        assert rig.lost.empty()


def test_an_order_is_carried_out_although_the_connection_breaks_at_that_moment() -> (
    None
):
    with PumpRig() as rig:
        rig.pump.sieve.is_open = False  # so that all is read at once
        far = rig.attach(buffer_bytes=4096)
        rig.port.host_sends(*([FRAME[:14] + bytes(1480)] * 85))
        rig.pump.sieve.is_open = True
        while not far.stream.pending_bytes:
            rig.turn()
        gate = threading.Event()

        def hold_up() -> None:
            gate.wait(5)

        holding = threading.Thread(target=rig.pump._order, args=(hold_up,))
        holding.start()
        time.sleep(0.01)
        ordering = threading.Thread(target=rig.pump.sync)
        ordering.start()
        time.sleep(0.01)
        far.socket.close()  # the bell has rung before
        gate.set()
        ordering.join(2.0)

        assert not ordering.is_alive()
        assert isinstance(rig.lost_error(), ConnectionLostError)
        holding.join()


def test_no_keepalive_is_added_behind_a_full_backlog() -> None:
    clock = VirtualClock()
    with PumpRig(clock=clock) as rig:
        rig.pump.sieve.is_open = False  # so that all is read at once
        far = rig.attach(buffer_bytes=4096)
        rig.port.host_sends(*([FRAME[:14] + bytes(1480)] * 85))
        rig.pump.sieve.is_open = True
        while far.stream.pending_bytes <= 64 * 1024:
            rig.turn()
        clock.advance(3.0)
        rig.turn()

        far.frames(85)
        rig.turn()
        assert far.keepalive_count == 1  # the first, from before


def test_an_idle_session_does_not_turn_the_loop() -> None:
    turns = 0

    def clock() -> float:
        nonlocal turns
        turns += 1
        return time.monotonic()

    with PumpRig(clock=clock) as rig:
        far = rig.attach()
        far.keepalives(1)
        rig.turn()
        before = turns
        time.sleep(0.5)

        assert turns - before <= 3


# --- ends ---


def test_the_end_of_the_stream_is_a_lost_connection() -> None:
    with PumpRig() as rig:
        rig.attach().socket.close()

        assert isinstance(rig.lost_error(), ConnectionLostError)
        assert_works(rig)


def test_frames_before_the_end_of_the_stream_still_arrive() -> None:
    with PumpRig() as rig:
        far = rig.attach()
        far.send(encode_batch([FRAME]))
        far.socket.close()

        assert rig.port.host_receives() == FRAME
        assert isinstance(rig.lost_error(), ConnectionLostError)


@pytest.mark.parametrize("leftover", [b"", BROKEN])
def test_malformed_blocks_lose_the_session(leftover: bytes) -> None:
    with PumpRig() as rig:
        far = rig.attach(leftover=leftover)
        if not leftover:
            far.send(BROKEN)
        error = rig.lost_error()

        assert isinstance(error, RemoteProtocolError)
        assert "65535" in str(error)
        assert far.stream.was_polite is False
        assert_works(rig)


def test_a_session_is_lost_once() -> None:
    with PumpRig() as rig:
        far = rig.attach(leftover=BROKEN)
        far.socket.close()
        rig.lost_error()
        rig.turn()

        assert rig.lost.empty()


def test_many_sessions_follow_each_other_below_one_tap() -> None:
    with PumpRig() as rig:
        for _ in range(30):
            assert_works(rig)
            rig.pump.detach(polite=False)
        assert rig.lost.empty()


def test_a_polite_detach_sends_what_was_injected_before() -> None:
    with PumpRig() as rig:
        far = rig.attach()
        rig.pump.inject([FRAME])
        rig.pump.detach(polite=True)

        assert far.rest() == [FRAME]
        assert far.stream.was_polite is True
        assert rig.lost.empty()


def test_a_polite_detach_does_not_wait_long_for_a_server_that_does_not_read() -> None:
    with PumpRig() as rig:
        far = rig.attach(buffer_bytes=4096)
        rig.port.host_sends(*([FRAME[:14] + bytes(1480)] * 50))
        while not far.stream.pending_bytes:
            rig.turn()
        began_at = time.monotonic()
        rig.pump.detach(polite=True)

        assert time.monotonic() - began_at < 2.0
        assert far.stream.was_polite is True


def test_a_polite_detach_from_a_dead_connection_says_nothing() -> None:
    with PumpRig() as rig:
        far = rig.attach()
        far.socket.close()
        rig.pump.inject([FRAME])
        rig.pump.detach(polite=True)

        assert far.stream.was_polite is not None


def test_a_device_that_vanishes_is_the_hosts_failure() -> None:
    with PumpRig() as rig:
        rig.attach()
        rig.port.unplug()
        error = rig.lost_error()

        assert isinstance(error, HostError)
        assert error.operation == "read-tap"


# --- bugs ---


def test_a_crash_is_reported_as_a_bug_and_the_next_session_works(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def crash(_frames: list[bytes]) -> None:
        raise ZeroDivisionError("on purpose")

    with PumpRig() as rig, caplog.at_level(logging.ERROR):
        on_frames = rig.pump._on_frames
        rig.pump._on_frames = crash
        far = rig.attach()
        far.send(encode_batch([ARP]))
        error = rig.lost_error()
        rig.pump._on_frames = on_frames

        assert error.failure is Failure.BUG
        assert "on purpose" in str(error)
        assert "bug in the data thread" in caplog.text
        assert rig.port.host_receives() == ARP
        assert_works(rig)


def test_a_crash_without_a_session_ends_the_thread_and_says_so() -> None:
    with PumpRig() as rig:
        rig.pump._epoll.close()
        rig.pump.inject([])
        error = rig.lost_error()
        assert error.failure is Failure.BUG
        rig.pump._thread.join(5.0)

        with pytest.raises(LocalProtocolError, match="not running"):
            rig.attach()
        rig.pump.detach(polite=True)
        rig.pump.inject([FRAME])


def test_a_listener_that_fails_ends_the_thread_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_error: SevpnError) -> None:
        raise ZeroDivisionError("on purpose")

    with PumpRig() as rig, caplog.at_level(logging.ERROR):
        rig.pump._on_lost = fail
        far = rig.attach()
        far.socket.close()
        rig.pump._thread.join(5.0)

        assert "the data thread died of a bug" in caplog.text
        assert far.stream.was_polite is False
        with pytest.raises(LocalProtocolError, match="not running"):
            rig.attach()


def test_a_second_session_at_once_is_our_mistake() -> None:
    with PumpRig() as rig:
        rig.attach()
        with pytest.raises(LocalProtocolError, match="one already"):
            rig.attach()


def test_the_data_thread_cannot_wait_for_itself() -> None:
    errors: list[SevpnError] = []

    with PumpRig() as rig:

        def meddle(_frames: list[bytes]) -> None:
            with contextlib.suppress(LocalProtocolError):
                rig.pump.detach(polite=False)
                return
            errors.append(LocalProtocolError("refused"))
            rig.handed.put([])

        rig.pump._on_frames = meddle
        far = rig.attach()
        far.send(encode_batch([ARP]))
        rig.handed_frames()

    assert len(errors) == 1


def test_frames_may_be_injected_by_the_data_thread() -> None:
    with PumpRig() as rig:
        rig.pump._on_frames = rig.pump.inject
        far = rig.attach()
        far.send(encode_batch([ARP]))

        assert far.frames(1) == [ARP]


# --- the thread ---


def test_stop_ends_the_session_politely_and_the_thread() -> None:
    with PumpRig() as rig:
        far = rig.attach()
        rig.pump.inject([FRAME])
        rig.pump.stop()

        assert far.rest() == [FRAME]
        assert far.stream.was_polite is True
        assert not rig.pump._thread.is_alive()
        rig.pump.stop()


def test_a_pump_that_never_started_can_be_stopped() -> None:
    port = MemoryPort()
    pump = Pump(port, mac=OUR_MAC, on_frames=print, on_lost=print, clock=time.monotonic)

    pump.stop()
    pump.stop()
    pump.detach(polite=True)
    port.close()


def test_a_gate_that_moves_after_the_end_does_no_harm() -> None:
    with PumpRig() as rig:
        rig.pump.stop()
        rig.pump.sieve.is_open = False
