# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sevpn.dataplane.sieve import BOTH, CONTROL, DROP, HOST, Sieve
from sevpn.wire.ethernet import MacAddress

US = MacAddress.parse("5e:00:00:00:00:01")
PEER = bytes.fromhex("5e0000000002")
HUB = bytes.fromhex("00ae11223344")
ALL = b"\xff" * 6


def frame(
    payload: bytes, *, ethertype: int, source: bytes = PEER, to: bytes = US.octets
) -> memoryview:
    return memoryview(to + source + ethertype.to_bytes(2, "big") + payload)


def ipv4(
    payload: bytes,
    *,
    protocol: int,
    options: bytes = b"",
    fragment: int = 0,
    to: bytes = US.octets,
) -> memoryview:
    head = (
        bytes([0x45 + len(options) // 4, 0])
        + bytes(4)
        + fragment.to_bytes(2, "big")
        + bytes([64, protocol])
    )
    return frame(head + bytes(10) + options + payload, ethertype=0x0800, to=to)


def dhcp_reply(*, port: int = 68, op: int = 2, mac: bytes = US.octets) -> bytes:
    return (
        b"\x00\x43"
        + port.to_bytes(2, "big")
        + bytes(4)
        + bytes([op])
        + bytes(27)
        + mac
        + bytes(200)
    )


def solicitation(source: bytes, kind: int = 135) -> memoryview:
    header = b"\x60" + bytes(5) + b"\x3a\xff" + bytes(32)
    return frame(header + bytes([kind]) + bytes(23), ethertype=0x86DD, source=source)


def dhcpv6(port: int) -> memoryview:
    header = b"\x60" + bytes(5) + b"\x11\xff" + bytes(32)
    return frame(header + b"\2\x23" + port.to_bytes(2, "big"), ethertype=0x86DD)


TCP = ipv4(bytes(20), protocol=6)
UDP = ipv4(bytes(20), protocol=17)
ARP = frame(bytes(28), ethertype=0x0806, to=ALL)
HUB_ARP = frame(bytes(28), ethertype=0x0806, source=HUB)
DHCP = ipv4(dhcp_reply(), protocol=17, to=ALL)


def a_sieve(*, is_open: bool, is_proving: bool = False) -> Sieve:
    sieve = Sieve(US)
    sieve.is_open = is_open
    sieve.is_proving = is_proving
    return sieve


@pytest.mark.parametrize(
    ("name", "what", "closed", "opened"),
    [
        ("dhcp reply", DHCP, CONTROL, CONTROL),
        ("hub's arp poll", HUB_ARP, CONTROL, CONTROL),
        ("hub's neighbour solicitation", solicitation(HUB), CONTROL, CONTROL),
        ("router advertisement", solicitation(PEER, kind=134), CONTROL, CONTROL),
        ("dhcpv6 to a client", dhcpv6(546), CONTROL, CONTROL),
        ("dhcpv6 to a server", dhcpv6(547), DROP, HOST),
        ("other arp", ARP, CONTROL, BOTH),
        ("tcp", TCP, DROP, HOST),
        ("udp", UDP, DROP, HOST),
        ("another host's neighbour solicitation", solicitation(PEER), CONTROL, HOST),
        ("hub's other icmpv6", solicitation(HUB, kind=128), DROP, HOST),
        ("802.1Q", frame(bytes(40), ethertype=0x8100), DROP, HOST),
        ("a bare header", frame(b"", ethertype=0x88CC), DROP, HOST),
    ],
)
def test_each_kind_of_frame_goes_where_the_table_says(
    name: str, what: memoryview, closed: int, opened: int
) -> None:
    assert a_sieve(is_open=False).decide(what) == closed, name
    assert a_sieve(is_open=True).decide(what) == opened, name


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("for another client", ipv4(dhcp_reply(mac=PEER), protocol=17)),
        ("a request", ipv4(dhcp_reply(op=1), protocol=17)),
        ("to the server's port", ipv4(dhcp_reply(port=67), protocol=17)),
        ("over tcp", ipv4(dhcp_reply(), protocol=6)),
        ("a later fragment", ipv4(dhcp_reply(), protocol=17, fragment=100)),
        ("cut in the client's address", ipv4(dhcp_reply()[: 8 + 33], protocol=17)),
    ],
)
def test_what_only_looks_like_our_dhcp_reply_is_the_hosts(
    name: str, what: memoryview
) -> None:
    assert a_sieve(is_open=True).decide(what) == HOST, name


