# SPDX-License-Identifier: Apache-2.0
"""How long a server keeps a session, what counts against its end, and who may come back.

Each test asks the real server, and then our own one, which must be a peer like it.
Connections are driven by hand: each says and keeps back what the test wants. The
time-out is 5 s, the least that there is. Where a test waits, silence is what it is about.
"""

from __future__ import annotations

import os
import select
import ssl
import time
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

import pytest

from dhcp_subscriber import borrow_socket
from scripted_client import trusting_context
from sevpn.errors import RefusedError
from sevpn.protocol.credentials import Password
from sevpn.protocol.handshake import ClientHandshake, Welcomed
from sevpn.protocol.identity import ClientIdentity
from sevpn.protocol.joining import ClientJoin, Joined
from sevpn.protocol.messages import SessionOptions, Welcome
from sevpn.protocol.udpterms import UdpGrant, UdpOffer, client_terms
from sevpn.testing.lab import SERVER, Client, EmbeddedServer, Hub, Network
from sevpn.testing.machine import Machine, eventually
from sevpn.wire.accel import Inner, Seal, decode_inner, encode_inner, seal_of
from sevpn.wire.arp import announcement
from sevpn.wire.block import BlockReader, encode_batch, encode_keepalive
from sevpn.wire.ethernet import MacAddress

pytestmark = [pytest.mark.netns, pytest.mark.interop]

TIME_OUT_S: Final = 5.0
DATE: Final = "Tue, 03 Mar 2026 12:00:00 GMT"
HERE: Final = bytes(15) + b"\1"
ELSEWHERE: Final = bytes(15) + b"\2"
"""`UniqueId`s of two installations."""


def identity(unique_id: bytes) -> ClientIdentity:
    return ClientIdentity(
        unique_id=unique_id,
        machine_id=os.urandom(20),
        client_address=IPv4Address("192.0.2.9"),
    )


@dataclass
class Line:
    """One connection after its handshake."""

    tls: ssl.SSLSocket
    blocks: BlockReader = field(default_factory=BlockReader)
    frames: list[bytes] = field(default_factory=list)

    def take(self, data: bytes) -> None:
        self.frames += self.blocks.feed(data)

    def keep_alive(self) -> None:
        self.tls.sendall(encode_keepalive(b""))

    def lives(self, *, for_s: float, speak: Callable[[], None] | None = None) -> bool:
        """Read for so long, and say whether it did not end; *speak* once a second."""
        until = time.monotonic() + for_s
        while (left := until - time.monotonic()) > 0:
            if speak is not None:
                speak()
            self.tls.settimeout(min(left, 1.0))
            try:
                piece = self.tls.recv(65536)
            except TimeoutError:
                continue
            except OSError:  # those of TLS are, too
                return False
            if not piece:
                return False
            self.take(piece)
        return True

    def end(self, *, polite: bool) -> None:
        """End with FIN, after a close_notify if that is *polite*."""
        if polite:
            self.tls.settimeout(0.0)
            with suppress(OSError):  # the server's own word is not waited for
                self.tls.unwrap()
        self.tls.close()


@dataclass(frozen=True)
class Side:
    """A server with the users brief and solo, of whom solo may log in once at a time."""

    machine: Machine
    port: int
    hub: str
    sessions: Callable[[], Collection[str]]
    """The names of those that are not over."""


class Subscriber:
    """Who logs in to a hub, and joins."""

    def __init__(self, client: Client, side: Side) -> None:
        self.client = client
        self.side = side
        self._open = ExitStack()

    def close(self) -> None:
        self._open.close()

    def _dial(self) -> ssl.SSLSocket:
        plain = borrow_socket(
            self.client.machine,
            f"socket.create_connection(({SERVER!r}, {self.side.port}))",
        )
        plain.settimeout(10)
        return self._open.enter_context(trusting_context().wrap_socket(plain))

    def log_in(
        self,
        *,
        unique_id: bytes = HERE,
        options: SessionOptions | None = None,
        user: str = "brief",
    ) -> tuple[Line, Welcome]:
        handshake = ClientHandshake(
            host=SERVER,
            hub=self.side.hub,
            credentials=Password.of(user, "secret"),
            identity=identity(unique_id),
            options=options,
            random=os.urandom,
            date=DATE,
        )
        line = Line(self._dial())
        while True:
            line.tls.sendall(handshake.data_to_send())
            event = handshake.next_event()
            if isinstance(event, Welcomed):
                line.take(event.trailing)
                return line, event.welcome
            if event is None:
                handshake.receive_data(line.tls.recv(65536))

    def join(
        self, welcome: Welcome, *, is_half: bool = False, behind: bytes = b""
    ) -> Line:
        """Join the session; *behind* goes out before anything is read."""
        request = ClientJoin(
            host=SERVER,
            hub=self.side.hub,
            user="brief",
            session_key=welcome.session_key,
            identity=identity(HERE),
            is_half_duplex=is_half,
            random=os.urandom,
            date=DATE,
        )
        line = Line(self._dial())
        line.tls.sendall(request.data_to_send())
        line.tls.sendall(behind)
        while True:
            event = request.next_event()
            if isinstance(event, Joined):
                line.take(event.trailing)
                return line
            if event is None:
                request.receive_data(line.tls.recv(65536))

    @contextmanager
    def vanished(self, *lines: Line) -> Generator[None]:
        """Let the path swallow what these connections say to the server."""
        ports = ", ".join(str(line.tls.getsockname()[1]) for line in lines)
        machine = self.side.machine
        machine.sh(
            "nft 'table inet gone { chain c { type filter hook input priority 0; tcp sport { "
            f"{ports} }} drop; }}; }}'"
        )
        try:
            yield
        finally:
            machine.sh("nft delete table inet gone")

    def answer_to(self, attempt: Callable[[], object]) -> int:
        """Return the error number that the server answers; 0: it says yes."""
        try:
            attempt()
        except RefusedError as error:
            return error.code
        return 0

    def is_listed(self, welcome: Welcome) -> bool:
        return welcome.session_name in self.side.sessions()


