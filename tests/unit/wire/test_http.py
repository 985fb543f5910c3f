# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import datetime as dt
import itertools
from email.utils import format_datetime
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, strategies as st

from sevpn.errors import LocalProtocolError, RemoteProtocolError
from sevpn.wire.http import (
    MAX_HEADER_SIZE,
    PACK_TYPE,
    HttpReader,
    Request,
    Response,
    encode_date,
    encode_request,
    encode_response,
)

VECTORS = {
    name: bytes.fromhex(value)
    for name, value in (
        line.split(":")
        for line in (Path(__file__).parents[2] / "vectors" / "http.hex")
        .read_text()
        .splitlines()
        if line and not line.startswith("#")
    )
}

Message = Request | Response
Role = Literal["client", "server"]

PACK_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: "
)


def read_all(role: Role, *chunks: bytes, max_body: int = 1 << 20) -> list[Message]:
    reader = HttpReader(role, max_body)
    messages: list[Message] = []
    for chunk in chunks:
        reader.feed(chunk)
        while (message := reader.next_message()) is not None:
            messages.append(message)
    return messages


def read_one(role: Role, stream: bytes) -> Message:
    reader = HttpReader(role)
    reader.feed(stream)
    message = reader.next_message()
    assert message is not None
    return message


def answer(stream: bytes) -> Response:
    message = read_one("client", stream)
    assert isinstance(message, Response)
    return message


def request(stream: bytes) -> Request:
    message = read_one("server", stream)
    assert isinstance(message, Request)
    return message


def test_the_vector_of_the_signature_is_written_and_read() -> None:
    headers = (
        ("Host", "192.0.2.1"),
        ("Content-Type", "image/jpeg"),
        ("Connection", "Keep-Alive"),
    )
    sent = Request("POST", "/vpnsvc/connect.cgi", headers, b"VPNCONNECT")

    assert encode_request(sent) == VECTORS["signature"]
    read = request(VECTORS["signature"])
    assert read.is_for("post", "/VPNSVC/connect.cgi")
    assert not read.is_for("POST", "/vpnsvc/vpn.cgi")
    assert not read.carries_pack
    assert (read.body, read.header("hOST"), read.header("Date")) == (
        b"VPNCONNECT",
        "192.0.2.1",
        None,
    )


def test_the_vector_of_an_answer_is_written_and_read() -> None:
    headers = (
        ("Keep-Alive", "timeout=15; max=19"),
        ("Content-Type", PACK_TYPE),
        ("Connection", "Keep-Alive"),
    )

    assert encode_response(Response(200, "OK", headers, bytes(4))) == VECTORS["answer"]
    read = answer(VECTORS["answer"])
    assert (read.status, read.body, read.is_whole) == (200, bytes(4), True)
    assert read.status_line == "HTTP/1.1 200 OK"
    assert read.carries_pack


@pytest.mark.parametrize(
    "header", [("Host", ""), ("Host", " "), ("", "x"), ("Host", "a\r\nEvil: 1")]
)
def test_a_header_that_would_break_the_message_is_not_sent(
    header: tuple[str, str],
) -> None:
    with pytest.raises(LocalProtocolError, match="cannot be sent"):
        encode_request(Request("POST", "/", (header,)))


def test_lines_may_end_in_a_bare_line_feed() -> None:
    assert request(VECTORS["signature"].replace(b"\r\n", b"\n")).body == b"VPNCONNECT"
    assert answer(VECTORS["answer"].replace(b"\r\n", b"\n")).body == bytes(4)


def test_http_1_0_and_any_content_type_reach_the_server() -> None:
    read = request(
        b"pOsT /vpnsvc/connect.cgi HTTP/1.0\r\nContent-Type: a/b\r\nContent-Length: 1\r\n\r\nx"
    )

    assert (read.method, read.version, read.body) == ("pOsT", "HTTP/1.0", b"x")


