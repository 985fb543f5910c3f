# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import struct
import time

import pytest

from integration.server_lab import (
    GATEWAY,
    a_server,
    ask_gateway,
    asynchronous,
    ip,
    mac,
    until,
)
from scripted_client import ScriptedClient, login_pack
from sevpn.protocol.dhcp import DhcpClient, LeaseObtained
from sevpn.server.policy import Policy
from sevpn.server.server import Server
from sevpn.testing.faults import MALFORMED_BLOCKS
from sevpn.wire.arp import announcement, answer, decode_arp
from sevpn.wire.block import encode_batch, encode_keepalive
from sevpn.wire.ethernet import BROADCAST, Frame, decode_frame, encode_frame
from sevpn.wire.ipv4 import Ipv4Packet, encode_ipv4
from sevpn.wire.pack import Pack, data, text


def packet(
    source: int, destination: int, *, size: int = 100, protocol: int = 6
) -> bytes:
    inner = Ipv4Packet(ip(source), ip(destination), protocol, bytes(size))
    return encode_frame(
        Frame(mac(destination), mac(source), 0x0800, encode_ipv4(inner))
    )


def as_bob(*, unique: bytes | None = None) -> Pack:
    login = login_pack("TEST", "bob", 1)
    return login if unique is None else login.with_elements(data("UniqueId", unique))


async def lease(client: ScriptedClient, number: int) -> LeaseObtained:
    """Run the real DHCP client over a scripted session."""
    dhcp = DhcpClient(mac=mac(number), random=lambda size: bytes([number]) * size)
    dhcp.start(time.monotonic())
    async with asyncio.timeout(10):
        while True:
            for frame in dhcp.frames_to_send():
                client.send(frame)
            event = dhcp.next_event()
            if isinstance(event, LeaseObtained):
                return event
            deadline = dhcp.next_deadline()
            wait_s = 1.0 if deadline is None else max(0.0, deadline - time.monotonic())
            for frame in await client.receive_all(for_s=min(wait_s, 0.2)):
                dhcp.receive_frame(frame, time.monotonic())
            dhcp.handle_deadline(time.monotonic())


# --- frames -------------------------------------------------------------------


@asynchronous
async def test_the_gateway_answers_through_a_session() -> None:
    async with a_server() as server:
        client = await ScriptedClient.logged_in(server)
        client.send(ask_gateway(5))

        (frame,) = await client.receive()

        assert decode_arp(decode_frame(frame).payload).sender_ip == GATEWAY
        await client.close()


@asynchronous
async def test_frames_pass_between_two_sessions_and_broadcasts_reach_both() -> None:
    async with a_server() as server:
        one = await ScriptedClient.logged_in(server)
        two = await ScriptedClient.logged_in(server)

        one.send(announcement(mac(31), ip(31)))
        assert await two.receive() == [announcement(mac(31), ip(31))]
        two.send(announcement(mac(32), ip(32)))
        assert await one.receive() == [announcement(mac(32), ip(32))]

        frames = [packet(31, 32, size=size) for size in range(60, 1400, 67)]
        one.send(*frames)
        assert await two.receive(len(frames)) == frames
        assert await one.receive_all(for_s=0.1) == []
        await one.close()
        await two.close()


@asynchronous
async def test_bytes_sent_with_the_login_belong_to_the_session() -> None:
    async with a_server() as server:
        client = await ScriptedClient.connect(server)
        await client.greet()
        asked = asyncio.create_task(client.log_in(login_pack()))
        await asyncio.sleep(0)
        client.send(ask_gateway(5))

        await asked
        client.begin_session()

        assert len(await client.receive()) == 1
        await client.close()


@pytest.mark.parametrize(
    "odd",
    [
        bytes(4000),
        encode_keepalive(bytes(512)),
        encode_keepalive(b""),
        struct.pack(">II", 1, 0),
        struct.pack(">II", 1, 13) + bytes(13),
        struct.pack(">II", 1, 3200) + bytes(3200),
    ],
)
@asynchronous
async def test_odd_items_are_taken_and_the_connection_lives(odd: bytes) -> None:
    async with a_server() as server:
        client = await ScriptedClient.logged_in(server)
        client.writer.write(odd + encode_batch([ask_gateway(5)]))

        assert len(await client.receive()) == 1
        await client.close()


@pytest.mark.parametrize("kind", sorted(MALFORMED_BLOCKS))
@asynchronous
async def test_malformed_blocks_end_the_connection_and_leave_a_ghost(kind: str) -> None:
    async with a_server() as server:
        client = await ScriptedClient.logged_in(server)
        client.writer.write(MALFORMED_BLOCKS[kind])

        assert await client.ended() in {"fin", "reset"}
        (ghost,) = server.sessions()
        assert ghost.connection_count == 0


