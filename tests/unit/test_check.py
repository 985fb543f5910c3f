# SPDX-License-Identifier: Apache-2.0
"""What the gate makes of tests that fail: `scripts/check.py`."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check", ROOT / "scripts/check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


FLAKY = """
from pathlib import Path

import pytest

SEEN = Path(__file__).with_name("seen")

def test_that_passes():
    pass

@pytest.mark.parametrize("way", ["a b", "c::d"])
def test_that_passes_alone(way):
    with SEEN.open("a+") as seen:
        seen.seek(0)
        was_seen = way in seen.read()
        seen.write(way)
    assert was_seen

def test_that_fails():
    assert NEVER
"""


def steps(check: ModuleType, folder: Path, text: str) -> list[tuple[Any, Any]]:
    """Run tests like a step of the gate; return it, and how it ended."""
    (folder / "test_it.py").write_text(text)
    vars(check)["WORK"] = folder / "work"
    check.WORK.mkdir()
    settings = {"limit_s": 60, "report": "it"}
    step = check.Step(
        "it",
        check.pytest_in(str(folder), **settings),
        again=check.pytest_in(str(folder), only_failed=True, **settings),
    )
    return [(step, check.timed(step))]


def test_what_passes_alone_is_named_and_what_fails_again_has_failed(
    check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = steps(check, tmp_path, FLAKY.replace("NEVER", "False"))
    first = done[0][1]
    assert (first.passed, first.failed) == (1, 3)

    check.try_again(done)

    assert (first.passed, first.failed) == (3, 1)
    assert [name.rpartition("::test_")[2] for name in first.failures] == ["that_fails"]
    assert not check.summarise(done, 1.0)
    told = capsys.readouterr().out
    assert "failed beside others, and passed alone:" in told
    assert "test_that_passes_alone[a b]" in told
    assert "3 passed, 1 failed, 0 skipped" in told


def test_a_gate_in_which_all_pass_alone_is_green_and_says_so(
    check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = steps(check, tmp_path, FLAKY.replace("NEVER", "True"))

    check.try_again(done)

    assert check.summarise(done, 1.0)
    assert "failed beside others, and passed alone:" in capsys.readouterr().out


def test_many_failures_are_no_accident(check: ModuleType, tmp_path: Path) -> None:
    text = "import pytest\n@pytest.mark.parametrize('n', range(4))\ndef test_it(n):\n    assert False\n"
    done = steps(check, tmp_path, text)
    ((step, outcome),) = done

    check.try_again([(dataclasses.replace(step, again=pytest.fail), outcome)])

    assert outcome.failed == 4


def test_a_step_that_broke_is_not_tried_again(
    check: ModuleType, tmp_path: Path
) -> None:
    done = steps(check, tmp_path, "import no_such_module\n")
    outcome = done[0][1]
    assert outcome.failures

    check.try_again(done)

    assert outcome.failures
    assert not check.summarise(done, 1.0)
