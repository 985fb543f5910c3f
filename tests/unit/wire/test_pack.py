# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from sevpn.errors import LocalProtocolError, RemoteProtocolError
from sevpn.wire.pack import (
    Element,
    Kind,
    Pack,
    Value,
    data,
    decode_pack,
    encode_pack,
    integer,
    integer64,
    ip_elements,
    text,
    unitext,
)

VECTORS = {
    name: bytes.fromhex(value)
    for name, value in (
        line.split(":")
        for line in (Path(__file__).parents[2] / "vectors" / "pack.hex")
        .read_text()
        .splitlines()
        if line and not line.startswith("#")
    )
}

ALL_KINDS = Pack(
    [
        text("method", "login"),
        integer("authtype", 1),
        integer64("t", 0x1A2054F6487),
        data("d", b"\xde\xad"),
        unitext("u", "é"),
        integer("a", 7, 8),
    ]
)

names = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


def of_kind(kind: Kind, values: st.SearchStrategy[Value]) -> st.SearchStrategy[Element]:
    return st.builds(
        Element,
        names.map(lambda name: name[:64]),
        st.just(kind),
        st.lists(values, min_size=1, max_size=4).map(tuple),
    )


elements = st.one_of(
    of_kind(Kind.INT, st.integers(0, 2**32 - 1)),
    of_kind(Kind.INT64, st.integers(0, 2**64 - 1)),
    of_kind(Kind.DATA, st.binary()),
    of_kind(Kind.STR, texts),
    of_kind(Kind.UNISTR, texts),
)
packs = st.lists(elements, max_size=6, unique_by=lambda e: e.name.lower()).map(Pack)


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def raw(name: bytes, kind: int, count: int, values: bytes) -> bytes:
    return number(len(name) + 1) + name + number(kind) + number(count) + values


def test_the_vector_of_all_kinds_is_written_and_read() -> None:
    assert encode_pack(ALL_KINDS) == VECTORS["kinds"]
    assert decode_pack(VECTORS["kinds"]) == ALL_KINDS


def test_the_empty_pack_is_four_zero_bytes() -> None:
    assert encode_pack(Pack()) == VECTORS["empty"]
    assert list(decode_pack(VECTORS["empty"])) == []


def test_the_vectors_of_addresses_are_written_and_read() -> None:
    for name, address in (
        ("ip", IPv4Address("192.0.2.10")),
        ("ip6", IPv6Address("2001:db8::1")),
    ):
        assert encode_pack(Pack(ip_elements("Ip", address))) == VECTORS[name]
        assert decode_pack(VECTORS[name]).get_ip("Ip") == address


def test_the_vector_of_an_error_answer_is_read() -> None:
    pack = decode_pack(VECTORS["error"])

    assert pack.get_int("error") == 9
    assert not pack.get_bool("no_save_password")
    assert pack.get_data("pencore") == b""


def test_no_address_is_sent_as_the_unspecified_one() -> None:
    assert Pack(ip_elements("Ip", None)).get_ip("Ip") == IPv4Address(0)


def test_the_plain_number_alone_is_an_address() -> None:
    assert Pack([integer("Ip", 0x0100007F)]).get_ip("ip") == IPv4Address("127.0.0.1")


def test_an_ipv4_mapped_address_is_an_ipv4_address() -> None:
    mapped = IPv6Address("::ffff:192.0.2.1")

    assert Pack(ip_elements("Ip", mapped)).get_ip("Ip") == IPv4Address("192.0.2.1")


def test_an_address_that_is_absent_or_has_another_size_is_none() -> None:
    flag = integer("Ip@ipv6_bool", 1)

    assert Pack().get_ip("Ip") is None
    assert Pack([text("Ip", "192.0.2.1")]).get_ip("Ip") is None
    assert Pack([flag, integer("Ip", 1)]).get_ip("Ip") is None
    assert Pack([flag, data("Ip@ipv6_array", bytes(15))]).get_ip("Ip") is None


def test_names_are_found_in_any_case() -> None:
    assert decode_pack(VECTORS["kinds"]).get_str("METHOD") == "login"
    assert "AuthType" in ALL_KINDS
    assert "authtypes" not in ALL_KINDS


def test_what_is_absent_or_of_another_kind_is_nothing() -> None:
    for pack in (Pack(), Pack([data("x", b"1")])):
        assert pack.get_int("x") == 0
        assert pack.get_bool("x") is False
        assert pack.get_str("x") == ""
        assert pack.get_ints("x") == ()
        assert pack.get_strs("x") == ()
    assert Pack([integer("x", 1)]).get_data("x") == b""
    assert ALL_KINDS.find("method", Kind.DATA) is None


def test_of_several_values_the_first_one_counts() -> None:
    pack = Pack([integer("i", 3, 4), text("s", " a\t", "b"), data("d", b"1", b"2")])

    assert (pack.get_int("i"), pack.get_ints("i")) == (3, (3, 4))
    assert (pack.get_str("s"), pack.get_strs("s")) == (" a\t", (" a\t", "b"))
    assert pack.get_word("s") == "a"
    assert pack.get_data("d") == b"1"


def test_elements_are_appended_to_a_copy() -> None:
    longer = Pack([integer("a", 1)]).with_elements(integer("b", 2), integer("c", 3))

    assert [element.name for element in longer] == ["a", "b", "c"]


