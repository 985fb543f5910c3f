# SPDX-License-Identifier: Apache-2.0
"""What a tunnel is about to change, on disk before it is changed.

Layer: net. Runs in: the control thread.

    RUN/lock             held (flock) while something is changed that tunnels share
    RUN/NAME/lock        held (flock) as long as the tunnel NAME lives
    RUN/NAME/journal     one JSON object: Record
    RUN/NAME/…           other run state of the tunnel, as its control socket

A record names what cannot be recognised otherwise. Most of what we make needs no
record: the TAP with its addresses and routes goes with the process, and routes
carry our protocol number. It is complete before the change is made, so it may
name things that were never made; undoing looks at what there is.

A process that holds the lock lives; when it ends, however, the kernel drops the
lock. Files alone prove nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

import msgspec

from sevpn.errors import HostError, PrivilegeError

__all__ = [
    "Journal",
    "Record",
    "TunnelLock",
    "network_namespace",
    "shared_lock",
    "tunnel_folders",
]

_SCHEMA: Final = 1
_MAX_SIZE: Final = 1 << 20
"""Bytes read of a journal at most; 512 routes of IPv6 take a tenth."""

_MAX_TUNNELS: Final = 1024
_PATIENCE_S: Final = 5.0
"""How long another process may hold the shared lock; it takes milliseconds."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """What one tunnel has made or is about to make."""

    tunnel: str
    """Its name."""

    pid: int = 0
    """The process, for messages."""

    schema: int = _SCHEMA
    """Version of this layout."""

    namespace: str = ""
    """The network namespace that all but the resolver belongs to."""

    device: str | None = None
    """The TAP."""

    addresses: tuple[str, ...] = ()
    """Put on the TAP, as `10.0.0.5/24`."""

    servers: tuple[str, ...] = ()
    """Addresses that have, or share, a route past the tunnel."""

    claims: tuple[str, ...] = ()
    """What only one tunnel may have: `default-4`, `default-6`, `dns`."""

    resolver: bool = False
    """Whether resolv.conf was, or is about to be, replaced."""

    netns: str = ""
    """The file of the network namespace, where it is not that of the process."""

    folders: tuple[str, ...] = ()
    """Folders that were made for resolv.conf, innermost first."""

    excluded: tuple[str, ...] = ()
    """Networks that have, or share, a route past the tunnel."""

    filters: dict[str, int] = {}
    """The reverse path filters that were made loose, by device, as they were before."""

    slot: int = -1
    """Which of the numbers in `marks.py` are its own; -1: not known."""


class Journal:
    """The record of one tunnel, and its file.

    Args:
        folder: The tunnel's run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "journal"

    def write(self, record: Record) -> None:
        """Make *record* the one that a crash would leave, before returning.

        Raises:
            HostError: The folder cannot be written.
        """
        new = self._path.with_name("journal.new")
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with new.open("wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(msgspec.json.encode(record))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            raise _no_folder(self._path.parent, error) from error

    def read(self) -> Record | None:
        """Return the record, or `None` when there is none that can be read."""
        try:
            with self._path.open("rb") as file:
                data = file.read(_MAX_SIZE + 1)
            record = msgspec.json.decode(data, type=Record)
        except (OSError, msgspec.MsgspecError):
            return None
        return record if record.schema == _SCHEMA and len(data) <= _MAX_SIZE else None

    def remove(self) -> None:
        """Delete the file; none is fine."""
        with contextlib.suppress(OSError):
            self._path.unlink()


class TunnelLock:
    """The proof that a tunnel's process lives.

    Args:
        folder: The tunnel's run folder; made when it is locked.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor = -1

    @property
    def is_held(self) -> bool:
        """Whether this object holds it, on the file that is there now."""
        return self._descriptor >= 0 and _is_same_file(
            self._descriptor, self._folder / "lock"
        )

    def take(self) -> bool:
        """Take it if nobody has it; also after the folder was deleted under us.

        Returns:
            False: another process, or another object of this one, holds it.

        Raises:
            HostError: The folder cannot be made.
        """
        if self.is_held:
            return True
        try:
            self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            taken = _lock_file(self._folder / "lock")
        except OSError as error:
            raise _no_folder(self._folder, error) from error
        if taken is None:
            return False
        self.release()
        self._descriptor = taken
        return True

    def release(self) -> None:
        """Give it back; safe to call again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Delete its file, and the folder if it is empty then, and give it back."""
        if self.is_held:
            with contextlib.suppress(OSError):
                (self._folder / "lock").unlink()
        with contextlib.suppress(OSError):
            self._folder.rmdir()
        self.release()

    def clear(self) -> None:
        """Delete all files of the run folder, which a dead tunnel left; then :meth:`remove`."""
        with contextlib.suppress(OSError):
            for path in list(self._folder.iterdir()):
                with contextlib.suppress(OSError):
                    if path.name != "lock":
                        path.unlink()
        self.remove()


@contextlib.contextmanager
def shared_lock(run_folder: Path) -> Generator[None]:
    """Hold what all tunnels of the host share, for the length of a block.

    Raises:
        HostError: The folder cannot be made, or somebody holds it for seconds.
    """
    descriptor = None
    deadline = time.monotonic() + _PATIENCE_S
    while descriptor is None:
        try:
            run_folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            descriptor = _lock_file(run_folder / "lock")
        except FileNotFoundError:
            continue  # deleted between the two steps
        except OSError as error:
            raise _no_folder(run_folder, error) from error
        if descriptor is None:
            if time.monotonic() > deadline:
                raise HostError(
                    f"another sevpn holds {run_folder / 'lock'} and does not go on: look for a stopped process with "
                    "`fuser -v`",
                    operation="lock",
                )
            time.sleep(0.005)
    try:
        yield
    finally:
        if _is_same_file(descriptor, run_folder / "lock"):
            _remove_if_unused(run_folder)
        os.close(descriptor)


def _remove_if_unused(run_folder: Path) -> None:
    """Delete the shared lock and the folder when no tunnel is left; called with the lock held."""
    with contextlib.suppress(OSError):
        if [path.name for path in run_folder.iterdir()] == ["lock"]:
            (run_folder / "lock").unlink()
            run_folder.rmdir()


def tunnel_folders(run_folder: Path) -> list[Path]:
    """Return the run folders of all tunnels, living and dead."""
    try:
        paths = sorted(
            path
            for path in run_folder.iterdir()
            if path.is_dir() and not path.is_symlink()
        )
    except OSError:
        return []
    return paths[:_MAX_TUNNELS]


def network_namespace() -> str:
    """Return what identifies this process's network namespace until the next boot."""
    try:
        status = Path("/proc/thread-self/ns/net").stat()
    except OSError:
        return ""
    return f"{status.st_dev}:{status.st_ino}"


def _lock_file(path: Path) -> int | None:
    """Open and lock *path*; `None` when somebody else has it.

    A file that was deleted between opening and locking locks nobody out: then
    again with the one that is there now.
    """
    while True:
        descriptor = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        if _is_same_file(descriptor, path):
            return descriptor
        os.close(descriptor)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def _no_folder(folder: Path, error: OSError) -> HostError:
    if error.errno in {errno.EACCES, errno.EPERM}:
        return PrivilegeError(
            f"no permission to write below {folder}: run sevpn with sudo, or set XDG_RUNTIME_DIR",
            operation="journal",
        )
    return HostError(
        f"cannot write below {folder}: {os.strerror(error.errno or 0)}; nothing is changed without a journal",
        operation="journal",
    )
