# SPDX-License-Identifier: Apache-2.0
"""The status document: what a tunnel tells about itself.

Layer: metrics. Runs in: any thread; values are frozen once built.

The keys are stable and documented in docs/reference/status.md: every key is
always there, `None` (JSON null) when it is not known, and keys are only ever
added. `tunnel/supervisor.py` fills a :class:`Tunnel`, the control socket sends
it, `sevpn status` prints it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "SCHEMA",
    "Counters",
    "Dns",
    "Interface",
    "Ipv6",
    "Lease",
    "Server",
    "Session",
    "State",
    "StatusDocument",
    "Tls",
    "Tunnel",
    "Udp",
]

SCHEMA = 1
"""The version of the document; raised only when a key changes its meaning."""

State = Literal[
    "down",
    "resolving",
    "connecting",
    "authenticating",
    "leasing",
    "configuring",
    "proving",
    "connected",
    "disconnecting",
    "waiting",
    "failed",
]


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """Whom the tunnel talks to."""

    host: str
    """As the user named it."""
    address: str | None = None
    """The IP address that was dialled."""
    port: int
    """TCP port."""
    hub: str
    """The virtual hub."""
    product: str | None = None
    """The server's own name for itself, from its Hello."""
    version: int | None = None
    """Major times 100 plus minor: 502 is 5.02."""
    build: int | None = None
    """The server's build number; not comparable between 4.x, 5.01 and 5.02."""
    certificate_sha256: str | None = None
    """SHA-256 of the leaf certificate's DER, in hex."""
    verified_by: Literal["ca", "pin", "none"] | None = None
    """Why the certificate was accepted; `none` with `--insecure`."""


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """The encryption of the connections."""

    version: str | None = None
    """`TLSv1.3`, …"""
    cipher: str | None = None
    """OpenSSL's name of the cipher suite."""


class Udp(msgspec.Struct, frozen=True, kw_only=True):
    """UDP acceleration."""

    state: Literal["off", "probing", "up"] = "off"
    """Whether frames travel by UDP."""
    version: int | None = None
    """1 or 2 once negotiated."""
    reason: str | None = None
    """Why it is in this state."""
    inbound_frames: int = 0
    """Frames of this session that came by UDP."""
    outbound_frames: int = 0
    """Frames of this session that left by UDP."""
    dropped_datagrams: dict[str, int] = {}
    """Datagrams that were not taken, by reason; one that never happened is absent."""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One login to the hub."""

    name: str
    """As the server names it: `SID-ALICE-3`."""
    connections: int = 1
    """TCP connections open now."""
    max_connections: int = 1
    """TCP connections that the server granted."""
    half_duplex: bool = False
    """Whether each connection carries one direction only."""
    compressed: bool = False
    """Whether blocks are deflated."""
    resumed: int = 0
    """How often this session was taken up again after a cut."""
    tls: Tls = Tls()
    """Encryption."""
    udp: Udp = Udp()
    """UDP acceleration."""
    policy: dict[str, int] = {}
    """The hub's policy for this user, by the server's names."""
    message: str | None = None
    """What the server told its users at the login; safe to show, perhaps several lines."""


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """The TAP on this host."""

    name: str
    """Interface name."""
    mac: str
    """Its MAC address, lower-case with colons."""
    mtu: int
    """Bytes of one IP packet."""
    offload: Literal["gso", "none"] = "none"
    """Whether super-segments are exchanged with the kernel."""
    kernel: Literal["compiled", "python"] = "python"
    """Which form of the per-frame code runs."""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The addresses in force, by DHCP or by options."""

    address: str
    """With prefix length: `10.0.0.5/24`."""
    gateway: str | None = None
    """The router offered or given."""
    dns: list[str] = []
    """Name servers offered or given."""
    domain: str | None = None
    """Domain name offered."""
    routes: list[str] = []
    """Static routes offered, as `destination via gateway`."""
    server: str | None = None
    """The DHCP server; null for static addresses."""
    obtained_at: str | None = None
    """RFC 3339, UTC."""
    renew_at: str | None = None
    """RFC 3339, UTC; null when the lease never ends."""
    expires_at: str | None = None
    """RFC 3339, UTC; null when the lease never ends."""


class Ipv6(msgspec.Struct, frozen=True, kw_only=True):
    """IPv6 inside the tunnel."""

    addresses: list[str] = []
    """Addresses on the TAP other than link-local."""
    gateway: str | None = None
    """The default router."""


class Dns(msgspec.Struct, frozen=True, kw_only=True):
    """Name resolution on this host."""

    backend: str
    """`file`, or `off`."""
    reason: str
    """Why this backend."""
    servers: list[str] = []
    """The name servers that are set now by this tunnel."""


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """Totals since the tunnel was turned on."""

    inbound_bytes: int = 0
    """Bytes of Ethernet frames from the hub."""
    outbound_bytes: int = 0
    """Bytes of Ethernet frames to the hub."""
    inbound_frames: int = 0
    """Frames from the hub."""
    outbound_frames: int = 0
    """Frames to the hub."""
    dropped_frames: dict[str, int] = {}
    """Frames thrown away, by reason."""
    reconnects: int = 0
    """Sessions after the first."""


class Tunnel(msgspec.Struct, frozen=True, kw_only=True):
    """One tunnel."""

    name: str
    """Its name on this host."""
    state: State
    """Where it is in its life."""
    since: str
    """When it came into this state; RFC 3339, UTC."""
    proven_at: str | None = None
    """When something last came back through the tunnel; null until then."""

    first_connected_at: str | None = None
    """When it was connected for the first time; RFC 3339, UTC; null until then."""
    pid: int
    """The process that runs it."""
    server: Server
    """Whom it talks to."""
    session: Session | None = None
    """The login, while there is one."""
    interface: Interface | None = None
    """The TAP, once open."""
    lease: Lease | None = None
    """Addresses, while there are some."""
    ipv6: Ipv6 = Ipv6()
    """IPv6 inside the tunnel."""
    routes: list[str] = []
    """Routes that this tunnel has installed, as `ip route` writes them."""
    rules: list[str] = []
    """Policy rules that it has installed, as `ip rule` writes them; those of IPv6 begin with `-6`."""
    dns: Dns | None = None
    """Name resolution, when the tunnel was asked to set it."""
    lock: Literal["off", "holding", "open"] = "off"
    """The kill switch."""
    counters: Counters = Counters()
    """Totals."""
    latency_ms: dict[str, float | None] = msgspec.field(
        default_factory=lambda: {"gateway": None}
    )
    """Last round trip inside the tunnel, in milliseconds."""
    warnings: list[str] = []
    """What is not as asked, one sentence each."""
    last_error: str | None = None
    """Why the last attempt or session ended."""


class StatusDocument(msgspec.Struct, frozen=True, kw_only=True):
    """`sevpn status --json`: all tunnels."""

    schema: int = SCHEMA
    """Version of this document."""
    tunnels: list[Tunnel] = []
    """Running tunnels, by name."""
