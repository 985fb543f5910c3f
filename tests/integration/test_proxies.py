# SPDX-License-Identifier: Apache-2.0
"""Through proxies: what is said to them, and what their answers mean.

The proxy of these tests is scripted, and plays the server behind it, too.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest

from integration.test_opening import sockets
from integration.tls_peer import (
    INSECURE,
    drained,
    echo,
    listening,
    server_context,
    unheard,
)
from sevpn.errors import (
    ConfigError,
    DialError,
    Failure,
    ProxyError,
    SevpnError,
    SilenceError,
)
from sevpn.testing.certs import Issued, make_authority
from sevpn.transport.dialing import Dialing
from sevpn.transport.proxy import Proxy, ProxyKind
from sevpn.transport.resolve import Address
from sevpn.transport.stream import SecureStream, open_stream

NAME = "vpn.example.org"
GOOD = {
    "http": b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n",
    "socks4": bytes((0, 90)) + bytes(6),
    "socks5": bytes((5, 0)) + bytes((5, 0, 0, 1)) + bytes(6),
}


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    authority = make_authority(tmp_path_factory.mktemp("proxy"))
    return authority.issue("server", hosts=[NAME])


class Heard:
    """A scripted proxy: answers what it is told, and notes what it heard."""

    def __init__(
        self, script: Sequence[bytes], *, then: Callable[[socket.socket], None]
    ) -> None:
        self.script = script
        self.then = then
        self.requests: list[bytes] = []

    def __call__(self, sock: socket.socket) -> None:
        for answer in self.script:
            self.requests.append(sock.recv(65536))
            sock.sendall(answer)
        self.then(sock)


def serves(issued: Issued) -> Callable[[socket.socket], None]:
    """Return what plays the server behind the proxy: TLS, and an echo."""
    context = server_context(issued)

    def talk(sock: socket.socket) -> None:
        with (
            suppress(ssl.SSLError, OSError),
            context.wrap_socket(sock, server_side=True) as tls,
        ):
            echo(tls)

    return talk


async def through(
    port: int,
    kind: ProxyKind,
    *,
    host: str = NAME,
    user: str = "",
    password: str = "",
    timeout_s: float = 5.0,
) -> SecureStream:
    seen: list[Address] = []

    async def on_addresses(addresses: Sequence[Address]) -> None:
        seen.extend(addresses)

    stream = await open_stream(
        host,
        443,
        trust=INSECURE,
        timeout_s=timeout_s,
        on_addresses=on_addresses,
        dialing=Dialing(proxy=Proxy(kind, "127.0.0.1", port, user, password)),
    )
    # The host route is the proxy's; nobody here looks the server's name up.
    assert [str(address) for address in seen] == ["127.0.0.1"]
    return stream


def talked(
    proxy: Heard,
    kind: ProxyKind,
    *,
    host: str = NAME,
    user: str = "",
    password: str = "",
) -> list[bytes]:
    """Open a stream through the proxy, see that it echoes, and return what was asked."""
    with listening(proxy) as port:
        stream = asyncio.run(
            through(port, kind, host=host, user=user, password=password)
        )
        stream.queue(b"hello")
        assert drained(stream, 5) == b"hello"
        stream.close(polite=True)
    return proxy.requests


def refused(
    talk: Callable[[socket.socket], None],
    kind: ProxyKind,
    *,
    host: str = NAME,
    user: str = "",
    password: str = "",
    timeout_s: float = 5.0,
) -> SevpnError:
    """Return how it fails; no socket may be left."""
    before = sockets()

    async def run(port: int) -> SevpnError:
        with pytest.raises(SevpnError) as caught:
            await through(
                port,
                kind,
                host=host,
                user=user,
                password=password,
                timeout_s=timeout_s,
            )
        return caught.value

    with listening(talk) as port:
        error = asyncio.run(run(port))
    assert sockets() <= before
    return error


# --- what is asked -----------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "authority"),
    [
        (NAME, "vpn.example.org:443"),
        ("192.0.2.7", "192.0.2.7:443"),
        ("2001:db8::7", "[2001:db8::7]:443"),
        ("bücher.example", "xn--bcher-kva.example:443"),
    ],
)
def test_an_http_proxy_is_asked_for_the_server_by_name(
    issued: Issued, host: str, authority: str
) -> None:
    (request,) = talked(Heard([GOOD["http"]], then=serves(issued)), "http", host=host)

    assert request == (
        f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode()
    )


def test_an_http_proxy_is_told_user_and_password(issued: Issued) -> None:
    (request,) = talked(
        Heard([GOOD["http"]], then=serves(issued)),
        "http",
        user="alice",
        password="sec:ret",
    )

    login = base64.b64encode(b"alice:sec:ret")
    assert b"\r\nProxy-Authorization: Basic " + login + b"\r\n\r\n" in request


@pytest.mark.parametrize(
    ("host", "target", "name"),
    [
        (NAME, b"\0\0\0\1", b"vpn.example.org\0"),
        ("192.0.2.7", bytes((192, 0, 2, 7)), b""),
    ],
)
def test_a_socks4_proxy_is_asked_by_address_or_by_name(
    issued: Issued, host: str, target: bytes, name: bytes
) -> None:
    (request,) = talked(
        Heard([GOOD["socks4"]], then=serves(issued)), "socks4", host=host, user="alice"
    )

    assert request == b"\x04\x01\x01\xbb" + target + b"alice\0" + name


@pytest.mark.parametrize(
    ("host", "target"),
    [
        (NAME, b"\x03\x0fvpn.example.org"),
        ("192.0.2.7", b"\x01" + bytes((192, 0, 2, 7))),
        ("2001:db8::7", b"\x04" + bytes.fromhex("20010db8000000000000000000000007")),
    ],
)
def test_a_socks5_proxy_is_asked_by_name_or_address(
    issued: Issued, host: str, target: bytes
) -> None:
    proxy = Heard([GOOD["socks5"][:2], GOOD["socks5"][2:]], then=serves(issued))

    assert talked(proxy, "socks5", host=host) == [
        b"\x05\x01\x00",
        b"\x05\x01\x00" + target + b"\x01\xbb",
    ]


@pytest.mark.parametrize(
    "bound", [b"\x01" + bytes(4), b"\x04" + bytes(16), b"\x03\x05proxy"]
)
def test_a_socks5_proxy_is_told_user_and_password(issued: Issued, bound: bytes) -> None:
    answers = [b"\x05\x02", b"\x01\x00", b"\x05\x00\x00" + bound + b"\x10\x00"]
    requests = talked(
        Heard(answers, then=serves(issued)), "socks5", user="alice", password="secret"
    )

    assert requests[:2] == [b"\x05\x02\x00\x02", b"\x01\x05alice\x06secret"]


# --- what the answers mean ---------------------------------------------------


def answering(*answers: bytes) -> Heard:
    return Heard(answers, then=unheard)


@pytest.mark.parametrize(
    ("kind", "proxy", "failure", "words"),
    [
        ("http", answering(b"HTTP/1.1 407 Who are you\r\n\r\n<html>"), Failure.REFUSED, "--proxy-password"),
        ("http", answering(b"HTTP/1.0 401 No\r\n\r\n"), Failure.REFUSED, "wants a login"),
        ("http", answering(b"HTTP/1.1 403 Filtered\r\n\r\n"), Failure.UNREACHABLE, "403 Filtered"),
        ("http", answering(b"HTTP/1.1 502 Bad\r\n\r\n"), Failure.UNREACHABLE, "502 Bad"),
        ("http", answering(b"HTTP/1.1 302 Found\r\n\r\n"), Failure.UNREACHABLE, "302 Found"),
        ("http", answering(b"<html><body>Log in</body></html>"), Failure.PEER, "<html>"),
        ("http", answering(b"HTTP/1.1 fine\r\n\r\n"), Failure.PEER, "HTTP/1.1 fine"),
        ("http", answering(b"HTTP/1.1 200 OK\r\n\r\n<html>"), Failure.PEER, "<html>"),
        ("http", answering(b"HTTP/1.1 200 OK\r\nVia:"), Failure.PEER, "HTTP/1.1 200"),
        ("http", answering(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 4000), Failure.PEER, "HTTP/1.1 200"),
        ("http", answering(b"\x05\x00"), Failure.PEER, "HTTP"),
        ("http", unheard, Failure.UNREACHABLE, "closed the connection"),
        ("socks4", answering(b"\0\x5b" + bytes(6)), Failure.UNREACHABLE, "did not connect"),
        ("socks4", answering(b"\0\x5d" + bytes(6)), Failure.REFUSED, "wants a login"),
        ("socks4", answering(b"HTTP/1.1 400"), Failure.PEER, "HTTP/1.1"),
        ("socks4", answering(b"\0\x5a"), Failure.UNREACHABLE, "closed the connection"),
        ("socks5", answering(b"\x05\xff"), Failure.REFUSED, "wants a login"),
        ("socks5", answering(b"\x05\x02"), Failure.PEER, "SOCKS5"),
        ("socks5", answering(b"HTTP/1.1 400 Bad Request\r\n"), Failure.PEER, "SOCKS5"),
        ("socks5", answering(b"\x05\0", b"\x05\x05\0\x01" + bytes(6)), Failure.UNREACHABLE, "refused the connection"),
        ("socks5", answering(b"\x05\0", b"\x05\x63\0\x01" + bytes(6)), Failure.UNREACHABLE, "error 99"),
        ("socks5", answering(b"\x05\0", b"\x04\0\0\x01" + bytes(6)), Failure.PEER, "SOCKS5"),
        ("socks5", answering(b"\x05\0", b"\x05\0\0\x09" + bytes(6)), Failure.PEER, "SOCKS5"),
        ("socks5", answering(b"\x05\0", b"\x05\0\0"), Failure.UNREACHABLE, "closed the connection"),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_well_says_why_and_what_to_do(
    kind: ProxyKind,
    proxy: Callable[[socket.socket], None],
    failure: Failure,
    words: str,
) -> None:
    error = refused(proxy, kind)

    assert isinstance(error, ProxyError)
    assert error.failure is failure
    assert words in str(error)
    assert "127.0.0.1" in str(error)


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("http", [b"HTTP/1.1 407 No\r\n\r\n"]),
        ("socks5", [b"\x05\x02", b"\x01\x01"]),
        ("socks4", [b"\0\x5c" + bytes(6)]),
    ],
)
def test_a_login_that_the_proxy_refuses_is_never_repeated_in_words(
    kind: ProxyKind, answers: list[bytes]
) -> None:
    error = refused(answering(*answers), kind, user="alice", password="hunter2")

    assert error.failure is Failure.REFUSED
    assert "'alice'" in str(error)
    assert "hunter2" not in str(error)
    assert "hunter2" not in repr(Proxy(kind, "a", 1, "alice", "hunter2"))


@pytest.mark.parametrize("kind", ["http", "socks4", "socks5"])
def test_a_proxy_that_says_nothing_costs_the_deadline(kind: ProxyKind) -> None:
    def silent(sock: socket.socket) -> None:
        while sock.recv(65536):
            pass

    error = refused(silent, kind, timeout_s=0.3)

    assert isinstance(error, SilenceError)
    assert "the proxy" in str(error)


def test_a_proxy_that_trickles_costs_the_deadline() -> None:
    def trickles(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.settimeout(0.02)
        for octet in b"HTTP/1.1 200 " + b"x" * 200:
            sock.sendall(bytes((octet,)))
            with suppress(TimeoutError):
                if not sock.recv(1):
                    return

    assert isinstance(refused(trickles, "http", timeout_s=0.5), SilenceError)


def test_an_answer_that_comes_in_pieces_is_read_whole(issued: Issued) -> None:
    pieces = [bytes((octet,)) for octet in GOOD["http"]]

    def talk(sock: socket.socket) -> None:
        sock.recv(65536)
        for piece in pieces:
            sock.sendall(piece)
        serves(issued)(sock)

    with listening(talk) as port:
        stream = asyncio.run(through(port, "http"))
        stream.close(polite=True)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("socks4", {"host": "2001:db8::7"}),
        ("socks4", {"user": "a\0b"}),
        ("socks5", {"user": "alice", "password": "x" * 256}),
        ("socks5", {"host": "a" * 256}),
        ("http", {"host": "\ud800"}),
    ],
)
def test_what_a_proxy_cannot_be_told_is_refused_here(
    kind: ProxyKind, settings: dict[str, str]
) -> None:
    answers = {"socks5": [b"\x05\x02" if "password" in settings else b"\x05\0"]}.get(
        kind, []
    )

    assert isinstance(refused(answering(*answers), kind, **settings), ConfigError)  # type: ignore[arg-type]  # as given by the table


def test_a_proxy_that_nobody_answers_at_is_named() -> None:
    async def run() -> None:
        with pytest.raises(DialError, match=r"the proxy 127\.0\.0\.1 port 9 "):
            await through(9, "http")

    asyncio.run(run())
