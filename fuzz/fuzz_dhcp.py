# SPDX-License-Identifier: Apache-2.0
"""Any bytes: a DHCP message that survives writing and reading, whose options are values or the peer's fault, and a lease that is sane or refused.

Run: `python fuzz/fuzz_dhcp.py fuzz/corpus/dhcp`. The input is the payload of a
UDP datagram to port 68.
"""

from __future__ import annotations

import sys
from ipaddress import IPv4Address

from sevpn.errors import RemoteProtocolError
from sevpn.protocol.dhcp import DhcpClient
from sevpn.protocol.lease import read_lease, server_of
from sevpn.wire.dhcpv4 import (
    MAX_NAMES,
    Message,
    Option,
    decode_addresses,
    decode_classless_routes,
    decode_message,
    decode_names,
    decode_static_routes,
    encode_addresses,
    encode_classless_routes,
    encode_message,
    encode_static_routes,
)
from sevpn.wire.ethernet import BROADCAST, EtherType, Frame, MacAddress, encode_frame
from sevpn.wire.ipv4 import IpProtocol, Ipv4Packet, encode_ipv4
from sevpn.wire.udp import UdpDatagram, encode_udp

SERVER = MacAddress(b"\x5e\0\x53\0\0\xfe")
SERVER_IP = IPv4Address("198.51.100.1")
ALL = IPv4Address(0xFFFFFFFF)
CONTINUATION = Option.SECURENAT_CONTINUATION


def check(data: bytes) -> None:
    try:
        message = decode_message(data)
    except RemoteProtocolError as error:
        _check_line(str(error))
        return
    assert sum(map(len, message.options.values())) <= len(data)
    _check_round_trip(message)
    _check_values(message)
    _check_lease(message)
    _check_client(data, message)


def _check_round_trip(message: Message) -> None:
    if len(data := encode_message(message)) <= 60_000:
        again = decode_message(data)
        # An option 250 that stood alone follows a 121 only if the peer had it so.
        if CONTINUATION not in message.options:
            assert again == message


def _check_values(message: Message) -> None:
    for value in message.options.values():
        for check_value in (
            _check_addresses,
            _check_classless,
            _check_static,
            _check_names,
        ):
            try:
                check_value(value)
            except RemoteProtocolError as error:
                _check_line(str(error))


def _check_addresses(value: bytes) -> None:
    assert encode_addresses(*decode_addresses(value)) == value


def _check_classless(value: bytes) -> None:
    routes = decode_classless_routes(value)
    encoded = encode_classless_routes(routes)  # host bits are masked off
    assert len(encoded) == len(value)
    assert decode_classless_routes(encoded) == routes


def _check_static(value: bytes) -> None:
    assert encode_static_routes(decode_static_routes(value)) == value


def _check_names(value: bytes) -> None:
    names = decode_names(value)
    assert len(names) <= MAX_NAMES
    assert all(len(name) <= 253 for name in names)


def _check_lease(message: Message) -> None:
    server = server_of(message) or SERVER_IP
    try:
        lease = read_lease(message, server=server, server_mac=SERVER, asked_at=5.0)
    except RemoteProtocolError as error:
        _check_line(str(error))
        return
    assert 5.0 < lease.renew_at <= lease.rebind_at
    assert lease.expires_at is None or lease.rebind_at < lease.expires_at
    assert 8 <= lease.address.network.prefixlen <= 32
    for line in lease.warnings:
        _check_line(line)


def _check_client(data: bytes, message: Message) -> None:
    """A client to which the message is addressed takes it in any state."""
    if len(data) > 65_000:
        return
    xid = message.xid.to_bytes(4, "big")
    client = DhcpClient(mac=message.chaddr, random=lambda size: xid[:size])
    datagram = encode_udp(
        UdpDatagram(67, 68, data), source=SERVER_IP, destination=ALL, checksum=False
    )
    packet = encode_ipv4(Ipv4Packet(SERVER_IP, ALL, IpProtocol.UDP, datagram))
    frame = encode_frame(Frame(BROADCAST, SERVER, EtherType.IPV4, packet))
    client.start(0.0)
    now = 0.0
    for _ in range(6):
        client.receive_frame(frame, now)
        while client.next_event() is not None:
            pass
        _check_line(client.what_was_heard)
        due = client.next_deadline()
        if due is None:
            break
        assert due > now
        now = due
        client.handle_deadline(now)
    client.release(now)
    assert all(14 <= len(sent) <= 1514 for sent in client.frames_to_send())


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
