# SPDX-License-Identifier: Apache-2.0
"""The certificate that a user logs in with, and its private key, as files have them.

Layer: config. Runs in: the control thread, before the first connection. The one
module of the client that reads keys; `cryptography` is imported when there is one.

    certificate file := PEM, perhaps with its chain and its key
                      | DER, one certificate
                      | PKCS #12, with its key
    key              := PEM (PKCS #8, or the older forms of OpenSSL) or DER

A server knows RSA keys of five sizes and compares certificates byte by byte, so
everything else is refused here, before anything is sent: it would be told no more
than "wrong user or proof". A login makes one signature, over a digest that is given
and not computed here, so that a machine whose OpenSSL signs no SHA-1 can log in all
the same.

Source: docs/reference/protocol.md#passwords; RFC 7468; RFC 7292.
"""

from __future__ import annotations

import datetime as dt
import re
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sevpn.config.secret import MAX_CONTENT_SIZE
from sevpn.errors import ConfigError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

__all__ = ["RSA_BITS", "ClientKey", "read_certificate_file", "read_client_key"]

RSA_BITS: Final = (1024, 1536, 2048, 3072, 4096)
"""Sizes of keys that servers know: docs/reference/protocol.md#passwords."""

_PEM_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----.*?-----END (?:X509 |TRUSTED )?CERTIFICATE-----",
    re.DOTALL,
)
_PEM_KEY: Final = re.compile(
    rb"-----BEGIN (?P<kind>[A-Z ]*PRIVATE KEY)-----.*?-----END (?P=kind)-----",
    re.DOTALL,
)
_PEM_BEGIN: Final = b"-----BEGIN "


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A certificate and what its key can do."""

    certificate: bytes = field(repr=False)
    """The certificate alone (DER)."""

    sign: Callable[[bytes], bytes] = field(repr=False)
    """Returns the RSA signature (PKCS #1 v1.5) of a DigestInfo, which is not hashed again."""

    export: Callable[[], bytes] = field(repr=False)
    """Returns the private key itself (DER, PKCS #1), without a pass phrase."""

    notices: tuple[str, ...] = ()
    """What was left out or is unusual, one sentence each."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What files hold, before it is judged."""

    certificates: list[x509.Certificate]
    key: object | None


def read_certificate_file(path: Path) -> bytes:
    """Return the content of a certificate's file.

    Raises:
        ConfigError: It cannot be read, is too long, or holds a key that other users
            can read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONTENT_SIZE + 1)
            mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > MAX_CONTENT_SIZE:
        raise ConfigError(
            f"{path} is longer than {MAX_CONTENT_SIZE} bytes: it must hold one certificate"
        )
    holds_key = _PEM_KEY.search(content) is not None
    if holds_key and stat.S_ISREG(mode) and mode & 0o006:
        raise ConfigError(
            f"{path} holds a private key and other users can reach it: chmod o-rwx {path}"
        )
    return content


def read_client_key(
    certificate: bytes,
    key: bytes | None,
    *,
    name: str,
    ask: Callable[[], str],
    now: dt.datetime,
) -> ClientKey:
    """Read a certificate and its key.

    Args:
        certificate: PEM, DER or PKCS #12; see the module.
        key: PEM or DER of the key; None where *certificate* holds it, too.
        name: The certificate's file, for error texts.
        ask: Returns the pass phrase; called if there is one, once.
        now: The time, which the certificate must fit.

    Raises:
        ConfigError: No certificate, no key, a wrong pass phrase, a key that belongs to
            another certificate or that no server knows, or a certificate whose time is
            over or has not come. The text says which, and what to do.
    """
    with warnings.catch_warnings():
        # Of old forms that are read all the same, BER by Java and Windows for one.
        warnings.simplefilter("ignore")
        found = _read(certificate, key, name=name, ask=ask)
    leaf, others = found.certificates[0], found.certificates[1:]
    rsa_key = _checked_key(found.key, name)
    if not _belong_together(leaf, rsa_key):
        matching = [one for one in others if _belong_together(one, rsa_key)]
        if not matching:
            raise ConfigError(
                f"the key does not belong to the certificate in {name}: "
                "give the key that the certificate was made for, with 'key'"
            )
        leaf = matching[0]
    notices = _check_time(leaf, name, now)
    if others:
        notices += (
            f"{name} holds {len(found.certificates)} certificates; only the user's own is sent",
        )
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415 - 10 MiB, for who has a key
    from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo  # noqa: PLC0415 - likewise
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - likewise
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    return ClientKey(
        certificate=leaf.public_bytes(Encoding.DER),
        sign=lambda digest: rsa_key.sign(digest, PKCS1v15(), NoDigestInfo()),
        export=lambda: rsa_key.private_bytes(
            Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()
        ),
        notices=notices,
    )


# --- forms --------------------------------------------------------------------


def _read(
    certificate: bytes, key: bytes | None, *, name: str, ask: Callable[[], str]
) -> _Found:
    from cryptography import x509  # noqa: PLC0415 - as above

    if _PEM_BEGIN in certificate:
        blocks = _PEM_CERTIFICATE.findall(certificate)
        try:
            certificates = [x509.load_pem_x509_certificate(block) for block in blocks]
        except (ValueError, x509.InvalidVersion) as error:
            raise _no_certificate(name) from error
        if not certificates:
            raise _no_certificate(name)
        return _Found(
            certificates, _load_key(key or _own_key(certificate, name), name, ask)
        )
    try:
        leaf = x509.load_der_x509_certificate(certificate)
    except (ValueError, x509.InvalidVersion):
        return _read_pkcs12(certificate, key, name=name, ask=ask)
    if key is None:
        raise _no_key(name)
    return _Found([leaf], _load_key(key, name, ask))


def _own_key(content: bytes, name: str) -> bytes:
    found = _PEM_KEY.search(content)
    if found is None:
        raise _no_key(name)
    return found[0]


def _load_key(content: bytes, name: str, ask: Callable[[], str]) -> object:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - likewise

    def load(password: bytes | None) -> object:
        if _PEM_BEGIN in content:
            return serialization.load_pem_private_key(content, password)
        return serialization.load_der_private_key(content, password)

    # Chained to nothing: what a library says of a key need not be shown.
    try:
        return load(None)
    except TypeError:
        pass  # it has a pass phrase
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            f"the private key for {name} cannot be read: it must be a key of RSA in PEM or DER form"
        ) from None
    phrase = ask()
    try:
        return load(phrase.encode("utf-8", "surrogateescape"))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _wrong_phrase(f"the private key for {name}") from None


def _read_pkcs12(
    content: bytes, key: bytes | None, *, name: str, ask: Callable[[], str]
) -> _Found:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.serialization import pkcs12  # noqa: PLC0415 - likewise

    if not _is_pkcs12(content):
        raise _no_certificate(name)
    # Whether there is a pass phrase shows by trying; none and an empty one differ.
    for password in (None, b""):
        try:
            store = pkcs12.load_pkcs12(content, password)
            break
        except (ValueError, UnsupportedAlgorithm):
            continue
    else:
        try:
            phrase = ask().encode("utf-8", "surrogateescape")
            store = pkcs12.load_pkcs12(content, phrase)
        except (ValueError, UnsupportedAlgorithm):
            raise _wrong_phrase(name) from None
    certificates = [] if store.cert is None else [store.cert.certificate]
    certificates += [one.certificate for one in store.additional_certs]
    if not certificates:
        raise _no_certificate(name)
    if key is not None:
        return _Found(certificates, _load_key(key, name, ask))
    if store.key is None:
        raise _no_key(name)
    return _Found(certificates, store.key)


def _is_pkcs12(content: bytes) -> bool:
    """Tell whether *content* begins as a PFX does: a sequence, and in it version 3."""
    if content[:1] != b"\x30" or len(content) < 8:
        return False
    head = 2 + (content[1] & 0x7F if content[1] & 0x80 else 0)
    return content[head : head + 3] == b"\x02\x01\x03"


# --- checks -------------------------------------------------------------------


def _checked_key(key: object, name: str) -> RSAPrivateKey:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey  # noqa: PLC0415 - as above

    sizes = ", ".join(map(str, RSA_BITS[:-1])) + f" or {RSA_BITS[-1]}"
    if not isinstance(key, RSAPrivateKey):
        kind = (
            type(key).__name__.removesuffix("PrivateKey").removeprefix("_") or "other"
        )
        raise ConfigError(
            f"the key of {name} is no RSA key ({kind}), and SoftEther servers know no other: "
            f"ask for a certificate with an RSA key of {sizes} bits"
        )
    if key.key_size not in RSA_BITS:
        raise ConfigError(
            f"the RSA key of {name} has {key.key_size} bits, and SoftEther servers know {sizes} alone: "
            "ask for a certificate with a key of such a size"
        )
    return key


def _belong_together(certificate: x509.Certificate, key: RSAPrivateKey) -> bool:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - as above

    try:
        return certificate.public_key() == key.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False  # of a kind that is not known here, so not of RSA


def _check_time(leaf: x509.Certificate, name: str, now: dt.datetime) -> tuple[str, ...]:
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now > end:
        raise ConfigError(
            f"the certificate in {name} expired {end:%Y-%m-%d} and servers refuse it: ask for a new one "
            f"(this machine's clock says {now:%Y-%m-%d})"
        )
    if now < begin:
        raise ConfigError(
            f"the certificate in {name} is valid from {begin:%Y-%m-%d} only, and this machine's clock says "
            f"{now:%Y-%m-%d}: set the clock, or wait"
        )
    left = (end - now).days
    if left >= _SOON_DAYS:
        return ()
    return (
        f"the certificate in {name} expires {end:%Y-%m-%d}, in {left} days: ask for a new one",
    )


_SOON_DAYS: Final = 14
"""Within which time an end is warned of; our own choice."""


def _no_certificate(name: str) -> ConfigError:
    return ConfigError(
        f"{name} holds no certificate that can be read: it must be PEM, DER or PKCS #12"
    )


def _no_key(name: str) -> ConfigError:
    return ConfigError(
        f"{name} holds no private key: say where it is with 'key', as in --key file:PATH"
    )


def _wrong_phrase(what: str) -> ConfigError:
    return ConfigError(
        f"the pass phrase of {what} is wrong: check what 'key_password' names"
    )
