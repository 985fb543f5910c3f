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

import fcntl
import os
import sys
from collections.abc import Mapping, MutableMapping

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
    """Keep the unpacked files for as long as this process lives.

    Many machines remove what has lain in the temporary folder for days. They
    leave out a folder that somebody has locked.
    """
    if not frozen:
        return
    for folder in (getattr(sys, "_MEIPASS", None), environ.get("STATICX_BUNDLE_DIR")):
        if folder is None:
            continue
        # Never closed: the lock ends with the process.
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            continue  # a file system without locks: as before this one tried
