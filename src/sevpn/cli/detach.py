# SPDX-License-Identifier: Apache-2.0
"""`--detach`: a command that returns, and a child of its own session that stays.

Layer: cli. Runs in: the main thread, before the event loop and around it.

As an installed package the command forks. As one executable file it may not: its
launchers wait for the process that they started, and remove the unpacked files
when that has ended. So the command starts the whole program again and hands over
its terminal:

    command                                  child, of launchers of its own
       │ start, with nothing but a socket ────▶ │
       │ ─── standard input, output, error ───▶ │ reads its settings, may ask the person
       │                                        │ setsid, connects
       │ ◀───────── one byte: the exit code ─── │
       ends                                     stays, lets go of the terminal

The launchers of the child never get the terminal: they live as long as the child,
and a pipe that they held would never end.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Final

from sevpn.cli.exit import ExitCode
from sevpn.errors import ConfigError, HostError

__all__ = ["VARIABLE", "Parent", "fork", "handed_over", "start_again"]

VARIABLE: Final = "SEVPN_DETACHED"
"""Names the socket's descriptor to the child that was started again."""

_STANDARD: Final = (0, 1, 2)
_PATIENCE_S: Final = 10.0
"""For what the command has sent before its child was there."""

_SIGNALLED: Final = 128
"""What a shell adds to the number of the signal that ended a program."""


class Parent:
    """The command that waits for the detached child's word.

    Args:
        channel: Descriptor of the pipe or socket that it listens on; ours now.
    """

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._waits = True

    def tell(self, code: int) -> None:
        """Let it end with *code*, if it still waits."""
        sys.stdout.flush()
        sys.stderr.flush()
        if self._waits:
            self._waits = False
            with contextlib.suppress(BrokenPipeError):  # it was ended by hand
                os.write(self._channel, bytes([code & 0xFF]))
            os.close(self._channel)

    def leave(self) -> None:
        """The tunnel is connected: let it end, and let go of its terminal."""
        if not self._waits:
            return
        self.tell(ExitCode.OK)
        null = os.open(os.devnull, os.O_RDWR)
        for number in _STANDARD:
            os.dup2(null, number)
        os.close(null)


def fork() -> Parent | int:
    """Split this process.

    Returns:
        In the command: its exit code, once the child has told it.
        In the child: whom to tell.
    """
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        with os.fdopen(reading, "rb") as answer:
            told = answer.read(1)
        return told[0] if told else ExitCode.BUG
    os.close(reading)
    return Parent(writing)


def start_again(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Start *command* as the child, give it our terminal, and wait for its word.

    Args:
        command: This program and all its arguments.
        environ: The child's environment, the passwords of this run included.

    Returns:
        The exit code: what the child tells or, if it ends without, its own.

    Raises:
        HostError: The program's file is not there any more.
    """
    ours, theirs = socket.socketpair()
    # What a launcher says that cannot unpack itself.
    with ours, os.fdopen(os.memfd_create("words"), "rb") as words:
        with theirs:
            theirs.set_inheritable(True)
            pid = _spawn(
                command,
                dict(environ) | {VARIABLE: str(theirs.fileno())},
                error=words.fileno(),
            )
        socket.send_fds(ours, [b"\0"], _STANDARD)
        told = b""
        with contextlib.suppress(ConnectionResetError):  # it ended without a look
            told = ours.recv(1)
        if told:
            return told[0]
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        words.seek(0)
        os.write(_STANDARD[-1], words.read())
        return code if code >= 0 else _SIGNALLED - code


def _spawn(command: Sequence[str], environ: Mapping[str, str], *, error: int) -> int:
    """Start a program that hears nothing, and whose errors go to the descriptor *error*."""
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0)
    copies = [(os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, error, 2)]
    try:
        return os.posix_spawn(
            command[0], list(command), environ, file_actions=[null, *copies]
        )
    except OSError as problem:
        raise HostError(
            f"{command[0]} cannot be started again: {problem.strerror}",
            operation="detach",
        ) from problem


def handed_over(environ: MutableMapping[str, str]) -> Parent | None:
    """Return the command that has started us to be its child, and take its terminal.

    Args:
        environ: Our environment; what was meant for us alone is taken out.

    Returns:
        None if we are no such child.

    Raises:
        ConfigError: Somebody else has set the variable.
    """
    number = environ.pop(VARIABLE, None)
    if number is None:
        return None
    try:
        channel = socket.socket(fileno=int(number))
        channel.settimeout(_PATIENCE_S)
        _, terminal, _, _ = socket.recv_fds(channel, 1, len(_STANDARD))
        channel.settimeout(None)
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(f"{VARIABLE} is sevpn's own: unset it") from error
    if len(terminal) != len(_STANDARD):
        raise ConfigError(f"{VARIABLE} is sevpn's own: unset it")
    for standard, given in zip(_STANDARD, terminal, strict=True):
        os.dup2(given, standard)
        os.close(given)
    channel.set_inheritable(False)
    return Parent(channel.detach())
