# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import dpkt
import pytest
from hypothesis import given, strategies as st

from sevpn.errors import LocalProtocolError, RemoteProtocolError
from sevpn.wire.dhcpv4 import (
    BROADCAST_FLAG,
    MAX_NAMES,
    Message,
    MessageType,
    Op,
    Option,
    StaticRoute,
    decode_addresses,
    decode_classless_routes,
    decode_message,
    decode_names,
    decode_number,
    decode_static_routes,
    encode_addresses,
    encode_classless_routes,
    encode_message,
    encode_names,
    encode_static_routes,
    is_host_name,
)
from sevpn.wire.ethernet import MacAddress, decode_frame
from sevpn.wire.ipv4 import decode_ipv4
from sevpn.wire.udp import decode_udp

VECTORS = {
    name: bytes.fromhex(value)
    for name, value in (
        line.split(":")
        for line in (Path(__file__).parents[2] / "vectors" / "dhcp.hex")
        .read_text()
        .splitlines()
        if line and not line.startswith("#")
    )
}

MAC = MacAddress.parse("5e:00:53:00:00:01")

addresses = st.ip_addresses(v=4).filter(lambda ip: isinstance(ip, IPv4Address))
networks = st.tuples(addresses, st.integers(0, 32)).map(
    lambda pair: IPv4Network((int(pair[0]), pair[1]), strict=False)
)
routes = st.builds(
    StaticRoute, networks, st.none() | addresses.filter(lambda ip: int(ip) != 0)
)
options = st.dictionaries(
    st.integers(1, 254).filter(lambda code: code not in (52, 250)),
    st.binary(max_size=600),
    max_size=6,
)
texts = st.binary(max_size=64).map(lambda text: text.rstrip(b"\0"))
messages = st.builds(
    Message,
    op=st.sampled_from(Op),
    xid=st.integers(0, 0xFFFFFFFF),
    chaddr=st.binary(min_size=6, max_size=6).map(MacAddress),
    secs=st.integers(0, 0xFFFF),
    flags=st.sampled_from([0, BROADCAST_FLAG]),
    hops=st.integers(0, 255),
    ciaddr=addresses,
    yiaddr=addresses,
    siaddr=addresses,
    giaddr=addresses,
    sname=texts,
    file=texts,
    options=options,
)


def a_message(**options: str) -> Message:
    """A message with the options `o53="01"`."""
    return Message(
        op=Op.REQUEST,
        xid=0x11223344,
        chaddr=MAC,
        options={
            int(code[1:]): bytes.fromhex(value) for code, value in options.items()
        },
    )


def raw(field: bytes, *, file: bytes = b"", sname: bytes = b"") -> bytes:
    """A message with exactly these bytes where options may stand."""
    plain = encode_message(a_message(), min_size=0)[:-1]
    return (
        plain[:44]
        + sname.ljust(64, b"\0")
        + file.ljust(128, b"\0")
        + plain[236:]
        + field
    )


# --- whole messages ---


@given(messages, st.sampled_from([0, 300]))
def test_a_message_is_read_as_it_was_written(message: Message, min_size: int) -> None:
    assert decode_message(encode_message(message, min_size=min_size)) == message


@given(messages)
def test_an_independent_reader_sees_the_same_message(message: Message) -> None:
    other = dpkt.dhcp.DHCP(encode_message(message))

    assert (other.op, other.hops, other.xid, other.secs, other.flags) == (
        message.op,
        message.hops,
        message.xid,
        message.secs,
        message.flags,
    )
    assert (other.ciaddr, other.yiaddr, other.siaddr, other.giaddr) == tuple(
        int(ip)
        for ip in (message.ciaddr, message.yiaddr, message.siaddr, message.giaddr)
    )
    assert other.chaddr[:6] == message.chaddr.octets
    joined: dict[int, bytes] = {}
    for code, value in other.opts:
        joined[code] = joined.get(code, b"") + value
    assert joined == message.options


def test_the_vector_of_a_request_is_encoded_byte_for_byte() -> None:
    message = a_message(o53="03", o61="015e0053000001", o50="c6336405", o55="0179")

    assert encode_message(message, min_size=0) == VECTORS["request"]


