# SPDX-License-Identifier: Apache-2.0
"""IPv6 of a session: dialogues with a router and a DHCPv6 server."""

from __future__ import annotations

import itertools
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Any

import pytest
from scapy.layers.dhcp6 import (
    DUID_LL,
    DHCP6_Advertise,
    DHCP6_Reply,
    DHCP6OptClientId,
    DHCP6OptDNSServers,
    DHCP6OptIA_NA,
    DHCP6OptIAAddress,
    DHCP6OptInfoRefreshTime,
    DHCP6OptRapidCommit,
    DHCP6OptServerId,
    DHCP6OptStatusCode,
)
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    IPv6,
)
from scapy.layers.l2 import Ether

from sevpn.protocol.ipv6 import Ipv6Client, Ipv6Settings
from sevpn.wire.dhcpv6 import Dhcpv6Message, Dhcpv6Type, decode_dhcpv6
from sevpn.wire.ethernet import EtherType, Frame, MacAddress, decode_frame, encode_frame
from sevpn.wire.ipv6 import decode_ipv6, link_local
from sevpn.wire.nd import (
    NeighbourAdvertisement,
    NeighbourSolicitation,
    decode_nd,
    encode_nd,
)

MAC = MacAddress.parse("5e:00:00:00:00:01")
OTHER = MacAddress.parse("5e:00:00:00:00:02")
OWN = link_local(MAC)
ROUTER = IPv6Address("fe80::1")
LEASED = "2001:db8::5"
CLIENT = DHCP6OptClientId(duid=DUID_LL(lladdr=str(MAC)))
SERVER = DHCP6OptServerId(duid=DUID_LL(lladdr=str(OTHER)))


class Link:
    """A client, and what one does to it."""

    def __init__(self) -> None:
        self.client = Ipv6Client(mac=MAC, random=lambda size: b"\x80" * size)
        self.now = 0.0
        self.client.start(self.now)
        self.client.frames_to_send()

    def router(self, *options: Any, **fields: Any) -> None:
        said: dict[str, Any] = {"prf": 0, "routerlifetime": 1800} | fields
        packet = IPv6(src=str(ROUTER), dst="ff02::1", hlim=255) / ICMPv6ND_RA(**said)
        for option in options:
            packet /= option
        self.frame(bytes(packet))

    def frame(self, packet: bytes, ethertype: EtherType = EtherType.IPV6) -> None:
        frame = encode_frame(Frame(MAC, OTHER, ethertype, packet))
        self.client.receive_frame(frame, self.now)

    def answer(
        self, message: object, *options: object, to: str = str(OWN), port: int = 546
    ) -> None:
        packet = IPv6(src=str(ROUTER), dst=to) / UDP(sport=547, dport=port) / message
        for option in options:
            packet /= option
        self.frame(bytes(packet))

    def sent(self) -> list[Dhcpv6Message]:
        """Return the DHCPv6 messages that went out."""
        read = []
        for frame in self.client.frames_to_send():
            packet = decode_ipv6(decode_frame(frame).payload)
            assert packet.destination == IPv6Address("ff02::1:2")
            message = decode_dhcpv6(packet.payload[8:])
            assert message is not None
            read.append(message)
        return read

    def one(self, kind: Dhcpv6Type) -> Dhcpv6Message:
        (message,) = self.sent()
        assert message.kind is kind
        return message

    def wait(self) -> None:
        """Let time pass up to the next deadline."""
        at = self.client.next_deadline()
        assert at is not None
        self.now = max(self.now, at)
        self.client.handle_deadline(self.now)

    def reply(
        self,
        *options: object,
        number: int = 0x808080,
        to: str = str(OWN),
        port: int = 546,
    ) -> None:
        message = DHCP6_Reply(trid=number)
        self.answer(message, CLIENT, SERVER, *options, to=to, port=port)


