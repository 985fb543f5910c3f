# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import datetime as dt
import ssl
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, strategies as st

from sevpn.errors import CertificateError, Failure
from sevpn.server.certificate import make_identity
from sevpn.transport.resolve import Address, interleave
from sevpn.transport.tls import (
    TrustPolicy,
    certificate_refused,
    check_pin,
    explain_tls_error,
    fingerprint,
    usual_ca_file,
)

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
ADDRESSES = st.one_of(
    st.integers(0, 9).map(IPv4Address), st.integers(0, 9).map(IPv6Address)
)


def refusal(code: int, message: str = "") -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError()
    error.verify_code = code
    error.verify_message = message
    return error


def der_for(*names: str) -> bytes:
    pem = make_identity(names, valid_from=NOW, valid_days=1).certificate_pem
    return ssl.PEM_cert_to_DER_cert(pem.decode())


@given(st.lists(ADDRESSES))
def test_taking_turns_loses_no_address_and_repeats_none(
    addresses: list[Address],
) -> None:
    mixed = interleave(addresses)

    assert sorted(map(repr, mixed)) == sorted(map(repr, set(addresses)))
    assert mixed[:1] == addresses[:1]


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        (9, "not-yet-valid", "it is valid from 2030-01-01 only"),
        (10, "expired", "it expired 2030-01-02"),
        (18, "self-signed", "it is self-signed"),
        (19, "self-signed", "signed by a CA that this machine does not know"),
        (62, "name", "it is for vpn.test, 192.0.2.1"),
        (64, "name", "it is for vpn.test, 192.0.2.1"),
        (20, "untrusted", "said so"),
    ],
)
def test_a_refusal_says_what_is_wrong_and_what_to_pin(
    code: int, reason: str, words: str
) -> None:
    der = der_for("vpn.test", "192.0.2.1")

    error = certificate_refused(
        refusal(code, "said so"), name="host.test", certificate=der, now=NOW
    )

    assert error.reason == reason
    assert error.sha256 == fingerprint(der)
    assert words in str(error)
    assert f"--pin sha256:{fingerprint(der)}" in str(error)
    assert error.failure is Failure.UNTRUSTED


def test_a_certificate_without_names_is_told_as_such() -> None:
    error = certificate_refused(refusal(62), name="x", certificate=der_for(), now=NOW)

    assert "no subjectAltName" in str(error)


@pytest.mark.parametrize("code", [9, 10, 18, 62, 20])
@pytest.mark.parametrize("certificate", [b"", b"no certificate"])
def test_a_certificate_that_cannot_be_read_is_still_refused_for_its_reason(
    code: int, certificate: bytes
) -> None:
    error = certificate_refused(
        refusal(code), name="x", certificate=certificate, now=NOW
    )

    assert error.failure is Failure.UNTRUSTED
    assert bool(error.sha256) is bool(certificate)
    assert ("--pin" in str(error)) is bool(certificate)


def test_any_of_several_pins_is_enough() -> None:
    sha256 = fingerprint(b"leaf")
    pins = ("sha256:" + "0" * 64, f"sha256:{sha256}")

    check_pin(TrustPolicy(pins=pins), host="x", sha256=sha256)
    check_pin(TrustPolicy(), host="x", sha256=sha256)
    with pytest.raises(CertificateError) as caught:
        check_pin(TrustPolicy(pins=pins[:1]), host="x", sha256=sha256)

    assert caught.value.reason == "pin"
    assert caught.value.sha256 == sha256


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("WRONG_VERSION_NUMBER", "something else than TLS"),
        ("HTTP_REQUEST", "plain HTTP"),
        ("UNSUPPORTED_PROTOCOL", "before 1.2"),
        ("TLSV1_UNRECOGNIZED_NAME", "--server-name"),
        ("SOMETHING_NEW", "something new"),
        (None, "unknown"),
    ],
)
def test_a_failure_of_tls_is_told_in_words(reason: str | None, words: str) -> None:
    cause = ssl.SSLError()
    cause.reason = reason  # type: ignore[assignment]  # as OpenSSL leaves it now and then

    error = explain_tls_error(cause, host="vpn.test", port=443)

    assert words in str(error)
    assert "vpn.test port 443" in str(error)
    assert error.failure is Failure.PEER


FEDORA = "/etc/pki/tls/certs/ca-bundle.crt"
ALPINE = "/etc/ssl/cert.pem"


def openssl_looks_at(
    *, cafile: str | None = None, capath: str | None = None
) -> ssl.DefaultVerifyPaths:
    return ssl.DefaultVerifyPaths(
        cafile=cafile,  # type: ignore[arg-type]  # the stubs know no None here
        capath=capath,  # type: ignore[arg-type]  # likewise
        openssl_cafile_env="SSL_CERT_FILE",
        openssl_cafile="/build/ssl/cert.pem",
        openssl_capath_env="SSL_CERT_DIR",
        openssl_capath="/build/ssl/certs",
    )


@pytest.mark.parametrize("file", [FEDORA, ALPINE])
def test_an_openssl_of_another_distribution_is_shown_the_ca_file_of_this_one(
    file: str,
) -> None:
    assert usual_ca_file(openssl_looks_at(), {}, {file}.__contains__) == file


def test_an_openssl_that_knows_where_to_look_is_shown_nothing() -> None:
    for known in (
        openssl_looks_at(cafile="/build/ssl/cert.pem"),
        openssl_looks_at(capath="/build/ssl/certs"),
    ):
        assert usual_ca_file(known, {}, {FEDORA}.__contains__) is None


def test_who_names_ca_certificates_in_the_environment_gets_no_others() -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        environ = {name: "/missing"}
        assert usual_ca_file(openssl_looks_at(), environ, {FEDORA}.__contains__) is None


def test_a_machine_without_ca_certificates_has_none_to_show() -> None:
    assert usual_ca_file(openssl_looks_at(), {}, lambda _: False) is None
