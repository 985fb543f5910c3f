# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address

import dpkt
import pytest
from hypothesis import given, strategies as st

from sevpn.errors import LocalProtocolError, RemoteProtocolError
from sevpn.wire.ipv4 import (
    MAX_PAYLOAD_SIZE,
    IpProtocol,
    Ipv4Packet,
    decode_ipv4,
    encode_ipv4,
    internet_checksum,
)

A = IPv4Address("192.0.2.1")
B = IPv4Address("198.51.100.2")

addresses = st.ip_addresses(v=4).filter(lambda ip: isinstance(ip, IPv4Address))
packets = st.builds(
    Ipv4Packet,
    addresses,
    addresses,
    st.integers(0, 255),
    st.binary(max_size=1500),
    ttl=st.integers(0, 255),
    identification=st.integers(0, 0xFFFF),
)


def resummed(header: bytearray) -> bytes:
    """The header with a right checksum again."""
    header[10:12] = b"\0\0"
    header[10:12] = internet_checksum(bytes(header)).to_bytes(2, "big")
    return bytes(header)


def test_the_checksum_of_the_example_in_rfc_1071_is_right() -> None:
    # Section 3: the words 0001 f203 f4f5 f6f7 add up to ddf2.
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


@given(st.binary(max_size=64))
def test_an_independent_sum_is_the_same(data: bytes) -> None:
    assert internet_checksum(data) == dpkt.dpkt.in_cksum(data)
    assert internet_checksum(memoryview(data)) == internet_checksum(data)


@given(packets, st.binary(max_size=46))
def test_a_packet_is_read_as_it_was_written_whatever_pads_it(
    packet: Ipv4Packet, padding: bytes
) -> None:
    assert decode_ipv4(encode_ipv4(packet) + padding) == packet


@given(packets)
def test_an_independent_reader_sees_the_same_packet(packet: Ipv4Packet) -> None:
    encoded = encode_ipv4(packet)
    other = dpkt.ip.IP(encoded)

    assert (other.v, other.hl, other.len) == (4, 5, len(encoded))
    assert (other.src, other.dst) == (packet.source.packed, packet.destination.packed)
    assert (other.p, other.ttl, other.id) == (
        packet.protocol,
        packet.ttl,
        packet.identification,
    )
    assert dpkt.dpkt.in_cksum(encoded[:20]) == 0


def test_options_in_the_header_are_skipped() -> None:
    plain = encode_ipv4(Ipv4Packet(A, B, IpProtocol.UDP, b"data"))
    header = bytearray(plain[:20] + b"\x01\x01\x01\x00")
    header[0] = 0x46
    header[2:4] = (28).to_bytes(2, "big")

    assert decode_ipv4(resummed(header) + b"data").payload == b"data"


@pytest.mark.parametrize("fragment", [0x2000, 0x0001, 0x1FFF])
def test_a_fragment_is_known_as_one(fragment: int) -> None:
    header = bytearray(encode_ipv4(Ipv4Packet(A, B, IpProtocol.UDP, b"")))
    header[6:8] = fragment.to_bytes(2, "big")

    assert decode_ipv4(resummed(header)).is_fragment


def test_a_packet_that_must_not_be_fragmented_is_none() -> None:
    header = bytearray(encode_ipv4(Ipv4Packet(A, B, IpProtocol.UDP, b"")))
    header[6:8] = b"\x40\x00"

    assert not decode_ipv4(resummed(header)).is_fragment


@pytest.mark.parametrize("size", range(24))
def test_a_packet_that_is_cut_anywhere_is_refused(size: int) -> None:
    packet = encode_ipv4(Ipv4Packet(A, B, IpProtocol.UDP, b"data"))

    with pytest.raises(RemoteProtocolError):
        decode_ipv4(packet[:size])


@pytest.mark.parametrize(
    ("at", "value"), [(0, 0x65), (0, 0x44), (0, 0x4F), (2, 0xFF), (3, 0x13)]
)
def test_a_header_that_contradicts_itself_is_refused(at: int, value: int) -> None:
    header = bytearray(encode_ipv4(Ipv4Packet(A, B, IpProtocol.UDP, b"data")))
    header[at] = value

    with pytest.raises(RemoteProtocolError, match="an IPv4 packet has the version"):
        decode_ipv4(bytes(header))


def test_a_header_with_a_wrong_checksum_is_refused() -> None:
    packet = bytearray(encode_ipv4(Ipv4Packet(A, B, IpProtocol.UDP, b"data")))
    packet[15] ^= 1

    with pytest.raises(RemoteProtocolError, match="checksum"):
        decode_ipv4(bytes(packet))


def test_the_largest_packet_passes_and_one_byte_more_is_our_own_mistake() -> None:
    largest = Ipv4Packet(A, B, IpProtocol.UDP, bytes(MAX_PAYLOAD_SIZE))
    assert decode_ipv4(encode_ipv4(largest)) == largest

    with pytest.raises(LocalProtocolError, match="cannot be sent"):
        encode_ipv4(Ipv4Packet(A, B, IpProtocol.UDP, bytes(MAX_PAYLOAD_SIZE + 1)))


def test_a_fragment_is_never_written() -> None:
    with pytest.raises(LocalProtocolError, match="in one piece"):
        encode_ipv4(Ipv4Packet(A, B, IpProtocol.UDP, b"", is_fragment=True))
