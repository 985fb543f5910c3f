# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests: an authority, and what it issues, right and wrong.

Layer: testing. Runs in: any thread of a test. Keys are EC P-256, made in no time, but
for a leaf that the official server shall use: it knows RSA only.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "BadKind", "Issued", "make_authority"]

BadKind = Literal["expired", "not-yet", "wrong-name", "self-signed", "no-name"]

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, as PEM files."""

    certificate: Path
    """The leaf."""

    key: Path
    """Its private key."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority."""

    folder: Path
    """Where its files go."""

    certificate: Path
    """Its own certificate, for `--ca`."""

    _name: x509.Name = field(repr=False)
    _key: ec.EllipticCurvePrivateKey = field(repr=False)

    def issue(
        self,
        name: str,
        *,
        hosts: Sequence[str] = (),
        addresses: Sequence[str] = (),
        valid: tuple[dt.timedelta, dt.timedelta] = (-_DAY, 30 * _DAY),
        is_self_signed: bool = False,
        is_rsa: bool = False,
    ) -> Issued:
        """Issue a certificate.

        Args:
            name: Of the files, and the common name.
            hosts: DNS names it is for.
            addresses: IP addresses it is for.
            valid: From and until, seen from now.
            is_self_signed: Sign it with its own key.
            is_rsa: With a key of RSA, 2048 bits.
        """
        key = (
            rsa.generate_private_key(public_exponent=65537, key_size=2048)
            if is_rsa
            else ec.generate_private_key(ec.SECP256R1())
        )
        subject = _common_name(name)
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if is_self_signed else self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + valid[0])
            .not_valid_after(now + valid[1])
        )
        names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        names += [x509.IPAddress(ipaddress.ip_address(text)) for text in addresses]
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(names), critical=False
            )
        signed = builder.sign(key if is_self_signed else self._key, hashes.SHA256())
        return _write(self.folder, name, signed, key)

    def issue_bad(
        self, kind: BadKind, *, hosts: Sequence[str] = (), addresses: Sequence[str] = ()
    ) -> Issued:
        """Issue a certificate that is wrong in one way."""
        match kind:
            case "expired":
                past = (-2 * _DAY, -_DAY)
                return self.issue(kind, hosts=hosts, addresses=addresses, valid=past)
            case "not-yet":
                later = (_DAY, 2 * _DAY)
                return self.issue(kind, hosts=hosts, addresses=addresses, valid=later)
            case "wrong-name":
                return self.issue(kind, hosts=["other.test"])
            case "self-signed":
                return self.issue(
                    kind, hosts=hosts, addresses=addresses, is_self_signed=True
                )
            case "no-name":
                return self.issue(kind)


def make_authority(folder: Path) -> Authority:
    """Make a certificate authority whose files are in *folder*."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _common_name("Test Authority")
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 10 * _DAY)
        .not_valid_after(now + 300 * _DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    written = _write(folder, "authority", certificate, key)
    return Authority(folder, written.certificate, name, key)


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _write(
    folder: Path,
    name: str,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
) -> Issued:
    paths = Issued(folder / f"{name}.pem", folder / f"{name}.key")
    paths.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths.key.touch(mode=0o600)
    paths.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths
