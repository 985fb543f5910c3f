# SPDX-License-Identifier: Apache-2.0
"""The gate itself: what it counts, and what it calls a failure."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]

SAMPLE = """
import pytest

def test_good(): pass
def test_bad(): assert False
def test_elsewhere(): pytest.skip("needs another machine")
@pytest.fixture
def broken(): raise OSError("no")
def test_unmade(broken): pass
"""


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check", ROOT / "scripts/check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check"] = module
    spec.loader.exec_module(module)
    return module


def run_pytest(folder: Path, text: str) -> tuple[Path, int]:
    (folder / "test_sample.py").write_text(text, "utf-8")
    report = folder / "report.xml"
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--junitxml={report}",
    ]
    ended = subprocess.run(
        [*words, f"--rootdir={folder}", "-c", "/dev/null", folder],
        check=False,
        capture_output=True,
        # What pytest itself reports is the same without any plugin, and comes sooner.
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    return report, ended.returncode


def test_each_end_of_a_test_is_counted(check: ModuleType, tmp_path: Path) -> None:
    report, status = run_pytest(tmp_path, SAMPLE)

    outcome = check.read_report(report, status, "")

    assert (outcome.passed, outcome.failed) == (1, 2)
    assert {line.rpartition("::")[2] for line in outcome.failures} == {
        "test_bad",
        "test_unmade",
    }
    assert [line.rpartition("::")[2] for line in outcome.left_out] == [
        "test_elsewhere: needs another machine"
    ]


def test_a_file_that_cannot_be_imported_is_a_failure(
    check: ModuleType, tmp_path: Path
) -> None:
    report, status = run_pytest(tmp_path, "import no_such_module")

    outcome = check.read_report(report, status, "")

    assert outcome.failed == 1
    assert check.status_of(outcome) == "FAILED"


def test_a_run_that_leaves_no_report_is_a_failure(
    check: ModuleType, tmp_path: Path
) -> None:
    outcome = check.read_report(tmp_path / "none.xml", 3, "")

    assert outcome.failed == 1
    assert check.status_of(outcome) == "FAILED"


@pytest.mark.parametrize(("is_ci", "word"), [(False, "left out"), (True, "FAILED")])
def test_what_could_not_run_is_a_failure_only_in_ci(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, *, is_ci: bool, word: str
) -> None:
    monkeypatch.setattr(check, "IS_CI", is_ci)
    outcome = check.Outcome(left_out=["interop: no peers"])

    assert check.status_of(outcome) == word


@pytest.mark.parametrize("is_ci", [False, True])
def test_the_last_line_is_the_count(
    check: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    is_ci: bool,
) -> None:
    monkeypatch.setattr(check, "IS_CI", is_ci)
    done = [
        (check.Step("unit", check.Outcome), check.Outcome(passed=5)),
        (
            check.Step("netns", check.Outcome),
            check.Outcome(passed=2, left_out=["x: no root"]),
        ),
    ]

    is_well = check.summarise(done, 1.0)

    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "7 passed, 0 failed, 1 skipped"
    assert "  netns: x: no root" in lines
    assert is_well is not is_ci


def test_a_failed_step_without_tests_fails_the_gate(check: ModuleType) -> None:
    done = [
        (
            check.Step("lint", check.Outcome),
            check.Outcome(failures=["ruff ended with status 1"]),
        )
    ]

    assert not check.summarise(done, 1.0)


def test_a_run_that_finds_no_test_is_left_out(
    check: ModuleType, tmp_path: Path
) -> None:
    report, status = run_pytest(tmp_path, "")

    outcome = check.read_report(report, status, "")

    assert (outcome.passed, outcome.failed) == (0, 0)
    assert check.status_of(outcome) != "ok"


def test_the_steps_of_a_stage_run_beside_each_other(check: ModuleType) -> None:
    meeting = threading.Barrier(2)

    def meet() -> object:
        meeting.wait(30)
        return check.Outcome(passed=1)

    done = list(check.carry_out([check.Step("one", meet), check.Step("two", meet)]))

    assert {step.name for step, _ in done} == {"one", "two"}
    assert not any(outcome.failures for _, outcome in done)


def test_a_stage_begins_when_the_one_before_has_ended_however_it_did(
    check: ModuleType,
) -> None:
    begun: list[str] = []

    def breaks() -> object:
        begun.append("lint")
        raise OSError("no such program")

    def runs() -> object:
        begun.append("netns")
        return check.Outcome(passed=1)

    steps = [
        check.Step("netns", runs, check.Stage.TESTS),
        check.Step("lint", breaks, check.Stage.CHECKS),
    ]
    done = {step.name: outcome for step, outcome in check.carry_out(steps)}

    assert begun == ["lint", "netns"]
    assert done["lint"].failures == ["OSError: no such program"]
    assert done["netns"].passed == 1


def test_no_two_steps_have_one_name_and_frames_are_moved_by_both_kernels(
    check: ModuleType,
) -> None:
    names = [step.name for step in check.gate(1)]

    assert len(set(names)) == len(names)
    assert {"netns", "interop", "e2e-python"} <= set(names)


def test_a_program_that_hangs_is_ended_with_what_it_started(check: ModuleType) -> None:
    status, output = check.run_program(
        ["sh", "-c", "echo begun; sleep 30 | sleep 30"], limit_s=0.3
    )

    assert status == 124
    assert "begun" in output


def test_the_locks_have_hashes_and_name_no_index(check: ModuleType) -> None:
    assert check.check_locks().failures == []
