# SPDX-License-Identifier: Apache-2.0
"""Long paths: what a tunnel makes of 100 ms and 500 Mbit/s, with and without loss.

    client ── emulated link: 50 ms each way, 500 Mbit/s, queue 100 ms ── Debian's server
      │                                                                   hub, TAP bridge
    iperf3 ═══════════════════════ inside the tunnel ═══════════════════════ iperf3

Run as root: `python -m bench.bench_link [--row NAME …] [--seconds N] [--rounds N]`.
On a busy machine add `--real-time`: a server that waits 25 ms for its turn drops frames.

Congestion control is set by name on every socket that counts: inside the tunnel by
iperf3, outside by taking the sockets of client and server from their processes, since
the default of a machine is not the same everywhere and a namespace may not choose
freely. The candidates of a row take turns; with loss a stream is so slow that they
run side by side, each behind a link of its own.

Source: pidfd_getfd(2), tcp(7).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import json
import os
import re
import socket
import stat
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from bench.candidates import TRAFFIC
from bench.figures import MISSED, Line, at_least, plain

from sevpn.testing.lab import SERVER, Client, EmbeddedServer, Hub, Network, Up
from sevpn.testing.link import LinkSpec, Way
from sevpn.testing.machine import Machine, eventually
from sevpn.testing.peers import (
    PEERS,
    Dnsmasq,
    OfficialClient,
    SoftEtherServer,
    peer_environment,
)
from sevpn.testing.services import Iperf3

CLEAN: Final = Way(delay_s=0.05, rate_bits_per_s=500e6, queue_s=0.1)
LOSSY: Final = replace(CLEAN, loss=0.01)
INNER: Final = ("198.51.100.1", "198.51.100.2")  # a server of iperf3 for each candidate

OLD_PORT: Final = 8443
OLD_INNER: Final = "10.77.0.1"
"""Where our server that gives version 1 listens, and who is behind it."""

LARGE: Final = (
    32 << 20,
    32 << 20,
)  # tcp_wmem and tcp_rmem: four times what the path holds
USUAL: Final = (4 << 20, 6 << 20)  # what Linux gives a machine with some memory
# For streams of 1 Mbit/s: the end of a transfer waits until the buffers are empty.
SMALL: Final = (256 << 10, 6 << 20)

OMIT_S: Final = 3  # a slow start to 500 Mbit/s takes two seconds
WAYS: Final = {"outbound": False, "inbound": True}

_GETFD: Final = 438  # pidfd_getfd: the same number on all architectures
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Load:
    """One transfer of iperf3."""

    machine: Machine
    """Who asks for it."""

    address: str
    """With whom."""

    streams: int
    """TCP streams."""

    is_inbound: bool
    """Whether the client receives."""

    congestion: str
    """Of its streams."""

    segment: int | None = None
    """Most bytes of a segment; `None`: what fits the interface."""


class Site:
    """The server at the far end, and how long to measure."""

    def __init__(self, way: Way | None, *, seconds: int, rounds: int) -> None:
        self.seconds = seconds
        self.rounds = rounds
        self.network = Network(link=None if way is None else LinkSpec.both(way))
        machine = self.network.server
        set_buffers(machine, LARGE)
        self.server = SoftEtherServer(machine)
        self.server.create_hub("WIRE")
        self.hub = Hub(self.server, "WIRE", self.server.certificate_sha256())
        self.hub.user("alice")
        device = self.server.bridge_tap("WIRE", "wire", f"{INNER[0]}/24")
        for address in INNER[1:]:
            machine.sh(f"ip addr add {address}/24 dev {device}")
        Dnsmasq(machine, device, ["dhcp-range=198.51.100.50,198.51.100.99,1h"])
        self._iperfs = {
            address: Iperf3(machine, address) for address in (SERVER, *INNER)
        }

    def add_old_server(self) -> EmbeddedServer:
        """Start our own server beside the other one; it gives version 1 of UDP acceleration."""
        server = EmbeddedServer(
            self.network.server,
            hub="udp_version=1,",
            tap=f"{OLD_INNER}/24",
            config=f"listen=('0.0.0.0:{OLD_PORT}',),",
        )
        self._iperfs[OLD_INNER] = Iperf3(self.network.server, OLD_INNER)
        return server

    @contextlib.contextmanager
    def tunnel(
        self, connections: int, congestion: str, *, udp: Sequence[str] = ()
    ) -> Generator[Client]:
        """Connect a client, and choose how its connections and the server's behave.

        Args:
            connections: TCP connections.
            congestion: Their congestion control, at both ends.
            udp: Options of UDP acceleration, which is then waited for.
        """
        with self.network.client() as client:
            set_buffers(client.machine, LARGE)
            options = ["--pin", self.hub.pin, "--user", "alice"]
            if connections > 1:
                options += ["--connections", str(connections)]
            options += udp or ["--udp", "off"]
            # A tunnel's MAC address comes of its name, and both are in one hub.
            name = f"t{connections}{len(udp)}"
            with client.up(
                self.hub.target, *options, name=name, password="secret"
            ) as up:
                if udp:
                    eventually(
                        lambda: up.status()["session"]["udp"]["state"] == "up",
                        within_s=60,
                        what="UDP acceleration",
                    )
                eventually(
                    lambda: connection_count(up) >= connections,
                    within_s=30 + 3 * connections,
                    what=f"{connections} connections",
                )
                set_congestion(up.process.pid, congestion)
                for pid in processes(self.network.server, "vpnserver"):
                    set_congestion(pid, congestion)
                check_congestion(client.machine, congestion, connections)
                yield client
                check_congestion(client.machine, congestion, connections)

    def measure(self, *loads: Load) -> list[float]:
        """Run transfers side by side and return what arrived, Mbit/s."""
        for load in loads:
            self._iperfs[load.address].prepare()
        running = [
            load.machine.popen(self._iperf3(load), env=peer_environment())
            for load in loads
        ]
        return [
            self._result(load, process)
            for load, process in zip(loads, running, strict=True)
        ]

    def beside(self, load: Load) -> tuple[float, float]:
        """Return what arrived, Mbit/s, and the RTT p99 of an idle flow beside it, ms."""
        count = 20 * self.seconds
        words = ["ping", INNER[0], "--count", str(count), "--interval", "0.05"]
        echoes = load.machine.popen([sys.executable, str(TRAFFIC), *words])
        (rate,) = self.measure(load)
        out, _ = echoes.communicate(timeout=self.seconds + 60)
        times: list[float] = sorted(json.loads(out)["rtt_ms"])
        return rate, times[int(len(times) * 0.99) - 1] if times else 0.0

    def _iperf3(self, load: Load) -> list[str | Path]:
        return [
            PEERS / "usr/bin/iperf3",
            *("--client", load.address, "--json", "--congestion", load.congestion),
            *("--time", str(self.seconds), "--omit", str(OMIT_S)),
            *("--parallel", str(load.streams)),
            *(["--reverse"] if load.is_inbound else []),
            *([] if load.segment is None else ["--set-mss", str(load.segment)]),
        ]

    def _result(self, load: Load, process: subprocess.Popen[str]) -> float:
        # Where a queue of seconds stands before the tunnel, the end waits behind it.
        out, _ = process.communicate(timeout=self.seconds + OMIT_S + 120)
        said = json.loads(out)
        if "error" in said:
            raise RuntimeError(f"iperf3 with {load.address}: {said['error']}")
        rate: float = said["end"]["sum_received"]["bits_per_second"]
        return rate / 1e6


def connection_count(up: Up) -> int:
    count: int = (up.status().get("session") or {}).get("connections", 1)
    return count


def set_buffers(machine: Machine, sizes: tuple[int, int]) -> None:
    """Set how large a TCP socket's buffers may grow on a machine, now and later."""
    machine.sh(
        f"echo 4096 65536 {sizes[0]} > /proc/sys/net/ipv4/tcp_wmem;"
        f"echo 4096 131072 {sizes[1]} > /proc/sys/net/ipv4/tcp_rmem"
    )


