# SPDX-License-Identifier: Apache-2.0
"""A tunnel's life on its host, against the embedded server."""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import Any, Final

import pytest

from sevpn.testing.lab import SERVER, Client, EmbeddedServer, Network, Up
from sevpn.testing.machine import eventually

pytestmark = pytest.mark.netns

TARGET = f"{SERVER}/TEST"
GATEWAY = "10.77.0.254"


def login(server: EmbeddedServer) -> tuple[str, ...]:
    return (TARGET, "--pin", server.pin, "--user", "alice")


def test_a_lease_is_renewed_without_a_word(network: Network, client: Client) -> None:
    server = EmbeddedServer(network.server, dhcp="lease_s=60, renew_s=2, rebind_s=40")
    try:
        with client.up(*login(server), password="secret") as tunnel:
            first = tunnel.status()["lease"]
            eventually(
                lambda: tunnel.status()["lease"]["obtained_at"] > first["obtained_at"],
                what="a renewal",
            )
            status = tunnel.status()
            assert status["lease"]["address"] == first["address"]
            assert status["counters"]["reconnects"] == 0
            assert client.machine.pings(GATEWAY)
    finally:
        server.stop()


def test_a_lease_that_is_refused_is_replaced_in_the_same_session(
    network: Network, client: Client
) -> None:
    server = EmbeddedServer(network.server, dhcp="lease_s=60, renew_s=3, rebind_s=40")
    try:
        with client.up(*login(server), password="secret") as tunnel:
            server.do("setattr(faults, 'dhcp_naks', 1)")
            eventually(
                lambda: any("lease was lost" in w for w in tunnel.status()["warnings"]),
                what="the refusal of a renewal",
            )
            status = tunnel.wait("connected")
            assert status["counters"]["reconnects"] == 0
            assert client.machine.pings(GATEWAY)
    finally:
        server.stop()


@pytest.mark.kernel
@pytest.mark.parametrize("is_reset", [True, False])
def test_a_cut_connection_is_healed(
    client: Client, server: EmbeddedServer, is_reset: bool
) -> None:
    with client.up(
        *login(server), "--no-resume", "--accept-default-gateway", password="secret"
    ) as tunnel:
        before = client.machine.snapshot()

        server.do(f"[server.cut(s, reset={is_reset}) for s in server.sessions()]")
        eventually(
            lambda: tunnel.status()["counters"]["reconnects"] == 1, what="a reconnect"
        )

        status = tunnel.wait("connected")
        assert status["last_error"]
        assert client.machine.snapshot() == before
        assert client.machine.pings(GATEWAY)


def test_nothing_of_the_lease_stays_while_the_server_is_away(
    network: Network, client: Client
) -> None:
    server = EmbeddedServer(network.server)
    before = client.machine.snapshot()
    try:
        with client.up(
            *login(server),
            *("--accept-default-gateway", "--dns", "10.77.0.53"),
            password="secret",
        ) as tunnel:
            server.stop()
            tunnel.wait("waiting")

            # It has been connected once, and is not now; nor has it had a second session.
            checks = ("live", "startup", "ready")
            assert [
                client.sevpn("status", "--check", check, "t").code for check in checks
            ] == [0, 0, 1]
            held = client.machine.snapshot()
            assert held.resolv_conf == before.resolv_conf
            assert not [a for a in held.addresses if a.startswith("sevpn0")]
            assert {
                r for r in held.routes if "sevpn0" in r and "local" not in r
            } == set()
            assert [r for r in held.routes if r.startswith(f"{SERVER} ")]
            assert "sevpn0" in held.links
            assert tunnel.stop().code == 0
    finally:
        server.stop()
    assert client.machine.snapshot() == before


def test_a_silent_server_is_noticed_by_its_time_out(
    network: Network, client: Client
) -> None:
    server = EmbeddedServer(network.server, hub="policy=Policy(timeout_s=5),")
    try:
        with client.up(*login(server), password="secret") as tunnel:
            server.do("setattr(faults, 'are_keepalives_silent', True)")
            server.do("setattr(faults, 'drops_frames', True)")
            status = tunnel.wait("waiting", within_s=60)
            assert "5 s" in status["last_error"]
    finally:
        server.stop()


def test_a_host_route_that_somebody_deletes_comes_back(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), password="secret"):
        client.machine.sh(f"ip route del {SERVER}/32")
        eventually(
            lambda: client.machine.ip("route", "show", f"{SERVER}/32"),
            what="the host route",
        )


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_ends_it_with_its_own_code_if_the_host_cannot_be_restored(
    client: Client, server: EmbeddedServer, number: int, code: int
) -> None:
    before = client.machine.snapshot()
    with client.up(
        *login(server), "--dns", "10.77.0.53", "--json", password="secret"
    ) as tunnel:
        client.machine.sh("mount -o remount,ro /etc")
        done = tunnel.stop(number)

    assert done.code == code, done.err
    last = json.loads(done.out.splitlines()[-1])
    assert (last["exit_code"], last["failure"]) == (code, "host")
    assert "/etc" in last["error"]
    # What could not be undone is still known, and is undone when it can be.
    client.machine.sh("mount -o remount,rw /etc")
    assert client.sevpn("cleanup").code == 0
    assert client.machine.snapshot() == before


def test_the_tunnel_tells_its_life_as_json(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), "--json", password="secret") as tunnel:
        out = tunnel.stop().out

    events: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    states = [event["state"] for event in events if event["event"] == "state"]
    assert states == [
        *("resolving", "connecting", "authenticating", "leasing"),
        *("configuring", "proving", "connected", "disconnecting", "down"),
    ]
    assert {"resolved", "connected-to-server", "logged-in", "leased", "configured"} <= {
        event["event"] for event in events
    }


