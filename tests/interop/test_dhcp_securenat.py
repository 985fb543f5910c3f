# SPDX-License-Identifier: Apache-2.0
"""The DHCP client and the proof against a real hub with SecureNAT, in a session of the bare protocol.

The frames are real, the client's clock is not: where it would wait, the clock jumps.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import dpkt
import pytest

from dhcp_subscriber import OURS, Subscriber, borrow_socket, is_dhcp_reply
from scripted_client import trusting_context
from sevpn.protocol.credentials import Password
from sevpn.protocol.dhcp import LeaseRenewed, StaticRoute
from sevpn.protocol.handshake import ClientHandshake, Welcomed
from sevpn.protocol.messages import ClientIdentity
from sevpn.protocol.neighbour import Proven, Prover, announce, answer_poll
from sevpn.testing.lab import SERVER, Client, Hub
from sevpn.wire.arp import ArpOperation, decode_arp
from sevpn.wire.block import BlockReader, encode_batch
from sevpn.wire.ethernet import EtherType, MacAddress, decode_frame

pytestmark = [pytest.mark.netns, pytest.mark.interop]

GATEWAY = IPv4Address("192.168.30.1")
OTHER = MacAddress.parse("5e:00:53:00:00:02")
DHCP = (
    "DhcpSet /START:192.168.30.10 /END:{end} /MASK:255.255.255.0 /EXPIRE:7200"
    " /GW:192.168.30.1 /DNS:192.168.30.1 /DNS2:none /DOMAIN:lab.example /LOG:no"
    " /PUSHROUTE:{routes}"
)


class Session:
    """A session of one connection, driven by hand."""

    def __init__(self, client: Client) -> None:
        plain = borrow_socket(
            client.machine, f"socket.create_connection(({SERVER!r}, 443))"
        )
        plain.settimeout(10)
        self._tls = trusting_context().wrap_socket(plain)
        self._blocks = BlockReader()
        self._frames: list[bytes] = []

    def log_in(self, hub: Hub) -> None:
        """Come as far as frames."""
        handshake = ClientHandshake(
            host=SERVER,
            hub=hub.name,
            credentials=Password.of("alice", "secret"),
            identity=ClientIdentity(
                unique_id=os.urandom(16),
                machine_id=os.urandom(20),
                client_address=IPv4Address("192.0.2.9"),
            ),
            random=os.urandom,
            date="Tue, 03 Mar 2026 12:00:00 GMT",
        )
        while True:
            self._tls.sendall(handshake.data_to_send())
            event = handshake.next_event()
            if isinstance(event, Welcomed):
                self._frames += self._blocks.feed(event.trailing)
                break
            if event is None:
                handshake.receive_data(self._tls.recv(65536))

    def send(self, frame: bytes) -> None:
        self._tls.sendall(encode_batch([frame]))

    def receive(self, *, within_s: float) -> bytes | None:
        self._tls.settimeout(within_s)
        until = time.monotonic() + within_s
        while not self._frames and time.monotonic() < until:
            try:
                self._frames += self._blocks.feed(self._tls.recv(65536))
            except TimeoutError:
                return None
        return self._frames.pop(0) if self._frames else None

    def close(self) -> None:
        self._tls.close()


@pytest.fixture
def open_session(client: Client, hub: Hub) -> Iterator[Callable[[], Session]]:
    opened: list[Session] = []

    def open_one() -> Session:
        opened.append(Session(client))
        opened[-1].log_in(hub)
        return opened[-1]

    yield open_one
    for session in opened:
        session.close()


def configure(hub: Hub, *, end: str = "192.168.30.200", routes: str = "") -> None:
    hub.server.command(DHCP.format(end=end, routes=routes), hub=hub.name)


def test_securenat_gives_a_lease_without_t1_and_t2(
    hub: Hub, open_session: Callable[[], Session]
) -> None:
    configure(hub)

    lease = Subscriber(open_session()).obtain()

    assert lease.address == IPv4Interface("192.168.30.10/24")
    assert (lease.router, lease.server, lease.dns) == (GATEWAY, GATEWAY, (GATEWAY,))
    assert lease.domain == "lab.example"
    assert lease.expires_at == lease.obtained_at + 7200
    assert (lease.renew_at, lease.rebind_at) == (
        lease.obtained_at + 3600,
        lease.obtained_at + 6300,
    )
    assert lease.warnings == ()


def test_routes_of_securenat_come_in_pieces_and_are_read_whole(
    hub: Hub, open_session: Callable[[], Session]
) -> None:
    networks = [IPv4Network((0x0A000000 + (n << 8), 24)) for n in range(1, 41)]
    configure(
        hub,
        routes=",".join(f"{network.with_netmask}/192.168.30.1" for network in networks),
    )

    subscriber = Subscriber(open_session())
    lease = subscriber.obtain()

    replies = [frame for frame in subscriber.heard if is_dhcp_reply(frame)]
    codes = [code for code, _ in dpkt.dhcp.DHCP(replies[-1][42:]).opts]
    assert codes[-4:] == [121, 250, 249, 250]
    assert lease.classless_routes is not None
    assert set(lease.classless_routes) == {
        StaticRoute(network, GATEWAY) for network in networks
    }
    assert lease.router == GATEWAY
    assert lease.warnings == ()


def test_securenat_renews_by_unicast_after_its_arp_question_is_answered(
    open_session: Callable[[], Session],
) -> None:
    subscriber = Subscriber(open_session())
    lease = subscriber.obtain()

    subscriber.jump_to(lease.renew_at)
    event = subscriber.next_event()

    assert isinstance(event, LeaseRenewed)
    assert not event.changed


def test_securenat_rebinds_by_broadcast(open_session: Callable[[], Session]) -> None:
    subscriber = Subscriber(open_session())
    lease = subscriber.obtain()

    subscriber.jump_to(lease.rebind_at)
    event = subscriber.next_event()

    assert isinstance(event, LeaseRenewed)
    assert event.lease.address == lease.address


def test_a_new_session_has_its_old_address_confirmed_beside_the_ghost(
    open_session: Callable[[], Session],
) -> None:
    lease = Subscriber(open_session()).obtain()

    again = Subscriber(open_session(), remembered=lease)
    assert again.obtain().address == lease.address
    assert again.reply_count == 1


def test_an_address_outside_of_the_pool_is_refused_and_replaced(
    open_session: Callable[[], Session],
) -> None:
    subscriber = Subscriber(open_session())
    lease = subscriber.obtain()
    subscriber.release()

    moved = replace(lease, address=IPv4Interface("192.168.30.222/24"))
    again = Subscriber(open_session(), remembered=moved)
    assert again.obtain().address == lease.address
    assert again.reply_count == 3


def test_a_release_is_ignored_and_the_address_comes_again(
    open_session: Callable[[], Session],
) -> None:
    session = open_session()
    subscriber = Subscriber(session)
    lease = subscriber.obtain()
    subscriber.release()

    assert Subscriber(session, mac=OTHER).obtain().address != lease.address
    assert Subscriber(session).obtain().address == lease.address


def test_an_empty_pool_says_no_and_that_is_told(
    hub: Hub, open_session: Callable[[], Session]
) -> None:
    configure(hub, end="192.168.30.10")
    session = open_session()
    Subscriber(session).obtain()

    other = Subscriber(session, mac=OTHER)
    other.hear_until_silence()

    assert other.client.what_was_heard == (
        f"server {GATEWAY} answered NAK to a DISCOVER: it may have no free address;"
        " sent: 1 DISCOVER"
    )


def test_the_gateway_proves_the_tunnel(open_session: Callable[[], Session]) -> None:
    session = open_session()
    lease = Subscriber(session).obtain()
    prover = Prover(
        mac=OURS, address=lease.address, gateway=lease.router, server=lease.server
    )

    proven = outcome(prover, session)

    assert isinstance(proven, Proven)
    assert proven.by == "gateway"
    assert proven.rtt_s is not None
    assert str(proven.mac).startswith("5e:")


def test_the_hubs_poll_proves_a_tunnel_with_nobody_to_ask_and_is_answered(
    open_session: Callable[[], Session],
) -> None:
    session = open_session()
    lease = Subscriber(session).obtain()
    session.send(announce(OURS, lease.address.ip))
    prover = Prover(mac=OURS, address=lease.address, gateway=None, server=None)

    answers: list[bytes] = []
    proven = outcome(
        prover,
        session,
        also=lambda frame: answers.append(
            answer_poll(frame, mac=OURS, addresses=(lease.address.ip,)) or b""
        ),
    )

    assert isinstance(proven, Proven)
    assert (proven.by, proven.mac.is_hub) == ("hub-poll", True)
    (answer,) = filter(None, answers)
    packet = decode_arp(decode_frame(answer).payload)
    assert packet.operation == ArpOperation.REPLY
    assert packet.target_ip in IPv4Network("172.31.0.0/16")


def test_the_beacon_of_securenat_is_a_broadcast_and_proves_nothing(
    open_session: Callable[[], Session],
) -> None:
    session = open_session()
    prover = Prover(
        mac=OURS,
        address=IPv4Interface("192.168.30.99/24"),
        gateway=None,
        server=None,
    )
    beacons: list[bytes] = []

    proven = outcome(
        prover,
        session,
        also=lambda frame: (
            beacons.append(frame)
            if decode_frame(frame).ethertype == EtherType.ARP
            else None
        ),
    )

    assert not isinstance(proven, Proven)
    assert beacons


def outcome(
    prover: Prover,
    session: Session,
    *,
    also: Callable[[bytes], None] = lambda _: None,
) -> object:
    """Let a prover work by the real clock."""
    prover.start(time.monotonic())
    for _ in itertools.count():
        for frame in prover.frames_to_send():
            session.send(frame)
        event = prover.next_event()
        if event is not None:
            return event
        frame_in = session.receive(within_s=0.05)
        if frame_in is not None:
            also(frame_in)
            prover.receive_frame(frame_in, time.monotonic())
        prover.handle_deadline(time.monotonic())
    return None
