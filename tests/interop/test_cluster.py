# SPDX-License-Identifier: Apache-2.0
"""A cluster of two real servers: a controller that only redirects, and a member."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from interop.test_proxies import PROXY, behind_a_proxy
from sevpn.protocol.credentials import hash_password
from sevpn.testing.lab import SERVER, Network
from sevpn.testing.machine import Machine, connect, eventually
from sevpn.testing.peers import SoftEtherServer

pytestmark = [pytest.mark.netns, pytest.mark.interop]

MEMBER = "192.0.2.253"


@dataclass
class Cluster:
    """The controller at SERVER, and the member at MEMBER."""

    network: Network
    controller: SoftEtherServer
    member: SoftEtherServer


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    network = Network()
    machine = Machine("member")
    try:
        connect(
            machine,
            network.server,
            interfaces=("eth0", "member"),
            addresses=(f"{MEMBER}/24", ""),
        )
        network.server.sh("ip link set member master br0")
        controller = SoftEtherServer(network.server)
        _make_controller(controller)
        member = SoftEtherServer(machine)
        member.command(
            f"ClusterSettingMember {SERVER}:443 /IP:{MEMBER} /PORTS:443,5555 /PASSWORD:secret /WEIGHT:100"
        )
        controller.command(
            "HubCreateStatic CLUSTER /PASSWORD:hub",
            "Hub CLUSTER",
            "UserCreate alice /GROUP:none /REALNAME:none /NOTE:none",
            "UserPasswordSet alice /PASSWORD:secret",
        )
        # A server that has become a member begins anew, which takes it half a minute.
        eventually(
            lambda: "|Member" in controller.command("ClusterMemberList"),
            within_s=60,
            what="the member",
        )
        yield Cluster(network, controller, member)
    finally:
        machine.close()
        network.close()


def _make_controller(server: SoftEtherServer) -> None:
    """Make it one by its file: by command it would begin anew for half a minute."""
    server.kill()
    path = "/var/lib/softether/vpn_server.config"
    password = base64.b64encode(hash_password("", "secret")).decode()
    text = server.machine.read(path).replace(
        "uint ServerType 0", "uint ServerType 1\n\tbool ControllerOnly true"
    )
    hubs, keyword, own = text.partition("declare ServerConfiguration")
    own = re.sub(r"(byte HashedPassword) \S+", rf"\g<1> {password}", own, count=1)
    server.machine.write(path, hubs + keyword + own)
    server.start()
    server.password = "secret"


def test_a_cluster_sends_the_login_to_its_member(cluster: Cluster) -> None:
    words = (f"{SERVER}/CLUSTER", "--pin", cluster.controller.certificate_sha256())
    more = ("--user", "alice", "--no-dhcp", "--address")
    with (
        cluster.network.client() as one,
        cluster.network.client() as two,
        one.up(*words, *more, "198.18.0.1/24", password="secret") as tunnel,
        two.up(*words, *more, "198.18.0.2/24", name="u", password="secret"),
    ):
        status = tunnel.status()

        assert status["server"]["address"] == MEMBER
        assert status["server"]["verified_by"] == "pin"
        assert one.machine.pings("198.18.0.2")
        assert one.machine.ip("route", "show", f"{MEMBER}/32", "proto", "224")
        assert not one.machine.ip("route", "show", f"{SERVER}/32", "proto", "224")


def test_a_session_at_a_member_goes_on_there(cluster: Cluster) -> None:
    words = (f"{SERVER}/CLUSTER", "--pin", cluster.controller.certificate_sha256())
    more = ("--user", "alice", "--no-dhcp", "--address")
    with (
        cluster.network.client() as one,
        cluster.network.client() as two,
        one.up(*words, *more, "198.18.0.3/24", password="secret") as tunnel,
        two.up(*words, *more, "198.18.0.4/24", name="u", password="secret"),
    ):
        one.machine.sh(f"ss -K dst {MEMBER} dport = 443 > /dev/null")
        eventually(
            lambda: (
                tunnel.status()["counters"]["reconnects"]
                + (tunnel.status()["session"] or {}).get("resumed", 0)
                == 1
            ),
            what="another connection",
        )

        tunnel.wait()
        assert tunnel.status()["server"]["address"] == MEMBER
        eventually(lambda: one.machine.pings("198.18.0.4"), what="traffic")


def test_behind_a_proxy_the_member_is_dialled_by_it_and_the_host_knows_only_the_proxy(
    cluster: Cluster,
) -> None:
    words = (f"{SERVER}/CLUSTER", "--pin", cluster.controller.certificate_sha256())
    more = ("--user", "alice", "--no-dhcp", "--address")
    locked = ("--lock", "on", "--proxy", f"http://{PROXY}:3128")
    with (
        behind_a_proxy(cluster.network) as proxied,
        cluster.network.client() as other,
        other.up(*words, *more, "198.18.0.6/24", name="u", password="secret"),
    ):
        proxied.tinyproxy()
        machine = proxied.client.machine
        with proxied.client.up(
            *(*words, *more, "198.18.0.5/24", "--gateway", "198.18.0.6"),
            *("--accept-default-gateway", *locked),
            password="secret",
        ) as tunnel:
            assert machine.pings("198.18.0.6", count=5)
            assert tunnel.status()["server"]["address"] == PROXY
            # Its connection to the controller is over, and the member has the session.
            dialled = proxied.proxy.check("ss", "-Htn", "state", "established")
            assert f"{MEMBER}:443" in dialled
            assert f"{SERVER}:443" not in dialled
            table = machine.check("nft", "list", "table", "inet", "sevpn_t")
            assert f"elements = {{ {PROXY} }}" in table
            assert not re.search(rf"{SERVER}\b|{MEMBER}\b", table)
            routes = machine.check("ip", "route", "show", "table", "all")
            assert not re.search(rf"{SERVER}\b|{MEMBER}\b", routes)
            tunnel.stop()

        # Without a lock it is a host route that leads to the proxy.
        with proxied.client.up(
            *(*words, *more, "198.18.0.5/24", "--gateway", "198.18.0.6"),
            *("--accept-default-gateway", *locked[2:]),
            password="secret",
        ):
            assert machine.pings("198.18.0.6", count=5)
            (route,) = machine.ip("route", "show", "proto", "224", "dev", "eth0")
            assert route["dst"] == PROXY
