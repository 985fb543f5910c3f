# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import os
import ssl
import warnings

import pytest

from integration.server_lab import a_server, asynchronous, shared_identity
from scripted_client import (
    DATE,
    ScriptedClient,
    login_pack,
    trusting_context,
)
from sevpn.protocol.envelope import pack_request, signature_request
from sevpn.protocol.messages import Welcome, decode_login_answer
from sevpn.server.config import HubConfig, ServerConfig, User
from sevpn.server.policy import Policy
from sevpn.server.server import Server
from sevpn.wire.http import Request, encode_request
from sevpn.wire.pack import Pack, data, integer, text

HTML = "text/html; charset=iso-8859-1"


def post(body: bytes, path: str = "/vpnsvc/connect.cgi", method: str = "POST") -> bytes:
    return encode_request(Request(method, path, (("Host", "x"),), body))


# --- signature ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (post(b"", "/", "GET"), 403),
        (post(b"", "/index.html", "GET"), 404),
        (post(b"", "/", "HEAD"), 403),
        (post(b"", "/", "BREW"), 501),
        (post(b"vpnconnect"), 403),
        (post(bytes(1411)), 403),
        (post(b"VPNCONNECT", "/other"), 404),
    ],
)
@asynchronous
async def test_a_stranger_is_answered_and_may_try_again(
    request_bytes: bytes, status: int
) -> None:
    async with a_server() as server:
        client = await ScriptedClient.connect(server)

        response = await client.request(request_bytes)
        assert response.status == status
        assert response.header("Content-Type") == HTML

        await client.greet()
        assert len(client.hello.challenge) == 20
        await client.close()


@asynchronous
async def test_the_official_client_finds_the_tag_that_it_looks_for() -> None:
    async with a_server() as server:
        client = await ScriptedClient.connect(server)
        response = await client.request(post(b"", "/", "GET"))
        await client.close()

        assert b"9C37197CA7C2428388C2E6E59B829B30" in response.body


@pytest.mark.parametrize("size", [0, 9, 11, 1410, 3412])
@asynchronous
async def test_a_signature_of_the_wrong_size_ends_the_connection(size: int) -> None:
    async with a_server() as server:
        client = await ScriptedClient.connect(server)

        response = await client.request(post(bytes(size)))

        assert response.status == 403
        assert await client.ended() == "fin"


@asynchronous
async def test_after_nineteen_requests_without_a_signature_it_is_over() -> None:
    async with a_server() as server:
        client = await ScriptedClient.connect(server)
        for _ in range(19):
            assert (await client.request(post(b"vpnconnect"))).status == 403

        with pytest.raises((ConnectionError, ssl.SSLError)):
            await client.request(post(b"VPNCONNECT"))


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01 not HTTP\r\n\r\n",
        b"GET /\r\n\r\n",
        b"x" * 9000,
        post(bytes(70000)),
    ],
)
@asynchronous
async def test_what_is_no_http_ends_the_connection(garbage: bytes) -> None:
    async with a_server() as server:
        client = await ScriptedClient.connect(server)
        client.writer.write(garbage)

        assert await client.ended() in {"fin", "reset"}


@asynchronous
async def test_a_client_that_drips_is_ended_by_the_deadline() -> None:
    async with a_server() as server:
        client = await ScriptedClient.connect(server)
        began_at = asyncio.get_running_loop().time()

        async def drip() -> None:
            for octet in post(bytes(1411)):
                client.writer.write(bytes([octet]))
                await asyncio.sleep(0.1)

        task = asyncio.create_task(drip())
        assert await client.ended() in {"fin", "reset"}
        task.cancel()

        assert 1.5 < asyncio.get_running_loop().time() - began_at < 4


@asynchronous
async def test_a_client_without_tls_is_ended() -> None:
    async with a_server() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")

        async with asyncio.timeout(5):
            await reader.read()
        writer.transport.abort()


@asynchronous
async def test_a_silent_client_is_ended_by_the_deadline() -> None:
    async with a_server() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.transport.abort()


# --- login --------------------------------------------------------------------


@asynchronous
async def test_each_connection_has_a_challenge_of_its_own() -> None:
    async with a_server() as server:
        challenges = set()
        for _ in range(3):
            client = await ScriptedClient.connect(server)
            await client.greet()
            challenges.add(client.hello.challenge)
            await client.close()

        assert len(challenges) == 3


@asynchronous
async def test_a_password_login_is_welcomed() -> None:
    async with a_server(Policy(timeout_s=30), message="Good day.") as server:
        client = await ScriptedClient.logged_in(
            server, login_pack(user="Bob", kind=1), password="secret"
        )
        welcome = decode_login_answer(client.welcome)

        assert isinstance(welcome, Welcome)
        assert welcome.session_name == "SID-BOB-1"
        assert welcome.message == "Good day."
        assert welcome.timeout_s == 30
        assert welcome.max_connections == 1
        assert welcome.policy["NoBridge"] == 1
        assert [one.name for one in server.sessions()] == ["SID-BOB-1"]
        await client.close()


