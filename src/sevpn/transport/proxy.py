# SPDX-License-Identifier: Apache-2.0
"""Through a proxy: what is said to it before TLS with the server begins.

Layer: transport. Runs in: the control thread, on the event loop.

The socket is connected to the proxy already; afterwards it leads to the server.

    http     CONNECT host:port ────────> HTTP/1.x 2xx, header fields, empty line
    socks4   04 01 port address user 0 > 00 5A, six bytes
             a name follows the user, and the address is 0.0.0.1 (SOCKS4a)
    socks5   05 methods ──────────────-> 05 method; RFC 1929 if the proxy wants it
             05 01 00 host port ───────> 05 00 00 address port

The server's name goes to the proxy as it is: who needs a proxy often cannot look
it up. Nothing behind the answer is read, since TLS begins there and we speak
first; a proxy that says more than its answer is refused.

Source: RFC 9110 section 9.3.6 and RFC 7617; RFC 1928 and RFC 1929; SOCKS4 and
SOCKS4a as published by their authors (docs/reference/protocol.md#proxies).
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
import socket
import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, TypeAlias

from sevpn.errors import ConfigError, Failure, ProxyError
from sevpn.wire.text import display_line

__all__ = ["Proxy", "ProxyKind", "ask_proxy"]

ProxyKind: TypeAlias = Literal["http", "socks4", "socks5"]

_MAX_SOCKS_SIZE: Final = 255
"""Bytes of a name, a user and a password in SOCKS5: their sizes are one byte each."""

_MAX_ANSWER_SIZE: Final = 16 * 1024
"""Bytes of an HTTP answer's head. Our choice: those seen have less than 1000."""

_STATUS: Final = re.compile(rb"HTTP/1\.[0-9] ([0-9]{3})(?: ([^\r\n]*))?\r?\n")

# RFC 1928 section 6.
_SOCKS5_REASONS: Final = {
    1: "it says general failure",
    2: "its rules forbid it",
    3: "it has no way to that network",
    4: "it cannot reach that host, or not look up its name",
    5: "the server refused the connection",
    6: "the way to the server is too long (TTL expired)",
    7: "it does not know CONNECT",
    8: "it does not know that kind of address",
}


