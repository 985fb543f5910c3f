# SPDX-License-Identifier: Apache-2.0
"""A server's network with clients on it, and sevpn run on them.

Layer: testing. Runs in: any thread of a test; needs root.

    server ── br0 192.0.2.1/24 ──┬── eth0 192.0.2.N/24 ── client
                                 └── … one cable per client

Each client's default route leads to the server's machine, as to a router. Instead
of a cable there may be a link with delay, loss and more (testing/link.py).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sevpn.control.client import ask
from sevpn.control.protocol import SOCKET_NAME
from sevpn.errors import ControlError
from sevpn.testing.link import Link, LinkSpec
from sevpn.testing.machine import Finished, Machine, connect, end, eventually
from sevpn.testing.peers import SoftEtherServer

__all__ = ["SERVER", "Client", "EmbeddedServer", "Hub", "Network", "Up"]

SERVER: Final = "192.0.2.1"
"""The server's address on the outer network."""

_BRIDGE_MAC: Final = "02:00:5e:00:53:01"

_SEVPN: Final = Path(
    os.environ.get("SEVPN_COMMAND") or Path(sys.executable).with_name("sevpn")
)
"""What is tested; the gate names the one that it has installed from the wheel."""


class Network:
    """The outer network: a machine for the server, and cables to clients.

    Args:
        link: What each client stands behind, by itself; `None`: a plain cable.
    """

    def __init__(self, *, link: LinkSpec | None = None) -> None:
        self.server = Machine("server")
        self._link = link
        self._numbers = itertools.count(2)
        # Without an address of its own a bridge takes the lowest of its ports': who has
        # asked for it by ARP is cut off when another client comes or goes.
        self.server.sh(
            f"ip link add br0 address {_BRIDGE_MAC} type bridge; ip addr add {SERVER}/24 dev br0; ip link set br0 up;"
            "ip addr add 203.0.113.1/32 dev lo"
        )

    def close(self) -> None:
        """Remove the server's machine; clients are closed by who made them."""
        self.server.close()

    @contextlib.contextmanager
    def client(self, *, default_metric: int | None = 100) -> Generator[Client]:
        """Make a client's machine, joined to the network.

        Args:
            default_metric: Metric of its default route; `None`: it has none.
        """
        number = next(self._numbers) % 250 + 2
        with Machine("client") as machine:
            link = self._connect(machine, number)
            self.server.sh(f"ip link set c{number} master br0")
            if default_metric is not None:
                machine.sh(f"ip route add default via {SERVER} metric {default_metric}")
            yield Client(machine, link=link)

    def second_uplink(
        self, client: Client, *, subnet: str = "198.51.100", metric: int | None
    ) -> str:
        """Plug another cable into a client: its eth1, to the server's machine.

        Args:
            client: Whose.
            subnet: The first three numbers of its /24; the client is .2 there.
            metric: Metric of the default route by it; `None`: there is none.

        Returns:
            The server's address at its end.
        """
        # That of an earlier client goes with its machine, which takes the kernel a moment.
        self.server.sh("ip link del second 2> /dev/null || true")
        gateway = f"{subnet}.1"
        connect(
            client.machine,
            self.server,
            interfaces=("eth1", "second"),
            addresses=(f"{subnet}.2/24", f"{gateway}/24"),
        )
        if metric is not None:
            client.machine.sh(
                f"ip route add default via {gateway} dev eth1 metric {metric}"
            )
        return gateway

    def _connect(self, machine: Machine, number: int) -> Link | None:
        interfaces = ("eth0", f"c{number}")
        addresses = (f"192.0.2.{number}/24", "")
        if self._link is not None:
            return Link(
                machine,
                self.server,
                self._link,
                interfaces=interfaces,
                addresses=addresses,
            )
        connect(machine, self.server, interfaces=interfaces, addresses=addresses)
        return None


@dataclass
class Hub:
    """A hub of the real server, of one test alone."""

    server: SoftEtherServer
    """Which server."""

    name: str
    """The hub's name."""

    pin: str
    """The server's certificate, as `--pin` takes it."""

    @property
    def target(self) -> str:
        """What `up` takes."""
        return f"{SERVER}/{self.name}"

    def user(
        self,
        name: str,
        password: str | None = "secret",  # noqa: S107 - a user of a lab
        **policy: str,
    ) -> None:
        """Make a user, anonymous without a password."""
        self.server.create_user(self.name, name, password=password)
        self.server.set_policy(self.name, name, **policy)


