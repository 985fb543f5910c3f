# SPDX-License-Identifier: Apache-2.0
"""Which packets go into the tunnel, in both modes; against the embedded server.

client ── eth0 192.0.2.N ══ 192.0.2.1 ─┐
                                       ├─ server ── 198.51.100.77 and .78, to both sides
       ── the tunnel ═══ 10.77.0.1 ────┘

The address that the web server sees tells which way a request came.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Final, Self

import pytest

from sevpn.testing.lab import Client, EmbeddedServer, Network, Up
from sevpn.testing.machine import Machine, connect, eventually
from sevpn.testing.services import HttpServer, fetch

pytestmark = pytest.mark.netns

SERVER: Final = "203.0.113.1"
INSIDE: Final = "10.77.0.1"
FAR: Final = "198.51.100.77"
OTHER: Final = "198.51.100.78"
MARK: Final = ("--route-mode", "mark")
FULL: Final = ("--accept-default-gateway", "--gateway", INSIDE)


@pytest.fixture(scope="module")
def places(network: Network) -> Iterator[None]:
    """A web server at each address of the server's machine that tests ask."""
    addresses = (FAR, OTHER, SERVER, "192.0.2.1")
    network.server.sh(
        f"ip addr add {FAR}/32 dev lo; ip addr add {OTHER}/32 dev lo;"
        "echo 1 > /proc/sys/net/ipv4/ip_forward"
    )
    made = [HttpServer(network.server, address, port=8080) for address in addresses]
    yield
    for each in made:
        each.stop()


@pytest.fixture
def server(network: Network, places: None) -> Iterator[EmbeddedServer]:  # noqa: ARG001
    made = EmbeddedServer(
        network.server,
        tap=f"{INSIDE}/24",
    )
    yield made
    made.stop()


def login(server: EmbeddedServer) -> tuple[str, ...]:
    return (f"{SERVER}/TEST", "--pin", server.pin, "--user", "alice")


def goes_inside(machine: Machine, address: str) -> bool:
    """Whether a request to *address* comes out of the tunnel."""
    return fetch(machine, f"http://{address}:8080", size=10).peer.startswith("10.77.0.")


def host(machine: Machine) -> str:
    """All that a tunnel may change about ways."""
    ours = "route show table all proto 224"
    asked = ("route", ours, "rule", "-6 route", f"-6 {ours}", "-6 rule")
    shown = [machine.check("ip", *words.split()) for words in asked]
    filters = machine.check("sh", "-c", "grep . /proc/sys/net/ipv4/conf/*/rp_filter")
    return "".join([*shown, filters])


def test_by_mark_everything_goes_inside_but_the_tunnels_own_packets(
    client: Client, server: EmbeddedServer
) -> None:
    before = host(client.machine)
    main = client.machine.ip("route", "show", "table", "main")

    with client.up(*login(server), *FULL, *MARK, password="secret") as tunnel:
        assert goes_inside(client.machine, FAR)
        # Other programs reach the server's own address through the tunnel, too.
        assert goes_inside(client.machine, SERVER)
        after = client.machine.ip("route", "show", "table", "main")
        assert [route for route in after if route["dev"] != "sevpn0"] == main
        status = tunnel.status()
        assert (
            f"default via {INSIDE} dev sevpn0 table 57568 metric 50"
            in (status["routes"])
        )
        rule = "pref 9002 not from all fwmark 0xe0e0 lookup 57568"
        assert {rule, f"-6 {rule}"} <= set(status["rules"])
        tunnel.stop()

    assert host(client.machine) == before


def test_a_route_of_the_lan_cannot_lead_packets_past_a_tunnel_by_mark(
    client: Client, server: EmbeddedServer
) -> None:
    # What a hostile network's DHCP server may hand out (option 121).
    client.machine.sh(f"ip route add {FAR}/32 via 192.0.2.1 dev eth0")

    with client.up(*login(server), *FULL, password="secret"):
        assert not goes_inside(client.machine, FAR)
    with client.up(*login(server), *FULL, *MARK, password="secret", name="by-mark"):
        assert goes_inside(client.machine, FAR)


