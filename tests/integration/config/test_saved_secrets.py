# SPDX-License-Identifier: Apache-2.0
"""Passwords that an import keeps in files, and what makes them go."""

from __future__ import annotations

from pathlib import Path

import pytest

from sevpn.config.hostsource import HostSource
from sevpn.config.savedsecret import forget_secret, saved_secret_file
from sevpn.config.secret import (
    HashOf,
    Prompt,
    Reference,
    SecretFile,
)
from sevpn.errors import ConfigError
from sevpn.tunnel.wishes import forget_password

FORBIDDEN = {"NoSavePassword": 1}
NOBODY = HostSource({}, ask=None)


def save(path: Path) -> Path:
    path.write_text("secret\n")
    return path


def test_the_file_that_an_import_names_is_known_as_such() -> None:
    path = Path("/p/office.imported-password")

    assert saved_secret_file(SecretFile(path)) == path
    assert saved_secret_file(HashOf(SecretFile(path))) == path


@pytest.mark.parametrize(
    "reference", [None, Prompt(), SecretFile(Path("/p/office.password"))]
)
def test_what_a_person_has_stored_is_not_the_imports(
    reference: Reference | None,
) -> None:
    assert saved_secret_file(reference) is None


def test_it_is_forgotten_once(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save(path)

    assert forget_secret(path)
    assert not forget_secret(path)
    with pytest.raises(ConfigError, match="cannot remove"):
        forget_secret(tmp_path)


# --- the hub's wish -------------------------------------------------------------


def test_a_hub_makes_the_import_forget_and_the_user_is_told_once(
    tmp_path: Path,
) -> None:
    path = tmp_path / "office.imported-password"
    save(path)

    (said,) = forget_password(FORBIDDEN, SecretFile(path), hub="H")

    assert not path.exists()
    assert str(path) in said
    assert "NoSavePassword" in said
    assert forget_password(FORBIDDEN, SecretFile(path), hub="H") == ()


def test_a_persons_own_file_is_left_alone_and_the_rule_is_told(tmp_path: Path) -> None:
    path = tmp_path / "password"
    save(path)

    (said,) = forget_password(FORBIDDEN, SecretFile(path), hub="H")

    assert path.exists()
    assert "was left alone" in said


@pytest.mark.parametrize("policy", [{}, {"NoSavePassword": 0}])
def test_without_the_policy_nothing_is_removed(
    tmp_path: Path, policy: dict[str, int]
) -> None:
    path = tmp_path / "office.imported-password"
    save(path)

    assert forget_password(policy, SecretFile(path), hub="H") == ()
    assert path.exists()


@pytest.mark.parametrize("reference", [None, Prompt()])
def test_who_is_asked_has_stored_nothing(reference: Reference | None) -> None:
    assert forget_password(FORBIDDEN, reference, hub="H") == ()


def test_a_file_that_cannot_be_removed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "office.imported-password"
    path.mkdir()

    (said,) = forget_password(FORBIDDEN, SecretFile(path), hub="H")

    assert "cannot remove" in said
