# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest

from sevpn.config.paths import Paths
from sevpn.config.profile import (
    MAX_PROFILE_SIZE,
    Settings,
    load_profile,
    profile_names,
    profile_path,
    settings_for,
)
from sevpn.config.secret import HashOf, Literal, Secret, SecretFile
from sevpn.errors import ConfigError

NOBODY = 65534


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(tmp_path / "etc", tmp_path / "run", tmp_path / "lib")
    made.profiles_dir.mkdir(parents=True)
    return made


def write(paths: Paths, name: str, text: str, *, mode: int = 0o600) -> Path:
    path = paths.profiles_dir / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def choose(
    paths: Paths, text: str, /, environ: dict[str, str] | None = None, **options: object
) -> Settings:
    return settings_for(text, paths=paths, environ=environ or {}, options=options)


def test_a_profile_of_five_lines_is_read(paths: Paths) -> None:
    path = write(
        paths,
        "office",
        'host = "vpn.example.org"\nhub = "OFFICE"\nuser = "alice"\npassword = "file:office.pw"\naccept_dns = true\n',
        mode=0o644,
    )

    assert load_profile(path) == Settings(
        host="vpn.example.org",
        hub="OFFICE",
        name="office",
        user="alice",
        password=SecretFile(paths.profiles_dir / "office.pw"),
        accept_dns=True,
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hub = 'A'", "'host' is missing"),
        ("host = 'a'\nhubb = 'A'", "no key 'hubb' in .*office.toml: did you mean 'hub'"),
        ("host = 'a'\nserver-name = 'A'", "no key 'server-name' .*'server_name'"),
        ("host = 'a'\nno_dhcp = true", "no key 'no_dhcp' .*'dhcp'"),
        ("host = 'a'\n[zzzz]\n", "no key 'zzzz' in .*toml$"),
        ("host = 'a'\nport = '443'", "'port' in .* is '443', and must be a port number"),
        ("host = 'a'\nname = 'home'", "not the profile's own, 'office'"),
        ("host = 'a'\nhost = 'b'", "is no TOML: Cannot overwrite"),
        ("host = ", "is no TOML: Invalid value .at end of document."),
        ("host = 'a'\npassword = 'hunter2'", "'password' in .* is no reference .* or in a profile literal:TEXT"),
        ("host = 'a'\npassword = hunter2", "is no TOML: Invalid value .at line 2"),
        ("mtu = " + "9" * 5000, "is no TOML: Exceeds the limit"),
        ("mtu = " + "[" * 5000, "is no TOML: "),
        ("#" * (MAX_PROFILE_SIZE + 1), "longer than 65536 bytes"),
    ],
)  # fmt: skip
def test_a_wrong_profile_is_refused_with_file_and_key(
    paths: Paths, text: str, words: str
) -> None:
    path = write(paths, "office", text)

    with pytest.raises(ConfigError, match=words) as caught:
        load_profile(path)

    assert str(path) in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_profile_that_is_no_text_is_refused(paths: Paths) -> None:
    path = paths.profiles_dir / "office.toml"
    path.write_bytes(b"host = '\xff'")

    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_profile(path)


def test_a_profile_that_cannot_be_read_is_refused(paths: Paths) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.toml: No such file"):
        load_profile(paths.profiles_dir / "none.toml")


def test_a_folder_is_no_profile(paths: Paths) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        load_profile(paths.profiles_dir)


