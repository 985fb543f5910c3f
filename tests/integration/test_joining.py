# SPDX-License-Identifier: Apache-2.0
"""Another connection for a session, against the embedded server in the same event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from integration.server_lab import a_server, asynchronous, until
from sevpn.errors import (
    CertificateError,
    Failure,
    RefusedError,
    RemoteProtocolError,
    SevpnError,
    SilenceError,
    TransportError,
)
from sevpn.protocol.credentials import Anonymous
from sevpn.protocol.identity import ClientIdentity
from sevpn.protocol.joining import Direction
from sevpn.server.certificate import make_identity
from sevpn.server.faults import AnswerError, Close, CloseAfter, Send, Silence, Stage
from sevpn.server.server import Server
from sevpn.testing.faults import MALFORMED_ANSWERS
from sevpn.transport.dialing import Dialing
from sevpn.transport.resolve import Address
from sevpn.transport.stream import SecureStream
from sevpn.transport.tls import TrustPolicy
from sevpn.tunnel.connections import session_options
from sevpn.tunnel.opening import (
    Destination,
    Joiner,
    OpenedConnection,
    OpenedSession,
    Peer,
    open_session,
)


def sockets() -> int:
    """Count this process's sockets."""
    count = 0
    for fd in Path("/proc/self/fd").iterdir():
        try:
            count += str(fd.readlink()).startswith("socket:")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return count


def identify(stream: SecureStream) -> ClientIdentity:
    return ClientIdentity(
        unique_id=bytes(16), machine_id=bytes(20), client_address=stream.local_address
    )


class Opened:
    """A session of several connections, and how more of them are opened."""

    def __init__(
        self, destination: Destination, session: OpenedSession, peer: Peer
    ) -> None:
        self.destination = destination
        self.session = session
        self.peer = peer
        self.streams = [session.stream]

    @classmethod
    async def on(
        cls, server: Server, *, connections: int = 4, is_half_duplex: bool = False
    ) -> Opened:
        async def on_addresses(_: Sequence[Address]) -> None:
            pass

        destination = Destination(
            host="localhost",
            port=server.port,
            hub="TEST",
            credentials=Anonymous("alice"),
            trust=TrustPolicy(pins=(f"sha256:{server.certificate_sha256}",)),
            dialing=Dialing(family="4"),
            hello_s=5.0,
            options=session_options(connections, is_half_duplex=is_half_duplex),
        )
        session = await open_session(
            destination,
            identify=identify,
            random=os.urandom,
            on_addresses=on_addresses,
            on_hello=lambda _stream, _hello: None,
        )
        return cls(destination, session, session.peer)

    async def add(self) -> OpenedConnection:
        opened = await Joiner(
            self.destination,
            self.peer,
            self.session.welcome,
            identify=identify,
            random=os.urandom,
        ).join()
        self.streams.append(opened.stream)
        return opened

    async def fail(self) -> SevpnError:
        """Return how an attempt fails; it must leave neither a socket nor a task."""
        before, tasks = sockets(), len(asyncio.all_tasks())
        with pytest.raises(SevpnError) as caught:
            await self.add()
        await until(lambda: sockets() <= before and len(asyncio.all_tasks()) <= tasks)
        return caught.value

    def close(self) -> None:
        for stream in self.streams:
            stream.close(polite=True)


@asynchronous
async def test_a_connection_joins_the_session() -> None:
    async with a_server() as server:
        opened = await Opened.on(server)

        added = await opened.add()

        (session,) = server.sessions()
        assert added.direction is Direction.BOTH
        await until(lambda: session.connection_count == 2)
        assert added.stream.peer_address == opened.peer.address
        opened.close()


@asynchronous
async def test_a_half_duplex_session_has_both_directions() -> None:
    async with a_server() as server:
        opened = await Opened.on(server, is_half_duplex=True)

        directions = [(await opened.add()).direction for _ in range(3)]

        assert [int(direction) for direction in directions] == [1, 1, 2]
        opened.close()


