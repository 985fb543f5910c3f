# SPDX-License-Identifier: Apache-2.0
"""`sevpn plan`: what `up` would change on this host, and what it would not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from sevpn.cli.common import Output, command as make_command
from sevpn.cli.dialing import proxy_address
from sevpn.cli.job import mac_of, settings_of
from sevpn.cli.options import given, tunnel_options
from sevpn.config.paths import Paths
from sevpn.config.profile import Settings
from sevpn.errors import ResolveError
from sevpn.net.dns.detect import Choice, choose
from sevpn.net.dns.names import look_at_host
from sevpn.net.dns.uplink import uplink_servers
from sevpn.net.lock import Allowed, ruleset
from sevpn.net.marks import Marks, check_numbers, free_slot
from sevpn.net.model import Found
from sevpn.net.nearproxy import loop_warnings
from sevpn.net.netns import NetworkNamespace
from sevpn.net.preview import Preview, preview
from sevpn.net.routing import local_networks
from sevpn.net.rtnetlink import Netlink
from sevpn.net.strictness import strict_devices
from sevpn.net.tunnels import taken_slots
from sevpn.net.wanted import networks_of
from sevpn.transport.resolve import Address, Family, resolve

__all__ = ["command"]

_LOOK_UP_S: Final = 10.0


@make_command("plan")
@click.argument("target")
@tunnel_options
@click.option("--name", metavar="NAME", help="What to call the tunnel.")
def command(output: Output, target: str, name: str | None, **values: Any) -> None:
    """Show what `up TARGET` would change on this host; change nothing.

    The server's name is looked up; nothing is sent to the server. What only
    DHCP will tell stands in capitals.
    """
    settings = settings_of(
        target, name=name, overrides=given(values), environ=os.environ
    )
    addresses, trouble = _addresses(settings)
    resolved, more = _places(settings)
    trouble += more
    place = None if settings.netns is None else NetworkNamespace(settings.netns)
    etc = Path("/etc") if place is None else place.etc
    found = _find() if place is None else place.run(_find)
    marks = _marks(settings, found)
    planned = preview(
        settings,
        found=found,
        # From another namespace, or with a mark, nothing has to lead past the tunnel.
        servers=addresses if place is None and not settings.is_by_mark else (),
        mac=mac_of(settings),
        dns=_names_choice(settings, etc),
        marks=marks,
        resolved=resolved,
        lock=_lock(settings, marks, found, servers=addresses, resolved=resolved),
        strict=_strict(marks, addresses) if settings.is_by_mark and not place else (),
    )
    if place is not None:
        place.close()
    proxy = proxy_address(settings, os.environ)
    loops = loop_warnings(settings, None if proxy is None else proxy.host)
    warnings = [*trouble, *planned.warnings, *loops]
    output.answer(
        {
            "tunnel": settings.tunnel_name,
            "server": [str(address) for address in addresses],
            "changes": list(planned.changes),
            "unchanged": list(planned.unchanged),
            "warnings": warnings,
        },
        _render(planned, warnings),
    )


def _find() -> Found:
    """Look at the network of the calling thread."""
    netlink = Netlink()
    try:
        return netlink.find()
    finally:
        netlink.close()


def _names_choice(settings: Settings, etc: Path | None) -> Choice:
    """Return by what name servers would be set; where none are, any way is fine."""
    mode = settings.dns_mode
    if etc is None:
        mode = "off"
    elif not settings.asks_for_names and mode != "off":
        mode = "file"
    facts = look_at_host(mode, etc or Path("/etc"))
    return choose(mode, facts, split=bool(settings.split_dns))


def _marks(settings: Settings, found: Found) -> Marks:
    """Return the numbers that the tunnel would have if it were started now."""
    run = Paths.for_user(os.environ, os.geteuid()).runtime_dir
    taken = taken_slots(run, found, mine=settings.tunnel_name)
    check_numbers(mark=settings.mark, table=settings.policy_route_table)
    return Marks.of(free_slot(taken), settings.mark)


def _lock(
    settings: Settings,
    marks: Marks,
    found: Found,
    *,
    servers: Sequence[Address],
    resolved: Mapping[str, Sequence[Address]],
) -> str:
    """Return what the packet filter would be told; nothing without a lock."""
    if settings.lock == "off":
        return ""
    near = local_networks(found, settings.neighbourhood, device="")
    excluded = networks_of(settings.exclude, resolved)
    allowed = Allowed(
        mark=marks.own,
        tunnels=() if "%d" in settings.tap else (settings.tap,),
        servers=tuple(servers),
        resolvers=uplink_servers(Path("/etc")),
        networks=(*settings.lock_allow, *excluded, *near),
        uids=settings.exclude_uid,
        has_forwarded=settings.connmark,
    )
    return ruleset(settings.tunnel_name, allowed, is_owned=settings.lock == "auto")


def _strict(marks: Marks, servers: Sequence[Address]) -> Sequence[str]:
    """Return the ways to the server whose filter drops its answers to marked sockets."""
    netlink = Netlink()
    try:
        hops = [
            netlink.route_to(address, mark=marks.own)
            for address in servers
            if address.version == 4
        ]
    finally:
        netlink.close()
    devices = {hop.device for hop in hops if hop is not None} - {"lo"}
    return list(strict_devices(sorted(devices)))


def _places(
    settings: Settings,
) -> tuple[dict[str, Sequence[Address]], list[str]]:
    """Look up the names among what is included and excluded; likewise."""
    found: dict[str, Sequence[Address]] = {}
    trouble: list[str] = []
    for name in settings.place_names:
        found[name], words = _look_up(name, "any")
        trouble += words
    return found, trouble


def _addresses(settings: Settings) -> tuple[Sequence[Address], list[str]]:
    """Look up the name of the server, or of the proxy; not finding it is a warning, since nothing is dialled."""
    proxy = proxy_address(settings, os.environ)
    return _look_up(settings.host if proxy is None else proxy.host, settings.ip)


def _look_up(host: str, family: Family) -> tuple[Sequence[Address], list[str]]:
    async def look_up() -> Sequence[Address]:
        async with asyncio.timeout(_LOOK_UP_S):
            return await resolve(host, family=family)

    try:
        return asyncio.run(look_up()), []
    except ResolveError as error:
        return (), [str(error)]
    except TimeoutError:
        return (), [
            f"the name servers did not answer for {host} within {_LOOK_UP_S:.0f} s"
        ]


def _render(planned: Preview, warnings: Sequence[str]) -> str:
    lines = ["would change:", *(f"  {line}" for line in planned.changes)]
    if planned.unchanged:
        lines += ["would leave alone:", *(f"  {line}" for line in planned.unchanged)]
    if warnings:
        lines += ["warnings:", *(f"  {line}" for line in warnings)]
    return "\n".join(lines)
