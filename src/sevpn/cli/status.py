# SPDX-License-Identifier: Apache-2.0
"""`sevpn status`: what runs, and how it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Literal

import click
import msgspec

from sevpn.cli.common import Output, command as make_command
from sevpn.cli.exit import ExitCode
from sevpn.cli.running import chosen, run_folders
from sevpn.control import client
from sevpn.errors import ControlError
from sevpn.metrics.snapshot import SCHEMA, Session, StatusDocument, Tunnel, Udp
from sevpn.tunnel.hints import describe_policy

__all__ = ["command", "render"]

Check = Literal["live", "ready", "startup"]


@make_command("status")
@click.argument("name", required=False)
@click.option("--watch", is_flag=True, help="Show it again each second, until Ctrl-C.")
@click.option(
    "--check",
    type=click.Choice(["live", "ready", "startup"]),
    help="Print nothing; exit 0 if so, else 1: live = it runs, startup = it has been connected, ready = it is.",
)
def command(output: Output, name: str | None, watch: bool, check: Check | None) -> int:
    """Show the running tunnel NAME, or all tunnels."""
    if check is not None:
        return _check(name, check)
    while True:
        _show(output, name)
        if not watch:
            return ExitCode.OK
        time.sleep(1.0)
        if not output.as_json:
            click.clear()


def _show(output: Output, name: str | None) -> None:
    if name is not None:
        _, path = chosen(name, required=True)
        tunnel = client.status(path)
        output.answer({"schema": SCHEMA, **msgspec.to_builtins(tunnel)}, render(tunnel))
        return
    tunnels = list(_all())
    document = StatusDocument(tunnels=tunnels)
    text = "\n\n".join(render(tunnel) for tunnel in tunnels) or "no tunnel runs"
    output.answer(msgspec.to_builtins(document), text)


def _all() -> Iterator[Tunnel]:
    for path in client.running(run_folders()).values():
        # One that ends at this very moment is not worth an error.
        try:
            yield client.status(path)
        except ControlError:
            continue


def _check(name: str | None, check: Check) -> int:
    try:
        found = chosen(name, required=False)
        tunnel = None if found is None else client.status(found[1])
    except ControlError:
        tunnel = None
    return (
        ExitCode.OK
        if tunnel is not None and _holds(tunnel, check)
        else ExitCode.FAILED_CHECK
    )


def _holds(tunnel: Tunnel, check: Check) -> bool:
    match check:
        case "live":
            return tunnel.state not in {"failed", "down"}
        case "ready":
            return tunnel.state == "connected"
        case "startup":
            return tunnel.first_connected_at is not None


def render(tunnel: Tunnel) -> str:
    """Return the status as one screen for people."""
    return "\n".join(
        f"{key + ':' if key else '':<12} {value}" for key, value in _lines(tunnel)
    )


def _lines(tunnel: Tunnel) -> Iterator[tuple[str, str]]:
    yield tunnel.name, f"{tunnel.state} since {tunnel.since} (pid {tunnel.pid})"
    yield from _server_lines(tunnel)
    if tunnel.interface is not None:
        yield (
            "interface",
            f"{tunnel.interface.name}, {tunnel.interface.mac}, MTU {tunnel.interface.mtu}",
        )
    yield from _lease_lines(tunnel)
    for route in tunnel.routes:
        yield "route", route
    for rule in tunnel.rules:
        yield "rule", rule
    if tunnel.dns is not None and tunnel.dns.servers:
        yield (
            "dns",
            f"{', '.join(tunnel.dns.servers)} ({tunnel.dns.backend}: {tunnel.dns.reason})",
        )
    yield "traffic", _traffic(tunnel)
    for warning in tunnel.warnings:
        yield "warning", warning
    if tunnel.last_error is not None:
        yield "last error", tunnel.last_error


def _server_lines(tunnel: Tunnel) -> Iterator[tuple[str, str]]:
    server = tunnel.server
    address = (
        f" ({server.address})" if server.address not in {None, server.host} else ""
    )
    yield "server", f"{server.host}{address} port {server.port}, hub {server.hub}"
    if server.product is not None:
        yield (
            "",
            f"{server.product}, build {server.build}; certificate {_trust(server.verified_by)}",
        )
    if tunnel.session is not None:
        tls = tunnel.session.tls
        yield (
            "session",
            f"{tunnel.session.name}, {tls.version} {tls.cipher}{_connections(tunnel.session)}",
        )
        yield "udp", _udp(tunnel.session.udp)
        if limits := describe_policy(tunnel.session.policy):
            yield "policy", ", ".join(limits)


def _udp(udp: Udp) -> str:
    """Return what UDP does, and why."""
    version = "" if udp.version is None else f", version {udp.version}"
    reason = "" if udp.reason is None else f": {udp.reason}"
    dropped = ", ".join(
        f"{count} {cause}" for cause, count in udp.dropped_datagrams.items()
    )
    return f"{udp.state}{version}{reason}" + (dropped and f"; not taken: {dropped}")


def _connections(session: Session) -> str:
    """Return what there is to say of several connections; of one, nothing."""
    if session.max_connections == 1:
        return ""
    way = ", half duplex" if session.half_duplex else ""
    return f", {session.connections} connections{way}"


def _trust(verified_by: str | None) -> str:
    return {"ca": "verified by CA", "pin": "pinned"}.get(
        verified_by or "", "NOT VERIFIED"
    )


def _lease_lines(tunnel: Tunnel) -> Iterator[tuple[str, str]]:
    lease = tunnel.lease
    if lease is None:
        return
    source = f"from {lease.server}" if lease.server is not None else "static"
    until = f" until {lease.expires_at}" if lease.expires_at is not None else ""
    yield "address", f"{lease.address} {source}{until}"
    if lease.gateway is not None:
        latency_ms = tunnel.latency_ms.get("gateway")
        yield (
            "gateway",
            lease.gateway + (f", {latency_ms:g} ms" if latency_ms is not None else ""),
        )


def _traffic(tunnel: Tunnel) -> str:
    counters = tunnel.counters
    text = f"{_bytes(counters.inbound_bytes)} in, {_bytes(counters.outbound_bytes)} out"
    if counters.reconnects:
        text += f"; {counters.reconnects} reconnect{'s' * (counters.reconnects > 1)}"
    if dropped := sum(counters.dropped_frames.values()):
        text += f"; {dropped} frames dropped"
    return text


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
