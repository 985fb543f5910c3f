# SPDX-License-Identifier: Apache-2.0
"""What each habit of the client is for: the same client without it, in turns.

    sevpn as it is, and without one habit each ── cable ── Debian's server, TAP bridge

Run as root: `python -m bench.bench_habits [--rounds N] [--seconds N] [--json]`.

A habit is taken away in the process that runs, by an assignment before it starts: the
program has no switch for it. The ratio is to the client with all its habits, round by
round; the median is shown. Nothing is promised of these lines: they tell whether a
habit earns its place.

Source: docs/reference/protocol-data.md#pump, docs/reference/protocol-data.md#bursts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from bench import rows
from bench.candidates import Candidate, Place
from bench.figures import Document, Line, plain, ratios
from bench.lab import Lab, Settings

from sevpn.testing.lab import Up

_PROGRAM: Final = """
import dataclasses
from sevpn.dataplane import plain, pump
from sevpn.transport import dial
from sevpn.cli import job
from sevpn.tunnel import supervisor
{change}
from sevpn.cli.main import main
main()
"""


@dataclass(frozen=True, slots=True)
class Variant:
    """A client that does one thing otherwise."""

    title: str
    """How it is called."""

    change: str = ""
    """What is assigned before the program starts."""

    kernel: str = "compiled"
    """The form it runs in."""


_EIGHT: Final = """
options = job.session_options
def eight(*args, **kwargs):
    return dataclasses.replace(options(*args, **kwargs), max_connections=8)
job.session_options = eight
"""

_QUIET: Final = """
class Quiet(pump.Pump):
    def _poke(self):
        pass
supervisor.Pump = Quiet
"""

VARIANTS: Final = (
    Variant("as it is"),
    Variant("without the burst limit", "pump._BURST_S = 0.0"),
    Variant("without the poke", _QUIET),
    Variant("without NOTSENT_LOWAT", "dial._NOTSENT_LOWAT = 1 << 30"),
    Variant("8 connections asked for, 1 open", _EIGHT),
    Variant("interpreted", kernel="python"),
    Variant("interpreted, batches of 16", "plain.FULL_BATCH = 16", "python"),
    Variant("interpreted, batches of 512", "plain.FULL_BATCH = 512", "python"),
)
"""Those that are interpreted are compared with the interpreted form."""

Measure = Callable[[Lab, Candidate], dict[str, float]]


def _bulk(way: str) -> Measure:
    def measure(lab: Lab, candidate: Candidate) -> dict[str, float]:
        return rows.load(lab, candidate, way, 1)

    return measure


def _echoes(way: str) -> Measure:
    def measure(lab: Lab, candidate: Candidate) -> dict[str, float]:
        return rows.echo_loaded(lab, candidate, way)

    return measure


def _flood(_lab: Lab, candidate: Candidate) -> dict[str, float]:
    return rows.datagrams(candidate, "out/1400/flood")


def _burst(_lab: Lab, candidate: Candidate) -> dict[str, float]:
    time.sleep(0.5)  # nothing moves any more
    return rows.burst_of(candidate)


MEASURES: Final[dict[str, tuple[Measure, str, str]]] = {
    "throughput outbound": (_bulk("out"), "rate/out/1", "Gbit/s"),
    "throughput inbound": (_bulk("in"), "rate/in/1", "Gbit/s"),
    "RTT p99 with a transfer outbound": (_echoes("out"), "rtt/out/p99", "ms"),
    "RTT p99 with a transfer inbound": (_echoes("in"), "rtt/in/p99", "ms"),
    "1,400-byte flood outbound, arrived": (_flood, "pps/out/1400/flood", "1/s"),
    "1,000 frames at once inbound, until the last": (_burst, "burst/last", "ms"),
}


@contextlib.contextmanager
def connected(place: Place, number: int, variant: Variant) -> Generator[Candidate]:
    """Connect a variant."""
    with place.network.client() as client:
        environment = {"SEVPN_PASSWORD": "secret", "SEVPN_KERNEL": variant.kernel}
        name = f"v{number}"
        process = client.machine.popen(
            [
                *(sys.executable, "-c", _PROGRAM.format(change=variant.change)),
                *("up", *place.login, "--udp", "off", "--name", name),
            ],
            env=environment,
        )
        tunnel = Up(client, process, name)
        try:
            status = tunnel.wait()
            yield Candidate(
                key=variant.title,
                machine=client.machine,
                pid=process.pid,
                address=str(status["lease"]["address"]).partition("/")[0],
                server=place.network.server,
                server_pid=place.server_pid,
                server_address=place.inner,
                iperf=place.iperf,
            )
        finally:
            client.machine.end(process)


def measured(lab: Lab, variants: Sequence[Variant]) -> Document:
    """Measure all variants in turns."""
    with contextlib.ExitStack() as stack:
        candidates = [
            stack.enter_context(connected(lab.official, number, variant))
            for number, variant in enumerate(variants)
        ]
        for title, (measure, key, _) in MEASURES.items():
            print(f"{title}:", file=sys.stderr, flush=True)
            for candidate in rows.turns(candidates, lab.settings.rounds):
                candidate.machine.pings(candidate.server_address)
                value: float | None = None
                with contextlib.suppress(AssertionError):
                    value = measure(lab, candidate)[key]
                lab.document.add(title, candidate.key, value)
    return lab.document


def lines(document: Document) -> list[Line]:
    """Return the figures of the two whole forms, and of each variant its ratio to them."""
    found: list[Line] = []
    for title, (_, _, unit) in MEASURES.items():
        for variant in VARIANTS:
            base = "as it is" if variant.kernel == "compiled" else "interpreted"
            values = document.series(title, variant.title)
            if variant.title != base:
                values = ratios(values, document.series(title, base))
            known = [value for value in values if value is not None]
            if known:
                is_base = variant.title == base
                found.append(
                    plain(
                        f"{title}: {variant.title}",
                        statistics.median(known),
                        unit if is_base else f"x of: {base}",
                    )
                )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("this needs root, to make network namespaces", file=sys.stderr)
        return 78
    settings = Settings(rounds=options.rounds, seconds=options.seconds, idle_s=1)
    with Lab(settings, Document()) as lab:
        document = measured(lab, VARIANTS)
    for line in lines(document):
        if options.json:
            print(json.dumps(asdict(line)), flush=True)
        else:
            print(f"{line.row:75} {line.value:9.3f} {line.unit}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
