# SPDX-License-Identifier: Apache-2.0
"""Servers of long ago: only with `--legacy-tls`, and then really."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
import struct
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from integration.tls_peer import (
    INSECURE,
    drained,
    echo,
    listening,
    opened,
)
from sevpn.cli.exit import ExitCode, code_of
from sevpn.errors import TlsError
from sevpn.testing.certs import Authority, Issued
from sevpn.transport.stream import SecureStream


def old_server(
    issued: Issued, newest: ssl.TLSVersion
) -> Callable[[socket.socket], None]:
    """Return somebody who speaks no TLS newer than *newest*, with the keys of its day."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")  # before a short key is loaded
    context.load_cert_chain(issued.certificate, issued.key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = newest

    def talk(sock: socket.socket) -> None:
        with (
            suppress(ssl.SSLError),
            context.wrap_socket(sock, server_side=True) as tls,
        ):
            echo(tls)

    return talk


def reached(port: int, *, legacy_tls: bool) -> tuple[str, bytes]:
    """Return the version of TLS, and what comes back of a word."""

    async def run() -> SecureStream:
        return await opened(port, INSECURE, legacy_tls=legacy_tls)

    stream = asyncio.run(run())
    version = stream.tls_version
    stream.queue(b"hello")
    heard = drained(stream, 5)
    stream.close(polite=True)
    return version, heard


@pytest.mark.parametrize(
    ("newest", "shown"),
    [(ssl.TLSVersion.TLSv1, "TLSv1"), (ssl.TLSVersion.TLSv1_1, "TLSv1.1")],
)
def test_old_versions_are_spoken_by_wish_only(
    authority: Authority, newest: ssl.TLSVersion, shown: str
) -> None:
    leaf = authority.issue("old", addresses=["127.0.0.1"], is_rsa=True)
    with listening(old_server(leaf, newest)) as port:
        with pytest.raises(TlsError, match="--legacy-tls takes them") as caught:
            reached(port, legacy_tls=False)
        assert reached(port, legacy_tls=True) == (shown, b"hello")

    assert code_of(caught.value) is ExitCode.PEER


def test_short_keys_are_taken_by_wish(tmp_path: Path) -> None:
    # Without it the machine's own policy decides: some take 1024 bits, some do not.
    leaf = short_leaf(tmp_path)
    with listening(old_server(leaf, ssl.TLSVersion.TLSv1_2)) as port:
        assert reached(port, legacy_tls=True) == ("TLSv1.2", b"hello")


def test_without_the_wish_nothing_below_1_2_is_offered() -> None:
    assert min(offered(legacy_tls=False)) == 0x0303
    assert min(offered(legacy_tls=True)) == 0x0301


def test_the_wish_does_not_keep_new_versions_away(authority: Authority) -> None:
    leaf = authority.issue("new", addresses=["127.0.0.1"])
    with listening(old_server(leaf, ssl.TLSVersion.TLSv1_3)) as port:
        assert reached(port, legacy_tls=True)[0] == "TLSv1.3"


def offered(*, legacy_tls: bool) -> list[int]:
    """Return the versions that a ClientHello offers."""
    heard: list[bytes] = []
    with (
        listening(lambda sock: heard.append(sock.recv(65536))) as port,
        suppress(Exception),
    ):
        reached(port, legacy_tls=legacy_tls)
    (hello,) = heard
    at = 5 + 4 + 2 + 32  # record, message, version, random
    at += 1 + hello[at]
    at += 2 + struct.unpack_from("!H", hello, at)[0]
    at += 1 + hello[at] + 2
    while True:
        kind, size = struct.unpack_from("!HH", hello, at)
        if kind == 43:  # supported_versions (RFC 8446 section 4.2.1)
            return list(struct.unpack_from(f"!{hello[at + 4] // 2}H", hello, at + 5))
        at += 4 + size


def short_leaf(folder: Path) -> Issued:
    """Make a certificate with a key of 1024 bits."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - as servers of long ago
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "old")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=9))
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "old.crt", folder / "old.key"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return Issued(pem, secret)
