# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from sevpn.protocol.policy import POLICY_NAMES
from sevpn.server.hub import FrameBytes, Hub, Port
from sevpn.server.policy import Policy
from sevpn.server.stretch import Stretch
from sevpn.wire.arp import ArpOperation, announcement, decode_arp, question
from sevpn.wire.block import BlockReader, encode_batch
from sevpn.wire.dhcpv4 import Message, MessageType, Op, Option, encode_message
from sevpn.wire.ethernet import BROADCAST, Frame, MacAddress, decode_frame, encode_frame
from sevpn.wire.ipv4 import Ipv4Packet, encode_ipv4
from sevpn.wire.nd import (
    NeighbourAdvertisement,
    NeighbourSolicitation,
    decode_nd,
    encode_nd,
)
from sevpn.wire.udp import UdpDatagram, udp_frame

SERVER = MacAddress(b"\x5e\0\0\0\0\xfe")


def mac(number: int) -> MacAddress:
    return MacAddress(b"\x5e\0\0\0\0" + bytes([number]))


def ip(number: int) -> IPv4Address:
    return IPv4Address(0x0A000000 + number)


class Heard(Port):
    """A port that remembers."""

    def __init__(self, name: str, policy: Policy) -> None:
        super().__init__(name, policy)
        self.frames: list[bytes] = []

    def deliver(self, frames: Sequence[FrameBytes]) -> None:
        self.frames += map(bytes, frames)

    def take(self) -> list[bytes]:
        frames, self.frames = self.frames, []
        return frames


class Lab:
    """A hub with ports, and a clock that stands still."""

    def __init__(self, **lives: float) -> None:
        self.now = 1000.0
        self.hub = Hub("TEST", clock=lambda: self.now, **lives)

    def port(self, policy: Policy | None = None) -> Heard:
        port = Heard(f"port {len(self.hub.ports)}", policy or Policy())
        self.hub.plug(port)
        return port

    def send(self, port: Port, *frames: bytes) -> None:
        self.hub.forward(port, frames)

    def send_stretch(self, port: Port, *frames: bytes) -> None:
        self.hub.forward_stretch(port, stretch_of(frames))


def stretch_of(frames: Sequence[bytes]) -> Stretch:
    sizes = array("i", map(len, frames))
    starts = array("i", itertools.accumulate(sizes, initial=0))
    return Stretch(bytearray().join(frames), starts, sizes, 0, len(frames))


def packet(
    source: int, destination: int, *, protocol: int = 253, address: int | None = None
) -> bytes:
    """An IPv4 packet from MAC number *source* to *destination*, and their addresses unless another is given."""
    sender = ip(source if address is None else address)
    inner = Ipv4Packet(sender, ip(destination), protocol, b"payload")
    return encode_frame(
        Frame(mac(destination), mac(source), 0x0800, encode_ipv4(inner))
    )


def packet6(source: int, destination: int, *, address: int | None = None) -> bytes:
    """Likewise of IPv6; address 0 is none."""
    number = source if address is None else address
    sender = b"\xfd" + bytes(14) + bytes([number]) if number else bytes(16)
    inner = b"\x60" + bytes(5) + b"\x3b\x40" + sender + bytes(16)
    return encode_frame(Frame(mac(destination), mac(source), 0x86DD, inner))


def datagram(source: int, destination: int, port: int, to_port: int) -> bytes:
    """A datagram from MAC and address number *source* to *destination*."""
    return udp_frame(
        UdpDatagram(port, to_port, b"payload"),
        source_mac=mac(source),
        destination_mac=mac(destination),
        source=ip(source),
        destination=ip(destination),
    )


def plain(source: int, destination: int, *, tag: bytes = b"") -> bytes:
    """A frame that is no IP."""
    head = mac(destination).octets + mac(source).octets
    return head + tag + b"\x88\xb5" + b"hello"


