# SPDX-License-Identifier: Apache-2.0
"""What the kernel's messages about the network say, as values of `model.py`.

Layer: net. Runs in: any thread; pure, given the layouts of the messages.

The layouts come from the netlink library, by way of `rtnetlink.py`, which alone
knows it. Here is written down what is used of them (:class:`Message`), and what
each attribute means. Objects of other people may be anything: what cannot be
read becomes an error of the host, and a route that could not be copied (through
an encapsulation) counts as one that leads nowhere.

Source: linux/rtnetlink.h, linux/if_addr.h, linux/if_link.h.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
)
from typing import Any, Final, Protocol

from sevpn.errors import HostError
from sevpn.net.model import (
    Address,
    FoundAddress,
    FoundRoute,
    Interface,
    Link,
    Network,
    Route,
    RouteKind,
    Rule,
)
from sevpn.net.nexthop import NextHop

__all__ = [
    "Message",
    "MessageClass",
    "plain_text",
    "read_address",
    "read_link",
    "read_next_hop",
    "read_routes",
    "read_rule",
]

_IFF_UP: Final = 0x1
_IFF_LOWER_UP: Final = 0x10000
_RTN_UNICAST: Final = 1
_RTN_LOCAL: Final = 2
_RT_SCOPE_LINK: Final = 253
_RTNH_F_DEAD: Final = 1
_RTNH_F_ONLINK: Final = 4
_RTNH_F_LINKDOWN: Final = 16
_RTM_F_CLONED: Final = 0x200
_KINDS: Final[dict[int, RouteKind]] = {1: "unicast", 7: "unreachable", 9: "throw"}
_FR_ACT_TO_TABLE: Final = 1
_FIB_RULE_INVERT: Final = 2
_NONE: Final = 0xFFFFFFFF
_FOREIGN: Final = ("FRA_DST", "FRA_IIFNAME", "FRA_OIFNAME", "FRA_IP_PROTO")
"""Conditions that rules of ours never have."""


class Message(Protocol):
    """What is used of the library's messages."""

    data: Any
    """The bytes, once encoded."""

    def __getitem__(self, name: str, /) -> Any: ...
    def __setitem__(self, name: str, value: Any, /) -> None: ...

    def encode(self) -> None:
        """Write header, fields and attributes into :attr:`data`."""
        ...

    def decode(self) -> None:
        """Read them from what it was made of."""
        ...

    def get_attr(self, name: str, /) -> Any:
        """Return the attribute's value, or `None`."""
        ...


class MessageClass(Protocol):
    """One layout."""

    def __call__(self, data: bytes | None = None, /) -> Message:
        """Make an empty message, or the one that *data* holds."""
        ...


def read_link(message_class: MessageClass, body: bytes) -> Link:
    """Return the interface that *body* shows."""
    message = _decoded(message_class, body)
    mac = message.get_attr("IFLA_ADDRESS")
    kind, data = _kind(message)
    return Link(
        index=int(message["index"]),
        name=str(message.get_attr("IFLA_IFNAME")),
        mac=str(mac) if mac else None,
        mtu=int(message.get_attr("IFLA_MTU") or 0),
        is_up=bool(message["flags"] & _IFF_UP),
        has_carrier=bool(message["flags"] & _IFF_LOWER_UP),
        alias=message.get_attr("IFLA_IFALIAS"),
        kind=kind,
        master=message.get_attr("IFLA_MASTER") or None,
        has_spanning_tree=kind == "bridge"
        and data is not None
        and bool(data.get_attr("IFLA_BR_STP_STATE")),
    )


def _kind(message: Message) -> tuple[str | None, Message | None]:
    """Return what kind of virtual interface it is, and what there is to say of that kind."""
    info = message.get_attr("IFLA_LINKINFO")
    if info is None or (kind := info.get_attr("IFLA_INFO_KIND")) is None:
        return None, None
    return str(kind), info.get_attr("IFLA_INFO_DATA")


def read_address(
    message_class: MessageClass, body: bytes, names: Mapping[int, str]
) -> FoundAddress | None:
    """Return the address that *body* shows; `None` for one of an interface without a name."""
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


