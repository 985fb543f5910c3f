# SPDX-License-Identifier: Apache-2.0
"""What `up` would change on this host, and what it would not.

Layer: net. Runs in: the short-lived `plan` command; pure.

The text is that of `ip`, so that it can be compared with `ip route` afterwards.
What only DHCP will tell stands there in capitals.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sevpn.net.dns.detect import Choice
from sevpn.net.model import DEFAULT_V4, RTPROTO, Address, Found, FoundRoute, is_default
from sevpn.net.plan import Made, plan, plan_server_routes, with_half_defaults
from sevpn.net.wanted import DEFAULT_MTU, wanted_state

if TYPE_CHECKING:
    from sevpn.config.profile import Settings
    from sevpn.wire.ethernet import MacAddress

__all__ = ["Preview", "preview"]


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
) -> Preview:
    """Describe what `up` with *settings* would do on the host as *found*.

    Args:
        settings: What the user wants.
        found: The host as it is.
        servers: Addresses of the server; empty when the name was not resolved.
        mac: What the TAP would get.
        dns: How names would be set, see :func:`sevpn.net.dns.detect.choose`.
    """
    device = _device_name(settings.tap, found)
    pins = plan_server_routes(found, servers)
    changes = [
        f"ip tuntap add {device} mode tap",
        f"ip link set {device} address {mac} mtu {settings.mtu or DEFAULT_MTU}",
        *(change.describe() for change in pins.changes),
    ]
    warnings = [f"this host has no route to {address}" for address in pins.lost]
    if settings.dhcp:
        changes += _after_the_lease(settings, found, device, dns)
    else:
        wanted = wanted_state(settings, lease=None, device=device, found=found)
        state = with_half_defaults(wanted.state, found)
        changes += [change.describe() for change in plan(found, state, made=Made())]
        warnings += wanted.warnings
    return Preview(
        tuple(changes), tuple(_unchanged(settings, found, dns)), tuple(warnings)
    )


def _after_the_lease(
    settings: Settings, found: Found, device: str, dns: Choice
) -> list[str]:
    lines = [
        f"ip link set {device} up",
        f"ip address add ADDRESS/PREFIX dev {device}    (from DHCP)",
    ]
    words = f"dev {device} metric {settings.metric} proto {RTPROTO}"
    if settings.accept_static_routes:
        lines.append(
            f"ip route add DESTINATION via GATEWAY {words}    (each of DHCP options 121, 249 or 33)"
        )
    if settings.accept_default_gateway:
        gateway = settings.gateway or "GATEWAY"
        lines.append(f"ip route add default via {gateway} {words}")
        if any(entry.route.metric <= settings.metric for entry in _defaults(found)):
            lines += [
                f"ip route add {half} via {gateway} {words}"
                for half in ("0.0.0.0/1", "128.0.0.0/1")
            ]
    if dns.backend == "off":
        return lines
    if settings.dns:
        lines.append(
            f"write /etc/resolv.conf: nameserver {', '.join(map(str, settings.dns))}"
        )
    elif settings.accept_dns:
        lines.append("write /etc/resolv.conf: nameserver SERVERS    (from DHCP)")
    return lines


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
    elif not (settings.accept_dns or settings.dns):
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
