# SPDX-License-Identifier: Apache-2.0
"""Sessions of several connections, as a client sees them on the wire."""

from __future__ import annotations

import asyncio

import pytest

from integration.server_lab import (
    a_server,
    ask_gateway,
    asynchronous,
    ip,
    mac,
    until,
)
from scripted_client import ScriptedClient, login_pack
from sevpn.errors import LocalProtocolError
from sevpn.protocol.identity import ClientIdentity
from sevpn.protocol.joining import Direction, decode_join_answer, encode_join
from sevpn.server.faults import Close, Stage
from sevpn.server.policy import Policy
from sevpn.server.server import Server
from sevpn.server.session import Session
from sevpn.wire.ethernet import Frame, encode_frame
from sevpn.wire.ipv4 import Ipv4Packet, encode_ipv4
from sevpn.wire.pack import Pack, integer

IDENTITY = ClientIdentity(unique_id=bytes(16), machine_id=bytes(20))


def packet(number: int, *, tos: int = 0, protocol: int = 17, size: int = 100) -> bytes:
    """A frame from somewhere to client 5, told apart by its *number*."""
    inner = bytearray(
        encode_ipv4(Ipv4Packet(ip(9), ip(5), protocol, bytes([number]) * size))
    )
    inner[1] = tos
    return encode_frame(Frame(mac(5), mac(9), 0x0800, bytes(inner)))


async def log_in(
    server: Server, *, wanted: int = 8, half: bool = False, qos: bool = False
) -> ScriptedClient:
    wishes = (
        integer("max_connection", wanted),
        integer("half_connection", half),
        integer("qos", qos),
    )
    return await ScriptedClient.logged_in(
        server, login_pack("TEST", "alice", 0, *wishes)
    )


async def ask_to_join(
    server: Server, first: ScriptedClient
) -> tuple[ScriptedClient, Pack]:
    client = await ScriptedClient.connect(server)
    await client.greet()
    key = first.welcome.get_data("session_key")
    return client, await client.ask(encode_join(key, IDENTITY))


async def join(
    server: Server, first: ScriptedClient
) -> tuple[ScriptedClient, Direction]:
    before = only_session(server).connections
    client, answered = await ask_to_join(server, first)
    direction = decode_join_answer(answered)
    assert isinstance(direction, Direction)
    client.begin_session()
    await until(lambda: len(only_session(server).connections) > len(before))
    return client, direction


async def close(*clients: ScriptedClient) -> None:
    for client in clients:
        await client.close()


def only_session(server: Server) -> Session:
    (session,) = server.sessions()
    return session


def deliver(server: Server, *frames: bytes) -> None:
    only_session(server).deliver(frames)


@asynchronous
async def test_what_comes_on_any_connection_reaches_the_hub() -> None:
    async with a_server() as server:
        first = await log_in(server, wanted=3)
        clients = [first, *[(await join(server, first))[0] for _ in range(2)]]

        for client in clients:
            client.send(ask_gateway(5))
            await until(lambda: only_session(server).counters.sent_frames)
            only_session(server).counters.sent_frames = 0

        assert only_session(server).counters.received_frames == 3
        await close(*clients)


@asynchronous
async def test_frames_to_the_client_go_on_the_youngest_connection() -> None:
    async with a_server() as server:
        first = await log_in(server)
        second, direction = await join(server, first)
        third, _ = await join(server, first)

        deliver(server, packet(1), packet(2))

        assert direction is Direction.BOTH
        assert await third.receive(2) == [packet(1), packet(2)]
        assert await first.receive_all(for_s=0.1) == []
        assert await second.receive_all(for_s=0.1) == []
        await close(first, second, third)


@asynchronous
async def test_a_connection_that_is_late_is_passed_over() -> None:
    async with a_server() as server:
        first = await log_in(server, wanted=2)
        second, _ = await join(server, first)
        session = only_session(server)
        second.writer.transport.pause_reading()  # type: ignore[attr-defined]
        full = [packet(7, size=1400)] * 128

        for _ in range(100):  # far more than the kernel takes for a client that sleeps
            deliver(server, *full)
            await asyncio.sleep(0)
            if first.frames or session.sent_bytes[1] > 100_000:
                break

        assert session.sent_bytes[1] > 100_000
        await close(first, second)


@asynchronous
async def test_with_qos_the_youngest_carries_the_urgent_frames_alone() -> None:
    async with a_server() as server:
        first = await log_in(server, qos=True)
        second, _ = await join(server, first)
        third, _ = await join(server, first)
        urgent = [
            packet(1, tos=0x10),
            packet(2, tos=0xB8),
            packet(3, protocol=1, size=94),
        ]
        usual = [packet(4, tos=0x08), packet(5), packet(6, protocol=1, size=95)]

        deliver(server, *urgent[:2], *usual, urgent[2])

        assert await third.receive(3) == urgent
        assert await second.receive(3) == usual
        assert await first.receive_all(for_s=0.1) == []
        await close(first, second, third)


