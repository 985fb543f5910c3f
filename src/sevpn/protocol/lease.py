# SPDX-License-Identifier: Apache-2.0
"""A lease: what a DHCP server gave, judged before anything is configured by it.

Layer: protocol; pure. Runs in: any thread.

A hub's DHCP server may be anybody. :func:`read_lease` therefore refuses an offer
whose address, mask, server or duration makes no sense, ignores any other option
that does not, and leaves a warning for each that it ignored or had to guess.

Source: RFC 2131 section 4.4, RFC 2132, RFC 3397, RFC 3442;
docs/reference/dhcp.md#options.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Final, TypeVar

from sevpn.errors import RemoteProtocolError
from sevpn.wire.dhcpv4 import (
    INFINITE_LEASE,
    Message,
    Option,
    StaticRoute,
    decode_addresses,
    decode_classless_routes,
    decode_names,
    decode_number,
    decode_static_routes,
    is_host_name,
)
from sevpn.wire.ethernet import MacAddress

__all__ = ["Lease", "StaticRoute", "read_lease", "server_of"]

_T = TypeVar("_T")

_GUESSED_LEASE_S: Final = 3600
"""For a server that does not say; what busybox's udhcpc takes too."""

_MIN_PREFIX: Final = 8
"""A larger subnet would take traffic of the public network that nobody asked to take."""

_MIN_MTU: Final = 576
_MAX_MTU: Final = 1500
_T1_SHARE: Final = 0.5
_T2_SHARE: Final = 0.875
_MAX_SHOWN: Final = 80
"""Characters of a peer's text that a warning shows."""

