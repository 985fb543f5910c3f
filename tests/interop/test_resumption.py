# SPDX-License-Identifier: Apache-2.0
"""What the real server does with a session whose connection has gone."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sevpn.testing.lab import SERVER, Client, Hub, Network, Up
from sevpn.testing.machine import eventually

pytestmark = [pytest.mark.netns, pytest.mark.interop]

GATEWAY = "192.168.30.1"
"""On a network of its own: others are on TAPs that tests of this server have left."""


def login(hub: Hub) -> tuple[str, ...]:
    return (hub.target, "--pin", hub.pin, "--user", "alice")


def session(tunnel: Up) -> dict[str, Any]:
    return tunnel.status().get("session") or {}


def has_resumed(tunnel: Up) -> None:
    eventually(
        lambda: (
            session(tunnel).get("resumed") == 1
            and tunnel.status()["state"] == "connected"
        ),
        within_s=30,
        what="the session's going on",
    )
    assert tunnel.status()["counters"]["reconnects"] == 0


def test_after_a_reset_this_server_closes_what_joins_and_there_is_a_new_login(
    client: Client, hub: Hub
) -> None:
    # docs/reference/protocol-data.md#one-end-of-several
    with client.up(*login(hub), password="secret") as tunnel:
        before = tunnel.status()

        client.machine.sh(f"ss -K dst {SERVER} dport = 443 > /dev/null")
        eventually(
            lambda: tunnel.status()["counters"]["reconnects"] == 1, what="a new login"
        )

        after = tunnel.wait()
        assert after["session"]["resumed"] == 0
        assert after["session"]["name"] != before["session"]["name"]
        assert after["lease"]["address"] == before["lease"]["address"]
        assert client.machine.pings(GATEWAY)


@pytest.mark.parametrize("options", [(), ("--half-duplex",)], ids=["full", "half"])
def test_a_black_hole_is_left_and_the_session_goes_on(
    client: Client, hub: Hub, options: tuple[str, ...]
) -> None:
    count = 2 if options else 1
    with client.up(*login(hub), *options, password="secret") as tunnel:
        eventually(
            lambda: session(tunnel).get("connections") == count, what="all of them"
        )
        found = re.findall(
            rf":(\d+)\s+{re.escape(SERVER)}:443", client.machine.sh("ss -Htn")
        )
        assert len(found) == count
        ports = ", ".join(found)
        hub.server.machine.sh(
            "nft 'table inet t { chain c { type filter hook input priority 0; tcp sport { "
            + ports
            + " } drop; }; chain d { type filter hook output priority 0; tcp dport { "
            + ports
            + " } drop; }; }'"
        )
        try:
            has_resumed(tunnel)
            assert client.machine.pings(GATEWAY)
        finally:
            hub.server.machine.sh("nft delete table inet t")


def test_a_connection_closed_with_close_notify_for_a_better_uplink_is_replaced(
    network: Network, client: Client, hub: Hub
) -> None:
    gateway = network.second_uplink(client, subnet="198.18.7", metric=None)
    with client.up(*login(hub), password="secret") as tunnel:
        moved = f"{SERVER}/32 via {gateway} dev eth1 metric 1"
        # The server must speak within a second: on a busy machine once more, and back.
        for number, verb in enumerate(("add", "del", "add"), start=1):
            client.machine.sh(
                f"ip route {verb} {moved}; ip route del {SERVER}/32 proto 224 || true"
            )
            wait_for_outcome(tunnel, number)
            if session(tunnel)["resumed"]:
                break
        assert session(tunnel)["resumed"] == 1
        assert client.machine.pings(GATEWAY)


def wait_for_outcome(tunnel: Up, number: int) -> None:
    eventually(lambda: outcomes(tunnel) >= number, what="another way")


def outcomes(tunnel: Up) -> int:
    """Return how often the session went on, or was replaced."""
    status = tunnel.status()
    if status.get("state") != "connected" or not status["session"]:
        return 0
    resumed: int = status["session"]["resumed"]
    return resumed + int(status["counters"]["reconnects"])


def test_a_session_that_was_thrown_out_is_not_taken_up_again(
    client: Client, hub: Hub
) -> None:
    with client.up(*login(hub), password="secret") as tunnel:
        first = session(tunnel)["name"]

        hub.server.disconnect(hub.name, first)

        eventually(
            lambda: tunnel.status()["counters"]["reconnects"] == 1, what="a new login"
        )
        assert tunnel.wait()["session"]["name"] != first
        assert client.machine.pings(GATEWAY)
