# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest

from sevpn.server.config import DhcpConfig, RouteConfig
from sevpn.server.dhcp import DhcpServer
from sevpn.server.faults import Faults
from sevpn.wire.dhcpv4 import (
    Message,
    MessageType,
    Op,
    Option,
    StaticRoute,
    decode_classless_routes,
    decode_message,
    decode_names,
    encode_message,
)
from sevpn.wire.ethernet import MacAddress

OWN = IPv4Address("10.9.0.1")


def ip(last: int) -> IPv4Address:
    return IPv4Address(f"10.9.0.{last}")


class Segment:
    """A DHCP server and its clients, numbered."""

    def __init__(self, **config: Any) -> None:
        self.now = 0.0
        self.faults = Faults()
        self.server = DhcpServer(
            DhcpConfig(**({"first": ip(10), "last": ip(12)} | config)),
            IPv4Interface("10.9.0.1/24"),
            faults=self.faults,
            clock=lambda: self.now,
        )

    def say(
        self,
        kind: MessageType | int,
        client: int = 1,
        *,
        requested: int | None = None,
        server: IPv4Address | None = None,
        ciaddr: int | None = None,
        op: Op = Op.REQUEST,
    ) -> Message | None:
        options = {Option.MESSAGE_TYPE: bytes([kind])}
        if requested is not None:
            options[Option.REQUESTED_ADDRESS] = ip(requested).packed
        if server is not None:
            options[Option.SERVER_ID] = server.packed
        message = Message(
            op=op,
            xid=7,
            chaddr=MacAddress(bytes([0x5E, 0, 0, 0, 0, client])),
            ciaddr=IPv4Address(0) if ciaddr is None else ip(ciaddr),
            options={int(code): value for code, value in options.items()},
        )
        return self.server.answer(message, message.chaddr.octets)

    def lease(self, client: int = 1, requested: int | None = None) -> IPv4Address:
        offer = self.say(MessageType.DISCOVER, client, requested=requested)
        assert offer is not None
        ack = self.say(
            MessageType.REQUEST, client, requested=offer.yiaddr.packed[3], server=OWN
        )
        assert ack is not None
        assert ack.message_type is MessageType.ACK
        return ack.yiaddr


def kind(message: Message | None) -> MessageType | None:
    return None if message is None else message.message_type


# --- conversations ------------------------------------------------------------


def test_a_discover_is_offered_an_address_and_a_request_gets_it() -> None:
    segment = Segment()

    offer = segment.say(MessageType.DISCOVER)
    assert offer is not None
    assert (offer.op, offer.xid, offer.yiaddr) == (Op.REPLY, 7, ip(10))
    assert offer.message_type is MessageType.OFFER
    assert offer.options[Option.SERVER_ID] == OWN.packed
    assert segment.lease() == ip(10)


def test_two_clients_get_two_addresses_and_one_keeps_its_own() -> None:
    segment = Segment()

    assert segment.lease(1) == ip(10)
    assert segment.lease(2) == ip(11)
    assert segment.lease(1) == ip(10)


def test_an_empty_pool_is_silent() -> None:
    segment = Segment()
    for client in (1, 2, 3):
        segment.lease(client)

    assert segment.say(MessageType.DISCOVER, 4) is None


def test_a_client_that_boots_gets_its_remembered_address_without_asking_twice() -> None:
    segment = Segment()
    segment.lease(requested=11)

    ack = segment.say(MessageType.REQUEST, requested=11)

    assert kind(ack) is MessageType.ACK
    assert ack is not None
    assert ack.yiaddr == ip(11)


def test_a_server_that_forgot_everything_gives_remembered_addresses_again() -> None:
    assert kind(Segment().say(MessageType.REQUEST, requested=11)) is MessageType.ACK


@pytest.mark.parametrize("requested", [99, 1])
def test_an_address_outside_the_pool_is_refused(requested: int) -> None:
    nak = Segment().say(MessageType.REQUEST, requested=requested)

    assert kind(nak) is MessageType.NAK
    assert nak is not None
    assert int(nak.yiaddr) == 0
    assert set(nak.options) == {Option.MESSAGE_TYPE, Option.SERVER_ID}


def test_an_address_of_somebody_else_is_refused() -> None:
    segment = Segment()
    segment.lease(1)

    nak = segment.say(MessageType.REQUEST, 2, requested=10)

    assert kind(nak) is MessageType.NAK


def test_a_lease_is_renewed_by_the_address_in_use() -> None:
    segment = Segment(lease_s=100)
    segment.lease()
    segment.now = 50

    ack = segment.say(MessageType.REQUEST, ciaddr=10)

    assert kind(ack) is MessageType.ACK
    assert ack is not None
    assert (ack.yiaddr, ack.ciaddr) == (ip(10), ip(10))
    assert segment.server.pool.leases(149) == {ip(10): ack.chaddr.octets}


def test_a_renewal_of_an_address_that_went_to_another_is_refused() -> None:
    segment = Segment(lease_s=100)
    segment.lease(1)
    segment.now = 100
    segment.lease(2, requested=10)

    assert kind(segment.say(MessageType.REQUEST, 1, ciaddr=10)) is MessageType.NAK


def test_a_request_to_another_server_is_not_answered() -> None:
    segment = Segment()

    assert segment.say(MessageType.REQUEST, requested=10, server=ip(2)) is None


