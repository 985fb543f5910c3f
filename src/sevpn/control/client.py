# SPDX-License-Identifier: Apache-2.0
"""The control socket: the asking side, for the short-lived commands.

Layer: control. Runs in: the main thread of a command; blocking, with deadlines.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from sevpn.control.protocol import MAX_LINE_SIZE, SOCKET_NAME, Command, Reply, Request
from sevpn.errors import ControlError
from sevpn.metrics.snapshot import Tunnel

__all__ = ["ask", "follow", "running", "socket_path", "status", "turn_off"]

_ANSWER_S: Final = 5.0
_MAX_TUNNELS: Final = 256


def socket_path(run_folders: Iterable[Path], name: str) -> Path | None:
    """Return where the running tunnel *name* listens, or `None`."""
    for folder in run_folders:
        path = folder / name / SOCKET_NAME
        if path.is_socket() and _is_alive(path):
            return path
    return None


def running(run_folders: Iterable[Path]) -> dict[str, Path]:
    """Return the sockets of all running tunnels, by the tunnels' names."""
    found: dict[str, Path] = {}
    for folder in run_folders:
        for path in sorted(folder.glob(f"*/{SOCKET_NAME}"))[:_MAX_TUNNELS]:
            if _is_alive(path):
                found.setdefault(path.parent.name, path)
    return dict(sorted(found.items()))


def status(path: Path) -> Tunnel:
    """Ask the tunnel at *path* for its status document.

    Raises:
        ControlError: No answer in five seconds, or none that can be read.
    """
    try:
        return msgspec.convert(ask(path, "status"), Tunnel)
    except msgspec.ValidationError as error:
        raise ControlError(
            f"the tunnel at {path} answers in another version's words ({error}): restart it"
        ) from error


def ask(path: Path, command: Command) -> Any:
    """Send one command and return its result.

    Raises:
        ControlError: The tunnel refused, or did not answer in five seconds.
    """
    with _connect(path) as sock, sock.makefile("rb") as lines:
        return _request(sock, lines, path, command)


def turn_off(path: Path, *, patience_s: float) -> bool:
    """Ask a tunnel to leave, and wait until it has restored the host.

    Returns:
        Whether it was done within *patience_s*.

    Raises:
        ControlError: The tunnel refused.
    """
    deadline = time.monotonic() + patience_s
    with _connect(path) as sock, sock.makefile("rb") as lines:
        _request(sock, lines, path, "down")
        # The tunnel closes the connection when all is restored.
        sock.settimeout(patience_s)
        with contextlib.suppress(OSError):
            lines.read(1)
    # A tunnel that could not restore the host keeps its folder, with the journal in it.
    while path.parent.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not path.parent.exists()


def follow(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the tunnel's events until it ends.

    Raises:
        ControlError: The tunnel refused or cannot be reached, what it told is no
            event, or the connection broke.
    """
    with _connect(path) as sock, sock.makefile("rb") as lines:
        _request(sock, lines, path, "subscribe")
        sock.settimeout(None)
        while (reply := _next_reply(lines, path)) is not None:
            if reply.event is not None:
                yield reply.event


def _next_reply(lines: BinaryIO, path: Path) -> Reply | None:
    """Return the next line of a subscription; `None`: the tunnel has ended it."""
    try:
        line = lines.readline(MAX_LINE_SIZE)
        return msgspec.json.decode(line, type=Reply) if line else None
    except OSError as error:
        reason = error.strerror or str(error)
        raise ControlError(
            f"the tunnel at {path} broke off its events ({reason}): ask 'sevpn status' whether it runs"
        ) from error
    except msgspec.MsgspecError as error:
        raise ControlError(
            f"the tunnel at {path} tells events in another version's words ({error}): restart it"
        ) from error


@contextlib.contextmanager
def _connect(path: Path) -> Generator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_ANSWER_S)
        try:
            sock.connect(os.fspath(path))
        except OSError as error:
            reason = error.strerror or str(error)
            raise ControlError(
                f"the tunnel at {path} cannot be asked ({reason}): is it running, and may you reach the folder?"
            ) from error
        yield sock


def _request(sock: socket.socket, lines: BinaryIO, path: Path, command: Command) -> Any:
    try:
        sock.sendall(msgspec.json.encode(Request(1, command)) + b"\n")
        reply = msgspec.json.decode(lines.readline(MAX_LINE_SIZE), type=Reply)
    except (OSError, msgspec.MsgspecError) as error:
        raise ControlError(
            f"the tunnel at {path} gave no answer to {command!r}: look at its log"
        ) from error
    if reply.error is not None:
        raise ControlError(reply.error)
    return reply.result


def _is_alive(path: Path) -> bool:
    """Whether somebody listens; a socket file stays when its process is killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(os.fspath(path))
        except PermissionError:
            return True
        except OSError:
            return False
        return True
