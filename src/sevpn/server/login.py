# SPDX-License-Identifier: Apache-2.0
"""Who may log in: from a login Pack to a grant or an error number.

Layer: server. Runs in: the event loop; pure, and constant in time where a proof is
compared.

The checks come in the order of a real server, because clients are told different
things to do by each number:

    method, hub and user named -> 4     hub known -> 8     hub online -> 10
    authentication type known -> 7      proof right -> 9
    build new enough -> 87              access -> 12
    monitor mode -> 107                 bridge mode -> 108
    sessions of the user -> 20          sessions of the hub -> 16

A user that does not exist, a wrong proof and one of a wrong size are all error 9.

Source: docs/reference/protocol.md#login; SoftEtherVPN, Cedar/Protocol.c,
ServerAccept(); Cedar/Sam.c.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from sevpn.protocol.credentials import hash_password, secure_password
from sevpn.protocol.messages import AuthType, LoginRequest
from sevpn.server.config import HubConfig, User
from sevpn.server.policy import Policy

__all__ = ["ANONYMOUS", "Code", "Granted", "HubView", "Refused", "decide"]

# 96 to 98 are for use inside a server process: whoever sends them from outside
# wants to be let in without a proof.
_TYPES: Final = frozenset(AuthType)

_OLD_BUILD: Final = 6560
ANONYMOUS: Final = "anonymous"
"""Who is meant by a login without a user name."""

_MAX_PASSWORD_SIZE: Final = 1024


class Code:
    """The error numbers that this server sends; docs/reference/protocol.md#errors."""

    DISCONNECTED: Final = 3
    PROTOCOL: Final = 4
    AUTH_TYPE: Final = 7
    HUB_NOT_FOUND: Final = 8
    AUTH_FAILED: Final = 9
    HUB_STOPPING: Final = 10
    ACCESS_DENIED: Final = 12
    NO_SESSION: Final = 13
    TOO_MANY_CONNECTIONS: Final = 15
    HUB_BUSY: Final = 16
    TOO_MANY_LOGINS: Final = 20
    NOT_ENOUGH_RIGHT: Final = 52
    NO_PASSWORD_USER: Final = 68
    OLD_PASSWORD_WRONG: Final = 69
    VERSION: Final = 87
    MONITOR_DENIED: Final = 107
    BRIDGE_DENIED: Final = 108


class HubView(Protocol):
    """What a login needs to know about a hub."""

    @property
    def config(self) -> HubConfig:
        """Its users and rules."""
        ...

    @property
    def is_online(self) -> bool:
        """Whether anybody may log in."""
        ...

    @property
    def session_count(self) -> int:
        """Its sessions, those without a connection included."""
        ...

    def rival_count(self, user: str, unique_id: bytes) -> int:
        """Return how many sessions of *user* count against the limit.

        Sessions without a connection do not, nor do those that come from the same
        installation: the same UniqueId, unless it is zero.
        """
        ...


@dataclass(frozen=True, slots=True)
class Refused:
    """The login failed."""

    code: int
    """The error number."""

    no_save_password: bool = False
    """The policy, told as soon as the user is known."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The login succeeded."""

    hub: str
    """The hub's name as it is configured."""

    user: User
    """Who."""

    policy: Policy
    """Of this session."""

    max_connections: int
    """How many connections it may have."""

    is_half_duplex: bool
    """Whether each of them has one direction."""

    has_qos: bool
    """Whether urgent frames have a connection of their own."""

    is_compressed: bool
    """Whether each frame is deflated."""

    unique_id: bytes
    """16 bytes, or none if none were sent."""

    client: str
    """What the client says it is; safe to show, not to be believed."""


