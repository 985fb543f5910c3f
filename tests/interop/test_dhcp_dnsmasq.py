# SPDX-License-Identifier: Apache-2.0
"""The DHCP client against dnsmasq on a cable: the whole life of a lease, without a tunnel.

The frames are real, the client's clock is not: where it would wait, the clock jumps.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from dhcp_subscriber import OURS, Subscriber, borrow_socket
from sevpn.protocol.dhcp import (
    AddressConflict,
    LeaseLost,
    LeaseRenewed,
    StaticRoute,
)
from sevpn.testing.machine import Machine, eventually
from sevpn.testing.peers import Dnsmasq
from sevpn.wire.arp import answer, decode_arp
from sevpn.wire.ethernet import EtherType, MacAddress, decode_frame

pytestmark = [pytest.mark.netns, pytest.mark.interop]

STRANGER = MacAddress.parse("5e:00:53:00:00:99")
SERVER_IP = IPv4Address("198.51.100.1")
OPTIONS = (
    "port=0",
    "dhcp-authoritative",
    "dhcp-range=198.51.100.50,198.51.100.60,1h",
    "dhcp-option=6,198.51.100.1,198.51.100.2",
    "dhcp-option=15,lab.example",
    "dhcp-option=26,1400",
    "dhcp-option=33,10.0.0.0,198.51.100.1",
    "dhcp-option=42,198.51.100.3",
    "dhcp-option=119,lab.example,other.example",
    "dhcp-option=121,203.0.113.0/24,198.51.100.1,0.0.0.0/0,198.51.100.1",
    "dhcp-option=249,203.0.113.0/24,198.51.100.1",
)

_RAW_SOCKET = """socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
made.bind(("ours", 0))"""


class Cable:
    """The client's end of the cable; frames are those that come in only."""

    def __init__(self, machine: Machine) -> None:
        self._socket = borrow_socket(machine, _RAW_SOCKET)

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def receive(self, *, within_s: float) -> bytes | None:
        until = time.monotonic() + within_s
        while (left_s := until - time.monotonic()) > 0:
            self._socket.settimeout(left_s)
            try:
                frame, (_, _, kind, *_) = self._socket.recvfrom(2048)
            except TimeoutError:
                break
            if kind != socket.PACKET_OUTGOING:
                return bytes(frame)
        return None

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine("dhcp") as made:
        made.sh(
            "ip link add theirs type veth peer name ours;"
            "ip addr add 198.51.100.1/24 dev theirs; ip link set theirs up;"
            "ip link set ours arp off; ip link set ours up"
        )
        yield made


@pytest.fixture
def server(machine: Machine) -> Iterator[Dnsmasq]:
    made = Dnsmasq(machine, "theirs", OPTIONS)
    yield made
    made.stop()


@pytest.fixture
def cable(machine: Machine, server: Dnsmasq) -> Iterator[Cable]:
    assert server.leases() == []
    made = Cable(machine)
    yield made
    made.close()


def test_all_options_of_a_real_server_reach_the_lease(cable: Cable) -> None:
    lease = Subscriber(cable).obtain()

    assert lease.address in [
        IPv4Interface((int(SERVER_IP) - 1 + host, 24)) for host in range(50, 61)
    ]
    assert lease.router == SERVER_IP
    assert lease.dns == (SERVER_IP, SERVER_IP + 1)
    assert (lease.domain, lease.search) == (
        "lab.example",
        ("lab.example", "other.example"),
    )
    assert lease.hostname == "laptop"
    assert (lease.mtu, lease.ntp) == (1400, (SERVER_IP + 2,))
    assert lease.static_routes == (StaticRoute(IPv4Network("10.0.0.0/8"), SERVER_IP),)
    assert lease.classless_routes == (
        StaticRoute(IPv4Network("203.0.113.0/24"), SERVER_IP),
        StaticRoute(IPv4Network("0.0.0.0/0"), SERVER_IP),
    )
    assert lease.expires_at is not None
    assert lease.expires_at - lease.obtained_at == 3600
    assert lease.warnings == ()


def test_a_lease_is_renewed_by_unicast_while_the_client_itself_answers_arp(
    cable: Cable, machine: Machine
) -> None:
    subscriber = Subscriber(cable)
    lease = subscriber.obtain()
    machine.sh("ip neigh flush dev theirs")
    subscriber.heard.clear()

    subscriber.jump_to(lease.renew_at)
    event = subscriber.next_event()

    assert isinstance(event, LeaseRenewed)
    assert not event.changed
    assert event.lease.obtained_at == lease.renew_at
    questions = [
        decode_arp(decode_frame(frame).payload)
        for frame in subscriber.heard
        if decode_frame(frame).ethertype == EtherType.ARP
    ]
    assert any(packet.target_ip == lease.address.ip for packet in questions)


def test_a_lease_is_rebound_by_broadcast(cable: Cable) -> None:
    subscriber = Subscriber(cable)
    lease = subscriber.obtain()

    subscriber.jump_to(lease.rebind_at)
    event = subscriber.next_event()

    assert isinstance(event, LeaseRenewed)
    assert not event.changed


def test_a_remembered_lease_is_confirmed_without_a_discover(cable: Cable) -> None:
    lease = Subscriber(cable).obtain()

    again = Subscriber(cable, remembered=lease)
    assert again.obtain().address == lease.address
    assert again.reply_count == 1


def test_a_remembered_lease_of_another_network_is_refused_and_replaced(
    cable: Cable,
) -> None:
    lease = Subscriber(cable).obtain()
    moved = replace(lease, address=IPv4Interface("203.0.113.9/24"))

    again = Subscriber(cable, remembered=moved)
    assert again.obtain().address == lease.address
    assert again.reply_count == 3


def test_an_address_that_a_neighbour_uses_is_declined_and_another_one_given(
    cable: Cable,
) -> None:
    subscriber = Subscriber(cable)
    taken: list[IPv4Address] = []

    def object_once(frame: bytes) -> bytes | None:
        ethernet = decode_frame(frame)
        if ethernet.ethertype != EtherType.ARP or taken:
            return None
        taken.append(decode_arp(ethernet.payload).target_ip)
        return answer(STRANGER, taken[0], to=OURS, asked_by=taken[0])

    subscriber.neighbour = object_once

    event = subscriber.next_event()
    assert event == AddressConflict(STRANGER)
    assert subscriber.obtain().address.ip not in taken


def test_a_lease_that_is_given_back_is_free_again(
    cable: Cable, server: Dnsmasq
) -> None:
    subscriber = Subscriber(cable)
    lease = subscriber.obtain()
    assert server.leases() == [str(lease.address.ip)]

    subscriber.release()
    eventually(lambda: server.leases() == [], what="the release")


def test_a_server_that_ends_costs_the_address_when_the_lease_does(
    cable: Cable, server: Dnsmasq
) -> None:
    subscriber = Subscriber(cable)
    lease = subscriber.obtain()
    server.stop()
    subscriber.patience_s = 0.05

    event = subscriber.next_event()
    assert isinstance(event, LeaseLost)
    assert "has expired" in event.reason
    assert subscriber.now == lease.expires_at
