# SPDX-License-Identifier: Apache-2.0
"""`sevpn profile …`, as a user types it; each test on a machine with an /etc of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sevpn.testing.lab import Client, EmbeddedServer
from sevpn.testing.machine import Finished

pytestmark = pytest.mark.netns

PROFILES = "/etc/sevpn/profiles"
ACCOUNT = """
declare root
{
	bool CheckServerCert false
	declare ClientAuth
	{
		uint AuthType 2
		byte EncryptedPassword A/YHkB9eAz25
		string Username alice
	}
	declare ClientOption
	{
		string AccountName Office$20VPN
		string Hostname vpn.example.net
		string HubName OFFICE
		uint Port 443
	}
}
"""


def profile(client: Client, *words: str, code: int = 0) -> Finished:
    done = client.sevpn("profile", *words)
    assert done.code == code, (done.out, done.err)
    return done


def answer(client: Client, *words: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(profile(client, *words, "--json").out)
    return said


def test_options_are_saved_as_a_profile_that_connects(
    client: Client, server: EmbeddedServer
) -> None:
    client.machine.write("/etc/sevpn/secret", "secret\n")
    words = (
        "--user",
        "alice",
        "--password",
        "file:/etc/sevpn/secret",
        "--pin",
        server.pin,
    )

    profile(client, "add", "lab", "192.0.2.1/TEST", *words)

    assert client.machine.sh(f"stat -c %a {PROFILES}/lab.toml").strip() == "600"
    with client.up("lab", name="lab") as tunnel:
        assert tunnel.status()["session"]["name"].startswith("SID-ALICE-")


def test_profiles_are_listed_shown_and_removed(client: Client) -> None:
    profile(client, "add", "one", "vpn.example/HUB", "--user", "alice", "--metric", "7")
    profile(client, "add", "two", "vpn.example:992")
    client.machine.write(f"{PROFILES}/broken.toml", "host = 7\n")

    rows = answer(client, "list")["profiles"]
    shown = profile(client, "show", "one").out
    removed = answer(client, "remove", "two")["removed"]

    assert [row["name"] for row in rows] == ["broken", "one", "two"]
    assert rows[0]["error"] is not None
    assert (rows[1]["user"], rows[2]["user"]) == ("alice", None)
    assert 'user = "alice"\nmetric = 7\n' in shown
    assert removed == [f"{PROFILES}/two.toml"]
    assert len(answer(client, "list")["profiles"]) == 2


def test_a_literal_secret_is_not_shown(client: Client) -> None:
    client.machine.write(
        f"{PROFILES}/one.toml", 'host = "h"\nuser = "u"\npassword = "literal:s3cret"\n'
    )

    assert "s3cret" not in profile(client, "show", "one").out
    assert "s3cret" not in profile(client, "list").out


def test_nothing_wrong_is_saved(client: Client) -> None:
    wrong_pin = profile(
        client, "add", "one", "vpn.example", "--pin", "sha256:00", code=65
    )
    contradiction = profile(client, "add", "one", "vpn.example", "--no-dhcp", code=65)
    bad_name = profile(client, "add", "../one", "vpn.example", code=65)

    assert "sha256:HEX" in wrong_pin.err
    assert "no address" in contradiction.err
    assert "is no name" in bad_name.err
    assert client.machine.sh(f"ls {PROFILES} 2>/dev/null || true") == ""


def test_a_profile_is_overwritten_only_when_told_to(client: Client) -> None:
    profile(client, "add", "one", "vpn.example")

    refused = profile(client, "add", "one", "other.example", code=65)
    profile(client, "add", "one", "other.example", "--replace")

    assert "--replace" in refused.err
    assert "other.example" in profile(client, "show", "one").out


def test_an_edited_profile_is_checked_before_it_is_saved(client: Client) -> None:
    profile(client, "add", "one", "vpn.example")
    client.machine.write(
        "/run/good", "#!/bin/sh\nsed -i s/vpn.example/new.example/ $1\n", mode="700"
    )
    client.machine.write("/run/bad", "#!/bin/sh\necho 'shiny = 1' >> $1\n", mode="700")

    client.sevpn("profile", "edit", "one", env={"EDITOR": "/run/good"})
    done = client.sevpn("profile", "edit", "one", env={"EDITOR": "/run/bad"})

    assert done.code == 65
    assert "no key 'shiny'" in done.err
    shown = profile(client, "show", "one").out
    assert "new.example" in shown
    assert "shiny" not in shown


def test_an_import_tells_what_it_made_and_keeps_its_secret_to_itself(
    client: Client,
) -> None:
    client.machine.write("/run/office.vpn", ACCOUNT)

    done = profile(client, "import", "/run/office.vpn")
    again = profile(client, "import", "/run/office.vpn", code=65)

    assert "Office-VPN: saved as" in done.out
    assert "did not verify its server" in done.out
    assert "microsoft" not in done.out + done.err
    assert (
        client.machine.read(f"{PROFILES}/Office-VPN.imported-password") == "microsoft"
    )
    assert set(client.machine.sh(f"stat -c %a {PROFILES}/*").split()) == {"600"}
    assert "there is a profile 'Office-VPN' already" in again.err
    profile(client, "remove", "Office-VPN")
    assert client.machine.sh(f"ls {PROFILES}") == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello", "no configuration text"),
        (ACCOUNT[:-10], "cut"),
        (ACCOUNT.replace("AuthType 2", "AuthType 4"), "smart card"),
        (ACCOUNT.replace("vpn.example.net", "$"), "without a server"),
        (ACCOUNT.replace("vpn.example.net", "a..b"), "host"),
        (ACCOUNT.replace("A/YHkB9eAz25", "/////w=="), "no known key"),
    ],
)
def test_a_file_that_cannot_be_imported_leaves_nothing(
    client: Client, text: str, words: str
) -> None:
    client.machine.write("/run/bad.vpn", text)

    done = profile(client, "import", "/run/bad.vpn", code=65)

    assert words in done.err
    assert done.err.count("\n") == 1
    assert client.machine.sh(f"ls {PROFILES} 2>/dev/null || true") == ""


def test_a_file_that_is_not_there_is_named(client: Client) -> None:
    assert (
        "/run/none.vpn cannot be read"
        in profile(client, "import", "/run/none.vpn", code=65).err
    )


def test_secrets_can_be_left_out_of_an_export(client: Client) -> None:
    client.machine.write("/run/office.vpn", ACCOUNT)
    profile(client, "import", "/run/office.vpn")

    told = profile(client, "export", "Office-VPN", "--vpn")
    kept = profile(client, "export", "Office-VPN", "--vpn", "--no-secrets")

    assert "byte EncryptedPassword A/YHkB9eAz25" in told.out
    assert "byte EncryptedPassword $" in kept.out
    assert "will ask for it" in kept.err


def configuration(*accounts: str) -> str:
    """The official client's whole configuration."""
    folders = "".join(
        account.strip().replace("declare root", f"declare Account{number}", 1) + "\n"
        for number, account in enumerate(accounts)
    )
    return f"declare root\n{{\ndeclare AccountDatabase\n{{\n{folders}}}\n}}\n"


