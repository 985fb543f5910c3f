# SPDX-License-Identifier: Apache-2.0
"""Trusted streams over loopback: whom we trust, whom we reach, and what bytes survive."""

from __future__ import annotations

import asyncio
import datetime as dt
import select
import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from integration.tls_peer import (
    INSECURE,
    drained,
    echo,
    listening,
    open_and_close,
    opened,
    server_context,
    sha256_of,
    silent,
    tls_server,
    unheard,
)
from sevpn.errors import (
    CertificateError,
    ConfigError,
    ConnectionLostError,
    DialError,
    Failure,
    ResolveError,
    SevpnError,
    SilenceError,
    TlsError,
)
from sevpn.testing.certs import Authority, BadKind
from sevpn.transport.dial import dial
from sevpn.transport.resolve import Address, Family, interleave, resolve
from sevpn.transport.stream import open_stream
from sevpn.transport.tls import TrustPolicy, certificate_refused, client_context

# --- trust -------------------------------------------------------------------


def test_a_certificate_of_a_known_authority_is_trusted(authority: Authority) -> None:
    leaf = authority.issue("good", addresses=["127.0.0.1"])
    with tls_server(leaf, echo) as port:
        stream = open_and_close(port, TrustPolicy(ca_file=authority.certificate))

    assert stream.verified_by == "ca"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("expired", "expired"),
        ("not-yet", "not-yet-valid"),
        ("wrong-name", "name"),
        ("self-signed", "self-signed"),
        ("no-name", "name"),
    ],
)
def test_a_wrong_certificate_is_named_with_its_own_fingerprint(
    authority: Authority, kind: BadKind, reason: str
) -> None:
    leaf = authority.issue_bad(kind, addresses=["127.0.0.1"])
    heard: list[bytes] = []
    with (
        tls_server(leaf, lambda tls: heard.append(tls.recv(100))) as port,
        pytest.raises(CertificateError) as caught,
    ):
        open_and_close(port, TrustPolicy(ca_file=authority.certificate))

    assert caught.value.reason == reason
    assert caught.value.sha256 == sha256_of(leaf)
    assert f"--pin sha256:{sha256_of(leaf)}" in str(caught.value)
    assert caught.value.failure is Failure.UNTRUSTED
    assert not any(heard)  # nothing of ours was sent inside TLS


def test_an_unknown_authority_is_not_trusted(authority: Authority) -> None:
    leaf = authority.issue("unknown", addresses=["127.0.0.1"])
    with tls_server(leaf, echo) as port, pytest.raises(CertificateError) as caught:
        open_and_close(port, TrustPolicy())

    assert caught.value.reason in {"self-signed", "untrusted"}


def test_a_self_signed_certificate_may_be_given_as_its_own_authority(
    authority: Authority,
) -> None:
    leaf = authority.issue_bad("self-signed", addresses=["127.0.0.1"])
    with tls_server(leaf, echo) as port:
        stream = open_and_close(port, TrustPolicy(ca_file=leaf.certificate))

    assert stream.verified_by == "ca"


@pytest.mark.parametrize("kind", ["expired", "wrong-name", "self-signed", "no-name"])
def test_a_pin_replaces_all_other_checks(authority: Authority, kind: BadKind) -> None:
    leaf = authority.issue_bad(kind)
    pins = ("sha256:" + "0" * 64, f"sha256:{sha256_of(leaf)}")
    with tls_server(leaf, echo) as port:
        stream = open_and_close(port, TrustPolicy(pins=pins))

    assert stream.verified_by == "pin"


def test_another_certificate_than_the_pinned_one_is_refused_although_it_is_good(
    authority: Authority,
) -> None:
    leaf = authority.issue("good", addresses=["127.0.0.1"])
    policy = TrustPolicy(ca_file=authority.certificate, pins=("sha256:" + "0" * 64,))
    with tls_server(leaf, echo) as port, pytest.raises(CertificateError) as caught:
        open_and_close(port, policy)

    assert caught.value.reason == "pin"


def test_insecure_takes_any(authority: Authority) -> None:
    with tls_server(authority.issue_bad("expired"), echo) as port:
        assert open_and_close(port, INSECURE).verified_by == "none"


def test_a_server_name_stands_for_the_host(authority: Authority) -> None:
    leaf = authority.issue("named", hosts=["vpn.test"])
    policy = TrustPolicy(ca_file=authority.certificate, server_name="vpn.test")
    with tls_server(leaf, echo) as port:
        assert open_and_close(port, policy).verified_by == "ca"


