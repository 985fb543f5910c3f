# SPDX-License-Identifier: Apache-2.0
"""`sevpn doctor` on hosts that are well, and on hosts that are not."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from sevpn.testing.lab import SERVER, Client, EmbeddedServer, Network

pytestmark = pytest.mark.netns

TARGET = f"{SERVER}/TEST"
SECRET = {"SEVPN_PASSWORD": "secret"}


def login(server: EmbeddedServer) -> tuple[str, ...]:
    return (TARGET, "--pin", server.pin, "--user", "alice")


def examined(
    client: Client, *words: str, env: dict[str, str] | None = None
) -> tuple[int, dict[str, dict[str, Any]]]:
    done = client.sevpn("doctor", *words, "--json", env=env)
    findings = json.loads(done.out)["findings"]
    return done.code, {one["check"]: one for one in findings}


def test_a_host_that_is_well_has_no_problem(client: Client) -> None:
    before = client.machine.snapshot()

    code, found = examined(client)

    assert code == 0
    assert {
        "tun",
        "rights",
        "clock",
        "uplink",
        "rp_filter",
        "default",
        "vpns",
        "names",
        "tunnels",
    } <= set(found)
    assert not [one for one in found.values() if one["level"] == "problem"]
    assert client.machine.snapshot() == before


def test_a_lock_that_a_killed_tunnel_has_left_is_a_problem_and_that_of_a_living_one_is_none(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), "--lock", "on", password="secret") as tunnel:
        _, found = examined(client)
        assert found["lock"]["level"] == "ok"
        tunnel.process.send_signal(signal.SIGKILL)
        tunnel.process.wait()

    code, found = examined(client)

    assert code == 78
    assert "sevpn_t" in found["lock"]["text"]
    assert "sevpn unlock" in found["lock"]["fix"]
    client.sevpn("unlock")
    client.sevpn("cleanup")
    assert examined(client)[0] == 0


def test_a_host_without_a_packet_filter_is_told_what_it_cannot_have(
    client: Client,
) -> None:
    library = client.machine.python(
        "import ctypes; ctypes.CDLL('libnftables.so.1');"
        "print([l.split()[-1] for l in open('/proc/self/maps') if 'libnftables' in l][0])"
    ).strip()
    client.machine.sh(f"mount --bind /dev/null {library}")
    try:
        code, found = examined(client)
    finally:
        client.machine.sh(f"umount {library}")

    assert code == 0
    assert found["nft"]["level"] == "note"
    assert "libnftables" in found["nft"]["text"]


def test_each_step_of_a_login_is_shown_and_nothing_stays(
    client: Client, server: EmbeddedServer
) -> None:
    before = client.machine.snapshot()

    code, found = examined(client, *login(server), env=SECRET)

    assert code == 0
    steps = [
        "name",
        "server",
        "certificate",
        "hello",
        "login",
        "path",
        "lease",
        "gateway",
    ]
    assert [found[step]["level"] for step in steps] == ["ok"] * 8
    assert "SID-ALICE-" in found["login"]["text"]
    assert "10.77.0." in found["lease"]["text"]
    assert "answers after" in found["gateway"]["text"]
    assert client.machine.snapshot() == before


def test_a_person_reads_it_line_by_line(client: Client, server: EmbeddedServer) -> None:
    done = client.sevpn("doctor", *login(server), env=SECRET)

    assert done.code == 0
    assert "ok       gateway" in done.out
    assert "secret" not in done.out + done.err


@pytest.mark.parametrize(
    ("words", "env", "step", "code", "text"),
    [
        (("192.0.2.99/TEST", "--connect-timeout", "2s"), {}, "server", 69, ""),
        ((f"{SERVER}:444/TEST",), {}, "server", 69, "refused"),
        ((TARGET, "--user", "alice"), SECRET, "certificate", 79, "--pin"),
        (("PIN", "--user", "alice"), {"SEVPN_PASSWORD": "wrong"}, "login", 77, ""),
        (("PIN", "--hub", "NONE", "--user", "alice"), SECRET, "login", 65, "hub"),
    ],
    ids=["no such host", "nobody listens", "certificate", "password", "hub"],
)
def test_the_step_that_fails_is_named_with_what_to_do(
    client: Client,
    server: EmbeddedServer,
    *,
    words: tuple[str, ...],
    env: dict[str, str],
    step: str,
    code: int,
    text: str,
) -> None:
    if words[0] == "PIN":
        words = (TARGET, "--pin", server.pin, *words[1:])

    exit_code, found = examined(client, *words, env=env)

    assert exit_code == code
    assert found[step]["level"] == "problem"
    assert text in found[step]["text"]
    assert "lease" not in found


def test_a_silent_dhcp_server_is_told_from_a_login_that_fails(
    client: Client, network: Network
) -> None:
    server = EmbeddedServer(network.server, hub="policy=Policy(dhcp_filter=True),")
    try:
        code, found = examined(client, *login(server), env=SECRET)
    finally:
        server.stop()

    assert code == 75
    assert found["login"]["level"] == "ok"
    assert found["lease"]["level"] == "problem"
    assert "DHCPFilter" in found["lease"]["text"]


def test_a_host_that_forwards_is_told_what_the_hub_drops(
    client: Client, server: EmbeddedServer
) -> None:
    _, plain = examined(client, *login(server), env=SECRET)
    client.machine.sh("sysctl -qw net.ipv4.ip_forward=1")
    _, routing = examined(client, *login(server), env=SECRET)

    assert "policy" not in plain
    assert "NoRouting" in routing["policy"]["text"]
    assert "masquerade" in routing["policy"]["text"]


def test_a_path_that_drops_large_packets_is_found(
    client: Client, network: Network, server: EmbeddedServer
) -> None:
    # A firewall that passes small packets, and says nothing about the others.
    network.server.sh(
        "nft 'table netdev t { chain c { type filter hook ingress device br0 priority 0; meta length > 1200 drop; }; }' "
        "|| nft 'table inet t { chain c { type filter hook input priority 0; meta length > 1200 drop; }; }'"
    )
    try:
        code, found = examined(
            client, *login(server), "--connect-timeout", "3s", env=SECRET
        )
    finally:
        network.server.sh(
            "nft delete table netdev t 2>/dev/null || nft delete table inet t"
        )

    assert code in {69, 75}
    assert found["path"]["level"] == "problem"
    assert "mtu" in found["path"]["fix"]


def test_a_strict_filter_another_vpn_and_another_default_are_told(
    client: Client,
) -> None:
    client.machine.sh(
        "sysctl -qw net.ipv4.conf.eth0.rp_filter=1; ip tuntap add dev foreign0 mode tun; ip link set foreign0 up;"
        "ip route add default dev foreign0 metric 5"
    )

    code, found = examined(client)

    assert code == 0
    assert "eth0" in found["rp_filter"]["text"]
    assert "foreign0" in found["vpns"]["text"]
    assert "end the other VPN" in found["vpns"]["fix"]
    assert "foreign0 with metric 5" in found["default"]["text"]


def test_what_a_killed_process_left_is_told(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), password="secret") as tunnel:
        tunnel.process.kill()
        tunnel.process.wait()

        code, found = examined(client)

    assert code == 78
    assert found["tunnels"]["level"] == "problem"
    assert "sevpn cleanup" in found["tunnels"]["fix"]
    assert client.sevpn("cleanup").code == 0
    assert examined(client)[0] == 0


def test_a_running_tunnel_is_not_thrown_out(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), password="secret") as tunnel:
        code, found = examined(client, *login(server), "--name", "t", env=SECRET)

        assert (code, found["login"]["level"]) == (0, "skipped")
        assert tunnel.status()["counters"]["reconnects"] == 0


def test_without_rights_it_says_what_is_missing(client: Client) -> None:
    done = client.machine.run(
        *(
            "setpriv",
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--inh-caps=-all",
        ),
        *(client.program, "doctor", "--json"),
        env={"HOME": "/run", "XDG_RUNTIME_DIR": "/run/nobody"},
    )

    found = {one["check"]: one for one in json.loads(done.out)["findings"]}
    assert done.code == 78
    assert found["rights"]["level"] == "problem"
    assert "sudo" in found["rights"]["fix"]
