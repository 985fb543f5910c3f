# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv6Address

import pytest

from dhcp_talk import HUB, NOBODY, OUR_IP, OURS, SERVER, SERVER_IP, STRANGER, arp_frame
from sevpn.protocol.neighbour import (
    GatewayWatch,
    Latency,
    NotProven,
    Proven,
    Prover,
    Silent,
    announce,
    answer_poll,
)
from sevpn.wire.arp import ArpOperation, ArpPacket, decode_arp
from sevpn.wire.ethernet import (
    BROADCAST,
    EtherType,
    Frame,
    MacAddress,
    decode_frame,
    encode_frame,
)
from sevpn.wire.nd import (
    ALL_NODES,
    NeighbourAdvertisement,
    NeighbourSolicitation,
    decode_nd,
    encode_nd,
)

HUB_IP = IPv4Address("172.31.7.7")
HUB_V6 = IPv6Address("fe80::2ae:12ff:fe34:5678")
OUR_V6 = IPv6Address("fe80::5c00:53ff:fe00:1")
GATEWAY_IP = IPv4Address("198.51.100.254")
GATEWAY = MacAddress.parse("5e:00:53:00:00:fd")
ADDRESS = IPv4Interface((int(OUR_IP), 24))
ADDRESSES = (OUR_IP, OUR_V6)

POLL = arp_frame(ArpOperation.REQUEST, (HUB, HUB_IP), (NOBODY, OUR_IP), to=OURS)


def nd_poll(
    message: NeighbourSolicitation | NeighbourAdvertisement, *, source: MacAddress = HUB
) -> bytes:
    return encode_frame(Frame(OURS, source, EtherType.IPV6, encode_nd(message)))


def arp_answer(mac: MacAddress, ip: IPv4Address, *, to: MacAddress = OURS) -> bytes:
    return arp_frame(ArpOperation.REPLY, (mac, ip), (OURS, OUR_IP), to=to)


def ip_frame(source: MacAddress, destination: MacAddress = OURS) -> bytes:
    return encode_frame(Frame(destination, source, EtherType.IPV4, bytes(20)))


def asked(frames: list[bytes]) -> list[str]:
    """Whom the frames ask for."""
    packets = [decode_arp(decode_frame(frame).payload) for frame in frames]
    assert all(packet.operation == ArpOperation.REQUEST for packet in packets)
    assert all(packet.sender_ip == OUR_IP for packet in packets)
    return [str(packet.target_ip) for packet in packets]


# --- polls ---


def test_an_arp_poll_of_the_hub_is_answered() -> None:
    answer = answer_poll(POLL, mac=OURS, addresses=ADDRESSES)

    assert answer is not None
    frame = decode_frame(answer)
    assert (frame.destination, frame.source) == (HUB, OURS)
    assert decode_arp(frame.payload) == ArpPacket(
        ArpOperation.REPLY, OURS, OUR_IP, HUB, HUB_IP
    )


def test_a_neighbour_poll_of_the_hub_is_answered() -> None:
    poll = nd_poll(NeighbourSolicitation(HUB_V6, OUR_V6, OUR_V6, HUB))

    answer = answer_poll(poll, mac=OURS, addresses=ADDRESSES)

    assert answer is not None
    frame = decode_frame(answer)
    assert (frame.destination, frame.source) == (HUB, OURS)
    assert decode_nd(frame.payload) == NeighbourAdvertisement(
        OUR_V6, HUB_V6, OUR_V6, OURS, is_solicited=True, is_override=True
    )


def test_a_neighbour_poll_that_does_not_name_its_sender_is_answered_to_its_frame() -> (
    None
):
    poll = nd_poll(NeighbourSolicitation(HUB_V6, OUR_V6, OUR_V6))

    answer = answer_poll(poll, mac=OURS, addresses=ADDRESSES)

    assert answer is not None
    assert decode_frame(answer).destination == HUB


def test_a_neighbour_poll_from_nobody_is_answered_to_all_nodes() -> None:
    poll = nd_poll(NeighbourSolicitation(IPv6Address("::"), OUR_V6, OUR_V6))

    answer = answer_poll(poll, mac=OURS, addresses=ADDRESSES)

    assert answer is not None
    assert decode_nd(decode_frame(answer).payload) == NeighbourAdvertisement(
        OUR_V6, ALL_NODES, OUR_V6, OURS, is_override=True
    )


