# SPDX-License-Identifier: Apache-2.0
"""The figures that the project promises, measured in one run: `make bench`.

    client machine ── 192.0.2.0/24 ── server machine: Debian's SoftEther server
                                        hub with SecureNAT
                                        hub bridged to a TAP: dnsmasq, iperf3

Run as root: `python bench/run.py [--row NAME …] [--quick] [--json]`.

Machines are shared and noisy, so throughput counts as a ratio only: the candidates
take turns in one run, and the medians are compared. Processor seconds per GB are
the client process's own, user and system. The exit code is 1 when a target is
missed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from typing import Final

from sevpn.testing.lab import SERVER, Client, Hub, Network, Up
from sevpn.testing.machine import Machine, eventually
from sevpn.testing.peers import Dnsmasq, OfficialClient, SoftEtherServer
from sevpn.testing.services import Iperf3

INNER: Final = "198.51.100.1"
TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")

# The same wish, in the official client's words.
INSTALLED: Final = "/MAXTCP:1 /INTERVAL:1 /TTL:0 /HALF:no /BRIDGE:no /MONITOR:no /NOTRACK:no /NOQOS:no /DISABLEUDP:no"
TUNED: Final = "/MAXTCP:1 /INTERVAL:1 /TTL:0 /HALF:no /BRIDGE:no /MONITOR:no /NOTRACK:no /NOQOS:yes /DISABLEUDP:yes"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    row: str
    """What was measured."""

    value: float
    """The figure."""

    unit: str
    """Its unit."""

    target: str
    """What is promised; empty: nothing, it is there to compare."""

    is_met: bool
    """Whether the promise is kept."""


def at_most(row: str, value: float, unit: str, limit: float) -> Figure:
    return Figure(row, round(value, 3), unit, f"<= {limit:g}", value <= limit)


def at_least(row: str, value: float, unit: str, limit: float) -> Figure:
    return Figure(row, round(value, 3), unit, f">= {limit:g}", value >= limit)


def plain(row: str, value: float, unit: str) -> Figure:
    return Figure(row, round(value, 3), unit, "", True)  # noqa: FBT003 - nothing is promised


class Bench:
    """The lab, and how long to measure."""

    def __init__(self, *, quick: bool) -> None:
        self.rounds = 1 if quick else 3
        self.seconds = 2 if quick else 5
        self.idle_s = 10 if quick else 40
        self.network = Network()
        self.server = SoftEtherServer(self.network.server)
        self.pin = self.server.certificate_sha256()
        self.nat = self._hub("NAT", securenat=True)
        self.bridged = self._hub("WIRE", securenat=False)
        device = self.server.bridge_tap("WIRE", "wire", f"{INNER}/24")
        self.dnsmasq = Dnsmasq(
            self.network.server, device, ["dhcp-range=198.51.100.50,198.51.100.99,1h"]
        )

    def _hub(self, name: str, *, securenat: bool) -> Hub:
        self.server.create_hub(name, securenat=securenat)
        hub = Hub(self.server, name, self.pin)
        hub.user("alice")
        return hub

    def close(self) -> None:
        self.network.close()

    def login(self, hub: Hub) -> tuple[str, ...]:
        return (hub.target, "--pin", hub.pin, "--user", "alice")


# --- rows --------------------------------------------------------------------


def connect(bench: Bench) -> Iterator[Figure]:
    """From the start of the process to the event `connected`."""
    for name, hub in (("SecureNAT", bench.nat), ("dnsmasq", bench.bridged)):
        taken = []
        for _ in range(2 * bench.rounds + 1):
            with bench.network.client() as client:
                taken.append(_seconds_to_connected(client, bench.login(hub)))
        yield at_most(f"connect, {name}", statistics.median(taken), "s", 1.5)


def _seconds_to_connected(client: Client, login: tuple[str, ...]) -> float:
    began_at = time.monotonic()
    process = client.machine.popen(
        [client.program, "up", *login, "--json"], env={"SEVPN_PASSWORD": "secret"}
    )
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["state"] == "connected":
            taken_s = time.monotonic() - began_at
            client.machine.end(process)
            return taken_s
    raise RuntimeError("up ended before it was connected")


def heal(bench: Bench) -> Iterator[Figure]:
    """From the reset of the TCP connection to the first answer of the gateway."""
    taken = []
    with (
        bench.network.client() as client,
        client.up(*bench.login(bench.nat), password="secret") as tunnel,
    ):
        for times in range(1, 2 * bench.rounds + 2):
            _reset_connections(client.machine)
            began_at = time.monotonic()
            eventually(
                functools.partial(_has_healed, tunnel, times),
                within_s=30,
                what="healing",
            )
            taken.append(time.monotonic() - began_at)
            time.sleep(11)  # a session that lasted is healed at once
    # DHCP is INIT-REBOOT and 0.3 s of address check; `status` and ping take 0.3 s.
    yield at_most(
        "heal after a reset, DHCP included", statistics.median(taken), "s", 2.0
    )


def _has_healed(tunnel: Up, times: int) -> bool:
    if tunnel.status().get("counters", {}).get("reconnects") != times:
        return False
    return tunnel.client.machine.pings("192.168.30.1", wait_s=0.2)


def _reset_connections(machine: Machine) -> None:
    """Have the server's side of the connection reset, as a middlebox would."""
    machine.sh("ss -K dst 192.0.2.1 dport = 443 > /dev/null")