def test_a_request_without_a_length_has_no_body() -> None:
    read = request(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    assert (read.method, read.target, read.body) == ("GET", "/", b"")
    assert not read.carries_pack


def test_a_request_carries_a_pack_by_its_exact_type() -> None:
    head = b"POST /vpnsvc/vpn.cgi HTTP/1.1\r\nContent-Length: 4\r\nContent-Type: "

    assert request(head + b"Application/Octet-Stream\r\n\r\n0000").carries_pack
    assert not request(head + b"application/octet-stream; x=y\r\n\r\n0000").carries_pack


def test_bytes_behind_a_message_are_handed_over_exactly_once() -> None:
    reader = HttpReader("client")
    reader.feed(VECTORS["answer"] + b"\xff\xff\xff\xffsession")

    assert reader.next_message() is not None
    assert reader.trailing() == b"\xff\xff\xff\xffsession"
    assert reader.trailing() == b""


def test_a_message_in_the_making_is_seen_without_its_body() -> None:
    reader = HttpReader("client")
    assert reader.pending is None
    reader.feed(VECTORS["answer"][:-1])
    assert reader.next_message() is None
    assert isinstance(reader.pending, Response)
    assert reader.pending.status_line == "HTTP/1.1 200 OK"

    reader.feed(VECTORS["answer"][-1:])
    assert reader.next_message() is not None
    assert reader.pending is None


def test_a_foreign_answer_with_a_length_is_read_whole() -> None:
    stream = b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nno"

    read = answer(stream + stream)
    assert (read.status, read.body, read.is_whole) == (403, b"no", True)
    assert not read.carries_pack
    assert len(read_all("client", stream + stream)) == 2


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 999999999\r\n",
        b"Content-Length: many\r\n",
        b"X-Empty:\r\n",
    ],
)
def test_a_foreign_answer_without_a_usable_length_comes_at_once_and_is_the_last(
    rest: bytes,
) -> None:
    reader = HttpReader("client")
    reader.feed(b"HTTP/1.0 302 \x1bFound\r\nLocation: http://portal/\r\n" + rest)
    reader.feed(b"\r\n")
    read = reader.next_message()

    assert isinstance(read, Response)
    assert not read.is_whole
    assert read.status_line == "HTTP/1.0 302 Found"
    assert read.header("location") == "http://portal/"
    with pytest.raises(LocalProtocolError):
        reader.next_message()


def test_a_status_line_may_have_no_reason() -> None:
    assert answer(b"HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n").reason == ""


