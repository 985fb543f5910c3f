# SPDX-License-Identifier: Apache-2.0
"""Compiles the kernel of the data path into the wheel, where there is a compiler.

`src/sevpn/dataplane/kernel/*.py` run as they are; with Cython and a C compiler the
same files become machine code, and the wheel is one for this Python and processor.
Without, the wheel is a pure one, and says so while it is built: an installation
never fails for want of a compiler.

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

KERNEL = Path("src/sevpn/dataplane/kernel")
MODULES = ("cut", "merge", "rc4", "receive", "runs", "scan", "wrap")
DIRECTIVES = {
    "language_level": 3,
    # The bounds are the kernel's own business: it checks them once per packet.
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    # The annotations are Python's; the C types stand in the .pxd files.
    "annotation_typing": False,
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
        build_data["artifacts"] += [f"/{KERNEL}/*.so"]


def compile_kernel(root: Path) -> None:
    """Compile what is not compiled yet."""
    folder = root / KERNEL
    stamp, wanted = folder / ".compiled", stamp_of(root)
    is_there = all(list(folder.glob(f"{name}.*.so")) for name in MODULES)
    if is_there and stamp.exists() and stamp.read_text("ascii") == wanted:
        return
    stamp.unlink(missing_ok=True)
    # Not needed, and perhaps not there, when nothing is compiled.
    from Cython.Build import cythonize  # noqa: PLC0415
    from setuptools import Distribution, Extension  # noqa: PLC0415
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415

    said = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as work,
        contextlib.redirect_stdout(said),
        contextlib.chdir(root / "src"),
    ):
        extensions = [
            Extension(
                f"sevpn.dataplane.kernel.{name}",
                [f"sevpn/dataplane/kernel/{name}.py"],
                extra_compile_args=["-O3", "-g0"],
            )
            for name in MODULES
        ]
        distribution = Distribution(
            {
                "name": "sevpn-kernel",
                "packages": [],
                "ext_modules": cythonize(  # type: ignore[no-untyped-call] # it has none
                    extensions,
                    build_dir=work,
                    compiler_directives=DIRECTIVES,
                    quiet=True,
                ),
            }
        )
        command = build_ext(distribution)
        command.build_temp = work
        command.build_lib = work
        command.ensure_finalized()
        command.run()
        for built in Path(work).rglob("*.so"):
            # At once, for another process may be running the old one.
            new = folder / f".{built.name}.{os.getpid()}"
            new.write_bytes(built.read_bytes())
            new.replace(folder / built.name)
    stamp.write_text(wanted, "ascii")


def stamp_of(root: Path) -> str:
    """Return what the compiled modules depend on, as a hash."""
    digest = hashlib.sha256(
        f"{sys.version} {sys.platform} {os.uname().machine}".encode()
    )
    for path in sorted(
        [*(root / KERNEL).glob("*.py"), *(root / KERNEL).glob("*.pxd"), Path(__file__)]
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def remove_compiled(root: Path) -> None:
    """Remove what was compiled earlier: it may be of other sources."""
    for path in [*(root / KERNEL).glob("*.so"), root / KERNEL / ".compiled"]:
        path.unlink(missing_ok=True)
