# SPDX-License-Identifier: Apache-2.0
"""A session of several connections below the pump; the test plays the host and the server."""

from __future__ import annotations

import contextlib
import math
import socket
from typing import cast

import pytest

from sevpn.dataplane.udpflow import Rest, UdpFlow
from sevpn.errors import ConnectionLostError, LocalProtocolError, SilenceError
from sevpn.testing.clock import VirtualClock
from sevpn.testing.memory import MemoryStream
from sevpn.testing.rig import OUR_MAC, FarEnd, PumpRig
from sevpn.wire.block import EMPTY_BATCH, encode_batch, encode_keepalive

pytestmark = pytest.mark.usefixtures("kernel")

PEER_MAC = bytes.fromhex("5e0000000002")


def tcp_frame(
    number: int, *, port: int = 5001, service: int = 0, size: int = 60
) -> bytes:
    """A frame of the flow that comes from *port*."""
    ip = bytes([0x45, service]) + (size - 14).to_bytes(2, "big") + bytes(5) + b"\x06"
    ip += bytes(2) + bytes([10, 0, 0, 1, 10, 0, 0, 2])
    tcp = port.to_bytes(2, "big") + b"\x00\x50" + number.to_bytes(4, "big")
    return (PEER_MAC + OUR_MAC.octets + b"\x08\x00" + ip + tcp).ljust(size, b"\0")


def port_of(frame: bytes) -> int:
    return int.from_bytes(frame[34:36], "big")


def ports_of(far: FarEnd) -> set[int]:
    """Which flows have come over this connection by now."""
    return {port_of(frame) for frame in far.drain()}


def test_each_flow_keeps_to_one_connection_and_to_its_order() -> None:
    with PumpRig() as rig:
        ends = [rig.attach(), rig.add(), rig.add(), rig.add()]
        sent = [tcp_frame(n, port=6000 + n % 40) for n in range(400)]
        for begin in range(0, len(sent), 40):
            rig.port.host_sends(*sent[begin : begin + 40])
            rig.turn()
        while rig.counters.outbound_frames < len(sent):
            rig.turn()

        got = [far.drain() for far in ends]
        assert sum(map(len, got)) == len(sent)
        assert all(got), "some connection carried nothing"
        for port in range(6000, 6040):
            carriers = [
                [frame for frame in frames if port_of(frame) == port] for frames in got
            ]
            assert [c for c in carriers if c] == [
                [frame for frame in sent if port_of(frame) == port]
            ]


def test_frames_from_all_connections_reach_the_host() -> None:
    with PumpRig() as rig:
        first, second = rig.attach(), rig.add()
        first.send(encode_batch([tcp_frame(1)]))
        assert rig.port.host_receives() == tcp_frame(1)

        second.send(encode_batch([tcp_frame(2)]))
        assert rig.port.host_receives() == tcp_frame(2)


def test_a_block_that_one_connection_has_begun_is_not_mixed_with_another() -> None:
    whole = encode_batch([tcp_frame(1)])
    with PumpRig() as rig:
        first, second = rig.attach(), rig.add()
        first.send(whole[:30])
        rig.turn()
        second.send(encode_batch([tcp_frame(2)]))
        assert rig.port.host_receives() == tcp_frame(2)

        first.send(whole[30:])
        assert rig.port.host_receives() == tcp_frame(1)


def test_a_connection_that_dies_leaves_the_session_to_the_others() -> None:
    with PumpRig() as rig:
        first, second = rig.attach(), rig.add()
        second.socket.close()
        number, error = rig.lost_connections.get(timeout=5)

        assert number == second.number == 2
        assert isinstance(error, ConnectionLostError)
        assert second.stream.was_polite is True
        assert rig.pump.connection_count == 1
        rig.port.host_sends(*(tcp_frame(n, port=7000 + n) for n in range(20)))
        assert len(first.frames(20)) == 20
        assert rig.lost.empty()


def test_a_connection_that_replaces_a_dead_one_gets_a_number_of_its_own() -> None:
    with PumpRig() as rig:
        rig.attach()
        second = rig.add()
        second.socket.close()
        rig.lost_connections.get(timeout=5)

        assert rig.add().number == 3


def test_without_the_last_connection_there_is_no_session() -> None:
    with PumpRig() as rig:
        first, second = rig.attach(), rig.add()
        first.socket.close()
        rig.lost_connections.get(timeout=5)
        second.socket.close()

        assert isinstance(rig.lost_error(), ConnectionLostError)
        with pytest.raises(LocalProtocolError, match="no session"):
            rig.add()


