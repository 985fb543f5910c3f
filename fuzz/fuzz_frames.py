# SPDX-License-Identifier: Apache-2.0
"""Any bytes: a frame and what it carries are read as they would be written, or the peer's fault; and no machine is hurt by them.

Run: `python fuzz/fuzz_frames.py fuzz/corpus/frames`. The input is a frame as a
hub delivers it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface, IPv6Address

from sevpn.errors import RemoteProtocolError
from sevpn.protocol.dhcp import DhcpClient, Lease
from sevpn.protocol.ipv6 import Ipv6Client
from sevpn.protocol.neighbour import GatewayWatch, Prover, answer_poll
from sevpn.wire.arp import decode_arp, encode_arp
from sevpn.wire.dhcpv4 import Message, MessageType, Op, Option, encode_message
from sevpn.wire.dhcpv6 import decode_dhcpv6
from sevpn.wire.ethernet import (
    BROADCAST,
    EtherType,
    MacAddress,
    decode_frame,
    encode_frame,
)
from sevpn.wire.icmp import decode_echo, encode_echo
from sevpn.wire.ipv4 import IpProtocol, decode_ipv4, encode_ipv4
from sevpn.wire.ipv6 import decode_ipv6, encode_ipv6
from sevpn.wire.nd import decode_nd, encode_nd
from sevpn.wire.ra import decode_ra
from sevpn.wire.udp import UdpDatagram, decode_udp, encode_udp, udp_frame

OURS = MacAddress(b"\x5e\0\x53\0\0\x01")
ADDRESS = IPv4Interface("198.51.100.50/24")
OUR_V6 = IPv6Address("fe80::5c00:53ff:fe00:1")
GATEWAY = IPv4Address("198.51.100.1")
LEASE = Lease(
    address=ADDRESS,
    router=GATEWAY,
    server=GATEWAY,
    server_mac=MacAddress(b"\x5e\0\x53\0\0\xfe"),
    obtained_at=0.0,
    renew_at=10.0,
    rebind_at=200.0,
    expires_at=300.0,
)


GRANT = udp_frame(
    UdpDatagram(
        67,
        68,
        encode_message(
            Message(
                op=Op.REPLY,
                xid=0,
                chaddr=OURS,
                yiaddr=ADDRESS.ip,
                options={
                    Option.MESSAGE_TYPE: bytes([MessageType.ACK]),
                    Option.SERVER_ID: GATEWAY.packed,
                    Option.LEASE_TIME: (3600).to_bytes(4, "big"),
                    Option.SUBNET_MASK: ADDRESS.netmask.packed,
                },
            )
        ),
    ),
    source_mac=LEASE.server_mac,
    destination_mac=BROADCAST,
    source=GATEWAY,
    destination=IPv4Address(0xFFFFFFFF),
)


def check(data: bytes) -> None:
    _check_machines(data)
    try:
        frame = decode_frame(data)
    except RemoteProtocolError as error:
        assert len(data) < 14
        _check_line(str(error))
        return
    assert encode_frame(frame) == data
    for codec in (_check_arp, _check_ipv4, _check_nd, _check_ipv6):
        _tolerate(codec, frame.payload)


def _tolerate(codec: Callable[[bytes], None], data: bytes) -> None:
    try:
        codec(data)
    except RemoteProtocolError as error:
        _check_line(str(error))


def _check_arp(data: bytes) -> None:
    assert encode_arp(decode_arp(data)) == data[:28]


def _check_nd(data: bytes) -> None:
    message = decode_nd(data)
    if message is not None:
        assert decode_nd(encode_nd(message)) == message


def _check_ipv6(data: bytes) -> None:
    packet = decode_ipv6(data)
    assert decode_ipv6(encode_ipv6(packet)) == packet
    said = decode_ra(data)
    assert said is None or said.source.is_link_local
    if packet.protocol == IpProtocol.UDP:
        message = decode_dhcpv6(packet.payload[8:])
        assert message is None or len(message.addresses) <= 16


def _check_ipv4(data: bytes) -> None:
    packet = decode_ipv4(data)
    assert len(packet.payload) <= len(data) - 20
    if not packet.is_fragment:
        assert decode_ipv4(encode_ipv4(packet)) == packet
    if packet.protocol == IpProtocol.ICMP:
        echo = decode_echo(packet.payload)
        if echo is not None:
            assert decode_echo(encode_echo(echo)) == echo
    if packet.protocol == IpProtocol.UDP:
        datagram = decode_udp(packet.payload)
        encoded = encode_udp(
            datagram,
            source=packet.source,
            destination=packet.destination,
            checksum=True,
        )
        assert decode_udp(encoded) == datagram


def _check_machines(data: bytes) -> None:
    """Whatever comes, nobody is sent more than a frame or two for it."""
    answer = answer_poll(data, mac=OURS, addresses=(ADDRESS.ip, OUR_V6))
    frames = [answer] if answer is not None else []
    client = _bound_client()
    watch = GatewayWatch(mac=OURS, address=ADDRESS.ip, gateway=GATEWAY)
    prover = Prover(mac=OURS, address=ADDRESS, gateway=GATEWAY, server=None)
    watch.start(5.0)
    prover.start(5.0)
    for machine in (client, watch, prover):
        machine.frames_to_send()
        machine.receive_frame(data, 5.5)
        machine.next_event()
        frames += machine.frames_to_send()
    routers = Ipv6Client(mac=OURS, random=bytes)
    routers.start(5.0)
    routers.frames_to_send()
    routers.receive_frame(data, 5.5)
    frames += routers.frames_to_send()
    assert len(frames) <= 3
    assert len(routers.settings.addresses) <= 8
    for frame in frames:
        sent = decode_frame(frame)
        assert sent.source == OURS
        assert sent.ethertype in (EtherType.ARP, EtherType.IPV6)


def _bound_client() -> DhcpClient:
    client = DhcpClient(mac=OURS, random=bytes, remembered=LEASE)
    client.start(0.0)
    client.receive_frame(GRANT, 0.1)
    client.handle_deadline(0.4)
    assert client.next_event() is not None
    client.frames_to_send()
    return client


def _check_line(line: str) -> None:
    assert line
    assert line.isprintable()


def main() -> None:
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
