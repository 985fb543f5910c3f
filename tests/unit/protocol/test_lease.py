# SPDX-License-Identifier: Apache-2.0
"""What is taken of an OFFER or ACK, what is ignored with a warning, what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given, strategies as st

from sevpn.errors import RemoteProtocolError
from sevpn.protocol.lease import Lease, StaticRoute, read_lease, server_of
from sevpn.wire.dhcpv4 import Message, Op, encode_names
from sevpn.wire.ethernet import MacAddress

OURS = MacAddress.parse("5e:00:53:00:00:01")
SERVER = MacAddress.parse("5e:00:53:00:00:fe")
SERVER_IP = IPv4Address("198.51.100.1")
ROUTE = StaticRoute(IPv4Network("203.0.113.0/24"), SERVER_IP)

USUAL = {
    1: "ffffff00",
    3: "c6336401",
    51: "00000e10",
    54: "c6336401",
}


def ips(*texts: str) -> str:
    return b"".join(IPv4Address(text).packed for text in texts).hex()


def a_message(options: dict[int, str | None], yiaddr: str = "198.51.100.50") -> Message:
    values: dict[int, str | None] = {**USUAL, **options}
    return Message(
        op=Op.REPLY,
        xid=1,
        chaddr=OURS,
        yiaddr=IPv4Address(yiaddr),
        options={
            code: bytes.fromhex(value)
            for code, value in values.items()
            if value is not None
        },
    )


def lease_with(
    options: dict[int, str | None] | None = None, yiaddr: str = "198.51.100.50"
) -> Lease:
    return read_lease(
        a_message(options or {}, yiaddr),
        server=SERVER_IP,
        server_mac=SERVER,
        asked_at=1000.0,
    )


def warning_of(lease: Lease) -> str:
    (warning,) = lease.warnings
    assert warning.isprintable()
    return warning


# --- what is good ---


def test_a_full_lease_is_read_without_a_warning() -> None:
    lease = lease_with(
        {
            3: ips("198.51.100.1", "198.51.100.2"),
            6: ips("198.51.100.1", "9.9.9.9", "9.9.9.9"),
            12: b"laptop".hex(),
            15: b"lab.example".hex(),
            26: "0578",
            33: ips("10.0.0.0", "198.51.100.1"),
            42: ips("198.51.100.3"),
            58: "00000064",
            59: "000000c8",
            119: encode_names(["lab.example", "x.example"]).hex(),
            121: "18cb0071c6336401",
            249: "10ac10c6336401",
        }
    )

    assert lease == Lease(
        address=IPv4Interface("198.51.100.50/24"),
        router=IPv4Address("198.51.100.1"),
        classless_routes=(ROUTE,),
        static_routes=(StaticRoute(IPv4Network("10.0.0.0/8"), SERVER_IP),),
        dns=(IPv4Address("198.51.100.1"), IPv4Address("9.9.9.9")),
        domain="lab.example",
        search=("lab.example", "x.example"),
        hostname="laptop",
        ntp=(IPv4Address("198.51.100.3"),),
        mtu=1400,
        server=SERVER_IP,
        server_mac=SERVER,
        obtained_at=1000.0,
        renew_at=1100.0,
        rebind_at=1200.0,
        expires_at=4600.0,
    )


def test_option_249_counts_where_121_is_missing() -> None:
    assert lease_with({249: "18cb0071c6336401"}).classless_routes == (ROUTE,)


def test_no_route_option_is_not_the_same_as_an_empty_one() -> None:
    assert lease_with().classless_routes is None


def test_times_default_to_half_and_seven_eighths() -> None:
    lease = lease_with({51: "00000050"})

    assert (lease.renew_at, lease.rebind_at) == (1040.0, 1070.0)


def test_an_infinite_lease_has_no_end_whatever_58_and_59_say() -> None:
    lease = lease_with({51: "ffffffff", 58: "00000064", 59: "00000001"})

    assert lease.expires_at is None
    assert math.isinf(lease.renew_at)
    assert math.isinf(lease.rebind_at)
    assert lease.warnings == ()


@pytest.mark.parametrize(
    ("address", "mask", "prefix"),
    [
        ("10.0.0.5", "255.0.0.0", 8),
        ("198.51.100.50", "255.255.255.252", 30),
        ("198.51.100.50", "255.255.255.254", 31),
        ("198.51.100.51", "255.255.255.254", 31),
        ("198.51.100.50", "255.255.255.255", 32),
        ("169.254.7.7", "255.255.0.0", 16),
    ],
)
def test_any_mask_from_8_to_32_is_taken(address: str, mask: str, prefix: int) -> None:
    lease = lease_with({1: ips(mask), 3: None}, yiaddr=address)

    assert lease.address == IPv4Interface(f"{address}/{prefix}")
    assert lease.warnings == ()


@pytest.mark.parametrize(
    "text", [b"lab.example\0", b"lab.example.", b"lab.example.\0\0"]
)
def test_a_name_may_end_with_a_zero_or_the_dot_of_the_root(text: bytes) -> None:
    lease = lease_with({15: text.hex()})

    assert (lease.domain, lease.warnings) == ("lab.example", ())


def test_a_router_beside_a_subnet_of_one_address_is_normal() -> None:
    lease = lease_with({1: "ffffffff"})

    assert (lease.router, lease.warnings) == (SERVER_IP, ())


# --- what is refused ---


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"],  # noqa: S104
)
def test_an_address_that_no_host_can_have_is_refused(address: str) -> None:
    with pytest.raises(
        RemoteProtocolError, match=f"no host can have the address {address}"
    ):
        lease_with(yiaddr=address)


@pytest.mark.parametrize("address", ["198.51.100.0", "198.51.100.255"])
def test_the_ends_of_the_subnet_are_refused(address: str) -> None:
    with pytest.raises(RemoteProtocolError, match=r"is no host of 198\.51\.100\.0/24"):
        lease_with(yiaddr=address)


@pytest.mark.parametrize(
    "mask",
    ["0.0.0.0", "128.0.0.0", "254.0.0.0", "255.0.255.0", "0.0.0.255"],  # noqa: S104
)
def test_a_mask_that_is_none_or_takes_half_the_world_is_refused(mask: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"the subnet mask {mask} is none"):
        lease_with({1: ips(mask)})


def test_a_lease_of_no_time_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="lasts 0 s"):
        lease_with({51: "00000000"})


@pytest.mark.parametrize("server", ["0.0.0.0", "224.0.0.1", "127.0.0.1"])  # noqa: S104
def test_a_server_that_no_host_can_be_is_refused(server: str) -> None:
    with pytest.raises(
        RemoteProtocolError, match=f"no server can have the address {server}"
    ):
        read_lease(
            a_message({}),
            server=IPv4Address(server),
            server_mac=SERVER,
            asked_at=0.0,
        )


# --- what is ignored or guessed, with a warning ---


@pytest.mark.parametrize(
    ("address", "prefix"), [("10.1.2.3", 8), ("172.16.1.1", 16), ("192.168.1.7", 24)]
)
@pytest.mark.parametrize("mask", [None, "ff", ""])
def test_a_missing_or_broken_mask_is_guessed_by_the_class(
    address: str, prefix: int, mask: str | None
) -> None:
    lease = lease_with({1: mask, 3: None}, yiaddr=address)

    assert lease.address == IPv4Interface(f"{address}/{prefix}")
    assert lease.warnings[-1] == (
        f"DHCP option 1 is missing: /{prefix} was guessed for {address}"
    )


@pytest.mark.parametrize("value", [None, "0e10", ""])
def test_a_missing_or_broken_duration_is_guessed_as_an_hour(value: str | None) -> None:
    lease = lease_with({51: value})

    assert lease.expires_at == 4600.0
    assert "3600 s were guessed" in lease.warnings[-1]


@pytest.mark.parametrize(
    ("t1", "t2"),
    [
        ("00000000", None),
        ("00000e10", "00000e11"),
        ("000000c8", "00000064"),
        ("00000064", "00000064"),
        ("00000064", "00000e10"),
        (None, "00000001"),
        ("ffffffff", "ffffffff"),
    ],
)
def test_times_that_do_not_follow_each_other_are_ignored(
    t1: str | None, t2: str | None
) -> None:
    lease = lease_with({58: t1, 59: t2})

    assert (lease.renew_at, lease.rebind_at) == (1000.0 + 1800, 1000.0 + 3150)
    assert "do not follow each other" in warning_of(lease)


def test_a_time_of_another_size_is_ignored() -> None:
    lease = lease_with({58: "0064"})

    assert lease.renew_at == 1000.0 + 1800
    assert warning_of(lease) == (
        "DHCP option 58 was ignored: it has 2 bytes instead of 4"
    )


def test_a_router_outside_of_the_subnet_is_kept_with_a_warning() -> None:
    lease = lease_with({3: ips("203.0.113.1")})

    assert lease.router == IPv4Address("203.0.113.1")
    assert "outside of 198.51.100.0/24" in warning_of(lease)


def test_routers_that_cannot_be_are_skipped_for_the_next_one() -> None:
    lease = lease_with({3: ips("0.0.0.0", "198.51.100.50", "198.51.100.7")})  # noqa: S104

    assert lease.router == IPv4Address("198.51.100.7")
    assert [warning.split(",")[0] for warning in lease.warnings] == [
        "DHCP option 3 names 0.0.0.0",
        "DHCP option 3 names 198.51.100.50",
    ]


@pytest.mark.parametrize(
    "value", [ips("198.51.100.50"), ips("127.0.0.1"), "c63364", ""]
)
def test_without_a_usable_router_there_is_none(value: str) -> None:
    lease = lease_with({3: value})

    assert lease.router is None
    assert warning_of(lease).startswith("DHCP option 3 ")


@pytest.mark.parametrize("option", [6, 42])
def test_servers_that_no_host_can_be_are_ignored(option: int) -> None:
    lease = lease_with({option: ips("127.0.0.53", "224.0.1.1", "9.9.9.9")})

    assert (lease.dns or lease.ntp) == (IPv4Address("9.9.9.9"),)
    assert len(lease.warnings) == 2
    assert "127.0.0.53, which was ignored" in lease.warnings[0]


@pytest.mark.parametrize(
    ("said", "taken"), [(0, 576), (575, 576), (1501, 1500), (9000, 1500), (65535, 1500)]
)
def test_an_mtu_is_clamped_to_576_to_1500(said: int, taken: int) -> None:
    lease = lease_with({26: f"{said:04x}"})

    assert lease.mtu == taken
    assert warning_of(lease) == f"DHCP option 26 says {said}: {taken} was taken"


@pytest.mark.parametrize("mtu", [576, 1400, 1500])
def test_a_sane_mtu_is_taken_as_it_is(mtu: int) -> None:
    lease = lease_with({26: f"{mtu:04x}"})

    assert (lease.mtu, lease.warnings) == (mtu, ())


@pytest.mark.parametrize("option", [12, 15])
@pytest.mark.parametrize(
    "text",
    [
        b"lab example",
        b"a_b",
        b"x\nnameserver 192.0.2.1",
        b"$(reboot)",
        b"\xc3\xa4",
        b"-x",
        b"a" * 250 + b".b.c",
        b"\0",
    ],
)
def test_a_name_with_anything_but_letters_digits_hyphens_and_dots_is_ignored(
    option: int, text: bytes
) -> None:
    lease = lease_with({option: text.hex()})

    assert (lease.hostname, lease.domain) == (None, None)
    assert len(warning_of(lease)) < 200


def test_the_good_names_of_a_search_list_are_kept() -> None:
    value = b"\x03lab\x00\x03a_b\x00\x03lab\x00\x01x\x00"
    lease = lease_with({119: value.hex()})

    assert lease.search == ("lab", "x")
    assert warning_of(lease).startswith("DHCP option 119 was ignored: 'a_b'")


def test_a_search_list_that_is_broken_is_ignored() -> None:
    lease = lease_with({119: "c000"})

    assert lease.search == ()
    assert "does not point backwards" in warning_of(lease)


def test_a_broken_121_makes_249_count() -> None:
    lease = lease_with({121: "21c633640001", 249: "18cb0071c6336401"})

    assert lease.classless_routes == (ROUTE,)
    assert "option 121 was ignored" in warning_of(lease)


@pytest.mark.parametrize("option", [121, 249])
@pytest.mark.parametrize("value", ["", "18cb00", "21"])
def test_broken_route_options_are_as_good_as_none(option: int, value: str) -> None:
    lease = lease_with({option: value})

    assert lease.classless_routes is None
    assert f"option {option} was ignored" in warning_of(lease)


def test_a_default_route_in_option_33_is_ignored() -> None:
    lease = lease_with({33: ips("0.0.0.0", "198.51.100.1")})  # noqa: S104

    assert lease.static_routes == ()
    assert "default route" in warning_of(lease)


def test_each_warning_stands_once() -> None:
    lease = lease_with({6: ips(*["127.0.0.1"] * 9), 119: "03615f6200" * 5})

    assert len(lease.warnings) == 2


# --- two leases ---


def test_a_lease_with_other_times_and_another_server_needs_no_change() -> None:
    lease = lease_with()
    later = replace(
        lease,
        server=IPv4Address("198.51.100.2"),
        server_mac=OURS,
        obtained_at=1.0,
        renew_at=2.0,
        rebind_at=3.0,
        expires_at=None,
    )

    assert later.has_same_settings(lease)


def test_a_lease_with_anything_else_different_does() -> None:
    lease = lease_with()

    for other in (
        replace(lease, router=None),
        replace(lease, dns=(SERVER_IP,)),
        replace(lease, classless_routes=()),
        replace(lease, address=IPv4Interface("198.51.100.50/25")),
    ):
        assert not other.has_same_settings(lease)


# --- the server's name ---


@pytest.mark.parametrize(
    ("value", "server"),
    [
        ("c6336401", SERVER_IP),
        (None, None),
        ("", None),
        ("c63364", None),
        ("c6336401c6336402", None),
        ("00000000", None),
        ("ffffffff", None),
        ("7f000001", None),
    ],
)
def test_a_server_is_known_by_one_usable_address_in_option_54(
    value: str | None, server: IPv4Address | None
) -> None:
    assert server_of(a_message({54: value})) == server


# --- anything ---


@given(
    st.dictionaries(
        st.sampled_from([1, 3, 6, 12, 15, 26, 33, 42, 51, 54, 58, 59, 119, 121, 249]),
        st.binary(max_size=40),
    ),
    st.integers(0, 0xFFFFFFFF),
)
def test_any_options_make_a_sane_lease_or_a_refusal(
    options: dict[int, bytes], address: int
) -> None:
    message = Message(
        op=Op.REPLY, xid=1, chaddr=OURS, yiaddr=IPv4Address(address), options=options
    )
    try:
        lease = read_lease(message, server=SERVER_IP, server_mac=SERVER, asked_at=5.0)
    except RemoteProtocolError:
        return
    assert lease.obtained_at < lease.renew_at <= lease.rebind_at
    assert lease.expires_at is None or lease.rebind_at < lease.expires_at
    assert 8 <= lease.address.network.prefixlen <= 32
    assert lease.mtu is None or 576 <= lease.mtu <= 1500
    assert all(warning.isprintable() for warning in lease.warnings)
