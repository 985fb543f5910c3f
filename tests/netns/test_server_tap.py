# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import os
import time
from ipaddress import IPv4Interface

import pytest

from integration.server_lab import a_server, ip, mac
from scripted_client import ScriptedClient
from sevpn.errors import HostError
from sevpn.server.config import TapConfig
from sevpn.testing.sandbox import ip as run_ip, ip_json, sandboxed
from sevpn.wire.arp import answer, decode_arp, question
from sevpn.wire.ethernet import Frame, MacAddress, decode_frame, encode_frame
from sevpn.wire.icmp import Echo, EchoKind, decode_echo, encode_echo
from sevpn.wire.ipv4 import Ipv4Packet, decode_ipv4, encode_ipv4

pytestmark = [
    pytest.mark.netns,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

INSIDE = TapConfig(name="inside", address=IPv4Interface("10.9.0.2/24"), mtu=1400)
OURS = mac(50)


async def ping(client: ScriptedClient) -> Echo | None:
    """Resolve and ping the TAP's address from a session, answering what its kernel asks."""
    client.send(question(OURS, ip(50), ip(2)))
    until = time.monotonic() + 5
    while time.monotonic() < until:
        for frame in map(decode_frame, await client.receive_all(for_s=0.1)):
            if frame.ethertype == 0x0806:
                asked = decode_arp(frame.payload)
                if asked.sender_ip == ip(2) and frame.destination == OURS:
                    client.send(_echo(frame.source))
                if asked.target_ip == ip(50):
                    client.send(answer(OURS, ip(50), to=frame.source, asked_by=ip(2)))
            elif frame.ethertype == 0x0800 and frame.destination == OURS:
                return decode_echo(decode_ipv4(frame.payload).payload)
    return None


def _echo(to: MacAddress) -> bytes:
    echo = encode_echo(Echo(EchoKind.REQUEST, 7, 8, b"hello"))
    packet = encode_ipv4(Ipv4Packet(ip(50), ip(2), 1, echo))
    return encode_frame(Frame(to, OURS, 0x0800, packet))


@sandboxed
def test_the_kernel_behind_the_tap_answers_a_session() -> None:
    async def scenario() -> None:
        async with a_server(tap=INSIDE) as server:
            (link,) = [one for one in ip_json("address") if one["ifname"] == "inside"]
            assert link["mtu"] == 1400
            assert "UP" in link["flags"]
            client = await ScriptedClient.logged_in(server)

            assert await ping(client) == Echo(EchoKind.REPLY, 7, 8, b"hello")
            await client.close()

    asyncio.run(scenario())
    assert not any(one["ifname"] == "inside" for one in ip_json("link"))


@sandboxed
def test_frames_are_lost_and_counted_while_the_tap_is_down() -> None:
    async def scenario() -> None:
        async with a_server(tap=INSIDE) as server:
            run_ip("link set inside down")
            client = await ScriptedClient.logged_in(server)
            client.send(question(OURS, ip(50), ip(2)))
            client.send(question(OURS, ip(50), ip(1)))
            assert len(await client.receive()) == 1, "the gateway is still there"

            tap = server.hubs["test"].tap
            assert tap is not None
            assert tap.lost_count == 2
            await client.close()

    asyncio.run(scenario())


@sandboxed
def test_a_name_in_use_is_refused_and_nothing_is_left() -> None:
    run_ip("link add inside type veth peer name other")

    async def scenario() -> None:
        server = a_server(tap=INSIDE)
        with pytest.raises(HostError, match="'inside' cannot be made"):
            await server.start()
        assert server.sessions() == ()

    asyncio.run(scenario())


@sandboxed
def test_the_tap_comes_again_with_the_server() -> None:
    async def scenario() -> None:
        server = a_server(tap=INSIDE)
        for _ in range(2):
            await server.start()
            assert any(one["ifname"] == "inside" for one in ip_json("link"))
            await server.stop()
            assert not any(one["ifname"] == "inside" for one in ip_json("link"))

    asyncio.run(scenario())
