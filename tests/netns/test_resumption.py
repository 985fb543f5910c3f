# SPDX-License-Identifier: Apache-2.0
"""A session is taken up again: against our own server, which can be told how to break."""

from __future__ import annotations

from typing import Any

import pytest

from sevpn.testing.lab import SERVER, Client, EmbeddedServer, Network, Up
from sevpn.testing.machine import eventually

pytestmark = pytest.mark.netns

TARGET = f"{SERVER}/TEST"
GATEWAY = "10.77.0.254"


def login(server: EmbeddedServer) -> tuple[str, ...]:
    return (TARGET, "--pin", server.pin, "--user", "alice", "--accept-default-gateway")


def session(tunnel: Up) -> dict[str, Any]:
    return tunnel.status().get("session") or {}


def has_resumed(tunnel: Up, times: int = 1) -> None:
    eventually(
        lambda: (
            session(tunnel).get("resumed") == times
            and tunnel.status()["state"] == "connected"
        ),
        what="the session's going on",
    )


def has_begun_anew(tunnel: Up) -> dict[str, Any]:
    eventually(
        lambda: tunnel.status()["counters"]["reconnects"] == 1, what="a new session"
    )
    return tunnel.wait()


@pytest.mark.kernel
@pytest.mark.parametrize("ending", ["reset", "fin", "close_notify"])
def test_a_cut_session_goes_on_with_its_lease(
    client: Client, server: EmbeddedServer, ending: str
) -> None:
    with client.up(*login(server), password="secret") as tunnel:
        before, host = tunnel.status(), client.machine.snapshot()

        server.do(f"server.kill(server.sessions()[0], how={ending!r})")
        has_resumed(tunnel)

        after = tunnel.status()
        assert client.machine.snapshot() == host
        assert after["session"]["name"] == before["session"]["name"]
        assert after["lease"] == before["lease"]
        assert after["counters"]["reconnects"] == 0
        assert client.machine.pings(GATEWAY)
        assert server.do("len(server.sessions())") == "1"


def test_a_compressed_session_goes_on_compressed(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), "--compress", password="secret") as tunnel:
        assert session(tunnel)["compressed"]
        for times in (1, 2):
            server.do("server.kill(server.sessions()[0], how='reset')")
            has_resumed(tunnel, times)
            assert client.machine.pings(GATEWAY)
        assert tunnel.status()["counters"]["reconnects"] == 0


def test_over_ipv6_it_goes_on_likewise(network: Network, client: Client) -> None:
    network.server.sh("ip -6 addr replace 2001:db8:1::1/64 dev br0 nodad")
    client.machine.sh("ip -6 addr add 2001:db8:1::2/64 dev eth0 nodad")
    server = EmbeddedServer(network.server, config="listen=('[::]:443',),")
    _, *options = login(server)

    with client.up("[2001:db8:1::1]/TEST", *options, password="secret") as tunnel:
        host = client.machine.snapshot()

        server.do("server.kill(server.sessions()[0], how='reset')")

        has_resumed(tunnel)
        assert client.machine.snapshot() == host
        assert client.machine.pings(GATEWAY)
    server.stop()


def test_it_does_so_again_and_again(client: Client, server: EmbeddedServer) -> None:
    with client.up(*login(server), password="secret") as tunnel:
        for times in range(1, 6):
            server.do("server.kill(server.sessions()[0], how='reset')")
            has_resumed(tunnel, times)
            assert client.machine.pings(GATEWAY)


def test_all_its_connections_come_back(client: Client, server: EmbeddedServer) -> None:
    with client.up(*login(server), "--connections", "3", password="secret") as tunnel:
        eventually(
            lambda: session(tunnel).get("connections") == 3, what="3 connections"
        )

        server.do("server.cut(server.sessions()[0])")
        has_resumed(tunnel)

        eventually(
            lambda: session(tunnel).get("connections") == 3, within_s=45, what="3 again"
        )


def test_a_dead_connection_that_the_server_still_lists_is_in_nobodys_way(
    network: Network, client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), password="secret") as tunnel:
        # The server learns of no end: what was to tell it is dropped.
        network.server.sh(
            "nft 'table inet t { chain c { type filter hook input priority 0; tcp dport 443 tcp flags & (fin|rst) != 0 drop; }; }'"
        )
        try:
            client.machine.sh(f"ss -K dst {SERVER} dport = 443 > /dev/null")
            has_resumed(tunnel)
            assert client.machine.pings(GATEWAY)
        finally:
            network.server.sh("nft delete table inet t")


def test_all_of_them_come_back_although_the_server_has_noticed_no_end(
    network: Network, client: Client
) -> None:
    server = EmbeddedServer(network.server, hub="policy=Policy(timeout_s=5),")
    with client.up(*login(server), "--connections", "3", password="secret") as tunnel:
        eventually(
            lambda: session(tunnel).get("connections") == 3, what="3 connections"
        )

        server.do("server.cut(server.sessions()[0], is_noticed=False)")
        has_resumed(tunnel)

        # One has room beside the three; the others when those are forgotten.
        eventually(
            lambda: session(tunnel).get("connections") == 3, within_s=45, what="3 again"
        )
        assert session(tunnel)["resumed"] == 1
        assert tunnel.status()["counters"]["reconnects"] == 0
        assert client.machine.pings(GATEWAY)
    server.stop()


