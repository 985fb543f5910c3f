# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import dpkt
import pytest
from hypothesis import given, strategies as st

from sevpn.errors import LocalProtocolError, RemoteProtocolError
from sevpn.wire.ethernet import BROADCAST, EtherType, MacAddress, decode_frame
from sevpn.wire.ipv4 import MAX_PAYLOAD_SIZE, IpProtocol, decode_ipv4
from sevpn.wire.udp import UdpDatagram, decode_udp, encode_udp, udp_frame

A = IPv4Address("192.0.2.1")
B = IPv4Address("198.51.100.2")
OURS = MacAddress.parse("5e:00:53:00:00:01")

ports = st.integers(0, 0xFFFF)
datagrams = st.builds(UdpDatagram, ports, ports, st.binary(max_size=1400))


@given(datagrams, st.booleans(), st.binary(max_size=18))
def test_a_datagram_is_read_as_it_was_written_whatever_pads_it(
    datagram: UdpDatagram, checksum: bool, padding: bytes
) -> None:
    encoded = encode_udp(datagram, source=A, destination=B, checksum=checksum)

    assert decode_udp(encoded + padding) == datagram


@given(datagrams)
def test_an_independent_writer_comes_to_the_same_checksum(
    datagram: UdpDatagram,
) -> None:
    frame = udp_frame(
        datagram, source_mac=OURS, destination_mac=BROADCAST, source=A, destination=B
    )
    other = dpkt.ethernet.Ethernet(frame)
    ours = other.data.data.sum
    other.data.data.sum = other.data.sum = 0  # dpkt fills in what is zero

    assert dpkt.ethernet.Ethernet(bytes(other)).data.data.sum == ours
    assert bytes(other) == frame


@given(datagrams)
def test_over_ipv6_an_independent_writer_comes_to_the_same_checksum(
    datagram: UdpDatagram,
) -> None:
    ends = (IPv6Address("2001:db8::1"), IPv6Address("2001:db8::2"))
    ours = encode_udp(datagram, source=ends[0], destination=ends[1], checksum=True)
    other = dpkt.ip6.IP6(
        src=ends[0].packed,
        dst=ends[1].packed,
        nxt=IpProtocol.UDP,
        plen=len(ours),
        data=dpkt.udp.UDP(
            sport=datagram.source_port,
            dport=datagram.destination_port,
            ulen=len(ours),
            data=datagram.payload,
        ),
    )
    other.extension_hdrs = {}

    assert bytes(other)[40:] == ours


def test_a_checksum_that_comes_out_as_zero_is_sent_as_all_ones() -> None:
    # The payload is the complement of the sum of all that stands before it.
    unsummed = encode_udp(
        UdpDatagram(1, 2, b"\0\0"), source=A, destination=B, checksum=True
    )
    datagram = UdpDatagram(1, 2, unsummed[6:8])

    encoded = encode_udp(datagram, source=A, destination=B, checksum=True)

    assert encoded[6:8] == b"\xff\xff"


def test_a_datagram_without_checksum_has_a_zero_there() -> None:
    encoded = encode_udp(
        UdpDatagram(68, 67, b"x"), source=A, destination=B, checksum=False
    )

    assert encoded == bytes.fromhex("0044 0043 0009 0000 78")


def test_a_whole_frame_carries_the_datagram() -> None:
    frame = decode_frame(
        udp_frame(
            UdpDatagram(7, 7, b"beacon"),
            source_mac=OURS,
            destination_mac=BROADCAST,
            source=A,
            destination=B,
            identification=5,
        )
    )
    packet = decode_ipv4(frame.payload)

    assert (frame.source, frame.destination) == (OURS, BROADCAST)
    assert frame.ethertype == EtherType.IPV4
    assert (packet.source, packet.destination, packet.protocol) == (
        A,
        B,
        IpProtocol.UDP,
    )
    assert packet.identification == 5
    assert decode_udp(packet.payload) == UdpDatagram(7, 7, b"beacon")


@pytest.mark.parametrize("size", range(9))
def test_a_datagram_that_is_cut_anywhere_is_refused(size: int) -> None:
    encoded = encode_udp(
        UdpDatagram(68, 67, b"x"), source=A, destination=B, checksum=True
    )

    with pytest.raises(RemoteProtocolError):
        decode_udp(encoded[:size])


def test_a_datagram_shorter_than_its_header_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="says that it has 7 bytes"):
        decode_udp(bytes.fromhex("0044004300070000"))


def test_a_datagram_too_long_for_a_packet_is_our_own_mistake() -> None:
    with pytest.raises(LocalProtocolError, match="cannot be sent"):
        encode_udp(
            UdpDatagram(1, 2, bytes(MAX_PAYLOAD_SIZE - 7)),
            source=A,
            destination=B,
            checksum=True,
        )