def association(
    address: str = LEASED,
    *,
    preferred_s: int = 200,
    valid_s: int = 300,
    t1: int = 100,
    t2: int = 160,
    number: int = 1,
) -> object:
    return DHCP6OptIA_NA(
        iaid=number,
        T1=t1,
        T2=t2,
        ianaopts=[
            DHCP6OptIAAddress(addr=address, preflft=preferred_s, validlft=valid_s)
        ],
    )


@pytest.fixture
def link() -> Link:
    return Link()


@pytest.fixture
def bound(link: Link) -> Link:
    """With an address by DHCPv6, at time 0."""
    link.router(M=1)
    link.one(Dhcpv6Type.SOLICIT)
    link.reply(association(), DHCP6OptRapidCommit())
    assert leased(link) == LEASED
    return link


def leased(link: Link) -> str | None:
    addresses = [
        a for a in link.client.settings.addresses if a.network.prefixlen == 128
    ]
    return str(addresses[0].ip) if addresses else None


# --- routers ---------------------------------------------------------------------


def test_routers_are_asked_as_soon_as_there_is_a_session() -> None:
    client = Ipv6Client(mac=MAC, random=bytes)
    client.start(0.0)

    (frame,) = client.frames_to_send()

    assert Ether(frame).dst == "33:33:00:00:00:02"
    assert client.next_deadline() == 1.0
    client.handle_deadline(1.0)
    assert len(client.frames_to_send()) == 1


def test_what_a_router_offers_is_a_change_and_told_once(link: Link) -> None:
    assert not link.client.has_changed()

    link.router(
        ICMPv6NDOptPrefixInfo(prefixlen=64, prefix="2001:db8:5::"),
        ICMPv6NDOptRDNSS(lifetime=300, dns=["2001:db8::53"]),
    )

    assert link.client.has_changed()
    assert not link.client.has_changed()
    settings = link.client.settings
    assert settings.router == ROUTER
    assert [str(a) for a in settings.addresses] == ["2001:db8:5:0:5c00:ff:fe00:1/64"]
    assert settings.dns == (IPv6Address("2001:db8::53"),)
    assert link.sent() == []


def test_broken_and_foreign_frames_change_nothing(link: Link) -> None:
    link.frame(b"\x60" + bytes(20))
    link.frame(bytes(28), EtherType.ARP)
    link.frame(bytes(IPv6(src="::1", dst=str(OWN), nh=59)))
    link.client.receive_frame(b"", 0.0)

    assert link.client.settings == Ipv6Settings()


# --- neighbours --------------------------------------------------------------------


def question(source: IPv6Address, target: IPv6Address = OWN) -> bytes:
    return encode_nd(NeighbourSolicitation(source, target, target, OTHER))


def test_who_asks_for_our_address_before_the_kernel_can_is_answered(link: Link) -> None:
    link.frame(question(ROUTER))

    (frame,) = link.client.frames_to_send()
    answer = decode_nd(decode_frame(frame).payload)
    assert isinstance(answer, NeighbourAdvertisement)
    assert (answer.target, answer.target_mac, answer.destination) == (OWN, MAC, ROUTER)


def test_what_is_not_ours_to_answer_is_not_answered(link: Link) -> None:
    link.frame(question(ROUTER, IPv6Address("fe80::9")))
    link.frame(question(IPv6Address("::")))
    link.frame(encode_nd(NeighbourAdvertisement(ROUTER, OWN, ROUTER, OTHER)))
    link.client.kernel_answers = True
    link.frame(question(ROUTER))

    assert link.client.frames_to_send() == []


# --- DHCPv6 with an address ---------------------------------------------------------


def test_an_address_is_had_with_two_messages(bound: Link) -> None:
    assert bound.client.next_deadline() == 100.0


