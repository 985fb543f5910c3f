# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from sevpn.errors import ConfigError, LocalProtocolError
from sevpn.protocol.credentials import (
    MAX_CERTIFICATE_SIZE,
    Anonymous,
    Certificate,
    Password,
    PlainPassword,
    hash_password,
    secure_password,
    sha0,
    signed_digest,
)

VECTORS = {
    name: bytes.fromhex(value)
    for name, value in (
        line.split(":")
        for line in (Path(__file__).parents[2] / "vectors" / "credentials.hex")
        .read_text()
        .splitlines()
        if line and not line.startswith("#")
    )
}

USERS = {
    1: ("alice", "microsoft"),
    2: ("MixedCase", "Passw0rd"),
    3: ("bob@example.com", "p@ss wörd"),
    4: ("guest", ""),
    5: ("jörg", "x"),
}


def test_the_published_digests_are_computed() -> None:
    two_blocks = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"

    assert sha0(b"") == VECTORS["sha0-empty"]
    assert sha0(b"abc") == VECTORS["sha0-abc"]
    assert sha0(two_blocks) == VECTORS["sha0-two-blocks"]


@given(st.binary(max_size=200))
def test_a_digest_has_20_bytes_at_any_length(data: bytes) -> None:
    assert len(sha0(data)) == 20
    assert sha0(data) != sha0(data + b"\0")


@pytest.mark.parametrize("number", USERS)
def test_the_vectors_of_passwords_are_computed(number: int) -> None:
    user, password = USERS[number]
    hashed = hash_password(user, password)

    assert hashed == VECTORS[f"{number}-hashed"]
    assert (
        secure_password(hashed, VECTORS[f"{number}-challenge"])
        == VECTORS[f"{number}-secure"]
    )
    assert Password.of(user, password).hashed == hashed


def test_the_case_of_the_user_name_does_not_matter_and_the_password_does() -> None:
    assert hash_password("ALICE", "microsoft") == hash_password("alice", "microsoft")
    assert hash_password("alice", "Microsoft") != hash_password("alice", "microsoft")
    assert hash_password("Jörg", "x") == hash_password("jörg", "x")
    assert hash_password("JÖRG", "x") != hash_password("jörg", "x")


def test_bytes_that_are_no_utf_8_are_hashed_as_they_were() -> None:
    assert hash_password("alice", "\udcff") == sha0(b"\xffALICE")


def test_a_text_that_is_none_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match="the password is no valid text") as caught:
        hash_password("alice", "hunter2\ud800")

    assert caught.value.__suppress_context__
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("hashed", "challenge"), [(19, 20), (20, 19), (0, 0)])
def test_a_proof_needs_20_bytes_of_each(hashed: int, challenge: int) -> None:
    with pytest.raises(LocalProtocolError):
        secure_password(bytes(hashed), bytes(challenge))


def test_a_hash_of_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="'alice' has 16 bytes: it must have 20"):
        Password("alice", bytes(16))


@pytest.mark.parametrize("user", [" alice", "alice\t", "a\0b", "\udcff"])
def test_a_user_name_that_would_arrive_changed_is_refused(user: str) -> None:
    with pytest.raises(ConfigError, match="cannot be sent"):
        Anonymous(user)
    with pytest.raises(ConfigError, match="cannot be sent"):
        Password(user, bytes(20))
    with pytest.raises(ConfigError, match="cannot be sent"):
        PlainPassword(user, "x")


def test_user_names_may_be_empty_and_have_at_most_255_bytes() -> None:
    assert Anonymous("").user == ""
    assert Anonymous("ü" * 127).user == "ü" * 127
    with pytest.raises(ConfigError, match="has 256 bytes"):
        Anonymous("ü" * 128)


@pytest.mark.parametrize(
    "password", [" hunter2", "hunter2 ", "hun\0ter2", "hunter2\udcff"]
)
def test_a_plain_password_that_would_arrive_changed_is_refused(password: str) -> None:
    with pytest.raises(ConfigError, match="auth 'password'") as caught:
        PlainPassword("alice", password)
    assert "hun" not in str(caught.value)


def test_a_plain_password_has_at_most_4096_bytes() -> None:
    assert PlainPassword("alice", "x" * 4096).password == "x" * 4096
    with pytest.raises(ConfigError, match="longer than 4096 bytes"):
        PlainPassword("alice", "x" * 4097)


def test_no_secret_shows_in_a_representation() -> None:
    assert "hunter2" not in repr(PlainPassword("alice", "hunter2"))
    assert "abcd" not in repr(Password("alice", b"abcd" * 5))


def test_what_a_certificate_signs_is_the_sha1_of_the_challenge_with_its_kind() -> None:
    signed = signed_digest(bytes(20))

    # RFC 8017 section 9.2, note 1; SHA-1 of 20 zero bytes.
    assert signed.hex() == (
        "3021300906052b0e03021a050004146768033e216468247bd031a0a2d9876d79818f8f"
    )
    with pytest.raises(LocalProtocolError, match="20 bytes"):
        signed_digest(bytes(19))


@pytest.mark.parametrize("size", [0, MAX_CERTIFICATE_SIZE + 1])
def test_a_certificate_that_no_server_reads_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="the server takes 100000"):
        Certificate("alice", bytes(size), lambda digest: digest)


def test_a_certificate_is_not_in_the_representation() -> None:
    certificate = Certificate("alice", b"0" * 9, lambda digest: digest)

    assert repr(certificate) == "Certificate(user='alice')"
