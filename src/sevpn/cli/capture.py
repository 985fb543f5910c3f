# SPDX-License-Identifier: Apache-2.0
"""`sevpn capture --monitor`: all frames of a hub, as pcapng."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sevpn.cli.common import Output, command as make_command
from sevpn.cli.options import given, transport_options
from sevpn.errors import HostError

if TYPE_CHECKING:
    from sevpn.tunnel.watching import Recorder

__all__ = ["command"]

_ONE_CONNECTION: Final = {
    "resume": False,
    "connections": 1,
    # The first connection of a half-duplex session carries nothing inbound.
    "half_duplex": False,
    "udp": "off",
}
"""A watcher has one connection both ways, whatever the profile says of tunnels."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@make_command("capture")
@click.argument("target")
@click.option(
    "--monitor",
    is_flag=True,
    required=True,
    help="By the hub's monitor mode: copies of all frames, nothing on this host is changed.",
)
@click.option(
    "-w",
    "--write",
    "file",
    metavar="FILE",
    help="Write to FILE instead of standard output.",
)
@transport_options
def command(
    output: Output, target: str, monitor: bool, file: str | None, **values: Any
) -> None:
    """Write all frames of a hub as pcapng, until Ctrl-C.

    The user needs the right to monitor the hub. To look at once:
    `sevpn capture --monitor TARGET | wireshark -k -i -`.
    """
    del monitor
    from sevpn.cli.job import prepare  # noqa: PLC0415 - brings TLS, which `--help` does not need
    from sevpn.tunnel.watching import Recorder, watch  # noqa: PLC0415

    output.start_log()
    begun: list[Recorder] = []
    with _destination(file) as begin:
        prepared = prepare(
            target,
            name=None,
            overrides=given(values) | _ONE_CONNECTION,
            environ=os.environ,
            mode="monitor",
        )

        def record() -> Recorder:
            begun.append(Recorder(begin(), name=prepared.job.settings.hub))
            return begun[0]

        async def stay() -> None:
            over = asyncio.Event()
            loop = asyncio.get_running_loop()
            for number in _SIGNALS:
                loop.add_signal_handler(number, over.set)
            await watch(prepared.job, record, over=over)

        try:
            asyncio.run(stay())
        finally:
            for recorder in begun:
                recorder.close()
                count = recorder.missed_count
                missed = f", {count} missed" if count else ""
                output.note(f"{recorder.frame_count} frames{missed}")
        for recorder in begun:
            recorder.raise_failure()


@contextlib.contextmanager
def _destination(file: str | None) -> Generator[Callable[[], io.RawIOBase]]:
    """Open what is to be written, and hand out what empties it and returns it.

    Without a login nothing of an older file is lost, and a new one does not stay.
    """
    if file is None:
        if sys.stdout.isatty():
            raise click.UsageError(
                "a capture is nothing for a terminal: give -w FILE, or pipe it into `wireshark -k -i -`"
            )
        stdout = io.FileIO(sys.stdout.fileno(), "wb", closefd=False)
        yield lambda: stdout
        return
    is_new = not os.path.lexists(file)
    has_begun = False

    def begin() -> io.RawIOBase:
        nonlocal has_begun
        has_begun = True
        with contextlib.suppress(OSError):  # a pipe holds nothing that could be cut off
            stream.truncate(0)
        return stream

    with _open(file) as stream:
        try:
            yield begin
        finally:
            if is_new and not has_begun:
                with contextlib.suppress(OSError):
                    Path(file).unlink()


def _open(file: str) -> io.FileIO:
    """Open a file for writing, without a buffer; what is in it stays."""
    try:
        return io.FileIO(os.open(file, os.O_WRONLY | os.O_CREAT, 0o666), "wb")
    except OSError as error:
        raise HostError(
            f"cannot write {file}: {error.strerror}", operation="capture"
        ) from error