def dhcp_ack(client: int, address: int) -> bytes:
    message = Message(
        op=Op.REPLY,
        xid=1,
        chaddr=mac(client),
        yiaddr=ip(address),
        options={Option.MESSAGE_TYPE: bytes([MessageType.ACK])},
    )
    return udp_frame(
        UdpDatagram(67, 68, encode_message(message)),
        source_mac=SERVER,
        destination_mac=BROADCAST,
        source=ip(254),
        destination=IPv4Address("255.255.255.255"),
    )


def dhcp_discover(client: int) -> bytes:
    message = Message(
        op=Op.REQUEST,
        xid=1,
        chaddr=mac(client),
        options={Option.MESSAGE_TYPE: bytes([MessageType.DISCOVER])},
    )
    return udp_frame(
        UdpDatagram(68, 67, encode_message(message)),
        source_mac=mac(client),
        destination_mac=BROADCAST,
        source=IPv4Address(0),
        destination=IPv4Address("255.255.255.255"),
        checksum=False,
    )


# --- switching ----------------------------------------------------------------


def test_an_unknown_destination_is_flooded_and_a_known_one_is_not() -> None:
    lab = Lab()
    one, two, three = lab.port(), lab.port(), lab.port()

    lab.send(one, plain(1, 2))
    assert (len(one.take()), len(two.take()), len(three.take())) == (0, 1, 1)

    lab.send(two, plain(2, 1))
    assert (len(one.take()), len(two.take()), len(three.take())) == (1, 0, 0)


def test_broadcasts_reach_all_but_the_sender() -> None:
    lab = Lab()
    one, two, three = lab.port(), lab.port(), lab.port()

    lab.send(one, announcement(mac(1), ip(1)))

    assert (len(one.take()), len(two.take()), len(three.take())) == (0, 1, 1)


def test_frames_keep_their_order_and_come_in_one_call() -> None:
    lab = Lab()
    one, two = lab.port(), lab.port()
    frames = [plain(1, 2) + bytes([number]) for number in range(20)]

    lab.send(one, *frames)

    assert two.take() == frames


def test_a_mac_that_moves_is_followed_at_once() -> None:
    lab = Lab()
    one, two, three = lab.port(), lab.port(), lab.port()
    lab.send(one, plain(1, 9))
    lab.send(two, plain(1, 9))
    three.take(), one.take(), two.take()

    lab.send(three, plain(3, 1))

    assert (len(one.take()), len(two.take())) == (0, 1)
    assert lab.hub.mac_table()[mac(1)] is two


def test_the_bulk_way_delivers_what_the_long_way_does() -> None:
    lab = Lab()
    one, two, three = lab.port(), lab.port(), lab.port()
    lab.send(two, packet(2, 1))
    one.take(), three.take()
    bulk = [memoryview(packet(1, 2, protocol=6)) for _ in range(5)]

    for _ in range(2):  # the second time by what the first has learned
        lab.hub.forward(one, [], bulk)
        assert two.take() == [bytes(frame) for frame in bulk]
        assert three.take() == []


def test_a_bulk_frame_too_short_for_its_header_is_dropped() -> None:
    lab = Lab()
    one, two = lab.port(), lab.port()

    lab.hub.forward(one, [], [packet(1, 2)[:29]])

    assert two.take() == []
    assert lab.hub.drops == {"malformed": 1}


def test_the_bulk_way_is_forgotten_when_the_target_leaves() -> None:
    lab = Lab()
    one, two, three = lab.port(), lab.port(), lab.port()
    lab.send(two, packet(2, 1))
    lab.hub.forward(one, [], [packet(1, 2, protocol=6)])
    two.take(), three.take()

    lab.hub.unplug(two)
    lab.hub.forward(one, [], [packet(1, 2, protocol=6)])

    assert (len(two.take()), len(three.take())) == (0, 1)


def test_frames_sent_from_within_a_delivery_wait_their_turn() -> None:
    lab = Lab()
    one = lab.port()

    class Echo(Heard):
        def deliver(self, frames: Sequence[FrameBytes]) -> None:
            lab.hub.forward(self, [plain(2, 1)])
            super().deliver(frames)

    two = Echo("echo", Policy())
    lab.hub.plug(two)

    lab.send(one, plain(1, 2))

    assert one.take() == [plain(2, 1)]


