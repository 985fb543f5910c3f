# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface

import pytest
from hypothesis import given, strategies as st

from sevpn.errors import ConfigError
from sevpn.server.config import DhcpConfig, HubConfig
from sevpn.server.dns import answer_question
from sevpn.server.faults import Faults
from sevpn.server.gateway import GatewayPort
from sevpn.server.hub import FrameBytes, Hub, Port
from sevpn.server.policy import Policy
from sevpn.wire.arp import ArpOperation, decode_arp, question
from sevpn.wire.dhcpv4 import (
    BROADCAST_FLAG,
    Message,
    MessageType,
    Op,
    Option,
    decode_message,
    encode_message,
)
from sevpn.wire.ethernet import BROADCAST, Frame, MacAddress, decode_frame, encode_frame
from sevpn.wire.icmp import Echo, EchoKind, decode_echo, encode_echo
from sevpn.wire.ipv4 import Ipv4Packet, decode_ipv4, encode_ipv4
from sevpn.wire.udp import UdpDatagram, decode_udp, udp_frame

OURS = MacAddress(b"\x5e\0\0\0\0\1")
US = IPv4Address("10.9.0.50")
GATEWAY = IPv4Address("10.9.0.1")
NOBODY = IPv4Address(0)


class Client(Port):
    """A port that remembers."""

    def __init__(self) -> None:
        super().__init__("client", Policy())
        self.frames: list[Frame] = []

    def deliver(self, frames: Sequence[FrameBytes]) -> None:
        self.frames += [decode_frame(frame) for frame in frames]


class Lab:
    def __init__(self) -> None:
        self.faults = Faults()
        config = HubConfig(
            name="TEST",
            gateway=IPv4Interface("10.9.0.1/24"),
            dhcp=DhcpConfig(),
            names={"Host.lab.test": US},
        )
        self.hub = Hub("TEST", clock=lambda: 0.0)
        self.gateway = GatewayPort(
            config, self.hub, faults=self.faults, clock=lambda: 0.0
        )
        self.client = Client()
        self.hub.plug(self.client)

    def send(self, frame: bytes) -> list[Frame]:
        self.client.frames.clear()
        self.hub.forward(self.client, [frame])
        return self.client.frames

    def ping(
        self, *, to: IPv4Address = GATEWAY, mac: MacAddress | None = None
    ) -> list[Frame]:
        echo = encode_echo(Echo(EchoKind.REQUEST, 1, 2, b"hello"))
        packet = encode_ipv4(Ipv4Packet(US, to, 1, echo))
        return self.send(
            encode_frame(Frame(mac or self.gateway.mac, OURS, 0x0800, packet))
        )

    def dhcp(self, message: Message, *, source: IPv4Address = NOBODY) -> list[Frame]:
        return self.send(
            udp_frame(
                UdpDatagram(68, 67, encode_message(message)),
                source_mac=OURS,
                destination_mac=BROADCAST,
                source=source,
                destination=IPv4Address("255.255.255.255"),
                checksum=False,
            )
        )


def discover(flags: int = 0) -> Message:
    return Message(
        op=Op.REQUEST,
        xid=1,
        chaddr=OURS,
        flags=flags,
        options={Option.MESSAGE_TYPE: bytes([MessageType.DISCOVER])},
    )


def test_it_answers_arp_for_its_own_address_only() -> None:
    lab = Lab()

    (frame,) = lab.send(question(OURS, US, GATEWAY))
    answer = decode_arp(frame.payload)
    assert (answer.operation, answer.sender_ip) == (ArpOperation.REPLY, GATEWAY)
    assert answer.sender_mac == frame.source == lab.gateway.mac
    assert lab.send(question(OURS, US, IPv4Address("10.9.0.2"))) == []


def test_it_answers_pings() -> None:
    lab = Lab()

    (frame,) = lab.ping()

    packet = decode_ipv4(frame.payload)
    assert (packet.source, packet.destination) == (GATEWAY, US)
    assert decode_echo(packet.payload) == Echo(EchoKind.REPLY, 1, 2, b"hello")


def test_it_forwards_nothing() -> None:
    lab = Lab()

    assert lab.ping(to=IPv4Address("10.9.0.99")) == []
    assert lab.ping(mac=MacAddress(b"\x5e\0\0\0\0\x77")) == []


