# SPDX-License-Identifier: Apache-2.0
"""Compression, with the real server."""

from __future__ import annotations

import pytest

from interop.test_connections import login, wait_for_connections
from interop.test_offload import transfer
from sevpn.testing.lab import Client, Hub

pytestmark = [pytest.mark.netns, pytest.mark.interop]


@pytest.mark.parametrize("kernel", ["compiled", "python"])
def test_compressed_traffic_arrives_intact(
    client: Client, plain_hub: Hub, kernel: str
) -> None:
    server = plain_hub.server.machine
    net = f"198.51.{120 + (kernel == 'python')}"
    plain_hub.server.bridge_tap(plain_hub.name, f"zip{kernel[:4]}", f"{net}.1/24")
    address = ("--no-dhcp", "--address", f"{net}.2/24", "--gateway", f"{net}.1")
    env = {"SEVPN_KERNEL": "python"} if kernel == "python" else {}
    with client.up(
        *login(plain_hub), *address, "--compress", password="secret", env=env
    ) as tunnel:
        transfer(client.machine, server, f"{net}.1", 5100)
        transfer(server, client.machine, f"{net}.2", 5200)

        status = tunnel.status()
        assert status["session"]["compressed"] is True
        assert status["interface"]["kernel"] == kernel
        assert status["counters"]["reconnects"] == 0
        listed = plain_hub.server.command(
            f"SessionGet {status['session']['name']}", hub=plain_hub.name
        )
        assert "Use of Compression" in listed
        assert any(
            "Yes" in line
            for line in listed.splitlines()
            if "Use of Compression" in line
        )


def test_several_connections_compress_too(client: Client, hub: Hub) -> None:
    with client.up(
        *login(hub), "--compress", "--connections", "4", password="secret"
    ) as tunnel:
        wait_for_connections(tunnel, 4)

        assert tunnel.status()["session"]["compressed"] is True
        assert client.machine.pings("192.168.30.1", count=10)
