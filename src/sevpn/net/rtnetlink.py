# SPDX-License-Identifier: Apache-2.0
"""The kernel's links, addresses, routes and rules, through one netlink socket.

Layer: net. Runs in: the control thread (or any other, one at a time).

The only module that knows the netlink library, and it takes of it what it is
good at: the layouts of the messages. Sending and receiving is `nlsocket.py`. A
request takes some ten microseconds of the kernel and some hundred of Python per
object in the answer, so calling it from an event loop is fine.

Two things guard against the library (docs/decisions/0002-netlink.md): there are
only typed functions here, because it drops names that it does not know; and each
write is read back and compared. For routes the kernel is asked to echo what it
has put into its table (`NLM_F_ECHO`), which costs the same however large the
table is; links, addresses and rules are asked for.

Foreign errors end here: what comes out is :class:`HostError` with the kernel's
reason in words.

Source: RFC 3549; linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import importlib.machinery
import socket
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Interface,
)
from typing import Final

from sevpn.errors import HostError, InterfaceGoneError
from sevpn.net.model import (
    MAIN_TABLE,
    RTPROTO,
    Address,
    Family,
    Found,
    FoundAddress,
    FoundRoute,
    Interface,
    Link,
    Route,
    RouteKind,
    Rule,
    family_of,
)
from sevpn.net.nexthop import NextHop
from sevpn.net.nlmessages import (
    Message,
    MessageClass,
    plain_text,
    read_address,
    read_link,
    read_next_hop,
    read_routes,
    read_rule,
)
from sevpn.net.nlsocket import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_ECHO,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    KernelRefusedError,
    NetlinkSocket,
)

__all__ = ["Netlink"]

_RTM_NEWLINK: Final = 16
_RTM_GETLINK: Final = 18
_RTM_NEWADDR: Final = 20
_RTM_DELADDR: Final = 21
_RTM_GETADDR: Final = 22
_RTM_NEWROUTE: Final = 24
_RTM_DELROUTE: Final = 25
_RTM_GETROUTE: Final = 26
_RTM_NEWRULE: Final = 32
_RTM_DELRULE: Final = 33
_RTM_GETRULE: Final = 34

_RTEXT_FILTER_SKIP_STATS: Final = 8
_IFF_UP: Final = 0x1
_RTN_KINDS: Final[dict[RouteKind, int]] = {"unicast": 1, "unreachable": 7, "throw": 9}
_FR_ACT_TO_TABLE: Final = 1
_FIB_RULE_INVERT: Final = 2
_RT_TABLE_COMPAT: Final = 252
_MAX_SHORT_TABLE: Final = 255
_RT_SCOPE_UNIVERSE: Final = 0
_RT_SCOPE_LINK: Final = 253
_RTNH_F_ONLINK: Final = 4

_NO_ROUTE: Final = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES}
)
"""What the kernel answers for no route, unreachable, blackhole and prohibit."""

_NO_TABLE: Final = frozenset({errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT})
"""A kernel without this family, or a table that does not exist yet."""

_NO_SUCH_ROUTE: Final = frozenset({errno.ESRCH, errno.ENODEV, errno.ENETUNREACH})

_FAMILIES: Final[dict[Family, int]] = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class _Codec:
    """The library's four message layouts."""

    link: MessageClass
    address: MessageClass
    route: MessageClass
    rule: MessageClass


_codec: _Codec | None = None


def _load_codec() -> _Codec:
    """Import the message layouts, and nothing else, of the library.

    The library's own `__init__` imports all of it, 240 modules and 14 MiB, for
    four layouts that need 25 modules and 2 MiB. So a bare package of the same
    path stands in for it during the import. What was imported is then taken out
    of `sys.modules` again: should anybody else in this process want the library,
    they get the whole of it. A version of the library that cannot be imported
    like this is imported as usual.
    """
    global _codec  # noqa: PLW0603 - imported once per process, at the first use
    if _codec is None:
        try:
            _codec = _import_bare()
        except (ImportError, AttributeError):
            _codec = _import_layouts()
    return _codec


def _import_layouts() -> _Codec:
    # Imported at the first use only: the commands that talk to a running tunnel
    # never need it.
    from pyroute2.netlink.rtnl.fibmsg import fibmsg  # noqa: PLC0415
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # noqa: PLC0415
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # noqa: PLC0415
    from pyroute2.netlink.rtnl.rtmsg import rtmsg  # noqa: PLC0415

    return _Codec(link=ifinfmsg, address=ifaddrmsg, route=rtmsg, rule=fibmsg)


