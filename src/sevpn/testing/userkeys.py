# SPDX-License-Identifier: Apache-2.0
"""Certificates that users log in with, for tests: of any key, signed by itself or another.

Layer: testing. Runs in: any thread of a test. A key of RSA takes some 100 ms, one of
4096 bits up to a second.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

__all__ = ["UserKey", "make_user_key"]

_DAY = dt.timedelta(days=1)
_Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class UserKey:
    """A certificate and its key, in all forms."""

    parsed: x509.Certificate
    """The certificate."""

    key: _Key = field(repr=False)
    """Its private key."""

    @property
    def pem(self) -> bytes:
        """The certificate in PEM form."""
        return self.parsed.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        """The certificate in DER form."""
        return self.parsed.public_bytes(serialization.Encoding.DER)

    def key_pem(self, phrase: str | None = None, *, is_old: bool = False) -> bytes:
        """Return the key in PEM form.

        Args:
            phrase: Its pass phrase, if it shall have one.
            is_old: In the form that OpenSSL wrote before version 1.0.
        """
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL
            if is_old
            else serialization.PrivateFormat.PKCS8,
            _encryption(phrase),
        )

    def pkcs12(self, phrase: str | None = None, *others: x509.Certificate) -> bytes:
        """Return both in one PKCS #12 file, with *others* as its chain."""
        return pkcs12.serialize_key_and_certificates(
            b"user", self.key, self.parsed, others or None, _encryption(phrase)
        )

    def write(self, folder: Path, name: str = "alice") -> tuple[Path, Path]:
        """Write `NAME.pem` and `NAME.key`, and return their paths."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(self.pem)
        key.touch(mode=0o600)
        key.write_bytes(self.key_pem())
        return certificate, key


def make_user_key(
    kind: int | str = 2048,
    *,
    name: str = "alice",
    valid: tuple[float, float] = (-1, 300),
    issuer: UserKey | None = None,
) -> UserKey:
    """Make a certificate.

    Args:
        kind: Bits of a key of RSA, or `ec`, or `ed25519`.
        name: The common name.
        valid: From and until, in days from now.
        issuer: Who signs it; itself if None.
    """
    key: _Key
    if kind == "ec":
        key = ec.generate_private_key(ec.SECP256R1())
    elif kind == "ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    else:
        key = rsa.generate_private_key(public_exponent=65537, key_size=int(kind))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    signer = key if issuer is None else issuer.key
    parsed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.parsed.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + valid[0] * _DAY)
        .not_valid_after(now + valid[1] * _DAY)
        .sign(
            signer,
            None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256(),
        )
    )
    return UserKey(parsed, key)


def _encryption(phrase: str | None) -> serialization.KeySerializationEncryption:
    if phrase is None:
        return serialization.NoEncryption()
    return serialization.BestAvailableEncryption(phrase.encode())
