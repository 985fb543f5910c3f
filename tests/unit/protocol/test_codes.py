# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from sevpn.errors import (
    AccessDeniedError,
    AuthenticationError,
    BusyError,
    Failure,
    HubNotFoundError,
    RefusedError,
)
from sevpn.protocol.codes import ServerError, error_from_code, failure_of

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "protocol.md"


def error(code: int, user: str = "alice") -> RefusedError:
    return error_from_code(code, hub="OFFICE", user=user, host="vpn.example")


def test_an_unknown_hub_is_the_profiles_mistake() -> None:
    found = error(8)

    assert isinstance(found, HubNotFoundError)
    assert (found.code, found.failure) == (8, Failure.CONFIG)
    assert str(found) == (
        "hub 'OFFICE' does not exist on vpn.example (server error 8): "
        "check 'hub' in the target or profile"
    )


def test_a_refused_proof_says_that_the_server_does_not_say_which() -> None:
    found = error(9)

    assert isinstance(found, AuthenticationError)
    assert found.failure is Failure.SECRET
    assert str(found) == (
        "vpn.example refused the login of 'alice' to hub 'OFFICE' (server error 9): "
        "wrong user name or password; the server does not say which"
    )


def test_a_refused_anonymous_login_asks_for_a_user() -> None:
    assert str(error(9, user="")).endswith(
        "name a user with --user, or ask for an anonymous one"
    )


@pytest.mark.parametrize(
    "code",
    [10, 16, 20, 21, 49, 63, 103, 104, 105, 111, 114, 115, 119, 120, 11, 13, 14, 15],
)
def test_what_may_pass_is_temporary(code: int) -> None:
    assert isinstance(error(code), BusyError)
    assert error(code).failure is Failure.TEMPORARY


@pytest.mark.parametrize("code", [12, 7, 33, 51, 81, 87, 107, 108, 109, 113, 124, 127])
def test_what_only_a_person_can_change_is_refused(code: int) -> None:
    assert isinstance(error(code), AccessDeniedError)
    assert error(code).failure is Failure.REFUSED


@pytest.mark.parametrize("code", [2, 3, 4, 5])
def test_a_login_that_was_not_understood_is_a_breach_of_protocol(code: int) -> None:
    assert type(error(code)) is RefusedError
    assert error(code).failure is Failure.PEER


@given(st.integers(153, 2**32 - 1))
def test_a_number_that_nobody_knows_may_pass(code: int) -> None:
    found = error(code)

    assert found.failure is Failure.TEMPORARY
    assert f"(server error {code})" in str(found)
    assert "does not know" in str(found)


def test_a_number_of_the_administration_is_named() -> None:
    assert str(error(57)) == (
        "vpn.example refused the login with HUB_ALREADY_EXISTS (server error 57): "
        "ask the administrator of the server"
    )


def test_a_policy_against_stored_passwords_is_told() -> None:
    found = error_from_code(9, hub="H", user="u", host="h", no_save_password=True)

    assert str(found).endswith("; this hub does not allow to store the password")


@pytest.mark.parametrize("code", ServerError)
def test_every_number_gives_one_line_with_a_next_step(code: ServerError) -> None:
    line = str(error(code))

    assert re.fullmatch(rf"[^\n{{}}]+ \(server error {code.value}\): [^\n{{}}]+", line)
    assert failure_of(code) is error(code).failure


def test_the_reference_has_every_number_and_what_it_brings() -> None:
    rows = re.findall(
        r"^\| (\d+) \| `(\w+)` \| .* \| .* \| (\w*) \|$",
        REFERENCE.read_text(encoding="utf-8"),
        re.MULTILINE,
    )

    assert {int(number): (name, kind) for number, name, kind in rows} == {
        code.value: (code.name, failure_of(code).value if code else "")
        for code in ServerError
    }


def test_text_of_the_user_is_never_a_template() -> None:
    found = error_from_code(8, hub="{host.x}", user="{}", host="{hub}")

    assert str(found).startswith("hub '{host.x}' does not exist on {hub} (")


def test_a_hub_with_control_characters_stays_one_line() -> None:
    assert "\n" not in str(error_from_code(8, hub="a\nb", user="u", host="h"))


def test_a_refused_certificate_is_not_called_a_password() -> None:
    found = error_from_code(
        9, hub="H", user="u", host="h", no_save_password=True, by_certificate=True
    )

    assert "refused the certificate of 'u'" in str(found)
    assert "expired or revoked" in str(found)
    assert "password" not in str(found)
    assert found.failure is Failure.SECRET
