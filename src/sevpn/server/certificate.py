# SPDX-License-Identifier: Apache-2.0
"""Certificates: the server's own, given as PEM or made at start; and those of users.

Layer: server. Runs in: the event loop, before the server starts.

The one module of the server that knows `cryptography`. Real servers make a
self-signed RSA certificate with no subjectAltName; ours has one, so that it can
stand behind `--ca` as well as behind `--pin`. The key is RSA because official
clients read nothing else, and the keys of users likewise.

Source: docs/reference/protocol.md#tls, #authentication.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sevpn.errors import ConfigError
from sevpn.protocol.credentials import CHALLENGE_SIZE, RSA_BITS, signed_digest

if TYPE_CHECKING:
    from cryptography import x509

__all__ = [
    "Identity",
    "UserCertificate",
    "load_identity",
    "make_identity",
    "server_context",
]

_KEY_BITS: Final = 2048
_DAY: Final = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key."""

    certificate_pem: bytes
    """The leaf, and whatever chain follows it."""

    key_pem: bytes = field(repr=False)
    """The key, without a pass phrase."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the leaf's DER: 64 lower-case hex digits."""
        return hashlib.sha256(self.certificate_der).hexdigest()

    @property
    def certificate_der(self) -> bytes:
        """The leaf."""
        text = self.certificate_pem.decode("ascii")
        first = text[: text.index("-----END CERTIFICATE-----")]
        first = first[first.index("-----BEGIN CERTIFICATE-----") :]
        return ssl.PEM_cert_to_DER_cert(first + "-----END CERTIFICATE-----\n")


def make_identity(
    names: Sequence[str] = ("localhost",),
    *,
    valid_from: dt.datetime | None = None,
    valid_days: float = 3650,
) -> Identity:
    """Make a self-signed certificate and its key.

    Takes some 100 ms, for the key.

    Args:
        names: Host names and addresses it is for; the first is its common name.
            None is allowed: then there is no subjectAltName.
        valid_from: When it begins to be valid; by default yesterday.
        valid_days: For how long; a past end makes an expired certificate.
    """
    from cryptography import x509  # noqa: PLC0415 - costs memory that not every caller of the package has
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415 - likewise
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415 - likewise

    key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
    begin = valid_from or dt.datetime.now(dt.UTC) - _DAY
    common = names[0] if names else "sevpn"
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common[:64])])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + valid_days * _DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if names:
        entries = [_general_name(name) for name in names]
        builder = builder.add_extension(
            x509.SubjectAlternativeName(entries), critical=False
        )
    certificate = builder.sign(key, hashes.SHA256())
    return Identity(
        certificate_pem=certificate.public_bytes(serialization.Encoding.PEM),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def load_identity(certificate: Path, key: Path | None = None) -> Identity:
    """Read a certificate and its key.

    Args:
        certificate: PEM.
        key: PEM of the key, where it does not stand in the same file.

    Raises:
        ConfigError: A file cannot be read, or holds no certificate.
    """
    chain = _read(certificate)
    identity = Identity(chain, chain if key is None else _read(key))
    try:
        _ = identity.sha256
    except ValueError as error:
        raise ConfigError(f"{certificate} holds no certificate in PEM form") from error
    return identity


def server_context(identity: Identity) -> ssl.SSLContext:
    """Return the TLS settings of a server with that certificate.

    As real servers, it gives out no session tickets and asks for no certificate.

    Raises:
        ConfigError: OpenSSL does not take the certificate with the key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    # OpenSSL reads files only; this one has no name and never reaches a disk.
    number = os.memfd_create("sevpn-identity")
    try:
        os.write(number, identity.key_pem + b"\n" + identity.certificate_pem)
        context.load_cert_chain(f"/proc/self/fd/{number}")
    except ssl.SSLError as error:
        raise ConfigError(
            f"the certificate cannot be used ({error.reason}): its key must belong to it and have no pass phrase"
        ) from error
    finally:
        os.close(number)
    return context


class UserCertificate:
    """A certificate by which a user is known; what proves it is its key.

    Args:
        content: PEM or DER.

    Raises:
        ConfigError: It cannot be read, or its key is none that a login can use.
    """

    __slots__ = ("_der", "_expires_at", "_key")

    def __init__(self, content: bytes) -> None:
        from cryptography import x509  # noqa: PLC0415 - see make_identity
        from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415 - likewise
        from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415 - likewise

        is_pem = b"-----BEGIN" in content
        load = x509.load_pem_x509_certificate if is_pem else x509.load_der_x509_certificate  # fmt: skip
        try:
            parsed = load(content)
            key = parsed.public_key()
        except (ValueError, x509.InvalidVersion) as error:
            raise ConfigError("is no certificate in PEM or DER form") from error
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size not in RSA_BITS:
            sizes = ", ".join(map(str, RSA_BITS))
            raise ConfigError(
                f"has a key that no client can log in with: RSA of {sizes} bits is wanted"
            )
        self._der = parsed.public_bytes(Encoding.DER)
        self._expires_at = parsed.not_valid_after_utc.timestamp()
        self._key = key

    def is_proved_by(
        self, certificate: bytes, signature: bytes, challenge: bytes, *, wall_s: float
    ) -> bool:
        """Tell whether a login has this certificate, and the key to it.

        Args:
            certificate: What the login sent.
            signature: Its signature of *challenge*.
            challenge: The 20 random bytes of this connection's Hello.
            wall_s: Seconds since 1970; an expired certificate proves nothing.
        """
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - see make_identity
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415 - likewise
        from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo  # noqa: PLC0415 - likewise

        is_known = hmac.compare_digest(self._der, certificate)
        if (
            len(challenge) != CHALLENGE_SIZE
            or not is_known
            or wall_s > self._expires_at
        ):
            return False
        try:
            # Not verify(): it would have OpenSSL make the SHA-1, which it may refuse.
            signed = self._key.recover_data_from_signature(
                signature, PKCS1v15(), NoDigestInfo()
            )
        except InvalidSignature:
            return False
        return hmac.compare_digest(signed, signed_digest(challenge))

    def __repr__(self) -> str:
        return f"<certificate {hashlib.sha256(self._der).hexdigest()[:16]}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UserCertificate) and self._der == other._der

    def __hash__(self) -> int:
        return hash(self._der)


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509  # noqa: PLC0415 - see make_identity

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