# --- stretches ----------------------------------------------------------------


class Kept(Heard):
    """A port that takes stretches, and remembers their frames piece by piece."""

    def __init__(self, name: str, policy: Policy) -> None:
        super().__init__(name, policy)
        self.pieces: list[int] = []

    def deliver_stretch(self, stretch: Stretch) -> None:
        self.pieces.append(len(stretch))
        self.frames += stretch.frames()


def kept(lab: Lab) -> Kept:
    port = Kept("kept", Policy())
    lab.hub.plug(port)
    return port


def test_a_stretch_goes_on_as_a_whole_once_its_addresses_are_known() -> None:
    lab = Lab()
    one, two, three = lab.port(), kept(lab), lab.port()
    lab.send(two, packet(2, 1))
    one.take(), three.take()
    frames = [packet(1, 2) + bytes([number]) for number in range(9)]

    lab.send_stretch(one, *frames)
    lab.send_stretch(one, *frames)

    # Of the first one, the first frame has taught what the others need.
    assert two.pieces == [8, 9]
    assert two.take() == frames * 2
    assert three.take() == []


def test_a_stretch_of_ipv6_does_so_too() -> None:
    lab = Lab()
    one, two = lab.port(), kept(lab)
    lab.send(two, plain(2, 1))
    frame = encode_frame(
        Frame(mac(2), mac(1), 0x86DD, b"\x60" + bytes(20) + b"\1" * 40)
    )

    lab.send_stretch(one, *[frame] * 5)

    assert two.pieces == [4]
    assert two.take() == [frame] * 5


def test_runs_to_one_target_are_delivered_together() -> None:
    lab = Lab()
    one, two = lab.port(), kept(lab)
    lab.send(two, packet(2, 9), packet(3, 9))
    frames = [packet(1, 2), packet(1, 3), packet(4, 2)] * 2
    lab.send_stretch(one, *frames)
    two.take()
    two.pieces.clear()

    lab.send_stretch(one, *frames)

    assert two.pieces == [6]
    assert two.take() == frames


def test_what_needs_a_second_look_keeps_its_place_in_a_stretch() -> None:
    lab = Lab()
    one, two, three = lab.port(), kept(lab), kept(lab)
    lab.send(two, packet(2, 9))
    lab.send(three, packet(3, 9))
    one.take(), two.take(), three.take()
    frames = [
        packet(1, 2),
        packet(1, 2) + b"second",
        plain(1, 2),
        packet(1, 2) + b"third",
        packet(1, 3),
        announcement(mac(1), ip(1)),
        packet(1, 2) + b"last",
    ]

    for _ in range(2):
        lab.send_stretch(one, *frames)
        assert two.take() == [*frames[:4], *frames[5:]]
        assert three.take() == frames[4:6]


def test_a_part_of_a_buffer_is_a_stretch() -> None:
    lab = Lab()
    one, two = lab.port(), kept(lab)
    lab.send(two, packet(2, 1))
    frames = [packet(1, 2) + bytes([number]) for number in range(9)]

    lab.hub.forward_stretch(one, stretch_of(frames).part(3, 7))

    assert two.take() == frames[3:7]


def test_a_port_that_knows_no_stretches_gets_frames_of_its_own() -> None:
    lab = Lab()
    one, two = lab.port(), lab.port()
    lab.send(two, packet(2, 1))
    stretch = stretch_of([packet(1, 2), packet(1, 2)])

    lab.hub.forward_stretch(one, stretch)
    stretch.data[:] = bytes(len(stretch.data))

    assert two.take() == [packet(1, 2)] * 2


def test_a_stretch_sent_from_within_a_delivery_waits_its_turn() -> None:
    lab = Lab()
    one = lab.port()
    answers = stretch_of([plain(2, 1), packet(2, 1)])

    class Echo(Heard):
        def deliver(self, frames: Sequence[FrameBytes]) -> None:
            lab.hub.forward_stretch(self, answers)
            answers.data[:] = bytes(
                len(answers.data)
            )  # the buffer is the caller's again
            super().deliver(frames)

    lab.hub.plug(Echo("echo", Policy()))

    lab.send_stretch(one, plain(1, 2))

    assert one.take() == [plain(2, 1), packet(2, 1)]


def test_what_was_known_of_a_stretch_is_forgotten_after_a_second() -> None:
    lab = Lab(address_life_s=10.0)
    one, two = lab.port(), kept(lab)
    lab.send(two, packet(2, 1))
    lab.send_stretch(one, packet(1, 2), packet(1, 2))

    lab.now += 1
    lab.send_stretch(one, packet(1, 2), packet(1, 2))
    assert two.pieces == [1, 1], "one frame each went the long way round"

    lab.now += 9.5
    assert ip(1) in lab.hub.address_table(), "it kept the address alive"


def test_batches_of_a_stretch_are_those_of_its_frames() -> None:
    hub = Lab().hub
    frames = [packet(1, 2) + bytes(number) for number in range(200)]

    found = bytes(hub.encode(stretch_of(frames).part(10, 190)))

    assert BlockReader().feed(found) == frames[10:190]
    assert found == encode_batch(frames[10:138]) + encode_batch(frames[138:190])


def tables(lab: Lab) -> tuple[dict[MacAddress, str], dict[IPv4Address, str]]:
    """What the hub knows, by the names of its ports."""
    macs, addresses = lab.hub.mac_table(), lab.hub.address_table()
    return (
        {mac: port.name for mac, port in macs.items()},
        {address: port.name for address, port in addresses.items()},
    )


policies = st.builds(
    Policy,
    dhcp_filter=st.booleans(),
    dhcp_no_server=st.booleans(),
    dhcp_force=st.booleans(),
    no_bridge=st.booleans(),
    no_routing=st.booleans(),
    check_mac=st.booleans(),
    check_ip=st.booleans(),
    privacy_filter=st.booleans(),
)
numbers = st.integers(1, 3)
usual = st.one_of(
    st.builds(packet, numbers, numbers, protocol=st.sampled_from([6, 17, 253])),
    st.builds(packet, numbers, numbers, address=st.integers(1, 6)),
    st.builds(packet6, numbers, numbers, address=st.integers(0, 4)),
)
anything = st.one_of(
    usual,
    usual,
    st.builds(datagram, numbers, numbers, *[st.sampled_from([67, 68, 69])] * 2),
    st.builds(plain, numbers, numbers, tag=st.sampled_from([b"", b"\x81\0\0\1"])),
    st.builds(dhcp_ack, numbers, numbers),
    st.builds(dhcp_discover, numbers),
    numbers.map(lambda number: announcement(mac(number), ip(number))),
    st.just(mac(1).octets + b"\xff" * 6 + packet(1, 2)[12:]),
    st.just(packet(1, 2)[:30]),
    st.just(Hub("TEST", clock=float).mac + packet(1, 2)[6:]),
    st.just(packet(1, 2)[:6] + Hub("TEST", clock=float).mac + packet(1, 2)[12:]),
)
repeated = st.tuples(anything, st.integers(1, 4)).map(lambda one: [one[0]] * one[1])
turns = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.lists(repeated, max_size=8).map(lambda some: [*itertools.chain(*some)]),
        # What is known may be a second old, so no sum of these comes near a limit of time.
        st.sampled_from([0.0, 0.0, 0.3, 1.0, 20.0, 61.0]),
    ),
    max_size=12,
)


@settings(max_examples=150)
@given(rules=st.tuples(policies, policies, policies), turns=turns)
def test_a_stretch_reaches_whom_its_frames_would_reach_one_by_one(
    rules: tuple[Policy, ...], turns: list[tuple[int, list[bytes], float]]
) -> None:
    whole, single = Lab(), Lab()
    ports = [[lab.port(policy) for policy in rules] for lab in (whole, single)]

    for number, frames, pause_s in turns:
        whole.send_stretch(ports[0][number], *frames)
        single.send(ports[1][number], *frames)

        for one, other in zip(*ports, strict=True):
            assert one.take() == other.take()
        assert whole.hub.drops == single.hub.drops
        assert tables(whole) == tables(single)
        whole.now += pause_s
        single.now += pause_s


