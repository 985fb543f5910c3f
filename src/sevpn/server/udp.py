# SPDX-License-Identifier: Apache-2.0
"""The UDP flow of one session of the embedded server.

Layer: server. Runs in: the event loop.

    datagrams ── UdpFlow ── batches ──> Inlet ── hub
    hub ── batches ──> UdpFlow ── datagrams; what is too large for one goes by TCP

Unlike an official server this one does not change the MSS of flows that pass.

Source: docs/reference/protocol-data.md#udp.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable
from ipaddress import ip_address

from sevpn.dataplane.udpflow import UdpFlow
from sevpn.log import get_logger
from sevpn.protocol.udpterms import (
    KEY_V1_SIZE,
    KEY_V2_SIZE,
    UdpGrant,
    UdpOffer,
    Version,
    server_terms,
)
from sevpn.server.faults import Faults
from sevpn.server.hub import Hub, Port
from sevpn.server.inlet import open_inlet
from sevpn.transport.udp import open_udp

__all__ = ["SessionUdp", "grant_udp"]

log = get_logger(__name__)

_PORTS = range(40000, 45000)
"""Where official servers look for a free port first."""


def grant_udp(
    offer: UdpOffer, here: str, highest: Version
) -> tuple[socket.socket, UdpGrant] | None:
    """Return a socket and what is granted about it; `None`: there is no socket to be had.

    Args:
        offer: What the client offers.
        here: The server's address on the TCP connection.
        highest: The highest version to grant.
    """
    address = ip_address(here)
    for port in (*_PORTS, 0):
        try:
            sock = open_udp(address, port, prepare=lambda _sock: None)
        except OSError as error:
            log.debug("no UDP socket", port=port, cause=error)
            continue
        return sock, UdpGrant(
            version=min(offer.max_version, highest),
            address=address,
            port=sock.getsockname()[1],
            key_v1=secrets.token_bytes(KEY_V1_SIZE),
            key_v2=secrets.token_bytes(KEY_V2_SIZE),
            server_cookie=1 + secrets.randbelow(2**32 - 1),
            client_cookie=1 + secrets.randbelow(2**32 - 1),
            is_fast=offer.is_fast,
        )
    return None


class SessionUdp:
    """The flow, between a hub's port and the socket.

    Args:
        sock: From :func:`grant_udp`; owned by this object.
        offer: What the client offered.
        grant: What it was given.
        peer: The client's address on the TCP connection.
        hub: Where frames go.
        port: The session, as the hub knows it.
        faults: What goes wrong.
        clock: Seconds on a monotonic clock.
    """

    def __init__(
        self,
        sock: socket.socket,
        offer: UdpOffer,
        grant: UdpGrant,
        *,
        peer: str,
        hub: Hub,
        port: Port,
        faults: Faults,
        clock: Callable[[], float],
    ) -> None:
        terms = server_terms(offer, grant, ip_address(peer))
        self.flow = UdpFlow(sock, terms, wish="on")
        """The flow; its attributes tell how it does."""
        self._port = port
        self._inlet = open_inlet(hub)
        self._faults = faults
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)
        self._fd = sock.fileno()
        self._alarm: asyncio.TimerHandle | None = None
        self.flow.begin(clock())
        self._keep()

    def end(self) -> None:
        """Close the socket; harmless when it is closed."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._fd = -1
        if not self.flow.is_over:
            self.flow.end("the session ended")

    def is_up(self) -> bool:
        """Whether frames to the client are to go this way."""
        return self.flow.is_up(self._clock())

    def send(self, batches: bytes | memoryview) -> bytes:
        """Send frames to the client, and return batches of those that have to go by TCP."""
        if self._faults.is_udp_lost:
            return b""
        rest = self.flow.send(batches, self._clock()).data
        if self.flow.is_over:
            self.end()
        return rest

    def _readable(self) -> None:
        if self._faults.is_udp_lost:
            self.flow.discard()
            return
        batches = self.flow.receive(self._clock())
        if self.flow.is_over:
            self.end()
        inlet = self._inlet
        while batches:
            room = inlet.room()
            piece, batches = batches[: len(room)], batches[len(room) :]
            room[: len(piece)] = piece
            inlet.take(len(piece))
            if inlet.frame_count and not self._faults.drops_frames:
                inlet.forward(self._port)

    def _keep(self) -> None:
        if not self._faults.is_udp_lost:
            self.flow.keep(self._clock())
        if self.flow.is_over:
            self.end()
            return
        delay_s = max(0.05, self.flow.next_deadline() - self._clock())
        self._alarm = self._loop.call_later(delay_s, self._keep)
