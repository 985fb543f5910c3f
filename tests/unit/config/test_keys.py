# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, strategies as st

from sevpn.config.keys import KEYS, Origin, parse_duration, read_key
from sevpn.config.profile import Settings
from sevpn.config.proxy import ProxyAddress, parse_proxy
from sevpn.config.secret import Prompt, Secret, SecretFile
from sevpn.errors import ConfigError

PROFILE = Origin("profile", Path("/p/office.toml"))
OPTION = Origin("option")
VARIABLE = Origin("environment")
PIN = "sha256:" + "0a" * 32


def test_every_key_is_a_field_of_the_settings_and_the_reverse() -> None:
    assert set(KEYS) == {field.name for field in msgspec.structs.fields(Settings)}


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("host", "vpn.example.org", "vpn.example.org"),
        ("host", "[2001:db8::1]", "2001:db8::1"),
        ("port", 443, 443),
        ("hub", "My Hub", "My Hub"),
        ("name", "office", "office"),
        ("user", "alice@example", "alice@example"),
        ("auth", "plain", "plain"),
        ("password", "prompt", Prompt()),
        ("password", "file:pw", SecretFile(Path("/p/pw"))),
        ("ca", "ca.pem", Path("/p/ca.pem")),
        ("ca", "/ca.pem", Path("/ca.pem")),
        ("server_name", "a.example", "a.example"),
        ("pin", ["SHA256:" + ":".join(["0A"] * 32), PIN], (PIN,)),
        ("insecure", True, True),
        ("ip", 4, "4"),
        ("ip", "6", "6"),
        ("ip", "any", "any"),
        ("connections", 1, 1),
        ("connections", 32, 32),
        ("half_duplex", True, True),
        ("compress", True, True),
        ("udp", "off", "off"),
        ("udp", "auto", "auto"),
        ("udp", "on", "on"),
        ("udp_v1", True, True),
        ("udp_port", 5000, 5000),
        ("proxy", "http://proxy.example:3128", ProxyAddress("http", "proxy.example", 3128)),
        ("proxy", "socks5h://al%20ice@[2001:db8::1]", ProxyAddress("socks5", "2001:db8::1", 1080, "al ice")),
        ("proxy", "socks4a://192.0.2.1:9/", ProxyAddress("socks4", "192.0.2.1", 9)),
        ("proxy", "192.0.2.1:3128", ProxyAddress("http", "192.0.2.1", 3128)),
        ("proxy", "env", "env"),
        ("proxy_password", "prompt", Prompt()),
        ("legacy_tls", True, True),
        ("connect_timeout", "1m", 60.0),
        ("tap", "sevpn%d", "sevpn%d"),
        ("tap", "vpn-office_12.3", "vpn-office_12.3"),
        ("mac", "5E-00-11-22-33-44", "5e:00:11:22:33:44"),
        ("mtu", 1400, 1400),
        ("dhcp", False, False),
        ("address", ["192.0.2.5/24", "2001:db8::5/64"], (IPv4Interface("192.0.2.5/24"), IPv6Interface("2001:db8::5/64"))),
        ("gateway", "192.0.2.1", IPv4Address("192.0.2.1")),
        ("gateway", "fe80::1", IPv6Address("fe80::1")),
        ("hostname", "my-laptop", "my-laptop"),
        ("accept_default_gateway", True, True),
        ("accept_static_routes", True, True),
        ("metric", 0, 0),
        ("accept_dns", True, True),
        ("dns", ["192.0.2.1", "192.0.2.1"], (IPv4Address("192.0.2.1"),)),
        ("search", ["corp.example.", "_x.example"], ("corp.example", "_x.example")),
        ("dns_mode", "file", "file"),
        ("reconnect_delay", 0, 0.0),
        ("reconnect_max_delay", 1.5, 1.5),
        ("retries", 3, 3),
        ("retries", "forever", "forever"),
        ("once", True, True),
        ("privacy", "full", "full"),
    ],
)  # fmt: skip
def test_a_right_value_of_a_profile_is_taken(
    key: str, given: object, value: object
) -> None:
    assert read_key(key, given, PROFILE) == value


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("host", ""), ("host", 5), ("host", "a/b"), ("port", 0), ("port", 65536), ("port", "443"), ("port", True), ("port", 443.0),
        ("hub", ""), ("hub", "a/b"), ("hub", "a\n"), ("hub", "é" * 200), ("hub", "x" * 256), ("name", "../x"), ("user", "a\0b"),
        ("user", "é" * 128), ("auth", "smartcard"), ("ca", ""), ("ca", "a\0"), ("server_name", "*.example"),
        ("pin", PIN), ("pin", ["sha256:00"]), ("pin", ["sha1:" + "00" * 20]), ("pin", ["00" * 32]), ("pin", [PIN] * 65), ("insecure", 1), ("insecure", "yes"),
        ("ip", 5), ("ip", True), ("ip", "ipv4"), ("connections", 0), ("connections", 33), ("connections", True),
        ("connections", "8"), ("half_duplex", 1), ("half_duplex", "no"), ("connect_timeout", 0), ("connect_timeout", "2h"), ("connect_timeout", "soon"),
        ("connect_timeout", float("nan")), ("connect_timeout", 10**400), ("connect_timeout", True),
        ("tap", "a" * 16), ("tap", "a b"), ("tap", "a/b"), ("tap", "."), ("tap", "%d%d"), ("tap", "%s"), ("tap", ""),
        ("mac", "5e:00:11:22:33"), ("mac", "01:00:5e:00:00:01"), ("mac", "00:00:00:00:00:00"), ("mac", "ff:ff:ff:ff:ff:ff"), ("mac", "hello"),
        ("mtu", 575), ("mtu", 1587), ("dhcp", "no"), ("address", ["192.0.2.5"]), ("address", ["192.0.2.5/33"]), ("address", "192.0.2.5/24"),
        ("address", ["0.0.0.0/0"]), ("address", ["224.0.0.1/24"]), ("address", ["fe80::1%eth0/64"]), ("address", ["x/24"]),
        ("gateway", "router"), ("gateway", "255.255.255.255"), ("gateway", "::"), ("gateway", "fe80::1%a\nb"),
        ("hostname", "two words"), ("hostname", "-a"), ("hostname", "a..b"), ("metric", -1), ("metric", 2**32),
        ("dns", ["resolver"]), ("dns", [53]), ("search", ["a\nnameserver 192.0.2.1"]), ("search", [""]), ("search", ["ä.example"]), ("search", [".".join(["a" * 60] * 5)]),
        ("dns_mode", "resolve"), ("reconnect_delay", -1), ("reconnect_delay", "25h"), ("reconnect_max_delay", 0),
        ("retries", -1), ("retries", "ever"), ("retries", 1.5), ("retries", "-1"), ("once", "once"), ("privacy", "none"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_its_place_and_what_is_allowed(
    key: str, given: object
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_key(key, given, PROFILE)

    assert f"'{key}' in /p/office.toml is " in str(caught.value)
    assert f"must be {KEYS[key].allowed}" in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "given", ["hunter2", 22222, True, ["hunter2"], {"hunter2": 1}, "literal"]
)
def test_a_wrong_secret_is_refused_and_not_repeated(given: object) -> None:
    with pytest.raises(ConfigError, match=r"'password' in /p/office\.toml") as caught:
        read_key("password", given, PROFILE)

    assert "hunter2" not in str(caught.value)
    assert "22222" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        "", 5, "https://proxy.example", "ftp://hunter2@a", "http://hunter2:99999", "http://:8080", "http://a.example:0",
        "http://a.example/hunter2", "http://a.example?hunter2", "http://[hunter2", "http://a b.example", "socks5://x\x7f@a.example",
        f"http://{'u' * 256}@a.example", "http://alice:hunter2@a.example", "alice:hunter2@a.example:8080", "http://alice:@a.example",
    ],
)  # fmt: skip
@pytest.mark.parametrize("origin", [PROFILE, OPTION, VARIABLE])
def test_a_wrong_proxy_is_refused_and_what_may_be_a_password_is_not_repeated(
    given: object, origin: Origin
) -> None:
    with pytest.raises(ConfigError, match="proxy") as caught:
        read_key("proxy", given, origin)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        ProxyAddress("http", "a.example", 3128),
        ProxyAddress("socks5", "2001:db8::1", 1080, "al ice@x:/"),
    ],
)
def test_a_proxy_that_is_written_is_read_again(address: ProxyAddress) -> None:
    assert parse_proxy(str(address)) == address
    assert read_key("proxy", address, OPTION) == address


