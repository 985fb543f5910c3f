# SPDX-License-Identifier: Apache-2.0
"""The kernel's links, addresses and routes, through one netlink socket.

Layer: net. Runs in: the control thread (or any other, one at a time).

The only module that knows the netlink library, and it takes of it what it is
good at: the layouts of the messages. Sending and receiving is ours: one blocking
socket, one request, one answer, no event loop and no thread. A request takes
some ten microseconds of the kernel and some fifty of Python per object in the
answer, so calling it from an event loop is fine.

    request   header, message, attributes      flags: REQUEST|ACK, DUMP for lists
    answer    objects …, then ACK or DONE       or ERROR with the kernel's sentence

Two things guard against the library (docs/decisions/0002-netlink.md): there are
only typed functions here, because it drops names that it does not know; and each
write is read back and compared. For routes the kernel is asked to echo what it
has put into its table (`NLM_F_ECHO`), which costs the same however large the
table is; links and addresses are asked for.

Foreign errors end here: what comes out is :class:`HostError` with the kernel's
reason in words.

Source: RFC 3549; linux/rtnetlink.h, linux/netlink.h.
"""

from __future__ import annotations

import errno
import importlib.machinery
import os
import socket
import struct
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
)
from typing import Any, Final, NoReturn, Protocol

from sevpn.errors import HostError, PrivilegeError
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
    Network,
    Route,
    family_of,
)
from sevpn.net.nexthop import NextHop

__all__ = ["Netlink"]

_RTM_NEWLINK: Final = 16
_RTM_GETLINK: Final = 18
_RTM_NEWADDR: Final = 20
_RTM_DELADDR: Final = 21
_RTM_GETADDR: Final = 22
_RTM_NEWROUTE: Final = 24
_RTM_DELROUTE: Final = 25
_RTM_GETROUTE: Final = 26

_NLM_F_REQUEST: Final = 0x1
_NLM_F_ACK: Final = 0x4
_NLM_F_ECHO: Final = 0x8
_NLM_F_DUMP_INTR: Final = 0x10
_NLM_F_REPLACE: Final = 0x100
_NLM_F_DUMP: Final = 0x300
_NLM_F_EXCL: Final = 0x200
_NLM_F_CREATE: Final = 0x400
_NLM_F_APPEND: Final = 0x800
_NLM_F_CAPPED: Final = 0x100
_NLM_F_ACK_TLVS: Final = 0x200

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLMSGERR_ATTR_MSG: Final = 1

_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_NETLINK_GET_STRICT_CHK: Final = 12

_RTEXT_FILTER_SKIP_STATS: Final = 8
_IFF_UP: Final = 0x1
_IFF_LOWER_UP: Final = 0x10000
_RTN_UNICAST: Final = 1
_RTN_LOCAL: Final = 2
_RT_SCOPE_UNIVERSE: Final = 0
_RT_SCOPE_LINK: Final = 253
_RTNH_F_DEAD: Final = 1
_RTNH_F_ONLINK: Final = 4
_RTNH_F_LINKDOWN: Final = 16
_RTM_F_CLONED: Final = 0x200

_HEADER: Final = struct.Struct("=IHHII")
_ERROR_CODE: Final = struct.Struct("=i")
_ATTRIBUTE: Final = struct.Struct("=HH")

_RECEIVE_SIZE: Final = 1 << 16
"""The kernel fills at most 32 KiB at a time; a cut message would be an error here."""

_ANSWER_S: Final = 5.0
"""The kernel answers in the call itself; a longer wait means that it never will."""

_DUMP_TRIES: Final = 5
"""How often a list is asked for again when it changed while it was read."""

_FAMILIES: Final[dict[Family, int]] = {4: socket.AF_INET, 6: socket.AF_INET6}


class _Message(Protocol):
    """What is used of the library's messages."""

    data: Any

    def __getitem__(self, name: str, /) -> Any: ...
    def __setitem__(self, name: str, value: Any, /) -> None: ...
    def encode(self) -> None: ...
    def decode(self) -> None: ...
    def get_attr(self, name: str, /) -> Any: ...


class _MessageClass(Protocol):
    def __call__(self, data: bytes | None = None, /) -> _Message: ...


@dataclass(frozen=True, slots=True)
class _Codec:
    """The library's three message layouts."""

    link: _MessageClass
    address: _MessageClass
    route: _MessageClass


