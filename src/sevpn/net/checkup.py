# SPDX-License-Identifier: Apache-2.0
"""What of this host could stand in a tunnel's way: facts, and what they mean.

Layer: net. Runs in: the short-lived `doctor` command. Looks, and changes nothing.

    look_at(…) ──> HostFacts ──judge()──> Finding, Finding, …

The facts are gathered in one place and judged in another, so that each judgement is
a table that can be read and tested.

Source: docs/reference/doctor.md.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from sevpn.errors import HostError
from sevpn.net.dns.detect import Choice
from sevpn.net.lock import locked_tunnels, table_name
from sevpn.net.model import Found, is_default
from sevpn.net.nft import Nftables

__all__ = ["Finding", "HostFacts", "Level", "Vpn", "is_router", "judge", "look_at"]

Level = Literal["ok", "note", "problem", "skipped"]
"""`note`: it works, and should be known; `problem`: it does not work, or not as asked."""

_CAP_NET_ADMIN: Final = 12
_TUN: Final = Path("/dev/net/tun")
_FORWARDING: Final = Path("/proc/sys/net/ipv4/ip_forward")
_EARLIEST: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""No machine that runs this can be at an earlier time."""

_LATEST: Final = datetime(2070, 1, 1, tzinfo=UTC)
_KINDS: Final = {
    "wireguard": "WireGuard",
    "ppp": "PPP",
    "tun": "TUN or TAP",
    "xfrm": "IPsec",
    "vti": "IPsec",
}
"""Names of the kernel for interfaces that VPNs have."""


def is_router() -> bool:
    """Whether this host forwards IPv4 packets of others."""
    try:
        return _FORWARDING.read_text("ascii").strip() == "1"
    except OSError:
        return False  # a kernel without IPv4


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    """Which check, in one word."""

    level: Level
    """How it is."""

    text: str
    """What was found, one sentence."""

    fix: str = ""
    """What to do, one sentence; empty where nothing is to be done."""


@dataclass(frozen=True, slots=True)
class Vpn:
    """An interface of another VPN."""

    name: str
    """Its name."""

    kind: str
    """What it is, for people."""

    has_default: bool
    """Whether a default route leads into it."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """This host, as far as the checks look at it."""

    found: Found
    """Interfaces, addresses, routes."""

    tun_error: int | None
    """Why /dev/net/tun cannot be opened (errno); `None`: it can."""

    has_net_admin: bool
    """Whether this process may change the network."""

    is_root: bool
    """Whether it is root's."""

    strict_rp_filter: tuple[str, ...]
    """Uplinks whose reverse-path filter is strict."""

    filter_error: str | None
    """Why the packet filter cannot be used; `None`: it can."""

    locks: tuple[str, ...]
    """Tables of locks that no running tunnel holds."""

    dns: Choice | str
    """How name servers would be set, or why they cannot be."""

    vpns: tuple[Vpn, ...]
    """Interfaces of other VPNs."""

    running: tuple[str, ...]
    """Tunnels of sevpn that run."""

    dead: tuple[str, ...]
    """Tunnels that left something behind."""

    now: datetime
    """What the clock says, with its zone."""

    is_ntp_synchronized: bool | None
    """Whether the kernel's clock is kept by somebody; `None`: not known."""


# --- judging -----------------------------------------------------------------


def judge(facts: HostFacts, *, metric: int, wants_names: bool) -> tuple[Finding, ...]:
    """Return what the facts mean, check by check.

    Args:
        facts: The host.
        metric: Of the default route that is asked for.
        wants_names: Whether name servers are to be set.
    """
    return (
        _tun(facts),
        _rights(facts),
        _clock(facts),
        _uplink(facts),
        _reverse_path(facts),
        _rivals(facts, metric),
        _vpns(facts),
        _names(facts, wants_names=wants_names),
        _packet_filter(facts),
        _lock(facts),
        _tunnels(facts),
    )


def _tun(facts: HostFacts) -> Finding:
    match facts.tun_error:
        case None:
            return Finding("tun", "ok", f"{_TUN} can be opened")
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return Finding(
                "tun",
                "problem",
                f"there is no {_TUN}: the kernel's module is not loaded, or this container may not have it",
                "modprobe tun; for a container, pass the device in (--device /dev/net/tun)",
            )
        case errno.EACCES | errno.EPERM:
            return Finding(
                "tun",
                "problem",
                f"{_TUN} may not be opened by this user",
                "chmod 0666 /dev/net/tun is what distributions have; for a container, allow the device",
            )
        case number:
            return Finding(
                "tun",
                "problem",
                f"{_TUN} cannot be opened: {os.strerror(number)}",
                "look at `dmesg`",
            )