def test_a_device_is_no_profile() -> None:
    with pytest.raises(ConfigError, match=r"/dev/null is no file"):
        load_profile(Path("/dev/null"))


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_profile_that_others_can_write_is_refused(paths: Paths, mode: int) -> None:
    path = write(paths, "office", "host = 'a'", mode=mode)

    with pytest.raises(ConfigError, match="chmod go-w"):
        load_profile(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_profile_of_another_user_is_refused(paths: Paths) -> None:
    path = write(paths, "office", "host = 'a'")
    os.chown(path, NOBODY, NOBODY)

    with pytest.raises(ConfigError, match=r"belongs to another user .uid 65534."):
        load_profile(path)


@pytest.mark.parametrize("form", ["literal:hunter2", "hash:literal:hunter2"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_profile_that_holds_a_secret_and_can_be_read_is_refused(
    paths: Paths, form: str, mode: int
) -> None:
    path = write(paths, "office", f"host = 'a'\npassword = '{form}'", mode=mode)

    with pytest.raises(ConfigError, match="chmod 600") as caught:
        load_profile(path)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_profile_may_hold_a_secret(paths: Paths, mode: int) -> None:
    plain = write(paths, "a", "host = 'a'\npassword = 'literal:hunter2'", mode=mode)
    hashed = write(paths, "b", "host = 'a'\npassword = 'hash:literal:0123'", mode=mode)

    assert load_profile(plain).password == Literal(Secret("hunter2"))
    assert load_profile(hashed).password == HashOf(Literal(Secret("0123")))


# --- targets -----------------------------------------------------------------


def test_a_profile_that_exists_wins_over_a_server_of_its_name(paths: Paths) -> None:
    write(paths, "vpn.example", "host = 'other.example'")

    assert choose(paths, "vpn.example").host == "other.example"
    assert choose(paths, "vpn.example/HUB").host == "vpn.example"


def test_a_tunnel_bears_the_name_of_its_profile(paths: Paths) -> None:
    write(paths, "Office_2", "host = 'a'")

    assert choose(paths, "Office_2").tunnel_name == "Office_2"
    assert choose(paths, "Office_2", name="Office_2").tunnel_name == "Office_2"
    with pytest.raises(ConfigError, match="bears its name: leave out --name"):
        choose(paths, "Office_2", name="other")


def test_a_server_may_be_named(paths: Paths) -> None:
    assert choose(paths, "a.example/H", name="other").tunnel_name == "other"
    assert choose(paths, "a.example/H").tunnel_name == "a.example-h"


def test_a_word_that_is_no_profile_is_answered_with_the_nearest(paths: Paths) -> None:
    write(paths, "office", "host = 'a'")

    with pytest.raises(
        ConfigError, match=r"no profile 'offcie' in .*: did you mean 'office'"
    ):
        choose(paths, "offcie")
    with pytest.raises(
        ConfigError, match=r"no profile 'zzzz' in .*: for a server write HOST/HUB"
    ):
        choose(paths, "zzzz")


def test_without_a_folder_of_profiles_there_are_none(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "none", tmp_path, tmp_path)

    assert profile_names(paths) == []
    with pytest.raises(ConfigError, match=r"no profile 'office'"):
        choose(paths, "office")
    assert choose(paths, "a.example").host == "a.example"


def test_profiles_are_listed_by_name(paths: Paths) -> None:
    write(paths, "b", "")
    write(paths, "a", "")
    (paths.profiles_dir / "a.pw").touch()

    assert profile_names(paths) == ["a", "b"]


@pytest.mark.parametrize("name", ["../shadow", "a/b", "", ".hidden"])
def test_a_profile_name_never_leaves_the_folder(paths: Paths, name: str) -> None:
    with pytest.raises(ConfigError, match="is no name"):
        profile_path(name, paths)


def test_an_option_wins_over_the_environment_and_that_over_the_profile(
    paths: Paths,
) -> None:
    write(paths, "office", "host = 'a'\nhub = 'P'\nport = 1\nmtu = 1000")
    environ = {"SEVPN_PORT": "2", "SEVPN_HUB": "E"}

    settings = choose(paths, "office", environ, hub="O")

    assert (settings.hub, settings.port, settings.mtu) == ("O", 2, 1000)


def test_contradictions_between_layers_are_found(paths: Paths) -> None:
    write(paths, "office", "host = 'a'\ninsecure = true")

    with pytest.raises(ConfigError, match=r"'insecure' .* 'pin'"):
        choose(paths, "office", pin=("sha256:" + "00" * 32,))


def test_a_profile_may_leave_to_options_what_it_needs(paths: Paths) -> None:
    write(paths, "office", "host = 'a'\ndhcp = false")

    assert choose(paths, "office", address=("192.0.2.5/24",)).address
    with pytest.raises(ConfigError, match="add 'address'"):
        choose(paths, "office")


def test_a_wrong_target_is_refused(paths: Paths) -> None:
    with pytest.raises(ConfigError, match="from 1 to 65535"):
        choose(paths, "a.example:0")


def test_a_folder_that_may_not_be_searched_does_not_look_empty(paths: Paths) -> None:
    is_root = os.geteuid() == 0
    paths.profiles_dir.chmod(0)
    if is_root:
        os.seteuid(NOBODY)
    try:
        with pytest.raises(ConfigError, match="Permission denied"):
            choose(paths, "a.example")
    finally:
        if is_root:
            os.seteuid(0)
        paths.profiles_dir.chmod(0o700)