def _import_bare() -> _Codec:
    library = "pyroute2"
    if library in sys.modules:  # somebody paid for all of it already
        return _import_layouts()
    spec = importlib.machinery.PathFinder.find_spec(library)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(f"the library {library} is not installed")
    package = types.ModuleType(library)
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[library] = package
    try:
        return _import_layouts()
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == library]:
            del sys.modules[name]


class Netlink:
    """The kernel's network, of the namespace it is first asked about.

    The socket is opened at the first use; :meth:`close` may be called any number
    of times.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket()

    def close(self) -> None:
        """Close the socket; a later call opens another."""
        self._socket.close()

    # --- what there is ---

    def find(self) -> Found:
        """Return all links, all addresses, both main tables, and what is ours elsewhere.

        Raises:
            HostError: The kernel did not answer.
        """
        links = self.links()
        names = {link.index: link.name for link in links}
        return Found(
            links=tuple(links),
            addresses=tuple(self._addresses(names)),
            routes=(*self._routes(4, names), *self._routes(6, names)),
            elsewhere=(*self._elsewhere(4, names), *self._elsewhere(6, names)),
            rules=(*self.rules(4), *self.rules(6)),
        )

    def links(self) -> list[Link]:
        """Return all interfaces."""
        codec = _load_codec()
        message = codec.link()
        message["attrs"] = [("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS)]
        return [
            read_link(codec.link, body)
            for body in self._list("list interfaces", _RTM_GETLINK, message)
        ]

    def link(self, name: str) -> Link | None:
        """Return the interface *name*, or `None`."""
        codec = _load_codec()
        message = codec.link()
        try:
            message["index"] = socket.if_nametoindex(name)
        except OSError:
            return None
        what = f"look at the interface {name}"
        answers = self._ask(
            what, "find", _RTM_GETLINK, message, fine=frozenset({errno.ENODEV})
        )
        return next(
            (
                read_link(codec.link, body)
                for kind, body in answers
                if kind == _RTM_NEWLINK
            ),
            None,
        )

    def addresses(self) -> list[FoundAddress]:
        """Return all addresses of all interfaces."""
        return self._addresses(self._names())

    def routes(self) -> list[FoundRoute]:
        """Return the main tables of both families, in the kernel's order."""
        names = self._names()
        return [*self._routes(4, names), *self._routes(6, names)]

    def route_to(
        self, address: Address, *, mark: int = 0, source: Address | None = None
    ) -> NextHop | None:
        """Ask the kernel where it would send a packet for *address* now.

        Policy rules and all tables count, as for a socket that is bound to nothing.

        Args:
            address: Where to.
            mark: The firewall mark of the socket that sends it.
            source: The address that the socket is bound to.

        Returns:
            `None` when there is no route. For an address of this host the device
            is `lo`.

        Raises:
            HostError: The kernel did not answer.
        """
        codec = _load_codec()
        message = codec.route()
        message["family"] = _FAMILIES[family_of(address)]
        message["dst_len"] = 32 if address.version == 4 else 128
        message["attrs"] = [("RTA_DST", plain_text(address))]
        if mark:
            message["attrs"].append(("RTA_MARK", mark))
        if source is not None:
            message["src_len"] = message["dst_len"]
            message["attrs"].append(("RTA_SRC", plain_text(source)))
        what = f"ask for the route to {address}"
        answers = self._ask(what, "find", _RTM_GETROUTE, message, fine=_NO_ROUTE)
        return next(
            (
                read_next_hop(codec.route, body)
                for kind, body in answers
                if kind == _RTM_NEWROUTE
            ),
            None,
        )

    def _names(self) -> dict[int, str]:
        return dict(socket.if_nameindex())

    def _addresses(self, names: dict[int, str]) -> list[FoundAddress]:
        codec = _load_codec()
        bodies = self._list("list addresses", _RTM_GETADDR, codec.address())
        found = (read_address(codec.address, body, names) for body in bodies)
        return [address for address in found if address is not None]

    def _routes(self, family: Family, names: dict[int, str]) -> list[FoundRoute]:
        message = _load_codec().route()
        message["family"] = _FAMILIES[family]
        # A kernel that knows strict checking (4.20) sends this table only; from
        # an older one the others come, too.
        message["table"] = MAIN_TABLE
        message["attrs"] = [("RTA_TABLE", MAIN_TABLE)]
        return [
            found
            for found in self._read(family, message, names)
            if found.route.table == MAIN_TABLE
        ]

    def _elsewhere(self, family: Family, names: dict[int, str]) -> list[FoundRoute]:
        message = _load_codec().route()
        message["family"] = _FAMILIES[family]
        message["proto"] = RTPROTO  # likewise
        return [
            found
            for found in self._read(family, message, names)
            if found.is_ours and found.route.table != MAIN_TABLE
        ]

    def _read(
        self, family: Family, message: Message, names: dict[int, str]
    ) -> list[FoundRoute]:
        bodies = self._list("list routes", _RTM_GETROUTE, message, fine=_NO_TABLE)
        # A kernel without IPv6 answers a question about it with all that it has.
        return [
            found
            for body in bodies
            for found in read_routes(_load_codec().route, body, names)
            if family_of(found.route.destination) == family
        ]

    def rules(self, family: Family) -> list[Rule]:
        """Return the policy rules of ours, in the order in which they are asked.

        Raises:
            HostError: The kernel did not answer.
        """
        codec = _load_codec()
        message = codec.rule()
        message["family"] = _FAMILIES[family]
        bodies = self._list("list rules", _RTM_GETRULE, message, fine=_NO_TABLE)
        read = (read_rule(codec.rule, body) for body in bodies)
        return [
            rule
            for rule, protocol in (entry for entry in read if entry is not None)
            if protocol == RTPROTO and rule.family == family
        ]

    # --- what is changed ---

    def set_link(
        self,
        name: str,
        *,
        mac: str | None = None,
        mtu: int | None = None,
        is_up: bool | None = None,
        alias: str | None = None,
        master: int | None = None,
    ) -> Link:
        """Change an interface and return it as it is then.

        Args:
            name: Its name.
            mac: Hardware address, lower-case with colons.
            mtu: In bytes of one IP packet.
            is_up: Turn it on or off.
            alias: Free text, at most 255 bytes.
            master: The number of the bridge to make it a port of; 0: of none.

        Raises:
            HostError: There is no such interface, or the kernel refused.
            PrivilegeError: Without CAP_NET_ADMIN.
        """
        message = _load_codec().link()
        message["index"] = self._index(name, "set-link")
        given = {
            "IFLA_ADDRESS": mac,
            "IFLA_MTU": mtu,
            "IFLA_IFALIAS": alias,
            "IFLA_MASTER": master,
        }
        message["attrs"] = [
            (key, value) for key, value in given.items() if value is not None
        ]
        if is_up is not None:
            message["flags"] = _IFF_UP if is_up else 0
            message["change"] = _IFF_UP
        words = (
            ("mac", mac),
            ("mtu", mtu),
            ("up", is_up),
            ("alias", alias),
            ("master", master),
        )
        what = f"set {name} to " + ", ".join(
            f"{word} {value}" for word, value in words if value is not None
        )
        self._ask(what, "set-link", _RTM_NEWLINK, message)
        after = self.link(name)
        if after is None or not (
            mac in {None, after.mac}
            and mtu in {None, after.mtu}
            and is_up in {None, after.is_up}
            and alias in {None, after.alias or ""}
            and master in {None, after.master or 0}
        ):
            raise _did_not_take(what, "set-link", after)
        return after

    def add_address(self, device: str, interface: Interface) -> None:
        """Add an address; one that is there already is no error.

        Raises:
            HostError: The kernel refused, or shows something else afterwards.
            PrivilegeError: Without CAP_NET_ADMIN.
        """
        message = self._address_message(device, interface, "add-address")
        if isinstance(interface, IPv4Interface) and interface.network.prefixlen < 31:
            message["attrs"].append(
                ("IFA_BROADCAST", str(interface.network.broadcast_address))
            )
        what = f"add the address {interface} to {device}"
        flags = NLM_F_CREATE | NLM_F_EXCL
        self._ask(
            what,
            "add-address",
            _RTM_NEWADDR,
            message,
            flags=flags,
            fine=frozenset({errno.EEXIST}),
        )
        if not self._has_address(device, interface):
            raise _did_not_take(what, "add-address", None)

    def remove_address(self, device: str, interface: Interface) -> None:
        """Remove an address; one that is not there is no error.

        Raises:
            HostError: The kernel refused, or still shows it afterwards.
            PrivilegeError: Without CAP_NET_ADMIN.
        """
        message = self._address_message(device, interface, "remove-address")
        what = f"remove the address {interface} from {device}"
        self._ask(
            what,
            "remove-address",
            _RTM_DELADDR,
            message,
            fine=frozenset({errno.EADDRNOTAVAIL}),
        )
        if self._has_address(device, interface):
            raise _did_not_take(what, "remove-address", None)

    def add_route(self, route: Route, *, replace: bool = False) -> None:
        """Add a route of ours to its table; the same one of ours is no error.

        One with the same destination and metric by somebody else stays in front
        of it (IPv4), as `ip route append` would do.

        Args:
            route: What to add; it gets our protocol number.
            replace: Put it in the place of the route of the same destination and
                metric, in one step. The caller knows that this one is ours.

        Raises:
            HostError: The kernel refused, or echoed something else.
            PrivilegeError: Without CAP_NET_ADMIN.
        """
        if replace:
            flags = NLM_F_CREATE | NLM_F_REPLACE
        elif family_of(route.destination) == 4:
            flags = NLM_F_CREATE | NLM_F_APPEND
        else:
            # Appending an IPv6 route of the same metric makes one route of two
            # ways, and half the packets take the wrong one.
            flags = NLM_F_CREATE | NLM_F_EXCL
        what = f"add the route {route}"
        message = self._route_message(route, "add-route")
        try:
            answers = self._socket.ask(
                _encoded(_RTM_NEWROUTE, message), flags=flags | NLM_F_ECHO
            )
        except KernelRefusedError as error:
            if error.number == errno.EEXIST and self._has_route(route):
                return
            raise error.translated(what, "add-route") from None
        if not _is_echoed(answers, _RTM_NEWROUTE, route) and not self._has_route(route):
            raise _did_not_take(what, "add-route", None)

    def remove_route(self, route: Route) -> None:
        """Remove a route of ours; one that is not there is no error.

        The kernel compares the protocol number: a route that somebody else put
        into the place of ours stays.

        Raises:
            HostError: The kernel refused.
            PrivilegeError: Without CAP_NET_ADMIN.
        """
        if route.device and self.link(route.device) is None:
            return  # it went with its interface
        message = self._route_message(route, "remove-route")
        what = f"remove the route {route}"
        answers = self._ask(
            what,
            "remove-route",
            _RTM_DELROUTE,
            message,
            flags=NLM_F_ECHO,
            fine=_NO_SUCH_ROUTE,
        )
        if not _is_echoed(answers, _RTM_DELROUTE, route) and self._has_route(route):
            raise _did_not_take(what, "remove-route", route)

    def add_rule(self, rule: Rule) -> None:
        """Add a policy rule of ours; the same one of ours is no error.

        Raises:
            HostError: The kernel refused (it may have been built without policy
                routing), or shows something else afterwards.
            PrivilegeError: Without CAP_NET_ADMIN.
        """
        if rule in self.rules(rule.family):
            return
        what = f"add the rule {rule}"
        flags = NLM_F_CREATE | NLM_F_EXCL
        self._ask(what, "add-rule", _RTM_NEWRULE, self._rule_message(rule), flags=flags)
        if rule not in self.rules(rule.family):
            raise _did_not_take(what, "add-rule", None)

    def remove_rule(self, rule: Rule) -> None:
        """Remove a policy rule of ours; one that is not there is no error.

        The kernel compares the protocol number: the same rule of somebody else stays.

        Raises:
            HostError: The kernel refused, or still shows it afterwards.
            PrivilegeError: Without CAP_NET_ADMIN.
        """
        what = f"remove the rule {rule}"
        self._ask(
            what,
            "remove-rule",
            _RTM_DELRULE,
            self._rule_message(rule),
            fine=frozenset({errno.ENOENT}),
        )
        if rule in self.rules(rule.family):
            raise _did_not_take(what, "remove-rule", rule)

    def _rule_message(self, rule: Rule) -> Message:
        message = _load_codec().rule()
        message["family"] = _FAMILIES[rule.family]
        message["action"] = _FR_ACT_TO_TABLE
        message["table"] = _short_table(rule.table)
        message["flags"] = _FIB_RULE_INVERT if rule.is_not else 0
        attributes: list[tuple[str, object]] = [
            ("FRA_PRIORITY", rule.preference),
            ("FRA_TABLE", rule.table),
            ("FRA_PROTOCOL", RTPROTO),
        ]
        if rule.mark is not None:
            attributes.append(("FRA_FWMARK", rule.mark))
        if rule.source is not None:
            message["src_len"] = rule.source.prefixlen
            attributes.append(("FRA_SRC", str(rule.source.network_address)))
        if rule.uids is not None:
            attributes.append(("FRA_UID_RANGE", f"{rule.uids[0]}:{rule.uids[1]}"))
        message["attrs"] = attributes
        return message

    def _has_address(self, device: str, interface: Interface) -> bool:
        return any(
            found.device == device and found.interface == interface
            for found in self.addresses()
        )

    def _has_route(self, route: Route) -> bool:
        names, family = self._names(), family_of(route.destination)
        is_main = route.table == MAIN_TABLE
        there = (
            self._routes(family, names) if is_main else self._elsewhere(family, names)
        )
        return any(found.route == route and found.is_ours for found in there)

    def _index(self, device: str, operation: str) -> int:
        try:
            return socket.if_nametoindex(device)
        except OSError as error:
            raise InterfaceGoneError(
                f"the interface {device} is gone: somebody removed it",
                operation=operation,
            ) from error

    def _address_message(
        self, device: str, interface: Interface, operation: str
    ) -> Message:
        message = _load_codec().address()
        message["family"] = _FAMILIES[family_of(interface)]
        message["prefixlen"] = interface.network.prefixlen
        message["index"] = self._index(device, operation)
        # IFA_PROTO tags the address from kernel 5.18 on; older ones skip it.
        message["attrs"] = [
            ("IFA_LOCAL", str(interface.ip)),
            ("IFA_ADDRESS", str(interface.ip)),
            ("IFA_PROTO", RTPROTO),
        ]
        return message

    def _route_message(self, route: Route, operation: str) -> Message:
        family = family_of(route.destination)
        message = _load_codec().route()
        message["family"] = _FAMILIES[family]
        message["dst_len"] = route.destination.prefixlen
        message["table"] = _short_table(route.table)
        message["proto"] = RTPROTO
        message["type"] = _RTN_KINDS[route.kind]
        on_link = route.gateway is None and route.device and family == 4
        message["scope"] = _RT_SCOPE_LINK if on_link else _RT_SCOPE_UNIVERSE
        message["flags"] = _RTNH_F_ONLINK if route.onlink else 0
        attributes: list[tuple[str, object]] = [("RTA_TABLE", route.table)]
        if route.destination.prefixlen:
            attributes.append(("RTA_DST", str(route.destination.network_address)))
        if route.device:
            attributes.append(("RTA_OIF", self._index(route.device, operation)))
        if route.gateway is not None and family_of(route.gateway) == family:
            attributes.append(("RTA_GATEWAY", plain_text(route.gateway)))
        elif route.gateway is not None:
            attributes.append(
                (
                    "RTA_VIA",
                    {"family": socket.AF_INET6, "addr": plain_text(route.gateway)},
                )
            )
        if route.metric:
            attributes.append(("RTA_PRIORITY", route.metric))
        if route.source is not None:
            attributes.append(("RTA_PREFSRC", plain_text(route.source)))
        message["attrs"] = attributes
        return message

    # --- requests ---

    def _ask(
        self,
        what: str,
        operation: str,
        kind: int,
        message: Message,
        *,
        flags: int = 0,
        fine: frozenset[int] = frozenset(),
    ) -> list[tuple[int, bytes]]:
        """Send one request.

        Args:
            what: What it is for, to follow "cannot" in an error.
            operation: The same for programs.
            kind: The message's type.
            message: The message.
            flags: For the kernel.
            fine: Error numbers that mean that there is nothing to do; the answer
                is empty then.
        """
        try:
            return self._socket.ask(_encoded(kind, message), flags=flags)
        except KernelRefusedError as error:
            if error.number in fine:
                return []
            raise error.translated(what, operation) from None

    def _list(
        self,
        what: str,
        kind: int,
        message: Message,
        *,
        fine: frozenset[int] = frozenset(),
    ) -> list[bytes]:
        """Ask for a list; *kind* is that of the request, its objects' is two smaller."""
        try:
            answers = self._socket.ask_all(_encoded(kind, message))
        except KernelRefusedError as error:
            if error.number in fine:
                return []
            raise error.translated(what, "find") from None
        return [body for answer, body in answers if answer == kind - 2]


# --- writing and reading messages ---


def _short_table(table: int) -> int:
    """Return what stands in the header, where a larger number has no room."""
    return table if table <= _MAX_SHORT_TABLE else _RT_TABLE_COMPAT


def _encoded(kind: int, message: Message) -> bytes:
    message["header"]["type"] = kind
    message.encode()
    return bytes(message.data)


def _is_echoed(answers: Sequence[tuple[int, bytes]], kind: int, route: Route) -> bool:
    """Whether the kernel's echo shows *route* as added or removed by this request."""
    names = {socket.if_nametoindex(route.device): route.device} if route.device else {}
    message_class = _load_codec().route
    return any(
        found.route == route and found.is_ours
        for echoed_kind, body in answers
        if echoed_kind == kind
        for found in read_routes(message_class, body, names)
    )


def _did_not_take(what: str, operation: str, shown: object) -> HostError:
    return HostError(
        f"could not {what}: the kernel said yes and shows {shown or 'nothing of it'}; report this with `ip route`",
        operation=operation,
    )
