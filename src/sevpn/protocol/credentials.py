# SPDX-License-Identifier: Apache-2.0
"""Who logs in, and the proof of it.

Layer: protocol; pure. Runs in: any thread.

    hashed password := SHA-0(password, user name with a-z in upper case)
    secure password := SHA-0(hashed password, the Hello's 20 random bytes)

The first one is what the server stores, so it is worth as much as the password
itself; the second one is what a login sends. The user name enters the first one:
a hash is useless under another name. SHA-0 is SHA-1 without the rotation in the
message schedule; nobody should use it for anything new.

A certificate is proved by an RSA signature (PKCS #1 v1.5) over the same 20 bytes:

    signed := the DigestInfo of SHA-1, and the SHA-1 digest of the 20 bytes

Who holds the key makes the signature; this module knows only what is signed.

Source: docs/reference/protocol.md#passwords; FIPS 180 (1993); RFC 8017 section
9.2; SoftEtherVPN, Cedar/Account.c, HashPassword(); Cedar/Sam.c, SecurePassword();
Mayaqua/Encrypt.c, RsaSignEx() and HashForSign().
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sevpn.errors import ConfigError, LocalProtocolError

__all__ = [
    "CHALLENGE_SIZE",
    "HASH_SIZE",
    "MAX_CERTIFICATE_SIZE",
    "MAX_PASSWORD_SIZE",
    "MAX_USER_SIZE",
    "RSA_BITS",
    "Anonymous",
    "Certificate",
    "Credentials",
    "Password",
    "PlainPassword",
    "Ticket",
    "hash_password",
    "secure_password",
    "sha0",
    "signed_digest",
]

HASH_SIZE: Final = 20
"""Bytes of either digest."""

CHALLENGE_SIZE: Final = 20
"""Bytes of the Hello's challenge."""

MAX_USER_SIZE: Final = 255
"""Bytes of a user name in UTF-8, as the official programs have it."""

MAX_PASSWORD_SIZE: Final = 4096
"""Bytes of a password in UTF-8. Our choice: one-time tokens may be long, a Login has 65536 bytes in all."""

MAX_CERTIFICATE_SIZE: Final = 100_000
"""Bytes of a certificate (DER) that a server reads."""

RSA_BITS: Final = (1024, 1536, 2048, 3072, 4096)
"""Sizes of the keys that a server knows; with any other, every login is error 9."""

_SHA1_DIGEST_INFO: Final = bytes.fromhex("3021300906052b0e03021a05000414")

_MASK: Final = 0xFFFFFFFF
_START: Final = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)


@dataclass(frozen=True, slots=True)
class Anonymous:
    """A login without proof; the hub knows the user as anonymous.

    Raises:
        ConfigError: The user name cannot be sent.
    """

    user: str
    """User name; may be empty."""

    def __post_init__(self) -> None:
        _check_user(self.user)


@dataclass(frozen=True, slots=True)
class Password:
    """A login by proving the knowledge of the password, which is never sent.

    Raises:
        ConfigError: The user name cannot be sent, or the hash is no hash.
    """

    user: str
    """User name, case-insensitive at the server."""

    hashed: bytes = field(repr=False)
    """20 bytes of :func:`hash_password` for this very user name. A secret."""

    def __post_init__(self) -> None:
        _check_user(self.user)
        if len(self.hashed) != HASH_SIZE:
            raise ConfigError(
                f"the password hash of {self.user!r} has {len(self.hashed)} bytes: it must have 20"
            )

    @classmethod
    def of(cls, user: str, password: str) -> Password:
        """Return the credentials of *user* with that password."""
        return cls(user, hash_password(user, password))


