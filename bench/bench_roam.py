# SPDX-License-Identifier: Apache-2.0
"""How soon a tunnel is back: another uplink, a wake-up; and how soon a death is noticed.

    client ── eth0 192.0.2.2 ═════ 192.0.2.1 ──┐
          └── eth1 198.51.100.2 ═ 198.51.100.1 ─┴─ embedded server ── inside 10.77.0.1
      │                                                                  │
    an ICMP echo every 10 ms ═════════════ in the tunnel ════════════════┘

Run as root: `python -m bench.bench_roam [--rounds N] [--json]`.

"Flows again" is the longest time without an answer, which begins before the change
and ends with the first answer after it. A wake-up is simulated: the tunnel is told
that the machine has slept for an hour, as its watch would tell it. "Noticed" is from
the fault to the event in what `up --json` prints. A fault comes at a random moment of
the 2.5 s between two questions to the gateway; the worst of the rounds is what counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import asdict
from typing import Any, Final

from bench.figures import MISSED, at_most, plain

from sevpn.testing.lab import Client, EmbeddedServer, Network, Up
from sevpn.testing.link import Link, LinkSpec, Way
from sevpn.testing.machine import Machine, connect

SERVER: Final = "203.0.113.1"
INSIDE: Final = "10.77.0.1"
GATEWAY: Final = "10.77.0.254"
FAR: Final = Way(delay_s=0.025)
SECOND: Final = "198.51.100.1"
LOST: Final = "lladdr 02:00:00:00:00:99 nud permanent"  # a neighbour that is none

SLEEPER: Final = """
import asyncio, signal
from sevpn.cli.main import main
from sevpn.tunnel.supervisor import Supervisor
run = Supervisor.run
async def with_sleep(tunnel):
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tunnel.resumed, 3600.0)
    return await run(tunnel)
Supervisor.run = with_sleep
main()
"""

ECHOES: Final = """
import select, socket, struct, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
sock.setblocking(False)
number, heard_at, gap_s = 0, None, 0.0
next_at = time.monotonic()
print("ready", flush=True)
poll = select.poll()
poll.register(sock, select.POLLIN)
poll.register(sys.stdin, select.POLLIN)
while True:
    now = time.monotonic()
    if now >= next_at:
        head = struct.pack("!BBHHH", 8, 0, 0, 77, number & 0xFFFF)
        total = sum(struct.unpack("!4H", head))
        check = ~(total + (total >> 16)) & 0xFFFF
        try:
            sock.sendto(struct.pack("!BBHHH", 8, 0, check, 77, number & 0xFFFF), (sys.argv[1], 0))
        except OSError:
            pass
        number += 1
        next_at = now + 0.01
    for fd, _ in poll.poll(max(0.0, (next_at - time.monotonic()) * 1000)):
        if fd == sys.stdin.fileno():
            print(gap_s, flush=True)
            sys.exit()
        data, (source, _) = sock.recvfrom(2048)
        size = (data[0] & 15) * 4
        if source == sys.argv[1] and data[size] == 0:
            now = time.monotonic()
            if heard_at is not None:
                gap_s = max(gap_s, now - heard_at)
            heard_at = now