def test_a_clock_before_this_release_is_the_clocks_fault(authority: Authority) -> None:
    error = ssl.SSLCertVerificationError()
    error.verify_code = 9
    leaf = authority.issue_bad("not-yet")
    der = ssl.PEM_cert_to_DER_cert(leaf.certificate.read_text())

    early = certificate_refused(
        error, name="x", certificate=der, now=dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
    )
    late = certificate_refused(
        error, name="x", certificate=der, now=dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    )

    assert (early.failure, late.failure) == (Failure.TEMPORARY, Failure.UNTRUSTED)
    assert "clock" in str(early)


def test_a_file_that_holds_no_certificate_is_a_mistake_in_the_settings(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("nothing")

    for ca_file in (path, tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match="--ca"):
            client_context(TrustPolicy(ca_file=ca_file))


# --- who is at the other end -------------------------------------------------


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (b"SSH-2.0-x\r\n", TlsError),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", TlsError),
        (bytes(600), TlsError),
        (b"", ConnectionLostError),
        (b"\x16\x03", ConnectionLostError),
    ],
)
def test_a_peer_without_tls_is_told_in_words(
    words: bytes, error: type[SevpnError]
) -> None:
    def talk(sock: socket.socket) -> None:
        sock.recv(1)
        sock.sendall(words)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(65536)

    with listening(talk) as port, pytest.raises(error) as caught:
        open_and_close(port, INSECURE)

    assert caught.value.failure is Failure.PEER
    assert "127.0.0.1" in str(caught.value)


def test_a_peer_that_says_nothing_costs_the_deadline_and_no_more() -> None:
    with listening(silent) as port:

        async def run() -> None:
            with pytest.raises(SilenceError, match="no TLS"):
                await opened(port, timeout_s=0.2)

        asyncio.run(run())


def test_tls_before_1_2_is_refused_in_words(authority: Authority) -> None:
    leaf = authority.issue("old", addresses=["127.0.0.1"])
    context = server_context(leaf)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1

    def talk(sock: socket.socket) -> None:
        with suppress(ssl.SSLError):
            context.wrap_socket(sock, server_side=True)

    with listening(talk) as port, pytest.raises(TlsError):
        open_and_close(port, INSECURE)


# --- names and addresses -----------------------------------------------------


def test_families_take_turns() -> None:
    from ipaddress import ip_address as ip

    mixed = [ip("::1"), ip("::2"), ip("::3"), ip("127.0.0.1"), ip("127.0.0.2")]

    assert [str(a) for a in interleave(mixed)] == [
        *("::1", "127.0.0.1", "::2", "127.0.0.2", "::3")
    ]
    assert interleave([]) == []


def test_an_address_needs_no_look_up() -> None:
    async def run() -> list[str]:
        found = [*await resolve("::1"), *await resolve("127.0.0.1", family="4")]
        return [str(address) for address in found]

    assert asyncio.run(run()) == ["::1", "127.0.0.1"]


@pytest.mark.parametrize(
    ("host", "family"),
    [
        ("127.0.0.1", "6"),
        ("::1", "4"),
        ("nowhere.invalid", "any"),
        ("a" * 70 + ".x", "any"),
        ("xn--.\udcff", "any"),
    ],
)
def test_what_has_no_address_is_told(host: str, family: Family) -> None:
    with pytest.raises(ResolveError):
        asyncio.run(resolve(host, family=family))


def test_the_first_address_that_answers_wins() -> None:
    from ipaddress import ip_address as ip

    async def run(port: int) -> Address:
        addresses = [ip("127.0.0.2"), ip("127.0.0.3"), ip("127.0.0.1")]
        sock, address = await dial(addresses, port, host="x")
        sock.close()
        return address

    with listening(unheard) as port:
        assert str(asyncio.run(run(port))) == "127.0.0.1"


def test_an_address_that_swallows_everything_holds_the_others_up_by_a_moment_only() -> (
    None
):
    from ipaddress import ip_address as ip

    # A listener whose queue is full neither accepts nor refuses.
    hole = socket.create_server(("127.0.0.9", 0), backlog=0)
    port = hole.getsockname()[1]
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.settimeout(0)
        filler.connect_ex(("127.0.0.9", port))
        fillers.append(filler)
    answering = socket.create_server(("127.0.0.8", port))

    async def run() -> Address:
        async with asyncio.timeout(5):
            sock, address = await dial(
                [ip("127.0.0.9"), ip("127.0.0.8")], port, host="x"
            )
        sock.close()
        return address

    try:
        assert str(asyncio.run(run())) == "127.0.0.8"
    finally:
        for sock in (hole, answering, *fillers):
            sock.close()


