# SPDX-License-Identifier: Apache-2.0
"""Accounts cross over between the official client and sevpn, in both directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from interop.test_certificates import known
from sevpn.testing.lab import SERVER, Client, Hub
from sevpn.testing.machine import eventually
from sevpn.testing.peers import OfficialClient

pytestmark = [pytest.mark.netns, pytest.mark.interop]

GATEWAY = "192.168.30.1"

UP = "../" * 16
"""To the root folder: vpncmd takes a word that begins with a slash for an option."""


@pytest.fixture
def official(client: Client) -> OfficialClient:
    return OfficialClient(client.machine)


def import_file(client: Client, *words: str) -> list[dict[str, Any]]:
    done = client.sevpn("profile", "import", *words, "--json")
    assert done.code == 0, done.err
    imported: list[dict[str, Any]] = json.loads(done.out)["imported"]
    return imported


@pytest.mark.parametrize("kind", ["standard", "radius"])
def test_an_account_of_the_official_client_connects_here(
    client: Client, hub: Hub, official: OfficialClient, kind: str
) -> None:
    official.command(
        "NicCreate se0",
        f"AccountCreate t1 /SERVER:{SERVER}:443 /HUB:{hub.name} /USERNAME:alice /NICNAME:se0",
        f"AccountPasswordSet t1 /PASSWORD:secret /TYPE:{kind}",
        "AccountExport t1 /SAVEPATH:/run/office.vpn",
    )

    (imported,) = import_file(client, "/run/office.vpn", "--name", "office")

    assert any("did not verify" in notice for notice in imported["notices"])
    modes = client.machine.sh("stat -c %a /etc/sevpn/profiles/*").split()
    assert set(modes) == {"600"}
    with client.up("office", "--pin", hub.pin, name="office") as tunnel:
        assert tunnel.status()["state"] == "connected"
        assert client.machine.pings(GATEWAY)


def test_all_accounts_of_the_official_client_come_over(
    client: Client, hub: Hub, official: OfficialClient
) -> None:
    official.command(
        "NicCreate se0",
        f"AccountCreate one /SERVER:{SERVER}:443 /HUB:{hub.name} /USERNAME:alice /NICNAME:se0",
        "AccountPasswordSet one /PASSWORD:secret /TYPE:standard",
        f"AccountCreate two /SERVER:{SERVER}:992 /HUB:{hub.name} /USERNAME:bob /NICNAME:se0",
        "AccountAnonymousSet two",
        "AccountProxySocks two /SERVER:192.0.2.77:1080 /USERNAME:puser /PASSWORD:ppass",
    )
    path = "/var/lib/softether/vpn_client.config"
    eventually(
        lambda: "two" in client.machine.sh(f"cat {path} 2>/dev/null || true"),
        within_s=30,
        what="the client's configuration on disk",
    )

    imported = import_file(client, path)

    assert sorted(one["profile"] for one in imported) == ["one", "two"]
    shown = json.loads(client.sevpn("profile", "show", "two", "--json").out)["keys"]
    assert shown["proxy"].startswith("socks4://puser@192.0.2.77:1080")
    assert shown["auth"] == "anonymous"
    with client.up("one", "--pin", hub.pin, name="one"):
        assert client.machine.pings(GATEWAY)


@pytest.mark.parametrize("kind", ["password", "plain"])
def test_a_profile_connects_with_the_official_client(
    client: Client, hub: Hub, official: OfficialClient, kind: str
) -> None:
    client.machine.write("/run/secret", "secret\n")
    words = (
        "--insecure",
        "--user",
        "alice",
        "--auth",
        kind,
        "--password",
        "file:/run/secret",
    )
    added = client.sevpn("profile", "add", "office", hub.target, *words)
    assert added.code == 0, added.err
    exported = client.sevpn(
        "profile", "export", "office", "--vpn", "-o", "/run/office.vpn"
    )
    assert exported.code == 0, exported.err
    assert client.machine.sh("stat -c %a /run/office.vpn").strip() == "600"

    official.command(
        "NicCreate VPN",
        "AccountImport " + UP + "run/office.vpn",
        "AccountConnect office",
    )

    eventually(official.is_connected, within_s=20, what="the client's connection")
    client.machine.sh(
        "ip addr add 192.168.30.77/24 dev vpn_vpn; ip link set vpn_vpn up"
    )
    eventually(
        lambda: client.machine.pings(GATEWAY),
        within_s=20,
        what="the official client's traffic",
    )


def test_an_account_with_a_certificate_brings_its_key_along(
    client: Client, hub: Hub, official: OfficialClient, tmp_path: Path
) -> None:
    _, certificate, key = known(hub, tmp_path)
    official.command(
        "NicCreate se0",
        f"AccountCreate t1 /SERVER:{SERVER}:443 /HUB:{hub.name} /USERNAME:bob /NICNAME:se0",
        f"AccountCertSet t1 /LOADCERT:{certificate} /LOADKEY:{key}",
        "AccountExport t1 /SAVEPATH:/run/office.vpn",
    )

    import_file(client, "/run/office.vpn", "--name", "office")
    certificate.unlink()
    key.unlink()

    with client.up("office", "--pin", hub.pin, name="office") as tunnel:
        assert tunnel.status()["session"]["name"].startswith("SID-BOB-")
        assert client.machine.pings(GATEWAY)


def test_a_profile_with_a_certificate_connects_with_the_official_client(
    client: Client, hub: Hub, official: OfficialClient, tmp_path: Path
) -> None:
    _, certificate, key = known(hub, tmp_path)
    added = client.sevpn(
        *("profile", "add", "office", hub.target, "--insecure", "--user", "bob"),
        *("--cert", str(certificate), "--key", f"file:{key}"),
    )
    assert added.code == 0, added.err
    exported = client.sevpn(
        "profile", "export", "office", "--vpn", "-o", "/run/office.vpn"
    )
    assert exported.code == 0, exported.err
    certificate.unlink()
    key.unlink()

    official.command(
        "NicCreate VPN",
        "AccountImport " + UP + "run/office.vpn",
        "AccountConnect office",
    )

    eventually(official.is_connected, within_s=20, what="the client's connection")
    assert any("SID-BOB-" in name for name in hub.server.sessions(hub.name))
    client.machine.sh(
        "ip addr add 192.168.30.78/24 dev vpn_vpn; ip link set vpn_vpn up"
    )
    eventually(
        lambda: client.machine.pings(GATEWAY),
        within_s=20,
        what="the official client's traffic",
    )


def test_what_the_official_client_exported_it_gets_back(
    client: Client, hub: Hub, official: OfficialClient
) -> None:
    official.command(
        "NicCreate se0",
        f"AccountCreate t1 /SERVER:{SERVER}:443 /HUB:{hub.name} /USERNAME:alice /NICNAME:se0",
        "AccountPasswordSet t1 /PASSWORD:secret /TYPE:standard",
        "AccountDetailSet t1 /MAXTCP:4 /INTERVAL:7 /TTL:99 /HALF:yes /BRIDGE:no /MONITOR:no /NOTRACK:yes /NOQOS:yes /DISABLEUDP:yes",
        "AccountRetrySet t1 /NUM:5 /INTERVAL:30",
        "AccountExport t1 /SAVEPATH:/run/before.vpn",
    )
    import_file(client, "/run/before.vpn", "--name", "office")
    done = client.sevpn("profile", "export", "office", "--vpn", "-o", "/run/ours.vpn")
    assert done.code == 0, done.err

    official.command(
        "AccountDelete t1",
        "AccountImport " + UP + "run/ours.vpn",
        "AccountExport t1 /SAVEPATH:/run/after.vpn",
    )

    lines = "grep -v '^#' /run/{}.vpn"
    assert client.machine.sh(lines.format("after")) == client.machine.sh(
        lines.format("before")
    )


def test_proxy_pin_and_compression_cross_over_and_back(
    client: Client, hub: Hub, official: OfficialClient
) -> None:
    official.command(
        "NicCreate se0",
        f"AccountCreate t1 /SERVER:{SERVER}:443 /HUB:{hub.name} /USERNAME:alice /NICNAME:se0",
        "AccountPasswordSet t1 /PASSWORD:secret /TYPE:standard",
        "AccountProxyHttp t1 /SERVER:192.0.2.77:3128 /USERNAME:puser /PASSWORD:ppass",
        "AccountCompressEnable t1",
        "AccountServerCertEnable t1",
        f"AccountServerCertSet t1 /LOADCERT:{certificate_of(client)}",
        "AccountExport t1 /SAVEPATH:/run/before.vpn",
    )

    (imported,) = import_file(client, "/run/before.vpn", "--name", "office")
    shown = json.loads(client.sevpn("profile", "show", "office", "--json").out)["keys"]
    done = client.sevpn("profile", "export", "office", "--vpn", "-o", "/run/ours.vpn")
    assert done.code == 0, done.err
    official.command(
        "AccountDelete t1",
        "AccountImport " + UP + "run/ours.vpn",
        "AccountExport t1 /SAVEPATH:/run/after.vpn",
    )

    assert imported["notices"] == []
    assert shown["proxy"] == "http://puser@192.0.2.77:3128"
    assert shown["compress"] is True
    assert shown["pin"] == [hub.pin]
    lines = "grep -v '^#' /run/{}.vpn"
    assert client.machine.sh(lines.format("after")) == client.machine.sh(
        lines.format("before")
    )


def certificate_of(client: Client) -> str:
    """Fetch the certificate that the server shows, and return where it is."""
    client.machine.sh(
        f"openssl s_client -connect {SERVER}:443 </dev/null 2>/dev/null"
        " | openssl x509 -out /run/server.crt"
    )
    assert "BEGIN CERTIFICATE" in client.machine.read("/run/server.crt")
    return UP + "run/server.crt"