@asynchronous
async def test_dhcp_gives_an_address_through_a_session() -> None:
    async with a_server() as server:
        client = await ScriptedClient.logged_in(server)

        obtained = await lease(client, 5)

        assert str(obtained.lease.address) == "10.9.0.10/24"
        assert obtained.lease.router == GATEWAY
        gateway = server.hubs["test"].gateway
        assert gateway is not None
        assert gateway.dhcp is not None
        assert list(gateway.dhcp.pool.leases(time.monotonic())) == [ip(10)]
        await client.close()


@asynchronous
async def test_dhcp_force_lets_traffic_pass_only_after_dhcp_in_each_session() -> None:
    async with a_server(Policy(dhcp_force=True)) as server:
        for attempt in range(2):
            client = await ScriptedClient.logged_in(server)
            client.send(ask_gateway(10))
            assert await client.receive_all(for_s=0.2) == [], f"session {attempt}"

            obtained = await lease(client, 5)
            assert obtained.lease.address.ip == ip(10)
            client.send(announcement(mac(5), ip(10)))
            client.send(
                encode_frame(Frame(BROADCAST, mac(5), 0x0806, ask_gateway(10)[14:]))
            )
            assert len(await client.receive()) == 1
            await client.close()
            await until(lambda: server.sessions()[-1].connection_count == 0)


@asynchronous
async def test_the_hub_polls_an_address_and_forgets_it_when_nobody_answers() -> None:
    async with a_server(poll_interval_s=0.1, address_life_s=0.6) as server:
        client = await ScriptedClient.logged_in(server)
        table = server.hubs["test"].switch.address_table
        client.send(announcement(mac(5), ip(5)))
        await until(lambda: ip(5) in table())

        for _ in range(10):
            piece = await asyncio.wait_for(client.reader.read(65536), 5)
            for frame in map(decode_frame, client.blocks.feed(piece)):
                asked = decode_arp(frame.payload)
                client.send(
                    answer(mac(5), ip(5), to=frame.source, asked_by=asked.sender_ip)
                )
        assert ip(5) in table()

        await until(lambda: ip(5) not in table())
        await client.close()


# --- life ---------------------------------------------------------------------


@asynchronous
async def test_keepalives_come_soon_and_go_on() -> None:
    async with a_server(Policy(timeout_s=5)) as server:
        client = await ScriptedClient.logged_in(server)

        async with asyncio.timeout(4):
            while client.blocks.keepalive_count < 2:
                client.blocks.feed(await client.reader.read(65536))
        await client.close()


@asynchronous
async def test_a_silent_session_ends_after_its_time_out() -> None:
    async with a_server(Policy(timeout_s=5)) as server:
        client = await ScriptedClient.logged_in(server)
        began_at = time.monotonic()

        assert await client.ended(within_s=8) == "fin"

        assert 4.5 < time.monotonic() - began_at < 6.5
        await until(lambda: not server.sessions())


@asynchronous
async def test_bytes_of_an_unfinished_block_do_not_keep_a_session() -> None:
    async with a_server(Policy(timeout_s=5)) as server:
        client = await ScriptedClient.logged_in(server)
        client.writer.write(struct.pack(">II", 1, 1000))

        async def trickle() -> None:
            while True:
                await asyncio.sleep(0.5)
                client.writer.write(b"x")

        task = asyncio.create_task(trickle())
        assert await client.ended(within_s=8) == "fin"
        task.cancel()


@asynchronous
async def test_keepalives_keep_a_session() -> None:
    async with a_server(Policy(timeout_s=5)) as server:
        client = await ScriptedClient.logged_in(server)
        for _ in range(7):
            client.keep_alive()
            await asyncio.sleep(1)

        assert server.sessions()[0].connection_count == 1
        await client.close()


@asynchronous
async def test_a_closed_session_lingers_for_its_time_out() -> None:
    async with a_server(Policy(timeout_s=5)) as server:
        client = await ScriptedClient.logged_in(server)
        client.send(announcement(mac(5), ip(5)))
        await until(server.hubs["test"].switch.mac_table)
        await client.close()
        await until(lambda: server.sessions()[0].connection_count == 0)

        await asyncio.sleep(3)
        assert len(server.sessions()) == 1
        assert mac(5) in server.hubs["test"].switch.mac_table()
        await until(lambda: not server.sessions())
        assert mac(5) not in server.hubs["test"].switch.mac_table()


# --- MultiLogins --------------------------------------------------------------

ONE = Policy(multi_logins=1, timeout_s=5)


async def second_login(server: Server, unique: bytes | None) -> int:
    client = await ScriptedClient.connect(server)
    await client.greet()
    code = (await client.log_in(as_bob(unique=unique), password="secret")).get_int(
        "error"
    )
    await client.close()
    return code


