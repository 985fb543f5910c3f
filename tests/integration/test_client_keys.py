# SPDX-License-Identifier: Apache-2.0
"""Certificates that users log in with: what the command says before it dials."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sevpn.testing.userkeys import make_user_key

Maker = Callable[[Path], list[str]]


def up(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "sevpn", "up", "192.0.2.1/HUB", "--user", "bob"),
            *words,
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", **variables},
    )


def files(folder: Path, certificate: bytes, key: bytes) -> list[str]:
    (folder / "bob.pem").write_bytes(certificate)
    (folder / "bob.key").touch(mode=0o600)
    (folder / "bob.key").write_bytes(key)
    return ["--cert", str(folder / "bob.pem"), "--key", f"file:{folder / 'bob.key'}"]


def another_key(folder: Path) -> list[str]:
    return files(folder, make_user_key().pem, make_user_key().key_pem())


def expired(folder: Path) -> list[str]:
    user = make_user_key(valid=(-9, -2))
    return files(folder, user.pem, user.key_pem())


def of_the_future(folder: Path) -> list[str]:
    user = make_user_key(valid=(2, 9))
    return files(folder, user.pem, user.key_pem())


def elliptic(folder: Path) -> list[str]:
    user = make_user_key("ec")
    return files(folder, user.pem, user.key_pem())


def odd_size(folder: Path) -> list[str]:
    user = make_user_key(1280)
    return files(folder, user.pem, user.key_pem())


def wrong_phrase(folder: Path) -> list[str]:
    user = make_user_key()
    words = files(folder, user.pem, user.key_pem("right"))
    return [*words, "--key-password", "env:PHRASE"]


def no_phrase(folder: Path) -> list[str]:
    user = make_user_key()
    return files(folder, user.pem, user.key_pem("right"))


def no_key(folder: Path) -> list[str]:
    user = make_user_key()
    return files(folder, user.pem, user.key_pem())[:2]


def public_key_file(folder: Path) -> list[str]:
    user = make_user_key()
    words = files(folder, user.pem, user.key_pem())
    (folder / "bob.key").chmod(0o644)
    return words


def public_pem_with_key(folder: Path) -> list[str]:
    user = make_user_key()
    words = files(folder, user.pem + user.key_pem(), b"")
    (folder / "bob.pem").chmod(0o644)
    return words[:2]


def nothing_there(folder: Path) -> list[str]:
    return ["--cert", str(folder / "nowhere.pem")]


def no_certificate(folder: Path) -> list[str]:
    return files(folder, b"hello", make_user_key().key_pem())


def endless(folder: Path) -> list[str]:
    return files(folder, bytes(70_000), make_user_key().key_pem())


@pytest.mark.parametrize(
    ("make", "what", "step"),
    [
        (another_key, "does not belong to the certificate", "give the key"),
        (expired, "expired 20", "ask for a new one"),
        (of_the_future, "is valid from", "set the clock"),
        (elliptic, "is no RSA key (EC)", "ask for a certificate with an RSA key"),
        (odd_size, "has 1280 bits", "ask for a certificate with a key of such a size"),
        (wrong_phrase, "pass phrase", "check what 'key_password' names"),
        (no_phrase, "there is no terminal", "give --key-password REF"),
        (no_key, "holds no private key", "--key file:PATH"),
        (public_key_file, "other users can reach it", "chmod o-rwx"),
        (public_pem_with_key, "other users can reach it", "chmod o-rwx"),
        (nothing_there, "cannot read", "No such file"),
        (no_certificate, "holds no certificate", "must be PEM, DER or PKCS #12"),
        (endless, "longer than 65536 bytes", "must hold one certificate"),
    ],
)
def test_a_certificate_that_cannot_work_is_refused_before_anything_is_sent(
    make: Maker, what: str, step: str, tmp_path: Path
) -> None:
    done = up(*make(tmp_path), PHRASE="hunter2")

    assert done.returncode == 65
    assert what in done.stderr
    assert step in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "hunter2" not in done.stderr
    assert "PRIVATE KEY" not in done.stderr
