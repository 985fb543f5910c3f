# SPDX-License-Identifier: Apache-2.0
"""How the official client hides passwords in its files: RC4 with a key that all know.

Layer: config. Runs in: any thread.

It hides them from who looks over a shoulder and from nobody else: there is no salt,
and no check. The key is as long as a pointer of the machine that wrote the file, so
there are two. Their first bytes differ so that no password is a text by both.

Source: docs/reference/vpn-files.md#passwords; SoftEtherVPN Client.c (EncryptPassword).
"""

from __future__ import annotations

from typing import Final

from sevpn.config.secret import MAX_SECRET_SIZE, Secret
from sevpn.errors import ConfigError

__all__ = ["KEYS", "obscure", "rc4", "reveal"]

KEYS: Final = (b"EncryptP", b"Encr")
"""Of 64-bit and of 32-bit machines."""


def obscure(text: str) -> bytes:
    """Hide a password as a 64-bit machine does."""
    return rc4(KEYS[0], text.encode("utf-8"))


def reveal(data: bytes) -> Secret:
    """Return a hidden password.

    Raises:
        ConfigError: It is too long, or no text comes out. The text begins with a verb.
    """
    if len(data) > MAX_SECRET_SIZE:
        raise ConfigError(f"holds a password of more than {MAX_SECRET_SIZE} bytes")
    for key in KEYS:
        text = _printable(rc4(key, data))
        if text is not None:
            return Secret(text)
    raise ConfigError(
        "holds a password that no known key makes readable: export the account again"
    )


def _printable(data: bytes) -> str | None:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if all(letter >= " " and letter != "\x7f" for letter in text) else None


def rc4(key: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt; both are the same."""
    box = list(range(256))
    j = 0
    for i in range(256):
        j = (j + box[i] + key[i % len(key)]) % 256
        box[i], box[j] = box[j], box[i]
    i = j = 0
    out = bytearray()
    for octet in data:
        i = (i + 1) % 256
        j = (j + box[i]) % 256
        box[i], box[j] = box[j], box[i]
        out.append(octet ^ box[(box[i] + box[j]) % 256])
    return bytes(out)
