# SPDX-License-Identifier: Apache-2.0
"""`sevpn doctor`: the checks of a support engineer, each with its finding and the fix."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from sevpn.cli.common import Output, command as make_command
from sevpn.cli.exit import ExitCode, code_of
from sevpn.cli.job import prepare, settings_of
from sevpn.cli.options import given, tunnel_options
from sevpn.config.paths import Paths
from sevpn.config.profile import Settings
from sevpn.errors import HostError, SevpnError
from sevpn.net.checkup import Finding, judge, look_at
from sevpn.net.dns.detect import Choice, choose
from sevpn.net.dns.names import look_at_host
from sevpn.net.model import DEFAULT_METRIC, Found
from sevpn.net.rtnetlink import Netlink
from sevpn.net.tunnels import dead_tunnels, living_tunnels

__all__ = ["command"]

_MARKS = {
    "ok": "ok     ",
    "note": "note   ",
    "problem": "PROBLEM",
    "skipped": "skipped",
}


@make_command("doctor")
@click.argument("target", required=False)
@tunnel_options
@click.option("--name", metavar="NAME", help="What to call the tunnel.")
def command(output: Output, target: str | None, name: str | None, **values: Any) -> int:
    """Check this host, and with TARGET each step of a login to it.

    Changes nothing: the login makes no interface and sets no route; its lease is
    given back. Ends with 0 if there is no problem, else as `up` would.
    """
    output.start_log()
    overrides = given(values)
    settings = (
        None
        if target is None
        else settings_of(target, name=name, overrides=overrides, environ=os.environ)
    )
    found = _find()
    paths = Paths.for_user(os.environ, os.geteuid())
    running = living_tunnels(paths.runtime_dir, found, mine=None)
    facts = look_at(
        found,
        dns=_names(settings),
        running=sorted(running),
        dead=sorted(dead_tunnels(paths.runtime_dir, but=running)),
        now=datetime.now(UTC),
    )
    findings = list(
        judge(
            facts,
            metric=DEFAULT_METRIC if settings is None else settings.metric,
            wants_names=settings is not None and settings.asks_for_names,
        )
    )
    _show(output, findings)
    error: SevpnError | None = None
    if target is not None and settings is not None:
        if settings.tunnel_name in running:
            more = [
                Finding(
                    "login",
                    "skipped",
                    f"tunnel {settings.tunnel_name} runs already, and a second login could throw it out",
                    f"sevpn status {settings.tunnel_name}; sevpn down {settings.tunnel_name} to check the login",
                )
            ]
            _show(output, more)
        else:
            more, error = asyncio.run(_log_in(output, target, name, overrides, found))
        findings += more
    has_problem = any(finding.level == "problem" for finding in findings)
    if output.as_json:
        output.answer(
            {
                "ok": not has_problem,
                "findings": [asdict(finding) for finding in findings],
            },
            "",
        )
    if error is not None:
        return code_of(error)
    return ExitCode.HOST if has_problem else ExitCode.OK


async def _log_in(
    output: Output,
    target: str,
    name: str | None,
    overrides: dict[str, Any],
    found: Found,
) -> tuple[list[Finding], SevpnError | None]:
    from sevpn.tunnel.checkup import examine  # noqa: PLC0415 - brings TLS, which a look at the host does not need

    findings: list[Finding] = []
    error: SevpnError | None = None
    prepared = prepare(target, name=name, overrides=overrides, environ=os.environ)
    async for item in examine(prepared.job, found=found):
        if isinstance(item, SevpnError):
            error = item
        else:
            findings.append(item)
            _show(output, [item])
    return findings, error


def _show(output: Output, findings: list[Finding]) -> None:
    """Print findings as they come; for programs, all of them follow at the end."""
    if output.as_json:
        return
    for finding in findings:
        click.echo(f"{_MARKS[finding.level]}  {finding.check:<11}  {finding.text}")
        if finding.fix:
            click.echo(f"{'':22}→ {finding.fix}")


def _names(settings: Settings | None) -> Choice | str:
    mode = "auto" if settings is None else settings.dns_mode
    try:
        return choose(
            mode,
            look_at_host(mode),
            split=settings is not None and bool(settings.split_dns),
        )
    except HostError as error:
        return str(error)


def _find() -> Found:
    netlink = Netlink()
    try:
        return netlink.find()
    finally:
        netlink.close()
