# SPDX-License-Identifier: Apache-2.0
"""What hostile or unlucky peers, names and callers do to a stream, over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from ipaddress import ip_address
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
)
from reading import read_some
from sevpn.errors import (
    CertificateError,
    ConfigError,
    ConnectionLostError,
    DialError,
    Failure,
    ResolveError,
    SilenceError,
)
from sevpn.testing.certs import Authority
from sevpn.transport.dial import dial
from sevpn.transport.resolve import Address, resolve
from sevpn.transport.stream import open_stream
from sevpn.transport.tls import TrustPolicy


def sockets() -> int:
    count = 0
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            count += str(fd.readlink()).startswith("socket:")
    return count


# --- trust --------------------------------------------------------------------


def test_only_tls_goes_out_to_a_server_that_is_not_trusted(
    authority: Authority,
) -> None:
    leaf = authority.issue_bad("expired", addresses=["127.0.0.1"])
    context = server_context(leaf)
    heard: list[bytes] = []

    def talk(sock: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        raw = b""
        # The client may have left when the tickets are sent: then a reset ends it.
        with contextlib.suppress(ConnectionError):
            while data := sock.recv(65536):
                raw += data
                incoming.write(data)
                with contextlib.suppress(ssl.SSLError):
                    tls.do_handshake()
                sock.sendall(outgoing.read())
        heard.append(raw)

    with listening(talk) as port, pytest.raises(CertificateError):
        open_and_close(port, TrustPolicy(ca_file=authority.certificate))

    assert len(heard) == 2  # the refusal, and the look at what was refused
    for raw in heard:
        while raw:  # handshake, change cipher spec, alert, encrypted
            assert raw[0] in {20, 21, 22, 23}
            assert raw[1] == 3
            size = 5 + int.from_bytes(raw[3:5], "big")
            assert size <= len(raw)
            raw = raw[size:]  # noqa: PLW2901 - eaten record by record


def test_a_refusal_stays_one_where_the_second_look_fails(authority: Authority) -> None:
    leaf = authority.issue_bad("expired", addresses=["127.0.0.1"])
    context = server_context(leaf)
    visits: list[None] = []

    def talk(sock: socket.socket) -> None:
        visits.append(None)
        if len(visits) > 1:
            silent(sock)
            return
        with contextlib.suppress(ssl.SSLError):
            context.wrap_socket(sock, server_side=True).close()

    async def run(port: int) -> CertificateError:
        trust = TrustPolicy(ca_file=authority.certificate)
        with pytest.raises(CertificateError) as caught:
            await opened(port, trust, timeout_s=0.5)
        return caught.value

    with listening(talk) as port:
        error = asyncio.run(run(port))

    assert (error.reason, error.sha256) == ("expired", "")
    assert error.failure is Failure.UNTRUSTED


def test_a_dot_behind_the_name_is_not_part_of_what_is_verified(
    authority: Authority,
) -> None:
    leaf = authority.issue("dotted", hosts=["vpn.test"])
    trust = TrustPolicy(ca_file=authority.certificate, server_name="vpn.test.")
    with tls_server(leaf, echo) as port:
        stream = open_and_close(port, trust)

    assert stream.certificate_sha256 == sha256_of(leaf)


@pytest.mark.parametrize("name", ["a..b", ".x", "a" * 70, "nul\0", "\udcff"])
def test_a_server_name_that_is_none_is_a_mistake_in_the_settings(name: str) -> None:
    before = sockets()
    with listening(silent) as port, pytest.raises(ConfigError, match="--server-name"):
        open_and_close(port, TrustPolicy(insecure=True, server_name=name))

    assert sockets() <= before


# --- names and addresses ------------------------------------------------------


@pytest.mark.parametrize("host", ["", "nul\0.test", "a..b", ".x", "\udcff", "ü" * 80])
def test_a_malformed_name_has_no_address(host: str) -> None:
    async def run() -> None:
        async with asyncio.timeout(10):
            await resolve(host)

    with pytest.raises(ResolveError):
        asyncio.run(run())


@pytest.mark.parametrize("zone", ["nowhere0", "9" * 20, "9" * 5000, "nul\0"])
def test_a_zone_that_does_not_exist_is_told(zone: str) -> None:
    address = ip_address(f"fe80::1%{zone}")
    before = sockets()

    with pytest.raises(DialError):
        asyncio.run(dial([address], 9, host="x"))

    assert sockets() == before


def test_a_zone_is_dialled_by_its_name() -> None:
    async def run(port: int) -> Address:
        sock, address = await dial([ip_address("::1%lo")], port, host="x")
        sock.close()
        return address

    with listening(silent, "::1") as port:
        assert str(asyncio.run(run(port))) == "::1%lo"


def test_no_address_at_all_is_told() -> None:
    with pytest.raises(DialError):
        asyncio.run(dial([], 9, host="x"))


def test_a_family_that_this_host_lacks_is_told() -> None:
    def lack(_: socket.socket) -> None:
        raise OSError(97, "Address family not supported by protocol")

    with pytest.raises(DialError, match="no address of that family here"):
        asyncio.run(dial([ip_address("::1")], 9, host="x", prepare=lack))


def test_a_cancelled_race_leaves_no_socket() -> None:
    hole = socket.create_server(("127.0.0.9", 0), backlog=0)
    port = hole.getsockname()[1]
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.settimeout(0)
        filler.connect_ex(("127.0.0.9", port))
    before = sockets()

    async def run() -> int:
        racing = asyncio.ensure_future(
            dial([ip_address("127.0.0.9")] * 2, port, host="x")
        )
        await asyncio.sleep(0.4)
        racing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await racing
        return sockets()

    try:
        base = asyncio.run(idle_sockets()) - before
        assert asyncio.run(run()) == before + base
    finally:
        for sock in (hole, *fillers):
            sock.close()


async def idle_sockets() -> int:
    """Count the sockets while an event loop is there, which has two of its own."""
    return sockets()


@pytest.mark.parametrize("stage", [silent])
def test_a_deadline_leaves_no_socket(stage: Callable[[socket.socket], None]) -> None:
    before = sockets()
    with listening(stage) as port:

        async def run() -> None:
            with pytest.raises(SilenceError):
                await opened(port, timeout_s=0.1)

        asyncio.run(run())

    assert sockets() == before


def test_a_look_up_that_hangs_does_not_keep_the_program_from_ending() -> None:
    program = """
