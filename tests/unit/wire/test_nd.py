# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv6Address

import dpkt
import pytest
from hypothesis import given, strategies as st

from sevpn.errors import RemoteProtocolError
from sevpn.wire.ethernet import MacAddress
from sevpn.wire.ipv4 import internet_checksum
from sevpn.wire.nd import (
    ALL_NODES,
    NeighbourAdvertisement,
    NeighbourSolicitation,
    decode_nd,
    encode_nd,
)

HUB = IPv6Address("fe80::2ae:12ff:fe34:5678")
OURS = IPv6Address("fe80::5c00:53ff:fe00:1")
MAC = MacAddress.parse("00:ae:12:34:56:78")

addresses = st.ip_addresses(v=6).filter(lambda ip: isinstance(ip, IPv6Address))
macs = st.none() | st.binary(min_size=6, max_size=6).map(MacAddress)
messages = st.builds(
    NeighbourSolicitation, addresses, addresses, addresses, macs
) | st.builds(
    NeighbourAdvertisement,
    addresses,
    addresses,
    addresses,
    macs,
    is_router=st.booleans(),
    is_solicited=st.booleans(),
    is_override=st.booleans(),
)


def resummed(packet: bytes) -> bytes:
    """The packet with a right size and checksum again."""
    body = bytearray(packet[40:])
    body[2:4] = b"\0\0"
    size = len(body).to_bytes(4, "big")
    total = internet_checksum(packet[8:40] + size + b"\0\0\0\x3a" + body)
    body[2:4] = total.to_bytes(2, "big")
    return packet[:4] + size[2:] + packet[6:40] + bytes(body)


@given(messages, st.binary(max_size=8))
def test_a_message_is_read_as_it_was_written_whatever_pads_it(
    message: NeighbourSolicitation | NeighbourAdvertisement, padding: bytes
) -> None:
    assert decode_nd(encode_nd(message) + padding) == message


@given(messages)
def test_an_independent_writer_comes_to_the_same_checksum(
    message: NeighbourSolicitation | NeighbourAdvertisement,
) -> None:
    encoded = encode_nd(message)
    other = dpkt.ip6.IP6(encoded)
    ours = other.data.sum
    other.data.sum = 0  # dpkt fills in what is zero

    assert other.hlim == 255
    assert dpkt.ip6.IP6(bytes(other)).data.sum == ours


def test_options_that_hold_no_mac_address_are_skipped() -> None:
    packet = encode_nd(NeighbourSolicitation(HUB, OURS, OURS, None))
    nonce = b"\x0e\x02" + bytes(14)
    mac = b"\x01\x01" + MAC.octets

    assert decode_nd(resummed(packet + nonce + mac)) == NeighbourSolicitation(
        HUB, OURS, OURS, MAC
    )


@pytest.mark.parametrize(
    "option", ["01", "0100", "0102aabbccddeeff", "0e00" + "00" * 6]
)
def test_a_broken_option_spoils_the_message(option: str) -> None:
    packet = encode_nd(NeighbourSolicitation(HUB, OURS, OURS, None))

    with pytest.raises(RemoteProtocolError, match="an option"):
        decode_nd(resummed(packet + bytes.fromhex(option)))


def test_a_router_solicitation_is_neither_message() -> None:
    packet = bytearray(encode_nd(NeighbourSolicitation(HUB, ALL_NODES, OURS, None)))
    packet[40] = 133

    assert decode_nd(resummed(bytes(packet))) is None


def test_a_packet_with_another_protocol_is_neither_message() -> None:
    packet = bytearray(encode_nd(NeighbourSolicitation(HUB, OURS, OURS, None)))
    packet[6] = 17

    assert decode_nd(bytes(packet)) is None


def test_a_packet_without_payload_is_neither_message() -> None:
    header = bytearray(encode_nd(NeighbourSolicitation(HUB, OURS, OURS, None))[:40])
    header[4:6] = b"\0\0"

    assert decode_nd(bytes(header)) is None


@pytest.mark.parametrize("size", range(64))
def test_a_message_that_is_cut_anywhere_is_refused(size: int) -> None:
    packet = encode_nd(NeighbourSolicitation(HUB, OURS, OURS, None))

    with pytest.raises(RemoteProtocolError):
        decode_nd(packet[:size])


def test_a_message_too_short_for_its_target_is_refused() -> None:
    packet = encode_nd(NeighbourSolicitation(HUB, OURS, OURS, None))

    with pytest.raises(RemoteProtocolError, match="of 20 bytes"):
        decode_nd(resummed(packet[:60]))


@pytest.mark.parametrize(
    ("at", "value"), [(0, 0x40), (7, 254), (41, 1), (60, 0xFF)], ids=str
)
def test_a_message_of_another_version_from_afar_or_damaged_is_refused(
    at: int, value: int
) -> None:
    packet = bytearray(encode_nd(NeighbourSolicitation(HUB, OURS, OURS, None)))
    packet[at] = value

    with pytest.raises(RemoteProtocolError):
        decode_nd(bytes(packet))
