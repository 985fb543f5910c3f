# SPDX-License-Identifier: Apache-2.0
"""`sevpn up --legacy-tls`, from the command line to traffic through a server of long ago."""

from __future__ import annotations

import pytest

from sevpn.testing.lab import Client, EmbeddedServer, Network

pytestmark = pytest.mark.netns

INSIDE = "10.77.0.254"

# The server's TLS settings, as one that knows nothing newer has them.
OLD = """
import ssl, warnings
    from sevpn.server import server as module
    modern = module.server_context
    def old(identity):
        context = modern(identity)
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.{version}
        return context
    module.server_context = old
"""


@pytest.mark.parametrize(
    ("version", "shown"), [("TLSv1", "TLSv1"), ("TLSv1_1", "TLSv1.1")]
)
def test_a_server_of_long_ago_is_reached_by_wish_only(
    client: Client, network: Network, version: str, shown: str
) -> None:
    server = EmbeddedServer(network.server, setup=OLD.format(version=version).strip())
    try:
        words = ("192.0.2.1/TEST", "--user", "alice", "--pin", server.pin)
        refused = client.sevpn("up", *words, "--once", env={"SEVPN_PASSWORD": "secret"})
        with client.up(*words, "--legacy-tls", password="secret") as tunnel:
            status = tunnel.status()
            reached = client.machine.pings(INSIDE)
    finally:
        server.stop()

    assert refused.code == 76
    assert "--legacy-tls takes them" in refused.err
    assert status["session"]["tls"]["version"] == shown
    assert reached
