# SPDX-License-Identifier: Apache-2.0
"""The control socket: a real socket between a tunnel's process and its askers."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sevpn.control import client
from sevpn.control.protocol import MAX_LINE_SIZE, MAX_PATH_SIZE
from sevpn.control.server import ControlServer, Peer
from sevpn.errors import ConfigError, ControlError
from sevpn.metrics.snapshot import Server, Tunnel


class FakeTunnel:
    """Answers like a tunnel that has been connected for a while."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.off = asyncio.Event()

    def snapshot(self) -> Tunnel:
        server = Server(host="vpn.example", port=443, hub="OFFICE")
        return Tunnel(
            name="office",
            state="connected",
            since="2026-01-31T12:00:00Z",
            pid=1,
            server=server,
        )

    def turn_off(self) -> None:
        self.asked.append("down")
        self.off.set()

    def heal(self) -> None:
        self.asked.append("reconnect")

    def subscribe(
        self, listener: Callable[[dict[str, Any]], None]
    ) -> Callable[[], None]:
        for number in range(3):
            asyncio.get_running_loop().call_soon(listener, {"n": number})
        return lambda: None


@contextmanager
def running_tunnel(run_dir: Path) -> Iterator[tuple[FakeTunnel, Path]]:
    """Serve a fake tunnel from a thread with a loop of its own, as a process would."""
    path = run_dir / "office" / "control.sock"
    path.parent.mkdir(parents=True)
    ready = threading.Event()
    made: list[tuple[FakeTunnel, asyncio.AbstractEventLoop]] = []

    async def live() -> None:
        tunnel = FakeTunnel()
        control = ControlServer(tunnel, path)
        await control.open()
        made.append((tunnel, asyncio.get_running_loop()))
        ready.set()
        await tunnel.off.wait()
        await asyncio.sleep(0)  # the host is restored here
        await control.close()
        path.parent.rmdir()

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    assert ready.wait(5)
    tunnel, loop = made[0]
    try:
        yield tunnel, path
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(tunnel.off.set)
        thread.join(5)
        assert not thread.is_alive()


def test_a_running_tunnel_is_found_and_tells_its_status(tmp_path: Path) -> None:
    with running_tunnel(tmp_path) as (_, path):
        assert client.running([tmp_path]) == {"office": path}
        assert client.socket_path([tmp_path], "office") == path
        assert client.status(path).server.hub == "OFFICE"


def test_a_socket_that_a_killed_process_left_is_no_running_tunnel(
    tmp_path: Path,
) -> None:
    path = tmp_path / "dead" / "control.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))

    assert client.running([tmp_path]) == {}
    assert client.socket_path([tmp_path], "dead") is None


def test_down_returns_when_the_tunnel_has_restored_the_host(tmp_path: Path) -> None:
    with running_tunnel(tmp_path) as (tunnel, path):
        assert client.turn_off(path, patience_s=5)
        assert tunnel.asked == ["down"]
        assert not path.exists()


def test_reconnect_reaches_the_tunnel(tmp_path: Path) -> None:
    with running_tunnel(tmp_path) as (tunnel, path):
        client.ask(path, "reconnect")
        assert tunnel.asked == ["reconnect"]


def test_events_arrive_in_order_until_the_tunnel_ends(tmp_path: Path) -> None:
    with running_tunnel(tmp_path) as (_, path):
        events = client.follow(path)

        assert [next(events)["n"] for _ in range(3)] == [0, 1, 2]

        client.turn_off(path, patience_s=5)
        assert list(events) == []


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b"{}\n",
        b'{"id": 1, "command": "explode"}\n',
        b'{"id":1,"command":"status","more":1}\n',
    ],
)
def test_a_line_that_is_no_request_is_answered_with_the_reason(
    tmp_path: Path, line: bytes
) -> None:
    with running_tunnel(tmp_path) as (_, path), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(path))
        sock.sendall(line)
        with sock.makefile("rb") as answers:
            assert "not a request" in msgspec.json.decode(answers.readline())["error"]
            assert answers.readline() == b""
        assert client.status(path).state == "connected"


