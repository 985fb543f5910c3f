# SPDX-License-Identifier: Apache-2.0
"""One question to a server, without a session: its hubs, another password.

Layer: tunnel. Runs in: the event loop of a short-lived command. Nothing on the host
is changed; a tunnel that runs carries the question, if it carries all traffic.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import secrets
from collections.abc import Callable, Sequence

from sevpn.errors import Failure, SilenceError
from sevpn.protocol.account import (
    ClientHubList,
    ClientPasswordChange,
    HubsListed,
    PasswordChanged,
)
from sevpn.protocol.conversation import Conversation, HelloReceived
from sevpn.protocol.credentials import Password
from sevpn.transport.stream import SecureStream, open_stream
from sevpn.tunnel.opening import Address, Destination, Outcome, exchange
from sevpn.wire.http import encode_date

__all__ = ["change_password", "list_hubs"]


async def list_hubs(destination: Destination) -> tuple[str, ...]:
    """Return the names of the server's hubs, but for those that hide.

    Args:
        destination: Which server; hub and credentials do not count.

    Raises:
        TransportError: No connection, no trust, or silence.
        RemoteProtocolError: The peer is no SoftEther server, or breaks the rules.
        RefusedError: The server said no.
    """

    def make(stream: SecureStream) -> ClientHubList:
        return ClientHubList(
            host=str(stream.peer_address),
            server=destination.host,
            random=secrets.token_bytes,
            date=encode_date(dt.datetime.now(dt.UTC)),
        )

    listed: HubsListed = await _ask(destination, make)
    return listed.names


async def change_password(
    destination: Destination, old: Password, new_hash: bytes
) -> None:
    """Give a user another password.

    Args:
        destination: Which server and hub; its credentials do not count.
        old: The user, and the password up to now.
        new_hash: Of the new password, with this very user name.

    Raises:
        TransportError: No connection, no trust, or silence: whether the server has the
            new password is not known then, unless it could not be reached at all.
        RemoteProtocolError: The peer is no SoftEther server, or breaks the rules.
        RefusedError: The server said no.
    """

    def make(stream: SecureStream) -> ClientPasswordChange:
        return ClientPasswordChange(
            host=str(stream.peer_address),
            server=destination.host,
            hub=destination.hub,
            old=old,
            new_hash=new_hash,
            random=secrets.token_bytes,
            date=encode_date(dt.datetime.now(dt.UTC)),
        )

    _: PasswordChanged = await _ask(destination, make)


async def _ask(
    destination: Destination, make: Callable[[SecureStream], Conversation[Outcome]]
) -> Outcome:
    """Have one conversation on a connection of its own."""
    stream = await open_stream(
        destination.host,
        destination.port,
        trust=destination.trust,
        timeout_s=destination.hello_s,
        on_addresses=_need_no_routes,
        dialing=destination.dialing,
    )
    with contextlib.ExitStack() as undo:
        undo.callback(stream.close, polite=True)
        machine = make(stream)
        try:
            async with asyncio.timeout(destination.hello_s):
                while True:
                    event = machine.next_event()
                    if event is not None and not isinstance(event, HelloReceived):
                        return event
                    if event is None:
                        await exchange(stream, machine)
        except TimeoutError:
            raise SilenceError(
                f"{destination.host} did not answer within {destination.hello_s:.0f} s: try again",
                failure=Failure.TEMPORARY,
            ) from None


async def _need_no_routes(_addresses: Sequence[Address]) -> None:
    """There is no tunnel here whose traffic could enter itself."""
