# SPDX-License-Identifier: Apache-2.0
"""The pump on a real TAP; the test plays the server over a socket pair."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from sevpn.errors import HostError
from sevpn.net.tap import Tap, open_tap
from sevpn.testing.rig import OUR_MAC, FarEnd, PumpRig
from sevpn.testing.sandbox import ip, sandboxed
from sevpn.wire.block import encode_batch

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

PEER_MAC = bytes.fromhex("5e0000000002")
OURS, PEERS = bytes([10, 9, 9, 1]), bytes([10, 9, 9, 2])


@contextlib.contextmanager
def a_rig() -> Iterator[tuple[Tap, PumpRig]]:
    tap = open_tap("pump0")
    ip("link set pump0 address " + str(OUR_MAC))
    ip("address add 10.9.9.1/24 dev pump0")
    ip("link set pump0 up")
    ip("neighbour replace 10.9.9.2 lladdr 5e:00:00:00:00:02 dev pump0")
    tap.set_carrier(True)
    wait_for_carrier(tap)
    try:
        with PumpRig(tap=tap) as rig:
            yield tap, rig
    finally:
        tap.close()


def wait_for_carrier(tap: Tap) -> None:
    """Wait until the kernel sends: for some milliseconds behind a carrier it drops."""
    until = time.monotonic() + 5
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        while tap.read() is None:
            assert time.monotonic() < until, "the kernel sends nothing"
            udp.sendto(b"", ("10.9.9.2", 7))
            time.sleep(0.005)


def ask(far: FarEnd) -> None:
    """Ask for our address, more than once: the kernel may drop its first answers."""
    for _ in range(5):
        far.send(encode_batch([arp_request()]))
        time.sleep(0.05)


def arp_request() -> bytes:
    """The peer asks who has our address."""
    head = b"\x00\x01\x08\x00\x06\x04\x00\x01"
    return (
        b"\xff" * 6 + PEER_MAC + b"\x08\x06" + head + PEER_MAC + PEERS + bytes(6) + OURS
    )


def arp_reply() -> bytes:
    head = b"\x00\x01\x08\x00\x06\x04\x00\x02"
    return (
        PEER_MAC
        + OUR_MAC.octets
        + b"\x08\x06"
        + head
        + OUR_MAC.octets
        + OURS
        + PEER_MAC
        + PEERS
    )


def hear(far: FarEnd, frame: bytes) -> None:
    """Wait for *frame* among whatever else the kernel sends."""
    while frame not in far.frames(1):
        pass


@sandboxed
def test_the_kernel_answers_what_comes_through_the_tunnel() -> None:
    with a_rig() as (_, rig):
        far = rig.attach()
        far.send(encode_batch([arp_request()]))

        hear(far, arp_reply())


@sandboxed
def test_the_kernels_packets_go_out_whole() -> None:
    with a_rig() as (_, rig), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        far = rig.attach()
        udp.sendto(b"\xa5" * 1400, ("10.9.9.2", 9))
        while True:
            (frame,) = far.frames(1)
            if frame[:6] == PEER_MAC and frame[23] == 17:
                break

        assert len(frame) == 14 + 20 + 8 + 1400
        assert frame.endswith(b"\xa5" * 1400)


@sandboxed
def test_an_interface_that_is_down_costs_frames_and_not_the_session() -> None:
    with a_rig() as (_, rig):
        far = rig.attach()
        ip("link set pump0 down")
        far.send(encode_batch([arp_request()]))
        until = time.monotonic() + 5
        while (
            rig.pump.counters.dropped_frames != {"tap-down": 1}
            and time.monotonic() < until
        ):
            rig.turn()
        assert rig.pump.counters.dropped_frames == {"tap-down": 1}

        ip("link set pump0 up")
        ask(far)
        hear(far, arp_reply())
        assert rig.lost.empty()


@sandboxed
def test_an_interface_that_somebody_removes_ends_the_session_and_turns_no_loop() -> (
    None
):
    with a_rig() as (_, rig):
        rig.attach()
        ip("link delete pump0")
        error = rig.lost_error()
        assert isinstance(error, HostError)

        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.1


@sandboxed
def test_the_carrier_may_go_and_come_below_a_session() -> None:
    with a_rig() as (tap, rig):
        far = rig.attach()
        tap.set_carrier(False)
        rig.pump.sieve.is_open = False
        rig.turn()
        rig.pump.sieve.is_open = True
        tap.set_carrier(True)
        until = time.monotonic() + 5
        while "LOWER_UP" not in ip("link show pump0") and time.monotonic() < until:
            pass
        ip("neighbour replace 10.9.9.2 lladdr 5e:00:00:00:00:02 dev pump0")
        ask(far)

        hear(far, arp_reply())
