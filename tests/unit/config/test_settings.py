# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from sevpn.config.profile import Settings, from_environment, merged
from sevpn.config.secret import HashOf, Literal, Prompt, Secret, SecretFile
from sevpn.errors import ConfigError

BASE = Settings(host="vpn.example", hub="OFFICE")
PIN = "sha256:" + "00" * 32


def test_a_tunnel_is_named_after_its_target_unless_a_name_was_given() -> None:
    assert BASE.tunnel_name == "vpn.example-office"
    assert merged(BASE, {"name": "work"}).tunnel_name == "work"


def test_no_user_means_anonymous() -> None:
    assert BASE.login == "anonymous"
    assert BASE.password_reference is None


def test_a_user_means_a_password_which_is_asked_for() -> None:
    settings = merged(BASE, {"user": "alice"})

    assert settings.login == "password"
    assert settings.password_reference == Prompt()


def test_a_user_can_be_anonymous_by_choice() -> None:
    settings = merged(BASE, {"user": "alice", "auth": "anonymous"})

    assert settings.login == "anonymous"
    assert settings.password_reference is None


def test_overrides_replace_and_the_rest_stays() -> None:
    settings = merged(
        BASE, {"hub": "LAB", "port": "992", "dns": ("192.0.2.1",), "retries": "forever"}
    )

    assert settings == Settings(
        host="vpn.example",
        hub="LAB",
        port=992,
        dns=(IPv4Address("192.0.2.1"),),
        retries="forever",
    )
    assert BASE.hub == "OFFICE"


def test_whether_a_reconnect_delay_was_given_is_known() -> None:
    assert BASE.reconnect_delay is None
    assert merged(BASE, {"reconnect_delay": "5s"}).reconnect_delay == 5.0


def test_an_unknown_option_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match="no option 'server-nam': did you mean 'server_name'"
    ):
        merged(BASE, {"server-nam": "x"})


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"password": "prompt"}, "without a user: add 'user'"),
        ({"user": "a", "auth": "anonymous", "password": "prompt"}, "'auth' is anonymous and a password"),
        ({"auth": "plain"}, "'auth' is plain without a user"),
        ({"auth": "password", "password": "prompt"}, "'auth' is password without a user"),
        ({"user": "a", "auth": "plain", "password": "hash:env:H"}, "gives only its hash"),
        ({"user": "a", "auth": "certificate"}, "add 'cert'"),
        ({"cert": "/c"}, "a certificate is given without a user"),
        ({"user": "a", "auth": "plain", "cert": "/c"}, "'auth' is plain and a certificate is given"),
        ({"user": "a", "key": "file:/k"}, "a key is given without its certificate"),
        ({"user": "a", "key_password": "env:P"}, "a key is given without its certificate"),
        ({"user": "a", "cert": "/c", "password": "env:P"}, "a key's pass phrase is 'key_password'"),
        ({"user": "a", "auth": "password", "otp": "prompt"}, "'otp' is shown to the server"),
        ({"user": "a", "cert": "/c", "otp": "prompt"}, "'otp' is shown to the server"),
        ({"user": "a", "otp": "hash:prompt"}, "'hash:' is for 'password' alone"),
        ({"user": "a", "cert": "/c", "key": "hash:env:K"}, "'hash:' is for 'password' alone"),
        ({"insecure": True, "pin": PIN}, "'insecure' .* 'pin'"),
        ({"insecure": True, "ca": "ca.pem"}, "'insecure' .* 'ca'"),
        ({"dhcp": False}, "add 'address'"),
        ({"address": "192.0.2.5/24"}, "--no-dhcp"),
        ({"dhcp": False, "address": "192.0.2.5/24", "accept_static_routes": True}, "takes them from DHCP"),
        ({"dhcp": False, "address": "192.0.2.5/24", "accept_default_gateway": True}, "add 'gateway'"),
        ({"once": True, "retries": 3}, "'once' .* 'retries'"),
        ({"reconnect_delay": "2m"}, "'reconnect_delay' .120 s. is longer than 'reconnect_max_delay' .60 s."),
    ],
)  # fmt: skip
def test_keys_that_contradict_each_other_are_refused(
    overrides: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        merged(BASE, overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        {"dhcp": False, "address": "192.0.2.5/24"},
        {"dhcp": False, "address": "192.0.2.5/24", "gateway": "192.0.2.1", "accept_default_gateway": True},
        {"user": "a", "password": "hash:env:H"},
        {"pin": PIN, "ca": "ca.pem"},
        {"once": True},
        {"reconnect_delay": "2m", "reconnect_max_delay": "2m"},
    ],
)  # fmt: skip
def test_keys_that_go_together_are_taken(overrides: dict[str, object]) -> None:
    merged(BASE, overrides).check()


