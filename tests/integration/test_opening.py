# SPDX-License-Identifier: Apache-2.0
"""From a host name to a session, against the embedded server in the same event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from integration.server_lab import a_server, asynchronous, until
from sevpn.errors import (
    AuthenticationError,
    ConfigError,
    Failure,
    HubNotFoundError,
    RefusedError,
    RemoteProtocolError,
    SevpnError,
    SilenceError,
)
from sevpn.protocol.credentials import Anonymous, Credentials, Password
from sevpn.protocol.identity import ClientIdentity
from sevpn.protocol.messages import Hello
from sevpn.server.faults import (
    AnswerError,
    Close,
    CloseAfter,
    Fault,
    Send,
    Silence,
    Stage,
)
from sevpn.server.server import Server
from sevpn.testing.faults import MALFORMED_ANSWERS
from sevpn.transport.resolve import Address
from sevpn.transport.stream import SecureStream
from sevpn.transport.tls import TrustPolicy
from sevpn.tunnel.opening import Destination, OpenedSession, open_session

ALICE = Anonymous("alice")


def sockets() -> int:
    """Count this process's sockets."""
    count = 0
    for fd in Path("/proc/self/fd").iterdir():
        try:
            count += str(fd.readlink()).startswith("socket:")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return count


async def opened(
    server: Server,
    *,
    hub: str = "TEST",
    credentials: Credentials = ALICE,
    hello_s: float = 5.0,
    hellos: list[Hello] | None = None,
    refusal: SevpnError | None = None,
) -> OpenedSession:
    async def on_addresses(addresses: Sequence[Address]) -> None:
        assert [str(address) for address in addresses] == ["127.0.0.1"]
        if refusal is not None:
            raise refusal

    def on_hello(_: SecureStream, hello: Hello) -> None:
        if hellos is not None:
            hellos.append(hello)

    return await open_session(
        Destination(
            host="127.0.0.1",
            port=server.port,
            hub=hub,
            credentials=credentials,
            trust=TrustPolicy(pins=(f"sha256:{server.certificate_sha256}",)),
            hello_s=hello_s,
        ),
        identify=lambda stream: ClientIdentity(
            unique_id=bytes(16),
            machine_id=bytes(20),
            client_address=stream.local_address,
        ),
        random=os.urandom,
        on_addresses=on_addresses,
        on_hello=on_hello,
    )


async def failed(server: Server, **settings: object) -> SevpnError:
    """Return how an attempt fails; it must leave neither a socket nor a task."""
    before, tasks = sockets(), len(asyncio.all_tasks())
    with pytest.raises(SevpnError) as caught:
        await opened(server, **settings)  # type: ignore[arg-type]  # as given by the tests
    await until(lambda: sockets() <= before and len(asyncio.all_tasks()) <= tasks)
    return caught.value


@pytest.mark.parametrize("credentials", [ALICE, Password.of("bob", "secret")])
@asynchronous
async def test_a_user_gets_a_session(credentials: Credentials) -> None:
    async with a_server() as server:
        hellos: list[Hello] = []
        session = await opened(server, credentials=credentials, hellos=hellos)

        assert hellos == [session.hello]
        assert session.stream.certificate_sha256 == server.certificate_sha256
        assert len(server.sessions()) == 1
        session.stream.close(polite=True)


@pytest.mark.parametrize(
    ("hub", "credentials", "error"),
    [
        ("NOWHERE", ALICE, HubNotFoundError),
        ("TEST", Anonymous("nobody"), AuthenticationError),
        ("TEST", Password.of("bob", "wrong"), AuthenticationError),
    ],
)
@asynchronous
async def test_who_may_not_enter_is_told_why(
    hub: str, credentials: Credentials, error: type[SevpnError]
) -> None:
    async with a_server() as server:
        caught = await failed(server, hub=hub, credentials=credentials)

        assert type(caught) is error
        assert not server.sessions()


