# SPDX-License-Identifier: Apache-2.0
"""From a host name to a session: resolve, dial, TLS, Hello, login, Welcome.

Then, as often as wanted, another connection for it: dial the same address, TLS with
the same certificate, Hello, request to join.

Layer: tunnel. Runs in: the control thread, on the event loop.

The bytes are `transport`'s, the conversation is `protocol/handshake.py`'s; this
module brings them together and keeps the two deadlines: one from the first
look-up to the Hello, and one for the server's answer to the login, which is
longer where a person or another server has to approve. Joining has one deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, TypeVar

from sevpn.errors import (
    CertificateError,
    Failure,
    HostError,
    RemoteProtocolError,
    SevpnError,
    SilenceError,
)
from sevpn.protocol.conversation import Conversation
from sevpn.protocol.credentials import Credentials, PlainPassword
from sevpn.protocol.handshake import (
    ClientHandshake,
    HelloReceived,
    Redirected,
    Welcomed,
)
from sevpn.protocol.identity import ClientIdentity
from sevpn.protocol.joining import ClientJoin, Direction, Joined
from sevpn.protocol.messages import Hello, SessionOptions, Welcome
from sevpn.transport.stream import SecureStream, open_stream
from sevpn.transport.tls import TrustPolicy

__all__ = [
    "Destination",
    "OpenedConnection",
    "OpenedSession",
    "Peer",
    "open_additional",
    "open_session",
]

_APPROVAL_FACTOR: Final = 4
"""A person or another server that has to approve takes longer: 120 s for 30 s."""

Address = IPv4Address | IPv6Address
Outcome = TypeVar("Outcome")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a session is to be opened, and as whom."""

    host: str
    """Name or address of the server."""

    port: int
    """TCP port."""

    hub: str
    """The virtual hub."""

    credentials: Credentials
    """Who logs in."""

    trust: TrustPolicy
    """Which certificate is accepted."""

    family: Literal["any", "4", "6"]
    """Which IP versions are tried."""

    hello_s: float
    """Seconds from the first look-up to the Hello."""

    options: SessionOptions = field(default_factory=SessionOptions)
    """What is asked of the session."""

    @property
    def welcome_s(self) -> float:
        """Seconds that the server may take for the login."""
        is_slow = isinstance(self.credentials, PlainPassword)
        return self.hello_s * (_APPROVAL_FACTOR if is_slow else 1)


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A session, and the connection that it begins with."""

    stream: SecureStream
    """The first connection; the caller owns it now."""

    hello: Hello
    """What the server said of itself."""

    welcome: Welcome
    """What it granted."""

    leftover: bytes
    """Bytes of the session that came with the Welcome."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom a session was opened with: where its other connections must lead."""

    address: Address
    """The address that was dialled."""

    certificate_sha256: str
    """Of the certificate that was trusted, in hex."""

    @classmethod
    def of(cls, stream: SecureStream) -> Peer:
        """Return the peer of a session's first connection."""
        return cls(stream.peer_address, stream.certificate_sha256)


@dataclass(frozen=True, slots=True)
class OpenedConnection:
    """Another connection of a session."""

    stream: SecureStream
    """The connection; the caller owns it now."""

    direction: Direction
    """Which way it carries frames."""

    leftover: bytes
    """Bytes of the session that came with the answer."""


async def open_session(
    destination: Destination,
    *,
    identify: Callable[[SecureStream], ClientIdentity],
    random: Callable[[int], bytes],
    on_addresses: Callable[[Sequence[Address]], Awaitable[None]],
    on_hello: Callable[[SecureStream, Hello], None],
) -> OpenedSession:
    """Open a session.

    Args:
        destination: Where, and as whom.
        identify: Says what the login tells of this host, given the connection.
        random: Returns so many random bytes.
        on_addresses: Awaited between the look-up and the first connection: the
            host routes are set there.
        on_hello: Called when the server has said Hello.

    Raises:
        TransportError: No connection, no trust, or silence.
        RemoteProtocolError: The peer is no SoftEther server, or breaks the rules.
        RefusedError: The server said no.
        HostError: From *on_addresses*; or the server redirects to another one.

    Whatever is raised, cancellation included, no connection stays open.
    """
    began_at = asyncio.get_running_loop().time()
    stream = await open_stream(
        destination.host,
        destination.port,
        trust=destination.trust,
        family=destination.family,
        timeout_s=destination.hello_s,
        on_addresses=on_addresses,
    )
    with contextlib.ExitStack() as undo:
        undo.callback(stream.close, polite=False)
        conversation = _Login(stream, destination, identify(stream), random)
        took_s = asyncio.get_running_loop().time() - began_at
        hello = await conversation.hello(max(0.0, destination.hello_s - took_s))
        on_hello(stream, hello)
        welcome, leftover = await conversation.welcome(destination.welcome_s)
        undo.pop_all()
    return OpenedSession(stream, hello, welcome, leftover)


