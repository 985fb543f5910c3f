# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from sevpn.config.paths import Paths
from sevpn.errors import ConfigError


def test_root_has_the_system_folders_whatever_its_environment_says() -> None:
    paths = Paths.for_user({"HOME": "/home/a", "XDG_RUNTIME_DIR": "/run/user/7"}, 0)

    assert paths == Paths(
        Path("/etc/sevpn"), Path("/run/sevpn"), Path("/var/lib/sevpn")
    )
    assert paths.locks_dir == Path("/var/lib/sevpn/lock")
    assert paths.profiles_dir == Path("/etc/sevpn/profiles")


def test_a_user_has_the_folders_that_xdg_names() -> None:
    environ = {"XDG_CONFIG_HOME": "/c", "XDG_RUNTIME_DIR": "/r"}

    assert Paths.for_user(environ | {"XDG_STATE_HOME": "/s"}, 7) == Paths(
        Path("/c/sevpn"), Path("/r/sevpn"), Path("/s/sevpn")
    )
    assert Paths.for_user(environ, 7).state_dir == Path("/c/sevpn")


def test_without_xdg_a_user_has_the_usual_folders() -> None:
    paths = Paths.for_user({"HOME": "/home/a"}, 7)

    assert paths == Paths(
        Path("/home/a/.config/sevpn"),
        Path("/run/user/7/sevpn"),
        Path("/home/a/.local/state/sevpn"),
    )


def test_a_relative_xdg_folder_is_ignored() -> None:
    environ = {"HOME": "/h", "XDG_CONFIG_HOME": "c", "XDG_RUNTIME_DIR": ""}

    paths = Paths.for_user(environ, 7)

    assert paths == Paths(
        Path("/h/.config/sevpn"),
        Path("/run/user/7/sevpn"),
        Path("/h/.local/state/sevpn"),
    )


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "here"}])
def test_a_user_without_a_home_is_told_to_set_it(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="set HOME"):
        Paths.for_user(environ, 7)
