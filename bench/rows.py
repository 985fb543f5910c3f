# SPDX-License-Identifier: Apache-2.0
"""The rows: each measures some candidates in turns and adds samples to the document.

    for each round:  for each candidate, beginning with another one each round:
                         measure, add

A measurement that fails is a `None` in its round, and a remark.
"""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from bench.candidates import (
    RIVALS,
    TRAFFIC,
    BareTls,
    Candidate,
    OfficialAccount,
    told,
)
from bench.catalog import PACES, STEADY_PER_S
from bench.figures import MISSED, percentile
from bench.lab import INSTALLED, OWN_GATEWAY, Lab
from bench.processes import resident_mib, usage, watch_memory

from sevpn.testing.lab import SERVER, Client, Network, Up
from sevpn.testing.machine import Machine, eventually

T = TypeVar("T", bound=Candidate | BareTls)

SOFTETHER: Final = ("sevpn", "sevpn-python", "official", "official-tuned")
TUNNELS: Final = (*SOFTETHER, "openvpn", "wireguard-go", "sevpn-own", "official-own")

_PORT: Final = 7001
_HEADERS: Final = 42  # Ethernet, IPv4, UDP
_ECHO_S: Final = 0.01


def turns(candidates: Sequence[T], rounds: int) -> Iterator[T]:
    """Yield the candidates in turns; nobody is always first."""
    for number in range(rounds):
        shift = number % len(candidates) if candidates else 0
        for one in (*candidates[shift:], *candidates[:shift]):
            print(f"  round {number + 1}: {one.key}", file=sys.stderr, flush=True)
            yield one


