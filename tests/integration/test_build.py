# SPDX-License-Identifier: Apache-2.0
"""What an installation gets where the C compiler fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
LIMIT_S: Final = 120


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """The sources as a checkout has them: nothing is compiled."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in os.fsdecode(listed.stdout).split("\0"):
        if name and not name.startswith(("tests/", "bench/", "fuzz/")):
            place = tmp_path / "sources" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place)
    return tmp_path / "sources"


def build(sources: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "wheels"],
        cwd=sources,
        env={"PATH": os.environ["PATH"], "CC": "false", **environ},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_a_compiler_that_fails_costs_the_kernel_and_not_the_installation(
    sources: Path,
) -> None:
    done = build(sources)

    assert done.returncode == 0, done.stderr
    assert "frames take the Python path" in done.stdout + done.stderr
    (wheel,) = (sources / "wheels").glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
        archive.extractall(sources / "installed")
    asked = subprocess.run(
        [
            *(sys.executable, "-c"),
            "from sevpn.dataplane import path; print(path.__file__, path.is_compiled())",
        ],
        env={"PYTHONPATH": str(sources / "installed")},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert asked.stdout.split() == [
        str(sources / "installed/sevpn/dataplane/path.py"),
        "False",
    ]


def test_who_requires_the_kernel_gets_no_wheel_without_it(sources: Path) -> None:
    done = build(sources, SEVPN_BUILD_KERNEL="required")

    assert done.returncode != 0
    assert not list((sources / "wheels").glob("*.whl"))
