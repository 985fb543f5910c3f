# SPDX-License-Identifier: Apache-2.0
"""From lease and settings to the state that this host should have.

Layer: net. Runs in: any thread; pure.

Nothing is taken that was not asked for: a default route only with
`accept_default_gateway`, static routes only with `accept_static_routes`, name
servers only with `accept_dns` or where the user names some. `protocol/lease.py` has
judged each value of the lease; here is judged what they mean together, because a
hub's DHCP server may be anybody. Which table a route then stands in is the business
of `routing.py`.

    gateway     --gateway, else with static routes accepted and option 121 or 249
                there: the 0.0.0.0/0 inside them, or none (RFC 3442: option 3 does
                not count then); else option 3
    routes      options 121, else 249, else 33, and what the user includes
    MTU         the smaller one of the interface's and the lease's

Whatever is left out leaves a warning, one sentence each, with what to do.

Source: RFC 2132, RFC 3442; docs/reference/profile.md.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, collapse_addresses
from typing import TYPE_CHECKING, Final

from sevpn.errors import ConfigError, LeaseError
from sevpn.net.dns.file import MAX_SERVERS
from sevpn.net.marks import Marks
from sevpn.net.model import (
    DEFAULT_V4,
    DEFAULT_V6,
    Address,
    Found,
    HostState,
    Interface,
    NamesWay,
    Network,
    Resolver,
    Route,
    is_default,
    network_of,
)
from sevpn.net.routing import Inside, Wishes, arrange
from sevpn.protocol.ipv6 import Ipv6Settings

if TYPE_CHECKING:
    from sevpn.config.profile import Settings
    from sevpn.protocol.lease import Lease, StaticRoute

__all__ = [
    "DEFAULT_MTU",
    "MAX_ROUTES",
    "Wanted",
    "bridged_state",
    "networks_of",
    "rejects_ipv6",
    "wanted_state",
    "wishes_of",
]

DEFAULT_MTU: Final = 1500
"""What an Ethernet segment carries, and a hub is one."""

MAX_ROUTES: Final = 512
"""Static routes that are set at most; our own choice: more than any DHCP message
of 64 KiB from a sane server holds, and still added within a second."""

_MAX_SEARCH_COUNT: Final = 6
_MAX_SEARCH_SIZE: Final = 256
"""What C libraries before glibc 2.26 take; longer lists are cut by them silently."""

_MAX_LINK_SERVERS: Final = 16
_MAX_LINK_SEARCH_COUNT: Final = 32
"""systemd-resolved takes 256 of each for a link (LINK_DNS_SERVERS_MAX,
LINK_SEARCH_DOMAINS_MAX); more than these are no help to anybody."""

_MAX_DOMAIN_SIZE: Final = 253
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
# Scripts read what is set: nothing in it may be an option, a pattern, or two words.
_DOMAIN: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NAMED_COUNT: Final = 3
"""How many of the things that were left out a warning names."""


_FIRST: Final = Marks.of(0)
_NO_IPV6: Final = Ipv6Settings()
_NOTHING: Final[Mapping[str, Sequence[Address]]] = {}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the host should look like, and what is not as asked."""

    state: HostState
    """For :meth:`sevpn.net.host.Host.apply`."""

    warnings: tuple[str, ...]
    """One sentence each, for `plan` and `status`; the lease has its own beside them."""

    address: IPv4Interface | None
    """The tunnel's first IPv4 address."""

    gateway: IPv4Address | None
    """The router inside the tunnel, whether or not it gets the default route: the one
    to ask for a proof. `None`: nobody named one."""

    carries_foreign_traffic: bool
    """Whether any route but that of the subnet goes through the tunnel."""


@dataclass(slots=True)
class _Context:
    """What the steps below share."""

    settings: Settings
    lease: Lease | None
    device: str
    found: Found
    addresses: tuple[Interface, ...]
    names_way: NamesWay
    resolved: Mapping[str, Sequence[Address]]
    ipv6: Ipv6Settings
    warnings: list[str] = field(default_factory=list)

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)