# --- shape --------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        plain(1, 2)[:13],
        plain(1, 2).ljust(1601, b"x"),
        mac(2).octets + bytes(6) + b"\x88\xb5",
        mac(2).octets + b"\xff" * 6 + b"\x88\xb5",
        mac(1).octets + mac(1).octets + b"\x88\xb5",
        mac(2).octets + mac(1).octets + b"\x08\x06" + bytes(27),
        mac(2).octets + mac(1).octets + b"\x08\x00" + bytes(19),
    ],
)
def test_a_frame_of_wrong_shape_does_not_get_in(frame: bytes) -> None:
    lab = Lab()
    one, two = lab.port(), lab.port()

    lab.send(one, frame)

    assert two.take() == []
    assert lab.hub.drops == {"malformed": 1}


def test_a_frame_to_its_own_port_is_dropped() -> None:
    lab = Lab()
    one, two = lab.port(), lab.port()
    lab.send(one, plain(1, 9), plain(3, 9))
    two.take()

    lab.send(one, plain(1, 3))

    assert two.take() == []
    assert lab.hub.drops == {"same-port": 1}


def test_a_leaving_port_takes_its_addresses_along() -> None:
    lab = Lab()
    one, two = lab.port(), lab.port()
    lab.send(one, packet(1, 2))

    lab.hub.unplug(one)
    lab.hub.unplug(one)

    assert lab.hub.mac_table() == {}
    assert lab.hub.address_table() == {}
    assert lab.hub.ports == [two]


# --- limits -------------------------------------------------------------------


def test_an_ordinary_session_has_three_macs() -> None:
    lab = Lab()
    one = lab.port(Policy().for_session(is_bridge=False))
    two = lab.port()

    lab.send(one, *(plain(number, 9) for number in range(1, 6)))

    assert len(two.take()) == 3
    assert lab.hub.drops == {"mac-limit": 2}


def test_each_vlan_of_a_mac_takes_a_slot() -> None:
    lab = Lab()
    one = lab.port(Policy(no_bridge=True))
    two = lab.port()

    lab.send(one, *(plain(1, 9, tag=b"\x81\0\0" + bytes([vlan])) for vlan in range(5)))

    assert len(two.take()) == 3
    assert lab.hub.mac_table() == {}


def test_a_mac_slot_is_free_again_after_ten_minutes() -> None:
    lab = Lab()
    one = lab.port(Policy(no_bridge=True))
    two = lab.port()
    lab.send(one, plain(1, 9), plain(2, 9), plain(3, 9))
    two.take()

    lab.now += 599
    lab.send(one, plain(4, 9))
    assert two.take() == []
    lab.now += 1
    lab.send(one, plain(4, 9))
    assert len(two.take()) == 1


def test_a_session_that_neither_bridges_nor_routes_has_four_addresses() -> None:
    lab = Lab()
    one = lab.port(Policy(no_routing=True))
    two = lab.port()

    lab.send(one, *(announcement(mac(1), ip(number)) for number in range(1, 7)))

    assert len(two.take()) == 4
    assert lab.hub.drops == {"address-limit": 2}


def test_a_bridge_has_no_limits() -> None:
    lab = Lab()
    one = lab.port(Policy().for_session(is_bridge=True))
    two = lab.port()

    lab.send(one, *(packet(number, 99) for number in range(1, 50)))

    assert len(two.take()) == 49


def test_public_addresses_are_not_remembered() -> None:
    lab = Lab()
    one = lab.port(Policy(no_routing=True))
    two = lab.port()
    frames = [
        announcement(mac(1), IPv4Address(f"8.8.8.{number}")) for number in range(9)
    ]

    lab.send(one, *frames)

    assert len(two.take()) == 9
    assert lab.hub.address_table() == {}


# --- ownership ----------------------------------------------------------------


