# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from sevpn.protocol.envelope import (
    SIGNATURE,
    is_signature,
    is_signature_size,
    pack_request,
    pack_response,
    padded,
    signature_request,
)
from sevpn.wire.http import HttpReader, Request, Response
from sevpn.wire.pack import Pack, decode_pack, integer

SIGNATURE_VECTOR = next(
    bytes.fromhex(line.split(":")[1])
    for line in (Path(__file__).parents[2] / "vectors" / "http.hex")
    .read_text()
    .splitlines()
    if line.startswith("signature:")
)
DATE = "Tue, 03 Mar 2026 12:00:00 GMT"


def counted(size: int) -> bytes:
    """Draw the number 3 for the size of the padding, and then so many bytes."""
    return b"\0\3" if size == 2 else b"x" * size


def test_the_signature_is_posted_as_the_vector_has_it() -> None:
    assert signature_request(host="192.0.2.1") == SIGNATURE_VECTOR


def test_only_the_ten_bytes_or_the_picture_are_a_signature() -> None:
    assert is_signature(SIGNATURE)
    assert not is_signature(SIGNATURE.lower())
    assert not is_signature(b"GIF89a" + bytes(1405))
    assert not is_signature(b"")


@pytest.mark.parametrize(
    ("size", "is_possible"),
    [(10, True), (9, False), (1410, False), (1411, True), (3411, True), (3412, False)],
)
def test_a_signature_has_one_of_these_sizes(size: int, is_possible: bool) -> None:
    assert is_signature_size(size) is is_possible


def test_a_pack_is_posted_with_the_official_headers() -> None:
    reader = HttpReader("server")
    reader.feed(
        pack_request(
            Pack([integer("a", 1)]), host="192.0.2.1", random=counted, date=DATE
        )
    )
    request = reader.next_message()

    assert isinstance(request, Request)
    assert request.is_for("POST", "/vpnsvc/vpn.cgi")
    assert request.carries_pack
    assert [name for name, _ in request.headers] == [
        "Connection",
        "Content-Length",
        "Content-Type",
        "Date",
        "Host",
        "Keep-Alive",
    ]
    assert (request.header("Date"), request.header("Host")) == (DATE, "192.0.2.1")
    assert decode_pack(request.body).get_int("a") == 1


def test_an_answer_has_the_same_headers_without_a_host() -> None:
    reader = HttpReader("client")
    reader.feed(pack_response(Pack(), random=counted, date=DATE))
    response = reader.next_message()

    assert isinstance(response, Response)
    assert response.carries_pack
    assert response.header("Host") is None
    assert decode_pack(response.body).get_data("pencore") == b"xxx"


@given(st.integers(0, 65535))
def test_padding_has_0_to_999_bytes_and_stands_last(drawn: int) -> None:
    drawn_sizes: list[int] = []

    def random(size: int) -> bytes:
        drawn_sizes.append(size)
        return drawn.to_bytes(2, "big") if len(drawn_sizes) == 1 else b"y" * size

    *rest, last = padded(Pack([integer("a", 1)]), random)

    assert [element.name for element in rest] == ["a"]
    assert (last.name, last.values) == ("pencore", (b"y" * (drawn % 1000),))
    assert drawn_sizes == [2, drawn % 1000]
