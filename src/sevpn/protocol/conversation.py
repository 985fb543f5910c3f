# SPDX-License-Identifier: Apache-2.0
"""What all conversations with a server have in common: signature, Hello, request, answer.

Layer: protocol; pure, no deadlines of its own. Runs in: the control thread.

    ┌──────────────────┐ Hello: send the request ┌─────────────────┐ answer
    │ AWAITING_HELLO   │ ──────────────────────> │ AWAITING_ANSWER │ ───────> OVER
    │ (signature sent) │      HelloReceived      │ (request sent)  │
    └──┬────────────┬──┘                         └──┬───────────┬──┘
       └─ noop: stay┘                               └noop: stay─┘
    refusal, malformed bytes, end of the stream ──> raised from either state, then OVER

A request that needs nothing of the Hello goes along with the signature, which saves a
round trip. What is requested, and what the answer means, is for who derives from
:class:`Conversation`: `handshake.py` logs in, `joining.py` adds a connection to a
session.

Source: docs/reference/protocol.md#conversation; SoftEtherVPN, Cedar/Protocol.c,
ClientConnect() and ClientAdditionalConnect().
"""

from __future__ import annotations

import contextlib
import enum
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from sevpn.errors import (
    ConnectionLostError,
    Failure,
    LocalProtocolError,
    RefusedError,
    RemoteProtocolError,
    SevpnError,
)
from sevpn.protocol.codes import error_from_code
from sevpn.protocol.envelope import pack_request, signature_request
from sevpn.protocol.messages import Hello, ServerRefusal, decode_hello, is_noop
from sevpn.wire.http import MAX_BODY_SIZE, HttpReader, Response
from sevpn.wire.pack import Pack, decode_pack
from sevpn.wire.text import display_line

__all__ = ["Conversation", "HelloReceived"]

_MAX_HELLO_SIZE: Final = 8192
"""Bytes of the Hello's Pack. Our choice; a Hello and its padding have at most 1400."""

Outcome = TypeVar("Outcome")


@dataclass(frozen=True, slots=True)
class HelloReceived:
    """The server is a SoftEther server; the request is in `data_to_send()`, or was before."""

    hello: Hello
    """What it says of itself."""


class _State(enum.Enum):
    """Drawn in the module."""

    AWAITING_HELLO = enum.auto()
    AWAITING_ANSWER = enum.auto()
    OVER = enum.auto()