@pytest.mark.parametrize(
    ("lan", "is_inside"), [("all", False), ("private", True), ("none", True)]
)
def test_of_the_lan_only_what_was_chosen_stays_reachable(
    client: Client, server: EmbeddedServer, lan: str, *, is_inside: bool
) -> None:
    # 192.0.2.0/24 is no private network: a hostile one could hand out any.
    with client.up(*login(server), *FULL, *MARK, "--lan", lan, password="secret"):
        assert goes_inside(client.machine, "192.0.2.1") == is_inside


def test_a_private_lan_stays_reachable_and_follows_its_changes(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), *FULL, *MARK, password="secret") as tunnel:
        assert not any("throw 10.5" in route for route in tunnel.status()["routes"])

        client.machine.sh("ip address add 10.5.0.2/24 dev eth0")

        eventually(
            lambda: any("throw 10.5.0.0/24" in r for r in tunnel.status()["routes"]),
            what="the new subnet beside the tunnel",
        )
        (way,) = client.machine.ip("route", "get", "10.5.0.9")
        assert way["dev"] == "eth0"


@pytest.mark.parametrize("mode", ["host", "mark"])
def test_what_is_excluded_goes_past_the_tunnel_and_what_is_included_through_it(
    client: Client, server: EmbeddedServer, mode: str
) -> None:
    before = host(client.machine)
    client.machine.sh(f"echo '{OTHER} other.test' >> /etc/hosts")
    options = (*login(server), "--route-mode", mode)

    with client.up(*options, *FULL, "--exclude", "other.test", password="secret") as up:
        assert goes_inside(client.machine, FAR)
        assert not goes_inside(client.machine, OTHER)
        up.stop()
    assert host(client.machine) == before
    with client.up(
        *options,
        *("--gateway", INSIDE, "--include", "198.51.100.0/24"),
        *("--exclude", "198.51.100.64/28", "--exclude", OTHER, "--include", FAR),
        password="secret",
    ) as up:
        # The narrower word counts.
        assert not goes_inside(client.machine, OTHER)
        (way,) = client.machine.ip("route", "get", "198.51.100.9")
        assert way["dev"] == "sevpn0"
        up.stop()
    assert host(client.machine) == before


@pytest.mark.parametrize("mode", ["host", "mark"])
def test_networks_of_ipv6_are_included_and_excluded_alike(
    network: Network, client: Client, server: EmbeddedServer, mode: str
) -> None:
    network.server.sh("ip addr add 2001:db8:1::1/64 dev br0 nodad || true")
    client.machine.sh(
        "ip -6 addr add 2001:db8:1::2/64 dev eth0 nodad;"
        "ip -6 route add default via 2001:db8:1::1 dev eth0"
    )
    before = host(client.machine)
    places = ("--include", "2001:db8:8::/48", "--exclude", "2001:db8:8:1::/64")

    with client.up(
        *login(server), *places, "--route-mode", mode, password="secret"
    ) as up:

        def way_to(address: str) -> str:
            (way,) = client.machine.ip("-6", "route", "get", address)
            return str(way["dev"])

        assert way_to("2001:db8:8::1") == "sevpn0"
        assert way_to("2001:db8:8:1::1") == "eth0"
        assert way_to("2001:db8:9::1") == "eth0"
        up.stop()
    assert host(client.machine) == before


@pytest.mark.parametrize("mode", [MARK, ("--lock", "auto")])
def test_programs_of_an_excluded_user_pass_the_tunnel_by(
    client: Client, server: EmbeddedServer, mode: tuple[str, str]
) -> None:
    with client.up(
        *login(server), *FULL, *mode, "--exclude-uid", "4711", password="secret"
    ):
        own = source_of(client.machine, FAR, 8080)
        theirs = source_of(client.machine, FAR, 8080, uid="4711")

    assert own.startswith("10.77.0.")
    assert theirs.startswith("192.0.2.")


