# SPDX-License-Identifier: Apache-2.0
"""The client's handshake: from the first byte inside TLS to the Welcome.

Layer: protocol; pure, no deadlines of its own. Runs in: the control thread.

    ┌──────────────────┐ Hello: send Login, HelloReceived ┌────────────────┐ Welcome, Welcomed
    │ AWAITING_HELLO   │ ───────────────────────────────> │ AWAITING_ANSWER│ ───────────────> OVER
    │ (signature sent) │                                  │  (Login sent)  │ redirect, Redirected
    └──────────────────┘                                  └────────────────┘ ───────────────> OVER

Noops, refusals and malformed bytes are as `conversation.py` says. The server may
send session bytes right behind the Welcome, in the same read: they come with the
event. After OVER the connection belongs to the session, or is to be closed.
Whoever drives the machine bounds the time, because a server may send noops for as
long as it waits for another one to check the password.

Source: docs/reference/protocol.md#conversation; SoftEtherVPN, Cedar/Protocol.c,
ClientConnect().
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

from sevpn.errors import RefusedError, RemoteProtocolError
from sevpn.protocol.codes import error_from_code
from sevpn.protocol.conversation import Conversation, HelloReceived
from sevpn.protocol.credentials import Certificate, Credentials
from sevpn.protocol.envelope import pack_request
from sevpn.protocol.identity import ClientIdentity
from sevpn.protocol.messages import (
    Hello,
    Redirect,
    ServerRefusal,
    SessionOptions,
    Welcome,
    decode_login_answer,
    encode_login,
)
from sevpn.wire.pack import Pack

__all__ = ["ClientHandshake", "Event", "HelloReceived", "Redirected", "Welcomed"]


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The session exists. The machine is over."""

    welcome: Welcome
    """What the server granted."""

    trailing: bytes
    """The first bytes of the session, which came with the Welcome; often none."""


@dataclass(frozen=True, slots=True)
class Redirected:
    """The login succeeded, and the session is to be had elsewhere. The machine is over.

    What tells the controller that the client goes is in `data_to_send()`.
    """

    redirect: Redirect
    """Where, and with which ticket."""


Event = HelloReceived | Welcomed | Redirected
"""What the machine tells its driver."""


class ClientHandshake(Conversation[Welcomed | Redirected]):
    """One login on one connection.

    Args:
        host: The server's address as text, for the Host header.
        hub: The hub to join.
        credentials: Who logs in; forgotten once the Login is made.
        identity: What is told of this host.
        random: Returns so many random bytes.
        date: Now, as `Tue, 03 Mar 2026 12:00:00 GMT`.
        options: What is asked of the session; one connection, plain, if None.
        server: The server as the user knows it, for error texts; *host* if None.
    """

    def __init__(
        self,
        *,
        host: str,
        hub: str,
        credentials: Credentials,
        identity: ClientIdentity,
        random: Callable[[int], bytes],
        date: str,
        options: SessionOptions | None = None,
        server: str | None = None,
    ) -> None:
        super().__init__(
            host=host,
            hub=hub,
            user=credentials.user,
            random=random,
            date=date,
            server=server,
            request="the login",
        )
        self._credentials: Credentials | None = credentials
        self._by_certificate = isinstance(credentials, Certificate)
        self._identity = identity
        self._options = options or SessionOptions()

    def _ask(self, hello: Hello) -> Pack:
        assert self._credentials is not None  # only forgotten afterwards, or at the end
        return encode_login(
            hub=self._hub,
            credentials=self._credentials,
            identity=self._identity,
            hello=hello,
            options=self._options,
        )

    def _forget(self) -> None:
        self._credentials = None

    def _take_answer(self, pack: Pack) -> Welcomed | Redirected | ServerRefusal:
        answer = decode_login_answer(pack, options=self._options)
        if isinstance(answer, ServerRefusal):
            return answer
        if isinstance(answer, Redirect):
            if answer.address.is_loopback and not _is_loopback(self._host):
                raise RemoteProtocolError("the redirect leads to this host itself")
            # An empty Pack; its answer says nothing, and nobody waits for it.
            self._outgoing += pack_request(
                Pack(()), host=self._host, random=self._random, date=self._date
            )
            return Redirected(answer)
        return Welcomed(answer, self._reader.trailing())

    def _refused(self, refusal: ServerRefusal) -> RefusedError:
        return error_from_code(
            refusal.code,
            hub=self._hub,
            user=self._user,
            host=self._server,
            no_save_password=refusal.no_save_password,
            by_certificate=self._by_certificate,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
