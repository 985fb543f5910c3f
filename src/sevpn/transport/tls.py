# SPDX-License-Identifier: Apache-2.0
"""Which server is trusted, and what is said when one is not.

Layer: transport. Runs in: the control thread.

    --pin        the leaf certificate's SHA-256 is one of these; nothing else counts
    --insecure   any certificate
    otherwise    OpenSSL verifies: signed by a CA (the system's, or --ca), in its
                 time, and bearing the host's name (or --server-name) as a
                 subjectAltName

OpenSSL judges during the TLS handshake, before a byte of ours is sent; a pin is
compared right after it, likewise before anything is sent. When OpenSSL refuses a
certificate, Python does not show it; `stream.py` then asks the same address once
more without judging, only to name the fingerprint (docs/decisions/0003).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import os
import ssl
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sevpn.errors import CertificateError, ConfigError, Failure, TlsError

__all__ = [
    "TrustPolicy",
    "VerifiedBy",
    "certificate_refused",
    "check_pin",
    "client_context",
    "explain_tls_error",
    "fingerprint",
    "usual_ca_file",
]

VerifiedBy = Literal["ca", "pin", "none"]

RELEASED: Final = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
"""A clock that shows less than the date of this release is wrong."""

_CA_FILES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Arch, Gentoo, OpenWrt
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # Alpine
)

_OP_LEGACY_SERVER_CONNECT: Final = 0x4
"""SSL_OP_LEGACY_SERVER_CONNECT, openssl/ssl.h; Python names it since 3.12."""

# X509_V_ERR_…, openssl/x509_vfy.h
_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_SELF_SIGNED: Final = frozenset({18, 19})
_NAME: Final = frozenset({62, 64})


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """Which server certificate is accepted."""

    ca_file: Path | None = None
    """CA certificates to trust instead of the system's."""

    server_name: str | None = None
    """The name that the certificate must bear, and SNI; `None`: the host."""

    pins: tuple[str, ...] = ()
    """`sha256:` and 64 lower-case hex digits each."""

    insecure: bool = False
    """Accept any certificate."""

    @property
    def is_judged_by_openssl(self) -> bool:
        """Whether a refusal comes from OpenSSL, during the handshake."""
        return not self.pins and not self.insecure

    @property
    def verified_by(self) -> VerifiedBy:
        """What an accepted certificate is accepted by."""
        return "pin" if self.pins else "none" if self.insecure else "ca"


def client_context(policy: TrustPolicy, *, is_legacy: bool = False) -> ssl.SSLContext:
    """Return the TLS settings for *policy*: TLS 1.2 or later, no ALPN, no tickets.

    Args:
        policy: Which certificate is accepted.
        is_legacy: Whether TLS 1.0 and 1.1, the ciphers and the key sizes of their
            day, and servers without secure renegotiation will do, too.

    Raises:
        ConfigError: The CA file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if is_legacy:
        _allow_legacy(context)
    else:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    # The server ends connections without close_notify; that is no attack on a
    # stream whose blocks carry their sizes.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    context.hostname_checks_common_name = False
    if not policy.is_judged_by_openssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif policy.ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        usual = usual_ca_file(
            ssl.get_default_verify_paths(), os.environ, os.path.isfile
        )
        if usual is not None:
            _load_ca_file(context, Path(usual))
    else:
        # The file may hold the server's own self-signed certificate.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        _load_ca_file(context, policy.ca_file)
    return context


def _allow_legacy(context: ssl.SSLContext) -> None:
    # Security level 0: OpenSSL 3 signs no TLS 1.0 or 1.1 handshake above it, since
    # their signatures are SHA-1.
    context.set_ciphers("ALL:!aNULL:!eNULL:@SECLEVEL=0")
    with warnings.catch_warnings():
        # Python warns whoever asks for them; here a person did, by an option.
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.options |= _OP_LEGACY_SERVER_CONNECT


def usual_ca_file(
    defaults: ssl.DefaultVerifyPaths,
    environ: Mapping[str, str],
    exists: Callable[[str], bool],
) -> str | None:
    """Return where this distribution keeps its CA certificates, if OpenSSL does not know.

    An OpenSSL that comes with the program looks where the machine that built it
    had them.

    Args:
        defaults: Where OpenSSL looks; what does not exist is None.
        environ: The environment. Who names a place in it means that one alone.
        exists: Whether there is such a file.
    """
    variables = (defaults.openssl_cafile_env, defaults.openssl_capath_env)
    if defaults.cafile or defaults.capath or any(name in environ for name in variables):
        return None
    return next((path for path in _CA_FILES if exists(path)), None)


def _load_ca_file(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise ConfigError(
            f"{path} holds no certificates in PEM form: check --ca"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}): check --ca"
        ) from error


def fingerprint(certificate: bytes) -> str:
    """Return the SHA-256 of a certificate's DER in hex."""
    return hashlib.sha256(certificate).hexdigest()


