# SPDX-License-Identifier: Apache-2.0
"""Another connection for a session that there is: messages and the client's machine.

Layer: protocol; pure, no deadlines of its own. Runs in: the control thread; the
messages also in the embedded server's loop.

    client ── signature; additional_connect, session key ──> server
    client <── Hello (its challenge is not needed) ───────── server
    client <── error 0 and a direction, or a refusal ─────── server

The request does not wait for the Hello: a session that is taken up again goes on a
round trip earlier. Servers read one request after the other.

After the answer the connection carries items, as the first one does after the
Welcome. In a half-duplex session each connection has one direction; that of the
first is from client to server and not announced.

Source: docs/reference/protocol.md#more-connections; SoftEtherVPN, Cedar/Protocol.c,
ClientAdditionalConnect() and ServerAccept().
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection
from dataclasses import dataclass

from sevpn.errors import RemoteProtocolError
from sevpn.protocol.conversation import Conversation, HelloReceived
from sevpn.protocol.identity import ClientIdentity
from sevpn.protocol.messages import SESSION_KEY_SIZE, Hello, ServerRefusal
from sevpn.wire.pack import Kind, Pack, data, integer, text

__all__ = [
    "ClientJoin",
    "Direction",
    "HelloReceived",
    "JoinEvent",
    "Joined",
    "decode_join",
    "decode_join_answer",
    "encode_join",
    "encode_join_answer",
    "next_direction",
]


class Direction(enum.IntEnum):
    """Which way a connection carries frames; the numbers are those on the wire."""

    BOTH = 0
    TO_CLIENT = 1
    TO_SERVER = 2

    @property
    def carries_to_server(self) -> bool:
        """Whether the client sends on it."""
        return self is not Direction.TO_CLIENT

    @property
    def carries_to_client(self) -> bool:
        """Whether the server sends on it."""
        return self is not Direction.TO_SERVER


def next_direction(existing: Collection[Direction]) -> Direction:
    """Return the direction of a half-duplex session's next connection, as servers choose it."""
    to_client = sum(direction is Direction.TO_CLIENT for direction in existing)
    to_server = sum(direction is Direction.TO_SERVER for direction in existing)
    return Direction.TO_SERVER if to_client > to_server else Direction.TO_CLIENT


# --- messages ----------------------------------------------------------------


def encode_join(session_key: bytes, identity: ClientIdentity) -> Pack:
    """Return the request to join the session of *session_key*."""
    return Pack(
        (
            text("method", "additional_connect"),
            data("session_key", session_key),
            text("client_str", identity.product),
            integer("client_ver", identity.version),
            integer("client_build", identity.build),
        )
    )


def decode_join(pack: Pack) -> bytes:
    """Return the session key of a request to join; the server's side.

    Raises:
        RemoteProtocolError: It has another size: answer with error 4.
    """
    key = pack.get_data("session_key")
    if len(key) != SESSION_KEY_SIZE:
        raise RemoteProtocolError(
            f"the session key has {len(key)} bytes instead of {SESSION_KEY_SIZE}"
        )
    return key


def encode_join_answer(direction: Direction) -> Pack:
    """Return the answer that lets a connection join; the server's side."""
    return Pack((integer("error", 0), integer("direction", direction)))


def decode_join_answer(pack: Pack) -> Direction | ServerRefusal:
    """Return what the server answers to a request to join.

    Raises:
        RemoteProtocolError: There is no direction, or it is none of the three.
    """
    if code := pack.get_int("error"):
        return ServerRefusal(code)
    if pack.find("direction", Kind.INT) is None:
        raise RemoteProtocolError("the answer names no direction")
    number = pack.get_int("direction")
    try:
        return Direction(number)
    except ValueError:
        raise RemoteProtocolError(
            f"the connection has direction {number}, which there is not"
        ) from None


# --- the machine -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Joined:
    """The connection belongs to the session. The machine is over."""

    direction: Direction
    """Which way it carries frames."""

    trailing: bytes
    """The first items, which came with the answer; often none."""


JoinEvent = HelloReceived | Joined
"""What the machine tells its driver."""


class ClientJoin(Conversation[Joined]):
    """One request to join on one connection.

    Args:
        host: The server's address as text, for the Host header.
        hub: The session's hub, for error texts.
        user: Whose session it is, likewise.
        session_key: From the Welcome; kept in `data_to_send()` only.
        identity: What is told of this host: product and version only.
        is_half_duplex: Whether the session is: a direction must then be named, and
            otherwise none.
        random: Returns so many random bytes.
        date: Now, as `Tue, 03 Mar 2026 12:00:00 GMT`.
        server: The server as the user knows it, for error texts; *host* if None.
    """

    def __init__(
        self,
        *,
        host: str,
        hub: str,
        user: str,
        session_key: bytes,
        identity: ClientIdentity,
        is_half_duplex: bool,
        random: Callable[[int], bytes],
        date: str,
        server: str | None = None,
    ) -> None:
        super().__init__(
            host=host,
            hub=hub,
            user=user,
            random=random,
            date=date,
            server=server,
            request="the request for another connection",
        )
        self._is_half_duplex = is_half_duplex
        self._send(encode_join(session_key, identity))

    def _ask(self, hello: Hello) -> None:
        del hello  # its challenge is for those who log in

    def _take_answer(self, pack: Pack) -> Joined | ServerRefusal:
        answer = decode_join_answer(pack)
        if isinstance(answer, ServerRefusal):
            return answer
        if self._is_half_duplex == (answer is Direction.BOTH):
            raise RemoteProtocolError(
                f"the connection has direction {answer:d}, which does not fit the session"
            )
        return Joined(answer, self._reader.trailing())
