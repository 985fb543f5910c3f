# SPDX-License-Identifier: Apache-2.0
"""From a host name to a session: resolve, dial, TLS, Hello, login, Welcome.

A cluster's controller answers the login with a redirect instead: then all of it once
more at the member that it names, with its ticket and with the certificate that it
announced. A member that redirects again is not followed.

Then, as often as wanted, another connection for it: dial the same address, TLS with
the same certificate, request to join, Hello, answer. Who has frames to send need not
wait for the answer (`Joiner.ask`).

Layer: tunnel. Runs in: the control thread, on the event loop.

The bytes are `transport`'s, the conversation is `protocol/handshake.py`'s; this
module brings them together and keeps the two deadlines: one from the first
look-up to the Hello, and one for the server's answer to the login, which is
longer where a person or another server has to approve. Joining has one deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import socket
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeVar

from sevpn.errors import (
    AuthenticationError,
    BusyError,
    CertificateError,
    Failure,
    RemoteProtocolError,
    SevpnError,
    SilenceError,
    TransportError,
)
from sevpn.log import get_logger
from sevpn.protocol.conversation import Conversation
from sevpn.protocol.credentials import Credentials, PlainPassword, Ticket
from sevpn.protocol.handshake import (
    ClientHandshake,
    HelloReceived,
    Redirected,
    Welcomed,
)
from sevpn.protocol.identity import ClientIdentity
from sevpn.protocol.joining import ClientJoin, Direction, Joined
from sevpn.protocol.messages import Hello, Redirect, SessionOptions, Welcome
from sevpn.protocol.udpterms import (
    KEY_V1_SIZE,
    KEY_V2_SIZE,
    Terms,
    UdpOffer,
    Version,
    client_terms,
)
from sevpn.transport.dialing import DIRECTLY, Dialing
from sevpn.transport.stream import SecureStream, open_stream
from sevpn.transport.tls import TrustPolicy, VerifiedBy, fingerprint
from sevpn.transport.udp import open_udp
from sevpn.wire.http import encode_date

__all__ = [
    "AskedConnection",
    "Destination",
    "Joiner",
    "OpenedConnection",
    "OpenedSession",
    "Outcome",
    "Peer",
    "UdpSide",
    "UdpWish",
    "exchange",
    "open_session",
]

_APPROVAL_FACTOR: Final = 4
"""A person or another server that has to approve takes longer: 120 s for 30 s."""

_GOODBYE_S: Final = 1.0
"""How long the last word to a controller may take."""

log = get_logger(__name__)

Address = IPv4Address | IPv6Address
Outcome = TypeVar("Outcome")


@dataclass(frozen=True, slots=True)
class UdpWish:
    """What a tunnel wants of UDP acceleration."""

    version: Version = 2
    """The highest version that is offered."""

    port: int = 0
    """The local port; 0: any."""


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

    hello_s: float
    """Seconds from the first look-up to the Hello."""

    dialing: Dialing = DIRECTLY
    """How each of its sockets comes to be."""

    options: SessionOptions = field(default_factory=SessionOptions)
    """What is asked of the session, but for UDP."""

    udp: UdpWish | None = None
    """Which UDP is offered; `None`: none, nor behind a proxy."""

    @property
    def welcome_s(self) -> float:
        """Seconds that the server may take for the login."""
        is_slow = isinstance(self.credentials, PlainPassword)
        return self.hello_s * (_APPROVAL_FACTOR if is_slow else 1)


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom a session was opened with: where its other connections must lead."""

    address: Address
    """The address that was dialled: the server's, or the proxy's."""

    host: str
    """What to dial again: the same address; behind a proxy, what the proxy is told."""

    port: int
    """The server's TCP port."""

    certificate_sha256: str
    """Of the certificate that was trusted, in hex."""

    @classmethod
    def of(cls, stream: SecureStream, destination: Destination) -> Peer:
        """Return the peer of a session's first connection, which led to *destination*."""
        address = stream.peer_address
        is_direct = destination.dialing.proxy is None
        return cls(
            address,
            str(address) if is_direct else destination.host,
            destination.port,
            stream.certificate_sha256,
        )


@dataclass(frozen=True, slots=True)
class UdpSide:
    """What a session's UDP flow begins with."""

    sock: socket.socket
    """The socket, bound; the caller owns it now."""

    terms: Terms
    """What was agreed on."""


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

    peer: Peer
    """Whom it was opened with."""

    udp: UdpSide | str = "not wanted"
    """Its UDP, or why there is none: a clause for people."""

    @property
    def dialled(self) -> Address:
        """The address that its connections lead to: the server's, or the proxy's."""
        return self.peer.address