def test_a_strict_reverse_path_filter_lets_the_servers_answers_pass(
    client: Client, server: EmbeddedServer
) -> None:
    strict = "for f in all eth0; do echo 1 > /proc/sys/net/ipv4/conf/$f/rp_filter; done"
    client.machine.sh(strict)
    before = host(client.machine)

    with client.up(*login(server), *FULL, *MARK, password="secret") as tunnel:
        client.sevpn("reconnect", "t")
        eventually(
            lambda: tunnel.status()["counters"]["reconnects"] == 1, what="another login"
        )
        tunnel.wait("connected")
        assert goes_inside(client.machine, FAR)
        tunnel.process.send_signal(signal.SIGKILL)
        tunnel.process.wait()
    done = client.sevpn("cleanup")

    assert "reverse path filter of eth0" in done.out
    assert host(client.machine) == before


def test_by_mark_the_tunnel_follows_the_uplink_without_a_route_to_the_server(
    network: Network, client: Client, server: EmbeddedServer
) -> None:
    network.second_uplink(client, subnet="198.18.0", metric=200)

    with client.up(*login(server), *FULL, *MARK, password="secret") as tunnel:
        client.machine.sh("ip address flush dev eth0")

        eventually(
            lambda: (tunnel.status()["session"] or {}).get("resumed") == 1,
            what="the session, taken up again",
        )
        assert goes_inside(client.machine, FAR)
        assert not client.machine.ip("route", "show", f"{SERVER}/32")
        tunnel.stop()


def test_somebody_who_removes_our_rules_finds_them_again(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), *FULL, *MARK, password="secret"):
        # As systemd-networkd does when it is restarted.
        client.machine.sh("ip rule del pref 9002; ip route flush table 57568")

        eventually(
            lambda: goes_inside(client.machine, FAR), what="the way into the tunnel"
        )


@pytest.mark.parametrize("mode", ["host", "mark"])
def test_who_takes_the_default_route_later_is_told_for_as_long_as_it_does(
    client: Client, server: EmbeddedServer, mode: str
) -> None:
    options = ("--accept-default-gateway", "--gateway", INSIDE, "--route-mode", mode)
    with client.up(*login(server), *options, password="secret") as tunnel:
        # As another VPN would, which leaves the way to our server alone.
        client.machine.sh(
            "ip link add other type veth peer name far; ip link set far up; ip link set other up;"
            "ip route add default dev other table 99;"
            f"ip rule add pref 100 not to {SERVER} lookup 99"
        )
        eventually(
            lambda: "still go to other" in " ".join(tunnel.status()["warnings"]),
            what="the warning",
        )
        client.machine.sh("ip rule del pref 100; ip link del other")
        eventually(lambda: tunnel.status()["warnings"] == [], what="its end")
        assert tunnel.status()["state"] == "connected"
        assert tunnel.status()["counters"]["reconnects"] == 0


@pytest.mark.parametrize(
    ("option", "number"), [("--mark", "0xe0e2"), ("--policy-route-table", "57584")]
)
def test_sevpns_own_numbers_are_not_for_users(
    client: Client, server: EmbeddedServer, option: str, number: str
) -> None:
    for verb in ("up", "plan"):
        done = client.sevpn(
            *(
                verb,
                *login(server),
                "--route-mode",
                "mark",
                option,
                str(int(number, 0)),
            ),
            env={"SEVPN_PASSWORD": "secret"},
        )

        assert done.code == 65
        assert f"choose another {option}" in done.err


