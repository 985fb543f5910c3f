# SPDX-License-Identifier: Apache-2.0
"""The whole gate: format, lint, types, layers, unit tests, end to end.

Fast before slow; a step that fails does not stop the others, so that one run
tells all. The end-to-end tests run the package as it is installed from its
wheel, with nothing beside it but its locked requirements; those that move frames
run once more without the compiled kernel.

The steps of a stage run beside each other, as many at a time as the stage allows.
Of tests that is more than there are processors: the end-to-end ones wait more than
they compute. Each has namespaces of its own, and no test measures time.

At the end each step stands with its time, each test that could not run with its
reason, and in the last line the counts of tests. With CI=true in the environment
a test or step that could not run is a failure.

A few end-to-end tests that fail are run once more, alone, when all else has ended:
they move frames through real servers with deadlines of their own, and a machine
that stands still for seconds fails them. What passes then is no secret: it stands
in the summary by name, below what the first run said. What fails again has failed,
and so has everything where more than a few did.

usage: scripts/check [--soak] [--only STEP[,STEP…]] [--fuzz-seconds N]
exit: 0 all is well, 1 something failed, 64 usage
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

ROOT: Final = Path(__file__).resolve().parent.parent
WORK: Final = ROOT / ".cache" / "check"
INSTALLED: Final = ROOT / ".cache" / "installed"
PYTHON: Final = sys.executable
IS_CI: Final = os.environ.get("CI") == "true"

PATIENTLY: Final = ("nice", "-n", "5")
"""Before the words of what only computes: the end-to-end tests wait for each other, with
deadlines, and need little when their turn comes."""

FULL_COVERAGE: Final = (
    "src/sevpn/wire/*",
    "src/sevpn/protocol/*",
    "src/sevpn/net/plan.py",
    "src/sevpn/tunnel/machine.py",
)
"""Where a branch that no unit test takes is a failure."""

GATE_LIMIT_S: Final = 900.0
"""The promise: the whole gate on two cores."""

AGAIN_AT_MOST: Final = 3
"""Failures of a step that are tried once more, alone; more than these are no accident."""

_SHOWN_LINES: Final = 200


@dataclass
class Outcome:
    """How a step ended."""

    failures: list[str] = field(default_factory=list)
    """What is wrong, a line each; none: all is well."""

    left_out: list[str] = field(default_factory=list)
    """What could not run, with the reason, a line each."""

    passed: int = 0
    """Tests that passed."""

    failed: int = 0
    """Tests that failed."""

    alone: list[str] = field(default_factory=list)
    """Tests that failed beside others and passed alone, a line each."""

    shown: list[str] = field(default_factory=list)
    """What tests want to be shown in any case (their property `shown`), a line each."""

    output: str = ""
    """What the step said, shown if it failed."""

    took_s: float = 0.0
    """How long it took, in seconds."""


class Stage(enum.Enum):
    """When a step runs: a stage begins when the one before it has ended."""

    CHECKS = "checks"
    """What reads the sources, and what makes something of them."""

    TESTS = "tests"
    """What runs the sources, what was compiled of them, and the installed package."""


AT_A_TIME: Final = {Stage.CHECKS: 2, Stage.TESTS: 3}
"""How many steps of a stage run beside each other, in the order of the list."""


@dataclass(frozen=True)
class Step:
    """One part of the gate."""

    name: str
    """What it is called in the summary and after `--only`."""

    run: Callable[[], Outcome]
    """Does it."""

    stage: Stage = Stage.TESTS
    """When."""

    again: Callable[[], Outcome] | None = None
    """Runs what failed of it once more, if that may be done."""


# --- running programs --------------------------------------------------------


def run_program(
    words: Sequence[str | Path],
    *,
    limit_s: float,
    environ: dict[str, str] | None = None,
) -> tuple[int, str]:
    """Run a program in the project's folder; return its status and what it said.

    One that takes longer than *limit_s* is ended, with all that it started.
    """
    process = subprocess.Popen(
        [str(word) for word in words],
        cwd=ROOT,
        env=os.environ | (environ or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                output, _ = process.communicate(timeout=15)
                break
        else:
            output = ""
        return 124, f"{output}\nended after {limit_s:g} s\n"
    return process.returncode, output


def tool(*words: str | Path, limit_s: float = 300.0) -> Callable[[], Outcome]:
    """Return a step that runs one program, which tells by its status."""

    def run() -> Outcome:
        status, output = run_program(words, limit_s=limit_s)
        failures = (
            [] if status == 0 else [f"{Path(words[0]).name} ended with status {status}"]
        )
        return Outcome(failures=failures, output=output)

    return run


def module(name: str, *words: str | Path) -> Callable[[], Outcome]:
    """Return a step that runs a Python module as a program."""
    return tool(PYTHON, "-m", name, *words)


# --- what is checked ---------------------------------------------------------


def tracked_files() -> list[Path]:
    """Return the project's own files: those that git knows or would add."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, check=True, text=True)
    return [
        path
        for name in listed.stdout.split("\0")
        if name and (path := ROOT / name).is_file()
    ]