def processes(machine: Machine, name: str) -> list[int]:
    """Return the processes of a name on a machine."""
    network = Path(f"/proc/{machine.pid}/ns/net").stat().st_ino
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_ours = (folder / "ns/net").stat().st_ino == network
            if is_ours and (folder / "comm").read_text().strip() == name:
                found.append(int(folder.name))
    return found


def set_congestion(pid: int, name: str) -> None:
    """Set the congestion control of all TCP connections of a process."""
    process = os.pidfd_open(pid)
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile, or no TCP socket
            copy: int = _libc.syscall(_GETFD, process, int(entry.name), 0)
            if copy >= 0 and not stat.S_ISSOCK(os.fstat(copy).st_mode):
                os.close(copy)
                continue
            if copy >= 0:
                with socket.socket(fileno=copy) as taken:
                    taken.setsockopt(
                        socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode()
                    )
    os.close(process)


def check_congestion(machine: Machine, name: str, connections: int) -> None:
    """Make sure that the tunnel's connections are what the row says."""
    said = machine.sh(f"ss -tinH dst {SERVER} dport = 443")
    names = [line.split() for line in said.splitlines() if "rtt:" in line]
    assert len(names) == connections, f"{len(names)} connections, not {connections}"
    assert all(name in words for words in names), f"not all are {name}: {said}"


