# SPDX-License-Identifier: Apache-2.0
"""From the host as found to the host as wanted: the steps, and their inverses.

Layer: net. Runs in: any thread; pure.

    plan(found, wanted, made=…)        the TAP: link, addresses, routes, rules, resolver
    plan_pins(found, …)                the routes to the server, past the tunnel
    plan_removal(found, …)             taking those away again

The order of the steps is that of least harm. Going: names first (nobody asks a
resolver that cannot answer any more), then rules, routes, addresses. Coming: link,
addresses, routes on the link, routes by a gateway, default routes, the rules that
send packets there, names. A plan for a state that is there already is empty.

Only what is ours is removed: routes and rules by their protocol number, and by the
tunnel's own table and preferences; addresses and the resolver by what the journal
says we made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from sevpn.net.marks import Marks
from sevpn.net.model import (
    HALF_DEFAULTS_V4,
    HALF_DEFAULTS_V6,
    MAIN_TABLE,
    RTPROTO,
    Address,
    Family,
    Found,
    FoundRoute,
    HostState,
    Interface,
    Link,
    Network,
    Resolver,
    Route,
    Rule,
    family_of,
    is_default,
    network_of,
)
from sevpn.net.nexthop import best_next_hop, is_held_by_others, server_route

__all__ = [
    "AddAddress",
    "AddRoute",
    "AddRule",
    "Change",
    "Made",
    "MoveRoute",
    "Pins",
    "RemoveAddress",
    "RemoveRoute",
    "RemoveRule",
    "SetBridge",
    "SetMtu",
    "SetResolver",
    "SetUp",
    "describe_resolver",
    "plan",
    "plan_pins",
    "plan_removal",
    "with_half_defaults",
]


@dataclass(frozen=True, slots=True)
class SetMtu:
    """Give the TAP another MTU."""

    device: str
    """The TAP."""

    mtu: int
    """In bytes of one IP packet."""

    before: int
    """What it was."""

    def inverse(self) -> SetMtu:
        """Return the change that takes this one back."""
        return SetMtu(self.device, self.before, self.mtu)

    def describe(self) -> str:
        """Write it as a command of `ip`."""
        return f"ip link set {self.device} mtu {self.mtu}"


@dataclass(frozen=True, slots=True)
class SetUp:
    """Turn the TAP on or off."""

    device: str
    """The TAP."""

    is_up: bool
    """On or off."""

    def inverse(self) -> SetUp:
        """Return the change that takes this one back."""
        return SetUp(self.device, not self.is_up)

    def describe(self) -> str:
        """Write it as a command of `ip`."""
        return f"ip link set {self.device} {'up' if self.is_up else 'down'}"


@dataclass(frozen=True, slots=True)
class SetBridge:
    """Make the TAP a port of a bridge, or of none."""

    device: str
    """The TAP."""

    bridge: str | None
    """The bridge; `None`: none."""

    before: str | None
    """What it was a port of."""

    def inverse(self) -> SetBridge:
        """Return the change that takes this one back."""
        return SetBridge(self.device, self.before, self.bridge)

    def describe(self) -> str:
        """Write it as a command of `ip`."""
        if self.bridge is None:
            return f"ip link set {self.device} nomaster"
        return f"ip link set {self.device} master {self.bridge}"


@dataclass(frozen=True, slots=True)
class AddAddress:
    """Add an address to the TAP."""

    device: str
    """The TAP."""

    interface: Interface
    """The address and its subnet."""

    def inverse(self) -> RemoveAddress:
        """Return the change that takes this one back."""
        return RemoveAddress(self.device, self.interface)

    def describe(self) -> str:
        """Write it as a command of `ip`."""
        return f"ip address add {self.interface} dev {self.device}"


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    """Remove an address from the TAP."""

    device: str
    """The TAP."""

    interface: Interface
    """The address and its subnet."""

    def inverse(self) -> AddAddress:
        """Return the change that takes this one back."""
        return AddAddress(self.device, self.interface)

    def describe(self) -> str:
        """Write it as a command of `ip`."""
        return f"ip address del {self.interface} dev {self.device}"


@dataclass(frozen=True, slots=True)
class AddRoute:
    """Add a route."""

    route: Route
    """To its table, with our protocol number."""

    def inverse(self) -> RemoveRoute:
        """Return the change that takes this one back."""
        return RemoveRoute(self.route)

    def describe(self) -> str:
        """Write it as a command of `ip`."""
        return f"{_ip(self.route)} route add {self.route} proto {RTPROTO}"


@dataclass(frozen=True, slots=True)
class RemoveRoute:
    """Remove a route of ours."""

    route: Route
    """As it is in its table."""

    def inverse(self) -> AddRoute:
        """Return the change that takes this one back."""
        return AddRoute(self.route)

    def describe(self) -> str:
        """Write it as a command of `ip`."""
        return f"{_ip(self.route)} route del {self.route} proto {RTPROTO}"


@dataclass(frozen=True, slots=True)
class MoveRoute:
    """Give a route of ours another way, without a moment in which there is none."""

    route: Route
    """As it is to be."""

    before: Route
    """As it was; of the same destination and metric."""

    def inverse(self) -> MoveRoute:
        """Return the change that takes this one back."""
        return MoveRoute(self.before, self.route)

    def describe(self) -> str:
        """Write it as a command of `ip`."""
        return f"{_ip(self.route)} route replace {self.route} proto {RTPROTO}"


@dataclass(frozen=True, slots=True)
class AddRule:
    """Add a policy rule."""

    rule: Rule
    """With our protocol number."""

    def inverse(self) -> RemoveRule:
        """Return the change that takes this one back."""
        return RemoveRule(self.rule)

    def describe(self) -> str:
        """Write it as a command of `ip`."""
        return f"{_ip(self.rule)} rule add {self.rule} protocol {RTPROTO}"


@dataclass(frozen=True, slots=True)
class RemoveRule:
    """Remove a policy rule of ours."""

    rule: Rule
    """As it is."""

    def inverse(self) -> AddRule:
        """Return the change that takes this one back."""
        return AddRule(self.rule)

    def describe(self) -> str:
        """Write it as a command of `ip`."""
        return f"{_ip(self.rule)} rule del {self.rule} protocol {RTPROTO}"


@dataclass(frozen=True, slots=True)
class SetResolver:
    """Set or restore whom the host asks for names."""

    resolver: Resolver | None
    """`None`: what the host had before us."""

    before: Resolver | None
    """What we had set before; `None`: nothing."""

    device: str = ""
    """The TAP."""

    def inverse(self) -> SetResolver:
        """Return the change that takes this one back."""
        return SetResolver(self.before, self.resolver, self.device)

    def describe(self) -> str:
        """Write it in one line."""
        if self.resolver is None:
            return describe_restoring(self.before, self.device)
        servers = [str(server) for server in self.resolver.servers]
        return describe_resolver(self.resolver, servers, self.device)


def describe_resolver(resolver: Resolver, servers: Sequence[str], device: str) -> str:
    """Write in one line how *resolver* is set; *servers* stand for its own."""
    searched = list(resolver.search)
    if resolver.way == "resolved":
        routed = [f"'~{domain}'" for domain in resolver.domains or (".",)]
        words = " ".join([*searched, *routed])
        return f"resolvectl dns {device} {' '.join(servers)}; resolvectl domain {device} {words}"
    search = f", search {' '.join(searched)}" if searched else ""
    what = "resolvconf -a" if resolver.way == "resolvconf" else "write /etc/resolv.conf"
    return f"{what}: nameserver {', '.join(servers)}{search}"


def describe_restoring(before: Resolver | None, device: str) -> str:
    """Write in one line how *before* is taken away again."""
    if before is not None and before.way == "resolved":
        return f"resolvectl revert {device}"
    if before is not None and before.way == "resolvconf":
        return "resolvconf -d"
    return "restore /etc/resolv.conf"


Change: TypeAlias = (
    SetMtu
    | SetUp
    | SetBridge
    | AddAddress
    | RemoveAddress
    | AddRoute
    | RemoveRoute
    | MoveRoute
    | AddRule
    | RemoveRule
    | SetResolver
)
"""One step. Each has `inverse()`, which takes it back, and `describe()`, a line for people."""


@dataclass(frozen=True, slots=True)
class Made:
    """What we made that the kernel cannot tell from other people's things."""

    addresses: tuple[Interface, ...] = ()
    """Addresses that we put on the TAP."""

    resolver: Resolver | None = None
    """The name servers that we set; `None`: none."""


