# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, strategies as st

from sevpn.config.cfgtext import MAX_SIZE, Folder, Number64, read_text, write_text
from sevpn.errors import ConfigError

TEXT = """
# a comment
declare root
{
\tuint Port 443
\tuint64 Time 18446744073709551615
\tbool On true
\tbool Off false
\tbool Also 2
\tstring Name Office$20VPN$20$24$201
\tstring Empty $
\tstring Word gr\u00fcn
\tbyte Data AAEC
\tbyte None $
\tdeclare Inner
\t{
\t\tuint Hex 0x1F
\t}
}
"""


def test_values_of_each_kind_are_read() -> None:
    root = read_text(TEXT.encode())

    assert dict(root.values.values()) == {
        "Port": 443,
        "Time": 2**64 - 1,
        "On": True,
        "Off": False,
        "Also": True,
        "Name": "Office VPN $ 1",
        "Empty": "",
        "Word": "grün",
        "Data": b"\x00\x01\x02",
        "None": b"",
    }
    inner = root.folder("INNER")
    assert inner is not None
    assert inner.take("hex", int) == 31


@pytest.mark.parametrize("change", ["\ufeff", "\r\n", "blanks", "case"])
def test_marks_line_ends_blanks_and_case_do_not_matter(change: str) -> None:
    text = {
        "\ufeff": "\ufeff" + TEXT,
        "\r\n": TEXT.replace("\n", "\r\n"),
        "blanks": TEXT.replace("\t", " \t  ").replace(" 443", "\t\t443  and more"),
        "case": TEXT.replace("declare", "DECLARE")
        .replace("uint ", "UInt ")
        .replace("true", "TRUE"),
    }[change]

    assert read_text(text.encode()) == read_text(TEXT.encode())


def test_a_value_of_another_type_counts_as_absent() -> None:
    root = Folder()
    root.set("Port", "443")
    root.set("On", value=True)

    assert root.take("Port", int) is None
    assert root.take("On", int) is None
    assert root.take("on", bool) is True
    assert root.take("on", bool) is None
    assert list(root.names()) == ["Port"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no folder 'root'"),
        ("declare root\n{\n", "cut"),
        ("declare root\n{\n}\n}\n", "not open"),
        ("declare root\n{\nuint A -1\n}\n", "wrong number in line 3"),
        ("declare root\n{\nuint A 4294967296\n}\n", "wrong number"),
        ("declare root\n{\nuint A 0xZZ\n}\n", "wrong number"),
        ("declare root\n{\nuint A " + "9" * 40 + "\n}\n", "wrong number"),
        ("declare root\n{\nbyte A ====\n}\n", "wrong base64"),
        ("declare root\n{\nstring A $FF\n}\n", "not UTF-8"),
        ("declare root\n{\n" + "declare x\n{\n" * 9, "too deep"),
        ("declare root\n{\n" + "uint a 1\n" * 10_001 + "}\n", "entries"),
        ("# " + "x" * 65_536, "line of more than"),
        ("SEVPN_DB" + "\0" * 30, "binary form"),
        ("x" * (MAX_SIZE + 1), "longer than"),
    ],
)
def test_what_is_no_such_file_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_text(text.encode())


def test_a_file_is_written_as_the_original_does() -> None:
    root = Folder()
    root.set("b", "a b$\r\n")
    root.set("A", 7)
    root.set("c", Number64(0))
    root.open("Z").set("on", value=False)
    root.open("Z").set("data", b"")
    root.open("Z").set("empty", "")

    lines = write_text(root, comment="It is one.").decode().split("\r\n")
    assert lines == [
        "\ufeff# It is one.",
        "",
        "declare root",
        "{",
        "\tuint A 7",
        "\tstring b a$20b$24$0D$0A",
        "\tuint64 c 0",
        "",
        "\tdeclare Z",
        "\t{",
        "\t\tbyte data $",
        "\t\tstring empty $",
        "\t\tbool on false",
        "\t}",
        "}",
        "",
    ]


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\u0130\u017f\u212a"), max_size=12
)
VALUES = st.one_of(
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1).map(Number64),
    st.binary(max_size=40),
    st.text(st.characters(codec="utf-8"), max_size=20),
)


@given(
    values=st.dictionaries(NAMES, VALUES, max_size=6),
    inner=st.dictionaries(NAMES, VALUES, max_size=3),
)
def test_what_was_written_is_read_again(
    values: dict[str, bool | int | bytes | str],
    inner: dict[str, bool | int | bytes | str],
) -> None:
    root = Folder()
    for name, value in values.items():
        root.set(name, value)
    for name, value in inner.items():
        root.open("inner").set(name, value)

    assert read_text(write_text(root, comment="")) == root


@given(data=st.binary(max_size=300))
def test_whatever_is_read_ends_in_a_folder_or_a_reason(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        read_text(b"declare root\n{\n" + data + b"\n}\n")
