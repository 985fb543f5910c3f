# SPDX-License-Identifier: Apache-2.0
"""Bulk traffic through the real server: end hosts receive what was sent, however it crossed the TAP."""

from __future__ import annotations

import hashlib
import os
import random
from typing import Any

import pytest

from sevpn.testing.lab import Client, Hub
from sevpn.testing.machine import Machine

pytestmark = [pytest.mark.netns, pytest.mark.interop, pytest.mark.kernel]

FORM = os.environ.get("SEVPN_KERNEL", "compiled")
SIZE = 16 * 1024 * 1024

RECEIVE = """
import hashlib, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family) as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((sys.argv[1], int(sys.argv[2])))
    listener.listen()
    print("ready", flush=True)
    peer, _ = listener.accept()
    digest = hashlib.sha256()
    while data := peer.recv(1 << 20):
        digest.update(data)
print(digest.hexdigest())
"""

SEND = """
import random, socket, sys, time
random.seed(sys.argv[3])
data = random.randbytes(int(sys.argv[4]))
def connect(until):
    while True:  # the host may have to resolve the address more than once
        try:
            return socket.create_connection((sys.argv[1], int(sys.argv[2])))
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
with connect(time.monotonic() + 20) as peer:
    while data:  # pieces of any size, so that super-segments end anywhere
        size = random.choice((1, 700, 1448, 5000, 65536, 200_000))
        peer.sendall(data[:size])
        data = data[size:]
"""


def transfer(source: Machine, sink: Machine, address: str, port: int) -> None:
    """Send *SIZE* random bytes, and see that they arrive."""
    receiver = sink.popen(["python3", "-c", RECEIVE, address, str(port)])
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "ready\n"
    source.python(SEND, address, str(port), str(port), str(SIZE))
    assert receiver.stdout.readline().strip() == expected(port)
    receiver.wait(timeout=20)


def expected(seed: int) -> str:
    return hashlib.sha256(random.Random(str(seed)).randbytes(SIZE)).hexdigest()


def checksum_errors(machine: Machine) -> list[int]:
    """Return how many TCP and IP packets of that machine arrived damaged."""
    lines = machine.read("/proc/net/snmp").splitlines()
    found: list[int] = []
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        fields = dict(zip(names.split()[1:], values.split()[1:], strict=True))
        found += [
            int(fields[name])
            for name in ("InCsumErrors", "InHdrErrors")
            if name in fields
        ]
    return found


def sent_packets(client: Client, device: str) -> int:
    lines = client.machine.read("/proc/net/dev").splitlines()
    columns = next(line.split() for line in lines if line.split()[0] == f"{device}:")
    return int(columns[10])


def test_bulk_traffic_of_both_families_arrives_intact_both_ways(
    client: Client, plain_hub: Hub
) -> None:
    server = plain_hub.server.machine
    device = plain_hub.server.bridge_tap(plain_hub.name, "bulk", "198.51.100.1/24")
    server.sh(f"ip -6 addr add fd77::1/64 dev {device} nodad")
    options = ("--no-dhcp", "--address", "198.51.100.2/24", "--gateway", "198.51.100.1")
    login = ("--pin", plain_hub.pin, "--user", "alice")
    with client.up(plain_hub.target, *login, *options, password="secret") as tunnel:
        status: dict[str, Any] = tunnel.wait()
        name = status["interface"]["name"]
        client.machine.sh(f"ip -6 addr add fd77::2/64 dev {name} nodad")
        transfer(client.machine, server, "198.51.100.1", 5001)
        transfer(server, client.machine, "198.51.100.2", 5002)
        transfer(client.machine, server, "fd77::1", 5003)
        transfer(server, client.machine, "fd77::2", 5004)

        assert not any(checksum_errors(server))
        assert not any(checksum_errors(client.machine))
        status = tunnel.status()
        assert status["interface"]["kernel"] == FORM
        is_compiled = FORM == "compiled"
        assert status["interface"]["offload"] == ("gso" if is_compiled else "none")
        frames = status["counters"]["outbound_frames"]
        assert (frames > 2 * sent_packets(client, name)) is is_compiled
