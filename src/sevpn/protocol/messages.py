# SPDX-License-Identifier: Apache-2.0
"""The messages of the handshake: typed views of Packs, for both sides.

Layer: protocol; pure. Runs in: any thread.

    server ── Hello ──────────────────────────> client
    server <── Login, or a noop ─────────────── client
    server ── Welcome, redirect, refusal, noop ─> client

A Pack with `error` other than 0 is a refusal wherever it comes; one with `noop`
other than 0 means "still here" and is skipped, never answered by a client.

Decoders raise RemoteProtocolError and nothing else. Text of the peer that is
only shown (product, names, message) comes out safe to show.

Source: docs/reference/protocol.md#hello, #login, #welcome, #redirect;
SoftEtherVPN, Cedar/Protocol.c, PackHello(), ClientUploadAuth(), PackWelcome(),
ParseWelcomeFromPack() and ClientConnect().
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, assert_never

from sevpn.errors import ConfigError, RemoteProtocolError
from sevpn.protocol.credentials import (
    CHALLENGE_SIZE,
    MAX_CERTIFICATE_SIZE,
    Anonymous,
    Certificate,
    Credentials,
    Password,
    PlainPassword,
    Ticket,
    secure_password,
    signed_digest,
)
from sevpn.protocol.identity import ClientIdentity, node_information
from sevpn.protocol.policy import decode_policy, policy_elements
from sevpn.protocol.udpterms import (
    UdpGrant,
    UdpOffer,
    decode_grant,
    decode_offer,
    grant_elements,
    offer_elements,
)
from sevpn.wire.pack import Element, Kind, Pack, data, integer, ip_elements, text
from sevpn.wire.text import display_line, display_text

__all__ = [
    "MAX_CONNECTIONS",
    "MAX_HUB_SIZE",
    "SESSION_KEY_SIZE",
    "AuthType",
    "ClientIdentity",
    "Hello",
    "LoginRequest",
    "Redirect",
    "ServerRefusal",
    "SessionOptions",
    "Welcome",
    "decode_hello",
    "decode_login",
    "decode_login_answer",
    "encode_error",
    "encode_hello",
    "encode_login",
    "encode_noop",
    "encode_redirect",
    "encode_welcome",
    "is_noop",
]

MAX_CONNECTIONS: Final = 32
"""TCP connections of one session, at most."""

MAX_HUB_SIZE: Final = 255
"""Bytes of a hub's name in UTF-8."""

SESSION_KEY_SIZE: Final = 20
"""Bytes of the secret that lets another connection join a session."""

_TICKET_SIZE: Final = 20
_MAX_PORTS: Final = 128
_TIMEOUT_MS: Final = (5000, 60000)


class AuthType(enum.IntEnum):
    """How a login proves itself; the numbers are those on the wire."""

    ANONYMOUS = 0
    PASSWORD = 1
    PLAIN = 2
    CERTIFICATE = 3
    TICKET = 99


# --- Hello -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """What the server says of itself."""

    product: str
    """Product name, for people."""

    version: int
    """Major version times 100 plus minor: 444, 501, 502."""

    build: int
    """Build number; 5.02 counts anew near 5180, so compare versions first."""

    challenge: bytes = field(repr=False)
    """20 random bytes, for this connection only."""


def encode_hello(hello: Hello) -> Pack:
    """Return the Pack of *hello*; the server's side."""
    return Pack(
        (
            text("hello", hello.product),
            integer("version", hello.version),
            integer("build", hello.build),
            data("random", hello.challenge),
        )
    )


def decode_hello(pack: Pack) -> Hello | ServerRefusal:
    """Return the Hello that the server answers the signature with.

    Raises:
        RemoteProtocolError: It has no product name, or no challenge of 20 bytes.
    """
    if refusal := _refusal(pack):
        return refusal
    if pack.find("hello", Kind.STR) is None:
        raise RemoteProtocolError("the answer to the signature is no Hello")
    challenge = _exactly(pack, "random", CHALLENGE_SIZE)
    return Hello(
        display_line(pack.get_str("hello"), 255),
        pack.get_int("version"),
        pack.get_int("build"),
        challenge,
    )


