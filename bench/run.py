# SPDX-License-Identifier: Apache-2.0
"""Measure sevpn beside its rivals, in one run: `make bench`.

    python -m bench.run [--row NAME …] [--skip NAME …] [--rounds N] [--seconds N] [--quick]
                        [--json] [--output FOLDER | --into FILE]

Needs root, and `scripts/peers`. The method is described in bench/README.md. A whole
run is stored in bench/results: its samples as JSON, and as `latest.md` and
`latest.svg` for people. A part of it (`--row`) or a `--quick` one is shown, and
stored only with `--output`; with `--into` a part replaces what a stored run has of
the same measures, which stay comparable: ratios are of one row's rounds. Progress goes to standard error.

Exit code: 0 all that was measured keeps its promise, 1 something does not, 78 this
host cannot run it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import json
import os
import platform
import ssl
import sys
import time
import traceback
from pathlib import Path

from bench.candidates import told
from bench.figures import Document
from bench.gate import RESULTS
from bench.lab import Lab, Settings
from bench.plot import draw
from bench.rows import ON_DEMAND, ROWS
from bench.table import judged, page

from sevpn.testing.peers import PEERS, missing_peers


def main() -> int:
    options = _parser().parse_args()
    if reason := _obstacle():
        print(f"make bench: {reason}", file=sys.stderr)
        return 78
    settings = _settings(options)
    document = Document(
        at=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        host=_host(),
        versions=_versions(),
        settings={"rounds": settings.rounds, "seconds": settings.seconds},
    )
    document.remarks.append(
        f"load of the host before the run: {os.getloadavg()[0]:.2f}"
    )
    with Lab(settings, document) as lab:
        for name in options.row or ROWS:
            if not options.row and name in ON_DEMAND:
                document.remarks.append(f"only on demand: {name}")
                continue
            if name in options.skip:
                document.remarks.append(f"left out: {name}")
                continue
            _run(name, lab)
    if options.into:
        document.remarks.append(
            f"measured again at {document.at}: {', '.join(options.row or ROWS)}"
        )
        document = _merged(options.into, document)
    _store(document, options)
    if options.json:
        print(json.dumps(document.to_json()))
    else:
        print(page(document))
    return 0 if is_kept(document) else 1


def _run(name: str, lab: Lab) -> None:
    began_at = time.monotonic()
    print(f"{name}:", file=sys.stderr, flush=True)
    try:
        ROWS[name](lab)
    except Exception as error:  # noqa: BLE001 - an hour's other rows are not thrown away
        traceback.print_exc()
        lab.document.remarks.append(f"{name} ended early: {told(error)}")
    print(f"  {time.monotonic() - began_at:.0f} s", file=sys.stderr)


def is_kept(document: Document) -> bool:
    """Whether all that was measured is as promised."""
    return all(item.verdict != "missed" for item in judged(document)) and all(
        line["is_met"] for line in document.lines
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.run", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--row", action="append", choices=list(ROWS), help="only this; may be repeated"
    )
    parser.add_argument(
        "--skip",
        action="append",
        choices=list(ROWS),
        default=[],
        help="not this; may be repeated",
    )
    parser.add_argument("--rounds", type=int, help="turns of each candidate [5]")
    parser.add_argument("--seconds", type=int, help="length of one transfer [3]")
    parser.add_argument(
        "--quick", action="store_true", help="one round, short: only to see it work"
    )
    parser.add_argument("--json", action="store_true", help="the samples as JSON")
    parser.add_argument("--output", type=Path, help="where to store it")
    parser.add_argument("--into", type=Path, help="a stored run that takes it in")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    quick = options.quick
    return Settings(
        rounds=options.rounds or (1 if quick else 5),
        seconds=options.seconds or (1 if quick else 3),
        idle_s=5.0 if quick else 30.0,
    )


def _obstacle() -> str | None:
    """Return why this host cannot run it."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces: sudo make bench"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun: modprobe tun"
    return missing_peers()


def _host() -> dict[str, str]:
    """Return what the figures depend on, and nothing that names the host."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    release = platform.release().split(".")
    return {
        "processor": f"{os.cpu_count()} cores, {model}",
        "kernel": f"Linux {'.'.join(release[:2])}",
        "Python": f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}",
    }


def _versions() -> dict[str, str]:
    """Return the versions of the programs, as their packages name them."""
    found = {"sevpn": importlib.metadata.version("sevpn")}
    wanted = (
        "softether-vpnserver",
        "softether-vpnclient",
        "openvpn",
        "wireguard-go",
        "iperf3",
    )
    for archive in sorted((PEERS.parent / "archives").glob("*.deb")):
        name, version, _ = archive.stem.split("_")
        if name in wanted:
            found[name] = version.replace("%3a", ":")
    return found


def _merged(stored: Path, later: Document) -> Document:
    document = Document.from_json(json.loads(stored.read_text()))
    document.take(later)
    return document


def _store(document: Document, options: argparse.Namespace) -> None:
    is_whole = not options.row and not options.quick
    at = document.at[:16].replace(" ", "-").replace(":", "")
    name = f"{at}-{os.cpu_count()}-cores-{platform.machine()}.json"
    path: Path | None = options.into
    if options.output or (is_whole and not path):
        path = (options.output or RESULTS) / name
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document.to_json(), indent=1, ensure_ascii=False) + "\n"
    path.write_text(text)
    path.with_name("latest.md").write_text(page(document))
    path.with_name("latest.svg").write_text(draw(document))


if __name__ == "__main__":
    sys.exit(main())
