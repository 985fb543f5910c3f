# SPDX-License-Identifier: Apache-2.0
"""What is measured, whom, and what is promised. Pure data.

A measure's name is a path: `rate/out/1` is the throughput outbound with one stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

CANDIDATES: Final = {
    "sevpn": "sevpn, compiled",
    "sevpn-python": "sevpn, interpreted",
    "official": "official client as installed",
    "official-tuned": "official client tuned by hand",
    "openvpn": "OpenVPN, TAP over UDP, AES-256-GCM",
    "wireguard-go": "wireguard-go",
    "sevpn-own": "sevpn, compiled → our server",
    "official-own": "official client tuned → our server",
    "bare-tls": "bare TLS, SSLSocket.send",
    "bare-tls-memory": "bare TLS, MemoryBIO",
    "none": "no VPN: the cable alone",
}
"""Who takes part, in the order of the tables. Without `→`, and where it is a SoftEther
client, the server is the official one."""

Better = Literal["more", "less"]


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that is measured."""

    key: str
    """Its name in the results."""

    title: str
    """Its name for people."""

    unit: str
    """Its unit."""

    better: Better
    """What is better of it."""


_WAYS: Final = {"out": "outbound", "in": "inbound", "both": "both ways at once"}
_LOADS: Final = [(way, streams) for streams in (1, 8) for way in _WAYS]


def _titled(way: str, streams: int) -> str:
    return f"{_WAYS[way]}, {streams} {'stream' if streams == 1 else 'streams'}"


def _of_load(key: str, title: str, unit: str, better: Better) -> list[Measure]:
    return [
        Measure(
            f"{key}/{way}/{streams}", f"{title} {_titled(way, streams)}", unit, better
        )
        for way, streams in _LOADS
    ]


SIZES: Final = {"64": "64-byte frames", "1400": "1,400-byte UDP"}
"""How packets are called; the first are whole Ethernet frames, the second payload."""

STEADY_PER_S: Final = 20_000
"""Packets each second where each candidate gets the same."""


PACES: Final = (("64", "flood"), ("1400", "flood"), ("64", "steady"))
"""Sizes, and how fast they are sent."""


def _of_packets() -> list[Measure]:
    paced = {
        "flood": "as fast as they are sent",
        "steady": f"{STEADY_PER_S:,} a second",
    }
    found: list[Measure] = []
    for size, pace in PACES:
        for way in ("out", "in"):
            where = f"{SIZES[size]} {_WAYS[way]}, {paced[pace]}"
            key = f"{way}/{size}/{pace}"
            found += [
                Measure(f"pps/{key}", f"arrived: {where}", "1/s", "more"),
                Measure(f"loss/{key}", f"lost: {where}", "%", "less"),
                Measure(f"pcpu/{key}", f"client CPU: {where}", "µs/frame", "less"),
                Measure(f"scpu/{key}", f"server CPU: {where}", "µs/frame", "less"),
            ]
    return found


def _of_echoes() -> list[Measure]:
    loads = {
        "idle": "idle",
        "out": "with a bulk transfer outbound",
        "in": "with a bulk transfer inbound",
    }
    found = [Measure("added/idle/p50", "added RTT p50, idle", "ms", "less")]
    for load, loaded in loads.items():
        found += [
            Measure(f"rtt/{load}/p50", f"RTT p50, {loaded}", "ms", "less"),
            Measure(f"rtt/{load}/p99", f"RTT p99, {loaded}", "ms", "less"),
        ]
    return found