MALFORMED_ANSWERS = {
    "another protocol": (b"SSH-2.0-x\r\n", "not HTTP, it begins 'SSH-2.0-x'"),
    "a bad first byte": (b"\x16", "not HTTP"),
    "an empty first line": (b"\r\n\r\n", "not HTTP"),
    "a status that is no number": (b"HTTP/1.1 OK\r\n\r\n", "no HTTP status line"),
    "another HTTP": (b"HTTP/2 200\r\n\r\n", "no HTTP status line"),
    "no colon": (b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", "'nonsense' is no line"),
    "a folded line": (b"HTTP/1.1 200 OK\r\nA: b\r\n c: d\r\n\r\n", "no line"),
    "a header without a name": (b"HTTP/1.1 200 OK\r\n: b\r\n\r\n", "no line"),
    "a body without a length": (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n",
        "no Content-Length",
    ),
    "a length of 0": (PACK_HEAD + b"0\r\n\r\n", "no Content-Length"),
    "two lengths": (
        PACK_HEAD + b"4\r\ncontent-length: 4\r\n\r\n",
        "two Content-Length",
    ),
    "another coding": (
        PACK_HEAD + b"4\r\ntransfer-encoding: chunked\r\n\r\n",
        "Transfer-Encoding",
    ),
    "a negative length": (PACK_HEAD + b"-1\r\n\r\n", "no number: '-1'"),
    "a length with a sign": (PACK_HEAD + b"+4\r\n\r\n", "no number"),
    "a length in other digits": (PACK_HEAD + b"\xb2\r\n\r\n", "no number"),
    "an empty length": (PACK_HEAD + b"\r\n\r\n", "no number"),
    "a length over the limit": (
        PACK_HEAD + b"1048577\r\n\r\n",
        "with 1048577 bytes: at most 1048576",
    ),
    "a length of a thousand digits": (
        PACK_HEAD + b"9" * 1000 + b"\r\n\r\n",
        "at most 1048576",
    ),
    "too many lines": (
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 65,
        "more than 64 lines",
    ),
    "an endless line": (b"HTTP/1.1 " + b"x" * MAX_HEADER_SIZE, "longer than 8192"),
    "an endless header": (
        b"HTTP/1.1 200 OK\r\na: " + b"x" * MAX_HEADER_SIZE + b"\r\n\r\n",
        "longer than 8192",
    ),
}

MALFORMED_REQUESTS = {
    "two words": (b"GET /\r\n\r\n", "no HTTP request line"),
    "four words": (b"GET / x HTTP/1.1\r\n\r\n", "no HTTP request line"),
    "another protocol": (b"GET / FTP/1.1\r\n\r\n", "no HTTP request line"),
    "an empty first line": (b"\r\n\r\n", "'' is no HTTP request line"),
    "an empty value": (b"POST / HTTP/1.1\r\nHost: \r\n\r\n", "'Host' is empty"),
    "a body over the limit": (
        b"POST / HTTP/1.1\r\nContent-Length: 65537\r\n\r\n",
        "at most 65536",
    ),
}


@pytest.mark.parametrize("name", MALFORMED_ANSWERS)
def test_a_malformed_answer_is_refused_with_its_reason(name: str) -> None:
    stream, reason = MALFORMED_ANSWERS[name]

    with pytest.raises(RemoteProtocolError, match=reason):
        read_all("client", stream)
    with pytest.raises(RemoteProtocolError):
        read_all("client", *(bytes([octet]) for octet in stream))


@pytest.mark.parametrize("name", MALFORMED_REQUESTS)
def test_a_malformed_request_is_refused_with_its_reason(name: str) -> None:
    stream, reason = MALFORMED_REQUESTS[name]

    with pytest.raises(RemoteProtocolError, match=reason):
        read_all("server", stream, max_body=65536)


def test_a_reader_that_raised_is_not_asked_again() -> None:
    reader = HttpReader("client")
    reader.feed(b"*")
    with pytest.raises(RemoteProtocolError):
        reader.next_message()

    with pytest.raises(LocalProtocolError):
        reader.next_message()


def test_64_lines_and_a_body_of_the_limit_are_taken() -> None:
    head = b"POST / HTTP/1.1\r\n" + b"a: b\r\n" * 63 + b"Content-Length: 065536\r\n\r\n"

    (message,) = read_all("server", head + bytes(65536), max_body=65536)
    assert len(message.headers) == 64
    assert len(message.body) == 65536


def test_a_header_of_8192_bytes_is_taken_and_one_more_is_not() -> None:
    head = b"GET / HTTP/1.1\r\na: "
    fitting = head + b"x" * (MAX_HEADER_SIZE - len(head) - 4) + b"\r\n\r\n"
    assert len(fitting) == MAX_HEADER_SIZE

    assert len(read_all("server", fitting)) == 1
    with pytest.raises(RemoteProtocolError, match="longer than 8192 bytes"):
        read_all("server", fitting[:-4] + b"y\r\n\r\n")


def test_no_body_shows_in_a_representation() -> None:
    assert "hunter2" not in repr(Request("POST", "/", (), b"hunter2"))
    assert "hunter2" not in repr(Response(200, body=b"hunter2"))


bodies = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=3)
cuts = st.lists(st.integers(0, 400), max_size=6)


def pieces(stream: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(edge, len(stream)) for edge in at), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


@given(bodies, cuts)
def test_answers_do_not_depend_on_where_the_stream_is_cut(
    sent: list[bytes], at: list[int]
) -> None:
    stream = b"".join(
        encode_response(Response(200, "OK", (("Content-Type", PACK_TYPE),), body))
        for body in sent
    )

    assert [message.body for message in read_all("client", *pieces(stream, at))] == sent


@given(bodies, cuts)
def test_requests_do_not_depend_on_where_the_stream_is_cut(
    sent: list[bytes], at: list[int]
) -> None:
    stream = b"".join(encode_request(Request("POST", "/x", (), body)) for body in sent)

    assert [message.body for message in read_all("server", *pieces(stream, at))] == sent


@given(st.sampled_from(["client", "server"]), st.lists(st.binary(max_size=80)))
def test_any_bytes_are_messages_or_the_peers_fault(
    role: Role, chunks: list[bytes]
) -> None:
    try:
        read_all(role, b"HTTP/1.1 ", *chunks)
    except (RemoteProtocolError, LocalProtocolError) as error:
        assert str(error)  # noqa: PT017 - both outcomes are right, nothing else is


@given(st.datetimes(timezones=st.just(dt.UTC)))
def test_a_date_is_written_as_the_standard_library_would(at: dt.datetime) -> None:
    assert encode_date(at) == format_datetime(at, usegmt=True)