def test_status_is_one_screen_or_one_document(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), password="secret"):
        text = client.sevpn("status", "t").out
        everything = json.loads(client.sevpn("status", "--json").out)

    assert "connected since" in text
    assert "10.77.0.10/24 from 10.77.0.254" in text
    assert everything["schema"] == 1
    assert [tunnel["name"] for tunnel in everything["tunnels"]] == ["t"]


def test_plan_says_what_up_would_do_and_does_nothing(
    client: Client, server: EmbeddedServer
) -> None:
    before = client.machine.snapshot()

    done = client.sevpn("plan", TARGET, "--accept-default-gateway", "--metric", "100")

    assert done.code == 0
    assert f"ip route add {SERVER} dev eth0" in done.out
    assert "default via GATEWAY" in done.out
    assert client.machine.snapshot() == before
    assert server.do("server.sessions()") == "()"


def test_a_profile_is_a_target(client: Client, server: EmbeddedServer) -> None:
    client.machine.write("/etc/sevpn/secret", "secret\n")
    client.machine.write(
        "/etc/sevpn/profiles/office.toml",
        f'host = "{SERVER}"\nhub = "TEST"\nuser = "alice"\n'
        f'password = "file:/etc/sevpn/secret"\npin = ["{server.pin}"]\n',
    )

    with client.up("office", name="office") as tunnel:
        assert tunnel.status()["name"] == "office"
        assert client.machine.pings(GATEWAY)


def test_the_password_is_nowhere_to_be_seen(
    client: Client, server: EmbeddedServer
) -> None:
    client.machine.write("/root/secret", "secret\n")

    with client.up(
        *login(server), "--debug", "--password", "file:/root/secret"
    ) as tunnel:
        environ = client.machine.sh(
            f"tr '\\0' '\\n' < /proc/{tunnel.process.pid}/environ"
        )
        argv = client.machine.sh(f"tr '\\0' ' ' < /proc/{tunnel.process.pid}/cmdline")
        status = json.dumps(tunnel.status())
        done = tunnel.stop()

    assert "=secret" not in environ
    assert "secret " not in argv.replace("/root/secret ", "")
    assert "secret" not in status
    assert "secret" not in done.err.replace("/root/secret", "")


def test_the_process_is_small_and_idle(client: Client, server: EmbeddedServer) -> None:
    with client.up(*login(server), password="secret") as tunnel:
        fields = client.machine.read(f"/proc/{tunnel.process.pid}/status").splitlines()
        rss_kib = next(int(f.split()[1]) for f in fields if f.startswith("VmRSS"))
        assert rss_kib <= 48 * 1024


def test_a_tunnel_that_runs_already_is_not_started_again(
    client: Client, server: EmbeddedServer
) -> None:
    with client.up(*login(server), password="secret"):
        done = client.sevpn(
            *("up", *login(server), "--name", "t"), env={"SEVPN_PASSWORD": "secret"}
        )
        assert client.sevpn("status", "--check", "ready", "t").code == 0

    assert done.code == 78
    assert "running already" in done.err


def test_completion_scripts_exist_for_three_shells(client: Client) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_SEVPN_COMPLETE" in client.sevpn("completion", shell).out


@pytest.mark.parametrize("polls", [True, False])
def test_a_silent_tunnel_outlives_the_table_of_a_hub_that_forces_dhcp(
    network: Network, polls: bool
) -> None:
    """The hub forgets who is silent; its polls are answered although the kernel would not.

    Without polls it does forget: that is the difference which the answers make.
    """
    server = EmbeddedServer(
        network.server,
        setup=f"faults.are_polls_silent = {not polls}",
        hub="policy=Policy(dhcp_force=True), lease_life_s=2.0, address_life_s=2.0, poll_interval_s=0.4,",
    )
    try:
        with network.client() as client:
            client.machine.sh("echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter")
            with client.up(*login(server), password="secret"):
                time.sleep(
                    5
                )  # silence is what is tested; the table's life is two seconds

                count = 10 if polls else 2
                assert client.machine.pings(GATEWAY, count=count) == polls
    finally:
        server.stop()


_OLD_DRIVER: Final = """
from sevpn.net import tap
from sevpn.cli.main import main
features = tap._features
tap._features = lambda descriptor: features(descriptor) & ~(tap._IFF_VNET_HDR | tap._IFF_NO_CARRIER)
tap._TUNSETCARRIER = 0x400454EE
main()
"""


def test_what_an_old_tun_driver_lacks_is_in_status_and_traffic_flows(
    client: Client, server: EmbeddedServer
) -> None:
    words = ("up", TARGET, "--pin", server.pin, "--user", "alice", "--name", "t")
    process = client.machine.popen(
        [sys.executable, "-c", _OLD_DRIVER, *words], env={"SEVPN_PASSWORD": "secret"}
    )
    tunnel = Up(client, process, "t")
    status = tunnel.wait()

    told = " ".join(status["warnings"])
    assert "TUNSETCARRIER" in told
    assert "IFF_NO_CARRIER" in told
    kernel = status["interface"]["kernel"]
    assert ("IFF_VNET_HDR" in told) == (kernel == "compiled")
    assert status["interface"]["offload"] == "none"
    assert client.machine.pings(GATEWAY)
    assert tunnel.stop().code == 0