def has_congestion(name: str) -> bool:
    known = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
    return name in known.read_text().split()


# --- rows --------------------------------------------------------------------


def clean(seconds: int, rounds: int) -> Iterator[Line]:
    """No loss: one connection's share of the link, and that of no VPN."""
    site = Site(CLEAN, seconds=seconds, rounds=rounds)
    try:
        with site.tunnel(1, "cubic") as client:
            yield from _share(site, client, LARGE, "large buffers", limit=0.8)
            yield from _share(site, client, USUAL, "usual buffers", limit=None)
            assert client.link is not None
            late_s = max(counts.late_s for counts in client.link.counts())
            yield plain("the link itself was late at worst by", 1000 * late_s, "ms")
    finally:
        site.network.close()


def _share(
    site: Site,
    client: Client,
    buffers: tuple[int, int],
    title: str,
    *,
    limit: float | None,
) -> Iterator[Line]:
    for machine in (client.machine, site.network.server):
        set_buffers(machine, buffers)
    assert CLEAN.rate_bits_per_s is not None
    for way, is_inbound in WAYS.items():
        rates: dict[str, list[float]] = {}
        for _ in range(site.rounds):
            for name, address, streams in (
                ("sevpn", INNER[0], 1),
                ("sevpn, 8 streams", INNER[0], 8),
                ("no VPN", SERVER, 1),
            ):
                load = Load(client.machine, address, streams, is_inbound, "cubic")
                rates.setdefault(name, []).extend(site.measure(load))
        for name, measured in rates.items():
            row = f"100 ms, no loss, {title}, {way}: {name}"
            share = statistics.median(measured) / (CLEAN.rate_bits_per_s / 1e6)
            if limit is not None and name == "sevpn" and not is_inbound:
                yield at_least(row, share, "of the link", limit)
            else:
                yield plain(row, share, "of the link")


def lossy(seconds: int, rounds: int) -> Iterator[Line]:
    """1 % loss and cubic inside and outside: 8 connections against 1."""
    yield from _lossy("cubic", seconds, rounds)


def bbr(seconds: int, rounds: int) -> Iterator[Line]:
    """The same with BBR on the transport sockets."""
    if not has_congestion("bbr"):
        print("bbr: not in this kernel, no row", file=sys.stderr)
        return
    yield from _lossy("bbr", seconds, rounds)


def _lossy(congestion: str, seconds: int, rounds: int) -> Iterator[Line]:
    site = Site(LOSSY, seconds=seconds, rounds=rounds)
    try:
        with (
            site.tunnel(1, congestion) as one,
            site.tunnel(8, congestion) as eight,
        ):
            if congestion == "cubic":
                for machine in (one.machine, eight.machine, site.network.server):
                    set_buffers(machine, SMALL)
            for way in WAYS:
                for streams in (8, 1):
                    yield from _compare(
                        site, (one, eight), congestion, way, streams=streams
                    )
    finally:
        site.network.close()


def _compare(
    site: Site,
    clients: tuple[Client, Client],
    congestion: str,
    way: str,
    *,
    streams: int,
) -> Iterator[Line]:
    loads = [
        Load(client.machine, address, streams, WAYS[way], "cubic")
        for client, address in zip(clients, INNER, strict=True)
    ]
    pairs: list[list[float]] = []
    for _ in range(site.rounds):
        if congestion == "cubic":  # some Mbit/s: they do not feel each other
            pairs.append(site.measure(*loads))
        else:
            pairs.append([site.measure(load)[0] for load in loads])
    where = f"100 ms, 1 % loss, {congestion}, {way}, {_count(streams, 'stream')}"
    for name, rates in zip(
        ("1 connection", "8 connections"), zip(*pairs, strict=True), strict=True
    ):
        yield plain(f"{where}: {name}", statistics.median(rates), "Mbit/s")
    ratio = statistics.median(eight_ / one_ for one_, eight_ in pairs)
    limit = {8: 3.0, 1: 0.9}[streams]
    row = f"{where}: 8 connections : 1"
    is_promised = congestion == "cubic" and way == "outbound"
    yield at_least(row, ratio, "x", limit) if is_promised else plain(row, ratio, "x")