@asynchronous
async def test_another_certificate_is_never_told_the_key() -> None:
    async with a_server() as server:
        opened = await Opened.on(server)
        other = Server(server.config, identity=make_identity(("localhost",)))
        async with other:
            opened.peer = replace(opened.peer, port=other.port)
            opened.destination = replace(
                opened.destination, trust=TrustPolicy(insecure=True)
            )

            error = await opened.fail()

            assert isinstance(error, CertificateError)
            assert error.failure is Failure.UNTRUSTED
            assert other.certificate_sha256 in str(error)
            assert server.certificate_sha256 in str(error)
            assert other.login_count == 0
        opened.close()


@pytest.mark.parametrize("code", [1, 4, 13, 14, 15, 999])
@asynchronous
async def test_a_refusal_carries_its_number(code: int) -> None:
    async with a_server() as server:
        opened = await Opened.on(server)
        server.faults.at(Stage.WELCOME, AnswerError(code))

        error = await opened.fail()

        assert isinstance(error, RefusedError)
        assert error.code == code
        opened.close()


@asynchronous
async def test_a_session_that_is_over_cannot_be_joined() -> None:
    async with a_server() as server:
        opened = await Opened.on(server)
        server.disconnect(server.sessions()[0])

        error = await opened.fail()

        assert isinstance(error, RefusedError)
        assert error.code == 13
        opened.close()


@pytest.mark.parametrize("stage", [Stage.ACCEPT, Stage.TLS, Stage.HELLO, Stage.WELCOME])
@asynchronous
async def test_silence_costs_the_deadline(stage: Stage) -> None:
    async with a_server() as server:
        opened = await Opened.on(server)
        opened.destination = replace(opened.destination, hello_s=0.3)
        server.faults.at(stage, Silence())

        error = await opened.fail()

        assert isinstance(error, SilenceError)
        opened.close()


@pytest.mark.parametrize("is_reset", [False, True])
@pytest.mark.parametrize("stage", [Stage.ACCEPT, Stage.TLS, Stage.HELLO, Stage.WELCOME])
@asynchronous
async def test_an_end_at_a_stage_passes(stage: Stage, is_reset: bool) -> None:
    async with a_server() as server:
        opened = await Opened.on(server)
        server.faults.at(stage, Close(is_reset=is_reset))

        error = await opened.fail()

        assert isinstance(error, (TransportError, RemoteProtocolError))
        await opened.add()
        opened.close()


@asynchronous
async def test_an_end_after_any_byte_fails_or_joins() -> None:
    async with a_server() as server:
        opened = await Opened.on(server, connections=32)
        before = sockets()
        failures = 0
        for size in range(0, 1500, 31):
            server.faults.at(Stage.TLS, CloseAfter(sent_bytes=size))
            try:
                added = await opened.add()
            except SevpnError:
                failures += 1
            else:
                added.stream.close(polite=False)
        await until(lambda: sockets() <= before)

        assert failures > 10
        opened.close()


@pytest.mark.parametrize("stage", [Stage.HELLO, Stage.WELCOME])
@pytest.mark.parametrize("name", sorted(MALFORMED_ANSWERS))
@asynchronous
async def test_a_malformed_answer_is_the_peers_fault(name: str, stage: Stage) -> None:
    async with a_server() as server:
        opened = await Opened.on(server)
        opened.destination = replace(opened.destination, hello_s=1.0)
        server.faults.at(stage, Send(MALFORMED_ANSWERS[name]))

        error = await opened.fail()

        assert error.failure in {Failure.PEER, Failure.TEMPORARY}
        opened.close()


@asynchronous
async def test_a_cancelled_attempt_leaves_nothing_behind() -> None:
    async with a_server() as server:
        opened = await Opened.on(server)
        before = sockets()
        server.faults.at(Stage.HELLO, Silence())
        attempt = asyncio.ensure_future(opened.add())
        await until(lambda: server.connection_count == 2)
        await asyncio.sleep(0.1)

        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt

        await until(lambda: sockets() <= before)
        opened.close()