@asynchronous
async def test_connections_qos_and_compression_are_granted() -> None:
    async with a_server() as server:
        wishes = (
            integer("max_connection", 8),
            integer("qos", 1),
            integer("use_compress", 1),
            integer("half_connection", 1),
        )
        client = await ScriptedClient.logged_in(
            server, login_pack("TEST", "alice", 0, *wishes)
        )

        assert client.welcome.get_int("qos") == 1
        assert client.welcome.get_int("half_connection") == 1
        assert client.welcome.get_int("use_compress") == 1
        assert client.welcome.get_int("max_connection") == 8
        assert client.welcome.get_int("use_encrypt") == 1
        await client.close()


@pytest.mark.parametrize(
    ("login", "code"),
    [
        (login_pack("OTHER"), 8),
        (login_pack("TEST", "bob", 1, data("secure_password", bytes(20))), 9),
        (login_pack("TEST", "alice", 97), 7),
        (Pack((text("method", "login"),)), 4),
        (Pack((text("method", "nonsense"),)), 4),
        (Pack(()), 4),
        (Pack((text("method", "additional_connect"),)), 4),
        (
            Pack(
                (
                    text("method", "additional_connect"),
                    data("session_key", bytes(20)),
                )
            ),
            13,
        ),
    ],
)
@asynchronous
async def test_a_refusal_carries_its_number_and_leaves_the_end_to_the_client(
    login: Pack, code: int
) -> None:
    async with a_server() as server:
        client = await ScriptedClient.connect(server)
        await client.greet()

        answer = await client.log_in(login)

        assert answer.get_int("error") == code
        assert server.sessions() == ()
        await client.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(b"\xff" * 40, "/vpnsvc/vpn.cgi"),
        post(b"", "/vpnsvc/vpn.cgi", "GET"),
        pack_request(login_pack(), host="x", random=os.urandom, date=DATE).replace(
            b"HTTP/1.1", b"HTTP/1.0"
        ),
        pack_request(login_pack(), host="x", random=os.urandom, date=DATE).replace(
            b"octet-stream", b"json; a=bcd"
        ),
        b"POST /vpnsvc/vpn.cgi HTTP/1.1\r\nContent-Type: application/octet-stream\r\nContent-Length: 65537\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
@asynchronous
async def test_a_login_that_cannot_be_read_is_error_3(request_bytes: bytes) -> None:
    async with a_server() as server:
        client = await ScriptedClient.connect(server)
        await client.greet()

        client.writer.write(request_bytes)
        response = await client.response()

        assert response.carries_pack
        assert b"error" in response.body
        assert server.login_count == 0
        await client.close()


@asynchronous
async def test_thirty_noops_are_answered_and_the_next_is_error_3() -> None:
    noop = Pack((integer("error", 0), integer("noop", 1)))
    async with a_server() as server:
        client = await ScriptedClient.connect(server)
        await client.greet()
        for _ in range(30):
            assert (await client.ask(noop)).get_int("noop") == 1

        assert (await client.ask(noop)).get_int("error") == 3
        await client.close()


@asynchronous
async def test_the_hubs_are_listed() -> None:
    async with a_server() as server:
        client = await ScriptedClient.connect(server)
        await client.greet()

        answer = await client.ask(Pack((text("method", "enum_hub"),)))

        assert answer.get_strs("HubName") == ("TEST",)
        await client.close()


# --- the server as such -------------------------------------------------------


@asynchronous
async def test_the_fingerprint_is_that_of_the_certificate_presented() -> None:
    import hashlib

    async with a_server() as server:
        client = await ScriptedClient.connect(server)
        presented = client.writer.get_extra_info("ssl_object").getpeercert(
            binary_form=True
        )
        await client.close()

        assert hashlib.sha256(presented).hexdigest() == server.certificate_sha256


@asynchronous
async def test_a_certificate_made_at_start_is_for_the_address_listened_on() -> None:
    config = ServerConfig(
        listen=("127.0.0.1:0",), hubs=(HubConfig(users=(User.anonymous("a"),)),)
    )
    async with Server(config) as server:
        context = ssl.create_default_context(
            cadata=server.identity.certificate_pem.decode()
        )
        _, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=context, server_hostname="127.0.0.1"
        )
        writer.transport.abort()


@asynchronous
async def test_old_tls_is_refused() -> None:
    async with a_server() as server:
        context = trusting_context()
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", server.port, ssl=context)


@asynchronous
async def test_a_server_that_was_stopped_starts_again_on_its_port() -> None:
    server = a_server()
    await server.start()
    client = await ScriptedClient.logged_in(server)
    port = server.port

    await server.stop()
    assert await client.ended() == "fin"
    assert server.sessions() == ()
    with pytest.raises(ConnectionRefusedError):
        await ScriptedClient.connect(server)

    await server.start()
    assert server.port == port
    again = await ScriptedClient.logged_in(server)
    await again.close()
    await server.stop()


@asynchronous
async def test_more_half_open_connections_than_allowed_are_closed_unanswered() -> None:
    config = ServerConfig(listen=("127.0.0.1:0",), max_handshakes=2)
    async with Server(config, identity=shared_identity()) as server:
        held = [await ScriptedClient.connect(server) for _ in range(2)]
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await ScriptedClient.connect(server)

        await held.pop().close()
        await asyncio.sleep(0.1)
        other = await ScriptedClient.connect(server)
        response = await other.request(signature_request(host="x"))
        assert response.status == 200
        await other.close()
        await held.pop().close()
