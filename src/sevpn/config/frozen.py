# SPDX-License-Identifier: Apache-2.0
"""sevpn as one executable file: how it starts itself, and what its children get.

Layer: config. Runs in: any thread; :func:`restore_environment` in the main thread,
before any other. As an installed package all of this does nothing.

    dist/sevpn                     static: unpacks a loader, a C library and …
      └─ $TMPDIR/staticx-XXXXXX/   … a second launcher, which unpacks Python; it puts
           │                       itself into LD_LIBRARY_PATH and marks in _PYI_…
           └─ $TMPDIR/_MEIXXXXXX/  this process; both launchers wait for its end,
                                   hand signals on, and remove their folders

A program of this host that is started with our LD_LIBRARY_PATH loads our libraries
in place of its own. The loader of this process has read it when we were started,
so it is taken back for good rather than at every start of a child.

Source: PyInstaller, "Run-time Information"; staticx, "Run-time Information";
tmpfiles.d(5) for the lock.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

__all__ = ["hold_files", "is_frozen", "own_command", "restore_environment"]


def is_frozen() -> bool:
    """Whether this program is one executable file."""
    return bool(getattr(sys, "frozen", False))


def restore_environment(environ: MutableMapping[str, str], *, frozen: bool) -> None:
    """Make *environ* again what our first launcher was given, where its marks harm others.

    Args:
        environ: The environment that children inherit; changed in place.
        frozen: Whether launchers have changed it; if not, nothing is done.
    """
    if not frozen:
        return
    environ.pop("LD_LIBRARY_PATH", None)
    original = environ.pop("LD_LIBRARY_PATH_ORIG", None)
    if original is not None:
        environ["LD_LIBRARY_PATH"] = original
    # With these the second launcher of a child takes our folder for its own.
    for name in [name for name in environ if name.startswith("_PYI_")]:
        del environ[name]


def own_command(environ: Mapping[str, str], *, frozen: bool) -> list[str]:
    """Return the words that start this program again, to be followed by its arguments.

    Args:
        environ: Our environment, which names the file that the user started.
        frozen: Whether there is such a file.
    """
    if frozen:
        return [environ.get("STATICX_PROG_PATH") or sys.executable]
    return [sys.executable, "-m", "sevpn"]


def hold_files(environ: Mapping[str, str], *, frozen: bool) -> None:
    """Keep the unpacked files for as long as this process lives, and no longer.

    Many machines remove what has lain in the temporary folder for days. They
    leave out a folder that somebody has locked.

    The outer launcher dies of the SIGHUP of a terminal that is closed, while we
    end in order; what it cannot remove any more is then removed by us.
    """
    if not frozen:
        return
    bundle = environ.get("STATICX_BUNDLE_DIR")
    for folder in (getattr(sys, "_MEIPASS", None), bundle):
        if folder is not None:
            _lock(folder)
    if bundle is not None:
        atexit.register(_remove_orphan, bundle, _outer_launcher())


def _lock(folder: str) -> None:
    # Never closed: the lock ends with the process. A file system without locks
    # is no reason to fail.
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _outer_launcher() -> int | None:
    """Return our parent's parent; another one than before means that that has ended."""
    try:
        line = Path(f"/proc/{os.getppid()}/stat").read_text("ascii", "replace")
    except OSError:
        return None
    return int(line.rpartition(")")[2].split()[1])  # PID (NAME) STATE PPID …


def _remove_orphan(bundle: str, launcher: int | None) -> None:
    if _outer_launcher() != launcher:
        shutil.rmtree(bundle, ignore_errors=True)
