# SPDX-License-Identifier: Apache-2.0
"""Servers of 4.x, 5.01 and 5.02 differ; see docs/reference/protocol.md#versions."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from sevpn.protocol.codes import error_from_code
from sevpn.protocol.credentials import Password
from sevpn.protocol.handshake import ClientHandshake
from sevpn.protocol.identity import ClientIdentity
from sevpn.protocol.messages import Hello, decode_hello, encode_hello
from sevpn.protocol.neighbour import answer_poll
from sevpn.wire.arp import decode_arp, question
from sevpn.wire.ethernet import MacAddress, decode_frame
from sevpn.wire.http import HttpReader, Request
from sevpn.wire.pack import Pack, data, integer

GENERATIONS = {
    "4.x": ("SoftEther VPN Server (64 bit)", 444, 9807),
    "5.01": ("SoftEther VPN Server Developer Edition", 501, 9674),
    "5.02": ("SoftEther VPN Server Developer Edition", 502, 5187),
}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_hello_of_each_generation_is_read(generation: str) -> None:
    product, version, build = GENERATIONS[generation]
    hello = Hello(product, version, build, bytes(20))

    assert decode_hello(encode_hello(hello)) == hello


def address(number: int, octets: bytes, *, is_ipv6: bool) -> Pack:
    return Pack(
        (
            integer("Ip", number),
            integer("Ip@ipv6_bool", is_ipv6),
            data("Ip@ipv6_array", octets),
        )
    )


@pytest.mark.parametrize(
    "pack",
    [
        address(0x0100000A, bytes(16), is_ipv6=False),
        address(0, IPv6Address("::ffff:10.0.0.1").packed, is_ipv6=True),
        Pack((integer("Ip", 0x0100000A),)),
    ],
    ids=["4.x and 5.01", "5.02", "without the elements of IPv6"],
)
def test_an_address_is_the_same_in_each_generation(pack: Pack) -> None:
    assert pack.get_ip("Ip") == IPv4Address("10.0.0.1")


@pytest.mark.parametrize(
    "pack",
    [
        address(0, bytes(16), is_ipv6=False),
        address(0, bytes(16), is_ipv6=True),
        address(0, IPv6Address("::ffff:0.0.0.0").packed, is_ipv6=True),
    ],
    ids=["IPv4", "IPv6", "mapped"],
)
def test_unspecified_is_none_in_each_generation(pack: Pack) -> None:
    found = pack.get_ip("Ip")

    assert found is not None
    assert found.is_unspecified


def test_no_generation_finds_us_too_old() -> None:
    # 4.x and 5.01 refuse builds under 6560 where a policy must be obeyed.
    default = ClientIdentity.__dataclass_fields__["build"].default

    assert isinstance(default, int)
    assert default >= 6560


def test_error_149_is_explained_for_each_generation() -> None:
    error = error_from_code(149, host="vpn.example", hub="OFFICE", user="alice")

    assert "certificate" in str(error)
    assert "DHCP" in str(error)


def test_no_generation_is_asked_for_a_page() -> None:
    # What stands at / differs, and nothing that a client needs depends on it.
    handshake = ClientHandshake(
        host="192.0.2.1",
        hub="TEST",
        credentials=Password.of("alice", "secret"),
        identity=ClientIdentity(unique_id=bytes(16), machine_id=bytes(20)),
        random=bytes,
        date="Tue, 03 Mar 2026 12:00:00 GMT",
    )
    reader = HttpReader("server")
    reader.feed(handshake.data_to_send())

    request = reader.next_message()

    assert isinstance(request, Request)
    assert (request.method, request.target) == ("POST", "/vpnsvc/connect.cgi")
    assert reader.trailing() == b""


@pytest.mark.parametrize(
    "hub_address", ["172.31.93.7", "172.31.7.7"], ids=["4.x and 5.01", "5.02"]
)
def test_a_poll_is_answered_whichever_address_a_generations_hub_has(
    hub_address: str,
) -> None:
    hub, ours = MacAddress.parse("00:ae:12:34:56:78"), MacAddress(b"\x5e\0\0\0\0\1")
    address = IPv4Address("10.0.0.5")
    poll = question(hub, IPv4Address(hub_address), address)

    answer = answer_poll(poll, mac=ours, addresses=(address,))

    assert answer is not None
    assert str(decode_arp(decode_frame(answer).payload).target_ip) == hub_address
