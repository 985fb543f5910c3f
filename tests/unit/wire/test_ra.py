# SPDX-License-Identifier: Apache-2.0
"""Router advertisements as scapy writes them, and what is no such thing."""

from __future__ import annotations

import contextlib
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given, strategies as st
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDNSSL,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptRouteInfo,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6NDOptUnknown,
    IPv6,
)

from sevpn.errors import RemoteProtocolError
from sevpn.wire.ethernet import MacAddress
from sevpn.wire.ipv6 import link_local
from sevpn.wire.ra import (
    PrefixInformation,
    RouteInformation,
    RouterAdvertisement,
    decode_names,
    decode_ra,
    router_solicitation,
)

ROUTER = "fe80::1"


def ra(*options: Any, source: str = ROUTER, hlim: int = 255, **fields: Any) -> bytes:
    said: dict[str, Any] = {"prf": 0} | fields
    packet = IPv6(src=source, dst="ff02::1", hlim=hlim) / ICMPv6ND_RA(**said)
    for option in options:
        packet /= option
    return bytes(packet)


def test_all_that_a_router_says_is_read() -> None:
    packet = ra(
        ICMPv6NDOptSrcLLAddr(lladdr="5e:00:00:00:00:01"),
        ICMPv6NDOptMTU(mtu=1400),
        ICMPv6NDOptPrefixInfo(
            prefixlen=64,
            L=1,
            A=1,
            validlifetime=7200,
            preferredlifetime=3600,
            prefix="2001:db8:5::",
        ),
        ICMPv6NDOptRouteInfo(plen=48, prf=1, rtlifetime=600, prefix="2001:db8:7::"),
        ICMPv6NDOptRDNSS(lifetime=300, dns=["2001:db8::53", "2001:db8::54"]),
        ICMPv6NDOptDNSSL(lifetime=300, searchlist=["corp.test", "lab.test"]),
        M=1,
        O=1,
        prf=3,
        routerlifetime=1800,
    )

    assert decode_ra(packet + b"padding") == RouterAdvertisement(
        source=IPv6Address(ROUTER),
        is_managed=True,
        has_other=True,
        preference=-1,
        lifetime_s=1800,
        mtu=1400,
        prefixes=(
            PrefixInformation(
                IPv6Network("2001:db8:5::/64"),
                is_on_link=True,
                is_autonomous=True,
                valid_s=7200,
                preferred_s=3600,
            ),
        ),
        routes=(RouteInformation(IPv6Network("2001:db8:7::/48"), 1, 600),),
        servers=(
            (IPv6Address("2001:db8::53"), 300),
            (IPv6Address("2001:db8::54"), 300),
        ),
        search=(("corp.test", 300), ("lab.test", 300)),
    )


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (3, b"\xff\xc0" + bytes(28)),  # a prefix of 255 bits
        (3, b"\x40\xc0" + bytes(3) + b"\1" + bytes(3) + b"\2" + bytes(20)),
        (3, b"\x40\xc0" + bytes(4)),
        (5, bytes(14)),
        (24, b"\x81\0" + bytes(4)),
        (24, b"\x40\0" + bytes(4)),  # 64 bits, and none is there
        (99, bytes(6)),
    ],
)
def test_options_that_make_no_sense_are_skipped(kind: int, value: bytes) -> None:
    packet = ra(
        ICMPv6NDOptUnknown(type=kind, len=(len(value) + 2) // 8, data=value),
        ICMPv6NDOptRDNSS(lifetime=300, dns=["2001:db8::53"]),
        routerlifetime=9,
    )

    said = decode_ra(packet)

    assert said == RouterAdvertisement(
        IPv6Address(ROUTER),
        lifetime_s=9,
        servers=((IPv6Address("2001:db8::53"), 300),),
    )


def test_what_is_no_advertisement_is_none() -> None:
    solicitation = IPv6(src=ROUTER, dst="ff02::2", hlim=255) / ICMPv6ND_RS()

    assert decode_ra(bytes(solicitation)) is None
    assert decode_ra(bytes(IPv6(src=ROUTER, nh=59))) is None


@pytest.mark.parametrize(
    "packet",
    [
        ra(hlim=64),
        ra(source="2001:db8::1"),
        ra()[:-1] + b"\xff",
        ra(ICMPv6NDOptUnknown(type=3, len=0, data=b"")),
        ra(ICMPv6NDOptUnknown(type=3, len=9, data=bytes(6))),
        b"\x60" + bytes(38),
        b"\x40" + bytes(60),
        b"\x60" + bytes(3) + b"\0\xff" + bytes(34),
    ],
    ids=["routed", "not of the link", "sum", "size 0", "cut", "short", "IPv4", "size"],
)
def test_what_is_broken_is_refused(packet: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_ra(packet)


def test_an_advertisement_of_four_bytes_is_refused() -> None:
    body = b"\x86\0\0\0"
    head = b"\x60" + bytes(3) + b"\0\4\x3a\xff"
    addresses = IPv6Address(ROUTER).packed + IPv6Address("ff02::1").packed

    with pytest.raises(RemoteProtocolError):
        decode_ra(head + addresses + body)


def test_a_solicitation_is_one_to_scapy() -> None:
    own = link_local(MacAddress.parse("5e:00:00:00:00:01"))
    sent = IPv6(router_solicitation(own))
    summed = sent[ICMPv6ND_RS].cksum
    del sent[ICMPv6ND_RS].cksum

    assert str(own) == "fe80::5c00:ff:fe00:1"
    assert (sent.src, sent.dst, sent.hlim) == (str(own), "ff02::2", 255)
    assert IPv6(bytes(sent))[ICMPv6ND_RS].cksum == summed


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"\4corp\4test\0\3lab\0", ["corp.test", "lab"]),
        (b"\4corp\0" + bytes(9), ["corp"]),
        (b"\4corp\0\x40" + bytes(70), ["corp"]),
        (b"\4corp\0\5cut", ["corp"]),
        (b"\4corp", []),
        (b"", []),
        ((b"\x3f" + b"a" * 63) * 5 + b"\0", []),
        (b"\1a\0" * 40, ["a"] * 32),
    ],
)
def test_names_end_where_they_are_cut(data: bytes, names: list[str]) -> None:
    assert decode_names(data) == names


@given(st.binary(max_size=120))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    head = b"\x60" + bytes(3) + len(data).to_bytes(2, "big") + b"\x3a\xff"
    packet = head + IPv6Address(ROUTER).packed + IPv6Address("ff02::1").packed + data
    with contextlib.suppress(RemoteProtocolError):
        decode_ra(packet)


@given(st.binary(max_size=200))
def test_options_of_any_bytes_are_read_or_refused(data: bytes) -> None:
    plain = ra(routerlifetime=1) + data
    size = len(plain) - 40
    body = plain[40:42] + b"\0\0" + plain[44:]
    pseudo = plain[8:40] + size.to_bytes(4, "big") + b"\0\0\0\x3a" + body
    total = sum(
        int.from_bytes(pseudo[at : at + 2].ljust(2, b"\0"), "big")
        for at in range(0, len(pseudo), 2)
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    summed = body[:2] + (0xFFFF - total).to_bytes(2, "big") + body[4:]
    packet = plain[:4] + size.to_bytes(2, "big") + plain[6:40] + summed
    with contextlib.suppress(RemoteProtocolError):
        assert decode_ra(packet) is not None
