# SPDX-License-Identifier: Apache-2.0
"""Name servers by the real openresolv and Debian's real resolvconf."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from sevpn.testing.lab import SERVER, Client, EmbeddedServer, Network
from sevpn.testing.machine import Machine, eventually
from sevpn.testing.resolvers import DebianResolvconf, Openresolv

pytestmark = pytest.mark.netns

TARGET = f"{SERVER}/TEST"
GATEWAY = "10.77.0.254"
ENTRY = "tun.sevpn.t"


@dataclass(frozen=True)
class Kind:
    """One of the two programs."""

    make: Callable[[Machine], Openresolv | DebianResolvconf]
    """Puts it on a machine whose uplink has the name server 192.0.2.53."""

    servers: list[str]
    """What resolv.conf holds while the tunnel is up."""

    word: str
    """What the reason calls it."""


KINDS = [
    pytest.param(
        Kind(
            lambda machine: Openresolv(machine, uplink={"eth0": "192.0.2.53"}),
            [GATEWAY],
            "(openresolv)",
        ),
        id="openresolv",
    ),
    pytest.param(
        Kind(
            lambda machine: DebianResolvconf(machine, uplink={"eth0": "192.0.2.53"}),
            [GATEWAY, "192.0.2.53"],
            "(Debian's)",
        ),
        id="debian",
    ),
]

every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def lab(network: Network) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(
        network.server, dhcp=f"dns=(IPv4Address('{GATEWAY}'),), domain='corp.example'"
    )
    yield server
    server.stop()


def login(server: EmbeddedServer, *options: str) -> tuple[str, ...]:
    return (TARGET, "--pin", server.pin, "--user", "alice", *options)


def servers_of(client: Client) -> list[str]:
    text = client.machine.read("/etc/resolv.conf")
    return [
        line.split()[1] for line in text.splitlines() if line.startswith("nameserver ")
    ]


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


@every_kind
def test_looking_is_no_event_and_changing_is(client: Client, kind: Kind) -> None:
    kind.make(client.machine)

    looked, changed = client.machine.python(_LOOK).splitlines()

    assert looked == "resolvconf 0"
    assert int(changed) > 0


@every_kind
def test_an_entry_of_ours_leads_and_goes_when_the_tunnel_ends(
    client: Client, lab: EmbeddedServer, kind: Kind
) -> None:
    program = kind.make(client.machine)
    before = client.machine.snapshot()
    assert servers_of(client) == ["192.0.2.53"]

    with client.up(*login(lab, "--accept-dns"), password="secret") as tunnel:
        dns = tunnel.status()["dns"]
        assert dns["backend"] == "resolvconf"
        assert kind.word in dns["reason"]
        assert dns["servers"] == [GATEWAY]
        assert servers_of(client) == kind.servers
        assert "search corp.example" in client.machine.read("/etc/resolv.conf")
        assert ENTRY in program.entries()
        # The saved copy is the other way's: here nothing is replaced.
        assert client.machine.run("ls", "/etc/.resolv.conf.sevpn-saved").code != 0
        assert tunnel.stop().code == 0

    assert ENTRY not in program.entries()
    assert client.machine.snapshot() == before


@every_kind
@pytest.mark.parametrize("has_run_folder", [True, False])
def test_cleanup_removes_the_entry_of_a_killed_tunnel(
    client: Client, lab: EmbeddedServer, kind: Kind, has_run_folder: bool
) -> None:
    program = kind.make(client.machine)
    before = client.machine.snapshot()
    with client.up(*login(lab, "--accept-dns"), password="secret") as tunnel:
        tunnel.process.send_signal(signal.SIGKILL)
        tunnel.process.wait()
    assert ENTRY in program.entries()
    if not has_run_folder:
        client.machine.sh("rm -rf /run/sevpn")

    done = client.sevpn("cleanup")

    assert done.code == 0
    assert "resolvconf -d for the dead tunnel t" in done.out
    assert client.machine.snapshot() == before


def test_a_program_that_does_not_work_keeps_no_tunnel_from_its_work(
    client: Client, lab: EmbeddedServer
) -> None:
    client.machine.sh(
        "mkdir -p /run/broken /run/resolvconf; printf '#!/bin/sh\nexit 1\n' > /run/broken/resolvconf;"
        "chmod +x /run/broken/resolvconf;"
        "mount -t overlay overlay -o ro,lowerdir=/run/broken:/usr/sbin /usr/sbin;"
        "sed -i '1i # Generated by resolvconf' /etc/resolv.conf"
    )
    with client.up(*login(lab), password="secret"):
        pass

    done = client.sevpn(
        "up", *login(lab, "--accept-dns", "--once"), env={"SEVPN_PASSWORD": "secret"}
    )

    assert done.code == 78
    assert "by resolvconf: it ended with 1" in done.err


@every_kind
def test_the_entry_of_a_living_tunnel_is_not_touched_by_cleanup(
    client: Client, lab: EmbeddedServer, kind: Kind
) -> None:
    program = kind.make(client.machine)
    with client.up(*login(lab, "--accept-dns"), password="secret"):
        assert client.sevpn("cleanup").code == 0
        assert ENTRY in program.entries()
        assert servers_of(client) == kind.servers


_LIFE: Final = """
import os, signal, sys
from ipaddress import ip_address
from pathlib import Path
from sevpn.net.host import Host
from sevpn.net.model import HostState, Resolver
from sevpn.wire.ethernet import MacAddress