def test_a_silent_connection_is_given_up_while_another_speaks() -> None:
    clock = VirtualClock()
    with PumpRig(clock=clock) as rig:
        first, second = rig.attach(), rig.add()
        for _ in range(5):
            first.send(encode_keepalive(b""))
            rig.turn()
            clock.advance(5.0)
            rig.turn()
        number, error = rig.lost_connections.get(timeout=5)

        assert number == second.number
        assert isinstance(error, SilenceError)
        assert rig.lost.empty()


# --- half duplex ---


def test_nothing_is_sent_on_a_connection_that_only_receives() -> None:
    clock = VirtualClock()
    with PumpRig(clock=clock) as rig:
        sender = rig.attach(may_receive=False)
        receiver = rig.add(may_send=False)
        rig.port.host_sends(*(tcp_frame(n, port=8000 + n) for n in range(30)))
        assert len(sender.frames(30)) == 30
        clock.advance(3.5)
        rig.turn()

        assert receiver.is_quiet()
        receiver.send(encode_batch([tcp_frame(1)]))
        assert rig.port.host_receives() == tcp_frame(1)


def test_a_full_batch_is_answered_on_a_connection_that_may_send() -> None:
    with PumpRig() as rig:
        sender = rig.attach(may_receive=False)
        sender.keepalives(1)
        receiver = rig.add(may_send=False)
        receiver.send(encode_batch([tcp_frame(n) for n in range(128)]))

        assert sender.socket.recv(100) == EMPTY_BATCH
        assert receiver.is_quiet()


def test_until_a_connection_receives_the_session_does_not_fall_silent_at_once() -> None:
    clock = VirtualClock()
    with PumpRig(clock=clock) as rig:
        rig.attach(may_receive=False, timeout_s=20)
        clock.advance(19)
        rig.turn()
        assert rig.lost.empty()

        clock.advance(2)
        rig.turn()
        assert isinstance(rig.lost_error(), SilenceError)


def test_the_only_sender_may_die_while_others_receive() -> None:
    with PumpRig() as rig:
        sender = rig.attach(may_receive=False)
        receiver = rig.add(may_send=False)
        sender.socket.close()
        number, _ = rig.lost_connections.get(timeout=5)
        assert number == sender.number
        rig.port.host_sends(tcp_frame(1))
        rig.pump.inject([tcp_frame(2)])
        receiver.send(encode_batch([tcp_frame(3)]))
        assert rig.port.host_receives() == tcp_frame(3)

        # What waited goes out over the one that takes its place.
        assert {bytes(frame) for frame in rig.add(may_receive=False).frames(2)} == {
            tcp_frame(1),
            tcp_frame(2),
        }
        assert rig.lost.empty()


# --- priority ---


def test_frames_of_priority_have_the_youngest_connection_to_themselves() -> None:
    with PumpRig() as rig:
        rig.pump.has_priority = True
        first, second, youngest = rig.attach(), rig.add(), rig.add()
        rig.port.host_sends(*(tcp_frame(n, port=9000 + n) for n in range(40)))
        rig.port.host_sends(tcp_frame(1, port=9999, service=0xB8))
        assert youngest.frames(1) == [tcp_frame(1, port=9999, service=0xB8)]
        while rig.counters.outbound_frames < 41:
            rig.turn()

        assert youngest.drain() == []
        assert ports_of(first) | ports_of(second) == set(range(9000, 9040))


def test_with_one_connection_priority_means_nothing() -> None:
    with PumpRig() as rig:
        rig.pump.has_priority = True
        far = rig.attach()
        rig.port.host_sends(tcp_frame(1, service=0xB8), tcp_frame(2))

        assert far.frames(2) == [tcp_frame(1, service=0xB8), tcp_frame(2)]


# --- limits ---


def test_a_connection_that_is_stuck_loses_its_own_frames_only() -> None:
    with PumpRig() as rig:
        ends = {1: rig.attach(), 2: rig.add(buffer_bytes=4096)}
        ends[2].socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        port = next(
            port for port in range(6000, 6100) if _carrier(rig, ends, port) == 2
        )
        other = next(
            port for port in range(6000, 6100) if _carrier(rig, ends, port) == 1
        )
        for n in range(1500):
            rig.port.host_sends(tcp_frame(n, port=port, size=1500))
        rig.port.host_sends(tcp_frame(7, port=other))

        assert ends[1].frames(1) == [tcp_frame(7, port=other)]
        assert rig.counters.dropped_frames.keys() == {"backlog"}
        assert 512 * 1024 <= ends[2].stream.pending_bytes <= 1024 * 1024


