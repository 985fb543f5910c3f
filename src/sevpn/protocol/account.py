# SPDX-License-Identifier: Apache-2.0
"""What may be asked of a server without a session: its hubs, another password.

Layer: protocol; pure, no deadlines of its own. Runs in: the control thread; the
messages also in the embedded server's loop.

    client ── signature ────────────────────────────────────────> server
    client <── Hello, with a challenge ─────────────────────────── server
    client ── enum_hub ──────────────────────────────────────────> server
    client <── HubName, one value for each hub ─────────────────── server
      or
    client ── password: hub, user, proof of the old, hash of the new ─> server
    client <── error 0, or a refusal ───────────────────────────── server

The old password is proved as in a login. Of the new one the server gets the hash
that it stores, which is worth as much as the password: TLS alone protects it.
Hubs that hide are not in the list.

Source: docs/reference/protocol.md#other-methods; SoftEtherVPN, Cedar/Protocol.c,
ServerAccept(); Cedar/Account.c, ChangePasswordAccept().
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sevpn.errors import RemoteProtocolError
from sevpn.protocol.conversation import Conversation
from sevpn.protocol.credentials import HASH_SIZE, Password, secure_password
from sevpn.protocol.messages import Hello, ServerRefusal
from sevpn.wire.pack import Kind, Pack, data, integer, text
from sevpn.wire.text import display_line

__all__ = [
    "ClientHubList",
    "ClientPasswordChange",
    "HubsListed",
    "PasswordChangeRequest",
    "PasswordChanged",
    "decode_hub_list",
    "decode_password_change",
    "encode_hub_list",
    "encode_hub_request",
    "encode_password_change",
]


# --- messages ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HubsListed:
    """The server's hubs."""

    names: tuple[str, ...]
    """Their names, safe to show, as the server orders them."""


@dataclass(frozen=True, slots=True)
class PasswordChanged:
    """The server has the new password."""


@dataclass(frozen=True, slots=True)
class PasswordChangeRequest:
    """A wish for another password as the server reads it."""

    hub: str
    """The hub; compared without regard to case."""

    user: str
    """User name; likewise."""

    secure_old_password: bytes = field(repr=False)
    """The proof of the old one; of any size, compare in constant time."""

    new_hash: bytes = field(repr=False)
    """20 bytes of :func:`~sevpn.protocol.credentials.hash_password`. A secret."""


def encode_hub_request() -> Pack:
    """Return the question for the server's hubs."""
    return Pack((text("method", "enum_hub"),))


def encode_hub_list(names: tuple[str, ...]) -> Pack:
    """Return the answer to it; the server's side."""
    count = integer("NumHub", len(names))
    return Pack((text("HubName", *names), count) if names else (count,))


def decode_hub_list(pack: Pack) -> HubsListed | ServerRefusal:
    """Return what the server answers.

    Raises:
        RemoteProtocolError: It is neither a list nor a refusal.
    """
    if code := pack.get_int("error"):
        return ServerRefusal(code)
    if pack.find("HubName", Kind.STR) is None and "NumHub" not in pack:
        raise RemoteProtocolError("the answer names no hubs")
    names = (display_line(name, 255) for name in pack.get_strs("HubName"))
    return HubsListed(tuple(name for name in names if name))


def encode_password_change(
    hub: str, old: Password, new_hash: bytes, challenge: bytes
) -> Pack:
    """Return the wish for another password.

    Args:
        hub: The hub that knows the user.
        old: The user, and the password up to now.
        new_hash: Of the new password, with this very user name.
        challenge: The 20 random bytes of this connection's Hello.
    """
    return Pack(
        (
            text("method", "password"),
            text("hubname", hub),
            text("username", old.user),
            data("secure_old_password", secure_password(old.hashed, challenge)),
            data("new_password", new_hash),
        )
    )


def decode_password_change(pack: Pack) -> PasswordChangeRequest:
    """Return the wish in *pack*; the server's side. The proof is not judged.

    Raises:
        RemoteProtocolError: It names no hub or user, or the new hash has another
            size: answer with error 4.
    """
    for name in ("hubname", "username"):
        if pack.find(name, Kind.STR) is None:
            raise RemoteProtocolError(f"the wish for another password has no {name}")
    new_hash = pack.get_data("new_password")
    if len(new_hash) != HASH_SIZE:
        raise RemoteProtocolError(
            f"the new password's hash has {len(new_hash)} bytes instead of {HASH_SIZE}"
        )
    return PasswordChangeRequest(
        pack.get_word("hubname"),
        pack.get_word("username"),
        pack.get_data("secure_old_password"),
        new_hash,
    )


# --- the machines -------------------------------------------------------------


class ClientHubList(Conversation[HubsListed]):
    """One question for the hubs on one connection.

    Args:
        host: The server's address as text, for the Host header.
        random: Returns so many random bytes.
        date: Now, as `Tue, 03 Mar 2026 12:00:00 GMT`.
        server: The server as the user knows it, for error texts; *host* if None.
    """

    def __init__(
        self,
        *,
        host: str,
        random: Callable[[int], bytes],
        date: str,
        server: str | None = None,
    ) -> None:
        super().__init__(
            host=host,
            hub="",
            user="",
            random=random,
            date=date,
            server=server,
            request="the question for its hubs",
        )

    def _ask(self, hello: Hello) -> Pack:
        del hello  # nobody has to prove anything
        return encode_hub_request()

    def _take_answer(self, pack: Pack) -> HubsListed | ServerRefusal:
        return decode_hub_list(pack)


class ClientPasswordChange(Conversation[PasswordChanged]):
    """One change of a password on one connection.

    Args:
        host: The server's address as text, for the Host header.
        hub: The hub that knows the user.
        old: The user and the password up to now; forgotten once the wish is made.
        new_hash: Of the new password, with this very user name; likewise.
        random: Returns so many random bytes.
        date: Now, as `Tue, 03 Mar 2026 12:00:00 GMT`.
        server: The server as the user knows it, for error texts; *host* if None.
    """

    def __init__(
        self,
        *,
        host: str,
        hub: str,
        old: Password,
        new_hash: bytes,
        random: Callable[[int], bytes],
        date: str,
        server: str | None = None,
    ) -> None:
        super().__init__(
            host=host,
            hub=hub,
            user=old.user,
            random=random,
            date=date,
            server=server,
            request="the wish for another password",
        )
        self._old: Password | None = old
        self._new_hash = new_hash

    def _ask(self, hello: Hello) -> Pack:
        assert self._old is not None  # only forgotten afterwards, or at the end
        return encode_password_change(
            self._hub, self._old, self._new_hash, hello.challenge
        )

    def _forget(self) -> None:
        self._old = None
        self._new_hash = b""

    def _take_answer(self, pack: Pack) -> PasswordChanged | ServerRefusal:
        if code := pack.get_int("error"):
            return ServerRefusal(code, pack.get_bool("no_save_password"))
        if "error" not in pack:
            # Without it anything would count as a success, a list of hubs, too.
            raise RemoteProtocolError("the answer does not say whether it was done")
        return PasswordChanged()
