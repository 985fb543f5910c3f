# SPDX-License-Identifier: Apache-2.0
"""Where a candidate's processor time goes: a profile of one bulk transfer.

    python -m bench.costs CANDIDATE [--way out|in] [--streams N] [--seconds N] [--server]

Needs root, `scripts/peers`, and `perf` on this host. Samples the client's process (or,
with `--server`, its server's) a thousand times a second and shows the shares by
library, then by function. It says where time goes, not how fast anything is: being
sampled costs time, too.

Source: perf-record(1), perf-report(1).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from bench.catalog import CANDIDATES
from bench.figures import Document
from bench.lab import Lab, Settings
from bench.rows import TUNNELS

_SHOWN: Final = 25
_SEPARATOR: Final = ";"


def parse_report(text: str) -> list[tuple[float, str]]:
    """Return share and name of each line of `perf report`, greatest first.

    Args:
        text: Made with `--field-separator` and sorted by one or two names.
    """
    found: list[tuple[float, str]] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        # Behind a symbol, further columns follow after several blanks.
        share, *names = (
            word.strip().split("   ")[0].strip() for word in line.split(_SEPARATOR)
        )
        found.append(
            (float(share.rstrip("%")), "  ".join(name for name in names if name))
        )
    return sorted(found, reverse=True)


def show(title: str, lines: Iterable[tuple[float, str]]) -> None:
    print(f"\n{title}")
    for share, name in lines:
        print(f"  {share:5.1f} %  {name}")


def profile(options: argparse.Namespace, data: Path, lab: Lab) -> str | None:
    """Record the transfer to *data*; return what stands in the way."""
    candidates = lab.candidates([options.candidate])
    if not candidates:
        return lab.document.missing[options.candidate]
    candidate = candidates[0]
    pid = candidate.server_pid if options.server else candidate.pid
    recorder = subprocess.Popen(
        [
            *("perf", "record", "--quiet", "--event", "cpu-clock", "--freq", "1000"),
            *("--output", str(data), "--pid", str(pid)),
            *("--", "sleep", str(options.seconds)),
        ],
        stdout=subprocess.DEVNULL,
    )
    result = candidate.iperf.measure(
        candidate.machine,
        seconds=options.seconds,
        streams=options.streams,
        is_inbound=options.way == "in",
    )
    recorder.wait()
    print(
        f"{CANDIDATES[candidate.key]}, {options.way}: {result.bits_per_s / 1e9:.2f} Gbit/s"
    )
    return None


def report(data: Path, by: str) -> list[tuple[float, str]]:
    done = subprocess.run(
        [
            *("perf", "report", "--stdio", "--input", str(data), "--sort", by),
            *("--field-separator", _SEPARATOR),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return parse_report(done.stdout)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.costs", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("candidate", choices=TUNNELS)
    parser.add_argument("--way", choices=("out", "in"), default="out")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--server", action="store_true", help="the server's process")
    options = parser.parse_args(words)
    if shutil.which("perf") is None:
        print("costs: there is no perf on this host", file=sys.stderr)
        return 78
    with Lab(Settings(rounds=1, seconds=1, idle_s=1), Document()) as lab:
        data = lab.folder / "perf.data"
        if reason := profile(options, data, lab):
            print(f"costs: {options.candidate}: {reason}", file=sys.stderr)
            return 78
        show("by library", report(data, "dso")[:_SHOWN])
        show("by function", report(data, "dso,symbol")[:_SHOWN])
    return 0


if __name__ == "__main__":
    sys.exit(main())