@pytest.fixture
def official(plain_hub: Hub) -> Side:
    plain_hub.user("brief", TimeOut="5")
    plain_hub.user("solo", TimeOut="5", MultiLogins="1")
    server = plain_hub.server
    return Side(
        server.machine, 443, plain_hub.name, lambda: server.sessions(plain_hub.name)
    )


@pytest.fixture
def embedded(network: Network) -> Iterator[Side]:
    users = "User.with_password(name='brief', password='secret'), User.with_password(name='solo', password='secret', policy=Policy(timeout_s=5, multi_logins=1))"
    server = EmbeddedServer(
        network.server,
        hub=f"policy=Policy(timeout_s=5), users=({users}),",
        config="listen=('0.0.0.0:8443',),",
    )
    yield Side(
        network.server,
        8443,
        "TEST",
        lambda: server.do("[one.name for one in server.sessions()]"),
    )
    server.stop()


@pytest.fixture(params=["official", "embedded"])
def subscriber(client: Client, request: pytest.FixtureRequest) -> Iterator[Subscriber]:
    made = Subscriber(client, request.getfixturevalue(request.param))
    yield made
    made.close()


# --- what a session lives by -------------------------------------------------


def test_what_the_server_sends_keeps_a_session_alive_too(
    subscriber: Subscriber,
) -> None:
    """Half duplex, and the one connection to the server is gone: nothing can arrive there."""
    options = SessionOptions(max_connections=2, half_connection=True)
    to_server, welcome = subscriber.log_in(options=options)
    to_client = subscriber.join(welcome, is_half=True)
    assert welcome.timeout_s == TIME_OUT_S

    to_server.end(polite=True)

    assert to_client.lives(for_s=3 * TIME_OUT_S)
    assert to_client.blocks.keepalive_count > 0
    assert subscriber.is_listed(welcome)


@pytest.mark.parametrize(
    ("subscriber", "outlives_it"),
    [("official", True), ("embedded", False)],
    indirect=["subscriber"],
)
def test_a_half_duplex_session_may_outlive_its_client(
    subscriber: Subscriber, *, outlives_it: bool
) -> None:
    """Of the connection to the client a server hears nothing but TCP; ours asks that."""
    options = SessionOptions(max_connections=2, half_connection=True)
    to_server, welcome = subscriber.log_in(options=options)
    to_client = subscriber.join(welcome, is_half=True)

    with subscriber.vanished(to_server, to_client):
        time.sleep(3 * TIME_OUT_S)

        assert subscriber.is_listed(welcome) is outlives_it


def test_a_connection_dies_of_silence_and_the_session_not_with_it(
    subscriber: Subscriber,
) -> None:
    line, welcome = subscriber.log_in()

    # The server sends keep-alives all the while, the last one after T/2 at the earliest.
    assert not line.lives(for_s=3 * TIME_OUT_S)

    assert subscriber.is_listed(welcome)
    eventually(lambda: not subscriber.is_listed(welcome), what="the end of the session")
    assert subscriber.answer_to(lambda: subscriber.join(welcome)) == 13


class UdpLine:
    """The datagrams beside a session."""

    def __init__(self, client: Client) -> None:
        self.sock = borrow_socket(
            client.machine, "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"
        )
        self.sock.bind(("0.0.0.0", 0))  # noqa: S104 - on a machine of the lab
        self.offer = UdpOffer(
            max_version=2,
            address=None,
            port=self.sock.getsockname()[1],
            key_v1=os.urandom(20),
            key_v2=os.urandom(128),
        )
        self.heard = 0
        """Datagrams of the server that have seen ours: they echo a tick."""
        self._greatest = 0

    def agree(self, grant: UdpGrant) -> None:
        self._terms = client_terms(self.offer, grant, IPv4Address(SERVER))
        self._out: Seal = seal_of(self._terms.version, self._terms.send_key)
        self._in: Seal = seal_of(self._terms.version, self._terms.receive_key)

    def speak(self) -> None:
        """Take what has come, and send a keep-alive."""
        while select.select((self.sock,), (), (), 0)[0]:
            (packet,) = self._in.open_all([self.sock.recv(2048)])
            inner = decode_inner(packet or b"")
            self._greatest = max(self._greatest, inner.tick)
            self.heard += inner.echo > 0
        tick = int(time.monotonic() * 1000)
        own = encode_inner(Inner(self._terms.send_cookie, tick, self._greatest))
        (sealed,) = self._out.seal_all([own], [os.urandom(self._out.iv_size)])
        self.sock.sendto(sealed, (SERVER, self._terms.port))


