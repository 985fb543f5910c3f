# SPDX-License-Identifier: Apache-2.0
"""The one-file executable, where there is nothing else: a root file system with busybox alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sevpn.testing.certs import make_authority
from sevpn.testing.lab import SERVER, Client, EmbeddedServer, Hub, Network
from sevpn.testing.machine import Finished, Machine, end, eventually
from sevpn.testing.peers import PEERS

pytestmark = [pytest.mark.netns, pytest.mark.interop]

ROOT = Path(__file__).parents[2]
BINARY = ROOT / "dist" / "sevpn"
PLACE = "/mnt"
"""Where the root file system lies on the client's machine; it is gone with that."""
TEMPORARY = f"{PLACE}/tmp"  # noqa: S108 - not this machine's

PATIENCE_S = 20.0
FEDORA = "/etc/pki/tls/certs/ca-bundle.crt"


def why_not() -> str | None:
    """Return why the executable cannot be tested."""
    environ = os.environ | {"PYTHON": sys.executable}
    words = [str(ROOT / "scripts" / "binary"), "--is-current"]
    if subprocess.run(words, env=environ, check=False).returncode != 0:
        return "dist/sevpn is not made of these sources: make binary"
    if not busybox().exists():
        return "there is no busybox: run scripts/peers"
    return None


def busybox() -> Path:
    return PEERS / "usr" / "bin" / "busybox"


@pytest.fixture(scope="session")
def binary() -> Path:
    reason = why_not()
    if reason is not None and os.environ.get("CI") == "true":
        pytest.fail(f"cannot run in CI: {reason}", pytrace=False)
    if reason is not None:
        pytest.skip(reason)
    return BINARY


class Bare:
    """A root file system with busybox, the executable, and what a kernel brings."""

    def __init__(self, machine: Machine, binary: Path) -> None:
        self.machine = machine
        machine.sh(
            f"mount -t tmpfs -o mode=755 tmpfs {PLACE}; cd {PLACE};"
            "mkdir -p bin dev/net etc proc root run tmp;"
            "mount -t proc proc proc; mknod dev/net/tun c 10 200; mknod dev/null c 1 3;"
            f"echo {SERVER} vpn.test > etc/hosts;"
            f"cp {busybox()} bin/busybox; ln -s busybox bin/sh; cp {binary} bin/sevpn"
        )

    def popen(self, *words: str, **settings: Any) -> subprocess.Popen[str]:
        """Start a program in it."""
        return self.machine.popen(["chroot", PLACE, *words], **settings)

    def sevpn(self, *words: str, **settings: Any) -> Finished:
        """Run sevpn to its end."""
        return self.machine.run("chroot", PLACE, "/bin/sevpn", *words, **settings)

    def status(self) -> dict[str, Any]:
        """Return the status of the one tunnel; `{}` if there is none."""
        done = self.sevpn("status", "--json")
        tunnels = json.loads(done.out)["tunnels"] if done.code == 0 else []
        found: dict[str, Any] = tunnels[0] if tunnels else {}
        return found

    def is_connected(self) -> bool:
        return self.status().get("state") == "connected"

    def is_empty(self) -> bool:
        """Whether nothing that was unpacked is left."""
        return not self.machine.sh(f"ls -A {TEMPORARY}").split()


@pytest.fixture
def bare(client: Client, binary: Path) -> Bare:
    return Bare(client.machine, binary)


def login(hub: Hub) -> list[str]:
    return [hub.target, "--pin", hub.pin, "--user", "alice"]


SECRET = {"SEVPN_PASSWORD": "secret"}


def test_there_is_neither_python_nor_a_c_library(bare: Bare) -> None:
    files = bare.machine.sh(f"find {PLACE} -xdev -type f -printf '%P '").split()

    done = bare.sevpn("--version")

    assert sorted(files) == ["bin/busybox", "bin/sevpn", "etc/hosts"]
    assert (done.code, done.out.split()[0]) == (0, "sevpn,")
    assert bare.is_empty()


def test_it_connects_to_the_real_server_and_leaves(bare: Bare, hub: Hub) -> None:
    before = bare.machine.snapshot()
    words = (f"vpn.test/{hub.name}", "--name", "one", "--pin", hub.pin)
    process = bare.popen("/bin/sevpn", "up", *words, "--user", "alice", env=SECRET)
    try:
        eventually(bare.is_connected, within_s=PATIENCE_S, what="a connection")
        status = bare.status()

        assert status["name"] == "one"
        assert status["server"]["address"] == SERVER
        assert status["lease"]["address"].startswith("192.168.30.")
        assert status["interface"]["kernel"] == kernel_of(binary=BINARY)
        assert bare.machine.pings("192.168.30.1")
        assert bare.sevpn("down", "one").code == 0
        assert process.wait(PATIENCE_S) == 0
    finally:
        end(process)
    assert bare.machine.snapshot() == before
    assert bare.is_empty()


def kernel_of(*, binary: Path) -> str:
    """Return which kernel was packed: the wheel says by its name whether there was a compiler."""
    (wheel,) = (ROOT / ".cache" / "binary" / "wheel").glob("*.whl")
    assert binary.stat().st_mtime >= wheel.stat().st_mtime
    return "python" if wheel.name.endswith("-none-any.whl") else "compiled"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_it_through_its_launchers(
    bare: Bare, hub: Hub, number: signal.Signals
) -> None:
    before = bare.machine.snapshot()
    process = bare.popen("/bin/sevpn", "up", *login(hub), env=SECRET)
    try:
        eventually(bare.is_connected, within_s=PATIENCE_S, what="a connection")
        if number is signal.SIGTERM:
            process.send_signal(number)
        else:
            os.killpg(process.pid, number)  # as a terminal does: launchers and all

        # Of a hang-up the outer launcher dies, or hears of the tunnel's end before:
        # the tunnel ends in order either way.
        code = process.wait(PATIENCE_S)
        assert code in ({0, -number} if number is signal.SIGHUP else {0})
        eventually(bare.is_empty, what="an empty temporary folder")
    finally:
        end(process)
    assert bare.machine.snapshot() == before


