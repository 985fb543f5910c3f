# SPDX-License-Identifier: Apache-2.0
"""Several connections per session, end to end, against the embedded server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sevpn.testing.lab import SERVER, Client, EmbeddedServer, Network, Up
from sevpn.testing.machine import eventually

pytestmark = pytest.mark.netns

TARGET = f"{SERVER}/TEST"
GATEWAY = "10.77.0.254"


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = Network()
    yield made
    made.close()


@pytest.fixture
def client(network: Network) -> Iterator[Client]:
    with network.client() as made:
        yield made


@pytest.fixture
def server(network: Network) -> Iterator[EmbeddedServer]:
    made = EmbeddedServer(network.server)
    yield made
    made.stop()


def login(server: EmbeddedServer) -> tuple[str, ...]:
    return (TARGET, "--pin", server.pin, "--user", "alice")


def wait_for_connections(tunnel: Up, count: int) -> None:
    eventually(
        lambda: (tunnel.status().get("session") or {}).get("connections") == count,
        within_s=20,
        what=f"{count} connections",
    )


@pytest.mark.parametrize(
    ("wanted", "is_half"), [(2, False), (8, False), (1, True), (8, True)]
)
def test_as_many_connections_as_wanted_carry_traffic(
    client: Client, server: EmbeddedServer, wanted: int, is_half: bool
) -> None:
    options = ("--connections", str(wanted), *(["--half-duplex"] * is_half))
    with client.up(*login(server), *options, password="secret") as tunnel:
        wait_for_connections(tunnel, max(wanted, 2))

        session = tunnel.status()["session"]
        assert session["max_connections"] == max(wanted, 2)
        assert session["half_duplex"] == is_half
        assert client.machine.pings(GATEWAY, count=10)
        assert tunnel.status()["counters"]["reconnects"] == 0
        assert tunnel.stop().code == 0
