# SPDX-License-Identifier: Apache-2.0
"""The lab itself: real programs with each other, so that a failure elsewhere is ours."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sevpn.testing.certs import make_authority
from sevpn.testing.lab import SERVER, Client, Hub, Network
from sevpn.testing.machine import Machine, eventually, open_machines
from sevpn.testing.peers import Capture, Dnsmasq, OfficialClient, SoftEtherServer
from sevpn.testing.services import HttpServer, Iperf3, Radius, fetch

pytestmark = [pytest.mark.netns, pytest.mark.interop]

INNER = "198.51.100.1"


@pytest.fixture
def official(client: Client) -> OfficialClient:
    return OfficialClient(client.machine)


@pytest.fixture
def bridged(plain_hub: Hub) -> Iterator[str]:
    """A TAP on the hub; its name."""
    device = plain_hub.name.lower()
    yield plain_hub.server.bridge_tap(plain_hub.name, device, f"{INNER}/24")
    plain_hub.server.command(f"BridgeDelete {plain_hub.name} /DEVICE:{device}")


def join(official: OfficialClient, hub: Hub, address: str) -> None:
    """Connect the official client to a hub, with an address that is set by hand."""
    nic = official.connect(
        server=f"{SERVER}:443", hub=hub.name, user="alice", password="secret"
    )
    official.machine.sh(
        f"ip addr flush dev {nic}; ip addr add {address} dev {nic}; ip link set {nic} up"
    )


def test_the_official_client_reaches_securenat(
    official: OfficialClient, hub: Hub
) -> None:
    join(official, hub, "192.168.30.5/24")

    assert official.status()["Session Status"].startswith("Connection Completed")
    assert [name.split("-")[1] for name in hub.server.sessions(hub.name)] == ["ALICE"]
    assert official.machine.pings("192.168.30.1")


def test_the_official_client_reaches_services_behind_a_bridge(
    official: OfficialClient, plain_hub: Hub, bridged: str
) -> None:
    server = plain_hub.server.machine
    web, iperf = HttpServer(server, INNER), Iperf3(server, INNER)
    join(official, plain_hub, "198.51.100.9/24")
    assert official.machine.pings(INNER)
    capture = Capture(server, bridged, "icmp[icmptype] == icmp-echo")
    assert official.machine.pings(INNER, count=1, wait_s=10)
    assert ["echo request" in line for line in capture.stop()] == [True]

    fetched = fetch(official.machine, web.url, size=1_000_000)
    assert (fetched.peer, fetched.size) == ("198.51.100.9", 1_000_000)
    for is_inbound in (False, True):
        measured = iperf.measure(official.machine, seconds=1, is_inbound=is_inbound)
        assert measured.bits_per_s > 1e6
    web.stop()
    iperf.stop()


def test_a_session_that_is_thrown_out_is_gone_from_the_hub(
    official: OfficialClient, hub: Hub
) -> None:
    join(official, hub, "192.168.30.5/24")
    (session,) = hub.server.sessions(hub.name)

    hub.server.disconnect(hub.name, session)

    assert session not in hub.server.sessions(hub.name)
    eventually(official.is_connected, what="the next session")
    official.disconnect()
    assert not official.is_connected()


def test_dnsmasq_on_a_bridge_leases_to_sevpn(
    client: Client, plain_hub: Hub, bridged: str
) -> None:
    dnsmasq = Dnsmasq(
        plain_hub.server.machine,
        bridged,
        ["dhcp-range=198.51.100.50,198.51.100.99,1h"],
    )

    with client.up(
        *(plain_hub.target, "--pin", plain_hub.pin, "--user", "alice"),
        password="secret",
    ) as tunnel:
        address = tunnel.status()["lease"]["address"]
        assert dnsmasq.leases() == [address.split("/")[0]]
        assert client.machine.pings(INNER)
    dnsmasq.stop()


def test_a_radius_server_decides_about_a_plain_password(
    client: Client, plain_hub: Hub
) -> None:
    radius = Radius(plain_hub.server.machine, user="carol", password="of radius")
    plain_hub.server.create_radius_user(
        plain_hub.name, "carol", server="127.0.0.1", secret=Radius.SECRET
    )
    options = (
        *(plain_hub.target, "--pin", plain_hub.pin, "--user", "carol"),
        *("--auth", "plain", "--no-dhcp", "--address", "198.51.100.9/24"),
    )

    with client.up(*options, password="of radius", state=None) as tunnel:
        eventually(
            lambda: plain_hub.server.sessions(plain_hub.name), what="the session"
        )
        tunnel.stop()
    refused = client.sevpn("up", *options, env={"SEVPN_PASSWORD": "of nobody"})

    assert refused.code == 77
    assert "server error 9" in refused.err
    assert "Login OK: [carol" in radius.log()
    assert "Login incorrect" in radius.log()
    radius.stop()


def test_what_a_hub_leases_can_be_set(hub: Hub) -> None:
    hub.server.set_dhcp(
        hub.name,
        expire_s=60,
        gateway="none",
        dns=("192.168.30.7", "192.168.30.8"),
        domain="lab.test",
        routes=["10.9.0.0/255.255.0.0/192.168.30.1"],
    )

    said = hub.server.command("DhcpGet", hub=hub.name)

    rows = dict(line.split("|") for line in said.splitlines() if line.count("|") == 1)
    told = {name.strip(): value.strip() for name, value in rows.items()}
    assert told["Lease Limit (Seconds)"] == "60"
    assert told["Default Gateway Address"] == "None"
    assert told["DNS Server Address 2"] == "192.168.30.8"
    assert told["Domain Name"] == "lab.test"
    assert "10.9.0.0/255.255.0.0/192.168.30.1" in said


def test_a_server_that_was_killed_comes_back_with_its_hubs() -> None:
    with Machine("server") as machine:
        server = SoftEtherServer(machine, settings={"HUB_ARP_SEND_INTERVAL": "1000"})
        server.create_hub("KEPT", users={"alice": "secret", "guest": None})
        before = server.certificate_sha256()

        server.kill()
        assert "LISTEN" not in machine.check("ss", "-ltn")
        server.start()

        assert "alice" in server.command("UserList", hub="KEPT")
        assert server.certificate_sha256() == before
        server.command("Flush")
        text = machine.read("/var/lib/softether/vpn_server.config")
        assert "HUB_ARP_SEND_INTERVAL 1000" in text
        assert "bool DisableDos false" not in text


def test_a_server_with_an_authoritys_certificate_is_trusted_by_it(
    tmp_path: Path,
) -> None:
    authority = make_authority(tmp_path)
    leaf = authority.issue("server", addresses=[SERVER], is_rsa=True)

    with contextlib.closing(Network()) as outer, outer.client() as client:
        server = SoftEtherServer(outer.server)
        server.create_hub("TEST", securenat=True, users={"alice": "secret"})
        server.set_certificate(leaf.certificate, leaf.key)

        login = (f"{SERVER}/TEST", "--user", "alice")
        done = client.sevpn("up", *login, "--once", env={"SEVPN_PASSWORD": "secret"})
        assert done.code == 79
        ca = ("--ca", str(authority.certificate))
        with client.up(*login, *ca, password="secret") as tunnel:
            assert tunnel.status()["server"]["verified_by"] == "ca"
            assert tunnel.stop().code == 0


def test_a_machine_ends_with_all_who_live_in_it() -> None:
    with Machine("short") as machine:
        machine.sh("setsid sleep 1000 > /dev/null 2>&1 & echo $! > /run/pid")
        daemon = int(machine.read("/run/pid"))
        assert machine.name in open_machines()
        os.kill(daemon, 0)

    assert machine.name not in open_machines()
    eventually(lambda: not is_alive(daemon), what="the end of the daemon")


def test_a_machine_ends_with_a_test_that_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "dies.py"
    program.write_text(
        "import os\n"
        "from sevpn.testing.machine import Machine\n"
        "machine = Machine('orphan')\n"
        "child = machine.popen(['sleep', '1000'])\n"
        "print(machine.pid, child.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, program], stdout=subprocess.PIPE, text=True, check=False
    )

    assert done.returncode == -signal.SIGKILL
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    eventually(lambda: not any(map(is_alive, pids)), what="the end of all")


def is_alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"
