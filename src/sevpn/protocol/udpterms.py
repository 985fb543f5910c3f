# SPDX-License-Identifier: Apache-2.0
"""What the two ends agree on about UDP: the offer in the Login, the grant in the Welcome.

Layer: protocol; pure. Runs in: any thread.

    client ── UdpOffer in the Login ────> server      opens a socket
    client <── UdpGrant in the Welcome ── server      a version, a port, cookies, a key
              each end: Terms of its own for `acceleration.py`

A grant that is not right in every part turns UDP off and nothing else: the session
works without it.

Source: docs/reference/protocol.md#udp-acceleration; SoftEtherVPN, Cedar/Protocol.c,
ClientUploadAuth(), ServerAccept(), PackWelcome() and ClientConnect().
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, TypeAlias

from sevpn.wire.pack import Element, Pack, data, integer, ip_elements

__all__ = [
    "KEY_V1_SIZE",
    "KEY_V2_SIZE",
    "Address",
    "Terms",
    "UdpGrant",
    "UdpOffer",
    "Version",
    "client_terms",
    "decode_grant",
    "decode_offer",
    "grant_elements",
    "offer_elements",
    "server_terms",
]

KEY_V1_SIZE: Final = 20
"""Bytes of a key of version 1."""

KEY_V2_SIZE: Final = 128
"""Bytes of a key of version 2."""

Address: TypeAlias = IPv4Address | IPv6Address
Version: TypeAlias = Literal[1, 2]
"""Of the datagrams, in both directions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpOffer:
    """A client's wish for UDP."""

    max_version: Version
    """The highest version that it speaks."""

    address: Address | None
    """Of its socket, as it knows it; `None` where that would say nothing."""

    port: int
    """Of its socket, 1 to 65535."""

    key_v1: bytes = field(repr=False)
    """20 bytes for what it sends in version 1. A secret."""

    key_v2: bytes = field(repr=False)
    """128 bytes for what it sends in version 2; empty if it speaks version 1 alone. A secret."""

    is_fast: bool = True
    """Whether it can do with the fast timing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpGrant:
    """A server's answer to an offer."""

    version: Version
    """The version of both directions."""

    address: Address | None
    """Of its socket, as it knows it; `None`: the one that the client has reached by TCP."""

    port: int
    """Of its socket, 1 to 65535."""

    key_v1: bytes = field(repr=False)
    """20 bytes for what it sends in version 1. A secret."""

    key_v2: bytes = field(repr=False)
    """128 bytes for what it sends in version 2; else of any size. A secret."""

    server_cookie: int
    """Stands in what the client sends; not 0."""

    client_cookie: int
    """Stands in what the server sends; not 0."""

    is_fast: bool
    """Whether both ends use the fast timing."""


# --- the Login ---------------------------------------------------------------


def offer_elements(offer: UdpOffer) -> tuple[Element, ...]:
    """Return what the Login says of an offer."""
    keys = [data("udp_acceleration_client_key", offer.key_v1)]
    if offer.max_version == 2:
        keys.append(data("udp_acceleration_client_key_v2", offer.key_v2))
    return (
        integer("use_udp_acceleration", 1),
        integer("udp_acceleration_version", 1),
        integer("udp_acceleration_max_version", offer.max_version),
        *ip_elements("udp_acceleration_client_ip", offer.address),
        integer("udp_acceleration_client_port", offer.port),
        *keys,
        integer("support_hmac_on_udp_acceleration", 1),
        integer("support_udp_accel_fast_disconnect_detect", offer.is_fast),
    )


def decode_offer(pack: Pack) -> UdpOffer | None:
    """Return the offer in a Login; `None`: there is none, or it is not right in every part."""
    if not pack.get_bool("use_udp_acceleration"):
        return None
    address = pack.get_ip("udp_acceleration_client_ip")
    port = pack.get_int("udp_acceleration_client_port")
    key_v1 = pack.get_data("udp_acceleration_client_key")
    key_v2 = pack.get_data("udp_acceleration_client_key_v2")
    max_version: Version = 2 if pack.get_int("udp_acceleration_max_version") >= 2 else 1
    if (
        address is None
        or _is_odd(address)
        or not 1 <= port <= 65535
        or len(key_v1) != KEY_V1_SIZE
        or (max_version == 2 and len(key_v2) != KEY_V2_SIZE)
    ):
        return None
    return UdpOffer(
        max_version=max_version,
        address=None if address.is_unspecified else address,
        port=port,
        key_v1=key_v1,
        key_v2=key_v2,
        is_fast=pack.get_bool("support_udp_accel_fast_disconnect_detect"),
    )


# --- the Welcome -------------------------------------------------------------


