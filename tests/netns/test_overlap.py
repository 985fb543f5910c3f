# SPDX-License-Identifier: Apache-2.0
"""The network at home has the addresses of the one in the tunnel, even the router's.

client ── eth0 10.77.0.60 ═ 10.77.0.254 router at home ── server 203.0.113.1
                                                             └── hub: 10.77.0.254 again
"""

from __future__ import annotations

import pytest

from sevpn.testing.lab import Client, EmbeddedServer, Network
from sevpn.testing.machine import connect, eventually

pytestmark = pytest.mark.netns

SERVER = "203.0.113.1"
ROUTER = "10.77.0.254"
OWN = ("mark", "0xe0e0")


def way_to(client: Client, address: str, *words: str) -> str:
    (way,) = client.machine.ip("route", "get", address, *words)
    device: str = way["dev"]
    return device


@pytest.mark.parametrize(
    ("options", "neighbour"),
    [
        # The addresses of both are on the link that has the better route: the tunnel's.
        ((), None),
        # In a table of the tunnel's own its subnet comes first.
        (("--route-mode", "mark"), "sevpn0"),
        (("--lock", "auto"), "sevpn0"),
    ],
)
def test_a_home_with_the_addresses_of_the_tunnel_is_told_and_the_tunnel_works(
    network: Network,
    client: Client,
    server: EmbeddedServer,
    options: tuple[str, ...],
    neighbour: str | None,
) -> None:
    network.server.sh("ip link del home 2> /dev/null || true")
    client.machine.sh("ip link del eth0")
    connect(
        client.machine,
        network.server,
        interfaces=("eth0", "home"),
        addresses=("10.77.0.60/24", f"{ROUTER}/24"),
    )
    client.machine.sh(f"ip route add default via {ROUTER} metric 100")
    before = client.machine.snapshot()

    done = client.sevpn(
        *("doctor", f"{SERVER}/TEST", "--pin", server.pin, "--user", "alice"),
        env={"SEVPN_PASSWORD": "secret"},
    )
    assert "overlaps with 10.77.0.0/24 of eth0" in done.out
    with client.up(
        *(f"{SERVER}/TEST", "--pin", server.pin, "--user", "alice"),
        *("--accept-default-gateway", "--no-resume", *options),
        password="secret",
    ) as tunnel:
        (warning,) = [w for w in tunnel.status()["warnings"] if "overlaps" in w]
        assert "10.77.0.0/24 of eth0" in warning
        assert way_to(client, SERVER, *OWN * bool(options)) == "eth0"
        assert way_to(client, "198.41.0.4") == "sevpn0"
        if neighbour is not None:
            assert way_to(client, "10.77.0.7") == neighbour

        server.do("[server.cut(s) for s in server.sessions()]")
        eventually(
            lambda: tunnel.status()["counters"]["reconnects"] == 1, what="a reconnect"
        )
        status = tunnel.wait()
        assert status["proven_at"]
        assert tunnel.stop().code == 0
    assert client.machine.snapshot() == before
