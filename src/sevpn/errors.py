# SPDX-License-Identifier: Apache-2.0
"""Every exception that sevpn raises on purpose.

Layer: the lowest; imports nothing of sevpn. Runs in: any thread.

An error answers three questions. *What happened, and what should a person do
next?* is its text: one line, the value in it, then a colon or semicolon and the
next step. *What do programs need?* are its attributes. *How does the tunnel go
on?* is :attr:`SevpnError.failure`, which names a row of the failure table in
docs/reference/exit-codes.md; ``tunnel/policy.py`` reads it to retry or to end,
and ``cli/exit.py`` alone turns it into an exit code. Nobody asks `isinstance`.
"""

from __future__ import annotations

import enum

__all__ = [
    "AccessDeniedError",
    "AuthenticationError",
    "BusyError",
    "CertificateError",
    "ConfigError",
    "ConnectionLostError",
    "ControlError",
    "DialError",
    "Failure",
    "HostError",
    "HubNotFoundError",
    "InterfaceGoneError",
    "LeaseError",
    "LocalProtocolError",
    "NotProvenError",
    "PrivilegeError",
    "ProtocolError",
    "ProxyError",
    "RefusedError",
    "RemoteProtocolError",
    "ResolveError",
    "SevpnError",
    "SilenceError",
    "SpentSecretError",
    "TlsError",
    "TransportError",
]


class Failure(enum.Enum):
    """The kinds of failure that are treated differently; see the module."""

    CONFIG = "config"
    """The profile, an option or the target is wrong, an unknown hub included."""

    UNREACHABLE = "unreachable"
    """No answer from the server: name, route, port or silence."""

    BUG = "bug"
    """sevpn itself did something wrong."""

    TEMPORARY = "temporary"
    """May pass by itself: hub offline or busy, no lease, not proven."""

    PEER = "peer"
    """The peer broke the protocol, or is no SoftEther server at all."""

    REFUSED = "refused"
    """The server does not let this user in, whatever the secret."""

    SECRET = "secret"  # noqa: S105 - the name of a kind of failure
    """User name, password or other proof was refused (server error 9)."""

    HOST = "host"
    """This machine cannot do what is needed."""

    UNTRUSTED = "untrusted"
    """The server's certificate is not trusted."""


class SevpnError(Exception):
    """The base of all; never raised itself."""

    failure: Failure = Failure.BUG
    """The row of the failure table; a class attribute unless the case differs."""


class ConfigError(SevpnError):
    """A profile, an option or the target is wrong."""

    failure = Failure.CONFIG


class SpentSecretError(SevpnError):
    """What served for one login is needed for another, and nobody can give it."""

    failure = Failure.REFUSED


class ControlError(SevpnError):
    """No running tunnel could be asked, or it refused to answer."""

    failure = Failure.UNREACHABLE


# --- the protocol ------------------------------------------------------------


class ProtocolError(SevpnError):
    """Somebody broke the rules of the protocol."""


class LocalProtocolError(ProtocolError):
    """Our own caller did: a bug in sevpn."""

    failure = Failure.BUG


class RemoteProtocolError(ProtocolError):
    """The peer's bytes did. Drop the connection; nothing of it can be trusted."""

    failure = Failure.PEER


class RefusedError(SevpnError):
    """The server answered no, with an error number.

    Args:
        message: One line for people, with the next step.
        code: The server's error number, docs/reference/protocol.md#errors.
        failure: Overrides the class's row for this one number.
    """

    failure = Failure.REFUSED

    def __init__(
        self, message: str, *, code: int, failure: Failure | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        if failure is not None:
            self.failure = failure


class AuthenticationError(RefusedError):
    """The proof of identity was refused (error 9)."""

    failure = Failure.SECRET


class AccessDeniedError(RefusedError):
    """The user is known and not let in."""

    failure = Failure.REFUSED


class HubNotFoundError(RefusedError):
    """The server has no hub of that name (error 8)."""

    failure = Failure.CONFIG


class BusyError(RefusedError):
    """Not now: hub offline, too many sessions, and the like."""

    failure = Failure.TEMPORARY


# --- the way to the server ---------------------------------------------------


class TransportError(SevpnError):
    """The byte stream to the server could not be had, or ended."""

    failure = Failure.UNREACHABLE


class ResolveError(TransportError):
    """The server's name has no address."""


class DialError(TransportError):
    """No address of the server accepted a TCP connection."""


class ProxyError(TransportError):
    """The proxy did not connect us to the server.

    Args:
        message: One line for people.
        failure: `UNREACHABLE` if it may do so later, `REFUSED` if it wants another
            login, `PEER` if it is no such proxy.
    """

    def __init__(self, message: str, *, failure: Failure) -> None:
        super().__init__(message)
        self.failure = failure


class TlsError(TransportError):
    """TLS could not be set up, for another reason than trust."""

    failure = Failure.PEER


class CertificateError(TransportError):
    """The server's certificate is not trusted.

    Args:
        message: One line for people: why, and how to pin.
        sha256: SHA-256 of the leaf's DER, 64 lower-case hex digits; empty if the
            refused certificate could not be looked at again.
        reason: `self-signed`, `expired`, `not-yet-valid`, `name`, `pin`, or
            `untrusted` for anything else.
    """

    failure = Failure.UNTRUSTED

    def __init__(self, message: str, *, sha256: str, reason: str) -> None:
        super().__init__(message)
        self.sha256 = sha256
        self.reason = reason


class ConnectionLostError(TransportError):
    """An established stream ended or broke.

    Args:
        message: One line for people.
        failure: `PEER` before the Hello (probably no SoftEther server),
            `TEMPORARY` after it; the default is for a running session.
    """

    failure = Failure.TEMPORARY

    def __init__(self, message: str, *, failure: Failure | None = None) -> None:
        super().__init__(message)
        if failure is not None:
            self.failure = failure


class SilenceError(TransportError):
    """The peer said nothing for too long.

    Args:
        message: One line for people.
        failure: `TEMPORARY` once the Hello has come.
    """

    def __init__(self, message: str, *, failure: Failure | None = None) -> None:
        super().__init__(message)
        if failure is not None:
            self.failure = failure


# --- inside the tunnel -------------------------------------------------------


class LeaseError(SevpnError):
    """No address could be had by DHCP through the tunnel."""

    failure = Failure.TEMPORARY


class NotProvenError(SevpnError):
    """Everything is set up and nothing came back through the tunnel."""

    failure = Failure.TEMPORARY


# --- this host ---------------------------------------------------------------


class HostError(SevpnError):
    """This machine refused a step.

    Args:
        message: One line for people.
        operation: What was tried, for programs: `open-tap`, `add-route`, …
    """

    failure = Failure.HOST

    def __init__(self, message: str, *, operation: str) -> None:
        super().__init__(message)
        self.operation = operation


class InterfaceGoneError(HostError):
    """An interface that was there has been removed: the TAP under us, or an uplink."""

    failure = Failure.TEMPORARY


class PrivilegeError(HostError):
    """The step needs a capability that this process has not."""