def wanted_state(
    settings: Settings,
    *,
    lease: Lease | None,
    device: str,
    found: Found,
    names_way: NamesWay = "file",
    marks: Marks = _FIRST,
    resolved: Mapping[str, Sequence[Address]] = _NOTHING,
    ipv6: Ipv6Settings = _NO_IPV6,
    servers: Collection[Address] = (),
) -> Wanted:
    """Return the state that *settings* and *lease* ask for.

    Args:
        settings: What the user wants.
        lease: What DHCP gave; `None` with static addresses.
        device: Name of the TAP.
        found: The host as it is, for warnings about routes that others win.
        names_way: By what name servers are set; each way takes as many as it can.
        marks: The tunnel's numbers.
        resolved: The addresses of the names among what is included and excluded.
        ipv6: What the hub's routers offer.
        servers: The addresses that the tunnel itself dials from where its interface is.

    Raises:
        LeaseError: The lease gives this host the address of such a server.
        ConfigError: The settings do.
    """
    own: tuple[Interface, ...] = (
        (lease.address,) if lease is not None else settings.address
    )
    context = _Context(settings, lease, device, found, own, names_way, resolved, ipv6)
    mtu = _choose_mtu(context)
    ipv6 = context.ipv6 = _usable_ipv6(context, mtu)
    context.addresses = addresses = tuple(dict.fromkeys((*own, *ipv6.addresses)))
    _warn_overlap(context)
    _look_for_servers(context, servers)
    default, router = _choose_gateway(context)
    routers = _routers(settings, router, ipv6.router)
    routes = _past_servers(
        context,
        servers,
        (
            *_static_routes(context),
            *_offered_in_ipv6(context),
            *_included(context, routers),
            *default,
        ),
    )
    arranged = arrange(
        wishes_of(
            settings,
            rejects_ipv6=rejects_ipv6(
                settings,
                has_default=any(route.destination == DEFAULT_V6 for route in routes),
            ),
        ),
        Inside(
            device=device,
            addresses=addresses,
            routes=tuple(dict.fromkeys(routes)),
            excluded=_places(context, settings.exclude),
            routers=routers,
            metric=settings.metric,
        ),
        found=found,
        marks=marks,
    )
    state = HostState(
        device=device,
        mtu=mtu,
        addresses=addresses,
        routes=arranged.routes,
        resolver=_choose_resolver(context),
        rules=arranged.rules,
        excluded=arranged.excluded,
        beside=arranged.beside,
    )
    return Wanted(
        state=state,
        warnings=tuple(dict.fromkeys(context.warnings)),
        address=next(
            (address for address in addresses if isinstance(address, IPv4Interface)),
            None,
        ),
        gateway=router,
        carries_foreign_traffic=any(
            route.gateway is not None or route.destination not in ipv6.on_link
            for route in routes
        ),
    )


def wishes_of(settings: Settings, *, rejects_ipv6: bool) -> Wishes:
    """Return what the user has said about ways."""
    return Wishes(
        by_mark=settings.is_by_mark,
        lan=settings.neighbourhood,
        exclude_uids=settings.exclude_uid,
        policy_table=settings.policy_route_table,
        follows_connections=settings.connmark,
        rejects_ipv6=rejects_ipv6,
    )


def bridged_state(bridge: str, *, device: str, mtu: int | None, found: Found) -> Wanted:
    """Return the state of a TAP that is a port of *bridge* and nothing else.

    Args:
        bridge: The bridge.
        device: Name of the TAP.
        mtu: In bytes of one IP packet; `None`: :data:`DEFAULT_MTU`.
        found: The host as it is, for a warning about loops.
    """
    state = HostState(device, mtu or DEFAULT_MTU, (), (), None, bridge=bridge)
    warning = (
        f"{bridge} has no spanning tree: a second way between the same networks would make a loop; if there may be "
        f"one, `ip link set {bridge} type bridge stp_state 1`"
    )
    link = found.link(bridge)
    return Wanted(
        state=state,
        warnings=() if link and link.has_spanning_tree else (warning,),
        address=None,
        gateway=None,
        carries_foreign_traffic=False,
    )


