# SPDX-License-Identifier: Apache-2.0
"""What bad input gets: an exit code, one line with the next step, and an unchanged host."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from sevpn.testing.certs import BadKind, make_authority
from sevpn.testing.lab import SERVER, Client, EmbeddedServer, Network
from sevpn.testing.machine import Finished, Machine

pytestmark = pytest.mark.netns

PASSWORD = {"SEVPN_PASSWORD": "secret"}

HTML = "b'HTTP/1.1 404 Not Found\\r\\nContent-Type: text/html\\r\\nContent-Length: 9\\r\\n\\r\\nnot here!'"
BAD_PACK = "b'HTTP/1.1 200 OK\\r\\nContent-Type: application/octet-stream\\r\\nContent-Length: 8\\r\\n\\r\\n' + bytes(3) + b'\\x01' + bytes(4)"
ENDLESS = "b'HTTP/1.1 200 OK\\r\\nX: ' + b'x' * 100000"
HUGE = "b'HTTP/1.1 200 OK\\r\\nContent-Type: application/octet-stream\\r\\nContent-Length: 99999999999\\r\\n\\r\\n'"
OVERSIZED_BLOCK = "bytes.fromhex('00000001 00000c81') + bytes(3201)"
OVERSIZED_KEEPALIVE = "bytes.fromhex('ffffffff 00000201') + bytes(513)"


@dataclass
class Refused:
    """How an attempt ended."""

    done: Finished
    """The program."""

    def because(self, code: int, *words: str) -> None:
        """Check code, words, and that it is one line without a traceback."""
        lines = [
            line for line in self.done.err.splitlines() if line.startswith("sevpn: ")
        ]
        last = lines[-1] if lines else self.done.err
        assert self.done.code == code, self.done.err
        for word in words:
            assert word in last, last
        assert "Traceback" not in self.done.err
        assert "secret" not in self.done.err


def attempt(
    client: Client,
    *options: str,
    target: str = f"{SERVER}/TEST",
    pin: str | None = None,
    **env: str,
) -> Refused:
    """Run `up` to its end, and check that it leaves the host as it was."""
    before = client.machine.snapshot()
    trust = ["--pin", pin] if pin is not None else []
    done = client.sevpn(
        *("up", target, "--user", "alice", "--once", *trust, *options),
        env=PASSWORD | env,
        timeout_s=60,
    )
    assert client.machine.snapshot() == before
    return Refused(done)


def served(network: Network, **settings: str) -> EmbeddedServer:
    return EmbeddedServer(network.server, **settings)


# --- who is at the other end -------------------------------------------------


def test_a_refused_port(client: Client) -> None:
    attempt(client, target=f"{SERVER}:4444/TEST").because(69, "refused", "check")


def test_a_name_that_does_not_exist(client: Client) -> None:
    client.machine.write("/etc/resolv.conf", "nameserver 127.0.0.1\n", mode="644")

    attempt(client, target="nowhere.invalid/TEST").because(69, "nowhere.invalid")


def test_an_address_without_a_route(network: Network) -> None:
    with network.client(default_metric=None) as client:
        attempt(client, target="198.18.0.1/TEST").because(69, "198.18.0.1", "no route")


@pytest.mark.parametrize(
    ("stage", "fault", "words"),
    [
        ("ACCEPT", "Send(b'SSH-2.0-OpenSSH_9.2\\r\\n')", ("something else than TLS",)),
        ("ACCEPT", "Close()", ("closed the connection",)),
        ("HELLO", f"Send({HTML})", ("404", "SoftEther")),
        ("HELLO", f"Send({BAD_PACK})", ("",)),
        ("HELLO", f"Send({ENDLESS})", ("",)),
        ("HELLO", f"Send({HUGE})", ("",)),
        ("HELLO", "Close()", ("SoftEther",)),
        ("WELCOME", f"Send({HTML})", ("404",)),
        ("WELCOME", f"Send({BAD_PACK})", ("",)),
        ("SESSION", f"Send({OVERSIZED_BLOCK})", ("3201",)),
        ("SESSION", f"Send({OVERSIZED_KEEPALIVE})", ("513",)),
        ("SESSION", "Send(b'HTTP/1.1 400 Bad Request\\r\\n\\r\\n')", ("",)),
    ],
)
def test_a_peer_that_breaks_the_protocol(
    network: Network, client: Client, stage: str, fault: str, words: tuple[str, ...]
) -> None:
    server = served(network, setup=f"faults.at(Stage.{stage}, {fault}, times=None)")
    try:
        attempt(client, pin=server.pin).because(76, *words)
    finally:
        server.stop()


def test_a_peer_that_resets_each_connection(network: Network, client: Client) -> None:
    server = served(
        network, setup="faults.at(Stage.ACCEPT, Close(is_reset=True), times=None)"
    )
    try:
        done = attempt(client, pin=server.pin).done
        # The reset comes before or after the kernel has told of the connection.
        assert done.code in {69, 76}, done.err
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("stage", "code"), [("ACCEPT", 69), ("HELLO", 69), ("WELCOME", 75)]
)
def test_a_server_that_never_answers(
    network: Network, client: Client, stage: str, code: int
) -> None:
    server = served(network, setup=f"faults.at(Stage.{stage}, Silence(), times=None)")
    try:
        attempt(client, "--connect-timeout", "1", pin=server.pin).because(code, SERVER)
    finally:
        server.stop()


_PROXY: Final = """
import socket, sys
listener = socket.create_server(("192.0.2.1", 3128))
print("ready", flush=True)
open_still = []
while True:
    sock, _ = listener.accept()
    sock.recv(4096)
    if sys.argv[1] == "silence":
        open_still.append(sock)
        continue
    sock.sendall(bytes.fromhex(sys.argv[1]))
    sock.close()