def test_check_mac_keeps_a_mac_for_its_owner_for_thirteen_seconds() -> None:
    lab = Lab()
    one, two = lab.port(), lab.port(Policy(check_mac=True))
    lab.send(one, plain(1, 9))

    lab.now += 12.9
    lab.send(two, plain(1, 9))
    assert one.take() == []
    lab.now += 0.1
    lab.send(two, plain(1, 9))
    assert len(one.take()) == 1


def test_check_ip_keeps_an_address_for_its_owner_for_thirteen_seconds() -> None:
    lab = Lab()
    one, two = lab.port(), lab.port(Policy(check_ip=True))
    lab.send(one, announcement(mac(1), ip(1)))

    lab.now += 12.9
    lab.send(two, announcement(mac(2), ip(1)))
    assert lab.hub.drops == {"check-ip": 1}
    lab.now += 0.1
    lab.send(two, announcement(mac(2), ip(1)))
    assert lab.hub.address_table() == {ip(1): two}


def test_without_checks_an_address_changes_hands_at_once() -> None:
    lab = Lab()
    one, two = lab.port(), lab.port()
    lab.send(one, announcement(mac(1), ip(1)))

    lab.send(two, announcement(mac(2), ip(1)))

    assert lab.hub.address_table() == {ip(1): two}


def test_privacy_keeps_two_private_users_apart() -> None:
    lab = Lab()
    private = Policy(privacy_filter=True)
    one, two, three = lab.port(private), lab.port(private), lab.port()

    lab.send(one, announcement(mac(1), ip(1)))
    assert (len(two.take()), len(three.take())) == (0, 1)

    lab.send(two, plain(2, 1))
    assert one.take() == []
    assert lab.hub.drops == {"policy": 1}


# --- monitor mode -------------------------------------------------------------


@pytest.mark.parametrize("as_stretch", [False, True])
def test_a_monitor_gets_a_copy_of_all_that_gets_in_and_nothing_twice(
    *, as_stretch: bool
) -> None:
    lab = Lab()
    monitor = lab.port(Policy(monitor_port=True))
    one, two = lab.port(), lab.port(Policy(filter_ipv4=True))
    send = lab.send_stretch if as_stretch else lab.send
    said = [announcement(mac(1), ip(1)), plain(1, 2), packet(1, 2), packet(1, 2)]

    send(one, *said)
    send(two, packet(2, 1))  # filtered

    assert monitor.take() == said
    assert len(two.take()) == len(said)
    assert one.take() == []


def test_what_a_monitor_sends_goes_nowhere_and_teaches_nothing() -> None:
    lab = Lab()
    monitor, one = lab.port(Policy(monitor_port=True)), lab.port()

    lab.send(monitor, announcement(mac(9), ip(9)), plain(9, 1))

    assert one.take() == []
    assert lab.hub.drops == {"monitor": 2}
    assert lab.hub.mac_table() == {}
    assert lab.hub.address_table() == {}


def test_without_its_monitor_a_hub_is_as_before() -> None:
    lab = Lab()
    monitor, one, two = lab.port(Policy(monitor_port=True)), lab.port(), lab.port()
    lab.hub.unplug(monitor)

    lab.send(one, announcement(mac(1), ip(1)))

    assert monitor.take() == []
    assert len(two.take()) == 1


# --- DHCP ---------------------------------------------------------------------


def test_dhcp_force_drops_an_address_that_no_ack_gave() -> None:
    lab = Lab()
    one, two = lab.port(Policy(dhcp_force=True)), lab.port()

    lab.send(one, packet(1, 2), announcement(mac(1), ip(1)))

    assert two.take() == []
    assert lab.hub.drops == {"dhcp-force": 2}


def test_dhcp_force_lets_dhcp_itself_pass() -> None:
    lab = Lab()
    one, two = lab.port(Policy(dhcp_force=True)), lab.port()

    lab.send(one, dhcp_discover(1))

    assert len(two.take()) == 1