# --- Login -------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """What the client asks of the session; a server may grant less, never more."""

    max_connections: int = 1
    """TCP connections, 1 to 32."""

    use_compress: bool = False
    """Deflate each frame."""

    half_connection: bool = False
    """Use each connection in one direction only."""

    qos: bool = False
    """Give urgent frames a connection of their own."""

    mode: Literal["client", "bridge", "monitor"] = "client"
    """What the session is: one host, a way between networks, or a watcher."""

    udp: UdpOffer | None = None
    """Carry frames in datagrams, too; `None`: not wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRequest:
    """A Login as the server reads it."""

    hub: str
    """The hub to join; compared without regard to case."""

    user: str
    """User name; likewise."""

    auth_type: int
    """An :class:`AuthType`, or any other number: refuse it with error 7."""

    secure_password: bytes = field(repr=False)
    """The proof of a password login; of any size, compare in constant time."""

    plain_password: str = field(repr=False)
    """The password of a plain login, trimmed as official servers do."""

    certificate: bytes = field(repr=False)
    """The certificate (DER) of a login by one; of any size, and nothing is known of it."""

    signature: bytes = field(repr=False)
    """The proof that goes with it; likewise."""

    ticket: bytes = field(repr=False)
    """What a cluster's controller gave; likewise."""

    options: SessionOptions
    """What is asked of the session; connections clamped to 1 to 32."""

    use_encrypt: bool
    """Whether the session stays inside TLS."""

    needs_bridge_mode: bool
    """Whether the client wants to bridge: asked for, or by its name."""

    needs_monitor_mode: bool
    """Whether the client wants a copy of all frames."""

    client_product: str
    """The client's name, for people."""

    client_version: int
    """Its version."""

    client_build: int
    """Its build number."""

    unique_id: bytes = field(repr=False)
    """16 bytes that name the client's installation; empty if it sent none."""


def encode_login(
    *,
    hub: str,
    credentials: Credentials,
    identity: ClientIdentity,
    hello: Hello,
    options: SessionOptions,
) -> Pack:
    """Return the Login that answers *hello*.

    Args:
        hub: The hub to join, at most 255 bytes.
        credentials: Who logs in.
        identity: What is told of this host.
        hello: What the server said on this very connection.
        options: What is asked of the session. TLS is always asked for: without
            it the session's bytes would leave in clear.

    Raises:
        ConfigError: The hub's name cannot be sent.
    """
    return Pack(
        (
            text("method", "login"),
            text("hubname", _checked_hub(hub)),
            text("username", credentials.user),
            *_proof_elements(credentials, hello.challenge),
            text("client_str", identity.product),
            integer("client_ver", identity.version),
            integer("client_build", identity.build),
            integer("protocol", 0),
            text("hello", identity.product),
            integer("version", identity.version),
            integer("build", identity.build),
            integer("client_id", 0),
            integer("max_connection", options.max_connections),
            integer("use_encrypt", 1),
            integer("use_compress", options.use_compress),
            integer("half_connection", options.half_connection),
            integer("require_bridge_routing_mode", options.mode == "bridge"),
            integer("require_monitor_mode", options.mode == "monitor"),
            integer("qos", options.qos),
            *(() if options.udp is None else offer_elements(options.udp)),
            data("unique_id", identity.machine_id),
            *node_information(
                identity,
                server_product=hello.product,
                server_version=hello.version,
                server_build=hello.build,
            ),
        )
    )


def _checked_hub(hub: str) -> str:
    is_text = "\0" not in hub and not any("\ud800" <= c <= "\udfff" for c in hub)
    if not is_text or not hub or hub.strip(" \t") != hub:
        raise ConfigError(
            f"{hub!r} cannot be a hub's name: check the hub in the target or profile"
        )
    if len(hub.encode()) > MAX_HUB_SIZE:
        raise ConfigError(
            f"the hub's name has {len(hub.encode())} bytes: at most {MAX_HUB_SIZE} can be sent"
        )
    return hub