def test_a_mark_of_the_users_choice_is_used(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(
        *login(server), *FULL, *MARK, "--mark", "7", password="secret"
    ) as up:
        assert "not from all fwmark 0x7 lookup 57568" in " ".join(up.status()["rules"])
        assert goes_inside(client.machine, FAR)


def test_replies_from_the_leased_address_leave_by_the_tunnel(
    network: Network, client: Client, server: EmbeddedServer
) -> None:
    web = HttpServer(client.machine, "0.0.0.0", port=8081)  # noqa: S104 - in a namespace
    table = ("--policy-route-table", "77")

    with client.up(
        *login(server), "--gateway", INSIDE, *table, password="secret"
    ) as up:
        leased = up.status()["lease"]["address"].split("/")[0]
        assert answers(network.server, leased, source=FAR, device="inside")
        (way,) = client.machine.ip("route", "get", FAR)
        assert way["dev"] == "eth0"
    with client.up(
        *login(server), "--gateway", INSIDE, password="secret", name="u"
    ) as up:
        leased = up.status()["lease"]["address"].split("/")[0]
        assert not answers(network.server, leased, source=FAR, device="inside")
    web.stop()


@pytest.mark.parametrize("mode", ["host", "mark"])
def test_a_connection_from_outside_outlives_the_default_route(
    network: Network, client: Client, server: EmbeddedServer, mode: str
) -> None:
    web = HttpServer(client.machine, "0.0.0.0", port=8081)  # noqa: S104 - in a namespace
    (address,) = client.machine.ip("address", "show", "dev", "eth0")
    own = address["addr_info"][0]["local"]
    options = (*login(server), *FULL, "--route-mode", mode)
    before = host(client.machine)

    def is_reached() -> bool:
        return answers(network.server, own, source=FAR, device="br0")

    assert is_reached()
    with Session(network.server, client.machine, own) as session:
        with client.up(*options, "--policy-route-table", "77", password="secret") as up:
            assert session.answers(), "one that was open before"
            assert is_reached(), "a new one"
            assert goes_inside(client.machine, FAR)
            up.stop()
        assert session.answers()
        assert host(client.machine) == before
        with client.up(*options, password="secret", name="without"):
            assert not is_reached()
            assert not session.answers()
    web.stop()


_ECHO: Final = """
import socket, sys
listener = socket.create_server(("0.0.0.0", 8082))
print("ready", flush=True)
sock, _ = listener.accept()
while data := sock.recv(100):
    sock.sendall(data)
"""

_TYPE: Final = """
import socket, sys
sock = socket.create_connection((sys.argv[1], 8082), source_address=(sys.argv[2], 0))
sock.settimeout(2)
print("ready", flush=True)
for line in sys.stdin:
    sock.sendall(line.encode())
    try:
        print(sock.recv(100).decode().strip(), flush=True)
    except OSError:
        print("-", flush=True)
"""


class Session:
    """One TCP connection from outside that stays open, as one of SSH would."""

    def __init__(self, outside: Machine, inside: Machine, address: str) -> None:
        self._machines = (outside, inside)
        self._address = address
        self._echo = inside.popen([sys.executable, "-c", _ECHO])
        assert self._line(self._echo) == "ready"
        self._typing = outside.popen(
            [sys.executable, "-c", _TYPE, address, FAR], stdin=subprocess.PIPE
        )
        assert self._line(self._typing) == "ready"

    @staticmethod
    def _line(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    def answers(self) -> bool:
        """Whether what is typed comes back within two seconds, the way that it went."""
        assert self._typing.stdin is not None
        with only_by(self._machines[0], self._address, "br0"):
            self._typing.stdin.write("ls\n")
            self._typing.stdin.flush()
            return self._line(self._typing) == "ls"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        outside, inside = self._machines
        outside.end(self._typing)
        inside.end(self._echo)


_CONNECT: Final = """
import os, socket, sys
address, port, source, uid = sys.argv[1:]
if uid:
    os.setuid(int(uid))
sock = socket.socket()
sock.settimeout(2)
sock.bind((source or "0.0.0.0", 0))
try:
    sock.connect((address, int(port)))
    print(sock.getsockname()[0])
except OSError:
    print("-")
"""


def source_of(
    machine: Machine, address: str, port: int, *, source: str = "", uid: str = ""
) -> str:
    """Return the address that a connection had at this end; `-`: nobody answered."""
    return machine.python(_CONNECT, address, str(port), source, uid).strip()


def answers(machine: Machine, address: str, *, source: str, device: str) -> bool:
    """Whether *address* answers a connection from *source* by *device*, and not otherwise."""
    with only_by(machine, address, device):
        return source_of(machine, address, 8081, source=source) == source


@contextlib.contextmanager
def only_by(machine: Machine, address: str, device: str) -> Iterator[None]:
    """What comes from *address* otherwise than by *device* does not arrive."""
    machine.sh(
        "nft -f - <<END\n"
        "table ip way {\nchain in {\ntype filter hook input priority 0;\n"
        f"ip saddr {address} iifname != {device} drop\n}}\n}}\nEND"
    )
    try:
        yield
    finally:
        machine.sh("nft delete table ip way")


_REFUSING: Final = """
import errno, sys
from sevpn.net.nlsocket import KernelRefusedError, NetlinkSocket
kind, first = int(sys.argv.pop(1)), int(sys.argv.pop(1))
ask, count = NetlinkSocket.ask, 0

def refuse(self, request, *, flags=0):
    global count
    if int.from_bytes(request[4:6], sys.byteorder) == kind:
        count += 1
        if count >= first:
            raise KernelRefusedError(errno.EOPNOTSUPP, "Operation not supported")
    return ask(self, request, flags=flags)

NetlinkSocket.ask = refuse
from sevpn.cli.main import main
main()
"""
_NEW_RULE, _DEL_RULE = 32, 33


@pytest.mark.parametrize("first", [1, 2, 4])
def test_policy_routing_that_the_kernel_refuses_is_said_and_nothing_is_left(
    client: Client, server: EmbeddedServer, first: int
) -> None:
    before = host(client.machine)

    done = client.machine.run(
        *(sys.executable, "-c", _REFUSING, str(_NEW_RULE), str(first)),
        *("up", *login(server), *FULL, *MARK, "--once"),
        env={"SEVPN_PASSWORD": "secret"},
    )

    assert done.code == 78
    assert "no policy routing" in done.err
    assert "leave out --route-mode mark" in done.err
    assert host(client.machine) == before


def test_rules_that_cannot_be_removed_are_said_and_left_to_cleanup(
    client: Client, server: EmbeddedServer
) -> None:
    before = host(client.machine)
    process = client.machine.popen(
        [
            *(sys.executable, "-c", _REFUSING, str(_DEL_RULE), "1"),
            *("up", *login(server), *FULL, *MARK, "--name", "t"),
        ],
        env={"SEVPN_PASSWORD": "secret"},
        stderr=subprocess.PIPE,
    )
    Up(client, process, "t").wait()

    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)

    assert process.returncode == 128 + signal.SIGTERM
    assert "cannot remove the rule" in said
    assert "sevpn cleanup" in said
    assert host(client.machine) != before
    assert client.sevpn("cleanup").code == 0
    assert host(client.machine) == before


_IMPATIENT: Final = """
from sevpn.tunnel.places import Places
Places.__init__.__kwdefaults__["again_s"] = 0.2
from sevpn.cli.main import main
main()
"""


@pytest.mark.parametrize("mode", ["host", "mark"])
def test_a_name_that_gets_another_address_is_followed(
    client: Client, server: EmbeddedServer, mode: str
) -> None:
    client.machine.sh(f"echo '{FAR} shop.test' >> /etc/hosts")
    process = client.machine.popen(
        [
            *(sys.executable, "-c", _IMPATIENT, "up", *login(server), "--name", "t"),
            *("--gateway", INSIDE, "--route-mode", mode, "--include", "shop.test"),
        ],
        env={"SEVPN_PASSWORD": "secret"},
    )
    try:
        Up(client, process, "t").wait()
        assert goes_inside(client.machine, FAR)
        assert not goes_inside(client.machine, OTHER)

        client.machine.sh("sed -i '/shop.test/d' /etc/hosts")
        client.machine.sh(f"echo '{OTHER} shop.test' >> /etc/hosts")

        eventually(lambda: goes_inside(client.machine, OTHER), what="the other address")
        # What it had may be in use yet.
        assert goes_inside(client.machine, FAR)
    finally:
        client.machine.end(process)
        client.machine.sh("sed -i '/shop.test/d' /etc/hosts")


def test_an_option_that_needs_mark_mode_is_refused_before_anything_is_changed(
    client: Client, server: EmbeddedServer
) -> None:
    before = host(client.machine)

    done = client.sevpn(
        *("up", *login(server), *FULL, "--exclude-uid", "1"),
        env={"SEVPN_PASSWORD": "secret"},
    )

    assert done.code == 65
    assert 'route_mode = "mark"' in done.err
    assert host(client.machine) == before


def test_the_plan_says_what_will_be(client: Client, server: EmbeddedServer) -> None:
    options = (*login(server)[:1], *FULL, *MARK, "--exclude", "198.51.100.0/24")
    client.machine.sh("echo 1 > /proc/sys/net/ipv4/conf/eth0/rp_filter")

    planned = json.loads(client.sevpn("plan", *options, "--json").out)["changes"]

    assert "ip route add throw 198.51.100.0/24 table 57568 proto 224" in planned
    assert (
        "ip rule add pref 9002 not from all fwmark 0xe0e0 lookup 57568 protocol 224"
        in planned
    )
    assert "sysctl -w net.ipv4.conf.eth0.rp_filter=2" in planned
    assert not any(SERVER in line for line in planned)


# --- what came in by the tunnel and was handed on ------------------------------------


@pytest.mark.parametrize(
    ("more", "is_answered"),
    [
        ((), False),
        (("--connmark",), True),
        # A lock holds what this host forwards, but for what a DNAT rule of it asks for.
        (("--connmark", "--lock", "auto"), True),
        (("--lock", "auto"), False),
    ],
)
def test_answers_of_a_forwarded_connection_leave_by_the_tunnel(
    network: Network,
    client: Client,
    server: EmbeddedServer,
    more: tuple[str, ...],
    *,
    is_answered: bool,
) -> None:
    options = ("--gateway", INSIDE, "--policy-route-table", "77", *more)
    with Machine("behind") as behind:
        connect(
            behind,
            client.machine,
            interfaces=("eth0", "behind"),
            addresses=("10.9.0.2/24", "10.9.0.1/24"),
        )
        behind.sh("ip route add default via 10.9.0.1")
        web = HttpServer(behind, "10.9.0.2", port=8081)
        client.machine.sh(
            "echo 1 > /proc/sys/net/ipv4/ip_forward;"
            "for f in all eth0; do echo 1 > /proc/sys/net/ipv4/conf/$f/rp_filter; done;"
            "nft -f - <<END\n"
            "table ip handed {\nchain pre {\ntype nat hook prerouting priority dstnat;\n"
            "tcp dport 8081 ip daddr 10.77.0.0/24 dnat to 10.9.0.2:8081\n}\n}\nEND"
        )
        with client.up(*login(server), *options, password="secret") as tunnel:
            leased = tunnel.status()["lease"]["address"].split("/")[0]
            way = answers(network.server, leased, source=FAR, device="inside")
            assert way == is_answered
            tunnel.process.send_signal(signal.SIGKILL)
            tunnel.process.wait()
        eventually(
            lambda: "sevpn" not in client.machine.check("nft", "list", "tables"),
            what="the end of the tables",
        )
        web.stop()


# --- programs outside ------------------------------------------------------------------


@pytest.mark.parametrize("mode", [MARK, ("--lock", "auto")])
def test_a_program_passes_the_tunnel_by_and_leaves_nothing(
    client: Client, server: EmbeddedServer, mode: tuple[str, str]
) -> None:
    asking = ("python3", "-c", _CONNECT, FAR, "8080", "", "")
    with client.up(*login(server), *FULL, *mode, password="secret"):
        inside = client.machine.run(*asking).out.strip()
        outside = client.sevpn("bypass", "--", *asking, env={"SEVPN_PASSWORD": "x"})

        assert inside.startswith("10.77.0.")
        if outside.code == 78:
            assert "control group" in outside.err
            # Named in the gate's summary, and in CI a failure.
            pytest.skip("this machine lets nobody make control groups")
        assert outside.code == 0
        # The address was chosen before the packet was marked, and is translated.
        assert outside.out.strip().startswith("10.77.0.")
        peer = client.sevpn(
            "bypass", "--", "python3", "-c", _PEER, f"http://{FAR}:8080/1"
        )
        assert peer.out.split()[0].startswith("192.0.2.")
        code = client.sevpn("bypass", "--", "sh", "-c", "exit 7")
        assert code.code == 7
        absent = client.sevpn("bypass", "--", "no-such-program")
        assert (absent.code, "see PATH" in absent.err) == (127, True)
        barred = client.sevpn("bypass", "--", "/etc/hosts")
        assert (barred.code, "cannot run" in barred.err) == (126, True)
        assert "sevpnbypass" not in client.machine.check("nft", "list", "tables")
        group = "find /sys/fs/cgroup -name sevpn-bypass 2> /dev/null"
        assert client.machine.check("sh", "-c", group) == ""


_PEER: Final = """
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=10).headers["X-Peer"])
"""


def test_without_a_tunnel_by_mark_there_is_nothing_to_pass_by(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), *FULL, password="secret"):
        done = client.sevpn("bypass", "--", "true")

    assert done.code == 78
    assert "--route-mode mark" in done.err


