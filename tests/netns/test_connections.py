# SPDX-License-Identifier: Apache-2.0
"""Several connections per session, end to end, against the embedded server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sevpn.testing.lab import SERVER, Client, EmbeddedServer, Network, Up
from sevpn.testing.machine import eventually

pytestmark = pytest.mark.netns

TARGET = f"{SERVER}/TEST"
GATEWAY = "10.77.0.254"


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = Network()
    yield made
    made.close()


@pytest.fixture
def client(network: Network) -> Iterator[Client]:
    with network.client() as made:
        yield made


@pytest.fixture
def server(network: Network) -> Iterator[EmbeddedServer]:
    made = EmbeddedServer(network.server)
    yield made
    made.stop()


def login(server: EmbeddedServer) -> tuple[str, ...]:
    return (TARGET, "--pin", server.pin, "--user", "alice", "--no-resume")


def wait_for_connections(tunnel: Up, count: int) -> None:
    eventually(
        lambda: (tunnel.status().get("session") or {}).get("connections") == count,
        within_s=45,
        what=f"{count} connections",
    )


@pytest.mark.parametrize(
    ("wanted", "is_half"), [(2, False), (8, False), (32, False), (1, True), (8, True)]
)
def test_as_many_connections_as_wanted_carry_traffic(
    client: Client, server: EmbeddedServer, wanted: int, is_half: bool
) -> None:
    options = ("--connections", str(wanted), *(["--half-duplex"] * is_half))
    with client.up(*login(server), *options, password="secret") as tunnel:
        wait_for_connections(tunnel, max(wanted, 2))

        session = tunnel.status()["session"]
        assert session["max_connections"] == max(wanted, 2)
        assert session["half_duplex"] == is_half
        assert client.machine.pings(GATEWAY, count=10)
        assert tunnel.status()["counters"]["reconnects"] == 0
        assert tunnel.stop().code == 0


@pytest.mark.parametrize(
    ("number", "how", "is_half"),
    [
        (1, "fin", False),
        (2, "reset", False),
        (4, "fin", False),
        (1, "reset", True),
        (2, "fin", True),
        (4, "reset", True),
    ],
)
def test_a_connection_that_dies_is_replaced_and_the_session_lives(
    client: Client, server: EmbeddedServer, number: int, how: str, is_half: bool
) -> None:
    options = ("--connections", "4", *(["--half-duplex"] * is_half))
    with client.up(*login(server), *options, password="secret") as tunnel:
        wait_for_connections(tunnel, 4)

        server.do(f"server.kill(server.sessions()[0], {number}, how={how!r})")
        eventually(
            lambda: server.do("list(server.sessions()[0].connections)[-1]") == "5",
            what="another connection",
        )

        wait_for_connections(tunnel, 4)
        assert client.machine.pings(GATEWAY, count=5)
        status = tunnel.status()
        assert status["state"] == "connected"
        assert status["counters"]["reconnects"] == 0
        assert server.do("len(server.sessions())") == "1"


def test_a_connection_that_falls_silent_is_replaced(
    network: Network, client: Client
) -> None:
    server = EmbeddedServer(network.server, hub="policy=Policy(timeout_s=5),")
    try:
        with client.up(
            *login(server), "--connections", "3", password="secret"
        ) as tunnel:
            wait_for_connections(tunnel, 3)

            server.do("server.kill(server.sessions()[0], 2, how='silence')")
            eventually(
                lambda: (
                    server.do("list(server.sessions()[0].connections)") == "[1, 3, 4]"
                ),
                what="another connection",
            )

            assert client.machine.pings(GATEWAY, count=5)
            assert tunnel.status()["counters"]["reconnects"] == 0
    finally:
        server.stop()


def test_all_connections_dying_leads_to_a_clean_new_session(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), "--connections", "4", password="secret") as tunnel:
        wait_for_connections(tunnel, 4)

        server.do("server.cut(server.sessions()[0], reset=False)")
        eventually(
            lambda: tunnel.status()["counters"]["reconnects"] == 1, what="a new session"
        )

        assert tunnel.wait()["session"]["name"] == "SID-ALICE-2"
        wait_for_connections(tunnel, 4)
        assert client.machine.pings(GATEWAY, count=5)


def test_a_server_whose_connections_end_together_is_logged_in_to_anew(
    client: Client, server: EmbeddedServer
) -> None:
    server.do("setattr(faults, 'connections_end_together', True)")
    with client.up(*login(server), "--connections", "4", password="secret") as tunnel:
        wait_for_connections(tunnel, 4)

        server.do("server.kill(server.sessions()[0], 2, how='fin')")
        eventually(
            lambda: tunnel.status()["counters"]["reconnects"] == 1, what="a new session"
        )

        tunnel.wait()
        wait_for_connections(tunnel, 4)
        assert client.machine.pings(GATEWAY, count=5)


@pytest.mark.parametrize("resumes", ["--resume", "--no-resume"])
def test_connections_that_end_as_soon_as_they_joined_lead_to_a_new_session(
    client: Client, server: EmbeddedServer, resumes: str
) -> None:
    """It would meet the same if it were taken up again."""
    options = ("--connections", "2", resumes)
    with client.up(*login(server), *options, password="secret") as tunnel:
        wait_for_connections(tunnel, 2)

        server.do("faults.at(Stage.SESSION, Close(), times=3)")
        server.do("server.kill(server.sessions()[0], 1, how='reset')")
        eventually(
            lambda: tunnel.status()["counters"]["reconnects"] == 1, what="a new session"
        )

        assert "as soon as they had joined" in tunnel.status()["last_error"]
        tunnel.wait()
        wait_for_connections(tunnel, 2)


@pytest.mark.parametrize("code", [13, 14])
def test_a_server_that_does_not_know_the_session_is_logged_in_to_anew(
    client: Client, server: EmbeddedServer, code: int
) -> None:
    with client.up(*login(server), "--connections", "2", password="secret") as tunnel:
        wait_for_connections(tunnel, 2)

        server.do(f"faults.at(Stage.WELCOME, AnswerError({code}))")
        server.do("server.kill(server.sessions()[0], 2, how='fin')")
        eventually(
            lambda: tunnel.status()["counters"]["reconnects"] == 1, what="a new session"
        )

        assert f"server error {code}" in tunnel.status()["last_error"]
        tunnel.wait()


def test_a_full_session_works_with_what_it_has(
    client: Client, server: EmbeddedServer
) -> None:
    server.do("faults.at(Stage.WELCOME, Delay(0.0))")  # the login itself
    server.do("faults.at(Stage.WELCOME, AnswerError(15), times=None)")
    with client.up(
        *login(server), "--connections", "4", "--json", password="secret"
    ) as tunnel:
        assert client.machine.pings(GATEWAY, count=15)
        assert tunnel.status()["session"]["connections"] == 1
        told = tunnel.stop().out

    assert told.count('"event": "connection-failed"') == 1
    assert "server error 15" in told


def test_a_hub_that_grants_fewer_is_told_of(network: Network, client: Client) -> None:
    server = EmbeddedServer(network.server, hub="policy=Policy(max_connections=2),")
    try:
        with client.up(
            *login(server), "--connections", "8", password="secret"
        ) as tunnel:
            wait_for_connections(tunnel, 2)
            (warning,) = tunnel.status()["warnings"]
            assert "grants 2 of 8 connections" in warning
    finally:
        server.stop()


def test_with_qos_the_youngest_connection_carries_what_is_urgent(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), "--connections", "3", password="secret") as tunnel:
        wait_for_connections(tunnel, 3)
        before = _received(server)

        client.machine.python(
            "import socket\n"
            "sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            "sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x10)\n"
            f"for _ in range(20): sock.sendto(bytes(1000), ({GATEWAY!r}, 9))\n"
        )
        eventually(
            lambda: _received(server)[2] - before[2] >= 20 * 1000,
            what="the urgent frames",
        )

        gained = [
            after - had for had, after in zip(before, _received(server), strict=True)
        ]
        assert gained[0] < 5000
        assert gained[1] < 5000


def _received(server: EmbeddedServer) -> list[int]:
    counts = server.do("list(server.sessions()[0].received_bytes.values())")
    return [int(word) for word in counts.strip("[]").split(",")]
