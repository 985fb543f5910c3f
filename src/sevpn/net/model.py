# SPDX-License-Identifier: Apache-2.0
"""What the host's network is made of, as far as a tunnel is concerned.

Layer: net. Runs in: any thread; frozen values, no behaviour but text.

Two kinds of values stand here: what is *wanted* (:class:`HostState`, made of
:class:`Route` and :class:`Resolver`) and what is *found* (:class:`Found`, made of
:class:`FoundRoute`, :class:`FoundAddress` and :class:`Link`). `plan.py` compares
the two.

Everything that we create in the kernel carries our name, so that it can be told
from other people's things even when all our files are gone:

    routes       protocol 224: `ip route show table all proto 224`
    rules        protocol 224 and a preference of marks.py: `ip rule`
    the TAP      alias `sevpn NAME …`: `ip link` shows it; it dies with the process
    resolv.conf  a marker line, see dns/file.py
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
)
from typing import Final, Literal, TypeAlias

__all__ = [
    "ALIAS_PREFIX",
    "DEFAULT_METRIC",
    "DEFAULT_V4",
    "DEFAULT_V6",
    "HALF_DEFAULTS_V4",
    "HALF_DEFAULTS_V6",
    "MAIN_TABLE",
    "RTPROTO",
    "Address",
    "Alias",
    "Family",
    "Found",
    "FoundAddress",
    "FoundRoute",
    "HostState",
    "Interface",
    "Link",
    "NamesWay",
    "Network",
    "Resolver",
    "Route",
    "RouteKind",
    "Rule",
    "family_of",
    "host_route_metric",
    "is_default",
    "network_of",
]

Address: TypeAlias = IPv4Address | IPv6Address
"""One address. A link-local IPv6 address of a found object has no zone; its device says it."""

Network: TypeAlias = IPv4Network | IPv6Network
"""A destination."""

Interface: TypeAlias = IPv4Interface | IPv6Interface
"""An address with the prefix length of its subnet."""

Family: TypeAlias = Literal[4, 6]
"""The version of the Internet protocol."""

RTPROTO: Final = 224
"""The routing protocol number of every route that we add; free in iproute2's rt_protos."""

MAIN_TABLE: Final = 254
"""The routing table that `ip route` shows."""

DEFAULT_METRIC: Final = 50
"""The metric of our default route: better than what DHCP clients and NetworkManager give (100 and up)."""

_ALIAS_SIZE: Final = 255
"""Bytes that the kernel keeps of an alias."""

ALIAS_PREFIX: Final = "sevpn "
"""How the alias of a TAP of ours begins; the tunnel's name follows."""

DEFAULT_V4: Final = IPv4Network("0.0.0.0/0")
DEFAULT_V6: Final = IPv6Network("::/0")

HALF_DEFAULTS_V4: Final = (IPv4Network("0.0.0.0/1"), IPv4Network("128.0.0.0/1"))
HALF_DEFAULTS_V6: Final = (IPv6Network("::/1"), IPv6Network("8000::/1"))
"""Together all addresses, and more specific than any default route."""


def family_of(value: Address | Network | Interface) -> Family:
    """Return 4 or 6."""
    return 4 if value.version == 4 else 6


def network_of(place: Address | Network) -> Network:
    """Return *place*, an address as the network of it alone."""
    if isinstance(place, IPv4Address):
        return IPv4Network((int(place), 32))
    if isinstance(place, IPv6Address):
        return IPv6Network((int(place), 128))
    return place


def is_default(destination: Network) -> bool:
    """Whether *destination* is everything."""
    return destination.prefixlen == 0


def host_route_metric(family: Family) -> int:
    """Return the metric of a route to one address of a server.

    What the kernel would take without one: 0 is the best there is for IPv4; for
    IPv6 the kernel reads 0 as 1024, and comparing wants the number it will show.
    """
    return 0 if family == 4 else 1024


RouteKind: TypeAlias = Literal["unicast", "unreachable", "throw", "other"]
"""What a route does: lead somewhere, refuse at once, or leave the matter to the rules
that follow (`throw`). Others are other people's."""