"""


class Site:
    """One client with two uplinks, its tunnel up, and what the tunnel says."""

    def __init__(
        self,
        network: Network,
        client: Client,
        server: EmbeddedServer,
        *,
        resumes: bool,
    ) -> None:
        self.network = network
        self.client = client
        self.server = server
        way = "--resume" if resumes else "--no-resume"
        words = ("up", f"{SERVER}/TEST", "--pin", server.pin, "--user", "alice")
        more = ("--accept-default-gateway", "--name", "t", "--json", way)
        self.is_again = (0, 1) if resumes else (1, 0)
        self.process = client.machine.popen(
            [sys.executable, "-c", SLEEPER, *words, *more],
            env={"SEVPN_PASSWORD": "secret"},
        )
        self.events: queue.Queue[tuple[float, dict[str, Any]]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.tunnel = Up(client, self.process, "t")
        self.tunnel.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.put((time.monotonic(), json.loads(line)))

    def gap(self, change: Callable[[], object]) -> float:
        """Return the longest time without an answer around *change*."""
        echoes = self.client.machine.popen(
            [sys.executable, "-c", ECHOES, INSIDE], stdin=subprocess.PIPE
        )
        assert echoes.stdin is not None
        assert echoes.stdout is not None
        echoes.stdout.readline()
        time.sleep(0.5)
        change()
        time.sleep(4.0)
        echoes.stdin.write("end\n")
        echoes.stdin.flush()
        status = self.tunnel.wait()
        again = (status["counters"]["reconnects"], status["session"]["resumed"])
        assert again == self.is_again, f"(reconnects, resumed) is {again}"
        return float(echoes.stdout.readline())

    def noticed(self, fault: Callable[[], object]) -> float:
        """Return the time from *fault* to the event that tells of it."""
        # The first question comes with the proof, and they go on from there.
        time.sleep(3.0 + random.uniform(0.0, 2.5))
        while not self.events.empty():
            self.events.get()
        began_at = time.monotonic()
        fault()
        while True:
            at, event = self.events.get(timeout=60)
            if event["event"] == "silent" or event["state"] == "waiting":
                return at - began_at


@contextlib.contextmanager
def site(*, resumes: bool = False, far: Way | None = None) -> Generator[Site]:
    spec = None if far is None else LinkSpec.both(far)
    network = Network(link=spec)
    try:
        with network.client() as client:
            server = EmbeddedServer(
                network.server,
                tap=f"{INSIDE}/24",
            )
            plug_in(client.machine, network.server, spec)
            # Who is behind the uplink is known: what is far is the server.
            assert client.machine.pings(SECOND)
            client.machine.sh(f"ip route add default via {SECOND} dev eth1 metric 200")
            try:
                yield Site(network, client, server, resumes=resumes)
            finally:
                server.stop()
    finally:
        network.close()


def plug_in(client: Machine, server: Machine, spec: LinkSpec | None) -> None:
    """Give the client its second uplink."""
    interfaces = ("eth1", "second")
    addresses = ("198.51.100.2/24", f"{SECOND}/24")
    if spec is None:
        connect(client, server, interfaces=interfaces, addresses=addresses)
    else:
        Link(client, server, spec, interfaces=interfaces, addresses=addresses)


def roam(command: str, *, resumes: bool = False, far: Way | None = None) -> float:
    with site(resumes=resumes, far=far) as here:
        gap_s = here.gap(lambda: here.client.machine.sh(command))
        # The first answer has been under way for a round trip when it ends the gap.
        return gap_s - (0.0 if far is None else 2 * far.delay_s)


def wake() -> float:
    with site() as here:
        return here.gap(lambda: here.process.send_signal(signal.SIGUSR1))


def gateway() -> float:
    with site() as here:
        return here.noticed(
            lambda: here.server.do("setattr(faults, 'is_gateway_mute', True)")
        )


def path() -> float:
    def cut() -> None:
        here.client.machine.sh(f"ip neigh replace 192.0.2.1 {LOST} dev eth0")

    with site() as here:
        return here.noticed(cut)


ROWS: Final[dict[str, tuple[Callable[[], float], float]]] = {
    "flows again, the uplink's address is lost": (
        lambda: roam("ip address flush dev eth0"),
        1.5,
    ),
    "flows again, the uplink is turned off": (
        lambda: roam("ip link set eth0 down"),
        1.5,
    ),
    "flows again, a better uplink appears": (
        lambda: roam(f"ip route add default via {SECOND} dev eth1 metric 10"),
        1.5,
    ),
    "resumed, the uplink's address is lost": (
        lambda: roam("ip address flush dev eth0", resumes=True),
        0.11,  # 100 ms and an echo's pace
    ),
    "resumed, a better uplink appears": (
        lambda: roam(
            f"ip route add default via {SECOND} dev eth1 metric 10", resumes=True
        ),
        0.11,
    ),
    "resumed 50 ms away, the address is lost": (
        lambda: roam("ip address flush dev eth0", resumes=True, far=FAR),
        0.21,  # two round trips more
    ),
    "resumed 50 ms away, a better uplink appears": (
        lambda: roam(
            f"ip route add default via {SECOND} dev eth1 metric 10",
            resumes=True,
            far=FAR,
        ),
        0.21,
    ),
    "flows again after a wake-up (simulated)": (wake, 2.0),
    "noticed: the gateway is dead": (gateway, 6.0),
    "noticed: the way to the server is dead": (path, 6.0),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--row", action="append", choices=list(ROWS), metavar="ROW")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    is_kept = True
    for row, (measure, target_s) in ROWS.items():
        if options.row and row not in options.row:
            continue
        values = [measure() for _ in range(options.rounds)]
        worst_s = max(values)
        is_kept &= worst_s <= target_s
        if options.json:
            lines = (
                plain(f"{row}: median", statistics.median(values), "s"),
                at_most(f"{row}: worst", worst_s, "s", target_s),
            )
            print(*(json.dumps(asdict(line)) for line in lines), sep="\n", flush=True)
            continue
        print(
            f"{row:45} median {statistics.median(values):5.2f} s  worst {worst_s:5.2f} s"
            f"  <= {target_s:g} s  {'ok' if worst_s <= target_s else 'MISSED'}",
            flush=True,
        )
    return 0 if is_kept else MISSED


if __name__ == "__main__":
    sys.exit(main())
