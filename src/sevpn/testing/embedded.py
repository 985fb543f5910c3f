# SPDX-License-Identifier: Apache-2.0
"""The embedded server under the orders of a test that has no event loop.

Layer: testing. Runs in: the test's thread, beside a thread of the server.

    with RunningServer(ServerConfig(…)) as running:
        … connect to running.port …
        running.call(lambda server: server.cut(server.sessions()[0]))

On a machine of its own it is started by testing/lab.py.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, Self, TypeVar

from sevpn.server.certificate import Identity
from sevpn.server.config import ServerConfig
from sevpn.server.server import Server

__all__ = ["RunningServer"]

T = TypeVar("T")

_PATIENCE_S: Final = 20.0


class RunningServer:
    """The server on a loop of its own, in a thread of its own.

    Args:
        config: What it is made of.
        identity: Its certificate; made at start if not given.
    """

    def __init__(
        self, config: ServerConfig, *, identity: Identity | None = None
    ) -> None:
        self.server = Server(config, identity=identity)
        """The server; touch it by :meth:`call` only, except for what never changes."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="embedded server"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._run(self.server.start)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self.server.stop)
        self._end()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.server.port

    def call(self, function: Callable[[Server], T]) -> T:
        """Call *function* with the server, on its loop, and return its answer."""

        async def run() -> T:
            return function(self.server)

        return self._run(run)

    def _run(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        future = asyncio.run_coroutine_threadsafe(function(), self._loop)
        return future.result(_PATIENCE_S)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