def _proof_elements(credentials: Credentials, challenge: bytes) -> tuple[Element, ...]:
    match credentials:
        case Anonymous():
            return (integer("authtype", AuthType.ANONYMOUS),)
        case Password(_, hashed):
            return (
                integer("authtype", AuthType.PASSWORD),
                data("secure_password", secure_password(hashed, challenge)),
            )
        case PlainPassword(_, password):
            return (
                integer("authtype", AuthType.PLAIN),
                text("plain_password", password),
            )
        case Certificate(_, certificate, sign):
            return (
                integer("authtype", AuthType.CERTIFICATE),
                data("cert", certificate),
                data("sign", sign(signed_digest(challenge))),
            )
        case Ticket(_, ticket):
            return (
                integer("authtype", AuthType.TICKET),
                data("ticket", ticket),
            )
        case _:
            assert_never(credentials)


def decode_login(pack: Pack) -> LoginRequest:
    """Return the Login in *pack*; the server's side.

    The proof is not judged, nor is its size.

    Raises:
        RemoteProtocolError: It is no login (method), or names no hub or user:
            answer with error 4.
    """
    if pack.get_word("method").lower() != "login":
        raise RemoteProtocolError(
            f"the client asks for method {display_line(pack.get_word('method'), 40)!r}, which is no login"
        )
    for name in ("hubname", "username"):
        if pack.find(name, Kind.STR) is None:
            raise RemoteProtocolError(f"the Login has no {name}")
    product = pack.get_str("client_str") or pack.get_str("hello")
    unique_id = pack.get_data("UniqueId")
    return LoginRequest(
        hub=pack.get_word("hubname"),
        user=pack.get_word("username"),
        auth_type=pack.get_int("authtype"),
        secure_password=pack.get_data("secure_password"),
        plain_password=pack.get_word("plain_password"),
        certificate=pack.get_data("cert"),
        signature=pack.get_data("sign"),
        ticket=pack.get_data("ticket"),
        options=SessionOptions(
            max_connections=_clamped(
                pack.get_int("max_connection"), 1, MAX_CONNECTIONS
            ),
            use_compress=pack.get_bool("use_compress"),
            half_connection=pack.get_bool("half_connection"),
            qos=pack.get_bool("qos"),
            udp=decode_offer(pack),
        ),
        use_encrypt=pack.get_bool("use_encrypt"),
        needs_bridge_mode=pack.get_bool("require_bridge_routing_mode")
        or any(word in product.lower() for word in ("server", "bridge")),
        needs_monitor_mode=pack.get_bool("require_monitor_mode"),
        client_product=display_line(product, 255) or "unknown client",
        client_version=pack.get_int("client_ver"),
        client_build=pack.get_int("client_build"),
        unique_id=unique_id if len(unique_id) == 16 else b"",
    )


