# SPDX-License-Identifier: Apache-2.0
"""IPv6 in the tunnel: real routers and DHCPv6 servers behind the real server's hub.

client ── sevpn0 ── hub ── TAP on the server's machine: dnsmasq or radvd, 2001:db8:5::1
                                                        and beyond it 2001:db8:77::1
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any, Final

import pytest

from sevpn.testing.lab import Client, Hub, Up
from sevpn.testing.machine import Machine, eventually
from sevpn.testing.peers import Dnsmasq, Radvd

pytestmark = [pytest.mark.netns, pytest.mark.interop]

INNER: Final = "198.51.100.1"
ROUTER: Final = "2001:db8:5::1"
FAR: Final = "2001:db8:77::1"
LEASES: Final = "dhcp-range=198.51.100.50,198.51.100.99,1h"
FULL: Final = ("--accept-default-gateway", "--gateway", INNER)

_CONNECT: Final = """
import errno, socket, sys, time
began = time.monotonic()
sock = socket.socket(socket.AF_INET6)
sock.settimeout(5)
try:
    sock.connect((sys.argv[1], 9000))
    print(sock.getsockname()[0])
except TimeoutError:
    print("silence")
except OSError as error:
    print(errno.errorcode[error.errno], "late" if time.monotonic() - began > 1 else "at once")
"""

_LISTEN: Final = """
import socket
listener = socket.create_server(("::", 9000), family=socket.AF_INET6)
print("ready", flush=True)
while True:
    listener.accept()[0].close()
