# SPDX-License-Identifier: Apache-2.0
"""resolv.conf as a plain file: replaced at once, restored by itself alone."""

from __future__ import annotations

import os
import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest

from sevpn.errors import Failure, HostError
from sevpn.net.dns.backend import Owner
from sevpn.net.dns.file import ResolvConf
from sevpn.net.model import Resolver
from sevpn.testing.sandbox import mount, sandboxed

pytestmark = pytest.mark.netns

OLD = "# by hand\nnameserver 192.0.2.53\n"
RESOLVER = Resolver(
    (ip_address("10.0.0.1"), ip_address("2001:db8::1")), ("corp.example", "example")
)
OFFICE = Owner("office", "sevpn0")
SAVED = ".resolv.conf.sevpn-saved"


def make(etc: Path, content: str | None = OLD) -> tuple[ResolvConf, Path]:
    path = etc / "resolv.conf"
    if content is not None:
        path.write_text(content, encoding="ascii")
        path.chmod(0o640)
    return ResolvConf(etc), path


def is_set(path: Path) -> bool:
    return "nameserver 10.0.0.1\n" in path.read_text(encoding="ascii")


def names(etc: Path) -> list[str]:
    return sorted(path.name for path in etc.iterdir())


def test_a_plain_file_is_replaced_and_comes_back_as_the_same_file(
    tmp_path: Path,
) -> None:
    conf, path = make(tmp_path)
    inode = path.stat().st_ino

    conf.set(RESOLVER, OFFICE)

    first, _, *rest = path.read_text(encoding="ascii").splitlines()
    assert first.startswith("# sevpn tunnel office: ")
    assert rest == [
        "search corp.example example",
        "nameserver 10.0.0.1",
        "nameserver 2001:db8::1",
    ]
    assert path.stat().st_mode & 0o777 == 0o644
    assert conf.owner() == "office"
    assert names(tmp_path) == [SAVED, "resolv.conf"]
    assert conf.put_back()
    assert path.stat().st_ino == inode
    assert path.read_text(encoding="ascii") == OLD
    assert names(tmp_path) == ["resolv.conf"]


def test_setting_other_servers_keeps_the_first_saved_copy(tmp_path: Path) -> None:
    conf, path = make(tmp_path)
    conf.set(Resolver((ip_address("10.9.9.9"),)), OFFICE)

    conf.set(RESOLVER, OFFICE)

    assert is_set(path)
    conf.put_back()
    assert path.read_text(encoding="ascii") == OLD


def test_a_symbolic_link_comes_back_as_one_and_its_target_is_not_touched(
    tmp_path: Path,
) -> None:
    target = tmp_path / "stub-resolv.conf"
    target.write_text("nameserver 127.0.0.53\n", encoding="ascii")
    path = tmp_path / "resolv.conf"
    path.symlink_to("stub-resolv.conf")
    conf = ResolvConf(tmp_path)

    conf.set(RESOLVER, OFFICE)
    assert is_set(path)
    assert not path.is_symlink()
    conf.put_back()

    assert str(path.readlink()) == "stub-resolv.conf"
    assert target.read_text(encoding="ascii") == "nameserver 127.0.0.53\n"


