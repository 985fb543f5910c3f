# SPDX-License-Identifier: Apache-2.0
"""Which inbound frame is the host's business, and which the control thread's.

Layer: dataplane. Runs in: the data thread asks; the control thread sets `mac`,
`is_open` and `is_proving` by plain assignment.

    inbound frame                                 closed     open
    DHCP reply for our chaddr                     control    control
    ARP from the hub itself (source 00:AE:…)      control    control
    neighbour solicitation from the hub           control    control
    other neighbour solicitation                  control    host
    router advertisement, DHCPv6 to a client      control    control
    other ARP                                     control    both
    anything else                                 drop       host

With `is_transparent` all frames are the host's while the gate is open.
While proving, each unicast frame to us goes to control as well.

The hub polls the addresses of its table by ARP and neighbour solicitation, with
a sender that strict reverse-path filtering rejects: the host's kernel would not
answer, so the control thread does. DHCP is spoken by sevpn, not by the host, and so
is what routers of IPv6 say; control answers for the TAP's link-local address until the
host does.

Source: docs/reference/protocol-data.md#hub-polls; RFC 2131 section 4.1, RFC 4861 section 4.3.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from sevpn.wire.ethernet import MacAddress

__all__ = ["BOTH", "CONTROL", "DROP", "HOST", "Sieve"]

DROP: Final = 0
"""Nobody's business."""

HOST: Final = 1
"""Write it to the TAP."""

CONTROL: Final = 2
"""Hand it to the control thread; a bit, like :data:`HOST`."""

BOTH: Final = HOST | CONTROL
"""Do both."""

_IPV4: Final = 0x0800
_ARP: Final = 0x0806
_IPV6: Final = 0x86DD
_UDP: Final = 17
_ICMPV6: Final = 58
_ROUTER_ADVERTISEMENT: Final = 134
_NEIGHBOUR_SOLICITATION: Final = 135
_DHCPV6_CLIENT_PORT: Final = 546
_BOOTREPLY: Final = 2
_DHCP_CLIENT_PORT: Final = 68
_HUB_PREFIX: Final = b"\x00\xae"

_HEADER: Final = struct.Struct("!6s6sH").unpack_from
"""Destination, source, EtherType."""

_PROTOCOL_AT: Final = 14 + 9
_IPV6_SMALLEST: Final = 14 + 40 + 4
_UDP_PORT_AT: Final = 14 + 40 + 2
"""The destination port."""
_BOOTP_SMALLEST: Final = 28 + 6
"""Bytes of a BOOTP message up to the end of the client's MAC address."""


def _nothing() -> None:
    """Nobody waits for the gate to move."""


class Sieve:
    """Decides about each inbound frame.

    Args:
        mac: The TAP's address.
        on_gate: Called, in the thread that assigned, when the gate has moved.
    """

    def __init__(
        self, mac: MacAddress, *, on_gate: Callable[[], None] = _nothing
    ) -> None:
        self._on_gate = on_gate
        self._is_open = False
        self._octets = mac.octets
        self.is_transparent = False
        """Whether every frame is the host's: it bridges, or only watches."""
        self.is_proving = False
        """Whether control sees each unicast frame to us; assign it freely."""

    @property
    def mac(self) -> MacAddress:
        """The TAP's address; assign it when it changes."""
        return MacAddress(self._octets)

    @mac.setter
    def mac(self, mac: MacAddress) -> None:
        self._octets = mac.octets

    @property
    def is_open(self) -> bool:
        """Whether the host takes part in the hub's network.

        While closed nothing but what control needs passes inbound, and the TAP
        is not read: only injected frames go out.
        """
        return self._is_open

    @is_open.setter
    def is_open(self, is_open: bool) -> None:
        self._is_open = is_open
        self._on_gate()

    @property
    def passes_tcp(self) -> bool:
        """Whether each frame of IPv4 with TCP is the host's alone: asked once per batch."""
        return self._is_open and not self.is_proving

    def decide(self, frame: memoryview) -> int:
        """Return :data:`DROP`, :data:`HOST`, :data:`CONTROL` or :data:`BOTH`.

        Args:
            frame: A whole frame of 14 bytes or more.
        """
        if self.is_transparent:
            return HOST if self._is_open else DROP
        destination, source, ethertype = _HEADER(frame)
        is_open = self._is_open
        if ethertype == _ARP:
            return BOTH if is_open and source[:2] != _HUB_PREFIX else CONTROL
        if ethertype == _IPV4:
            if (
                len(frame) > _PROTOCOL_AT
                and frame[_PROTOCOL_AT] == _UDP
                and self._is_dhcp_reply(frame)
            ):
                return CONTROL
        elif (
            ethertype == _IPV6
            and len(frame) >= _IPV6_SMALLEST
            and _is_for_control(frame, source, is_open=is_open)
        ):
            return CONTROL
        verdict = HOST if is_open else DROP
        if self.is_proving and destination == self._octets:
            verdict |= CONTROL
        return verdict

    def _is_dhcp_reply(self, frame: memoryview) -> bool:
        """Say whether the UDP packet is a BOOTP reply to the client that we are."""
        udp = 14 + (frame[14] & 0x0F) * 4
        bootp = udp + 8
        return (
            len(frame) >= bootp + _BOOTP_SMALLEST
            and frame[udp + 2] << 8 | frame[udp + 3] == _DHCP_CLIENT_PORT
            and (frame[20] & 0x1F) | frame[21]
            == 0  # the first fragment, or a whole packet
            and frame[bootp] == _BOOTREPLY
            and bytes(frame[bootp + 28 : bootp + 34]) == self._octets
        )


def _is_for_control(frame: memoryview, source: bytes, *, is_open: bool) -> bool:
    """Say whether a packet of IPv6 is what sevpn speaks itself."""
    if frame[20] == _ICMPV6:
        if frame[54] == _NEIGHBOUR_SOLICITATION:
            return not is_open or source[:2] == _HUB_PREFIX
        return frame[54] == _ROUTER_ADVERTISEMENT
    return (
        frame[20] == _UDP
        and frame[_UDP_PORT_AT] << 8 | frame[_UDP_PORT_AT + 1] == _DHCPV6_CLIENT_PORT
    )
