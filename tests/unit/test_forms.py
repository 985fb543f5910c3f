# SPDX-License-Identifier: Apache-2.0
"""Which form of the turn runs: the environment decides when the program begins."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from types import ModuleType

import pytest

from kernel_forms import OBSTACLE, ROOT, load
from sevpn import forms

WHERE = "import importlib, sys; print(importlib.import_module(sys.argv[1]).__file__)"


def file_of(module: ModuleType) -> str:
    return str(module.__file__)


def imported(name: str, **environ: str) -> str:
    """Return what file a new process imports a module from."""
    kept = {key: value for key, value in os.environ.items() if key != "SEVPN_KERNEL"}
    done = subprocess.run(
        [sys.executable, "-c", WHERE, name],
        env={**kept, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", sorted(forms.TURN))
def test_the_python_form_is_imported_from_its_source(name: str) -> None:
    assert imported(name, SEVPN_KERNEL="python").endswith(
        f"{name.replace('.', '/')}.py"
    )


@pytest.mark.skipif(bool(OBSTACLE), reason=OBSTACLE)
@pytest.mark.parametrize("name", sorted(forms.TURN))
def test_the_compiled_form_is_imported_unless_the_other_is_asked_for(name: str) -> None:
    assert imported(name).endswith(".so")


def test_modules_outside_the_turn_are_left_to_others() -> None:
    assert imported("sevpn.dataplane.path", SEVPN_KERNEL="python").endswith("path.py")


def test_a_test_gets_either_form_in_one_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SEVPN_KERNEL", raising=False)
    module = importlib.import_module("sevpn.dataplane.pump")
    assert forms.in_form("sevpn.dataplane.pump") is module

    monkeypatch.setenv("SEVPN_KERNEL", "python")
    source = forms.in_form("sevpn.dataplane.pump")
    assert file_of(source).endswith("dataplane/pump.py")
    assert source is forms.in_form("sevpn.dataplane.pump")
    assert importlib.import_module("sevpn.dataplane.pump") is module


def test_an_installation_without_sources_says_so() -> None:
    # The one-file executable has machine code alone.
    with pytest.raises(ImportError, match="not installed with its source"):
        forms._interpreted("sevpn.dataplane.no_such_module")


def test_the_build_compiles_the_modules_of_the_turn() -> None:
    hook = load(ROOT / "hatch_build.py", "build_hook_of_the_turn")
    assert set(hook.TURN) == forms.TURN
