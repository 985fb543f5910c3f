# SPDX-License-Identifier: Apache-2.0
"""`/etc/resolv.conf` as a plain file: saved, replaced, restored.

Layer: net. Runs in: the control thread.

    /etc/resolv.conf               ours while it is set: its first line is the marker
    /etc/.resolv.conf.sevpn-saved  what was there before: the same inode where that
                                   is possible (a symbolic link stays one), else a copy
    /etc/.resolv.conf.sevpn-new    for the moment before it becomes resolv.conf

Restoring needs these two files and nothing else, so it works after a crash and
after a reboot. At each moment one of these holds:

    1  resolv.conf has no marker: it is not ours; a saved copy beside it is stale
    2  resolv.conf has the marker and the saved copy is what it was before

and each step goes from one to the other at once, by `rename`. Where rename is
refused because the file is a mount point of its own (containers), it is written
in place: longer than before or padded with newlines by one `write`, cut
afterwards, so that a crash between leaves empty lines at worst.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final

from sevpn.errors import HostError, PrivilegeError
from sevpn.net.dns.backend import Owner, server_texts
from sevpn.net.model import Resolver

__all__ = ["MAX_SERVERS", "ResolvConf", "marker_owner", "render"]

MAX_SERVERS: Final = 3
"""The C library reads three `nameserver` lines and skips the rest (MAXNS)."""

_MARKER: Final = "# sevpn tunnel "
_ABSENT: Final = b"# sevpn: there was no resolv.conf\n"
_MAX_SIZE: Final = 1 << 20
"""A larger resolv.conf is none; it is not touched."""


def render(resolver: Resolver, owner: Owner) -> bytes:
    """Return the text of the file.

    Args:
        resolver: At most :data:`MAX_SERVERS` servers are used; its domains are clean.
        owner: Whose file it is, for the marker.
    """
    lines = [
        f"{_MARKER}{owner.tunnel}: written by sevpn; the file before it is .resolv.conf.sevpn-saved and comes back",
        "# when the tunnel ends, or by `sevpn cleanup`. Changes here are lost then.",
    ]
    if resolver.search:
        lines.append(f"search {' '.join(resolver.search)}")
    servers = server_texts(resolver, owner)[:MAX_SERVERS]
    lines += [f"nameserver {server}" for server in servers]
    return ("\n".join(lines) + "\n").encode("ascii")


def marker_owner(content: bytes) -> str | None:
    """Return the name of the tunnel that wrote *content*, or `None`."""
    line = content[:256].split(b"\n", 1)[0].decode("utf-8", "replace")
    if not line.startswith(_MARKER):
        return None
    return line.removeprefix(_MARKER).partition(":")[0]


class ResolvConf:
    """The resolv.conf below one folder.

    Args:
        etc: The folder, `/etc` outside of tests.
    """

    def __init__(self, etc: Path) -> None:
        self.folder = etc
        """Where it lies."""
        self._path = etc / "resolv.conf"
        self._saved = etc / ".resolv.conf.sevpn-saved"
        self._new = etc / ".resolv.conf.sevpn-new"

    def owner(self) -> str | None:
        """Return the name of the tunnel whose file it is now; `None`: it is not ours."""
        content = _read(self._path)
        return None if content is None else marker_owner(content)

    @property
    def has_stale_copy(self) -> bool:
        """Whether a crash left something beside a resolv.conf that is not ours."""
        has_saved = self.owner() is None and os.path.lexists(self._saved)
        return has_saved or os.path.lexists(self._new)

    def set(self, resolver: Resolver, owner: Owner) -> None:
        """Save what is there, unless it is a tunnel's already, and write *resolver*.

        Raises:
            HostError: The file cannot be replaced; it is then as it was.
            PrivilegeError: No permission.
        """
        try:
            if self.owner() is None:
                self._save()
            self._put(render(resolver, owner))
        except OSError as error:
            with contextlib.suppress(HostError):
                self.forget_stale_copy()
            raise self._cannot("write", error) from error

    def restore(self, owner: Owner) -> None:
        """Put back what was there before, unless the file is another tunnel's.

        Raises:
            HostError: As :meth:`put_back`.
        """
        if self.owner() in {None, owner.tunnel}:
            self.put_back()

    def is_in_place(self, resolver: Resolver, owner: Owner) -> bool:
        """Whether the file is what we wrote, to the byte."""
        return _read(self._path) == render(resolver, owner)

    def watched(self) -> tuple[Path, ...]:
        """Return the file's folder, and the file, which may be a mount point."""
        return (self._path.parent, self._path)

    def put_back(self) -> bool:
        """Put back what was there before, if the file is still a tunnel's.

        When somebody else has written it meanwhile, theirs stays and our copy goes.

        Returns:
            Whether the file was ours and is restored now.

        Raises:
            HostError: It cannot be put back: the copy is gone, or the file
                cannot be written.
        """
        try:
            if self.owner() is None:
                self.forget_stale_copy()
                return False
            self._put_back()
        except OSError as error:
            raise self._cannot("restore", error) from error
        return True

    def forget_stale_copy(self) -> None:
        """Delete what a crash left beside a resolv.conf that is not ours.

        Raises:
            HostError: It cannot be deleted.
        """
        try:
            if self.owner() is None:
                _remove(self._saved)
            _remove(self._new)
        except OSError as error:
            raise self._cannot("clean up beside", error) from error

    # --- steps ---

    def _save(self) -> None:
        _remove(self._saved)
        try:
            mode = self._path.lstat().st_mode
        except FileNotFoundError:
            _write_new(self._saved, _ABSENT, 0o644)
            return
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise OSError(errno.EINVAL, "it is neither a file nor a symbolic link")
        try:
            os.link(self._path, self._saved, follow_symlinks=False)
        except OSError as error:
            if error.errno in {errno.EROFS, errno.EACCES, errno.ENOSPC}:
                raise
            self._copy(mode)  # another file system, or one without hard links
        _sync_folder(self._saved.parent)

    def _copy(self, mode: int) -> None:
        if stat.S_ISLNK(mode):
            self._saved.symlink_to(self._path.readlink())
            return
        content = _read(self._path)
        if content is None:
            raise OSError(errno.EFBIG, "it is too large to be a resolv.conf")
        _write_new(self._saved, content, stat.S_IMODE(mode))

    def _put(self, content: bytes) -> None:
        _write_new(self._new, content, 0o644)
        self._become(self._new, content)

    def _put_back(self) -> None:
        if not os.path.lexists(self._saved):
            raise OSError(
                errno.ENOENT,
                f"{self._saved} is gone, so nobody knows what was there before",
            )
        content = None if self._saved.is_symlink() else _read(self._saved)
        if content == _ABSENT:
            self._remove_both()
            return
        self._become(self._saved, content)

    def _remove_both(self) -> None:
        try:
            self._path.unlink()
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            _write_in_place(self._path, b"")
        self._saved.unlink()
        _sync_folder(self._path.parent)

    def _become(self, source: Path, content: bytes | None) -> None:
        """Make *source* resolv.conf: by rename, or by its *content* in place."""
        try:
            source.replace(self._path)
        except OSError as error:
            if error.errno not in {errno.EBUSY, errno.EXDEV} or content is None:
                raise
            _write_in_place(self._path, content)
            source.unlink()
        _sync_folder(self._path.parent)

    def _cannot(self, verb: str, error: OSError) -> HostError:
        operation = f"{verb.split(maxsplit=1)[0]}-resolver"
        hint = (
            "leave names alone with --dns-mode off"
            if verb == "write"
            else "check its name servers by hand"
        )
        if error.errno in {errno.EACCES, errno.EPERM}:
            if os.geteuid() == 0:
                hint = f"is it immutable (`lsattr {self._path}`)? Else {hint}"
            else:
                hint = f"run sevpn with sudo, or {hint}"
            return PrivilegeError(
                f"no permission to {verb} {self._path}: {hint}", operation=operation
            )
        reason = "it is read-only" if error.errno == errno.EROFS else error.strerror
        return HostError(
            f"cannot {verb} {self._path}: {reason}; {hint}", operation=operation
        )


def _read(path: Path) -> bytes | None:
    """Return what is in *path*; `None` when it cannot be read or is too large."""
    try:
        # Non-blocking: a pipe by that name must not hold us.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(_MAX_SIZE + 1)
    return content if len(content) <= _MAX_SIZE else None


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that was not there, whole and on disk."""
    _remove(path)
    # O_EXCL: never through a link that somebody put there meanwhile.
    descriptor = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode
    )
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # whatever the umask
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _remove(path: Path) -> None:
    # Asked first, because a read-only file system refuses to delete even nothing.
    if os.path.lexists(path):
        path.unlink()


def _write_in_place(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        padding = max(0, os.fstat(descriptor).st_size - len(content))
        os.pwrite(descriptor, content + b"\n" * padding, 0)
        os.ftruncate(descriptor, len(content))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