@dataclass(frozen=True, slots=True)
class Route:
    """One route, as we add it or would have added it."""

    destination: Network
    """Where to."""

    gateway: Address | None
    """Next hop; `None`: on the link itself. May be IPv6 for an IPv4 destination (RFC 5549)."""

    device: str
    """Name of the outgoing interface; `""` for one that leads nowhere."""

    metric: int
    """Smaller wins among routes to the same destination."""

    source: Address | None = None
    """Preferred source address of packets that we send ourselves."""

    onlink: bool = False
    """Whether the gateway counts as reachable although no subnet covers it."""

    table: int = MAIN_TABLE
    """The routing table that it is in."""

    kind: RouteKind = "unicast"
    """What it does."""

    def __str__(self) -> str:
        """Write the route as `ip route` would."""
        width = 32 if self.destination.version == 4 else 128
        words: list[str] = [] if self.kind == "unicast" else [self.kind]
        if is_default(self.destination):
            words.append("default")
        elif self.destination.prefixlen == width:
            words.append(str(self.destination.network_address))
        else:
            words.append(str(self.destination))
        if self.gateway is not None:
            words += [
                "via",
                *(
                    ["inet6"]
                    if self.gateway.version != self.destination.version
                    else []
                ),
            ]
            words.append(str(self.gateway))
        if self.device:
            words += ["dev", self.device]
        if self.table != MAIN_TABLE:
            words += ["table", str(self.table)]
        if self.gateway is None and self.device and self.destination.version == 4:
            words += ["scope", "link"]
        if self.source is not None:
            words += ["src", str(self.source)]
        if self.metric:
            words += ["metric", str(self.metric)]
        if self.onlink:
            words.append("onlink")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy rule: which packets look into which table. All of its conditions must hold."""

    family: Family
    """For which version of IP."""

    preference: int
    """Rules are asked in this order; it is one of the tunnel's ten, see `marks.py`."""

    table: int
    """The table that is looked into."""

    mark: int | None = None
    """The packet's firewall mark; `None`: any."""

    is_not: bool = False
    """Whether the rule is for the packets that do *not* fulfil the conditions."""

    source: Network | None = None
    """Where the packet comes from; `None`: anywhere."""

    uids: tuple[int, int] | None = None
    """First and last user id that may own the socket; `None`: any."""

    def __str__(self) -> str:
        """Write it as `ip rule add` takes it."""
        words = [f"pref {self.preference}"]
        if self.is_not:
            words.append("not")
        words.append(f"from {'all' if self.source is None else self.source}")
        if self.mark is not None:
            words.append(f"fwmark {self.mark:#x}")
        if self.uids is not None:
            words.append(f"uidrange {self.uids[0]}-{self.uids[1]}")
        table = "main" if self.table == MAIN_TABLE else str(self.table)
        return " ".join([*words, f"lookup {table}"])


NamesWay: TypeAlias = Literal["resolved", "resolvconf", "file"]
"""A way to tell this host its name servers; see dns/backend.py."""


@dataclass(frozen=True, slots=True)
class Resolver:
    """Whom this host asks for names."""

    servers: tuple[Address, ...]
    """In order of preference."""

    search: tuple[str, ...] = ()
    """Domains tried behind a short name; letters, digits, `-`, `_` and dots only."""

    domains: tuple[str, ...] = ()
    """Only names below these, and below `search`, go to `servers` (split DNS); empty: all
    names do. Characters as in `search`. Only the way `resolved` can do it."""

    way: NamesWay = "file"
    """By what the host is told."""


