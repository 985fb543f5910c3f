# SPDX-License-Identifier: Apache-2.0
"""The candidates: each a context manager that connects one and gives its processes.

client's machine ── candidate's interface … server … inner address ── iperf3
                                                              (in the lab)
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from sevpn.testing.certs import make_authority
from sevpn.testing.lab import SERVER, Client, Network
from sevpn.testing.machine import Machine, eventually
from sevpn.testing.peers import OfficialClient
from sevpn.testing.rivals import (
    Joined,
    join_by_openvpn,
    join_by_wireguard,
    missing_openvpn,
    missing_wireguard,
)
from sevpn.testing.services import Iperf3

TRAFFIC: Final = Path(__file__).with_name("traffic.py")
"""What sends and receives on the machines."""

_UDP_ACCELERATION_S: Final = 12.0  # it is used after ten seconds


def told(error: Exception) -> str:
    """Return an error's first line, without this machine's paths."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].replace(str(TRAFFIC.parents[1]), ".")[:200]


class Missing(Exception):  # noqa: N818 - nothing has failed: it is not there
    """A candidate cannot take part; the text says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """A SoftEther server with a hub that is bridged to an interface of its machine."""

    network: Network
    """Its network, which makes machines for clients."""

    target: str
    """What `up` takes."""

    pin: str
    """Its certificate, as `--pin` takes it."""

    hub: str
    """The hub's name."""

    inner: str
    """The address on the bridged interface."""

    server_pid: int
    """The process that does the server's work."""

    iperf: Iperf3
    """It listens on the inner address."""

    @property
    def login(self) -> tuple[str, ...]:
        """What `up` takes to connect."""
        return (self.target, "--pin", self.pin, "--user", "alice")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A connected client."""

    key: str
    """Who, by the names of the catalog."""

    machine: Machine
    """Where it runs."""

    pid: int
    """The process that does its work."""

    address: str
    """What its machine has inside the tunnel."""

    server: Machine
    """The server's machine."""

    server_pid: int
    """The process that does the server's work."""

    server_address: str
    """What the server's machine has inside the tunnel."""

    iperf: Iperf3
    """It listens there."""

    form: dict[str, str] = field(default_factory=dict)
    """What it says of itself."""


@contextlib.contextmanager
def ours(
    place: Place, key: str, kernel: Literal["compiled", "python"]
) -> Generator[Candidate]:
    """Sevpn in one of its forms; the form is what the running program says it is.

    Raises:
        Missing: It runs in the other form.
    """
    environment = {"SEVPN_KERNEL": "python"} if kernel == "python" else {}
    with (
        place.network.client() as client,
        # The name is part of what the MAC address is made of. Without UDP: a flood may
        # make `auto` choose it for minutes, and other rows would measure it unnoticed.
        client.up(
            *(*place.login, "--udp", "off"),
            name=key,
            password="secret",
            env=environment,
        ) as tunnel,
    ):
        status = tunnel.status()
        runs = status["interface"]["kernel"]
        if runs != kernel:
            raise Missing(f"the kernel runs in the form {runs!r} here, not {kernel!r}")
        yield Candidate(
            key=key,
            machine=client.machine,
            pid=tunnel.process.pid,
            address=str(status["lease"]["address"]).partition("/")[0],
            server=place.network.server,
            server_pid=place.server_pid,
            server_address=place.inner,
            iperf=place.iperf,
            form={name: status["interface"][name] for name in ("kernel", "offload")},
        )


@contextlib.contextmanager
def official(
    place: Place, key: str, details: str, address: str, *, has_udp: bool = False
) -> Generator[Candidate]:
    """Debian's client; with *has_udp*, wait until it uses UDP acceleration."""
    with place.network.client() as client:
        it = _connected(client, place, details, address)
        eventually(
            lambda: client.machine.pings(place.inner),
            what="the official client's traffic",
        )
        if has_udp:
            time.sleep(_UDP_ACCELERATION_S)
        udp = it.status().get("UDP Acceleration is Active", "No")
        yield Candidate(
            key=key,
            machine=client.machine,
            pid=it.worker_pid,
            address=address,
            server=place.network.server,
            server_pid=place.server_pid,
            server_address=place.inner,
            iperf=place.iperf,
            form={"UDP acceleration": udp},
        )


def _connected(
    client: Client, place: Place, details: str, address: str
) -> OfficialClient:
    """Connect Debian's client, and give its interface an address."""
    it = OfficialClient(client.machine)
    interface = it.connect(
        server=f"{SERVER}:443",
        hub=place.hub,
        user="alice",
        password="secret",
        details=details,
    )
    client.machine.sh(
        f"ip addr add {address}/24 dev {interface}; ip link set {interface} up"
    )
    return it


