# SPDX-License-Identifier: Apache-2.0
"""Another uplink, with the real server at the other end.

client ── eth0 192.0.2.N ════ 192.0.2.1 ──┐
      └── eth1 172.31.9.2 ═══ 172.31.9.1 ─┴─ server ── SecureNAT 192.168.30.1
"""

from __future__ import annotations

import pytest

from sevpn.testing.lab import Client, Hub, Network
from sevpn.testing.machine import eventually

pytestmark = [pytest.mark.netns, pytest.mark.interop]

GATEWAY = "192.168.30.1"


def test_an_uplink_that_goes_is_left_for_another_one_with_the_same_lease(
    network: Network, client: Client, hub: Hub
) -> None:
    # The server still holds the session that went with the uplink, and allows one.
    hub.user("single", MultiLogins="1")
    network.second_uplink(client, subnet="172.31.9", metric=200)
    words = (hub.target, "--pin", hub.pin, "--user", "single", "--no-resume")
    with client.up(*words, "--accept-default-gateway", password="secret") as tunnel:
        before = tunnel.status()
        assert client.machine.pings(GATEWAY)

        client.machine.sh("ip address flush dev eth0")

        eventually(
            lambda: tunnel.status()["counters"]["reconnects"] == 1, what="a session"
        )
        after = tunnel.wait()
        assert after["lease"]["address"] == before["lease"]["address"]
        assert "lost the address 192.0.2." in after["last_error"]
        assert client.machine.pings(GATEWAY)
        assert tunnel.status()["counters"]["reconnects"] == 1
        assert tunnel.stop().code == 0