def _warn_overlap(context: _Context) -> None:
    """Say when a subnet is on both sides: nothing can be reached reliably then."""
    for found in context.found.addresses:
        if found.device in {context.device, "lo"} or found.is_link_local:
            continue
        for address in context.addresses:
            if address.version == found.interface.version and address.network.overlaps(
                found.interface.network
            ):
                context.warn(
                    f"the subnet in the tunnel, {address.network}, overlaps with {found.interface.network} of "
                    f"{found.device}: hosts in both are reached on one side only; change one of the networks"
                )


def _look_for_servers(context: _Context, servers: Collection[Address]) -> None:
    """Refuse the address of a server or proxy that is dialled, and tell of one in the subnet."""
    for address in context.addresses:
        for server in servers:
            if address.ip == server:
                what = f"{server} is what the tunnel itself is connected to, and could not be reached any more"
                if context.lease is None:
                    raise ConfigError(f"{what}: choose another --address")
                raise LeaseError(
                    f"{what}: the hub's DHCP server must not give it away; tell its administrator"
                )
            if server in address.network and not address.ip.is_link_local:
                context.warn(
                    f"the subnet in the tunnel, {address.network}, contains what the tunnel itself is connected to, {server}: "
                    "that is reached outside the tunnel, and a host of the hub with the same address is not"
                )


def _past_servers(
    context: _Context, servers: Collection[Address], routes: Sequence[Route]
) -> Sequence[Route]:
    """Leave out the route to a server that is dialled, where all sockets use the same table."""
    if context.settings.is_by_mark:
        return routes
    taken = set(map(network_of, servers))
    for place in dict.fromkeys(route.destination for route in routes):
        if place in taken:
            context.warn(
                f"{place.network_address} is what the tunnel itself is connected to: it is reached outside of the tunnel; "
                "with --route-mode mark everybody else can reach it inside"
            )
    return [route for route in routes if route.destination not in taken]


# --- the default route -------------------------------------------------------


def _choose_gateway(context: _Context) -> tuple[list[Route], IPv4Address | None]:
    """Return the default routes, and the router to ask for a proof."""
    settings, lease = context.settings, context.lease
    router = _usable_router(context, lease.router if lease else None, "option 3")
    if settings.gateway is not None:
        given = settings.gateway
        default = _default_by(context, given)
        return default, given if isinstance(given, IPv4Address) else router
    inside = _classless_default(lease) if settings.accept_static_routes else None
    if inside is not None:
        gateway = _usable_router(
            context, inside.gateway, "the default route of option 121"
        )
        if inside.gateway is not None and gateway is None:
            return [], router
        return _default_by(context, gateway), gateway or router
    if _has_classless(lease) and settings.accept_static_routes:
        if settings.accept_default_gateway:
            _warn_no_default(context, router)
        return [], router
    if router is None:
        if settings.accept_default_gateway:
            _warn_no_default(context, None)
        return [], None
    return _default_by(context, router), router


def _warn_no_default(context: _Context, router: IPv4Address | None) -> None:
    if router is not None:
        context.warn(
            f"no default route was set: the lease's static routes hold none, and its router {router} does not "
            f"count beside them (RFC 3442); give --gateway {router} to use it"
        )
    elif _classless_default(context.lease) is not None:
        context.warn(
            "no default route was set: the lease names no router, only a default among its static routes; "
            "give --accept-static-routes to use it"
        )
    else:
        context.warn(
            "no default route was set: the lease names no router; give --gateway with its address"
        )


def _default_by(context: _Context, gateway: Address | None) -> list[Route]:
    if not context.settings.accept_default_gateway:
        return []
    destination = DEFAULT_V4 if gateway is None or gateway.version == 4 else DEFAULT_V6
    # The kernel reads an IPv6 metric of 0 as 1024.
    metric = context.settings.metric or (0 if destination.version == 4 else 1)
    return [
        Route(
            destination,
            gateway,
            context.device,
            metric,
            onlink=_needs_onlink(context, gateway),
        ),
    ]