def test_it_is_mute_when_told() -> None:
    lab = Lab()
    lab.faults.is_gateway_mute = True

    assert lab.ping() == []
    assert lab.send(question(OURS, US, GATEWAY)) == []
    assert len(lab.dhcp(discover())) == 1


def test_a_dhcp_answer_goes_to_the_new_address_by_default() -> None:
    lab = Lab()

    (frame,) = lab.dhcp(discover())

    packet = decode_ipv4(frame.payload)
    offer = decode_message(decode_udp(packet.payload).payload)
    assert frame.destination == OURS
    assert packet.destination == offer.yiaddr == IPv4Address("10.9.0.10")


def test_a_dhcp_answer_is_broadcast_on_request() -> None:
    (frame,) = Lab().dhcp(discover(BROADCAST_FLAG))

    assert frame.destination == BROADCAST
    assert str(decode_ipv4(frame.payload).destination) == "255.255.255.255"


def test_a_renewal_is_answered_to_the_address_in_use() -> None:
    lab = Lab()
    address = IPv4Address("10.9.0.10")
    renew = Message(
        op=Op.REQUEST,
        xid=1,
        chaddr=OURS,
        ciaddr=address,
        options={Option.MESSAGE_TYPE: bytes([MessageType.REQUEST])},
    )

    (frame,) = lab.dhcp(renew, source=address)

    assert frame.destination == OURS
    assert decode_ipv4(frame.payload).destination == address


def test_a_refusal_is_broadcast() -> None:
    wrong = Message(
        op=Op.REQUEST,
        xid=1,
        chaddr=OURS,
        options={
            Option.MESSAGE_TYPE: bytes([MessageType.REQUEST]),
            Option.REQUESTED_ADDRESS: bytes([10, 1, 1, 1]),
        },
    )

    (frame,) = Lab().dhcp(wrong)

    assert frame.destination == BROADCAST


def dns(name: str, kind: int = 1) -> bytes:
    labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
    return (
        struct.pack("!HHHHHH", 77, 0x0100, 1, 0, 0, 0)
        + labels
        + struct.pack("!BHH", 0, kind, 1)
    )


def test_it_answers_names() -> None:
    lab = Lab()

    (frame,) = lab.send(
        udp_frame(
            UdpDatagram(4000, 53, dns("host.LAB.test")),
            source_mac=OURS,
            destination_mac=lab.gateway.mac,
            source=US,
            destination=GATEWAY,
        )
    )

    reply = decode_udp(decode_ipv4(frame.payload).payload)
    assert (reply.source_port, reply.destination_port) == (53, 4000)
    assert reply.payload.endswith(US.packed)


@pytest.mark.parametrize(
    ("name", "kind", "code", "count"),
    [("a.test", 1, 0, 1), ("a.test", 28, 0, 0), ("b.test", 1, 3, 0)],
)
def test_a_name_has_an_address_or_an_empty_answer_or_does_not_exist(
    name: str, kind: int, code: int, count: int
) -> None:
    answer = answer_question(dns(name, kind), {"a.test": US})

    assert answer is not None
    number, flags, _, answers, _, _ = struct.unpack_from("!HHHHHH", answer)
    assert (number, flags & 15, answers) == (77, code, count)
    assert flags & 0x8000


@given(st.binary(max_size=80))
def test_no_question_breaks_the_name_server(question_: bytes) -> None:
    answer_question(question_, {"a": US})


@given(st.binary(max_size=400), st.sampled_from([0x0800, 0x0806]))
def test_no_frame_breaks_the_gateway(payload: bytes, kind: int) -> None:
    lab = Lab()
    lab.send(encode_frame(Frame(lab.gateway.mac, OURS, kind, payload)))


@given(st.binary(max_size=300))
def test_no_dhcp_message_breaks_the_gateway(garbage: bytes) -> None:
    lab = Lab()
    lab.send(
        udp_frame(
            UdpDatagram(68, 67, encode_message(discover())[:240] + garbage),
            source_mac=OURS,
            destination_mac=BROADCAST,
            source=IPv4Address(0),
            destination=IPv4Address("255.255.255.255"),
        )
    )


def test_a_hub_without_a_gateway_address_has_no_gateway() -> None:
    with pytest.raises(ConfigError, match="no 'gateway'"):
        GatewayPort(
            HubConfig(name="X"),
            Hub("X", clock=lambda: 0.0),
            faults=Faults(),
            clock=lambda: 0.0,
        )
