# SPDX-License-Identifier: Apache-2.0
"""Logging in to the real server by certificate and by one-time password, right and wrong."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sevpn.testing.lab import SERVER, Client, EmbeddedServer, Hub, Network, Up
from sevpn.testing.machine import end, eventually
from sevpn.testing.peers import OfficialClient
from sevpn.testing.services import Radius
from sevpn.testing.userkeys import UserKey, make_user_key

pytestmark = [pytest.mark.netns, pytest.mark.interop]


def known(hub: Hub, folder: Path, kind: int = 2048) -> tuple[UserKey, Path, Path]:
    """Make bob, whom the hub knows by a certificate; return it and its two files."""
    user = make_user_key(kind, name="bob")
    certificate, key = user.write(folder, "bob")
    hub.server.create_certificate_user(hub.name, "bob", certificate)
    return user, certificate, key


def reconnected(client: Client, tunnel: Up) -> None:
    """Drop the session, and wait for another one that is proven."""
    first = tunnel.status()["session"]["name"]
    client.sevpn("reconnect", "t")

    def is_another() -> bool:
        status = tunnel.status()
        name = (status.get("session") or {}).get("name", first)
        return status.get("state") == "connected" and name != first

    eventually(is_another, within_s=45, what="another session")


@pytest.mark.parametrize("bits", [1024, 1536, 2048, 3072, 4096])
def test_a_certificate_of_every_size_logs_in_and_traffic_flows(
    client: Client, hub: Hub, tmp_path: Path, bits: int
) -> None:
    _, certificate, key = known(hub, tmp_path, bits)

    with client.up(
        hub.target,
        *("--pin", hub.pin, "--user", "bob"),
        *("--cert", str(certificate), "--key", f"file:{key}"),
    ) as tunnel:
        assert tunnel.status()["session"]["name"].startswith("SID-BOB-")
        assert client.machine.pings("192.168.30.1")


def test_an_encrypted_pkcs12_file_is_opened_by_reference(
    client: Client, hub: Hub, tmp_path: Path
) -> None:
    user, _, _ = known(hub, tmp_path)
    other = make_user_key("ec", name="authority")
    (tmp_path / "bob.p12").write_bytes(user.pkcs12("open sesame", other.parsed))

    with client.up(
        hub.target,
        *("--pin", hub.pin, "--user", "bob", "--cert", str(tmp_path / "bob.p12")),
        *("--key-password", "env:PHRASE"),
        env={"PHRASE": "open sesame"},
    ) as tunnel:
        status = tunnel.status()
        assert status["session"]["name"].startswith("SID-BOB-")
        assert any("2 certificates" in text for text in status["warnings"])
        assert client.machine.pings("192.168.30.1")


def test_a_session_that_is_lost_is_opened_again_with_the_certificate(
    client: Client, hub: Hub, tmp_path: Path
) -> None:
    _, certificate, key = known(hub, tmp_path)

    with client.up(
        hub.target,
        *("--pin", hub.pin, "--user", "bob"),
        *("--cert", str(certificate), "--key", f"file:{key}"),
    ) as tunnel:
        reconnected(client, tunnel)
        assert tunnel.status()["session"]["name"].startswith("SID-BOB-")
        assert client.machine.pings("192.168.30.1")


def test_a_user_whom_an_authority_vouches_for_logs_in_without_the_chain(
    client: Client, hub: Hub, tmp_path: Path
) -> None:
    authority = make_user_key(name="authority")
    (tmp_path / "authority.pem").write_bytes(authority.pem)
    user = make_user_key(name="bob", issuer=authority)
    certificate, key = user.write(tmp_path, "bob")
    certificate.write_bytes(user.pem + authority.pem)
    hub.server.command(
        # What begins with a slash is an option to vpncmd.
        f"CAAdd {os.path.relpath(tmp_path / 'authority.pem')}",
        "UserCreate bob /GROUP:none /REALNAME:none /NOTE:none",
        "UserSignedSet bob /CN:none /SERIAL:none",
        hub=hub.name,
    )

    with client.up(
        hub.target,
        *("--pin", hub.pin, "--user", "bob"),
        *("--cert", str(certificate), "--key", f"file:{key}"),
    ) as tunnel:
        assert any("2 certificates" in text for text in tunnel.status()["warnings"])
        assert client.machine.pings("192.168.30.1")


_LOGIN = """
import asyncio, datetime, os, pathlib, sys
from sevpn.config.keyfile import read_client_key
from sevpn.errors import RefusedError
from sevpn.protocol.credentials import Certificate
from sevpn.protocol.identity import ClientIdentity
from sevpn.transport.tls import TrustPolicy
from sevpn.tunnel.opening import Destination, open_session

certificate, key, hub, pin = sys.argv[1:]
read = read_client_key(
    pathlib.Path(certificate).read_bytes(), pathlib.Path(key).read_bytes(), name="", ask=lambda: "",
    now=datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=5))

async def nothing(_addresses):
    pass

