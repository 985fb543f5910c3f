# SPDX-License-Identifier: Apache-2.0
"""What `up` would change on this host, and what it would not.

Layer: net. Runs in: the short-lived `plan` command; pure.

The text is that of `ip`, so that it can be compared with `ip route` afterwards.
What only DHCP will tell stands there in capitals.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sevpn.net import connmark
from sevpn.net.dns.detect import Choice
from sevpn.net.marks import Marks
from sevpn.net.model import (
    DEFAULT_V4,
    DEFAULT_V6,
    RTPROTO,
    Address,
    Found,
    FoundRoute,
    Network,
    Resolver,
    Route,
    is_default,
)
from sevpn.net.plan import (
    AddRoute,
    AddRule,
    Made,
    describe_resolver,
    plan,
    plan_pins,
    with_half_defaults,
)
from sevpn.net.routing import Arranged, Inside, arrange
from sevpn.net.strictness import LOOSE
from sevpn.net.wanted import (
    DEFAULT_MTU,
    networks_of,
    rejects_ipv6,
    wanted_state,
    wishes_of,
)

if TYPE_CHECKING:
    from sevpn.config.profile import Settings
    from sevpn.wire.ethernet import MacAddress

__all__ = ["Preview", "preview"]


_FIRST: Final = Marks.of(0)
_NOTHING: Final[Mapping[str, Sequence[Address]]] = {}


@dataclass(frozen=True, slots=True)
class Preview:
    """What would change, line by line."""

    changes: tuple[str, ...]
    """Commands as one would type them, in their order."""

    unchanged: tuple[str, ...]
    """What stays as it is, one sentence each."""

    warnings: tuple[str, ...]
    """What would not be as asked, one sentence each."""


def preview(
    settings: Settings,
    *,
    found: Found,
    servers: Iterable[Address],
    mac: MacAddress,
    dns: Choice,
    marks: Marks = _FIRST,
    resolved: Mapping[str, Sequence[Address]] = _NOTHING,
    lock: str = "",
    strict: Collection[str] = (),
) -> Preview:
    """Describe what `up` with *settings* would do on the host as *found*.

    Args:
        settings: What the user wants.
        found: The host as it is.
        servers: Addresses of the server; empty when the name was not resolved.
        mac: What the TAP would get.
        dns: How names would be set, see :func:`sevpn.net.dns.detect.choose`.
        marks: The numbers that it would have.
        resolved: The addresses of the names among what is included and excluded.
        lock: What would be loaded into the packet filter.
        strict: The uplinks whose reverse path filter would be made loose, see
            :mod:`sevpn.net.strictness`.
    """
    device = _device_name(settings.tap, found)
    pins = plan_pins(found, servers)
    changes = [
        *(f"nft {line}" for line in lock.splitlines()),
        f"ip tuntap add {device} mode tap",
        f"ip link set {device} address {mac} mtu {settings.mtu or DEFAULT_MTU}",
        *(change.describe() for change in pins.changes),
        *(f"sysctl -w net.ipv4.conf.{name}.rp_filter={LOOSE}" for name in strict),
    ]
    if settings.connmark:
        rules = connmark.ruleset(settings.tunnel_name, device, marks)
        changes += [f"nft {line}" for line in rules.splitlines()]
    warnings = [f"this host has no route to {address}" for address in pins.lost]
    if settings.dhcp:
        changes += _after_the_lease(
            settings, found, device, dns, marks=marks, resolved=resolved
        )
    else:
        way = "file" if dns.backend == "off" else dns.backend
        wanted = wanted_state(
            settings,
            lease=None,
            device=device,
            found=found,
            names_way=way,
            marks=marks,
            resolved=resolved,
        )
        state = with_half_defaults(wanted.state, found)
        steps = (
            *plan_pins(found, state.excluded).changes,
            *plan(found, state, made=Made(), marks=marks),
        )
        changes += [change.describe() for change in steps]
        warnings += wanted.warnings
    return Preview(
        tuple(changes), tuple(_unchanged(settings, found, dns)), tuple(warnings)
    )


def _after_the_lease(
    settings: Settings,
    found: Found,
    device: str,
    dns: Choice,
    *,
    marks: Marks,
    resolved: Mapping[str, Sequence[Address]],
) -> list[str]:
    lines = [
        f"ip link set {device} up",
        f"ip address add ADDRESS/PREFIX dev {device}    (from DHCP)",
    ]
    table = f" table {marks.table}" if settings.is_by_mark else ""
    words = f"dev {device}{table} metric {settings.metric} proto {RTPROTO}"
    included = networks_of(settings.include, resolved)
    gateway = settings.gateway or "GATEWAY"
    lines += [f"{_ip(net)} route add {net} via {gateway} {words}" for net in included]
    if settings.accept_static_routes:
        lines.append(
            f"ip route add DESTINATION via GATEWAY {words}    (each of DHCP options 121, 249 or 33)"
        )
    if settings.accept_default_gateway:
        lines.append(f"ip route add default via {gateway} {words}")
        if not settings.is_by_mark and any(
            entry.route.metric <= settings.metric for entry in _defaults(found)
        ):
            lines += [
                f"ip route add {half} via {gateway} {words}"
                for half in ("0.0.0.0/1", "128.0.0.0/1")
            ]
    lines += _arranged(settings, found, device, marks=marks, resolved=resolved)
    if dns.backend == "off" or not settings.asks_for_names:
        return lines
    resolver = Resolver((), settings.search, settings.split_dns, dns.backend)
    servers = [str(server) for server in settings.dns] or ["SERVERS"]
    origin = "" if settings.dns else "    (from DHCP)"
    lines.append(f"{describe_resolver(resolver, servers, device)}{origin}")
    return lines


def _arranged(
    settings: Settings,
    found: Found,
    device: str,
    *,
    marks: Marks,
    resolved: Mapping[str, Sequence[Address]],
) -> list[str]:
    """Return what goes along with the routes into the tunnel: rules, and what is excluded."""
    included = networks_of(settings.include, resolved)
    into: list[Network] = [*included]
    if settings.accept_default_gateway:
        into.append(DEFAULT_V4)

    def arranged_for(into: Sequence[Network], *, rejects: bool) -> Arranged:
        return arrange(
            wishes_of(settings, rejects_ipv6=rejects),
            Inside(
                device=device,
                addresses=(),
                routes=tuple(Route(net, None, device, settings.metric) for net in into),
                excluded=networks_of(settings.exclude, resolved),
                routers=(),
                metric=settings.metric,
            ),
            found=found,
            marks=marks,
        )

    rejects = rejects_ipv6(settings, has_default=False)
    arranged = arranged_for(into, rejects=rejects)
    lines = [
        AddRoute(route).describe()
        for route in arranged.routes
        if route.device != device
    ]
    lines += [
        change.describe() for change in plan_pins(found, arranged.excluded).changes
    ]
    if settings.policy_route_table is not None:
        number = settings.policy_route_table
        gateway = settings.gateway or "GATEWAY"
        lines += [
            f"ip route add default via {gateway} dev {device} table {number} metric {settings.metric} proto {RTPROTO}",
            f"ip rule add pref {marks.preference} from ADDRESS lookup {number} protocol {RTPROTO}",
        ]
        if settings.connmark:
            lines.append(
                f"ip rule add pref {marks.preference} from all fwmark {marks.reply:#x} lookup {number} protocol {RTPROTO}"
            )
    lines += [AddRule(rule).describe() for rule in arranged.rules]
    if not rejects or settings.ipv6 == "block":
        return lines
    with_ipv6 = arranged_for([*into, DEFAULT_V6], rejects=False)
    in_any_case = {AddRoute(route).describe() for route in with_ipv6.routes}
    in_any_case |= {AddRule(rule).describe() for rule in with_ipv6.rules}
    refusal = {AddRoute(route).describe() for route in arranged.routes}
    refusal |= {AddRule(rule).describe() for rule in arranged.rules}
    note = "    (unless the hub has IPv6)"
    return [line + note * (line in refusal - in_any_case) for line in lines]


def _ip(network: Network) -> str:
    return "ip" if network.version == 4 else "ip -6"


def _unchanged(settings: Settings, found: Found, dns: Choice) -> list[str]:
    lines: list[str] = []
    if not settings.accept_default_gateway:
        ways = (
            "; ".join(str(entry.route) for entry in _defaults(found)) or "there is none"
        )
        lines.append(
            f"the default route ({ways}): --accept-default-gateway would change it"
        )
    if settings.dhcp and not settings.accept_static_routes:
        lines.append(
            "static routes that DHCP offers are left out: --accept-static-routes would add them"
        )
    if dns.backend == "off":
        lines.append(f"name servers: {dns.reason}")
    elif not settings.asks_for_names:
        lines.append("name servers (/etc/resolv.conf): --accept-dns would change them")
    return lines


def _defaults(found: Found) -> list[FoundRoute]:
    tunnels = found.devices_of_tunnels()
    return [
        entry
        for entry in found.routes
        if is_default(entry.route.destination)
        and entry.route.destination.version == DEFAULT_V4.version
        and not entry.is_ours
        and entry.route.device not in tunnels
    ]


def _device_name(template: str, found: Found) -> str:
    """Return the name that the kernel would choose for *template*."""
    if "%d" not in template:
        return template
    taken = {link.name for link in found.links}
    number = 0
    while template.replace("%d", str(number)) in taken:
        number += 1
    return template.replace("%d", str(number))
