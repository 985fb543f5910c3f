# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import datetime as dt
import functools
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils
from hypothesis import given, strategies as st

from sevpn.config.keyfile import RSA_BITS, ClientKey, read_client_key
from sevpn.errors import ConfigError
from sevpn.protocol import credentials
from sevpn.protocol.credentials import signed_digest
from sevpn.testing.userkeys import UserKey, make_user_key

CHALLENGE = bytes(range(20))
NOW = dt.datetime.now(dt.UTC)
made = functools.cache(make_user_key)


def nobody() -> str:
    raise AssertionError("nobody was to be asked")


def read(
    certificate: bytes,
    key: bytes | None = None,
    *,
    ask: Callable[[], str] = nobody,
    now: dt.datetime = NOW,
) -> ClientKey:
    return read_client_key(certificate, key, name="alice.pem", ask=ask, now=now)


def proves(read_key: ClientKey, user: UserKey) -> bool:
    public = user.parsed.public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    signature = read_key.sign(signed_digest(CHALLENGE))
    # Raises if it is another's.
    public.verify(signature, CHALLENGE, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303 - the protocol's
    return read_key.certificate == user.der


# --- forms --------------------------------------------------------------------


@pytest.mark.parametrize("bits", RSA_BITS)
def test_every_size_that_servers_know_signs_as_they_verify(bits: int) -> None:
    user = made(bits)

    assert proves(read(user.pem, user.key_pem()), user)


def test_what_is_signed_is_hashed_by_nobody_else() -> None:
    """So no policy of OpenSSL's about SHA-1 has a say."""
    user = made()
    public = user.parsed.public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    digest = b"no digest of any kind, 35 bytes lon"

    signature = read(user.pem, user.key_pem()).sign(digest)

    assert (
        public.recover_data_from_signature(
            signature, padding.PKCS1v15(), utils.NoDigestInfo()
        )
        == digest
    )


def test_the_sizes_are_those_of_the_protocol() -> None:
    assert RSA_BITS == credentials.RSA_BITS


FORMS: dict[str, Callable[[UserKey], tuple[bytes, bytes | None]]] = {
    "PEM and PEM": lambda user: (user.pem, user.key_pem()),
    "PEM and an old PEM": lambda user: (user.pem, user.key_pem(is_old=True)),
    "both in one PEM": lambda user: (user.key_pem() + user.pem, None),
    "PEM with text around": lambda user: (
        b"subject=alice\n" + user.pem + b"\n",
        user.key_pem(),
    ),
    "DER and PEM": lambda user: (user.der, user.key_pem()),
    "PKCS #12": lambda user: (user.pkcs12(), None),
    "PKCS #12 and PEM": lambda user: (user.pkcs12(), user.key_pem()),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_usual_forms_are_read(form: str) -> None:
    user = made()

    assert proves(read(*FORMS[form](user)), user)


@pytest.mark.parametrize(
    "files",
    [
        lambda user: (user.pem, user.key_pem("open")),
        lambda user: (user.pem, user.key_pem("open", is_old=True)),
        lambda user: (user.pem + user.key_pem("open"), None),
        lambda user: (user.pkcs12("open"), None),
    ],
)
def test_a_pass_phrase_is_asked_for_once(
    files: Callable[[UserKey], tuple[bytes, bytes | None]],
) -> None:
    user = made()
    asked: list[str] = []

    def ask() -> str:
        asked.append("phrase")
        return "open"

    assert proves(read(*files(user), ask=ask), user)
    assert asked == ["phrase"]


# --- what is refused ------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [
        lambda user: (user.pem, user.key_pem("open")),
        lambda user: (user.pem, user.key_pem("open", is_old=True)),
        lambda user: (user.pkcs12("open"), None),
    ],
)
def test_a_wrong_pass_phrase_is_named_and_not_shown(
    files: Callable[[UserKey], tuple[bytes, bytes | None]],
) -> None:
    with pytest.raises(
        ConfigError, match=r"pass phrase .* is wrong.*'key_password'"
    ) as e:
        read(*files(made()), ask=lambda: "hunter2")

    assert "hunter2" not in str(e.value)