def decide(
    login: LoginRequest,
    *,
    challenge: bytes,
    find_hub: Callable[[str], HubView | None],
    wall_s: float,
    ticket_user: str | None = None,
) -> Granted | Refused:
    """Decide about a login.

    Args:
        login: What was asked.
        challenge: The 20 bytes of this connection's Hello.
        find_hub: Returns the hub of a name, whatever its case.
        wall_s: Seconds since 1970, for certificates.
        ticket_user: Whom a cluster's controller has let in already, if that is so:
            the Login's user and proof do not count then.
    """
    hub = find_hub(login.hub)
    if hub is None:
        return Refused(Code.HUB_NOT_FOUND)
    if not hub.is_online:
        return Refused(Code.HUB_STOPPING)
    user = hub.config.user(ticket_user or login.user or ANONYMOUS)
    code = 0 if ticket_user else _check_proof(login, user, challenge, wall_s)
    if user is None:
        return Refused(code or Code.AUTH_FAILED)
    policy = hub.config.policy if user.policy is None else user.policy
    code = (
        code or _check_rights(login, policy) or _check_limits(login, policy, user, hub)
    )
    if code:
        return Refused(code, policy.no_save_password)
    return Granted(
        hub=hub.config.name,
        user=user,
        policy=policy.for_session(
            is_bridge=login.needs_bridge_mode, is_monitor=login.needs_monitor_mode
        ),
        max_connections=_connections(login, policy),
        is_half_duplex=login.options.half_connection,
        has_qos=_has_qos(login, policy),
        is_compressed=login.options.use_compress,
        unique_id=login.unique_id,
        client=login.client_product,
    )


def _has_qos(login: LoginRequest, policy: Policy) -> bool:
    return login.options.qos and not policy.no_qos


def _connections(login: LoginRequest, policy: Policy) -> int:
    """Return how many connections are granted: what was granted besides needs a few."""
    least = (2 if login.options.half_connection else 1) * (
        2 if _has_qos(login, policy) else 1
    )
    return max(least, min(login.options.max_connections, policy.max_connections))


def _check_proof(
    login: LoginRequest, user: User | None, challenge: bytes, wall_s: float
) -> int:
    """Return the error number, or 0 if the user is who he says."""
    if login.auth_type not in _TYPES:
        return Code.AUTH_TYPE
    if user is not None and user.auth == "anonymous":
        return 0  # whatever the proof is: real servers do not look at it either
    # An unknown user costs the same work as a known one.
    stored = bytes(20)
    if user is not None and user.password is not None:
        stored = user.password.hashed_for(user.name)
    is_right = False
    if login.auth_type == AuthType.PASSWORD:
        expected = secure_password(stored, challenge)
        is_right = hmac.compare_digest(expected, login.secure_password)
        is_right &= user is not None and user.auth == "password"
    elif login.auth_type == AuthType.PLAIN:
        # Cut, because SHA-0 over a whole request would keep the loop busy.
        given = hash_password(login.user, login.plain_password[:_MAX_PASSWORD_SIZE])
        is_right = hmac.compare_digest(stored, given)
        is_right &= user is not None and user.password is not None
    elif login.auth_type == AuthType.CERTIFICATE:
        is_right = _has_certificate(login, user, challenge, wall_s)
    # Nobody got a ticket.
    return 0 if is_right and user is not None else Code.AUTH_FAILED


def _has_certificate(
    login: LoginRequest, user: User | None, challenge: bytes, wall_s: float
) -> bool:
    if user is None or user.certificate is None:
        return False
    return user.certificate.is_proved_by(
        login.certificate, login.signature, challenge, wall_s=wall_s
    )


def _check_rights(login: LoginRequest, policy: Policy) -> int:
    asks_much = policy.no_save_password or policy.auto_disconnect_s
    is_client = "client" in login.client_product.lower()
    if asks_much and is_client and login.client_build < _OLD_BUILD:
        return Code.VERSION
    if not policy.access:
        return Code.ACCESS_DENIED
    if login.needs_monitor_mode and not policy.monitor_port:
        return Code.MONITOR_DENIED
    if login.needs_bridge_mode and policy.no_bridge and policy.no_routing:
        return Code.BRIDGE_DENIED
    return 0


def _check_limits(login: LoginRequest, policy: Policy, user: User, hub: HubView) -> int:
    rivals = hub.rival_count(user.name, login.unique_id)
    if policy.multi_logins and rivals >= policy.multi_logins:
        return Code.TOO_MANY_LOGINS
    if hub.session_count >= hub.config.max_sessions:
        return Code.HUB_BUSY
    return 0