def footprint(bench: Bench) -> Iterator[Figure]:
    """Memory and processor time of a connected, idle tunnel."""
    with (
        bench.network.client() as client,
        client.up(*bench.login(bench.nat), password="secret") as tunnel,
    ):
        pid = tunnel.process.pid
        time.sleep(2)
        before = _processor_s(client.machine, pid)
        time.sleep(bench.idle_s)
        used_s = _processor_s(client.machine, pid) - before
        yield at_most("VmRSS, connected", _rss_mib(client.machine, pid), "MiB", 48)
        yield at_most("idle", 100 * used_s / bench.idle_s, "% of a core", 0.5)


def _rss_mib(machine: Machine, pid: int) -> float:
    lines = machine.read(f"/proc/{pid}/status").splitlines()
    return (
        next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
    )


def _processor_s(machine: Machine, pid: int) -> float:
    fields = machine.read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


@dataclass
class Candidate:
    """A connected client."""

    name: str
    machine: Machine
    pid: int


@contextlib.contextmanager
def _ours(bench: Bench) -> Generator[Candidate]:
    with (
        bench.network.client() as client,
        client.up(*bench.login(bench.bridged), password="secret") as tunnel,
    ):
        yield Candidate("sevpn", client.machine, tunnel.process.pid)


@contextlib.contextmanager
def _official(
    bench: Bench, name: str, details: str, address: str, wait_s: float
) -> Generator[Candidate]:
    with bench.network.client() as client:
        official = OfficialClient(client.machine)
        interface = official.connect(
            server=f"{SERVER}:443",
            hub="WIRE",
            user="alice",
            password="secret",
            details=details,
        )
        client.machine.sh(
            f"ip addr add {address}/24 dev {interface}; ip link set {interface} up"
        )
        eventually(
            lambda: client.machine.pings(INNER), what="the official client's traffic"
        )
        time.sleep(wait_s)  # UDP acceleration is used after ten seconds
        yield Candidate(name, client.machine, _child_of(client.machine, official.pid))
        official.stop()


def _child_of(machine: Machine, pid: int) -> int:
    """Return the process that works: execsvc forks one child."""
    out = machine.sh(f"cat /proc/{pid}/task/*/children").split()
    return int(out[0]) if out else pid


def throughput(bench: Bench) -> Iterator[Figure]:
    """One TCP stream through the real server, the candidates in turns."""
    server = Iperf3(bench.network.server, INNER)
    rates: dict[tuple[str, bool], list[float]] = {}
    costs: dict[tuple[str, bool], list[float]] = {}
    with contextlib.ExitStack() as stack:
        candidates = [
            stack.enter_context(_ours(bench)),
            stack.enter_context(
                _official(
                    bench, "official, as installed", INSTALLED, "198.51.100.11", 12
                )
            ),
            stack.enter_context(
                _official(bench, "official, tuned", TUNED, "198.51.100.12", 0)
            ),
        ]
        for _ in range(bench.rounds):
            for candidate in candidates:
                for is_inbound in (False, True):
                    rate, cost = _measure(
                        bench, server, candidate, is_inbound=is_inbound
                    )
                    rates.setdefault((candidate.name, is_inbound), []).append(rate)
                    costs.setdefault((candidate.name, is_inbound), []).append(cost)
    server.stop()
    yield from _compare(rates, costs)


def _measure(
    bench: Bench, server: Iperf3, candidate: Candidate, *, is_inbound: bool
) -> tuple[float, float]:
    before = _processor_s(candidate.machine, candidate.pid)
    result = server.measure(
        candidate.machine, seconds=bench.seconds, is_inbound=is_inbound
    )
    used_s = _processor_s(candidate.machine, candidate.pid) - before
    return result.bits_per_s / 1e9, used_s / (result.bits_per_s * bench.seconds / 8e9)


def _compare(
    rates: dict[tuple[str, bool], list[float]],
    costs: dict[tuple[str, bool], list[float]],
) -> Iterator[Figure]:
    for is_inbound in (False, True):
        way = "inbound" if is_inbound else "outbound"
        names = [name for name, inbound in rates if inbound is is_inbound]
        rate = {name: statistics.median(rates[name, is_inbound]) for name in names}
        cost = {name: statistics.median(costs[name, is_inbound]) for name in names}
        for name in names:
            yield plain(f"{way}, {name}", rate[name], "Gbit/s")
            yield plain(f"{way}, {name}", cost[name], "CPU s/GB")
        installed = rate["sevpn"] / rate["official, as installed"]
        yield at_least(f"{way}, sevpn : official as installed", installed, "x", 1.0)
        yield plain(
            f"{way}, sevpn : official tuned",
            rate["sevpn"] / rate["official, tuned"],
            "x",
        )
        yield plain(
            f"{way}, CPU sevpn : official as installed",
            cost["sevpn"] / cost["official, as installed"],
            "x",
        )


ROWS: Final[dict[str, Callable[[Bench], Iterator[Figure]]]] = {
    "connect": connect,
    "heal": heal,
    "footprint": footprint,
    "throughput": throughput,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--row", action="append", choices=list(ROWS), help="only this; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print(
            "make bench needs root, to make network namespaces: sudo make bench",
            file=sys.stderr,
        )
        return 78
    bench = Bench(quick=options.quick)
    figures: list[Figure] = []
    try:
        for name in options.row or ROWS:
            for figure in ROWS[name](bench):
                figures.append(figure)
                _show(figure, as_json=options.json)
    finally:
        bench.close()
    return 0 if all(figure.is_met for figure in figures) else 1


def _show(figure: Figure, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(figure)), flush=True)
        return
    verdict = "" if not figure.target else "ok" if figure.is_met else "MISSED"
    print(
        f"{figure.row:<45} {figure.value:>9.3f} {figure.unit:<12} {figure.target:<8} {verdict}".rstrip(),
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
