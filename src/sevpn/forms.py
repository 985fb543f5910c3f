# SPDX-License-Identifier: Apache-2.0
"""Which form of the data path runs: machine code, or the same files as Python.

Layer: none; below all others, and in use before any of them is imported.

A compiled module lies beside its source, and Python imports the compiled one. With
``SEVPN_KERNEL=python`` in the environment all of them are imported from their
sources, and frames take the path that is made for the interpreter (`dataplane/path.py`):

    import sevpn.dataplane.pump ──> pump.cpython-….so     as it is
                                └─> pump.py               after prefer_sources()

docs/decisions/0007-kernel.md and 0019-compiled-turn.md say why they are compiled.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Final

__all__ = ["COMPILED", "in_form", "is_python_wanted", "prefer_sources"]

COMPILED: Final = frozenset(
    {
        *(
            f"sevpn.dataplane.kernel.{name}"
            for name in ("cut", "merge", "rc4", "receive", "runs", "scan", "wrap")
        ),
        "sevpn.dataplane.compiled",
        "sevpn.dataplane.pump",
        "sevpn.dataplane.sieve",
        "sevpn.transport.stream",
    }
)
"""The modules that `hatch_build.py` compiles."""

_FORM: Final = "SEVPN_KERNEL"


def is_python_wanted() -> bool:
    """Whether the environment asks for the Python form, compiled or not."""
    return os.environ.get(_FORM, "") == "python"


def in_form(name: str) -> ModuleType:
    """Return a module of :data:`COMPILED` in the form that the environment asks for just now.

    For tests, which try both in one process: whoever imports the module gets the form
    that was asked for when the program began.
    """
    module = importlib.import_module(name)
    return _interpreted(name) if is_python_wanted() else module


@functools.cache
def _interpreted(name: str) -> ModuleType:
    package = importlib.import_module(name.rpartition(".")[0])
    spec = _source_spec(name, package.__path__)
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} is not installed with its source", name=name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _source_spec(name: str, folders: Iterable[str]) -> ModuleSpec | None:
    """Return where the source of a module is, if it is in one of the folders."""
    for folder in folders:
        source = Path(folder) / f"{name.rpartition('.')[2]}.py"
        if source.is_file():
            return importlib.util.spec_from_file_location(name, source)
    return None  # the one-file executable has no sources


class _Sources(MetaPathFinder):
    """Finds the sources of the modules, where they are installed."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002 - the interface's
    ) -> ModuleSpec | None:
        """Return where the source of *fullname* is; None leaves it to the others."""
        return _source_spec(fullname, path or ()) if fullname in COMPILED else None


def prefer_sources() -> None:
    """Import the modules from their sources from now on."""
    sys.meta_path.insert(0, _Sources())
