# SPDX-License-Identifier: Apache-2.0
"""DHCPv6 messages: what we write scapy reads, what scapy writes we read."""

from __future__ import annotations

import contextlib
from ipaddress import IPv6Address

import pytest
from hypothesis import given, strategies as st
from scapy.layers.dhcp6 import (
    DUID_LL,
    DHCP6_InfoRequest,
    DHCP6_Reply,
    DHCP6_Request,
    DHCP6OptClientId,
    DHCP6OptDNSDomains,
    DHCP6OptDNSServers,
    DHCP6OptElapsedTime,
    DHCP6OptIA_NA,
    DHCP6OptIAAddress,
    DHCP6OptInfoRefreshTime,
    DHCP6OptOptReq,
    DHCP6OptRapidCommit,
    DHCP6OptServerId,
    DHCP6OptStatusCode,
)

from sevpn.errors import RemoteProtocolError
from sevpn.wire.dhcpv6 import (
    Dhcpv6Message,
    Dhcpv6Type,
    LeasedAddress,
    decode_dhcpv6,
    encode_dhcpv6,
)

OURS, SERVER = b"\0\3\0\1\x5e\0\0\0\0\1", b"\0\3\0\1\x5e\0\0\0\0\2"
ADDRESS = IPv6Address("2001:db8::5")


def reply(*options: object, number: int = 7) -> bytes:
    packet = DHCP6_Reply(trid=number)
    for option in options:
        packet /= option
    return bytes(packet)


def test_a_reply_is_read() -> None:
    data = reply(
        DHCP6OptClientId(duid=DUID_LL(lladdr="5e:00:00:00:00:01")),
        DHCP6OptServerId(duid=DUID_LL(lladdr="5e:00:00:00:00:02")),
        DHCP6OptIA_NA(
            iaid=9,
            T1=100,
            T2=160,
            ianaopts=[
                DHCP6OptIAAddress(addr=str(ADDRESS), preflft=200, validlft=300),
                DHCP6OptIAAddress(
                    addr="2001:db8::6",
                    preflft=200,
                    validlft=300,
                    iaaddropts=[DHCP6OptStatusCode(statuscode=4)],
                ),
            ],
        ),
        DHCP6OptRapidCommit(),
        DHCP6OptDNSServers(dnsservers=["2001:db8::53"]),
        DHCP6OptDNSDomains(dnsdomains=["six.test."]),
        DHCP6OptInfoRefreshTime(reftime=1200),
    )

    assert decode_dhcpv6(data) == Dhcpv6Message(
        Dhcpv6Type.REPLY,
        7,
        OURS,
        SERVER,
        association=9,
        renew_s=100,
        rebind_s=160,
        addresses=(
            LeasedAddress(ADDRESS, 200, 300),
            LeasedAddress(IPv6Address("2001:db8::6"), 200, 0),
        ),
        is_rapid=True,
        servers=(IPv6Address("2001:db8::53"),),
        search=("six.test",),
        refresh_s=1200,
    )


@pytest.mark.parametrize(
    "option",
    [
        DHCP6OptStatusCode(statuscode=2),
        DHCP6OptIA_NA(iaid=9, ianaopts=[DHCP6OptStatusCode(statuscode=2)]),
    ],
    ids=["of the message", "of the association"],
)
def test_a_status_counts_wherever_it_stands(option: object) -> None:
    read = decode_dhcpv6(reply(option))

    assert read is not None
    assert read.status == 2


def test_a_request_is_one_to_scapy() -> None:
    message = Dhcpv6Message(
        Dhcpv6Type.REQUEST,
        0x123456,
        OURS,
        SERVER,
        association=9,
        addresses=(LeasedAddress(ADDRESS, 1, 2),),
    )

    sent = DHCP6_Request(encode_dhcpv6(message, elapsed_s=1.5))

    assert sent.trid == 0x123456
    assert bytes(sent[DHCP6OptServerId].duid) == SERVER
    assert sent[DHCP6OptIA_NA].ianaopts[0].addr == str(ADDRESS)
    assert sent[DHCP6OptElapsedTime].elapsedtime == 150
    assert sent[DHCP6OptOptReq].reqopts == [23, 24]


def test_who_asks_for_settings_asks_when_to_ask_again() -> None:
    message = Dhcpv6Message(Dhcpv6Type.INFORMATION_REQUEST, 1, OURS)

    sent = DHCP6_InfoRequest(encode_dhcpv6(message, elapsed_s=10000.0))

    assert sent[DHCP6OptOptReq].reqopts == [23, 24, 32]
    assert sent[DHCP6OptElapsedTime].elapsedtime == 65535
    assert DHCP6OptIA_NA not in sent


@pytest.mark.parametrize("kind", [Dhcpv6Type.SOLICIT, Dhcpv6Type.RELEASE])
def test_what_is_written_is_read(kind: Dhcpv6Type) -> None:
    message = Dhcpv6Message(
        kind, 1, OURS, association=9, is_rapid=kind is Dhcpv6Type.SOLICIT
    )

    assert decode_dhcpv6(encode_dhcpv6(message, elapsed_s=0.0)) == message


@pytest.mark.parametrize(
    "option",
    [
        b"\0\3\0\4" + bytes(4),  # an association without times
        b"\0\3\0\x0c" + bytes(12),
        b"\0\3\0\x14" + bytes(12) + b"\0\5\0\4" + bytes(4),
        b"\0\x20\0\2\0\1",
        b"\0\x17\0\x0f" + bytes(15),
    ],
)
def test_options_that_are_too_short_say_nothing(option: bytes) -> None:
    read = decode_dhcpv6(b"\7\0\0\1" + option)

    assert read is not None
    assert (read.addresses, read.servers, read.refresh_s) == ((), (), None)


def test_types_that_no_client_knows_are_none() -> None:
    assert decode_dhcpv6(b"\x0c\0\0\1") is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\7\0\0",
        b"\7\0\0\1\0",
        b"\7\0\0\1\0\1\0\5abc",
        b"\7\0\0\1\0\3\0\x10" + bytes(12) + b"\0\5\0\x7f",
    ],
)
def test_what_is_cut_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_dhcpv6(data)


@given(st.binary(max_size=200))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode_dhcpv6(b"\7" + data)
