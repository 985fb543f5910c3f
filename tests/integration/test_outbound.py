# SPDX-License-Identifier: Apache-2.0
"""How the kernel's TCP says a connection does."""

from __future__ import annotations

import socket

from sevpn.dataplane.outbound import Outbound, outbound_of
from sevpn.testing.machine import eventually


def test_what_arrives_is_clear() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as ours,
    ):
        ours.sendall(b"x")

        eventually(lambda: outbound_of(ours.fileno()) is Outbound.CLEAR)
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_of_what_is_no_tcp_nothing_is_known() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert outbound_of(ours.fileno()) is Outbound.CLEAR
        ours.sendall(b"x")  # it is still the caller's
        assert theirs.recv(1) == b"x"
