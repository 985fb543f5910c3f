# SPDX-License-Identifier: Apache-2.0
"""`sevpn up`: connect, and stay connected until told otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Generator
from typing import Any, Final

import click

from sevpn.cli.common import Output, command as make_command
from sevpn.cli.detach import Parent, fork, handed_over, start_again
from sevpn.cli.exit import ExitCode, report
from sevpn.cli.job import Prepared, prepare
from sevpn.cli.options import given, tunnel_options
from sevpn.cli.steps import Steps
from sevpn.config.frozen import hold_files, is_frozen, own_command
from sevpn.errors import SevpnError

__all__ = ["command", "stay"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@make_command("up")
@click.argument("target")
@tunnel_options
@click.option(
    "--name",
    metavar="NAME",
    help="What to call the tunnel. [the profile's name, or host and hub]",
)
@click.option(
    "--detach", is_flag=True, help="Return once connected; 'sevpn down' ends it."
)
def command(
    output: Output, target: str, name: str | None, detach: bool, **values: Any
) -> int:
    """Connect to TARGET and stay connected until Ctrl-C.

    TARGET is a profile's name, or HOST[:PORT]/HUB, or HOST[:PORT].
    """
    parent = None
    if detach and is_frozen():
        parent = handed_over(os.environ)
        if parent is None:
            command = own_command(os.environ, frozen=True)
            return start_again([*command, *sys.argv[1:]], os.environ)
    output.start_log()
    prepared = prepare(target, name=name, overrides=given(values), environ=os.environ)
    if not detach:
        return asyncio.run(stay(prepared, output, on_connected=lambda: None))
    if parent is None:
        forked = fork()
        if isinstance(forked, int):
            return forked
        parent = forked
    return _detached(prepared, output, parent)


async def stay(prepared: Prepared, output: Output, *, on_connected: Any) -> int:
    """Run the tunnel until it ends; return the exit code."""
    from sevpn.control.protocol import SOCKET_NAME  # noqa: PLC0415 - what only `up` needs is imported by `up`
    from sevpn.control.server import ControlServer  # noqa: PLC0415
    from sevpn.tunnel.supervisor import Supervisor  # noqa: PLC0415

    hold_files(os.environ, frozen=is_frozen())
    steps = Steps(output)
    host = prepared.host
    try:
        for line in host.recover():
            output.note(f"left by an earlier run, and undone: {line}")
        tunnel = Supervisor(prepared.job, host)
        tunnel.subscribe(steps)
        tunnel.subscribe(
            lambda event: on_connected() if event["state"] == "connected" else None
        )
        control = ControlServer(tunnel, prepared.run_dir / SOCKET_NAME)
        await control.open()
        try:
            with _signals(tunnel) as received:
                error = await tunnel.run()
        finally:
            steps.close()
            await control.close()
    finally:
        host.close()
    return _code(error, tunnel.restore_error, received, output)


@contextlib.contextmanager
def _signals(tunnel: Any) -> Generator[list[int]]:
    """Let the signals that end programs turn the tunnel off instead."""
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def note(number: int) -> None:
        received.append(number)
        tunnel.turn_off()

    for number in _SIGNALS:
        loop.add_signal_handler(number, note, number)
    try:
        yield received
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            # The host is restored; a late signal must not turn that into a failure.
            signal.signal(number, signal.SIG_IGN)


def _code(
    error: SevpnError | None,
    restore_error: SevpnError | None,
    received: list[int],
    output: Output,
) -> int:
    if restore_error is not None:
        output.note("this host could not be restored; `sevpn cleanup` undoes the rest")
        # Who ended us by a signal learns by the code that it was not clean.
        code = 128 + received[0] if received else None
        return report(restore_error, as_json=output.as_json, code=code)
    if error is not None:
        return report(error, as_json=output.as_json)
    return ExitCode.OK


def _detached(prepared: Prepared, output: Output, parent: Parent) -> int:
    """Run the tunnel as the child of *parent*, in a session of its own; never returns."""
    os.setsid()
    code = int(ExitCode.BUG)
    try:
        code = asyncio.run(stay(prepared, output, on_connected=parent.leave))
    except SevpnError as error:
        code = report(error, as_json=output.as_json)
    finally:
        parent.tell(code)
        # Nothing of the parent's is to be ended here a second time.
        os._exit(code)