def test_a_connection_that_breaks_under_injected_frames_leaves_the_rest_to_another() -> (
    None
):
    frames = [tcp_frame(n) for n in range(200)]
    with PumpRig() as rig:
        ends = {1: rig.attach(), 2: rig.add()}
        broken = BrokenStream()
        broken.take_the_place_of(ends[1].stream)

        rig.pump.inject(frames)

        assert ends[2].frames(72) == frames[128:]
        assert rig.pump.connection_count == 1
        assert rig.lost.empty()
        assert broken.queued == 1, "nothing more once it was lost"


def test_frames_of_control_go_where_nothing_is_stuck() -> None:
    with PumpRig() as rig:
        stuck, free = rig.attach(buffer_bytes=4096), rig.add()
        stuck.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ends = {1: stuck, 2: free}
        port = next(
            port for port in range(6000, 6100) if _carrier(rig, ends, port) == 1
        )
        for n in range(300):
            rig.port.host_sends(tcp_frame(n, port=port, size=1500))
        rig.turn()
        free.drain()

        rig.pump.inject([tcp_frame(9, port=9)])

        assert free.frames(1) == [tcp_frame(9, port=9)]


class BrokenStream:
    """What a stream does whose path has broken: it takes one batch, and no other."""

    def __init__(self) -> None:
        self.queued = 0

    def take_the_place_of(self, stream: MemoryStream) -> None:
        vars(stream).update(queue=self.queue, flush=self.flush)

    def queue(self, _data: bytes | memoryview) -> None:
        self.queued += 1
        if self.queued > 1:
            raise ConnectionLostError("the path is broken")

    def flush(self) -> bool:
        raise ConnectionLostError("the path broke")


class SmallFlow:
    """A UDP flow that is up and carries frames of up to 1000 bytes."""

    is_over = has_items = False
    state = "up"

    def __init__(self) -> None:
        self._sock = socket.socket(type=socket.SOCK_DGRAM)
        self.carried: list[bytes] = []

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def begin(self, _now: float) -> bool:
        return True

    def is_up(self, _now: float) -> bool:
        return True

    def is_look_due(self, _now: float) -> bool:
        return False

    def receive(self, _now: float) -> bytes:
        return b""

    def keep(self, _now: float) -> None:
        pass

    def next_deadline(self) -> float:
        return math.inf

    def send(self, batches: bytes | memoryview, _now: float) -> Rest:
        frames = decode_batches(bytes(batches))
        self.carried += [frame for frame in frames if len(frame) <= 1000]
        rest = [frame for frame in frames if len(frame) > 1000]
        return Rest(encode_batch(rest), len(rest), sum(map(len, rest))) if rest else Rest(b"", 0, 0)  # fmt: skip


def decode_batches(data: bytes) -> list[bytes]:
    frames: list[bytes] = []
    while data:
        count, data = int.from_bytes(data[:4], "big"), data[4:]
        for _ in range(count):
            size = int.from_bytes(data[:4], "big")
            frames.append(data[4 : 4 + size])
            data = data[4 + size :]
    return frames


def test_behind_a_stuck_connection_udp_takes_what_it_can() -> None:
    flow = SmallFlow()
    with contextlib.closing(flow), PumpRig() as rig:
        far = rig.attach(buffer_bytes=4096, udp=cast("UdpFlow", flow))
        far.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for n in range(1500):
            rig.port.host_sends(tcp_frame(n, size=1500), tcp_frame(n, size=100))
        rig.turn()
        while rig.counters.outbound_frames + sum(rig.counters.dropped_frames.values()) < 3000:  # fmt: skip
            rig.turn()

        assert flow.carried == [tcp_frame(n, size=100) for n in range(1500)]
        assert rig.counters.dropped_frames.keys() == {"backlog"}
        dropped = rig.counters.dropped_frames["backlog"]
        assert rig.counters.outbound_frames == 3000 - dropped
        assert rig.counters.outbound_bytes == 1500 * 1600 - 1500 * dropped
        assert 512 * 1024 <= far.stream.pending_bytes <= 1024 * 1024
        rig.pump.detach(polite=False)


def _carrier(rig: PumpRig, ends: dict[int, FarEnd], port: int) -> int:
    """Return the connection that a flow keeps to."""
    before = rig.counters.outbound_frames
    rig.port.host_sends(tcp_frame(0, port=port))
    while rig.counters.outbound_frames == before:
        rig.turn()
    return next(number for number, far in ends.items() if far.drain())
