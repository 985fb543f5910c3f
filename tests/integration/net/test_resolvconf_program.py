# SPDX-License-Identifier: Apache-2.0
"""Programs that are called resolvconf: which one it is, and those that go wrong."""

from __future__ import annotations

import os
import signal
from ipaddress import ip_address
from pathlib import Path

import pytest

from sevpn.errors import HostError
from sevpn.net.dns.backend import Owner
from sevpn.net.dns.detect import find_resolvconf, kind_of_resolvconf
from sevpn.net.dns.resolvconf import Resolvconf, owners, run_program
from sevpn.net.model import Resolver
from sevpn.testing.machine import eventually

OWNER = Owner("office", "sevpn0")
RESOLVER = Resolver((ip_address("10.0.0.1"),))


def program(folder: Path, script: str) -> Path:
    path = folder / "resolvconf"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
    path.chmod(0o755)
    return path


def backend(tmp_path: Path, script: str, conf: str) -> Resolvconf:
    (tmp_path / "resolv.conf").write_text(conf, encoding="ascii")
    path = program(tmp_path, script)
    return Resolvconf(path, "openresolv", resolv_conf=tmp_path / "resolv.conf")


def test_a_link_to_resolvectl_is_systemd_resolveds(tmp_path: Path) -> None:
    (tmp_path / "resolvectl").touch()
    (tmp_path / "resolvconf").symlink_to("resolvectl")

    assert kind_of_resolvconf(find_resolvconf([tmp_path])) == "resolvectl"


def test_openresolv_is_known_by_its_text_and_debians_is_the_other(
    tmp_path: Path,
) -> None:
    path = program(tmp_path, 'OPENRESOLV_VERSION="3.12.0"')
    assert kind_of_resolvconf(find_resolvconf([tmp_path])) == "openresolv"

    path.write_text("#!/bin/sh\n# part of the resolvconf package\n", encoding="ascii")
    assert kind_of_resolvconf(path) == "debian"


def test_without_the_program_there_is_no_kind(tmp_path: Path) -> None:
    assert find_resolvconf([tmp_path]) is None
    assert kind_of_resolvconf(None) is None


def test_nothing_of_our_environment_reaches_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEVPN_PASSWORD", "secret")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    path = program(tmp_path, "env")

    names = {
        line.partition("=")[0] for line in run_program([str(path)], "").splitlines()
    }

    assert (
        {"PATH", "LC_ALL"} <= names <= {"PATH", "LC_ALL", "PWD", "_", "SHLVL", "OLDPWD"}
    )


def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    path = program(
        tmp_path, "echo first >&2; printf 'disk \\033[1mfull\\n' >&2; exit 3"
    )

    with pytest.raises(HostError, match=r"by resolvconf: disk \[1mfull$"):
        run_program([str(path)], "")
    with pytest.raises(HostError, match="it ended with 3"):
        run_program([str(program(tmp_path, "exit 3"))], "")
    assert run_program([str(program(tmp_path, "echo x; exit 1"))], "", fine=1) == "x\n"


def test_a_program_that_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="it does not start: No such file"):
        run_program([str(tmp_path / "resolvconf")], "")


def test_a_program_that_does_not_end_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sevpn.net.dns.resolvconf._TIMEOUT_S", 1.0)
    path = program(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/pid; wait")

    with pytest.raises(HostError, match=r"did not end within 1 s"):
        run_program([str(path)], "")

    child = Path("/proc", (tmp_path / "pid").read_text().strip(), "cmdline")
    eventually(lambda: not child.exists() or not child.read_bytes(), what="its end")


def test_a_daemon_that_it_leaves_behind_is_neither_waited_for_nor_ended(
    tmp_path: Path,
) -> None:
    path = program(tmp_path, "sleep 1000 & echo $!")

    pid = int(run_program([str(path)], ""))

    os.kill(pid, signal.SIGKILL)  # it was there


def test_a_resolv_conf_that_does_not_show_our_servers_is_an_error(
    tmp_path: Path,
) -> None:
    other = backend(tmp_path, "exit 0", "nameserver 192.0.2.1\n")
    with pytest.raises(HostError, match="does not show our servers"):
        other.set(RESOLVER, OWNER)

    gone = backend(tmp_path, "exit 0", "")
    (tmp_path / "resolv.conf").unlink()
    with pytest.raises(HostError, match="does not show our servers"):
        gone.set(RESOLVER, OWNER)


@pytest.mark.parametrize("first", ["127.0.0.1", "::1", "10.0.0.1"])
def test_a_local_name_server_may_stand_for_ours(tmp_path: Path, first: str) -> None:
    backend(tmp_path, "exit 0", f"nameserver {first}\n").set(RESOLVER, OWNER)


def test_entries_of_tunnels_are_found_in_either_programs_folder(tmp_path: Path) -> None:
    for name in ("interfaces/tun.sevpn.a", "interface/tun.sevpn.b.c", "interface/eth0"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    assert owners(tmp_path) == ["a", "b.c"]
    assert owners(tmp_path / "nowhere") == []


def test_an_entry_counts_only_with_the_lines_that_we_wrote(tmp_path: Path) -> None:
    listing = "echo '# resolv.conf from tun.sevpn.office'; echo 'nameserver {}'"
    conf = "nameserver 10.0.0.1\n"

    right = backend(tmp_path, listing.format("10.0.0.1"), conf)
    assert right.is_in_place(RESOLVER, OWNER)
    wrong = backend(tmp_path, listing.format("10.0.0.2"), conf)
    assert not wrong.is_in_place(RESOLVER, OWNER)
    assert not backend(tmp_path, "exit 1", conf).is_in_place(RESOLVER, OWNER)
    assert not backend(tmp_path, "exit 2", conf).is_in_place(RESOLVER, OWNER)
