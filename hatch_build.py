# SPDX-License-Identifier: Apache-2.0
"""Compiles the data path into the wheel, where there is a compiler.

The modules of `MODULES` run as they are; with Cython and a C compiler the same files
become machine code, and the wheel is one for this Python and processor. Without,
the wheel is a pure one, and says so while it is built: an installation never fails
for want of a compiler.

The modules are compiled beside their sources, so that an editable installation
has them, too; a stamp tells whether they are of these sources.

Environment: SEVPN_BUILD_KERNEL is `auto` (the default), `no`, or `required`, which
makes a failing compiler an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("src")
STAMP = SOURCE / "sevpn/dataplane/kernel/.compiled"
FRAMES = tuple(
    f"sevpn.dataplane.kernel.{name}"
    for name in ("cut", "merge", "rc4", "receive", "runs", "scan", "wrap")
)
"""What is done for each frame."""
TURN = (
    "sevpn.dataplane.compiled",
    "sevpn.dataplane.pump",
    "sevpn.dataplane.sieve",
    "sevpn.transport.stream",
)
"""What is done for each chunk and batch: the turn of the data thread."""
MODULES = FRAMES + TURN
PROBE = """
#include <Python.h>
PyMODINIT_FUNC PyInit_probe(void) { return NULL; }
"""
DIRECTIVES = {
    "language_level": 3,
    "show_performance_hints": False,
    # The annotations are Python's; the C types stand in the .pxd files.
    "annotation_typing": False,
}
UNCHECKED = {
    # The bounds are the kernel's own business: it checks them once per packet.
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
}


class KernelBuildHook(BuildHookInterface[Any]):
    """Adds the compiled modules to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - the interface's
        """Compile, unless the wheel is to be a pure one."""
        wish = os.environ.get("SEVPN_BUILD_KERNEL", "auto")
        if wish == "no":
            remove_compiled(Path(self.root))
            return
        try:
            compile_kernel(Path(self.root))
        except (Exception, SystemExit) as error:  # a compiler may fail in any way
            remove_compiled(Path(self.root))
            if wish == "required":
                raise
            self.app.display_warning(
                f"the kernel was not compiled, frames take the Python path: {error}"
            )
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["artifacts"] += [f"/{pattern_of(name)}" for name in MODULES]


def compile_kernel(root: Path) -> None:
    """Compile what is not compiled yet."""
    stamp, wanted = root / STAMP, stamp_of(root)
    is_there = all(any(root.glob(pattern_of(name))) for name in MODULES)
    if is_there and stamp.exists() and stamp.read_text("ascii") == wanted:
        return
    stamp.unlink(missing_ok=True)
    # Not needed, and perhaps not there, when nothing is compiled.
    from Cython.Build import cythonize  # noqa: PLC0415
    from setuptools import Extension  # noqa: PLC0415

    said = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as work,
        contextlib.redirect_stdout(said),
        contextlib.chdir(root / SOURCE),
    ):
        # Without a compiler that works, or Python's headers, nothing need be translated.
        probe = Path(work, "probe.c")
        probe.write_text(PROBE, "ascii")
        build([Extension("probe", [str(probe)])], Path(work, "probe"))
        extensions = []
        for names, directives in ((FRAMES, DIRECTIVES | UNCHECKED), (TURN, DIRECTIVES)):
            extensions += cythonize(  # type: ignore[no-untyped-call] # it has none
                [
                    Extension(
                        name,
                        [f"{path_of(name)}.py"],
                        extra_compile_args=["-O3", "-g0"],
                    )
                    for name in names
                ],
                build_dir=work,
                compiler_directives=directives,
                quiet=True,
            )
        made = Path(work, "made")
        build(extensions, made)
        for built in made.rglob("*.so"):
            # At once, for another process may be running the old one.
            place = root / SOURCE / built.relative_to(made)
            new = place.with_name(f".{built.name}.{os.getpid()}")
            new.write_bytes(built.read_bytes())
            new.replace(place)
    stamp.write_text(wanted, "ascii")


def build(extensions: list[Any], folder: Path) -> None:
    """Compile *extensions* into *folder*."""
    from setuptools import Distribution  # noqa: PLC0415 - as above
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415

    command = build_ext(
        Distribution(
            {"name": "sevpn-kernel", "packages": [], "ext_modules": extensions}
        )
    )
    command.build_temp = command.build_lib = str(folder)
    # Each of them needs 200 MB.
    command.parallel = min(4, len(os.sched_getaffinity(0)))
    command.ensure_finalized()
    command.run()


def stamp_of(root: Path) -> str:
    """Return what the compiled modules depend on, as a hash."""
    digest = hashlib.sha256(
        f"{sys.version} {sys.platform} {os.uname().machine}".encode()
    )
    sources = {path.with_suffix(".py") for path in (root / SOURCE).rglob("*.pxd")}
    sources |= {root / SOURCE / f"{path_of(name)}.py" for name in MODULES}
    types = (root / SOURCE).rglob("*.pxd")
    for path in sorted([*sources, *types, Path(__file__)]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def remove_compiled(root: Path) -> None:
    """Remove what was compiled earlier: it may be of other sources."""
    for path in (root / SOURCE).rglob("*.so"):
        path.unlink()
    (root / STAMP).unlink(missing_ok=True)


def path_of(name: str) -> str:
    """Return where the source of a module lies below `src`, without its suffix."""
    return name.replace(".", "/")


def pattern_of(name: str) -> str:
    """Return what matches a compiled module, below the project's folder."""
    return f"{SOURCE}/{path_of(name)}.*.so"