@pytest.mark.parametrize(("kind", "word"), [("ec", "EC"), ("ed25519", "Ed25519")])
def test_a_key_that_is_not_of_rsa_is_refused(kind: str, word: str) -> None:
    user = made(kind)

    with pytest.raises(ConfigError, match=f"no RSA key .*{word}.*1024, 1536"):
        read(user.pem, user.key_pem())


@pytest.mark.parametrize("bits", [1280, 2056])
def test_a_size_that_no_server_knows_is_refused(bits: int) -> None:
    user = made(bits)

    with pytest.raises(ConfigError, match=f"has {bits} bits"):
        read(user.pem, user.key_pem())


def test_a_key_of_another_certificate_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not belong to the certificate"):
        read(made().pem, make_user_key().key_pem())


def test_a_key_of_rsa_does_not_belong_to_a_certificate_of_another_kind() -> None:
    with pytest.raises(ConfigError, match="does not belong to the certificate"):
        read(made("ec").pem, made().key_pem())


def test_an_expired_certificate_is_refused_with_its_date() -> None:
    user = made(valid=(-9, -2))
    day = user.parsed.not_valid_after_utc

    with pytest.raises(ConfigError, match=f"expired {day:%Y-%m-%d}.*ask for a new one"):
        read(user.pem, user.key_pem())


def test_a_certificate_of_the_future_is_refused() -> None:
    user = made(valid=(2, 9))

    with pytest.raises(ConfigError, match="set the clock, or wait"):
        read(user.pem, user.key_pem())


def test_an_end_that_is_near_is_told() -> None:
    user = made(valid=(-9, 5.5))

    assert "in 5 days" in read(user.pem, user.key_pem()).notices[0]


def test_a_chain_is_cut_to_the_users_own_wherever_it_stands() -> None:
    user, other = made(), made("ec")

    for content in (user.pem + other.pem, other.pem + user.pem):
        key = read(content, user.key_pem())
        assert proves(key, user)
        assert key.notices == (
            "alice.pem holds 2 certificates; only the user's own is sent",
        )
    assert proves(read(user.pkcs12(None, other.parsed)), user)


def test_one_certificate_is_no_notice() -> None:
    user = made()

    assert read(user.pem, user.key_pem()).notices == ()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\x30\x03\x02\x01\x03",
        b"\x30\x82\x00\x10\x02\x01\x03\x30" + bytes(12),
        b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN RSA PUBLIC KEY-----\nAAAA\n-----END RSA PUBLIC KEY-----\n",
    ],
)
def test_what_is_no_certificate_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigError):
        read(content, made().key_pem(), ask=lambda: "")


@pytest.mark.parametrize("form", ["pem", "der"])
def test_a_certificate_without_its_key_says_where_to_name_one(form: str) -> None:
    with pytest.raises(ConfigError, match=r"no private key.*--key file:PATH"):
        read(getattr(made(), form))


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"nonsense",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    ],
)
def test_what_is_no_key_is_refused_and_not_repeated(key: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        read(made().der, key)

    assert "nonsense" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_pkcs12_file_of_windows_or_java_is_read_without_a_word() -> None:
    """They write BER: here the outermost sequence has no length but an end."""
    user = made()
    der = user.pkcs12()
    assert der[:2] == b"\x30\x82"
    ber = b"\x30\x80" + der[4:] + b"\0\0"

    assert proves(read(ber), user)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_words(content: bytes) -> None:
    with pytest.raises(ConfigError):
        read(content, made().key_pem(), ask=lambda: "x")
    with pytest.raises(ConfigError):
        read(made().pem, content, ask=lambda: "x")


@given(st.data())
def test_damaged_files_are_read_or_refused_in_words(data: st.DataObject) -> None:
    user = made()
    files = [user.pem, user.der, user.pkcs12(), user.key_pem(), user.key_pem("x")]
    content = bytearray(data.draw(st.sampled_from(files)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    for damaged in (bytes(content), bytes(content[:cut])):
        for pair in ((damaged, None), (damaged, user.key_pem()), (user.pem, damaged)):
            with contextlib.suppress(ConfigError):
                read(*pair, ask=lambda: "x")


def test_nothing_secret_is_in_the_representation() -> None:
    user = made()

    assert repr(read(user.pem, user.key_pem())) == "ClientKey(notices=())"