@dataclass(frozen=True, slots=True)
class OpenedConnection:
    """Another connection of a session."""

    stream: SecureStream
    """The connection; the caller owns it now."""

    direction: Direction
    """Which way it carries frames."""

    leftover: bytes
    """Bytes of the session that came with the answer."""


@dataclass(frozen=True, slots=True)
class AskedConnection:
    """A connection on which it was asked to join; the answer is yet to come."""

    stream: SecureStream
    """The connection; the caller owns it now. Frames may be sent on it at once."""

    request: ClientJoin
    """Takes what the server says."""


def _unheard(_address: Address, _port: int) -> None:
    """Nobody wants to know of a redirect."""


async def open_session(
    destination: Destination,
    *,
    identify: Callable[[SecureStream], ClientIdentity],
    random: Callable[[int], bytes],
    on_addresses: Callable[[Sequence[Address]], Awaitable[None]],
    on_hello: Callable[[SecureStream, Hello], None],
    on_redirect: Callable[[Address, int], None] = _unheard,
) -> OpenedSession:
    """Open a session; at a cluster, with the member that its controller names.

    Args:
        destination: Where, and as whom.
        identify: Says what the login tells of this host, given the connection.
        random: Returns so many random bytes.
        on_addresses: Awaited with all addresses that our sockets lead to or are
            about to be led to, each time that changes and before they are
            dialled: the host routes are set there.
        on_hello: Called when a server has said Hello; a member after its controller.
        on_redirect: Called with address and port of the member that the login goes to.

    Raises:
        TransportError: No connection, no trust, or silence.
        RemoteProtocolError: The peer is no SoftEther server, or breaks the rules.
        RefusedError: The server said no.
        HostError: From *on_addresses*.

    Whatever is raised, cancellation included, no connection stays open.
    """
    attempt = _Attempt(identify, random, on_hello)
    first = await attempt.log_in(destination, on_addresses)
    if isinstance(first, OpenedSession):
        return first
    redirect, controller = first.redirect, first.peer
    member = _member(destination, redirect)
    on_redirect(redirect.address, member.port)
    is_direct = destination.dialing.proxy is None

    async def also(addresses: Sequence[Address]) -> None:
        # Behind a proxy nothing changes: it is what all sockets lead to.
        if is_direct:
            # The last packets of the connection that was closed go there, too.
            await on_addresses(list(dict.fromkeys((*addresses, controller.address))))

    opened = await _at_member(attempt, member, also)
    with contextlib.ExitStack() as undo:
        undo.callback(opened.stream.close, polite=False)
        if isinstance(opened.udp, UdpSide):
            undo.callback(opened.udp.sock.close)
        opened.stream.verified_by = first.verified_by
        if is_direct:
            await on_addresses([opened.dialled])
        undo.pop_all()
    message = opened.welcome.message or redirect.message
    return replace(opened, welcome=replace(opened.welcome, message=message))


def _member(destination: Destination, redirect: Redirect) -> Destination:
    """Return where a redirect leads: the ticket's login, and the one certificate."""
    port = destination.port
    sha256 = fingerprint(redirect.certificate)
    return replace(
        destination,
        host=str(redirect.address),
        port=port if port in redirect.ports else redirect.ports[0],
        credentials=Ticket(destination.credentials.user, redirect.ticket),
        trust=TrustPolicy(pins=(f"sha256:{sha256}",)),
        # A controller names its members by IPv4 alone: what --ip says is for itself.
        dialing=replace(destination.dialing, family="any")
        if destination.dialing.proxy is None
        else destination.dialing,
    )


async def _at_member(
    attempt: _Attempt,
    member: Destination,
    on_addresses: Callable[[Sequence[Address]], Awaitable[None]],
) -> OpenedSession:
    try:
        opened = await attempt.log_in(member, on_addresses)
    except CertificateError as error:
        raise CertificateError(
            f"the cluster's member {member.host} presents another certificate (sha256:{error.sha256}) "
            "than its controller announced: somebody may be between; ask the server's administrator",
            sha256=error.sha256,
            reason="pin",
        ) from error
    except AuthenticationError as error:
        # It is not the user's secret that was wrong.
        raise BusyError(
            f"the cluster's member {member.host} does not know the ticket of its controller "
            f"(server error {error.code}): try again",
            code=error.code,
        ) from error
    if not isinstance(opened, OpenedSession):
        raise RemoteProtocolError(
            f"the cluster's member {member.host} sends the login on to {opened.redirect.address}, "
            "where a member has to take it: ask the server's administrator about the cluster"
        )
    return opened


