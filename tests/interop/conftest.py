# SPDX-License-Identifier: Apache-2.0
"""The real SoftEther server, one for all tests of a run; a hub and a client for each.

Hubs are not deleted: the server waits for lingering sessions then, and it ends
with the run anyway.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from leftovers import leaves_nothing, pytest_assertrepr_compare
from sevpn.testing.lab import Client, Hub, Network
from sevpn.testing.peers import SoftEtherServer

__all__ = ["leaves_nothing", "pytest_assertrepr_compare"]

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    made = Network()
    yield made
    made.close()


@pytest.fixture(scope="session")
def real_server(network: Network) -> SoftEtherServer:
    # Hubs ask each host they know for its address, each five seconds if left alone;
    # what that proves and how it is answered is the same when they do it sooner.
    return SoftEtherServer(network.server, settings={"HUB_ARP_SEND_INTERVAL": "1000"})


@pytest.fixture
def hub(real_server: SoftEtherServer) -> Hub:
    """A hub with SecureNAT and a user alice with password 'secret'."""
    name = f"HUB{next(_numbers)}"
    real_server.create_hub(name, securenat=True, users={"alice": "secret"})
    return Hub(real_server, name, real_server.certificate_sha256())


@pytest.fixture
def plain_hub(real_server: SoftEtherServer) -> Hub:
    """A hub with nothing but a user alice with password 'secret'."""
    name = f"HUB{next(_numbers)}"
    real_server.create_hub(name, users={"alice": "secret"})
    return Hub(real_server, name, real_server.certificate_sha256())


@pytest.fixture
def client(network: Network) -> Iterator[Client]:
    with network.client() as made:
        yield made