def test_by_udp_alone_neither_a_connection_nor_a_session_lives(
    client: Client, subscriber: Subscriber
) -> None:
    udp = UdpLine(client)
    with udp.sock:
        line, welcome = subscriber.log_in(options=SessionOptions(udp=udp.offer))
        assert isinstance(welcome.udp, UdpGrant)
        udp.agree(welcome.udp)

        assert not line.lives(for_s=3 * TIME_OUT_S, speak=udp.speak)
        by_then = udp.heard
        assert by_then > 0
        assert subscriber.is_listed(welcome)

        def is_over() -> bool:
            udp.speak()
            return not subscriber.is_listed(welcome)

        eventually(is_over, what="the end of the session")
        # UDP had gone on both ways without any connection.
        assert udp.heard > by_then


# --- who may come back -------------------------------------------------------


@pytest.mark.parametrize("subscriber", ["official"], indirect=True)
@pytest.mark.parametrize("is_polite", [True, False], ids=["close_notify", "fin"])
def test_a_session_is_taken_up_again_only_after_a_close_notify(
    subscriber: Subscriber, *, is_polite: bool
) -> None:
    """5.01.9674 with OpenSSL 3: the error that a bare FIN leaves ends what joins. Ours is no heir to that."""
    first, welcome = subscriber.log_in(options=SessionOptions(max_connections=2))
    assert first.lives(for_s=1.0)
    first.end(polite=is_polite)

    # In either case the answer to the request is error 0.
    second = subscriber.join(welcome)

    lives = second.lives(for_s=2 * TIME_OUT_S, speak=second.keep_alive)
    assert lives is is_polite
    if is_polite:
        assert subscriber.is_listed(welcome)


def test_frames_may_follow_the_request_to_join_at_once(subscriber: Subscriber) -> None:
    somebody, _ = subscriber.log_in()
    first, welcome = subscriber.log_in(options=SessionOptions(max_connections=2))
    assert first.lives(for_s=1.0)
    first.end(polite=True)
    call = announcement(MacAddress.parse("5e:00:00:00:00:09"), IPv4Address("10.9.9.9"))

    second = subscriber.join(welcome, behind=encode_batch([call]))

    assert somebody.lives(for_s=1.0)
    assert call in somebody.frames
    assert second.lives(for_s=1.0)


# --- ghosts and MultiLogins --------------------------------------------------


def test_a_living_session_counts_for_another_unique_id_and_not_for_its_own(
    subscriber: Subscriber,
) -> None:
    first, welcome = subscriber.log_in(user="solo", unique_id=HERE)

    code = subscriber.answer_to(
        lambda: subscriber.log_in(user="solo", unique_id=ELSEWHERE)
    )
    _, second = subscriber.log_in(user="solo", unique_id=HERE)

    assert code == 20
    assert first.lives(for_s=0.1)
    assert subscriber.is_listed(welcome)
    assert subscriber.is_listed(second)


@pytest.mark.parametrize("is_polite", [True, False], ids=["close_notify", "fin"])
def test_a_session_without_connections_counts_for_nobody(
    subscriber: Subscriber, *, is_polite: bool
) -> None:
    first, welcome = subscriber.log_in(user="solo", unique_id=HERE)
    assert first.lives(for_s=1.0)
    first.end(polite=is_polite)

    # As soon as the server has read of the end.
    eventually(
        lambda: (
            subscriber.answer_to(
                lambda: subscriber.log_in(user="solo", unique_id=ELSEWHERE)
            )
            == 0
        ),
        within_s=TIME_OUT_S - 1.0,
        what="another's login",
    )
    # It is the ghost that does not count, and not that there is none.
    assert subscriber.is_listed(welcome)


def test_a_client_that_vanished_counts_for_another_until_the_time_out(
    subscriber: Subscriber,
) -> None:
    """Its path swallows everything: the server does not learn of the end."""
    first, welcome = subscriber.log_in(user="solo", unique_id=HERE)
    with subscriber.vanished(first):
        first.end(polite=False)

        code = subscriber.answer_to(
            lambda: subscriber.log_in(user="solo", unique_id=ELSEWHERE)
        )

        assert code == 20
        assert subscriber.is_listed(welcome)
        eventually(lambda: not subscriber.is_listed(welcome), what="the end of it")
        code = subscriber.answer_to(
            lambda: subscriber.log_in(user="solo", unique_id=ELSEWHERE)
        )
        assert code == 0