def _has_classless(lease: Lease | None) -> bool:
    return lease is not None and lease.classless_routes is not None


def _classless_default(lease: Lease | None) -> StaticRoute | None:
    routes = (lease.classless_routes or ()) if lease is not None else ()
    return next((route for route in routes if is_default(route.destination)), None)


def _usable_router(
    context: _Context, router: IPv4Address | None, source: str
) -> IPv4Address | None:
    """Return *router* if it can be one; else warn and return `None`."""
    if router is None:
        return None
    reason = _why_no_router(router, context.addresses)
    if reason is None:
        return router
    context.warn(
        f"the lease's router {router} ({source}) is left out: {reason}; tell the hub's administrator"
    )
    return None


def _why_no_router(router: Address, addresses: Iterable[Interface]) -> str | None:
    if (
        router.is_unspecified
        or router.is_multicast
        or router.is_loopback
        or int(router) == 0xFFFFFFFF
    ):
        return "no host can have it"
    for address in addresses:
        if router == address.ip:
            return "it is this host's own address"
        network = address.network
        is_edge = router in {network.network_address, network.broadcast_address}
        if isinstance(network, IPv4Network) and network.prefixlen < 31 and is_edge:
            return f"it is no host of {network}"
    return None


def _needs_onlink(context: _Context, gateway: Address | None) -> bool:
    if gateway is None or gateway.is_link_local:
        return False
    return not any(
        gateway in address.network
        for address in context.addresses
        if address.version == gateway.version
    )


# --- static routes -----------------------------------------------------------


def _static_routes(context: _Context) -> list[Route]:
    lease = context.lease
    if lease is None or not context.settings.accept_static_routes:
        return []
    offered = (
        lease.static_routes
        if lease.classless_routes is None
        else lease.classless_routes
    )
    if len(offered) > MAX_ROUTES:
        context.warn(
            f"{len(offered)} static routes were offered; the first {MAX_ROUTES} are set"
        )
    offered = offered[:MAX_ROUTES]
    rejected: dict[str, list[str]] = {}
    routes: dict[IPv4Network, Route] = {}
    for entry in _without_hidden_default(context, offered):
        if is_default(entry.destination):
            continue  # see _choose_gateway
        reason = _why_no_route(context, entry)
        if reason is None:
            routes.setdefault(entry.destination, _route(context, entry))
        else:
            rejected.setdefault(reason, []).append(str(entry.destination))
    for reason, names in rejected.items():
        context.warn(f"static routes left out: {_named(names)}: {reason}")
    _warn_shadowed(context, routes.values())
    return list(routes.values())


def _route(context: _Context, entry: StaticRoute) -> Route:
    return Route(
        entry.destination,
        entry.gateway,
        context.device,
        context.settings.metric,
        onlink=_needs_onlink(context, entry.gateway),
    )


def _without_hidden_default(
    context: _Context, offered: Sequence[StaticRoute]
) -> Sequence[StaticRoute]:
    """Leave out the large pieces of a default route that was not asked for."""
    if context.settings.accept_default_gateway:
        return offered
    pieces = [
        entry.destination for entry in offered if not is_default(entry.destination)
    ]
    if list(collapse_addresses(pieces)) != [DEFAULT_V4]:
        return offered
    context.warn(
        "the lease's static routes together are a default route, which was not asked for: those larger than a /8 "
        "are left out; give --accept-default-gateway to take them"
    )
    return [entry for entry in offered if entry.destination.prefixlen >= 8]


# --- what the user includes and excludes ---------------------------------------


def _routers(settings: Settings, *found: Address | None) -> tuple[Address, ...]:
    """Return who leads on from the hub, one of each family at most."""
    by_version: dict[int, Address] = {}
    for router in (settings.gateway, *found):
        if router is not None:
            by_version.setdefault(router.version, router)
    return tuple(by_version.values())


