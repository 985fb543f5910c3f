# SPDX-License-Identifier: Apache-2.0
"""A TAP that somebody removes, renames or turns off under a living tunnel."""

from __future__ import annotations

import pytest

from sevpn.testing.lab import SERVER, Client, EmbeddedServer, Network
from sevpn.testing.machine import eventually

pytestmark = pytest.mark.netns

GATEWAY = "10.77.0.254"


def login(server: EmbeddedServer) -> tuple[str, ...]:
    return (f"{SERVER}/TEST", "--pin", server.pin, "--user", "alice")


@pytest.mark.kernel
@pytest.mark.parametrize(
    "deed",
    ["ip link del sevpn0", "ip link set sevpn0 down; ip link set sevpn0 name gone"],
    ids=["removed", "renamed"],
)
def test_an_interface_that_goes_is_made_again_with_all_that_was_on_it(
    client: Client, server: EmbeddedServer, deed: str
) -> None:
    before = client.machine.snapshot()
    with client.up(
        *login(server),
        *("--accept-default-gateway", "--dns", "10.77.0.53"),
        password="secret",
    ) as tunnel:
        there = client.machine.snapshot()
        moved = tunnel.status()["counters"]["inbound_frames"]

        client.machine.sh(deed)

        eventually(
            lambda: tunnel.status()["counters"]["reconnects"] == 1,
            what="another session",
        )
        status = tunnel.wait()
        assert "somebody has removed" in status["last_error"]
        assert status["counters"]["inbound_frames"] > moved
        assert client.machine.snapshot() == there
        assert client.machine.pings(GATEWAY)
        assert tunnel.stop().code == 0
    assert client.machine.snapshot() == before


def test_an_interface_that_is_turned_off_is_turned_on_again(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(
        *login(server), "--accept-default-gateway", password="secret"
    ) as tunnel:
        there = client.machine.snapshot()

        client.machine.sh("ip link set sevpn0 down")

        eventually(
            lambda: client.machine.snapshot() == there, what="all as it was before"
        )
        assert client.machine.pings(GATEWAY)
        assert tunnel.status()["state"] == "connected"


def test_an_interface_that_goes_while_the_server_is_away_is_made_again(
    network: Network, client: Client
) -> None:
    server = EmbeddedServer(network.server)
    # The server comes back with another certificate.
    words = (f"{SERVER}/TEST", "--insecure", "--user", "alice")
    with client.up(*words, "--reconnect-delay", "1s", password="secret") as tunnel:
        server.stop()
        tunnel.wait("waiting")
        client.machine.sh("ip link del sevpn0")

        server = EmbeddedServer(network.server)
        try:
            tunnel.wait("connected")
            assert client.machine.pings(GATEWAY)
        finally:
            server.stop()