def _rights(facts: HostFacts) -> Finding:
    if facts.has_net_admin:
        return Finding(
            "rights", "ok", "this process may change the network (CAP_NET_ADMIN)"
        )
    fix = (
        "for a container, add the capability (--cap-add NET_ADMIN)"
        if facts.is_root
        else "run it with sudo, or as a service with AmbientCapabilities=CAP_NET_ADMIN"
    )
    return Finding(
        "rights", "problem", "`up` needs CAP_NET_ADMIN, which this process has not", fix
    )


def _clock(facts: HostFacts) -> Finding:
    shown = f"the clock says {facts.now:%Y-%m-%d %H:%M} UTC"
    if not _EARLIEST <= facts.now <= _LATEST:
        return Finding(
            "clock",
            "problem",
            f"{shown}, which cannot be: certificates will look expired, or not valid yet",
            "set the clock: timedatectl set-time, or start a time service",
        )
    if facts.is_ntp_synchronized is False:
        return Finding(
            "clock",
            "note",
            f"{shown}, and nobody keeps it right",
            "start a time service, such as systemd-timesyncd or chrony",
        )
    return Finding("clock", "ok", shown)


def _uplink(facts: HostFacts) -> Finding:
    ours = facts.found.devices_of_tunnels()
    defaults = [
        entry.route
        for entry in facts.found.routes
        if is_default(entry.route.destination)
        and entry.is_unicast
        and entry.route.device not in ours
    ]
    if defaults:
        shown = ", ".join(dict.fromkeys(route.device for route in defaults))
        return Finding("uplink", "ok", f"default routes lead to {shown}")
    return Finding(
        "uplink",
        "note",
        "this host has no default route: only servers on its own networks can be reached",
        "connect it to a network, if the server is elsewhere",
    )


def _reverse_path(facts: HostFacts) -> Finding:
    if not facts.strict_rp_filter:
        return Finding("rp_filter", "ok", "no uplink has a strict reverse-path filter")
    return Finding(
        "rp_filter",
        "note",
        f"the reverse-path filter is strict on {', '.join(facts.strict_rp_filter)}: "
        "sevpn answers the hub's polls itself there, but traffic that comes in by two ways is dropped",
        "nothing, unless such traffic is wanted: then sysctl net.ipv4.conf.all.rp_filter=2",
    )


def _rivals(facts: HostFacts, metric: int) -> Finding:
    ours = facts.found.devices_of_tunnels()
    rivals = [
        entry.route
        for entry in facts.found.routes
        if is_default(entry.route.destination)
        and entry.route.destination.version == 4
        and entry.is_unicast
        and entry.route.device not in ours
        and entry.route.metric <= metric
    ]
    if not rivals:
        return Finding("default", "ok", f"a default route of metric {metric} would win")
    shown = ", ".join(f"{route.device} with metric {route.metric}" for route in rivals)
    return Finding(
        "default",
        "note",
        f"another default route would win over one of metric {metric} ({shown}): "
        "with --accept-default-gateway sevpn sets 0.0.0.0/1 and 128.0.0.0/1 as well",
    )


def _vpns(facts: HostFacts) -> Finding:
    if not facts.vpns:
        return Finding("vpns", "ok", "no other VPN has an interface here")
    shown = ", ".join(f"{vpn.name} ({vpn.kind})" for vpn in facts.vpns)
    seized = [vpn.name for vpn in facts.vpns if vpn.has_default]
    if not seized:
        return Finding("vpns", "note", f"other VPNs have interfaces here: {shown}")
    return Finding(
        "vpns",
        "note",
        f"other VPNs have interfaces here: {shown}; a default route leads into {', '.join(seized)}, "
        "so this tunnel would run inside of that one",
        "end the other VPN first, unless that is wanted",
    )


def _names(facts: HostFacts, *, wants_names: bool) -> Finding:
    if isinstance(facts.dns, str):
        level: Level = "problem" if wants_names else "note"
        return Finding("names", level, f"name servers cannot be set: {facts.dns}")
    return Finding(
        "names",
        "ok",
        f"name servers would be set by {facts.dns.backend}: {facts.dns.reason}",
    )


def _packet_filter(facts: HostFacts) -> Finding:
    if facts.filter_error is None:
        return Finding("nft", "ok", "the packet filter can be used")
    return Finding(
        "nft",
        "note",
        facts.filter_error,
        "install nftables and run this as root, if --lock, --connmark or bypass are wanted",
    )


