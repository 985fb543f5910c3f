# SPDX-License-Identifier: Apache-2.0
"""The network underneath a tunnel: by which way its sockets leave this host.

Layer: net. Runs in: the control thread. A look takes about a millisecond.

    event ── 10 ms ──> look ──> Underlay ──> tunnel/roaming.py judges

A tunnel with a TAP in another namespace keeps its sockets in the namespace of its
process: this module always looks at the latter.

The kernel is asked, with the mark of the tunnel's sockets: it removes IPv4 routes
without telling, so nothing is concluded from events. A way into a TAP of sevpn is
no way: that is what the kernel answers while the last uplink is away and the
tunnel has the default route.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from sevpn.log import get_logger
from sevpn.net.model import Address, Found, is_default
from sevpn.net.monitor import Monitor
from sevpn.net.nexthop import NextHop
from sevpn.net.rtnetlink import Netlink

__all__ = ["Underlay", "Uplink", "bind_to_uplink"]

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Underlay:
    """The network underneath at one moment."""

    ways: Mapping[Address, NextHop | None] = field(
        default_factory=dict[Address, NextHop | None]
    )
    """By which way each address is reached; `None`: by none."""

    addresses: frozenset[Address] = frozenset()
    """This host's own, those of TAPs of sevpn left out; without zones."""

    defaults: frozenset[tuple[NextHop, int]] = frozenset()
    """The default routes of others that could carry packets now, with their metrics."""


class Uplink:
    """The network that the tunnel's sockets are in; the namespace of this process.

    The sockets to the kernel are opened at the first use.
    """

    def __init__(self) -> None:
        self._netlink = Netlink()
        self._monitor: Monitor | None = None

    def look(self, addresses: Iterable[Address], *, mark: int = 0) -> Underlay:
        """Return the network underneath as it is now.

        Args:
            addresses: Whom the tunnel dials.
            mark: The firewall mark of its sockets.

        Raises:
            HostError: The kernel did not answer.
        """
        found = self._netlink.find()
        tunnels = found.devices_of_tunnels()
        ways: dict[Address, NextHop | None] = {}
        for address in addresses:
            hop = self._netlink.route_to(address, mark=mark)
            ways[address] = None if hop is None or hop.device in tunnels else hop
        return Underlay(ways, _own_addresses(found), _defaults(found))

    def watch(self, callback: Callable[[], None]) -> None:
        """Call *callback* on the running event loop after each change.

        Raises:
            HostError: No netlink.
        """
        self.close()
        self._monitor = Monitor(callback)
        self._monitor.start()

    def close(self) -> None:
        """Stop watching and close all sockets; safe to call again."""
        if self._monitor is not None:
            self._monitor.stop()
            self._monitor = None
        self._netlink.close()


def bind_to_uplink(sock: socket.socket, underlay: Underlay) -> None:
    """Keep the packets of *sock* on the interface that leads to whom the tunnel dials.

    The kernel removes the route to the server without a word when its uplink goes.
    With the default route in the tunnel, the packets of the connection would then
    enter the tunnel that they carry. A socket that is bound gets "no route" instead,
    and nothing is lost by it: a connection whose way moves is dropped anyway.

    Where the addresses of one IP version are reached by several interfaces, the socket
    is left as it is. So it is where the kernel refuses (before 5.7, without CAP_NET_RAW).
    """
    version = 6 if sock.family == socket.AF_INET6 else 4
    devices = {
        hop.device
        for address, hop in underlay.ways.items()
        if hop is not None and address.version == version
    }
    if len(devices) != 1 or devices == {"lo"}:
        return
    (device,) = devices
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    except OSError as error:
        log.debug("a socket is not bound", device=device, cause=error)


def _own_addresses(found: Found) -> frozenset[Address]:
    tunnels = found.devices_of_tunnels()
    return frozenset(
        entry.interface.ip for entry in found.addresses if entry.device not in tunnels
    )


def _defaults(found: Found) -> frozenset[tuple[NextHop, int]]:
    tunnels = found.devices_of_tunnels()
    return frozenset(
        (NextHop(entry.route.device, entry.route.gateway), entry.route.metric)
        for entry in found.routes
        if is_default(entry.route.destination)
        and entry.is_unicast
        and entry.is_usable
        and not entry.is_ours
        and entry.route.device not in tunnels
    )