def test_a_link_to_nowhere_comes_back_as_one(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.symlink_to("/run/nowhere/resolv.conf")
    conf = ResolvConf(tmp_path)

    conf.set(RESOLVER, OFFICE)
    assert is_set(path)
    conf.put_back()

    assert str(path.readlink()) == "/run/nowhere/resolv.conf"


def test_where_there_was_none_there_is_none_again(tmp_path: Path) -> None:
    conf, path = make(tmp_path, content=None)

    conf.set(RESOLVER, OFFICE)
    assert is_set(path)
    conf.put_back()

    assert names(tmp_path) == []


def test_restoring_needs_nothing_but_the_two_files(tmp_path: Path) -> None:
    conf, path = make(tmp_path)
    conf.set(RESOLVER, OFFICE)

    assert ResolvConf(tmp_path).put_back()

    assert path.read_text(encoding="ascii") == OLD
    assert not ResolvConf(tmp_path).put_back()
    assert path.read_text(encoding="ascii") == OLD


@pytest.mark.parametrize("content", ["nameserver 192.0.2.99\n", ""])
def test_what_somebody_else_wrote_meanwhile_stays_and_our_copy_goes(
    tmp_path: Path, content: str
) -> None:
    conf, path = make(tmp_path)
    conf.set(RESOLVER, OFFICE)
    path.write_text(content, encoding="ascii")

    assert not conf.put_back()

    assert path.read_text(encoding="ascii") == content
    assert names(tmp_path) == ["resolv.conf"]


def test_after_somebody_else_wrote_it_theirs_is_what_is_saved_next(
    tmp_path: Path,
) -> None:
    conf, path = make(tmp_path)
    conf.set(RESOLVER, OFFICE)
    path.write_text("nameserver 192.0.2.99\n", encoding="ascii")

    conf.set(RESOLVER, OFFICE)
    assert is_set(path)
    conf.put_back()

    assert path.read_text(encoding="ascii") == "nameserver 192.0.2.99\n"


def test_without_the_saved_copy_our_file_stays_and_it_is_told(tmp_path: Path) -> None:
    conf, path = make(tmp_path)
    conf.set(RESOLVER, OFFICE)
    (tmp_path / SAVED).unlink()

    with pytest.raises(HostError, match="by hand"):
        conf.put_back()

    assert is_set(path)


def test_a_stale_copy_and_a_half_written_file_of_a_crash_are_forgotten(
    tmp_path: Path,
) -> None:
    conf, path = make(tmp_path)
    (tmp_path / SAVED).write_text("nameserver 192.0.2.1\n", encoding="ascii")
    (tmp_path / ".resolv.conf.sevpn-new").write_text(
        "# sevpn tunnel x", encoding="ascii"
    )

    conf.forget_stale_copy()

    assert names(tmp_path) == ["resolv.conf"]
    assert path.read_text(encoding="ascii") == OLD


@sandboxed
def test_a_mounted_file_is_written_in_place(tmp_path: Path) -> None:
    etc, outside = tmp_path / "etc", tmp_path / "outside"
    etc.mkdir()
    conf, path = make(etc, content="")
    outside.write_text(OLD + "# a long tail\n" * 100, encoding="ascii")
    mount(outside, path)
    inode = path.stat().st_ino

    conf.set(RESOLVER, OFFICE)
    assert is_set(path)
    assert outside.read_text(encoding="ascii") == path.read_text(encoding="ascii")
    assert path.stat().st_ino == inode
    assert conf.put_back()

    assert path.read_text(encoding="ascii") == OLD + "# a long tail\n" * 100
    assert names(etc) == ["resolv.conf"]


@sandboxed
def test_a_mounted_file_that_was_shorter_than_ours_comes_back_whole(
    tmp_path: Path,
) -> None:
    etc, outside = tmp_path / "etc", tmp_path / "outside"
    etc.mkdir()
    conf, path = make(etc, content="")
    outside.write_text("#\n", encoding="ascii")
    mount(outside, path)

    conf.set(RESOLVER, OFFICE)
    ResolvConf(etc).put_back()

    assert path.read_text(encoding="ascii") == "#\n"


@sandboxed
def test_a_read_only_folder_is_an_error_that_changes_nothing(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    conf, path = make(etc)
    mount(etc, etc, options="ro")

    with pytest.raises(
        HostError, match="read-only; leave names alone with --dns-mode off"
    ) as caught:
        conf.set(RESOLVER, OFFICE)

    assert caught.value.failure is Failure.HOST
    assert caught.value.operation == "write-resolver"
    assert path.read_text(encoding="ascii") == OLD


@sandboxed
def test_a_mounted_read_only_file_is_an_error_that_changes_nothing(
    tmp_path: Path,
) -> None:
    etc, outside = tmp_path / "etc", tmp_path / "outside"
    etc.mkdir()
    conf, path = make(etc, content="")
    outside.write_text(OLD, encoding="ascii")
    mount(outside, path, options="ro")

    with pytest.raises(HostError, match="read-only"):
        conf.set(RESOLVER, OFFICE)

    assert path.read_text(encoding="ascii") == OLD
    assert names(etc) == ["resolv.conf"]


@sandboxed
def test_a_full_disk_is_an_error_that_changes_nothing(tmp_path: Path) -> None:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k", "none", tmp_path], check=True
    )
    conf, path = make(tmp_path)
    (tmp_path / "filler").write_bytes(bytes(4096))

    with pytest.raises(HostError, match="No space"):
        conf.set(RESOLVER, OFFICE)

    assert path.read_text(encoding="ascii") == OLD
    assert names(tmp_path) == ["filler", "resolv.conf"]


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_something_that_is_no_file_is_not_touched(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "resolv.conf"
    if kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)

    with pytest.raises(HostError, match="neither a file nor"):
        ResolvConf(tmp_path).set(RESOLVER, OFFICE)

    assert names(tmp_path) == ["resolv.conf"]


def test_a_link_that_is_laid_in_the_way_is_not_followed(tmp_path: Path) -> None:
    conf, path = make(tmp_path)
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="ascii")
    (tmp_path / ".resolv.conf.sevpn-new").symlink_to(victim)
    (tmp_path / SAVED).symlink_to(victim)

    conf.set(RESOLVER, OFFICE)
    assert is_set(path)
    conf.put_back()

    assert victim.read_text(encoding="ascii") == "precious"
    assert path.read_text(encoding="ascii") == OLD