def test_the_environment_sets_keys_as_texts() -> None:
    environ = {
        "SEVPN_PORT": "992",
        "SEVPN_DHCP": "no",
        "SEVPN_ADDRESS": "192.0.2.5/24",
        "SEVPN_USER": "",
        "SEVPN_SOMETHING_ELSE": "x",
        "PORT": "1",
    }

    assert from_environment(environ) == {
        "port": 992,
        "dhcp": False,
        "address": (IPv4Interface("192.0.2.5/24"),),
    }


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(ConfigError, match="SEVPN_PORT is 'x', and must be"):
        from_environment({"SEVPN_PORT": "x"})


def test_the_password_variable_holds_the_password_itself() -> None:
    found = from_environment({"SEVPN_PASSWORD": "file:hunter2"})

    assert found == {"password": Literal(Secret("file:hunter2"))}
    assert "hunter2" not in repr(found)


def test_the_password_file_variable_names_a_file() -> None:
    found = from_environment(
        {"SEVPN_PASSWORD_FILE": "/run/secrets/vpn", "SEVPN_PASSWORD": ""}
    )

    assert found == {"password": SecretFile(Path("/run/secrets/vpn"))}


def test_both_password_variables_are_a_contradiction() -> None:
    with pytest.raises(ConfigError, match="unset one of them"):
        from_environment({"SEVPN_PASSWORD": "x", "SEVPN_PASSWORD_FILE": "/y"})


def test_what_the_environment_gave_can_be_merged() -> None:
    found = from_environment(
        {"SEVPN_PASSWORD": "x", "SEVPN_USER": "a", "SEVPN_PIN": PIN}
    )

    settings = merged(BASE, found)

    assert settings.password == Literal(Secret("x"))
    assert settings.pin == (PIN,)


def test_settings_do_not_show_a_secret() -> None:
    settings = merged(
        BASE, {"user": "a", "password": HashOf(Literal(Secret("hunter2")))}
    )

    assert "hunter2" not in repr(settings)


def test_a_certificate_is_how_to_log_in_if_it_is_given() -> None:
    settings = merged(BASE, {"user": "a", "cert": "/c", "key": "file:/k"})

    assert settings.login == "certificate"
    assert settings.password_reference is None


def test_a_one_time_password_is_shown_to_the_server() -> None:
    settings = merged(BASE, {"user": "a", "otp": "prompt"})

    assert settings.login == "plain"
    assert settings.password_reference == Prompt()


@pytest.mark.parametrize("key", ["OTP", "KEY", "KEY_PASSWORD"])
def test_the_variables_of_other_secrets_hold_them_or_name_a_file(key: str) -> None:
    name = f"SEVPN_{key}"

    assert from_environment({name: "x"}) == {key.lower(): Literal(Secret("x"))}
    assert from_environment({f"{name}_FILE": "/y"}) == {
        key.lower(): SecretFile(Path("/y"))
    }
    with pytest.raises(ConfigError, match=f"{name} and {name}_FILE are both set"):
        from_environment({name: "x", f"{name}_FILE": "/y"})
