# SPDX-License-Identifier: Apache-2.0
"""Which table a tunnel's routes stand in, and which packets look there.

Layer: net. Runs in: any thread; pure.

    host   all routes in the main table; what is excluded is held past the tunnel
           there, as the server is
    mark   all routes in the tunnel's own table; a rule sends every packet there but
           those of the tunnel's own sockets; what is excluded is a `throw` there,
           which leaves the packet to the rules that follow, and so to the main table

The rules of a tunnel, in the order in which they are asked (see `marks.py`):

    +0  from ADDRESS, fwmark REPLY      lookup N       --policy-route-table N, --connmark
    +1  uidrange U-U, fwmark BYPASS     lookup main    --exclude-uid, `sevpn bypass`
    +1  from UPLINK                     lookup ...     --policy-route-table, see below
    +2  not fwmark OWN                  lookup TABLE   mark mode

With a policy table, connections that came in by an uplink stay on it, too, whatever
happens to the default route: else a session from outside would end when it moves.
In `mark` mode the main table leads there; in `host` mode, whose main table has the
tunnel's default route, the tunnel's own table holds the uplink's.

Source: ip-rule(8); docs/reference/routing.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from typing import Final, Literal, TypeAlias

from sevpn.net.marks import Marks
from sevpn.net.model import (
    DEFAULT_V4,
    DEFAULT_V6,
    MAIN_TABLE,
    Address,
    Family,
    Found,
    Interface,
    Network,
    Route,
    Rule,
    family_of,
    host_route_metric,
    is_default,
    network_of,
)

__all__ = ["Arranged", "Inside", "Lan", "Wishes", "arrange", "local_networks"]

Lan: TypeAlias = Literal["private", "none", "all"]
"""Which of the subnets that this host is in stay reachable beside the tunnel: those with
private addresses, none, or all of them."""

_PRIVATE: Final = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv4Network("169.254.0.0/16"),
    IPv4Network("100.64.0.0/10"),
    IPv6Network("fc00::/7"),
    IPv6Network("fe80::/10"),
)
"""What a hostile network cannot widen: it may hand out any subnet, and only its part in
these counts."""

_TO_ALL: Final = (IPv4Network("224.0.0.0/4"), IPv4Network("255.255.255.255/32"))
"""Where a host talks to all on its link: printers, time, file shares."""

_POLICY, _EXCLUDED, _TUNNEL = 0, 1, 2
_LINK_LOCAL: Final = IPv6Network("fe80::/10")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user has said about ways."""

    by_mark: bool = False
    """Whether the mode is `mark`."""

    lan: Lan = "private"
    """What of the neighbourhood stays reachable, in `mark` mode."""

    exclude_uids: tuple[int, ...] = ()
    """Users whose packets pass the tunnel by, in `mark` mode."""

    policy_table: int | None = None
    """The table for packets with an address of the tunnel; `None`: none."""

    follows_connections: bool = False
    """Whether what answers a connection that came in by the tunnel uses that table, too."""

    rejects_ipv6: bool = False
    """Whether what does not go inside in IPv6 goes nowhere."""


@dataclass(frozen=True, slots=True)
class Inside:
    """What leads into the tunnel."""

    device: str
    """The TAP."""

    addresses: tuple[Interface, ...]
    """On the TAP."""

    routes: tuple[Route, ...]
    """Through the TAP, as they would stand in the main table."""

    excluded: tuple[Network, ...]
    """What must not go there."""

    routers: tuple[Address, ...]
    """Who leads on from the hub, one of each family at most."""

    metric: int
    """Of our routes."""


@dataclass(frozen=True, slots=True)
class Arranged:
    """The ways, for a HostState."""

    routes: tuple[Route, ...]
    """With their tables."""

    rules: tuple[Rule, ...]
    """In the order in which they are to be added."""

    excluded: tuple[Network, ...]
    """What the main table must hold past the tunnel."""

    beside: tuple[Network, ...] = ()
    """What may be reached beside the tunnel, in `mark` mode."""


