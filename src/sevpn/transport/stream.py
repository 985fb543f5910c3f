# SPDX-License-Identifier: Apache-2.0
"""A byte stream to a server whose certificate we trust.

Layer: transport. Runs in: first the control thread, on the event loop (`send`,
`receive`), then the data thread (`read_into`, `queue`, `flush`). Never in
both: whoever hands it over does not touch it again.

    open_stream   look up ──> on_addresses ──> dial ──> TLS, trust ──> SecureStream
                                                  └─> proxy ─┘

TLS runs in memory, beside the socket, and not inside it: so that one object serves
an event loop and a loop of our own, and what waits can be counted. A batch of frames
is one system call, where a TLS socket makes one for each 16 KiB; over loopback the
two need the same time per byte all the same (bench/bench_stream.py).

    queue(data) ──TLS──> _outgoing ──> _sending ──socket.send──> kernel
    read_into() <──TLS── _incoming <───────────────socket.recv── kernel

Compiled where there is a compiler: stream.pxd gives the C types of what the data
thread calls (docs/decisions/0019-compiled-turn.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import math
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from sevpn.errors import (
    ConfigError,
    ConnectionLostError,
    Failure,
    SevpnError,
    SilenceError,
)
from sevpn.transport.dial import dial
from sevpn.transport.dialing import DIRECTLY, Dialing
from sevpn.transport.proxy import ask_proxy
from sevpn.transport.resolve import Address, resolve
from sevpn.transport.tls import (
    TrustPolicy,
    VerifiedBy,
    certificate_refused,
    check_pin,
    client_context,
    explain_tls_error,
    fingerprint,
)

__all__ = ["SecureStream", "open_stream"]

_READ_SIZE: Final = 256 * 1024
"""Bytes read from the socket at once; what TLS holds back is at most this much."""

_SEND_SIZE: Final = 512 * 1024
"""Bytes handed to the socket at once."""

_FILLS: Final = 16
"""Reads of the socket in one go, so that a peer that floods us cannot hold the thread."""

_INSPECTION_S: Final = 5.0
"""How long a second look at a refused certificate may take."""


class SecureStream:
    """A TLS connection; see :func:`open_stream`.

    Not thread-safe: one owner at a time.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_name: str | None,
        verified_by: VerifiedBy,
    ) -> None:
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=server_name
        )
        self._sending = memoryview(b"")
        self._arrived = memoryview(bytearray(_READ_SIZE))
        self._has_ended = False
        self._ending = ""
        self._is_drained = False
        self.pending_bytes = 0
        """Bytes that were queued, encrypted, and are not in the kernel yet."""
        self.verified_by: VerifiedBy = verified_by
        """Why the certificate was accepted."""
        self.peer_address = _address_of(sock.getpeername()[0])
        """Whom the socket is connected to: the server, or a proxy."""
        self.local_address = _address_of(sock.getsockname()[0])
        """This host's end."""

    # --- facts ---

    @property
    def certificate(self) -> bytes:
        """DER of the leaf certificate that the server presented."""
        return self._tls.getpeercert(binary_form=True) or b""

    @property
    def certificate_sha256(self) -> str:
        """SHA-256 of :attr:`certificate` in hex."""
        return fingerprint(self.certificate)

    @property
    def tls_version(self) -> str:
        """`TLSv1.3` or `TLSv1.2`."""
        return self._tls.version() or ""

    @property
    def cipher(self) -> str:
        """OpenSSL's name of the cipher suite."""
        found = self._tls.cipher()
        return found[0] if found is not None else ""

    # --- on an event loop ---

    async def handshake(self) -> None:
        """Set up TLS.

        Raises:
            ssl.SSLError: As OpenSSL says.
            ConnectionLostError: The peer closed the connection.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._send_outgoing(loop)
                if not await self._receive_incoming(loop):
                    raise ConnectionLostError(
                        "closed during TLS set-up", failure=Failure.PEER
                    ) from None
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    await self._send_outgoing(loop)  # the alert that says why
                raise
            else:
                await self._send_outgoing(loop)
                return

    async def send(self, data: bytes) -> None:
        """Send all of *data*; a peer that has gone is noticed by :meth:`receive`."""
        with contextlib.suppress(OSError):  # that of TLS is one of them
            self._tls.write(data)
            await self._send_outgoing(asyncio.get_running_loop())

    async def receive(self) -> bytes:
        """Return the next bytes, at most 64 KiB; none at all once the stream has ended."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                return self._tls.read(65536)
            except ssl.SSLWantReadError:
                with contextlib.suppress(OSError):  # the reading shows it, too
                    await self._send_outgoing(loop)
                if not await self._receive_incoming(loop):
                    return b""
            except ssl.SSLError:
                return b""

    async def _send_outgoing(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._outgoing.pending:
            await loop.sock_sendall(self._sock, self._outgoing.read())

    async def _receive_incoming(self, loop: asyncio.AbstractEventLoop) -> bool:
        try:
            data = await loop.sock_recv(self._sock, _READ_SIZE)
        except OSError:
            data = b""
        self._incoming.write(data)
        return bool(data)

    # --- in the data thread ---

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._sock.fileno()

    def read_into(self, room: memoryview) -> int:
        """Write what is here into *room*, and return how many bytes that were.

        0 means: nothing until the descriptor becomes readable again.

        Raises:
            ConnectionLostError: The stream has ended, with or without a
                close_notify, or broke; nothing is left to read.
        """
        got = 0
        fills = _FILLS
        wanted = len(room)
        self._is_drained = False
        while got < wanted:
            # Asked for what it has not, TLS answers with an exception, which is a good
            # part of what a single frame costs.
            size = self._decrypt_into(room[got:]) if self._may_decrypt() else -1
            if size < 0:
                # Records may be without data; what stays in the socket keeps it readable.
                fills -= 1
                is_over = self._has_ended or self._is_drained or fills < 0
                if is_over or not self._fill():
                    break
                continue
            if not size:
                break
            got += size
        if not got and self._has_ended:
            raise ConnectionLostError(f"the connection ended: {self._ending}")
        return got

    def _may_decrypt(self) -> bool:
        """Whether TLS may have something ready."""
        return bool(self._incoming.pending or self._tls.pending())

    def _decrypt_into(self, room: memoryview) -> int:
        """Write what TLS has ready into *room*; 0 is the end, and -1: it needs more bytes."""
        try:
            # With a buffer it returns a size, whatever its stub says.
            size = int(self._tls.read(len(room), room))
        except ssl.SSLWantReadError:
            return -1
        except ssl.SSLError as error:
            self._end(error.reason or "TLS error")
            return 0
        if not size:
            self._end("closed by the server")
        return size

    def _fill(self) -> bool:
        """Take from the socket what is there; return whether it was anything."""
        try:
            size = self._sock.recv_into(self._arrived)
        except BlockingIOError:
            return False
        except OSError as error:
            self._end(error.strerror or str(error))
            return False
        if not size:
            self._end("closed by the server")
            return False
        self._incoming.write(self._arrived[:size])
        # A second look at an empty socket is a system call for each frame of an idle flow.
        self._is_drained = size < len(self._arrived)
        return True

    def _end(self, how: str) -> None:
        self._has_ended = True
        self._ending = how

    def queue(self, data: bytes | memoryview) -> None:
        """Encrypt *data*; :meth:`flush` sends it.

        Raises:
            ConnectionLostError: TLS broke earlier.
        """
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise ConnectionLostError(
                f"the connection broke: {error.reason or 'TLS error'}"
            ) from error
        self.pending_bytes = len(self._sending) + self._outgoing.pending

    def flush(self) -> bool:
        """Send what the kernel takes now, and return whether that was all.

        Raises:
            ConnectionLostError: The stream broke.
        """
        while self._sending or self._outgoing.pending:
            if not self._sending:
                self._sending = memoryview(self._outgoing.read(_SEND_SIZE))
            try:
                sent = self._sock.send(self._sending)
            except BlockingIOError:
                self.pending_bytes = len(self._sending) + self._outgoing.pending
                return False
            except OSError as error:
                reason = error.strerror or str(error)
                raise ConnectionLostError(f"the connection broke: {reason}") from error
            self._sending = self._sending[sent:]
        self.pending_bytes = 0
        return True

    def close(self, polite: bool) -> None:  # noqa: FBT001 - the one thing to say about closing
        """Close; never raises. *polite*: tell the peer first (close_notify)."""
        if polite and self._sock.fileno() >= 0:
            with contextlib.suppress(ssl.SSLError, OSError, SevpnError, ValueError):
                self._say_goodbye()
        with contextlib.suppress(OSError):
            self._sock.close()

    def _say_goodbye(self) -> None:
        # The close_notify is in `_outgoing` whatever OpenSSL then says: that it waits
        # for the peer's, or that data came which nobody has read.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self.flush()
        self._sock.shutdown(socket.SHUT_WR)
        # What came and was not read would turn the close into a reset, which may
        # overtake our last words.
        for _ in range(_FILLS):
            if self._has_ended or not self._fill():
                break
            self._incoming.read()


async def open_stream(
    host: str,
    port: int,
    *,
    trust: TrustPolicy,
    timeout_s: float,
    on_addresses: Callable[[Sequence[Address]], Awaitable[None]],
    dialing: Dialing = DIRECTLY,
) -> SecureStream:
    """Open a trusted stream to *host*.

    Args:
        host: Name or address.
        port: TCP port.
        trust: Which certificate is accepted.
        timeout_s: Seconds for all of it.
        on_addresses: Awaited between look-up and dialling, with all addresses
            that may be dialled: the proxy's, if there is one.
        dialing: How its socket comes to be.

    Raises:
        ResolveError: The name has no address.
        DialError: No address accepts a connection.
        ProxyError: The proxy does not connect us.
        CertificateError: The certificate is not trusted.
        TlsError: TLS cannot be set up for another reason.
        SilenceError: It took longer than *timeout_s*; says at which stage.
        ConnectionLostError: The peer closed the connection; kind `PEER`.
        ConfigError: The CA file, the server name or the proxy cannot be used.
    """
    context = client_context(trust, is_legacy=dialing.legacy_tls)
    give_up_at = asyncio.get_running_loop().time() + timeout_s
    opening = _Opening(host, port, trust, context, dialing)
    opening.give_up_at = give_up_at
    try:
        async with asyncio.timeout(timeout_s):
            addresses = await opening.look_up()
            await on_addresses(addresses)
            return await opening.connect(addresses)
    except TimeoutError:
        raise SilenceError(
            f"{opening.stage} within {timeout_s:.0f} s: check server, port, and the firewalls between"
        ) from None


class _Opening:
    """What the steps of :func:`open_stream` share."""

    def __init__(
        self,
        host: str,
        port: int,
        trust: TrustPolicy,
        context: ssl.SSLContext,
        dialing: Dialing,
    ) -> None:
        self.give_up_at = math.inf  # on the event loop's clock
        self._host = host
        self._port = port
        self._trust = trust
        self._context = context
        self._dialing = dialing
        self._name = trust.server_name or host
        self.stage = ""

    async def look_up(self) -> list[Address]:
        """Return the addresses to dial, in order."""
        proxy = self._dialing.proxy
        host = self._host if proxy is None else proxy.host
        self.stage = f"the name servers did not answer for {host}"
        return await resolve(
            host, family=self._dialing.family, look_up=self._dialing.resolve
        )

    async def _dial(
        self, addresses: Sequence[Address]
    ) -> tuple[socket.socket, Address]:
        """Return a socket that leads to the server, and the address it is connected to."""
        proxy, prepare = self._dialing.proxy, self._dialing.prepare
        if proxy is None:
            self.stage = f"{self._host} port {self._port} did not answer"
            return await dial(addresses, self._port, host=self._host, prepare=prepare)
        self.stage = f"the proxy {proxy} did not answer"
        sock, address = await dial(
            addresses, proxy.port, host=f"the proxy {proxy.host}", prepare=prepare
        )
        with contextlib.ExitStack() as undo:
            undo.callback(sock.close)
            self.stage = f"the proxy {proxy} accepted the connection and did not connect to {self._host} port {self._port}"
            await ask_proxy(sock, proxy, self._host, self._port)
            undo.pop_all()
        return sock, address

    async def connect(self, addresses: Sequence[Address]) -> SecureStream:
        sock, address = await self._dial(addresses)
        self.stage = (
            f"{self._host} port {self._port} accepted the connection and set up no TLS"
        )
        try:
            stream = self._wrap(sock, self._context)
        except OSError as error:  # it has gone already
            raise self._explain(error) from error
        with contextlib.ExitStack() as undo:
            undo.callback(stream.close, polite=False)
            try:
                await stream.handshake()
            except ssl.SSLCertVerificationError as error:
                stream.close(polite=False)  # one connection at a time
                raise await self._refusal(error, address) from error
            except (ssl.SSLError, ConnectionLostError, OSError) as error:
                raise self._explain(error) from error
            check_pin(self._trust, host=self._host, sha256=stream.certificate_sha256)
            undo.pop_all()
        return stream

    def _wrap(self, sock: socket.socket, context: ssl.SSLContext) -> SecureStream:
        try:
            return SecureStream(
                sock,
                context,
                server_name=self._server_name(),
                verified_by=self._trust.verified_by,
            )
        except (ValueError, TypeError) as error:
            sock.close()
            raise ConfigError(
                f"{self._name!r} is no name that a certificate can bear: check the host, or --server-name"
            ) from error
        except BaseException:
            sock.close()
            raise

    def _server_name(self) -> str:
        """Return the name to verify and to send; OpenSSL sends none that is an address."""
        # A name may end in a dot where it is looked up, and nowhere else (RFC 6066 section 3).
        return self._name.partition("%")[0].removesuffix(".")

    def _explain(self, error: Exception) -> SevpnError:
        if isinstance(error, ssl.SSLError):
            return explain_tls_error(error, host=self._host, port=self._port)
        return ConnectionLostError(
            f"{self._host} port {self._port} closed the connection during TLS set-up: it may be no SoftEther server, "
            "or block this address for too many attempts; check the port, or wait a minute",
            failure=Failure.PEER,
        )

    async def _refusal(
        self, error: ssl.SSLCertVerificationError, address: Address
    ) -> SevpnError:
        """Look at the refused certificate again, for its fingerprint."""
        # Ends before the deadline of everything, which would hide the refusal.
        left_s = self.give_up_at - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(min(_INSPECTION_S, left_s * 0.9)):
                certificate = await self._presented(address)
        except (TimeoutError, OSError, SevpnError):
            certificate = b""
        return certificate_refused(
            error, name=self._name, certificate=certificate, now=dt.datetime.now(dt.UTC)
        )

    async def _presented(self, address: Address) -> bytes:
        sock, _ = await self._dial([address])
        context = client_context(
            TrustPolicy(insecure=True), is_legacy=self._dialing.legacy_tls
        )
        stream = self._wrap(sock, context)
        try:
            await stream.handshake()
            return stream.certificate
        finally:
            stream.close(polite=False)


def _address_of(text: str) -> Address:
    return ipaddress.ip_address(text)