# --- the answer to a Login ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerRefusal:
    """The server says no."""

    code: int
    """Its error number, docs/reference/protocol.md#errors; any number may come."""

    no_save_password: bool = False
    """Whether the hub forbids its users to store the password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """The server, a cluster's controller, sends the client to another member."""

    address: IPv4Address | IPv6Address
    """The member's address; never unspecified or multicast."""

    ports: tuple[int, ...]
    """Its TCP ports, 1 to 128 of them."""

    ticket: bytes = field(repr=False)
    """20 bytes that log in there once, within 60 s. A secret."""

    certificate: bytes = field(repr=False)
    """The certificate (DER) that the member must present."""

    message: str
    """For the user; safe to show, with its line ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The login succeeded: what the server grants."""

    session_name: str
    """The session's name at the server: `SID-ALICE-1`."""

    connection_name: str
    """The connection's name at the server: `CID-6`."""

    session_key: bytes = field(repr=False)
    """20 bytes that let another connection join the session. A secret."""

    max_connections: int = 1
    """TCP connections that the session may have, 1 to 32."""

    timeout_s: float = 20.0
    """Silence after which either side gives up, 5 to 60 s."""

    use_encrypt: bool = True
    """Whether the session stays inside TLS; True when decoded."""

    use_compress: bool = False
    """Whether each frame is deflated, in both directions."""

    half_connection: bool = False
    """Whether each connection carries one direction."""

    qos: bool = False
    """Whether urgent frames have a connection of their own."""

    udp: UdpGrant | str = "not offered to the server"
    """What it grants of UDP, or why there is none: a clause for people."""

    vlan_id: int = 0
    """VLAN that the server puts the session into, 0 for none; to be shown only."""

    is_azure: bool = False
    """Whether a VPN Azure relay is between."""

    message: str = ""
    """The administrator's message; safe to show, with its line ends; often empty."""

    policy: Mapping[str, int] = field(default_factory=dict[str, int])
    """What the hub allows, by the names of `policy.POLICY_NAMES`; absent means 0."""


def decode_login_answer(
    pack: Pack, *, options: SessionOptions | None = None
) -> Welcome | Redirect | ServerRefusal:
    """Return what the server answers to a Login.

    Args:
        pack: The answer; a noop is not one.
        options: What was asked for; the default SessionOptions if None.

    Raises:
        RemoteProtocolError: A part that must be there is missing or has another
            size, or the server grants what was not asked for.
    """
    if refusal := _refusal(pack):
        return refusal
    if pack.get_bool("Redirect"):
        return _decode_redirect(pack)
    return _decode_welcome(pack, options or SessionOptions())


def _refusal(pack: Pack) -> ServerRefusal | None:
    code = pack.get_int("error")
    return ServerRefusal(code, pack.get_bool("no_save_password")) if code else None


def _decode_redirect(pack: Pack) -> Redirect:
    address = pack.get_ip("Ip")
    if address is None or address.is_unspecified or address.is_multicast:
        raise RemoteProtocolError("the redirect names no address")
    ports = pack.get_ints("Port")
    if not 1 <= len(ports) <= _MAX_PORTS or not all(1 <= p <= 65535 for p in ports):
        raise RemoteProtocolError("the redirect names no usable ports")
    ticket = _exactly(pack, "Ticket", _TICKET_SIZE)
    certificate = pack.get_data("Cert")
    if not _is_one_der_sequence(certificate):
        raise RemoteProtocolError("the redirect has no certificate")
    return Redirect(
        address=address,
        ports=ports,
        ticket=ticket,
        certificate=certificate,
        message=_message(pack),
    )


def encode_redirect(redirect: Redirect) -> Pack:
    """Return the Pack of *redirect*; the server's side."""
    return Pack(
        (
            integer("error", 0),
            integer("Redirect", 1),
            *ip_elements("Ip", redirect.address),
            integer("Port", *redirect.ports),
            data("Ticket", redirect.ticket),
            data("Cert", redirect.certificate),
            data("Msg", redirect.message.encode()),
        )
    )


def _is_one_der_sequence(octets: bytes) -> bool:
    """Tell whether *octets* may be one certificate: a DER sequence and no more.

    The bytes are only ever compared with what the member presents; whether they
    are a good certificate is then TLS's question.
    """
    if len(octets) > MAX_CERTIFICATE_SIZE or octets[:1] != b"\x30" or len(octets) < 2:
        return False
    if octets[1] < 0x80:
        return len(octets) == 2 + octets[1]
    count = octets[1] & 0x7F
    size = int.from_bytes(octets[2 : 2 + count], "big")
    return 1 <= count <= 4 and len(octets) == 2 + count + size


