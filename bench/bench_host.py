# SPDX-License-Identifier: Apache-2.0
"""How long it takes to set up a full tunnel on this host, and to load the lock.

Run as root: `python -m bench.bench_host [--rounds N] [--json]`, in a network namespace
that it makes itself: nothing of the machine's own network is touched.

"apply" is from the lease to a host that is as wanted, journal, reading back and
checking included; "undo" is back again. What Python imports at the first use is paid
before. "lock loaded" is the loading of its table, a part of what it is called from.
The median of the rounds is shown, with the worst.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any, Final

from bench.figures import MISSED, Line, at_most, plain

from sevpn.net.host import Host
from sevpn.net.lock import Allowed, Lock
from sevpn.net.model import HostState, Resolver, Route
from sevpn.net.routing import Inside, Wishes, arrange
from sevpn.wire.ethernet import MacAddress

_CLONE_NEWNET: Final = 0x40000000
_SERVER: Final = ip_address("203.0.113.7")
_MAC: Final = MacAddress.parse("5e:00:00:00:00:01")


def measure(folder: Path, *, by_mark: bool, mode: str, routes: int) -> dict[str, float]:
    """Set a tunnel up and take it down; return milliseconds by what they were for."""
    lock = Lock("on" if mode == "on" else "auto" if mode == "auto" else "off", "bench")
    host = Host(
        tunnel="bench",
        runtime_dir=folder / "run",
        etc_dir=folder,
        by_mark=by_mark,
        lock=lock,
    )
    times: dict[str, float] = {}
    hold = lock.hold

    def held(allowed: Allowed) -> bool:
        began_at = time.perf_counter()
        is_new = hold(allowed)
        times.setdefault("lock loaded", (time.perf_counter() - began_at) * 1000)
        return is_new

    if mode != "off":
        lock.hold = held  # type: ignore[method-assign]

    def timed(what: str, function: Callable[[], object]) -> None:
        began_at = time.perf_counter()
        function()
        times[what] = (time.perf_counter() - began_at) * 1000

    timed("recover", host.recover)
    tap = host.open_tap(None, _MAC, 1500)
    timed("server", lambda: host.pin_server([_SERVER]))
    tap.set_carrier(True)
    timed("apply", lambda: host.apply(wanted(host, tap.name, routes)))
    timed("undo", host.undo)
    host.close()
    return times


def wanted(host: Host, device: str, count: int) -> HostState:
    """Return a full tunnel with name servers, and *count* routes of DHCP."""
    router = ip_address("10.0.0.1")
    address = ip_interface("10.0.0.5/24")
    routes = [Route(ip_network("0.0.0.0/0"), router, device, 50)]
    routes += [
        Route(ip_network(f"10.{100 + n // 250}.{n % 250}.0/24"), router, device, 50)
        for n in range(count)
    ]
    arranged = arrange(
        Wishes(by_mark=host.is_by_mark, rejects_ipv6=True),
        Inside(device, (address,), tuple(routes), (), (router,), 50),
        found=host.find(),
        marks=host.marks,
    )
    return HostState(
        device,
        1500,
        (address,),
        arranged.routes,
        Resolver((router,)),
        rules=arranged.rules,
        beside=arranged.beside,
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        sys.exit(f"bench_host: {os.strerror(ctypes.get_errno())}: run it as root")
    for words in (
        "link set lo up",
        "link add eth0 type veth peer name far",
        "address add 192.0.2.2/24 dev eth0",
        "link set far up",
        "link set eth0 up",
        "route add default via 192.0.2.1 dev eth0 metric 100",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    cases: dict[str, dict[str, Any]] = {
        "host": {"by_mark": False, "mode": "off", "routes": 0},
        "host, 500 routes": {"by_mark": False, "mode": "off", "routes": 500},
        "mark": {"by_mark": True, "mode": "off", "routes": 0},
        "mark, lock on": {"by_mark": True, "mode": "on", "routes": 0},
        "mark, lock auto": {"by_mark": True, "mode": "auto", "routes": 0},
    }
    is_kept = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "resolv.conf").write_text("nameserver 192.0.2.53\n")
        for case, settings in cases.items():
            measure(folder, **settings)
            rounds = [measure(folder, **settings) for _ in range(given.rounds)]
            for line in lines(case, rounds):
                is_kept &= line.is_met
                show(line, as_json=given.json)
    return 0 if is_kept else MISSED


def lines(case: str, rounds: Sequence[dict[str, float]]) -> Iterator[Line]:
    """Yield the medians, with what is promised: a full tunnel and a lock in 100 ms."""
    for what in rounds[0]:
        took = [one[what] for one in rounds]
        row, median_ms = f"{case}: {what}", statistics.median(took)
        if (what == "apply" and "500" not in case) or what == "lock loaded":
            yield at_most(row, median_ms, "ms", 100)
        else:
            yield plain(row, median_ms, "ms")
        yield plain(f"{row}, worst", max(took), "ms")


def show(line: Line, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(line)), flush=True)
        return
    verdict = "" if not line.target else "ok" if line.is_met else "MISSED"
    print(
        f"{line.row:45} {line.value:8.1f} ms  {line.target:7} {verdict}".rstrip(),
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
