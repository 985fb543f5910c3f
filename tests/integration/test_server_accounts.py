# SPDX-License-Identifier: Apache-2.0
"""The embedded server and our client: certificates, passwords that change, hubs."""

from __future__ import annotations

import datetime as dt
import functools
import os
from collections.abc import Sequence

import pytest

from integration.server_lab import asynchronous, shared_identity
from sevpn.config.keyfile import read_client_key
from sevpn.errors import AuthenticationError, Failure, RefusedError, SilenceError
from sevpn.protocol.credentials import (
    Certificate,
    Credentials,
    Password,
    PlainPassword,
    hash_password,
)
from sevpn.protocol.identity import ClientIdentity
from sevpn.server.config import HubConfig, ServerConfig, User
from sevpn.server.faults import Delay, Silence, Stage
from sevpn.server.policy import Policy
from sevpn.server.server import Server
from sevpn.testing.userkeys import UserKey, make_user_key
from sevpn.transport.tls import TrustPolicy
from sevpn.tunnel.account import change_password, list_hubs
from sevpn.tunnel.opening import Address, Destination, OpenedSession, open_session

BOB = functools.cache(make_user_key)


def a_server() -> Server:
    hub = HubConfig(
        name="TEST",
        users=(
            User.with_password("alice", "secret"),
            User.with_certificate("bob", BOB().pem),
            User.with_password("fixed", "secret", policy=Policy(fix_password=True)),
        ),
    )
    config = ServerConfig(
        listen=("127.0.0.1:0",), hubs=(hub, HubConfig(name="OTHER")), deadline_s=9.0
    )
    return Server(config, identity=shared_identity())


def destination(
    server: Server, credentials: Credentials, *, hello_s: float = 9.0
) -> Destination:
    return Destination(
        host="127.0.0.1",
        port=server.port,
        hub="TEST",
        credentials=credentials,
        trust=TrustPolicy(pins=(f"sha256:{server.certificate_sha256}",)),
        hello_s=hello_s,
    )


async def login(
    server: Server, credentials: Credentials, *, hello_s: float = 9.0
) -> OpenedSession:
    async def on_addresses(addresses: Sequence[Address]) -> None:
        assert addresses

    opened = await open_session(
        destination(server, credentials, hello_s=hello_s),
        identify=lambda stream: ClientIdentity(
            unique_id=bytes(16),
            machine_id=bytes(20),
            client_address=stream.local_address,
        ),
        random=os.urandom,
        on_addresses=on_addresses,
        on_hello=lambda _stream, _hello: None,
    )
    opened.stream.close(polite=True)
    return opened


def certificate(user: UserKey) -> Certificate:
    key = read_client_key(
        user.pem,
        user.key_pem(),
        name="bob.pem",
        ask=lambda: "",
        now=dt.datetime.now(dt.UTC),
    )
    return Certificate("bob", key.certificate, key.sign)


@asynchronous
async def test_a_user_with_a_certificate_gets_a_session() -> None:
    async with a_server() as server:
        opened = await login(server, certificate(BOB()))

        assert opened.welcome.session_name.startswith("SID-BOB-")


@asynchronous
async def test_another_certificate_of_the_same_name_does_not() -> None:
    async with a_server() as server:
        with pytest.raises(AuthenticationError, match="refused the certificate"):
            await login(server, certificate(make_user_key(name="bob")))


@asynchronous
async def test_a_password_that_was_changed_is_the_only_one() -> None:
    async with a_server() as server:
        old, new = Password.of("alice", "secret"), Password.of("alice", "better")

        await change_password(destination(server, old), old, new.hashed)

        await login(server, new)
        await login(server, PlainPassword("alice", "better"))
        with pytest.raises(AuthenticationError):
            await login(server, old)


@pytest.mark.parametrize(
    ("user", "old", "code"),
    [
        ("alice", "wrong", 69),
        ("nobody", "x", 69),
        ("bob", "x", 68),
        ("fixed", "secret", 52),
    ],
)
@asynchronous
async def test_a_password_that_may_not_be_changed_stays(
    user: str, old: str, code: int
) -> None:
    async with a_server() as server:
        proof = Password.of(user, old)

        with pytest.raises(RefusedError) as caught:
            await change_password(
                destination(server, proof), proof, hash_password(user, "better")
            )

        assert caught.value.code == code
        await login(server, Password.of("alice", "secret"))


@asynchronous
async def test_the_hubs_are_listed_in_order() -> None:
    async with a_server() as server:
        asked = destination(server, Password.of("", ""))

        assert await list_hubs(asked) == ("TEST", "OTHER")


@asynchronous
async def test_a_server_that_lists_nothing_in_time_is_silent() -> None:
    async with a_server() as server:
        server.faults.at(Stage.HELLO, Silence())
        asked = destination(server, Password.of("", ""), hello_s=0.3)

        with pytest.raises(SilenceError, match="did not answer within") as caught:
            await list_hubs(asked)

        assert caught.value.failure is Failure.TEMPORARY


@asynchronous
async def test_who_must_be_approved_elsewhere_is_waited_for() -> None:
    async with a_server() as server:
        server.faults.at(Stage.WELCOME, Delay(2.0), times=2)
        plain = PlainPassword("alice", "secret")

        assert (await login(server, plain, hello_s=1.5)).welcome.session_name
        with pytest.raises(SilenceError, match="authentication server may be slow"):
            await login(server, Password.of("alice", "secret"), hello_s=1.5)
