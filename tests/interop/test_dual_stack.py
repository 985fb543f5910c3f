# SPDX-License-Identifier: Apache-2.0
"""The real server over IPv6, and over whichever version of IP works."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from interop.test_offload import SIZE, transfer
from interop.test_udp import COUNTERS, load, seen, udp, wait_until
from sevpn.testing.lab import SERVER, Client, Hub, Network
from sevpn.testing.machine import Machine, eventually

pytestmark = [pytest.mark.netns, pytest.mark.interop]

SIX: Final = "2001:db8:1::1"
GATEWAY: Final = "192.168.30.1"
COUNTERS_OF_IPV6: Final = COUNTERS.replace(
    "iifname", "nfproto ipv6 meta iifname"
).replace("oifname", "nfproto ipv6 meta oifname")


@pytest.fixture(autouse=True)
def six(network: Network, client: Client) -> Iterator[None]:
    """The outer network speaks IPv6, too, and the server has one name for both."""
    network.server.sh(f"ip -6 addr replace {SIX}/64 dev br0 nodad")
    (own,) = client.machine.ip("-4", "address", "show", "dev", "eth0")
    # One that no test before had: the server would still know it by another MAC.
    number = own["addr_info"][0]["local"].rpartition(".")[2]
    client.machine.sh(
        f"ip -6 addr add 2001:db8:1::{number}:2/64 dev eth0 nodad;"
        f"ip -6 route add default via {SIX} dev eth0;"
        f"echo '{SIX} vpn.test' >> /etc/hosts; echo '{SERVER} vpn.test' >> /etc/hosts"
    )
    yield
    network.server.run("nft", "delete", "table", "inet", "broken")


def break_one(server: Machine, version: int, verdict: str) -> None:
    """Let nobody reach the server's port by this version of IP."""
    protocol = {4: "ipv4", 6: "ipv6"}[version]
    server.sh(
        "nft -f - <<END\ntable inet broken {\nchain in {\n"
        "type filter hook input priority 0;\n"
        f"meta nfproto {protocol} tcp dport 443 {verdict}\n}}\n}}\nEND"
    )


def login(hub: Hub, host: str) -> tuple[str, ...]:
    return (f"{host}/{hub.name}", "--pin", hub.pin, "--user", "alice")


def test_a_full_tunnel_over_ipv6(client: Client, hub: Hub) -> None:
    with client.up(
        *login(hub, f"[{SIX}]"), "--accept-default-gateway", password="secret"
    ) as tunnel:
        status = tunnel.status()
        assert status["server"]["address"] == SIX
        assert client.machine.pings(GATEWAY)
        # IPv6 of others is refused, with the tunnel's own packets it must not be.
        (pinned,) = client.machine.ip("-6", "route", "show", f"{SIX}/128")
        assert (pinned["dev"], pinned["protocol"]) == ("eth0", "224")
        refused = client.machine.run("ip", "-6", "route", "get", "2001:db8:9::1")
        assert refused.code != 0
        client.sevpn("reconnect", "t")
        tunnel.wait("connected")
        assert client.machine.pings(GATEWAY)
        tunnel.stop()
    assert not client.machine.ip("-6", "route", "show", f"{SIX}/128")


@pytest.mark.parametrize("verdict", ["drop", "reject with tcp reset"])
@pytest.mark.parametrize("broken", [4, 6])
def test_with_one_version_broken_the_other_one_is_taken(
    network: Network, client: Client, hub: Hub, broken: int, verdict: str
) -> None:
    break_one(network.server, broken, verdict)
    wanted = {4: SIX, 6: SERVER}[broken]

    with client.up(*login(hub, "vpn.test"), password="secret") as tunnel:
        assert tunnel.status()["server"]["address"] == wanted
        assert client.machine.pings(GATEWAY)


@pytest.mark.parametrize("version", [4, 6])
def test_a_version_can_be_asked_for(client: Client, hub: Hub, version: int) -> None:
    wanted = {4: SERVER, 6: SIX}[version]

    with client.up(
        *login(hub, "vpn.test"), "--ip", str(version), password="secret"
    ) as tunnel:
        assert tunnel.status()["server"]["address"] == wanted


def test_a_way_that_breaks_is_left_for_the_other_version(
    network: Network, client: Client, hub: Hub
) -> None:
    with client.up(
        *login(hub, "vpn.test"), "--accept-default-gateway", password="secret"
    ) as tunnel:
        first = tunnel.status()["server"]["address"]
        break_one(network.server, 6 if first == SIX else 4, "drop")

        client.sevpn("reconnect", "t")

        tunnel.wait("connected", within_s=60)
        assert tunnel.status()["server"]["address"] == (SERVER if first == SIX else SIX)
        assert client.machine.pings(GATEWAY)


def test_udp_acceleration_over_ipv6_carries_the_bulk_in_both_directions(
    network: Network, client: Client, plain_hub: Hub
) -> None:
    net = "198.51.137"
    device = plain_hub.server.bridge_tap(plain_hub.name, "six", f"{net}.1/24")
    address = ("--no-dhcp", "--address", f"{net}.2/24", "--gateway", f"{net}.1")
    words = (*login(plain_hub, f"[{SIX}]"), *address, "--udp", "on")
    load(client.machine, COUNTERS_OF_IPV6)
    with client.up(*words, password="secret") as tunnel:
        # Two headers more than over IPv4 must fit, too.
        interface = tunnel.status()["interface"]["name"]
        client.machine.sh(f"ip link set {interface} mtu 1360")
        network.server.sh(f"ip link set {device} mtu 1360")
        wait_until(tunnel, "up")
        # The server counts its ten seconds for itself.
        eventually(
            lambda: client.machine.pings(f"{net}.1") and udp(tunnel)["inbound_frames"],
            what="the server's UDP",
        )

        before = seen(client.machine)
        transfer(client.machine, network.server, f"{net}.1", 5500)
        transfer(network.server, client.machine, f"{net}.2", 5600)
        after = seen(client.machine)

        by_udp, by_tcp = (after[kind] - before[kind] for kind in ("by_udp", "by_tcp"))
        assert by_udp > 2 * SIZE
        assert by_udp > 5 * by_tcp
        assert tunnel.status()["server"]["address"] == SIX
        assert tunnel.status()["counters"]["reconnects"] == 0
