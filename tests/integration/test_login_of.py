# SPDX-License-Identifier: Apache-2.0
"""From settings to credentials: what is fetched once, and what for each login."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sevpn.cli.login import login_of
from sevpn.config.profile import Settings, merged
from sevpn.errors import ConfigError, Failure, SpentSecretError
from sevpn.protocol.credentials import Certificate, Password, PlainPassword
from sevpn.testing.userkeys import make_user_key

BASE = Settings(host="vpn.example", user="carol")


def settings(**keys: object) -> Settings:
    return merged(BASE, keys)


def test_a_one_time_password_stands_behind_the_password_and_is_made_anew(
    tmp_path: Path,
) -> None:
    codes = tmp_path / "codes"
    codes.write_text("1\n2\n3\n")
    # Takes its first line from the file, as a token would.
    take = f"sh -c 'head -n1 {codes}; sed -i 1d {codes}'"
    chosen = settings(password="env:PW", otp=f"cmd:{take}")

    login = login_of(chosen, {"PW": "secret", "PATH": "/usr/bin:/bin"})

    assert login.credentials == PlainPassword("carol", "secret1")
    renew = login.renew
    assert renew is not None

    async def twice() -> list[object]:
        return [await renew(), await renew()]

    assert asyncio.run(twice()) == [
        PlainPassword("carol", "secret2"),
        PlainPassword("carol", "secret3"),
    ]


def test_a_program_that_fails_later_ends_the_attempt_by_its_own_error(
    tmp_path: Path,
) -> None:
    token = tmp_path / "token"
    token.write_text("1\n")
    chosen = settings(password="env:PW", otp=f"cmd:cat {token}")
    renew = login_of(chosen, {"PW": "secret", "PATH": "/usr/bin:/bin"}).renew
    token.unlink()
    assert renew is not None

    async def again() -> None:
        with pytest.raises(ConfigError, match="failed with status"):
            await renew()

    asyncio.run(again())


def test_a_one_time_password_that_was_typed_is_spent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sevpn.cli.login.sys.stdin", Terminal())
    monkeypatch.setattr("sevpn.cli.login.getpass", lambda _question: "424242")
    login = login_of(settings(password="env:PW", otp="prompt"), {"PW": "secret"})
    assert login.credentials == PlainPassword("carol", "secret424242")
    renew = login.renew
    assert renew is not None

    async def again() -> None:
        with pytest.raises(SpentSecretError, match="--otp cmd:COMMAND") as caught:
            await renew()
        assert caught.value.failure is Failure.REFUSED

    asyncio.run(again())


class Terminal:
    """Standard input that a person sits at."""

    def isatty(self) -> bool:
        return True


def test_a_certificate_serves_every_login(tmp_path: Path) -> None:
    certificate, key = make_user_key().write(tmp_path)

    login = login_of(settings(cert=str(certificate), key=f"file:{key}"), {})

    assert isinstance(login.credentials, Certificate)
    assert login.renew is None
    assert login.notices == ()


def test_a_key_may_come_from_a_variable_or_a_program(tmp_path: Path) -> None:
    user = make_user_key()
    certificate, key = user.write(tmp_path)
    path = {"PATH": "/usr/bin:/bin"}

    for reference in ("env:KEY", f"cmd:cat {key}"):
        login = login_of(
            settings(cert=str(certificate), key=reference),
            {"KEY": user.key_pem().decode(), **path},
        )
        assert isinstance(login.credentials, Certificate)


def test_a_password_that_an_import_saved_and_the_hub_made_go_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "office.imported-password"
    chosen = settings(password=f"hash:file:{path}")
    monkeypatch.setattr("sevpn.cli.login.sys.stdin", Terminal())
    monkeypatch.setattr("sevpn.cli.login.getpass", lambda _question: "typed")

    assert login_of(chosen, {}).credentials == Password.of("carol", "typed")
