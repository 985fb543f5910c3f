# SPDX-License-Identifier: Apache-2.0
"""Both forms of the data path's kernel: machine code, and the very same files run as Python.

Whoever tests the kernel tests each form, and a test of both at once holds one
against the other:

    @each_form                                @both_forms
    def test_…(form: Form) -> None:           def test_…(one: Form, other: Form) -> None:
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from sevpn.dataplane.kernel import cut, merge, rc4, receive, runs, scan, wrap
from sevpn.dataplane.kernel.cut import Cutter
from sevpn.dataplane.kernel.merge import Merger
from sevpn.dataplane.kernel.receive import Receiver
from sevpn.dataplane.kernel.runs import Runs
from sevpn.dataplane.kernel.scan import BlockState, Scanner

__all__ = [
    "COMPILED",
    "FORMS",
    "INTERPRETED",
    "KERNEL",
    "Form",
    "both_forms",
    "each_form",
]

ROOT: Final = Path(__file__).parents[1]
KERNEL: Final = ROOT / "src/sevpn/dataplane/kernel"
MODULES: Final = {
    "cut": cut,
    "merge": merge,
    "rc4": rc4,
    "receive": receive,
    "runs": runs,
    "scan": scan,
    "wrap": wrap,
}


@dataclass(frozen=True)
class Form:
    """One form of the kernel."""

    name: str
    """`compiled` or `interpreted`."""

    cutter: type[Cutter]
    """Of cut.py."""

    scanner: type[Scanner]
    """Of scan.py."""

    block_state: type[BlockState]
    """Likewise."""

    merger: type[Merger]
    """Of merge.py."""

    merge: ModuleType
    """merge.py itself."""

    runs: type[Runs]
    """Of runs.py."""

    receiver: type[Receiver]
    """Of receive.py."""

    rc4_all: Callable[[Sequence[bytes], Sequence[bytes]], list[bytes]]
    """Of rc4.py."""

    wrap_frames: Callable[[bytes, bytes, int], tuple[list[bytes], list[bytes]]]
    """Of wrap.py."""


def load(path: Path, name: str) -> ModuleType:
    """Return the module in a file, under a name of its own."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _form(name: str, modules: dict[str, ModuleType]) -> Form:
    return Form(
        name=name,
        cutter=modules["cut"].Cutter,
        scanner=modules["scan"].Scanner,
        block_state=modules["scan"].BlockState,
        merger=modules["merge"].Merger,
        merge=modules["merge"],
        runs=modules["runs"].Runs,
        receiver=modules["receive"].Receiver,
        rc4_all=modules["rc4"].rc4_all,
        wrap_frames=modules["wrap"].wrap_frames,
    )


def _obstacle() -> str:
    """Say why there is no compiled form; nothing: there is one, of these sources."""
    if any(not str(module.__file__).endswith(".so") for module in MODULES.values()):
        return "the kernel is not compiled: `python -m hatchling build -t wheel` does it, with a C compiler"
    hook = load(ROOT / "hatch_build.py", "kernel_build_hook")
    stamp = KERNEL / ".compiled"
    if not stamp.exists() or stamp.read_text("ascii") != hook.stamp_of(ROOT):
        return "the compiled kernel is of other sources: `python -m hatchling build -t wheel` renews it"
    return ""


OBSTACLE: Final = _obstacle()

INTERPRETED: Final = _form(
    "interpreted",
    {name: load(KERNEL / f"{name}.py", f"interpreted_{name}") for name in MODULES},
)

COMPILED: Final = INTERPRETED if OBSTACLE else _form("compiled", MODULES)
"""The compiled form. Where there is none its tests are skipped, which CI counts as a failure."""

FORMS: Final = (INTERPRETED,) if OBSTACLE else (COMPILED, INTERPRETED)
"""Those that are there: for a test whose oracle is slow. Others use :data:`each_form`."""

_MARKS: Final = [pytest.mark.skip(reason=OBSTACLE)] if OBSTACLE else []

each_form: Final = pytest.mark.parametrize(
    "form",
    [
        pytest.param(COMPILED, id="compiled", marks=_MARKS),
        pytest.param(INTERPRETED, id="interpreted"),
    ],
)
"""Runs a test with each form."""

both_forms: Final = pytest.mark.parametrize(
    ("one", "other"),
    [pytest.param(COMPILED, INTERPRETED, id="both", marks=_MARKS)],
)
"""Runs a test with both forms at once."""
