# SPDX-License-Identifier: Apache-2.0
"""The HTTP messages around the signature and the Packs, for both sides.

Layer: protocol; pure. Runs in: any thread.

    POST /vpnsvc/connect.cgi   the signature: ten bytes, or an old picture
    POST /vpnsvc/vpn.cgi       a Pack; the answer is a Pack too, always with 200

Every Pack gets a last element `pencore` of 0 to 999 random bytes, which nobody
reads: it hides the message's length.

Source: docs/reference/protocol.md#signature and #padding; SoftEtherVPN,
Cedar/Protocol.c, ServerDownloadSignature(); Mayaqua/Network.c, CreateDummyValue().
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from sevpn.wire.http import (
    PACK_TYPE,
    Headers,
    Request,
    Response,
    encode_request,
    encode_response,
)
from sevpn.wire.pack import Pack, data, encode_pack

__all__ = [
    "MAX_REQUEST_BODY",
    "PACK_TARGET",
    "SIGNATURE",
    "SIGNATURE_TARGET",
    "is_signature",
    "is_signature_size",
    "pack_request",
    "pack_response",
    "padded",
    "signature_request",
]

SIGNATURE: Final = b"VPNCONNECT"
"""What tells an HTTPS server that a SoftEther client is talking."""

SIGNATURE_TARGET: Final = "/vpnsvc/connect.cgi"
"""Where the signature is posted."""

PACK_TARGET: Final = "/vpnsvc/vpn.cgi"
"""Where Packs are posted."""

MAX_REQUEST_BODY: Final = 65536
"""Bytes of the largest request body that servers take."""

_PICTURE_SIZE: Final = 1411
_PICTURE_FILLER: Final = 2000
_PICTURE_SHA256: Final = (
    "96a706bbab378ec37dfef21e02b1a3c177fbebeffa039eb0efac918630df12a0"
)
_PADDING_SIZES: Final = 1000


def is_signature_size(size: int) -> bool:
    """Tell whether a body of *size* bytes may be a signature; servers drop others."""
    return size == len(SIGNATURE) or 0 <= size - _PICTURE_SIZE <= _PICTURE_FILLER


def is_signature(body: bytes) -> bool:
    """Tell whether *body* is a signature: the ten bytes, or the picture and filler."""
    if body == SIGNATURE:
        return True
    picture = hashlib.sha256(body[:_PICTURE_SIZE]).hexdigest()
    return is_signature_size(len(body)) and picture == _PICTURE_SHA256


def signature_request(*, host: str) -> bytes:
    """Return the request that opens a handshake.

    Args:
        host: The server's address as text, for the Host header.
    """
    headers = (
        ("Connection", "Keep-Alive"),
        ("Content-Type", "image/jpeg"),
        ("Host", host),
    )
    return encode_request(Request("POST", SIGNATURE_TARGET, headers, SIGNATURE))


def padded(pack: Pack, random: Callable[[int], bytes]) -> Pack:
    """Return *pack* with padding behind it.

    Args:
        pack: Any, without padding yet.
        random: Returns so many random bytes.
    """
    size = int.from_bytes(random(2), "big") % _PADDING_SIZES
    return pack.with_elements(data("pencore", random(size)))


def pack_request(
    pack: Pack, *, host: str, random: Callable[[int], bytes], date: str
) -> bytes:
    """Return the request that carries *pack*, padded.

    Args:
        pack: Any, without padding yet.
        host: The server's address as text, for the Host header.
        random: Returns so many random bytes.
        date: Now, as `Tue, 03 Mar 2026 12:00:00 GMT`.
    """
    headers = (*_pack_headers(date), ("Host", host))
    body = encode_pack(padded(pack, random))
    return encode_request(Request("POST", PACK_TARGET, headers, body))


def pack_response(pack: Pack, *, random: Callable[[int], bytes], date: str) -> bytes:
    """Return the answer that carries *pack*, padded; arguments as :func:`pack_request`."""
    body = encode_pack(padded(pack, random))
    return encode_response(Response(200, "OK", _pack_headers(date), body))


def _pack_headers(date: str) -> Headers:
    return (
        ("Connection", "Keep-Alive"),
        ("Content-Type", PACK_TYPE),
        ("Date", date),
        # Decoration of the official programs; nobody evaluates it.
        ("Keep-Alive", "timeout=15; max=19"),
    )
