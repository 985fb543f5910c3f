# SPDX-License-Identifier: Apache-2.0
"""What tests rely on of the network that they run in."""

from __future__ import annotations

import subprocess

import pytest

from sevpn.testing.lab import Network
from sevpn.testing.machine import Machine, end

pytestmark = pytest.mark.netns


def test_who_knows_the_servers_address_is_not_cut_off_by_others(
    network: Network,
) -> None:
    with network.client() as first:
        (known,) = network.server.ip("link", "show", "br0")
        assert first.machine.pings("192.0.2.1")

        for _ in range(3):
            with network.client():
                (now,) = network.server.ip("link", "show", "br0")
                assert now["address"] == known["address"]


def test_a_number_that_somebody_else_has_by_now_is_not_signalled() -> None:
    with Machine("alone") as machine:
        gone = machine.popen(["true"])
        gone.wait()
        other = subprocess.Popen(["sleep", "60"], start_new_session=True)
        gone.pid = other.pid  # as the kernel would give it, 32,768 processes later

        end(gone)

        assert other.poll() is None
        other.kill()
        other.wait()
