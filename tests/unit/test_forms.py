# SPDX-License-Identifier: Apache-2.0
"""Which form of the data path runs: the environment decides when the program begins."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from types import ModuleType

import pytest

from kernel_forms import OBSTACLE, ROOT, load
from sevpn import forms

WHERE = """
import importlib, sys
for name in sys.argv[1:]:
    print(name, importlib.import_module(name).__file__)
"""


def file_of(module: ModuleType) -> str:
    return str(module.__file__)


def imported(*names: str, **environ: str) -> dict[str, str]:
    """Return what files a new process imports modules from."""
    kept = {key: value for key, value in os.environ.items() if key != "SEVPN_KERNEL"}
    done = subprocess.run(
        [sys.executable, "-c", WHERE, *names],
        env={**kept, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def test_the_python_form_is_imported_from_its_sources() -> None:
    found = imported(*forms.COMPILED, SEVPN_KERNEL="python")

    assert found.keys() == forms.COMPILED
    for name, file in found.items():
        assert file.endswith(f"{name.replace('.', '/')}.py")


@pytest.mark.skipif(bool(OBSTACLE), reason=OBSTACLE)
def test_the_compiled_form_is_imported_unless_the_other_is_asked_for() -> None:
    found = imported(*forms.COMPILED)

    assert found.keys() == forms.COMPILED
    assert all(file.endswith(".so") for file in found.values())


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


def test_the_build_compiles_these_modules() -> None:
    hook = load(ROOT / "hatch_build.py", "build_hook_and_forms")
    assert set(hook.MODULES) == forms.COMPILED