_codec: _Codec | None = None


def _load_codec() -> _Codec:
    """Import the message layouts, and nothing else, of the library.

    The library's own `__init__` imports all of it, 240 modules and 14 MiB, for
    three layouts that need 25 modules and 2 MiB. So a bare package of the same
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
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # noqa: PLC0415
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # noqa: PLC0415
    from pyroute2.netlink.rtnl.rtmsg import rtmsg  # noqa: PLC0415

    return _Codec(link=ifinfmsg, address=ifaddrmsg, route=rtmsg)


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


class _KernelRefusedError(Exception):
    """An answer with an error number; never leaves this module."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number
        self.text = text


class Netlink:
    """A socket to the kernel's network of the namespace it was first used in.

    Opened at the first use; :meth:`close` may be called any number of times.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0

    def close(self) -> None:
        """Close the socket; a later call opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # --- what there is ---

    def find(self) -> Found:
        """Return all links, all addresses and both main tables.

        Raises:
            HostError: The kernel did not answer.
        """
        links = self.links()
        names = {link.index: link.name for link in links}
        return Found(
            links=tuple(links),
            addresses=tuple(self._addresses(names)),
            routes=(*self._routes(4, names), *self._routes(6, names)),
        )

    def links(self) -> list[Link]:
        """Return all interfaces."""
        message = _load_codec().link()
        message["attrs"] = [("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS)]
        answers = self._dump("list interfaces", "find", _RTM_GETLINK, message)
        return [
            _link(_load_codec().link, body)
            for kind, body in answers
            if kind == _RTM_NEWLINK
        ]

    def link(self, name: str) -> Link | None:
        """Return the interface *name*, or `None`."""
        codec = _load_codec()
        message = codec.link()
        try:
            message["index"] = socket.if_nametoindex(name)
            answers = self._request(_RTM_GETLINK, message, 0)
        except OSError:
            return None
        except _KernelRefusedError as error:
            if error.number == errno.ENODEV:
                return None
            _raise_host_error(error, f"look at the interface {name}", "find")
        return next(
            (_link(codec.link, body) for kind, body in answers if kind == _RTM_NEWLINK),
            None,
        )

    def addresses(self) -> list[FoundAddress]:
        """Return all addresses of all interfaces."""
        return self._addresses({link.index: link.name for link in self.links()})

    def routes(self) -> list[FoundRoute]:
        """Return the main tables of both families, in the kernel's order."""
        names = {link.index: link.name for link in self.links()}
        return [*self._routes(4, names), *self._routes(6, names)]

    def route_to(self, address: Address) -> NextHop | None:
        """Ask the kernel where it would send a packet for *address* now.

        Policy rules and all tables count, as for a socket that is bound to nothing.

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
        message["attrs"] = [("RTA_DST", _plain(address))]
        try:
            answers = self._request(_RTM_GETROUTE, message, 0)
        except _KernelRefusedError as error:
            if error.number in {
                errno.ENETUNREACH,
                errno.EHOSTUNREACH,
                errno.EINVAL,
                errno.EACCES,
            }:
                return None
            _raise_host_error(error, f"ask for the route to {address}", "find")
        for kind, body in answers:
            if kind == _RTM_NEWROUTE:
                return _next_hop(codec.route, body)
        return None

    def _addresses(self, names: dict[int, str]) -> list[FoundAddress]:
        codec = _load_codec()
        answers = self._dump("list addresses", "find", _RTM_GETADDR, codec.address())
        found = (
            _address(codec.address, body, names)
            for kind, body in answers
            if kind == _RTM_NEWADDR
        )
        return [address for address in found if address is not None]

    def _routes(self, family: Family, names: dict[int, str]) -> list[FoundRoute]:
        codec = _load_codec()
        message = codec.route()
        message["family"] = _FAMILIES[family]
        # A kernel that knows strict checking (4.20) sends this table only; from
        # an older one the others come, too, and are left out below.
        message["table"] = MAIN_TABLE
        message["attrs"] = [("RTA_TABLE", MAIN_TABLE)]
        try:
            answers = self._try_dump(_RTM_GETROUTE, message)
        except _KernelRefusedError as error:
            if error.number in {errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT}:
                return []  # a kernel without IPv6, or a table that does not exist yet
            _raise_host_error(error, "list routes", "find")
        return [
            route
            for kind, body in answers
            if kind == _RTM_NEWROUTE
            for route in _found_routes(codec.route, body, names)
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
    ) -> Link:
        """Change an interface and return it as it is then.

        Args:
            name: Its name.
            mac: Hardware address, lower-case with colons.
            mtu: In bytes of one IP packet.
            is_up: Turn it on or off.
            alias: Free text, at most 255 bytes.

        Raises:
            HostError: There is no such interface, or the kernel refused.
            PrivilegeError: Without CAP_NET_ADMIN.
        """
        before = self.link(name)
        if before is None:
            raise HostError(
                f"the interface {name} is gone: somebody removed it; start the tunnel again",
                operation="set-link",
            )
        message = _load_codec().link()
        message["index"] = before.index
        attributes: list[tuple[str, object]] = []
        if mac is not None:
            attributes.append(("IFLA_ADDRESS", mac))
        if mtu is not None:
            attributes.append(("IFLA_MTU", mtu))
        if alias is not None:
            attributes.append(("IFLA_IFALIAS", alias))
        if is_up is not None:
            message["flags"] = _IFF_UP if is_up else 0
            message["change"] = _IFF_UP
        message["attrs"] = attributes
        wanted = ", ".join(
            f"{word} {value}"
            for word, value in (
                ("mac", mac),
                ("mtu", mtu),
                ("up", is_up),
                ("alias", alias),
            )
            if value is not None
        )
        self._write(f"set {name} to {wanted}", "set-link", _RTM_NEWLINK, message, 0)
        after = self.link(name)
        if after is None or not (
            mac in {None, after.mac}
            and mtu in {None, after.mtu}
            and is_up in {None, after.is_up}
            and alias in {None, after.alias or ""}
        ):
            raise _did_not_take(f"set {name} to {wanted}", "set-link", after)
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
        self._write(
            what,
            "add-address",
            _RTM_NEWADDR,
            message,
            _NLM_F_CREATE | _NLM_F_EXCL,
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
        self._write(
            what,
            "remove-address",
            _RTM_DELADDR,
            message,
            0,
            fine=frozenset({errno.EADDRNOTAVAIL}),
        )
        if self._has_address(device, interface):
            raise _did_not_take(what, "remove-address", None)

    def add_route(self, route: Route, *, replace: bool = False) -> None:
        """Add a route of ours to the main table; the same one of ours is no error.

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
        message = self._route_message(route, "add-route")
        if replace:
            flags = _NLM_F_CREATE | _NLM_F_REPLACE
        elif family_of(route.destination) == 4:
            flags = _NLM_F_CREATE | _NLM_F_APPEND
        else:
            # Appending an IPv6 route of the same metric makes one route of two
            # ways, and half the packets take the wrong one.
            flags = _NLM_F_CREATE | _NLM_F_EXCL
        what = f"add the route {route}"
        try:
            answers = self._request(_RTM_NEWROUTE, message, flags | _NLM_F_ECHO)
        except _KernelRefusedError as error:
            if error.number == errno.EEXIST and self._has_route(route):
                return
            _raise_host_error(error, what, "add-route")
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
        if self.link(route.device) is None:
            return  # it went with its interface
        message = self._route_message(route, "remove-route")
        what = f"remove the route {route}"
        try:
            answers = self._request(_RTM_DELROUTE, message, _NLM_F_ECHO)
        except _KernelRefusedError as error:
            if error.number in {errno.ESRCH, errno.ENODEV, errno.ENETUNREACH}:
                return
            _raise_host_error(error, what, "remove-route")
        if not _is_echoed(answers, _RTM_DELROUTE, route) and self._has_route(route):
            raise _did_not_take(what, "remove-route", route)

    def _has_address(self, device: str, interface: Interface) -> bool:
        return any(
            found.device == device and found.interface == interface
            for found in self.addresses()
        )

    def _has_route(self, route: Route) -> bool:
        names = {link.index: link.name for link in self.links()}
        return any(
            found.route == route and found.is_ours
            for found in self._routes(family_of(route.destination), names)
        )

    def _index(self, device: str, operation: str) -> int:
        try:
            return socket.if_nametoindex(device)
        except OSError as error:
            raise HostError(
                f"the interface {device} is gone: somebody removed it; start the tunnel again",
                operation=operation,
            ) from error

    def _address_message(
        self, device: str, interface: Interface, operation: str
    ) -> _Message:
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

    def _route_message(self, route: Route, operation: str) -> _Message:
        family = family_of(route.destination)
        message = _load_codec().route()
        message["family"] = _FAMILIES[family]
        message["dst_len"] = route.destination.prefixlen
        message["table"] = MAIN_TABLE
        message["proto"] = RTPROTO
        message["type"] = _RTN_UNICAST
        on_link = route.gateway is None and family == 4
        message["scope"] = _RT_SCOPE_LINK if on_link else _RT_SCOPE_UNIVERSE
        message["flags"] = _RTNH_F_ONLINK if route.onlink else 0
        attributes: list[tuple[str, object]] = [("RTA_TABLE", MAIN_TABLE)]
        if route.destination.prefixlen:
            attributes.append(("RTA_DST", str(route.destination.network_address)))
        attributes.append(("RTA_OIF", self._index(route.device, operation)))
        if route.gateway is not None and family_of(route.gateway) == family:
            attributes.append(("RTA_GATEWAY", _plain(route.gateway)))
        elif route.gateway is not None:
            attributes.append(
                ("RTA_VIA", {"family": socket.AF_INET6, "addr": _plain(route.gateway)})
            )
        if route.metric:
            attributes.append(("RTA_PRIORITY", route.metric))
        if route.source is not None:
            attributes.append(("RTA_PREFSRC", _plain(route.source)))
        message["attrs"] = attributes
        return message

    # --- requests ---

    def _write(
        self,
        what: str,
        operation: str,
        kind: int,
        message: _Message,
        flags: int,
        *,
        fine: frozenset[int] = frozenset(),
    ) -> None:
        try:
            self._request(kind, message, flags)
        except _KernelRefusedError as error:
            if error.number not in fine:
                _raise_host_error(error, what, operation)

    def _dump(
        self, what: str, operation: str, kind: int, message: _Message
    ) -> list[tuple[int, bytes]]:
        try:
            return self._try_dump(kind, message)
        except _KernelRefusedError as error:
            _raise_host_error(error, what, operation)

    def _try_dump(self, kind: int, message: _Message) -> list[tuple[int, bytes]]:
        for attempt in range(_DUMP_TRIES):
            try:
                return self._request(kind, message, _NLM_F_DUMP)
            except InterruptedError:
                # The table changed meanwhile. After some tries a list with a gap
                # is still better than none: the next event asks again.
                if attempt == _DUMP_TRIES - 2:
                    return self._request(kind, message, _NLM_F_DUMP, whole=False)
        raise AssertionError("unreachable")

    def _request(
        self, kind: int, message: _Message, flags: int, *, whole: bool = True
    ) -> list[tuple[int, bytes]]:
        """Send one request and return the objects of its answer, as (type, message).

        Raises:
            _KernelRefusedError: The kernel said no.
            InterruptedError: A list changed while it was read, and *whole* was asked.
            HostError: No netlink, or no answer.
        """
        is_dump = flags & _NLM_F_DUMP == _NLM_F_DUMP and kind in {
            _RTM_GETLINK,
            _RTM_GETADDR,
            _RTM_GETROUTE,
        }
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        header = message["header"]
        header["type"] = kind
        header["flags"] = flags | _NLM_F_REQUEST | (0 if is_dump else _NLM_F_ACK)
        header["sequence_number"] = self._sequence
        message.encode()
        try:
            sock = self._open()
            sock.send(message.data)
            return self._answer(sock, whole=whole)
        except TimeoutError as error:
            self.close()
            raise HostError(
                "the kernel did not answer a netlink request", operation="netlink"
            ) from error
        except InterruptedError:
            raise
        except OSError as error:
            self.close()
            raise HostError(
                f"no netlink to the kernel: {os.strerror(error.errno or 0)}",
                operation="netlink",
            ) from error

    def _open(self) -> socket.socket:
        if self._socket is None:
            sock = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_RAW | socket.SOCK_CLOEXEC,
                socket.NETLINK_ROUTE,
            )
            sock.settimeout(_ANSWER_S)
            sock.bind((0, 0))
            for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
                try:
                    sock.setsockopt(_SOL_NETLINK, option, 1)
                except OSError:
                    continue  # an older kernel: its errors say less and its lists are longer
            self._socket = sock
        return self._socket

    def _answer(self, sock: socket.socket, *, whole: bool) -> list[tuple[int, bytes]]:
        objects: list[tuple[int, bytes]] = []
        interrupted = False
        while True:
            data, (sender, _) = sock.recvfrom(_RECEIVE_SIZE)
            if sender != 0:
                continue  # not from the kernel
            for kind, flags, sequence, body in _split(data):
                if sequence != self._sequence:
                    continue  # the late end of a request that was given up
                interrupted |= bool(flags & _NLM_F_DUMP_INTR)
                if kind == _NLMSG_ERROR:
                    number, text = _error(flags, body[_HEADER.size :])
                    if number:
                        raise _KernelRefusedError(number, text)
                    return objects
                if kind == _NLMSG_DONE:
                    number = (
                        -_ERROR_CODE.unpack_from(body, _HEADER.size)[0]
                        if len(body) >= 20
                        else 0
                    )
                    if number:
                        raise _KernelRefusedError(number, os.strerror(number))
                    if interrupted and whole:
                        raise InterruptedError
                    return objects
                objects.append((kind, body))


# --- reading answers ---


def _split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Cut one datagram into (type, flags, sequence number, whole message)."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        size, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if size < _HEADER.size or offset + size > len(data):
            return  # cut: the kernel does not do this
        yield kind, flags, sequence, data[offset : offset + size]
        offset += (size + 3) & ~3


def _error(flags: int, body: bytes) -> tuple[int, str]:
    """Return the error number, 0 for none, and the kernel's sentence."""
    number = -_ERROR_CODE.unpack_from(body)[0]
    text = ""
    if flags & _NLM_F_ACK_TLVS:
        inner = _HEADER.unpack_from(body, 4)[0]
        offset = 4 + (_HEADER.size if flags & _NLM_F_CAPPED else (inner + 3) & ~3)
        while offset + _ATTRIBUTE.size <= len(body):
            size, kind = _ATTRIBUTE.unpack_from(body, offset)
            if size < _ATTRIBUTE.size:
                break
            if kind & 0x3FFF == _NLMSGERR_ATTR_MSG:
                text = (
                    body[offset + 4 : offset + size]
                    .rstrip(b"\0")
                    .decode("ascii", "replace")
                )
            offset += (size + 3) & ~3
    return number, text or (os.strerror(number) if number else "")


def _link(message_class: _MessageClass, body: bytes) -> Link:
    message = _decoded(message_class, body)
    mac = message.get_attr("IFLA_ADDRESS")
    return Link(
        index=int(message["index"]),
        name=str(message.get_attr("IFLA_IFNAME")),
        mac=str(mac) if mac else None,
        mtu=int(message.get_attr("IFLA_MTU") or 0),
        is_up=bool(message["flags"] & _IFF_UP),
        has_carrier=bool(message["flags"] & _IFF_LOWER_UP),
        alias=message.get_attr("IFLA_IFALIAS"),
    )


def _address(
    message_class: _MessageClass, body: bytes, names: dict[int, str]
) -> FoundAddress | None:
    message = _decoded(message_class, body)
    # IFA_ADDRESS is the peer of a point-to-point link; IFA_LOCAL, where there is one, is ours.
    text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    device = names.get(int(message["index"]))
    if text is None or device is None:
        return None
    prefix = f"{text}/{message['prefixlen']}"
    interface: Interface = (
        IPv4Interface(prefix)
        if message["family"] == socket.AF_INET
        else IPv6Interface(prefix)
    )
    return FoundAddress(
        device, interface, is_link_local=message["scope"] == _RT_SCOPE_LINK
    )


def _found_routes(
    message_class: _MessageClass, body: bytes, names: dict[int, str]
) -> list[FoundRoute]:
    """Return one value for each next hop; none for what is not of a main table."""
    message = _decoded(message_class, body)
    table = message.get_attr("RTA_TABLE") or message["table"]
    if table != MAIN_TABLE or message["flags"] & _RTM_F_CLONED:
        return []
    destination = _destination(message)
    metric = int(message.get_attr("RTA_PRIORITY") or 0)
    source = _optional_address(message.get_attr("RTA_PREFSRC"))
    found: list[FoundRoute] = []
    for hop, flags in _hops(message):
        gateway = _gateway(hop)
        # A way that the library cannot read is no way that we could copy.
        index = hop.get_attr("RTA_OIF") if hop is message else hop["oif"]
        route = Route(
            destination=destination,
            gateway=gateway,
            device=names.get(int(index or 0), ""),
            metric=metric,
            source=source,
            onlink=bool(flags & _RTNH_F_ONLINK),
        )
        found.append(
            FoundRoute(
                route,
                protocol=int(message["proto"]),
                is_unicast=message["type"] == _RTN_UNICAST,
                is_usable=not flags & (_RTNH_F_DEAD | _RTNH_F_LINKDOWN),
            )
        )
    return found


def _is_echoed(answers: Sequence[tuple[int, bytes]], kind: int, route: Route) -> bool:
    """Whether the kernel's echo shows *route* as added or removed by this request."""
    names = {socket.if_nametoindex(route.device): route.device}
    message_class = _load_codec().route
    return any(
        found.route == route and found.is_ours
        for echoed_kind, body in answers
        if echoed_kind == kind
        for found in _found_routes(message_class, body, names)
    )


def _hops(message: _Message) -> Sequence[tuple[_Message, int]]:
    several = message.get_attr("RTA_MULTIPATH")
    if several:
        return [(hop, int(hop["flags"])) for hop in several]
    return [(message, int(message["flags"]))]


def _destination(message: _Message) -> Network:
    text = message.get_attr("RTA_DST")
    if message["family"] == socket.AF_INET:
        return IPv4Network((text or "0.0.0.0", message["dst_len"]), strict=False)  # noqa: S104 - not a socket
    return IPv6Network((text or "::", message["dst_len"]), strict=False)


def _gateway(message: _Message) -> Address | None:
    via = message.get_attr("RTA_VIA")
    if via:
        return _optional_address(via["addr"])
    return _optional_address(message.get_attr("RTA_GATEWAY"))


def _next_hop(message_class: _MessageClass, body: bytes) -> NextHop | None:
    message = _decoded(message_class, body)
    if message["type"] not in {_RTN_UNICAST, _RTN_LOCAL}:
        return None
    try:
        device = socket.if_indextoname(int(message.get_attr("RTA_OIF") or 0))
    except OSError:
        return None
    return NextHop(device, _gateway(message))


def _decoded(message_class: _MessageClass, body: bytes) -> _Message:
    message = message_class(body)
    message.decode()
    return message


def _optional_address(text: object) -> Address | None:
    return ip_address(str(text)) if text else None


def _plain(address: IPv4Address | IPv6Address) -> str:
    """Write *address* without a zone: in a message the device says it."""
    return str(type(address)(int(address)))


# --- errors ---


def _raise_host_error(
    error: _KernelRefusedError, what: str, operation: str
) -> NoReturn:
    if error.number in {errno.EPERM, errno.EACCES}:
        raise PrivilegeError(
            f"no permission to {what}: run sevpn with sudo, or give it the capability CAP_NET_ADMIN",
            operation=operation,
        ) from None
    raise HostError(f"cannot {what}: {_explain(error)}", operation=operation) from None


def _explain(error: _KernelRefusedError) -> str:
    match error.number:
        case errno.ENETUNREACH | errno.EHOSTUNREACH:
            return (
                f"{error.text}; its gateway is not reachable from here (see `ip route`)"
            )
        case errno.EEXIST:
            return "a route of the same destination and metric is there already; choose another --metric"
        case errno.ENODEV:
            return "the interface is gone"
        case errno.ENETDOWN:
            return "the interface is down; somebody turned it off"
        case errno.EOPNOTSUPP | errno.EAFNOSUPPORT:
            return f"this kernel does not support it ({error.text})"
        case errno.EBUSY:
            return "the interface is in use and cannot be changed now"
        case errno.ENOBUFS | errno.ENOMEM:
            return "the kernel is out of memory"
        case _:
            return error.text


def _did_not_take(what: str, operation: str, shown: object) -> HostError:
    return HostError(
        f"could not {what}: the kernel said yes and shows {shown or 'nothing of it'}; report this with `ip route`",
        operation=operation,
    )
