# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import socket
import ssl
import time

import pytest

from integration.server_lab import (
    a_server,
    ask_gateway,
    asynchronous,
    shared_identity,
    until,
)
from scripted_client import ScriptedClient, trusting_context
from sevpn.server.faults import (
    AnswerError,
    Close,
    CloseAfter,
    Delay,
    Send,
    Silence,
    Stage,
)
from sevpn.server.server import Server
from sevpn.testing.embedded import RunningServer
from sevpn.testing.faults import BEHAVIOURS, MALFORMED_ANSWERS, HostileServer

END = (ConnectionError, ssl.SSLError)


async def whole_way(server: Server) -> None:
    """Log in and hear the gateway."""
    client = await ScriptedClient.connect(server)
    try:
        await client.greet()
        assert (await client.log_in()).get_int("error") == 0
        client.begin_session()
        client.send(ask_gateway(5))
        await client.receive()
    finally:
        await client.close()


# --- at a stage ---------------------------------------------------------------


@pytest.mark.parametrize("code", [9, 10, 99])
@asynchronous
async def test_an_error_is_answered_instead_of_the_hello(code: int) -> None:
    async with a_server() as server:
        server.faults.at(Stage.HELLO, AnswerError(code))
        client = await ScriptedClient.connect(server)

        answer = await client.greet()

        assert answer.get_int("error") == code
        await client.close()


@asynchronous
async def test_an_error_is_answered_instead_of_the_welcome_and_no_session_counts() -> (
    None
):
    async with a_server() as server:
        server.faults.at(Stage.WELCOME, AnswerError(16))
        client = await ScriptedClient.connect(server)
        await client.greet()

        assert (await client.log_in()).get_int("error") == 16

        await client.close()
        await until(lambda: all(s.connection_count == 0 for s in server.sessions()))


@pytest.mark.parametrize("is_reset", [False, True])
@pytest.mark.parametrize("stage", list(Stage))
@asynchronous
async def test_the_connection_ends_at_each_stage(stage: Stage, is_reset: bool) -> None:
    async with a_server() as server:
        server.faults.at(stage, Close(is_reset))

        with pytest.raises(END):
            await whole_way(server)

        await whole_way(server)


@pytest.mark.parametrize(
    "stage", [Stage.TLS, Stage.HELLO, Stage.WELCOME, Stage.SESSION]
)
@asynchronous
async def test_the_server_falls_silent_at_each_stage(stage: Stage) -> None:
    async with a_server() as server:
        server.faults.at(stage, Silence())

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(whole_way(server), 0.4)


@asynchronous
async def test_the_server_falls_silent_before_tls() -> None:
    async with a_server() as server:
        server.faults.at(Stage.ACCEPT, Silence())
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await reader.read()
        writer.transport.abort()


@asynchronous
async def test_an_answer_may_come_late() -> None:
    async with a_server() as server:
        server.faults.at(Stage.HELLO, Delay(0.3))
        began_at = time.monotonic()

        client = await ScriptedClient.connect(server)
        await client.greet()

        assert time.monotonic() - began_at >= 0.3
        await client.close()


@pytest.mark.parametrize("what", sorted(MALFORMED_ANSWERS))
@asynchronous
async def test_malformed_answers_go_out_as_they_are(what: str) -> None:
    data = MALFORMED_ANSWERS[what]
    async with a_server() as server:
        server.faults.at(Stage.HELLO, Send(data))
        client = await ScriptedClient.connect(server)
        client.writer.write(
            b"POST /vpnsvc/connect.cgi HTTP/1.1\r\nContent-Length: 10\r\n\r\nVPNCONNECT"
        )

        received = b""
        try:
            while piece := await asyncio.wait_for(client.reader.read(65536), 5):
                received += piece
        except ssl.SSLError:
            pass

        assert received == data
        client.writer.transport.abort()


@asynchronous
async def test_bytes_may_come_in_the_clear_before_tls() -> None:
    async with a_server() as server:
        server.faults.at(Stage.ACCEPT, Send(b"220 mail.example ESMTP\r\n"))
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

        assert await asyncio.wait_for(reader.read(), 5) == b"220 mail.example ESMTP\r\n"
        writer.transport.abort()


@pytest.mark.parametrize("count", [0, 1, 17, 200, 300, 900, 1500])
@asynchronous
async def test_the_connection_ends_after_exactly_so_many_sent_bytes(count: int) -> None:
    async with a_server() as server:
        server.faults.at(Stage.TLS, CloseAfter(sent_bytes=count))
        client = await ScriptedClient.connect(server)
        received = 0

        async def read_all() -> None:
            nonlocal received
            while piece := await client.reader.read(65536):
                received += len(piece)

        client.writer.write(
            b"POST /vpnsvc/connect.cgi HTTP/1.1\r\nContent-Length: 10\r\n\r\nVPNCONNECT"
        )
        try:
            async with asyncio.timeout(1):
                await read_all()
        except (ssl.SSLError, TimeoutError):
            pass

        # The Hello with its padding is shorter than the longest of these.
        assert received == count or (received < count and count >= 300)
        client.writer.transport.abort()


@asynchronous
async def test_the_connection_ends_after_received_bytes_with_a_reset() -> None:
    async with a_server() as server:
        server.faults.at(Stage.TLS, CloseAfter(received_bytes=40, is_reset=True))
        client = await ScriptedClient.connect(server)
        client.writer.write(b"x" * 39)
        await asyncio.sleep(0.1)
        client.writer.write(b"x")

        assert await client.ended() == "reset"


# --- in the session -----------------------------------------------------------


@asynchronous
async def test_keepalives_fall_silent() -> None:
    async with a_server() as server:
        server.faults.are_keepalives_silent = True
        client = await ScriptedClient.logged_in(server)

        await client.receive_all(for_s=0.5)

        assert client.blocks.keepalive_count == 0
        await client.close()


