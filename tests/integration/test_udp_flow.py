# SPDX-License-Identifier: Apache-2.0
"""Datagram sockets and flows over loopback."""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, cast

import pytest

from sevpn.dataplane.buffers import join_batch
from sevpn.dataplane.choice import LOOK_S
from sevpn.dataplane.datagrams import DatagramSocket
from sevpn.dataplane.kernel.rc4 import rc4_all
from sevpn.dataplane.udpflow import Rest, UdpFlow, choose_rc4
from sevpn.protocol.udpterms import UdpGrant, UdpOffer, client_terms, server_terms
from sevpn.transport.udp import open_udp

NOTHING = Rest(b"", 0, 0)
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
        ends.client.send(batch(*frames[:128]) + batch(*frames[128:]), ends.now)
        == NOTHING
    )
    ends.live(0.25)
    assert ends.arrived == batch(*frames[:128]) + batch(*frames[128:])
    assert ends.client.sent_frames == ends.server.received_frames == 199


def test_a_frame_that_is_too_large_for_the_path_is_left_to_tcp(ends: Ends) -> None:
    ends.live(12.0)
    small, large = b"s" * 1000, b"l" * 1514

    rest = ends.client.send(batch(small, large, small), ends.now)
    assert rest == Rest(batch(large), 1, 1514)
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
    assert ends.client.dropped_datagrams == {"foreign": 1}


def test_what_is_not_taken_is_counted_by_reason(ends: Ends) -> None:
    ends.live(1.0)
    server, client = ends.server.machine, ends.client.machine
    assert server is not None
    assert client is not None
    sealed = server.seal(b"f" * 60, ends.now)
    bomb = server.seal(b"no zlib stream", ends.now, is_deflated=True)
    runt = server.seal(b"r" * 13, ends.now)

    ends.server._socket.send([sealed, sealed, bomb, runt], server.peer)
    select.select([ends.client], [], [], 5)

    assert ends.client.receive(ends.now) == batch(b"f" * 60)
    assert ends.client.dropped_datagrams == {"replayed": 1, "malformed": 2}


class NoCut:
    """A socket whose kernel says EINVAL to segments, and takes none over *path* bytes."""

    def __init__(self, sock: socket.socket, path: int) -> None:
        self._sock = sock
        self._path = path
        self.alone: list[bytes] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)

    def sendmsg(self, *_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    def sendto(self, datagram: bytes, to: tuple[str, int]) -> int:
        if len(datagram) > self._path:
            raise OSError(errno.EMSGSIZE, "Message too long")
        self.alone.append(datagram)
        return self._sock.sendto(datagram, to)


@pytest.mark.parametrize(
    ("path", "sent", "can_cut"), [(1500, 4, False), (1300, 0, True)]
)
def test_a_kernel_that_did_not_cut_is_told_from_a_path_that_is_narrow(
    path: int, sent: int, can_cut: bool
) -> None:
    with two_sockets("127.0.0.1") as (one, other, place):
        assert one.has_segments
        kernel = NoCut(one._socket, path)
        one._socket = cast("socket.socket", kernel)
        datagrams = [bytes([n]) * 1400 for n in range(4)]

        assert one.send(datagrams, place) == sent
        assert kernel.alone == datagrams[:sent], "each once"
        assert one.has_segments is can_cut
        assert everything(other) == datagrams[:sent]


def test_segments_are_cut_by_the_kernel_and_joined_again(ends: Ends) -> None:
    ends.live(12.0)
    assert ends.client._socket.has_segments
    assert ends.server._socket.has_gro
    calls = Calls(ends.client._socket._socket)
    ends.client._socket._socket = cast("socket.socket", calls)

    frames = [bytes([number]) * 1000 for number in range(120)]
    ends.client.send(batch(*frames), ends.now)

    assert calls.count == 2, "120 datagrams"
    ends.live(0.25)
    assert ends.arrived == batch(*frames)


class Calls:
    """A socket that counts what it is asked to send."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.count = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)

    def sendmsg(self, *arguments: Any) -> int:
        self.count += 1
        return self._sock.sendmsg(*arguments)

    def sendto(self, *arguments: Any) -> int:
        self.count += 1
        return self._sock.sendto(*arguments)


def test_a_path_that_was_narrow_is_tried_again_after_ten_minutes(ends: Ends) -> None:
    ends.live(12.0)
    kernel = NoCut(ends.client._socket._socket, 1300)
    ends.client._socket._socket = cast("socket.socket", kernel)
    large = batch(bytes(1400))
    wide = bytes(60) + (1500).to_bytes(4, sys.byteorder) + bytes(200)

    def goes_by_tcp() -> bool:
        ends.now += LOOK_S
        ends.client.look(wide, ends.now)
        return ends.client.send(large, ends.now).frames == 1

    assert goes_by_tcp()
    kernel._path = 1500  # the tunnel goes another way now
    assert goes_by_tcp(), "nothing of this size is even tried"
    ends.now += 600.0
    ends.live(15.0)
    assert not goes_by_tcp()


def test_a_path_that_becomes_narrower_is_believed_at_once(ends: Ends) -> None:
    ends.live(12.0)
    large = batch(bytes(1400))
    for path, count in ((1500, 0), (1400, 1), (1500, 0)):
        ends.now += LOOK_S
        info = bytes(60) + path.to_bytes(4, sys.byteorder) + bytes(200)
        ends.client.look(info, ends.now)
        assert ends.client.send(large, ends.now).frames == count


def test_a_library_without_rc4_leaves_version_1_to_our_own() -> None:
    (sealed,) = choose_rc4(lambda: None)([b"Key"], [b"Plaintext"])

    assert sealed.hex() == "bbf316e8d940af0ad3"  # the first vector that everybody has
    assert choose_rc4(lambda: None) is rc4_all


def test_an_ended_flow_does_nothing_more(ends: Ends) -> None:
    ends.live(12.0)
    ends.client.end("it was enough")

    assert ends.client.receive(ends.now) == b""
    assert not ends.client.is_up(ends.now)
    assert not ends.client.begin(ends.now)
    ends.client.keep(ends.now)
    assert (ends.client.state, ends.client.reason) == ("off", "it was enough")