@dataclass
class Up:
    """A running `sevpn up`."""

    client: Client
    """Where it runs."""

    process: subprocess.Popen[str]
    """The process."""

    name: str
    """The tunnel's name."""

    def status(self) -> dict[str, Any]:
        """Return the status document of this tunnel; `{}` when it does not answer.

        It is asked at its control socket, as `sevpn status` does: a program for each
        look would cost more than all else that the tests do.
        """
        root = Path(f"/proc/{self.client.machine.pid}/root")
        try:
            status: dict[str, Any] = ask(
                root / "run/sevpn" / self.name / SOCKET_NAME, "status"
            )
        except ControlError:
            return {}
        return status

    def wait(
        self, state: str = "connected", *, within_s: float = 45.0
    ) -> dict[str, Any]:
        """Wait until the tunnel is in *state*, and return its status.

        Raises:
            AssertionError: It is not in time, with the status that it has instead, or
                the process has ended.
        """
        status: dict[str, Any] = {}

        def check() -> dict[str, Any] | None:
            if self.process.poll() is not None:
                out, err = self.process.communicate()
                raise AssertionError(
                    f"sevpn up ended with {self.process.returncode}:\n{out}\n{err}"
                )
            nonlocal status
            status = self.status()
            return status if status.get("state") == state else None

        try:
            eventually(check, within_s=within_s, what=f"state {state}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {status}") from error
        return status

    def tell(self) -> str:
        """Return what there is to know for who wonders: its status, and what it has said.

        It is ended for that.
        """
        status = self.status()
        if self.process.stderr is None or self.process.stderr.closed:
            return f"the tunnel's status: {status}"
        try:
            said = self.stop()
        except subprocess.TimeoutExpired:
            return f"the tunnel's status: {status}\nit does not end"
        return f"the tunnel's status: {status}\nit ended with {said.code}, and had said:\n{said.out}{said.err}"

    def stop(self, number: int = signal.SIGTERM) -> Finished:
        """Send a signal and wait for the end."""
        if self.process.poll() is None:
            # The process under nsenter is the leader's only child-in-place: nsenter execs.
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=45)
        return Finished(self.process.returncode, out, err)


class EmbeddedServer:
    """Our own server on a machine, with what shall go wrong.

    It has one hub TEST with the user alice (password 'secret'), a virtual
    gateway 10.77.0.254 and DHCP, and listens on 127.0.0.1 and all other addresses,
    port 443.

    Args:
        machine: Where.
        setup: Python that is run with the server before it starts; it knows
            `server`, `faults` and all names of `sevpn.server.faults`.
        hub: Python keyword arguments of the hub's HubConfig: `max_sessions=1`.
        dhcp: Likewise of its DhcpConfig.
        tap: Address and prefix of a TAP `inside` on the hub; empty: there is none.
        config: Likewise of the ServerConfig.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        setup: str = "",
        hub: str = "",
        tap: str = "",
        dhcp: str = "",
        config: str = "",
    ) -> None:
        if tap:
            hub += f"tap=TapConfig(name='inside', address=IPv4Interface({tap!r})),"
        program = _EMBEDDED.format(setup=setup, hub=hub, dhcp=dhcp, config=config)
        self._process = machine.popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline().split()
        if not line:
            _, err = self._process.communicate()
            raise AssertionError(f"the embedded server did not start:\n{err}")
        self.pin = line[0]
        """Its certificate, as `--pin` takes it."""

    def do(self, line: str) -> str:
        """Run a line of Python in the server, and return what it evaluates to."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def stop(self) -> None:
        """End it."""
        end(self._process)


_EMBEDDED: Final = """
import asyncio, sys
from ipaddress import *
from pathlib import Path
from sevpn.config.secret import Secret
from sevpn.server.config import *
from sevpn.server.config import StoredPassword
from sevpn.server.faults import *
from sevpn.server.policy import Policy
from sevpn.server.server import Server

async def main():
    users = (
        User(name="alice", password=StoredPassword(Secret("secret"))),
        User(name="guest", auth="anonymous"),
    )
    gateway = IPv4Interface("10.77.0.254/24")
    usual = dict(name="TEST", users=users, gateway=gateway, dhcp=DhcpConfig({dhcp}))
    hub = HubConfig(**(usual | dict({hub})))
    server = Server(ServerConfig(**(dict(listen=("0.0.0.0:443",), hubs=(hub,)) | dict({config}))))
    faults = server.faults
    {setup}
    await server.start()
    print("sha256:" + server.certificate_sha256, flush=True)
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    def obey():
        line = sys.stdin.readline()
        if not line:
            over.set()
            return
        scope = dict(globals()) | dict(server=server, faults=faults)
        print(repr(eval(line, scope)), flush=True)

    loop.add_reader(sys.stdin, obey)
    await over.wait()
    await server.stop()

asyncio.run(main())
"""


@dataclass
class Client:
    """A machine with sevpn on it."""

    machine: Machine
    """The machine."""

    environment: dict[str, str] = field(default_factory=dict)
    """More of sevpn's environment."""

    link: Link | None = None
    """What it stands behind; `None`: a plain cable."""

    @property
    def program(self) -> Path:
        """The sevpn that is tested, as it is installed."""
        return _SEVPN

    def sevpn(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        text: str | None = None,
    ) -> Finished:
        """Run sevpn to its end."""
        return self.machine.run(
            _SEVPN,
            *arguments,
            env=self.environment | dict(env or {}),
            timeout_s=timeout_s,
            text=text,
        )

    @contextlib.contextmanager
    def up(
        self,
        target: str,
        *options: str,
        name: str = "t",
        password: str | None = None,
        env: Mapping[str, str] | None = None,
        state: str | None = "connected",
    ) -> Generator[Up]:
        """Run `sevpn up` and wait for *state*; it is ended with the block.

        Args:
            target: The target.
            options: More of the command line.
            name: The tunnel's name, unless *target* is a profile of this name.
            password: By the environment, as a service would.
            env: More of the environment.
            state: What to wait for; `None`: nothing.
        """
        environment = self.environment | dict(env or {})
        if password is not None:
            environment["SEVPN_PASSWORD"] = password
        naming = [] if target == name else ["--name", name]
        process = self.machine.popen(
            [_SEVPN, "up", target, *naming, *options], env=environment
        )
        tunnel = Up(self, process, name)
        try:
            if state is not None:
                tunnel.wait(state)
            yield tunnel
        except AssertionError as error:
            error.add_note(tunnel.tell())
            raise
        finally:
            if process.poll() is None:
                end(process)