def _decode_welcome(pack: Pack, options: SessionOptions) -> Welcome:
    for name in ("session_name", "connection_name"):
        if pack.find(name, Kind.STR) is None:
            raise RemoteProtocolError(f"the Welcome has no {name}")
    session_key = _exactly(pack, "session_key", SESSION_KEY_SIZE)
    if not any(session_key):
        raise RemoteProtocolError("the Welcome's session key is all zeros")
    _check_grants(pack, options)
    qos, half_connection = pack.get_bool("qos"), pack.get_bool("half_connection")
    return Welcome(
        session_name=display_line(pack.get_str("session_name"), 255),
        connection_name=display_line(pack.get_str("connection_name"), 255),
        session_key=session_key,
        max_connections=_clamped(
            min(pack.get_int("max_connection"), options.max_connections),
            (2 if qos else 1) * (2 if half_connection else 1),
            MAX_CONNECTIONS,
        ),
        timeout_s=_clamped(pack.get_int("timeout"), *_TIMEOUT_MS) / 1000,
        use_compress=pack.get_bool("use_compress"),
        half_connection=half_connection,
        qos=qos,
        udp=decode_grant(pack, options.udp),
        vlan_id=pack.get_int("vlan_id"),
        is_azure=pack.get_bool("is_azure_session"),
        message=_message(pack),
        policy=decode_policy(pack),
    )


def _check_grants(pack: Pack, options: SessionOptions) -> None:
    if not pack.get_bool("use_encrypt"):
        raise RemoteProtocolError(
            "the server wants the session to leave TLS (use_encrypt 0)"
        )
    # 4.x servers always name this one; it would replace TLS by bare RC4.
    if pack.get_bool("use_fast_rc4"):
        raise RemoteProtocolError(
            "the server wants RC4 instead of TLS (use_fast_rc4 1)"
        )
    wanted = {
        "use_compress": options.use_compress,
        "half_connection": options.half_connection,
        "qos": options.qos,
    }
    for name, is_wanted in wanted.items():
        if pack.get_bool(name) and not is_wanted:
            raise RemoteProtocolError(
                f"the server grants {name}, which was not asked for"
            )


def _message(pack: Pack) -> str:
    return display_text(pack.get_data("Msg"))


def _exactly(pack: Pack, name: str, size: int) -> bytes:
    value = pack.get_data(name)
    if len(value) != size:
        raise RemoteProtocolError(f"{name} has {len(value)} bytes instead of {size}")
    return value


def _clamped(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


def encode_welcome(welcome: Welcome) -> Pack:
    """Return the Pack of *welcome*; the server's side.

    All 39 policy elements are sent, as official servers do; what *welcome* does
    not name is 0.
    """
    return Pack(
        (
            text("session_name", welcome.session_name),
            text("connection_name", welcome.connection_name),
            data("session_key", welcome.session_key),
            integer("session_key_32", 0),
            integer("max_connection", welcome.max_connections),
            integer("use_encrypt", welcome.use_encrypt),
            integer("use_compress", welcome.use_compress),
            integer("half_connection", welcome.half_connection),
            integer("timeout", round(welcome.timeout_s * 1000)),
            integer("qos", welcome.qos),
            integer("is_azure_session", welcome.is_azure),
            integer("enable_udp_recovery", 0),
            *(grant_elements(welcome.udp) if isinstance(welcome.udp, UdpGrant) else ()),
            integer("suppress_client_update_notification", 0),
            integer("vlan_id", welcome.vlan_id),
            data("Msg", welcome.message.encode("utf-8")),
            *policy_elements(welcome.policy),
        )
    )


def encode_error(code: int, *, no_save_password: bool = False) -> Pack:
    """Return the Pack of a refusal; the server's side."""
    return Pack((integer("error", code), integer("no_save_password", no_save_password)))


# --- noop --------------------------------------------------------------------


def is_noop(pack: Pack) -> bool:
    """Tell whether *pack* only says that the sender is still there."""
    return pack.get_bool("noop")


def encode_noop() -> Pack:
    """Return the server's answer to a client's noop; the value is that of 4.x and 5.01."""
    return Pack((integer("error", 0), integer("noop", 1)))