@dataclass(frozen=True, slots=True)
class Pins:
    """How the routes past the tunnel are to change: to the server, and what is excluded."""

    changes: tuple[Change, ...]
    """The steps; empty when all is as it should be."""

    standing: tuple[Route, ...]
    """The routes that stand afterwards, those that are shared with other tunnels included."""

    lost: tuple[Address | Network, ...]
    """What this host has no way to now."""


def with_half_defaults(wanted: HostState, found: Found) -> HostState:
    """Help the default route of *wanted* where another one would win.

    Where a default of the same family with a metric not above ours exists, two
    routes that are more specific than any default do the work. It counts even
    while its link is down: it may come back at any time.

    Returns:
        *wanted* with the halves added. For IPv6, where the kernel would join two
        defaults of one metric into one route of two ways, our default is then
        left out.
    """
    ours = found.devices_of_tunnels() | {wanted.device}
    routes: list[Route] = []
    for route in wanted.routes:
        if not is_default(route.destination) or route.table != MAIN_TABLE:
            routes.append(route)
            continue
        rivals = [
            other.route.metric
            for other in found.routes
            if not other.is_ours
            and other.route.device not in ours
            and other.route.destination == route.destination
            and other.route.metric <= route.metric
        ]
        family = family_of(route.destination)
        if family == 4 or route.metric not in rivals:
            routes.append(route)
        if rivals:
            halves = HALF_DEFAULTS_V4 if family == 4 else HALF_DEFAULTS_V6
            routes += [replace(route, destination=half) for half in halves]
    return replace(wanted, routes=tuple(dict.fromkeys(routes)))