def check_licence_lines() -> Outcome:
    """Look for the licence in the first two lines of each file of code."""
    line = "SPDX-License-Identifier: Apache-2.0"
    wrong = []
    for path in tracked_files():
        name = path.relative_to(ROOT).as_posix()
        is_code = (
            path.suffix == ".py"
            or name.startswith(("scripts/", ".ci/"))
            or name in {"Makefile", "pyproject.toml"}
        )
        if is_code and line not in "".join(
            path.read_text("utf-8").splitlines(keepends=True)[:2]
        ):
            wrong.append(f"{name}: no '# {line}' on top")
    return Outcome(failures=wrong)


def check_locks() -> Outcome:
    """See that each lock has hashes and names no index."""
    wrong = []
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        text = path.read_text("utf-8")
        if "://" in text or "--index" in text or "--find-links" in text:
            wrong.append(f"{path.name}: names an index or an address")
        entries = [
            entry
            for entry in text.replace("\\\n", " ").splitlines()
            if entry.strip() and entry[0] != "#"
        ]
        wrong += [
            f"{path.name}: {entry.split()[0]} has no hash"
            for entry in entries
            if "--hash=sha256:" not in entry
        ]
    return Outcome(failures=wrong)


def check_wheel() -> Outcome:
    """Build the wheel, compare it with the sources, and install it where the end-to-end tests run it."""
    folder = WORK / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    status, output = run_program(
        [PYTHON, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], limit_s=120
    )
    if status != 0:
        return Outcome(failures=["the wheel could not be built"], output=output)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("sevpn/")}
    compiled = {name for name in packed if name.endswith(".so")}
    packed -= compiled
    source = ROOT / "src"
    wanted = {
        path.relative_to(source).as_posix()
        for path in tracked_files()
        if path.is_relative_to(source)
    }
    failures = [f"{name} is not in the wheel" for name in sorted(wanted - packed)]
    failures += [
        f"{name} is in the wheel and not in the sources"
        for name in sorted(packed - wanted)
    ]
    if not compiled and shutil.which("cc"):
        failures.append("there is a C compiler, and the kernel was not compiled")
    failures += install_wheel(wheel)
    return Outcome(failures=failures, output=output)


def make_binary() -> Outcome:
    """Make the one-file executable that the end-to-end tests run, unless it is of these sources."""
    status, output = run_program(
        [ROOT / "scripts" / "binary"], limit_s=300, environ={"PYTHON": PYTHON}
    )
    last = output.rstrip().rpartition("\n")[2]
    if status in {69, 78}:  # no package index; this host lacks something
        return Outcome(left_out=[last], output=output)
    failures = [] if status == 0 else [f"scripts/binary ended with status {status}"]
    return Outcome(failures=failures, output=output)


