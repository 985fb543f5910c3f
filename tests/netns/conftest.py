# SPDX-License-Identifier: Apache-2.0
"""What tests in namespaces share: a network with our own server, and a client on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from leftovers import leaves_nothing, pytest_assertrepr_compare
from sevpn.testing.lab import Client, EmbeddedServer, Network

__all__ = ["leaves_nothing", "pytest_assertrepr_compare"]


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = Network()
    yield made
    made.close()


@pytest.fixture
def client(network: Network) -> Iterator[Client]:
    with network.client() as made:
        yield made


@pytest.fixture
def server(network: Network) -> Iterator[EmbeddedServer]:
    """Our own server, with nothing that goes wrong."""
    made = EmbeddedServer(network.server)
    yield made
    made.stop()
