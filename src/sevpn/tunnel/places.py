# SPDX-License-Identifier: Apache-2.0
"""The addresses of the names that the user includes or excludes.

Layer: tunnel. Runs in: the control thread, on the event loop. One per tunnel.

    first ──> known ── every minute ──> asked again ── something new ──> changed()

A name may have other addresses each time it is asked, as those of content networks
do. What it had before is kept behind what it has now, up to sixteen addresses: a
connection to yesterday's address keeps its way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from sevpn.errors import ResolveError
from sevpn.log import get_logger
from sevpn.transport.resolve import MAX_ADDRESSES, Address, LookUp, resolve

__all__ = ["Places"]

log = get_logger(__name__)

_FIRST_S: Final = 5.0
"""How long a tunnel waits for names before it goes on without."""

_AGAIN_S: Final = 60.0


class Places:
    """The addresses of some names, asked for now and then.

    Args:
        names: Which.
        look_up: Who is asked.
        changed: Called when there is something new, after :meth:`first`.
        again_s: After how many seconds they are asked again.
    """

    def __init__(
        self,
        names: Sequence[str],
        look_up: LookUp,
        *,
        changed: Callable[[], None],
        again_s: float = _AGAIN_S,
    ) -> None:
        self._names = names
        self._look_up = look_up
        self._changed = changed
        self._again_s = again_s
        self._known: dict[str, tuple[Address, ...]] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def known(self) -> Mapping[str, Sequence[Address]]:
        """The addresses of each name that has any."""
        return self._known

    async def first(self) -> None:
        """Ask for all names, if that was not done, and go on asking from time to time."""
        if self._task is not None or not self._names:
            return
        await self._ask_all(_FIRST_S)
        self._task = asyncio.create_task(self._go_on())

    def stop(self) -> None:
        """Ask no more; safe to call again."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(self._again_s)
            if await self._ask_all(self._again_s):
                self._changed()

    async def _ask_all(self, patience_s: float) -> bool:
        """Ask for all names at once; return whether something is new."""
        before = dict(self._known)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s), asyncio.TaskGroup() as group:
                for name in self._names:
                    group.create_task(self._ask(name))
        return self._known != before

    async def _ask(self, name: str) -> None:
        try:
            now = await resolve(name, look_up=self._look_up)
        except ResolveError as error:
            log.info("a name that is included or excluded is not found", cause=error)
            return
        before = self._known.get(name, ())
        if not set(now) <= set(before):
            self._known[name] = tuple(dict.fromkeys((*now, *before)))[:MAX_ADDRESSES]
