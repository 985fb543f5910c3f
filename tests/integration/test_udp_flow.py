# SPDX-License-Identifier: Apache-2.0
"""Datagram sockets and flows over loopback."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from sevpn.dataplane.buffers import join_batch
from sevpn.dataplane.datagrams import DatagramSocket
from sevpn.dataplane.udpflow import UdpFlow
from sevpn.protocol.udpterms import UdpGrant, UdpOffer, client_terms, server_terms
from sevpn.transport.udp import open_udp

ADDRESSES = pytest.mark.parametrize("address", ["127.0.0.1", "::1"])


def opened(address: str) -> socket.socket:
    return open_udp(ip_address(address), 0, prepare=lambda _sock: None)


@contextmanager
def two_sockets(address: str) -> Iterator[tuple[DatagramSocket, DatagramSocket, tuple[str, int]]]:  # fmt: skip
    here, there = opened(address), opened(address)
    place = there.getsockname()[:2]
    one, other = DatagramSocket(here), DatagramSocket(there)
    try:
        yield one, other, place
    finally:
        one.close()
        other.close()


def everything(sock: DatagramSocket) -> list[bytes]:
    found: list[bytes] = []
    while select.select([sock], [], [], 0.2)[0]:
        found += [datagram for datagram, _ in sock.receive()]
    return found


@ADDRESSES
@pytest.mark.parametrize("has_segments", [True, False])
def test_datagrams_of_all_sizes_arrive_one_by_one_and_in_order(
    address: str, has_segments: bool
) -> None:
    sizes = [1400] * 70 + [900] + [1400] * 3 + [100, 200, 200, 50, 1400]
    datagrams = [os.urandom(size) for size in sizes]
    with two_sockets(address) as (one, other, place):
        one.enlarge()
        other.enlarge()
        one.has_segments &= has_segments

        assert one.send(datagrams, place) == len(datagrams)
        assert everything(other) == datagrams
        assert one.dropped_count == 0


def test_a_datagram_that_is_too_large_for_the_path_is_told() -> None:
    with two_sockets("127.0.0.1") as (one, other, place):
        one.has_segments = False

        assert one.send([b"a", bytes(65_536), b"b"], place) == 1
        assert everything(other) == [b"a"]


def test_nothing_to_send_and_nothing_to_receive_is_no_trouble() -> None:
    with two_sockets("127.0.0.1") as (one, other, place):
        assert one.send([], place) == 0
        assert other.receive() == []


def test_a_port_that_is_taken_is_an_error_and_leaves_no_socket() -> None:
    taken = opened("127.0.0.1")
    try:
        with pytest.raises(OSError, match="in use"):
            open_udp(IPv4Address("127.0.0.1"), taken.getsockname()[1], prepare=lambda _: None)  # fmt: skip
    finally:
        taken.close()


class Ends:
    """A client's and a server's flow over loopback, on a clock of their own."""

    def __init__(self, address: str) -> None:
        socks = [opened(address), opened(address)]
        ports = [sock.getsockname()[1] for sock in socks]
        place: IPv4Address | IPv6Address = ip_address(address)
        offer = UdpOffer(
            max_version=2, address=None, port=ports[0], key_v1=b"c" * 20, key_v2=b"c" * 128
        )  # fmt: skip
        grant = UdpGrant(
            version=2, address=None, port=ports[1], key_v1=b"s" * 20, key_v2=b"s" * 128,
            server_cookie=1, client_cookie=2, is_fast=True,
        )  # fmt: skip
        self.now = 0.0
        self.client = UdpFlow(socks[0], client_terms(offer, grant, place), wish="on")
        self.server = UdpFlow(socks[1], server_terms(offer, grant, place), wish="on")
        self.arrived = b""
        for flow in (self.client, self.server):
            flow.begin(self.now)

    def live(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.25)):
            self.now += 0.25
            for flow in (self.client, self.server):
                flow.keep(self.now)
            for flow in (self.client, self.server):
                if select.select([flow], [], [], 0.01)[0]:
                    self.arrived += flow.receive(self.now)

    def end(self) -> None:
        for flow in (self.client, self.server):
            flow.end()


@pytest.fixture(params=["127.0.0.1", "::1"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    made = Ends(request.param)
    yield made
    made.end()


def batch(*frames: bytes) -> bytes:
    return join_batch(frames, [len(frame) for frame in frames])


def test_frames_go_when_both_directions_have_worked_for_ten_seconds(ends: Ends) -> None:
    ends.live(9.0)
    assert not ends.client.is_up(ends.now)

    ends.live(3.0)
    assert ends.client.is_up(ends.now)
    assert ends.client.state == "up"
    frames = [bytes([number]) * 60 for number in range(1, 200)]
    assert (
        ends.client.send(batch(*frames[:128]) + batch(*frames[128:]), ends.now) == b""
    )
    ends.live(0.25)
    assert ends.arrived == batch(*frames[:128]) + batch(*frames[128:])
    assert ends.client.sent_frames == ends.server.received_frames == 199


def test_a_frame_that_is_too_large_for_the_path_is_left_to_tcp(ends: Ends) -> None:
    ends.live(12.0)
    small, large = b"s" * 1000, b"l" * 1514

    assert ends.client.send(batch(small, large, small), ends.now) == batch(large)
    ends.live(0.25)
    assert ends.arrived == batch(small, small)


def test_silence_brings_it_down(ends: Ends) -> None:
    ends.live(12.0)
    ends.server.end()

    ends.now += 2.5
    assert not ends.client.is_up(ends.now)
    assert ends.client.state == "probing"
    assert "silent" in str(ends.client.reason)


def test_garbage_is_nothing(ends: Ends) -> None:
    stranger = opened(ends.client._terms.peer.compressed)
    try:
        stranger.sendto(os.urandom(200), ("127.0.0.1" if ends.client._terms.peer.version == 4 else "::1", ends.server._terms.port))  # fmt: skip
        select.select([ends.client], [], [], 5)
        assert ends.client.receive(ends.now) == b""
        assert not ends.client.has_items
    finally:
        stranger.close()
    machine = ends.client.machine
    assert machine is not None
    assert machine.dropped["foreign"] == 1


def test_an_ended_flow_does_nothing_more(ends: Ends) -> None:
    ends.live(12.0)
    ends.client.end("it was enough")

    assert ends.client.receive(ends.now) == b""
    assert not ends.client.is_up(ends.now)
    assert not ends.client.begin(ends.now)
    ends.client.keep(ends.now)
    assert (ends.client.state, ends.client.reason) == ("off", "it was enough")
