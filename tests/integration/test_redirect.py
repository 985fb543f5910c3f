# SPDX-License-Identifier: Apache-2.0
"""From a cluster's controller to its member, against embedded servers in one event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import msgspec
import pytest

from integration.server_lab import a_server, asynchronous, until
from integration.test_opening import sockets
from sevpn.errors import (
    AuthenticationError,
    BusyError,
    CertificateError,
    Failure,
    RemoteProtocolError,
    SevpnError,
    SilenceError,
)
from sevpn.protocol.credentials import Credentials, Password, Ticket
from sevpn.protocol.identity import ClientIdentity
from sevpn.protocol.messages import SessionOptions
from sevpn.server.certificate import make_identity
from sevpn.server.faults import AnswerError, Close, Silence, Stage
from sevpn.server.server import Server
from sevpn.transport.dialing import Dialing
from sevpn.transport.resolve import Address
from sevpn.transport.stream import SecureStream
from sevpn.transport.tls import TrustPolicy
from sevpn.tunnel.opening import (
    Destination,
    Joiner,
    OpenedSession,
    open_session,
)

HERE = IPv4Address("127.0.0.1")
BOB = Password.of("bob", "secret")


def identify(stream: SecureStream) -> ClientIdentity:
    return ClientIdentity(
        unique_id=bytes(16),
        machine_id=bytes(20),
        client_address=stream.local_address,
    )


@dataclass
class Farm:
    """A controller, its member, and what the client notes on the way."""

    controller: Server
    member: Server
    addresses: list[list[str]] = field(default_factory=list)
    redirects: list[tuple[str, int]] = field(default_factory=list)
    greeted: list[str] = field(default_factory=list)

    def destination(
        self, *, credentials: Credentials = BOB, hello_s: float = 5.0
    ) -> Destination:
        return Destination(
            host="localhost",
            port=self.controller.port,
            hub="TEST",
            credentials=credentials,
            trust=TrustPolicy(pins=(f"sha256:{self.controller.certificate_sha256}",)),
            hello_s=hello_s,
            dialing=Dialing(family="4"),
            options=SessionOptions(max_connections=2),
        )

    async def open(
        self, *, credentials: Credentials = BOB, hello_s: float = 5.0
    ) -> OpenedSession:
        async def on_addresses(addresses: Sequence[Address]) -> None:
            self.addresses.append([str(address) for address in addresses])

        return await open_session(
            self.destination(credentials=credentials, hello_s=hello_s),
            identify=identify,
            random=os.urandom,
            on_addresses=on_addresses,
            on_hello=lambda stream, _: self.greeted.append(stream.certificate_sha256),
            on_redirect=lambda address, port: self.redirects.append(
                (str(address), port)
            ),
        )

    async def fail(self, *, hello_s: float = 5.0) -> SevpnError:
        """Return how it fails; neither a socket nor a task may be left."""
        before, tasks = sockets(), len(asyncio.all_tasks())
        with pytest.raises(SevpnError) as caught:
            await self.open(hello_s=hello_s)
        await until(lambda: sockets() <= before and len(asyncio.all_tasks()) <= tasks)
        return caught.value


@asynccontextmanager
async def a_farm() -> AsyncIterator[Farm]:
    async with a_server() as controller, a_server() as member:
        controller.send_logins_to(member, HERE)
        yield Farm(controller, member)


@asynchronous
async def test_the_session_is_the_members() -> None:
    async with a_farm() as farm:
        session = await farm.open()

        assert not farm.controller.sessions()
        (found,) = farm.member.sessions()
        assert (found.name, found.user) == (session.welcome.session_name, "bob")
        assert session.peer.port == farm.member.port
        assert session.peer.certificate_sha256 == farm.member.certificate_sha256
        assert str(session.dialled) == "127.0.0.1"
        assert farm.redirects == [("127.0.0.1", farm.member.port)]
        assert farm.greeted == [
            farm.controller.certificate_sha256,
            farm.member.certificate_sha256,
        ]
        assert farm.addresses == [["127.0.0.1"]] * 3
        session.stream.close(polite=True)


@asynchronous
async def test_further_connections_lead_to_the_member() -> None:
    async with a_farm() as farm:
        session = await farm.open()
        count = farm.controller.connection_count
        added = await Joiner(
            farm.destination(),
            session.peer,
            session.welcome,
            identify=identify,
            random=os.urandom,
        ).join()
        (found,) = farm.member.sessions()
        await until(lambda: found.connection_count == 2)

        assert farm.controller.connection_count == count
        for stream in (session.stream, added.stream):
            stream.close(polite=True)


@asynchronous
async def test_the_controllers_connection_is_closed_before_the_member_is_dialled() -> (
    None
):
    async with a_farm() as farm:
        before = sockets()
        farm.member.faults.at(Stage.HELLO, Silence())
        attempt = asyncio.ensure_future(farm.open())
        await until(lambda: farm.member.connection_count)
        # The connection to the member, both ends of it.
        await until(lambda: sockets() == before + 2)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        await until(lambda: sockets() <= before)


@asynchronous
async def test_the_next_attempt_asks_the_controller_again() -> None:
    async with a_farm() as farm:
        for _ in range(2):
            (await farm.open()).stream.close(polite=True)

        assert farm.controller.login_count == 2
        assert farm.member.login_count == 2


@asynchronous
async def test_a_member_with_another_certificate_is_told_nothing() -> None:
    async with a_farm() as farm:
        other = make_identity(["other"]).certificate_der
        farm.controller.send_logins_to(farm.member, HERE, certificate=other)

        error = await farm.fail()

        assert isinstance(error, CertificateError)
        assert error.failure is Failure.UNTRUSTED
        assert error.sha256 == farm.member.certificate_sha256
        assert "than its controller announced" in str(error)
        assert farm.member.login_count == 0


@asynchronous
async def test_a_redirect_loop_ends_after_one_round() -> None:
    async with a_farm() as farm:
        farm.member.send_logins_to(farm.controller, HERE)

        error = await farm.fail()

        assert isinstance(error, RemoteProtocolError)
        assert "sends the login on to 127.0.0.1" in str(error)
        assert farm.controller.login_count == 1
        assert farm.member.login_count == 1


@asynchronous
async def test_a_ticket_that_the_member_does_not_know_passes_by_itself() -> None:
    async with a_farm() as farm:
        farm.member.faults.at(Stage.WELCOME, AnswerError(9))

        error = await farm.fail()

        # Not the user's secret is wrong: three attempts and an end would be.
        assert isinstance(error, BusyError)
        assert error.failure is Failure.TEMPORARY
        assert error.code == 9


@asynchronous
async def test_a_ticket_that_nobody_gave_is_refused() -> None:
    async with a_farm() as farm:
        farm.controller.send_logins_to(None, HERE)
        with pytest.raises(AuthenticationError):
            await farm.open(credentials=Ticket("bob", bytes(20)))


@asynchronous
async def test_a_member_that_is_away_is_unreachable() -> None:
    async with a_farm() as farm:
        await farm.member.stop()

        error = await farm.fail()

        assert error.failure is Failure.UNREACHABLE
        assert f"127.0.0.1 port {farm.member.port} cannot be reached" in str(error)


@pytest.mark.parametrize("stage", [Stage.ACCEPT, Stage.TLS, Stage.HELLO, Stage.WELCOME])
@asynchronous
async def test_silence_of_the_member_costs_the_deadline(stage: Stage) -> None:
    async with a_farm() as farm:
        farm.member.faults.at(stage, Silence())

        assert isinstance(await farm.fail(hello_s=0.5), SilenceError)


@pytest.mark.parametrize("stage", [Stage.ACCEPT, Stage.TLS, Stage.HELLO, Stage.WELCOME])
@asynchronous
async def test_an_end_of_the_member_is_the_peers_or_passes(stage: Stage) -> None:
    async with a_farm() as farm:
        farm.member.faults.at(stage, Close())

        error = await farm.fail()

        assert error.failure in {Failure.PEER, Failure.TEMPORARY}


@asynchronous
async def test_what_the_controller_says_to_people_is_not_lost() -> None:
    async with a_farm() as farm:
        hub = farm.controller.hubs["test"]
        hub.config = msgspec.structs.replace(hub.config, message="Good day.")
        session = await farm.open()

        assert session.welcome.message == "Good day."
        session.stream.close(polite=True)