@pytest.mark.parametrize(
    "frame",
    [
        arp_frame(ArpOperation.REQUEST, (SERVER, SERVER_IP), (NOBODY, OUR_IP)),
        arp_frame(ArpOperation.REQUEST, (HUB, HUB_IP), (NOBODY, SERVER_IP)),
        arp_frame(ArpOperation.REPLY, (HUB, HUB_IP), (OURS, OUR_IP)),
        POLL[:40],
        POLL[:13],
        nd_poll(NeighbourSolicitation(HUB_V6, OUR_V6, OUR_V6), source=SERVER),
        nd_poll(NeighbourSolicitation(HUB_V6, HUB_V6, HUB_V6)),
        nd_poll(NeighbourAdvertisement(HUB_V6, OUR_V6, OUR_V6)),
        nd_poll(NeighbourSolicitation(HUB_V6, OUR_V6, OUR_V6))[:60],
        ip_frame(HUB),
    ],
    ids=[
        "a neighbour's question",
        "for another address",
        "an answer",
        "cut",
        "no frame",
        "a neighbour's solicitation",
        "for another IPv6 address",
        "an advertisement",
        "a cut solicitation",
        "an IPv4 packet",
    ],
)
def test_nothing_else_is_answered(frame: bytes) -> None:
    assert answer_poll(frame, mac=OURS, addresses=ADDRESSES) is None


def test_no_poll_is_answered_while_there_is_no_address() -> None:
    assert answer_poll(POLL, mac=OURS, addresses=()) is None


def test_an_announcement_goes_to_all() -> None:
    frame = decode_frame(announce(OURS, OUR_IP))
    packet = decode_arp(frame.payload)

    assert frame.destination == BROADCAST
    assert (packet.sender_ip, packet.target_ip) == (OUR_IP, OUR_IP)


# --- the proof ---


def a_prover(
    *, gateway: IPv4Address | None = GATEWAY_IP, server: IPv4Address | None = SERVER_IP
) -> Prover:
    prover = Prover(mac=OURS, address=ADDRESS, gateway=gateway, server=server)
    prover.start(0.0)
    return prover


def test_the_gateways_answer_is_the_best_proof_and_counts_at_once() -> None:
    prover = a_prover()
    assert asked(prover.frames_to_send()) == [str(SERVER_IP), str(GATEWAY_IP)]

    prover.receive_frame(arp_answer(GATEWAY, GATEWAY_IP), 0.01)
    assert prover.next_event() == Proven("gateway", 0.01, GATEWAY)
    assert prover.next_event() is None
    assert prover.next_deadline() is None


