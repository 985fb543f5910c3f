# SPDX-License-Identifier: Apache-2.0
"""What the routers of the hub say: subnets, ways, name servers, and for how long.

Layer: protocol; pure. Runs in: the control thread.

    Soliciting ──the first advertisement, or four questions──> Listening

Each advertisement renews what it names; what is not renewed ends with its lifetime,
and a lifetime of 0 ends it at once. Of several routers the one with the highest
preference leads on, of equals the one that was heard first.

Source: RFC 4861 section 6.3; RFC 4862 section 5.5.3; RFC 4191 section 3; RFC 8106
section 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Interface, IPv6Network
from typing import Final, TypeVar

from sevpn.wire.ethernet import MacAddress
from sevpn.wire.ipv6 import interface_id
from sevpn.wire.ra import (
    INFINITE_S,
    PrefixInformation,
    RouteInformation,
    RouterAdvertisement,
)

__all__ = [
    "MAX_NAMES",
    "MAX_PREFIXES",
    "MAX_ROUTERS",
    "MAX_ROUTES",
    "SHORTEST_PREFIX",
    "Routers",
]

MAX_ROUTERS: Final = 8
"""Routers that are known at most; who comes later is not heard."""

MAX_PREFIXES: Final = 16
"""Subnets, likewise."""

SHORTEST_PREFIX: Final = 48
"""Of a subnet: a segment has a /64, a site a /48. A router that calls more than that its
segment would lead to itself what belongs to the whole world, and needs nobody's consent."""

MAX_ROUTES: Final = 64
"""Routes, likewise."""

MAX_NAMES: Final = 16
"""Name servers, and search domains, likewise."""

K = TypeVar("K")

_ASK_AT_S: Final = (0.0, 1.0, 4.0, 8.0)
"""A router answers within half a second; the first question may have been lost."""

_TWO_HOURS_S: Final = 7200.0
_SLAAC_LENGTH: Final = 64


@dataclass(slots=True)
class _Router:
    until: float
    preference: int
    is_managed: bool
    has_other: bool


@dataclass(slots=True)
class _Prefix:
    until: float
    is_on_link: bool
    is_autonomous: bool


