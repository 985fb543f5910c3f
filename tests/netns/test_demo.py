# SPDX-License-Identifier: Apache-2.0
"""`sevpn demo` runs to its end, as root and without any privilege, and leaves nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sevpn
from sevpn.testing.lab import Client
from sevpn.testing.machine import Machine

pytestmark = pytest.mark.netns


@pytest.fixture
def client() -> Iterator[Client]:
    with Machine("demo") as machine:
        yield Client(machine)


@pytest.mark.kernel
def test_the_demo_shows_a_whole_tunnel_and_leaves_nothing(client: Client) -> None:
    before = client.machine.snapshot()

    done = client.sevpn("demo", "--json", timeout_s=60)

    assert done.code == 0, done.err
    findings = json.loads(done.out)
    assert findings["http"].startswith("hello 10.77.0.")
    assert findings["restored"] is True
    assert findings["exit_code"] == 0
    assert findings["heal_s"] > 0
    assert findings["bulk_mbit_s"] > 0
    assert findings["seconds"] < 20  # the promise, not a measurement: it takes three
    assert client.machine.snapshot() == before


def test_the_demo_needs_no_root(client: Client) -> None:
    guest = as_a_guest(client.machine)

    done = client.machine.run(*guest, "demo", env=GUEST, timeout_s=60)

    assert done.code == 0, done.out + done.err
    assert "through the tunnel says 'hello 10.77.0." in done.out
    assert "nothing is left behind" in done.out


def test_a_kernel_that_refuses_is_told_with_the_way_out(client: Client) -> None:
    """Root that may nothing is not let into a user namespace as root either."""
    done = client.machine.run(
        *("setpriv", "--bounding-set=-all", "--inh-caps=-all"),
        *(client.program, "demo"),
    )

    assert done.code == 78, done.out + done.err
    assert "sudo" in done.err
    assert "Traceback" not in done.err


GUEST = {
    "PYTHONPATH": "/var/guest/site:/var/guest/src",
    "LD_LIBRARY_PATH": "/var/guest/python/lib",
    "HOME": "/",
}


def as_a_guest(machine: Machine) -> list[str]:
    """Return how to run sevpn as nobody on *machine*.

    Python and the packages may lie below somebody's private folder, so they are
    shown elsewhere; /dev/net/tun is open to all, as it is where udev made it.
    """
    site = next(path for path in sys.path if path.endswith("site-packages"))
    for name, source in {
        "python": sys.base_prefix,
        "site": site,
        "src": str(Path(sevpn.__file__).parents[1]),
    }.items():
        machine.check("mkdir", "-p", f"/var/guest/{name}")
        machine.check("mount", "--bind", source, f"/var/guest/{name}")
    machine.sh(
        "mount -t tmpfs tmpfs /dev/net; mknod /dev/net/tun c 10 200; chmod 666 /dev/net/tun"
    )
    python = f"/var/guest/python/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    return [*nobody, python, "-m", "sevpn"]
