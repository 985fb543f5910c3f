# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import errno

import pytest

from reading import read_some
from sevpn.errors import ConnectionLostError
from sevpn.testing.clock import VirtualClock
from sevpn.testing.memory import MemoryPort, memory_stream


def test_a_port_carries_whole_frames_both_ways() -> None:
    port = MemoryPort()
    port.host_sends(b"one", b"three")
    port.write(memoryview(b"back"))

    assert [port.read(), port.read(), port.read()] == [b"one", b"three", None]
    assert port.host_receives() == b"back"
    port.close()


def test_a_port_is_full_at_some_time() -> None:
    port = MemoryPort(queue_bytes=4096)
    written = 0
    with contextlib.suppress(BlockingIOError):
        while written < 1000:
            port.write(bytes(1500))
            written += 1
    port.close()

    assert 0 < written < 1000


def test_a_port_refuses_what_the_test_wants_refused() -> None:
    port = MemoryPort()
    port.refuse_writes(errno.EIO)
    with pytest.raises(OSError, match="Input/output") as caught:
        port.write(b"frame")
    assert caught.value.errno == errno.EIO

    port.refuse_writes(0)
    port.write(b"frame")
    assert port.host_receives() == b"frame"
    port.close()


def test_an_unplugged_port_says_so() -> None:
    port = MemoryPort()
    port.unplug()
    with pytest.raises(OSError, match="bad state") as caught:
        port.read()
    assert caught.value.errno == errno.EBADFD
    port.close()


def test_a_host_that_was_given_nothing_says_so() -> None:
    port = MemoryPort()
    with pytest.raises(TimeoutError):
        port.host_receives(timeout_s=0)
    port.close()


def test_a_stream_sends_when_flushed_and_not_before() -> None:
    stream, far = memory_stream()
    stream.queue(b"hello")
    assert stream.pending_bytes == 5
    assert stream.flush()

    assert stream.pending_bytes == 0
    assert far.recv(100) == b"hello"
    stream.close(polite=True)
    far.close()
    assert stream.was_polite is True


def test_a_stream_keeps_what_the_kernel_does_not_take() -> None:
    stream, far = memory_stream(buffer_bytes=4096)
    stream.queue(bytes(100_000))
    assert not stream.flush()
    assert 0 < stream.pending_bytes < 100_000

    got = 0
    while got < 100_000:
        got += len(far.recv(100_000))
        stream.flush()
    assert stream.pending_bytes == 0
    stream.close(polite=False)
    far.close()


def test_a_stream_reads_what_is_there_and_then_nothing() -> None:
    stream, far = memory_stream()
    far.sendall(b"hello")

    assert read_some(stream, 3) == b"hel"
    assert read_some(stream, 3) == b"lo"
    assert read_some(stream, 3) == b""
    stream.close(polite=False)
    far.close()


def test_a_closed_far_end_is_a_lost_connection() -> None:
    stream, far = memory_stream()
    far.close()
    with pytest.raises(ConnectionLostError):
        read_some(stream, 10)
    stream.queue(b"x")
    with pytest.raises(ConnectionLostError):
        stream.flush()
    stream.close(polite=False)


def test_a_virtual_clock_moves_when_it_is_moved() -> None:
    clock = VirtualClock(5.0)
    assert clock() == clock() == 5.0

    assert clock.advance(2.5) == 7.5
    clock.now = 1.0
    assert clock() == 1.0
