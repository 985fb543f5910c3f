# SPDX-License-Identifier: Apache-2.0
"""Several connections per session, full and half duplex, with the real server."""

from __future__ import annotations

import ctypes
import os
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from interop.test_offload import SIZE, transfer
from sevpn.testing.lab import Client, Hub, Up
from sevpn.testing.machine import eventually

pytestmark = [pytest.mark.netns, pytest.mark.interop]

GATEWAY = "192.168.30.1"

_libc = ctypes.CDLL(None, use_errno=True)
_PIDFD_OPEN, _PIDFD_GETFD = 434, 438


def login(hub: Hub) -> tuple[str, ...]:
    return (hub.target, "--pin", hub.pin, "--user", "alice")


def wait_for_connections(tunnel: Up, count: int) -> None:
    eventually(
        lambda: (tunnel.status().get("session") or {}).get("connections") == count,
        within_s=45,
        what=f"{count} connections",
    )


def established(client: Client) -> list[int]:
    """Return the client's ports of its connections to the server, in no order."""
    out = client.machine.check(
        "ss", "-Htn", "state", "established", "dport", "=", ":443"
    )
    return [int(line.split()[2].rpartition(":")[2]) for line in out.splitlines()]


@pytest.mark.parametrize(
    ("wanted", "is_half"),
    [(1, False), (2, False), (4, False), (8, False), (1, True), (3, True), (8, True)],
)
def test_as_many_connections_as_wanted_carry_traffic(
    client: Client, hub: Hub, wanted: int, is_half: bool
) -> None:
    options = ("--connections", str(wanted), *(["--half-duplex"] * is_half))
    count = max(wanted, 2) if is_half else wanted
    with client.up(*login(hub), *options, password="secret") as tunnel:
        wait_for_connections(tunnel, count)

        session = tunnel.status()["session"]
        # One more than is opened, for when all are dead and the server does not know.
        assert session["max_connections"] == count + (2 if is_half else 1)
        assert session["half_duplex"] == is_half
        assert len(established(client)) == count
        assert client.machine.pings(GATEWAY, count=10)
        assert tunnel.status()["counters"]["reconnects"] == 0
        assert hub.server.sessions(hub.name) == [session["name"]]


@pytest.mark.parametrize("is_half", [False, True])
def test_flows_are_spread_over_the_connections_and_arrive_intact(
    client: Client, plain_hub: Hub, is_half: bool
) -> None:
    server = plain_hub.server.machine
    net = f"198.51.{100 + is_half}"  # the TAP of the other test is still there
    plain_hub.server.bridge_tap(plain_hub.name, f"many{is_half:d}", f"{net}.1/24")
    address = ("--no-dhcp", "--address", f"{net}.2/24", "--gateway", f"{net}.1")
    options = (*address, "--connections", "8", *(["--half-duplex"] * is_half))
    with client.up(*login(plain_hub), *options, password="secret") as tunnel:
        wait_for_connections(tunnel, 8)
        with ThreadPoolExecutor(10) as pool:
            transfers = [
                pool.submit(transfer, client.machine, server, f"{net}.1", port)
                for port in range(5100, 5108)
            ]
            transfers += [
                pool.submit(transfer, server, client.machine, f"{net}.2", port)
                for port in range(5200, 5202)
            ]
            for one in transfers:
                one.result()

        assert tunnel.status()["counters"]["reconnects"] == 0
        busy = [sent for sent in sent_bytes(client) if sent > SIZE]
        # Of those that lead to the server one is kept for what is urgent; which flow
        # takes which of the others is chance.
        assert 2 <= len(busy) <= (3 if is_half else 7)


def sent_bytes(client: Client) -> list[int]:
    """Return how many bytes the client has sent on each connection to the server."""
    return list(sent_by_port(client).values())


def sent_by_port(client: Client) -> dict[int, int]:
    """Return the same by the client's port."""
    out = client.machine.check(
        "ss", "-HtinO", "state", "established", "dport", "=", ":443"
    )
    found = re.findall(r"(?m)^\S+ +\S+ +\S+:(\d+) .*?bytes_sent:(\d+)", out)
    return {int(port): int(count) for port, count in found}


