# SPDX-License-Identifier: Apache-2.0
"""Secrets from this host: its files, environment, programs and keyring.

Layer: config. Runs in: the control thread, before the first connection. The one
module of `config` that runs programs and knows the keyring library.

A file that others can read or write is refused rather than warned about: the
warning would scroll by at every start of a service, and the secret stay public.
Reading by the group is allowed, since that is how an administrator shares one.
Pipes are taken as they are, for `file:/dev/fd/63` of a shell's `<(…)`.
"""

from __future__ import annotations

import importlib
import os
import select
import stat
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol, cast

from sevpn.config.secret import MAX_SECRET_SIZE
from sevpn.errors import ConfigError, HostError

__all__ = ["HostSource"]

WAIT_LIMIT_S: Final = 60.0
"""How long a program or a pipe may take; our own choice: time to unlock a key by hand."""

_LINE_END: Final = 2  # CR LF at most
_KEYRING_SERVICE: Final = "sevpn"

# What password managers need to find their store, their agent and their dialog;
# nothing else of the environment, which may hold the secrets of others.
_PASSED_VARIABLES: Final = (
    "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "GNUPGHOME", "GPG_TTY", "HOME", "LANG",
    "LC_ALL", "LC_CTYPE", "LOGNAME", "PASSWORD_STORE_DIR", "SSH_AUTH_SOCK", "TERM",
    "USER", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_CONFIG_HOME", "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
)  # fmt: skip
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class HostSource:
    """The host as a :class:`~sevpn.config.secret.SecretSource`.

    Args:
        environ: The environment.
        ask: Asks a person; None where nobody can be asked, as in a service.
        limit_s: How long a program or a pipe may take, in seconds.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        ask: Callable[[str], str] | None,
        limit_s: float = WAIT_LIMIT_S,
    ) -> None:
        self._environ = environ
        self._ask = ask
        self._limit_s = limit_s

    def ask(self, question: str) -> str:
        """Ask a person; see the protocol."""
        if self._ask is None:
            raise ConfigError(
                "the password is needed and there is no terminal to ask on: give --password REF, as in file:PATH"
            )
        return self._ask(question)

    def variable(self, name: str) -> str | None:
        """Return an environment variable."""
        return self._environ.get(name)

    def read_file(self, path: Path, *, limit: int = MAX_SECRET_SIZE) -> bytes:
        """Return a file's content; see the protocol."""
        try:
            # Non-blocking, since opening a named pipe waits for its writer.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {path}: {_reason(error)}") from error
        try:
            _refuse_public_file(os.fstat(fd), path)
            data = _read_bounded(
                fd, limit + _LINE_END, time.monotonic() + self._limit_s
            )
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {_reason(error)}") from error
        finally:
            os.close(fd)
        if data is None:
            raise ConfigError(f"{path} gave no secret within {self._limit_s:g} s")
        if len(data) > limit + _LINE_END:
            raise ConfigError(f"{path} is longer than {limit} bytes")
        return data

    def run(self, argv: tuple[str, ...], *, limit: int = MAX_SECRET_SIZE) -> bytes:
        """Run a program; see the protocol.

        It gets no shell, a clean environment, no input and no more time than
        the limit. What it says on standard error goes to ours, since it may
        tell the person what to do.
        """
        deadline = time.monotonic() + self._limit_s
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                env=self._clean_environment(),
                bufsize=0,
            )
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot run {argv[0]!r}: {_reason(error)}") from error
        data, status = _outcome(process, limit + _LINE_END, deadline)
        if data is None or status is None:
            raise ConfigError(f"{argv[0]!r} gave no secret within {self._limit_s:g} s")
        # One that had more to say than we take was ended by SIGPIPE: no failure.
        if status != 0 and len(data) <= limit + _LINE_END:
            raise ConfigError(
                f"{argv[0]!r} failed with status {status}: run it by hand to see why"
            )
        return data

    def keyring(self, name: str) -> str | None:
        """Return an entry of the keyring; see the protocol."""
        try:
            # Only here, and only if asked for: it is an optional extra.
            library = cast("_KeyringLibrary", importlib.import_module("keyring"))
        except ImportError as error:
            raise HostError(
                "keyring: needs the extra of that name: pip install 'sevpn[keyring]'",
                operation="read-keyring",
            ) from error
        try:
            return library.get_password(_KEYRING_SERVICE, name)
        except Exception as error:
            # Each of the library's backends has exceptions of its own.
            raise HostError(
                f"the keyring gave no answer: {type(error).__name__}: unlock it, or use another reference",
                operation="read-keyring",
            ) from error

    def _clean_environment(self) -> dict[str, str]:
        passed = {
            name: self._environ[name]
            for name in _PASSED_VARIABLES
            if name in self._environ
        }
        return {"PATH": self._environ.get("PATH", _PATH), **passed}


class _KeyringLibrary(Protocol):
    def get_password(self, service: str, name: str) -> str | None: ...


def _refuse_public_file(status: os.stat_result, path: Path) -> None:
    if stat.S_ISFIFO(status.st_mode):
        return
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is no file")
    if status.st_mode & 0o006:
        raise ConfigError(
            f"{path} holds a secret and other users can reach it: chmod o-rwx {path}"
        )


def _reason(error: OSError | ValueError) -> str:
    # A ValueError is a NUL in the path; its text repeats nothing.
    return (error.strerror or "?") if isinstance(error, OSError) else str(error)


def _outcome(
    process: subprocess.Popen[bytes], size: int, deadline: float
) -> tuple[bytes | None, int | None]:
    """Return what *process* printed and its status; None for what came too late."""
    assert process.stdout is not None  # it was started with PIPE
    with process.stdout as pipe:
        data = _read_bounded(pipe.fileno(), size, deadline)
    try:
        return data, process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return data, None


def _read_bounded(fd: int, size: int, deadline: float) -> bytes | None:
    """Read to the end, or until more has come than *size* bytes.

    Returns None if neither happened before *deadline*.
    """
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    data = b""
    while len(data) <= size:
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        more = os.read(fd, size + 1 - len(data))
        if not more:
            break
        data += more
    return data
