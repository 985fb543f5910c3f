# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address

import dpkt
import pytest
from hypothesis import given, strategies as st

from sevpn.errors import RemoteProtocolError
from sevpn.wire.arp import (
    ArpOperation,
    ArpPacket,
    announcement,
    answer,
    decode_arp,
    encode_arp,
    probe,
    question,
)
from sevpn.wire.ethernet import BROADCAST, EtherType, MacAddress, decode_frame

OURS = MacAddress.parse("5e:00:53:00:00:01")
THEIRS = MacAddress.parse("5e:00:53:00:00:02")
NOBODY = MacAddress(bytes(6))
OUR_IP = IPv4Address("198.51.100.5")
THEIR_IP = IPv4Address("198.51.100.1")

macs = st.binary(min_size=6, max_size=6).map(MacAddress)
addresses = st.ip_addresses(v=4).filter(lambda ip: isinstance(ip, IPv4Address))
packets = st.builds(ArpPacket, st.integers(0, 0xFFFF), macs, addresses, macs, addresses)


def said(frame: bytes) -> tuple[MacAddress, MacAddress, ArpPacket]:
    decoded = decode_frame(frame)
    assert decoded.ethertype == EtherType.ARP
    return decoded.destination, decoded.source, decode_arp(decoded.payload)


@given(packets, st.binary(max_size=18))
def test_a_packet_is_read_as_it_was_written_whatever_pads_it(
    packet: ArpPacket, padding: bytes
) -> None:
    assert decode_arp(encode_arp(packet) + padding) == packet


@given(packets)
def test_an_independent_reader_sees_the_same_packet(packet: ArpPacket) -> None:
    other = dpkt.arp.ARP(encode_arp(packet))

    assert (other.op, other.sha, other.spa, other.tha, other.tpa) == (
        packet.operation,
        packet.sender_mac.octets,
        packet.sender_ip.packed,
        packet.target_mac.octets,
        packet.target_ip.packed,
    )


def test_a_question_goes_to_all_and_leaves_the_target_open() -> None:
    assert said(question(OURS, OUR_IP, THEIR_IP)) == (
        BROADCAST,
        OURS,
        ArpPacket(ArpOperation.REQUEST, OURS, OUR_IP, NOBODY, THEIR_IP),
    )


def test_a_probe_names_no_sender_so_that_no_cache_learns_it() -> None:
    assert said(probe(OURS, OUR_IP))[2] == ArpPacket(
        ArpOperation.REQUEST, OURS, IPv4Address(0), NOBODY, OUR_IP
    )


def test_an_announcement_asks_for_the_address_that_it_names() -> None:
    assert said(announcement(OURS, OUR_IP)) == (
        BROADCAST,
        OURS,
        ArpPacket(ArpOperation.REQUEST, OURS, OUR_IP, NOBODY, OUR_IP),
    )


def test_an_answer_goes_to_the_asker_alone() -> None:
    assert said(answer(OURS, OUR_IP, to=THEIRS, asked_by=THEIR_IP)) == (
        THEIRS,
        OURS,
        ArpPacket(ArpOperation.REPLY, OURS, OUR_IP, THEIRS, THEIR_IP),
    )


@pytest.mark.parametrize("size", range(28))
def test_a_packet_that_is_cut_anywhere_is_refused(size: int) -> None:
    packet = encode_arp(ArpPacket(1, OURS, OUR_IP, NOBODY, THEIR_IP))

    with pytest.raises(RemoteProtocolError, match=f"of {size} bytes"):
        decode_arp(packet[:size])


@pytest.mark.parametrize("at", range(6))
def test_a_packet_about_another_kind_of_address_is_refused(at: int) -> None:
    packet = bytearray(encode_arp(ArpPacket(1, OURS, OUR_IP, NOBODY, THEIR_IP)))
    packet[at] ^= 1

    with pytest.raises(RemoteProtocolError, match="not about IPv4 over Ethernet"):
        decode_arp(bytes(packet))
