# SPDX-License-Identifier: Apache-2.0
"""Where a candidate's processor time goes: a profile under one load.

    python -m bench.costs CANDIDATE [--load bulk|frames|flood|echoes] [--way out|in]
                                    [--streams N] [--seconds N] [--server]

bulk    a transfer by TCP
frames  20,000 frames of 64 bytes a second
flood   as many of them as one sender can
echoes  a hundred a second, and nothing else

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

from bench.candidates import Candidate
from bench.catalog import CANDIDATES, STEADY_PER_S
from bench.figures import Document, percentile
from bench.lab import Lab, Settings
from bench.rows import TUNNELS, one_way, ping

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
    said = put_under_load(candidate, options)
    recorder.wait()
    print(f"{CANDIDATES[candidate.key]}, {options.load} {options.way}: {said}")
    return None


def put_under_load(candidate: Candidate, options: argparse.Namespace) -> str:
    """Let a candidate carry something for as long as is asked for; say how it did."""
    is_inbound = options.way == "in"
    if options.load == "bulk":
        result = candidate.iperf.measure(
            candidate.machine,
            seconds=options.seconds,
            streams=options.streams,
            is_inbound=is_inbound,
        )
        return f"{result.bits_per_s / 1e9:.2f} Gbit/s"
    if options.load == "echoes":
        took = ping(candidate.machine, candidate.server_address, 100 * options.seconds)
        return f"p50 {percentile(took, 0.5):.2f} ms"
    per_second = STEADY_PER_S if options.load == "frames" else 0
    words = ["--size", "22", "--seconds", str(options.seconds)]
    sent, came = one_way(
        candidate,
        is_inbound=is_inbound,
        words=[*words, "--per-second", str(per_second)],
    )
    return f"{came['count']} of {sent['sent']} arrived"


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
    parser.add_argument(
        "--load", choices=("bulk", "frames", "flood", "echoes"), default="bulk"
    )
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