def arrange(wishes: Wishes, inside: Inside, *, found: Found, marks: Marks) -> Arranged:
    """Return routes and rules, each in its place.

    Args:
        wishes: What the user has said.
        inside: What leads into the tunnel.
        found: The host as it is: the subnets and the uplinks that it has.
        marks: The tunnel's numbers.
    """
    routes = [
        route
        for route in inside.routes
        if not any(_is_within(route.destination, other) for other in inside.excluded)
    ]
    rules: list[Rule] = []
    if wishes.by_mark:
        routes = [*_own_table(wishes, inside, routes, found=found, marks=marks)]
        rules += _to_own_table(wishes, routes, marks)
    if wishes.rejects_ipv6:
        routes += _rejection(wishes, inside, routes, found=found, marks=marks)
        rules += _to_own_table(wishes, routes, marks, families=(6,))
    if wishes.policy_table is not None:
        routes += _policy_routes(inside, wishes.policy_table)
        rules += _policy_rules(wishes, inside, wishes.policy_table, marks)
        more_routes, more_rules = _uplink_replies(wishes, inside, found, marks)
        routes += more_routes
        rules += more_rules
    return Arranged(
        routes=tuple(dict.fromkeys(routes)),
        rules=tuple(sorted(dict.fromkeys(rules), key=_preference)),
        excluded=() if wishes.by_mark else inside.excluded,
        beside=_beside(wishes, inside, found) if wishes.by_mark and routes else (),
    )


def local_networks(found: Found, lan: Lan, *, device: str) -> tuple[Network, ...]:
    """Return the subnets of this host that stay reachable beside the tunnel.

    Args:
        found: The host as it is.
        lan: Which of them.
        device: The TAP, whose subnets do not count; nor do those of other tunnels.
    """
    if lan == "none":
        return ()
    tunnels = found.devices_of_tunnels() | {device, "lo"}
    subnets = {
        address.interface.network
        for address in found.addresses
        if address.device not in tunnels and not address.interface.is_loopback
    }
    if lan == "private":
        subnets = {part for subnet in subnets for part in _private_parts(subnet)}
    return tuple(
        sorted(subnets, key=lambda net: (net.version, int(net[0]), net.prefixlen))
    )


def _private_parts(subnet: Network) -> list[Network]:
    ranges = [other for other in _PRIVATE if other.version == subnet.version]
    if any(_is_within(subnet, other) for other in ranges):
        return [subnet]
    return [other for other in ranges if _is_within(other, subnet)]


# --- the tunnel's own table ----------------------------------------------------


def _own_table(
    wishes: Wishes,
    inside: Inside,
    routes: Iterable[Route],
    *,
    found: Found,
    marks: Marks,
) -> list[Route]:
    table = [replace(route, table=marks.table) for route in routes]
    families = {family_of(route.destination) for route in table}
    # Connected routes stand in the main table, which is not asked any more.
    table += [
        Route(network, None, inside.device, inside.metric, table=marks.table)
        for network in _subnets(inside.addresses)
        if family_of(network) in families
    ]
    is_full = any(is_default(route.destination) for route in table)
    passed_by = _beside(wishes, inside, found) if is_full else inside.excluded
    taken = {route.destination for route in table}
    return table + [
        _throw(network, marks.table)
        for network in dict.fromkeys(passed_by)
        if family_of(network) in families and network not in taken
    ]


def _beside(wishes: Wishes, inside: Inside, found: Found) -> tuple[Network, ...]:
    near = local_networks(found, wishes.lan, device=inside.device)
    to_all = () if wishes.lan == "none" else _TO_ALL
    return tuple(dict.fromkeys((*inside.excluded, *near, *to_all)))


def _throw(network: Network, table: int) -> Route:
    metric = host_route_metric(family_of(network))
    return Route(network, None, "", metric, table=table, kind="throw")


def _subnets(addresses: Iterable[Interface]) -> list[Network]:
    return [
        address.network
        for address in addresses
        if address.network.prefixlen < address.max_prefixlen
    ]


def _rejection(
    wishes: Wishes,
    inside: Inside,
    routes: Sequence[Route],
    *,
    found: Found,
    marks: Marks,
) -> list[Route]:
    """Return what refuses IPv6 at once, but for what goes inside and for the neighbourhood.

    A refusal is no leak, and faster than silence: programs try IPv4 then. It stands in
    the tunnel's own table, so that nothing of the host's settings has to be changed.
    """
    taken = {route.destination for route in routes if route.table == marks.table}
    lan: Lan = wishes.lan if wishes.by_mark else "all"
    open_to_all = [*local_networks(found, lan, device=inside.device), _LINK_LOCAL]
    # In `host` mode what goes inside stands in the main table.
    open_to_all += [route.destination for route in routes if route.table != marks.table]
    open_to_all += [*_subnets(inside.addresses), *inside.excluded]
    metric = host_route_metric(6)
    return [
        *(
            _throw(network, marks.table)
            for network in dict.fromkeys(open_to_all)
            if network.version == 6 and network not in taken
        ),
        Route(DEFAULT_V6, None, "", metric, table=marks.table, kind="unreachable"),
    ]


