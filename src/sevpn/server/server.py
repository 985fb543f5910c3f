# SPDX-License-Identifier: Apache-2.0
"""The embedded server: what listens, who is in, what time it is.

Layer: server. Runs in: one event loop; everything here is called on it.

    listening socket ─> serve_connection() ─> admit() ─> Session ─ Hub ─ Gateway, TAP
         one task each    one task each                   callbacks, no task
                                    timers: one task for all sessions and polls

    server = Server(ServerConfig(listen=("127.0.0.1:0",), hubs=(…,)))
    await server.start()
    … server.port, server.certificate_sha256, server.faults, server.sessions() …
    await server.stop()

It is a real server of the protocol, but a small one: for labs, demos and tests. It
offers no stream outside TLS, and answers so.

Source: docs/reference/serve.md.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import socket
import time
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, Self

import msgspec

from sevpn.errors import HostError, RemoteProtocolError
from sevpn.log import get_logger
from sevpn.protocol.account import decode_password_change, encode_hub_list
from sevpn.protocol.joining import Direction, decode_join, encode_join_answer
from sevpn.protocol.messages import (
    Welcome,
    decode_login,
    encode_error,
    encode_welcome,
)
from sevpn.protocol.udpterms import UdpOffer
from sevpn.server.account import decide_change
from sevpn.server.certificate import (
    Identity,
    load_identity,
    make_identity,
    server_context,
)
from sevpn.server.cluster import Cluster, Member
from sevpn.server.config import HubConfig, Listen, ServerConfig, User
from sevpn.server.faults import Faults
from sevpn.server.gateway import GatewayPort
from sevpn.server.hub import Hub
from sevpn.server.listener import Admission, serve_connection
from sevpn.server.login import Code, Refused, decide
from sevpn.server.session import Ending, Session
from sevpn.server.stream import Stream
from sevpn.server.tap import TapPort
from sevpn.server.udp import SessionUdp, grant_udp
from sevpn.wire.pack import Pack
from sevpn.wire.text import display_line

__all__ = ["HubRuntime", "Server"]

log = get_logger(__name__)

_BACKLOG: Final = 128
_LONGEST_NAP_S: Final = 1.0
_SHORTEST_NAP_S: Final = 0.01


class HubRuntime:
    """A hub that runs: its switch, its sessions, and what else is plugged in.

    Args:
        config: What it is made of.
        faults: What goes wrong.
        clock: Seconds on a monotonic clock.
    """

    def __init__(
        self, config: HubConfig, faults: Faults, clock: Callable[[], float]
    ) -> None:
        self.config = config
        """What it is made of."""
        self.is_online = config.is_online
        """Whether anybody may log in."""
        self.switch = Hub(
            config.name,
            clock=clock,
            address_life_s=config.address_life_s,
            lease_life_s=config.lease_life_s,
        )
        """The switch, with its tables and what it dropped."""
        self.sessions: list[Session] = []
        """Those that are not over, ghosts included, oldest first."""
        self.gateway: GatewayPort | None = None
        """The virtual gateway."""
        self.tap: TapPort | None = None
        """The TAP, while the server runs."""
        self.poll_at = clock() + config.poll_interval_s
        """When the next polls are due."""
        self._faults = faults
        self._clock = clock
        if config.gateway is not None:
            self.gateway = GatewayPort(config, self.switch, faults=faults, clock=clock)

    @property
    def session_count(self) -> int:
        """Its sessions, ghosts included."""
        return len(self.sessions)

    def rival_count(self, user: str, unique_id: bytes) -> int:
        """Return how many sessions of *user* count against MultiLogins."""
        return sum(
            session.user == user
            and session.connection_count > 0
            and (not any(unique_id) or session.unique_id != unique_id)
            for session in self.sessions
        )

    def replace_user(self, user: User) -> None:
        """Let *user* take the place of who has that name; until the server ends."""
        users = tuple(
            user if known.name == user.name else known for known in self.config.users
        )
        self.config = msgspec.structs.replace(self.config, users=users)

    def poll_if_due(self) -> None:
        """Poll the known addresses when it is time."""
        now = self._clock()
        if now < self.poll_at:
            return
        self.poll_at = now + self.config.poll_interval_s
        if self.config.polls and not self._faults.are_polls_silent:
            self.switch.poll()

    def add(self, session: Session) -> None:
        """Plug a new session in."""
        self.sessions.append(session)
        self.switch.plug(session)

    def remove(self, session: Session) -> None:
        """End a session for good."""
        session.end()
        self.switch.unplug(session)
        if session in self.sessions:
            self.sessions.remove(session)


class Server:
    """The server; see the module.

    Args:
        config: What it is made of.
        identity: Its certificate and key; by default what *config* says.
        clock: Seconds on a monotonic clock.

    Raises:
        ConfigError: The configuration contradicts itself.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        identity: Identity | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config.checked()
        """What it is made of."""
        self.faults = Faults()
        """What goes wrong; change it at any time."""
        self.hubs: dict[str, HubRuntime] = {}
        """The hubs by name in lower case."""
        self.login_count = 0
        """Logins that were decided, refused ones included."""
        self.connection_count = 0
        """TCP connections accepted."""
        self._clock = clock
        self._identity = identity
        self._listeners: list[socket.socket] = []
        self._bound: list[tuple[str, int]] = []
        self._listeners_of_events: list[Callable[[dict[str, object]], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._cluster = Cluster()
        self._handshake_count = 0
        self._session_number = 0
        self._connection_number = 0
        for hub in config.hubs:
            self.hubs[hub.name.lower()] = HubRuntime(hub, self.faults, clock)

    # --- life -------------------------------------------------------------------

    async def start(self) -> None:
        """Listen; the ports stay the same after a stop and another start.

        Raises:
            ConfigError: The certificate cannot be used.
            HostError: An address cannot be listened on, or a TAP not be made;
                nothing is left behind.
        """
        context = server_context(self.identity)
        try:
            self._open_listeners()
            for hub in self.hubs.values():
                if hub.config.tap is not None:
                    hub.tap = TapPort(hub.config.tap, hub.switch)
        except BaseException:
            await self.stop()
            raise
        for listener in self._listeners:
            self._spawn(self._accept(listener, context))
        self._spawn(self._keep_time())

    async def stop(self) -> None:
        """End all sessions and connections, with FIN, and free what was opened."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for hub in self.hubs.values():
            for session in tuple(hub.sessions):
                hub.remove(session)
            if hub.tap is not None:
                hub.tap.close()
                hub.tap = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- facts ------------------------------------------------------------------

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where it listens, or did before it was stopped: addresses and ports."""
        return tuple(self._bound)

    @property
    def port(self) -> int:
        """The first of its ports."""
        return self._bound[0][1]

    @property
    def identity(self) -> Identity:
        """Its certificate and key, made or read when first asked for.

        Raises:
            ConfigError: They cannot be read.
        """
        if self._identity is None:
            config = self.config
            if config.certificate is not None:
                self._identity = load_identity(config.certificate, config.key)
            else:
                listened = [str(endpoint.address) for endpoint in config.endpoints]
                self._identity = make_identity([*config.names, "localhost", *listened])
        return self._identity

    @property
    def certificate_sha256(self) -> str:
        """SHA-256 of its certificate's DER: 64 lower-case hex digits."""
        return self.identity.sha256

    def hub(self, name: str) -> HubRuntime | None:
        """Return the hub of that name, whatever its case."""
        return self.hubs.get(name.lower())

    def sessions(self, hub: str | None = None) -> tuple[Session, ...]:
        """Return the sessions that are not over, ghosts included, oldest first."""
        return tuple(
            session
            for runtime in self.hubs.values()
            for session in runtime.sessions
            if hub is None or runtime.config.name.lower() == hub.lower()
        )

    def subscribe(self, listener: Callable[[dict[str, object]], None]) -> None:
        """Call *listener* with each event: `login`, `refused` and `session ended`, with facts."""
        self._listeners_of_events.append(listener)

    def _tell(self, event: str, **facts: object) -> None:
        log.info(event, **facts)
        for listener in self._listeners_of_events:
            listener({"event": event, **facts})

    # --- what an administrator does ---------------------------------------------

    def disconnect(self, session: Session) -> None:
        """End a session for good, as an administrator does: FIN, and no reason."""
        hub = self.hubs[session.hub_name.lower()]
        hub.remove(session)

    def cut(
        self, session: Session, *, reset: bool = True, is_noticed: bool = True
    ) -> None:
        """End a session's connections; the session lingers. See :meth:`Session.cut`."""
        session.cut(reset=reset, is_noticed=is_noticed)

    def kill(self, session: Session, number: int | None = None, *, how: Ending) -> None:
        """End one connection of a session, which goes on. See :meth:`Session.kill`."""
        session.kill(number, how=how)

    def send_logins_to(
        self,
        member: Server | None,
        address: IPv4Address | IPv6Address,
        *,
        certificate: bytes | None = None,
    ) -> None:
        """Redirect each login that succeeds to *member*, as a cluster's controller does.

        Args:
            member: Another server of this process, which must know the user and the
                hub; None: nobody any more.
            address: Where it is.
            certificate: What to say that it presents (DER); its own if None.
        """
        self._cluster.member = (
            None
            if member is None
            else Member(
                address=address,
                port=member.port,
                certificate=certificate or member.identity.certificate_der,
                expect=lambda ticket, user: member._cluster.expect(  # noqa: SLF001 - of the same class
                    ticket,
                    user,
                    member._clock(),  # noqa: SLF001 - likewise
                ),
            )
        )

    def set_hub_online(self, name: str, *, is_online: bool) -> None:
        """Turn a hub on or off; its sessions end when it goes off."""
        hub = self.hubs[name.lower()]
        hub.is_online = is_online
        if not is_online:
            for session in tuple(hub.sessions):
                hub.remove(session)

    def apply_faults(self) -> None:
        """Let :attr:`Faults.is_pausing_reads` take effect on the sessions that there are."""
        for session in self.sessions():
            session.set_reading(is_reading=not self.faults.is_pausing_reads)

    # --- logins -----------------------------------------------------------------

    def admit(
        self, login: Pack, challenge: bytes, *, here: str, peer: str
    ) -> Admission | Pack:
        """Answer a login; see :class:`~sevpn.server.listener.Door`."""
        self.login_count += 1
        match login.get_word("method").lower():
            case "login":
                return self._admit_login(login, challenge, here, peer)
            case "additional_connect":
                return self._admit_connection(login)
            case "enum_hub":
                return encode_hub_list(
                    tuple(hub.config.name for hub in self.hubs.values())
                )
            case "password":
                return self._change_password(login, challenge)
            case _:
                return encode_error(Code.PROTOCOL)

    def _admit_login(
        self, pack: Pack, challenge: bytes, here: str, peer: str
    ) -> Admission | Pack:
        try:
            login = decode_login(pack)
        except RemoteProtocolError as error:
            log.debug("login is not whole", cause=error)
            return encode_error(Code.PROTOCOL)
        decided = decide(
            login,
            challenge=challenge,
            find_hub=self.hub,
            wall_s=time.time(),
            ticket_user=self._cluster.redeem(login, self._clock()),
        )
        if isinstance(decided, Refused):
            self._tell(
                "refused",
                hub=display_line(login.hub),
                user=display_line(login.user),
                error=decided.code,
            )
            return encode_error(decided.code, no_save_password=decided.no_save_password)
        if self._cluster.member is not None:
            self._tell("redirected", hub=decided.hub, user=decided.user.name)
            return self._cluster.redirect(
                decided.user.name, self.hubs[decided.hub.lower()].config.message
            )
        hub = self.hubs[decided.hub.lower()]
        self._session_number += 1
        session = Session(
            f"SID-{decided.user.name.upper()}-{self._session_number}",
            decided,
            hub.switch,
            faults=self.faults,
            clock=self._clock,
        )
        # In the list from now on: a second login in the meantime must see it.
        hub.add(session)
        self._tell(
            "login", session=session.name, hub=decided.hub, client=decided.client
        )
        welcome = self._welcome(session, hub)
        offer = login.options.udp
        if offer is not None and hub.config.udp:
            welcome = self._accelerated(session, hub, welcome, offer, (here, peer))
        return _admission(encode_welcome(welcome), session)

    def _accelerated(
        self,
        session: Session,
        hub: HubRuntime,
        welcome: Welcome,
        offer: UdpOffer,
        addresses: tuple[str, str],
    ) -> Welcome:
        """Return the Welcome with UDP in it, if there is a socket to be had."""
        granted = grant_udp(offer, addresses[0], hub.config.udp_version)
        if granted is None:
            return welcome
        sock, grant = granted
        session.udp = SessionUdp(
            sock,
            offer,
            grant,
            peer=addresses[1],
            hub=hub.switch,
            port=session,
            faults=self.faults,
            clock=self._clock,
        )
        size = self.faults.udp_key_size
        if size is not None:
            grant = dataclasses.replace(grant, key_v1=bytes(size), key_v2=bytes(size))
        return dataclasses.replace(welcome, udp=grant)

    def _change_password(self, pack: Pack, challenge: bytes) -> Pack:
        try:
            wish = decode_password_change(pack)
        except RemoteProtocolError as error:
            log.debug("wish for another password is not whole", cause=error)
            return encode_error(Code.PROTOCOL)
        decided = decide_change(wish, challenge=challenge, find_hub=self.hub)
        if isinstance(decided, int):
            return encode_error(decided)
        self.hubs[decided.hub.lower()].replace_user(decided.user)
        self._tell("password changed", hub=decided.hub, user=decided.user.name)
        return encode_error(0)

    def _welcome(self, session: Session, hub: HubRuntime) -> Welcome:
        self._connection_number += 1
        return Welcome(
            session_name=session.name,
            connection_name=f"CID-{self._connection_number}",
            session_key=session.key,
            max_connections=session.max_connections,
            timeout_s=session.timeout_s,
            use_encrypt=True,
            use_compress=session.is_compressed,
            half_connection=session.is_half_duplex,
            qos=session.has_qos,
            vlan_id=0,
            message=hub.config.message,
            policy=session.policy.announced(),
        )

    def _admit_connection(self, login: Pack) -> Admission | Pack:
        try:
            key = decode_join(login)
        except RemoteProtocolError as error:
            log.debug("request to join is not whole", cause=error)
            return encode_error(Code.PROTOCOL)
        session = next(
            (
                known
                for known in self.sessions()
                if secrets.compare_digest(known.key, key)
            ),
            None,
        )
        if session is None or session.is_over:
            return encode_error(Code.NO_SESSION)
        if session.connection_count >= session.max_connections:
            return encode_error(Code.TOO_MANY_CONNECTIONS)
        direction = session.reserve()
        return _admission(encode_join_answer(direction), session, direction)

    # --- tasks ------------------------------------------------------------------

    def _open_listeners(self) -> None:
        endpoints = self.config.endpoints
        if self._bound:  # a start after a stop
            endpoints = tuple(
                Listen(endpoint.address, port)
                for endpoint, (_, port) in zip(endpoints, self._bound, strict=True)
            )
        self._bound = []
        for endpoint in endpoints:
            family = (
                socket.AF_INET if endpoint.address.version == 4 else socket.AF_INET6
            )
            listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self._listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                listener.bind((str(endpoint.address), endpoint.port))
                listener.listen(_BACKLOG)
            except OSError as error:
                raise HostError(
                    f"{endpoint.address} port {endpoint.port} cannot be listened on ({error.strerror}): choose another with --listen",
                    operation="listen",
                ) from error
            self._bound.append((str(endpoint.address), listener.getsockname()[1]))

    async def _accept(self, listener: socket.socket, context: Any) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:
                # Out of descriptors, most likely: others will be given back.
                log.warning("cannot accept", cause=error)
                await asyncio.sleep(0.1)
                continue
            self.connection_count += 1
            if self._handshake_count >= self.config.max_handshakes:
                sock.close()
                continue
            self._handshake_count += 1
            task = self._spawn(serve_connection(sock, context, self))
            task.add_done_callback(self._handshake_done)

    def _handshake_done(self, _task: asyncio.Task[None]) -> None:
        self._handshake_count -= 1

    async def _keep_time(self) -> None:
        while True:
            now = self._clock()
            deadline = now + _LONGEST_NAP_S
            for hub in self.hubs.values():
                hub.poll_if_due()
                deadline = min(deadline, hub.poll_at)
                for session in tuple(hub.sessions):
                    if session.next_deadline() <= now:
                        session.tick()
                    if session.is_over:
                        hub.remove(session)
                        self._tell("session ended", session=session.name)
                    deadline = min(deadline, session.next_deadline())
            await asyncio.sleep(max(deadline - self._clock(), _SHORTEST_NAP_S))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the server failed", cause=error)


def _admission(
    answer: Pack, session: Session, direction: Direction | None = None
) -> Admission:
    """Return the admission of a connection to a session that has reserved its place."""
    way = session.first_direction if direction is None else direction

    def take(stream: Stream, trailing: bytes) -> None:
        session.join(stream, trailing, way)

    return Admission(answer, take, lambda: session.release(way))