OFFICIAL: Final = (
    "/MAXTCP:1 /INTERVAL:1 /TTL:0 /HALF:no /BRIDGE:no /MONITOR:no /NOTRACK:no "
    "/NOQOS:yes /DISABLEUDP:no"
)


def udp_rate(seconds: int, rounds: int) -> Iterator[Line]:
    """A plain cable: UDP acceleration beside that of the official client.

    That client offers version 2 and takes what it is given, and the official server
    gives the higher one of those that are offered. So where version 1 is compared both
    clients are at our server, told to give no other.
    """
    site = Site(None, seconds=seconds, rounds=rounds)
    try:
        with contextlib.ExitStack() as stack:
            # Who, with whom, and the most bytes of a segment.
            parties: dict[str, tuple[Machine, str, int | None]] = {}
            for name, options in UDP.items():
                client = stack.enter_context(site.tunnel(1, "cubic", udp=options))
                parties[name] = (client.machine, INNER[0], None)
            parties["official"] = (_official(site, stack), INNER[0], None)
            old = site.add_old_server()
            stack.callback(old.stop)
            to_old = (f"{SERVER}:{OLD_PORT}", "TEST", "10.77.0.9/24")
            for name, machine in (
                ("version 1, to ours", _old(site, old, stack)),
                ("official, version 1, to ours", _official(site, stack, *to_old)),
            ):
                # Our server lets TCP agree on what it likes: here on what fits a datagram.
                parties[name] = (machine, OLD_INNER, 1300)
            for way, is_inbound in WAYS.items():
                rates: dict[str, list[float]] = {}
                for _ in range(rounds):
                    for name, (machine, address, segment) in parties.items():
                        load = Load(machine, address, 1, is_inbound, "cubic", segment)
                        rates.setdefault(name, []).append(_by_udp(site, load))
                yield from _beside_official(way, rates)
    finally:
        site.network.close()


def _by_udp(site: Site, load: Load) -> float:
    """Measure, and make sure that it was UDP that carried it."""
    before = _tcp_bytes(load.machine)
    (rate,) = site.measure(load)
    by_tcp = _tcp_bytes(load.machine) - before
    assert by_tcp < rate * 1e6 / 8 * site.seconds / 4, f"{by_tcp} bytes went by TCP"
    return rate


def _tcp_bytes(machine: Machine) -> int:
    """Return what the TCP connections to the server have carried, both ways."""
    said = machine.sh(f"ss -tinH dst {SERVER}")
    return sum(map(int, re.findall(r"bytes_(?:sent|received):(\d+)", said)))


def _official(
    site: Site,
    stack: contextlib.ExitStack,
    server: str = f"{SERVER}:443",
    hub: str = "WIRE",
    address: str = "198.51.100.9/24",
) -> Machine:
    """Connect an official client, and return its machine when its UDP is in use."""
    client = stack.enter_context(site.network.client())
    official = OfficialClient(client.machine)
    device = official.connect(
        server=server, hub=hub, user="alice", password="secret", details=OFFICIAL
    )
    client.machine.sh(f"ip addr add {address} dev {device}")
    eventually(
        lambda: official.status()["UDP Acceleration is Active"] == "Yes",
        within_s=60,
        what="the official client's UDP acceleration",
    )
    return client.machine


def _old(site: Site, server: EmbeddedServer, stack: contextlib.ExitStack) -> Machine:
    """Connect sevpn to our server by version 1, and return its machine."""
    client = stack.enter_context(site.network.client())
    options = ("--pin", server.pin, "--user", "alice", *UDP["version 1"])
    up = stack.enter_context(
        client.up(f"{SERVER}:{OLD_PORT}/TEST", *options, name="old", password="secret")
    )
    eventually(
        lambda: up.status()["session"]["udp"]["state"] == "up",
        within_s=60,
        what="UDP acceleration",
    )
    return client.machine