import asyncio, socket, threading
from sevpn.transport.resolve import resolve
socket.getaddrinfo = lambda *_: threading.Event().wait()
async def run():
    try:
        async with asyncio.timeout(0.1):
            await resolve("vpn.test")
    except TimeoutError:
        print("ended")
asyncio.run(run())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )

    assert (done.stdout, done.stderr) == ("ended\n", "")


def test_what_is_raised_before_dialling_comes_through_as_it_is() -> None:
    before = sockets()

    async def refuse(_: Sequence[Address]) -> None:
        raise ConfigError("no")

    async def run() -> None:
        await open_stream(
            "127.0.0.1", 9, trust=INSECURE, timeout_s=5, on_addresses=refuse
        )

    with pytest.raises(ConfigError, match="no"):
        asyncio.run(run())

    assert sockets() == before


# --- bytes --------------------------------------------------------------------


def test_records_in_pieces_of_any_size_arrive_whole(authority: Authority) -> None:
    leaf = authority.issue("pieces", addresses=["127.0.0.1"])
    context = server_context(leaf)
    payload = bytes(range(256)) * 16

    def talk(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                send_in_pieces(sock, outgoing.read())
                incoming.write(sock.recv(65536))
        tls.write(payload)
        send_in_pieces(sock, outgoing.read())
        silent(sock)

    async def run(port: int) -> bytes:
        stream = await opened(port)
        got = b""
        while len(got) < len(payload):
            got += await stream.receive()
        stream.close(polite=False)
        return got

    with listening(talk) as port:
        assert asyncio.run(run(port)) == payload


def send_in_pieces(sock: socket.socket, data: bytes) -> None:
    at, size = 0, 1
    while at < len(data):
        sock.sendall(data[at : at + size])
        at, size = at + size, size % 7 + 1


def test_64_mib_both_ways_at_once_stay_intact(authority: Authority) -> None:
    leaf = authority.issue("bulk", addresses=["127.0.0.1"])
    block = bytes(range(256)) * 4096  # 1 MiB
    with tls_server(leaf, echo) as port:
        stream = asyncio.run(opened(port))
        queued = received = 0
        while received < 64 * len(block):
            if queued < 64 and not stream.pending_bytes:
                stream.queue(block)
                queued += 1
            is_done = stream.flush()
            data = read_some(stream, 131072)
            start = received % 256
            assert data == block[start : start + len(data)]
            received += len(data)
            if not data and (not is_done or queued == 64):
                wanted = [] if is_done else [stream]
                select.select([stream], wanted, [], 5)
        stream.close(polite=True)


def test_closing_ends_although_the_peer_never_stops_talking(
    authority: Authority,
) -> None:
    leaf = authority.issue("talker", addresses=["127.0.0.1"])

    def talk(tls: ssl.SSLSocket) -> None:
        while True:
            tls.sendall(bytes(1 << 20))

    with tls_server(leaf, talk) as port:
        stream = asyncio.run(opened(port))
        closing = threading.Thread(target=stream.close, args=(True,))
        closing.start()
        closing.join(10)
        assert not closing.is_alive()
        stream.close(polite=True)  # again does no harm


def test_a_broken_tls_record_is_a_lost_connection(authority: Authority) -> None:
    leaf = authority.issue("broken", addresses=["127.0.0.1"])

    def talk(tls: ssl.SSLSocket) -> None:
        with socket.socket(fileno=tls.detach()) as sock:
            sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
            silent(sock)

    with tls_server(leaf, talk) as port:
        stream = asyncio.run(opened(port))
        with pytest.raises(ConnectionLostError):
            drained(stream, 1)
        stream.close(polite=True)
