# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from sevpn.config.hostsource import HostSource
from sevpn.errors import ConfigError
from sevpn.protocol.credentials import hash_password
from sevpn.server.config import (
    DhcpConfig,
    HubConfig,
    Listen,
    RouteConfig,
    ServerConfig,
    User,
    parse_config,
    pool_range,
)
from sevpn.testing.userkeys import make_user_key

SOURCE = HostSource(
    {"PW": "secret", "HASH": hash_password("alice", "secret").hex()}, ask=None
)
FOLDER = Path("/etc/x")


def read(text: str) -> ServerConfig:
    return parse_config(text.encode(), SOURCE, name="server.toml", folder=FOLDER)


def test_a_whole_file_is_read() -> None:
    config = read(
        """
        listen = ["0.0.0.0:443", "[::]:443"]
        certificate = "cert.pem"

        [[hubs]]
        name = "OFFICE"
        gateway = "10.9.0.1/24"
        message = "Good day."
        names = { "host.test" = "10.9.0.7" }
        policy = { dhcp_force = true, multi_logins = 1 }

        [hubs.tap]
        name = "tap0"
        address = "10.9.0.2/24"

        [hubs.dhcp]
        first = "10.9.0.100"
        last = "10.9.0.199"
        dns = ["10.9.0.1"]
        routes = [{ destination = "10.8.0.0/16", gateway = "10.9.0.2" }]
        route_options = [249]

        [[hubs.users]]
        name = "alice"
        password = "env:PW"

        [[hubs.users]]
        name = "guest"
        auth = "anonymous"
        """
    )

    (hub,) = config.hubs
    assert [str(one.address) for one in config.endpoints] == ["0.0.0.0", "::"]  # noqa: S104 - of the file
    assert config.certificate == FOLDER / "cert.pem"
    assert hub.gateway == IPv4Interface("10.9.0.1/24")
    assert hub.names == {"host.test": IPv4Address("10.9.0.7")}
    assert hub.policy.dhcp_force
    assert hub.dhcp is not None
    assert hub.dhcp.routes == (
        RouteConfig(
            destination=IPv4Network("10.8.0.0/16"), gateway=IPv4Address("10.9.0.2")
        ),
    )
    assert hub.dhcp.route_options == (249,)
    assert hub.tap is not None
    alice = hub.user("ALICE")
    assert alice is not None
    assert alice == User.with_password("alice", "secret")
    assert hub.user("bob") is None


def test_a_password_may_be_its_hash() -> None:
    config = read('[[hubs]]\nusers = [{ name = "alice", password = "hash:env:HASH" }]')

    alice = config.hubs[0].user("alice")
    assert alice is not None
    assert alice.password is not None
    assert alice.password.hashed_for("alice") == hash_password("alice", "secret")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("listen = [", "no TOML"),
        ("listen = []", "listen has 0 entries"),
        ('listen = ["nonsense"]', "'nonsense' is no address"),
        ('listen = ["127.0.0.1:70000"]', "no address to listen on"),
        ("nonsense = 1", "nonsense"),
        ("hubs = []", "hubs has 0 entries"),
        ('hubs = [{ name = "A" }, { name = "a" }]', "is there twice"),
        ('hubs = [{ name = "A B" }]', "no name of a hub"),
        ('hubs = [{ users = [{ name = "" }] }]', "no name of a user"),
        ('hubs = [{ users = [{ name = "a" }] }]', "has no password"),
        (
            'hubs = [{ users = [{ name = "a", auth = "anonymous", password = "env:PW" }] }]',
            "is anonymous and has a password",
        ),
        (
            'hubs = [{ users = [{ name = "a", password = "env:NONE" }] }]',
            "NONE",
        ),
        ('hubs = [{ users = [{ name = "a", password = "hunter2" }] }]', "password"),
        ("hubs = [{ users = [{ name = 7 }] }]", "name"),
        ("hubs = [{ gateway = 7 }]", "string is wanted"),
        ('hubs = [{ gateway = "10.0.0.1/99" }]', "gateway"),
        ("hubs = [{ dhcp = {} }]", "'dhcp' without 'gateway'"),
        (
            'hubs = [{ gateway = "10.0.0.1/24", dhcp = { first = "10.1.0.1" } }]',
            "is no range of",
        ),
        (
            'hubs = [{ gateway = "10.0.0.1/24", dhcp = { first = "10.0.0.9", last = "10.0.0.8" } }]',
            "is no range of",
        ),
        ('hubs = [{ gateway = "10.0.0.1/8", dhcp = {} }]', "more than 65536"),
        ('hubs = [{ tap = { name = "a-name-that-is-long" } }]', "1 to 15 bytes"),
        ('key = "x"', "without 'certificate'"),
        ("hubs = [{ policy = { timeout_s = 1 } }]", "timeout_s"),
    ],
)
def test_a_wrong_file_is_refused_with_its_reason(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        read(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("127.0.0.1", "127.0.0.1", 5555),
        ("127.0.0.1:443", "127.0.0.1", 443),
        (":443", "127.0.0.1", 443),
        ("::1", "::1", 5555),
        ("[::1]", "::1", 5555),
        ("[::1]:443", "::1", 443),
        ("0.0.0.0:0", "0.0.0.0", 0),  # noqa: S104 - of the test
    ],
)
def test_an_address_to_listen_on_is_read(text: str, address: str, port: int) -> None:
    endpoint = Listen.parse(text)

    assert (str(endpoint.address), endpoint.port) == (address, port)


