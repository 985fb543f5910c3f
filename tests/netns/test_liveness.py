# SPDX-License-Identifier: Apache-2.0
"""What dies silently under or behind a tunnel is noticed, against the embedded server."""

from __future__ import annotations

import pytest

from sevpn.testing.lab import SERVER, Client, EmbeddedServer, Network, Up
from sevpn.testing.machine import eventually

pytestmark = pytest.mark.netns

TARGET = f"{SERVER}/TEST"
GATEWAY = "10.77.0.254"


def login(server: EmbeddedServer) -> tuple[str, ...]:
    return (TARGET, "--pin", server.pin, "--user", "alice", "--no-resume")


def said(tunnel: Up, words: str) -> bool:
    return words in (tunnel.status()["last_error"] or "")


@pytest.mark.parametrize("is_one_way", [True, False])
def test_a_way_to_the_server_that_dies_silently_is_noticed_before_any_time_out(
    network: Network, client: Client, server: EmbeddedServer, is_one_way: bool
) -> None:
    # What is sent to a wrong neighbour is lost, and no route has changed.
    lost = "lladdr 02:00:00:00:00:99 nud permanent"
    (card,) = client.machine.ip("-4", "address", "show", "dev", "eth0")
    ours = card["addr_info"][0]["local"]
    with client.up(*login(server), password="secret") as tunnel:
        client.machine.sh(f"ip neigh replace {SERVER} {lost} dev eth0")
        if not is_one_way:
            network.server.sh(f"ip neigh replace {ours} {lost} dev br0")
        try:
            eventually(lambda: said(tunnel, "has carried nothing"), what="silence")
        finally:
            network.server.sh(f"ip neigh del {ours} dev br0 2> /dev/null || true")

        client.machine.sh(f"ip neigh del {SERVER} dev eth0")
        status = tunnel.wait("connected")
        assert status["counters"]["reconnects"] == 1
        assert client.machine.pings(GATEWAY)


def test_a_gateway_that_dies_ends_the_session_of_who_depends_on_it(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(
        *login(server), "--accept-default-gateway", password="secret"
    ) as tunnel:
        server.do("setattr(faults, 'is_gateway_mute', True)")
        # Where nothing else came meanwhile either, the way to the server is named with it.
        eventually(
            lambda: said(tunnel, f"gateway {GATEWAY}"), what="the gateway's death"
        )

        server.do("setattr(faults, 'is_gateway_mute', False)")
        tunnel.wait("connected")
        assert client.machine.pings(GATEWAY)


def test_a_gateway_that_nobody_depends_on_may_be_away(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), password="secret") as tunnel:
        assert tunnel.status()["proven_at"]

        server.do("setattr(faults, 'is_gateway_mute', True)")
        eventually(
            lambda: tunnel.status()["proven_at"] is None, what="the gateway's death"
        )
        status = tunnel.status()
        assert (status["state"], status["counters"]["reconnects"]) == ("connected", 0)
        assert status["latency_ms"] == {"gateway": None}

        server.do("setattr(faults, 'is_gateway_mute', False)")
        eventually(lambda: tunnel.status()["proven_at"], what="the gateway's return")
        assert tunnel.status()["counters"]["reconnects"] == 0