_ECHOES = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
for _ in range(40):
    sock.sendto(bytes([8, 0, 0xF7, 0xFF]) + bytes(int(sys.argv[2])), (sys.argv[1], 0))
    time.sleep(0.005)
"""


def test_what_is_urgent_has_a_connection_for_itself(client: Client, hub: Hub) -> None:
    """QoS, which the server grants: small echoes are urgent, large ones are not."""

    def carries(size: int) -> set[int]:
        before = sent_by_port(client)
        client.machine.python(_ECHOES, GATEWAY, str(size))
        after = sent_by_port(client)
        return {port for port in after if after[port] - before[port] > 20 * size}

    with client.up(*login(hub), "--connections", "3", password="secret") as tunnel:
        wait_for_connections(tunnel, 3)

        (urgent,) = carries(60)
        (usual,) = carries(600)

        assert urgent != usual
        assert carries(60) == {urgent}


def test_all_connections_live_longer_than_the_time_out(
    client: Client, hub: Hub
) -> None:
    hub.user("brief", TimeOut="5")
    with client.up(
        *(hub.target, "--pin", hub.pin, "--user", "brief"),
        *("--connections", "4", "--half-duplex"),
        password="secret",
    ) as tunnel:
        wait_for_connections(tunnel, 4)
        before = sorted(established(client))

        time.sleep(7)  # the time-out and some: silence is what is tested

        assert client.machine.pings(GATEWAY)
        assert sorted(established(client)) == before
        assert tunnel.status()["counters"]["reconnects"] == 0


def test_a_connection_on_which_nothing_comes_is_replaced_in_the_same_session(
    client: Client, hub: Hub
) -> None:
    """We end it, with a close_notify: then the others live, with 5.01.9674 too."""
    hub.user("brief", TimeOut="5")
    with client.up(
        *(hub.target, "--pin", hub.pin, "--user", "brief", "--connections", "4"),
        password="secret",
    ) as tunnel:
        wait_for_connections(tunnel, 4)
        before = established(client)

        client.machine.sh(
            f"nft add table inet cut; "
            f"nft 'add chain inet cut in {{ type filter hook input priority 0; }}';"
            f"nft add rule inet cut in tcp dport {before[0]} drop"
        )
        eventually(
            lambda: (
                before[0] not in established(client) and len(established(client)) == 4
            ),
            within_s=45,
            what="another connection",
        )

        assert set(before[1:]) < set(established(client))
        wait_for_connections(tunnel, 4)
        assert client.machine.pings(GATEWAY, count=5)
        assert tunnel.status()["counters"]["reconnects"] == 0


def test_the_end_of_one_connection_leads_to_a_clean_new_session(
    client: Client, hub: Hub
) -> None:
    """5.01.9674 with OpenSSL 3 lets all connections die of one end without close_notify."""
    with client.up(*login(hub), "--connections", "4", password="secret") as tunnel:
        wait_for_connections(tunnel, 4)
        first = tunnel.status()["session"]["name"]
        assert client.machine.pings(GATEWAY)

        end_one(tunnel, established(client)[2])
        eventually(
            lambda: tunnel.status()["counters"]["reconnects"] == 1, what="a new session"
        )

        status = tunnel.wait()
        assert status["session"]["name"] != first
        wait_for_connections(tunnel, 4)
        assert client.machine.pings(GATEWAY, count=10)
        assert tunnel.status()["counters"]["reconnects"] == 1


def end_one(tunnel: Up, port: int) -> None:
    """Send a FIN on the connection from *port*, without a close_notify."""
    pid = tunnel.process.pid
    pidfd = _libc.syscall(_PIDFD_OPEN, pid, 0)
    assert pidfd >= 0, os.strerror(ctypes.get_errno())
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            if not str(entry.readlink()).startswith("socket:"):
                continue
            fd = _libc.syscall(_PIDFD_GETFD, pidfd, int(entry.name), 0)
            assert fd >= 0, os.strerror(ctypes.get_errno())
            with socket.socket(fileno=fd) as sock:
                if sock.family == socket.AF_INET and sock.getsockname()[1] == port:
                    sock.shutdown(socket.SHUT_WR)
                    return
    finally:
        os.close(pidfd)
    raise AssertionError(f"no connection from port {port}")