MEASURES: Final = {
    measure.key: measure
    for measure in [
        *_of_load("rate", "throughput", "Gbit/s", "more"),
        *_of_load("cpu", "client CPU", "s/GB", "less"),
        *_of_load("kernel", "of it in the kernel", "s/GB", "less"),
        *_of_load("client-thread", "client's busiest thread", "% of a core", "less"),
        *_of_load("server-thread", "server's busiest thread", "% of a core", "less"),
        *_of_load("server-cpu", "server CPU", "s/GB", "less"),
        *_of_packets(),
        Measure(
            "burst/last", "1,000 frames at once inbound, until the last", "ms", "less"
        ),
        Measure("burst/lost", "1,000 frames at once inbound, lost", "frames", "less"),
        *_of_echoes(),
        Measure("memory/load", "VmRSS under load", "MiB", "less"),
        Measure("memory/idle", "VmRSS, connected", "MiB", "less"),
        Measure("idle/cpu", "idle", "% of a core", "less"),
        Measure("start/securenat", "start to proven, SecureNAT", "s", "less"),
        Measure("start/dnsmasq", "start to proven, dnsmasq", "s", "less"),
        Measure("start/own", "start to proven, our server", "s", "less"),
        Measure("start/answer", "start to the first answer", "s", "less"),
        Measure("heal/answer", "heal after a reset, to the first answer", "s", "less"),
        Measure("heal/securenat", "heal after a reset, SecureNAT", "s", "less"),
        Measure("heal/own", "heal after a reset, our server", "s", "less"),
    ]
}
"""All that is measured, by key."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is promised of one figure."""

    measure: str
    """Of what."""

    limit: float
    """At least this where more is better, else at most."""

    ours: str = "sevpn"
    """Who."""

    theirs: str | None = None
    """By whom it is divided; `None`: the value itself counts. Of a loss, which may be
    0, theirs is subtracted."""

    stretch: float | None = None
    """What we wish beyond."""

    @property
    def is_at_least(self) -> bool:
        """Whether the limit is a lower one."""
        return MEASURES[self.measure].better == "more"

    @property
    def title(self) -> str:
        """What it is, for people."""
        what = MEASURES[self.measure].title
        ours = CANDIDATES[self.ours]
        if self.theirs is None:
            return f"{what}: {ours}"
        return f"{what}: {ours} to {CANDIDATES[self.theirs]}"


def _throughput() -> list[Target]:
    goals = [
        ("sevpn", "official", 1.7, 2.5),
        ("sevpn", "official-tuned", 1.0, 1.15),
        ("sevpn-python", "official-tuned", 0.8, 1.0),
        ("sevpn", "openvpn", 2.0, 2.0),
        ("sevpn", "wireguard-go", 2.0, 2.0),
        ("sevpn-own", "official-tuned", 1.5, 1.5),
    ]
    return [
        Target(f"rate/{way}/1", limit, ours, theirs)
        for ours, theirs, *limits in goals
        for way, limit in zip(("out", "in"), limits, strict=True)
    ]


def _processor() -> list[Target]:
    return [
        Target("cpu/out/1", 0.65, "sevpn", "official-tuned", stretch=0.5),
        Target("cpu/in/1", 0.60, "sevpn", "official-tuned", stretch=0.5),
        *(
            Target(f"cpu/{way}/1", limit, ours, theirs)
            for ours, theirs, limit in (
                ("sevpn-python", "official-tuned", 1.2),
                ("sevpn", "openvpn", 0.3),
                ("sevpn", "wireguard-go", 0.3),
            )
            for way in ("out", "in")
        ),
    ]


_OFFICIAL: Final = ("official", "official-tuned")
"""Where a promise names the official client alone, it is kept to both forms."""


def _packets() -> list[Target]:
    return [
        Target(f"{what}/{way}/64/flood", limit, "sevpn", theirs)
        for theirs in _OFFICIAL
        for way in ("out", "in")
        for what, limit in (("pps", 1.0), ("loss", 0.0), ("pcpu", 1.0))
    ]


def _latency() -> list[Target]:
    found = [Target("burst/lost", 0)]
    for theirs in _OFFICIAL:
        found += [
            Target("burst/last", 0.05, "sevpn", theirs),
            Target("added/idle/p50", 1.0, "sevpn", theirs),
            Target("rtt/out/p99", 0.5, "sevpn", theirs),
            Target("rtt/in/p99", 0.5, "sevpn", theirs),
        ]
    return found


TARGETS: Final = [
    *_throughput(),
    *_processor(),
    *_packets(),
    *_latency(),
    Target("memory/load", 53),
    Target("memory/idle", 48),
    Target("idle/cpu", 0.5),
    Target("start/securenat", 1.5),
    Target("start/dnsmasq", 1.5),
    Target("heal/securenat", 2.0),
]
"""All that is promised; what is measured on the emulated link has its own."""
