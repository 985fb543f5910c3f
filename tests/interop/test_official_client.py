# SPDX-License-Identifier: Apache-2.0
"""Debian's SoftEther client against the embedded server, on machines of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sevpn.testing.machine import Machine, connect, eventually
from sevpn.testing.peers import OfficialClient, missing_peers

pytestmark = [
    pytest.mark.interop,
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(missing_peers() is not None, reason=str(missing_peers())),
]

CONFIG = """
listen = ["192.0.2.1:443"]

[[hubs]]
name = "TEST"
gateway = "198.51.100.1/24"

[hubs.dhcp]

[hubs.tap]
name = "inside"
address = "198.51.100.9/24"

[[hubs.users]]
name = "alice"
password = "env:PASSWORD"

[[hubs.users]]
name = "bob"
auth = "plain"
password = "env:PASSWORD"

[[hubs.users]]
name = "anonymous"
auth = "anonymous"
"""


class EmbeddedServer:
    """`sevpn serve` on a machine, and what it tells."""

    def __init__(self, machine: Machine) -> None:
        machine.write("/etc/serve.toml", CONFIG)
        self._process = machine.popen(
            [
                sys.executable,
                "-m",
                "sevpn",
                "serve",
                "--json",
                "--config",
                "/etc/serve.toml",
            ],
            env={"PASSWORD": "secret"},
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._text = ""
        self.events: list[dict[str, Any]] = []
        eventually(lambda: self.heard("serving"), what="the start of serve")

    def _read(self) -> str:
        assert self._process.stdout is not None
        try:
            return os.read(self._process.stdout.fileno(), 1 << 20).decode()
        except BlockingIOError:
            return ""

    def heard(self, event: str) -> list[dict[str, Any]]:
        """Return the events of that name so far."""
        self._text += self._read()
        *lines, self._text = self._text.split("\n")
        self.events += [json.loads(line) for line in lines]
        return [one for one in self.events if one["event"] == event]


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    with Machine("server") as server, Machine("client") as client:
        connect(client, server)
        yield server, client


def test_the_official_client_connects_and_passes_traffic(
    machines: tuple[Machine, Machine],
) -> None:
    server_machine, client_machine = machines
    server = EmbeddedServer(server_machine)
    client = OfficialClient(client_machine)

    nic = client.connect(
        server="192.0.2.1:443", hub="TEST", user="alice", password="secret"
    )
    client_machine.sh(f"ip addr add 198.51.100.50/24 dev {nic}")

    (login,) = server.heard("login")
    assert "Client" in login["client"]
    assert client_machine.pings("198.51.100.1", count=5), "the virtual gateway"
    assert client_machine.pings("198.51.100.9", count=5), "a host behind the TAP"


def test_the_official_client_is_told_that_its_password_is_wrong(
    machines: tuple[Machine, Machine],
) -> None:
    server_machine, client_machine = machines
    server = EmbeddedServer(server_machine)
    client = OfficialClient(client_machine)

    with pytest.raises(AssertionError, match="did not happen"):
        client.connect(
            server="192.0.2.1:443", hub="TEST", user="alice", password="wrong"
        )

    assert server.heard("refused")[0]["error"] == 9
    assert server.heard("login") == []
