# SPDX-License-Identifier: Apache-2.0
"""A client of the protocol that does what a test tells it, right or wrong."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import Iterable
from typing import Self

from sevpn.protocol.credentials import hash_password, secure_password
from sevpn.protocol.envelope import pack_request, signature_request
from sevpn.protocol.messages import Hello, decode_hello
from sevpn.server.server import Server
from sevpn.wire.block import BlockReader, encode_batch, encode_keepalive
from sevpn.wire.http import HttpReader, Response
from sevpn.wire.pack import Element, Pack, data, decode_pack, integer, text

DATE = "Tue, 03 Mar 2026 12:00:00 GMT"


def trusting_context() -> ssl.SSLContext:
    """TLS settings that take any certificate: the server is our own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def login_pack(
    hub: str = "TEST", user: str = "alice", kind: int = 0, *extra: Element
) -> Pack:
    """A login that asks for one connection; *extra* elements replace those of the same name."""
    names = {element.name for element in extra}
    usual = (
        text("method", "login"),
        text("hubname", hub),
        text("username", user),
        integer("authtype", kind),
        text("client_str", "scripted VPN Client"),
        integer("client_ver", 444),
        integer("client_build", 9807),
        integer("max_connection", 1),
        integer("use_encrypt", 1),
    )
    return Pack((*(one for one in usual if one.name not in names), *extra))


class ScriptedClient:
    """One TCP connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.http = HttpReader("client")
        self.blocks = BlockReader()
        self.frames: list[bytes] = []
        self.hello = Hello("", 0, 0, bytes(20))

    @classmethod
    async def connect(cls, server: Server) -> Self:
        """Set up TLS to *server*."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=trusting_context()
        )
        return cls(reader, writer)

    @classmethod
    async def logged_in(
        cls, server: Server, login: Pack | None = None, *, password: str | None = None
    ) -> Self:
        """Come as far as the session."""
        client = await cls.connect(server)
        await client.greet()
        welcome = await client.log_in(login, password=password)
        assert welcome.get_int("error") == 0
        client.welcome = welcome
        client.begin_session()
        return client

    welcome: Pack

    # --- the handshake ----------------------------------------------------------

    async def request(self, data: bytes) -> Response:
        """Send raw bytes and return the next answer."""
        self.writer.write(data)
        return await self.response()

    async def response(self) -> Response:
        while (message := self.http.next_message()) is None:
            piece = await asyncio.wait_for(self.reader.read(65536), 10)
            if not piece:
                raise ConnectionResetError("the server closed the connection")
            self.http.feed(piece)
        assert isinstance(message, Response)
        return message

    async def ask(self, pack: Pack) -> Pack:
        """Send a Pack and return the one that answers it."""
        response = await self.request(
            pack_request(pack, host="127.0.0.1", random=os.urandom, date=DATE)
        )
        assert response.status == 200
        return decode_pack(response.body)

    async def greet(self) -> Pack:
        """Send the signature and return the answer."""
        response = await self.request(signature_request(host="127.0.0.1"))
        answer = decode_pack(response.body)
        hello = decode_hello(answer)
        if isinstance(hello, Hello):
            self.hello = hello
        return answer

    async def log_in(
        self, login: Pack | None = None, *, password: str | None = None
    ) -> Pack:
        """Send a login, by default of the anonymous user alice; with a password, its proof."""
        login = login_pack() if login is None else login
        if password is not None:
            hashed = hash_password(login.get_str("username"), password)
            proof = secure_password(hashed, self.hello.challenge)
            login = login.with_elements(data("secure_password", proof))
        return await self.ask(login)

    # --- the session ------------------------------------------------------------

    def begin_session(self) -> None:
        self.frames += self.blocks.feed(self.http.trailing())

    def send(self, *frames: bytes) -> None:
        self.writer.write(encode_batch(frames))

    def keep_alive(self) -> None:
        self.writer.write(encode_keepalive(b""))

    async def receive(self, count: int = 1, *, within_s: float = 20.0) -> list[bytes]:
        """Return the next *count* frames, hub polls left out."""
        async with asyncio.timeout(within_s):
            while len(self.frames) < count:
                await self._read()
        found, self.frames = self.frames[:count], self.frames[count:]
        return found

    async def receive_all(self, *, for_s: float) -> list[bytes]:
        """Return what comes in that time."""
        try:
            async with asyncio.timeout(for_s):
                while True:
                    await self._read()
        except TimeoutError:
            found, self.frames = self.frames, []
            return found

    async def _read(self) -> None:
        piece = await self.reader.read(65536)
        if not piece:
            raise ConnectionResetError("the server closed the connection")
        self.frames += only_from_others(self.blocks.feed(piece))

    async def ended(self, *, within_s: float = 20.0) -> str:
        """Wait for the end and return how it came: `fin`, or `reset`."""
        try:
            async with asyncio.timeout(within_s):
                while await self.reader.read(65536):
                    pass
        except ConnectionResetError:
            return "reset"
        except ssl.SSLError:
            pass  # without close_notify, as the original ends
        finally:
            self.writer.transport.abort()
        return "fin"

    async def close(self) -> None:
        """End with FIN."""
        self.writer.transport.abort()
        await asyncio.sleep(0)

    def vanish(self) -> None:
        """End with RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def only_from_others(frames: Iterable[bytes]) -> list[bytes]:
    """Leave out what the hub itself asks."""
    return [frame for frame in frames if frame[6:8] != b"\x00\xae"]