def test_the_vectors_of_a_real_dialogue_are_read() -> None:
    offer, ack = (
        decode_message(
            decode_udp(decode_ipv4(decode_frame(VECTORS[name]).payload).payload).payload
        )
        for name in ("captured-offer", "captured-ack")
    )

    assert offer.message_type is MessageType.OFFER
    assert ack.message_type is MessageType.ACK
    assert offer.xid == ack.xid
    assert offer.yiaddr == ack.yiaddr == IPv4Address("198.51.100.50")
    assert decode_addresses(ack.options[Option.SERVER_ID]) == (
        IPv4Address("198.51.100.1"),
    )
    assert decode_classless_routes(ack.options[Option.CLASSLESS_ROUTES]) == (
        StaticRoute(IPv4Network("203.0.113.0/24"), IPv4Address("198.51.100.1")),
        StaticRoute(IPv4Network("0.0.0.0/0"), IPv4Address("198.51.100.1")),
    )
    assert decode_names(ack.options[Option.SEARCH_LIST]) == (
        "lab.example",
        "other.example",
    )


def test_the_vector_of_securenats_ack_is_read_with_its_routes_in_two_pieces() -> None:
    frame = decode_frame(VECTORS["securenat-ack"])
    message = decode_message(decode_udp(decode_ipv4(frame.payload).payload).payload)

    assert list(message.options) == [53, 54, 51, 15, 1, 3, 6, 121, 249]
    routes = decode_classless_routes(message.options[Option.CLASSLESS_ROUTES])
    assert routes == tuple(
        StaticRoute(
            IPv4Network((0x0A000000 + (number << 8), 24)), IPv4Address("192.168.30.1")
        )
        for number in range(1, 41)
    )
    assert message.options[121] == message.options[249]


def test_the_vector_of_securenats_refusal_is_read() -> None:
    frame = decode_frame(VECTORS["securenat-nak"])
    message = decode_message(decode_udp(decode_ipv4(frame.payload).payload).payload)

    assert message.message_type is MessageType.NAK
    assert list(message.options) == [53, 54, 1]


def test_what_is_sent_has_no_pad_before_its_end_mark_and_zeros_only_behind_it() -> None:
    encoded = encode_message(a_message(o53="01"))

    assert len(encoded) == 300
    assert encoded[240:243] + encoded[243:] == bytes.fromhex(
        "350101"
    ) + b"\xff" + bytes(300 - 244)


def test_an_empty_option_is_written_and_read() -> None:
    assert decode_message(encode_message(a_message(o80=""))).options == {80: b""}


@pytest.mark.parametrize("size", range(240))
def test_a_message_cut_before_its_options_is_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"of {size} bytes"):
        decode_message(encode_message(a_message())[:size])


@pytest.mark.parametrize("at", [0, 1, 2, 236, 239])
def test_a_message_of_another_protocol_is_refused(at: int) -> None:
    encoded = bytearray(encode_message(a_message()))
    encoded[at] ^= 0x10

    with pytest.raises(RemoteProtocolError, match="not of DHCP over Ethernet"):
        decode_message(bytes(encoded))


@pytest.mark.parametrize("code", [0, 52, 255])
def test_an_option_that_is_none_is_our_own_mistake(code: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"option {code}"):
        encode_message(a_message(**{f"o{code}": "00"}))


@pytest.mark.parametrize(
    "fields", [{"sname": bytes(65)}, {"file": bytes(129)}], ids=["sname", "file"]
)
def test_a_field_that_is_too_long_is_our_own_mistake(fields: dict[str, bytes]) -> None:
    with pytest.raises(LocalProtocolError, match="does not fit"):
        encode_message(
            Message(
                op=Op.REPLY,
                xid=1,
                chaddr=MAC,
                sname=fields.get("sname", b""),
                file=fields.get("file", b""),
            )
        )


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("01", MessageType.DISCOVER),
        ("08", MessageType.INFORM),
        ("09", None),
        ("0101", None),
    ],
)
def test_the_type_of_a_message_is_known_or_none(
    value: str, kind: MessageType | None
) -> None:
    assert a_message(o53=value).message_type is kind


