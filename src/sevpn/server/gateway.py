# SPDX-License-Identifier: Apache-2.0
"""The virtual gateway of a hub: a host that is only a few answers.

Layer: server. Runs in: the event loop; called by the hub with the frames for it.

    ARP for its address  ─> its MAC address
    echo request         ─> echo reply
    UDP to port 53       ─> the names of the hub's configuration
    UDP to port 67       ─> the DHCP server
    everything else      ─> nothing: it forwards no packet

Source: docs/reference/serve.md; RFC 826, RFC 792, RFC 2131 section 4.1 for where a
DHCP answer goes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from typing import Final

from sevpn.errors import ConfigError, RemoteProtocolError
from sevpn.server.config import HubConfig
from sevpn.server.dhcp import DhcpServer
from sevpn.server.dns import answer_question
from sevpn.server.faults import Faults
from sevpn.server.hub import FrameBytes, Hub, Port
from sevpn.server.policy import Policy
from sevpn.wire.arp import ArpOperation, answer, decode_arp
from sevpn.wire.dhcpv4 import (
    BROADCAST_FLAG,
    CLIENT_PORT,
    SERVER_PORT,
    Message,
    MessageType,
    decode_message,
    encode_message,
)
from sevpn.wire.ethernet import (
    BROADCAST,
    EtherType,
    Frame,
    MacAddress,
    decode_frame,
    encode_frame,
)
from sevpn.wire.icmp import Echo, EchoKind, decode_echo, encode_echo
from sevpn.wire.ipv4 import IpProtocol, Ipv4Packet, decode_ipv4, encode_ipv4
from sevpn.wire.udp import UdpDatagram, decode_udp, udp_frame

__all__ = ["GatewayPort"]

_ANY: Final = IPv4Address(0)
_EVERYBODY: Final = IPv4Address("255.255.255.255")
_DNS_PORT: Final = 53


class GatewayPort(Port):
    """The gateway as a port.

    Args:
        config: Of the hub; its gateway address is given.
        hub: What it is plugged into.
        faults: What goes wrong.
        clock: Seconds on a monotonic clock.
    """

    def __init__(
        self, config: HubConfig, hub: Hub, *, faults: Faults, clock: Callable[[], float]
    ) -> None:
        super().__init__("virtual gateway", Policy())
        if config.gateway is None:
            raise ConfigError(f"hub {config.name!r} has no 'gateway'")
        digest = hashlib.sha256(b"gateway " + config.name.upper().encode()).digest()
        self.mac = MacAddress(b"\x5e" + digest[:5])
        """Its MAC address: always the same for one hub name."""
        self.address = config.gateway.ip
        """Its address."""
        self.dhcp: DhcpServer | None = None
        """Its DHCP server."""
        if config.dhcp is not None:
            self.dhcp = DhcpServer(
                config.dhcp, config.gateway, faults=faults, clock=clock
            )
        self._names = {name.lower(): address for name, address in config.names.items()}
        self._hub = hub
        self._faults = faults
        hub.plug(self)

    def deliver(self, frames: Sequence[FrameBytes]) -> None:
        """Answer what is for the gateway."""
        answers: list[FrameBytes] = []
        for data in frames:
            try:
                frame = decode_frame(data)
                found = self._answer(frame)
            except RemoteProtocolError:
                continue
            if found is not None:
                answers.append(found)
        if answers:
            self._hub.forward(self, answers)

    def _answer(self, frame: Frame) -> bytes | None:
        if frame.destination not in (self.mac, BROADCAST):
            return None
        if frame.ethertype == EtherType.IPV4:
            packet = decode_ipv4(frame.payload)
            if packet.is_fragment:
                return None
            if packet.protocol == IpProtocol.UDP:
                return self._answer_udp(frame, packet)
            if (
                packet.protocol == IpProtocol.ICMP
                and packet.destination == self.address
            ):
                return self._answer_echo(frame, packet)
        elif frame.ethertype == EtherType.ARP:
            return self._answer_arp(frame)
        return None

    def _answer_arp(self, frame: Frame) -> bytes | None:
        asked = decode_arp(frame.payload)
        is_for_us = (
            asked.operation == ArpOperation.REQUEST and asked.target_ip == self.address
        )
        if not is_for_us or self._faults.is_gateway_mute:
            return None
        return answer(
            self.mac, self.address, to=asked.sender_mac, asked_by=asked.sender_ip
        )

    def _answer_echo(self, frame: Frame, packet: Ipv4Packet) -> bytes | None:
        echo = decode_echo(packet.payload)
        if (
            echo is None
            or echo.kind is not EchoKind.REQUEST
            or self._faults.is_gateway_mute
        ):
            return None
        reply = encode_echo(
            Echo(EchoKind.REPLY, echo.identifier, echo.sequence, echo.payload)
        )
        back = Ipv4Packet(self.address, packet.source, IpProtocol.ICMP, reply)
        return encode_frame(
            Frame(frame.source, self.mac, EtherType.IPV4, encode_ipv4(back))
        )

    # --- UDP --------------------------------------------------------------------

    def _answer_udp(self, frame: Frame, packet: Ipv4Packet) -> bytes | None:
        datagram = decode_udp(packet.payload)
        if datagram.destination_port == SERVER_PORT:
            return self._answer_dhcp(frame, datagram)
        if datagram.destination_port != _DNS_PORT or packet.destination != self.address:
            return None
        reply = answer_question(datagram.payload, self._names)
        if reply is None or self._faults.is_gateway_mute:
            return None
        return udp_frame(
            UdpDatagram(_DNS_PORT, datagram.source_port, reply),
            source_mac=self.mac,
            destination_mac=frame.source,
            source=self.address,
            destination=packet.source,
        )

    def _answer_dhcp(self, frame: Frame, datagram: UdpDatagram) -> bytes | None:
        if self.dhcp is None:
            return None
        asked = decode_message(datagram.payload)
        reply = self.dhcp.answer(asked, frame.source.octets)
        if reply is None:
            return None
        mac, address = _receiver(asked, reply, frame.source)
        return udp_frame(
            UdpDatagram(SERVER_PORT, CLIENT_PORT, encode_message(reply)),
            source_mac=self.mac,
            destination_mac=mac,
            source=self.address,
            destination=address,
        )


def _receiver(
    asked: Message, reply: Message, source: MacAddress
) -> tuple[MacAddress, IPv4Address]:
    """Return to whom a DHCP answer goes."""
    if reply.message_type is MessageType.NAK:
        return BROADCAST, _EVERYBODY
    if asked.ciaddr != _ANY:
        return source, asked.ciaddr
    if asked.flags & BROADCAST_FLAG:
        return BROADCAST, _EVERYBODY
    return asked.chaddr, reply.yiaddr