async def first_login(server: Server, unique: bytes | None) -> ScriptedClient:
    return await ScriptedClient.logged_in(
        server, as_bob(unique=unique), password="secret"
    )


@pytest.mark.parametrize(
    ("unique", "code"), [(None, 20), (bytes(16), 20), (b"u" * 16, 0)]
)
@asynchronous
async def test_a_living_session_counts_unless_it_is_of_the_same_installation(
    unique: bytes | None, code: int
) -> None:
    async with a_server(ONE) as server:
        client = await first_login(server, unique)

        assert await second_login(server, unique) == code
        assert await second_login(server, b"other installati") == 20
        await client.close()


@asynchronous
async def test_a_closed_session_does_not_count() -> None:
    async with a_server(ONE) as server:
        client = await first_login(server, None)
        await client.close()
        await until(lambda: server.sessions()[0].connection_count == 0)

        assert await second_login(server, None) == 0


@asynchronous
async def test_a_session_that_the_server_cut_does_not_count() -> None:
    async with a_server(ONE) as server:
        client = await first_login(server, None)
        server.cut(server.sessions()[0])
        assert await client.ended() == "reset"

        assert await second_login(server, None) == 0


@asynchronous
async def test_a_vanished_client_counts_until_the_time_out() -> None:
    async with a_server(ONE) as server:
        client = await first_login(server, None)
        server.cut(server.sessions()[0], is_noticed=False)
        assert await client.ended() == "reset"

        assert await second_login(server, None) == 20
        assert await second_login(server, b"u" * 16) == 20
        await until(lambda: not server.sessions(), within_s=8)
        assert await second_login(server, None) == 0


@asynchronous
async def test_a_vanished_client_of_the_same_installation_does_not_count() -> None:
    async with a_server(ONE) as server:
        client = await first_login(server, b"u" * 16)
        server.cut(server.sessions()[0], is_noticed=False)
        assert await client.ended() == "reset"

        assert await second_login(server, b"u" * 16) == 0


@asynchronous
async def test_a_client_that_never_took_its_welcome_does_not_count() -> None:
    async with a_server(ONE) as server:
        client = await ScriptedClient.connect(server)
        await client.greet()
        asked = asyncio.create_task(client.log_in(as_bob(), password="secret"))
        await until(server.sessions)
        asked.cancel()
        client.vanish()
        await until(lambda: server.sessions()[0].connection_count == 0)

        assert await second_login(server, None) == 0


# --- joining again ------------------------------------------------------------


async def rejoin(server: Server, key: bytes) -> tuple[ScriptedClient, Pack]:
    client = await ScriptedClient.connect(server)
    await client.greet()
    answered = await client.ask(
        Pack((text("method", "additional_connect"), data("session_key", key)))
    )
    return client, answered


@asynchronous
async def test_a_session_without_connections_can_be_joined_again() -> None:
    async with a_server() as server:
        client = await ScriptedClient.logged_in(server)
        key = client.welcome.get_data("session_key")
        server.cut(server.sessions()[0])
        assert await client.ended() == "reset"

        client, answered = await rejoin(server, key)
        assert answered.get_int("error") == 0
        client.begin_session()
        client.send(ask_gateway(5))
        assert len(await client.receive()) == 1
        assert len(server.sessions()) == 1

        other, answered = await rejoin(server, key)
        assert answered.get_int("error") == 15
        await other.close()
        await client.close()


@asynchronous
async def test_a_session_that_is_over_cannot_be_joined() -> None:
    async with a_server() as server:
        client = await ScriptedClient.logged_in(server)
        key = client.welcome.get_data("session_key")
        server.disconnect(server.sessions()[0])
        assert await client.ended() == "fin"

        other, answered = await rejoin(server, key)
        assert answered.get_int("error") == 13
        await other.close()


# --- administration -----------------------------------------------------------


@asynchronous
async def test_a_hub_that_goes_offline_ends_its_sessions_and_refuses_logins() -> None:
    async with a_server() as server:
        client = await ScriptedClient.logged_in(server)

        server.set_hub_online("Test", is_online=False)
        assert await client.ended() == "fin"
        assert server.sessions() == ()
        assert await second_login(server, None) == 10

        server.set_hub_online("Test", is_online=True)
        assert await second_login(server, None) == 0


@asynchronous
async def test_events_are_told() -> None:
    async with a_server() as server:
        events: list[dict[str, object]] = []
        server.subscribe(events.append)
        client = await ScriptedClient.logged_in(server)
        refused = await ScriptedClient.connect(server)
        await refused.greet()
        await refused.log_in(login_pack("NONE"))
        await client.close()
        await refused.close()

        assert [event["event"] for event in events] == ["login", "refused"]
        assert events[0]["session"] == "SID-ALICE-1"
        assert events[1]["error"] == 8
