# SPDX-License-Identifier: Apache-2.0
"""The other VPNs that the benchmark compares with carry traffic, as they are set up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sevpn.testing.machine import Machine, connect
from sevpn.testing.rivals import (
    join_by_openvpn,
    join_by_wireguard,
    missing_openvpn,
    missing_wireguard,
)

pytestmark = [pytest.mark.interop, pytest.mark.netns]


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    with Machine("server") as server, Machine("client") as client:
        connect(client, server)
        yield server, client


@pytest.mark.skipif(missing_openvpn() is not None, reason=str(missing_openvpn()))
def test_openvpn_joins_two_machines(
    machines: tuple[Machine, Machine], tmp_path: Path
) -> None:
    server, client = machines
    joined = join_by_openvpn(server, client, outer="192.0.2.1", folder=tmp_path)

    assert server.pings(joined.client_address)

    joined.stop()
    assert not client.pings(joined.server_address, wait_s=0.2)


@pytest.mark.skipif(missing_wireguard() is not None, reason=str(missing_wireguard()))
def test_wireguard_joins_two_machines(machines: tuple[Machine, Machine]) -> None:
    server, client = machines
    joined = join_by_wireguard(server, client, outer="192.0.2.1")

    assert server.pings(joined.client_address)

    joined.stop()
    assert not client.pings(joined.server_address, wait_s=0.2)
