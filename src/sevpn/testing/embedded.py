# SPDX-License-Identifier: Apache-2.0
"""The embedded server under a test's orders: in a thread, or on another machine.

Layer: testing. Runs in: the test's thread, beside a thread or process of the server.

    with RunningServer(ServerConfig(…)) as running:          in this process
        running.call(lambda server: server.cut(server.sessions()[0]))

    server = RemoteServer(machine, TOML_TEXT)                 on a machine
    server.do("server.faults.at(Stage.HELLO, AnswerError(9))")
    server.do("len(server.sessions())")                       -> 1

As a program, `python -m sevpn.testing.embedded FILE`, it runs the server of that
file and carries out Python lines from its standard input, one answer line each. The
names of sevpn.server.faults, `server`, `listen` and `json` are known to them.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from sevpn.config.hostsource import HostSource
from sevpn.server import faults as server_faults
from sevpn.server.certificate import Identity
from sevpn.server.config import ServerConfig, load_config
from sevpn.server.server import Server
from sevpn.testing.machine import Machine

__all__ = ["RemoteServer", "RunningServer"]

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


class RemoteServer:
    """The server on a machine; it ends with the machine at the latest.

    Args:
        machine: Where.
        config: The text of its configuration file.
        env: What its secrets refer to.
    """

    def __init__(
        self, machine: Machine, config: str, *, env: Mapping[str, str] | None = None
    ) -> None:
        machine.write("/etc/embedded.toml", config)
        self._process = machine.popen(
            [sys.executable, "-m", "sevpn.testing.embedded", "/etc/embedded.toml"],
            env=env,
            stdin=subprocess.PIPE,
            stderr=None,
        )
        facts = self._answer()
        self.port: int = facts["port"]
        """Where it listens."""
        self.pin: str = f"sha256:{facts['certificate_sha256']}"
        """Its certificate, as `--pin` takes it."""

    def do(self, line: str) -> Any:
        """Have the server carry out a line of Python; return the value of an expression.

        Raises:
            AssertionError: It failed.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        assert "failure" not in answer, f"{line}: {answer['failure']}"
        return answer["value"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the embedded server has ended; see standard error"
        answer: dict[str, Any] = json.loads(line)
        return answer


async def _serve(path: Path) -> None:
    server = Server(load_config(path, HostSource(os.environ, ask=None)))
    known = {name: getattr(server_faults, name) for name in server_faults.__all__}
    known |= {"server": server, "json": json}
    async with server:
        _tell({"port": server.port, "certificate_sha256": server.certificate_sha256})
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        while line := await reader.readline():
            _tell(await _carry_out(line.decode(), known))


async def _carry_out(line: str, known: dict[str, Any]) -> dict[str, Any]:
    try:
        # What runs here is the test's own text, sent by the test through its own pipe.
        value = eval(line, known)  # noqa: S307 - see above
        if asyncio.iscoroutine(value):
            value = await value
    except SyntaxError:
        exec(line, known)  # noqa: S102 - see above
        value = None
    except Exception as error:  # noqa: BLE001 - the test is told
        return {"failure": repr(error)}
    return {"value": value}


def _tell(answer: dict[str, Any]) -> None:
    print(json.dumps(answer, default=repr), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
