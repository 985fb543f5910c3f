# SPDX-License-Identifier: Apache-2.0
"""The lab of the benchmark: two servers' networks, and what they serve.

    official   192.0.2.1  Debian's SoftEther server: hub NAT with SecureNAT, hub WIRE
                          bridged to a TAP 198.51.100.1 with dnsmasq and iperf3;
                          OpenVPN, wireguard-go and bare TLS beside it
    own        192.0.2.1  the embedded server: hub TEST with a TAP 10.77.0.1, iperf3

Each candidate has a machine of its own, joined to its server's by a cable. All are
connected once, when first asked for, and stay so until the end: they take turns
within seconds. One that cannot take part is named in `Document.missing`.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.candidates import (
    BareTls,
    Candidate,
    Missing,
    Place,
    bare_tls,
    official,
    openvpn,
    ours,
    told,
    wireguard,
)
from bench.catalog import CANDIDATES
from bench.figures import Document

from sevpn.testing.lab import SERVER, EmbeddedServer, Hub, Network
from sevpn.testing.peers import Dnsmasq, SoftEtherServer
from sevpn.testing.services import Iperf3

INNER: Final = "198.51.100.1"
OWN_INNER: Final = "10.77.0.1"
OWN_GATEWAY: Final = "10.77.0.254"

# The same wish, in the official client's words.
INSTALLED: Final = "/MAXTCP:1 /INTERVAL:1 /TTL:0 /HALF:no /BRIDGE:no /MONITOR:no /NOTRACK:no /NOQOS:no /DISABLEUDP:no"
TUNED: Final = "/MAXTCP:1 /INTERVAL:1 /TTL:0 /HALF:no /BRIDGE:no /MONITOR:no /NOTRACK:no /NOQOS:yes /DISABLEUDP:yes"


@dataclass(frozen=True, slots=True)
class Settings:
    """How long to measure."""

    rounds: int
    """How often each candidate's turn comes."""

    seconds: int
    """How long one bulk transfer is."""

    idle_s: float
    """How long an idle tunnel is watched."""

    @property
    def few(self) -> int:
        """Turns where many things are measured: three at most."""
        return min(self.rounds, 3)


class Lab:
    """The servers, and the candidates as they are asked for; close it with a `with`."""

    def __init__(self, settings: Settings, document: Document) -> None:
        self.settings = settings
        self.document = document
        self._stack = contextlib.ExitStack()
        self._open: dict[str, Candidate | BareTls | None] = {}
        self._own: Place | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self.network = Network()
            stack.callback(self.network.close)
            self.server = SoftEtherServer(self.network.server)
            self.nat = self._hub("NAT", securenat=True)
            self.wire = self._hub("WIRE", securenat=False)
            device = self.server.bridge_tap("WIRE", "wire", f"{INNER}/24")
            Dnsmasq(
                self.network.server,
                device,
                ["dhcp-range=198.51.100.50,198.51.100.99,1h"],
            )
            self.official = Place(
                network=self.network,
                target=self.wire.target,
                pin=self.wire.pin,
                hub="WIRE",
                inner=INNER,
                server_pid=self.server.worker_pid,
                iperf=Iperf3(self.network.server, INNER),
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _hub(self, name: str, *, securenat: bool) -> Hub:
        self.server.create_hub(name, securenat=securenat)
        hub = Hub(self.server, name, self.server.certificate_sha256())
        hub.user("alice")
        return hub

    @property
    def own(self) -> Place:
        """The embedded server's network, made when it is first asked for."""
        if self._own is None:
            network = Network()
            self._stack.callback(network.close)
            server = EmbeddedServer(
                network.server,
                hub=f"tap=TapConfig(name='inside', address=IPv4Interface('{OWN_INNER}/24'))",
            )
            self._own = Place(
                network=network,
                target=f"{SERVER}/TEST",
                pin=server.pin,
                hub="TEST",
                inner=OWN_INNER,
                server_pid=int(server.do("__import__('os').getpid()")),
                iperf=Iperf3(network.server, OWN_INNER),
            )
        return self._own

    # --- candidates ---

    def candidates(self, keys: Iterable[str]) -> list[Candidate]:
        """Return those that take part; those that cannot are named once."""
        found = [self._get(key) for key in keys]
        return [one for one in found if isinstance(one, Candidate)]

    def bare(self) -> list[BareTls]:
        """Return the two forms of TLS without a tunnel."""
        found = [self._get(key) for key in ("bare-tls", "bare-tls-memory")]
        return [one for one in found if isinstance(one, BareTls)]

    def _get(self, key: str) -> Candidate | BareTls | None:
        if key not in self._open:
            try:
                made = self._open[key] = self._stack.enter_context(self._made(key))
                if isinstance(made, Candidate) and made.form:
                    self.document.forms[key] = made.form
            except (Missing, AssertionError, OSError) as error:
                self.document.missing[key] = told(error)
                self._open[key] = None
        return self._open[key]

    def _made(self, key: str) -> AbstractContextManager[Candidate | BareTls]:
        make: dict[str, Callable[[], AbstractContextManager[Candidate | BareTls]]] = {
            "sevpn": functools.partial(ours, self.official, key, "compiled"),
            "sevpn-python": functools.partial(ours, self.official, key, "python"),
            "sevpn-own": lambda: ours(self.own, key, "compiled"),
            "official": functools.partial(
                official, self.official, key, INSTALLED, "198.51.100.11", has_udp=True
            ),
            "official-tuned": functools.partial(
                official, self.official, key, TUNED, "198.51.100.12"
            ),
            "official-own": lambda: official(self.own, key, TUNED, "10.77.0.12"),
            "openvpn": functools.partial(openvpn, self.network, self.folder),
            "wireguard-go": functools.partial(wireguard, self.network, self.folder),
            "bare-tls": functools.partial(
                bare_tls, self.network, self.folder, key, in_memory=False
            ),
            "bare-tls-memory": functools.partial(
                bare_tls, self.network, self.folder, key, in_memory=True
            ),
        }
        assert key in CANDIDATES
        return make[key]()