@dataclass(slots=True)
class Routers:
    """What is known of the link.

    Nothing here looks at a clock: each call says what time it is.
    """

    mac: MacAddress
    """Of the TAP; addresses are made of it."""

    _routers: dict[IPv6Address, _Router] = field(
        default_factory=dict[IPv6Address, _Router]
    )
    _prefixes: dict[IPv6Network, _Prefix] = field(
        default_factory=dict[IPv6Network, _Prefix]
    )
    _routes: dict[tuple[IPv6Network, IPv6Address], tuple[float, int]] = field(
        default_factory=dict[tuple[IPv6Network, IPv6Address], tuple[float, int]]
    )
    _servers: dict[IPv6Address, float] = field(default_factory=dict[IPv6Address, float])
    _search: dict[str, float] = field(default_factory=dict[str, float])
    _questions: list[float] = field(default_factory=list[float])

    def start(self, now: float) -> None:
        """Begin to ask."""
        self._questions = [now + after_s for after_s in _ASK_AT_S]

    def is_question_due(self, now: float) -> bool:
        """Whether routers are to be asked now; true once for each time."""
        due = [at for at in self._questions if at <= now]
        self._questions = self._questions[len(due) :]
        return bool(due)

    def next_deadline(self) -> float | None:
        """Return when to ask, or when something ends."""
        ends = [
            *self._questions,
            *(router.until for router in self._routers.values()),
            *(prefix.until for prefix in self._prefixes.values()),
            *(until for until, _ in self._routes.values()),
            *self._servers.values(),
            *self._search.values(),
        ]
        return min((at for at in ends if at < math.inf), default=None)

    def hear(self, said: RouterAdvertisement, now: float) -> None:
        """Take in an advertisement."""
        self._questions = []
        self._expire(now)
        self._hear_router(said, now)
        for prefix in said.prefixes:
            self._hear_prefix(prefix, now)
        for route in said.routes:
            self._hear_route(route, said.source, now)
        for server, lifetime_s in said.servers:
            _renew(self._servers, server, lifetime_s, now)
        for name, lifetime_s in said.search:
            _renew(self._search, name, lifetime_s, now)

    def pass_time(self, now: float) -> None:
        """Let end what has not been renewed."""
        self._expire(now)

    # --- what follows from it ---

    @property
    def router(self) -> IPv6Address | None:
        """The default router; `None`: nobody offers to be one."""
        return max(
            (
                address
                for address, router in self._routers.items()
                if router.until < math.inf
            ),
            key=lambda address: self._routers[address].preference,
            default=None,
        )

    @property
    def is_managed(self) -> bool:
        """Whether addresses are to be asked for by DHCPv6."""
        return any(router.is_managed for router in self._routers.values())

    @property
    def has_other(self) -> bool:
        """Whether other settings are to be asked for by DHCPv6."""
        return any(router.has_other for router in self._routers.values())

    @property
    def addresses(self) -> tuple[IPv6Interface, ...]:
        """Our own, one in each autonomous subnet of 64 bits."""
        tail = interface_id(self.mac)
        return tuple(
            IPv6Interface(
                (
                    prefix.network_address.packed[:8] + tail,
                    _SLAAC_LENGTH if known.is_on_link else 128,
                )
            )
            for prefix, known in self._prefixes.items()
            if known.is_autonomous and prefix.prefixlen == _SLAAC_LENGTH
        )

    @property
    def on_link(self) -> tuple[IPv6Network, ...]:
        """The subnets that are reached without a router."""
        return tuple(net for net, known in self._prefixes.items() if known.is_on_link)

    @property
    def routes(self) -> tuple[tuple[IPv6Network, IPv6Address], ...]:
        """Networks and who leads there, one each."""
        best: dict[IPv6Network, tuple[int, IPv6Address]] = {}
        for (network, router), (_, preference) in self._routes.items():
            if network not in best or preference > best[network][0]:
                best[network] = (preference, router)
        return tuple((network, router) for network, (_, router) in best.items())

    @property
    def servers(self) -> tuple[IPv6Address, ...]:
        """Name servers."""
        return tuple(self._servers)

    @property
    def search(self) -> tuple[str, ...]:
        """Search domains."""
        return tuple(self._search)

    # --- one thing each ---

    def _hear_router(self, said: RouterAdvertisement, now: float) -> None:
        if said.source not in self._routers and len(self._routers) >= MAX_ROUTERS:
            return
        # One that is no default router still says M and O.
        until = now + said.lifetime_s if said.lifetime_s else math.inf
        self._routers[said.source] = _Router(
            until, said.preference, said.is_managed, said.has_other
        )

    def _hear_prefix(self, said: PrefixInformation, now: float) -> None:
        if said.prefix.is_link_local or said.prefix.is_multicast:
            return
        if said.prefix.prefixlen < SHORTEST_PREFIX:
            return
        known = self._prefixes.get(said.prefix)
        if known is None:
            if said.valid_s and len(self._prefixes) < MAX_PREFIXES:
                until = _end(said.valid_s, now)
                self._prefixes[said.prefix] = _Prefix(
                    until, said.is_on_link, said.is_autonomous
                )
            return
        known.until = _cautious_end(said.valid_s, known.until - now, now)
        known.is_on_link = said.is_on_link
        known.is_autonomous = said.is_autonomous

    def _hear_route(
        self, said: RouteInformation, source: IPv6Address, now: float
    ) -> None:
        key = (said.prefix, source)
        if not said.lifetime_s:
            self._routes.pop(key, None)
        elif said.prefix.prefixlen and (
            key in self._routes or len(self._routes) < MAX_ROUTES
        ):
            self._routes[key] = (_end(said.lifetime_s, now), said.preference)

    def _expire(self, now: float) -> None:
        self._routers = {k: v for k, v in self._routers.items() if v.until > now}
        self._prefixes = {k: v for k, v in self._prefixes.items() if v.until > now}
        self._routes = {k: v for k, v in self._routes.items() if v[0] > now}
        self._servers = {k: v for k, v in self._servers.items() if v > now}
        self._search = {k: v for k, v in self._search.items() if v > now}


def _renew(known: dict[K, float], key: K, lifetime_s: int, now: float) -> None:
    if not lifetime_s:
        known.pop(key, None)
    elif key in known or len(known) < MAX_NAMES:
        known[key] = _end(lifetime_s, now)


def _end(lifetime_s: int, now: float) -> float:
    return math.inf if lifetime_s == INFINITE_S else now + lifetime_s


def _cautious_end(lifetime_s: int, left_s: float, now: float) -> float:
    """Return when a known prefix ends: nobody can end it sooner than in two hours.

    Else one forged advertisement takes all addresses away (RFC 4862 section 5.5.3).
    """
    if lifetime_s > _TWO_HOURS_S or lifetime_s > left_s:
        return _end(lifetime_s, now)
    return now + min(left_s, _TWO_HOURS_S)
