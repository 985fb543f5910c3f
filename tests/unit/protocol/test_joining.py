# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, strategies as st

from sevpn.errors import (
    ConnectionLostError,
    Failure,
    LocalProtocolError,
    RefusedError,
    RemoteProtocolError,
)
from sevpn.protocol.envelope import is_signature, pack_response
from sevpn.protocol.identity import ClientIdentity
from sevpn.protocol.joining import (
    ClientJoin,
    Direction,
    HelloReceived,
    Joined,
    JoinEvent,
    decode_join,
    decode_join_answer,
    encode_join,
    encode_join_answer,
    next_direction,
)
from sevpn.protocol.messages import (
    Hello,
    ServerRefusal,
    encode_error,
    encode_hello,
    encode_noop,
)
from sevpn.wire.http import HttpReader, Request
from sevpn.wire.pack import Pack, data, decode_pack, encode_pack, integer

DATE = "Tue, 03 Mar 2026 12:00:00 GMT"
KEY = bytes(range(20))
IDENTITY = ClientIdentity(unique_id=bytes(16), machine_id=bytes(20))
HELLO = Hello("SoftEther VPN Server", 444, 9807, bytes(range(20)))


def random(size: int) -> bytes:
    return b"\0\5" if size == 2 else b"r" * size


def say(pack: Pack) -> bytes:
    return pack_response(pack, random=random, date=DATE)


def answer(direction: int) -> Pack:
    return Pack((integer("error", 0), integer("direction", direction)))


class Talk:
    """A dialogue with the machine, as its server sees it."""

    def __init__(self, *, is_half_duplex: bool = False) -> None:
        self.client = ClientJoin(
            host="192.0.2.1",
            server="vpn.example",
            hub="OFFICE",
            user="alice",
            session_key=KEY,
            identity=IDENTITY,
            is_half_duplex=is_half_duplex,
            random=random,
            date=DATE,
        )
        self.requests = HttpReader("server")

    def heard(self) -> list[Request]:
        self.requests.feed(self.client.data_to_send())
        requests = list(iter(self.requests.next_message, None))
        return [request for request in requests if isinstance(request, Request)]

    def hears(self, stream: bytes) -> list[JoinEvent]:
        self.client.receive_data(stream)
        return list(iter(self.client.next_event, None))

    def after_hello(self) -> Talk:
        signature, request = self.heard()
        assert is_signature(signature.body)
        assert decode_join(decode_pack(request.body)) == KEY
        assert self.hears(say(encode_hello(HELLO))) == [HelloReceived(HELLO)]
        assert self.heard() == []
        return self


def test_a_connection_joins_from_the_signature_to_its_first_items() -> None:
    talk = Talk().after_hello()

    assert talk.hears(say(encode_noop())) == []
    assert talk.hears(say(answer(0)) + b"items") == [Joined(Direction.BOTH, b"items")]
    with pytest.raises(LocalProtocolError):
        talk.client.receive_data(b"more")


@pytest.mark.parametrize("direction", [Direction.TO_CLIENT, Direction.TO_SERVER])
def test_a_half_duplex_session_gets_directions(direction: Direction) -> None:
    talk = Talk(is_half_duplex=True).after_hello()

    assert talk.hears(say(encode_join_answer(direction))) == [Joined(direction, b"")]


@pytest.mark.parametrize(
    ("is_half_duplex", "direction"), [(False, 1), (False, 2), (True, 0), (True, 3)]
)
def test_a_direction_that_does_not_fit_the_session_is_the_peers_fault(
    is_half_duplex: bool, direction: int
) -> None:
    talk = Talk(is_half_duplex=is_half_duplex).after_hello()

    with pytest.raises(RemoteProtocolError, match=rf"direction {direction}"):
        talk.hears(say(answer(direction)))


@pytest.mark.parametrize("code", [1, 4, 13, 14, 15, 999])
def test_a_refusal_carries_its_number(code: int) -> None:
    talk = Talk().after_hello()

    with pytest.raises(RefusedError) as caught:
        talk.hears(say(encode_error(code)))
    assert caught.value.code == code


def test_the_end_before_the_answer_passes() -> None:
    talk = Talk().after_hello()

    with pytest.raises(ConnectionLostError, match="request for another") as caught:
        talk.client.receive_eof()
    assert caught.value.failure is Failure.TEMPORARY


def test_a_server_that_is_busy_at_the_hello_refuses() -> None:
    with pytest.raises(RefusedError):
        Talk().hears(say(encode_error(1)))


def test_the_key_is_in_no_representation() -> None:
    talk = Talk()

    assert KEY.hex() not in repr(vars(talk.client)["_events"])
    assert repr(KEY) not in repr(talk.client)
    assert repr(KEY) not in repr(encode_join(KEY, IDENTITY))
    assert repr(KEY) not in str(encode_join(KEY, IDENTITY))


@pytest.mark.parametrize("size", [0, 19, 21, 4096])
def test_a_key_of_another_size_is_none(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"{size} bytes"):
        decode_join(Pack((data("session_key", bytes(size)),)))


@given(st.binary(min_size=20, max_size=20))
def test_a_request_to_join_is_read_as_it_was_made(key: bytes) -> None:
    assert decode_join(decode_pack(encode_pack(encode_join(key, IDENTITY)))) == key


@pytest.mark.parametrize("direction", Direction)
def test_an_answer_is_read_as_it_was_made(direction: Direction) -> None:
    made = decode_pack(encode_pack(encode_join_answer(direction)))

    assert decode_join_answer(made) is direction


def test_an_answer_without_a_direction_is_none() -> None:
    with pytest.raises(RemoteProtocolError, match="no direction"):
        decode_join_answer(Pack((integer("error", 0),)))


def test_an_error_is_read_before_the_direction() -> None:
    assert decode_join_answer(
        Pack((integer("error", 13), integer("direction", 77)))
    ) == ServerRefusal(13)


@given(st.binary(max_size=300))
def test_any_bytes_are_understood_or_the_peers_fault(stream: bytes) -> None:
    talk = Talk().after_hello()

    with contextlib.suppress(RemoteProtocolError, RefusedError):
        talk.hears(stream)


def test_directions_alternate_as_servers_choose_them() -> None:
    directions = [Direction.TO_SERVER]
    for _ in range(4):
        directions.append(next_direction(directions))

    assert [int(one) for one in directions] == [2, 1, 1, 2, 1]


def test_each_direction_says_who_may_send() -> None:
    ways = {
        direction: (direction.carries_to_server, direction.carries_to_client)
        for direction in Direction
    }

    assert ways == {
        Direction.BOTH: (True, True),
        Direction.TO_CLIENT: (False, True),
        Direction.TO_SERVER: (True, False),
    }
