# SPDX-License-Identifier: Apache-2.0
"""Taking a session up again: when it is worth trying, and how it is tried.

Layer: tunnel. Runs in: the control thread, on the event loop.

A server keeps a session without connections until it has heard nothing of it for its
time-out. Within that time one TLS handshake and one request bring it back, with MAC
address, IP table and lease as they were:

    cut or roam ── has the server an address that can be reached? ── no: wait for one
                                     │ yes
                     dial the same address, ask to join; frames follow at once
                                     │
                     the server says yes ── refused, or no answer ──> a new login
                                     │
                     something comes within a second, and the gateway answers ── no ──> a new login
                                     │ yes
                               the tunnel goes on

Source: docs/reference/protocol-data.md#resumption.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from sevpn.errors import Failure, SevpnError, SilenceError, TransportError
from sevpn.protocol.messages import Welcome

__all__ = [
    "HEARD_S",
    "JOIN_S",
    "PROOF_S",
    "can_resume",
    "rejoin",
    "wait_until_heard",
    "wait_until_joined",
]

T = TypeVar("T")

JOIN_S: Final = 5.0
"""How long dialling may take, and how long the answer to the request: after that a new
login would be no slower."""

HEARD_S: Final = 1.0
"""Within this time a server that has really taken the connection sends something: its
first keep-alive, if nothing else. 5.01.9674 may take one and drop it at once."""

PROOF_S: Final = 2.0
"""How long the gateway may take to answer."""

_LOOK_S: Final = 0.1
_LISTEN_S: Final = 0.01


def can_resume(
    welcome: Welcome, *, heard_at: float, now: float, error: SevpnError | None
) -> bool:
    """Whether the server may still know a session whose connections are gone.

    Args:
        welcome: What it granted.
        heard_at: When something last came from it.
        now: On the same clock.
        error: How the last connection was lost; `None`: the network underneath moved.
    """
    if now >= heard_at + welcome.timeout_s:
        return False
    return error is None or isinstance(error, TransportError)


async def rejoin(
    join: Callable[[], Awaitable[T]],
    *,
    has_way: Callable[[], bool],
    patience_s: float,
) -> T:
    """Ask to join as soon as there is a way to the server.

    Args:
        join: Dials the session's address and asks.
        has_way: Whether this host can reach it at all.
        patience_s: How long the server will still know the session.

    Raises:
        SilenceError: There was no way, or nobody to ask, in time.
        SevpnError: Whatever *join* raises.
    """
    try:
        async with asyncio.timeout(max(0.0, patience_s)):
            while not has_way():  # noqa: ASYNC110 - what is looked at is the kernel's
                await asyncio.sleep(_LOOK_S)
            async with asyncio.timeout(JOIN_S):
                return await join()
    except TimeoutError:
        raise SilenceError(
            "the session could not be taken up again in time",
            failure=Failure.TEMPORARY,
        ) from None


async def wait_until_joined(has_joined: Callable[[], bool]) -> None:
    """Wait until the server has let the connection join; a refusal ends the session instead.

    Raises:
        SilenceError: It did not answer.
    """
    await _wait_until(
        has_joined, JOIN_S, "the server does not answer who takes the session up again"
    )


async def wait_until_heard(heard_at: Callable[[], float], *, since: float) -> None:
    """Wait until something has come from the server after *since*.

    Raises:
        SilenceError: Nothing did.
    """
    await _wait_until(
        lambda: heard_at() >= since,
        HEARD_S,
        "the server took the session up again and says nothing in it",
    )


async def _wait_until(
    is_so: Callable[[], bool], patience_s: float, trouble: str
) -> None:
    try:
        async with asyncio.timeout(patience_s):
            while not is_so():  # noqa: ASYNC110 - it is the data thread's, which wakes nobody for it
                await asyncio.sleep(_LISTEN_S)
    except TimeoutError:
        raise SilenceError(trouble, failure=Failure.TEMPORARY) from None
