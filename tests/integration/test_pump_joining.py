# SPDX-License-Identifier: Apache-2.0
"""A session that is taken up again: frames go along with the request, before its answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from integration.test_pump_frames import arp_frame, tcp_frame
from sevpn.dataplane.joining import JoiningStream
from sevpn.errors import ConnectionLostError, RefusedError, RemoteProtocolError
from sevpn.protocol.envelope import pack_response
from sevpn.protocol.identity import ClientIdentity
from sevpn.protocol.joining import ClientJoin, Direction, encode_join_answer
from sevpn.protocol.messages import Hello, encode_error, encode_hello
from sevpn.testing.memory import memory_stream
from sevpn.testing.rig import FarEnd, PumpRig
from sevpn.wire.block import encode_batch
from sevpn.wire.pack import Pack

pytestmark = pytest.mark.usefixtures("kernel")

DATE = "Tue, 03 Mar 2026 12:00:00 GMT"


def random(size: int) -> bytes:
    return b"\0\5" if size == 2 else b"r" * size


def say(pack: Pack) -> bytes:
    return pack_response(pack, random=random, date=DATE)


HELLO = say(encode_hello(Hello("SoftEther VPN Server", 444, 9807, bytes(20))))
YES = say(encode_join_answer(Direction.BOTH))


def request() -> ClientJoin:
    """Return a request as it is when it has been sent."""
    asked = ClientJoin(
        host="192.0.2.1",
        hub="OFFICE",
        user="alice",
        session_key=bytes(20),
        identity=ClientIdentity(unique_id=bytes(16), machine_id=bytes(20)),
        is_half_duplex=False,
        random=random,
        date=DATE,
    )
    asked.data_to_send()
    return asked


class Joining:
    """A connection of the rig's session whose request is under way."""

    def __init__(self, rig: PumpRig) -> None:
        stream, sock = memory_stream()
        self.far = FarEnd(stream, sock)
        self.stream = JoiningStream(stream, request())
        rig.pump.attach(self.stream, leftover=b"", timeout_s=20.0)
        rig.turn()

    def close(self) -> None:
        self.far.socket.close()


def test_frames_of_the_host_do_not_wait_for_the_answer() -> None:
    with PumpRig() as rig:
        joining = Joining(rig)
        rig.port.host_sends(tcp_frame(1))

        assert joining.far.frames(1) == [tcp_frame(1)]
        assert not joining.stream.has_joined

        joining.far.send(HELLO + YES)
        joining.far.send(encode_batch([tcp_frame(2)]))

        assert rig.port.host_receives() == tcp_frame(2)
        assert joining.stream.has_joined
        joining.close()


def test_what_comes_right_behind_the_answer_belongs_to_the_session() -> None:
    # No more than the twin of the TAP has room for.
    frames = [tcp_frame(number, size=1514) for number in range(30)]
    with PumpRig() as rig:
        joining = Joining(rig)
        joining.far.send(HELLO + YES + encode_batch(frames))

        assert [rig.port.host_receives() for _ in frames] == frames
        joining.close()


def test_control_is_handed_its_frames_as_ever() -> None:
    with PumpRig() as rig:
        joining = Joining(rig)
        joining.far.send(HELLO + YES + encode_batch([arp_frame()]))

        assert rig.handed_frames() == [arp_frame()]
        joining.close()


@pytest.mark.parametrize("before", [b"", HELLO], ids=["at once", "after the Hello"])
def test_a_refusal_is_the_end_of_the_session(before: bytes) -> None:
    with PumpRig() as rig:
        joining = Joining(rig)
        joining.far.send(before + say(encode_error(13)))

        error = rig.lost_error()
        assert isinstance(error, RefusedError)
        assert error.code == 13
        assert not joining.stream.has_joined
        joining.close()


def test_so_is_an_answer_that_is_none() -> None:
    with PumpRig() as rig:
        joining = Joining(rig)
        joining.far.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

        assert isinstance(rig.lost_error(), RemoteProtocolError)
        joining.close()


def test_so_is_an_end_before_the_answer() -> None:
    with PumpRig() as rig:
        joining = Joining(rig)
        joining.far.send(HELLO)
        joining.close()

        assert isinstance(rig.lost_error(), ConnectionLostError)


def test_frames_before_an_end_are_not_lost_by_it() -> None:
    """The end is seen by who reads on."""
    stream, far = memory_stream()
    joining = JoiningStream(stream, request())
    batch = encode_batch([tcp_frame(1)])
    far.sendall(HELLO + YES + batch)
    far.close()

    room = memoryview(bytearray(4096))
    assert bytes(room[: joining.read_into(room)]) == batch
    with pytest.raises(ConnectionLostError):
        joining.read_into(room)
    joining.close(polite=False)


@settings(max_examples=50, deadline=None)
@given(cuts=st.lists(st.integers(1, 1500), max_size=12), size=st.integers(1, 3000))
def test_it_does_not_matter_where_the_stream_was_cut(
    cuts: list[int], size: int
) -> None:
    items = encode_batch([tcp_frame(number) for number in range(30)])
    rest = HELLO + YES + items
    stream, far = memory_stream()
    joining = JoiningStream(stream, request())
    room, got = memoryview(bytearray(size)), b""
    for cut in [*cuts, len(rest)]:
        piece, rest = rest[:cut], rest[cut:]
        far.sendall(piece)
        while read := joining.read_into(room):
            got += bytes(room[:read])

    assert got == items
    far.close()
    joining.close(polite=False)