def plan(
    found: Found, wanted: HostState, *, made: Made, marks: Marks | None = None
) -> tuple[Change, ...]:
    """Return the steps that turn the TAP as found into the TAP as wanted.

    Args:
        found: The host as it is.
        wanted: With its half-defaults, see :func:`with_half_defaults`.
        made: What we made before.
        marks: Whose table and rules are this tunnel's; `None`: none are.
    """
    device = wanted.device
    on_device = {
        address.interface for address in found.addresses if address.device == device
    }
    obsolete = [
        address
        for address in made.addresses
        if address in on_device and address not in wanted.addresses
    ]
    # The kernel drops routes when addresses go: all of them with a family's last
    # address, some with others. So a family that loses one is set up afresh.
    touched: set[Family] = {family_of(address) for address in obsolete}
    ours = [
        entry.route
        for entry in (*found.routes, *found.elsewhere)
        if entry.is_ours and _belongs(entry.route, device, marks)
    ]
    # What does not lead into the TAP does not depend on its addresses.
    standing = {
        route
        for route in ours
        if route.device != device or family_of(route.destination) not in touched
    }
    rules = [rule for rule in found.rules if marks is not None and marks.has(rule)]

    changes: list[Change] = []
    if made.resolver is not None and wanted.resolver is None:
        changes.append(SetResolver(None, made.resolver, device))
    gone = [
        route for route in ours if route not in standing or route not in wanted.routes
    ]
    changes += [
        RemoveRule(rule) for rule in reversed(rules) if rule not in wanted.rules
    ]
    changes += [RemoveRoute(route) for route in sorted(gone, key=_order, reverse=True)]
    changes += [RemoveAddress(device, address) for address in obsolete]
    changes += _link_changes(found, wanted)
    changes += [
        AddAddress(device, address)
        for address in wanted.addresses
        if address not in on_device
    ]
    missing = [route for route in wanted.routes if route not in standing]
    changes += [AddRoute(route) for route in sorted(missing, key=_order)]
    changes += [AddRule(rule) for rule in wanted.rules if rule not in rules]
    if wanted.resolver is not None and wanted.resolver != made.resolver:
        changes.append(SetResolver(wanted.resolver, made.resolver, device))
    return tuple(changes)


