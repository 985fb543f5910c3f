# SPDX-License-Identifier: Apache-2.0
"""The best way to an address, past all tunnels of sevpn.

Layer: net. Runs in: any thread; pure.

The kernel cannot be asked for this: once our own routes stand, its answer is our
own route. So the main table is read and decided here as the kernel decides:
longest prefix, then smallest metric, then the order of the table; leaving out
what we made ourselves, what leads into a TAP of ours, and what is dead.

Policy rules and other tables are not looked at: `host` mode is the plain one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from sevpn.net.model import (
    Address,
    Family,
    FoundRoute,
    Network,
    Route,
    family_of,
    host_route_metric,
    network_of,
)

__all__ = [
    "NextHop",
    "best_next_hop",
    "is_held_by_others",
    "probe_addresses",
    "server_route",
]


@dataclass(frozen=True, slots=True)
class NextHop:
    """Where a packet goes next."""

    device: str
    """The outgoing interface."""

    gateway: Address | None
    """The router; `None` when the address is on the link itself."""

    onlink: bool = False
    """Whether the route that was found says `onlink`; ours must say so too then."""

    source: Address | None = field(default=None, compare=False)
    """The source address that the kernel would choose, where it was asked. It is no part
    of the way: the same router may be reached with several."""

    def __str__(self) -> str:
        """Write it as `ip route` would."""
        way = f"dev {self.device}"
        return way if self.gateway is None else f"via {self.gateway} {way}"


def best_next_hop(
    routes: Iterable[FoundRoute],
    destination: Address | Network,
    *,
    ignored_devices: Collection[str] = (),
) -> NextHop | None:
    """Return where packets for *destination* would go if sevpn had changed nothing.

    Args:
        routes: The main table, in the kernel's order.
        destination: Any address that is not one of this host, or a whole network.
        ignored_devices: The TAPs of sevpn: a route into one is no way to a server.

    Returns:
        `None` when no route covers it, or the best one refuses (blackhole and the like).
    """
    best: FoundRoute | None = None
    for found in routes:
        route = found.route
        if (
            found.is_ours
            or not found.is_usable
            or route.device in ignored_devices
            or route.destination.version != destination.version
            or not _covers(route.destination, destination)
        ):
            continue
        if best is None or _rank(route) < _rank(best.route):
            best = found
    if best is None or not best.is_unicast:
        return None
    return NextHop(best.route.device, best.route.gateway, best.route.onlink)


def _covers(outer: Network, inner: Address | Network) -> bool:
    if isinstance(inner, IPv4Address | IPv6Address):
        return inner in outer
    # subnet_of wants both of one version; the caller has seen to that.
    return inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def _rank(route: Route) -> tuple[int, int]:
    return (-route.destination.prefixlen, route.metric)


def server_route(place: Address | Network, hop: NextHop) -> Route:
    """Return the route that holds *place* to *hop*, whatever the tunnel changes."""
    return Route(
        destination=network_of(place),
        gateway=hop.gateway,
        device=hop.device,
        metric=host_route_metric(family_of(place)),
        onlink=hop.onlink,
    )


def is_held_by_others(
    routes: Iterable[FoundRoute], route: Route, *, ignored_devices: Collection[str] = ()
) -> bool:
    """Whether somebody else's route already holds the destination of *route*.

    Then ours is not needed, and could not be added where the metric is the same.
    """
    return any(
        found.route.destination == route.destination
        and found.route.metric <= route.metric
        and found.is_unicast
        and found.is_usable
        and not found.is_ours
        and found.route.device not in ignored_devices
        for found in routes
    )


_PROBES: Final[dict[int, tuple[tuple[Address, ...], ...]]] = {
    4: (
        (
            IPv4Address("24.0.0.1"),
            IPv4Address("73.0.0.1"),
            IPv4Address("62.0.0.1"),
            IPv4Address("95.0.0.1"),
        ),
        (
            IPv4Address("193.0.14.129"),
            IPv4Address("198.41.0.4"),
            IPv4Address("189.0.0.1"),
            IPv4Address("217.0.0.1"),
        ),
    ),
    6: (
        (
            IPv6Address("2001:7fd::1"),
            IPv6Address("2a00::1"),
            IPv6Address("2600::1"),
            IPv6Address("2400::1"),
        ),
    ),
}
"""Public addresses to ask the kernel about, one row for each half of the address space.

Nothing is ever sent to them. They lie in space that has long been routed to homes
and to two DNS root servers. Not taken: documentation, benchmark and reserved
prefixes, which careful hosts send to a blackhole and laboratories use inside;
military prefixes, which companies use inside; public resolvers and content
networks, for which people set routes of their own.
"""


def probe_addresses(
    routes: Iterable[FoundRoute], family: Family, *, device: str
) -> tuple[Address, ...]:
    """Return public addresses that should go into *device* when it has the default route.

    One for each half of the address space (IPv6 has public addresses in one only):
    the first of its row for which no route more specific than a half exists, except
    into *device*. A half whose whole row is covered is left out.
    """
    specific = [
        found.route.destination
        for found in routes
        if found.route.destination.version == family
        and found.route.destination.prefixlen > 1
        and found.route.device != device
    ]
    free = (
        next(
            (
                address
                for address in row
                if not any(address in network for network in specific)
            ),
            None,
        )
        for row in _PROBES[family]
    )
    return tuple(address for address in free if address is not None)