class OfficialAccount:
    """Debian's client with an account for *place*, not connected yet."""

    def __init__(
        self, client: Client, place: Place, details: str, address: str
    ) -> None:
        self.client = client
        self._inner = place.inner
        self._it = _connected(client, place, details, address)
        self._it.disconnect()
        eventually(lambda: not self.ports(), what="the end of the first session")

    def connect(self) -> float:
        """Connect; return the seconds until the first answer."""
        began_at = time.monotonic()
        self._it.command("AccountConnect t1")
        eventually(self.is_answered, within_s=30, what="the first answer")
        return time.monotonic() - began_at

    def is_answered(self) -> bool:
        """Whether the far end of the tunnel answers."""
        return self.client.machine.pings(self._inner, wait_s=0.2)

    def ports(self) -> set[str]:
        """Return this host's ports of the open connections."""
        said = self.client.machine.sh(f"ss -tnH dst {SERVER} dport = 443")
        lines = [line.split() for line in said.splitlines()]
        return {words[3] for words in lines if words[0] == "ESTAB"}


def _openvpn(network: Network, client: Client, folder: Path) -> Joined:
    return join_by_openvpn(network.server, client.machine, outer=SERVER, folder=folder)


def _wireguard(network: Network, client: Client, _folder: Path) -> Joined:
    return join_by_wireguard(network.server, client.machine, outer=SERVER)


RIVALS: Final = {"openvpn": _openvpn, "wireguard-go": _wireguard}
"""How the others join a client's machine to its network's server."""


@contextlib.contextmanager
def openvpn(network: Network, folder: Path) -> Generator[Candidate]:
    """OpenVPN.

    Raises:
        Missing: It has not been unpacked.
    """
    if reason := missing_openvpn():
        raise Missing(reason)
    with network.client() as client:
        joined = _openvpn(network, client, folder)
        with _joined(network, client.machine, "openvpn", joined) as candidate:
            yield candidate


@contextlib.contextmanager
def wireguard(network: Network, folder: Path) -> Generator[Candidate]:
    """WireGuard in user space.

    Raises:
        Missing: It has not been unpacked.
    """
    if reason := missing_wireguard():
        raise Missing(reason)
    with network.client() as client:
        joined = _wireguard(network, client, folder)
        with _joined(network, client.machine, "wireguard-go", joined) as candidate:
            yield candidate


@contextlib.contextmanager
def _joined(
    network: Network, machine: Machine, key: str, joined: Joined
) -> Generator[Candidate]:
    iperf = Iperf3(network.server, joined.server_address)
    try:
        yield Candidate(
            key=key,
            machine=machine,
            pid=joined.client.pid,
            address=joined.client_address,
            server=network.server,
            server_pid=joined.server.pid,
            server_address=joined.server_address,
            iperf=iperf,
        )
    finally:
        iperf.stop()
        joined.stop()


@dataclass(frozen=True, slots=True)
class BareTls:
    """A TLS stream from one Python program to another, over the cable: no tunnel."""

    key: str
    """Which form, by the names of the catalog."""

    machine: Machine
    """Where the client runs."""

    port: int
    """Where the server listens."""

    in_memory: bool
    """Whether records go through memory, many for a system call."""

    def run(self, *, seconds: float, is_inbound: bool) -> dict[str, Any]:
        """Move bytes; return what the client says (see traffic.py)."""
        said = self.machine.check(
            *(sys.executable, TRAFFIC, "tls-client", SERVER, str(self.port)),
            *("in" if is_inbound else "out", "--seconds", str(seconds)),
            *(["--memory"] if self.in_memory else []),
            timeout_s=seconds + 15,
        )
        answer: dict[str, Any] = json.loads(said)
        return answer


@contextlib.contextmanager
def bare_tls(
    network: Network, folder: Path, key: str, *, in_memory: bool
) -> Generator[BareTls]:
    """TLS without a tunnel."""
    port = 8444 if in_memory else 8443
    issued = make_authority(folder).issue(key, hosts=["bench"])
    server = network.server.popen(
        [
            *(sys.executable, TRAFFIC, "tls-serve", SERVER, str(port)),
            *(issued.certificate, issued.key),
        ],
        stdin=-1,  # its end is the server's
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n", "the TLS server did not start"
    with network.client() as client:
        yield BareTls(key, client.machine, port, in_memory)
        network.server.end(server)
