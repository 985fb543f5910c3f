# SPDX-License-Identifier: Apache-2.0
"""Look-ups over sockets of our own, for when the system's way leads nowhere.

Layer: transport. Runs in: the control thread, on the event loop.

While a tunnel is wanted and not there, the host's name servers may be those of the
tunnel, and a lock lets nobody else ask. So the name is asked here, over sockets that
are prepared like all of the tunnel's (marked), of the name servers of the uplink:

    /etc/hosts ── not there ──> each server in turn, twice: UDP, 2 s; TCP if cut short

`dnspython` writes and reads the messages; it is imported at the first question.

Source: RFC 1035; RFC 5452, 9 (what an answer must repeat); RFC 7766 (TCP).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

from sevpn.errors import ResolveError
from sevpn.log import get_logger
from sevpn.transport.dialing import Prepare
from sevpn.transport.resolve import MAX_ADDRESSES, Address, Family

if TYPE_CHECKING:
    import dns.message

__all__ = ["OwnLookUp"]

log = get_logger(__name__)

_PORT: Final = 53
_TRIES: Final = 2
_PATIENCE_S: Final = 2.0
_MAX_UDP: Final = 1232
"""What we say we take; fits into any packet (RFC 9715)."""

_TYPES: Final[Mapping[Family, tuple[str, ...]]] = {
    "any": ("A", "AAAA"),
    "4": ("A",),
    "6": ("AAAA",),
}


class OwnLookUp:
    """A :data:`~sevpn.transport.resolve.LookUp` that asks some name servers itself.

    Args:
        servers: Returns whom to ask; called before each look-up.
        hosts: Returns the names that need no question.
        prepare: Called with each socket before it connects.
        port: The servers' port; another in tests.
    """

    def __init__(
        self,
        servers: Callable[[], Sequence[Address]],
        *,
        hosts: Callable[[], Mapping[str, Sequence[Address]]],
        prepare: Prepare,
        port: int = _PORT,
    ) -> None:
        self._servers = servers
        self._hosts = hosts
        self._prepare = prepare
        self._port = port

    async def __call__(self, host: str, family: Family) -> Sequence[Address]:
        """Return the addresses of *host*.

        Raises:
            ResolveError: It has none, there is nobody to ask, or nobody answers.
        """
        name = host.lower().removesuffix(".")
        version = {"4": 4, "6": 6}.get(family)
        known = [
            address
            for address in self._hosts().get(name, ())
            if version in {None, address.version}
        ]
        if known:
            return known
        servers = self._servers()
        if not servers:
            raise ResolveError(
                f"{host} cannot be looked up: no name server of the network underneath is known; give the server by "
                "its address"
            )
        # Both questions at once, as C libraries ask.
        answers = await asyncio.gather(
            *(self._ask(name, kind, servers) for kind in _TYPES[family]),
            return_exceptions=True,
        )
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        found = [
            address
            for answer in answers
            if isinstance(answer, list)
            for address in answer
        ]
        if found:
            return found[:MAX_ADDRESSES]
        if errors:
            raise errors[0]
        raise ResolveError(f"{host} has no address: check the name, or --ip")

    async def _ask(
        self, name: str, kind: str, servers: Sequence[Address]
    ) -> list[Address]:
        question = _question(name, kind)
        for server in [server for _ in range(_TRIES) for server in servers]:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    answer = await self._exchange(question, server)
            except (OSError, TimeoutError) as error:
                log.debug("a name server does not answer", server=server, cause=error)
                continue
            found = _addresses(answer, name)
            if found is not None:
                return found
        raise ResolveError(
            f"{name} cannot be looked up now: none of {', '.join(map(str, servers))} answers; is this machine on a "
            "network?"
        )

    async def _exchange(
        self, question: dns.message.Message, server: Address
    ) -> dns.message.Message:
        answer = await self._by_udp(question, server)
        if answer.flags & _cut_short():
            answer = await self._by_tcp(question, server)
        return answer

    async def _by_udp(
        self, question: dns.message.Message, server: Address
    ) -> dns.message.Message:
        loop = asyncio.get_running_loop()
        with self._socket(server, socket.SOCK_DGRAM) as sock:
            await loop.sock_connect(sock, (str(server), self._port))
            await loop.sock_sendall(sock, question.to_wire())
            while True:
                answer = _parsed(await loop.sock_recv(sock, 1 << 16))
                # Anybody may send; what does not repeat the question is no answer.
                if answer is not None and question.is_response(answer):
                    return answer

    async def _by_tcp(
        self, question: dns.message.Message, server: Address
    ) -> dns.message.Message:
        loop = asyncio.get_running_loop()
        with self._socket(server, socket.SOCK_STREAM) as sock:
            await loop.sock_connect(sock, (str(server), self._port))
            wire = question.to_wire()
            await loop.sock_sendall(sock, len(wire).to_bytes(2, "big") + wire)
            size = int.from_bytes(await _received(sock, 2), "big")
            answer = _parsed(await _received(sock, size))
        if answer is None or not question.is_response(answer):
            raise ConnectionError("no answer to the question")
        return answer

    def _socket(self, server: Address, kind: int) -> socket.socket:
        version = socket.AF_INET if server.version == 4 else socket.AF_INET6
        sock = socket.socket(version, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            self._prepare(sock)
        except BaseException:
            sock.close()
            raise
        return sock


async def _received(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        piece = await loop.sock_recv(sock, size - len(data))
        if not piece:
            raise ConnectionError("the name server has hung up")
        data += piece
    return data


def _question(name: str, kind: str) -> dns.message.Message:
    import dns.exception  # noqa: PLC0415 - for who looks up with a lock
    import dns.message  # noqa: PLC0415

    try:
        return dns.message.make_query(name, kind, use_edns=0, payload=_MAX_UDP)
    except (dns.exception.DNSException, UnicodeError) as error:
        raise ResolveError(f"{name} is malformed: check the name") from error


def _parsed(data: bytes) -> dns.message.Message | None:
    import dns.exception  # noqa: PLC0415
    import dns.message  # noqa: PLC0415

    try:
        return dns.message.from_wire(data, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError, IndexError):
        return None


def _cut_short() -> int:
    import dns.flags  # noqa: PLC0415

    return int(dns.flags.TC)


def _addresses(answer: dns.message.Message, name: str) -> list[Address] | None:
    """Return the addresses in *answer*; `None`: the server does not know, ask another.

    Raises:
        ResolveError: There is no such name.
    """
    import dns.rcode  # noqa: PLC0415
    import dns.rdatatype  # noqa: PLC0415

    code = answer.rcode()
    if code == dns.rcode.NXDOMAIN:
        raise ResolveError(f"{name} does not exist in the DNS: check the name")
    if code != dns.rcode.NOERROR:
        return None
    kinds = {dns.rdatatype.A, dns.rdatatype.AAAA}
    return [
        ipaddress.ip_address(str(record))
        for records in answer.answer
        if records.rdtype in kinds
        for record in cast("Iterable[object]", records)
    ]