@pytest.mark.parametrize("stage", [Stage.HELLO, Stage.WELCOME])
@pytest.mark.parametrize("code", [1, 8, 9, 10, 16, 21, 99, 1000])
@asynchronous
async def test_every_refusal_carries_its_number(stage: Stage, code: int) -> None:
    async with a_server() as server:
        server.faults.at(stage, AnswerError(code))
        caught = await failed(server)

        assert isinstance(caught, RefusedError)
        assert caught.code == code


@pytest.mark.parametrize(
    ("stage", "failure"),
    [
        (Stage.ACCEPT, Failure.UNREACHABLE),
        (Stage.TLS, Failure.UNREACHABLE),
        (Stage.HELLO, Failure.UNREACHABLE),
        (Stage.WELCOME, Failure.TEMPORARY),
    ],
)
@asynchronous
async def test_silence_costs_the_deadline_and_is_named_by_its_stage(
    stage: Stage, failure: Failure
) -> None:
    async with a_server() as server:
        server.faults.at(stage, Silence())
        caught = await failed(server, hello_s=0.3)

        assert type(caught) is SilenceError
        assert caught.failure is failure


@pytest.mark.parametrize("is_reset", [False, True])
@pytest.mark.parametrize("stage", [Stage.ACCEPT, Stage.TLS, Stage.HELLO, Stage.WELCOME])
@asynchronous
async def test_an_end_at_a_stage_is_the_peers_or_passes(
    stage: Stage, is_reset: bool
) -> None:
    async with a_server() as server:
        server.faults.at(stage, Close(is_reset=is_reset))
        caught = await failed(server)

        assert caught.failure in {Failure.PEER, Failure.TEMPORARY}


@asynchronous
async def test_an_end_after_any_byte_is_the_peers_or_passes() -> None:
    async with a_server() as server:
        outcomes: list[Failure | None] = []
        before = sockets()
        for size in range(0, 3000, 23):
            server.faults.at(Stage.TLS, CloseAfter(sent_bytes=size))
            try:
                session = await opened(server)
            except SevpnError as error:
                outcomes.append(error.failure)
            else:
                session.stream.close(polite=False)
                outcomes.append(None)
        await until(lambda: sockets() <= before)

        # Answers are padded at random: where the Welcome ends differs from one to another.
        assert set(outcomes) <= {Failure.PEER, Failure.TEMPORARY, None}
        assert Failure.PEER in outcomes
        assert None not in outcomes[:10]


@pytest.mark.parametrize("stage", [Stage.HELLO, Stage.WELCOME])
@pytest.mark.parametrize("name", sorted(MALFORMED_ANSWERS))
@asynchronous
async def test_a_malformed_answer_is_the_peers_fault(name: str, stage: Stage) -> None:
    async with a_server() as server:
        server.faults.at(stage, Send(MALFORMED_ANSWERS[name]))
        caught = await failed(server)

        assert caught.failure in {Failure.PEER, Failure.TEMPORARY}


@asynchronous
async def test_a_hello_is_not_taken_for_a_welcome() -> None:
    async with a_server() as server:
        fault: Fault = Send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        server.faults.at(Stage.WELCOME, fault)

        assert isinstance(await failed(server), RemoteProtocolError)


@asynchronous
async def test_a_host_that_is_not_ready_is_never_dialled_from() -> None:
    async with a_server() as server:
        caught = await failed(server, refusal=ConfigError("no"))

        assert str(caught) == "no"
        assert server.connection_count == 0


@asynchronous
async def test_a_cancelled_attempt_leaves_nothing_behind() -> None:
    async with a_server() as server:
        before = sockets()
        server.faults.at(Stage.HELLO, Silence())
        attempt = asyncio.ensure_future(opened(server))
        await until(lambda: server.connection_count)
        await asyncio.sleep(0.1)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt

        await until(lambda: sockets() <= before)