@asynchronous
async def test_half_duplex_gives_directions_and_obeys_them() -> None:
    async with a_server() as server:
        first = await log_in(server, half=True)
        deliver(server, packet(1))
        joined = [await join(server, first) for _ in range(4)]
        clients = [client for client, _ in joined]

        assert [int(direction) for _, direction in joined] == [1, 1, 2, 1]
        assert only_session(server).counters.dropped_frames == 1
        deliver(server, packet(2))
        assert await clients[3].receive() == [packet(2)]
        clients[2].send(ask_gateway(5))
        assert len(await clients[3].receive()) == 1
        assert await first.receive_all(for_s=0.1) == []
        assert first.blocks.keepalive_count == 0
        assert clients[2].blocks.keepalive_count == 0
        assert clients[0].blocks.keepalive_count > 0
        await close(first, *clients)


@asynchronous
async def test_half_duplex_is_silent_only_where_the_client_sends() -> None:
    async with a_server(Policy(timeout_s=5)) as server:
        first = await log_in(server, half=True)
        second, _ = await join(server, first)
        for _ in range(7):
            first.keep_alive()
            await asyncio.sleep(1)

        assert len(only_session(server).connections) == 2
        await close(first, second)


@pytest.mark.parametrize("is_first", [True, False])
@asynchronous
async def test_one_connection_dies_and_the_session_lives(is_first: bool) -> None:
    async with a_server() as server:
        first = await log_in(server, wanted=2)
        second, _ = await join(server, first)
        dying, living = (first, second) if is_first else (second, first)

        dying.vanish()
        await until(lambda: len(only_session(server).connections) == 1)
        deliver(server, packet(1))

        assert await living.receive() == [packet(1)]
        third, direction = await join(server, first)
        assert direction is Direction.BOTH
        deliver(server, packet(2))
        assert await third.receive() == [packet(2)]
        await close(living, third)


@asynchronous
async def test_a_session_takes_as_many_connections_as_it_was_granted() -> None:
    async with a_server() as server:
        first = await log_in(server, wanted=2)
        second, _ = await join(server, first)

        third, answered = await ask_to_join(server, first)

        assert answered.get_int("error") == 15
        await close(first, second, third)


@asynchronous
async def test_a_connection_that_ends_before_it_joins_leaves_its_place() -> None:
    async with a_server() as server:
        first = await log_in(server, wanted=2)
        server.faults.at(Stage.SESSION, Close())
        gone, answered = await ask_to_join(server, first)
        assert answered.get_int("error") == 0
        await until(lambda: only_session(server).connection_count == 1)

        second, _ = await join(server, first)

        assert len(only_session(server).connections) == 2
        await close(first, second, gone)


@pytest.mark.parametrize(("how", "seen"), [("fin", "fin"), ("reset", "reset")])
@asynchronous
async def test_a_connection_is_killed_on_demand(how: str, seen: str) -> None:
    async with a_server() as server:
        first = await log_in(server)
        second, _ = await join(server, first)

        server.kill(only_session(server), how=how)  # type: ignore[arg-type]  # of the list above

        assert await second.ended() == seen
        deliver(server, packet(1))
        assert await first.receive() == [packet(1)]
        await close(first)


@asynchronous
async def test_a_connection_is_silenced_on_demand_and_noticed_after_the_time_out() -> (
    None
):
    async with a_server(Policy(timeout_s=5)) as server:
        first = await log_in(server)
        second, _ = await join(server, first)
        session = only_session(server)

        server.kill(session, 2, how="silence")
        server.faults.is_pausing_reads = False
        server.apply_faults()
        deliver(server, packet(1))

        assert await second.receive_all(for_s=0.2) == []
        assert session.counters.dropped_frames == 1
        for _ in range(12):
            first.keep_alive()
            second.keep_alive()
            await asyncio.sleep(0.5)
        assert list(session.connections) == [1]
        assert sorted(session.received_bytes) == [1]
        await close(first, second)


@asynchronous
async def test_a_connection_that_there_is_not_cannot_be_killed() -> None:
    async with a_server() as server:
        first = await log_in(server)

        with pytest.raises(LocalProtocolError, match="connection 7"):
            server.kill(only_session(server), 7, how="fin")
        await close(first)


@asynchronous
async def test_connections_end_together_where_a_server_is_broken() -> None:
    async with a_server() as server:
        server.faults.connections_end_together = True
        first = await log_in(server)
        second, _ = await join(server, first)

        second.vanish()

        assert await first.ended() == "fin"
        await until(lambda: only_session(server).connection_count == 0)