def test_equal_packs_have_equal_hashes_and_other_things_differ() -> None:
    assert hash(decode_pack(VECTORS["kinds"])) == hash(ALL_KINDS)
    assert Pack([integer("a", 1)]) != Pack([integer("a", 2)])
    assert Pack() != ()


def test_no_value_shows_in_a_representation() -> None:
    pack = Pack([text("plain_password", "hunter2"), integer("a", 41)])

    shown = f"{pack!r} {list(pack)!r}"
    assert "plain_password" in shown
    assert "hunter2" not in shown
    assert "41" not in shown


def test_a_pack_is_not_built_with_one_name_twice() -> None:
    with pytest.raises(LocalProtocolError, match="A occurs twice"):
        Pack([integer("a", 1), text("A", "")])


@pytest.mark.parametrize(
    ("name", "kind", "values"),
    [
        ("", Kind.INT, (1,)),
        ("x" * 65, Kind.INT, (1,)),
        ("ü", Kind.INT, (1,)),
        ("a\nb", Kind.INT, (1,)),
        ("x", Kind.INT, ()),
        ("x", Kind.INT, (1,) * 4097),
        ("x", Kind.INT, (-1,)),
        ("x", Kind.INT, (1 << 32,)),
        ("x", Kind.INT, ("1",)),
        ("x", Kind.INT64, (1 << 64,)),
        ("x", Kind.DATA, ("1",)),
        ("x", Kind.STR, (b"1",)),
        ("x", Kind.STR, ("a\0b",)),
        ("x", Kind.UNISTR, ("\udcff",)),
    ],
)
def test_an_element_that_cannot_be_sent_is_not_built(
    name: str, kind: Kind, values: tuple[Value, ...]
) -> None:
    with pytest.raises(LocalProtocolError):
        Element(name, kind, values)


def test_a_name_of_64_bytes_is_taken() -> None:
    pack = Pack([integer("n" * 64, 1)])

    assert decode_pack(encode_pack(pack)) == pack


def test_a_text_ends_at_its_first_nul_and_bad_utf_8_is_replaced() -> None:
    body = number(2)
    body += raw(b"s", 2, 2, number(4) + b"a\0b\0" + number(2) + b"\xffz")
    body += raw(b"u", 3, 2, number(0) + number(2) + b"ab")

    pack = decode_pack(body)

    assert pack.get_strs("s") == ("a", "\ufffdz")
    assert pack.get_strs("u") == ("", "ab")


def test_bytes_after_the_last_element_are_ignored() -> None:
    assert decode_pack(VECTORS["kinds"] + b"more") == ALL_KINDS


MALFORMED = {
    "fewer elements than announced": (number(2) + raw(b"a", 0, 1, number(1)), "ends"),
    "no count at all": (b"\0\0", "ends inside its number of elements"),
    "too many elements": (number(4097) + bytes(99999), "announces 4097 elements"),
    "a huge number of elements": (b"\xff" * 4, "announces 4294967295 elements"),
    "one name in two spellings": (
        number(2) + raw(b"a", 0, 1, number(1)) + raw(b"A", 0, 1, number(1)),
        "names its element A twice",
    ),
    "a name field of 0": (number(1) + number(0) + bytes(12), "a name of 0 bytes"),
    "a name of no bytes": (number(1) + raw(b"", 0, 1, number(1)), "a name of 0 bytes"),
    "a name that is too long": (
        number(1) + raw(b"n" * 65, 0, 1, number(1)),
        "a name of 65 bytes",
    ),
    "a name beyond the end": (number(1) + number(60) + b"abc", "ends inside a name"),
    "a name that is no word": (
        number(1) + raw(b"a\x1b\xfc", 0, 1, number(1)),
        r"is no word: 'a\\x1b\\xfc'",
    ),
    "an unknown kind": (number(1) + raw(b"a", 5, 1, number(1)), "unknown kind 5"),
    "no values": (number(1) + raw(b"a", 0, 0, b""), "gives a 0 values"),
    "too many values": (
        number(1) + raw(b"a", 0, 4097, bytes(4 * 4097)),
        "gives a 4097 values",
    ),
    "a number that is cut": (number(1) + raw(b"a", 0, 1, b"\0\0"), "inside a value"),
    "a long number that is cut": (
        number(1) + raw(b"a", 4, 1, b"\0" * 7),
        "inside a value of a: 8 bytes",
    ),
    "a DATA beyond the end": (
        number(1) + raw(b"a", 1, 1, b"\xff\xff\xff\xff1234"),
        "4294967295 bytes are announced, 4 are there",
    ),
    "a STR beyond the end": (
        number(1) + raw(b"a", 2, 1, number(5) + b"1234"),
        "5 bytes are announced, 4 are there",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_pack_is_refused_with_its_reason(name: str) -> None:
    body, reason = MALFORMED[name]

    with pytest.raises(RemoteProtocolError, match=reason):
        decode_pack(body)


def test_a_pack_that_is_cut_anywhere_is_refused() -> None:
    for size in range(len(VECTORS["kinds"])):
        with pytest.raises(RemoteProtocolError):
            decode_pack(VECTORS["kinds"][:size])


@given(packs)
def test_every_pack_is_read_back_as_it_was_written(pack: Pack) -> None:
    assert decode_pack(encode_pack(pack)) == pack


@given(st.binary(max_size=300))
def test_any_bytes_are_a_pack_or_the_peers_fault(body: bytes) -> None:
    try:
        pack = decode_pack(body)
    except RemoteProtocolError:
        return
    assert decode_pack(encode_pack(pack)) == pack