def test_one_odd_account_does_not_keep_the_others_away(client: Client) -> None:
    card = ACCOUNT.replace("AuthType 2", "AuthType 4").replace("Office", "Card")
    bad = ACCOUNT.replace("vpn.example.net", "a..b").replace("Office", "Bad")
    client.machine.write("/run/all.config", configuration(card, ACCOUNT, bad, ACCOUNT))

    done = profile(client, "import", "/run/all.config", code=65)

    assert "'Card VPN' was not imported: it logs in with a smart card" in done.out
    assert "'Bad VPN' was not imported" in done.out
    assert "Office-VPN-2: saved as" in done.out
    assert "2 of 4 accounts could not be imported ('Card VPN', 'Bad VPN')" in done.err
    assert set(client.machine.sh(f"ls -A {PROFILES}").split()) == {
        f"Office-VPN{number}.{suffix}"
        for number in ("", "-2")
        for suffix in ("imported-password", "toml", "vpn-rest")
    }


def test_a_profile_that_is_there_keeps_away_its_own_account_only(
    client: Client,
) -> None:
    profile(client, "add", "Office-VPN", "other.example")
    second = ACCOUNT.replace("Office", "Second")
    client.machine.write("/run/all.config", configuration(ACCOUNT, second))

    done = client.sevpn("profile", "import", "/run/all.config", "--json")
    told, error = map(json.loads, done.out.splitlines())

    assert done.code == error["exit_code"] == 65
    assert [one["profile"] for one in told["imported"]] == ["Second-VPN"]
    assert [one["account"] for one in told["refused"]] == ["Office VPN"]
    assert "--replace" in told["refused"][0]["reason"]
    assert "other.example" in profile(client, "show", "Office-VPN").out
    assert "Office-VPN.imported-password" not in client.machine.sh(f"ls {PROFILES}")


def test_an_account_without_its_user_connects_when_he_is_named(client: Client) -> None:
    client.machine.write("/run/office.vpn", ACCOUNT.replace("alice", "$"))

    done = profile(client, "import", "/run/office.vpn")

    assert "give --user to `sevpn up`" in done.out
    assert "(no user yet)" in profile(client, "list").out
    assert "add 'user'" in client.sevpn("up", "Office-VPN").err


def test_secrets_of_a_profile_that_was_replaced_do_not_stay(client: Client) -> None:
    client.machine.write("/run/office.vpn", ACCOUNT)
    profile(client, "import", "/run/office.vpn")

    profile(client, "add", "Office-VPN", "vpn.example", "--replace")

    assert client.machine.sh(f"ls {PROFILES}").split() == ["Office-VPN.toml"]


def test_a_profile_that_cannot_be_written_leaves_no_secret(client: Client) -> None:
    client.machine.write("/run/office.vpn", ACCOUNT)
    client.machine.sh(f"mkdir -p {PROFILES}/Office-VPN.toml")

    done = profile(client, "import", "/run/office.vpn", "--replace", code=65)

    assert f"cannot write {PROFILES}/Office-VPN.toml" in done.err
    assert client.machine.sh(f"ls -A {PROFILES}").split() == ["Office-VPN.toml"]