def test_questions_are_repeated_at_a_quarter_a_half_one_and_then_each_second() -> None:
    prover = a_prover(server=None)
    times = []
    while (deadline := prover.next_deadline()) is not None:
        times.append(deadline)
        prover.handle_deadline(deadline)

    assert times == [0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    assert asked(prover.frames_to_send()) == [str(GATEWAY_IP)] * 12


def test_after_a_second_question_nobody_knows_the_round_trip() -> None:
    prover = a_prover()
    prover.handle_deadline(0.25)

    prover.receive_frame(arp_answer(GATEWAY, GATEWAY_IP), 0.26)
    assert prover.next_event() == Proven("gateway", None, GATEWAY)


@pytest.mark.parametrize(
    ("frame", "proof"),
    [
        (arp_answer(SERVER, SERVER_IP), Proven("dhcp-server", 0.1, SERVER)),
        (POLL, Proven("hub-poll", None, HUB)),
        (ip_frame(STRANGER), Proven("unicast", None, STRANGER)),
        (
            arp_answer(STRANGER, IPv4Address("198.51.100.9")),
            Proven("unicast", None, STRANGER),
        ),
        (
            arp_frame(
                ArpOperation.REQUEST, (GATEWAY, GATEWAY_IP), (NOBODY, OUR_IP), to=OURS
            ),
            Proven("unicast", None, GATEWAY),
        ),
    ],
    ids=["server", "poll", "packet", "answer of a stranger", "question of the gateway"],
)
def test_a_lesser_proof_counts_after_half_a_second_without_a_better_one(
    frame: bytes, proof: Proven
) -> None:
    prover = a_prover()

    prover.receive_frame(frame, 0.1)
    prover.handle_deadline(0.59)
    assert prover.next_event() is None
    assert prover.next_deadline() == 0.6
    prover.handle_deadline(0.6)
    assert prover.next_event() == proof


def test_a_better_proof_within_the_grace_replaces_a_lesser_one() -> None:
    prover = a_prover()

    prover.receive_frame(POLL, 0.1)
    prover.receive_frame(ip_frame(STRANGER), 0.2)
    prover.receive_frame(arp_answer(SERVER, SERVER_IP), 0.22)
    prover.receive_frame(POLL, 0.23)
    assert prover.next_event() is None
    prover.receive_frame(arp_answer(GATEWAY, GATEWAY_IP), 0.24)
    assert prover.next_event() == Proven("gateway", 0.24, GATEWAY)


def test_a_proof_just_before_the_end_does_not_wait_beyond_it() -> None:
    prover = a_prover()

    prover.receive_frame(POLL, 9.9)
    assert prover.next_deadline() is not None
    prover.handle_deadline(10.0)
    assert prover.next_event() == Proven("hub-poll", None, HUB)


@pytest.mark.parametrize(
    ("gateway", "server", "frame", "by"),
    [
        (None, SERVER_IP, arp_answer(SERVER, SERVER_IP), "dhcp-server"),
        (None, None, POLL, "hub-poll"),
        (None, IPv4Address("203.0.113.1"), POLL, "hub-poll"),
        (None, OUR_IP, POLL, "hub-poll"),
        (SERVER_IP, SERVER_IP, arp_answer(SERVER, SERVER_IP), "gateway"),
    ],
    ids=[
        "no gateway",
        "neither",
        "a server elsewhere",
        "we are the server",
        "both are the same",
    ],
)
def test_the_best_that_can_come_counts_at_once(
    gateway: IPv4Address | None, server: IPv4Address | None, frame: bytes, by: str
) -> None:
    prover = a_prover(gateway=gateway, server=server)

    prover.receive_frame(frame, 0.1)
    proven = prover.next_event()
    assert isinstance(proven, Proven)
    assert proven.by == by


def test_with_nobody_to_ask_nothing_is_asked_and_anything_to_us_counts() -> None:
    prover = a_prover(gateway=None, server=None)
    assert prover.frames_to_send() == []
    assert prover.next_deadline() == 10.0

    prover.receive_frame(ip_frame(STRANGER), 3.0)
    prover.handle_deadline(3.5)
    assert prover.next_event() == Proven("unicast", None, STRANGER)


def test_a_gateway_is_asked_even_if_it_is_outside_of_the_subnet() -> None:
    elsewhere = IPv4Address("203.0.113.1")
    prover = a_prover(gateway=elsewhere, server=None)

    assert asked(prover.frames_to_send()) == [str(elsewhere)]


@pytest.mark.parametrize(
    "frame",
    [
        # A SecureNAT shouts this every 5 s, whether or not it can hear us.
        arp_answer(GATEWAY, GATEWAY_IP, to=BROADCAST),
        ip_frame(STRANGER, BROADCAST),
        ip_frame(STRANGER, MacAddress.parse("01:00:5e:00:00:fb")),
        ip_frame(STRANGER, SERVER),
        ip_frame(OURS, OURS),
        arp_answer(GATEWAY, GATEWAY_IP)[:30],
        b"",
    ],
    ids=[
        "a beacon",
        "a broadcast",
        "a multicast",
        "to somebody else",
        "from ourselves",
        "cut ARP",
        "nothing",
    ],
)
def test_what_is_not_to_us_alone_proves_nothing(frame: bytes) -> None:
    prover = a_prover()

    prover.receive_frame(frame, 0.1)
    prover.handle_deadline(9.99)
    assert prover.next_event() is None
    prover.handle_deadline(10.0)
    assert isinstance(prover.next_event(), NotProven)


@pytest.mark.parametrize(
    ("gateway", "server", "reason"),
    [
        (
            GATEWAY_IP,
            None,
            f"the gateway {GATEWAY_IP} did not answer ARP within 10 s, and nothing else came back",
        ),
        (
            None,
            SERVER_IP,
            f"the DHCP server {SERVER_IP} did not answer ARP within 10 s, and nothing else came back",
        ),
        (
            GATEWAY_IP,
            SERVER_IP,
            f"neither the DHCP server {SERVER_IP} nor the gateway {GATEWAY_IP} answered ARP within 10 s, and nothing else came back",
        ),
        (None, None, "no frame to us came back within 10 s"),
    ],
)
def test_silence_is_told_with_who_was_asked(
    gateway: IPv4Address | None, server: IPv4Address | None, reason: str
) -> None:
    prover = a_prover(gateway=gateway, server=server)
    prover.handle_deadline(10.0)

    assert prover.next_event() == NotProven(reason)


def test_a_prover_is_good_for_one_proof_and_deaf_before_and_after_it() -> None:
    prover = Prover(mac=OURS, address=ADDRESS, gateway=GATEWAY_IP, server=None)
    prover.receive_frame(POLL, 0.0)
    prover.handle_deadline(5.0)
    assert (prover.next_event(), prover.next_deadline()) == (None, None)

    prover.start(10.0)
    prover.receive_frame(arp_answer(GATEWAY, GATEWAY_IP), 10.5)
    assert prover.next_event() is not None
    prover.receive_frame(POLL, 11.0)
    prover.handle_deadline(99.0)
    assert prover.next_event() is None


def test_an_early_or_repeated_deadline_asks_nothing_more() -> None:
    prover = a_prover(server=None)
    prover.frames_to_send()

    prover.handle_deadline(0.2)
    assert prover.frames_to_send() == []
    prover.handle_deadline(0.25)
    prover.handle_deadline(0.25)
    assert len(prover.frames_to_send()) == 1


# --- the watch ---


def a_watch() -> GatewayWatch:
    watch = GatewayWatch(mac=OURS, address=OUR_IP, gateway=GATEWAY_IP)
    watch.start(0.0)
    return watch


def a_heard_watch() -> GatewayWatch:
    """Return one whose gateway has answered at once, at 0.0."""
    watch = a_watch()
    watch.receive_frame(arp_answer(GATEWAY, GATEWAY_IP), 0.0)
    watch.next_event()
    watch.frames_to_send()
    return watch


def told(watch: GatewayWatch, *, until: float) -> list[tuple[float, Latency | Silent]]:
    """Serve all deadlines up to a time, and return what was told when."""
    events = []
    while (at := watch.next_deadline()) is not None and at <= until:
        watch.handle_deadline(at)
        while (event := watch.next_event()) is not None:
            events.append((at, event))
    return events


def test_the_gateway_is_asked_every_two_and_a_half_seconds_for_its_latency() -> None:
    watch = a_watch()
    at = 0.0
    for _ in range(3):
        watch.handle_deadline(at)
        assert asked(watch.frames_to_send()) == [str(GATEWAY_IP)]
        watch.receive_frame(arp_answer(GATEWAY, GATEWAY_IP), at + 0.25)
        assert watch.next_event() == Latency(0.25)
        assert watch.next_event() is None
        at += 0.25 + 2.5
        assert watch.next_deadline() == at


def test_a_gateway_that_falls_silent_is_asked_four_times_and_then_told() -> None:
    watch = a_heard_watch()

    assert told(watch, until=5.0) == [
        (5.0, Silent(2.5, has_server_spoken=False)),
    ]
    assert len(watch.frames_to_send()) == 4


def test_what_the_server_says_meanwhile_tells_that_the_gateway_alone_has_gone() -> None:
    watch = a_heard_watch()
    watch.handle_deadline(2.5)

    watch.saw(heard_at=2.6, inbound_frames=3)

    assert told(watch, until=5.0) == [(5.0, Silent(2.5, has_server_spoken=True))]


def test_what_the_server_said_before_the_question_tells_nothing() -> None:
    watch = a_heard_watch()
    watch.saw(heard_at=2.4, inbound_frames=3)

    assert told(watch, until=5.0) == [(5.0, Silent(2.5, has_server_spoken=False))]


def test_while_much_comes_in_an_answer_may_take_its_time() -> None:
    watch = a_heard_watch()
    watch.handle_deadline(2.5)

    watch.saw(heard_at=4.9, inbound_frames=40)

    assert told(watch, until=17.5) == [(17.5, Silent(15.0, has_server_spoken=True))]


def test_silence_is_told_again_and_ends_with_an_answer_to_any_question() -> None:
    watch = a_heard_watch()

    assert [at for at, _ in told(watch, until=16.0)] == [5.0, 10.0, 15.0]
    watch.receive_frame(arp_answer(GATEWAY, GATEWAY_IP), 16.0)
    assert watch.next_event() == Latency(None)
    assert watch.next_deadline() == 18.5


def test_a_gateway_that_has_never_answered_is_asked_now_and_then_and_never_silent() -> (
    None
):
    watch = a_watch()

    assert told(watch, until=60.0) == []
    assert len(watch.frames_to_send()) == 5


def test_a_machine_that_has_slept_asks_anew_before_it_judges() -> None:
    watch = a_heard_watch()
    watch.handle_deadline(2.5)
    watch.frames_to_send()

    watch.handle_deadline(3600.0)
    assert watch.next_event() is None
    assert len(watch.frames_to_send()) >= 1
    watch.receive_frame(arp_answer(GATEWAY, GATEWAY_IP), 3600.1)
    assert isinstance(watch.next_event(), Latency)


@pytest.mark.parametrize(
    "frame",
    [
        arp_answer(SERVER, SERVER_IP),
        arp_answer(GATEWAY, GATEWAY_IP, to=BROADCAST),
        arp_frame(
            ArpOperation.REQUEST, (GATEWAY, GATEWAY_IP), (NOBODY, OUR_IP), to=OURS
        ),
        arp_answer(GATEWAY, GATEWAY_IP)[:30],
        ip_frame(GATEWAY),
        b"",
    ],
    ids=["another host", "a beacon", "a question", "cut", "a packet", "nothing"],
)
def test_only_the_gateways_answer_to_us_counts(frame: bytes) -> None:
    watch = a_watch()

    watch.receive_frame(frame, 0.1)
    assert watch.next_event() is None


def test_an_answer_that_nobody_waits_for_is_ignored() -> None:
    watch = a_watch()
    watch.receive_frame(arp_answer(GATEWAY, GATEWAY_IP), 0.1)
    watch.next_event()

    watch.receive_frame(arp_answer(GATEWAY, GATEWAY_IP), 0.2)
    assert watch.next_event() is None


def test_an_early_or_repeated_deadline_of_the_watch_does_no_harm() -> None:
    watch = a_heard_watch()

    watch.handle_deadline(2.4)
    assert watch.frames_to_send() == []
    watch.handle_deadline(2.5)
    watch.handle_deadline(2.5)
    assert len(watch.frames_to_send()) == 1
    watch.handle_deadline(4.9)
    watch.handle_deadline(5.0)
    watch.handle_deadline(5.0)
    assert watch.next_event() == Silent(2.5, has_server_spoken=False)
    assert watch.next_event() is None


def test_a_gateway_that_dies_right_after_the_proof_is_missed() -> None:
    watch = GatewayWatch(
        mac=OURS, address=OUR_IP, gateway=GATEWAY_IP, has_answered=True
    )
    watch.start(0.0)

    for tenth in range(1, 26):
        watch.saw(heard_at=1.0, inbound_frames=0)
        watch.handle_deadline(tenth / 10)

    assert watch.next_event() == Silent(2.5, has_server_spoken=True)
    assert len(watch.frames_to_send()) >= 4


def test_a_watch_that_was_not_started_waits_for_nothing() -> None:
    watch = GatewayWatch(mac=OURS, address=OUR_IP, gateway=GATEWAY_IP)

    watch.handle_deadline(5.0)
    assert watch.next_deadline() is None
    assert watch.frames_to_send() == []
