# SPDX-License-Identifier: Apache-2.0
"""The language of the control socket: what is a request, and what fits a line."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given, strategies as st

from sevpn.control.protocol import (
    MAX_LINE_SIZE,
    MAX_PATH_SIZE,
    SOCKET_NAME,
    Command,
    Reply,
    Request,
)
from sevpn.metrics.snapshot import Counters, Dns, Interface, Lease, Server, Tunnel


def decode(line: bytes) -> Request:
    return msgspec.json.decode(line, type=Request)


@pytest.mark.parametrize("command", get_args(Command))
def test_a_request_survives_its_line(command: Command) -> None:
    line = msgspec.json.encode(Request(7, command))

    assert b"\n" not in line
    assert decode(line) == Request(7, command)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b'"status"',
        b"{}",
        b'{"id":1}',
        b'{"command":"status"}',
        b'{"id":"1","command":"status"}',
        b'{"id":1.5,"command":"status"}',
        b'{"id":1,"command":"Status"}',
        b'{"id":1,"command":"explode"}',
        b'{"id":1,"command":["status"]}',
        b'{"id":1,"command":"status","more":1}',
        b'{"id":1,"command":"status"}{"id":2,"command":"down"}',
        b'{"id":1,"command":"status"',
        b'{"id":' + b"9" * 5000 + b',"command":"status"}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_request_is_refused(line: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode(line)


@given(st.binary(max_size=200))
def test_any_line_is_a_request_or_refused(line: bytes) -> None:
    try:
        request = decode(line)
    except msgspec.MsgspecError:
        return
    assert request.command in get_args(Command)


def test_a_reply_says_only_what_there_is_to_say() -> None:
    assert msgspec.json.encode(Reply(error="no")) == b'{"error":"no"}'
    assert msgspec.json.encode(Reply(id=1, result={})) == b'{"id":1,"result":{}}'
    assert msgspec.json.encode(Reply(event={"n": 1})) == b'{"event":{"n":1}}'


@pytest.mark.parametrize(
    "line", [b"", b"[]", b'{"id":"x"}', b'{"error":5}', b'{"event":[]}', b"\x00"]
)
def test_what_is_no_reply_is_refused(line: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        msgspec.json.decode(line, type=Reply)


def test_a_reply_of_a_later_version_may_say_more() -> None:
    """An old `sevpn status` goes on to understand a newer tunnel."""
    line = b'{"id":1,"result":{},"later":true}'

    assert msgspec.json.decode(line, type=Reply) == Reply(id=1, result={})


def test_the_largest_status_document_fits_a_line() -> None:
    """With as much of everything as a tunnel keeps, in letters that JSON writes long."""
    sentence = "\a" * 500  # six bytes each
    route = (
        "255.255.255.255/32 via 255.255.255.254 dev sevpn0123456789 metric 4294967295"
    )
    tunnel = Tunnel(
        name="n" * 63,
        state="authenticating",
        since="2026-01-31T12:00:00Z",
        pid=2**22,
        server=Server(host="h" * 253, port=65535, hub="h" * 255, product=sentence),
        interface=Interface(name="sevpn0123456789", mac="5e" * 8, mtu=1500),
        lease=Lease(
            address="255.255.255.255/32", routes=[route] * 1000, domain=sentence
        ),
        routes=[route] * 1000,
        dns=Dns(backend="file", reason=sentence, servers=["255.255.255.255"] * 64),
        counters=Counters(inbound_bytes=2**64, dropped_frames={"reason": 2**64}),
        warnings=[sentence] * 32,
        last_error=sentence,
    )

    line = msgspec.json.encode(Reply(id=1, result=tunnel)) + b"\n"

    assert len(line) <= MAX_LINE_SIZE / 2


def test_the_longest_name_fits_roots_run_folder() -> None:
    path = Path("/run/sevpn") / ("n" * 63) / SOCKET_NAME

    assert len(bytes(path)) <= MAX_PATH_SIZE