def test_a_message_without_a_type_has_none() -> None:
    assert a_message().message_type is None


# --- how options become values ---


def test_pads_are_skipped() -> None:
    assert decode_message(
        raw(bytes.fromhex("00 350102 0000 3604c6336401 ff"))
    ).options == {
        53: b"\2",
        54: bytes.fromhex("c6336401"),
    }


def test_a_message_without_an_end_mark_is_read_to_its_end() -> None:
    assert decode_message(raw(bytes.fromhex("350102"))).options == {53: b"\2"}


def test_what_follows_the_end_mark_is_ignored() -> None:
    assert decode_message(raw(bytes.fromhex("350102 ff 0599"))).options == {53: b"\2"}


@pytest.mark.parametrize("field", ["35", "3502 01", "350102 36", "350102 3604c63364"])
def test_an_option_that_is_cut_is_refused(field: str) -> None:
    with pytest.raises(RemoteProtocolError, match="reaches beyond its field"):
        decode_message(raw(bytes.fromhex(field)))


def test_the_parts_of_a_split_option_are_joined() -> None:
    # RFC 3396: the parts may stand apart.
    field = bytes.fromhex("7702036c 350102 77036162 00 ff")

    assert decode_message(raw(field)).options[119] == b"\x03lab\0"


def test_options_in_file_and_server_name_follow_those_of_the_field() -> None:
    message = decode_message(
        raw(
            bytes.fromhex("340103 0c0161 ff"),
            file=bytes.fromhex("0c0162 ff"),
            sname=bytes.fromhex("0c0163 ff"),
        )
    )

    assert message.options == {12: b"abc"}
    assert (message.file, message.sname) == (b"", b"")


@pytest.mark.parametrize(
    ("overload", "value"), [("01", b"ab"), ("02", b"ac"), ("00", b"a"), ("04", b"a")]
)
def test_only_the_fields_that_option_52_names_hold_options(
    overload: str, value: bytes
) -> None:
    field = bytes.fromhex(f"3401{overload} 0c0161 ff")
    message = decode_message(raw(field, file=b"\x0c\x01b\xff", sname=b"\x0c\x01c\xff"))

    assert message.options == {12: value}
    assert (message.file == b"") == (overload in ("01", "03"))
    assert (message.sname == b"") == (overload in ("02", "03"))


def test_an_overload_inside_an_overloaded_field_means_nothing() -> None:
    field = bytes.fromhex("340101 ff")
    message = decode_message(
        raw(field, file=b"\x34\x01\x02\xff", sname=b"\x0c\x01c\xff")
    )

    assert message.options == {}
    assert message.sname == b"\x0c\x01c\xff"


def test_an_empty_overload_names_no_field() -> None:
    assert decode_message(raw(bytes.fromhex("3400 ff"), file=b"boot")).file == b"boot"


def test_securenat_splits_a_route_list_with_option_250_behind_it() -> None:
    field = bytes.fromhex("7902aabb fa01cc fa01dd f90111 fa0122 ff")

    assert decode_message(raw(field)).options == {
        121: bytes.fromhex("aabbccdd"),
        249: bytes.fromhex("1122"),
    }


def test_option_250_elsewhere_is_an_option_of_its_own() -> None:
    field = bytes.fromhex("fa01aa 7901bb 060411223344 fa01cc ff")

    assert decode_message(raw(field)).options == {
        250: bytes.fromhex("aacc"),
        121: b"\xbb",
        6: bytes.fromhex("11223344"),
    }


@given(
    st.binary(max_size=1100),
    st.sampled_from([Option.CLASSLESS_ROUTES, Option.MICROSOFT_ROUTES]),
)
def test_a_route_list_is_read_the_way_securenat_would_split_it(
    value: bytes, code: int
) -> None:
    message = Message(op=Op.REPLY, xid=1, chaddr=MAC, options={code: value})

    encoded = encode_message(message, continuation=Option.SECURENAT_CONTINUATION)

    assert decode_message(encoded).options == {code: value}
    assert dpkt.dhcp.DHCP(encoded).opts[1:] == [
        (250, value[at : at + 255]) for at in range(255, len(value), 255)
    ]


