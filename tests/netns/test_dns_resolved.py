# SPDX-License-Identifier: Apache-2.0
"""Name servers in a real systemd-resolved, on a bus of its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Final

import pytest

from sevpn.testing.lab import SERVER, Client, EmbeddedServer, Network
from sevpn.testing.machine import eventually
from sevpn.testing.peers import Dnsmasq
from sevpn.testing.resolvers import SystemdResolved

pytestmark = pytest.mark.netns

TARGET = f"{SERVER}/TEST"
GATEWAY = "10.77.0.254"
INTRANET = "intranet.corp.example"
INSIDE, OUTSIDE = "10.77.0.80", "203.0.113.80"


@pytest.fixture(scope="module")
def lab(network: Network) -> Iterator[EmbeddedServer]:
    """A hub whose gateway knows one name, and an uplink whose name server knows all."""
    uplink = Dnsmasq(
        network.server,
        "br0",
        [f"address=/#/{OUTSIDE}", "dhcp-range=192.0.2.200,192.0.2.210"],
    )
    server = EmbeddedServer(
        network.server,
        hub=f"names={{'{INTRANET}': IPv4Address('{INSIDE}')}},",
        dhcp=f"dns=(IPv4Address('{GATEWAY}'),), domain='corp.example'",
    )
    yield server
    server.stop()
    uplink.stop()


@pytest.fixture
def resolved(client: Client) -> SystemdResolved:
    return SystemdResolved(client.machine, uplink={"eth0": SERVER})


def login(server: EmbeddedServer, *options: str) -> tuple[str, ...]:
    return (TARGET, "--pin", server.pin, "--user", "alice", *options)


_LOOK: Final = """
import asyncio, sys
from ipaddress import ip_address
from sevpn.net.dns.backend import Owner
from sevpn.net.dns.names import Names
from sevpn.net.dns.watch import COALESCE_S, Watcher
from sevpn.net.model import Resolver
from sevpn.net.plan import SetResolver

async def main():
    names = Names(tunnel="t", mode="auto")
    way = names.decide().backend
    resolver = Resolver((ip_address("10.0.0.1"),), ("corp.example",), way=way)
    names.carry_out(SetResolver(resolver, None, "eth0"))
    called = []
    watcher = Watcher(names.watched(way), lambda: called.append(1))
    watcher.start()
    assert names.mend(resolver, "eth0", now=0.0).warning is None
    await asyncio.sleep(3 * COALESCE_S)
    print(way, len(called))
    names.carry_out(SetResolver(None, resolver, "eth0"))
    await asyncio.sleep(3 * COALESCE_S)
    print(len(called))

