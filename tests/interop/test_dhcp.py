# SPDX-License-Identifier: Apache-2.0
"""Leases, proofs and healing inside hubs of the real server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from sevpn.testing.lab import SERVER, Client, Hub, Network, Up
from sevpn.testing.machine import eventually
from sevpn.testing.peers import Capture, Dnsmasq

pytestmark = [pytest.mark.netns, pytest.mark.interop]

GATEWAY = "192.168.30.1"


def login(hub: Hub, user: str = "alice") -> tuple[str, ...]:
    return (hub.target, "--pin", hub.pin, "--user", user)


def cut(hub: Hub) -> None:
    """Throw all clients' sessions out, as an administrator does."""
    for session in hub.server.sessions(hub.name):
        hub.server.disconnect(hub.name, session)


def healed(tunnel: Up, *, times: int = 1) -> dict[str, Any]:
    def check() -> dict[str, Any] | None:
        status = tunnel.status()
        is_healed = (
            status.get("state") == "connected"
            and status["counters"]["reconnects"] >= times
        )
        return status if is_healed else None

    found: dict[str, Any] = eventually(check, within_s=60, what="healing")
    return found


def test_a_session_that_is_thrown_out_comes_back_with_the_same_address(
    client: Client, hub: Hub
) -> None:
    with client.up(*login(hub), password="secret") as tunnel:
        before = tunnel.status()

        cut(hub)
        after = healed(tunnel)

        assert after["lease"]["address"] == before["lease"]["address"]
        assert after["interface"] == before["interface"]
        assert client.machine.pings(GATEWAY)


def test_a_hub_that_forces_dhcp_lets_traffic_flow_again_after_a_cut(
    client: Client, hub: Hub
) -> None:
    hub.user("forced", DHCPForce="yes")

    with client.up(*login(hub, "forced"), password="secret") as tunnel:
        assert tunnel.status()["session"]["policy"]["DHCPForce"] == 1
        assert client.machine.pings(GATEWAY)
        for times in (1, 2):
            cut(hub)
            healed(tunnel, times=times)
            assert client.machine.pings(GATEWAY)


def test_a_static_address_in_a_hub_that_forces_dhcp_is_warned_of(
    client: Client, hub: Hub
) -> None:
    hub.user("forced", DHCPForce="yes")

    with client.up(
        *login(hub, "forced"),
        *("--no-dhcp", "--address", "192.168.30.77/24", "--gateway", GATEWAY),
        password="secret",
    ) as tunnel:
        warnings = " ".join(tunnel.status()["warnings"])
        assert "DHCPForce" in warnings
        assert not client.machine.pings(GATEWAY, count=2)


def test_a_static_address_needs_no_dhcp(client: Client, hub: Hub) -> None:
    with client.up(
        *login(hub),
        *("--no-dhcp", "--address", "192.168.30.77/24", "--gateway", GATEWAY),
        password="secret",
    ) as tunnel:
        status = tunnel.status()
        assert status["lease"]["server"] is None
        assert status["proven_at"] is not None
        assert client.machine.pings(GATEWAY)


def test_the_hubs_polls_are_answered_although_the_kernel_would_not(
    network: Network, hub: Hub
) -> None:
    """With a strict reverse-path filter and a split tunnel the kernel keeps silent."""
    with network.client() as client:
        client.machine.sh("echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter")
        hub.user("forced", DHCPForce="yes")

        with client.up(*login(hub, "forced"), password="secret") as tunnel:
            counters = tunnel.status()["counters"]
            capture = Capture(client.machine, tunnel.status()["interface"]["name"])
            # Two polls; the host itself stays silent.
            eventually(
                lambda: (
                    tunnel.status()["counters"]["outbound_frames"]
                    >= counters["outbound_frames"] + 2
                ),
                what="two answers",
            )
            # They were answered below the interface: the kernel has not seen them.
            seen = capture.stop()
            assert not [line for line in seen if "00:ae:" in line], seen
            assert client.machine.pings(GATEWAY)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_silent_tunnel_outlives_the_hubs_table(network: Network, hub: Hub) -> None:
    """The table of a DHCPForce hub forgets an address after 300 s of silence."""
    with network.client() as client:
        client.machine.sh("echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter")
        hub.user("forced", DHCPForce="yes")
        with client.up(*login(hub, "forced"), password="secret"):
            time.sleep(330)
            assert client.machine.pings(GATEWAY)


def test_a_server_that_is_killed_and_started_again_is_found_again(
    client: Client, hub: Hub
) -> None:
    before = client.machine.snapshot()

    with client.up(
        *login(hub), "--accept-default-gateway", password="secret"
    ) as tunnel:
        hub.server.command("Flush")
        hub.server.kill()
        status = tunnel.wait("waiting")
        assert status["last_error"]
        # While it is away only TAP and host route stay.
        held = client.machine.snapshot()
        assert [r for r in held.routes if r.startswith(f"{SERVER} ")]
        assert not [r for r in held.routes if r.startswith("0.0.0.0/1")]
        hub.server.start()
        healed(tunnel)
        assert client.machine.pings(GATEWAY)
        assert tunnel.stop().code == 0

    assert client.machine.snapshot() == before


@pytest.fixture
def exhausted(plain_hub: Hub) -> Iterator[Dnsmasq]:
    """A DHCP server whose only address is given to somebody else."""
    name = plain_hub.name.lower()
    plain_hub.server.bridge_tap(plain_hub.name, name, "198.51.100.1/24")
    made = Dnsmasq(
        plain_hub.server.machine,
        f"tap_{name}",
        [
            "dhcp-range=198.51.100.50,198.51.100.50,1h",
            "dhcp-host=02:00:00:00:00:99,198.51.100.50",
        ],
    )
    yield made
    made.stop()
    plain_hub.server.command(f"BridgeDelete {plain_hub.name} /DEVICE:{name}")


@pytest.mark.usefixtures("exhausted")
def test_an_empty_pool_is_no_lease(client: Client, plain_hub: Hub) -> None:
    before = client.machine.snapshot()

    done = client.sevpn(
        *("up", *login(plain_hub), "--once"), env={"SEVPN_PASSWORD": "secret"}
    )

    assert done.code == 75
    assert "--no-dhcp" in done.err
    assert client.machine.snapshot() == before