# --- values ---


def test_a_number_has_exactly_its_size() -> None:
    assert decode_number(b"\x01\x02", 2) == 0x0102
    with pytest.raises(RemoteProtocolError, match="3 bytes instead of 2"):
        decode_number(b"\0\1\2", 2)


@given(st.lists(addresses, min_size=1, max_size=20))
def test_addresses_are_read_as_they_were_written(values: list[IPv4Address]) -> None:
    assert decode_addresses(encode_addresses(*values)) == tuple(values)


@pytest.mark.parametrize("size", [0, 3, 5])
def test_a_list_of_addresses_holds_whole_ones_and_at_least_one(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match="no number of addresses"):
        decode_addresses(bytes(size))


@given(st.lists(routes, max_size=40))
def test_classless_routes_are_read_as_they_were_written(
    values: list[StaticRoute],
) -> None:
    assert decode_classless_routes(encode_classless_routes(values)) == tuple(values)


def test_the_examples_of_rfc_3442_are_read() -> None:
    # Section "Classless Route Option Format", each with the router 192.0.2.1.
    examples = {
        "00": "0.0.0.0/0",
        "08 0a": "10.0.0.0/8",
        "18 0a0000": "10.0.0.0/24",
        "10 0a11": "10.17.0.0/16",
        "18 0a1b81": "10.27.129.0/24",
        "19 0a e5 00 80": "10.229.0.128/25",
        "20 0a c6 7a 2f": "10.198.122.47/32",
    }
    value = b"".join(bytes.fromhex(start + "c0000201") for start in examples)

    assert [str(route) for route in decode_classless_routes(value)] == [
        f"{network} via 192.0.2.1" for network in examples.values()
    ]


def test_a_gateway_of_zeros_means_on_the_link_and_host_bits_are_masked() -> None:
    (route,) = decode_classless_routes(bytes.fromhex("19 c63364ff 00000000"))

    assert route == StaticRoute(IPv4Network("198.51.100.128/25"), None)
    assert str(route) == "198.51.100.128/25 on the link"


@pytest.mark.parametrize(
    "value", ["21 c633640001 c6336401", "18 c63364 c63364", "18", "00"]
)
def test_a_route_that_is_cut_or_impossible_is_refused(value: str) -> None:
    with pytest.raises(RemoteProtocolError, match="cut or impossible"):
        decode_classless_routes(bytes.fromhex(value))


def test_old_static_routes_get_the_mask_of_their_class_or_are_hosts() -> None:
    gateway = IPv4Address("198.51.100.1")
    value = encode_addresses(
        *(
            IPv4Address(text)
            for destination in ("10.0.0.0", "172.16.0.0", "203.0.113.0", "10.1.2.0")
            for text in (destination, str(gateway))
        )
    )

    assert [str(route.destination) for route in decode_static_routes(value)] == [
        "10.0.0.0/8",
        "172.16.0.0/16",
        "203.0.113.0/24",
        "10.1.2.0/32",
    ]
    assert encode_static_routes(decode_static_routes(value)) == value


def test_an_old_static_route_may_be_on_the_link() -> None:
    value = bytes.fromhex("0a000000 00000000")

    assert decode_static_routes(value) == (
        StaticRoute(IPv4Network("10.0.0.0/8"), None),
    )
    assert encode_static_routes(decode_static_routes(value)) == value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("0a000000", "no gateway"),
        ("0a000000c6336401 0b000000", "no gateway"),
        ("00000000c6336401", "default route"),
        ("", "no number of addresses"),
    ],
)
def test_old_static_routes_that_are_cut_or_a_default_are_refused(
    value: str, reason: str
) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        decode_static_routes(bytes.fromhex(value))


def test_the_compressed_example_of_rfc_3397_is_read() -> None:
    # Section 3: eng.apple.com. and marketing.apple.com., the latter by a pointer.
    value = b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04"

    assert decode_names(value) == ("eng.apple.com", "marketing.apple.com")