fatal, lines = int(sys.argv[1]), []

def checkpoint(line):
    if len(lines) == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    lines.append(line)

host = Host(tunnel="t", runtime_dir=Path("/run/sevpn"), checkpoint=checkpoint)
host.recover()
tap = host.open_tap(None, MacAddress(bytes.fromhex("5e0000000001")), 1500)
resolver = Resolver((ip_address("10.0.0.1"),), way=host.names_way)
host.apply(HostState(tap.name, 1500, (), (), resolver))
host.undo()
print("\\n".join(lines))
"""
"""A tunnel that sets names and nothing else, killed before the step that is named."""


@every_kind
def test_a_kill_at_each_step_around_the_entry_is_undone(
    client: Client, kind: Kind
) -> None:
    program = kind.make(client.machine)
    before = client.machine.snapshot()
    lines = client.machine.python(_LIFE, "-1").splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("resolvconf -a"))
    had_entry: list[bool] = []

    for fatal in range(first, len(lines)):
        done = client.machine.run(sys.executable, "-c", _LIFE, str(fatal))
        assert done.code == -signal.SIGKILL
        had_entry.append(ENTRY in program.entries())
        assert client.sevpn("cleanup").code == 0
        assert client.machine.snapshot() == before, lines[fatal]

    # Before it is added; while it is there; after it was deleted.
    assert had_entry[0] is False
    assert had_entry[1] is True
    assert had_entry[-1] is False


@every_kind
def test_an_uplink_that_comes_meanwhile_does_not_get_before_us(
    client: Client, lab: EmbeddedServer, kind: Kind
) -> None:
    program = kind.make(client.machine)
    with client.up(*login(lab, "--accept-dns"), password="secret") as tunnel:
        program.add("wlan0", "198.51.100.53")

        assert servers_of(client)[0] == GATEWAY
        assert tunnel.stop().code == 0

    # What it said is what the host has then.
    assert set(servers_of(client)) == {"192.0.2.53", "198.51.100.53"}


@every_kind
def test_an_entry_that_somebody_deletes_comes_back(
    client: Client, lab: EmbeddedServer, kind: Kind
) -> None:
    program = kind.make(client.machine)
    with client.up(*login(lab, "--accept-dns"), password="secret") as tunnel:
        client.machine.sh(f"resolvconf -d {ENTRY}")

        eventually(lambda: ENTRY in program.entries(), what="our entry")
        eventually(lambda: servers_of(client) == kind.servers, what="our servers")
        eventually(
            lambda: any(
                "resolvconf had changed" in w for w in tunnel.status()["warnings"]
            ),
            what="a warning",
        )


def test_a_second_tunnel_is_refused(client: Client, lab: EmbeddedServer) -> None:
    Openresolv(client.machine, uplink={"eth0": "192.0.2.53"})
    with client.up(*login(lab, "--accept-dns"), password="secret"):
        done = client.sevpn(
            "up",
            *login(lab, "--dns", "10.77.0.53", "--name", "second"),
            env={"SEVPN_PASSWORD": "secret"},
        )

        assert done.code == 78
        assert "tunnel 't'" in done.err
        assert servers_of(client) == [GATEWAY]


@every_kind
@pytest.mark.parametrize(
    "evil", ["$(touch /run/pwned)`touch /run/pwned`", "a;touch /run/pwned *"]
)
def test_search_domains_with_shell_characters_reach_no_script(
    network: Network, client: Client, kind: Kind, evil: str
) -> None:
    kind.make(client.machine)
    server = EmbeddedServer(
        network.server,
        config="listen=('0.0.0.0:444',)",
        dhcp=f"dns=(IPv4Address('{GATEWAY}'),), domain={evil!r}",
    )
    try:
        with client.up(
            f"{SERVER}:444/TEST",
            *login(server, "--accept-dns")[1:],
            password="secret",
        ) as tunnel:
            assert servers_of(client) == kind.servers
            assert "search" not in client.machine.read("/etc/resolv.conf")
            assert any("no name of a host" in w for w in tunnel.status()["warnings"])
    finally:
        server.stop()
    assert client.machine.run("ls", "/run/pwned").code != 0

    done = client.sevpn("up", TARGET, "--accept-dns", "--search", evil)

    assert done.code == 65
    assert "a list of domain names" in done.err