def test_dhcp_force_lets_the_leased_address_pass_after_the_ack() -> None:
    lab = Lab()
    one, server = lab.port(Policy(dhcp_force=True)), lab.port()
    lab.send(one, dhcp_discover(1))
    lab.send(server, dhcp_ack(1, 7))
    server.take()

    lab.send(one, announcement(mac(1), ip(7)), announcement(mac(1), ip(8)))

    assert server.take() == [announcement(mac(1), ip(7))]


def test_dhcp_force_forgets_a_lease_with_its_session() -> None:
    lab = Lab()
    force = Policy(dhcp_force=True)
    one, server = lab.port(force), lab.port()
    lab.send(one, dhcp_discover(1))
    lab.send(server, dhcp_ack(1, 7))
    two = lab.port(force)

    lab.send(two, announcement(mac(1), ip(7)))
    assert lab.hub.drops == {"dhcp-force": 1}, "the ghost still owns it"

    lab.hub.unplug(one)
    lab.send(two, announcement(mac(1), ip(7)))
    assert lab.hub.drops == {"dhcp-force": 2}, "nobody does"

    lab.send(server, dhcp_ack(1, 7))
    lab.send(two, announcement(mac(1), ip(7)))
    assert lab.hub.drops == {"dhcp-force": 2}


def test_dhcp_force_forgets_a_silent_lease_and_a_poll_answered_keeps_it() -> None:
    lab = Lab(lease_life_s=10.0)
    one, server = lab.port(Policy(dhcp_force=True)), lab.port()
    lab.send(one, dhcp_discover(1))
    lab.send(server, dhcp_ack(1, 7))

    lab.now += 9
    lab.send(one, announcement(mac(1), ip(7)))
    lab.now += 9
    lab.send(one, announcement(mac(1), ip(7)))
    assert lab.hub.drops == {}
    lab.now += 10
    lab.send(one, announcement(mac(1), ip(7)))
    assert lab.hub.drops == {"dhcp-force": 1}


def test_an_ack_for_a_client_that_nobody_knows_gives_nothing() -> None:
    lab = Lab()
    lab.port(Policy(dhcp_force=True))
    server = lab.port()

    lab.send(server, dhcp_ack(1, 7))

    assert lab.hub.address_table() == {}


def test_garbage_on_the_dhcp_port_teaches_nothing() -> None:
    lab = Lab()
    one, server = lab.port(), lab.port()
    lab.send(one, plain(1, 9))

    lab.send(server, dhcp_ack(1, 7)[:200].ljust(342, b"\xff"))

    assert lab.hub.address_table() == {}


@pytest.mark.parametrize("family", ["filter_ipv4", "filter_ipv6"])
def test_a_filtered_family_does_not_get_in_and_the_other_does(family: str) -> None:
    lab = Lab()
    one, two = lab.port(Policy(**{family: True})), lab.port()
    ipv4, ipv6, arp = packet(1, 9), packet6(1, 9), question(mac(1), ip(1), ip(9))

    lab.send(one, ipv4, ipv6, arp)

    assert two.take() == ([ipv6] if family == "filter_ipv4" else [ipv4, arp])


def test_dhcp_filter_drops_dhcp_both_ways_and_nothing_else() -> None:
    lab = Lab()
    one, two = lab.port(Policy(dhcp_filter=True)), lab.port()

    lab.send(one, dhcp_discover(1), packet(1, 9))
    assert two.take() == [packet(1, 9)]

    lab.send(two, dhcp_ack(1, 7), packet(2, 9))
    assert one.take() == [packet(2, 9)]


def test_dhcp_no_server_drops_answers_only() -> None:
    lab = Lab()
    one, two = lab.port(Policy(dhcp_no_server=True)), lab.port()

    lab.send(one, dhcp_discover(1), dhcp_ack(1, 7))

    assert two.take() == [dhcp_discover(1)]
    assert lab.hub.drops == {"dhcp-no-server": 1}


# --- polls --------------------------------------------------------------------