def read_routes(
    message_class: MessageClass, body: bytes, names: Mapping[int, str]
) -> list[FoundRoute]:
    """Return one value for each next hop; none for what the kernel made of a route."""
    message = _decoded(message_class, body)
    if message["flags"] & _RTM_F_CLONED:
        return []
    table = int(message.get_attr("RTA_TABLE") or message["table"])
    kind = _KINDS.get(message["type"], "other")
    destination = _destination(message)
    metric = int(message.get_attr("RTA_PRIORITY") or 0)
    source = _optional_address(message.get_attr("RTA_PREFSRC"))
    found: list[FoundRoute] = []
    for hop, flags in _hops(message):
        gateway = _gateway(hop)
        index = hop.get_attr("RTA_OIF") if hop is message else hop["oif"]
        # For a route of IPv6 that leads nowhere the kernel names the interface lo.
        device = names.get(int(index or 0), "") if kind in {"unicast", "other"} else ""
        route = Route(
            destination=destination,
            gateway=gateway,
            device=device,
            metric=metric,
            source=source,
            onlink=bool(flags & _RTNH_F_ONLINK),
            table=table,
            kind=kind,
        )
        found.append(
            FoundRoute(
                route,
                protocol=int(message["proto"]),
                is_usable=not flags & (_RTNH_F_DEAD | _RTNH_F_LINKDOWN)
                and not _is_wrapped(hop),
            )
        )
    return found


def read_rule(message_class: MessageClass, body: bytes) -> tuple[Rule, int] | None:
    """Return the policy rule that *body* shows, and whose it is (its protocol number).

    `None` for one that does not send packets into a table, or not by conditions that
    :class:`Rule` knows: none of ours is like that.
    """
    message = _decoded(message_class, body)
    if message["action"] != _FR_ACT_TO_TABLE or any(map(message.get_attr, _FOREIGN)):
        return None
    if message.get_attr("FRA_SUPPRESS_PREFIXLEN") not in {None, _NONE}:
        return None
    source = message.get_attr("FRA_SRC")
    uids = message.get_attr("FRA_UID_RANGE")
    mark = message.get_attr("FRA_FWMARK")
    is_4 = message["family"] == socket.AF_INET
    network = IPv4Network if is_4 else IPv6Network
    rule = Rule(
        family=4 if is_4 else 6,
        preference=int(message.get_attr("FRA_PRIORITY") or 0),
        table=int(message.get_attr("FRA_TABLE") or message["table"]),
        mark=int(mark) if mark else None,
        is_not=bool(message["flags"] & _FIB_RULE_INVERT),
        source=network((source, message["src_len"])) if source else None,
        uids=_uids(uids),
    )
    return rule, int(message.get_attr("FRA_PROTOCOL") or 0)


def _uids(text: object) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, last = str(text).partition(":")
    return (int(first), int(last))


def _hops(message: Message) -> Sequence[tuple[Message, int]]:
    several = message.get_attr("RTA_MULTIPATH")
    if several:
        return [(hop, int(hop["flags"])) for hop in several]
    return [(message, int(message["flags"]))]


def _is_wrapped(hop: Message) -> bool:
    """Whether packets get another header on this way, which ours would not get."""
    return hop.get_attr("RTA_ENCAP_TYPE") is not None


def _destination(message: Message) -> Network:
    text = message.get_attr("RTA_DST")
    if message["family"] == socket.AF_INET:
        return IPv4Network((text or "0.0.0.0", message["dst_len"]), strict=False)  # noqa: S104 - not a socket
    return IPv6Network((text or "::", message["dst_len"]), strict=False)


def _gateway(message: Message) -> Address | None:
    via = message.get_attr("RTA_VIA")
    if via:
        return _optional_address(via["addr"])
    return _optional_address(message.get_attr("RTA_GATEWAY"))


def read_next_hop(message_class: MessageClass, body: bytes) -> NextHop | None:
    """Return the way that an answer to RTM_GETROUTE shows; `None` when it leads nowhere."""
    message = _decoded(message_class, body)
    if message["type"] not in {_RTN_UNICAST, _RTN_LOCAL}:
        return None
    try:
        device = socket.if_indextoname(int(message.get_attr("RTA_OIF") or 0))
    except OSError:
        return None
    source = _optional_address(message.get_attr("RTA_PREFSRC"))
    return NextHop(device, _gateway(message), source=source)


def _decoded(message_class: MessageClass, body: bytes) -> Message:
    message = message_class(body)
    try:
        message.decode()
    except Exception as error:
        raise HostError(
            f"cannot read what the kernel says about the network ({type(error).__name__}: {error})",
            operation="netlink",
        ) from error
    return message


def _optional_address(text: object) -> Address | None:
    try:
        return ip_address(str(text)) if text else None
    except ValueError:
        return None  # of another family than ours, as MPLS


def plain_text(address: IPv4Address | IPv6Address) -> str:
    """Write *address* without a zone: in a message the device says it."""
    return str(type(address)(int(address)))
