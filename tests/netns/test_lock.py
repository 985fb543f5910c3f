# SPDX-License-Identifier: Apache-2.0
"""The lock: what leaves this host while a tunnel is wanted, against the embedded server.

client ── eth0 192.0.2.N ══ 192.0.2.1 ─┐
                                       ├─ server, 198.51.100.77 to both sides
       ── the tunnel ═══ 10.77.0.1 ────┘
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import pytest

from sevpn.testing.lab import Client, EmbeddedServer, Network
from sevpn.testing.machine import eventually
from sevpn.testing.peers import PEERS
from sevpn.testing.services import HttpServer, NameServer, fetch

pytestmark = pytest.mark.netns

SERVER: Final = "203.0.113.1"
INSIDE: Final = "10.77.0.1"
FAR: Final = "198.51.100.77"
ROOT: Final = Path(__file__).parents[2]
FULL: Final = ("--accept-default-gateway", "--gateway", INSIDE)
TABLE: Final = "sevpn_t"

_CONNECT: Final = """
import errno, socket, sys
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
sock.settimeout(2)
try:
    sock.connect((sys.argv[1], int(sys.argv[2])))
    print(sock.getsockname()[0])
except TimeoutError:
    print("silence")
except OSError as error:
    print(errno.errorcode[error.errno])
"""


@pytest.fixture(scope="module")
def places(network: Network) -> Iterator[None]:
    network.server.sh(
        f"ip addr add {FAR}/32 dev lo; echo 1 > /proc/sys/net/ipv4/ip_forward"
    )
    made = [HttpServer(network.server, where, port=8080) for where in (FAR, SERVER)]
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


@pytest.fixture(autouse=True)
def nothing_stored(client: Client) -> Iterator[None]:
    yield
    client.sevpn("unlock")


def login(server: EmbeddedServer) -> tuple[str, ...]:
    return (f"{SERVER}/TEST", "--pin", server.pin, "--user", "alice", *FULL)


def way_of(client: Client, address: str, port: int = 8080) -> str:
    """Return with which address a connection leaves, or why it does not."""
    return client.machine.python(_CONNECT, address, str(port)).strip()


def tables(client: Client) -> str:
    return client.machine.check("nft", "list", "tables")


_PAST: Final = """
import contextlib, socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    with contextlib.suppress(OSError):
        sock.sendto(b"past the tunnel", (sys.argv[1], 9))
