# SPDX-License-Identifier: Apache-2.0
"""What an account of the official client becomes, and what becomes of a profile."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given, strategies as st

from sevpn.config.cfgtext import Folder, Number64, Value, read_text, write_text
from sevpn.config.obscure import obscure
from sevpn.config.profile import Auth, Settings
from sevpn.config.secret import Secret
from sevpn.config.store import settings_of_keys
from sevpn.config.vpnfile import (
    ExportSecrets,
    Imported,
    account_folders,
    export_account,
    import_account,
    name_accounts,
    profile_name,
)
from sevpn.errors import ConfigError

HASH = base64.b64decode("/KPVT8udsb3tSCu9AZBIrP4xQ8A=")
CERTIFICATE = b"\x30\x03DER"
PKCS1 = b"\x30\x82\x00\x07\x02\x01\x00\x02\x02\x01\x01"
PKCS8 = b"\x30\x06\x02\x01\x00\x30\x01\x00"


Items: TypeAlias = dict[str, Value | None]
"""Values of a folder; `None`: it has none of that name."""


def account(**changes: Items) -> Folder:
    """An account as vpncmd exports it: alice, by password, through a proxy."""
    root = Folder()
    values: dict[str, Items] = {
        "root": {
            "CheckServerCert": False,
            "CreateDateTime": Number64(0),
            "RetryOnServerCert": False,
            "StartupAccount": False,
        },
        "ClientAuth": {"AuthType": 1, "HashedPassword": HASH, "Username": "alice"},
        "ClientOption": {
            "AccountName": "Office VPN $ 1",
            "DeviceName": "vpn1",
            "Hostname": "vpn.example.net/tcp",
            "Port": 992,
            "HubName": "OFFICE",
            "MaxConnection": 8,
            "NumRetry": 4294967295,
            "RetryInterval": 15,
            "UseEncrypt": True,
            "UseCompress": False,
            "HalfConnection": False,
            "ProxyType": 0,
        },
    }
    for name, changed in changes.items():
        values[name] |= changed
    for folder, items in values.items():
        where = root if folder == "root" else root.open(folder)
        for key, value in items.items():
            if value is not None:
                where.set(key, value)
    return root


def imported(**changes: Items) -> Imported:
    return import_account(account(**changes))


def settings_of(one: Imported) -> Settings:
    return settings_of_keys(one.keys, Path(f"/etc/sevpn/profiles/{one.name}.toml"))


def noticed(one: Imported, words: str) -> bool:
    return any(words in notice for notice in one.notices)


# --- import ------------------------------------------------------------------


def test_an_account_becomes_a_profile_that_means_the_same() -> None:
    one = imported()

    assert one.name == "Office-VPN-1"
    assert one.keys == {
        "host": "vpn.example.net",
        "port": 992,
        "hub": "OFFICE",
        "user": "alice",
        "password": "hash:file:Office-VPN-1.imported-password",
        "connections": 8,
        "retries": "forever",
        "reconnect_delay": "15s",
    }
    assert {name: text.reveal() for name, text in one.secrets.items()} == {
        "Office-VPN-1.imported-password": HASH.hex()
    }
    assert settings_of(one).login == "password"


def test_a_name_can_be_given() -> None:
    one = import_account(account(), name="work")

    assert one.name == "work"
    assert set(one.secrets) == {"work.imported-password"}


def test_a_plain_password_is_read() -> None:
    one = imported(
        ClientAuth={
            "AuthType": 2,
            "HashedPassword": None,
            "EncryptedPassword": obscure("microsoft"),
        }
    )

    assert one.keys["auth"] == "plain"
    assert [text.reveal() for text in one.secrets.values()] == ["microsoft"]
    assert "microsoft" not in repr(one)


@pytest.mark.parametrize(
    "auth",
    [
        {"HashedPassword": bytes(20)},
        {"HashedPassword": None},
        {"AuthType": 2, "HashedPassword": None},
        {"AuthType": 2, "HashedPassword": None, "EncryptedPassword": b""},
    ],
)
def test_a_password_that_was_not_saved_will_be_asked_for(
    auth: Items,
) -> None:
    one = imported(ClientAuth=auth)

    assert one.secrets == {}
    assert "password" not in one.keys
    assert noticed(one, "will be asked for")
    assert settings_of(one).password_reference is not None


@pytest.mark.parametrize(
    ("key", "label"), [(PKCS1, "RSA PRIVATE KEY"), (PKCS8, "PRIVATE KEY")]
)
def test_a_certificate_and_its_key_become_files(key: bytes, label: str) -> None:
    one = imported(
        ClientAuth={
            "AuthType": 3,
            "HashedPassword": None,
            "ClientCert": CERTIFICATE,
            "ClientKey": key,
        }
    )

    assert one.keys["auth"] == "certificate"
    assert one.keys["cert"] == "Office-VPN-1.crt"
    assert one.keys["key"] == "file:Office-VPN-1.key"
    lines = one.secrets["Office-VPN-1.key"].reveal().splitlines()
    assert lines[0] == f"-----BEGIN {label}-----"
    assert base64.b64decode("".join(lines[1:-1])) == key
    assert settings_of(one).login == "certificate"


def test_an_anonymous_account_needs_nothing() -> None:
    one = imported(ClientAuth={"AuthType": 0, "HashedPassword": None, "Username": ""})

    assert settings_of(one).login == "anonymous"
    assert one.secrets == {}


def test_the_server_is_verified_by_its_certificate_if_the_account_did_so() -> None:
    pinned = imported(root={"CheckServerCert": True, "ServerCert": CERTIFICATE})
    unchecked = imported(root={"ServerCert": CERTIFICATE})

    assert pinned.keys["pin"] == [f"sha256:{hashlib.sha256(CERTIFICATE).hexdigest()}"]
    assert not noticed(pinned, "verify")
    assert "pin" not in unchecked.keys
    assert not settings_of(unchecked).insecure
    assert noticed(unchecked, "did not verify its server")


@pytest.mark.parametrize(
    ("number", "scheme"), [(1, "http"), (2, "socks4"), (3, "socks5")]
)
def test_a_proxy_is_taken_over(number: int, scheme: str) -> None:
    one = imported(
        ClientOption={
            "ProxyType": number,
            "ProxyName": "proxy.example.net",
            "ProxyPort": 3128,
            "ProxyUsername": "p user",
            "ProxyPassword": obscure("ppass"),
        }
    )

    assert one.keys["proxy"] == f"{scheme}://p%20user@proxy.example.net:3128"
    assert one.keys["proxy_password"] == "file:Office-VPN-1.proxy-password"
    assert one.secrets["Office-VPN-1.proxy-password"].reveal() == "ppass"
    assert settings_of(one).proxy is not None


@pytest.mark.parametrize(
    ("option", "keys"),
    [
        ({"HalfConnection": True}, {"half_duplex": True}),
        ({"UseCompress": True}, {"compress": True}),
        ({"NoUdpAcceleration": True}, {"udp": "off"}),
        ({"NoUdpAcceleration": False}, {}),
        ({"NumRetry": 3}, {"retries": 3}),
        ({"RetryInterval": 1}, {"reconnect_delay": "5s"}),
        (
            {"RetryInterval": 9999},
            {"reconnect_delay": "300s", "reconnect_max_delay": "300s"},
        ),
        ({"Hostname": "[2001:db8::7]"}, {"host": "2001:db8::7"}),
    ],
)
def test_options_are_taken_over(option: Items, keys: dict[str, object]) -> None:
    one = imported(ClientOption=option)

    assert one.keys == {**imported().keys, **keys}
    settings_of(one)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"PortUDP": 5555}, "UDP alone"),
        ({"UseEncrypt": False}, "always does"),
        ({"RequireBridgeRoutingMode": True}, "sevpn bridge"),
        ({"RequireMonitorMode": True}, "sevpn capture"),
        ({"BindLocalIP": "192.0.2.7"}, "leaves that to the routes"),
    ],
)
def test_what_will_be_otherwise_is_told(option: Items, words: str) -> None:
    assert noticed(imported(ClientOption=option), words)
    assert not noticed(imported(), words)


def test_unknown_keys_are_kept_and_told() -> None:
    one = imported(ClientOption={"Shiny": 7}, root={"New": "thing"})

    assert noticed(one, "ClientOption/Shiny, New")
    assert set(one.rest.names()) >= {"ClientOption/Shiny", "New"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ClientAuth": {"AuthType": 4}}, "smart card"),
        ({"ClientAuth": {"AuthType": 99}}, "unknown way"),
        ({"ClientAuth": {"HashedPassword": b"short"}}, "wrong size"),
        ({"ClientAuth": {"AuthType": 3}}, "does not hold it"),
        ({"ClientOption": {"Hostname": ""}}, "without a server"),
        ({"ClientOption": {"MaxConnection": 33}}, "from 1 to 32"),
        ({"ClientOption": {"ProxyType": 9}}, "unknown kind"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Items], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        imported(**changes)


def test_a_whole_configuration_has_all_its_accounts() -> None:
    root = Folder()
    database = root.open("AccountDatabase")
    for number in range(3):
        database.folders[f"account{number}"] = (
            f"Account{number}",
            account(ClientOption={"Port": number + 1}),
        )
    database.open("Other")

    ports = [import_account(one).keys["port"] for one in account_folders(root)]

    assert ports == [1, 2, 3]


@pytest.mark.parametrize(
    "root",
    [Folder(), read_text(b"declare root\n{\ndeclare AccountDatabase\n{\n}\n}\n")],
)
def test_a_file_without_an_account_is_refused(root: Folder) -> None:
    with pytest.raises(ConfigError, match="no account"):
        account_folders(root)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("Office VPN $ 1", "Office-VPN-1"),
        ("日本", "imported"),
        ("../etc", "etc"),
        ("x" * 99, "x" * 63),
    ],
)
def test_an_accounts_name_becomes_a_profiles(label: str, name: str) -> None:
    assert profile_name(label) == name


def test_accounts_of_one_name_become_profiles_of_several() -> None:
    labels = ["Office", "Office", "Office-2", "Office!", "x" * 70, "x" * 80]
    accounts = [account(ClientOption={"AccountName": label}) for label in labels]

    assert name_accounts(accounts) == [
        ("Office", "Office"),
        ("Office", "Office-3"),
        ("Office-2", "Office-2"),
        ("Office!", "Office-4"),
        ("x" * 70, "x" * 63),
        ("x" * 80, "x" * 61 + "-2"),
    ]


@pytest.mark.parametrize(
    ("auth", "login"),
    [
        ({"AuthType": 1, "HashedPassword": bytes(20)}, "password"),
        ({"AuthType": 2, "EncryptedPassword": b""}, "plain"),
        (
            {"AuthType": 3, "ClientCert": CERTIFICATE, "ClientKey": PKCS1},
            "certificate",
        ),
    ],
)
def test_a_user_that_was_left_out_can_be_added(auth: Items, login: str) -> None:
    one = imported(ClientAuth={**auth, "Username": ""})
    path = Path("/etc/sevpn/profiles/one.toml")

    assert noticed(one, "--user")
    assert settings_of_keys(one.keys, path, may_lack_user=True).login == login
    assert settings_of_keys({**one.keys, "user": "bob"}, path).login == login
    with pytest.raises(ConfigError, match="without a user: add 'user'"):
        settings_of_keys(one.keys, path)


@pytest.mark.parametrize(
    ("hint", "is_told"), [("", False), ("/tcp", False), ("/hint9", True)]
)
def test_a_way_through_nats_is_told_and_kept(hint: str, is_told: bool) -> None:
    one = imported(ClientOption={"Hostname": f"vpn.example.net{hint}"})

    assert noticed(one, "NATs") is is_told
    assert given_back(one)["ClientOption/Hostname"] == f"vpn.example.net{hint}"


UNUSED_PROXY: Items = {
    "ProxyType": 0,
    "ProxyName": "proxy.example.net",
    "ProxyPort": 3128,
    "ProxyUsername": "puser",
    "ProxyPassword": obscure("ppass"),
}


def test_a_proxy_that_is_saved_and_not_used_is_given_back() -> None:
    found = given_back(imported(ClientOption=UNUSED_PROXY))

    assert {key: found[f"ClientOption/{key}"] for key in UNUSED_PROXY} == UNUSED_PROXY


def test_a_kept_password_is_a_secret_of_an_export() -> None:
    one = imported(ClientOption=UNUSED_PROXY)

    found = given_back(one, ExportSecrets())

    assert found["ClientOption/ProxyName"] == "proxy.example.net"
    assert found["ClientOption/ProxyPassword"] == b""


def test_a_proxys_password_without_a_user_is_told_and_kept() -> None:
    one = imported(
        ClientOption=UNUSED_PROXY | {"ProxyType": 1, "ProxyUsername": ""},
    )

    assert noticed(one, "a password for its proxy and no user")
    assert "proxy_password" not in one.keys
    assert given_back(one)["ClientOption/ProxyPassword"] == obscure("ppass")


def given_back(
    one: Imported, secrets: ExportSecrets | None = None
) -> dict[str, object]:
    found, _ = export_account(
        settings_of(one),
        name=one.name,
        secrets=secrets or ExportSecrets(password_hash=HASH, has_kept=True),
        rest=one.rest,
    )
    return flat(found)


WILD = st.dictionaries(
    st.sampled_from(
        [
            "AuthType", "Username", "HashedPassword", "EncryptedPassword", "ClientCert", "ClientKey", "Hostname",
            "Port", "HubName", "MaxConnection", "ProxyType", "ProxyName", "ProxyPort", "NumRetry", "RetryInterval",
            "AccountName", "UseCompress", "ProxyUsername", "ProxyPassword", "CheckServerCert", "ServerCert",
        ]
    ),
    st.one_of(st.booleans(), st.integers(0, 2**32 - 1), st.binary(max_size=30), st.text(max_size=30)),
)  # fmt: skip


@given(option=WILD, auth=WILD, root=WILD)
def test_any_account_becomes_a_valid_profile_or_is_refused(
    option: Items, auth: Items, root: Items
) -> None:
    with contextlib.suppress(ConfigError):
        settings_of(imported(ClientOption=option, ClientAuth=auth, root=root))


# --- export ------------------------------------------------------------------


def test_what_was_imported_is_exported_again() -> None:
    given_account = account(
        ClientOption={"Shiny": 7, "ProxyType": 1, "ProxyName": "p", "ProxyPort": 80},
        root={"CheckServerCert": True, "ServerCert": CERTIFICATE},
    )
    before = read_text(write_text(given_account, comment=""))
    one = import_account(given_account)

    found, notices = export_account(
        settings_of(one),
        name=one.name,
        secrets=ExportSecrets(password_hash=HASH),
        rest=one.rest,
    )

    changed = {
        path: (value, after.get(path))
        for after in [flat(found)]
        for path, value in flat(before).items()
        if after.get(path) != value
    }
    assert changed == {}
    assert notices == ()


def flat(folder: Folder, prefix: str = "") -> dict[str, object]:
    values: dict[str, object] = {
        prefix + name: value for name, value in folder.values.values()
    }
    for name, inner in folder.folders.values():
        values |= flat(inner, f"{prefix}{name}/")
    return values


def exported(
    settings: Settings, secrets: ExportSecrets | None = None
) -> dict[str, object]:
    return flat(
        export_account(
            settings, name="office", secrets=secrets or ExportSecrets(), rest=None
        )[0]
    )


def test_each_login_has_its_keys() -> None:
    plain = exported(
        Settings(host="h", user="bob", auth="plain"),
        ExportSecrets(password=Secret("microsoft")),
    )
    certified = exported(
        Settings(host="h", user="bob", auth="certificate", cert=Path("bob.crt")),
        ExportSecrets(certificate=CERTIFICATE, key=PKCS1),
    )

    assert plain["ClientAuth/EncryptedPassword"] == obscure("microsoft")
    assert (plain["ClientAuth/AuthType"], certified["ClientAuth/AuthType"]) == (2, 3)
    assert certified["ClientAuth/ClientKey"] == PKCS1
    assert exported(Settings(host="h"))["ClientAuth/AuthType"] == 0


@pytest.mark.parametrize("auth", ["password", "plain", "certificate"])
def test_what_is_left_out_is_told(auth: Auth) -> None:
    settings = Settings(
        host="h", user="bob", auth=auth, cert=Path("bob.crt"), accept_dns=True
    )

    _, notices = export_account(settings, name="x", secrets=ExportSecrets(), rest=None)

    assert any("exported" in notice for notice in notices)
    assert any("accept_dns" in notice for notice in notices)


def test_a_pin_without_its_certificate_is_told() -> None:
    settings = Settings(host="h", pin=("sha256:" + "0" * 64,))

    _, notices = export_account(settings, name="x", secrets=ExportSecrets(), rest=None)

    assert any("only its fingerprint" in notice for notice in notices)