def test_a_request_to_another_server_is_refused_as_securenat_does() -> None:
    segment = Segment(ignores_server_id=True)

    nak = segment.say(MessageType.REQUEST, requested=10, server=ip(2))

    assert kind(nak) is MessageType.NAK


def test_a_released_address_is_free() -> None:
    segment = Segment()
    segment.lease(1)

    assert segment.say(MessageType.RELEASE, 1, ciaddr=10) is None
    assert segment.server.pool.leases(0) == {}


def test_a_release_is_ignored_as_securenat_does() -> None:
    segment = Segment(ignores_release=True)
    segment.lease(1)

    segment.say(MessageType.RELEASE, 1, ciaddr=10)
    segment.say(MessageType.DECLINE, 1, requested=10)

    assert list(segment.server.pool.leases(0)) == [ip(10)]


def test_a_declined_address_is_not_offered_again() -> None:
    segment = Segment()
    segment.lease(1)

    segment.say(MessageType.DECLINE, 1, requested=10, server=OWN)

    assert segment.lease(1) == ip(11)


def test_inform_gets_options_and_no_address() -> None:
    ack = Segment().say(MessageType.INFORM, ciaddr=77)

    assert kind(ack) is MessageType.ACK
    assert ack is not None
    assert int(ack.yiaddr) == 0
    assert Option.LEASE_TIME not in ack.options
    assert ack.options[Option.SUBNET_MASK] == bytes([255, 255, 255, 0])


@pytest.mark.parametrize("strange", [MessageType.OFFER, MessageType.ACK, MessageType.NAK, 77])  # fmt: skip
def test_what_no_client_sends_is_not_answered(strange: int) -> None:
    assert Segment().say(strange) is None


def test_replies_are_not_answered() -> None:
    assert Segment().say(MessageType.DISCOVER, op=Op.REPLY) is None


# --- options ------------------------------------------------------------------


def test_every_option_arrives_as_configured() -> None:
    routes = (
        RouteConfig(destination=IPv4Network("10.8.0.0/16"), gateway=ip(2)),
        RouteConfig(destination=IPv4Network("10.7.0.0/24"), gateway=IPv4Address(0)),
    )
    segment = Segment(
        lease_s=3600,
        renew_s=1000,
        rebind_s=2000,
        dns=(ip(3), ip(4)),
        domain="lab.test",
        search=("a.test", "b.test"),
        ntp=(ip(5),),
        mtu=1400,
        routes=routes,
    )

    offer = segment.say(MessageType.DISCOVER)

    assert offer is not None
    options = decode_message(encode_message(offer)).options
    assert options[Option.LEASE_TIME] == (3600).to_bytes(4, "big")
    assert options[Option.RENEWAL_TIME] == (1000).to_bytes(4, "big")
    assert options[Option.REBINDING_TIME] == (2000).to_bytes(4, "big")
    assert options[Option.ROUTERS] == OWN.packed
    assert options[Option.DNS_SERVERS] == ip(3).packed + ip(4).packed
    assert options[Option.DOMAIN_NAME] == b"lab.test"
    assert decode_names(options[Option.SEARCH_LIST]) == ("a.test", "b.test")
    assert options[Option.NTP_SERVERS] == ip(5).packed
    assert options[Option.MTU] == (1400).to_bytes(2, "big")
    assert decode_classless_routes(options[121]) == (
        StaticRoute(IPv4Network("10.8.0.0/16"), ip(2)),
        StaticRoute(IPv4Network("10.7.0.0/24"), None),
    )
    assert options[249] == options[121]


def test_what_is_not_configured_is_not_sent() -> None:
    offer = Segment(is_router=False).say(MessageType.DISCOVER)

    assert offer is not None
    assert set(offer.options) == {
        Option.MESSAGE_TYPE,
        Option.SERVER_ID,
        Option.LEASE_TIME,
        Option.SUBNET_MASK,
    }


# --- faults -------------------------------------------------------------------


def test_requests_are_dropped_as_often_as_asked() -> None:
    segment = Segment()
    segment.faults.dhcp_drops = 2

    answers = [kind(segment.say(MessageType.DISCOVER)) for _ in range(3)]

    assert answers == [None, None, MessageType.OFFER]


def test_all_requests_are_dropped_until_it_is_healed() -> None:
    segment = Segment()
    segment.faults.dhcp_drops = None

    assert all(segment.say(MessageType.DISCOVER) is None for _ in range(9))
    segment.faults.clear()
    assert kind(segment.say(MessageType.DISCOVER)) is MessageType.OFFER


def test_requests_are_refused_as_often_as_asked() -> None:
    segment = Segment()
    segment.faults.dhcp_naks = 1

    assert kind(segment.say(MessageType.REQUEST, requested=10)) is MessageType.NAK
    assert kind(segment.say(MessageType.REQUEST, requested=10)) is MessageType.ACK


def test_options_are_replaced_and_taken_away() -> None:
    segment = Segment()
    segment.faults.dhcp_options = {Option.SUBNET_MASK: b"\xff", Option.ROUTERS: None}

    offer = segment.say(MessageType.DISCOVER)

    assert offer is not None
    assert offer.options[Option.SUBNET_MASK] == b"\xff"
    assert Option.ROUTERS not in offer.options
