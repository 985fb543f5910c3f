# SPDX-License-Identifier: Apache-2.0
"""What lives inside a session, on a loop whose clock the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest

from sevpn.errors import LeaseError, NotProvenError
from sevpn.protocol.dhcp import Lease
from sevpn.protocol.neighbour import Silent
from sevpn.testing.clock import JumpingLoop
from sevpn.tunnel.inside import LEASE_PATIENCE_S, Inside, InsideListener
from sevpn.wire import arp
from sevpn.wire.ethernet import EtherType, MacAddress, decode_frame

MAC = MacAddress.parse("5e:00:00:00:00:01")
ROUTER = MacAddress.parse("5e:00:00:00:00:fe")
HUB = MacAddress.parse("00:ae:00:00:00:01")
ADDRESS = IPv4Interface("10.0.0.5/24")
GATEWAY = IPv4Address("10.0.0.1")


class Hub:
    """The far side: records what is sent, and answers when told to."""

    def __init__(self, loop: JumpingLoop) -> None:
        self.sent: list[bytes] = []
        self.changed: list[Lease] = []
        self.lost: list[str] = []
        self.inside = Inside(
            mac=MAC,
            inject=self.take,
            clock=loop.time,
            random=bytes,
            listener=InsideListener(
                self.changed.append, self.lost.append, lambda: None
            ),
        )
        self.answers_arp = False

    def take(self, frames: Sequence[bytes]) -> None:
        self.sent += frames
        for frame in frames:
            if self.answers_arp:
                self._answer(frame)

    def _answer(self, frame: bytes) -> None:
        outer = decode_frame(frame)
        if outer.ethertype != EtherType.ARP:
            return
        packet = arp.decode_arp(outer.payload)
        if packet.target_ip == GATEWAY:
            reply = arp.answer(ROUTER, GATEWAY, to=MAC, asked_by=packet.sender_ip)
            asyncio.get_running_loop().call_soon(self.inside.receive_frames, [reply])


def run(scene: Any) -> None:
    loop = JumpingLoop()
    try:
        loop.run_until_complete(scene(Hub(loop), loop))
    finally:
        loop.close()


def test_no_lease_in_time_says_what_was_heard() -> None:
    async def scene(hub: Hub, loop: JumpingLoop) -> None:
        began_at = loop.time()
        hub.inside.begin_lease(hostname=None, remembered=None)

        with pytest.raises(LeaseError, match="no address by DHCP within 20 s"):
            await hub.inside.obtain_lease()

        assert loop.time() - began_at == pytest.approx(LEASE_PATIENCE_S)
        assert len(hub.sent) >= 4  # DISCOVERs at 0, 1, 3, 7 and 15 s, with some jitter
        hub.inside.close()

    run(scene)


def test_the_gateways_answer_is_the_proof_and_its_time_the_latency() -> None:
    async def scene(hub: Hub, _: JumpingLoop) -> None:
        hub.answers_arp = True

        proven = await hub.inside.prove(ADDRESS, gateway=GATEWAY, server=None)

        assert proven.by == "gateway"
        assert hub.inside.latency_s == proven.rtt_s
        hub.inside.close()

    run(scene)


def test_nothing_that_comes_back_is_no_proof() -> None:
    async def scene(hub: Hub, loop: JumpingLoop) -> None:
        began_at = loop.time()

        with pytest.raises(NotProvenError):
            await hub.inside.prove(ADDRESS, gateway=GATEWAY, server=None)

        assert loop.time() - began_at == pytest.approx(10)
        hub.inside.close()

    run(scene)


def test_the_hubs_poll_is_answered_once_the_host_has_the_address() -> None:
    async def scene(hub: Hub, _: JumpingLoop) -> None:
        asked = arp.question(HUB, IPv4Address("172.31.7.7"), ADDRESS.ip)
        poll = MAC.octets + asked[6:]  # the hub asks by unicast
        hub.inside.receive_frames([poll])
        assert hub.sent == []

        hub.inside.configured([ADDRESS.ip])
        hub.sent.clear()
        hub.inside.receive_frames([poll])
        assert [decode_frame(frame).destination for frame in hub.sent] == [HUB]

        hub.inside.unconfigured()
        hub.sent.clear()
        hub.inside.receive_frames([poll])
        assert hub.sent == []
        hub.inside.close()

    run(scene)


def test_closing_ends_whoever_waits() -> None:
    async def scene(hub: Hub, _: JumpingLoop) -> None:
        hub.inside.begin_lease(hostname=None, remembered=None)
        waiting = asyncio.ensure_future(hub.inside.obtain_lease())
        await asyncio.sleep(0)

        hub.inside.close()

        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(scene)


def test_a_gateway_that_falls_silent_after_the_proof_is_told_with_what_else_came() -> (
    None
):
    async def scene(hub: Hub, loop: JumpingLoop) -> None:
        silences: list[Silent] = []
        hub.inside = Inside(
            mac=MAC,
            inject=hub.take,
            clock=loop.time,
            random=bytes,
            listener=InsideListener(
                hub.changed.append, hub.lost.append, lambda: None, silences.append
            ),
            activity=lambda: (loop.time(), 0),
        )
        hub.answers_arp = True
        await hub.inside.prove(ADDRESS, gateway=GATEWAY, server=None)
        await asyncio.sleep(1.0)

        hub.answers_arp = False
        await asyncio.sleep(6.0)

        assert silences == [Silent(2.5, has_server_spoken=True)]
        assert hub.inside.latency_s is None
        hub.inside.close()

    run(scene)