def install_wheel(wheel: Path) -> list[str]:
    """Install *wheel* with the locked requirements alone; return what went wrong."""
    python = str(INSTALLED / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    lock = ROOT / "requirements" / "run.txt"
    stamp = INSTALLED / "stamp"
    wanted = f"{sys.version}\n{INSTALLED}\n{lock.read_text('utf-8')}"
    steps: list[list[str]] = []
    if not stamp.exists() or stamp.read_text("utf-8") != wanted:
        shutil.rmtree(INSTALLED, ignore_errors=True)
        steps += [
            [PYTHON, "-m", "venv", str(INSTALLED)],
            [*pip, "--require-hashes", "-r", str(lock)],
        ]
    steps += [
        [*pip, "--no-deps", "--no-index", "--force-reinstall", str(wheel)],
        [python, "-m", "pip", "check"],
        [str(INSTALLED / "bin" / "sevpn"), "--version"],
    ]
    for words in steps:
        status, output = run_program(words, limit_s=300)
        if status != 0:
            return [f"{' '.join(words)}: {output.strip()}"]
    stamp.write_text(wanted, "utf-8")
    return []


# --- tests -------------------------------------------------------------------


def pytest_in(
    *folders: str,
    limit_s: float,
    marks: str = "not soak",
    report: str | None = None,
    workers: int = 0,
    environ: Mapping[str, str] | None = None,
    with_coverage: bool = False,
    as_root: bool = False,
    only_failed: bool = False,
    is_patient: bool = False,
) -> Callable[[], Outcome]:
    """Return a step that runs the tests of folders.

    Args:
        folders: Where they are.
        limit_s: When the run is ended.
        marks: Which of them, as pytest's `-m`.
        report: The name of its report, if not that of the folders.
        workers: Processes that take one test after the other, each with fixtures of
            its own; 0: this one alone.
        environ: More of the tests' environment.
        with_coverage: Whether it is measured what they reach.
        as_root: Whether they need to be root.
        only_failed: Whether only those run that failed in the run before.
        is_patient: Whether they take what the steps beside them leave over.
    """

    def run() -> Outcome:
        name = report or "-".join(folders).replace("/", "-")
        memory = WORK / f"{name}.cache"  # pytest's, of what has failed
        path = WORK / f"{name}{'-again' if only_failed else ''}.xml"
        path.unlink(missing_ok=True)
        settings = {"SEVPN_COMMAND": str(INSTALLED / "bin" / "sevpn")}
        settings |= environ or {}
        command: list[str | Path] = [PYTHON, "-m"]
        if with_coverage:
            settings["COVERAGE_FILE"] = str(WORK / "coverage")
            command += ["coverage", "run", "-m"]
        command += ["pytest", *folders, "-m", marks, "-q", "-o", f"cache_dir={memory}"]
        command += ["--continue-on-collection-errors", f"--junitxml={path}"]
        if only_failed:
            command += ["--last-failed", "--last-failed-no-failures=none"]
        else:
            shutil.rmtree(memory, ignore_errors=True)
        if workers:
            command += ["-n", str(workers), "--dist", "worksteal"]
        if as_root and os.geteuid() != 0 and can_sudo():
            settings["PYTHONDONTWRITEBYTECODE"] = "1"  # root's files would stay behind
            words = [f"{key}={value}" for key, value in settings.items()]
            command = ["sudo", "-n", "env", *words, *command]
        if is_patient:
            command = [*PATIENTLY, *command]
        status, output = run_program(command, limit_s=limit_s, environ=settings)
        return read_report(path, status, output)

    return run


def read_report(report: Path, status: int, output: str) -> Outcome:
    """Return what pytest's report says; a run without one has failed."""
    outcome = Outcome(output=output)
    if not report.exists():
        outcome.failures.append(
            f"pytest ended with status {status} and without a report"
        )
        outcome.failed = 1
        return outcome
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - pytest's own
        name = f"{case.get('classname')}::{case.get('name')}"
        outcome.shown += [
            noted.get("value", "")
            for noted in case.iter("property")
            if noted.get("name") == "shown"
        ]
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            outcome.failed += 1
            outcome.failures.append(name)
        elif skipped is not None:
            outcome.left_out.append(
                f"{name}: {skipped.get('message') or 'no reason given'}"
            )
        else:
            outcome.passed += 1
    if status == 5:
        outcome.left_out.append("no test was found")
    elif status not in {0, 1} or (status == 1 and not outcome.failed):
        outcome.failures.append(f"pytest ended with status {status}")
        outcome.failed = max(outcome.failed, 1)
    return outcome


def can_sudo() -> bool:
    """Whether root's rights can be had without asking."""
    return (
        shutil.which("sudo") is not None
        and run_program(["sudo", "-n", "true"], limit_s=10)[0] == 0
    )


def unit_tests() -> Outcome:
    """Run the unit tests, and see that they take every branch where that is promised."""
    for old in WORK.glob("coverage*"):
        old.unlink()
    outcome = pytest_in(
        "tests/unit", limit_s=1200, workers=2, with_coverage=True, is_patient=True
    )()
    environ = {"COVERAGE_FILE": str(WORK / "coverage")}
    coverage = [PYTHON, "-m", "coverage"]
    run_program([*coverage, "combine", "--quiet"], limit_s=60, environ=environ)
    status, table = run_program(
        [
            *coverage,
            "report",
            f"--include={','.join(FULL_COVERAGE)}",
            "--fail-under=100",
        ],
        limit_s=60,
        environ=environ,
    )
    if status != 0:
        outcome.failures.append(
            "a branch of wire, protocol, net/plan.py or tunnel/machine.py is not tested"
        )
        outcome.output += table
    _, whole = run_program([*coverage, "report"], limit_s=60, environ=environ)
    (WORK / "coverage.txt").write_text(whole, "utf-8")
    return outcome


def fuzz(seconds: int) -> Callable[[], Outcome]:
    """Return a step that runs each fuzz target for some seconds, two at a time."""

    def run() -> Outcome:
        targets = sorted((ROOT / "fuzz").glob("fuzz_*.py"))
        if not targets:
            return Outcome(left_out=["fuzz: there is no target"])
        if run_program([PYTHON, "-c", "import atheris"], limit_s=30)[0] != 0:
            return Outcome(
                left_out=["fuzz: atheris has no wheel for this Python and machine"]
            )
        outcome = Outcome()
        with ThreadPoolExecutor(2) as pool:
            for target, (status, output) in zip(
                targets, pool.map(lambda t: fuzz_one(t, seconds), targets), strict=True
            ):
                if status != 0:
                    outcome.failures.append(
                        f"{target.name} found an input; it is below .cache/fuzz"
                    )
                    outcome.output += output
        return outcome

    return run


def fuzz_one(target: Path, seconds: int) -> tuple[int, str]:
    """Run one target; new inputs are kept in the cache, the corpus stays as it is."""
    name = target.stem.removeprefix("fuzz_")
    found = ROOT / ".cache" / "fuzz" / name
    found.mkdir(parents=True, exist_ok=True)
    corpus = [
        path for path in (found, ROOT / "fuzz" / "corpus" / name) if path.is_dir()
    ]
    limits = [
        f"-max_total_time={seconds}",
        "-timeout=30",
        "-rss_limit_mb=1024",
        f"-artifact_prefix={found}/crash-",
    ]
    return run_program(
        [*PATIENTLY, PYTHON, target, *limits, *corpus], limit_s=seconds + 300
    )


# --- the gate ----------------------------------------------------------------


def gate(fuzz_seconds: int) -> list[Step]:
    """Return the steps of `make test`, fast before slow."""
    folders = [
        name
        for name in ("src", "tests", "fuzz", "bench", "scripts")
        if any((ROOT / name).rglob("*.py"))
    ]
    netns, interop = "tests/netns", "tests/interop"
    end_to_end = functools.partial(pytest_in, limit_s=1200, as_root=True)
    python_only = functools.partial(
        pytest_in,
        *(netns, interop),
        limit_s=400,
        marks="kernel and not soak",
        report="e2e-python",
        environ={"SEVPN_KERNEL": "python"},
        as_root=True,
    )
    checks = [
        ("licence", check_licence_lines),
        ("locks", check_locks),
        ("wheel", check_wheel),
        ("binary", make_binary),
        ("format", module("ruff", "format", "--check", ".")),
        ("lint", module("ruff", "check", ".")),
        ("layers", tool(Path(PYTHON).with_name("lint-imports"), "--no-cache")),
        ("mypy", module("mypy", *folders)),
        ("basedpyright", module("basedpyright")),
    ]
    return [
        *(Step(name, run, Stage.CHECKS) for name, run in checks),
        Step("unit", unit_tests),
        Step(
            "netns",
            end_to_end(netns, workers=3),
            again=end_to_end(netns, only_failed=True),
        ),
        Step(
            "interop",
            end_to_end(interop, workers=3),
            again=end_to_end(interop, only_failed=True),
        ),
        Step("integration", pytest_in("tests/integration", limit_s=400, workers=2)),
        Step("e2e-python", python_only(), again=python_only(only_failed=True)),
        Step("fuzz", fuzz(fuzz_seconds)),
    ]


def soak(fuzz_seconds: int) -> list[Step]:
    """Return the steps of `make soak`."""
    return [
        Step("wheel", check_wheel, Stage.CHECKS),
        Step("soak", pytest_in("tests", limit_s=4 * 3600, marks="soak", as_root=True)),
        Step(
            "laws",
            pytest_in(
                "tests/unit",
                limit_s=4 * 3600,
                report="laws",
                workers=2,
                environ={"SEVPN_TEST_EXAMPLES": "1000"},
            ),
        ),
        Step("fuzz", fuzz(fuzz_seconds)),
    ]


def carry_out(steps: Sequence[Step]) -> Iterator[tuple[Step, Outcome]]:
    """Run the steps, stage by stage; yield each as it ends."""
    for stage in Stage:
        with ThreadPoolExecutor(AT_A_TIME[stage]) as pool:
            begun = {
                pool.submit(timed, step): step for step in steps if step.stage is stage
            }
            for future in as_completed(begun):
                yield begun[future], future.result()


def timed(step: Step) -> Outcome:
    """Run one step and take its time; one that breaks has failed, and the others go on."""
    started = time.monotonic()
    try:
        outcome = step.run()
    except Exception:  # noqa: BLE001 - the top of a thread
        text = traceback.format_exc()
        outcome = Outcome(failures=[text.splitlines()[-1]], output=text)
    outcome.took_s = time.monotonic() - started
    return outcome


def try_again(done: Sequence[tuple[Step, Outcome]]) -> None:
    """Run a few end-to-end tests that failed once more, one by one and with nothing beside them.

    What passes is moved from the failures to what passed alone.
    """
    for step, outcome in done:
        if (
            step.again is None
            or not 0 < outcome.failed <= AGAIN_AT_MOST
            or len(outcome.failures) != outcome.failed  # more is wrong than tests
        ):
            continue
        second = timed(Step(f"{step.name} again", step.again))
        report_step(Step(f"{step.name} again", step.again), second)
        if second.passed + second.failed != outcome.failed:
            continue  # other tests than those that failed
        outcome.alone = [
            name for name in outcome.failures if name not in second.failures
        ]
        outcome.failures = second.failures
        outcome.failed = second.failed
        outcome.passed += second.passed
        outcome.took_s += second.took_s


def status_of(outcome: Outcome) -> str:
    """Return the word for how a step ended."""
    if outcome.failures or (IS_CI and outcome.left_out):
        return "FAILED"
    if outcome.left_out and not outcome.passed:
        return "left out"
    return "ok"


def describe(step: Step, outcome: Outcome) -> str:
    """Return the step's line."""
    counts = ""
    if outcome.passed or outcome.failed or outcome.left_out:
        counts = f"  {outcome.passed} passed, {outcome.failed} failed, {len(outcome.left_out)} skipped"
    return f"{step.name:<14} {status_of(outcome):<9} {outcome.took_s:6.1f} s{counts}"


def report_step(step: Step, outcome: Outcome) -> None:
    """Print a step as it ends; in full if it failed."""
    print(describe(step, outcome), flush=True)
    for line in outcome.shown:
        print(f"  {line}", flush=True)
    if outcome.failures:
        lines = outcome.output.rstrip().splitlines()
        if len(lines) > _SHOWN_LINES:
            lines = [
                *lines[:40],
                f"… {len(lines) - _SHOWN_LINES} lines left out …",
                *lines[40 - _SHOWN_LINES :],
            ]
        print("\n".join(["", *lines, ""]), flush=True)


def summarise(done: Sequence[tuple[Step, Outcome]], took_s: float) -> bool:
    """Print the closing summary; return whether all is well."""
    print("\n--- summary " + "-" * 60)
    for step, outcome in done:
        print(describe(step, outcome))
    late = (
        ": more than the 15 minutes that are promised" if took_s > GATE_LIMIT_S else ""
    )
    print(f"{'in all':<24} {took_s:6.1f} s{late}")
    failures = [
        f"{step.name}: {line}" for step, outcome in done for line in outcome.failures
    ]
    left_out = [
        f"{step.name}: {line}" for step, outcome in done for line in outcome.left_out
    ]
    alone = [f"{step.name}: {line}" for step, outcome in done for line in outcome.alone]
    for title, lines in (
        ("failed", failures),
        ("failed beside others, and passed alone", alone),
        ("could not run", left_out),
    ):
        if lines:
            print(f"\n{title}:")
            print("\n".join(f"  {line}" for line in lines))
    if left_out and IS_CI:
        print("\nin CI none is left out: that is a failure")
    passed, failed = sum(o.passed for _, o in done), sum(o.failed for _, o in done)
    print(f"\n{passed} passed, {failed} failed, {len(left_out)} skipped", flush=True)
    return not failures and not (left_out and IS_CI)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="scripts/check", description="The whole gate."
    )
    parser.add_argument(
        "--soak", action="store_true", help="long repetitions instead of the gate"
    )
    parser.add_argument("--only", help="names of steps, with commas between")
    parser.add_argument("--fuzz-seconds", type=int, help="seconds for each fuzz target")
    options = parser.parse_args()
    steps = (
        soak(options.fuzz_seconds or 600)
        if options.soak
        else gate(options.fuzz_seconds or 3)
    )
    if options.only:
        names = options.only.split(",")
        unknown = set(names) - {step.name for step in steps}
        if unknown:
            print(
                f"check: no step {', '.join(sorted(unknown))}: {', '.join(s.name for s in steps)}",
                file=sys.stderr,
            )
            return 64
        steps = [step for step in steps if step.name in names]
    WORK.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    done: list[tuple[Step, Outcome]] = []
    for step, outcome in carry_out(steps):
        report_step(step, outcome)
        done.append((step, outcome))
    try_again(done)
    return 0 if summarise(done, time.monotonic() - started) else 1


if __name__ == "__main__":
    sys.exit(main())
