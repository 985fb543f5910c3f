# SPDX-License-Identifier: Apache-2.0
"""What real hubs, SecureNAT and DHCP servers do otherwise than the RFCs: one test each.

docs/reference/dhcp.md#quirks lists them with the names of these tests.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import dpkt
import pytest

from dhcp_talk import (
    ANY,
    HUB,
    NOBODY,
    OTHER_SERVER_IP,
    OUR_IP,
    OURS,
    SERVER,
    SERVER_IP,
    STRANGER,
    USUAL,
    Talk,
    arp_frame,
    decode_dhcp,
    dhcp_frame,
)
from sevpn.protocol.dhcp import Lease, StaticRoute
from sevpn.wire.arp import ArpOperation
from sevpn.wire.dhcpv4 import (
    Message,
    MessageType,
    Op,
    Option,
    encode_classless_routes,
    encode_message,
)
from sevpn.wire.ethernet import BROADCAST, EtherType, decode_frame
from sevpn.wire.udp import UdpDatagram, udp_frame

OTHER_SERVER = OTHER_SERVER_IP.packed.hex()

REMEMBERED = Lease(
    address=IPv4Interface((int(OUR_IP), 24)),
    server=SERVER_IP,
    server_mac=SERVER,
    obtained_at=0.0,
    renew_at=3600.0,
    rebind_at=6300.0,
    expires_at=7200.0,
)


def all_kinds_of_messages() -> dict[str, bytes]:
    """Each message that the client can send, as a frame."""
    talk = Talk(hostname="laptop", remembered=REMEMBERED)
    talk.nak()
    talk.offer()
    talk.ack()
    talk.wait_until(3200.0)
    talk.client.release(3200.0)
    talk.did()
    conflict = Talk()
    conflict.offer()
    conflict.ack()
    conflict.hear(arp_frame(ArpOperation.REPLY, (STRANGER, OUR_IP), (NOBODY, OUR_IP)))
    frames: dict[str, bytes] = {}
    for frame in talk.frames + conflict.frames:
        if decode_frame(frame).ethertype == EtherType.IPV4:
            message = decode_dhcp(frame)
            assert message.message_type is not None
            has_50 = Option.REQUESTED_ADDRESS in message.options
            has_54 = Option.SERVER_ID in message.options
            to = decode_frame(frame).destination
            frames[f"{message.message_type.name} {has_50:d}{has_54:d} {to}"] = frame
    return frames


MESSAGES = all_kinds_of_messages()
each_message = pytest.mark.parametrize("frame", MESSAGES.values(), ids=MESSAGES)


def securenat_ack(talk: Talk, tail: bytes) -> bytes:
    """An ACK as SecureNAT builds it, with *tail* for its last options."""
    head = bytes.fromhex("350105 3604c6336401 330400001c20 0104ffffff00 0304c6336401")
    bare = Message(
        op=Op.REPLY,
        xid=talk.last_message().xid,
        chaddr=OURS,
        yiaddr=OUR_IP,
        siaddr=SERVER_IP,
    )
    data = encode_message(bare, min_size=0)[:-1] + head + tail + b"\xff"
    return udp_frame(
        UdpDatagram(67, 68, data.ljust(300, b"\0")),
        source_mac=SERVER,
        destination_mac=BROADCAST,
        source=SERVER_IP,
        destination=IPv4Address("255.255.255.255"),
    )


def lease_of_securenat(tail: bytes) -> Lease:
    talk = Talk()
    talk.offer()
    talk.hear(securenat_ack(talk, tail))
    talk.wait_until(1.0)
    assert talk.lease is not None
    return talk.lease


def test_all_seven_kinds_of_messages_are_looked_at() -> None:
    assert len(MESSAGES) == 7


# --- what SecureNAT expects of a message ---


@each_message
def test_no_pad_stands_before_the_end_mark(frame: bytes) -> None:
    # SecureNAT takes the byte behind a pad for its size and does not answer.
    options = dpkt.dhcp.DHCP(bytes(dpkt.ethernet.Ethernet(frame).data.data.data)).opts
    data = frame[14 + 20 + 8 + 240 :]
    size = sum(2 + len(value) for _, value in options)

    assert all(code != 0 for code, _ in options)
    assert data[size] == 255
    assert not any(data[size + 1 :])


@each_message
def test_each_option_stands_in_one_piece(frame: bytes) -> None:
    options = dpkt.dhcp.DHCP(bytes(dpkt.ethernet.Ethernet(frame).data.data.data)).opts

    assert len({code for code, _ in options}) == len(options)


@each_message
def test_udp_checksums_are_zero_because_a_server_may_write_into_siaddr(
    frame: bytes,
) -> None:
    # SoftEther 5.02 writes the user's address into siaddr of DISCOVER and REQUEST
    # and leaves the checksum as it was.
    assert struct.unpack_from("!H", frame, 14 + 20 + 6) == (0,)


@each_message
def test_source_address_chaddr_and_client_id_are_the_same_mac(frame: bytes) -> None:
    # SecureNAT knows a lease by the frame's source, others by the client ID.
    message = decode_dhcp(frame)

    assert decode_frame(frame).source == message.chaddr == OURS
    assert message.options[Option.CLIENT_ID] == b"\1" + OURS.octets


@each_message
def test_broadcasts_come_from_nobody_and_unicasts_from_the_leased_address(
    frame: bytes,
) -> None:
    # SecureNAT renews what the packet's source address says, and answers there.
    packet = dpkt.ethernet.Ethernet(frame).data
    expected = ANY if decode_frame(frame).destination == BROADCAST else OUR_IP

    assert packet.src == expected.packed


@pytest.mark.parametrize("name", ["securenat-1", "SecureNAT_x", "SECURENAT-"])
def test_a_host_name_that_securenat_does_not_answer_is_left_out(name: str) -> None:
    talk = Talk(hostname=name)

    assert Option.HOST_NAME not in talk.last_message().options


def test_any_other_host_name_is_told() -> None:
    talk = Talk(hostname="securenatural")

    assert talk.last_message().options[Option.HOST_NAME] == b"securenatural"


def test_routes_are_asked_for_before_the_router() -> None:
    wanted = Talk().last_message().options[Option.PARAMETER_LIST]

    assert wanted.index(Option.CLASSLESS_ROUTES) < wanted.index(Option.ROUTERS)
    assert set(wanted) == {1, 3, 6, 12, 15, 26, 33, 42, 51, 54, 58, 59, 119, 121, 249}


def test_an_offer_is_taken_at_once_because_securenat_keeps_it_for_five_seconds() -> (
    None
):
    talk = Talk()
    talk.forget()

    talk.offer(0.7)
    assert talk.did() == [f"REQUEST 50={OUR_IP} 54={SERVER_IP} from 0.0.0.0 to all"]


# --- what SecureNAT answers ---


def test_a_lease_without_58_and_59_is_renewed_at_half_and_rebound_at_seven_eighths() -> (
    None
):
    lease = lease_of_securenat(b"")

    assert (lease.renew_at, lease.rebind_at, lease.expires_at) == (
        3600.0,
        6300.0,
        7200.0,
    )


def test_an_infinite_lease_is_sent_as_all_ones() -> None:
    talk = Talk()
    lease = talk.get_lease(o51="ffffffff")

    assert lease.expires_at is None
    assert lease.renew_at == lease.rebind_at == float("inf")


def test_options_121_and_249_are_the_same_and_the_router_beside_them_is_kept() -> None:
    # SecureNAT's 121 has no default route; the host part decides, and warns.
    routes = bytes.fromhex("18cb0071c6336401")
    lease = lease_of_securenat(b"\x79\x08" + routes + b"\xf9\x08" + routes)

    assert lease.classless_routes == (
        StaticRoute(IPv4Network("203.0.113.0/24"), SERVER_IP),
    )
    assert lease.router == SERVER_IP


def test_a_hub_without_gateway_leaves_the_router_out() -> None:
    talk = Talk()

    assert talk.get_lease(o3=None).router is None


@pytest.mark.parametrize("route_count", [33, 64, 70])
def test_routes_beyond_255_bytes_follow_as_option_250(route_count: int) -> None:
    routes = tuple(
        StaticRoute(IPv4Network((0x0A000000 + (number << 8), 24)), SERVER_IP)
        for number in range(route_count)
    )
    value = encode_classless_routes(routes)
    pieces = [value[at : at + 255] for at in range(0, len(value), 255)]
    tail = b""
    for first in (121, 249):
        codes = [first] + [250] * (len(pieces) - 1)
        for code, piece in zip(codes, pieces, strict=True):
            tail += bytes([code, len(piece)]) + piece

    assert lease_of_securenat(tail).classless_routes == routes


def test_an_empty_pool_answers_a_discover_with_nak_which_is_told_and_not_a_reason_to_hurry() -> (
    None
):
    talk = Talk()
    talk.forget()
    # 53, 54 and 1 are all that a NAK of SecureNAT has.
    for _ in range(50):
        talk.nak(0.1, o51=None, o3=None)
    assert talk.did() == []
    assert talk.client.what_was_heard == (
        f"server {SERVER_IP} answered NAK to a DISCOVER:"
        " it may have no free address; sent: 1 DISCOVER"
    )

    talk.wait_until(1.1)
    assert talk.did() == ["DISCOVER from 0.0.0.0 to all"]


def test_an_empty_pool_of_a_newer_server_is_silent_which_is_told() -> None:
    talk = Talk()
    talk.wait_until(20.0)

    assert talk.client.what_was_heard == "no answer to 5 DISCOVERs"


def test_a_nak_by_a_server_that_was_not_asked_is_ignored() -> None:
    # SecureNAT refuses what another server offered: it does not look at option 54.
    talk = Talk()
    talk.offer()
    talk.forget()

    talk.nak(0.01, o54=OTHER_SERVER)
    talk.nak(0.02, o54=None)
    assert talk.did() == []
    talk.ack(0.03)
    assert talk.did() == [f"ARP probe {OUR_IP}"]


def test_a_nak_by_an_unknown_server_does_not_end_a_reboot() -> None:
    talk = Talk(remembered=REMEMBERED)
    talk.forget()

    talk.nak(0.01, o54=OTHER_SERVER)
    assert talk.did() == []
    assert f"a NAK by {OTHER_SERVER_IP} was ignored" in talk.client.what_was_heard


def test_a_nak_by_an_unknown_server_does_not_cost_the_address() -> None:
    talk = Talk()
    talk.get_lease()
    talk.wait_until(3150.0)
    talk.forget()

    talk.nak(3150.1, o54=OTHER_SERVER)
    assert talk.did() == []


def test_an_ack_by_a_server_that_was_not_asked_is_told_and_ignored() -> None:
    talk = Talk()
    talk.offer()
    talk.forget()

    talk.ack(0.01, o54=OTHER_SERVER)
    assert talk.did() == []
    assert f"server {OTHER_SERVER_IP} answered a REQUEST to {SERVER_IP}" in (
        talk.client.what_was_heard
    )
    talk.ack(0.02)
    talk.wait_until(0.4)
    assert talk.lease is not None
    assert talk.lease.server == SERVER_IP


@pytest.mark.parametrize("destination", [BROADCAST, OURS], ids=["broadcast", "unicast"])
def test_answers_may_be_broadcast_or_not_whatever_the_flag_said(
    destination: object,
) -> None:
    talk = Talk()
    to = BROADCAST if destination is BROADCAST else OURS
    talk.forget()
    message = talk.reply(MessageType.OFFER)

    talk.hear(dhcp_frame(message, destination_mac=to, destination=OUR_IP))
    assert len(talk.did()) == 1


def test_what_the_server_says_in_siaddr_means_nothing() -> None:
    talk = Talk()
    talk.forget()
    usual = talk.reply(MessageType.OFFER)
    message = Message(
        op=usual.op,
        xid=usual.xid,
        chaddr=OURS,
        yiaddr=OUR_IP,
        siaddr=IPv4Address("203.0.113.99"),
        options=usual.options,
    )

    talk.hear(dhcp_frame(message))
    assert talk.did() == [f"REQUEST 50={OUR_IP} 54={SERVER_IP} from 0.0.0.0 to all"]


def test_a_server_asks_for_us_by_arp_during_a_renewal_and_is_answered() -> None:
    # SecureNAT sends its answer by unicast and has no other way to find us.
    talk = Talk()
    talk.get_lease()
    talk.wait_until(1800.0)
    talk.forget()

    talk.hear(
        arp_frame(ArpOperation.REQUEST, (SERVER, SERVER_IP), (NOBODY, OUR_IP)),
        at=1800.1,
    )
    assert talk.did() == [f"ARP {OUR_IP} is ours, to {SERVER}"]
    message = talk.reply(MessageType.ACK)
    talk.hear(dhcp_frame(message, destination_mac=OURS, destination=OUR_IP), at=1800.2)
    assert talk.did() == [f"renewed {OUR_IP}/24"]


def test_a_silent_server_is_asked_by_broadcast_in_time() -> None:
    talk = Talk()
    talk.get_lease()
    talk.wait_until(3150.0)

    assert talk.did()[-1] == f"REQUEST ciaddr={OUR_IP} from 0.0.0.0 to all"


def test_a_server_that_forgot_all_leases_refuses_ours_and_gives_another() -> None:
    # SecureNAT keeps its table in memory only.
    talk = Talk()
    talk.get_lease()
    talk.wait_until(1800.0)
    talk.nak(1800.1)
    talk.forget()

    talk.hear(
        dhcp_frame(talk.reply(MessageType.OFFER, yiaddr=IPv4Address("198.51.100.60"))),
        at=1800.2,
    )
    assert talk.did() == [
        f"REQUEST 50=198.51.100.60 54={SERVER_IP} from 0.0.0.0 to all"
    ]


def test_a_release_is_not_answered_and_not_waited_for_and_the_address_comes_again() -> (
    None
):
    # SecureNAT ignores RELEASE: the lease stays ours until it expires.
    talk = Talk()
    lease = talk.get_lease()
    talk.client.release(10.0)
    assert len(talk.did()) == 1
    assert talk.client.next_deadline() is None

    again = Talk(remembered=lease, start_at=20.0)
    again.ack(20.1)
    again.wait_until(21.0)
    assert again.lease is not None
    assert again.lease.address == lease.address


def test_a_refused_reboot_of_a_user_with_a_fixed_address_leads_to_that_address() -> (
    None
):
    # SoftEther 5.02 refuses any other address than that of the user's note.
    talk = Talk(remembered=REMEMBERED)
    talk.nak(0.1)
    talk.forget()

    talk.hear(
        dhcp_frame(talk.reply(MessageType.OFFER, yiaddr=IPv4Address("198.51.100.222")))
    )
    assert talk.did() == [
        f"REQUEST 50=198.51.100.222 54={SERVER_IP} from 0.0.0.0 to all"
    ]


# --- what the hub does ---


def test_each_session_needs_an_exchange_before_the_address_is_used() -> None:
    # A hub with DHCPForce forgets the lease with the session.
    talk = Talk(remembered=REMEMBERED)
    assert talk.did() == [f"REQUEST 50={OUR_IP} from 0.0.0.0 to all"]
    assert Option.SERVER_ID not in talk.last_message().options

    talk.wait_until(1.9)
    assert talk.lease is None
    talk.ack(1.95)
    talk.wait_until(2.3)
    assert talk.lease is not None


def test_silence_after_a_reboot_request_leads_to_a_discover_after_two_seconds() -> None:
    talk = Talk(remembered=REMEMBERED)
    talk.wait_until(1.99)
    talk.forget()

    talk.wait_until(2.0)
    assert talk.did() == [f"DISCOVER 50={OUR_IP} from 0.0.0.0 to all"]


def test_a_new_session_moves_the_mac_address_by_an_announcement() -> None:
    # The hub learns a moved MAC by its first frame, neighbours by gratuitous ARP.
    talk = Talk(remembered=REMEMBERED)
    talk.ack(0.1)
    talk.wait_until(0.5)

    assert f"ARP announcement {OUR_IP}" in talk.did()


def test_the_hubs_polls_are_answered_while_the_host_does_not_have_the_address() -> None:
    talk = Talk()
    talk.get_lease()
    poll = arp_frame(
        ArpOperation.REQUEST,
        (HUB, IPv4Address("172.31.7.7")),
        (NOBODY, OUR_IP),
        to=OURS,
    )

    talk.hear(poll, at=5.0)
    assert talk.did() == [f"ARP {OUR_IP} is ours, to {HUB}"]


def test_a_poll_from_an_address_that_happens_to_be_ours_is_no_conflict() -> None:
    # A hub makes up 172.31.a.b, which a DHCP server may give to us.
    ours = IPv4Address("172.31.7.7")
    talk = Talk()
    talk.hear(dhcp_frame(talk.reply(MessageType.OFFER, yiaddr=ours)))
    talk.hear(dhcp_frame(talk.reply(MessageType.ACK, yiaddr=ours)))
    talk.wait_until(1.0)
    talk.forget()

    poll = arp_frame(ArpOperation.REQUEST, (HUB, ours), (NOBODY, ours), to=OURS)
    talk.hear(poll, at=5.0)
    talk.hear(poll, at=7.0)
    assert not [line for line in talk.did() if "DECLINE" in line or "lost" in line]


def test_frames_that_the_hub_cut_to_less_than_60_bytes_are_read() -> None:
    talk = Talk()
    talk.get_lease()
    poll = arp_frame(ArpOperation.REQUEST, (SERVER, SERVER_IP), (NOBODY, OUR_IP))
    assert len(poll) == 42

    talk.hear(poll)
    assert len(talk.did()) == 1


def test_messages_without_padding_and_end_mark_are_read() -> None:
    talk = Talk()
    talk.forget()
    message = talk.reply(MessageType.OFFER)
    data = encode_message(message, min_size=0)[:-1]
    frame = udp_frame(
        UdpDatagram(67, 68, data),
        source_mac=SERVER,
        destination_mac=BROADCAST,
        source=SERVER_IP,
        destination=IPv4Address("255.255.255.255"),
    )

    talk.hear(frame)
    assert len(talk.did()) == 1


def test_an_unfinished_udp_checksum_is_no_reason_to_ignore_an_answer() -> None:
    # A server on a virtual network card leaves the sum to a card that does not exist.
    talk = Talk()
    talk.forget()
    frame = bytearray(dhcp_frame(talk.reply(MessageType.OFFER, options=USUAL)))
    frame[40:42] = b"\x2b\xb9"

    talk.hear(bytes(frame))
    assert len(talk.did()) == 1
