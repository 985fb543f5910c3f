# SPDX-License-Identifier: Apache-2.0
"""Logging in to the real server, with each kind of proof, right and wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sevpn.dataplane.path import is_compiled
from sevpn.testing.lab import SERVER, Client, Hub
from sevpn.testing.machine import eventually

pytestmark = [pytest.mark.netns, pytest.mark.interop]


@pytest.mark.kernel
def test_a_password_user_gets_a_proven_network(client: Client, hub: Hub) -> None:
    with client.up(
        hub.target, "--pin", hub.pin, "--user", "alice", password="secret"
    ) as tunnel:
        status = tunnel.status()

        assert status["state"] == "connected"
        kernel = "compiled" if is_compiled() else "python"  # SEVPN_KERNEL says so
        assert status["interface"]["kernel"] == kernel
        assert status["proven_at"] is not None
        assert status["session"]["name"].startswith("SID-ALICE-")
        assert status["server"]["verified_by"] == "pin"
        assert status["lease"]["address"].startswith("192.168.30.")
        assert client.machine.pings("192.168.30.1")


def test_the_user_name_counts_without_case(client: Client, hub: Hub) -> None:
    with client.up(
        hub.target, "--pin", hub.pin, "--user", "ALICE", password="secret"
    ) as tunnel:
        assert tunnel.status()["state"] == "connected"


def test_an_anonymous_user_needs_no_password(client: Client, hub: Hub) -> None:
    hub.user("guest", password=None)

    with client.up(
        hub.target, "--pin", hub.pin, "--user", "guest", "--auth", "anonymous"
    ) as tunnel:
        assert tunnel.status()["session"]["name"].startswith("SID-GUEST-")


def test_no_user_at_all_logs_in_as_anonymous(client: Client, hub: Hub) -> None:
    hub.user("anonymous", password=None)

    with client.up(hub.target, "--pin", hub.pin) as tunnel:
        assert tunnel.status()["session"]["name"].startswith("SID-ANONYMOUS-")


def test_a_plain_password_is_taken_for_a_local_user_too(
    client: Client, hub: Hub
) -> None:
    with client.up(
        hub.target,
        *("--pin", hub.pin, "--user", "alice", "--auth", "plain"),
        password="secret",
    ) as tunnel:
        assert tunnel.status()["state"] == "connected"


def test_a_password_hash_serves_as_well_as_the_password(
    client: Client, hub: Hub
) -> None:
    from sevpn.protocol.credentials import hash_password

    client.machine.write("/root/hash", hash_password("alice", "secret").hex() + "\n")

    with client.up(
        hub.target,
        *("--pin", hub.pin, "--user", "alice", "--password", "hash:file:/root/hash"),
    ) as tunnel:
        assert tunnel.status()["state"] == "connected"


def test_a_wrong_password_ends_after_exactly_one_attempt(
    client: Client, hub: Hub
) -> None:
    before = client.machine.snapshot()

    done = client.sevpn(
        *("up", hub.target, "--pin", hub.pin, "--user", "alice", "--retries", "5"),
        env={"SEVPN_PASSWORD": "wrong"},
    )

    assert done.code == 77
    assert "server error 9" in done.err
    assert "wrong" not in done.err.replace("wrong user name or password", "")
    assert done.err.count("server error 9") == 1
    assert client.machine.snapshot() == before
    # The server writes its log a moment later; a second attempt would have come by then.
    eventually(lambda: _refused_logins(hub) == 1, what="the line in the server's log")


def test_an_unknown_user_is_refused_like_a_wrong_password(
    client: Client, hub: Hub
) -> None:
    done = client.sevpn(
        *("up", hub.target, "--pin", hub.pin, "--user", "nobody", "--json"),
        env={"SEVPN_PASSWORD": "secret"},
    )

    assert done.code == 77
    assert json.loads(done.out.splitlines()[-1])["server_error"] == 9


def test_an_unknown_hub_is_a_mistake_in_the_settings(client: Client, hub: Hub) -> None:
    before = client.machine.snapshot()

    done = client.sevpn(
        *("up", f"{SERVER}/NOWHERE", "--pin", hub.pin, "--user", "alice"),
        env={"SEVPN_PASSWORD": "secret"},
    )

    assert done.code == 65
    assert "'NOWHERE' does not exist" in done.err
    assert client.machine.snapshot() == before


def test_a_hub_that_is_offline_is_waited_for(client: Client, hub: Hub) -> None:
    hub.server.command("Offline", hub=hub.name)

    with client.up(
        hub.target,
        *("--pin", hub.pin, "--user", "alice", "--reconnect-delay", "1"),
        password="secret",
        state="waiting",
    ) as tunnel:
        assert "server error 10" in tunnel.status()["last_error"]
        hub.server.command("Online", hub=hub.name)
        tunnel.wait("connected")


def test_a_hub_that_is_offline_ends_an_attempt_that_is_made_once(
    client: Client, hub: Hub
) -> None:
    hub.server.command("Offline", hub=hub.name)

    done = client.sevpn(
        *("up", hub.target, "--pin", hub.pin, "--user", "alice", "--once"),
        env={"SEVPN_PASSWORD": "secret"},
    )

    assert done.code == 75
    assert "server error 10" in done.err


def test_a_silent_cut_does_not_lock_out_a_user_with_one_login(
    client: Client, hub: Hub
) -> None:
    hub.user("solo", MultiLogins="1")

    with client.up(
        hub.target, "--pin", hub.pin, "--user", "solo", password="secret"
    ) as tunnel:
        first = tunnel.status()["session"]["name"]
        # The old path swallows everything: the server does not learn of the end.
        port = _local_port(client)
        hub.server.machine.sh(
            f"nft add table inet cut; "
            f"nft 'add chain inet cut in {{ type filter hook input priority 0; }}';"
            f"nft add rule inet cut in tcp sport {port} drop"
        )
        try:
            client.sevpn("reconnect", "t")
            status = eventually(
                lambda: _other_session(tunnel.status(), first),
                what="a second session",
            )
            assert status["state"] == "connected"
            assert len(hub.server.sessions(hub.name)) == 2  # the old one is still there
        finally:
            hub.server.machine.sh("nft delete table inet cut")


def _other_session(status: dict[str, Any], name: str) -> object:
    session = status.get("session") or {}
    is_other = session.get("name") not in {None, name}
    return status if is_other and status["state"] == "connected" else None


def _local_port(client: Client) -> int:
    """Return the client's port of its connection to the server."""
    out = client.machine.check(
        "ss", "-Htn", "state", "established", "dport", "=", ":443"
    )
    return int(out.split()[2].rpartition(":")[2])


def _refused_logins(hub: Hub) -> int:
    """Return how many proofs the server has refused on this hub, from its log."""
    log = hub.server.machine.sh(f"cat /var/log/softether/security_log/{hub.name}/*.log")
    return log.count("User authentication failed")
