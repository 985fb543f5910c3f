# SPDX-License-Identifier: Apache-2.0
"""What docs/reference/protocol.md#versions says of 5.01.9674, read from the real server."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator

import pytest

from dhcp_subscriber import borrow_socket
from scripted_client import DATE, login_pack, trusting_context
from sevpn.protocol.credentials import hash_password, secure_password
from sevpn.protocol.envelope import pack_request, signature_request
from sevpn.protocol.messages import encode_noop
from sevpn.testing.lab import SERVER, Client, Hub
from sevpn.wire.http import HttpReader, Request, Response, encode_request
from sevpn.wire.pack import Pack, data, decode_pack

pytestmark = [pytest.mark.netns, pytest.mark.interop]


class Visitor:
    """One connection to the real server that asks for what the test wants."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self.tls = tls
        self.http = HttpReader("client")

    def request(self, octets: bytes) -> Response:
        self.tls.sendall(octets)
        while (message := self.http.next_message()) is None:
            piece = self.tls.recv(65536)
            assert piece, "the server closed the connection"
            self.http.feed(piece)
        assert isinstance(message, Response)
        return message

    def ask(self, pack: Pack) -> Pack:
        request = pack_request(pack, host=SERVER, random=os.urandom, date=DATE)
        return decode_pack(self.request(request).body)


@pytest.fixture
def visitor(client: Client) -> Iterator[Visitor]:
    plain = borrow_socket(
        client.machine, f"socket.create_connection(({SERVER!r}, 443))"
    )
    plain.settimeout(20)
    with trusting_context().wrap_socket(plain) as tls:
        yield Visitor(tls)


def test_the_page_at_the_root_is_forbidden_and_the_login_goes_on_behind_it(
    visitor: Visitor, plain_hub: Hub
) -> None:
    page = visitor.request(encode_request(Request("GET", "/", (("Host", SERVER),))))
    hello = decode_pack(visitor.request(signature_request(host=SERVER)).body)
    noop = visitor.ask(encode_noop())
    proof = secure_password(hash_password("alice", "secret"), hello.get_data("random"))
    welcome = visitor.ask(
        login_pack(plain_hub.name, "alice", 1, data("secure_password", proof))
    )

    assert page.status == 403
    assert (hello.get_int("version"), hello.get_int("build")) == (501, 9674)
    assert noop.get_int("noop") == 1
    assert welcome.get_int("error") == 0
    assert welcome.get_str("session_name").startswith("SID-ALICE-")
    assert "use_fast_rc4" not in welcome
    policies = [one for one in welcome if one.name.startswith("policy:")]
    assert len(policies) == 39
