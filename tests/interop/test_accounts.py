# SPDX-License-Identifier: Apache-2.0
"""What the real server is asked without a session: its hubs, another password."""

from __future__ import annotations

import json

import pytest

from sevpn.testing.lab import SERVER, Client, Hub

pytestmark = [pytest.mark.netns, pytest.mark.interop]


def passwd(client: Client, hub: Hub, old: str, new: str, *more: str) -> tuple[int, str]:
    done = client.sevpn(
        *("passwd", hub.target, "--pin", hub.pin, "--user", "alice"),
        *("--new-password", "env:NEW", *more),
        env={"SEVPN_PASSWORD": old, "NEW": new},
    )
    assert new not in done.out + done.err
    return done.code, done.out + done.err


def login_code(client: Client, hub: Hub, password: str) -> int:
    """Return the code of a login with *password* that goes no further."""
    done = client.sevpn(
        *("up", hub.target, "--pin", hub.pin, "--user", "alice", "--once"),
        env={"SEVPN_PASSWORD": password},
    )
    return done.code


def test_a_user_changes_the_password_and_logs_in_with_it(
    client: Client, hub: Hub
) -> None:
    before = client.machine.snapshot()

    code, said = passwd(client, hub, "secret", "better")

    assert code == 0, said
    assert "the password of 'alice' on hub" in said
    assert client.machine.snapshot() == before
    assert login_code(client, hub, "secret") == 77
    with client.up(hub.target, "--pin", hub.pin, "--user", "alice", password="better"):
        assert client.machine.pings("192.168.30.1")


def test_a_wrong_old_password_changes_nothing(client: Client, hub: Hub) -> None:
    code, said = passwd(client, hub, "wrong", "better")

    assert code == 77
    assert "server error 69" in said
    assert login_code(client, hub, "better") == 77


def test_a_policy_may_forbid_another_password(client: Client, hub: Hub) -> None:
    hub.server.set_policy(hub.name, "alice", FixPassword="yes")

    code, said = passwd(client, hub, "secret", "better", "--json")

    assert code == 77
    answer = json.loads(said)
    assert answer["server_error"] == 52
    assert "FixPassword" in answer["error"]


def test_who_has_no_password_on_the_hub_cannot_change_it(
    client: Client, hub: Hub
) -> None:
    hub.server.command("UserAnonymousSet alice", hub=hub.name)

    code, said = passwd(client, hub, "secret", "better")

    assert code == 77
    assert "server error 68" in said
    assert "keeps no password of 'alice'" in said


def test_the_hubs_of_a_server_are_listed(client: Client, hub: Hub) -> None:
    done = client.sevpn("hubs", SERVER, "--pin", hub.pin, "--json")

    assert done.code == 0
    answer = json.loads(done.out)
    assert {"DEFAULT", hub.name} <= set(answer["hubs"])
    lines = client.sevpn("hubs", SERVER, "--pin", hub.pin).out.splitlines()
    assert lines == answer["hubs"]


def test_a_hub_that_hides_is_not_listed(client: Client, hub: Hub) -> None:
    hub.server.command("SetEnumDeny", hub=hub.name)

    done = client.sevpn("hubs", SERVER, "--pin", hub.pin)

    assert done.code == 0
    assert hub.name not in done.out.split()