def test_a_pointer_may_lead_to_another_that_stands_before_it() -> None:
    value = b"\x03com\x00\x05apple\xc0\x00\x03eng\xc0\x05\x01x\x00"

    assert decode_names(value) == ("com", "apple.com", "eng.apple.com", "x")


@pytest.mark.parametrize(
    "value",
    [b"\xc0\x00", b"\x03lab\xc0\x00", b"\x03lab\xc0\x08\x01x\x00", b"\x01a\0\xc0\x03"],
)
def test_a_pointer_that_does_not_point_backwards_is_refused(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="backwards"):
        decode_names(value)


@pytest.mark.parametrize(
    "value",
    [b"\x03la", b"\x03lab", b"\x40" + b"a" * 64 + b"\0", b"\x03lab\xc0", b"\xff"],
)
def test_a_name_that_is_cut_or_has_too_long_a_label_is_refused(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="cut or too long"):
        decode_names(value)


def test_a_name_may_have_253_characters_and_not_one_more() -> None:
    longest = b"".join(b"\x3f" + b"a" * 63 for _ in range(3)) + b"\x3d" + b"a" * 61

    assert len(decode_names(longest + b"\0")[0]) == 253
    with pytest.raises(RemoteProtocolError, match="cut or too long"):
        decode_names(b"\x01a" + longest + b"\0")


def test_a_list_of_names_is_bounded() -> None:
    assert len(decode_names(b"\x01a\0" * MAX_NAMES)) == MAX_NAMES
    with pytest.raises(RemoteProtocolError, match=f"over {MAX_NAMES} names"):
        decode_names(b"\x01a\0" * (MAX_NAMES + 1))


def test_bytes_that_are_no_ascii_do_not_pass_as_letters() -> None:
    (name,) = decode_names(b"\x04l\xc3\xa4b\0")

    assert not is_host_name(name)


def test_names_are_read_as_they_were_written() -> None:
    names = ("lab.example", "a-1.example", "x")

    assert decode_names(encode_names(names)) == names


def test_a_name_that_is_none_is_our_own_mistake() -> None:
    with pytest.raises(LocalProtocolError, match="no domain name"):
        encode_names(["lab..example"])


@pytest.mark.parametrize("name", ["a", "LAB.example", "a-b.c1", "a" * 63, "1.2.3.4"])
def test_letters_digits_hyphens_and_dots_make_a_name(name: str) -> None:
    assert is_host_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "-a",
        "a-",
        "a_b",
        "a b",
        "a\nnameserver 192.0.2.1",
        "a\n",
        "$(reboot)",
        "ä",
        "٣",
        "a" * 64,
        ".".join(["a" * 63] * 4),
    ],
)
def test_anything_else_never_reaches_a_resolver(name: str) -> None:
    assert not is_host_name(name)


# --- mutation ---


def test_twenty_thousand_mutated_messages_are_read_or_refused() -> None:
    rng = random.Random(2131)
    seeds = [
        encode_message(
            a_message(
                o53="05",
                o54="c6336401",
                o1="ffffff00",
                o121="18cb0071c6336401" * 40,
                o119="036c616200c000",
                o33="0a000000c6336401",
            )
        ),
        raw(
            b"\x34\x01\x03\x0c\x01a\xff", file=b"\x0c\x01b\xff", sname=b"\x0f\x01c\xff"
        ),
        raw(bytes.fromhex("7902aabb fa01cc f90111 ff")),
    ]
    outcomes = {"read": 0, "refused": 0}
    for _ in range(20_000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(rng.choice((0, 240)), len(data))] = rng.randrange(256)
        if rng.random() < 0.5:
            del data[rng.randint(200, len(data)) :]
        try:
            message = decode_message(bytes(data))
            for code, decode in (
                (Option.CLASSLESS_ROUTES, decode_classless_routes),
                (Option.STATIC_ROUTES, decode_static_routes),
                (Option.SEARCH_LIST, decode_names),
                (Option.SERVER_ID, decode_addresses),
            ):
                if code in message.options:
                    decode(message.options[code])
            outcomes["read"] += 1
        except RemoteProtocolError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 1_000