def _lock(facts: HostFacts) -> Finding:
    if not facts.locks:
        return Finding("lock", "ok", "no lock holds but those of running tunnels")
    return Finding(
        "lock",
        "problem",
        f"a lock holds whose tunnel does not run ({', '.join(facts.locks)}): nothing leaves this host but what it allows",
        "start that tunnel again, or lift the lock with `sevpn unlock`",
    )


def _tunnels(facts: HostFacts) -> Finding:
    if facts.dead:
        return Finding(
            "tunnels",
            "problem",
            f"a process that was killed left changes behind ({', '.join(facts.dead)})",
            "sevpn cleanup; the next `up` does it, too",
        )
    if facts.running:
        return Finding("tunnels", "ok", f"running here: {', '.join(facts.running)}")
    return Finding(
        "tunnels", "ok", "no tunnel runs here, and none left anything behind"
    )


# --- looking -----------------------------------------------------------------


def look_at(
    found: Found,
    *,
    dns: Choice | str,
    running: Iterable[str],
    dead: Iterable[str],
    now: datetime,
    proc: Path = Path("/proc"),
    tun: Path = _TUN,
    nftables: Nftables | None = None,
) -> HostFacts:
    """Look at this host.

    Args:
        found: What netlink says.
        dns: How name servers would be set, or why they cannot be.
        running: Tunnels that run.
        dead: Tunnels that left something.
        now: The time.
        proc: Where the kernel tells of processes and settings.
        tun: The device.
        nftables: The packet filter.
    """
    running = tuple(running)
    filter_error, locks = _locks(Nftables() if nftables is None else nftables, running)
    return HostFacts(
        found=found,
        tun_error=_open_error(tun),
        has_net_admin=_has_net_admin(proc / "self/status"),
        is_root=os.geteuid() == 0,
        strict_rp_filter=_strict(proc / "sys/net/ipv4/conf", found),
        filter_error=filter_error,
        locks=locks,
        dns=dns,
        vpns=tuple(_other_vpns(found)),
        running=running,
        dead=tuple(dead),
        now=now,
        is_ntp_synchronized=_is_synchronized(),
    )


def _open_error(tun: Path) -> int | None:
    try:
        os.close(os.open(tun, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.errno or errno.EIO
    return None


def _has_net_admin(status: Path) -> bool:
    try:
        found = re.search(r"(?m)^CapEff:\s*([0-9a-f]+)$", status.read_text("ascii"))
    except OSError:
        return False
    return found is not None and bool(int(found[1], 16) >> _CAP_NET_ADMIN & 1)


def _strict(folder: Path, found: Found) -> tuple[str, ...]:
    devices = {
        entry.route.device
        for entry in found.routes
        if is_default(entry.route.destination) and entry.route.device
    } - found.devices_of_tunnels()
    everywhere = _number(folder / "all/rp_filter")
    return tuple(
        device
        for device in sorted(devices)
        if max(everywhere, _number(folder / device / "rp_filter")) == 1
    )


def _number(path: Path) -> int:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return 0


def _other_vpns(found: Found) -> Iterable[Vpn]:
    ours = found.devices_of_tunnels()
    defaults = {
        entry.route.device
        for entry in found.routes
        if entry.is_unicast and entry.route.destination.prefixlen <= 1
    }
    for link in found.links:
        kind = _KINDS.get(link.kind or "")
        if kind is not None and link.name not in ours:
            yield Vpn(link.name, kind, has_default=link.name in defaults)


def _locks(
    nftables: Nftables, running: Iterable[str]
) -> tuple[str | None, tuple[str, ...]]:
    """Return why the packet filter cannot be used, or the locks that nobody holds."""
    try:
        tables = locked_tunnels(nftables)
    except HostError as error:
        return str(error), ()
    finally:
        nftables.close()
    held = {table_name(tunnel) for tunnel in running}
    return None, tuple(table for table in tables if table not in held)


def _is_synchronized() -> bool | None:
    """Ask the kernel whether somebody keeps its clock right (adjtimex, STA_UNSYNC)."""
    import ctypes  # noqa: PLC0415 - for this one question

    class Timex(ctypes.Structure):
        _fields_ = (
            ("modes", ctypes.c_uint),
            ("offset", ctypes.c_long),
            ("freq", ctypes.c_long),
            ("maxerror", ctypes.c_long),
            ("esterror", ctypes.c_long),
            ("status", ctypes.c_int),
            ("rest", ctypes.c_byte * 256),
        )

    buffer = Timex()
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(buffer)) < 0:
        return None
    return not buffer.status & 0x40