def check_pin(policy: TrustPolicy, *, host: str, sha256: str) -> None:
    """Compare the server's certificate with the pins, if there are any.

    Raises:
        CertificateError: None matches.
    """
    if policy.pins and not any(
        hmac.compare_digest(pin, f"sha256:{sha256}") for pin in policy.pins
    ):
        raise CertificateError(
            f"{host} presents another certificate than the pinned one: if its owner has changed it, "
            f"use --pin sha256:{sha256}",
            sha256=sha256,
            reason="pin",
        )


def certificate_refused(
    error: ssl.SSLCertVerificationError,
    *,
    name: str,
    certificate: bytes,
    now: dt.datetime,
) -> CertificateError:
    """Return why OpenSSL refused a certificate, and what to do.

    Args:
        error: What OpenSSL said.
        name: The name that it had to bear.
        certificate: Its DER; empty if it could not be had.
        now: The time of day, aware.
    """
    reason, what = _judgement(error, certificate)
    sha256 = fingerprint(certificate) if certificate else ""
    advice = (
        f"if its owner confirms the fingerprint, use --pin sha256:{sha256}"
        if certificate
        else "its fingerprint could not be read: try again"
    )
    refused = CertificateError(
        f"the certificate of {name} is not trusted: {what}; {advice}",
        sha256=sha256,
        reason=reason,
    )
    if reason == "not-yet-valid" and now < RELEASED:
        refused = CertificateError(
            f"the certificate of {name} is not valid yet, and this machine's clock says {now:%Y-%m-%d}: set the clock",
            sha256=sha256,
            reason=reason,
        )
        refused.failure = Failure.TEMPORARY
    return refused


def _judgement(
    error: ssl.SSLCertVerificationError, certificate: bytes
) -> tuple[str, str]:
    code = error.verify_code
    if code == _EXPIRED:
        validity = _validity(certificate)
        return (
            "expired",
            f"it expired {validity[1]:%Y-%m-%d}" if validity else "it has expired",
        )
    if code == _NOT_YET_VALID:
        validity = _validity(certificate)
        return (
            "not-yet-valid",
            f"it is valid from {validity[0]:%Y-%m-%d} only"
            if validity
            else "it is not valid yet",
        )
    if code in _SELF_SIGNED:
        return (
            "self-signed",
            "it is self-signed, or signed by a CA that this machine does not know",
        )
    if code in _NAME:
        names = _names(certificate)
        if names is None:
            return "name", "it is for another host"
        if not names:
            return "name", "it names no host at all (it has no subjectAltName)"
        return "name", f"it is for {', '.join(names[:5])}"
    return "untrusted", error.verify_message or "OpenSSL refuses it"


def _validity(certificate: bytes) -> tuple[dt.datetime, dt.datetime] | None:
    """Return from when until when it is valid; None if it cannot be read."""
    from cryptography import x509  # noqa: PLC0415 - 10 MiB, and only a refusal needs it

    # A stricter reader than OpenSSL, which did read it.
    try:
        parsed = x509.load_der_x509_certificate(certificate)
    except (ValueError, x509.InvalidVersion):
        return None
    return parsed.not_valid_before_utc, parsed.not_valid_after_utc


def _names(certificate: bytes) -> list[str] | None:
    """Return the names that it bears as subjectAltName, printable ones only; None if it cannot be read."""
    from cryptography import x509  # noqa: PLC0415 - as above

    try:
        parsed = x509.load_der_x509_certificate(certificate)
        extension = parsed.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound:
        return []
    except (
        ValueError,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ):
        return None
    hosts = extension.value.get_values_for_type(x509.DNSName)
    addresses = extension.value.get_values_for_type(x509.IPAddress)
    # 253 characters are the longest name that the DNS knows.
    return [name[:253] for name in (*hosts, *map(str, addresses)) if name.isprintable()]


_TLS_REASONS: Final = {
    "WRONG_VERSION_NUMBER": "it answers something else than TLS: is it the right port?",
    "HTTP_REQUEST": "it answers plain HTTP: is it the right port?",
    "UNSUPPORTED_PROTOCOL": "it speaks only versions of TLS before 1.2, which are broken; --legacy-tls takes them all the same",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks only versions of TLS before 1.2, which are broken; --legacy-tls takes them all the same",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it has no cipher in common with this machine",
    "TLSV1_UNRECOGNIZED_NAME": "it does not know that name: check the host, or --server-name",
    "DH_KEY_TOO_SMALL": "its keys are too short for this machine's OpenSSL; --legacy-tls takes them all the same",
    "EE_KEY_TOO_SMALL": "its keys are too short for this machine's OpenSSL; --legacy-tls takes them all the same",
}


def explain_tls_error(error: ssl.SSLError, *, host: str, port: int) -> TlsError:
    """Return what went wrong with TLS, in words."""
    reason = error.reason or "unknown"
    words = _TLS_REASONS.get(reason, f"OpenSSL says {reason.lower().replace('_', ' ')}")
    return TlsError(f"{host} port {port} cannot do TLS with this machine: {words}")
