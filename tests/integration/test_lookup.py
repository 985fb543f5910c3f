# SPDX-License-Identifier: Apache-2.0
"""Look-ups over sockets of our own, against a name server that does as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable
from ipaddress import ip_address
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from sevpn.errors import ResolveError
from sevpn.transport import lookup
from sevpn.transport.lookup import OwnLookUp
from sevpn.transport.resolve import Address

Answer = Callable[[dns.message.Message], list[bytes]]
HERE = ip_address("127.0.0.1")
NOBODY = ip_address("127.0.0.9")


def records(*addresses: str, name: str | None = None) -> Answer:
    def answer(question: dns.message.Message) -> list[bytes]:
        response = dns.message.make_response(question)
        asked = question.question[0]
        kind = "AAAA" if asked.rdtype == 28 else "A"
        ours = [text for text in addresses if (":" in text) == (kind == "AAAA")]
        if ours:
            owner = name or asked.name
            response.answer.append(dns.rrset.from_text(owner, 30, "IN", kind, *ours))
        return [response.to_wire()]

    return answer


def code(number: dns.rcode.Rcode) -> Answer:
    def answer(question: dns.message.Message) -> list[bytes]:
        response = dns.message.make_response(question)
        response.set_rcode(number)
        return [response.to_wire()]

    return answer


def cut_short(question: dns.message.Message) -> list[bytes]:
    response = dns.message.make_response(question)
    response.flags |= dns.flags.TC
    return [response.to_wire()]


class Server(asyncio.DatagramProtocol):
    """Answers datagrams, and streams, each by its own rule."""

    def __init__(self, udp: Answer, tcp: Answer) -> None:
        self.udp, self.tcp = udp, tcp
        self.asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked += 1
        for piece in self.udp(dns.message.from_wire(data)):
            self.transport.sendto(piece, addr)

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        question = dns.message.from_wire(await reader.readexactly(size))
        for piece in self.tcp(question):
            writer.write(len(piece).to_bytes(2, "big") + piece)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def served(
    udp: Answer, tcp: Answer = lambda _: []
) -> AsyncGenerator[tuple[Server, int]]:
    loop = asyncio.get_running_loop()
    server = Server(udp, tcp)
    listener = await asyncio.start_server(server.serve, str(HERE), 0)
    port = listener.sockets[0].getsockname()[1]
    transport, _ = await loop.create_datagram_endpoint(
        lambda: server, local_addr=(str(HERE), port)
    )
    try:
        yield server, port
    finally:
        transport.close()
        listener.close()
        await listener.wait_closed()


def look_up(
    host: str,
    udp: Answer,
    tcp: Answer = lambda _: [],
    *,
    servers: tuple[Address, ...] = (HERE,),
    hosts: dict[str, list[Address]] | None = None,
) -> list[str]:
    prepared: list[socket.socket] = []

    async def run() -> list[str]:
        async with served(udp, tcp) as (server, port):
            own = OwnLookUp(
                lambda: servers,
                hosts=lambda: hosts or {},
                prepare=prepared.append,
                port=port,
            )
            found = await own(host, "any")
            assert bool(server.asked) == bool(prepared)
            return [str(address) for address in found]

    return asyncio.run(run())


def test_both_families_are_asked_for() -> None:
    assert look_up("VPN.test.", records("192.0.2.7", "2001:db8::7")) == [
        "192.0.2.7",
        "2001:db8::7",
    ]


def test_a_name_of_the_hosts_file_is_not_asked_for() -> None:
    known = {"vpn.test": [ip_address("192.0.2.9")]}

    assert look_up("vpn.test", records("192.0.2.7"), hosts=known) == ["192.0.2.9"]


def test_a_name_that_does_not_exist_is_said_so() -> None:
    with pytest.raises(ResolveError, match="does not exist"):
        look_up("vpn.test", code(dns.rcode.NXDOMAIN))


def test_a_name_without_an_address_is_said_so() -> None:
    with pytest.raises(ResolveError, match="has no address"):
        look_up("vpn.test", records())


def test_a_long_answer_is_asked_for_again_by_tcp() -> None:
    assert look_up("vpn.test", cut_short, records("192.0.2.7")) == ["192.0.2.7"]


def test_what_does_not_answer_the_question_is_passed_over() -> None:
    def answer(question: dns.message.Message) -> list[bytes]:
        (right,) = records("192.0.2.7")(question)
        number = (question.id + 1) % 0x10000
        other = dns.message.make_query("evil.test", "A", id=question.id)
        return [
            b"",
            b"\xff" * 40,
            number.to_bytes(2, "big") + right[2:],
            records("192.0.2.66")(other)[0],
            right,
        ]

    assert look_up("vpn.test", answer) == ["192.0.2.7"]


def test_a_server_that_is_not_there_is_passed_over() -> None:
    found = look_up("vpn.test", records("192.0.2.7"), servers=(NOBODY, HERE))

    assert found == ["192.0.2.7"]


@pytest.mark.parametrize(
    "tcp", [lambda _: [], lambda _: [b"\xff" * 20]], ids=["cut", "garbage"]
)
def test_servers_that_do_not_know_are_named_in_the_end(tcp: Answer) -> None:
    with pytest.raises(ResolveError, match=r"none of 127\.0\.0\.1 answers"):
        look_up("vpn.test", cut_short, tcp)
    with pytest.raises(ResolveError, match=r"none of 127\.0\.0\.1 answers"):
        look_up("vpn.test", code(dns.rcode.SERVFAIL))


def test_silence_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_PATIENCE_S", 0.05)

    with pytest.raises(ResolveError, match="on a network"):
        look_up("vpn.test", lambda _: [])


def test_with_nobody_to_ask_the_way_out_is_said() -> None:
    with pytest.raises(ResolveError, match="give the server by its address"):
        look_up("vpn.test", records("192.0.2.7"), servers=())


def test_a_name_that_cannot_be_asked_for_is_malformed() -> None:
    with pytest.raises(ResolveError, match="malformed"):
        look_up("a" * 64 + ".test", records("192.0.2.7"))