class Conversation(ABC, Generic[Outcome]):
    """One conversation on one connection; see the module for its states.

    Send what :meth:`data_to_send` returns, give what comes to
    :meth:`receive_data`, its end to :meth:`receive_eof`, and take the events.
    What comes out does not depend on where the server's bytes were cut.

    Args:
        host: The server's address as text, for the Host header.
        hub: The hub, for error texts.
        user: Who logs in, likewise.
        random: Returns so many random bytes.
        date: Now, as `Tue, 03 Mar 2026 12:00:00 GMT`.
        server: The server as the user knows it, likewise; *host* if None.
        request: What is asked of the server, for error texts: `the login`.
    """

    def __init__(
        self,
        *,
        host: str,
        hub: str,
        user: str,
        random: Callable[[int], bytes],
        date: str,
        server: str | None,
        request: str,
    ) -> None:
        self._host = host
        self._hub = hub
        self._user = user
        self._random = random
        self._date = date
        self._server = server or host
        self._request = request
        self._state = _State.AWAITING_HELLO
        self._events: deque[HelloReceived | Outcome] = deque()
        self._outgoing = signature_request(host=host)
        self._reader = HttpReader("client", _MAX_HELLO_SIZE)

    @abstractmethod
    def _ask(self, hello: Hello) -> Pack | None:
        """Return the request that follows *hello*; `None`: it was sent along with the signature."""

    @abstractmethod
    def _take_answer(self, pack: Pack) -> Outcome | ServerRefusal:
        """Return what the answer to the request means; the conversation is over by it."""

    def _forget(self) -> None:
        """Forget what is secret: the request is made, or never will be."""

    def data_to_send(self) -> bytes:
        """Return, and forget, the bytes that the server is to get now; often none."""
        data, self._outgoing = self._outgoing, b""
        return data

    def next_event(self) -> HelloReceived | Outcome | None:
        """Return, and forget, the oldest event; None if there is none."""
        return self._events.popleft() if self._events else None

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the server.

        Raises:
            RemoteProtocolError: They are no answer of a SoftEther server.
            RefusedError: The server said no; which subclass, says its number.
            ConfigError: The request cannot be sent.
            LocalProtocolError: The machine was over: after any of these, or
                after the answer, when the bytes belong to the session.

        After an error the machine is over; close the connection.
        """
        self._check_not_over()
        self._reader.feed(data)
        try:
            self._read_messages()
        except SevpnError:
            self._end()
            raise

    def receive_eof(self) -> None:
        """Take the end of the server's bytes; always raises.

        Raises:
            ConnectionLostError: PEER before the Hello, TEMPORARY after it.
            RemoteProtocolError: It ended in the middle of a foreign answer.
            LocalProtocolError: The machine was over.
        """
        self._check_not_over()
        is_before_hello = self._state is _State.AWAITING_HELLO
        self._end()
        pending = self._reader.pending
        if isinstance(pending, Response) and not pending.carries_pack:
            raise self._foreign(pending)
        if is_before_hello:
            raise ConnectionLostError(
                f"{self._server} closed the connection before its Hello: "
                "check that host and port belong to a SoftEther VPN server",
                failure=Failure.PEER,
            )
        raise ConnectionLostError(
            f"{self._server} closed the connection before it answered {self._request}: "
            "it may be restarting; try again",
            failure=Failure.TEMPORARY,
        )

    def _check_not_over(self) -> None:
        if self._state is _State.OVER:
            raise LocalProtocolError("the handshake was used after its end")

    def _end(self) -> None:
        self._state = _State.OVER
        self._outgoing = b""
        self._forget()

    def _read_messages(self) -> None:
        while self._state is not _State.OVER:
            with self._explained():
                message = self._reader.next_message()
            if message is None:
                return
            assert isinstance(message, Response)  # the reader's role
            if not message.carries_pack:
                raise self._foreign(message)
            with self._explained():
                event = self._take_pack(decode_pack(message.body))
            if event is not None:
                self._events.append(event)

    def _take_pack(self, pack: Pack) -> HelloReceived | Outcome | None:
        if is_noop(pack):
            return None
        if self._state is _State.AWAITING_HELLO:
            return self._take_hello(decode_hello(pack))
        answer = self._take_answer(pack)
        if isinstance(answer, ServerRefusal):
            raise self._refused(answer)
        self._state = _State.OVER
        return answer

    def _take_hello(self, hello: Hello | ServerRefusal) -> HelloReceived:
        if isinstance(hello, ServerRefusal):
            raise self._refused(hello)
        request = self._ask(hello)
        self._forget()
        if request is not None:
            self._send(request)
        self._reader.max_body = MAX_BODY_SIZE
        self._state = _State.AWAITING_ANSWER
        return HelloReceived(hello)

    def _send(self, request: Pack) -> None:
        self._outgoing += pack_request(
            request, host=self._host, random=self._random, date=self._date
        )

    # --- what is said about trouble ---

    def _refused(self, refusal: ServerRefusal) -> RefusedError:
        """Return the exception for a refusal, at the Hello or of the request."""
        return error_from_code(
            refusal.code,
            hub=self._hub,
            user=self._user,
            host=self._server,
            no_save_password=refusal.no_save_password,
        )

    def _foreign(self, answer: Response) -> RemoteProtocolError:
        facts = [repr(answer.status_line)]
        for name in ("Server", "Location"):
            value = answer.header(name)
            if value:
                facts.append(f"{name}: {display_line(value, 80)}")
        if answer.body:
            facts.append(repr(display_line(answer.body[:200], 80)))
        return RemoteProtocolError(
            f"{self._server} answered like {_likely_kind(answer)}, not like a SoftEther VPN server "
            f"({', '.join(facts)}): check host and port, and whether this network needs a login or inspects TLS"
        )

    @contextlib.contextmanager
    def _explained(self) -> Generator[None, None, None]:
        """Say who broke the rules, and when, around what the reader or decoder says."""
        stage = self._state
        try:
            yield
        except RemoteProtocolError as error:
            if stage is _State.AWAITING_HELLO:
                raise RemoteProtocolError(
                    f"{self._server} does not talk like a SoftEther VPN server: {error}; check host and port"
                ) from error
            raise RemoteProtocolError(
                f"{self._server} answered {self._request} with something malformed: {error}; "
                "report this with the server's version"
            ) from error


def _likely_kind(answer: Response) -> str:
    """Return what may stand where a SoftEther server was expected."""
    if answer.status == 511 or 300 <= answer.status < 400:
        return "a captive portal or a web server"
    if answer.status == 407 or answer.header("Via"):
        return "a proxy"
    return "a web server, a captive portal or a proxy that inspects TLS"
