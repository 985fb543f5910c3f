# SPDX-License-Identifier: Apache-2.0
"""The DHCP client among real servers: real frames, and a clock that jumps over every wait."""

from __future__ import annotations

import itertools
import socket
import sys
from collections.abc import Callable
from typing import Protocol

from sevpn.protocol.dhcp import DhcpClient, DhcpEvent, Lease, LeaseObtained
from sevpn.testing.machine import Machine
from sevpn.wire.dhcpv4 import CLIENT_PORT, MessageType, decode_message
from sevpn.wire.ethernet import EtherType, MacAddress, decode_frame

OURS = MacAddress.parse("5e:00:53:00:00:01")

_MOMENT_S = 0.2
_QUESTIONS = {MessageType.DISCOVER, MessageType.REQUEST}

_numbers = itertools.count(1)


class Port(Protocol):
    """Where frames go and come from."""

    def send(self, frame: bytes) -> None:
        """Send a whole frame."""

    def receive(self, *, within_s: float) -> bytes | None:
        """Return the next frame; None after silence."""


class Subscriber:
    """A client on a port.

    Where a server must answer it is waited for; where silence is what is expected, as
    after the question whether somebody has the address, a moment of it will do.
    """

    def __init__(
        self,
        port: Port,
        *,
        mac: MacAddress = OURS,
        remembered: Lease | None = None,
    ) -> None:
        self._port = port
        self._is_asking = False
        self.patience_s = 5.0
        """How long a server may take to answer, in real seconds."""
        self.now = 1000.0
        self.heard: list[bytes] = []
        self.neighbour: Callable[[bytes], bytes | None] = lambda _: None
        """What another host says to a frame of the client."""
        self.client = DhcpClient(
            mac=mac, random=_random, hostname="laptop", remembered=remembered
        )
        self.client.start(self.now)

    @property
    def reply_count(self) -> int:
        """How many DHCP replies came in."""
        return sum(map(is_dhcp_reply, self.heard))

    def next_event(self) -> DhcpEvent:
        """Let frames and deadlines pass until the client says something."""
        for _ in range(200):
            self.send_all()
            event = self.client.next_event()
            if event is not None:
                self.send_all()
                return event
            self._take(self._hear())
        raise AssertionError(f"no event: {self.client.what_was_heard}")

    def obtain(self) -> Lease:
        """Return the lease that must come next."""
        event = self.next_event()
        assert isinstance(event, LeaseObtained), event
        return event.lease

    def jump_to(self, at: float) -> None:
        """Let time pass and keep the deadline that is due then."""
        self.now = at
        self.client.handle_deadline(at)

    def hear_until_silence(self) -> None:
        """Take what comes, until nothing comes."""
        self.send_all()
        while (frame := self._hear()) is not None:
            self._take(frame)
            self.send_all()

    def release(self) -> None:
        """Give the lease back."""
        self.client.release(self.now)
        self.send_all()

    def send_all(self) -> None:
        """Send what the client wants to send."""
        for frame in self.client.frames_to_send():
            self._port.send(frame)
            if (kind := dhcp_kind(frame)) is not None:
                self._is_asking = kind in _QUESTIONS
            said = self.neighbour(frame)
            if said is not None:
                self.client.receive_frame(said, self.now)

    def _hear(self) -> bytes | None:
        return self._port.receive(
            within_s=self.patience_s if self._is_asking else _MOMENT_S
        )

    def _take(self, frame: bytes | None) -> None:
        if frame is not None:
            self.heard.append(frame)
            self._is_asking &= not is_dhcp_reply(frame)
            self.client.receive_frame(frame, self.now)
            return
        due = self.client.next_deadline()
        assert due is not None
        self.jump_to(due)


def dhcp_kind(frame: bytes) -> MessageType | None:
    """Return which message the client sends; None: the frame is none of DHCP."""
    if decode_frame(frame).ethertype != EtherType.IPV4:
        return None
    return decode_message(frame[42:]).message_type


def is_dhcp_reply(frame: bytes) -> bool:
    """Say whether a frame without IP options goes to port 68."""
    ethernet = decode_frame(frame)
    return ethernet.ethertype == EtherType.IPV4 and ethernet.payload[
        22:24
    ] == CLIENT_PORT.to_bytes(2, "big")


def borrow_socket(machine: Machine, expression: str) -> socket.socket:
    """Make a socket on another machine and use it here.

    Args:
        machine: Where it belongs.
        expression: Python that makes it, with `socket` imported.
    """
    script = (
        "import socket, sys\n"
        f"made = {expression}\n"
        "mine = socket.socket(fileno=int(sys.argv[1]))\n"
        "socket.send_fds(mine, [b'x'], [made.fileno()])\n"
    )
    here, there = socket.socketpair()
    with here, there:
        child = machine.popen(
            [sys.executable, "-c", script, str(there.fileno())],
            pass_fds=[there.fileno()],
        )
        there.close()
        _, fds, _, _ = socket.recv_fds(here, 1, 1)
        _, reason = child.communicate(timeout=10)
        assert fds, reason
        return socket.socket(fileno=fds[0])


def _random(size: int) -> bytes:
    """Bytes that count up: each exchange has its own number, as it must."""
    return b"\x80" if size == 1 else next(_numbers).to_bytes(size, "big")