def sampled(
    lab: Lab, key: str, measures: Sequence[str], measure: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """Add what *measure* returns; if it fails, that nothing is known."""
    try:
        values = measure()
    except (AssertionError, OSError, subprocess.SubprocessError, ValueError) as error:
        lab.document.remarks.append(
            f"{key}, {measures[0]}: not measured in one round: {told(error)}"
        )
        values = {}
    for name in measures:
        lab.document.add(name, key, values.get(name))
    return values


# --- throughput --------------------------------------------------------------


def throughput(lab: Lab) -> None:
    """Bulk transfers by TCP: outbound, inbound, both at once, with 1 and 8 streams."""
    candidates = lab.candidates(TUNNELS)
    rounds = lab.settings.rounds
    for candidate in turns(candidates, rounds):
        _loads(lab, candidate, [("out", 1), ("in", 1)])
    for candidate in turns(candidates, lab.settings.few):
        _loads(lab, candidate, [("both", 1), ("out", 8), ("in", 8), ("both", 8)])
    for bare in turns(lab.bare(), rounds):
        for way in ("out", "in"):
            sampled(
                lab,
                bare.key,
                [f"{name}/{way}/1" for name in ("rate", "cpu", "kernel")],
                functools.partial(_bare_load, lab, bare, way),
            )


def _loads(lab: Lab, candidate: Candidate, loads: Sequence[tuple[str, int]]) -> None:
    """One turn: some transfers, and the most memory of them."""
    peak = 0.0
    for way, streams in loads:
        with watch_memory(candidate.pid) as seen:
            sampled(
                lab,
                candidate.key,
                [f"{name}/{way}/{streams}" for name in _LOAD],
                functools.partial(load, lab, candidate, way, streams),
            )
        peak = max(peak, *seen)
    lab.document.add("memory/load", candidate.key, peak)


_LOAD: Final = ("rate", "cpu", "kernel", "client-thread", "server-thread", "server-cpu")


def load(lab: Lab, candidate: Candidate, way: str, streams: int) -> dict[str, float]:
    seconds = lab.settings.seconds
    client, server = usage(candidate.pid), usage(candidate.server_pid)
    result = candidate.iperf.measure(
        candidate.machine,
        seconds=seconds,
        streams=streams,
        is_inbound=way == "in",
        is_both=way == "both",
    )
    client, server = (
        usage(candidate.pid).since(client),
        usage(candidate.server_pid).since(server),
    )
    moved_gb = result.payload_bytes / 1e9
    values = (
        result.bits_per_s / 1e9,
        client.total_s / moved_gb,
        client.kernel_s / moved_gb,
        100 * client.busiest_s / seconds,
        100 * server.busiest_s / seconds,
        server.total_s / moved_gb,
    )
    return {
        f"{name}/{way}/{streams}": value
        for name, value in zip(_LOAD, values, strict=True)
    }


def _bare_load(lab: Lab, bare: BareTls, way: str) -> dict[str, float]:
    said = bare.run(seconds=lab.settings.seconds, is_inbound=way == "in")
    moved_gb = said["payload_bytes"] / 1e9
    return {
        f"rate/{way}/1": 8 * moved_gb / said["seconds"],
        f"cpu/{way}/1": (said["user_s"] + said["system_s"]) / moved_gb,
        f"kernel/{way}/1": said["system_s"] / moved_gb,
    }


# --- packets -----------------------------------------------------------------


def packets(lab: Lab) -> None:
    """Datagrams each way: as fast as one sender can, and at a pace."""
    for candidate in turns(lab.candidates(TUNNELS), lab.settings.few):
        for size, pace in PACES:
            for way in ("out", "in"):
                key = f"{way}/{size}/{pace}"
                sampled(
                    lab,
                    candidate.key,
                    [f"{name}/{key}" for name in ("pps", "loss", "pcpu", "scpu")],
                    functools.partial(datagrams, candidate, key),
                )


def datagrams(candidate: Candidate, key: str) -> dict[str, float]:
    way, size, pace = key.split("/")
    per_second = STEADY_PER_S if pace == "steady" else 0
    payload = int(size) - _HEADERS if size == "64" else int(size)
    client, server = usage(candidate.pid), usage(candidate.server_pid)
    sent, came = one_way(
        candidate,
        is_inbound=way == "in",
        words=[
            *("--size", str(payload), "--seconds", "1"),
            *("--per-second", str(per_second)),
        ],
    )
    client, server = (
        usage(candidate.pid).since(client),
        usage(candidate.server_pid).since(server),
    )
    count = came["count"]
    if not count:
        raise AssertionError("nothing arrived")
    return {
        f"pps/{key}": count / max(came["last_at"] - came["first_at"], 1e-3),
        f"loss/{key}": 100 * (1 - count / sent["sent"]),
        f"pcpu/{key}": 1e6 * client.total_s / count,
        f"scpu/{key}": 1e6 * server.total_s / count,
    }


def one_way(
    candidate: Candidate, *, is_inbound: bool, words: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Send datagrams one way; return what the sender and the receiver say."""
    sender, receiver = candidate.machine, candidate.server
    address = candidate.server_address
    if is_inbound:
        sender, receiver, address = receiver, sender, candidate.address
    sink = receiver.popen([sys.executable, TRAFFIC, "sink", address, str(_PORT)])
    try:
        assert sink.stdout is not None
        assert sink.stdout.readline() == "ready\n", "the receiver did not start"
        said = sender.check(
            sys.executable, TRAFFIC, "send", address, str(_PORT), *words
        )
        heard, _ = sink.communicate(timeout=30)
    finally:
        receiver.end(sink)
    return json.loads(said), json.loads(heard)


def burst(lab: Lab) -> None:
    """A thousand small frames at once inbound, while nothing is sent."""
    for candidate in turns(lab.candidates(TUNNELS), lab.settings.rounds):
        candidate.machine.pings(candidate.server_address)  # addresses are known
        time.sleep(0.5)  # and nothing moves any more
        sampled(
            lab,
            candidate.key,
            ["burst/last", "burst/lost"],
            functools.partial(burst_of, candidate),
        )


def burst_of(candidate: Candidate) -> dict[str, float]:
    sent, came = one_way(
        candidate,
        is_inbound=True,
        words=["--size", str(64 - _HEADERS), "--count", "1000"],
    )
    if not came["count"]:
        raise AssertionError("nothing arrived")
    return {
        "burst/last": 1e3 * (came["last_at"] - sent["began_at"]),
        "burst/lost": float(sent["sent"] - came["count"]),
    }


# --- echoes ------------------------------------------------------------------


def echoes(lab: Lab) -> None:
    """Echoes, a hundred a second: idle, and with a bulk transfer each way."""
    count = 200
    candidates = lab.candidates(TUNNELS)
    for candidate in turns(candidates, lab.settings.few):
        cable = ping(candidate.machine, SERVER, count)
        if candidate is candidates[0]:
            lab.document.add("rtt/idle/p50", "none", percentile(cable, 0.5))
            lab.document.add("rtt/idle/p99", "none", percentile(cable, 0.99))
        values = sampled(
            lab,
            candidate.key,
            ["rtt/idle/p50", "rtt/idle/p99"],
            functools.partial(echo_idle, candidate, count),
        )
        idle = values.get("rtt/idle/p50")
        added = None if idle is None else idle - percentile(cable, 0.5)
        lab.document.add("added/idle/p50", candidate.key, added)
        for way in ("out", "in"):
            sampled(
                lab,
                candidate.key,
                [f"rtt/{way}/p50", f"rtt/{way}/p99"],
                functools.partial(echo_loaded, lab, candidate, way),
            )


def echo_idle(candidate: Candidate, count: int) -> dict[str, float]:
    took = ping(candidate.machine, candidate.server_address, count)
    return {
        "rtt/idle/p50": percentile(took, 0.5),
        "rtt/idle/p99": percentile(took, 0.99),
    }


def echo_loaded(lab: Lab, candidate: Candidate, way: str) -> dict[str, float]:
    seconds = lab.settings.seconds
    pinger = candidate.machine.popen(
        ping_words(candidate.server_address, int((seconds + 1) / _ECHO_S))
    )
    try:
        time.sleep(0.3)  # it has started
        candidate.iperf.measure(
            candidate.machine, seconds=seconds + 1, is_inbound=way == "in"
        )
        said, _ = pinger.communicate(timeout=30)
    finally:
        candidate.machine.end(pinger)
    answer = json.loads(said)
    # The first half second is the start of the transfer.
    took = answer["rtt_ms"][int(0.5 / _ECHO_S) :]
    assert took, "no echo came back"
    return {
        f"rtt/{way}/p50": percentile(took, 0.5),
        f"rtt/{way}/p99": percentile(took, 0.99),
    }


def ping(machine: Machine, address: str, count: int) -> list[float]:
    answer = json.loads(machine.check(*ping_words(address, count)))
    took: list[float] = answer["rtt_ms"]
    assert took, "no echo came back"
    return took


def ping_words(address: str, count: int) -> list[str]:
    words = ["ping", address, "--count", str(count), "--interval", str(_ECHO_S)]
    return [sys.executable, str(TRAFFIC), *words]


# --- life --------------------------------------------------------------------


def _lives(lab: Lab) -> list[tuple[str, Network, tuple[str, ...], str]]:
    """Return what starts and heals: name, network, login, gateway."""
    nat = (lab.nat.target, "--pin", lab.nat.pin, "--user", "alice")
    return [
        ("securenat", lab.network, nat, "192.168.30.1"),
        ("dnsmasq", lab.network, lab.official.login, lab.official.inner),
        ("own", lab.own.network, lab.own.login, OWN_GATEWAY),
    ]


def _form(lab: Lab) -> str:
    """Return in which form sevpn runs here, if nobody chooses, as the catalog names it."""
    return "sevpn" if lab.candidates(["sevpn"]) else "sevpn-python"


def start(lab: Lab) -> None:
    """From the start of the process to the event `connected`; of others to the first answer."""
    lives, form = _lives(lab), _form(lab)
    for number in range(lab.settings.rounds):
        print(f"  round {number + 1}", file=sys.stderr, flush=True)
        for name, network, login, _ in lives:
            with network.client() as client:
                key = f"start/{name}"
                sampled(lab, form, [key], functools.partial(_start, client, key, login))
        with lab.network.client() as client:
            measure = functools.partial(_start_official, lab, client)
            sampled(lab, "official", ["start/answer"], measure)
        for rival in RIVALS:
            measure = functools.partial(_start_rival, lab, rival)
            sampled(lab, rival, ["start/answer"], measure)


def _start_official(lab: Lab, client: Client) -> dict[str, float]:
    """From `AccountConnect` to the first answer, its address given: it has no DHCP."""
    account = OfficialAccount(client, lab.official, INSTALLED, "198.51.100.13")
    return {"start/answer": account.connect()}


def _start_rival(lab: Lab, rival: str) -> dict[str, float]:
    network = Network()
    try:
        with network.client() as client:
            joined = RIVALS[rival](network, client, lab.folder)
            joined.stop()
            return {"start/answer": joined.took_s}
    finally:
        network.close()


def _start(client: Client, name: str, login: tuple[str, ...]) -> dict[str, float]:
    began_at = time.monotonic()
    process = client.machine.popen(
        [client.program, "up", *login, "--json"], env={"SEVPN_PASSWORD": "secret"}
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["state"] == "connected":
                return {name: time.monotonic() - began_at}
        raise AssertionError("up ended before it was connected")
    finally:
        client.machine.end(process)


def heal(lab: Lab) -> None:
    """From the reset of the TCP connection to the first answer of the gateway."""
    form = _form(lab)
    for name, network, login, gateway in _lives(lab):
        if name == "dnsmasq":
            continue  # the server is the same
        with (
            network.client() as client,
            client.up(*login, password="secret") as tunnel,
        ):
            measure = functools.partial(_heal, tunnel, f"heal/{name}", gateway)
            _heals(lab, form, f"heal/{name}", measure)
    with lab.network.client() as client:
        account = OfficialAccount(client, lab.official, INSTALLED, "198.51.100.13")
        account.connect()
        _heals(
            lab, "official", "heal/answer", functools.partial(_heal_official, account)
        )


def _heals(
    lab: Lab, who: str, key: str, measure: Callable[[], dict[str, float]]
) -> None:
    for times in range(lab.settings.rounds):
        print(f"  round {times + 1}: {key}, {who}", file=sys.stderr, flush=True)
        time.sleep(11)  # a session that lasted is healed at once
        sampled(lab, who, [key], measure)


def _reset(machine: Machine) -> None:
    """Reset the connection to the server, as a middlebox would."""
    machine.sh(f"ss -K dst {SERVER} dport = 443 > /dev/null")


def _heal(tunnel: Up, name: str, gateway: str) -> dict[str, float]:
    before = _comebacks(tunnel)
    _reset(tunnel.client.machine)
    began_at = time.monotonic()

    def has_healed() -> bool:
        return _comebacks(tunnel) > before and tunnel.client.machine.pings(
            gateway, wait_s=0.2
        )

    eventually(has_healed, within_s=30, what="healing")
    return {name: time.monotonic() - began_at}


def _comebacks(tunnel: Up) -> int:
    """Return how often the session was begun anew or taken up again."""
    status = tunnel.status()
    resumed: int = (status.get("session") or {}).get("resumed", 0)
    reconnects: int = status.get("counters", {}).get("reconnects", 0)
    return reconnects + resumed


def _heal_official(account: OfficialAccount) -> dict[str, float]:
    before = account.ports()
    _reset(account.client.machine)
    began_at = time.monotonic()
    # What is in flight may still be answered: another connection has to be there.
    eventually(
        lambda: account.ports() - before and account.is_answered(),
        within_s=90,
        what="healing",
    )
    return {"heal/answer": time.monotonic() - began_at}


def footprint(lab: Lab) -> None:
    """Memory and processor time of connected, idle tunnels."""
    officials = lab.candidates(("official", "official-tuned"))
    form = _form(lab)
    with contextlib.ExitStack() as stack:
        login = (lab.nat.target, "--pin", lab.nat.pin, "--user", "alice")
        client = stack.enter_context(lab.network.client())
        tunnel = stack.enter_context(client.up(*login, password="secret"))
        watched = {form: tunnel.process.pid}
        watched |= {candidate.key: candidate.pid for candidate in officials}
        time.sleep(2)
        before = {key: usage(pid) for key, pid in watched.items()}
        time.sleep(lab.settings.idle_s)
        for key, pid in watched.items():
            used = usage(pid).since(before[key])
            lab.document.add("idle/cpu", key, 100 * used.total_s / lab.settings.idle_s)
            lab.document.add("memory/idle", key, resident_mib(pid))


# --- programs that judge by themselves ---------------------------------------


def link(lab: Lab) -> None:
    """Long paths: of one round, a part."""
    is_short = lab.settings.rounds == 1
    _long_paths(lab, ("clean",) if is_short else ("clean", "lossy", "bbr"))


def udp_rate(lab: Lab) -> None:
    """UDP acceleration on a plain cable, beside that of the official client."""
    _long_paths(lab, ("udp-rate",), "UDP acceleration, plain cable")


def udp(lab: Lab) -> None:
    """UDP acceleration on a long path with loss; half an hour."""
    _long_paths(lab, ("udp",), "UDP acceleration, long paths")


def _long_paths(lab: Lab, names: Sequence[str], section: str = "Long paths") -> None:
    seconds, rounds = 3 * lab.settings.seconds + 1, lab.settings.few
    words = ["--seconds", str(seconds), "--rounds", str(rounds)]
    for name in names:
        words += ["--row", name]
    _judging(lab, section, "bench_link", *words)


def roam(lab: Lab) -> None:
    """How soon a tunnel is back after another uplink and a wake-up."""
    _judging(lab, "Roaming", "bench_roam", "--rounds", str(lab.settings.rounds))


def host(lab: Lab) -> None:
    """How long the routes, the name servers and the lock take."""
    rounds = 4 * lab.settings.rounds
    _judging(lab, "This host", "bench_host", "--rounds", str(rounds))


def habits(lab: Lab) -> None:
    """What each habit of the pump is for: the same client without it."""
    rounds, seconds = lab.settings.few, lab.settings.seconds
    words = ["--rounds", str(rounds), "--seconds", str(seconds)]
    _judging(lab, "Habits", "bench_habits", *words)


def _judging(lab: Lab, section: str, program: str, *words: str) -> None:
    """Run a program that has a lab of its own, and take its lines."""
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{program}", "--json", *words],
        cwd=TRAFFIC.parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    lab.document.lines += [
        {"section": section} | json.loads(line) for line in done.stdout.splitlines()
    ]
    if done.returncode not in (0, MISSED):
        lab.document.remarks.append(
            f"{section}: {program} ended with status {done.returncode}"
        )


ROWS: Final[dict[str, Callable[[Lab], None]]] = {
    "start": start,
    "footprint": footprint,
    "host": host,
    "burst": burst,
    "echoes": echoes,
    "packets": packets,
    "throughput": throughput,
    "heal": heal,
    "habits": habits,
    "roam": roam,
    "udp-rate": udp_rate,
    "link": link,
    "udp": udp,
}
"""In this order: what needs quiet comes before what leaves memory full."""

ON_DEMAND: Final = frozenset({"udp"})
"""These take part only when they are asked for."""