def _belongs(route: Route, device: str, marks: Marks | None) -> bool:
    """Whether a route of sevpn is that of the tunnel with this TAP and these numbers."""
    return route.device == device or (marks is not None and route.table == marks.table)


def _link_changes(found: Found, wanted: HostState) -> list[Change]:
    link = found.link(wanted.device)
    changes: list[Change] = []
    if link is not None and link.mtu != wanted.mtu:
        changes.append(SetMtu(wanted.device, wanted.mtu, link.mtu))
    before = _bridge_of(found, link)
    # Whatever somebody else has made it a port of is theirs to decide.
    if wanted.bridge is not None and before != wanted.bridge:
        changes.append(SetBridge(wanted.device, wanted.bridge, before))
    if link is None or not link.is_up:
        changes.append(SetUp(wanted.device, is_up=True))
    return changes


def _bridge_of(found: Found, link: Link | None) -> str | None:
    number = None if link is None else link.master
    return next((other.name for other in found.links if other.index == number), None)


def _order(route: Route) -> tuple[bool, int]:
    """Sort what leads nowhere first, then routes on the link, by a gateway, defaults."""
    return (route.gateway is not None, -route.destination.prefixlen)


def plan_pins(found: Found, places: Iterable[Address | Network]) -> Pins:
    """Return the steps that hold each of *places* to today's best way past the tunnel.

    None is needed for an address of this host, for a link-local one (its zone is
    its way), or where somebody else holds it already. A place without any way
    keeps the route that it has: a dead way is better than the way into the tunnel.
    """
    tunnels = found.devices_of_tunnels()
    local = {network_of(address.interface.ip) for address in found.addresses}
    changes: list[Change] = []
    standing: list[Route] = []
    lost: list[Address | Network] = []
    for place in dict.fromkeys(places):
        if place.is_loopback or place.is_link_local or network_of(place) in local:
            continue
        hop = best_next_hop(found.routes, place, ignored_devices=tunnels)
        if hop is None:
            lost.append(place)
            continue
        route = server_route(place, hop)
        before = _own_pin(found, route, tunnels)
        if before is None:
            if is_held_by_others(found.routes, route, ignored_devices=tunnels):
                continue
            changes.append(AddRoute(route))
        elif before != route:
            changes.append(MoveRoute(route, before))
        standing.append(route)
    return Pins(tuple(changes), tuple(standing), tuple(lost))


def _own_pin(found: Found, route: Route, tunnels: Collection[str]) -> Route | None:
    """Return the route of ours, or of another tunnel, that stands in the place of *route*."""
    places = (
        entry.route
        for entry in found.routes
        if entry.is_ours
        and entry.route.destination == route.destination
        and entry.route.metric == route.metric
        and entry.route.device not in tunnels
    )
    return next(places, None)


def plan_removal(
    routes: Sequence[FoundRoute],
    *,
    keep: Collection[Address | Network],
    living_devices: Collection[str],
) -> tuple[RemoveRoute, ...]:
    """Return the steps that remove our routes past tunnels, except those still used.

    Args:
        routes: The main tables.
        keep: What living tunnels need.
        living_devices: TAPs of living tunnels; routes into them are theirs.
    """
    kept = frozenset(map(network_of, keep))
    return tuple(
        RemoveRoute(entry.route)
        for entry in routes
        if entry.is_ours
        and entry.route.device not in living_devices
        and entry.route.destination not in kept
    )


def _ip(item: Route | Rule) -> str:
    family = item.family if isinstance(item, Rule) else family_of(item.destination)
    return "ip" if family == 4 else "ip -6"