"""


@pytest.fixture
def inside(plain_hub: Hub) -> Iterator[str]:
    """A TAP on the hub with IPv6, and a service beyond it; its name."""
    machine, device = plain_hub.server.machine, plain_hub.name.lower()
    name = plain_hub.server.bridge_tap(plain_hub.name, device, f"{INNER}/24")
    machine.sh(
        "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding;"
        f"ip -6 addr add {ROUTER}/64 dev {name} nodad;"
        f"ip -6 addr replace {FAR}/128 dev lo"
    )
    service = machine.popen(["python3", "-c", _LISTEN])
    assert service.stdout is not None
    assert service.stdout.readline() == "ready\n"
    yield name
    machine.end(service)
    plain_hub.server.command(f"BridgeDelete {plain_hub.name} /DEVICE:{device}")


def login(hub: Hub) -> tuple[str, ...]:
    return (hub.target, "--pin", hub.pin, "--user", "alice")


def when(tunnel: Up, *, addresses: int) -> dict[str, Any]:
    """Wait for so many addresses of IPv6 and a gateway; return the status."""

    def check() -> dict[str, Any] | None:
        status = tunnel.status()
        found = status["ipv6"]
        return (
            status
            if len(found["addresses"]) == addresses and found["gateway"]
            else None
        )

    status: dict[str, Any] = eventually(check, what="IPv6 in the tunnel")
    return status


def way_of(client: Client, address: str = FAR) -> str:
    return client.machine.python(_CONNECT, address).strip()


def in_ipv6(machine: Machine) -> str:
    """What a tunnel may change of IPv6 on a host."""
    asked = ("-6 route show table all proto 224", "-6 rule", "-6 route show default")
    settings = "grep . /proc/sys/net/ipv6/conf/*/disable_ipv6 | grep -v sevpn"
    shown = [machine.check("ip", *words.split()) for words in asked]
    return "".join([*shown, machine.check("sh", "-c", settings)])


def test_slaac_with_name_servers_and_routes_of_radvd(
    client: Client, plain_hub: Hub, inside: str
) -> None:
    machine = plain_hub.server.machine
    dnsmasq = Dnsmasq(machine, inside, ["port=0", LEASES])
    radvd = Radvd(
        machine,
        inside,
        "prefix 2001:db8:5::/64 {};"
        "route 2001:db8:8::/48 { AdvRouteLifetime 600; };"
        "RDNSS 2001:db8:5::53 {};"
        "DNSSL six.test {};",
    )
    options = (*FULL, "--accept-dns", "--accept-static-routes")
    before = in_ipv6(client.machine)

    with client.up(*login(plain_hub), *options, password="secret") as tunnel:
        status = when(tunnel, addresses=1)

        assert status["ipv6"]["addresses"][0].startswith("2001:db8:5:0:")
        assert status["ipv6"]["gateway"].startswith("fe80:")
        eventually(
            lambda: way_of(client).startswith("2001:db8:5:0:"), what="the way beyond"
        )
        resolv_conf = client.machine.read("/etc/resolv.conf")
        assert "nameserver 2001:db8:5::53" in resolv_conf
        assert "search six.test" in resolv_conf
        (route,) = client.machine.ip("-6", "route", "show", "2001:db8:8::/48")
        assert (route["dev"], route["metric"]) == ("sevpn0", 50)

        # A router that leaves says so; then IPv6 goes nowhere, and not outside.
        radvd.stop()
        eventually(lambda: tunnel.status()["ipv6"]["gateway"] is None, what="no router")
        assert way_of(client).endswith("at once")
        assert tunnel.stop().code == 0
    dnsmasq.stop()
    assert in_ipv6(client.machine) == before


@pytest.mark.parametrize(
    ("mode", "addresses"), [("", 1), ("slaac,", 2), ("ra-stateless,", 1)]
)
def test_dhcpv6_of_dnsmasq(
    client: Client, plain_hub: Hub, inside: str, mode: str, addresses: int
) -> None:
    dnsmasq = Dnsmasq(
        plain_hub.server.machine,
        inside,
        [
            *("port=0", LEASES, "enable-ra"),
            f"dhcp-range=2001:db8:5::100,2001:db8:5::1ff,{mode}64,1h",
            "dhcp-option=option6:dns-server,[2001:db8:5::53]",
            "dhcp-option=option6:domain-search,six.test",
        ],
    )
    options = (*FULL, "--accept-dns")

    with client.up(*login(plain_hub), *options, password="secret") as tunnel:
        status = when(tunnel, addresses=addresses)

        leased = [a for a in status["ipv6"]["addresses"] if a.endswith("/128")]
        assert [a.startswith("2001:db8:5::1") for a in leased] == [True] * (
            "stateless" not in mode
        )
        eventually(
            lambda: way_of(client).startswith("2001:db8:5:"), what="the way beyond"
        )
        eventually(
            lambda: (
                "nameserver 2001:db8:5::53" in client.machine.read("/etc/resolv.conf")
            ),
            what="the name server",
        )
        assert [a for a in dnsmasq.leases() if ":" in a] == [
            a.removesuffix("/128") for a in leased
        ]
        tunnel.stop()
    # What was leased is given back.
    eventually(
        lambda: not [a for a in dnsmasq.leases() if ":" in a], what="the release"
    )
    dnsmasq.stop()


@pytest.mark.parametrize("mode", ["host", "mark"])
def test_a_full_tunnel_without_ipv6_refuses_it_at_once_and_leaks_none(
    client: Client, plain_hub: Hub, inside: str, mode: str
) -> None:
    dnsmasq = Dnsmasq(plain_hub.server.machine, inside, ["port=0", LEASES])
    client.machine.sh(
        "ip -6 addr add 2001:db8:1::2/64 dev eth0 nodad;"
        "ip -6 route add default via 2001:db8:1::1 dev eth0 metric 1;"
        "ip -6 neigh add 2001:db8:1::1 lladdr 02:00:00:00:00:09 dev eth0"
    )
    before = in_ipv6(client.machine)
    options = (*login(plain_hub), *FULL, "--route-mode", mode)

    with client.up(*options, password="secret") as tunnel:
        assert way_of(client).endswith("at once")
        # The neighbourhood is not refused, and neither is what it needs.
        (way,) = client.machine.ip("-6", "route", "get", "fe80::9", "oif", "eth0")
        assert way["dev"] == "eth0"
        tunnel.process.send_signal(signal.SIGKILL)
        tunnel.process.wait()
    client.sevpn("cleanup")
    assert in_ipv6(client.machine) == before

    with client.up(*options, "--ipv6", "off", password="secret", name="off"):
        (way,) = client.machine.ip("-6", "route", "get", FAR)
        assert way["dev"] == "eth0"
    dnsmasq.stop()


def test_blocked_ipv6_is_refused_although_the_hub_has_some(
    client: Client, plain_hub: Hub, inside: str
) -> None:
    dnsmasq = Dnsmasq(
        plain_hub.server.machine,
        inside,
        ["port=0", LEASES, "enable-ra", "dhcp-range=2001:db8:5::,ra-only,64,1h"],
    )

    with client.up(*login(plain_hub), "--ipv6", "block", password="secret") as tunnel:
        assert way_of(client).endswith("at once")
        assert tunnel.status()["ipv6"] == {"addresses": [], "gateway": None}
    dnsmasq.stop()


def test_without_consent_ipv6_is_an_address_and_nothing_else(
    client: Client, plain_hub: Hub, inside: str
) -> None:
    machine = plain_hub.server.machine
    dnsmasq = Dnsmasq(machine, inside, ["port=0", LEASES])
    radvd = Radvd(
        machine,
        inside,
        "prefix 2001:db8:5::/64 {}; route 2001:db8:8::/48 {}; RDNSS 2001:db8:5::53 {};",
    )
    before = client.machine.read("/etc/resolv.conf")

    with client.up(*login(plain_hub), password="secret") as tunnel:
        eventually(lambda: tunnel.status()["ipv6"]["addresses"], what="an address")

        assert tunnel.status()["ipv6"]["gateway"] is None
        assert not client.machine.ip("-6", "route", "show", "default")
        assert not client.machine.ip("-6", "route", "show", "2001:db8:8::/48")
        assert client.machine.read("/etc/resolv.conf") == before
    radvd.stop()
    dnsmasq.stop()