def test_an_address_is_had_with_four_messages(link: Link) -> None:
    link.router(M=1)
    link.one(Dhcpv6Type.SOLICIT)
    link.answer(DHCP6_Advertise(trid=0x808080), CLIENT, SERVER, association())
    request = link.one(Dhcpv6Type.REQUEST)
    assert str(request.addresses[0].address) == LEASED

    link.reply(association(), DHCP6OptDNSServers(dnsservers=["2001:db8::53"]))

    assert leased(link) == LEASED
    assert link.client.settings.dns == (IPv6Address("2001:db8::53"),)


@pytest.mark.parametrize(
    "option",
    [
        DHCP6OptStatusCode(statuscode=2),
        association(number=2),
        association(valid_s=0, preferred_s=0),
        association(preferred_s=400),
        association("ff02::5"),
        association("fe80::5"),
        association("::"),
        association("::1"),
    ],
    ids=["status", "not ours", "over", "preferred", "group", "link", "none", "loop"],
)
def test_an_offer_of_nothing_usable_is_passed_over(link: Link, option: object) -> None:
    link.router(M=1)
    link.sent()
    link.answer(DHCP6_Advertise(trid=0x808080), CLIENT, SERVER, option)

    assert link.sent() == []
    link.wait()
    link.one(Dhcpv6Type.SOLICIT)


@pytest.mark.parametrize(
    "reply",
    [
        {"number": 1},
        {"to": "fe80::9"},
        {"port": 547},
    ],
    ids=["another transaction", "another host", "another port"],
)
def test_an_answer_to_somebody_else_is_passed_over(
    link: Link, reply: dict[str, Any]
) -> None:
    link.router(M=1)
    link.sent()

    link.reply(association(), DHCP6OptRapidCommit(), **reply)

    assert leased(link) is None


def test_answers_without_names_or_of_a_client_are_passed_over(link: Link) -> None:
    link.router(M=1)
    link.sent()
    rapid = (association(), DHCP6OptRapidCommit())
    link.answer(DHCP6_Reply(trid=0x808080), CLIENT, *rapid)
    link.answer(DHCP6_Reply(trid=0x808080), SERVER, *rapid)
    link.answer(DHCP6_Reply(trid=0x808080, msgtype=1), CLIENT, SERVER, *rapid)
    link.answer(DHCP6_Reply(trid=0x808080, msgtype=99), CLIENT, SERVER, *rapid)
    link.reply(association())  # four messages are needed then

    assert leased(link) is None


def test_a_datagram_with_a_wrong_sum_or_without_a_head_is_passed_over(
    link: Link,
) -> None:
    link.router(M=1)
    link.sent()
    packet = IPv6(src=str(ROUTER), dst=str(OWN)) / UDP(sport=547, dport=546, chksum=1)
    link.frame(bytes(packet / DHCP6_Reply(trid=0x808080)))
    link.frame(bytes(IPv6(src=str(ROUTER), dst=str(OWN), nh=17) / b"\2\x23\2"))

    assert leased(link) is None


def test_questions_are_repeated_ever_more_slowly(link: Link) -> None:
    link.router(M=1)
    times = []
    for _ in range(12):
        link.one(Dhcpv6Type.SOLICIT)
        times.append(link.now)
        link.wait()

    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert gaps[:4] == pytest.approx([1.0, 2.0, 4.0, 8.0], rel=0.1)
    assert max(gaps) == pytest.approx(120.0, rel=0.1)


def test_a_server_that_offers_and_does_not_give_is_left(link: Link) -> None:
    link.router(M=1, routerlifetime=9000)
    link.sent()
    link.answer(DHCP6_Advertise(trid=0x808080), CLIENT, SERVER, association())
    for _ in range(10):
        link.one(Dhcpv6Type.REQUEST)
        link.wait()

    link.one(Dhcpv6Type.SOLICIT)
    # An offer counts only while offers are waited for.
    link.reply(association(), DHCP6OptRapidCommit())
    link.answer(DHCP6_Advertise(trid=0x808080), CLIENT, SERVER, association())
    assert link.sent() == []


