# SPDX-License-Identifier: Apache-2.0
"""Buses that are not there, refuse, fall silent or talk nonsense."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from sevpn.errors import Failure
from sevpn.net.bus import BusError, SystemBus

Peer = Callable[[socket.socket], None]


@contextlib.contextmanager
def bus(tmp_path: Path, peer: Peer) -> Generator[None]:
    """Have the one connection that comes treated by *peer*; it is closed then."""
    path = tmp_path / "bus"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    peer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture(autouse=True)
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'bus'}")


def wait_for_the_end(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def read_to(connection: socket.socket, end: bytes) -> None:
    heard = b""
    while end not in heard:
        data = connection.recv(4096)
        if not data:
            raise ConnectionResetError
        heard += data


def log_in(connection: socket.socket) -> None:
    read_to(connection, b"\r\n")
    connection.sendall(b"OK 1234deadbeef1234deadbeef1234dead\r\n")
    read_to(connection, b"BEGIN\r\n")


def silent(connection: socket.socket) -> None:
    wait_for_the_end(connection)


def silent_after_login(connection: socket.socket) -> None:
    log_in(connection)
    wait_for_the_end(connection)


def refusing(connection: socket.socket) -> None:
    read_to(connection, b"\r\n")
    connection.sendall(b"REJECTED EXTERNAL\r\n")


def closing(_connection: socket.socket) -> None:
    pass


def closing_after_login(connection: socket.socket) -> None:
    log_in(connection)


def talking_nonsense(connection: socket.socket) -> None:
    log_in(connection)
    connection.sendall(b"\xff" * 64)
    wait_for_the_end(connection)


def talking_for_ever(connection: socket.socket) -> None:
    log_in(connection)
    # The beginning of a message of 128 MiB.
    connection.sendall(b"l\2\0\1\0\0\0\x08\1\0\0\0\0\0\0\0")
    while True:
        connection.sendall(bytes(1 << 16))


@pytest.mark.parametrize(
    ("peer", "words"),
    [
        (silent, "did not answer within"),
        (silent_after_login, "did not answer within"),
        (refusing, "refused the login"),
        (closing, "there is no system bus|broke off|refused"),
        (closing_after_login, "broke off"),
        (talking_nonsense, "broke off"),
        (talking_for_ever, "broke off"),
    ],
)
def test_a_bus_that_does_not_behave_is_an_error_in_time(
    tmp_path: Path, peer: Peer, words: str
) -> None:
    with (
        bus(tmp_path, peer),
        pytest.raises(BusError, match=words) as caught,
    ):
        SystemBus(timeout_s=0.5)

    assert caught.value.failure is Failure.HOST
    assert len(str(caught.value)) <= 200


def test_where_there_is_no_bus_the_error_says_so() -> None:
    with pytest.raises(BusError, match="there is no system bus: No such file"):
        SystemBus()


@pytest.mark.parametrize("address", ["nonsense", "tcp:host=127.0.0.1,port=1"])
def test_an_address_that_is_none_is_an_error(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)

    with pytest.raises(BusError):
        SystemBus()
