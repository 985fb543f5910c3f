# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from sevpn.errors import LocalProtocolError
from sevpn.protocol.identity import ClientIdentity, node_information
from sevpn.wire.pack import Kind, Pack, encode_pack

UNIQUE, MACHINE = bytes(range(16)), bytes(range(20))


def identity(**changes: Any) -> ClientIdentity:
    values: dict[str, Any] = {
        "unique_id": UNIQUE,
        "machine_id": MACHINE,
        "client_address": IPv4Address("192.0.2.10"),
        "client_port": 50000,
        "server_address": IPv4Address("198.51.100.1"),
        "server_port": 443,
        "server_host": "vpn.example",
        "hostname": "laptop",
        "os_name": "Debian GNU/Linux",
        "os_version": "12",
    }
    return ClientIdentity(**{**values, **changes})


def information(**changes: Any) -> Pack:
    return Pack(
        node_information(
            identity(**changes),
            server_product="SoftEther VPN Server",
            server_version=501,
            server_build=9674,
        )
    )


def test_minimal_privacy_tells_only_the_local_address() -> None:
    pack = information()

    assert pack.get_ip("ClientIpAddress") == IPv4Address("192.0.2.10")
    assert pack.get_data("UniqueId") == UNIQUE
    shown = encode_pack(pack)
    for secret in (b"laptop", b"vpn.example", b"Debian", b"\x01\x64\x33\xc6"):
        assert secret not in shown
    for name in ("ClientPort", "ServerPort2", "ServerIpAddress"):
        assert pack.get_int(name) == 0


def test_full_privacy_tells_host_system_and_server() -> None:
    pack = information(privacy="full")

    assert pack.get_str("ClientHostname") == "laptop"
    assert pack.get_str("ServerHostname") == "vpn.example"
    assert (pack.get_str("ClientOsName"), pack.get_str("ClientOsVer")) == (
        "Debian GNU/Linux",
        "12",
    )
    assert pack.get_str("V_Title") == "Debian GNU/Linux"
    assert pack.get_ip("ServerIpAddress") == IPv4Address("198.51.100.1")


def test_numbers_travel_with_their_bytes_reversed() -> None:
    pack = information(privacy="full", version=501)

    assert pack.get_int("ClientProductVer") == 0xF5010000
    assert pack.get_int("ServerProductVer") == 0xF5010000
    assert pack.get_int("ServerProductBuild") == 0xCA250000
    assert pack.get_int("ClientPort") == 0x50C30000
    assert pack.get_int("ServerPort2") == 0xBB010000


def test_over_ipv6_the_ipv4_address_is_zero_and_the_other_is_set() -> None:
    address = IPv6Address("2001:db8::1")
    pack = information(client_address=address)

    assert pack.get_ip("ClientIpAddress") == IPv4Address(0)
    assert pack.get_data("ClientIpAddress6") == address.packed


def test_an_ipv4_mapped_address_is_told_as_ipv4() -> None:
    pack = information(client_address=IPv6Address("::ffff:192.0.2.10"))

    assert pack.get_ip("ClientIpAddress") == IPv4Address("192.0.2.10")
    assert pack.get_data("ClientIpAddress6") == bytes(16)


def test_an_address_that_is_not_known_is_zero() -> None:
    assert information(client_address=None).get_ip("ClientIpAddress") == IPv4Address(0)


def test_texts_are_cut_to_what_the_server_stores_without_breaking_a_character() -> None:
    pack = information(privacy="full", hostname="ü" * 40, os_version="a\0b\ud800")

    assert pack.get_str("ClientHostname") == "ü" * 31
    assert pack.get_str("ClientOsVer") == "ab?"


def test_a_linux_client_is_no_windows_in_any_element() -> None:
    windows = [
        e for e in information() if e.name.startswith("V_") and e.name != "V_Title"
    ]

    assert len(windows) == 8
    assert all((e.kind, e.values) == (Kind.INT, (0,)) for e in windows)


@pytest.mark.parametrize(
    "changes",
    [
        {"unique_id": bytes(15)},
        {"machine_id": bytes(16)},
        {"product": "My Server Client"},
        {"product": "abriDGEd client"},
    ],
)
def test_an_identity_that_servers_would_misread_is_not_made(
    changes: dict[str, Any],
) -> None:
    with pytest.raises(LocalProtocolError):
        identity(**changes)


def test_the_default_identity_passes_the_checks_of_official_servers() -> None:
    default = ClientIdentity(unique_id=UNIQUE, machine_id=MACHINE)

    assert "client" in default.product.lower()
    assert default.build >= 9700
    assert UNIQUE.hex() not in repr(default)
    assert repr(UNIQUE) not in repr(default)