async def open_additional(
    destination: Destination,
    peer: Peer,
    welcome: Welcome,
    *,
    identify: Callable[[SecureStream], ClientIdentity],
    random: Callable[[int], bytes],
) -> OpenedConnection:
    """Open another connection of a session.

    Args:
        destination: Where the session was opened, and as whom.
        peer: Whom it was opened with.
        welcome: What the server granted.
        identify: Says what is told of this host, given the connection.
        random: Returns so many random bytes.

    Raises:
        CertificateError: The server presents another certificate than before.
        TransportError: No connection, or silence.
        RemoteProtocolError: The peer is no SoftEther server, or breaks the rules.
        RefusedError: The server said no.

    Whatever is raised, cancellation included, no connection stays open.
    """
    silence = SilenceError(
        f"{destination.host} did not add a connection within {destination.hello_s:.0f} s",
        failure=Failure.TEMPORARY,
    )
    try:
        async with asyncio.timeout(destination.hello_s):
            stream = await _dial_again(destination, peer)
            with contextlib.ExitStack() as undo:
                undo.callback(stream.close, polite=False)
                machine = ClientJoin(
                    host=str(stream.peer_address),
                    server=destination.host,
                    hub=destination.hub,
                    user=destination.credentials.user,
                    session_key=welcome.session_key,
                    identity=identify(stream),
                    is_half_duplex=welcome.half_connection,
                    random=random,
                    date=email.utils.formatdate(usegmt=True),
                )
                while not isinstance(event := machine.next_event(), Joined):
                    await _exchange(stream, machine)
                undo.pop_all()
            return OpenedConnection(stream, event.direction, event.trailing)
    except TimeoutError:
        raise silence from None


async def _dial_again(destination: Destination, peer: Peer) -> SecureStream:
    # What was trusted is the certificate: it, and nothing else, is trusted again.
    trust = TrustPolicy(
        pins=(f"sha256:{peer.certificate_sha256}",),
        server_name=destination.trust.server_name or destination.host,
    )
    try:
        return await open_stream(
            str(peer.address),
            destination.port,
            trust=trust,
            timeout_s=destination.hello_s,
            on_addresses=_need_no_routes,
        )
    except CertificateError as error:
        raise CertificateError(
            f"{destination.host} presents another certificate to a further connection (sha256:{error.sha256}) "
            f"than the session began with (sha256:{peer.certificate_sha256}): "
            "somebody may be between, or servers of one name differ",
            sha256=error.sha256,
            reason="pin",
        ) from error


async def _need_no_routes(_addresses: Sequence[Address]) -> None:
    """The address is the session's, and its host route is set."""


async def _exchange(stream: SecureStream, machine: Conversation[Outcome]) -> None:
    """Give the server what it is to get, or else the machine what the server says."""
    if data := machine.data_to_send():
        await stream.send(data)
    else:
        data = await stream.receive()
        if data:
            machine.receive_data(data)
        else:
            machine.receive_eof()


class _Login:
    """The handshake machine on a stream."""

    def __init__(
        self,
        stream: SecureStream,
        destination: Destination,
        identity: ClientIdentity,
        random: Callable[[int], bytes],
    ) -> None:
        self._stream = stream
        self._host = destination.host
        self._machine = ClientHandshake(
            host=str(stream.peer_address),
            server=destination.host,
            hub=destination.hub,
            credentials=destination.credentials,
            identity=identity,
            random=random,
            date=email.utils.formatdate(usegmt=True),
            options=destination.options,
        )

    async def hello(self, patience_s: float) -> Hello:
        event = await self._next(
            patience_s,
            SilenceError(
                f"{self._host} accepted the connection and said no Hello in time: "
                "is it a SoftEther server, and is it overloaded?"
            ),
        )
        if not isinstance(event, HelloReceived):
            raise RemoteProtocolError(
                f"{self._host} answered the signature with something else than a Hello"
            )
        return event.hello

    async def welcome(self, patience_s: float) -> tuple[Welcome, bytes]:
        event = await self._next(
            patience_s,
            SilenceError(
                f"{self._host} did not answer the login within {patience_s:.0f} s: "
                "its authentication server may be slow; try again",
                failure=Failure.TEMPORARY,
            ),
        )
        match event:
            case Welcomed(welcome, trailing):
                return welcome, trailing
            case Redirected():
                raise HostError(
                    f"{self._host} is a cluster and sends this login to another member, which sevpn cannot follow: "
                    "name a stand-alone server",
                    operation="follow-redirect",
                )
            case HelloReceived():
                raise RemoteProtocolError(f"{self._host} said Hello twice")

    async def _next(
        self, patience_s: float, silence: SevpnError
    ) -> HelloReceived | Welcomed | Redirected:
        try:
            async with asyncio.timeout(patience_s):
                while (event := self._machine.next_event()) is None:
                    await _exchange(self._stream, self._machine)
                return event
        except TimeoutError:
            raise silence from None