def test_a_dhcp_reply_is_found_behind_ip_options() -> None:
    assert (
        a_sieve(is_open=False).decide(ipv4(dhcp_reply(), protocol=17, options=bytes(8)))
        == CONTROL
    )


def test_the_first_fragment_of_a_dhcp_reply_is_controls() -> None:
    assert (
        a_sieve(is_open=True).decide(ipv4(dhcp_reply(), protocol=17, fragment=0x2000))
        == CONTROL
    )


def test_the_smallest_dhcp_reply_that_names_the_client_is_controls() -> None:
    assert (
        a_sieve(is_open=True).decide(ipv4(dhcp_reply()[: 8 + 34], protocol=17))
        == CONTROL
    )


@pytest.mark.parametrize("is_open", [True, False])
def test_while_proving_control_sees_unicast_to_us(is_open: bool) -> None:
    sieve = a_sieve(is_open=is_open, is_proving=True)

    assert sieve.decide(TCP) == (BOTH if is_open else CONTROL)


def test_while_proving_control_does_not_see_what_is_for_others() -> None:
    sieve = a_sieve(is_open=True, is_proving=True)

    assert sieve.decide(ipv4(bytes(20), protocol=6, to=ALL)) == HOST
    assert sieve.decide(ipv4(bytes(20), protocol=6, to=PEER)) == HOST


@pytest.mark.parametrize(
    ("is_open", "is_proving", "passes"),
    [(True, False, True), (True, True, False), (False, False, False)],
)
def test_tcp_needs_no_look_only_in_the_open_and_proven_tunnel(
    is_open: bool, is_proving: bool, passes: bool
) -> None:
    assert a_sieve(is_open=is_open, is_proving=is_proving).passes_tcp is passes


def test_a_new_address_is_obeyed() -> None:
    sieve = a_sieve(is_open=True)
    sieve.mac = MacAddress(PEER)

    assert sieve.mac == MacAddress(PEER)
    assert sieve.decide(DHCP) == HOST
    assert sieve.decide(ipv4(dhcp_reply(mac=PEER), protocol=17)) == CONTROL


def test_whoever_waits_for_the_gate_is_told_that_it_moved() -> None:
    told: list[str] = []
    sieve = Sieve(US, on_gate=lambda: told.append("moved"))

    sieve.is_open = True
    sieve.is_proving = True
    sieve.is_open = False

    assert told == ["moved", "moved"]


@given(st.binary(min_size=14, max_size=120), st.booleans(), st.booleans())
def test_no_frame_is_too_odd_to_be_decided(
    odd: bytes, is_open: bool, is_proving: bool
) -> None:
    verdict = a_sieve(is_open=is_open, is_proving=is_proving).decide(memoryview(odd))

    assert verdict in {DROP, HOST, CONTROL, BOTH}
    assert is_open or not verdict & HOST


@given(
    st.binary(max_size=120),
    st.sampled_from([0x0800, 0x86DD, 0x0806]),
    st.sampled_from([PEER, HUB]),
)
def test_no_truncated_packet_is_too_odd_to_be_decided(
    payload: bytes, ethertype: int, source: bytes
) -> None:
    assert a_sieve(is_open=True).decide(
        frame(payload, ethertype=ethertype, source=source)
    ) in {HOST, CONTROL, BOTH}
