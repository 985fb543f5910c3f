# SPDX-License-Identifier: Apache-2.0
"""IPv6 inside the tunnel: what routers and DHCPv6 servers of the hub give.

Layer: protocol; pure. Runs in: the control thread.

    frames ──> Ipv6Client ──> Routers        advertisements: subnets, ways, name servers
                          └─> Dhcpv6Client   where they say that there is more to be had

Addresses are made here, of the subnet and the TAP's MAC address, and not by the
kernel: so they come and go with the plan like those of DHCP, and nothing that a
router says changes the host by itself (docs/decisions/0018-ipv6.md).

Source: RFC 4861, RFC 4862, RFC 8415; docs/reference/ipv6.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Interface, IPv6Network
from typing import Final

from sevpn.errors import RemoteProtocolError
from sevpn.protocol.dhcpv6 import Dhcpv6Client, Need
from sevpn.protocol.routers import Routers
from sevpn.wire.ethernet import (
    EtherType,
    Frame,
    MacAddress,
    decode_frame,
    encode_frame,
)
from sevpn.wire.ipv6 import decode_ipv6, link_local, multicast_mac
from sevpn.wire.nd import (
    NeighbourAdvertisement,
    NeighbourSolicitation,
    decode_nd,
    encode_nd,
)
from sevpn.wire.ra import ALL_ROUTERS, decode_ra, router_solicitation

__all__ = ["Ipv6Client", "Ipv6Settings"]

_MAX_ADDRESSES: Final = 8


@dataclass(frozen=True, slots=True)
class Ipv6Settings:
    """What the hub offers in IPv6 now; all empty where it offers nothing."""

    addresses: tuple[IPv6Interface, ...] = ()
    """For the TAP."""

    on_link: tuple[IPv6Network, ...] = ()
    """Subnets that are reached without a router."""

    router: IPv6Address | None = None
    """Who leads to everywhere, a link-local address."""

    routes: tuple[tuple[IPv6Network, IPv6Address], ...] = ()
    """Networks, and who leads there."""

    dns: tuple[IPv6Address, ...] = ()
    """Name servers."""

    search: tuple[str, ...] = ()
    """Search domains, of any characters."""


class Ipv6Client:
    """IPv6 of one session.

    Args:
        mac: The TAP's address.
        random: Returns so many random bytes.
    """

    def __init__(self, *, mac: MacAddress, random: Callable[[int], bytes]) -> None:
        self._mac = mac
        self._own = link_local(mac)
        self._routers = Routers(mac)
        self._dhcp = Dhcpv6Client(mac=mac, random=random)
        self._frames: list[bytes] = []
        self._told = Ipv6Settings()
        self.settings = Ipv6Settings()
        """What is offered now."""
        self.kernel_answers = False
        """Whether the host's kernel answers for the link-local address."""

    def start(self, now: float) -> None:
        """Begin to ask routers."""
        self._routers.start(now)
        self._turn(now)

    def has_changed(self) -> bool:
        """Whether the settings are other ones than at the last such question."""
        changed, self._told = self.settings != self._told, self.settings
        return changed

    def receive_frame(self, frame: bytes, now: float) -> None:
        """Look at any frame from the hub; what is broken is passed over."""
        try:
            ethernet = decode_frame(frame)
            if ethernet.ethertype != EtherType.IPV6:
                return
            said = decode_ra(ethernet.payload)
            if said is not None:
                self._routers.hear(said, now)
            elif not self._answer(ethernet):
                self._dhcp.receive(decode_ipv6(ethernet.payload), now)
        except RemoteProtocolError:
            return
        self._turn(now)

    def frames_to_send(self) -> list[bytes]:
        """Return what has to go out now, whole frames."""
        frames, self._frames = self._frames, []
        return frames + self._dhcp.frames_to_send()

    def next_deadline(self) -> float | None:
        """Return when :meth:`handle_deadline` has something to do."""
        deadlines = (self._routers.next_deadline(), self._dhcp.next_deadline())
        return min((at for at in deadlines if at is not None), default=None)

    def handle_deadline(self, now: float) -> None:
        """Do what is due."""
        at = self._dhcp.next_deadline()
        if at is not None and at <= now:
            self._dhcp.handle_deadline(now)
        self._turn(now)

    def release(self) -> None:
        """Give back what DHCPv6 has given."""
        self._dhcp.release()

    def _turn(self, now: float) -> None:
        self._routers.pass_time(now)
        if self._routers.is_question_due(now):
            self._frames.append(self._solicitation())
        self._dhcp.want(self._need(), now)
        self.settings = self._settings()

    def _need(self) -> Need:
        if self._routers.is_managed:
            return "address"
        return "settings" if self._routers.has_other else "nothing"

    def _settings(self) -> Ipv6Settings:
        routers, leased = self._routers, self._dhcp.address
        addresses = list(routers.addresses)
        if leased is not None:
            addresses.append(IPv6Interface((leased, 128)))
        return Ipv6Settings(
            addresses=tuple(addresses[:_MAX_ADDRESSES]),
            on_link=routers.on_link,
            router=routers.router,
            routes=routers.routes,
            # What is said to all counts before what was asked for (RFC 8106 section 5.3.1).
            dns=tuple(dict.fromkeys((*routers.servers, *self._dhcp.servers))),
            search=tuple(dict.fromkeys((*routers.search, *self._dhcp.search))),
        )

    def _answer(self, ethernet: Frame) -> bool:
        """Answer who asks for our link-local address before the kernel can."""
        message = decode_nd(ethernet.payload)
        if not isinstance(message, NeighbourSolicitation):
            return message is not None
        is_asked = message.target == self._own and not message.source.is_unspecified
        if is_asked and not self.kernel_answers:
            answer = NeighbourAdvertisement(
                self._own,
                message.source,
                self._own,
                self._mac,
                is_solicited=True,
                is_override=True,
            )
            self._frames.append(
                encode_frame(
                    Frame(ethernet.source, self._mac, EtherType.IPV6, encode_nd(answer))
                )
            )
        return True

    def _solicitation(self) -> bytes:
        packet = router_solicitation(self._own)
        return encode_frame(
            Frame(multicast_mac(ALL_ROUTERS), self._mac, EtherType.IPV6, packet)
        )