@pytest.mark.parametrize(
    "text", ["host", "1.2.3", "[::1", "1.2.3.4:x", "1.2.3.4:99999", "[1.2.3.4", "::g"]
)
def test_anything_else_is_no_address_to_listen_on(text: str) -> None:
    with pytest.raises(ConfigError, match="no address to listen on"):
        Listen.parse(text)


@pytest.mark.parametrize(
    ("gateway", "first", "last"),
    [
        ("10.0.0.1/24", "10.0.0.10", "10.0.0.254"),
        ("10.0.0.1/28", "10.0.0.2", "10.0.0.14"),
        ("10.0.0.1/30", "10.0.0.2", "10.0.0.2"),
        ("10.0.0.0/31", "10.0.0.1", "10.0.0.1"),
    ],
)
def test_a_pool_has_a_range_by_default(gateway: str, first: str, last: str) -> None:
    found = pool_range(DhcpConfig(), IPv4Interface(gateway))

    assert list(map(str, found)) == [first, last]


def test_parts_made_in_code_are_checked_too() -> None:
    hub = HubConfig(users=(User.anonymous("a"), User.anonymous("A")))

    with pytest.raises(ConfigError, match="is there twice"):
        ServerConfig(hubs=(hub,)).checked()


# --- users with a certificate ---------------------------------------------------


def read_in(folder: Path, user: str) -> ServerConfig:
    text = f'[[hubs]]\nusers = [{{ name = "bob", {user} }}]'
    return parse_config(text.encode(), SOURCE, name="x", folder=folder)


def test_a_user_may_be_known_by_a_certificate(tmp_path: Path) -> None:
    bob = make_user_key(name="bob")
    (tmp_path / "bob.pem").write_bytes(bob.pem)

    config = read_in(tmp_path, 'auth = "certificate", certificate = "bob.pem"')

    assert config.hubs[0].users == (User.with_certificate("bob", bob.der),)
    assert "certificate" in repr(config)


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        ('auth = "certificate"', "go together"),
        ('certificate = "bob.pem", password = "env:PW"', "go together"),
        (
            'auth = "certificate", certificate = "bob.pem", password = "env:PW"',
            "take one of them away",
        ),
        ('auth = "certificate", certificate = "none.pem"', "cannot be read"),
        ('auth = "certificate", certificate = "text.pem"', "is no certificate"),
        ('auth = "certificate", certificate = "ec.pem"', "no client can log in with"),
    ],
)
def test_a_user_whose_certificate_is_of_no_use_is_refused(
    tmp_path: Path, user: str, reason: str
) -> None:
    (tmp_path / "bob.pem").write_bytes(make_user_key(name="bob").pem)
    (tmp_path / "ec.pem").write_bytes(make_user_key("ec").pem)
    (tmp_path / "text.pem").write_bytes(b"hello")

    with pytest.raises(ConfigError, match=reason):
        read_in(tmp_path, user)
