# SPDX-License-Identifier: Apache-2.0
"""Datagrams of UDP acceleration: one frame each, sealed, beside the connections of a session.

Layer: wire; pure. Runs in: any thread.

Every integer is unsigned and big-endian:

    inner     := cookie(4) tick(8) echo(8) size(2) deflated(1) frame(size) padding
    version 2 := IV(12) ChaCha20-Poly1305(key, IV, inner), whose last 16 bytes are its tag
    version 1 := IV(20) RC4(SHA-1(key, IV), inner and 20 zero bytes)

A size of 0 is a keep-alive. The cookie is the receiver's; the tick is the sender's
clock in milliseconds and the echo the greatest tick that it has received, 0 for
none. Each direction has a key of its own. An IV serves once per key.

Version 1 proves nothing: whoever is between may flip bits of the frame unseen.

Source: docs/reference/protocol-data.md#udp; SoftEtherVPN, Cedar/UdpAccel.c,
UdpAccelSendBlock() and UdpAccelProcessRecvPacket().
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

from sevpn.errors import LocalProtocolError, RemoteProtocolError
from sevpn.wire.block import MAX_FRAME_SIZE

__all__ = [
    "INNER_SIZE",
    "MAX_DATAGRAM_SIZE",
    "Inner",
    "Rc4",
    "Seal",
    "SealV1",
    "SealV2",
    "decode_inner",
    "encode_head",
    "encode_inner",
    "rc4_of_library",
    "seal_of",
]

INNER_SIZE: Final = 23
"""Bytes of an inner packet before its frame."""

MAX_DATAGRAM_SIZE: Final = 2048
"""Bytes of the largest datagram that a receiver has room for."""

MAX_PADDING: Final = 31
"""Bytes of padding that official senders add at most; a receiver takes any number."""

_HEADER: Final = struct.Struct(">IQQH?")
_HEAD: Final = struct.Struct(">IQQ")
_CHECK: Final = bytes(20)
_KEY_V1_SIZE: Final = 20
_KEY_V2_SIZE: Final = 128
_USED_KEY_SIZE: Final = 32
_TAG_SIZE: Final = 16


class Inner(NamedTuple):
    """What a datagram says; a tuple, for there are thousands a second."""

    cookie: int
    """The receiver's cookie, which shows that the datagram is for its session."""

    tick: int
    """The sender's clock in milliseconds; never 0 when an honest peer sends it."""

    echo: int
    """The greatest tick that the sender has received; 0 for none."""

    frame: bytes = b""
    """One Ethernet frame, perhaps deflated; empty in a keep-alive."""

    is_deflated: bool = False
    """Whether the frame is a zlib stream."""


def encode_inner(inner: Inner, *, padding: int = 0) -> bytes:
    """Return the bytes of an inner packet.

    Args:
        inner: Numbers that do not fit are a bug of the caller: struct.error.
        padding: Zero bytes at its end.
    """
    header = _HEADER.pack(
        inner.cookie, inner.tick, inner.echo, len(inner.frame), inner.is_deflated
    )
    return header + inner.frame + bytes(padding)


def encode_head(cookie: int, tick: int, echo: int) -> bytes:
    """Return what an inner packet begins with: all of it before the size.

    It is the same for all that leave at one moment.
    """
    return _HEAD.pack(cookie, tick, echo)


def decode_inner(data: bytes) -> Inner:
    """Return what an inner packet says.

    Raises:
        RemoteProtocolError: It ends too early, or what it holds is no frame: more
            than 1600 bytes.
    """
    room = len(data) - INNER_SIZE
    if room < 0:
        raise RemoteProtocolError(
            f"a datagram holds {len(data)} bytes: its header alone has {INNER_SIZE}"
        )
    cookie, tick, echo, size, is_deflated = _HEADER.unpack_from(data)
    if size > room or size > MAX_FRAME_SIZE:
        raise RemoteProtocolError(
            f"a datagram announces a frame of {size} bytes and holds {room}: at most {MAX_FRAME_SIZE} are allowed"
        )
    frame = data[INNER_SIZE : INNER_SIZE + size]
    return Inner(cookie, tick, echo, frame, is_deflated)


Rc4: TypeAlias = Callable[[Sequence[bytes], Sequence[bytes]], list[bytes]]
"""Encrypts or decrypts, which is the same: keys, and as many texts."""


class Seal(Protocol):
    """One direction's cipher, for many datagrams at once: there are thousands a second."""

    iv_size: int
    """Bytes of an IV, which stands at the beginning of each datagram."""

    overhead: int
    """Bytes that a datagram has beyond its inner packet."""

    def seal_all(self, inners: Sequence[bytes], ivs: Sequence[bytes], /) -> list[bytes]:
        """Return the datagrams of inner packets.

        Args:
            inners: From :func:`encode_inner`, or of its form.
            ivs: As many; each has :attr:`iv_size` bytes, never used before with this key.
        """
        ...

    def open_all(self, datagrams: Sequence[bytes], /) -> list[bytes | None]:
        """Return the inner packet in each datagram, padding included.

        `None` stands for one that is too short, of another session, or changed on its way.
        """
        ...