def test_each_address_is_named_with_its_reason() -> None:
    from ipaddress import ip_address as ip

    with pytest.raises(DialError) as caught:
        asyncio.run(dial([ip("127.0.0.2"), ip("127.0.0.3")], 1, host="vpn.test"))

    assert "127.0.0.2 refused; 127.0.0.3 refused" in str(caught.value)
    assert "vpn.test port 1" in str(caught.value)


def test_a_connection_sends_at_once_and_keeps_little_in_the_kernel() -> None:
    """No Nagle; TCP_NOTSENT_LOWAT: what is not sent yet stays where it can be counted."""
    from ipaddress import ip_address as ip

    async def options(port: int) -> list[int]:
        sock, _ = await dial([ip("127.0.0.1")], port, host="vpn.test")
        with sock:
            return [
                sock.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_NODELAY, 25)
            ]

    with listening(silent) as port:
        assert asyncio.run(options(port)) == [1, 128 * 1024]


def test_what_the_caller_does_between_look_up_and_dialling_may_fail() -> None:
    async def run(port: int) -> None:
        async def refuse(_: Sequence[Address]) -> None:
            raise ConfigError("no")

        with pytest.raises(ConfigError):
            await open_stream(
                "127.0.0.1",
                port,
                trust=INSECURE,
                timeout_s=5,
                on_addresses=refuse,
            )

    with listening(unheard) as port:
        asyncio.run(run(port))


# --- bytes -------------------------------------------------------------------


def test_bytes_survive_in_both_directions_whatever_their_number(
    authority: Authority,
) -> None:
    leaf = authority.issue("echo", addresses=["127.0.0.1"])
    payload = bytes(range(256)) * 16384  # 4 MiB
    with tls_server(leaf, echo) as port:
        stream = asyncio.run(opened(port))
        stream.queue(payload)
        assert stream.pending_bytes >= len(payload)
        got = drained(stream, len(payload))
        stream.close(polite=True)

    assert got == payload


def test_a_peer_that_does_not_read_fills_the_queue_and_loses_nothing(
    authority: Authority,
) -> None:
    leaf = authority.issue("slow", addresses=["127.0.0.1"])
    go, heard = threading.Event(), []

    def slow(tls: ssl.SSLSocket) -> None:
        go.wait(5)
        while data := tls.recv(65536):
            heard.append(len(data))

    size = 32 << 20
    with tls_server(leaf, slow) as port:
        stream = asyncio.run(opened(port))
        stream.queue(bytes(size))
        assert not stream.flush()
        before = stream.pending_bytes
        assert not stream.flush()
        assert stream.pending_bytes == before
        go.set()
        while not stream.flush():
            select.select([], [stream.fileno()], [], 5)
        assert stream.pending_bytes == 0
        stream.close(polite=True)

    assert sum(heard) == size


@pytest.mark.parametrize("is_polite", [True, False])
def test_the_end_of_the_stream_comes_after_the_last_byte(
    authority: Authority, is_polite: bool
) -> None:
    leaf = authority.issue("ending", addresses=["127.0.0.1"])

    def talk(tls: ssl.SSLSocket) -> None:
        tls.sendall(b"last words")
        if is_polite:
            with suppress(ssl.SSLError, OSError):
                tls.unwrap()

    with tls_server(leaf, talk) as port:
        stream = asyncio.run(opened(port))
        assert drained(stream, 10) == b"last words"
        with pytest.raises(ConnectionLostError, match="closed by the server"):
            drained(stream, 1)
        stream.close(polite=False)


def test_a_reset_is_a_lost_connection(authority: Authority) -> None:
    import struct

    leaf = authority.issue("reset", addresses=["127.0.0.1"])

    def talk(tls: ssl.SSLSocket) -> None:
        tls.recv(1)
        tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with tls_server(leaf, talk) as port:
        stream = asyncio.run(opened(port))
        stream.queue(b"x")
        stream.flush()
        with pytest.raises(ConnectionLostError):
            drained(stream, 1)
        stream.close(polite=True)


def test_a_polite_end_is_heard_by_the_peer(authority: Authority) -> None:
    leaf = authority.issue("polite", addresses=["127.0.0.1"])
    heard: list[bytes] = []

    def talk(tls: ssl.SSLSocket) -> None:
        heard.extend(iter(lambda: tls.recv(100), b""))
        heard.append(b"close_notify")

    with tls_server(leaf, talk) as port:
        stream = asyncio.run(opened(port))
        stream.queue(b"words")
        stream.close(polite=True)

    assert heard == [b"words", b"close_notify"]