def test_an_endless_line_ends_the_client_and_not_the_tunnel(tmp_path: Path) -> None:
    with running_tunnel(tmp_path) as (_, path), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(path))
        assert _is_cut_off(sock)
        assert client.status(path).state == "connected"


def _is_cut_off(sock: socket.socket) -> bool:
    """Whether the peer closes the socket rather than take four MiB without a line end."""
    try:
        for _ in range(64):
            sock.sendall(b"x" * 65536)
        return sock.recv(1) == b""
    except (BrokenPipeError, ConnectionResetError):
        return True


def test_idle_connections_keep_nobody_out(tmp_path: Path) -> None:
    with running_tunnel(tmp_path) as (_, path):
        waiting = []
        for _ in range(40):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path))
            waiting.append(sock)
        assert client.status(path).state == "connected"
        for sock in waiting:
            sock.close()


def test_the_kernel_names_the_peer() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        peer = Peer(ours)

    assert peer.may_change()
    assert peer.gid in peer.groups


@contextmanager
def answering(path: Path, words: bytes, *, is_rude: bool = False) -> Iterator[None]:
    """Say *words* to whoever has asked, as no tunnel would; rudely: then reset.

    A Unix socket is reset where it is closed before all was read.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            sock, _ = listener.accept()
            with sock, suppress(BrokenPipeError):
                sock.settimeout(5)
                sock.recv(1 if is_rude else 65536)
                sock.sendall(words)

        thread = threading.Thread(target=answer)
        thread.start()
        yield
        thread.join(10)
        assert not thread.is_alive()


SUBSCRIBED = b'{"id":1,"result":{}}\n'


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (b"nonsense\n", "another version's words"),
        (b'{"event": 5}\n', "another version's words"),
        (b'{"event": {"n": 1', "another version's words"),
        (b"\xff\n", "another version's words"),
        (b'{"event":{"x":"' + b"x" * MAX_LINE_SIZE, "another version's words"),
    ],
)
def test_events_that_are_none_end_a_subscription_with_the_reason(
    tmp_path: Path, words: bytes, reason: str
) -> None:
    path = tmp_path / "control.sock"
    with answering(path, SUBSCRIBED + b'{"event":{"n":0}}\n' + words):
        events = client.follow(path)
        assert next(events) == {"n": 0}
        with pytest.raises(ControlError, match=reason):
            next(events)


def test_a_subscription_that_breaks_is_told(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with (
        answering(path, SUBSCRIBED, is_rude=True),
        pytest.raises(ControlError, match="broke off its events"),
    ):
        list(client.follow(path))


@pytest.mark.parametrize("words", [b"", b"nonsense\n", b'{"result"', b'{"id":"x"}\n'])
def test_an_answer_that_is_none_is_told(tmp_path: Path, words: bytes) -> None:
    path = tmp_path / "control.sock"
    with (
        answering(path, words),
        pytest.raises(ControlError, match="gave no answer to 'status'"),
    ):
        client.status(path)


@pytest.mark.parametrize("result", [b"{}", b"[]", b'{"name":"t","state":"flying"}'])
def test_a_status_of_another_version_is_told(tmp_path: Path, result: bytes) -> None:
    path = tmp_path / "control.sock"
    with (
        answering(path, b'{"id":1,"result":' + result + b"}\n"),
        pytest.raises(ControlError, match="another version's words"),
    ):
        client.status(path)


def test_a_path_that_is_too_long_for_a_socket_is_told_with_the_way_out(
    tmp_path: Path,
) -> None:
    folder = tmp_path / ("n" * (MAX_PATH_SIZE - len(bytes(tmp_path)) - 14))
    folder.mkdir()

    async def open_at(path: Path) -> None:
        control = ControlServer(FakeTunnel(), path)
        try:
            await control.open()
        finally:
            await control.close()

    longest = folder / "control.sock"
    assert len(bytes(longest)) == MAX_PATH_SIZE
    asyncio.run(open_at(longest))
    with pytest.raises(ConfigError, match=f"at most {MAX_PATH_SIZE}.*--name"):
        asyncio.run(open_at(folder / "control.sockx"))
    assert list(folder.iterdir()) == []


def test_nobody_listening_is_said_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="cannot be asked"):
        client.ask(tmp_path / "none.sock", "status")