def _to_own_table(
    wishes: Wishes,
    routes: Sequence[Route],
    marks: Marks,
    families: Sequence[Family] = (4, 6),
) -> list[Rule]:
    rules: list[Rule] = []
    for family in families:
        if not any(family_of(route.destination) == family for route in routes):
            continue
        past, into = marks.preference + _EXCLUDED, marks.preference + _TUNNEL
        rules.append(Rule(family, past, MAIN_TABLE, mark=marks.bypass))
        rules += [
            Rule(family, past, MAIN_TABLE, uids=(uid, uid))
            for uid in wishes.exclude_uids
        ]
        rules.append(Rule(family, into, marks.table, mark=marks.own, is_not=True))
    return rules


# --- replies stay where the connection came in -----------------------------------


def _policy_routes(inside: Inside, table: int) -> list[Route]:
    defaults: dict[int, Network] = {4: DEFAULT_V4, 6: DEFAULT_V6}
    routes = [
        Route(network, None, inside.device, inside.metric, table=table)
        for network in _subnets(inside.addresses)
    ]
    return routes + [
        Route(
            defaults[router.version],
            router,
            inside.device,
            inside.metric,
            onlink=not router.is_link_local
            and not any(router in address.network for address in inside.addresses),
            table=table,
        )
        for router in inside.routers
    ]


def _policy_rules(
    wishes: Wishes, inside: Inside, table: int, marks: Marks
) -> list[Rule]:
    first = marks.preference + _POLICY
    answers = [
        Rule(family_of(address), first, table, mark=marks.reply)
        for address in inside.addresses
        if wishes.follows_connections
    ]
    return answers + [
        Rule(
            family_of(address),
            first,
            table,
            source=network_of(address.ip),
        )
        for address in inside.addresses
    ]


def _uplink_replies(
    wishes: Wishes, inside: Inside, found: Found, marks: Marks
) -> tuple[list[Route], list[Rule]]:
    """Return what keeps connections that came in by an uplink on it."""
    table = MAIN_TABLE if wishes.by_mark else marks.table
    tunnels = found.devices_of_tunnels() | {inside.device}
    taken = {
        family_of(route.destination)
        for route in inside.routes
        if is_default(route.destination)
    }
    uplinks = [
        entry.route
        for entry in found.routes
        if is_default(entry.route.destination)
        and family_of(entry.route.destination) in taken
        and entry.is_unicast
        and entry.is_usable
        and not entry.is_ours
        and entry.route.device not in tunnels
    ]
    rules = [
        Rule(
            family_of(address.interface),
            marks.preference + _EXCLUDED,
            table,
            source=network_of(address.interface.ip),
        )
        for address in found.addresses
        if not address.is_link_local
        and any(
            route.device == address.device
            and family_of(route.destination) == family_of(address.interface)
            for route in uplinks
        )
    ]
    if wishes.by_mark or not rules:
        return [], rules
    near = local_networks(found, "all", device=inside.device)
    families = {rule.family for rule in rules}
    routes = [replace(route, table=table) for route in _best(uplinks)]
    routes += [_throw(net, table) for net in near if family_of(net) in families]
    return routes, rules


def _best(routes: Iterable[Route]) -> list[Route]:
    """Return the first route of each family and metric: more cannot stand in a table."""
    chosen: dict[tuple[int, int], Route] = {}
    for route in routes:
        chosen.setdefault((route.destination.version, route.metric), route)
    return list(chosen.values())


def _is_within(inner: Network, outer: Network) -> bool:
    return (
        inner.version == outer.version
        and inner.prefixlen >= outer.prefixlen
        and inner.network_address in outer
    )


def _preference(rule: Rule) -> tuple[int, int]:
    return (rule.preference, rule.family)
