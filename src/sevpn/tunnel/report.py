# SPDX-License-Identifier: Apache-2.0
"""What a tunnel says of itself: the status document, the events, the log.

Layer: tunnel. Runs in: the control thread.

The :class:`Reporter` remembers what the parts have told it; it decides nothing.
An event is a dictionary with stable keys (docs/reference/status.md#events):
`at`, `event`, `state`, `text` (one line for people) and `facts`.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, Literal

from sevpn.config.profile import Settings
from sevpn.dataplane.udpflow import UdpFlow
from sevpn.errors import SevpnError
from sevpn.log import get_logger
from sevpn.metrics import snapshot as document
from sevpn.metrics.counters import Counters
from sevpn.net.host import HostReport
from sevpn.net.model import DEFAULT_V6
from sevpn.net.tap import Tap
from sevpn.net.wanted import DEFAULT_MTU, Wanted
from sevpn.protocol.dhcp import Lease
from sevpn.protocol.joining import Direction
from sevpn.protocol.messages import Hello, Welcome
from sevpn.protocol.neighbour import Proven
from sevpn.transport.stream import SecureStream
from sevpn.tunnel import machine as m
from sevpn.tunnel.opening import OpenedSession
from sevpn.wire.ethernet import MacAddress

__all__ = ["Event", "Listener", "Parts", "Reporter", "state_name"]

log = get_logger("sevpn.tunnel")

Event = dict[str, Any]
Listener = Callable[[Event], None]

_MAX_WARNINGS: Final = 32

_AND_IT_TOO: Final = ", and the password is shown to whoever it is"

_BY: Final = {
    "gateway": "the gateway answers",
    "dhcp-server": "the DHCP server answers",
    "hub-poll": "the hub asks for us",
    "unicast": "traffic arrives",
}


_WAYS: Final = {
    Direction.BOTH: "",
    Direction.TO_CLIENT: "to this host",
    Direction.TO_SERVER: "to the server",
}


@dataclass(frozen=True, slots=True)
class Parts:
    """What the supervisor holds at the moment of a snapshot."""

    session: OpenedSession | None
    """The session, while there is one."""

    tap: Tap | None
    """The TAP, once open."""

    mac: MacAddress
    """Its address."""

    kernel: Literal["compiled", "python"]
    """Which form of the frame path is in use."""

    wanted: Wanted | None
    """What the host was brought to, while it is."""

    lease: Lease | None
    """The lease of this session."""

    latency_s: float | None
    """The gateway's last round trip."""

    counters: Counters | None
    """Totals."""

    host: HostReport
    """What is changed on the host."""

    connections: int = 1
    """TCP connections that are open."""

    udp: UdpFlow | None = None
    """The session's UDP flow, if it has one."""


def state_name(state: m.State) -> document.State:
    """Return the public name of a state, such as `resolving`."""
    return _NAMES[type(state)]


_NAMES: Final[dict[type[m.State], document.State]] = {
    m.Down: "down",
    m.Resolving: "resolving",
    m.Connecting: "connecting",
    m.Authenticating: "authenticating",
    m.Leasing: "leasing",
    m.Configuring: "configuring",
    m.Proving: "proving",
    m.Connected: "connected",
    m.Resuming: "connecting",
    m.Disconnecting: "disconnecting",
    m.Waiting: "waiting",
    m.Failed: "failed",
}