async def main():
    try:
        await open_session(
            Destination(host="192.0.2.1", port=443, hub=hub, trust=TrustPolicy(pins=(pin,)), hello_s=30.0,
                        credentials=Certificate("bob", read.certificate, read.sign)),
            identify=lambda stream: ClientIdentity(
                unique_id=bytes(16), machine_id=bytes(20), client_address=stream.local_address),
            random=os.urandom, on_addresses=nothing, on_hello=lambda *_: None)
    except RefusedError as error:
        print(error.code)
    else:
        print(0)

asyncio.run(main())
"""


@pytest.mark.parametrize(("end", "code"), [(-2.0, "9"), (30.0, "0")])
def test_the_server_refuses_an_expired_certificate_as_a_wrong_one(
    client: Client, hub: Hub, tmp_path: Path, end: float, code: str
) -> None:
    """What the client refuses beforehand would have been refused in any case."""
    certificate, key = make_user_key(name="bob", valid=(-9, end)).write(tmp_path, "bob")
    hub.server.create_certificate_user(hub.name, "bob", certificate)

    said = client.machine.python(_LOGIN, str(certificate), str(key), hub.name, hub.pin)

    assert said.strip() == code


def test_the_official_client_logs_in_to_the_embedded_server_by_certificate(
    tmp_path: Path,
) -> None:
    certificate, key = make_user_key(name="alice").write(tmp_path)
    network = Network()
    try:
        embedded = EmbeddedServer(network.server)
        embedded.do(
            "server.hubs['test'].replace_user("
            f"User.with_certificate('alice', Path({str(certificate)!r}).read_bytes()))"
        )
        with network.client() as other:
            official = OfficialClient(other.machine)
            name = official.connect(
                server=f"{SERVER}:443",
                hub="TEST",
                user="alice",
                proof=f"AccountCertSet t1 /LOADCERT:{certificate} /LOADKEY:{key}",
            )
            other.machine.sh(f"ip addr add 10.77.0.50/24 dev {name}")
            assert other.machine.pings("10.77.0.254")
            official.stop()
        embedded.stop()
    finally:
        network.close()


def test_a_certificate_that_the_hub_does_not_know_is_refused_once(
    client: Client, hub: Hub, tmp_path: Path
) -> None:
    known(hub, tmp_path)
    certificate, key = make_user_key(name="bob").write(tmp_path, "stranger")

    done = client.sevpn(
        *("up", hub.target, "--pin", hub.pin, "--user", "bob"),
        *("--cert", str(certificate), "--key", f"file:{key}"),
    )

    assert done.code == 77
    assert "refused the certificate of 'bob'" in done.err
    assert "password" not in done.err


def test_a_one_time_password_is_appended_and_fetched_for_each_login(
    client: Client, hub: Hub
) -> None:
    radius = Radius(hub.server.machine, user="carol", password="secret424242")
    hub.server.create_radius_user(
        hub.name, "carol", server="127.0.0.1", secret=radius.SECRET
    )
    client.machine.write("/run/token", "#!/bin/sh\necho x >> /run/asked\necho 424242\n")
    client.machine.sh("chmod 700 /run/token")
    try:
        with client.up(
            hub.target,
            *("--pin", hub.pin, "--user", "carol", "--otp", "cmd:/run/token"),
            password="secret",
        ) as tunnel:
            assert client.machine.pings("192.168.30.1")
            assert "Login OK" in radius.log()
            reconnected(client, tunnel)
            assert client.machine.pings("192.168.30.1")
            assert client.machine.read("/run/asked").count("x") == 2
    finally:
        radius.stop()


# Whom it asks takes the password for right once somebody has approved.
_APPROVER = """
import hashlib, socket, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 1812))
print("ready", flush=True)
while True:
    asked, peer = sock.recvfrom(4096)
    time.sleep(5)
    head = bytes((2, asked[1], 0, 20))
    sock.sendto(head + hashlib.md5(head + asked[4:20] + b"shared").digest(), peer)
"""


def test_a_login_that_somebody_has_to_approve_is_waited_for(
    client: Client, hub: Hub
) -> None:
    hub.server.create_radius_user(
        hub.name, "carol", server="127.0.0.1", secret="shared"
    )
    approver = hub.server.machine.popen([sys.executable, "-c", _APPROVER])
    assert approver.stdout is not None
    assert approver.stdout.readline() == "ready\n"
    try:
        with client.up(
            hub.target,
            *("--pin", hub.pin, "--user", "carol", "--auth", "plain"),
            # To the Hello; the answer to a plain password may take four times that.
            *("--connect-timeout", "4", "--once"),
            password="secret",
        ):
            assert client.machine.pings("192.168.30.1")
    finally:
        end(approver)


def test_a_wrong_one_time_password_is_refused(client: Client, hub: Hub) -> None:
    radius = Radius(hub.server.machine, user="carol", password="secret424242")
    hub.server.create_radius_user(
        hub.name, "carol", server="127.0.0.1", secret=radius.SECRET
    )
    try:
        done = client.sevpn(
            *("up", hub.target, "--pin", hub.pin, "--user", "carol"),
            env={"SEVPN_PASSWORD": "secret", "SEVPN_OTP": "999999"},
        )
    finally:
        radius.stop()

    assert done.code == 77
    assert "999999" not in done.err
