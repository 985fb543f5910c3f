# SPDX-License-Identifier: Apache-2.0
"""What a DHCP client sends, as whole frames.

Layer: protocol; pure. Runs in: any thread.

    message                 frame to    source       ciaddr   50   54   answers to
    DISCOVER                broadcast   0.0.0.0      -        (x)  -    broadcast
    REQUEST for an offer    broadcast   0.0.0.0      -        x    x    broadcast
    REQUEST after a reboot  broadcast   0.0.0.0      -        x    -    broadcast
    REQUEST to renew        the server  our address  x        -    -    our address
    REQUEST to rebind       broadcast   0.0.0.0      x        -    -    either
    DECLINE                 broadcast   0.0.0.0      -        x    x    none
    RELEASE                 the server  our address  x        -    x    none

Options stand in one piece each, without pads before the end mark, in the order
53, 61, 50, 54, 57, 12, 55. UDP checksums are 0. Both for the sake of SoftEther
servers: docs/reference/dhcp.md#quirks.

Source: RFC 2131 sections 4.1 and 4.4, table 5; RFC 3442.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Final

from sevpn.protocol.lease import Lease
from sevpn.wire.dhcpv4 import (
    BROADCAST_FLAG,
    CLIENT_PORT,
    SERVER_PORT,
    Message,
    MessageType,
    Op,
    Option,
    encode_message,
    is_host_name,
)
from sevpn.wire.ethernet import BROADCAST, MacAddress
from sevpn.wire.udp import UdpDatagram, udp_frame

__all__ = ["RequestWriter"]

_NOBODY: Final = IPv4Address(0)
_EVERYBODY: Final = IPv4Address(0xFFFFFFFF)
_MAX_SECS: Final = 0xFFFF
_MAX_MESSAGE_SIZE: Final = 1500
"""A hub carries frames of 1600 bytes, and the TAP's MTU is 1500 at first."""

# RFC 3442: who asks for 121 puts it before 3 and 33.
_WANTED_OPTIONS: Final = bytes(
    (
        Option.SUBNET_MASK,
        Option.CLASSLESS_ROUTES,
        Option.ROUTERS,
        Option.DNS_SERVERS,
        Option.HOST_NAME,
        Option.DOMAIN_NAME,
        Option.MTU,
        Option.STATIC_ROUTES,
        Option.NTP_SERVERS,
        Option.LEASE_TIME,
        Option.SERVER_ID,
        Option.RENEWAL_TIME,
        Option.REBINDING_TIME,
        Option.SEARCH_LIST,
        Option.MICROSOFT_ROUTES,
    )
)
_IGNORED_NAMES: Final = ("securenat-", "securenat_")
"""SecureNAT takes who is called so for another SecureNAT and does not answer."""


class RequestWriter:
    """Writes the frames of one client.

    Args:
        mac: The source of all frames, chaddr and client identifier alike:
            SecureNAT knows a lease by the first, other servers by the last.
        hostname: What to tell the server as our name; left out if it is no host
            name, or one that SecureNAT does not answer.
    """

    def __init__(self, *, mac: MacAddress, hostname: str | None) -> None:
        self._mac = mac
        self._hostname = hostname if _can_be_told(hostname) else None

    def discover(self, *, xid: int, secs: float, wanted: IPv4Address | None) -> bytes:
        """Ask all servers for an address, rather for *wanted*."""
        return self._broadcast(MessageType.DISCOVER, xid, secs, wanted)

    def select(
        self, *, xid: int, secs: float, address: IPv4Address, server: IPv4Address
    ) -> bytes:
        """Take what *server* offered; the others hear that they were not chosen."""
        return self._broadcast(MessageType.REQUEST, xid, secs, address, server)

    def reboot(self, *, xid: int, secs: float, address: IPv4Address) -> bytes:
        """Ask whoever knows whether *address* is still ours."""
        return self._broadcast(MessageType.REQUEST, xid, secs, address)

    def renew(self, lease: Lease, *, xid: int, secs: float) -> bytes:
        """Ask the lease's server for more time."""
        return self._unicast(
            self._message(
                MessageType.REQUEST, xid, secs=secs, ciaddr=lease.address.ip, asks=True
            ),
            lease,
        )

    def rebind(self, lease: Lease, *, xid: int, secs: float) -> bytes:
        """Ask any server for more time."""
        return self._frame(
            self._message(
                MessageType.REQUEST, xid, secs=secs, ciaddr=lease.address.ip, asks=True
            )
        )

    def decline(self, lease: Lease, *, xid: int) -> bytes:
        """Tell the server that somebody else has the address."""
        return self._frame(
            self._message(
                MessageType.DECLINE, xid, wanted=lease.address.ip, server=lease.server
            )
        )

    def release(self, lease: Lease, *, xid: int) -> bytes:
        """Tell the server that the address is free again."""
        return self._unicast(
            self._message(
                MessageType.RELEASE, xid, ciaddr=lease.address.ip, server=lease.server
            ),
            lease,
        )

    def _broadcast(
        self,
        kind: MessageType,
        xid: int,
        secs: float,
        wanted: IPv4Address | None,
        server: IPv4Address | None = None,
    ) -> bytes:
        return self._frame(
            self._message(
                kind,
                xid,
                secs=secs,
                flags=BROADCAST_FLAG,
                wanted=wanted,
                server=server,
                asks=True,
            )
        )

    def _unicast(self, message: Message, lease: Lease) -> bytes:
        return self._frame(message, lease.server_mac, lease.address.ip, lease.server)

    def _message(
        self,
        kind: MessageType,
        xid: int,
        *,
        secs: float = 0,
        flags: int = 0,
        ciaddr: IPv4Address = _NOBODY,
        wanted: IPv4Address | None = None,
        server: IPv4Address | None = None,
        asks: bool = False,
    ) -> Message:
        options: dict[int, bytes] = {
            Option.MESSAGE_TYPE: bytes([kind]),
            Option.CLIENT_ID: b"\x01" + self._mac.octets,
        }
        if wanted is not None:
            options[Option.REQUESTED_ADDRESS] = wanted.packed
        if server is not None:
            options[Option.SERVER_ID] = server.packed
        if asks:
            options[Option.MAX_SIZE] = _MAX_MESSAGE_SIZE.to_bytes(2, "big")
            if self._hostname is not None:
                options[Option.HOST_NAME] = self._hostname.encode("ascii")
            options[Option.PARAMETER_LIST] = _WANTED_OPTIONS
        return Message(
            op=Op.REQUEST,
            xid=xid,
            chaddr=self._mac,
            secs=min(int(secs), _MAX_SECS),
            flags=flags,
            ciaddr=ciaddr,
            options=options,
        )

    def _frame(
        self,
        message: Message,
        mac: MacAddress = BROADCAST,
        source: IPv4Address = _NOBODY,
        destination: IPv4Address = _EVERYBODY,
    ) -> bytes:
        return udp_frame(
            UdpDatagram(CLIENT_PORT, SERVER_PORT, encode_message(message)),
            source_mac=self._mac,
            destination_mac=mac,
            source=source,
            destination=destination,
            # SoftEther 5.02 writes into siaddr on the way and leaves the sum as
            # it was, so that servers behind a bridge would drop the message.
            checksum=False,
            identification=message.xid & 0xFFFF,
        )


def _can_be_told(hostname: str | None) -> bool:
    return (
        hostname is not None
        and is_host_name(hostname)
        and not hostname.lower().startswith(_IGNORED_NAMES)
    )