@pytest.mark.parametrize("mode", ["host", "mark"])
def test_a_subnet_that_contains_the_servers_own_address_leads_no_packet_in_circles(
    client: Client, server: EmbeddedServer, mode: str
) -> None:
    before = host(client.machine)
    options = ("--no-dhcp", "--address", "203.0.113.50/24", "--route-mode", mode)

    with client.up(*login(server), *options, password="secret") as tunnel:
        client.sevpn("reconnect", "t")
        eventually(
            lambda: tunnel.status()["counters"]["reconnects"] == 1, what="another login"
        )
        tunnel.wait("connected")
        marked = ("route", "get", SERVER, "mark", "0xe0e0")
        (way,) = client.machine.ip(*marked)
        assert way["dev"] == "eth0"
        (inner,) = client.machine.ip("route", "get", "203.0.113.9")
        assert inner["dev"] == "sevpn0"
        tunnel.stop()
    assert host(client.machine) == before


@pytest.mark.parametrize("mode", ["host", "mark"])
def test_a_lease_whose_subnet_contains_the_server_is_told_and_the_tunnel_works(
    network: Network,
    places: None,  # noqa: ARG001
    client: Client,
    mode: str,
) -> None:
    before = host(client.machine)
    server = server_that_leases(network, "203.0.113.50")

    with client.up(*login(server), "--route-mode", mode, password="secret") as tunnel:
        assert tunnel.status()["lease"]["address"] == "203.0.113.50/24"
        (warning,) = tunnel.status()["warnings"]
        assert f"contains what the tunnel itself is connected to, {SERVER}" in warning
        assert client.machine.pings("203.0.113.254")
        client.sevpn("reconnect", "t")
        eventually(
            lambda: tunnel.status()["counters"]["reconnects"] == 1, what="another login"
        )
        tunnel.wait("connected")
    server.stop()
    assert host(client.machine) == before