def test_an_address_is_renewed_by_its_server_then_by_anybody(bound: Link) -> None:
    bound.wait()
    renew = bound.one(Dhcpv6Type.RENEW)
    assert (bound.now, bool(renew.server_id)) == (100.0, True)
    kinds: set[Dhcpv6Type] = set()
    while bound.now < 160.0:
        bound.wait()
        kinds = {message.kind for message in bound.sent()}
    assert kinds == {Dhcpv6Type.REBIND}

    bound.reply(association(t1=0, t2=0))

    assert leased(bound) == LEASED
    assert bound.client.next_deadline() == pytest.approx(260.0)


def test_an_address_that_nobody_renews_ends(bound: Link) -> None:
    bound.router(M=1, routerlifetime=9000)
    kinds: list[Dhcpv6Type] = []
    while leased(bound) is not None:
        bound.wait()
        kinds = [message.kind for message in bound.sent()]

    assert bound.now == 300.0
    assert kinds == [Dhcpv6Type.SOLICIT]


def test_a_server_that_refuses_to_renew_is_asked_anew(bound: Link) -> None:
    bound.wait()
    bound.sent()

    bound.reply(DHCP6OptStatusCode(statuscode=3))

    assert leased(bound) is None
    bound.one(Dhcpv6Type.SOLICIT)


@pytest.mark.parametrize(("t1", "t2"), [(200, 100), (0, 0), (100, 400)])
def test_times_that_make_no_sense_are_ours(link: Link, t1: int, t2: int) -> None:
    link.router(M=1)
    link.sent()
    link.reply(association(preferred_s=0, t1=t1, t2=t2), DHCP6OptRapidCommit())

    assert link.client.next_deadline() == 150.0


def test_an_address_for_ever_is_not_renewed(link: Link) -> None:
    link.router(M=1, routerlifetime=9000)
    link.sent()
    link.reply(
        association(preferred_s=0xFFFFFFFF, valid_s=0xFFFFFFFF), DHCP6OptRapidCommit()
    )

    assert link.client.next_deadline() == 9000.0


def test_the_address_is_given_back(bound: Link) -> None:
    bound.client.release()

    release = bound.one(Dhcpv6Type.RELEASE)
    assert str(release.addresses[0].address) == LEASED
    bound.client.release()
    assert bound.sent() == []


def test_a_late_answer_is_passed_over(bound: Link) -> None:
    bound.reply(DHCP6OptStatusCode(statuscode=3))

    assert leased(bound) == LEASED


# --- DHCPv6 without an address --------------------------------------------------------


def test_settings_alone_are_asked_for_and_again_after_a_while(link: Link) -> None:
    link.router(O=1, routerlifetime=9000)
    link.one(Dhcpv6Type.INFORMATION_REQUEST)
    link.reply(
        DHCP6OptDNSServers(dnsservers=["2001:db8::53"]),
        DHCP6OptInfoRefreshTime(reftime=5),
    )

    assert link.client.settings.dns == (IPv6Address("2001:db8::53"),)
    link.wait()
    assert link.now == 600.0
    link.one(Dhcpv6Type.INFORMATION_REQUEST)


def test_what_routers_say_of_dhcp_may_change(bound: Link) -> None:
    bound.router(M=0, O=1)
    assert leased(bound) == LEASED  # until it ends
    assert bound.sent() == []

    bound.router(M=0, O=0)
    assert leased(bound) is None
    bound.router(M=0, O=1)
    bound.one(Dhcpv6Type.INFORMATION_REQUEST)


def test_more_addresses_than_a_host_needs_are_not_taken(link: Link) -> None:
    for number in range(30):
        link.router(
            ICMPv6NDOptPrefixInfo(prefixlen=64, prefix=f"2001:db8:{number:x}::")
        )

    assert len(link.client.settings.addresses) == 8
    assert replace(link.client.settings, addresses=()).router == ROUTER