def test_a_proxy_of_the_environment_may_hold_its_password() -> None:
    found = parse_proxy("http://alice:hunt%65r2@a.example", allow_password=True)

    assert found == ProxyAddress("http", "a.example", 8080, "alice", Secret("hunter2"))
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize("origin", [OPTION, VARIABLE])
@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("port", "443", 443),
        ("metric", "0", 0),
        ("insecure", "yes", True),
        ("insecure", "1", True),
        ("dhcp", "OFF", False),
        ("dhcp", False, False),
        ("ip", "4", "4"),
        ("retries", "7", 7),
        ("reconnect_delay", "2", 2.0),
        ("dns", "192.0.2.1, 192.0.2.2 2001:db8::1", (IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"), IPv6Address("2001:db8::1"))),
        ("dns", ("192.0.2.1,192.0.2.2", "192.0.2.3"), (IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"), IPv4Address("192.0.2.3"))),
        ("dns", (IPv4Address("192.0.2.1"),), (IPv4Address("192.0.2.1"),)),
        ("gateway", IPv4Address("192.0.2.1"), IPv4Address("192.0.2.1")),
        ("ca", Path("ca.pem"), Path("ca.pem")),
        ("password", Prompt(), Prompt()),
        ("password", "file:pw", SecretFile(Path("pw"))),
    ],
)  # fmt: skip
def test_options_and_variables_are_texts_of_the_same_values(
    origin: Origin, key: str, given: object, value: object
) -> None:
    assert read_key(key, given, origin) == value


@pytest.mark.parametrize(
    ("origin", "label"), [(OPTION, "--server-name"), (VARIABLE, "SEVPN_SERVER_NAME")]
)
def test_an_error_names_the_option_or_the_variable(origin: Origin, label: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_key("server_name", "a b", origin)

    assert str(caught.value).startswith(f"{label} is 'a b', and must be")


@pytest.mark.parametrize("text", ["maybe", "", "2"])
def test_a_text_that_is_no_truth_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--once is .* must be true or false"):
        read_key("once", text, OPTION)


def test_a_literal_secret_is_refused_outside_a_profile() -> None:
    with pytest.raises(
        ConfigError, match="--password holds the secret itself"
    ) as caught:
        read_key("password", "literal:hunter2", OPTION)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("10s", 10.0), ("2m", 120.0), ("1h", 3600.0), ("7", 7.0), ("1.5m", 90.0), (" 3s ", 3.0), (0, 0.0), (2.5, 2.5)],
)  # fmt: skip
def test_a_duration_has_a_unit_or_means_seconds(
    text: str | float, seconds: float
) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "-1s", "+1", "1 s", "1d", "1e3", "0x1", "1.s", ".5s", "1s1s", "\u0661s", "nan", -1, float("inf"), float("nan")]
)  # fmt: skip
def test_what_is_no_duration_is_refused(text: str | float) -> None:
    with pytest.raises(ValueError, match="no duration"):
        parse_duration(text)


@given(
    st.integers(0, 10**6),
    st.sampled_from([("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)]),
)
def test_a_duration_is_its_number_times_its_unit(
    number: int, unit: tuple[str, float]
) -> None:
    assert parse_duration(f"{number}{unit[0]}") == pytest.approx(number * unit[1])


@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds < float("inf")


_TOML = st.recursive(
    st.one_of(st.text(max_size=40), st.integers(), st.floats(), st.booleans(), st.datetimes()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(
    st.sampled_from(sorted(KEYS)), _TOML, st.sampled_from([PROFILE, OPTION, VARIABLE])
)
def test_any_value_is_taken_or_a_config_error(
    key: str, value: object, origin: Origin
) -> None:
    try:
        read_key(key, value, origin)
    except ConfigError as error:
        assert origin.label(key) in str(error)  # noqa: PT017 - both ends are right