asyncio.run(main())
"""
"""Look whether all is in place, and count the events that looking makes."""


def test_looking_is_no_event_and_changing_is(
    client: Client, resolved: SystemdResolved
) -> None:
    looked, changed = client.machine.python(_LOOK).splitlines()

    assert looked == "resolved 0"
    assert int(changed) > 0
    assert resolved.servers("eth0") == []


def test_all_names_go_to_the_tunnels_servers_and_back_when_it_ends(
    client: Client, lab: EmbeddedServer, resolved: SystemdResolved
) -> None:
    before = client.machine.snapshot()
    assert resolved.query("www.example.net") == OUTSIDE

    with client.up(*login(lab, "--accept-dns"), password="secret") as tunnel:
        assert tunnel.status()["dns"] == {
            "backend": "resolved",
            "reason": "resolv.conf sends programs to systemd-resolved",
            "servers": [GATEWAY],
        }
        assert resolved.servers("sevpn0") == [GATEWAY]
        assert resolved.domains("sevpn0") == ["corp.example", "~."]
        assert resolved.is_default("sevpn0")
        assert resolved.query(INTRANET) == INSIDE
        # The tunnel's server does not know it, and the uplink's is not asked.
        assert resolved.query("www.example.net") == ""
        # The daemon's own file, as before, with the tunnel's domain in it.
        assert "stub-resolv.conf" in client.machine.sh("readlink /etc/resolv.conf")
        assert "search corp.example" in client.machine.read("/etc/resolv.conf")
        assert resolved.servers("eth0") == [SERVER]
        assert tunnel.stop().code == 0

    assert resolved.query("www.example.net") == OUTSIDE
    assert client.machine.snapshot() == before


def test_split_dns_sends_only_the_given_domains(
    client: Client, lab: EmbeddedServer, resolved: SystemdResolved
) -> None:
    with client.up(
        *login(lab, "--split-dns", "CORP.example", "--split-dns", "10.in-addr.arpa"),
        password="secret",
    ) as tunnel:
        assert tunnel.status()["dns"]["backend"] == "resolved"
        assert resolved.domains("sevpn0") == ["corp.example", "~10.in-addr.arpa"]
        assert not resolved.is_default("sevpn0")
        assert resolved.query(INTRANET) == INSIDE
        assert resolved.query("www.example.net") == OUTSIDE


def test_nothing_is_left_after_a_kill(
    client: Client, lab: EmbeddedServer, resolved: SystemdResolved
) -> None:
    with client.up(*login(lab, "--accept-dns"), password="secret") as tunnel:
        tunnel.process.send_signal(signal.SIGKILL)
        tunnel.process.wait()

    eventually(
        lambda: resolved.query("www.example.net") == OUTSIDE, what="the uplink's server"
    )
    assert resolved.servers("sevpn0") == []


def test_names_are_the_uplinks_while_the_server_is_away(
    network: Network, client: Client, resolved: SystemdResolved
) -> None:
    server = EmbeddedServer(
        network.server,
        config="listen=('0.0.0.0:444',)",
        dhcp=f"dns=(IPv4Address('{GATEWAY}'),)",
    )
    with client.up(
        f"{SERVER}:444/TEST",
        *login(server, "--accept-dns")[1:],
        password="secret",
    ) as tunnel:
        server.stop()
        tunnel.wait("waiting")

        assert resolved.servers("sevpn0") == []
        assert not resolved.is_default("sevpn0")


def test_what_somebody_takes_away_is_set_again_and_told(
    client: Client, lab: EmbeddedServer, resolved: SystemdResolved
) -> None:
    with client.up(*login(lab, "--accept-dns"), password="secret") as tunnel:
        resolved.ctl("revert", "sevpn0")

        eventually(
            lambda: (
                resolved.servers("sevpn0") == [GATEWAY]
                and resolved.domains("sevpn0") == ["corp.example", "~."]
            ),
            what="the tunnel's servers",
        )
        eventually(
            lambda: any(
                "had changed this host's name servers" in line
                for line in tunnel.status()["warnings"]
            ),
            what="a warning",
        )


def test_a_resolv_conf_that_leads_past_the_daemon_is_told_and_left(
    client: Client, lab: EmbeddedServer, resolved: SystemdResolved
) -> None:
    theirs = "# Generated by NetworkManager\nnameserver 192.0.2.53\n"
    with client.up(*login(lab, "--accept-dns"), password="secret") as tunnel:
        client.machine.check(
            "sh", "-ec", "cat > /etc/new; mv /etc/new /etc/resolv.conf", text=theirs
        )

        eventually(
            lambda: any(
                "NetworkManager has replaced resolv.conf" in line
                for line in tunnel.status()["warnings"]
            ),
            what="a warning",
        )
        dns = tunnel.status()["dns"]
        assert dns["servers"] == []
        assert dns["reason"].startswith("NetworkManager has changed the name servers")
        assert resolved.servers("sevpn0") == [GATEWAY]

        client.machine.sh(
            "ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf"
        )
        eventually(
            lambda: tunnel.status()["dns"]["servers"] == [GATEWAY], what="ours again"
        )


def test_a_restart_of_the_daemon_changes_nothing(
    client: Client, lab: EmbeddedServer, resolved: SystemdResolved
) -> None:
    with client.up(*login(lab, "--accept-dns"), password="secret"):
        resolved.stop()
        resolved.start()

        eventually(
            lambda: (
                resolved.servers("sevpn0") == [GATEWAY]
                and resolved.query(INTRANET) == INSIDE
            ),
            what="the tunnel's servers",
        )


def test_a_daemon_that_is_not_there_is_told_and_the_file_replaced(
    client: Client, lab: EmbeddedServer, resolved: SystemdResolved
) -> None:
    resolved.stop()

    with client.up(*login(lab, "--accept-dns"), password="secret") as tunnel:
        dns = tunnel.status()["dns"]
        assert dns["backend"] == "file"
        assert "systemd-resolved, which cannot be told" in dns["reason"]
        assert f"nameserver {GATEWAY}" in client.machine.read("/etc/resolv.conf")

    for words in (("--dns-mode", "resolved"), ("--split-dns", "corp.example")):
        done = client.sevpn(
            "up",
            *login(lab, "--accept-dns", *words),
            env={"SEVPN_PASSWORD": "secret"},
        )
        assert done.code == 78
        assert words[0] in done.err


def test_two_tunnels_have_servers_of_their_own(
    client: Client, lab: EmbeddedServer, resolved: SystemdResolved
) -> None:
    with (
        client.up(*login(lab, "--accept-dns"), name="one", password="secret"),
        client.up(
            *login(lab, "--split-dns", "b.example", "--dns", "10.77.0.53"),
            name="two",
            password="secret",
        ),
    ):
        assert resolved.servers("sevpn0") == [GATEWAY]
        assert resolved.servers("sevpn1") == ["10.77.0.53"]


def test_programs_that_nsswitch_sends_there_count_though_resolv_conf_does_not(
    client: Client, lab: EmbeddedServer, resolved: SystemdResolved
) -> None:
    client.machine.sh(
        "rm /etc/resolv.conf; echo nameserver 192.0.2.53 > /etc/resolv.conf;"
        "sed -i '/^hosts:/d' /etc/nsswitch.conf;"
        "echo 'hosts: files resolve [!UNAVAIL=return] dns' >> /etc/nsswitch.conf"
    )
    with client.up(*login(lab, "--accept-dns"), password="secret") as tunnel:
        dns = tunnel.status()["dns"]
        assert dns["backend"] == "resolved"
        assert dns["reason"] == "nsswitch.conf sends programs to systemd-resolved"
        assert resolved.servers("sevpn0") == [GATEWAY]


def test_plan_shows_the_commands(client: Client, resolved: SystemdResolved) -> None:
    done = client.sevpn("plan", TARGET, "--accept-dns", "--search", "a.example")

    assert done.code == 0
    assert (
        "resolvectl dns sevpn0 SERVERS; resolvectl domain sevpn0 a.example '~.'"
        in done.out
    )
    assert resolved.servers("eth0") == [SERVER]