@dataclass(frozen=True, slots=True)
class Proxy:
    """Who connects to the server in our place."""

    kind: ProxyKind
    """How it is spoken to."""

    host: str
    """Its name or address; looked up here."""

    port: int
    """Its TCP port."""

    user: str = ""
    """Whom it knows us as; empty: nobody."""

    password: str = field(default="", repr=False)
    """His password. A secret."""

    def __str__(self) -> str:
        """Return it for people: without the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}://{host}:{self.port}"


async def ask_proxy(sock: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    """Have *proxy* connect *sock*, which leads to it, to the server.

    Args:
        sock: Connected to the proxy, non-blocking; stays the caller's.
        proxy: Who is asked.
        host: The server's name or address.
        port: Its TCP port.

    Raises:
        ProxyError: It refused, wants a login, cannot reach the server, went away,
            or is no such proxy: `failure` tells them apart.
        ConfigError: It cannot be asked for that: a name or a password is too
            long, or SOCKS4 is to reach an IPv6 address.

    There is no deadline here: cancel the call. Close the socket after any error.
    """
    line = _Line(sock, proxy)
    try:
        match proxy.kind:
            case "http":
                await _connect_http(line, proxy, host, port)
            case "socks4":
                await _connect_socks4(line, proxy, host, port)
            case "socks5":
                await _connect_socks5(line, proxy, host, port)
    except OSError as error:
        raise line.gone() from error


class _Line:
    """The socket to a proxy, and what is said of the proxy."""

    def __init__(self, sock: socket.socket, proxy: Proxy) -> None:
        self._sock = sock
        self._proxy = proxy
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await self._loop.sock_recv(self._sock, size - len(data))
            if not more:
                raise self.gone()
            data += more
        return data

    async def head(self) -> bytes:
        """Return the head of an HTTP answer, up to the empty line and no further."""
        data = b""
        while not (end := _end_of_head(data)):
            if len(data) >= _MAX_ANSWER_SIZE or not _may_be_http(data):
                raise self.foreign(data)
            more = await self._loop.sock_recv(self._sock, _MAX_ANSWER_SIZE - len(data))
            if not more:
                raise self.foreign(data) if data else self.gone()
            data += more
        if not _STATUS.match(data):
            raise self.foreign(data)
        return data if _is_refusal(data) else self._checked_end(data, end)

    def _checked_end(self, data: bytes, end: int) -> bytes:
        if len(data) > end:
            raise self.foreign(data[end:])
        return data

    # --- what is said about trouble ---

    def error(self, what: str, failure: Failure = Failure.UNREACHABLE) -> ProxyError:
        return ProxyError(f"the proxy {self._proxy} {what}", failure=failure)

    def gone(self) -> ProxyError:
        return self.error(
            "closed the connection before it answered: check that it is "
            f"{_a(self._proxy.kind)} proxy and lets this machine in"
        )

    def foreign(self, data: bytes) -> ProxyError:
        begin = display_line(data[:200], 60)
        return self.error(
            f"does not answer like {_a(self._proxy.kind)} proxy ({begin!r}): check its kind and port",
            Failure.PEER,
        )

    def wants_login(self) -> ProxyError:
        if not self._proxy.user:
            return self.error(
                "wants a login: give the user in --proxy (http://USER@HOST:PORT) and --proxy-password",
                Failure.REFUSED,
            )
        return self.error(
            f"refuses the login of {self._proxy.user!r}: check the user in --proxy and --proxy-password",
            Failure.REFUSED,
        )


def _a(kind: ProxyKind) -> str:
    return "an HTTP" if kind == "http" else f"a {kind.upper()}"


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _name(host: str) -> bytes:
    """Return a host's name as the DNS spells it.

    Raises:
        ConfigError: It has no such spelling, or is too long for a proxy.
    """
    try:
        name = host.encode("ascii") if host.isascii() else host.encode("idna")
    except UnicodeError:
        raise ConfigError(
            f"the proxy cannot be told the name {host!r}: check the host"
        ) from None
    if not 0 < len(name) <= _MAX_SOCKS_SIZE:
        raise ConfigError(
            f"the name of the server has {len(name)} bytes: a proxy takes at most {_MAX_SOCKS_SIZE}"
        )
    return name


# --- HTTP --------------------------------------------------------------------


async def _connect_http(line: _Line, proxy: Proxy, host: str, port: int) -> None:
    address = _address(host)
    name = _name(host).decode("ascii")
    authority = (
        f"[{name}]:{port}" if address and address.version == 6 else f"{name}:{port}"
    )
    fields = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if proxy.user:
        login = f"{proxy.user}:{proxy.password}".encode()
        fields.append(f"Proxy-Authorization: Basic {base64.b64encode(login).decode()}")
    await line.send("\r\n".join((*fields, "", "")).encode("ascii"))
    head = await line.head()
    found = _STATUS.match(head)
    assert found is not None  # checked by head()
    status, words = int(found[1]), display_line(found[2] or b"", 60)
    if status in {401, 407}:
        raise line.wants_login()
    if status == 403:
        raise line.error(
            f"does not allow connections to {authority} (403 {words}): ask its administrator"
        )
    if not 200 <= status < 300:
        raise line.error(
            f"did not connect to {authority} ({status} {words}): check server and port"
        )


def _end_of_head(data: bytes) -> int:
    """Return where the empty line ends; 0 if there is none."""
    found = re.search(rb"\r?\n\r?\n", data)
    return found.end() if found else 0


def _may_be_http(data: bytes) -> bool:
    return data.startswith(b"HTTP/1."[: len(data)])


def _is_refusal(head: bytes) -> bool:
    """Whether the head is followed by a page that explains, which nobody reads."""
    found = _STATUS.match(head)
    return found is not None and not 200 <= int(found[1]) < 300


# --- SOCKS4 and 4a -----------------------------------------------------------


async def _connect_socks4(line: _Line, proxy: Proxy, host: str, port: int) -> None:
    address = _address(host)
    if isinstance(address, IPv6Address):
        raise ConfigError(
            f"a SOCKS4 proxy knows no IPv6, and {host} is such an address: use socks5:// or http://"
        )
    user = proxy.user.encode()
    if b"\0" in user or len(user) > _MAX_SOCKS_SIZE:
        raise ConfigError("the proxy cannot be told that user name: check --proxy")
    # SOCKS4a: an address that cannot be, and the name behind the user's.
    target, name = (
        (address.packed, b"") if address else (b"\0\0\0\1", _name(host) + b"\0")
    )
    await line.send(struct.pack(">BBH", 4, 1, port) + target + user + b"\0" + name)
    answer = await line.exactly(8)
    if answer[0] != 0 or not 90 <= answer[1] <= 93:
        raise line.foreign(answer)
    if answer[1] in {92, 93}:
        raise line.wants_login()
    if answer[1] != 90:
        raise line.error(
            f"did not connect to {host} port {port}: check server, port and the proxy's rules"
        )


# --- SOCKS5 ------------------------------------------------------------------


async def _connect_socks5(line: _Line, proxy: Proxy, host: str, port: int) -> None:
    methods = b"\x00\x02" if proxy.user else b"\x00"
    await line.send(bytes((5, len(methods))) + methods)
    version, method = await line.exactly(2)
    if version != 5:
        raise line.foreign(bytes((version, method)))
    if method == 0xFF:
        raise line.wants_login()
    if method not in methods:
        raise line.foreign(bytes((version, method)))
    if method == 2:
        await _log_in_socks5(line, proxy)
    await line.send(b"\5\1\0" + _socks5_host(host) + struct.pack(">H", port))
    version, reply, _, kind = await line.exactly(4)
    if version != 5:
        raise line.foreign(bytes((version, reply, 0, kind)))
    if reply:
        reason = _SOCKS5_REASONS.get(reply, f"it says error {reply}")
        raise line.error(
            f"did not connect to {host} port {port} ({reason}): check server, port and the proxy's rules"
        )
    await _skip_socks5_address(line, kind)


async def _log_in_socks5(line: _Line, proxy: Proxy) -> None:
    user, password = proxy.user.encode(), proxy.password.encode()
    if max(len(user), len(password)) > _MAX_SOCKS_SIZE:
        raise ConfigError(
            f"a SOCKS5 proxy takes user and password of at most {_MAX_SOCKS_SIZE} bytes: check --proxy"
        )
    await line.send(bytes((1, len(user))) + user + bytes((len(password),)) + password)
    _, status = await line.exactly(2)  # the version here differs among proxies
    if status:
        raise line.wants_login()


def _socks5_host(host: str) -> bytes:
    address = _address(host)
    if address is None:
        name = _name(host)
        return bytes((3, len(name))) + name
    return bytes((1 if address.version == 4 else 4,)) + address.packed


async def _skip_socks5_address(line: _Line, kind: int) -> None:
    match kind:
        case 1:
            size = 4
        case 4:
            size = 16
        case 3:
            size = (await line.exactly(1))[0]
        case _:
            raise line.foreign(bytes((5, 0, 0, kind)))
    await line.exactly(size + 2)