def _beside_official(way: str, rates: dict[str, list[float]]) -> Iterator[Line]:
    for name, measured in rates.items():
        row = f"cable, UDP acceleration, {way}: {name}"
        yield plain(row, statistics.median(measured), "Mbit/s")
    for name, other, is_promised in (
        ("version 2", "official", True),
        ("version 1", "official", False),  # whose version is 2
        ("version 1, to ours", "official, version 1, to ours", True),
    ):
        pairs = zip(rates[name], rates[other], strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        row = f"cable, UDP acceleration, {way}: {name} : {other}"
        yield at_least(row, ratio, "x", 1.0) if is_promised else plain(row, ratio, "x")


FARTHER: Final = Way(delay_s=0.025, rate_bits_per_s=100e6, queue_s=0.1, loss=0.01)
UDP: Final = {
    "version 2": ("--udp", "on"),
    "version 1": ("--udp", "on", "--udp-v1"),
}


def udp(seconds: int, rounds: int) -> Iterator[Line]:
    """RTT 50 ms, 1 % loss: UDP acceleration against one TCP connection."""
    yield from _udp("cubic", seconds, rounds)
    if has_congestion("bbr"):
        yield from _udp("bbr", seconds, rounds)


def _udp(congestion: str, seconds: int, rounds: int) -> Iterator[Line]:
    site = Site(FARTHER, seconds=seconds, rounds=rounds)
    try:
        with contextlib.ExitStack() as stack:
            clients = {"TCP": stack.enter_context(site.tunnel(1, congestion))}
            for name, options in UDP.items():
                clients[name] = stack.enter_context(
                    site.tunnel(1, congestion, udp=options)
                )
            for way, streams in itertools.product(WAYS, (8, 1)):
                taken: dict[str, list[tuple[float, float]]] = {}
                for _ in range(rounds):
                    for name, client in clients.items():
                        ends = (client.machine, INNER[0])
                        load = Load(*ends, streams, WAYS[way], congestion)
                        taken.setdefault(name, []).append(site.beside(load))
                count = _count(streams, "stream")
                # A single stream inside sees the losses that it saw outside before.
                yield from _of_udp(
                    f"50 ms, 1 % loss, {congestion}, {way}, {count}",
                    taken,
                    is_promised=congestion == "cubic" and streams > 1,
                )
    finally:
        site.network.close()


def _of_udp(
    where: str, taken: dict[str, list[tuple[float, float]]], *, is_promised: bool
) -> Iterator[Line]:
    medians = {
        name: (
            statistics.median(rate for rate, _ in rounds),
            statistics.median(late for _, late in rounds),
        )
        for name, rounds in taken.items()
    }
    for name, (rate, late_ms) in medians.items():
        yield plain(f"{where}: {name}", rate, "Mbit/s")
        yield plain(f"{where}: {name}, RTT p99 of an idle flow", late_ms, "ms")
    tcp_rate, tcp_late_ms = medians["TCP"]
    for name in UDP:
        rate, late_ms = medians[name]
        for row, ratio, limit in (
            (f"{where}: {name} : TCP", rate / tcp_rate, 1.1),
            (f"{where}: RTT p99, TCP : {name}", tcp_late_ms / late_ms, 3.0),
        ):
            figure = at_least(row, ratio, "x", limit)
            yield figure if is_promised else plain(row, ratio, "x")


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


ROWS: Final[dict[str, Callable[[int, int], Iterator[Line]]]] = {
    "clean": clean,
    "lossy": lossy,
    "bbr": bbr,
    "udp": udp,
    "udp-rate": udp_rate,
}


def rows(
    names: Sequence[str] = tuple(ROWS), *, seconds: int = 10, rounds: int = 3
) -> Iterator[Line]:
    """Measure, and yield each figure as soon as it is known; needs root.

    Args:
        names: Which rows: `clean`, `lossy`, `bbr`, `udp`, `udp-rate`.
        seconds: Length of a transfer, the omitted beginning apart; three times as
            long where chance decides.
        rounds: Turns of each candidate; the median counts.
    """
    for name in names:
        is_steady = name in {"clean", "udp-rate"}
        yield from ROWS[name](seconds if is_steady else 3 * seconds, rounds)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--row", action="append", choices=list(ROWS), help="only this; may be repeated"
    )
    parser.add_argument("--seconds", type=int, default=10, help="of one transfer [10]")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each [3]")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--real-time",
        action="store_true",
        help="before all others on this machine: for a busy one",
    )
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("this needs root, to make network namespaces", file=sys.stderr)
        return 78
    if options.real_time:  # and all that is started from here
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    is_met = True
    began_at = time.monotonic()
    for figure in rows(
        options.row or tuple(ROWS), seconds=options.seconds, rounds=options.rounds
    ):
        is_met &= figure.is_met
        show(figure, as_json=options.json)
    print(f"{time.monotonic() - began_at:.0f} s", file=sys.stderr)
    return 0 if is_met else MISSED


def show(figure: Line, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(figure)), flush=True)
        return
    verdict = "" if not figure.target else "ok" if figure.is_met else "MISSED"
    print(
        f"{figure.row:<65} {figure.value:>9.3f} {figure.unit:<12} {figure.target:<8} {verdict}".rstrip(),
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
