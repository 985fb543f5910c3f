# SPDX-License-Identifier: Apache-2.0
"""The DHCP server of a hub's virtual gateway: a message in, a message out.

Layer: server. Runs in: the event loop; pure.

    DISCOVER                    -> OFFER, or nothing when the pool is empty
    REQUEST of an offer (54)    -> ACK, or NAK; nothing if it names another server
    REQUEST after a boot (50)   -> ACK, or NAK
    REQUEST to renew (ciaddr)   -> ACK, or NAK
    INFORM                      -> ACK without an address
    DECLINE, RELEASE            -> nothing

It is the only server of its segment: an address that it does not know, but could
give, it gives, so that leases survive its restart.

Source: RFC 2131, 4.3; docs/reference/dhcp.md#quirks for what SecureNAT does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Interface
from typing import Final

from sevpn.errors import RemoteProtocolError
from sevpn.server.config import DhcpConfig, pool_range
from sevpn.server.faults import Faults
from sevpn.server.pool import Pool, lease_end
from sevpn.wire.dhcpv4 import (
    Message,
    MessageType,
    Op,
    Option,
    StaticRoute,
    decode_addresses,
    encode_addresses,
    encode_classless_routes,
    encode_names,
)

__all__ = ["DhcpServer"]

_ANY: Final = IPv4Address(0)


class DhcpServer:
    """The server.

    Args:
        config: What it gives.
        interface: Its own address, and the subnet that it serves.
        faults: What goes wrong.
        clock: Seconds on a monotonic clock.
    """

    def __init__(
        self,
        config: DhcpConfig,
        interface: IPv4Interface,
        *,
        faults: Faults,
        clock: Callable[[], float],
    ) -> None:
        first, last = pool_range(config, interface)
        self.pool = Pool(first, last, reserved=(interface.ip,))
        """Who has which address."""
        self.requests: list[MessageType] = []
        """The kinds of the last messages heard, at most 1000."""
        self._config = config
        self._address = interface.ip
        self._faults = faults
        self._clock = clock
        self._options = _options(config, interface)

    def answer(self, message: Message, source_mac: bytes) -> Message | None:
        """Answer a message.

        Args:
            message: From a client, or from something that is none.
            source_mac: Of its frame: leases belong to it.

        Returns:
            What is to be sent to the client, if anything.
        """
        kind = message.message_type
        if message.op is not Op.REQUEST or kind is None:
            return None
        self.requests.append(kind)
        del self.requests[:-1000]
        if self._faults.take_dhcp_drop():
            return None
        match kind:
            case MessageType.DISCOVER:
                return self._offer(message, source_mac)
            case MessageType.REQUEST:
                return self._decide(message, source_mac)
            case MessageType.INFORM:
                return self._reply(message, MessageType.ACK, _ANY, self._options)
            case MessageType.DECLINE | MessageType.RELEASE:
                self._give_up(message, source_mac)
                return None
            case MessageType.OFFER | MessageType.ACK | MessageType.NAK:
                return None

    def _offer(self, message: Message, mac: bytes) -> Message | None:
        address = self.pool.offer(mac, _requested(message), self._clock())
        if address is None:
            return None
        return self._reply(message, MessageType.OFFER, address, self._lease_options())

    def _decide(self, message: Message, mac: bytes) -> Message | None:
        now = self._clock()
        server = _address(message, Option.SERVER_ID)
        if server not in (None, self._address) and not self._config.ignores_server_id:
            return None
        address = _requested(message) or message.ciaddr
        is_ours = server in (None, self._address) and self.pool.is_for(
            address, mac, now
        )
        if not is_ours or self._faults.take_dhcp_nak():
            return self._reply(message, MessageType.NAK, _ANY, {})
        self.pool.take(address, mac, lease_end(now, self._config.lease_s))
        return self._reply(message, MessageType.ACK, address, self._lease_options())

    def _give_up(self, message: Message, mac: bytes) -> None:
        if self._config.ignores_release:
            return
        if message.message_type is MessageType.RELEASE:
            self.pool.release(message.ciaddr, mac)
        else:
            self.pool.decline(_requested(message) or _ANY, mac, self._clock())

    def _lease_options(self) -> Mapping[int, bytes]:
        config = self._config
        times = {
            Option.LEASE_TIME: config.lease_s,
            Option.RENEWAL_TIME: config.renew_s,
            Option.REBINDING_TIME: config.rebind_s,
        }
        encoded: dict[int, bytes] = {
            code: seconds.to_bytes(4, "big")
            for code, seconds in times.items()
            if seconds is not None
        }
        return encoded | self._options

    def _reply(
        self,
        message: Message,
        kind: MessageType,
        address: IPv4Address,
        options: Mapping[int, bytes],
    ) -> Message:
        head: dict[int, bytes] = {
            Option.MESSAGE_TYPE: bytes([kind]),
            Option.SERVER_ID: self._address.packed,
        }
        whole = head | dict(options)
        if kind is not MessageType.NAK:
            for code, value in self._faults.dhcp_options.items():
                if value is None:
                    whole.pop(code, None)
                else:
                    whole[code] = value
        return Message(
            op=Op.REPLY,
            xid=message.xid,
            chaddr=message.chaddr,
            flags=message.flags,
            ciaddr=message.ciaddr if kind is MessageType.ACK else _ANY,
            yiaddr=address,
            siaddr=_ANY if kind is MessageType.NAK else self._address,
            giaddr=message.giaddr,
            options=whole,
        )


def _options(config: DhcpConfig, interface: IPv4Interface) -> dict[int, bytes]:
    """Return what every client of the subnet gets."""
    options: dict[int, bytes] = {Option.SUBNET_MASK: interface.netmask.packed}
    if config.is_router:
        options[Option.ROUTERS] = (config.router or interface.ip).packed
    if config.dns:
        options[Option.DNS_SERVERS] = encode_addresses(*config.dns)
    if config.domain:
        options[Option.DOMAIN_NAME] = config.domain.encode()
    if config.mtu is not None:
        options[Option.MTU] = config.mtu.to_bytes(2, "big")
    if config.ntp:
        options[Option.NTP_SERVERS] = encode_addresses(*config.ntp)
    if config.search:
        options[Option.SEARCH_LIST] = encode_names(config.search)
    if config.routes:
        value = encode_classless_routes(
            StaticRoute(route.destination, route.gateway) for route in config.routes
        )
        options |= dict.fromkeys(config.route_options, value)
    return options


def _requested(message: Message) -> IPv4Address | None:
    return _address(message, Option.REQUESTED_ADDRESS)


def _address(message: Message, option: Option) -> IPv4Address | None:
    value = message.options.get(option)
    if value is None:
        return None
    try:
        return decode_addresses(value)[0]
    except RemoteProtocolError:
        return None