class Reporter:
    """Keeps what can be told, and tells it.

    Args:
        name: The tunnel's name.
        settings: What the user wants.
        clock: Seconds on the monotonic clock that leases are counted in.
    """

    def __init__(
        self, name: str, settings: Settings, *, clock: Callable[[], float]
    ) -> None:
        self._name = name
        self._settings = settings
        self._clock = clock
        self._state: document.State = "down"
        self._since = _now()
        self._proven_at: str | None = None
        self._first_connected_at: str | None = None
        self._server = document.Server(
            host=settings.host, port=settings.port, hub=settings.hub
        )
        self._tls = document.Tls()
        self._port = settings.port
        self._warnings: list[str] = []
        self._last_error: str | None = None
        self._sessions = 0
        self._message = ""
        self._resumed = 0
        self._listeners: list[Listener] = []

    # --- events ---

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call *listener* with each event until the returned function is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def changed(self, state: m.State, *, error: SevpnError | None, now: float) -> None:
        """The tunnel is in another state now."""
        name = state_name(state)
        self._state, self._since = name, _now()
        if name == "connected" and self._first_connected_at is None:
            self._first_connected_at = self._since
        facts: dict[str, Any] = {}
        text = ""
        if error is not None:
            self._last_error = str(error)
            facts = {"error": str(error), "failure": error.failure.value}
            text = str(error)
        if isinstance(state, m.Waiting):
            delay_s = max(0.0, state.retry_at - now)
            facts["retry_in_s"] = round(delay_s, 1)
            text += (
                f"; next attempt in {delay_s:.0f} s"
                if delay_s >= 1
                else "; next attempt now"
            )
        self._tell("state", text, facts)

    def resolved(self, addresses: Sequence[IPv4Address | IPv6Address]) -> None:
        """The server's name has these addresses."""
        listed = ", ".join(str(address) for address in addresses)
        self._tell(
            "resolved",
            f"{self._settings.host} is {listed}",
            {"addresses": [str(a) for a in addresses]},
        )

    def redirected(self, address: IPv4Address | IPv6Address, port: int) -> None:
        """The cluster's controller sends the login to one of its members."""
        self._port = port
        self._tell(
            "redirected",
            f"{self._settings.host} is a cluster; its member {address} port {port} has the session",
            {"address": str(address), "port": port},
        )

    def greeted(self, stream: SecureStream, hello: Hello) -> None:
        """The server said Hello."""
        self._server = document.Server(
            host=self._settings.host,
            address=str(stream.peer_address),
            port=self._port,
            hub=self._settings.hub,
            product=hello.product,
            version=hello.version,
            build=hello.build,
            certificate_sha256=stream.certificate_sha256,
            verified_by=stream.verified_by,
        )
        self._tls = document.Tls(version=stream.tls_version, cipher=stream.cipher)
        trust = {
            "ca": "certificate verified",
            "pin": "certificate pinned",
            "none": "certificate NOT verified",
        }
        self._tell(
            "connected-to-server",
            f"{stream.peer_address} port {self._port}, {stream.tls_version}, {trust[stream.verified_by]}: "
            f"{hello.product}",
            {
                "address": str(stream.peer_address),
                "verified_by": stream.verified_by,
                "product": hello.product,
            },
        )
        if stream.verified_by == "none":
            self.warn(
                (
                    "the server's certificate is not verified (--insecure): anybody on the way can read everything"  # noqa: ISC004 - one sentence
                    f"{_AND_IT_TOO if self._settings.login == 'plain' else ''}; "
                    f"pin it with --pin sha256:{stream.certificate_sha256}",
                )
            )

    def logged_in(self, opened: OpenedSession) -> None:
        """The server said Welcome."""
        self._sessions += 1
        self._resumed = 0
        name = opened.welcome.session_name
        self._tell(
            "logged-in",
            f"session {name} on hub {self._settings.hub}",
            {"session": name},
        )
        message = opened.welcome.message
        # It comes with each login; who has read it need not read it again.
        if message.strip() and message != self._message:
            self._tell("message", f"the server says: {message}", {"message": message})
        self._message = message

    def asked_to_leave(self, after_s: float) -> None:
        """The hub wants sessions to end after so many seconds."""
        self._tell(
            "asked-to-leave",
            f"hub {self._settings.hub!r} ends sessions after {_span(after_s)} (policy AutoDisconnect): leaving; "
            "start again for another session",
            {"after_s": after_s},
        )

    def resumed(self, peer: IPv4Address | IPv6Address) -> None:
        """The session goes on with another connection."""
        self._resumed += 1
        self._tell(
            "resumed",
            f"the session goes on, by way of {peer}",
            {"resumed": self._resumed},
        )

    def granted(self, opened: int, wanted: int, welcome: Welcome) -> None:
        """So many connections will be opened where so many are wanted."""
        if opened < wanted:
            self.warn(
                (f"the hub grants {welcome.max_connections} of {wanted} connections",)
            )
        if self._settings.half_duplex and not welcome.half_connection:
            self.warn(("the server does not grant half duplex",))
        if self._settings.compress and not welcome.use_compress:
            self.warn(("the server does not grant compression",))

    def connection_opened(self, number: int, direction: Direction) -> None:
        """Another connection of the session is open."""
        way = _WAYS[direction]
        self._tell(
            "connection",
            f"connection {number} is open{way and ' ' + way}",
            {"number": number, "direction": int(direction)},
        )

    def connection_failed(self, error: SevpnError) -> None:
        """Another connection could not be opened, for now."""
        self._tell(
            "connection-failed",
            f"no further connection for now: {error}",
            {"error": str(error)},
        )

    def connection_lost(self, number: int, error: SevpnError) -> None:
        """One of several connections has ended."""
        self._tell(
            "connection-lost",
            f"connection {number} has ended: {error}",
            {"number": number, "error": str(error)},
        )

    def leased(self, lease: Lease | None) -> None:
        """There is an address."""
        if lease is None:
            return
        self.warn(lease.warnings)
        left_s = None if lease.expires_at is None else lease.expires_at - self._clock()
        span = "for ever" if left_s is None else f"for {_span(left_s)}"
        self._tell(
            "leased",
            f"{lease.address} from {lease.server} {span}",
            {
                "address": str(lease.address),
                "server": str(lease.server),
                "lease_s": left_s and round(left_s),
            },
        )

    def configured(self, wanted: Wanted, tap: Tap) -> None:
        """The host is as wanted."""
        routes = [str(route) for route in wanted.state.routes]
        parts = [
            f"{tap.name} has {', '.join(map(str, wanted.state.addresses)) or 'no address'}"
        ]
        if routes:
            parts.append(f"{len(routes)} route{'s' * (len(routes) > 1)}")
        if wanted.state.resolver is not None:
            parts.append(
                "DNS "
                + ", ".join(str(server) for server in wanted.state.resolver.servers)
            )
        self._tell(
            "configured", "; ".join(parts), {"interface": tap.name, "routes": routes}
        )

    def proven(self, proof: Proven | None) -> None:
        """Something came back; or, with `None`, nothing did and nothing depends on it."""
        if proof is None:
            self._proven_at = None
            return
        self._proven_at = _now()
        rtt_ms = None if proof.rtt_s is None else round(proof.rtt_s * 1000, 2)
        text = _BY[proof.by] + ("" if rtt_ms is None else f" in {rtt_ms:g} ms")
        self._tell("proven", text, {"by": proof.by, "rtt_ms": rtt_ms})

    def heard(self) -> None:
        """Something came back again."""
        self._proven_at = _now()

    def roamed(self, reason: str) -> None:
        """The network underneath has moved, and the tunnel begins again."""
        self._last_error = reason
        self._tell("roamed", reason, {"reason": reason})

    def silent(self, text: str) -> None:
        """What was proven does not answer any more; told once until it does."""
        if self._proven_at is not None:
            self._tell("silent", text, {})
        self._proven_at = None

    def withdraw(self, sentences: Collection[str]) -> None:
        """What was warned of is not so any more."""
        self._warnings = [line for line in self._warnings if line not in sentences]

    def warn(self, sentences: Iterable[str]) -> None:
        """Keep and tell what is not as asked; each sentence once."""
        for sentence in sentences:
            if sentence not in self._warnings and len(self._warnings) < _MAX_WARNINGS:
                self._warnings.append(sentence)
                self._tell("warning", sentence, {})

    def new_attempt(self) -> None:
        """What was warned of and proven belonged to an earlier session."""
        self._warnings.clear()
        self._port = self._settings.port
        self.unproven()

    def unproven(self) -> None:
        """What was proven is gone."""
        self._proven_at = None

    def _tell(self, event: str, text: str, facts: dict[str, Any]) -> None:
        # What a listener shows a person is not logged a second time.
        log.debug(event, state=self._state, text=text)
        told: Event = {
            "at": _now(),
            "event": event,
            "state": self._state,
            "text": text,
            "facts": facts,
        }
        for listener in tuple(self._listeners):
            listener(told)

    # --- the status document ---

    def snapshot(self, parts: Parts) -> document.Tunnel:
        """Return the status document's TUNNEL."""
        wanted = parts.wanted
        return document.Tunnel(
            name=self._name,
            state=self._state,
            since=self._since,
            proven_at=self._proven_at,
            first_connected_at=self._first_connected_at,
            pid=os.getpid(),
            server=self._server,
            session=None
            if parts.session is None
            else self._session(parts.session, parts.connections, parts.udp),
            interface=None
            if parts.tap is None
            else self._interface(parts.tap, parts.mac, wanted, parts.kernel),
            lease=self._lease(wanted, parts.lease)
            if wanted is not None and wanted.address is not None
            else None,
            routes=list(parts.host.routes),
            rules=list(parts.host.rules),
            dns=self._dns(parts.host),
            lock=self._lock(parts.host),
            ipv6=self._ipv6(wanted),
            counters=self._counters(parts.counters),
            latency_ms={
                "gateway": None
                if parts.latency_s is None
                else round(parts.latency_s * 1000, 2)
            },
            warnings=list(self._warnings),
            last_error=self._last_error,
        )

    def _session(
        self, opened: OpenedSession, connections: int, flow: UdpFlow | None
    ) -> document.Session:
        welcome = opened.welcome
        return document.Session(
            name=welcome.session_name,
            connections=connections,
            max_connections=welcome.max_connections,
            half_duplex=welcome.half_connection,
            compressed=welcome.use_compress,
            resumed=self._resumed,
            tls=self._tls,
            udp=_udp(opened, flow),
            policy=dict(welcome.policy),
            message=welcome.message or None,
        )

    def _interface(
        self,
        tap: Tap,
        mac: MacAddress,
        wanted: Wanted | None,
        kernel: Literal["compiled", "python"],
    ) -> document.Interface:
        return document.Interface(
            name=tap.name,
            mac=str(mac),
            offload="gso" if tap.has_header else "none",
            kernel=kernel,
            mtu=wanted.state.mtu
            if wanted is not None
            else self._settings.mtu or DEFAULT_MTU,
        )

    def _lease(self, wanted: Wanted, lease: Lease | None) -> document.Lease:
        if lease is None:
            return document.Lease(
                address=str(wanted.address),
                gateway=None if wanted.gateway is None else str(wanted.gateway),
                dns=[str(server) for server in self._settings.dns],
            )
        routes = (
            lease.classless_routes
            if lease.classless_routes is not None
            else lease.static_routes
        )
        return document.Lease(
            address=str(lease.address),
            gateway=None if lease.router is None else str(lease.router),
            dns=[str(server) for server in lease.dns],
            domain=lease.domain,
            routes=[
                f"{route.destination} via {route.gateway or 'link'}" for route in routes
            ],
            server=str(lease.server),
            obtained_at=self._wall(lease.obtained_at),
            renew_at=None if lease.expires_at is None else self._wall(lease.renew_at),
            expires_at=None
            if lease.expires_at is None
            else self._wall(lease.expires_at),
        )

    def _ipv6(self, wanted: Wanted | None) -> document.Ipv6:
        if wanted is None:
            return document.Ipv6()
        addresses = [a for a in wanted.state.addresses if a.version == 6]
        router = next(
            (
                route.gateway
                for route in wanted.state.routes
                if route.destination == DEFAULT_V6 and route.gateway is not None
            ),
            None,
        )
        return document.Ipv6(
            addresses=[str(address) for address in addresses],
            gateway=None if router is None else str(router),
        )

    def _lock(self, host: HostReport) -> Literal["off", "holding", "open"]:
        if not host.is_locked:
            return "off"
        return "open" if self._state == "connected" else "holding"

    def _dns(self, host: HostReport) -> document.Dns | None:
        if not self._settings.asks_for_names:
            return None
        return document.Dns(
            backend=host.dns_backend,
            reason=host.dns_reason,
            servers=list(host.dns_servers),
        )

    def _counters(self, counters: Counters | None) -> document.Counters:
        reconnects = max(0, self._sessions - 1)
        if counters is None:
            return document.Counters(reconnects=reconnects)
        return document.Counters(
            inbound_bytes=counters.inbound_bytes,
            outbound_bytes=counters.outbound_bytes,
            inbound_frames=counters.inbound_frames,
            outbound_frames=counters.outbound_frames,
            dropped_frames=dict(counters.dropped_frames),
            reconnects=reconnects,
        )

    def _wall(self, at: float) -> str:
        """Return a time of the monotonic clock as wall-clock time."""
        ahead = dt.timedelta(seconds=at - self._clock())
        return _format(dt.datetime.now(dt.UTC) + ahead)


def _udp(opened: OpenedSession, flow: UdpFlow | None) -> document.Udp:
    if flow is None:
        reason = opened.udp if isinstance(opened.udp, str) else None
        return document.Udp(reason=reason)
    return document.Udp(
        state=flow.state,
        version=flow.version,
        reason=flow.reason,
        inbound_frames=flow.received_frames,
        outbound_frames=flow.sent_frames,
        dropped_datagrams=flow.dropped_datagrams,
    )


def _now() -> str:
    return _format(dt.datetime.now(dt.UTC))


def _format(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _span(seconds: float) -> str:
    """Return a duration as a person says it."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (size < 86400 and seconds >= size):
            number = seconds / size
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.2g} {unit}"
    return f"{seconds:.0f} s"
