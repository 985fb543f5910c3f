# SPDX-License-Identifier: Apache-2.0
"""The life of a lease as dialogues; the real servers' peculiarities are in test_dhcp_quirks.py."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest

from dhcp_talk import (
    ALL,
    ANY,
    HUB,
    NOBODY,
    OTHER_SERVER_IP,
    OUR_IP,
    OURS,
    SERVER,
    SERVER_IP,
    STRANGER,
    FixedRandom,
    Talk,
    arp_frame,
    decode_dhcp,
    dhcp_frame,
)
from sevpn.protocol.dhcp import DhcpClient, Lease
from sevpn.wire.arp import ArpOperation
from sevpn.wire.dhcpv4 import BROADCAST_FLAG, CLIENT_PORT, MessageType, Op, Option
from sevpn.wire.ethernet import (
    BROADCAST,
    EtherType,
    Frame,
    MacAddress,
    decode_frame,
    encode_frame,
)
from sevpn.wire.ipv4 import IpProtocol, Ipv4Packet, decode_ipv4, encode_ipv4
from sevpn.wire.udp import UdpDatagram, encode_udp

DISCOVER = "DISCOVER from 0.0.0.0 to all"
DISCOVER_50 = f"DISCOVER 50={OUR_IP} from 0.0.0.0 to all"
REQUEST = f"REQUEST 50={OUR_IP} 54={SERVER_IP} from 0.0.0.0 to all"
REBOOT = f"REQUEST 50={OUR_IP} from 0.0.0.0 to all"
RENEW = f"REQUEST ciaddr={OUR_IP} from {OUR_IP} to {SERVER}"
REBIND = f"REQUEST ciaddr={OUR_IP} from 0.0.0.0 to all"
RELEASE = f"RELEASE 54={SERVER_IP} ciaddr={OUR_IP} from {OUR_IP} to {SERVER}"
DECLINE = f"DECLINE 50={OUR_IP} 54={SERVER_IP} from 0.0.0.0 to all"
PROBE = f"ARP probe {OUR_IP}"
ANNOUNCEMENT = f"ARP announcement {OUR_IP}"

OLD = Lease(
    address=IPv4Interface("198.51.100.50/24"),
    server=SERVER_IP,
    server_mac=SERVER,
    obtained_at=0.0,
    renew_at=1800.0,
    rebind_at=3150.0,
    expires_at=3600.0,
)

CLAIM = arp_frame(ArpOperation.REPLY, (STRANGER, OUR_IP), (NOBODY, OUR_IP))
QUESTION = arp_frame(ArpOperation.REQUEST, (SERVER, SERVER_IP), (NOBODY, OUR_IP))


def moved_server(mac: MacAddress = STRANGER, ip: IPv4Address = SERVER_IP) -> bytes:
    """The server answers our ARP question with another MAC address."""
    return arp_frame(ArpOperation.REPLY, (mac, ip), (OURS, OUR_IP), to=OURS)


# --- the way to a lease ---


def test_a_lease_takes_four_messages_one_probe_and_a_third_of_a_second() -> None:
    talk = Talk()
    assert talk.did() == [DISCOVER]

    talk.offer(0.01)
    assert talk.did() == [REQUEST]

    talk.ack(0.02)
    assert talk.did() == [PROBE]

    talk.wait_until(0.33)
    assert talk.did() == [ANNOUNCEMENT, f"obtained {OUR_IP}/24"]


def test_a_lease_is_what_the_server_gave_and_counts_from_our_request() -> None:
    talk = Talk(start_at=100.0)
    talk.offer(100.5)
    talk.ack(100.75)
    talk.wait_until(102.0)

    assert talk.lease == Lease(
        address=IPv4Interface("198.51.100.50/24"),
        router=SERVER_IP,
        server=SERVER_IP,
        server_mac=SERVER,
        obtained_at=100.5,
        renew_at=100.5 + 1800,
        rebind_at=100.5 + 3150,
        expires_at=100.5 + 3600,
    )


def test_all_messages_of_one_exchange_have_one_number_and_the_next_has_another() -> (
    None
):
    talk = Talk()
    talk.wait_until(1.5)
    talk.offer()
    talk.wait_until(3.0)
    talk.get_lease()
    numbers = [
        decode_dhcp(frame).xid
        for frame in talk.frames
        if decode_frame(frame).ethertype == EtherType.IPV4
    ]
    talk.wait_until(1900.0)

    assert len(set(numbers)) == 1
    assert talk.last_message().xid not in numbers


def test_a_discover_is_repeated_after_1_2_4_8_16_and_16_seconds() -> None:
    talk = Talk()
    times = []
    for _ in range(7):
        deadline = talk.client.next_deadline()
        assert deadline is not None
        times.append(round(deadline, 1))
        talk.wait_until(deadline)

    assert times == [1.0, 3.0, 7.0, 15.0, 31.0, 47.0, 63.0]
    assert talk.did() == [DISCOVER] * 8


@pytest.mark.parametrize(("byte", "delay_s"), [(0, 0.9), (255, 1.1)])
def test_delays_vary_by_a_tenth(byte: int, delay_s: float) -> None:
    client = DhcpClient(mac=OURS, random=lambda size: bytes([byte]) * size)
    client.start(0.0)

    assert client.next_deadline() == pytest.approx(delay_s)


def test_a_message_says_for_how_long_the_client_has_tried() -> None:
    talk = Talk()
    talk.jump_to(3.7)
    assert talk.last_message().secs == 3
    talk.jump_to(70_000.0)
    assert talk.last_message().secs == 0xFFFF

    talk.offer()
    assert talk.last_message().secs == 0xFFFF


def test_a_request_is_repeated_after_1_2_and_4_seconds_and_given_up_8_later() -> None:
    talk = Talk()
    talk.offer(0.0)
    talk.forget()

    talk.wait_until(7.5)
    assert talk.did() == [REQUEST] * 3
    talk.wait_until(15.5)
    assert talk.did() == [DISCOVER]


def test_an_offer_after_the_first_is_ignored() -> None:
    talk = Talk()
    talk.offer(0.01)
    talk.forget()

    talk.offer(0.02, o54="c6336402")
    assert talk.did() == []


def test_an_offer_without_a_server_is_refused_and_the_next_one_taken() -> None:
    talk = Talk()
    talk.offer(0.01, o54=None)
    assert "does not name its server" in talk.client.what_was_heard
    assert talk.did() == [DISCOVER]

    talk.offer(0.02)
    assert talk.did() == [REQUEST]


@pytest.mark.parametrize(
    "yiaddr", [str(ANY), "127.0.0.1", "224.0.0.5", "255.255.255.255", "198.51.100.255"]
)
def test_an_offer_of_an_address_that_no_host_can_have_is_refused(yiaddr: str) -> None:
    talk = Talk()
    talk.hear(
        dhcp_frame(talk.reply(MessageType.OFFER, yiaddr=IPv4Address(yiaddr))), at=0.01
    )

    assert talk.did() == [DISCOVER]
    assert yiaddr in talk.client.what_was_heard
    assert "was refused" in talk.client.what_was_heard


def test_a_refusal_by_the_server_that_was_asked_leads_to_a_new_discover_later() -> None:
    talk = Talk()
    for wait_s in (1, 2, 4, 8, 16, 16):
        talk.offer()
        talk.forget()
        talk.nak()
        talk.wait_until(talk.now + wait_s * 0.95)
        assert talk.did() == []
        talk.wait_until(talk.now + wait_s * 0.1)
        assert talk.did() == [DISCOVER]
    assert f"server {SERVER_IP} answered NAK to a REQUEST" in talk.client.what_was_heard


def test_an_ack_that_cannot_be_used_is_no_lease() -> None:
    talk = Talk()
    talk.offer(0.0)
    talk.forget()

    talk.ack(o51="00000000")
    assert "the lease lasts 0 s" in talk.client.what_was_heard
    talk.wait_until(0.9)
    assert talk.did() == []
    talk.wait_until(1.1)
    assert talk.did() == [DISCOVER]


def test_an_ack_without_a_server_is_that_of_the_server_that_was_asked() -> None:
    talk = Talk()
    talk.offer(0.0)
    talk.ack(0.1, o54=None)
    talk.wait_until(0.5)

    assert talk.lease is not None
    assert talk.lease.server == SERVER_IP


@pytest.mark.parametrize(
    "kind", [MessageType.ACK, MessageType.REQUEST, MessageType.DISCOVER]
)
def test_other_messages_do_not_answer_a_discover(kind: MessageType) -> None:
    talk = Talk()
    talk.forget()

    talk.hear(dhcp_frame(talk.reply(kind)), at=0.01)
    assert talk.did() == []


@pytest.mark.parametrize("kind", [MessageType.OFFER, MessageType.DECLINE])
def test_other_messages_do_not_answer_a_request(kind: MessageType) -> None:
    talk = Talk()
    talk.offer(0.01)
    talk.forget()

    talk.hear(dhcp_frame(talk.reply(kind)), at=0.02)
    assert talk.did() == []


# --- what is not for the client ---


def test_an_answer_with_another_number_is_ignored() -> None:
    talk = Talk()
    talk.forget()

    talk.hear(dhcp_frame(talk.reply(MessageType.OFFER, xid=99)), at=0.01)
    assert talk.did() == []


def test_an_answer_to_another_client_is_ignored() -> None:
    talk = Talk()
    talk.forget()

    talk.hear(dhcp_frame(talk.reply(MessageType.OFFER, chaddr=STRANGER)), at=0.01)
    assert talk.did() == []


def test_requests_of_other_clients_are_ignored() -> None:
    talk = Talk()
    talk.forget()

    talk.hear(dhcp_frame(talk.reply(MessageType.OFFER, op=Op.REQUEST)), at=0.01)
    talk.hear(dhcp_frame(talk.reply(MessageType.OFFER), port=67))
    assert talk.did() == []


def test_our_own_frames_are_ignored_when_they_come_back() -> None:
    talk = Talk()
    talk.forget()

    talk.hear(dhcp_frame(talk.reply(MessageType.OFFER), source_mac=OURS), at=0.01)
    assert talk.did() == []


def test_fragments_and_other_protocols_are_ignored() -> None:
    talk = Talk()
    talk.forget()
    frame = dhcp_frame(talk.reply(MessageType.OFFER))
    fragment = bytearray(frame)
    fragment[14 + 6] |= 0x20  # more fragments follow
    fragment[14 + 10 : 14 + 12] = bytes(
        (fragment[24] - 0x20 & 0xFF, fragment[25])
    )  # and the checksum changes by as much
    tcp = encode_frame(
        Frame(
            OURS,
            SERVER,
            EtherType.IPV4,
            encode_ipv4(Ipv4Packet(SERVER_IP, ALL, IpProtocol.TCP, b"")),
        )
    )

    assert decode_ipv4(bytes(fragment[14:])).is_fragment
    for other in (bytes(fragment), tcp, frame[:12] + b"\x86\xdd" + frame[14:]):
        talk.hear(other)
    assert talk.did() == []


def test_a_late_or_doubled_answer_is_ignored() -> None:
    talk = Talk()
    offer = dhcp_frame(talk.reply(MessageType.OFFER))
    ack = dhcp_frame(talk.reply(MessageType.ACK))
    talk.get_lease()

    talk.hear(offer)
    talk.hear(ack)
    assert talk.did() == []


def test_nonsense_on_the_hub_is_survived_and_told() -> None:
    talk = Talk()
    talk.forget()
    nonsense = encode_udp(
        UdpDatagram(67, CLIENT_PORT, b"hello"),
        source=ANY,
        destination=ALL,
        checksum=True,
    )
    packet = encode_ipv4(Ipv4Packet(OTHER_SERVER_IP, ALL, IpProtocol.UDP, nonsense))
    frame = encode_frame(Frame(BROADCAST, SERVER, EtherType.IPV4, packet))

    for part in (b"", b"\0" * 13, frame[:14], frame[:34], frame[:36], frame):
        talk.hear(part)
    assert talk.did() == []
    assert f"{OTHER_SERVER_IP} sent what cannot be read" in talk.client.what_was_heard


# --- a remembered address ---


def test_a_remembered_address_is_asked_for_first() -> None:
    talk = Talk(remembered=OLD, start_at=60.0)
    assert talk.did() == [REBOOT]

    talk.ack(60.1)
    assert talk.did() == [PROBE]
    talk.wait_until(60.5)
    assert talk.did() == [ANNOUNCEMENT, f"obtained {OUR_IP}/24"]
    assert talk.lease is not None
    assert talk.lease.obtained_at == 60.0


def test_a_lost_reboot_request_is_repeated_once_and_silence_ends_after_two_seconds() -> (
    None
):
    talk = Talk(remembered=OLD)
    talk.forget()

    talk.wait_until(1.5)
    assert talk.did() == [REBOOT]
    talk.wait_until(2.0)
    assert talk.did() == [DISCOVER_50]


def test_the_answer_to_a_repeated_reboot_request_counts_from_the_repetition() -> None:
    talk = Talk(remembered=OLD)
    talk.ack(1.5)
    talk.wait_until(2.0)

    assert talk.lease is not None
    assert talk.lease.obtained_at == 1.0


def test_a_refused_reboot_leads_to_a_discover_at_once_for_any_address() -> None:
    talk = Talk(remembered=OLD)
    talk.forget()

    talk.nak(0.1)
    assert talk.did() == [DISCOVER]


def test_another_server_may_grant_the_remembered_address() -> None:
    talk = Talk(remembered=OLD)
    talk.ack(0.1, o54="c6336402")
    talk.wait_until(1.0)

    assert talk.lease is not None
    assert talk.lease.server == IPv4Address("198.51.100.2")


def test_a_server_that_does_not_name_itself_is_named_by_its_packet() -> None:
    talk = Talk(remembered=OLD)
    talk.ack(0.1, o54=None)
    talk.wait_until(1.0)

    assert talk.lease is not None
    assert talk.lease.server == SERVER_IP


def test_a_server_that_names_itself_nowhere_is_not_believed() -> None:
    talk = Talk(remembered=OLD)
    talk.forget()
    frame = dhcp_frame(talk.reply(MessageType.ACK, options={54: None}), source=ANY)

    talk.hear(frame, at=0.1)
    assert talk.did() == [DISCOVER]
    assert "no server can have the address 0.0.0.0" in talk.client.what_was_heard


def test_an_offer_does_not_answer_a_reboot_request() -> None:
    talk = Talk(remembered=OLD)
    talk.forget()

    talk.offer(0.1)
    assert talk.did() == []


def test_a_remembered_lease_that_has_expired_is_only_a_wish() -> None:
    talk = Talk(remembered=OLD, start_at=3600.0)

    assert talk.did() == [DISCOVER_50]


def test_a_remembered_lease_without_end_is_asked_for_however_old_it_is() -> None:
    talk = Talk(remembered=replace(OLD, expires_at=None), start_at=1e9)

    assert talk.did() == [REBOOT]


# --- is the address free? ---


@pytest.mark.parametrize(
    "frame",
    [
        CLAIM,
        arp_frame(ArpOperation.REQUEST, (STRANGER, OUR_IP), (NOBODY, SERVER_IP)),
        arp_frame(ArpOperation.REQUEST, (STRANGER, ANY), (NOBODY, OUR_IP)),
    ],
    ids=["answer", "question by the owner", "probe"],
)
def test_an_address_that_somebody_uses_is_declined_and_asked_anew_ten_seconds_later(
    frame: bytes,
) -> None:
    talk = Talk()
    talk.offer(0.0)
    talk.ack(0.1)
    talk.forget()

    talk.hear(frame, at=0.2)
    assert talk.did() == [DECLINE, f"conflict with {STRANGER}"]
    talk.wait_until(10.1)
    assert talk.did() == []
    talk.wait_until(10.2)
    assert talk.did() == [DISCOVER]
    assert f"used by another host, {STRANGER}" in talk.client.what_was_heard


@pytest.mark.parametrize(
    "frame",
    [
        QUESTION,
        arp_frame(ArpOperation.REPLY, (STRANGER, ANY), (NOBODY, OUR_IP)),
        arp_frame(ArpOperation.REQUEST, (STRANGER, ANY), (NOBODY, SERVER_IP)),
        arp_frame(
            ArpOperation.REQUEST, (OURS, OUR_IP), (NOBODY, OUR_IP), source=STRANGER
        ),
        CLAIM[:30],
    ],
    ids=["a question", "a reply of nobody", "another probe", "our own, bridged", "cut"],
)
def test_other_arp_is_no_objection(frame: bytes) -> None:
    talk = Talk()
    talk.offer(0.0)
    talk.ack(0.1)
    talk.forget()

    talk.hear(frame, at=0.2)
    talk.wait_until(0.5)
    assert talk.did() == [ANNOUNCEMENT, f"obtained {OUR_IP}/24"]


def test_an_address_is_defended_once_and_given_up_the_second_time() -> None:
    talk = Talk()
    talk.get_lease()

    talk.hear(CLAIM, at=5.0)
    assert talk.did() == [ANNOUNCEMENT]
    talk.hear(CLAIM, at=7.0)
    assert talk.did() == [
        DECLINE,
        f"lost: {OUR_IP} is used by another host too, {STRANGER}",
        f"conflict with {STRANGER}",
    ]
    talk.wait_until(17.0)
    assert talk.did() == [DISCOVER]


def test_a_conflict_now_and_then_is_defended_each_time() -> None:
    talk = Talk()
    talk.get_lease()

    for at in (5.0, 15.0, 25.0):
        talk.hear(CLAIM, at=at)
        assert talk.did() == [ANNOUNCEMENT]


def test_claims_that_were_on_their_way_before_our_defence_are_the_same_conflict() -> (
    None
):
    talk = Talk()
    talk.get_lease()

    talk.hear(CLAIM, at=5.0)
    talk.hear(CLAIM, at=5.1)
    assert talk.did() == [ANNOUNCEMENT]


# --- renewal ---


def test_a_lease_is_renewed_by_unicast_at_half_time() -> None:
    talk = Talk()
    talk.get_lease()

    talk.wait_until(1801.0)
    assert talk.did() == [RENEW]
    talk.ack(1801.5)
    assert talk.did() == [f"renewed {OUR_IP}/24"]
    assert talk.lease is not None
    assert talk.lease.expires_at == 1800.0 + 3600.0
    assert talk.client.next_deadline() == 1800.0 + 1800.0


def test_the_times_of_the_server_are_used_where_it_gives_some() -> None:
    talk = Talk()
    talk.get_lease(o58="00000064", o59="000000c8")

    assert talk.client.next_deadline() == 100.0


def test_a_renewal_is_repeated_at_half_of_the_rest_and_not_more_than_once_a_minute() -> (
    None
):
    talk = Talk()
    talk.get_lease()
    times: list[float] = []
    while not times or times[-1] < 3150.0:
        deadline = talk.client.next_deadline()
        assert deadline is not None
        times.append(deadline)
        talk.wait_until(deadline)

    assert times == [1800.0, 2475.0, 2812.5, 2981.25, 3065.625, 3125.625, 3150.0]


def test_at_t2_any_server_is_asked_and_the_address_kept() -> None:
    talk = Talk()
    talk.get_lease()
    talk.wait_until(3149.0)
    talk.forget()

    talk.wait_until(3150.0)
    assert talk.did() == [REBIND]
    talk.ack(3151.0, o54="c6336402")
    assert talk.did() == [f"renewed {OUR_IP}/24"]
    assert talk.lease is not None
    assert talk.lease.server == IPv4Address("198.51.100.2")


def test_rebinding_is_repeated_until_the_lease_ends_and_then_the_address_is_lost() -> (
    None
):
    talk = Talk()
    talk.get_lease()
    talk.wait_until(3151.0)
    talk.forget()

    talk.wait_until(3599.0)
    assert talk.did() == [REBIND] * 3  # at 3375, 3487.5 and 3547.5
    talk.wait_until(3600.0)
    assert talk.did() == [
        DISCOVER_50,
        f"lost: the lease of {OUR_IP} has expired: server {SERVER_IP} did not renew it",
    ]


def test_a_refused_renewal_costs_the_address_at_once() -> None:
    talk = Talk()
    talk.get_lease()
    talk.wait_until(1800.0)
    talk.forget()

    talk.nak(1800.1, o56=b"gone\0".hex())
    assert talk.did() == [
        DISCOVER,
        f"lost: server {SERVER_IP} took {OUR_IP} back ('gone')",
    ]


def test_a_renewal_with_other_settings_says_so() -> None:
    talk = Talk()
    talk.get_lease()
    talk.wait_until(1800.0)
    talk.forget()

    talk.ack(1800.1, o6="c6336401")
    assert talk.did() == [f"renewed {OUR_IP}/24 with changes"]


def test_a_renewal_that_gives_another_address_costs_ours() -> None:
    talk = Talk()
    talk.get_lease()
    talk.wait_until(1800.0)
    talk.forget()
    other = IPv4Address("198.51.100.51")

    talk.hear(dhcp_frame(talk.reply(MessageType.ACK, yiaddr=other)), at=1800.1)
    assert talk.did() == [
        f"DISCOVER 50={other} from 0.0.0.0 to all",
        f"lost: server {SERVER_IP} gave {other} instead of {OUR_IP}",
    ]


def test_a_renewal_that_makes_no_sense_is_as_good_as_none() -> None:
    talk = Talk()
    talk.get_lease()
    talk.wait_until(1800.0)
    talk.forget()

    talk.ack(1800.1, o1="00ff00ff")
    assert talk.did() == []
    assert "was refused" in talk.client.what_was_heard
    assert talk.client.next_deadline() == 2475.0


def test_an_offer_does_not_answer_a_renewal() -> None:
    talk = Talk()
    talk.get_lease()
    talk.wait_until(1800.0)
    talk.forget()

    talk.offer(1800.1)
    assert talk.did() == []


def test_the_server_is_asked_for_by_arp_when_a_renewal_was_not_answered() -> None:
    talk = Talk()
    talk.get_lease()
    talk.wait_until(1800.0)
    talk.forget()

    talk.wait_until(2475.0)
    assert talk.did() == [RENEW, f"ARP who has {SERVER_IP}"]


def test_a_server_that_has_moved_is_asked_again_at_once() -> None:
    talk = Talk()
    talk.get_lease()
    talk.wait_until(2475.0)
    talk.forget()

    talk.hear(moved_server(), at=2475.1)
    assert talk.did() == [f"REQUEST ciaddr={OUR_IP} from {OUR_IP} to {STRANGER}"]
    talk.ack(2475.2)
    assert talk.did() == [f"renewed {OUR_IP}/24"]


@pytest.mark.parametrize(
    "frame",
    [
        moved_server(SERVER),
        moved_server(BROADCAST),
        moved_server(ip=IPv4Address("198.51.100.7")),
        arp_frame(ArpOperation.REQUEST, (STRANGER, SERVER_IP), (NOBODY, ALL)),
    ],
    ids=["where it was", "nowhere", "another host", "a question"],
)
def test_other_arp_does_not_move_the_server(frame: bytes) -> None:
    talk = Talk()
    talk.get_lease()
    talk.wait_until(2475.0)
    talk.forget()

    talk.hear(frame, at=2475.1)
    assert talk.did() == []


def test_a_server_behind_a_relay_is_reached_by_the_relay_and_searched_by_the_router() -> (
    None
):
    talk = Talk()
    talk.get_lease(o54="cb007101")  # 203.0.113.1, not in 198.51.100.0/24
    talk.wait_until(1800.0)
    assert talk.did() == [RENEW]

    talk.wait_until(2475.0)
    assert talk.did() == [RENEW, f"ARP who has {SERVER_IP}"]  # our router
    renewal = decode_ipv4(decode_frame(talk.frames[-2]).payload)
    assert renewal.destination == IPv4Address("203.0.113.1")


def test_a_server_behind_a_relay_without_router_is_searched_by_nothing() -> None:
    talk = Talk()
    talk.get_lease(o54="cb007101", o3=None)
    talk.wait_until(1800.0)
    talk.forget()

    talk.wait_until(2475.0)
    assert talk.did() == [RENEW]


def test_a_server_whose_frames_do_not_tell_where_it_is_is_searched_at_once() -> None:
    talk = Talk()
    group = MacAddress.parse("01:00:5e:00:00:01")
    talk.offer(0.0)
    talk.hear(dhcp_frame(talk.reply(MessageType.ACK), source_mac=group))
    talk.wait_until(1.0)
    talk.forget()

    talk.wait_until(1800.0)
    assert talk.did() == [
        f"REQUEST ciaddr={OUR_IP} from {OUR_IP} to all",
        f"ARP who has {SERVER_IP}",
    ]
    talk.hear(moved_server(SERVER), at=1800.1)
    assert talk.did() == [RENEW]


# --- ARP while the address is ours ---


def test_arp_is_answered_while_the_host_does_not_have_the_address() -> None:
    talk = Talk()
    talk.get_lease()

    talk.hear(QUESTION, at=1.0)
    assert talk.did() == [f"ARP {OUR_IP} is ours, to {SERVER}"]


def test_arp_is_left_to_the_kernel_once_the_host_has_the_address() -> None:
    talk = Talk()
    talk.get_lease()
    talk.client.kernel_answers = True

    talk.hear(QUESTION, at=1.0)
    assert talk.did() == []


def test_questions_for_others_and_answers_to_us_are_not_answered() -> None:
    talk = Talk()
    talk.get_lease()

    for frame in (
        arp_frame(ArpOperation.REQUEST, (SERVER, SERVER_IP), (NOBODY, ALL)),
        arp_frame(ArpOperation.REPLY, (SERVER, SERVER_IP), (OURS, OUR_IP)),
    ):
        talk.hear(frame)
    assert talk.did() == []


def test_arp_is_not_answered_before_there_is_a_lease() -> None:
    talk = Talk()
    talk.forget()

    talk.hear(QUESTION, at=0.1)
    assert talk.did() == []


# --- the end ---


@pytest.mark.parametrize("at", [0.2, 10.0, 1900.0, 3200.0])
def test_a_lease_is_given_back_whatever_was_going_on_with_it(at: float) -> None:
    talk = Talk()
    talk.offer(0.0)
    talk.ack(0.1)
    talk.wait_until(at)
    talk.forget()

    talk.client.release(at)
    assert talk.did() == [RELEASE]


@pytest.mark.parametrize("is_asked", [False, True])
def test_without_a_lease_there_is_nothing_to_give_back(is_asked: bool) -> None:
    talk = Talk()
    if is_asked:
        talk.offer(0.0)
    talk.forget()

    talk.client.release(0.1)
    assert talk.did() == []


def test_a_client_that_was_never_started_waits_for_nothing_and_is_released() -> None:
    client = DhcpClient(mac=OURS, random=FixedRandom())

    assert client.next_deadline() is None
    client.handle_deadline(5.0)
    client.receive_frame(QUESTION, 5.0)
    client.release(5.0)
    assert client.frames_to_send() == []
    assert client.what_was_heard == "nothing was asked"


def test_after_its_release_the_client_is_silent_and_deaf() -> None:
    talk = Talk()
    talk.get_lease()
    talk.client.release(1.0)
    talk.forget()

    talk.hear(QUESTION)
    talk.hear(CLAIM)
    talk.ack()
    talk.client.release(2.0)
    assert talk.client.next_deadline() is None
    assert talk.did() == []


# --- what was heard ---


def test_silence_is_told_with_what_was_asked() -> None:
    talk = Talk()
    assert talk.client.what_was_heard == "no answer to 1 DISCOVER"
    talk.wait_until(8.0)
    assert talk.client.what_was_heard == "no answer to 4 DISCOVERs"

    reboot = Talk(remembered=OLD)
    reboot.wait_until(2.0)
    assert reboot.client.what_was_heard == "no answer to 2 REQUESTs and 1 DISCOVER"


def test_a_server_that_offers_and_never_grants_is_told() -> None:
    talk = Talk()
    talk.offer(0.0)
    talk.wait_until(20.0)

    assert talk.client.what_was_heard == (
        f"server {SERVER_IP} offered {OUR_IP}/24; server {SERVER_IP} did not grant its"
        " offer; sent: 4 DISCOVERs and 4 REQUESTs"
    )


def test_what_led_to_a_lease_is_forgotten_with_it() -> None:
    talk = Talk()
    talk.get_lease()

    assert talk.client.what_was_heard == "nothing was asked"


def test_only_the_newest_few_things_heard_are_kept() -> None:
    talk = Talk()
    for number in range(100):
        talk.nak(o56=f"{number:02x}".encode().hex())

    heard = talk.client.what_was_heard
    assert heard.count("NAK") == 4
    assert "('63')" in heard
    assert "('5f')" not in heard


def test_the_words_of_a_server_are_shown_harmless_and_short() -> None:
    talk = Talk()
    talk.nak(o56=(b"\x1b[31m\n" + b"x" * 200).hex())

    heard = talk.client.what_was_heard
    assert heard.isprintable()
    assert "\\x1b[31m\\n" in heard
    assert "x" * 80 not in heard


# --- timers ---


def every_state() -> dict[str, Talk]:
    """A client in each state that has a deadline."""
    talks = {
        name: Talk() for name in ("selecting", "requesting", "checking", "waiting")
    }
    talks["rebooting"] = Talk(remembered=OLD)
    for name in ("requesting", "checking", "waiting"):
        talks[name].offer(0.0)
    talks["checking"].ack()
    talks["waiting"].nak()
    for name, at in (("bound", 1.0), ("renewing", 1800.0), ("rebinding", 3150.0)):
        talks[name] = Talk()
        talks[name].get_lease()
        talks[name].wait_until(at)
    for talk in talks.values():
        talk.forget()
    return talks


@pytest.mark.parametrize("name", every_state())
def test_a_deadline_that_fires_early_or_twice_does_no_harm(name: str) -> None:
    talk = every_state()[name]
    deadline = talk.client.next_deadline()
    assert deadline is not None

    talk.client.handle_deadline(deadline - 0.001)
    assert talk.did() == []
    assert talk.client.next_deadline() == deadline
    talk.client.handle_deadline(deadline)
    assert talk.did() != []
    talk.client.handle_deadline(deadline)
    assert talk.did() == []


@pytest.mark.parametrize("name", every_state())
def test_after_a_day_of_suspend_at_most_one_thing_is_sent_and_nothing_is_caught_up(
    name: str,
) -> None:
    talk = every_state()[name]

    talk.jump_to(86_400.0)
    did = talk.did()

    assert len([line for line in did if "to all" in line or "to 5e" in line]) <= 1
    deadline = talk.client.next_deadline()
    assert deadline is not None
    assert deadline > 86_400.0


def test_a_lease_that_ends_in_a_suspend_before_its_first_use_is_none() -> None:
    talk = Talk()
    talk.offer(0.0)
    talk.ack(0.1)
    talk.forget()

    talk.jump_to(4000.0)
    assert talk.did() == [DISCOVER_50]


@pytest.mark.parametrize(
    ("at", "expected"), [(2000.0, RENEW), (3300.0, REBIND), (4000.0, DISCOVER_50)]
)
def test_a_lease_found_after_suspend_is_treated_by_what_time_it_is(
    at: float, expected: str
) -> None:
    talk = Talk()
    talk.get_lease()

    talk.jump_to(at)
    assert talk.did()[0] == expected


def test_an_answer_that_comes_before_a_late_timer_is_taken() -> None:
    talk = Talk()
    talk.get_lease()
    talk.wait_until(3590.0)
    talk.forget()
    ack = dhcp_frame(talk.reply(MessageType.ACK))

    talk.client.receive_frame(ack, 3600.5)
    talk.now = 3600.5
    assert talk.did() == [f"renewed {OUR_IP}/24"]


# --- anything ---


def test_any_dialogue_leaves_the_client_alive_and_its_frames_whole() -> None:
    rng = random.Random(5227)
    for _ in range(60):
        talk = Talk(remembered=rng.choice([None, OLD]))
        for _ in range(40):
            match rng.randrange(7):
                case 0:
                    talk.offer()
                case 1:
                    talk.ack(o51=rng.choice(["00000e10", "ffffffff", "00000001"]))
                case 2:
                    talk.nak(o54=rng.choice(["c6336401", "c0a81e01"]))
                case 3:
                    talk.hear(rng.choice([CLAIM, QUESTION, moved_server()]))
                case 4:
                    frame = bytearray(dhcp_frame(talk.reply(MessageType.ACK)))
                    frame[rng.randrange(len(frame))] = rng.randrange(256)
                    talk.hear(bytes(frame))
                case 5:
                    talk.jump_to(talk.now + rng.random() * 4000)
                case _:
                    talk.wait_until(talk.now + rng.random() * 30)
        assert talk.client.what_was_heard
        talk.client.release(talk.now)
        talk.did()
        assert talk.client.next_deadline() is None


def test_the_flag_for_broadcast_answers_is_set_only_while_we_have_no_address() -> None:
    talk = Talk()
    talk.get_lease()
    talk.wait_until(3150.0)
    flags = {
        (int(message.ciaddr) != 0, message.flags)
        for message in (
            decode_dhcp(frame)
            for frame in talk.frames
            if decode_frame(frame).ethertype == EtherType.IPV4
        )
    }

    assert flags == {(False, BROADCAST_FLAG), (True, 0)}


def test_an_infinite_lease_never_wakes_anybody() -> None:
    talk = Talk()
    lease = talk.get_lease(o51="ffffffff")

    assert lease.expires_at is None
    assert talk.client.next_deadline() is None


def test_a_hub_is_no_other_host_even_if_it_polls_from_our_address() -> None:
    talk = Talk()
    talk.get_lease()

    talk.hear(arp_frame(ArpOperation.REQUEST, (HUB, OUR_IP), (NOBODY, SERVER_IP)))
    assert talk.did() == []


def test_options_of_an_ack_reach_the_lease() -> None:
    talk = Talk()
    lease = talk.get_lease(o15=b"lab.example".hex(), o26="0578")

    assert (lease.domain, lease.mtu) == ("lab.example", 1400)
    assert Option.HOST_NAME not in talk.last_message().options