"""


@pytest.mark.parametrize(
    ("proxy", "code", "words"),
    [
        (("http", b"HTTP/1.1 407 No\r\n\r\n"), 77, "user"),
        (("http", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 30_000), 76, "check"),
        (("http", b"<html>Welcome</html>\r\n\r\n"), 76, "check"),
        (("http", b"HTTP/1.1 200 O"), 76, "check"),
        (("socks5", b""), 69, "closed the connection"),
        (("socks5", b"HTTP/1.1 400 Bad Request\r\n\r\n"), 76, "check"),
        (("socks4", b"\0\x5b" + bytes(6)), 69, "proxy's rules"),
        (("http", None), 69, "1 s"),
        (("socks5", None), 69, "1 s"),
    ],
)
def test_a_proxy_that_does_not_do_its_part(
    network: Network,
    client: Client,
    proxy: tuple[str, bytes | None],
    code: int,
    words: str,
) -> None:
    kind, answer = proxy
    said = "silence" if answer is None else answer.hex()
    process = network.server.popen(["python3", "-c", _PROXY, said])
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"

    refused = attempt(
        client, *("--proxy", f"{kind}://192.0.2.1:3128", "--connect-timeout", "1")
    )

    network.server.end(process)
    refused.because(code, "the proxy", "192.0.2.1", words)


_OTHER: Final = "__import__('sevpn.server.certificate', fromlist=['']).make_identity(['x']).certificate_der"


@pytest.mark.parametrize(
    ("certificate", "code", "words"),
    [
        ("None", 76, "sends the login on"),
        (_OTHER, 79, "than its controller announced"),
    ],
    ids=["a loop", "another certificate"],
)
def test_a_controller_that_leads_nowhere(
    network: Network, client: Client, certificate: str, code: int, words: str
) -> None:
    server = served(network)
    server.do(
        f"server.send_logins_to(server, IPv4Address({SERVER!r}), certificate={certificate})"
    )
    try:
        attempt(client, pin=server.pin).because(code, words)
    finally:
        server.stop()


@pytest.mark.parametrize("sent", [1, 300, 900])
def test_a_server_that_goes_in_the_middle_of_its_words(
    network: Network, client: Client, sent: int
) -> None:
    server = served(
        network,
        setup=f"faults.at(Stage.TLS, CloseAfter(sent_bytes={sent}), times=None)",
    )
    try:
        done = attempt(client, pin=server.pin).done
        assert done.code in {75, 76}, done.err
    finally:
        server.stop()


def test_a_real_web_server_is_no_softether_server(
    client: Client, network: Network, tmp_path: Path
) -> None:
    authority = make_authority(tmp_path)
    leaf = authority.issue("web", addresses=[SERVER])
    web = network.server.popen(
        ["python3", "-c", WEB, str(leaf.certificate), str(leaf.key)]
    )
    assert web.stdout is not None
    assert web.stdout.readline() == "ready\n"
    try:
        attempt(client, "--ca", str(authority.certificate)).because(76, "SoftEther")
    finally:
        network.server.end(web)


WEB = """
import http.server, ssl, sys
server = http.server.HTTPServer(("0.0.0.0", 443), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
"""


# --- trust -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("expired", ("expired",)),
        ("not-yet", ("valid from",)),
        ("wrong-name", ("it is for other.test",)),
        ("self-signed", ("self-signed",)),
        ("no-name", ("subjectAltName",)),
    ],
)
def test_a_certificate_that_is_not_trusted(
    network: Network,
    client: Client,
    tmp_path: Path,
    kind: BadKind,
    words: tuple[str, ...],
) -> None:
    authority = make_authority(tmp_path)
    leaf = authority.issue_bad(kind, addresses=[SERVER])
    server = served(
        network,
        config=f"certificate=Path('{leaf.certificate}'), key=Path('{leaf.key}')",
    )
    try:
        ca = ("--ca", str(authority.certificate))
        attempt(client, *ca).because(79, *words, f"--pin {server.pin}")
        with client.up(
            f"{SERVER}/TEST", "--pin", server.pin, "--user", "alice", password="secret"
        ) as up:
            assert up.status()["server"]["verified_by"] == "pin"
    finally:
        server.stop()


def test_a_certificate_that_a_ca_signed_is_trusted(
    network: Network, client: Client, tmp_path: Path
) -> None:
    authority = make_authority(tmp_path)
    leaf = authority.issue("good", addresses=[SERVER])
    server = served(
        network,
        config=f"certificate=Path('{leaf.certificate}'), key=Path('{leaf.key}')",
    )
    try:
        with client.up(
            f"{SERVER}/TEST",
            *("--ca", str(authority.certificate), "--user", "alice"),
            password="secret",
        ) as up:
            assert up.status()["server"]["verified_by"] == "ca"
    finally:
        server.stop()


def test_another_certificate_than_the_pinned_one(
    network: Network, client: Client
) -> None:
    server = served(network)
    try:
        attempt(client, pin="sha256:" + "0" * 64).because(
            79, "another certificate", server.pin
        )
    finally:
        server.stop()


# --- this host ---------------------------------------------------------------


def test_no_tun_device(client: Client) -> None:
    client.machine.sh("mount -t tmpfs tmpfs /dev/net")

    attempt(client).because(78, "/dev/net/tun", "modprobe tun")


def test_no_capability(client: Client) -> None:
    before = client.machine.snapshot()

    done = client.machine.run(
        *("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"),
        *(client.program, "up", f"{SERVER}/TEST", "--user", "alice", "--once"),
        env=PASSWORD,
    )

    Refused(done).because(78, "sudo")
    assert client.machine.snapshot() == before


def test_an_interface_name_that_is_taken(client: Client) -> None:
    attempt(client, "--tap", "eth0").because(78, "eth0", "--tap")


# --- inside the tunnel -------------------------------------------------------


LEASELESS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "a hub without DHCP": (
        {"setup": "faults.dhcp_drops = None"},
        ("DHCP", "--no-dhcp"),
    ),
    "a hub whose policy drops DHCP": (
        {
            "setup": "faults.dhcp_drops = None",
            "hub": "policy=Policy(dhcp_filter=True),",
        },
        ("DHCPFilter",),
    ),
    "a lease with the mask 0.0.0.0": (
        {"setup": "faults.dhcp_options = {1: bytes(4)}"},
        ("DHCP",),
    ),
    "a lease of the server 0.0.0.0": (
        {"setup": "faults.dhcp_options = {54: bytes(4)}"},
        ("DHCP",),
    ),
    "an answer that is no kind of DHCP's": (
        {"setup": r"faults.dhcp_options = {53: b'\x63'}"},
        ("DHCP",),
    ),
}


def test_a_session_without_a_usable_lease_ends_with_the_reason() -> None:
    """All cases at once: each takes the 20 s that a session waits for its lease."""

    def check(case: str) -> None:
        settings, words = LEASELESS[case]
        with contextlib.closing(Network()) as network, network.client() as client:
            server = served(network, **settings)
            attempt(client, pin=server.pin).because(75, *words)

    with ThreadPoolExecutor(len(LEASELESS)) as pool:
        ends = {case: pool.submit(check, case) for case in LEASELESS}
    failures = {case: end.exception() for case, end in ends.items()}
    assert {case: error for case, error in failures.items() if error} == {}


def test_a_gateway_that_never_answers(network: Network, client: Client) -> None:
    server = served(
        network, setup="faults.is_gateway_mute = True; faults.are_polls_silent = True"
    )
    try:
        attempt(client, "--accept-default-gateway", pin=server.pin).because(
            75, "10.77.0.254", "--gateway"
        )
    finally:
        server.stop()


def test_nothing_to_prove_by_is_a_warning_when_nothing_depends_on_it(
    network: Network, client: Client
) -> None:
    server = served(
        network, setup="faults.is_gateway_mute = True; faults.are_polls_silent = True"
    )
    try:
        with client.up(
            f"{SERVER}/TEST", "--pin", server.pin, "--user", "alice", password="secret"
        ) as up:
            status = up.status()
            assert status["proven_at"] is None
            assert any("10.77.0.254" in warning for warning in status["warnings"])
    finally:
        server.stop()


@pytest.mark.parametrize(
    "options",
    [
        "{3: bytes([127, 0, 0, 1]), 6: bytes(4), 15: b'a b;c', 26: bytes([0, 1])}",
        "{121: bytes([33, 1, 2, 3, 4, 5, 6, 7, 8]), 249: b'x', 119: bytes([192, 0])}",
        "{51: bytes(3), 58: bytes(4), 59: b'\\xff' * 4, 12: b'\\x1b[2J'}",
    ],
)
def test_nonsense_in_a_lease_is_left_out_with_a_warning(
    network: Network, client: Client, options: str
) -> None:
    server = served(network, setup=f"faults.dhcp_options = {options}")
    try:
        with client.up(
            f"{SERVER}/TEST",
            *(
                "--pin",
                server.pin,
                "--user",
                "alice",
                "--accept-static-routes",
                "--accept-dns",
            ),
            password="secret",
        ) as up:
            status = up.status()
            assert status["state"] == "connected"
            assert status["warnings"]
            assert "\x1b" not in str(status)
            assert up.stop().code == 0
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("offered", "options", "mtu"),
    [
        (0, (), 576),
        (67, (), 576),
        (1279, (), 1279),
        (9000, (), 1500),
        (65535, (), 1500),
        (1400, ("--mtu", "1300"), 1300),
    ],
)
def test_an_absurd_mtu_of_a_lease_becomes_one_that_carries(
    network: Network, client: Client, offered: int, options: tuple[str, ...], mtu: int
) -> None:
    server = served(
        network, setup=f"faults.dhcp_options = {{26: ({offered}).to_bytes(2, 'big')}}"
    )
    try:
        with client.up(
            *(f"{SERVER}/TEST", "--pin", server.pin, "--user", "alice", *options),
            password="secret",
        ) as up:
            (link,) = client.machine.ip("link", "show", "dev", "sevpn0")
            assert link["mtu"] == mtu
            is_told = any(f"says {offered}" in line for line in up.status()["warnings"])
            assert is_told == (not 576 <= offered <= 1500)
            assert client.machine.pings("10.77.0.254")
    finally:
        server.stop()


def test_pushed_routes_that_lead_back_to_this_host_are_left_out_and_told(
    network: Network, client: Client
) -> None:
    """By its own address as the gateway, to that address, to itself, and to a group."""
    own = "10, 77, 0, 10"  # the first that this server gives away
    routes = f"16, 10, 9, {own}, 32, 127, 0, 0, 1, 10, 77, 0, 254, 8, 127, 10, 77, 0, 254, 4, 224, 10, 77, 0, 254"
    good = "16, 10, 8, 10, 77, 0, 254"
    server = served(
        network, setup=f"faults.dhcp_options = {{121: bytes([{routes}, {good}])}}"
    )
    try:
        with client.up(
            *(f"{SERVER}/TEST", "--pin", server.pin, "--user", "alice"),
            "--accept-static-routes",
            password="secret",
        ) as up:
            status = up.status()
            assert status["lease"]["address"] == "10.77.0.10/24"
            shown = client.machine.ip("route", "show", "proto", "224")
            assert [one["dst"] for one in shown if one["dev"] == "sevpn0"] == [
                "10.8.0.0/16"
            ]
            said = " ".join(status["warnings"])
            for name in ("10.9.0.0/16", "127.0.0.1/32", "127.0.0.0/8", "224.0.0.0/4"):
                assert name in said
            assert client.machine.pings("10.77.0.254")
    finally:
        server.stop()


def test_search_domains_that_a_shell_would_obey_are_left_out(
    network: Network, client: Client
) -> None:
    before = client.machine.read("/etc/resolv.conf")
    server = served(
        network,
        setup="faults.dhcp_options = {6: bytes([10, 77, 0, 53]), 15: b'$(id);x'}",
    )
    try:
        with client.up(
            *(f"{SERVER}/TEST", "--pin", server.pin, "--user", "alice"),
            "--accept-dns",
            password="secret",
        ) as up:
            shown = client.machine.read("/etc/resolv.conf")
            assert "nameserver 10.77.0.53" in shown
            assert "$(" not in shown
            assert any("no name of a host" in line for line in up.status()["warnings"])
            assert up.stop().code == 0
    finally:
        server.stop()
    assert client.machine.read("/etc/resolv.conf") == before


# --- the command line --------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("up",), 64, "TARGET"),
        (("up", "office"), 65, "no profile 'office'"),
        (("up", "vpn.example/HUB", "-user", "x"), 64, "--user"),
        (("up", "vpn.example/HUB", "--password", "hunter2"), 65, "password"),
        (("up", "vpn.example:99999/HUB"), 65, "port"),
        (("upp",), 64, "'up'"),
        (("status", "nothing"), 69, "nothing"),
        (("reconnect",), 69, "no tunnel runs"),
        (("up", "vpn.example/HUB", "--user", "x"), 65, "password"),
    ],
)
def test_a_wrong_command_line(
    client: Client, words: tuple[str, ...], code: int, text: str
) -> None:
    done = client.sevpn(*words)

    assert done.code == code, done.err
    assert text in done.err
    assert "hunter2" not in done.err
    assert "Traceback" not in done.err


def test_a_profile_with_an_unknown_key(client: Client) -> None:
    client.machine.write(
        "/etc/sevpn/profiles/office.toml", 'host = "vpn.example"\nacept_dns = true\n'
    )

    done = client.sevpn("up", "office")

    assert done.code == 65
    assert "acept_dns" in done.err
    assert "accept_dns" in done.err


def test_the_machine_is_only_a_machine() -> None:
    """The lab's own promise: what is written on a machine is not on this host."""
    with Machine("alone") as machine:
        machine.write("/etc/sevpn-was-here", "x")
    assert not Path("/etc/sevpn-was-here").exists()