@pytest.mark.parametrize("is_noticed", [True, False])
@pytest.mark.parametrize("connections", [1, 4])
def test_with_half_duplex_both_directions_come_back(
    network: Network, client: Client, connections: int, *, is_noticed: bool
) -> None:
    """The server gives a direction by what it lists, the dead included."""
    server = EmbeddedServer(network.server, hub="policy=Policy(timeout_s=5),")
    options = ("--half-duplex", "--connections", str(connections))
    count = max(connections, 2)
    with client.up(*login(server), *options, password="secret") as tunnel:
        eventually(
            lambda: session(tunnel).get("connections") == count, what="all of them"
        )
        host = client.machine.snapshot()

        server.do(f"server.cut(server.sessions()[0], is_noticed={is_noticed})")
        has_resumed(tunnel)

        assert client.machine.snapshot() == host
        assert client.machine.pings(GATEWAY)
        eventually(
            lambda: session(tunnel).get("connections") == count,
            within_s=45,
            what="all of them again",
        )
        assert session(tunnel)["resumed"] == 1
        assert tunnel.status()["counters"]["reconnects"] == 0
    server.stop()


@pytest.mark.parametrize("code", [13, 14, 15])
def test_a_server_that_refuses_is_logged_in_to_anew(
    client: Client, server: EmbeddedServer, code: int
) -> None:
    with client.up(*login(server), password="secret") as tunnel:
        server.do(f"faults.at(Stage.WELCOME, AnswerError({code}))")
        server.do("server.kill(server.sessions()[0], how='reset')")

        assert has_begun_anew(tunnel)["session"]["resumed"] == 0
        assert client.machine.pings(GATEWAY)


def test_a_server_that_does_not_answer_the_request_is_logged_in_to_anew(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), password="secret") as tunnel:
        server.do("faults.at(Stage.WELCOME, Silence())")
        server.do("server.kill(server.sessions()[0], how='reset')")

        assert has_begun_anew(tunnel)["session"]["resumed"] == 0
        assert client.machine.pings(GATEWAY)


def test_a_session_that_an_administrator_ended_is_logged_in_to_anew(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), password="secret") as tunnel:
        server.do("server.disconnect(server.sessions()[0])")

        has_begun_anew(tunnel)
        assert client.machine.pings(GATEWAY)


def test_a_connection_that_is_closed_at_once_is_not_insisted_on(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), password="secret") as tunnel:
        server.do("faults.at(Stage.SESSION, Close())")
        server.do("server.kill(server.sessions()[0], how='reset')")

        has_begun_anew(tunnel)
        assert client.machine.pings(GATEWAY)


@pytest.mark.parametrize("udp", ["off", "on"])
def test_a_connection_on_which_nothing_comes_is_not_insisted_on(
    client: Client, server: EmbeddedServer, udp: str
) -> None:
    with client.up(*login(server), "--udp", udp, password="secret") as tunnel:
        if udp == "on":
            eventually(
                lambda: session(tunnel)["udp"]["state"] == "up",
                within_s=45,
                what="keep-alives by UDP, which show nothing of the connection",
            )
        server.do("faults.at(Stage.SESSION, Silence())")
        server.do("server.kill(server.sessions()[0], how='reset')")

        assert has_begun_anew(tunnel)["session"]["resumed"] == 0
        assert client.machine.pings(GATEWAY)


def test_where_nobody_can_be_asked_it_is_enough_that_the_server_speaks(
    network: Network, client: Client
) -> None:
    # The hub's polls, five seconds apart, are all that ever comes from inside.
    server = EmbeddedServer(network.server, setup="faults.is_gateway_mute = True")
    address = ("--no-dhcp", "--address", "10.77.0.50/24")
    _, *options = login(server)
    with client.up(TARGET, *without_gateway(options), *address, password="secret") as (
        tunnel
    ):
        assert tunnel.status()["proven_at"] is not None

        server.do("server.kill(server.sessions()[0], how='reset')")
        has_resumed(tunnel)

        assert tunnel.status()["counters"]["reconnects"] == 0
    server.stop()


def without_gateway(options: list[str]) -> list[str]:
    return [option for option in options if option != "--accept-default-gateway"]


def test_a_session_in_which_nobody_answers_any_more_is_given_up(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), password="secret") as tunnel:
        server.do("setattr(faults, 'is_gateway_mute', True)")
        server.do("server.kill(server.sessions()[0], how='reset')")
        eventually(
            lambda: tunnel.status()["state"] not in {"connected", "connecting"},
            what="a new login",
        )
        server.do("setattr(faults, 'is_gateway_mute', False)")

        has_begun_anew(tunnel)


def test_it_can_be_turned_off(client: Client, server: EmbeddedServer) -> None:
    with client.up(*login(server), "--no-resume", password="secret") as tunnel:
        assert session(tunnel)["max_connections"] == 1
        server.do("server.kill(server.sessions()[0], how='reset')")

        has_begun_anew(tunnel)


def test_a_user_who_wants_a_new_session_gets_one(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), password="secret") as tunnel:
        assert client.sevpn("reconnect", "t").code == 0

        has_begun_anew(tunnel)


def test_a_stop_while_it_is_tried_restores_the_host(
    network: Network, client: Client, server: EmbeddedServer
) -> None:
    before = client.machine.snapshot()
    with client.up(*login(server), password="secret") as tunnel:
        network.server.sh(
            "nft 'table inet t { chain c { type filter hook input priority 0; tcp dport 443 drop; }; }'"
        )
        try:
            client.machine.sh(f"ss -K dst {SERVER} dport = 443 > /dev/null")
            eventually(
                lambda: tunnel.status().get("state") == "connecting", what="a try"
            )
            assert tunnel.stop().code == 0
        finally:
            network.server.sh("nft delete table inet t")

    assert client.machine.snapshot() == before