def networks_of(
    places: Iterable[Network | str], resolved: Mapping[str, Sequence[Address]]
) -> tuple[Network, ...]:
    """Return the networks of *places*, of names those of their addresses."""
    networks = [
        network
        for place in places
        for network in (
            map(network_of, resolved.get(place, ()))
            if isinstance(place, str)
            else (place,)
        )
    ]
    return tuple(dict.fromkeys(networks))


def _places(context: _Context, places: Sequence[Network | str]) -> tuple[Network, ...]:
    for place in places:
        if isinstance(place, str) and not context.resolved.get(place):
            context.warn(
                f"{place} has no address that is known: it is neither included nor excluded until it has one"
            )
    return networks_of(places, context.resolved)


def _included(context: _Context, routers: Sequence[Address]) -> list[Route]:
    by_family = {router.version: router for router in routers}
    routes: list[Route] = []
    for network in _places(context, context.settings.include):
        gateway = by_family.get(network.version)
        if gateway is None:
            context.warn(
                f"{network} is looked for in the hub itself: nobody named a router there for IPv{network.version}; "
                "give --gateway with its address if there is one"
            )
        routes.append(
            Route(
                network,
                gateway,
                context.device,
                context.settings.metric or (0 if network.version == 4 else 1),
                onlink=_needs_onlink(context, gateway),
            )
        )
    return routes


# --- IPv6 ------------------------------------------------------------------------


_LEAST_MTU_V6: Final = 1280
"""Linux has no IPv6 on an interface with less (RFC 8200, section 5)."""

_SHORTEST_ROUTE_V6: Final = 16
"""All that is routed lies within 2000::/3, and registries give away nothing larger than a /16."""


def _usable_ipv6(context: _Context, mtu: int) -> Ipv6Settings:
    """Return what routers in the hub say, as far as it is wanted and can be had."""
    if context.settings.ipv6 != "auto":
        return _NO_IPV6
    if mtu >= _LEAST_MTU_V6 or context.ipv6 == _NO_IPV6:
        return context.ipv6
    context.warn(
        f"the hub's IPv6 is left out: it needs an MTU of {_LEAST_MTU_V6}, and that of the tunnel is {mtu} "
        f"({'--mtu' if context.settings.mtu == mtu else 'DHCP option 26'})"
    )
    return _NO_IPV6


def _offered_in_ipv6(context: _Context) -> list[Route]:
    """Return the routes of what routers in the hub say, as far as it was asked for."""
    settings, ipv6 = context.settings, context.ipv6
    metric = settings.metric or 1  # the kernel reads an IPv6 metric of 0 as 1024
    own = {address.network for address in context.addresses}
    routes = [
        Route(network, None, context.device, metric)
        for network in ipv6.on_link
        if network not in own
    ]
    if settings.accept_static_routes:
        offered = [
            (network, router)
            for network, router in ipv6.routes
            if not (
                network.is_link_local or network.is_multicast or network.is_loopback
            )
        ]
        hidden = [
            str(network)
            for network, _ in offered
            if network.prefixlen < _SHORTEST_ROUTE_V6
        ]
        if hidden and not settings.accept_default_gateway:
            context.warn(
                f"routes of the hub's IPv6 routers left out: {_named(hidden)}: as good as a default route, which was "
                "not asked for; give --accept-default-gateway to take them"
            )
            offered = [one for one in offered if str(one[0]) not in hidden]
        routes += [
            Route(network, router, context.device, metric)
            for network, router in offered
        ]
    has_own = settings.gateway is not None and settings.gateway.version == 6
    if settings.accept_default_gateway and ipv6.router is not None and not has_own:
        routes.append(Route(DEFAULT_V6, ipv6.router, context.device, metric))
    return routes


def rejects_ipv6(settings: Settings, *, has_default: bool) -> bool:
    """Whether IPv6 past the tunnel would be a leak, or is not wanted at all.

    Args:
        settings: What the user wants.
        has_default: Whether the hub's routers offer a default route.
    """
    if settings.ipv6 == "block":
        return True
    return (
        settings.ipv6 == "auto" and settings.accept_default_gateway and not has_default
    )


