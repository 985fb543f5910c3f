# SPDX-License-Identifier: Apache-2.0
"""The DHCPv6 client: an address, or only what goes along with one.

Layer: protocol; pure. Runs in: the control thread.

    Idle ──need address──> Soliciting ──ADVERTISE──> Requesting ──REPLY──> Bound
      │                        ^  └────────REPLY at once (rapid)────────────^ │
      │                        │                                          T1 │
      │                        └─ lifetime over <── Rebinding <──T2── Renewing
      └──need settings──> Informing ──REPLY──> Informed ──refresh──> Informing

It is told what is needed by what routers say (flags M and O), and may be told
otherwise at any time. Questions are repeated after 1, 2, 4 … s, 120 s at most, with
some jitter.

Source: RFC 8415 sections 18.2 and 15; docs/reference/ipv6.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from ipaddress import IPv6Address
from typing import Final, Literal

from sevpn.errors import RemoteProtocolError
from sevpn.wire.dhcpv6 import (
    CLIENT_PORT,
    RELAYS_AND_SERVERS,
    SERVER_PORT,
    Dhcpv6Message,
    Dhcpv6Type,
    LeasedAddress,
    decode_dhcpv6,
    encode_dhcpv6,
)
from sevpn.wire.ethernet import EtherType, Frame, MacAddress, encode_frame
from sevpn.wire.ipv4 import IpProtocol
from sevpn.wire.ipv6 import (
    Ipv6Packet,
    checksum6,
    encode_ipv6,
    link_local,
    multicast_mac,
)
from sevpn.wire.ra import INFINITE_S
from sevpn.wire.udp import UdpDatagram, decode_udp, encode_udp

__all__ = ["Dhcpv6Client", "Need"]

Need = Literal["nothing", "settings", "address"]
"""What routers say that is to be had by DHCPv6: no flag, O, M."""

_FIRST_S: Final = 1.0
_LONGEST_S: Final = 120.0
_REQUESTS: Final = 10
_JITTER: Final = 0.1
_REFRESH_S: Final = 86400.0
_SHORTEST_REFRESH_S: Final = 600.0
_T1, _T2 = 0.5, 0.8
_HARDWARE_ETHERNET: Final = 1
_DUID_LL: Final = 3


class _State(Enum):
    IDLE = auto()
    SOLICITING = auto()
    REQUESTING = auto()
    BOUND = auto()
    RENEWING = auto()
    REBINDING = auto()
    INFORMING = auto()
    INFORMED = auto()


_SENDS: Final = {
    _State.SOLICITING: Dhcpv6Type.SOLICIT,
    _State.REQUESTING: Dhcpv6Type.REQUEST,
    _State.RENEWING: Dhcpv6Type.RENEW,
    _State.REBINDING: Dhcpv6Type.REBIND,
    _State.INFORMING: Dhcpv6Type.INFORMATION_REQUEST,
}


@dataclass(frozen=True, slots=True)
class _Lease:
    """What a server has given, and until when."""

    server_id: bytes
    address: IPv6Address
    renew_at: float
    rebind_at: float
    expires_at: float


class Dhcpv6Client:
    """One client of one link.

    Args:
        mac: The TAP's address.
        random: Returns so many random bytes.
    """

    def __init__(self, *, mac: MacAddress, random: Callable[[int], bytes]) -> None:
        self._mac = mac
        self._source = link_local(mac)
        self._random = random
        self._client_id = (
            _DUID_LL.to_bytes(2, "big")
            + _HARDWARE_ETHERNET.to_bytes(2, "big")
            + mac.octets
        )
        self._association = int.from_bytes(mac.octets[2:], "big")
        self._need: Need = "nothing"
        self._state = _State.IDLE
        self._transaction = 0
        self._server_id = b""
        self._offered: tuple[LeasedAddress, ...] = ()
        self._lease: _Lease | None = None
        self._began_at = 0.0
        self._wait_s = _FIRST_S
        self._tries = 0
        self._at: float | None = None
        self._frames: list[bytes] = []
        self.servers: tuple[IPv6Address, ...] = ()
        self.search: tuple[str, ...] = ()

    @property
    def address(self) -> IPv6Address | None:
        """The address that may be used now."""
        return None if self._lease is None else self._lease.address

    def want(self, need: Need, now: float) -> None:
        """Be told what is to be had; beginning anew only when that has changed."""
        if need == self._need:
            return
        self._need = need
        if need == "nothing":
            self._forget()
        elif need == "address":
            self._enter(_State.SOLICITING, now)
        elif self._lease is None:
            self._enter(_State.INFORMING, now)

    def frames_to_send(self) -> list[bytes]:
        """Return what has to go out now, whole frames."""
        frames, self._frames = self._frames, []
        return frames

    def next_deadline(self) -> float | None:
        """Return when :meth:`handle_deadline` has something to do."""
        return self._at

    def handle_deadline(self, now: float) -> None:
        """Do what is due."""
        lease = self._lease
        if lease is not None and now >= lease.expires_at:
            self._lease = None
            self._enter(_State.SOLICITING, now)
        elif lease is not None and now >= lease.rebind_at:
            self._go_on(_State.REBINDING, now)
        elif lease is not None and now >= lease.renew_at:
            self._go_on(_State.RENEWING, now)
        elif self._state is _State.INFORMED:
            self._enter(_State.INFORMING, now)
        elif self._state is _State.REQUESTING and self._tries >= _REQUESTS:
            self._enter(_State.SOLICITING, now)
        else:
            self._send(now)

    def receive(self, packet: Ipv6Packet, now: float) -> None:
        """Take a packet from the link.

        Raises:
            RemoteProtocolError: It is for us and broken.
        """
        message = _message_for(packet, self._source)
        if (
            message is None
            or message.transaction != self._transaction
            or message.client_id != self._client_id
            or not message.server_id
        ):
            return
        if message.kind is Dhcpv6Type.ADVERTISE:
            self._take_offer(message, now)
        elif message.kind is Dhcpv6Type.REPLY:
            self._take_reply(message, now)

    def release(self) -> None:
        """Give the address back; the frame is on its way with the next that are sent."""
        if self._lease is not None:
            self._new_transaction()
            self._frames.append(self._frame(Dhcpv6Type.RELEASE, 0.0))
        self._forget()

    # --- states ---

    def _enter(self, state: _State, now: float) -> None:
        """Begin an exchange."""
        self._state = state
        self._new_transaction()
        self._began_at = now
        self._wait_s = _FIRST_S
        self._tries = 0
        self._send(now)

    def _go_on(self, state: _State, now: float) -> None:
        if self._state is state:
            self._send(now)
        else:
            self._enter(state, now)

    def _send(self, now: float) -> None:
        self._frames.append(self._frame(_SENDS[self._state], now - self._began_at))
        self._tries += 1
        jitter = 1 + _JITTER * (self._random(1)[0] / 127.5 - 1)
        self._at = self._not_later(now + self._wait_s * jitter)
        self._wait_s = min(2 * self._wait_s, _LONGEST_S)

    def _not_later(self, at: float) -> float:
        """Return *at*, or what the lease demands before."""
        lease = self._lease
        if lease is None:
            return at
        if self._state is _State.RENEWING:
            return min(at, lease.rebind_at)
        return min(at, lease.expires_at)

    def _forget(self) -> None:
        self._state = _State.IDLE
        self._lease = None
        self._at = None
        self.servers, self.search = (), ()

    def _new_transaction(self) -> None:
        self._transaction = int.from_bytes(self._random(3), "big")

    # --- answers ---

    def _take_offer(self, message: Dhcpv6Message, now: float) -> None:
        if self._state is not _State.SOLICITING or message.status:
            return
        offered = _usable(message, self._association)
        if offered is None:
            return
        self._server_id, self._offered = message.server_id, (offered,)
        self._enter(_State.REQUESTING, now)

    def _take_reply(self, message: Dhcpv6Message, now: float) -> None:
        if self._state is _State.INFORMING:
            self._take_settings(message)
            refresh_s = message.refresh_s or _REFRESH_S
            self._state = _State.INFORMED
            self._at = now + max(refresh_s, _SHORTEST_REFRESH_S)
        elif self._state is _State.SOLICITING:
            if message.is_rapid:
                self._take_lease(message, now)
        elif self._state in {
            _State.REQUESTING,
            _State.RENEWING,
            _State.REBINDING,
        } and not self._take_lease(message, now):
            # The server does not know the address, or does not want it used.
            self._lease = None
            self._enter(_State.SOLICITING, now)

    def _take_lease(self, message: Dhcpv6Message, now: float) -> bool:
        leased = _usable(message, self._association)
        if message.status or leased is None:
            return False
        renew_at, rebind_at, expires_at = _times(message, leased, now)
        self._lease = _Lease(
            message.server_id, leased.address, renew_at, rebind_at, expires_at
        )
        self._take_settings(message)
        self._state = _State.BOUND
        self._at = None if renew_at == math.inf else renew_at
        return True

    def _take_settings(self, message: Dhcpv6Message) -> None:
        self.servers, self.search = message.servers, message.search

    # --- frames ---

    def _frame(self, kind: Dhcpv6Type, elapsed_s: float) -> bytes:
        message = Dhcpv6Message(
            kind, self._transaction, self._client_id, association=self._association
        )
        lease = self._lease
        if kind is Dhcpv6Type.INFORMATION_REQUEST:
            message = replace(message, association=None)
        elif kind is Dhcpv6Type.SOLICIT:
            message = replace(message, is_rapid=True)
        elif kind is Dhcpv6Type.REQUEST:
            message = replace(
                message, server_id=self._server_id, addresses=self._offered
            )
        else:
            assert lease is not None, "the others are about an address that is held"
            held = (LeasedAddress(lease.address, 0, 0),)
            known = b"" if kind is Dhcpv6Type.REBIND else lease.server_id
            message = replace(message, server_id=known, addresses=held)
        data = encode_dhcpv6(message, elapsed_s=elapsed_s)
        payload = encode_udp(
            UdpDatagram(CLIENT_PORT, SERVER_PORT, data),
            source=self._source,
            destination=RELAYS_AND_SERVERS,
            checksum=True,
        )
        packet = Ipv6Packet(
            self._source, RELAYS_AND_SERVERS, IpProtocol.UDP, payload, hop_limit=1
        )
        return encode_frame(
            Frame(
                multicast_mac(RELAYS_AND_SERVERS),
                self._mac,
                EtherType.IPV6,
                encode_ipv6(packet),
            )
        )


def _message_for(packet: Ipv6Packet, ours: IPv6Address) -> Dhcpv6Message | None:
    """Return the message in *packet*, if it is one to a client and to us."""
    if packet.protocol != IpProtocol.UDP or packet.destination != ours:
        return None
    datagram = decode_udp(packet.payload)
    if datagram.destination_port != CLIENT_PORT:
        return None
    if checksum6(packet):
        raise RemoteProtocolError("a DHCPv6 datagram is wrongly summed")
    return decode_dhcpv6(datagram.payload)


def _usable(message: Dhcpv6Message, association: int) -> LeasedAddress | None:
    if message.association != association:
        return None
    return next(
        (
            each
            for each in message.addresses
            if each.valid_s
            and each.preferred_s <= each.valid_s
            and not each.address.is_multicast
            and not each.address.is_link_local
            and not each.address.is_unspecified
            and not each.address.is_loopback
        ),
        None,
    )


def _times(
    message: Dhcpv6Message, leased: LeasedAddress, now: float
) -> tuple[float, float, float]:
    """Return when to renew, when to rebind, and when the address ends."""
    if leased.valid_s == INFINITE_S:
        return math.inf, math.inf, math.inf
    base_s = leased.preferred_s or leased.valid_s
    base_s = min(base_s, leased.valid_s)
    renew_s = message.renew_s or base_s * _T1
    rebind_s = message.rebind_s or base_s * _T2
    if not renew_s <= rebind_s <= leased.valid_s:
        renew_s, rebind_s = base_s * _T1, base_s * _T2
    return now + renew_s, now + rebind_s, now + leased.valid_s
