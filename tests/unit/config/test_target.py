# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from sevpn.config.target import (
    Target,
    check_tunnel_name,
    is_profile_word,
    parse_target,
    tunnel_name,
)
from sevpn.errors import ConfigError

HOSTS = st.one_of(
    st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z][a-z0-9-]{0,10}){0,3}", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
)
HUBS = st.text(min_size=1, max_size=60).filter(
    lambda text: text.isprintable() and "/" not in text and text == text.strip()
)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("vpn.example.org", Target("vpn.example.org", 443, "DEFAULT")),
        ("vpn.example.org:992", Target("vpn.example.org", 992, "DEFAULT")),
        ("vpn.example.org/OFFICE", Target("vpn.example.org", 443, "OFFICE")),
        ("vpn.example.org:5555/Lab 2", Target("vpn.example.org", 5555, "Lab 2")),
        ("localhost/A", Target("localhost", 443, "A")),
        ("192.0.2.1:443/X", Target("192.0.2.1", 443, "X")),
        ("[2001:db8::1]:443/HUB", Target("2001:db8::1", 443, "HUB")),
        ("[2001:DB8::0:1]", Target("2001:db8::1", 443, "DEFAULT")),
        ("[fe80::1%eth0]/H", Target("fe80::1%eth0", 443, "H")),
        ("münchen.example/ハブ", Target("münchen.example", 443, "ハブ")),
        ("vpn.example.org./A", Target("vpn.example.org.", 443, "A")),
    ],
)
def test_a_target_is_read(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "neither a host name nor an address"),
        ("/HUB", "neither a host name nor an address"),
        (":443/HUB", "neither a host name nor an address"),
        ("host/", "no valid hub name"),
        ("host/a/b", "no valid hub name"),
        ("host/a\nb", "no valid hub name"),
        ("host/ a", "no valid hub name"),
        ("host/" + "h" * 256, "no valid hub name"),
        ("host:/HUB", "from 1 to 65535"),
        ("host:0", "from 1 to 65535"),
        ("host:65536", "from 1 to 65535"),
        ("host:+44", "from 1 to 65535"),
        ("host:\uff14\uff14", "from 1 to 65535"),
        ("host:http", "from 1 to 65535"),
        ("2001:db8::1/HUB", "put an IPv6 address into brackets"),
        ("[2001:db8::1/HUB", "no bracketed IPv6 address"),
        ("[2001:db8::1]443", "no bracketed IPv6 address"),
        ("[vpn.example]:443", "no bracketed IPv6 address"),
        ("[2001:db8::zz]", "write HOST"),
        ("[fe80::1%a b]", "no valid zone"),
        ("10.1", "write HOST"),
        ("192.0.2.256", "write HOST"),
        ("-user.example", "neither a host name"),
        ("two words", "neither a host name"),
        ("a..b", "neither a host name"),
        ("a" * 254, "neither a host name"),
        ("https://vpn.example/", "is a URL"),
        ("alice@vpn.example/HUB", "give --user"),
    ],
)
def test_a_wrong_target_is_refused_with_the_right_form(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        parse_target(text)


@given(HOSTS, st.integers(1, 65535), HUBS)
def test_what_a_target_prints_is_read_back(host: str, port: int, hub: str) -> None:
    target = Target(host, port, hub)

    assert parse_target(str(target)) == target


@given(st.text(max_size=80))
def test_any_text_is_a_target_or_a_config_error(text: str) -> None:
    try:
        target = parse_target(text)
    except ConfigError:
        return
    assert parse_target(str(target)) == target


@pytest.mark.parametrize("text", ["office", "OFFICE-2", "a_b"])
def test_a_word_without_marks_can_only_be_a_profile(text: str) -> None:
    assert is_profile_word(text)


@pytest.mark.parametrize("text", ["a/B", "a:1", "a.b", "[::1]"])
def test_a_word_with_a_mark_may_be_a_server(text: str) -> None:
    assert not is_profile_word(text)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (Target("vpn.example.org", 443, "OFFICE"), "vpn.example.org-office"),
        (Target("VPN.example.org", 992, "My Hub_2"), "vpn.example.org-my-hub-2"),
        (Target("2001:db8::1", 443, "H"), "2001-db8-1-h"),
    ],
)
def test_a_tunnel_is_named_after_host_and_hub(target: Target, name: str) -> None:
    assert tunnel_name(target) == name


def test_hubs_that_lose_letters_do_not_share_a_name() -> None:
    first = tunnel_name(Target("vpn.example", 443, "東京"))
    second = tunnel_name(Target("vpn.example", 443, "大阪"))

    assert first != second
    assert first.startswith("vpn.example-")


def test_hubs_that_differ_beyond_the_cut_do_not_share_a_name() -> None:
    first = tunnel_name(Target("vpn.example", 443, "h" * 80 + "1"))
    second = tunnel_name(Target("vpn.example", 443, "h" * 80 + "2"))

    assert first != second


@given(HOSTS, HUBS)
def test_a_tunnel_name_is_a_safe_file_name(host: str, hub: str) -> None:
    name = tunnel_name(Target(host, 443, hub))

    assert re.fullmatch(r"[a-z0-9.-]{1,63}", name)
    assert check_tunnel_name(name) == name


@pytest.mark.parametrize("name", ["office", "Office_2", "a.b-c", "9", "x" * 63])
def test_a_name_of_letters_digits_and_three_marks_is_taken(name: str) -> None:
    assert check_tunnel_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "-a", "a/b", "a b", "ä", "x" * 64, "a\n"]
)
def test_a_name_that_is_no_plain_file_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name"):
        check_tunnel_name(name)
