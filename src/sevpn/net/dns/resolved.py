# SPDX-License-Identifier: Apache-2.0
"""systemd-resolved: the name servers of one link.

Layer: net. Runs in: the control thread; four calls on the bus, some milliseconds.

    SetLinkDNS            all servers in one call
    SetLinkDomains        (domain, false) searched; (domain, true) only routed
    SetLinkDefaultRoute   whether names that no link has a domain for go here, too

With all names through the tunnel, the domain `.` is routed to the link: it is as
specific as no domain of another link, and wins over their default routes. With
split DNS only the given domains are. What was set is read back and compared.

The settings belong to the TAP's index: they vanish with it, so a crash leaves
nothing, and another link's settings are never touched. The daemon keeps them over
its own restart (/run/systemd/resolve/netif).

Source: org.freedesktop.resolve1(5); systemd 252.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, TypeAlias

from sevpn.errors import HostError, PrivilegeError
from sevpn.net.bus import BusError, Destination, SystemBus
from sevpn.net.dns.backend import Owner
from sevpn.net.model import Resolver

__all__ = ["Resolved", "why_not"]

_SERVICE: Final = "org.freedesktop.resolve1"
_MANAGER: Final = Destination(
    _SERVICE, "/org/freedesktop/resolve1", f"{_SERVICE}.Manager"
)
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"

_STATE: Final = Path("/run/systemd/resolve")

_REFUSED: Final = frozenset(
    {
        "org.freedesktop.DBus.Error.AccessDenied",
        "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
        "org.freedesktop.PolicyKit1.Error.NotAuthorized",
    }
)
_GONE: Final = frozenset(
    {f"{_SERVICE}.NoSuchLink", "org.freedesktop.DBus.Error.UnknownObject"}
)
_UNKNOWN_METHOD: Final = "org.freedesktop.DBus.Error.UnknownMethod"

_Settings: TypeAlias = tuple[list[tuple[int, bytes]], list[tuple[str, bool]]]
"""Servers and domains, as they stand on the bus."""


def why_not(connect: Callable[[], SystemBus] = SystemBus) -> str:
    """Return why systemd-resolved cannot be told; empty: it can.

    Args:
        connect: Opens the bus.
    """
    try:
        with connect() as bus:
            bus.call(
                Destination(_SERVICE, _MANAGER.path, "org.freedesktop.DBus.Peer"),
                "Ping",
            )
    except BusError as error:
        return str(error)
    return ""


def settings_of(resolver: Resolver) -> _Settings:
    """Return what is set for *resolver*."""
    servers = [
        (
            int(socket.AF_INET if server.version == 4 else socket.AF_INET6),
            server.packed,
        )
        for server in resolver.servers
    ]
    # The daemon keeps one of two domains that differ in their letters' case.
    domains = {domain.lower(): False for domain in resolver.search}
    for domain in resolver.domains or (".",):
        domains.setdefault(domain.lower(), True)
    return servers, list(domains.items())


class Resolved:
    """The way `resolved`.

    Args:
        connect: Opens the bus.
        index_of: Returns the number of an interface; raises `OSError` without one.
    """

    def __init__(
        self,
        connect: Callable[[], SystemBus] = SystemBus,
        index_of: Callable[[str], int] = socket.if_nametoindex,
    ) -> None:
        self._connect = connect
        self._index_of = index_of

    def set(self, resolver: Resolver, owner: Owner) -> None:
        """Set the link's servers and domains, and read them back.

        Raises:
            HostError: It is not so afterwards.
            PrivilegeError: Not for this user.
        """
        servers, domains = settings_of(resolver)
        try:
            index = self._index_of(owner.device)
            with self._connect() as bus:
                bus.call(_MANAGER, "SetLinkDNS", "ia(iay)", index, servers)
                bus.call(_MANAGER, "SetLinkDomains", "ia(sb)", index, domains)
                _set_default_route(bus, index, is_default=not resolver.domains)
                found = _read(bus, index)
        except OSError as error:
            raise _cannot(f"there is no {owner.device}") from error
        except BusError as error:
            raise _translated(error) from error
        if found != (servers, domains):
            raise _cannot(
                f"it took other settings than those given: {_shown(found)}; does another program set those of "
                f"{owner.device}?"
            )

    def restore(self, owner: Owner) -> None:
        """Take the link's settings away; with the link they are gone anyway.

        Raises:
            HostError: It does not answer, or refuses.
        """
        try:
            index = self._index_of(owner.device)
            with self._connect() as bus:
                bus.call(_MANAGER, "RevertLink", "i", index)
        except OSError:
            return
        except BusError as error:
            if error.name not in _GONE:
                raise _translated(error) from error

    def is_in_place(self, resolver: Resolver, owner: Owner) -> bool:
        """Whether the link's settings are those of *resolver*."""
        try:
            index = self._index_of(owner.device)
            with self._connect() as bus:
                return _read(bus, index) == settings_of(resolver)
        except (OSError, BusError):
            return False

    def watched(self) -> tuple[Path, ...]:
        """Return what the daemon writes when a link's settings change, and at its start."""
        return (_STATE, _STATE / "netif")


def _set_default_route(bus: SystemBus, index: int, *, is_default: bool) -> None:
    try:
        bus.call(_MANAGER, "SetLinkDefaultRoute", "ib", index, is_default)
    except BusError as error:
        # Before systemd 240 the domains alone decide, and they say the same.
        if error.name != _UNKNOWN_METHOD:
            raise


def _read(bus: SystemBus, index: int) -> _Settings:
    (path,) = bus.call(_MANAGER, "GetLink", "i", index)
    link = Destination(_SERVICE, str(path), _PROPERTIES)
    (properties,) = bus.call(link, "GetAll", "s", f"{_SERVICE}.Link")
    try:
        servers = [(int(family), bytes(data)) for family, data in properties["DNS"][1]]
        domains = [(str(name), bool(only)) for name, only in properties["Domains"][1]]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BusError(f"{_SERVICE} describes the link in an unknown way") from error
    return servers, domains


def _shown(settings: _Settings) -> str:
    servers, domains = settings
    names: list[str] = []
    for _, data in servers:
        with contextlib.suppress(ValueError):
            names.append(str(ip_address(data)))
    names += [f"~{name}" if only else name for name, only in domains]
    return " ".join(names[:8]) or "none"


def _translated(error: BusError) -> HostError:
    if error.name in _REFUSED:
        hint = "run sevpn with sudo" if os.geteuid() else "see its polkit rules"
        return PrivilegeError(
            f"systemd-resolved does not let this user set name servers: {hint}, or leave names alone with "
            "--dns-mode off",
            operation="write-resolver",
        )
    return _cannot(str(error))


def _cannot(reason: Any) -> HostError:
    return HostError(
        f"cannot set the name servers in systemd-resolved: {reason}; `resolvectl status` shows what it has, "
        "--dns-mode file replaces resolv.conf instead",
        operation="write-resolver",
    )