def test_a_lease_of_the_servers_own_address_is_refused(
    network: Network,
    places: None,  # noqa: ARG001
    client: Client,
) -> None:
    before = host(client.machine)
    server = server_that_leases(network, SERVER)

    done = client.sevpn(
        *("up", *login(server), "--once"), env={"SEVPN_PASSWORD": "secret"}
    )
    chosen = client.sevpn(
        *("up", *login(server), "--no-dhcp", "--address", f"{SERVER}/24", "--once"),
        env={"SEVPN_PASSWORD": "secret"},
    )
    asked = client.sevpn(*("doctor", *login(server)), env={"SEVPN_PASSWORD": "secret"})
    server.stop()

    assert done.code == 75
    assert f"{SERVER} is what the tunnel itself is connected to" in done.err
    assert asked.code != 0
    assert f"{SERVER} is what the tunnel itself is connected to" in asked.out
    assert chosen.code == 65
    assert "choose another --address" in chosen.err
    assert host(client.machine) == before


def server_that_leases(network: Network, address: str) -> EmbeddedServer:
    """A server whose hub gives away *address*, of the subnet that it is dialled in."""
    return EmbeddedServer(
        network.server,
        hub="gateway=IPv4Interface('203.0.113.254/24'),",
        dhcp=f"first=IPv4Address({address!r}), last=IPv4Address({address!r})",
    )