@asynchronous
async def test_the_network_behind_the_hub_dies_while_the_session_lives() -> None:
    async with a_server() as server:
        client = await ScriptedClient.logged_in(server)
        server.faults.drops_frames = True
        client.send(ask_gateway(5))

        assert await client.receive_all(for_s=0.3) == []
        server.faults.clear()
        client.send(ask_gateway(5))
        assert len(await client.receive()) == 1
        await client.close()


@asynchronous
async def test_reading_is_paused_and_goes_on() -> None:
    async with a_server() as server:
        client = await ScriptedClient.logged_in(server)
        server.faults.is_pausing_reads = True
        server.apply_faults()
        client.send(ask_gateway(5))

        assert await client.receive_all(for_s=0.3) == []
        server.faults.is_pausing_reads = False
        server.apply_faults()
        assert len(await client.receive()) == 1
        await client.close()


@asynchronous
async def test_a_sleeping_session_gives_out_a_burst_in_pieces_until_it_is_poked() -> (
    None
):
    async with a_server() as server:
        quiet = await ScriptedClient.logged_in(server)
        loud = await ScriptedClient.logged_in(server)
        server.faults.sleeps_on_bursts = True
        frames = [
            b"\xff" * 6
            + b"\x5e\0\0\0\0\1\x88\xb5"
            + bytes([number // 256, number % 256])
            for number in range(300)
        ]

        loud.send(*frames)
        assert len(await quiet.receive_all(for_s=0.2)) == 128
        assert len(await quiet.receive(128, within_s=0.3)) == 128
        quiet.writer.write(bytes(4))
        assert await quiet.receive(44, within_s=0.2) == frames[256:]

        loud.send(*frames * 5)
        quiet.writer.write(bytes(4) * 20)
        for _ in range(20):
            quiet.writer.write(bytes(4))
            await asyncio.sleep(0.02)
        count = len(await quiet.receive_all(for_s=0.5))
        # One turn may be on its way before the last of the burst has come.
        assert 1024 <= count <= 1024 + 128
        assert server.sessions()[0].counters.dropped_frames == 1500 - count
        await quiet.close()
        await loud.close()


@asynchronous
async def test_raw_bytes_are_written_into_a_session() -> None:
    async with a_server() as server:
        client = await ScriptedClient.logged_in(server)
        await client.receive_all(for_s=0.1)

        server.sessions()[0].write_raw(b"\0\0\0\1\0\0\0\x0e" + b"a" * 14)

        assert await client.receive() == [b"a" * 14]
        await client.close()


@asynchronous
async def test_a_client_that_does_not_read_loses_frames_and_not_the_server() -> None:
    async with a_server() as server:
        slow = await ScriptedClient.logged_in(server)
        fast = await ScriptedClient.logged_in(server)
        slow.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a read transport too
        frame = b"\xff" * 6 + b"\x5e\0\0\0\0\1\x88\xb5" + bytes(1400)

        for _ in range(120):
            fast.send(*[frame] * 100)
            await fast.writer.drain()
            await asyncio.sleep(0)
        await until(lambda: server.sessions()[1].counters.received_frames >= 12000)

        assert server.sessions()[0].counters.dropped_frames > 0
        assert server.sessions()[0].connection_count == 1
        await slow.close()
        await fast.close()


# --- other servers ------------------------------------------------------------


@pytest.mark.parametrize("behaviour", sorted(BEHAVIOURS))
def test_a_hostile_server_is_what_it_is_called(behaviour: str) -> None:
    with HostileServer(behaviour, identity=shared_identity()) as hostile:
        sock = socket.create_connection(("127.0.0.1", hostile.port), 1)
        try:
            with trusting_context().wrap_socket(sock) as stream:
                stream.settimeout(0.3)
                stream.sendall(b"GET / HTTP/1.1\r\n\r\n")
                heard = stream.recv(100) or b"end"
        except TimeoutError:
            heard = b"silence"
        except OSError as error:
            heard = type(error).__name__.encode()
        sock.close()

    expected = {
        "garbage": (b"SSLError",),
        "endless-garbage": (b"SSLError",),
        "silence": (b"TimeoutError", b"silence"),
        "tls-silence": (b"silence",),
        "close": (b"SSLEOFError", b"ConnectionResetError", b"SSLZeroReturnError"),
        "reset": (b"ConnectionResetError", b"SSLEOFError"),
        "tls-close": (b"SSLEOFError", b"end", b"ConnectionResetError"),
        "plain-http": (b"SSLError",),
        "web-page": (b"HTTP/1.1 404",),
        "endless-page": (b"HTTP/1.1 200",),
        "drip": (b"H",),
    }
    assert heard.startswith(expected[behaviour])


@pytest.mark.parametrize("close_at", [None, 0, 7])
def test_a_hostile_server_sends_bytes_and_closes_where_told(
    close_at: int | None,
) -> None:
    with HostileServer(
        b"0123456789", identity=shared_identity(), close_at=close_at
    ) as hostile:
        sock = socket.create_connection(("127.0.0.1", hostile.port), 5)
        heard = b""
        with trusting_context().wrap_socket(sock) as stream:
            stream.sendall(b"x")
            try:
                while piece := stream.recv(100):
                    heard += piece
            except ssl.SSLError:
                pass

    assert heard == b"0123456789"[:close_at]


def test_a_server_runs_in_a_thread_of_its_own() -> None:
    with RunningServer(a_server().config, identity=shared_identity()) as running:

        async def log_in() -> None:
            client = await ScriptedClient.logged_in(running.server)
            assert running.call(lambda server: len(server.sessions())) == 1
            await client.close()

        asyncio.run(log_in())
