# SPDX-License-Identifier: Apache-2.0
"""One login, step by step, to find where it fails; the host stays as it is.

Layer: tunnel. Runs in: the `doctor` command, on an event loop of its own.

    name ── server ── hello ── login ── path ── lease ── gateway

There is no TAP: frames of our own (DHCP, ARP) are sent and read right here, so this
needs no rights. The lease is given back and the session closed at the end.

Source: docs/reference/doctor.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import secrets
import struct
import termios
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from ipaddress import IPv4Interface
from typing import Final

from sevpn.errors import (
    CertificateError,
    DialError,
    LeaseError,
    NotProvenError,
    ProxyError,
    RemoteProtocolError,
    ResolveError,
    SevpnError,
    SilenceError,
)
from sevpn.net.checkup import Finding, is_router
from sevpn.net.model import Found
from sevpn.net.wanted import Wanted, wanted_state
from sevpn.protocol.messages import Hello, SessionOptions
from sevpn.transport.stream import SecureStream, open_stream
from sevpn.tunnel.hints import explain_no_lease, explain_no_proof, policy_warnings
from sevpn.tunnel.inside import Inside, InsideListener
from sevpn.tunnel.opening import Address, OpenedSession, open_session
from sevpn.tunnel.supervisor import Job
from sevpn.wire.block import BlockReader, encode_batch, encode_keepalive

__all__ = ["examine"]

_LARGE: Final = 8
"""Keep-alives of 512 bytes in one go: more than two full segments."""

_PATH_S: Final = 4.0
"""How long they may take to be acknowledged: some retransmissions on a bad path."""

_LOOK_S: Final = 0.05
_GOODBYE_S: Final = 0.05

_CAUSES: Final = (
    ((ResolveError,), "name"),
    ((DialError, ProxyError), "server"),
    ((CertificateError,), "certificate"),
)


async def examine(job: Job, *, found: Found) -> AsyncGenerator[Finding | SevpnError]:
    """Go through a login; yield what each step finds, and the error that ends it.

    Args:
        job: What `up` would be told.
        found: The host, for what the lease would mean to it.
    """
    steps: list[Finding] = []
    began_at = time.monotonic()

    async def on_addresses(addresses: Sequence[Address]) -> None:
        listed = ", ".join(str(address) for address in addresses)
        steps.append(Finding("name", "ok", f"{job.destination.host} is {listed}"))

    def on_hello(stream: SecureStream, hello: Hello) -> None:
        steps.extend(_of_hello(stream, hello, time.monotonic() - began_at))

    try:
        session = await open_session(
            replace(job.destination, options=SessionOptions()),
            identify=job.identify,
            random=secrets.token_bytes,
            on_addresses=on_addresses,
            on_hello=on_hello,
        )
    except SevpnError as error:
        for finding in steps:
            yield finding
        yield Finding(_step_of(error, steps), "problem", str(error))
        if isinstance(error, SilenceError):
            # What a client says after TLS fills whole packets, unlike what came before.
            async for finding in _try_path(job):
                yield finding
        yield error
        return
    for finding in (*steps, *_of_login(job, session)):
        yield finding
    async with contextlib.aclosing(_look_inside(job, session, found)) as inside:
        async for item in inside:
            yield item


def _of_hello(stream: SecureStream, hello: Hello, took_s: float) -> list[Finding]:
    trust = {
        "ca": ("ok", "was verified by a CA"),
        "pin": ("ok", "is the pinned one"),
        "none": ("note", "was not verified at all (--insecure)"),
    }
    level, how = trust[stream.verified_by]
    return [
        Finding(
            "server",
            "ok",
            f"{stream.peer_address} took the connection: {stream.tls_version}, {stream.cipher}",
        ),
        Finding(
            "certificate",
            "ok" if level == "ok" else "note",
            f"the certificate {how}: sha256:{stream.certificate_sha256}",
            "" if level == "ok" else "pin it with --pin",
        ),
        Finding(
            "hello",
            "ok",
            f"{hello.product}, build {hello.build}, after {took_s * 1000:.0f} ms",
        ),
    ]


def _step_of(error: SevpnError, steps: Sequence[Finding]) -> str:
    """Return the step that an error of the login belongs to."""
    for kinds, step in _CAUSES:
        if isinstance(error, kinds):
            return step
    reached = {finding.check for finding in steps}
    if "hello" in reached:
        return "login"
    if isinstance(error, RemoteProtocolError):
        return "hello"
    return "server" if "name" in reached else "name"


def _of_login(job: Job, session: OpenedSession) -> list[Finding]:
    welcome = session.welcome
    findings = [
        Finding(
            "login", "ok", f"session {welcome.session_name} on hub {job.settings.hub}"
        )
    ]
    warnings = policy_warnings(
        welcome.policy,
        is_static=not job.settings.dhcp,
        hub=job.settings.hub,
        is_router=is_router(),
    )
    findings += [Finding("policy", "note", warning) for warning in warnings]
    return findings


# --- inside ------------------------------------------------------------------


async def _look_inside(
    job: Job, session: OpenedSession, found: Found
) -> AsyncGenerator[Finding | SevpnError]:
    talk = _Talk(job, session)
    async with talk.running():
        path = await _path(session.stream)
        yield path
        if path.level == "problem":
            return  # what follows would wait behind it
        try:
            if job.settings.dhcp:
                yield await _lease(job, session, talk.inside)
            wanted = wanted_state(
                job.settings,
                lease=talk.inside.lease,
                device="sevpn",
                found=found,
                servers=()
                if job.settings.netns is not None
                else (session.stream.peer_address,),
            )
            for warning in wanted.warnings:
                yield Finding("wishes", "note", warning)
            yield await _gateway(session, talk.inside, wanted)
        except SevpnError as error:
            step = "lease" if isinstance(error, LeaseError) else "gateway"
            yield Finding(step, "problem", str(error))
            yield error


async def _try_path(job: Job) -> AsyncGenerator[Finding]:
    """Look whether large packets arrive, on a connection of its own."""

    async def need_no_routes(_: Sequence[Address]) -> None:
        """None is set here."""

    destination = job.destination
    try:
        stream = await open_stream(
            destination.host,
            destination.port,
            trust=destination.trust,
            timeout_s=destination.hello_s,
            on_addresses=need_no_routes,
            dialing=destination.dialing,
        )
    except SevpnError:
        return  # not even a connection: that is what was found already
    try:
        yield await _path(stream)
    finally:
        stream.close(polite=False)


async def _path(stream: SecureStream) -> Finding:
    """Send more than full segments, and see whether they arrive."""
    await stream.send(b"".join(encode_keepalive(bytes(512)) for _ in range(_LARGE)))
    left = 0
    for _ in range(round(_PATH_S / _LOOK_S)):
        left = _unacknowledged(stream.fileno())
        if not left:
            break
        await asyncio.sleep(_LOOK_S)
    if not left:
        return Finding("path", "ok", "full packets arrive at the server")
    return Finding(
        "path",
        "problem",
        f"of full packets, {left} bytes have not arrived within {_PATH_S:.0f} s, while small ones have: "
        "something on the way drops large packets and does not say so",
        "lower the MTU of the uplink (ip link set DEVICE mtu 1400), or let the firewall pass ICMP "
        "'fragmentation needed' and 'packet too big'",
    )


def _unacknowledged(fd: int) -> int:
    (size,) = struct.unpack("=i", fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)))
    return int(size)


async def _lease(job: Job, session: OpenedSession, inside: Inside) -> Finding:
    began_at = time.monotonic()
    inside.begin_lease(hostname=job.settings.hostname, remembered=None)
    try:
        lease = await inside.obtain_lease()
    except LeaseError as error:
        raise explain_no_lease(
            error, hub=job.settings.hub, policy=session.welcome.policy
        ) from error
    servers = ", ".join(str(server) for server in lease.dns) or "none"
    return Finding(
        "lease",
        "ok",
        f"{lease.address} from {lease.server} after {time.monotonic() - began_at:.1f} s; "
        f"router {lease.router or 'none'}, name servers {servers}",
    )


async def _gateway(session: OpenedSession, inside: Inside, wanted: Wanted) -> Finding:
    try:
        proven = await inside.prove(
            wanted.address or IPv4Interface("0.0.0.0/32"),
            gateway=wanted.gateway,
            server=inside.lease.server if inside.lease else None,
        )
    except NotProvenError as error:
        explained = explain_no_proof(
            error, gateway=wanted.gateway, policy=session.welcome.policy
        )
        if wanted.carries_foreign_traffic:
            raise explained from error
        return Finding("gateway", "note", str(explained))
    if proven.by == "gateway" and proven.rtt_s is not None:
        return Finding(
            "gateway",
            "ok",
            f"{wanted.gateway} answers after {proven.rtt_s * 1000:.1f} ms",
        )
    return Finding("gateway", "ok", f"traffic comes back ({proven.by})")


class _Talk:
    """Frames of our own on the session's connection, without a TAP."""

    def __init__(self, job: Job, session: OpenedSession) -> None:
        self._session = session
        self._outgoing: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self.inside = Inside(
            mac=job.mac,
            inject=lambda frames: self._outgoing.put_nowait(list(frames)),
            clock=_clock,
            random=secrets.token_bytes,
            listener=InsideListener(
                lease_changed=_ignore, lease_lost=_ignore, heard=lambda: None
            ),
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Read and send until the block ends; then give the lease back and close."""
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._send())]
        try:
            yield
        finally:
            if self.inside.release():
                await asyncio.sleep(_GOODBYE_S)
            self.inside.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._session.stream.close(polite=True)

    async def _read(self) -> None:
        reader = BlockReader()
        data = self._session.leftover
        while True:
            frames = reader.feed(data)
            if frames:
                self.inside.receive_frames(frames)
            data = await self._session.stream.receive()
            if not data:
                return

    async def _send(self) -> None:
        while True:
            await self._session.stream.send(encode_batch(await self._outgoing.get()))


def _clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _ignore(_: object) -> None:
    """Of a session that lives for seconds, no change is news."""