"""


def listing(client: Client) -> str:
    """Return the table as the lock compares it."""
    return client.machine.python(
        f"from sevpn.net.nft import Nftables; print(Nftables().listing({TABLE!r}))"
    )


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_with_a_lock_everything_goes_inside_or_nowhere(
    client: Client, server: EmbeddedServer, mode: str
) -> None:
    with client.up(*login(server), "--lock", mode, password="secret") as tunnel:
        assert tunnel.status()["lock"] == "open"
        assert fetch(client.machine, f"http://{FAR}:8080").peer.startswith("10.77.0.")
        # Not even the server's own address, but for the tunnel itself.
        assert way_of(client, SERVER).startswith("10.77.0.")

        client.machine.sh("ip link set eth0 down")
        eventually(
            lambda: tunnel.status()["lock"] == "holding", what="a lock that holds"
        )
        client.machine.sh(
            "ip link set eth0 up; ip route replace default via 192.0.2.1 metric 100"
        )
        tunnel.wait("connected")
        assert tunnel.stop().code == 0

    assert TABLE not in tables(client)
    assert way_of(client, FAR).startswith("192.0.2.")


def test_while_the_server_is_away_nothing_leaves_and_programs_fail_at_once(
    client: Client, server: EmbeddedServer
) -> None:
    before = client.machine.read("/etc/resolv.conf")
    options = ("--lock", "on", "--dns", "10.77.0.53")
    with client.up(*login(server), *options, password="secret") as tunnel:
        server.stop()

        eventually(lambda: tunnel.status()["state"] == "waiting", what="no server")
        assert tunnel.status()["lock"] == "holding"
        # Nobody else is asked for names meanwhile.
        assert "nameserver 10.77.0.53" in client.machine.read("/etc/resolv.conf")
        assert way_of(client, FAR) in {"EHOSTUNREACH", "ENETUNREACH", "EACCES", "EPERM"}
        assert way_of(client, SERVER) != "192.0.2.1"
        assert tunnel.stop().code == 0

    assert way_of(client, FAR).startswith("192.0.2.")
    assert client.machine.read("/etc/resolv.conf") == before


def test_on_survives_a_kill_and_cleanup_until_unlock(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), "--lock", "on", password="secret") as tunnel:
        tunnel.process.send_signal(signal.SIGKILL)
        tunnel.process.wait()

    client.sevpn("cleanup")
    assert TABLE in tables(client)
    assert not way_of(client, FAR).startswith("192.0.2.")
    # A start without the lock would end in silence; it says so instead.
    refused = client.sevpn(
        "up", *login(server), "--name", "t", env={"SEVPN_PASSWORD": "secret"}
    )
    assert refused.code == 78
    assert "sevpn unlock" in refused.err
    with client.up(*login(server), "--lock", "on", password="secret") as tunnel:
        busy = client.sevpn("unlock")
        assert busy.code == 78
        assert "sevpn down t" in busy.err
        tunnel.process.send_signal(signal.SIGKILL)
        tunnel.process.wait()
    done = client.sevpn("unlock")

    assert done.out.splitlines() == [
        f"nft delete table inet {TABLE}",
        "rm /var/lib/sevpn/lock/t.nft",
    ]
    assert client.sevpn("unlock", "../etc").code == 65
    assert way_of(client, FAR).startswith("192.0.2.")
    assert client.sevpn("unlock").out.strip() == "nothing was locked"


def test_auto_vanishes_with_the_process_and_with_nobody_else(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), "--lock", "auto", password="secret") as tunnel:
        client.machine.run("nft", "flush", "ruleset")
        assert TABLE in tables(client)
        tunnel.process.send_signal(signal.SIGKILL)
        tunnel.process.wait()

    eventually(lambda: TABLE not in tables(client), what="the end of the table")


@pytest.mark.parametrize(
    "words",
    [
        "flush ruleset",
        f"flush table inet {TABLE}",
        pytest.param(f"flush chain inet {TABLE} guard", marks=pytest.mark.soak),
        pytest.param(f"delete chain inet {TABLE} out", marks=pytest.mark.soak),
        pytest.param(f"insert rule inet {TABLE} out accept", marks=pytest.mark.soak),
    ],
)
def test_a_flushed_ruleset_is_noticed_and_the_lock_loaded_again(
    client: Client, server: EmbeddedServer, words: str
) -> None:
    with client.up(*login(server), "--lock", "on", password="secret") as tunnel:
        listed = listing(client)
        assert "reject" in listed
        # Refused packets are counted, which is no change of the table.
        client.machine.python(_PAST, FAR)
        counters = client.machine.check(
            "nft", "list", "counters", "table", "inet", TABLE
        )
        assert not re.search("packets 0 ", counters)
        assert listing(client) == listed
        assert tunnel.status()["warnings"] == []

        client.machine.check("nft", *words.split())

        eventually(lambda: listing(client) == listed, what="the table")
        eventually(
            lambda: any(
                "changed the lock" in line for line in tunnel.status()["warnings"]
            ),
            what="a warning",
        )
        assert tunnel.status()["lock"] == "open"


def test_an_end_that_nobody_asked_for_leaves_the_lock(
    client: Client, server: EmbeddedServer
) -> None:
    done = client.sevpn(
        *("up", *login(server), "--lock", "on", "--once", "--name", "t"),
        env={"SEVPN_PASSWORD": "wrong"},
    )

    assert done.code == 77
    assert TABLE in tables(client)


def test_a_tunnel_that_another_ones_lock_holds_back_is_told_whose_it_is(
    client: Client, server: EmbeddedServer
) -> None:
    """Which locks there are is asked for when the server is not reached."""
    second = ("up", *login(server)[:5], "--name", "second", "--once", "--json")
    dialled = {"SEVPN_PASSWORD": "secret"}
    with client.up(*login(server), "--lock", "on", password="secret") as tunnel:
        server.stop()
        eventually(lambda: tunnel.status()["lock"] == "holding", what="a held lock")

        done = client.sevpn(*second, env=dialled)

        assert done.code == 69
        assert "the lock of the tunnel 't' holds on this host" in done.out
        assert "`sevpn down t`" in done.out
        tunnel.stop()
    client.sevpn("unlock")

    done = client.sevpn(*second, env=dialled)
    assert done.code == 69
    assert "lock" not in done.out.replace('"lock"', "")


def test_what_is_allowed_can_be_reached_past_the_tunnel(
    client: Client, server: EmbeddedServer
) -> None:
    options = ("--lock", "on", "--lock-allow", f"{FAR}/32")

    with client.up(*login(server), *options, password="secret") as tunnel:
        tunnel.process.send_signal(signal.SIGKILL)
        tunnel.process.wait()

    assert way_of(client, FAR).startswith("192.0.2.")
    assert not way_of(client, INSIDE).startswith("192.0.2.")
    client.sevpn("unlock")


_DHCP_RENEWAL: Final = """
import contextlib, socket, sys
for port, server_port in ((68, 67), (6868, 67), (546, 547), (5460, 547)):
    is_six = server_port == 547
    with socket.socket(socket.AF_INET6 if is_six else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        sock.bind(("::" if is_six else "0.0.0.0", port))
        with contextlib.suppress(OSError):
            sock.sendto(b"renew", ("2001:db8:1::1" if is_six else "192.0.2.1", server_port))
"""
_DHCP_SERVER: Final = """
import select, socket, sys
found = set()
socks = []
for address, port in (("192.0.2.1", 67), ("2001:db8:1::1", 547)):
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, port))
    socks.append(sock)
