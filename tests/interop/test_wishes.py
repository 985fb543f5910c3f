# SPDX-License-Identifier: Apache-2.0
"""What hubs of the real server ask of a client, tell it, and keep it from."""

from __future__ import annotations

import base64
import signal

import pytest

from sevpn.testing.lab import SERVER, Client, Hub
from sevpn.testing.machine import eventually

pytestmark = [pytest.mark.netns, pytest.mark.interop]

_SET_MESSAGE = """
import json, ssl, sys, urllib.request
question = {"jsonrpc": "2.0", "id": "1", "method": "SetHubMsg",
            "params": {"HubName_str": sys.argv[1], "Msg_bin": sys.argv[2]}}
opener = urllib.request.build_opener(
    urllib.request.ProxyHandler({}),
    urllib.request.HTTPSHandler(context=ssl._create_unverified_context()))
request = urllib.request.Request(
    "https://127.0.0.1:443/api/", json.dumps(question).encode(),
    {"X-VPNADMIN-HUBNAME": sys.argv[1], "X-VPNADMIN-PASSWORD": "hub"})
answer = json.load(opener.open(request, timeout=20))
assert "error" not in answer, answer
"""


def set_message(hub: Hub, message: str) -> None:
    """Set what the hub tells its users; vpncmd cannot."""
    encoded = base64.b64encode(message.encode()).decode()
    hub.server.machine.python(_SET_MESSAGE, hub.name, encoded)


def test_a_hub_that_ends_sessions_is_left_for_good_with_code_0(
    client: Client, hub: Hub
) -> None:
    hub.server.set_policy(hub.name, "alice", AutoDisconnect="3")
    before = client.machine.snapshot()

    # On a busy machine its time may be over before anybody sees it connected.
    with client.up(
        *(hub.target, "--pin", hub.pin, "--user", "alice"),
        password="secret",
        state=None,
    ) as tunnel:
        out, err = tunnel.process.communicate(timeout=50)

    assert tunnel.process.returncode == 0, out + err
    assert "ends sessions after 3 s (policy AutoDisconnect): leaving" in err
    assert err.count("session SID-ALICE-") == 1
    assert client.machine.snapshot() == before


def test_a_password_that_an_import_saved_is_forgotten_where_the_hub_wants_it(
    client: Client, hub: Hub
) -> None:
    hub.server.set_policy(hub.name, "alice", NoSavePassword="yes")
    folder = "/etc/sevpn/profiles"
    client.machine.write(f"{folder}/office.imported-password", "secret\n")
    client.machine.sh(f"chmod 600 {folder}/office.imported-password")
    client.machine.write(
        f"{folder}/office.toml",
        f'host = "{SERVER}"\nhub = "{hub.name}"\nuser = "alice"\npin = ["{hub.pin}"]\n'
        'password = "file:office.imported-password"\n',
    )

    with client.up("office", name="office") as tunnel:
        (said,) = (
            text for text in tunnel.status()["warnings"] if "NoSavePassword" in text
        )
        assert f"{folder}/office.imported-password, which an import wrote" in said
        assert client.machine.sh(f"ls {folder}").split() == ["office.toml"]
        tunnel.stop(signal.SIGTERM)
    done = client.sevpn("up", "office")
    assert done.code == 65
    assert "there is no terminal to ask on" in done.err


def test_a_password_that_a_person_stored_is_left_alone(
    client: Client, hub: Hub
) -> None:
    hub.server.set_policy(hub.name, "alice", NoSavePassword="yes")
    client.machine.write("/run/password", "secret\n")
    client.machine.sh("chmod 600 /run/password")

    with client.up(
        hub.target,
        *("--pin", hub.pin, "--user", "alice", "--password", "file:/run/password"),
    ) as tunnel:
        assert any("was left alone" in text for text in tunnel.status()["warnings"])
        assert client.machine.read("/run/password") == "secret\n"


def test_what_the_hub_tells_its_users_is_shown_once_and_cannot_move_the_cursor(
    client: Client, hub: Hub
) -> None:
    set_message(hub, "Good day.\x1b[2J\r\nMaintenance at \u202e12.\x07")

    with client.up(
        hub.target, "--pin", hub.pin, "--user", "alice", password="secret"
    ) as tunnel:
        status = tunnel.status()
        assert status["session"]["message"] == "Good day.[2J\nMaintenance at 12."
        first = status["session"]["name"]
        client.sevpn("reconnect", "t")
        eventually(
            lambda: (
                (now := tunnel.status()).get("state") == "connected"
                and now["session"]["name"] != first
            ),
            within_s=45,
            what="another session",
        )
        done = tunnel.stop()

    assert done.err.count("Good day.") == 1
    assert "\x1b" not in done.err
    assert "\u202e" not in done.err


def test_policies_that_explain_trouble_are_in_status(client: Client, hub: Hub) -> None:
    hub.server.set_policy(
        hub.name,
        "alice",
        NoServer="yes",
        MaxMac="3",
        CheckIP="yes",
        MaxUpload="9000000",
    )

    with client.up(
        hub.target, "--pin", hub.pin, "--user", "alice", password="secret"
    ) as tunnel:
        policy = tunnel.status()["session"]["policy"]
        assert (policy["MaxMac"], policy["NoRouting"], policy["NoServer"]) == (3, 1, 1)
        assert any("NoServer" in text for text in tunnel.status()["warnings"])
        screen = client.sevpn("status", "t").out
        (line,) = (text for text in screen.splitlines() if text.startswith("policy:"))
        for name in (
            "NoRouting",
            "NoBridge",
            "MaxMac (at most 3",
            "MaxUpload (at most",
        ):
            assert name in line