def test_it_detaches_and_its_output_ends(bare: Bare, hub: Hub) -> None:
    """Whatever waits for the end of its output, as `$(…)` and ssh do, goes on."""
    before = bare.machine.snapshot()

    done = bare.sevpn("up", *login(hub), "--name", "d", "--detach", env=SECRET)

    assert (done.code, done.out) == (0, ""), done.err
    assert bare.is_connected()
    assert bare.machine.pings("192.168.30.1")
    assert bare.sevpn("down", "d").code == 0
    eventually(bare.is_empty, what="an empty temporary folder")
    assert bare.machine.snapshot() == before


def test_a_detached_one_that_fails_tells_its_exit_code(bare: Bare, hub: Hub) -> None:
    done = bare.sevpn(
        "up", *login(hub), "--detach", env={"SEVPN_PASSWORD": "wrong"}, timeout_s=60
    )

    assert done.code == 77
    assert "server error 9" in done.err
    eventually(bare.is_empty, what="an empty temporary folder")


def test_detaching_into_a_mistake_is_told_like_any_other(bare: Bare) -> None:
    done = bare.sevpn("up", "nobody/HUB", "--detach", "--pin", "sha256:0")

    assert done.code == 65
    assert "sha256" in done.err
    eventually(bare.is_empty, what="an empty temporary folder")


def test_it_says_when_it_cannot_unpack_itself(bare: Bare) -> None:
    done = bare.sevpn("--version", env={"TMPDIR": "/nowhere"})

    assert done.code != 0
    assert "/nowhere" in done.err


def test_the_unpacked_files_are_locked_against_removal(bare: Bare, hub: Hub) -> None:
    """What cleans temporary folders asks for an exclusive lock first."""
    process = bare.popen("/bin/sevpn", "up", *login(hub), env=SECRET)
    try:
        eventually(bare.is_connected, within_s=PATIENCE_S, what="a connection")
        folders = bare.machine.sh(f"ls -d {TEMPORARY}/*").split()

        locked = [
            bare.machine.run("flock", "--nonblock", "--exclusive", folder, "true").code
            for folder in folders
        ]

        assert len(folders) == 2
        assert locked == [1, 1]
    finally:
        process.terminate()
        end(process)


def test_a_ca_that_this_distribution_trusts_is_trusted(
    network: Network, bare: Bare, tmp_path: Path
) -> None:
    """OpenSSL's own place is that of the machine that built it; here it is Fedora's."""
    authority = make_authority(tmp_path)
    leaf = authority.issue("good", addresses=[SERVER])
    bare.machine.sh(
        f"mkdir -p {PLACE}{Path(FEDORA).parent}; cp {authority.certificate} {PLACE}{FEDORA}"
    )
    # The real server has port 443 here.
    server = EmbeddedServer(
        network.server,
        config=f"certificate=Path('{leaf.certificate}'), key=Path('{leaf.key}'),"
        "listen=('192.0.2.1:8443',)",
    )
    try:
        process = bare.popen(
            *("/bin/sevpn", "up", f"{SERVER}:8443/TEST", "--user", "alice"), env=SECRET
        )
        try:
            eventually(bare.is_connected, within_s=PATIENCE_S, what="a connection")
            assert bare.status()["server"]["verified_by"] == "ca"
            assert bare.sevpn("down").code == 0
            assert process.wait(PATIENCE_S) == 0
        finally:
            end(process)
    finally:
        server.stop()


def test_it_serves(bare: Bare) -> None:
    process = bare.popen(
        *("/bin/sevpn", "serve", "--json", "--anonymous", "--hub", "LAB"),
        stderr=subprocess.STDOUT,
    )
    try:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())

        assert facts["event"] == "serving"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        end(process)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_it_completes(bare: Bare, shell: str) -> None:
    done = bare.sevpn("completion", shell)

    assert done.code == 0
    assert "_SEVPN_COMPLETE" in done.out


@pytest.fixture
def witness(client: Client, tmp_path: Path) -> Iterator[Path]:
    """An `ip` that notes what it is given in its environment, first in the machine's PATH."""
    notes = tmp_path / "environments"
    real = shutil.which("ip", path="/usr/sbin:/usr/bin:/sbin:/bin")
    script = f'#!/bin/sh\nenv >> {notes}\nexec {real} "$@"\n'
    client.machine.write(f"{notes.parent}/ip", script, mode="755")
    yield notes
    notes.unlink(missing_ok=True)


def test_the_demo_runs_and_its_children_get_the_library_path_that_we_got(
    client: Client, binary: Path, witness: Path
) -> None:
    before = client.machine.snapshot()

    done = client.machine.run(
        *(binary, "demo", "--json"),
        env={
            "PATH": f"{witness.parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "LD_LIBRARY_PATH": "/opt/lib",
        },
        timeout_s=60,
    )

    assert done.code == 0, done.err
    assert json.loads(done.out)["restored"] is True
    environments = witness.read_text()
    assert "LD_LIBRARY_PATH=/opt/lib\n" in environments
    assert "_MEI" not in environments
    assert "_PYI_" not in environments
    assert client.machine.snapshot() == before