class SealV2:
    """Version 2's :class:`Seal`.

    Args:
        key: 128 bytes, of which the cipher takes the first 32.

    Raises:
        LocalProtocolError: The key has another size.
    """

    iv_size = 12
    overhead = 12 + _TAG_SIZE

    def __init__(self, key: bytes) -> None:
        # Costs memory that a session without UDP does not need.
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305  # noqa: PLC0415

        _check_key(key, _KEY_V2_SIZE)
        self._cipher = ChaCha20Poly1305(key[:_USED_KEY_SIZE])
        self._invalid = InvalidTag

    def __repr__(self) -> str:
        return "SealV2(***)"

    def seal_all(self, inners: Sequence[bytes], ivs: Sequence[bytes], /) -> list[bytes]:
        """Return the datagrams of inner packets."""
        encrypt = self._cipher.encrypt
        return [
            iv + encrypt(iv, inner, None) for iv, inner in zip(ivs, inners, strict=True)
        ]

    def open_all(self, datagrams: Sequence[bytes], /) -> list[bytes | None]:
        """Return the inner packet in each datagram, padding included."""
        decrypt, invalid = self._cipher.decrypt, self._invalid
        opened: list[bytes | None] = []
        for datagram in datagrams:
            try:
                opened.append(
                    decrypt(datagram[:12], datagram[12:], None)
                    if len(datagram) >= self.overhead
                    else None
                )
            except invalid:
                opened.append(None)
        return opened


class SealV1:
    """Version 1's :class:`Seal`.

    Args:
        key: 20 bytes.
        rc4: The cipher; if omitted, the library's.

    Raises:
        LocalProtocolError: The key has another size, or the library has no RC4.
    """

    iv_size = 20
    overhead = 20 + len(_CHECK)

    def __init__(self, key: bytes, rc4: Rc4 | None = None) -> None:
        _check_key(key, _KEY_V1_SIZE)
        self._key = key
        rc4 = rc4 or rc4_of_library()
        if rc4 is None:
            raise LocalProtocolError("the library has no RC4")
        self._rc4 = rc4

    def __repr__(self) -> str:
        return "SealV1(***)"

    def seal_all(self, inners: Sequence[bytes], ivs: Sequence[bytes], /) -> list[bytes]:
        """Return the datagrams of inner packets."""
        texts = self._apply(ivs, [inner + _CHECK for inner in inners])
        return [iv + text for iv, text in zip(ivs, texts, strict=True)]

    def open_all(self, datagrams: Sequence[bytes], /) -> list[bytes | None]:
        """Return the inner packet in each datagram, padding included."""
        # What is too short to hold its check has none.
        texts = self._apply(
            [datagram[:20] for datagram in datagrams],
            [datagram[20:] for datagram in datagrams],
        )
        return [text[:-20] if text[-20:] == _CHECK else None for text in texts]

    def _apply(self, ivs: Sequence[bytes], texts: Sequence[bytes]) -> list[bytes]:
        """Encrypt or decrypt, which is the same."""
        # Not used for its collisions: it mixes a secret with a number.
        keys = [
            hashlib.sha1(self._key + iv, usedforsecurity=False).digest() for iv in ivs
        ]
        return self._rc4(keys, texts)


def rc4_of_library() -> Rc4 | None:
    """Return the library's RC4; `None` where its OpenSSL came without the old ciphers."""
    # As for version 2. RC4 is what the protocol has; --udp-v1 has to ask for it.
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.decrepit.ciphers.algorithms import ARC4  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers import Cipher  # noqa: PLC0415

    def apply(keys: Sequence[bytes], texts: Sequence[bytes]) -> list[bytes]:
        return [
            Cipher(ARC4(key), None).encryptor().update(text)
            for key, text in zip(keys, texts, strict=True)
        ]

    try:
        apply([bytes(20)], [b""])
    except UnsupportedAlgorithm:
        return None
    return apply


def seal_of(version: int, key: bytes, rc4: Rc4 | None = None) -> Seal:
    """Return the cipher of one direction.

    Args:
        version: 1 or 2.
        key: 20 bytes for version 1, 128 for version 2.
        rc4: As of :class:`SealV1`.

    Raises:
        LocalProtocolError: The key has another size.
    """
    return SealV1(key, rc4) if version == 1 else SealV2(key)


def _check_key(key: bytes, size: int) -> None:
    if len(key) != size:
        raise LocalProtocolError(f"a key has {len(key)} bytes instead of {size}")