@dataclass(frozen=True, slots=True)
class HostState:
    """What one tunnel wants of this host, its routes to the server apart."""

    device: str
    """Name of the TAP."""

    mtu: int
    """Of the TAP, in bytes of one IP packet."""

    addresses: tuple[Interface, ...]
    """On the TAP."""

    routes: tuple[Route, ...]
    """Through the TAP; the subnets of the addresses come by themselves. A default route
    stands here once; the halves that may have to help it are the business of `plan.py`."""

    resolver: Resolver | None
    """`None`: name resolution is left alone."""

    rules: tuple[Rule, ...] = ()
    """That send packets into tables of our own."""

    excluded: tuple[Network, ...] = ()
    """Where the main table must lead past the tunnel, by the best way that there is."""

    bridge: str | None = None
    """The bridge that the TAP is a port of; `None`: none."""

    beside: tuple[Network, ...] = ()
    """What a lock must let everybody reach beside the tunnel."""

    @property
    def default_families(self) -> frozenset[Family]:
        """The families whose default route is to go through the tunnel."""
        tables = {MAIN_TABLE} | {rule.table for rule in self.rules if rule.is_not}
        return frozenset(
            family_of(route.destination)
            for route in self.routes
            if is_default(route.destination)
            and route.kind == "unicast"
            and route.table in tables
        )


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel shows it."""

    index: int
    """Its number; names may change, this does not."""

    name: str
    """Its name."""

    mac: str | None
    """Hardware address, lower-case with colons; `None` where there is none."""

    mtu: int
    """In bytes of one IP packet."""

    is_up: bool
    """Whether it was turned on (`IFF_UP`)."""

    has_carrier: bool
    """Whether it could carry frames now (`IFF_LOWER_UP`)."""

    alias: str | None
    """Free text, set by the administrator or by us."""

    kind: str | None = None
    """Of a virtual interface what the kernel calls it: `tun`, `bridge`, `wireguard`, …"""

    master: int | None = None
    """The number of the bridge that it is a port of; `None`: none."""

    has_spanning_tree: bool = False
    """Of a bridge, whether it finds loops itself."""


@dataclass(frozen=True, slots=True)
class Alias:
    """What the alias of a TAP says: whose it is, and which servers it needs.

    It lives in the kernel exactly as long as the process that holds the TAP, and
    only the administrator can write it: the one record that no deleted file takes
    away. `sevpn office 203.0.113.7 2001:db8::7`; a `+` at the end stands for
    addresses that had no room in the kernel's 255 bytes.
    """

    tunnel: str
    """Name of the tunnel."""

    servers: tuple[Address, ...] = ()
    """Addresses whose routes it holds."""

    is_complete: bool = True
    """False when there are more."""

    def __str__(self) -> str:
        """Write it as it stands in the kernel."""
        text = f"{ALIAS_PREFIX}{self.tunnel}"
        for server in self.servers:
            longer = f"{text} {server}"
            if len(longer) > _ALIAS_SIZE - 2:
                return f"{text} +"
            text = longer
        return text if self.is_complete else f"{text} +"

    @classmethod
    def parse(cls, text: str | None) -> Alias | None:
        """Read the alias of any interface; `None` when it is not one of ours."""
        if text is None or not text.startswith(ALIAS_PREFIX):
            return None
        name, *words = text.removeprefix(ALIAS_PREFIX).split(" ")
        servers: list[Address] = []
        is_complete = True
        for word in words:
            try:
                servers.append(ip_address(word))
            except ValueError:
                is_complete = False
        return cls(name, tuple(servers), is_complete)


@dataclass(frozen=True, slots=True)
class FoundAddress:
    """An address as the kernel shows it."""

    device: str
    """Name of the interface."""

    interface: Interface
    """The address and its subnet."""

    is_link_local: bool
    """Whether the kernel's scope is link: such an address came with the interface."""


@dataclass(frozen=True, slots=True)
class FoundRoute:
    """A route as the kernel shows it; one value for each next hop."""

    route: Route
    """Where to and by what way."""

    protocol: int
    """Who made it: :data:`RTPROTO` is us, 2 the kernel, 3 the boot scripts, 4 `ip`, …"""

    is_usable: bool = True
    """False while its next hop is dead or its link is down."""

    @property
    def is_ours(self) -> bool:
        """Whether sevpn made it, in whatever process."""
        return self.protocol == RTPROTO

    @property
    def is_unicast(self) -> bool:
        """Whether it leads anywhere."""
        return self.route.kind == "unicast"


@dataclass(frozen=True, slots=True)
class Found:
    """The host as it is now, as far as it concerns a tunnel."""

    links: tuple[Link, ...] = ()
    """All interfaces."""

    addresses: tuple[FoundAddress, ...] = ()
    """All addresses."""

    routes: tuple[FoundRoute, ...] = ()
    """The main tables of both families."""

    elsewhere: tuple[FoundRoute, ...] = ()
    """Routes of ours in other tables."""

    rules: tuple[Rule, ...] = ()
    """Policy rules of ours."""

    def link(self, name: str) -> Link | None:
        """Return the interface *name*, or `None`."""
        return next((link for link in self.links if link.name == name), None)

    def tunnels(self) -> dict[str, Alias]:
        """Return the living tunnels of this namespace by their TAPs."""
        aliases = {link.name: Alias.parse(link.alias) for link in self.links}
        return {device: alias for device, alias in aliases.items() if alias is not None}

    def devices_of_tunnels(self) -> frozenset[str]:
        """Return the names of all living TAPs of sevpn, other processes' included."""
        return frozenset(self.tunnels())
