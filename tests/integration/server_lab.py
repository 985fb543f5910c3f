# SPDX-License-Identifier: Apache-2.0
"""What the tests of the embedded server share: a server, and how to wait."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, ParamSpec

from sevpn.server.certificate import Identity, make_identity
from sevpn.server.config import DhcpConfig, HubConfig, ServerConfig, User
from sevpn.server.policy import Policy
from sevpn.server.server import Server
from sevpn.wire.arp import question
from sevpn.wire.ethernet import MacAddress

P = ParamSpec("P")

GATEWAY = IPv4Address("10.9.0.1")


@functools.cache
def shared_identity() -> Identity:
    """One certificate for all tests: a key takes a while to make."""
    return make_identity(("localhost", "127.0.0.1"))


def asynchronous(
    function: Callable[P, Coroutine[Any, Any, None]],
) -> Callable[P, None]:
    """Run a test that is a coroutine; whatever it leaves behind is an error."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(function(*args, **kwargs))

    return run


def a_server(policy: Policy | None = None, **hub: Any) -> Server:
    """Return a server with the hub TEST: alice is anonymous, bob has the password 'secret'."""
    made = HubConfig(
        name="TEST",
        users=(User.anonymous("alice"), User.with_password("bob", "secret")),
        policy=policy or Policy(),
        gateway=IPv4Interface("10.9.0.1/24"),
        dhcp=DhcpConfig(),
        **hub,
    )
    config = ServerConfig(listen=("127.0.0.1:0",), hubs=(made,), deadline_s=2.0)
    return Server(config, identity=shared_identity())


def mac(number: int) -> MacAddress:
    return MacAddress(b"\x5e\0\0\0\0" + bytes([number]))


def ip(number: int) -> IPv4Address:
    return IPv4Address(f"10.9.0.{number}")


def ask_gateway(number: int) -> bytes:
    """The ARP request of client *number* for the gateway."""
    return question(mac(number), ip(number), GATEWAY)


async def until(check: Callable[[], object], *, within_s: float = 20.0) -> None:
    """Wait until *check* is true; the server tells nobody, so it is looked at."""
    async with asyncio.timeout(within_s):
        while not check():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)
