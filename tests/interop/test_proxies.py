# SPDX-License-Identifier: Apache-2.0
"""Through real proxies to the real server, each with data through the tunnel."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import pytest

from interop.test_connections import established, login, wait_for_connections
from sevpn.testing.lab import SERVER, Client, Hub, Network
from sevpn.testing.machine import Machine, connect, eventually
from sevpn.testing.peers import PEERS, peer_environment

pytestmark = [pytest.mark.netns, pytest.mark.interop]

GATEWAY = "192.168.30.1"
PROXY = "203.0.113.129"
NAME = "vpn.example.test"


@dataclass
class Proxied:
    """A client that reaches nothing but a proxy, which reaches the server."""

    client: Client
    proxy: Machine

    def listens(self, port: int) -> bool:
        return f":{port} " in self.proxy.check("ss", "-Hltn")

    def tinyproxy(self, *lines: str) -> None:
        config = "\n".join(
            ("Port 3128", f"Listen {PROXY}", "Timeout 60", "ConnectPort 443", *lines)
        )
        self.proxy.write("/etc/tinyproxy.conf", config + "\n")
        self.proxy.popen(
            [PEERS / "usr/bin/tinyproxy", "-d", "-c", "/etc/tinyproxy.conf"],
            env=peer_environment(),
        )
        eventually(lambda: self.listens(3128), what="tinyproxy")

    def microsocks(self, *options: str) -> None:
        self.proxy.popen(
            [PEERS / "usr/bin/microsocks", "-i", PROXY, "-p", "1080", *options],
            env=peer_environment(),
        )
        eventually(lambda: self.listens(1080), what="microsocks")


@contextlib.contextmanager
def behind_a_proxy(network: Network) -> Generator[Proxied]:
    """Put a proxy on the network, and a client behind it."""
    with network.client() as between, Machine("client") as machine:
        proxy = between.machine
        connect(
            machine,
            proxy,
            interfaces=("eth0", "inside"),
            addresses=("203.0.113.130/25", f"{PROXY}/25"),
        )
        # It alone knows the server's name, and it forwards nothing.
        proxy.write("/etc/hosts", f"{SERVER} {NAME}\n")
        proxy.sh("sysctl -qw net.ipv4.ip_forward=0")
        machine.sh(f"ip route add default via {PROXY} metric 100")
        yield Proxied(Client(machine), proxy)


@pytest.fixture
def proxied(network: Network) -> Iterator[Proxied]:
    with behind_a_proxy(network) as made:
        yield made


def through_the_tunnel(proxied: Proxied, hub: Hub, *options: str) -> None:
    """Bring the tunnel up with everything through it, and see that traffic flows."""
    machine = proxied.client.machine
    target = f"{NAME}/{hub.name}"
    with proxied.client.up(
        *(target, "--pin", hub.pin, "--user", "alice", "--connections", "2"),
        "--accept-default-gateway",
        *options,
        password="secret",
    ) as tunnel:
        wait_for_connections(tunnel, 2)
        status = tunnel.status()
        assert status["server"]["host"] == NAME
        assert status["server"]["address"] == PROXY
        assert machine.pings(GATEWAY, count=5)
        # The host route is the proxy's: the server is reached by nobody but it.
        assert f"{PROXY} " in machine.check("ip", "route")
        assert SERVER not in machine.check("ip", "route")
        assert not established(proxied.client)
        assert tunnel.status()["counters"]["reconnects"] == 0


def test_a_tunnel_through_tinyproxy(proxied: Proxied, hub: Hub) -> None:
    proxied.tinyproxy()
    through_the_tunnel(proxied, hub, "--proxy", f"http://{PROXY}:3128")


def test_behind_a_lock_nobody_but_the_proxy_is_dialled(
    proxied: Proxied, hub: Hub
) -> None:
    proxied.tinyproxy()
    machine = proxied.client.machine
    with proxied.client.up(
        *(f"{NAME}/{hub.name}", "--pin", hub.pin, "--user", "alice"),
        *(
            "--accept-default-gateway",
            "--lock",
            "on",
            "--proxy",
            f"http://{PROXY}:3128",
        ),
        password="secret",
    ) as tunnel:
        assert tunnel.status()["lock"] == "open"
        assert machine.pings(GATEWAY, count=5)
        table = machine.check("nft", "list", "table", "inet", "sevpn_t")
        assert f"elements = {{ {PROXY} }}" in table
        assert SERVER not in table
        tunnel.stop()
    assert machine.check("nft", "list", "tables") == ""


def test_a_tunnel_through_tinyproxy_that_wants_a_login(
    proxied: Proxied, hub: Hub
) -> None:
    proxied.tinyproxy("BasicAuth bob hunter2")
    options = (*login(hub), "--proxy", f"http://{PROXY}:3128", "--name", "t")

    told = proxied.client.sevpn("up", *options, env={"SEVPN_PASSWORD": "secret"})

    assert told.code == 77
    assert "wants a login" in told.err
    assert "--proxy-password" in told.err
    proxied.client.environment["PROXY_SECRET"] = "hunter2"
    through_the_tunnel(
        proxied,
        hub,
        *("--proxy", f"http://bob@{PROXY}:3128"),
        *("--proxy-password", "env:PROXY_SECRET"),
    )


def test_a_port_that_tinyproxy_does_not_allow(proxied: Proxied, hub: Hub) -> None:
    proxied.tinyproxy()

    told = proxied.client.sevpn(
        *("up", f"{SERVER}:5555/{hub.name}", "--pin", hub.pin, "--user", "alice"),
        *("--proxy", f"http://{PROXY}:3128"),
        env={"SEVPN_PASSWORD": "secret"},
    )

    assert told.code == 69
    assert "does not allow connections" in told.err


@pytest.mark.parametrize("is_by_environment", [False, True])
def test_a_tunnel_through_microsocks(
    proxied: Proxied, hub: Hub, is_by_environment: bool
) -> None:
    proxied.microsocks("-u", "bob", "-P", "hunter2")
    if is_by_environment:
        proxied.client.environment["HTTPS_PROXY"] = f"socks5://bob:hunter2@{PROXY}"
        options: tuple[str, ...] = ("--proxy", "env")
    else:
        proxied.client.environment["SEVPN_PROXY_PASSWORD"] = "hunter2"
        options = ("--proxy", f"socks5://bob@{PROXY}")
    through_the_tunnel(proxied, hub, *options)


def test_microsocks_refuses_a_wrong_password(proxied: Proxied, hub: Hub) -> None:
    proxied.microsocks("-u", "bob", "-P", "hunter2")

    told = proxied.client.sevpn(
        *("up", *login(hub), "--proxy", f"socks5://bob@{PROXY}"),
        env={"SEVPN_PASSWORD": "secret", "SEVPN_PROXY_PASSWORD": "wrong"},
    )

    assert told.code == 77
    assert "refuses the login of 'bob'" in told.err


def test_the_environments_proxy_counts_only_when_asked_for(
    client: Client, hub: Hub
) -> None:
    nobody = {"HTTPS_PROXY": "http://203.0.113.200:1"}
    with client.up(*login(hub), password="secret", env=nobody):
        assert client.machine.pings(GATEWAY)


def test_a_proxy_on_this_host_is_warned_of_until_its_way_is_excluded(
    client: Client, hub: Hub
) -> None:
    machine = client.machine
    machine.write("/run/tinyproxy.conf", "Port 3128\nListen 127.0.0.1\nTimeout 600\n")
    machine.popen(
        [PEERS / "usr/bin/tinyproxy", "-d", "-c", "/run/tinyproxy.conf"],
        env=peer_environment(),
    )
    eventually(
        lambda: ":3128" in machine.check("ss", "-Hltn"), what="tinyproxy's socket"
    )
    words = (
        *(hub.target, "--pin", hub.pin, "--user", "alice"),
        *("--proxy", "http://127.0.0.1:3128", "--accept-default-gateway"),
    )

    planned = json.loads(client.sevpn("plan", *words, "--json").out)
    with client.up(*words, password="secret") as tunnel:
        warned = tunnel.status()["warnings"]
    with client.up(*words, "--exclude", SERVER, password="secret") as tunnel:
        assert machine.pings(GATEWAY, count=3)
        excluded = tunnel.status()["warnings"]

    told = "the proxy 127.0.0.1 runs on this host"
    assert any(told in line for line in planned["warnings"])
    assert any(told in line for line in warned)
    assert not any(told in line for line in excluded)
