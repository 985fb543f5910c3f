# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys

from sevpn.config.frozen import own_command, restore_environment


def test_children_get_the_library_path_that_the_user_had() -> None:
    environ = {
        "LD_LIBRARY_PATH": "/tmp/_MEIa:/opt/lib",  # noqa: S108 - a name, no file
        "LD_LIBRARY_PATH_ORIG": "/opt/lib",
        "PATH": "/bin",
    }

    restore_environment(environ, frozen=True)

    assert environ == {"LD_LIBRARY_PATH": "/opt/lib", "PATH": "/bin"}


def test_children_get_no_library_path_if_the_user_had_none() -> None:
    environ = {"LD_LIBRARY_PATH": "/tmp/_MEIa", "PATH": "/bin"}  # noqa: S108 - likewise

    restore_environment(environ, frozen=True)

    assert environ == {"PATH": "/bin"}


def test_children_do_not_learn_where_the_launchers_unpacked() -> None:
    environ = {
        "_PYI_APPLICATION_HOME_DIR": "/tmp/_MEIa",  # noqa: S108 - likewise
        "_PYI_ARCHIVE_FILE": "/tmp/staticx-a/sevpn",  # noqa: S108 - likewise
        "_PYI_PARENT_PROCESS_LEVEL": "1",
        "STATICX_PROG_PATH": "/usr/local/bin/sevpn",
    }

    restore_environment(environ, frozen=True)

    assert environ == {"STATICX_PROG_PATH": "/usr/local/bin/sevpn"}


def test_an_installed_package_leaves_the_environment_alone() -> None:
    environ = {"LD_LIBRARY_PATH": "/opt/lib", "_PYI_ARCHIVE_FILE": "/x"}

    restore_environment(environ, frozen=False)

    assert environ == {"LD_LIBRARY_PATH": "/opt/lib", "_PYI_ARCHIVE_FILE": "/x"}


def test_one_file_starts_itself_by_the_name_that_the_user_started() -> None:
    environ = {"STATICX_PROG_PATH": "/usr/local/bin/sevpn"}

    assert own_command(environ, frozen=True) == ["/usr/local/bin/sevpn"]


def test_one_file_of_the_inner_launcher_alone_starts_that() -> None:
    assert own_command({}, frozen=True) == [sys.executable]


def test_an_installed_package_starts_itself_by_its_python() -> None:
    environ = {"STATICX_PROG_PATH": "/usr/local/bin/other"}

    assert own_command(environ, frozen=False) == [sys.executable, "-m", "sevpn"]
