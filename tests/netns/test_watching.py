# SPDX-License-Identifier: Apache-2.0
"""`sevpn capture --monitor` against the embedded server: who may watch, and what is seen."""

from __future__ import annotations

import signal

import pytest
from scapy.utils import PcapNgReader

from scapy_oracle import ARP, Ether
from sevpn.testing.lab import SERVER, Client, EmbeddedServer, Network
from sevpn.testing.machine import eventually

pytestmark = pytest.mark.netns

GATEWAY = "10.77.0.254"
TARGET = f"{SERVER}/TEST"
FILE = "/run/hub.pcapng"


def test_a_watcher_sees_what_others_say_and_is_seen_by_nobody(
    network: Network, client: Client
) -> None:
    server = EmbeddedServer(network.server, hub="policy=Policy(monitor_port=True)")
    watcher = client.machine.popen(
        [
            *(client.program, "capture", "--monitor", TARGET, "--pin", server.pin),
            *("--user", "alice", "-w", FILE),
        ],
        env={"SEVPN_PASSWORD": "secret"},
    )
    eventually(lambda: server.do("len(server.sessions())") == "1", what="the watcher")

    with (
        network.client() as other,
        other.up(
            *(TARGET, "--pin", server.pin, "--user", "alice"),
            password="secret",
            name="other",
        ) as tunnel,
    ):
        leased = tunnel.status()["lease"]["address"].partition("/")[0]
        assert other.machine.pings(GATEWAY)
    watcher.send_signal(signal.SIGINT)
    _, said = watcher.communicate(timeout=30)
    server.stop()

    assert watcher.returncode == 0, said
    with PcapNgReader(f"/proc/{client.machine.pid}/root{FILE}") as capture:
        frames = [Ether(bytes(frame)) for frame in capture]
    assert leased in {frame[ARP].psrc for frame in frames if ARP in frame}


def test_who_may_not_watch_is_told_and_no_file_is_begun(
    client: Client, server: EmbeddedServer
) -> None:
    done = client.sevpn(
        *("capture", "--monitor", TARGET, "--pin", server.pin),
        *("--user", "alice", "-w", FILE),
        env={"SEVPN_PASSWORD": "secret"},
    )

    assert done.code == 77
    assert "monitor right" in done.err
    assert client.machine.run("test", "-e", FILE).code == 1