print("ready", flush=True)
while ready := select.select([*socks, sys.stdin], [], [])[0]:
    for sock in ready:
        if sock is sys.stdin:
            print(sorted(found), flush=True)
            sys.exit()
        _, (_, port, *_) = sock.recvfrom(100)
        found.add(port)
"""


def test_the_lease_of_the_uplink_is_renewed_behind_the_lock(
    network: Network, client: Client, server: EmbeddedServer
) -> None:
    network.server.sh("ip addr add 2001:db8:1::1/64 dev br0 nodad || true")
    client.machine.sh("ip -6 addr add 2001:db8:1::2/64 dev eth0 nodad")
    with client.up(*login(server), "--lock", "on", password="secret") as tunnel:
        heard = network.server.popen(
            [sys.executable, "-c", _DHCP_SERVER], stdin=subprocess.PIPE
        )
        assert heard.stdout is not None
        assert heard.stdout.readline() == "ready\n"

        client.machine.python(_DHCP_RENEWAL)
        time.sleep(0.3)  # on the same host: it is there in less than a millisecond

        out, _ = heard.communicate("\n", timeout=10)
        # From a client's port to a server's, and nothing else.
        assert out == "[68, 546]\n"
        tunnel.stop()


def test_names_are_looked_up_behind_the_lock_by_the_tunnel_alone(
    network: Network, client: Client, server: EmbeddedServer
) -> None:
    dns = NameServer(network.server, "192.0.2.1", answer=SERVER)
    client.machine.sh("echo nameserver 192.0.2.1 > /etc/resolv.conf")
    options = ("--pin", server.pin, "--user", "alice", *FULL, "--lock", "on")

    with client.up("vpn.test/TEST", *options, password="secret") as tunnel:
        assert tunnel.status()["server"]["address"] == SERVER
        assert dns.asked() > 0
        tunnel.process.send_signal(signal.SIGKILL)
        tunnel.process.wait()
    dns.stop()
    # The second start finds nobody to ask, and needs nobody.
    with client.up("vpn.test/TEST", *options, password="secret") as tunnel:
        assert tunnel.status()["server"]["address"] == SERVER


def test_a_server_that_is_reached_over_ipv6_is_reached_through_the_lock(
    network: Network,
    client: Client,
    places: None,  # noqa: ARG001
) -> None:
    network.server.sh("ip -6 addr replace 2001:db8:1::1/64 dev br0 nodad")
    client.machine.sh("ip -6 addr add 2001:db8:1::2/64 dev eth0 nodad")
    server = EmbeddedServer(
        network.server, tap=f"{INSIDE}/24", config="listen=('[::]:443',),"
    )
    options = ("--pin", server.pin, "--user", "alice", *FULL, "--lock", "on")

    with client.up("[2001:db8:1::1]/TEST", *options, password="secret") as tunnel:
        assert way_of(client, FAR).startswith("10.77.0.")
        client.sevpn("reconnect", "t")
        eventually(
            lambda: tunnel.status()["counters"]["reconnects"] == 1, what="a new login"
        )
        assert tunnel.wait()["lock"] == "open"
        # It is the tunnel alone that may go there.
        assert way_of(client, "2001:db8:1::1", 443) == "EHOSTUNREACH"
        tunnel.stop()
    server.stop()

    assert TABLE not in tables(client)


def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    """The real one reads it; it warns of what it does not know, and goes on."""
    tree = PEERS.parent / "resolvers/systemd"
    libraries = {path.parent for path in tree.rglob("libsystemd-shared-*.so")}
    text = (ROOT / "contrib/systemd/sevpn-lock@.service").read_text()

    def said_of(unit: str) -> str:
        path = tmp_path / "sevpn-lock@office.service"
        path.write_text(unit)
        done = subprocess.run(
            [tree / "usr/bin/systemd-analyze", "verify", path],
            env={"LD_LIBRARY_PATH": ":".join(map(str, libraries))},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    assert said_of(text) == ""
    assert "Unknown key" in said_of(text.replace("ReloadPropagated", "ReloadSpread"))


def test_who_loads_the_rules_of_the_host_anew_loads_the_lock_again(
    client: Client, server: EmbeddedServer
) -> None:
    """`systemctl reload nftables` flushes everything, and Debian's restart does."""
    unit = (ROOT / "contrib/systemd/sevpn-lock@.service").read_text()
    (start,) = re.findall(r"(?m)^ExecStart=(.*)$", unit)
    (reload,) = re.findall(r"(?m)^ExecReload=(.*)$", unit)
    for key in ("PartOf", "ReloadPropagatedFrom"):
        assert re.findall(rf"(?m)^{key}=(.*)$", unit) == ["nftables.service"]
    with client.up(*login(server), "--lock", "on", password="secret") as tunnel:
        tunnel.process.send_signal(signal.SIGKILL)
        tunnel.process.wait()
    held = listing(client)
    for command in (start, reload):
        client.machine.sh("nft flush ruleset")
        assert TABLE not in tables(client)

        client.machine.sh(command.replace("%i", "t"))

        assert listing(client) == held