_NEVER: Final = (
    IPv4Network("0.0.0.0/8"),
    IPv4Network("127.0.0.0/8"),
    IPv4Network("224.0.0.0/4"),
)


def _why_no_route(context: _Context, entry: StaticRoute) -> str | None:
    destination = entry.destination
    if any(destination.subnet_of(never) for never in _NEVER):
        return "no network can have such an address; tell the hub's administrator"
    if entry.gateway is not None and _why_no_router(entry.gateway, context.addresses):
        return "their gateway is none; tell the hub's administrator"
    if any(
        found.is_ours
        and found.route.destination == destination
        and found.route.device != context.device
        for found in context.found.routes
        if destination.prefixlen == 32
    ):
        return "it is the VPN server's own address, which must be reached outside of the tunnel"
    return None


def _warn_shadowed(context: _Context, routes: Iterable[Route]) -> None:
    """Say which destinations go elsewhere all the same."""
    others = {
        found.route.destination: found.route.device
        for found in context.found.routes
        if not found.is_ours
        and found.is_unicast
        and found.route.device != context.device
        and found.route.metric <= context.settings.metric
    }
    names = [
        f"{route.destination} to {others[route.destination]}"
        for route in routes
        if route.destination in others
    ]
    if names:
        context.warn(
            f"a route outside of the tunnel wins for {_named(names)}: remove it, or give a smaller --metric"
        )


def _named(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED_COUNT
    return ", ".join(names[:_NAMED_COUNT]) + (f" and {rest} more" if rest > 0 else "")


# --- MTU and names -----------------------------------------------------------


def _choose_mtu(context: _Context) -> int:
    link = context.settings.mtu or DEFAULT_MTU
    offered = context.lease.mtu if context.lease is not None else None
    return link if offered is None else min(link, offered)


def _choose_resolver(context: _Context) -> Resolver | None:
    settings, lease = context.settings, context.lease
    if settings.dns_mode == "off" or not settings.asks_for_names:
        return None
    leased: Sequence[Address] = () if lease is None else lease.dns
    offered = settings.dns or (*leased, *context.ipv6.dns)
    servers = list(dict.fromkeys(offered))
    if not servers:
        context.warn(
            "no name servers were set: the lease names none; give --dns with an address"
        )
        return None
    limit = _MAX_LINK_SERVERS if context.names_way == "resolved" else MAX_SERVERS
    if len(servers) > limit:
        rest = ", ".join(str(server) for server in servers[limit:])
        context.warn(f"this host takes {limit} name servers; left out: {rest}")
    return Resolver(
        tuple(servers[:limit]),
        _choose_search(context),
        settings.split_dns,
        context.names_way,
    )


def _choose_search(context: _Context) -> tuple[str, ...]:
    settings, lease = context.settings, context.lease
    offered: Sequence[str] = settings.search
    if not offered and lease is not None:
        offered = lease.search or ((lease.domain,) if lease.domain else ())
    if not settings.search:
        offered = (*offered, *context.ipv6.search)
    count, size = _search_limits(context.names_way)
    search: list[str] = []
    for name in dict.fromkeys(domain.removesuffix(".") for domain in offered):
        if not _DOMAIN.fullmatch(name) or len(name) > _MAX_DOMAIN_SIZE:
            context.warn(
                f"search domain {name[:64]!a} is left out: it is no domain name"
            )
        elif len(search) == count or len(" ".join([*search, name])) > size:
            context.warn(
                f"search domains from {name} on are left out: this host takes {count} "
                f"of {size} characters together"
            )
            break
        else:
            search.append(name)
    return tuple(search)


def _search_limits(way: NamesWay) -> tuple[int, int]:
    """Return how many search domains, of how many characters together, a host takes."""
    if way == "resolved":
        return _MAX_LINK_SEARCH_COUNT, _MAX_LINK_SEARCH_COUNT * _MAX_DOMAIN_SIZE
    return _MAX_SEARCH_COUNT, _MAX_SEARCH_SIZE