@dataclass(frozen=True, slots=True)
class _SentAway:
    """The login belongs to another member of the cluster; nothing is open any more."""

    redirect: Redirect
    peer: Peer
    verified_by: VerifiedBy


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What the logins of one attempt share."""

    identify: Callable[[SecureStream], ClientIdentity]
    random: Callable[[int], bytes]
    on_hello: Callable[[SecureStream, Hello], None]

    async def log_in(
        self,
        destination: Destination,
        on_addresses: Callable[[Sequence[Address]], Awaitable[None]],
    ) -> OpenedSession | _SentAway:
        began_at = asyncio.get_running_loop().time()
        stream = await open_stream(
            destination.host,
            destination.port,
            trust=destination.trust,
            timeout_s=destination.hello_s,
            on_addresses=on_addresses,
            dialing=destination.dialing,
        )
        peer = Peer.of(stream, destination)
        with contextlib.ExitStack() as undo:
            undo.callback(stream.close, polite=False)
            offered = self._offer_udp(stream, destination)
            offer = None
            if not isinstance(offered, str):
                undo.callback(offered[0].close)
                offer = offered[1]
            conversation = _Login(
                stream,
                replace(destination, options=replace(destination.options, udp=offer)),
                self.identify(stream),
                self.random,
            )
            took_s = asyncio.get_running_loop().time() - began_at
            hello = await conversation.hello(max(0.0, destination.hello_s - took_s))
            self.on_hello(stream, hello)
            event = await conversation.answer(destination.welcome_s)
            if isinstance(event, Redirected):
                stream.close(polite=True)
                if not isinstance(offered, str):
                    offered[0].close()
                return _SentAway(event.redirect, peer, stream.verified_by)
            undo.pop_all()
        udp = _udp_side(offered, event.welcome, stream)
        return OpenedSession(stream, hello, event.welcome, event.trailing, peer, udp)

    def _offer_udp(
        self, stream: SecureStream, destination: Destination
    ) -> tuple[socket.socket, UdpOffer] | str:
        """Return a socket and what is offered about it, or why nothing is."""
        wish, here = destination.udp, stream.local_address
        # A link-local address would need its interface with each datagram.
        if wish is None:
            return "not wanted"
        if destination.dialing.proxy is not None:
            return "not behind a proxy"
        if here.is_link_local:
            return "not between link-local addresses"
        try:
            sock = open_udp(here, wish.port, prepare=destination.dialing.prepare)
        except OSError as error:
            log.warning("no UDP", cause=error, port=wish.port)
            return f"no socket on port {wish.port} ({error.strerror})"
        return sock, UdpOffer(
            max_version=wish.version,
            address=None if here.is_loopback else here,
            port=sock.getsockname()[1],
            key_v1=self.random(KEY_V1_SIZE),
            key_v2=self.random(KEY_V2_SIZE) if wish.version == 2 else b"",
        )


def _udp_side(
    offered: tuple[socket.socket, UdpOffer] | str,
    welcome: Welcome,
    stream: SecureStream,
) -> UdpSide | str:
    """Return what the UDP flow begins with; the socket is closed where there is none."""
    if isinstance(offered, str):
        return offered
    sock, offer = offered
    if isinstance(welcome.udp, str):
        sock.close()
        return welcome.udp
    return UdpSide(sock, client_terms(offer, welcome.udp, stream.peer_address))


@dataclass(frozen=True, slots=True)
class Joiner:
    """Opens further connections of a session.

    Errors of its methods, whatever they wait for:

    - `CertificateError`: the server presents another certificate than before;
    - `TransportError`: no connection, or silence;
    - `RemoteProtocolError`: the peer is no SoftEther server, or breaks the rules;
    - `RefusedError`: the server said no.

    Whatever is raised, cancellation included, no connection stays open.
    """

    destination: Destination
    """Where the session was opened, and as whom."""

    peer: Peer
    """Whom it was opened with."""

    welcome: Welcome
    """What the server granted."""

    identify: Callable[[SecureStream], ClientIdentity]
    """Says what is told of this host, given the connection."""

    random: Callable[[int], bytes]
    """Returns so many random bytes."""

    async def ask(self) -> AskedConnection:
        """Dial, and ask; what the server answers is between the request and the caller."""
        with self._in_time():
            async with asyncio.timeout(self.destination.hello_s):
                return await self._ask()

    async def join(self) -> OpenedConnection:
        """Dial, ask, and wait for the answer."""
        with self._in_time():
            async with asyncio.timeout(self.destination.hello_s):
                asked = await self._ask()
                with contextlib.ExitStack() as undo:
                    undo.callback(asked.stream.close, polite=False)
                    while not isinstance(event := asked.request.next_event(), Joined):
                        await exchange(asked.stream, asked.request)
                    undo.pop_all()
                return OpenedConnection(asked.stream, event.direction, event.trailing)

    async def _ask(self) -> AskedConnection:
        stream = await _dial_again(self.destination, self.peer)
        with contextlib.ExitStack() as undo:
            undo.callback(stream.close, polite=False)
            request = ClientJoin(
                host=str(stream.peer_address),
                server=self.destination.host,
                hub=self.destination.hub,
                user=self.destination.credentials.user,
                session_key=self.welcome.session_key,
                identity=self.identify(stream),
                is_half_duplex=self.welcome.half_connection,
                random=self.random,
                date=encode_date(dt.datetime.now(dt.UTC)),
            )
            await stream.send(request.data_to_send())
            undo.pop_all()
        return AskedConnection(stream, request)

    @contextlib.contextmanager
    def _in_time(self) -> Generator[None, None, None]:
        """Say what it was that took too long."""
        try:
            yield
        except TimeoutError:
            raise SilenceError(
                f"{self.destination.host} did not add a connection within {self.destination.hello_s:.0f} s",
                failure=Failure.TEMPORARY,
            ) from None


async def _dial_again(destination: Destination, peer: Peer) -> SecureStream:
    # What was trusted is the certificate: it, and nothing else, is trusted again.
    trust = TrustPolicy(
        pins=(f"sha256:{peer.certificate_sha256}",),
        server_name=destination.trust.server_name or destination.host,
    )
    try:
        return await open_stream(
            peer.host,
            peer.port,
            trust=trust,
            timeout_s=destination.hello_s,
            on_addresses=_need_no_routes,
            dialing=_again(destination.dialing, peer),
        )
    except CertificateError as error:
        raise CertificateError(
            f"{destination.host} presents another certificate to a further connection (sha256:{error.sha256}) "
            f"than the session began with (sha256:{peer.certificate_sha256}): "
            "somebody may be between, or servers of one name differ",
            sha256=error.sha256,
            reason="pin",
        ) from error


def _again(dialing: Dialing, peer: Peer) -> Dialing:
    """Return how to dial *peer* again: the very address, which needs no look-up."""
    if dialing.proxy is None:
        return replace(dialing, family="any")
    return replace(
        dialing, family="any", proxy=replace(dialing.proxy, host=str(peer.address))
    )


async def _need_no_routes(_addresses: Sequence[Address]) -> None:
    """The address is the session's, and its host route is set."""


async def exchange(stream: SecureStream, machine: Conversation[Outcome]) -> None:
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
            date=encode_date(dt.datetime.now(dt.UTC)),
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

    async def answer(self, patience_s: float) -> Welcomed | Redirected:
        event = await self._next(
            patience_s,
            SilenceError(
                f"{self._host} did not answer the login within {patience_s:.0f} s: "
                "its authentication server may be slow; try again",
                failure=Failure.TEMPORARY,
            ),
        )
        if isinstance(event, HelloReceived):
            raise RemoteProtocolError(f"{self._host} said Hello twice")
        if isinstance(event, Redirected):
            await self._say_goodbye()
        return event

    async def _say_goodbye(self) -> None:
        """Tell a controller that we go; that it does not hear it is no reason to stay."""
        with contextlib.suppress(TransportError, TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await self._stream.send(self._machine.data_to_send())

    async def _next(
        self, patience_s: float, silence: SevpnError
    ) -> HelloReceived | Welcomed | Redirected:
        try:
            async with asyncio.timeout(patience_s):
                while (event := self._machine.next_event()) is None:
                    await exchange(self._stream, self._machine)
                return event
        except TimeoutError:
            raise silence from None