def test_the_stored_lock_holds_from_the_start_of_the_machine(
    client: Client, server: EmbeddedServer
) -> None:
    unit = (ROOT / "contrib/systemd/sevpn-lock@.service").read_text()
    (command,) = re.findall(r"(?m)^ExecStart=(.*)$", unit)
    (after,) = re.findall(r"(?m)^After=(.*)$", unit)
    # Debian's begins with `flush ruleset`.
    assert "nftables.service" in after.split()
    with client.up(*login(server), "--lock", "on", password="secret") as tunnel:
        tunnel.process.send_signal(signal.SIGKILL)
        tunnel.process.wait()
    client.machine.sh("nft flush ruleset; ip rule flush protocol 224")

    client.machine.sh(command.replace("%i", "t"))

    assert not way_of(client, FAR).startswith("192.0.2.")
    with client.up(*login(server), "--lock", "on", password="secret"):
        assert fetch(client.machine, f"http://{FAR}:8080").peer.startswith("10.77.0.")


def test_without_a_packet_filter_the_start_is_refused_and_nothing_changes(
    client: Client, server: EmbeddedServer
) -> None:
    before = client.machine.check("ip", "route") + client.machine.check("ip", "link")
    library = client.machine.python(
        "import ctypes; ctypes.CDLL('libnftables.so.1');"
        "print([l.split()[-1] for l in open('/proc/self/maps') if 'libnftables' in l][0])"
    ).strip()
    client.machine.sh(f"mount --bind /dev/null {library}")

    done = client.sevpn(
        *("up", *login(server), "--lock", "on"), env={"SEVPN_PASSWORD": "secret"}
    )
    client.machine.sh(f"umount {library}")

    assert done.code == 78
    assert "install the package nftables" in done.err
    assert (
        client.machine.check("ip", "route") + client.machine.check("ip", "link")
        == before
    )


def test_the_plan_shows_what_the_packet_filter_would_be_told(client: Client) -> None:
    client.machine.sh("echo '198.51.100.9 other.test' >> /etc/hosts")
    options = ("--lock", "on", "--exclude", "other.test")

    planned = json.loads(
        client.sevpn("plan", f"{SERVER}/TEST", *options, "--json").out
    )["changes"]

    assert "nft meta mark 0xe0e0 ip daddr @servers4 accept" in planned
    assert f"nft elements = {{ {ip_address(SERVER)} }}" in planned
    assert "nft elements = { 198.51.100.9/32 }" in planned
    assert TABLE not in tables(client)