def test_the_hub_asks_the_addresses_it_knows_from_its_own_mac() -> None:
    lab = Lab()
    one, two = lab.port(), lab.port()
    lab.send(one, announcement(mac(1), ip(1)))
    two.take()

    lab.hub.poll()

    assert two.take() == []
    (frame,) = map(decode_frame, one.take())
    asked = decode_arp(frame.payload)
    assert frame.destination == mac(1)
    assert frame.source.is_hub
    assert (asked.operation, asked.target_ip) == (ArpOperation.REQUEST, ip(1))
    assert str(asked.sender_ip).startswith("172.31.")


def test_an_answer_to_a_poll_keeps_the_address_and_goes_no_further() -> None:
    lab = Lab(address_life_s=10.0)
    one, two = lab.port(), lab.port()
    lab.send(one, announcement(mac(1), ip(1)))
    two.take()
    answer = announcement(mac(1), ip(1))

    lab.now += 9
    lab.send(one, lab.hub.mac + answer[6:])
    lab.now += 9

    assert two.take() == []
    assert lab.hub.address_table() == {ip(1): one}


def test_a_silent_address_is_forgotten_and_not_asked_any_more() -> None:
    lab = Lab(address_life_s=10.0)
    one = lab.port()
    lab.send(one, announcement(mac(1), ip(1)))

    lab.now += 10
    lab.hub.poll()

    assert one.take() == []
    assert lab.hub.address_table() == {}


def test_after_a_minute_of_silence_a_lease_is_not_asked_any_more() -> None:
    lab = Lab()
    one, server = lab.port(), lab.port()
    lab.send(one, dhcp_discover(1))
    lab.send(server, dhcp_ack(1, 7))
    one.take()

    lab.now += 60
    lab.hub.poll()

    assert one.take() == []
    assert lab.hub.address_table() == {ip(7): one}


def advertisement(number: int, address: str) -> bytes:
    target = IPv6Address(address)
    told = NeighbourAdvertisement(target, IPv6Address("ff02::1"), target, mac(number))
    return encode_frame(Frame(BROADCAST, mac(number), 0x86DD, encode_nd(told)))


def test_the_hub_asks_local_addresses_of_ipv6_too() -> None:
    lab = Lab()
    one = lab.port()
    lab.send(one, advertisement(1, "fe80::1"), advertisement(1, "2001:db8::1"))

    lab.hub.poll()

    (frame,) = map(decode_frame, one.take())
    asked = decode_nd(frame.payload)
    assert frame.source.is_hub
    assert isinstance(asked, NeighbourSolicitation)
    assert asked.target == IPv6Address("fe80::1")
    assert asked.source.is_link_local
    assert asked.source_mac == frame.source


def test_dhcp_force_lets_ipv6_pass() -> None:
    lab = Lab()
    one, two = lab.port(Policy(dhcp_force=True)), lab.port()

    lab.send(one, advertisement(1, "fe80::1"))

    assert len(two.take()) == 1


def test_an_ordinary_session_has_fifteen_addresses_of_ipv6() -> None:
    lab = Lab()
    one, two = lab.port(Policy(no_routing=True)), lab.port()

    lab.send(one, *(advertisement(1, f"fe80::{number:x}") for number in range(1, 21)))

    assert len(two.take()) == 15
    assert lab.hub.drops == {"address-limit": 5}


# --- policy -------------------------------------------------------------------


def test_policies_are_announced_by_the_names_of_the_wire() -> None:
    announced = Policy(dhcp_force=True, multi_logins=2).announced()

    assert set(announced) <= set(POLICY_NAMES)
    assert announced["DHCPForce"] == 1
    assert announced["MultiLogins"] == 2
    assert announced["TimeOut"] == 20


def test_small_limits_are_raised_to_what_real_hubs_allow() -> None:
    assert Policy(max_mac=1).mac_limit == 3
    assert Policy(max_ip=1).address_limit == 4
    assert Policy(max_mac=9, max_ip=9).mac_limit == 9
    assert Policy().mac_limit is None
    assert Policy().address_limit is None


def test_a_policy_is_read_strictly() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"timeout_s": 4}, Policy)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"dhcp-force": True}, Policy)
