# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from sevpn.protocol.udpterms import (
    UdpGrant,
    UdpOffer,
    client_terms,
    decode_grant,
    decode_offer,
    grant_elements,
    offer_elements,
    server_terms,
)
from sevpn.wire.pack import Element, Kind, Pack, data, integer, ip_elements

OFFER = UdpOffer(
    max_version=2,
    address=IPv4Address("192.0.2.10"),
    port=5000,
    key_v1=b"c" * 20,
    key_v2=b"C" * 128,
)
OLD_OFFER = replace(OFFER, max_version=1, key_v2=b"")
GRANT = UdpGrant(
    version=2,
    address=IPv4Address("10.0.0.1"),
    port=40000,
    key_v1=b"s" * 20,
    key_v2=b"S" * 128,
    server_cookie=88,
    client_cookie=77,
    is_fast=True,
)
SERVER = IPv4Address("198.51.100.1")
NOWHERE = (IPv4Address("224.0.0.1"), IPv4Address("255.255.255.255"), IPv6Address("ff02::1"))  # fmt: skip


def changed(elements: tuple[Element, ...], *others: Element) -> Pack:
    """Return a Pack with some elements replaced by others of the same names."""
    names = {other.name for other in others}
    kept = tuple(element for element in elements if element.name not in names)
    return Pack((*kept, *others))


def without(elements: tuple[Element, ...], name: str) -> Pack:
    return Pack(tuple(element for element in elements if element.name != name))


# --- the offer ---


@pytest.mark.parametrize(
    "offer",
    [
        OFFER,
        replace(OFFER, address=None, is_fast=False),
        replace(OFFER, address=IPv6Address("2001:db8::1")),
        replace(OFFER, max_version=1, key_v2=b""),
    ],
)
def test_an_offer_is_read_as_it_was_written(offer: UdpOffer) -> None:
    assert decode_offer(Pack(offer_elements(offer))) == offer


def test_no_offer_is_none() -> None:
    assert decode_offer(Pack(())) is None


def test_a_version_that_nobody_knows_yet_is_taken_for_2() -> None:
    pack = changed(offer_elements(OFFER), integer("udp_acceleration_max_version", 3))

    assert decode_offer(pack) == OFFER


@pytest.mark.parametrize(
    "odd",
    [
        integer("udp_acceleration_client_port", 0),
        integer("udp_acceleration_client_port", 65536),
        data("udp_acceleration_client_key", bytes(19)),
        data("udp_acceleration_client_key_v2", bytes(32)),
    ],
)
def test_an_offer_that_is_not_right_is_none(odd: Element) -> None:
    assert decode_offer(changed(offer_elements(OFFER), odd)) is None


def test_an_offer_without_an_address_or_with_an_odd_one_is_none() -> None:
    elements = offer_elements(OFFER)

    assert decode_offer(without(elements, "udp_acceleration_client_ip")) is None
    for address in NOWHERE:
        odd = ip_elements("udp_acceleration_client_ip", address)
        assert decode_offer(changed(elements, *odd)) is None


# --- the grant ---


@pytest.mark.parametrize(
    "grant",
    [
        GRANT,
        replace(GRANT, is_fast=False),
        replace(GRANT, address=None),
        replace(GRANT, address=IPv6Address("2001:db8::1")),
    ],
)
def test_a_grant_is_read_as_it_was_written(grant: UdpGrant) -> None:
    assert decode_grant(Pack(grant_elements(grant)), OFFER) == grant


def test_an_absent_version_is_1() -> None:
    pack = without(grant_elements(GRANT), "udp_acceleration_version")

    assert decode_grant(pack, OLD_OFFER) == replace(GRANT, version=1)


def test_version_1_needs_no_key_of_version_2() -> None:
    grant = replace(GRANT, version=1, key_v2=b"")

    assert decode_grant(Pack(grant_elements(grant)), OLD_OFFER) == grant


def test_version_1_is_not_taken_where_it_was_not_asked_for() -> None:
    pack = Pack(grant_elements(replace(GRANT, version=1)))

    assert "--udp-v1" in str(decode_grant(pack, OFFER))


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (integer("use_udp_acceleration", 0), "does not want"),
        (integer("udp_acceleration_version", 3), "version 3"),
        (integer("udp_acceleration_server_port", 0), "no port"),
        (integer("udp_acceleration_server_port", 70000), "no port"),
        (integer("udp_acceleration_server_cookie", 0), "no cookie"),
        (integer("udp_acceleration_client_cookie", 0), "no cookie"),
        (data("udp_acceleration_server_key", bytes(16)), "wrong size"),
        (data("udp_acceleration_server_key_v2", bytes(32)), "wrong size"),
        (integer("udp_acceleration_use_encryption", 0), "in clear"),
    ],
)
def test_a_grant_that_is_not_right_turns_udp_off_and_says_why(
    odd: Element, reason: str
) -> None:
    told = decode_grant(changed(grant_elements(GRANT), odd), OFFER)

    assert isinstance(told, str)
    assert reason in told


def test_a_grant_without_an_address_or_with_an_odd_one_turns_udp_off() -> None:
    elements = grant_elements(GRANT)
    name = "udp_acceleration_server_ip"

    assert decode_grant(without(elements, name), OFFER) == "the server names no address"
    for address in NOWHERE:
        pack = changed(elements, *ip_elements(name, address))
        assert decode_grant(pack, OFFER) == "the server names no address"


def test_what_was_not_offered_is_not_granted() -> None:
    pack = Pack(grant_elements(GRANT))

    assert decode_grant(pack, None) == "not offered to the server"
    assert "version 2" in str(decode_grant(pack, OLD_OFFER))


# --- both ends ---


@pytest.mark.parametrize(("version", "mine", "yours"), [(1, "c", "s"), (2, "C", "S")])
def test_what_one_end_sends_with_the_other_receives_with(
    version: int, mine: str, yours: str
) -> None:
    grant = replace(GRANT, version=2 if version == 2 else 1)
    client = client_terms(OFFER, grant, SERVER)
    server = server_terms(OFFER, grant, IPv4Address("203.0.113.1"))

    assert client.send_key[:1] == mine.encode()
    assert client.receive_key[:1] == yours.encode()
    assert (server.send_key, server.receive_key) == (client.receive_key, client.send_key)  # fmt: skip
    assert (server.send_cookie, server.receive_cookie) == (77, 88)
    assert (client.send_cookie, client.receive_cookie) == (88, 77)


def test_the_peer_is_where_tcp_led_and_its_own_word_is_the_second_choice() -> None:
    client = client_terms(OFFER, GRANT, SERVER)

    assert (client.peer, client.port, client.reported) == (SERVER, 40000, IPv4Address("10.0.0.1"))  # fmt: skip


@pytest.mark.parametrize("address", [None, SERVER, IPv6Address("2001:db8::1")])
def test_a_reported_address_that_says_nothing_new_is_left_out(
    address: IPv4Address | IPv6Address | None,
) -> None:
    assert client_terms(OFFER, replace(GRANT, address=address), SERVER).reported is None


def test_keys_are_never_shown() -> None:
    shown = f"{OFFER!r} {GRANT!r} {client_terms(OFFER, GRANT, SERVER)!r}"

    for secret in (b"c" * 20, b"C" * 20, b"s" * 20, b"S" * 20):
        assert repr(secret)[1:-1] not in shown


def test_kinds_are_those_of_official_programs() -> None:
    kinds = {element.name: element.kind for element in offer_elements(OFFER)}

    assert kinds["udp_acceleration_client_key_v2"] is Kind.DATA
    assert kinds["udp_acceleration_client_port"] is Kind.INT
