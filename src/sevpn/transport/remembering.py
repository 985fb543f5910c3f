# SPDX-License-Identifier: Apache-2.0
"""A look-up that remembers: a name that was found once need not be found again to dial.

Layer: transport. Runs in: the control thread, on the event loop.

When the network underneath moves, the name servers of the old one are asked for the
server's name, for as long as nobody has told this host of others: the C library gives
them up after five seconds each. The server is still where it was.

    known ── found again within 1 s ──> the new addresses
          ├─ not found ───────────────> the old ones
          └─ no answer yet ───────────> the old ones; a late answer counts next time

Whoever is dialled has to show the certificate that is trusted, so an old address that
belongs to somebody else now costs an attempt and nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from sevpn.errors import ResolveError
from sevpn.log import get_logger
from sevpn.transport.resolve import Address, Family, LookUp

__all__ = ["Remembering"]

log = get_logger(__name__)

_PATIENCE_S: Final = 1.0
"""Most answers take less; and what a person takes for at once has not passed yet."""

_Key = tuple[str, Family]
_NOTHING: Final[Mapping[str, Sequence[Address]]] = {}


class Remembering:
    """A :data:`~sevpn.transport.resolve.LookUp` on top of another one.

    Args:
        look_up: Who is asked.
        patience_s: How long to wait for what is known already.
        known: What names resolved to in an earlier life.
    """

    def __init__(
        self,
        look_up: LookUp,
        *,
        patience_s: float = _PATIENCE_S,
        known: Mapping[str, Sequence[Address]] = _NOTHING,
    ) -> None:
        self._look_up = look_up
        self._patience_s = patience_s
        self._before = known
        self._known: dict[_Key, Sequence[Address]] = {}
        self._asked: dict[_Key, asyncio.Task[Sequence[Address]]] = {}

    async def __call__(self, host: str, family: Family) -> Sequence[Address]:
        """Return the addresses of *host*, those of last time where nothing newer comes.

        Raises:
            ResolveError: It has none, and never had. There is no deadline then:
                cancel the call.
        """
        key = host, family
        asking = self._ask(key)
        known = self._known.get(key) or self._from_before(host, family)
        if known is None:
            return await asyncio.shield(asking)
        await asyncio.wait({asking}, timeout=self._patience_s)
        if asking.done() and not asking.cancelled() and asking.exception() is None:
            return asking.result() or known
        log.info("the name is not found now; going on with what it was", host=host)
        return known

    def _from_before(self, host: str, family: Family) -> Sequence[Address] | None:
        version = {"4": 4, "6": 6}.get(family)
        found = [
            address
            for address in self._before.get(host, ())
            if version in {None, address.version}
        ]
        return found or None

    def _ask(self, key: _Key) -> asyncio.Task[Sequence[Address]]:
        """Ask, unless an earlier question has yet to be answered."""
        if key not in self._asked:
            task = asyncio.ensure_future(self._look_up_once(key))
            self._asked[key] = task
            task.add_done_callback(lambda done: self._heard(key, done))
        return self._asked[key]

    async def _look_up_once(self, key: _Key) -> Sequence[Address]:
        return await self._look_up(*key)

    def _heard(self, key: _Key, done: asyncio.Task[Sequence[Address]]) -> None:
        del self._asked[key]
        if done.cancelled():
            return
        error = done.exception()
        if error is None and done.result():
            self._known[key] = done.result()
        elif error is not None and not isinstance(error, ResolveError):
            log.error("a look-up failed", cause=error)