_NEVER_HOSTS: Final = (
    IPv4Network("0.0.0.0/8"),
    IPv4Network("127.0.0.0/8"),
    IPv4Network("224.0.0.0/4"),
    IPv4Network("240.0.0.0/4"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """An address on loan, and what the server said about its network."""

    address: IPv4Interface
    """Ours, with the prefix of its subnet."""

    router: IPv4Address | None = None
    """The first usable router of option 3, which may lie outside of the subnet."""

    classless_routes: tuple[StaticRoute, ...] | None = None
    """Option 121, else 249; None: neither. Where it is there, :attr:`router` and
    :attr:`static_routes` do not count for who accepts it (RFC 3442)."""

    static_routes: tuple[StaticRoute, ...] = ()
    """Option 33."""

    dns: tuple[IPv4Address, ...] = ()
    """Name servers, in the server's order."""

    domain: str | None = None
    """Option 15: the domain of this network."""

    search: tuple[str, ...] = ()
    """Option 119: domains to search, in the server's order."""

    hostname: str | None = None
    """Option 12: the name that the server has for us."""

    ntp: tuple[IPv4Address, ...] = ()
    """Time servers, in the server's order."""

    mtu: int | None = None
    """Bytes of an IP packet, 576 to 1500."""

    server: IPv4Address
    """The server's name of itself (option 54)."""

    server_mac: MacAddress
    """Where frames for :attr:`server` go: its own address, a relay's or a router's."""

    obtained_at: float
    """When we asked for what the server granted; the lease counts from here."""

    renew_at: float
    """T1: ask the server itself from now on; infinity if the lease never ends."""

    rebind_at: float
    """T2: ask any server from now on; infinity likewise."""

    expires_at: float | None
    """When the address may not be used any more; None: never."""

    warnings: tuple[str, ...] = ()
    """One sentence for each option that was ignored, changed or guessed."""

    def has_same_settings(self, other: Lease) -> bool:
        """Say whether the host needs no change to go from one to the other."""
        return self == replace(
            other,
            server=self.server,
            server_mac=self.server_mac,
            obtained_at=self.obtained_at,
            renew_at=self.renew_at,
            rebind_at=self.rebind_at,
            expires_at=self.expires_at,
        )


def server_of(message: Message) -> IPv4Address | None:
    """Return who says that it sent *message* (option 54); None if nobody that can be."""
    try:
        (server,) = decode_addresses(message.options.get(Option.SERVER_ID, b""))
    except (RemoteProtocolError, ValueError):
        return None
    return server if _can_be_host(server) else None


def read_lease(
    message: Message, *, server: IPv4Address, server_mac: MacAddress, asked_at: float
) -> Lease:
    """Judge an OFFER or ACK.

    Args:
        message: The server's answer.
        server: Whose it is.
        server_mac: The source of its frame.
        asked_at: When our request was sent; the server's durations count from here.

    Returns:
        The lease, with a warning for each option that was not taken as it is.

    Raises:
        RemoteProtocolError: It cannot be used; the text says why, and is fit to
            follow "was refused:".
    """
    if not _can_be_host(server):
        raise RemoteProtocolError(f"no server can have the address {server}")
    options = _Options(message)
    address = _address(options, message.yiaddr)
    duration_s = _duration_s(options)
    t1_s, t2_s = _timers_s(options, duration_s)
    classless = options.take(Option.CLASSLESS_ROUTES, decode_classless_routes)
    if classless is None:
        classless = options.take(Option.MICROSOFT_ROUTES, decode_classless_routes)
    return Lease(
        address=address,
        router=_router(options, address),
        classless_routes=classless,
        static_routes=options.take(Option.STATIC_ROUTES, decode_static_routes) or (),
        dns=options.hosts(Option.DNS_SERVERS),
        domain=options.name(Option.DOMAIN_NAME),
        search=options.names(options.take(Option.SEARCH_LIST, decode_names)),
        hostname=options.name(Option.HOST_NAME),
        ntp=options.hosts(Option.NTP_SERVERS),
        mtu=_mtu(options),
        server=server,
        server_mac=server_mac,
        obtained_at=asked_at,
        renew_at=asked_at + t1_s,
        rebind_at=asked_at + t2_s,
        expires_at=None if math.isinf(duration_s) else asked_at + duration_s,
        warnings=tuple(dict.fromkeys(options.warnings)),
    )


class _Options:
    """The options of one message, and what was not taken of them."""

    def __init__(self, message: Message) -> None:
        self._values = message.options
        self.warnings: list[str] = []

    def warn(self, code: int, what: str) -> None:
        self.warnings.append(f"DHCP option {code} {what}")

    def take(self, code: Option, decode: Callable[[bytes], _T]) -> _T | None:
        """Return the option's value; None, with a warning if it is there, if it makes no sense."""
        value = self._values.get(code)
        if value is None:
            return None
        try:
            return decode(_not_empty(value))
        except RemoteProtocolError as error:
            self.warn(code, f"was ignored: {error}")
            return None

    def number(self, code: Option, size: int) -> int | None:
        return self.take(code, lambda value: decode_number(value, size))

    def hosts(self, code: Option) -> tuple[IPv4Address, ...]:
        """Return the usable ones of a list of addresses."""
        found = dict.fromkeys(self.take(code, decode_addresses) or ())
        for address in found:
            if not _can_be_host(address):
                self.warn(
                    code, f"names {address}, which was ignored: no host can have it"
                )
        return tuple(address for address in found if _can_be_host(address))

    def name(self, code: Option) -> str | None:
        text = self.take(code, lambda value: value.decode("ascii", "replace"))
        return None if text is None else next(iter(self._usable(code, [text])), None)

    def names(self, found: Iterable[str] | None) -> tuple[str, ...]:
        return self._usable(Option.SEARCH_LIST, found or ())

    def _usable(self, code: int, names: Iterable[str]) -> tuple[str, ...]:
        usable: list[str] = []
        for name in names:
            # Some servers end the text with a zero, some with the root's dot.
            bare = name.rstrip("\0").removesuffix(".")
            if is_host_name(bare):
                usable.append(bare)
            else:
                shown = ascii(bare[:_MAX_SHOWN])
                self.warn(code, f"was ignored: {shown} is no name of a host or domain")
        return tuple(dict.fromkeys(usable))


def _not_empty(value: bytes) -> bytes:
    if not value:
        raise RemoteProtocolError("it is empty")
    return value


def _can_be_host(address: IPv4Address) -> bool:
    return not any(address in network for network in _NEVER_HOSTS)


def _address(options: _Options, address: IPv4Address) -> IPv4Interface:
    if not _can_be_host(address):
        raise RemoteProtocolError(f"no host can have the address {address}")
    interface = IPv4Interface((int(address), _prefix(options, address)))
    network = interface.network
    if network.prefixlen < 31 and address in (
        network.network_address,
        network.broadcast_address,
    ):
        raise RemoteProtocolError(f"{address} is no host of {network}")
    return interface


def _prefix(options: _Options, address: IPv4Address) -> int:
    masks = options.take(Option.SUBNET_MASK, decode_addresses)
    if masks is None:
        prefix = 8 if address.packed[0] < 128 else 16 if address.packed[0] < 192 else 24
        options.warn(
            Option.SUBNET_MASK, f"is missing: /{prefix} was guessed for {address}"
        )
        return prefix
    host_bits = 0xFFFFFFFF ^ int(masks[0])
    prefix = 32 - host_bits.bit_length()
    # A mask is ones, then zeros: with one added, its host bits are a power of two.
    if host_bits & (host_bits + 1) or prefix < _MIN_PREFIX:
        raise RemoteProtocolError(
            f"the subnet mask {masks[0]} is none: it needs {_MIN_PREFIX} to 32 ones in a row"
        )
    return prefix


def _duration_s(options: _Options) -> float:
    seconds = options.number(Option.LEASE_TIME, 4)
    if seconds is None:
        options.warn(
            Option.LEASE_TIME, f"is missing: {_GUESSED_LEASE_S} s were guessed"
        )
        return _GUESSED_LEASE_S
    if not seconds:
        raise RemoteProtocolError("the lease lasts 0 s")
    return math.inf if seconds == INFINITE_LEASE else seconds


def _timers_s(options: _Options, duration_s: float) -> tuple[float, float]:
    """Return T1 and T2: what the server says, if it says something possible."""
    if math.isinf(duration_s):
        return math.inf, math.inf
    said_t1 = options.number(Option.RENEWAL_TIME, 4)
    said_t2 = options.number(Option.REBINDING_TIME, 4)
    t1_s = duration_s * _T1_SHARE if said_t1 is None else said_t1
    t2_s = duration_s * _T2_SHARE if said_t2 is None else said_t2
    if 0 < t1_s < t2_s < duration_s:
        return t1_s, t2_s
    options.warn(
        Option.RENEWAL_TIME,
        f"and 59 were ignored: {t1_s:g} s, {t2_s:g} s and the end after {duration_s:g} s"
        " do not follow each other",
    )
    return duration_s * _T1_SHARE, duration_s * _T2_SHARE


def _router(options: _Options, address: IPv4Interface) -> IPv4Address | None:
    for router in options.hosts(Option.ROUTERS):
        if router == address.ip:
            options.warn(
                Option.ROUTERS,
                f"names {router}, which was ignored: it is our own address",
            )
            continue
        # With a /32 no router can be inside, and whoever gives it knows.
        if router not in address.network and address.network.prefixlen < 32:
            options.warn(
                Option.ROUTERS,
                f"names {router}, which is outside of {address.network}:"
                " it works only if it answers on the link",
            )
        return router
    return None


def _mtu(options: _Options) -> int | None:
    mtu = options.number(Option.MTU, 2)
    if mtu is None:
        return None
    clamped = min(max(mtu, _MIN_MTU), _MAX_MTU)
    if clamped != mtu:
        options.warn(Option.MTU, f"says {mtu}: {clamped} was taken")
    return clamped