def grant_elements(grant: UdpGrant) -> tuple[Element, ...]:
    """Return what the Welcome says of a grant."""
    return (
        integer("use_udp_acceleration", 1),
        integer("udp_acceleration_version", grant.version),
        *ip_elements("udp_acceleration_server_ip", grant.address),
        integer("udp_acceleration_server_port", grant.port),
        data("udp_acceleration_server_key", grant.key_v1),
        data("udp_acceleration_server_key_v2", grant.key_v2),
        integer("udp_acceleration_server_cookie", grant.server_cookie),
        integer("udp_acceleration_client_cookie", grant.client_cookie),
        integer("udp_acceleration_use_encryption", 1),
        integer("use_hmac_on_udp_acceleration", 1),
        integer("udp_accel_fast_disconnect_detect", grant.is_fast),
    )


def decode_grant(pack: Pack, offer: UdpOffer | None) -> UdpGrant | str:
    """Return the grant in a Welcome, or why there is no UDP: a clause for people.

    Args:
        pack: The Welcome.
        offer: What was offered.
    """
    if offer is None:
        return "not offered to the server"
    if not pack.get_bool("use_udp_acceleration"):
        return "the server does not want it"
    address = pack.get_ip("udp_acceleration_server_ip")
    port = pack.get_int("udp_acceleration_server_port")
    key_v1 = pack.get_data("udp_acceleration_server_key")
    key_v2 = pack.get_data("udp_acceleration_server_key_v2")
    version = pack.get_int("udp_acceleration_version") or 1
    cookies = (
        pack.get_int("udp_acceleration_server_cookie"),
        pack.get_int("udp_acceleration_client_cookie"),
    )
    if version == 1 and offer.max_version == 2:
        # Servers take the lesser of both ends' versions; so might somebody between.
        return "the server speaks version 1 alone, which does not notice changed packets: --udp-v1 uses it all the same"
    if version != offer.max_version:
        return f"the server wants version {version}, which was not offered"
    if address is None or _is_odd(address):
        return "the server names no address"
    if not 1 <= port <= 65535 or not all(cookies):
        return "the server names no port or no cookie"
    if len(key_v1) != KEY_V1_SIZE or (version == 2 and len(key_v2) != KEY_V2_SIZE):
        return f"the server's keys have a wrong size ({len(key_v1)} and {len(key_v2)} bytes)"
    if not pack.get_bool("udp_acceleration_use_encryption"):
        return "the server wants it in clear"
    return UdpGrant(
        version=offer.max_version,
        address=None if address.is_unspecified else address,
        port=port,
        key_v1=key_v1,
        key_v2=key_v2,
        server_cookie=cookies[0],
        client_cookie=cookies[1],
        is_fast=pack.get_bool("udp_accel_fast_disconnect_detect"),
    )


def _is_odd(address: Address) -> bool:
    """Whether nobody can be reached there; the unspecified address says "as by TCP"."""
    return address.is_multicast or address == IPv4Address("255.255.255.255")


# --- both ends ---------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one end goes by."""

    version: Version
    """The version of both directions."""

    send_key: bytes = field(repr=False)
    """For what this end sends. A secret."""

    receive_key: bytes = field(repr=False)
    """For what the peer sends. A secret."""

    send_cookie: int
    """Stands in what this end sends."""

    receive_cookie: int
    """Stands in what the peer sends."""

    is_fast: bool
    """Which timing: docs/reference/protocol-data.md#udp-timing."""

    peer: Address
    """Where the peer is to be tried first: its address on the TCP connection."""

    port: int
    """The peer's UDP port, as it gave it."""

    reported: Address | None
    """Where the peer says that it is; `None`: no word."""


def client_terms(offer: UdpOffer, grant: UdpGrant, peer: Address) -> Terms:
    """Return what the client goes by.

    Args:
        offer: What it offered.
        grant: What it was given.
        peer: The server's address on the TCP connection.
    """
    keys = (offer.key_v2, grant.key_v2) if grant.version == 2 else (offer.key_v1, grant.key_v1)  # fmt: skip
    return Terms(
        version=grant.version,
        send_key=keys[0],
        receive_key=keys[1],
        send_cookie=grant.server_cookie,
        receive_cookie=grant.client_cookie,
        is_fast=grant.is_fast,
        peer=peer,
        port=grant.port,
        reported=_other(grant.address, peer),
    )


def server_terms(offer: UdpOffer, grant: UdpGrant, peer: Address) -> Terms:
    """Return what the server goes by.

    Args:
        offer: What it was offered.
        grant: What it gave.
        peer: The client's address on the TCP connection.
    """
    keys = (grant.key_v2, offer.key_v2) if grant.version == 2 else (grant.key_v1, offer.key_v1)  # fmt: skip
    return Terms(
        version=grant.version,
        send_key=keys[0],
        receive_key=keys[1],
        send_cookie=grant.client_cookie,
        receive_cookie=grant.server_cookie,
        is_fast=grant.is_fast,
        peer=peer,
        port=offer.port,
        reported=_other(offer.address, peer),
    )


def _other(reported: Address | None, peer: Address) -> Address | None:
    """Return a reported address if it can be sent to and is another than the peer's."""
    is_usable = reported is not None and reported.version == peer.version
    return reported if is_usable and reported != peer else None
