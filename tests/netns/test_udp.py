# SPDX-License-Identifier: Apache-2.0
"""UDP acceleration, end to end, against the embedded server."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from sevpn.testing.lab import SERVER, Client, EmbeddedServer, Network, Up
from sevpn.testing.line import Way
from sevpn.testing.link import LinkSpec
from sevpn.testing.machine import eventually

pytestmark = pytest.mark.netns

TARGET = f"{SERVER}/TEST"
GATEWAY = "10.77.0.254"


def login(server: EmbeddedServer) -> tuple[str, ...]:
    return (TARGET, "--pin", server.pin, "--user", "alice")


def udp(tunnel: Up) -> dict[str, Any]:
    found: dict[str, Any] = (tunnel.status().get("session") or {}).get("udp") or {}
    return found


def wait_until(tunnel: Up, state: str) -> None:
    eventually(
        lambda: udp(tunnel).get("state") == state, within_s=45, what=f"UDP {state}"
    )


def server_sends(server: EmbeddedServer) -> str:
    return server.do("server.sessions()[0].udp.flow.state")


@pytest.mark.parametrize("version", [1, 2])
def test_frames_go_by_udp_and_by_tcp_while_it_is_lost_and_by_udp_again(
    client: Client, server: EmbeddedServer, version: int
) -> None:
    options = ("--udp", "on", *(["--udp-v1"] if version == 1 else []))
    with client.up(*login(server), *options, password="secret") as tunnel:
        assert udp(tunnel)["state"] == "probing"
        assert client.machine.pings(GATEWAY)
        wait_until(tunnel, "up")
        eventually(lambda: server_sends(server) == "'up'", what="the server's UDP")

        before = udp(tunnel)
        assert before["version"] == version
        assert all(client.machine.pings(GATEWAY) for _ in range(5))
        after = udp(tunnel)
        assert after["outbound_frames"] >= before["outbound_frames"] + 5
        assert after["inbound_frames"] >= before["inbound_frames"] + 5

        if version == 1:
            return

        server.do("setattr(server.faults, 'is_udp_lost', True)")
        wait_until(tunnel, "probing")
        assert "silent" in udp(tunnel)["reason"]
        assert client.machine.pings(GATEWAY, count=5)
        assert udp(tunnel)["inbound_frames"] < after["inbound_frames"] + 5

        server.do("setattr(server.faults, 'is_udp_lost', False)")
        wait_until(tunnel, "up")
        assert tunnel.status()["counters"]["reconnects"] == 0


def test_a_server_of_version_1_is_not_spoken_to_by_udp_unless_that_is_asked_for(
    network: Network, client: Client
) -> None:
    server = EmbeddedServer(network.server, hub="udp_version=1,")
    with client.up(*login(server), "--udp", "on", password="secret") as tunnel:
        assert client.machine.pings(GATEWAY)
        told = udp(tunnel)
        assert told["state"] == "off"
        assert "--udp-v1" in told["reason"]

    allowed = ("--udp", "on", "--udp-v1")
    with client.up(*login(server), *allowed, password="secret") as tunnel:
        wait_until(tunnel, "up")
        assert udp(tunnel)["version"] == 1
        assert client.machine.pings(GATEWAY)
    server.stop()


def test_while_tcp_does_well_nothing_is_said_by_udp(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), password="secret") as tunnel:
        assert client.machine.pings(GATEWAY, count=5)

        told = udp(tunnel)
        assert (told["state"], told["version"]) == ("off", 2)
        assert told["reason"] == "TCP does well"
        assert server.do("server.sessions()[0].udp.flow.received_frames") == "0"
        assert server.do("server.sessions()[0].udp.flow.machine.heard_at") == "-inf"


def test_on_a_path_that_becomes_narrow_small_frames_stay_on_udp(
    network: Network, client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), "--udp", "on", password="secret") as tunnel:
        wait_until(tunnel, "up")
        assert client.machine.pings(GATEWAY, size=1300)

        # At both ends: a cable has no router that would tell the server.
        for machine, interface in ((client.machine, "eth0"), (network.server, "br0")):
            machine.sh(f"ip link set {interface} mtu 1300")
        assert all(client.machine.pings(GATEWAY, size=1300) for _ in range(3))
        before = udp(tunnel)
        assert all(client.machine.pings(GATEWAY, size=1300) for _ in range(3))
        by_tcp = udp(tunnel)["outbound_frames"] - before["outbound_frames"]
        assert all(client.machine.pings(GATEWAY) for _ in range(5))
        after = udp(tunnel)

        assert by_tcp == 0, "what is too large for the path"
        assert after["outbound_frames"] >= before["outbound_frames"] + 5
        assert (after["state"], after["dropped_datagrams"]) == ("up", {})
        assert tunnel.status()["counters"]["reconnects"] == 0


def test_a_burst_finds_room_whatever_the_host_allows_others(
    client: Client, server: EmbeddedServer
) -> None:
    options = ("--udp", "on", "--udp-port", "5999")
    with client.up(*login(server), *options, password="secret") as tunnel:
        wait_until(tunnel, "up")

        # net.core.rmem_max, 208 KiB where nobody has raised it, is for those without rights.
        assert "rb8388608" in client.machine.sh("ss -Hunam sport = :5999")


def test_datagrams_of_strangers_are_counted_and_change_nothing(
    client: Client, server: EmbeddedServer
) -> None:
    options = ("--udp", "on", "--udp-port", "5999")
    with client.up(*login(server), *options, password="secret") as tunnel:
        wait_until(tunnel, "up")
        send = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.sendto(bytes(200), ('192.0.2.2', 5999))"
        shown = client.machine.sh("ip -4 -brief address show eth0").split()[2]
        send = send.replace("192.0.2.2", shown.partition("/")[0])
        for _ in range(3):
            server.do(f"exec({send!r})")

        eventually(
            lambda: udp(tunnel)["dropped_datagrams"] == {"foreign": 3}, what="three"
        )
        assert udp(tunnel)["state"] == "up"
        assert client.machine.pings(GATEWAY)


def test_off_offers_nothing(client: Client, server: EmbeddedServer) -> None:
    with client.up(*login(server), "--udp", "off", password="secret") as tunnel:
        assert server.do("server.sessions()[0].udp") == "None"
        assert udp(tunnel)["reason"] == "not wanted"


def test_keys_of_a_wrong_size_turn_udp_off_and_nothing_else(
    client: Client, server: EmbeddedServer
) -> None:
    server.do("setattr(server.faults, 'udp_key_size', 32)")
    with client.up(*login(server), "--udp", "on", password="secret") as tunnel:
        assert "wrong size" in udp(tunnel)["reason"]
        assert client.machine.pings(GATEWAY)


def test_the_local_port_can_be_chosen_and_one_that_is_taken_costs_udp_alone(
    client: Client, server: EmbeddedServer
) -> None:
    options = ("--udp", "on", "--udp-port", "5999")
    with client.up(*login(server), *options, password="secret") as tunnel:
        assert ":5999" in client.machine.run("ss", "-uanH").out
        with client.up(
            *login(server), *options, name="second", password="secret"
        ) as second:
            assert "5999" in udp(second)["reason"]
            assert client.machine.pings(GATEWAY)
        assert udp(tunnel)["state"] != "off"


def test_a_packet_filter_that_forbids_udp_costs_udp_alone(
    client: Client, server: EmbeddedServer
) -> None:
    client.machine.run("nft", "add table inet t")
    client.machine.run("nft", "add chain inet t o { type filter hook output priority 0; }")  # fmt: skip
    client.machine.run("nft", "add rule inet t o udp dport 40000-44999 reject")
    with client.up(*login(server), "--udp", "on", password="secret") as tunnel:
        assert client.machine.pings(GATEWAY, count=3)
        assert tunnel.status()["state"] == "connected"
        assert tunnel.status()["counters"]["reconnects"] == 0
        assert udp(tunnel)["state"] != "up"


def test_udp_goes_on_with_a_session_that_was_cut(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), "--udp", "on", password="secret") as tunnel:
        wait_until(tunnel, "up")

        server.do("server.kill(server.sessions()[0], how='reset')")
        eventually(
            lambda: (tunnel.status().get("session") or {}).get("resumed") == 1,
            what="the session's going on",
        )

        wait_until(tunnel, "up")
        assert client.machine.pings(GATEWAY, count=5)


FLOOD = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
until = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    sock.sendto(bytes(1000), (sys.argv[1], 9))
    time.sleep(0.003)
"""


def test_auto_moves_to_udp_where_tcp_loses_packets() -> None:
    network = Network(link=LinkSpec.both(Way(delay_s=0.01, loss=0.02)))
    try:
        server = EmbeddedServer(network.server)
        with (
            network.client() as client,
            client.up(*login(server), password="secret") as tunnel,
        ):
            assert udp(tunnel)["state"] == "off"
            flood = client.machine.popen([sys.executable, "-c", FLOOD, GATEWAY, "60"])
            wait_until(tunnel, "up")

            told = udp(tunnel)
            assert "TCP" in told["reason"]
            eventually(
                lambda: udp(tunnel)["outbound_frames"] > 200, what="frames by UDP"
            )
            assert tunnel.status()["counters"]["reconnects"] == 0
            flood.kill()
            flood.wait()
        server.stop()
    finally:
        network.close()