@dataclass(frozen=True, slots=True)
class PlainPassword:
    """A login that shows the server the password, for RADIUS and the like.

    Only for a server whose certificate was verified.

    Raises:
        ConfigError: The user name or the password cannot be sent intact.
    """

    user: str
    """User name, case-insensitive at the server."""

    password: str = field(repr=False)
    """The password. A secret."""

    def __post_init__(self) -> None:
        _check_user(self.user)
        _check_plain(self.user, self.password)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A login by a certificate and a signature that only its owner can make.

    Raises:
        ConfigError: The user name or the certificate cannot be sent.
    """

    user: str
    """User name, case-insensitive at the server."""

    certificate: bytes = field(repr=False)
    """The certificate itself (DER), without those of its authorities."""

    sign: Callable[[bytes], bytes] = field(repr=False, compare=False)
    """Returns the RSA signature (PKCS #1 v1.5) of the digest that it is given, which it
    does not hash once more; see :func:`signed_digest`."""

    def __post_init__(self) -> None:
        _check_user(self.user)
        if not 1 <= len(self.certificate) <= MAX_CERTIFICATE_SIZE:
            raise ConfigError(
                f"the certificate of {self.user!r} has {len(self.certificate)} bytes: "
                f"the server takes {MAX_CERTIFICATE_SIZE}"
            )


@dataclass(frozen=True, slots=True)
class Ticket:
    """A login by what a cluster's controller gave for one of its members.

    Raises:
        ConfigError: The user name cannot be sent.
    """

    user: str
    """User name; the member takes the ticket's."""

    ticket: bytes = field(repr=False)
    """20 bytes that log in once, within 60 s. A secret."""

    def __post_init__(self) -> None:
        _check_user(self.user)


Credentials = Anonymous | Password | PlainPassword | Certificate | Ticket
"""One way to log in."""


def _check_user(user: str) -> None:
    if not _is_sendable(user) or user.strip(" \t") != user:
        raise ConfigError(
            f"the user name {user!r} cannot be sent: no blanks at its ends, no NUL, valid UTF-8"
        )
    if len(user.encode()) > MAX_USER_SIZE:
        raise ConfigError(
            f"the user name has {len(user.encode())} bytes: the server takes {MAX_USER_SIZE}"
        )


def _check_plain(user: str, password: str) -> None:
    # Readers cut a STR at a NUL and trim it, so the server would check another
    # password and answer "wrong"; better to say why before a lock-out counts.
    if not _is_sendable(password) or password.strip(" \t") != password:
        raise ConfigError(
            f"the password of {user!r} cannot be sent in plain: no blanks at its ends, no NUL, valid UTF-8; "
            "the hashed login (auth 'password') takes any"
        )
    if len(password.encode()) > MAX_PASSWORD_SIZE:
        raise ConfigError(
            f"the password of {user!r} is longer than {MAX_PASSWORD_SIZE} bytes"
        )


def _is_sendable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def hash_password(user: str, password: str) -> bytes:
    """Return the 20 bytes that the server stores for a password. A secret.

    Args:
        user: User name; only its ASCII letters are put into upper case.
        password: Any text, neither trimmed nor normalised. Bytes that came from
            the command line or a file and are no UTF-8 are hashed as they were.

    Raises:
        ConfigError: One of them is no text at all.
    """
    return sha0(_octets(password, "the password") + _octets(user, "the user").upper())


def _octets(text: str, what: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # From None: the exception holds the text.
        raise ConfigError(f"{what} is no valid text: use UTF-8") from None


def secure_password(hashed: bytes, challenge: bytes) -> bytes:
    """Return the 20 bytes that prove *hashed* to the sender of *challenge*.

    Args:
        hashed: What :func:`hash_password` returned.
        challenge: The 20 random bytes of this connection's Hello.

    Raises:
        LocalProtocolError: Either has another size.
    """
    if (len(hashed), len(challenge)) != (HASH_SIZE, CHALLENGE_SIZE):
        raise LocalProtocolError("a password hash and a challenge have 20 bytes each")
    return sha0(hashed + challenge)


def signed_digest(challenge: bytes) -> bytes:
    """Return what a certificate's key signs to prove itself: 35 bytes.

    Args:
        challenge: The 20 random bytes of this connection's Hello.

    Raises:
        LocalProtocolError: It has another size.
    """
    if len(challenge) != CHALLENGE_SIZE:
        raise LocalProtocolError("a challenge has 20 bytes")
    # Broken where somebody chooses two texts that collide; here nobody chooses any.
    digest = hashlib.sha1(challenge, usedforsecurity=False).digest()
    return _SHA1_DIGEST_INFO + digest


def sha0(data: bytes) -> bytes:
    """Return the SHA-0 digest of *data*, 20 bytes. About 0.1 ms per 64 bytes."""
    length = len(data)
    padded = data + b"\x80" + bytes(-(length + 9) % 64) + struct.pack(">Q", length * 8)
    state: tuple[int, ...] = _START
    for offset in range(0, len(padded), 64):
        state = _compress(state, struct.unpack_from(">16I", padded, offset))
    return struct.pack(">5I", *state)


def _rotated(word: int, by: int) -> int:
    return (word << by | word >> (32 - by)) & _MASK


def _compress(state: tuple[int, ...], block: tuple[int, ...]) -> tuple[int, ...]:
    words = list(block)
    for i in range(16, 80):
        # SHA-1 rotates this word by one bit; SHA-0 does not.
        words.append(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16])
    a, b, c, d, e = state
    for i, word in enumerate(words):
        if i < 20:
            mixed = (b & c | ~b & d) + 0x5A827999
        elif i < 40:
            mixed = (b ^ c ^ d) + 0x6ED9EBA1
        elif i < 60:
            mixed = (b & c | b & d | c & d) + 0x8F1BBCDC
        else:
            mixed = (b ^ c ^ d) + 0xCA62C1D6
        first = (_rotated(a, 5) + mixed + e + word) & _MASK
        a, b, c, d, e = first, a, _rotated(b, 30), c, d
    return tuple(
        (old + new) & _MASK for old, new in zip(state, (a, b, c, d, e), strict=True)
    )
