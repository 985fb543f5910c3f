# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import re
import ssl
from pathlib import Path

import pytest

from integration.server_lab import asynchronous, shared_identity
from sevpn.config.hostsource import HostSource
from sevpn.errors import ConfigError
from sevpn.server.certificate import load_identity, make_identity, server_context
from sevpn.server.config import MAX_CONFIG_SIZE, ServerConfig, load_config
from sevpn.server.server import Server

SOURCE = HostSource({}, ask=None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    identity = shared_identity()
    (tmp_path / "cert.pem").write_bytes(identity.certificate_pem)
    (tmp_path / "key.pem").write_bytes(identity.key_pem)
    (tmp_path / "both.pem").write_bytes(identity.key_pem + identity.certificate_pem)
    (tmp_path / "other.pem").write_bytes(make_identity(()).key_pem)
    (tmp_path / "garbage.pem").write_bytes(b"-----BEGIN NONSENSE-----\n")
    return tmp_path


@pytest.mark.parametrize(("cert", "key"), [("cert.pem", "key.pem"), ("both.pem", None)])
def test_a_certificate_is_read_from_one_file_or_two(
    folder: Path, cert: str, key: str | None
) -> None:
    identity = load_identity(folder / cert, None if key is None else folder / key)

    server_context(identity)
    assert identity.sha256 == shared_identity().sha256


def test_the_fingerprint_is_that_of_the_der() -> None:
    identity = shared_identity()

    der = ssl.PEM_cert_to_DER_cert(identity.certificate_pem.decode())
    assert identity.sha256 == hashlib.sha256(der).hexdigest()
    assert "PRIVATE" not in repr(identity)


@pytest.mark.parametrize(
    ("cert", "key", "reason"),
    [
        ("none.pem", None, "cannot be read"),
        ("cert.pem", "none.pem", "cannot be read"),
        ("garbage.pem", None, "no certificate in PEM form"),
        ("key.pem", None, "no certificate in PEM form"),
    ],
)
def test_what_is_no_certificate_is_refused(
    folder: Path, cert: str, key: str | None, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_identity(folder / cert, None if key is None else folder / key)


def test_a_key_of_another_certificate_is_refused(folder: Path) -> None:
    identity = load_identity(folder / "cert.pem", folder / "other.pem")

    with pytest.raises(ConfigError, match="its key must belong to it"):
        server_context(identity)


def test_a_certificate_without_a_key_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="its key must belong to it"):
        server_context(load_identity(folder / "cert.pem"))


@asynchronous
async def test_a_server_presents_the_certificate_of_its_file() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        await Server(ServerConfig(certificate=Path("/nowhere.pem"))).start()


def test_a_file_is_loaded_and_its_paths_are_relative_to_it(folder: Path) -> None:
    path = folder / "server.toml"
    path.write_text('certificate = "cert.pem"\nkey = "key.pem"\n')

    server = Server(load_config(path, SOURCE))

    assert server.certificate_sha256 == shared_identity().sha256


def test_a_file_that_cannot_be_read_or_is_too_long_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(folder / "none.toml", SOURCE)

    path = folder / "long.toml"
    path.write_bytes(b"#" * (MAX_CONFIG_SIZE + 1))
    with pytest.raises(ConfigError, match="is longer than"):
        load_config(path, SOURCE)


def test_the_example_of_the_reference_page_is_a_configuration(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs/reference/serve.md"
    found = re.search(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
    assert found is not None
    (tmp_path / "alice.secret").write_text("secret\n")
    (tmp_path / "alice.secret").chmod(0o600)
    path = tmp_path / "server.toml"
    path.write_text(found[1])

    config = load_config(path, SOURCE)

    assert config.hubs[0].policy.dhcp_force
    assert [user.name for user in config.hubs[0].users] == ["alice", "guest"]
