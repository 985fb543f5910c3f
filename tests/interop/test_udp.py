# SPDX-License-Identifier: Apache-2.0
"""UDP acceleration with the real server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from interop.test_connections import login
from interop.test_offload import transfer
from sevpn.testing.lab import Client, Hub, Up
from sevpn.testing.machine import Machine, eventually

pytestmark = [pytest.mark.netns, pytest.mark.interop]

COUNTERS = """
table inet seen {
    counter by_udp { }
    counter by_tcp { }
    chain in { type filter hook input priority 0; meta iifname eth0 jump both; }
    chain out { type filter hook output priority 0; meta oifname eth0 jump both; }
    chain both {
        meta l4proto udp counter name by_udp
        meta l4proto tcp counter name by_tcp
    }
}
"""

DROP = """
table inet cut {
    chain in { type filter hook input priority 0; meta l4proto udp drop; }
}
"""


def udp(tunnel: Up) -> dict[str, Any]:
    found: dict[str, Any] = (tunnel.status().get("session") or {}).get("udp") or {}
    return found


def wait_until(tunnel: Up, state: str) -> None:
    eventually(
        lambda: udp(tunnel).get("state") == state, within_s=45, what=f"UDP {state}"
    )


def load(machine: Machine, rules: str) -> None:
    machine.write("/etc/rules.nft", rules)
    done = machine.run("nft", "-f", "/etc/rules.nft")
    assert done.code == 0, done.err


def seen(machine: Machine) -> dict[str, int]:
    """Bytes of each kind that the outer interface has seen."""
    listed = json.loads(machine.run("nft", "-j", "list", "counters").out)["nftables"]
    return {
        item["counter"]["name"]: item["counter"]["bytes"]
        for item in listed
        if "counter" in item
    }


@pytest.mark.parametrize("version", [2, 1])
def test_udp_carries_the_bulk_in_both_directions(
    client: Client, plain_hub: Hub, version: int
) -> None:
    server = plain_hub.server.machine
    net = f"198.51.{130 + version}"
    plain_hub.server.bridge_tap(plain_hub.name, f"udp{version}", f"{net}.1/24")
    address = ("--no-dhcp", "--address", f"{net}.2/24", "--gateway", f"{net}.1")
    options = ("--udp", "on", *(["--udp-v1"] if version == 1 else []))
    load(client.machine, COUNTERS)
    with client.up(*login(plain_hub), *address, *options, password="secret") as tunnel:
        wait_until(tunnel, "up")
        # The server counts its ten seconds for itself.
        eventually(
            lambda: client.machine.pings(f"{net}.1") and udp(tunnel)["inbound_frames"],
            what="the server's UDP",
        )

        before = seen(client.machine)
        transfer(client.machine, server, f"{net}.1", 5300)
        transfer(server, client.machine, f"{net}.2", 5400)
        after = seen(client.machine)

        by_udp, by_tcp = (after[kind] - before[kind] for kind in ("by_udp", "by_tcp"))
        assert by_udp > 5 * by_tcp
        assert udp(tunnel)["version"] == version
        assert tunnel.status()["counters"]["reconnects"] == 0


def test_udp_that_is_dropped_falls_back_to_tcp_and_comes_back(
    client: Client, hub: Hub
) -> None:
    with client.up(*login(hub), "--udp", "on", password="secret") as tunnel:
        wait_until(tunnel, "up")

        load(
            client.machine,
            DROP,
        )
        wait_until(tunnel, "probing")
        assert client.machine.pings("192.168.30.1")

        client.machine.run("nft", "delete", "table", "inet", "cut")
        wait_until(tunnel, "up")
        assert client.machine.pings("192.168.30.1")
        assert tunnel.status()["counters"]["reconnects"] == 0


def test_auto_leaves_the_server_on_tcp(client: Client, hub: Hub) -> None:
    load(client.machine, COUNTERS)
    with client.up(*login(hub), password="secret") as tunnel:
        assert udp(tunnel)["state"] == "off"
        assert udp(tunnel)["version"] == 2
        assert client.machine.pings("192.168.30.1")
        assert udp(tunnel)["inbound_frames"] == 0
