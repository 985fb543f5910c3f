# SPDX-License-Identifier: Apache-2.0
"""`sevpn demo`: a tunnel on this machine alone, shown and measured.

Server and client run in private namespaces (`demo_stage.py` draws them); nothing
on this host is touched and nothing is left. The client is the very `sevpn up`
that users run.
"""

from __future__ import annotations

import os
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sevpn.cli.common import Output, command as make_command
from sevpn.cli.demo_stage import BULK_BYTES, SERVER, URL, Stage, raise_stage
from sevpn.cli.exit import ExitCode
from sevpn.config.frozen import is_frozen, own_command
from sevpn.errors import HostError, LocalProtocolError

__all__ = ["command"]

_CONNECT_S: Final = 10.0
_HEAL_S: Final = 10.0
_BULK_S: Final = 30.0
_NAME: Final = "demo"
_BY_ADDRESS: Final = "http://10.77.0.1/"


@make_command("demo")
def command(output: Output) -> int:
    """Show a whole tunnel on this machine, in private namespaces.

    Server and client, traffic through the tunnel, one cut connection and its
    healing, and a report. Nothing on this host is changed. Needs no root where
    the kernel lets users make namespaces.
    """
    began_at = time.monotonic()
    with raise_stage() as stage:
        findings = _Play(stage, output).perform()
    findings["seconds"] = round(time.monotonic() - began_at, 1)
    output.answer(
        findings, f"\nall of it took {findings['seconds']} s; nothing is left behind"
    )
    return ExitCode.OK


class _Play:
    """The acts of the demo, each with a line of the report."""

    def __init__(self, stage: Stage, output: Output) -> None:
        self._stage = stage
        self._output = output
        self._findings: dict[str, Any] = {}

    def perform(self) -> dict[str, Any]:
        """Play all acts and return what was found."""
        before = _host_state()
        self._say("stage", "two private network namespaces and a cable between them")
        client = self._start()
        try:
            self._connect(client)
            self._fetch()
            self._transfer()
            self._heal()
        finally:
            self._leave(client)
        self._compare(before)
        return self._findings

    def _start(self) -> subprocess.Popen[bytes]:
        options = ["--user", "demo", "--pin", self._stage.pin, "--name", _NAME]
        options += ["--accept-default-gateway", "--accept-dns"]
        if not self._stage.has_private_etc:
            options += ["--dns-mode", "off"]
        return subprocess.Popen(
            [
                *own_command(os.environ, frozen=is_frozen()),
                "--quiet",
                "up",
                f"{SERVER}/DEMO",
                *options,
            ],
            env=_environment() | {"SEVPN_PASSWORD": self._stage.password},
            stdin=subprocess.DEVNULL,
        )

    def _connect(self, client: subprocess.Popen[bytes]) -> None:
        began_at = time.monotonic()
        status = self._wait_for(lambda: _connected(client), _CONNECT_S, "the tunnel")
        took_s = time.monotonic() - began_at
        lease, server = status["lease"], status["server"]
        self._findings["connect_s"] = round(took_s, 2)
        self._say(
            "up",
            f"connected and proven after {took_s:.2f} s: {lease['address']} by DHCP, "
            f"gateway {lease['gateway']} answers in {status['latency_ms']['gateway']} ms",
        )
        self._say(
            "server",
            f"{server['product']}, {status['session']['tls']['version']}, certificate pinned",
        )

    def _fetch(self) -> None:
        text = _get(f"{self._base}/", _CONNECT_S)
        self._findings["http"] = text.decode().strip()
        self._say(
            "web", f"{self._base}/ through the tunnel says {self._findings['http']!r}"
        )

    def _transfer(self) -> None:
        began_at = time.monotonic()
        size = len(_get(f"{self._base}/bulk", _BULK_S))
        rate = size * 8 / (time.monotonic() - began_at) / 1e6
        if size != BULK_BYTES:
            raise LocalProtocolError(
                f"the bulk transfer brought {size} of {BULK_BYTES} bytes; report it"
            )
        self._findings["bulk_mbit_s"] = round(rate)
        self._say(
            "bulk",
            f"{size >> 20} MiB at {rate:.0f} Mbit/s, server and client on the same machine",
        )

    def _heal(self) -> None:
        self._stage.cut()
        began_at = time.monotonic()
        self._wait_for(self._has_healed, _HEAL_S, "healing")
        took_s = time.monotonic() - began_at
        self._findings["heal_s"] = round(took_s, 2)
        self._say(
            "cut",
            f"the server reset the connection; traffic flowed again after {took_s:.2f} s",
        )

    def _has_healed(self) -> bool:
        status = _status()
        if status is None or not _has_begun_again(status):
            return False
        try:
            # By address: the C library waits five seconds for a name server that
            # was there when it asked and is gone when it listens.
            return bool(_get(_BY_ADDRESS, 1.0))
        except OSError:
            return False

    def _leave(self, client: subprocess.Popen[bytes]) -> None:
        client.terminate()
        try:
            code = client.wait(_CONNECT_S)
        except subprocess.TimeoutExpired:
            client.kill()
            code = client.wait()
        self._findings["exit_code"] = code
        self._say("down", f"left politely, exit code {code}")

    def _compare(self, before: str) -> None:
        restored = _host_state() == before
        self._findings["restored"] = restored
        if not restored:
            raise HostError(
                "routes or resolv.conf are not as before; report it",
                operation="demo-compare",
            )
        self._say("host", "routes and resolv.conf are as they were")

    @property
    def _base(self) -> str:
        return URL if self._stage.has_private_etc else _BY_ADDRESS.rstrip("/")

    def _wait_for(self, check: Callable[[], Any], patience_s: float, what: str) -> Any:
        deadline = time.monotonic() + patience_s
        while not (answer := check()):
            if time.monotonic() > deadline:
                raise HostError(
                    f"{what} did not come within {patience_s:.0f} s; report it",
                    operation="demo",
                )
            time.sleep(0.02)
        return answer

    def _say(self, label: str, text: str) -> None:
        if not self._output.as_json and not self._output.quiet:
            print(f"{label:<8} {text}", flush=True)  # noqa: T201 - the command's answer


def _connected(client: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    if client.poll() is not None:
        raise HostError(
            f"the client ended with exit code {client.returncode}; its words are above",
            operation="demo",
        )
    status = _status()
    return status if status is not None and status["state"] == "connected" else None


def _has_begun_again(status: dict[str, Any]) -> bool:
    """Whether there is another session, or another connection of the same."""
    session = status["session"]
    has_resumed = session is not None and session["resumed"] > 0
    return bool(status["counters"]["reconnects"]) or has_resumed


def _status() -> dict[str, Any] | None:
    import msgspec  # noqa: PLC0415

    from sevpn.cli.running import run_folders  # noqa: PLC0415 - after the stage is raised: /run is another one
    from sevpn.control import client  # noqa: PLC0415
    from sevpn.errors import ControlError  # noqa: PLC0415

    path = client.socket_path(run_folders(), _NAME)
    if path is None:
        return None
    try:
        document: dict[str, Any] = msgspec.to_builtins(client.status(path))
    except ControlError:
        return None
    return document


def _get(url: str, patience_s: float) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=patience_s) as answer:
        data: bytes = answer.read(BULK_BYTES + 1)
    return data


def _host_state() -> str:
    routes = subprocess.run(
        ["ip", "route"], check=True, capture_output=True, text=True, timeout=5
    ).stdout
    return routes + Path("/etc/resolv.conf").read_text()


def _environment() -> dict[str, str]:
    # The last three: where this very Python finds itself and its packages, or unpacks them.
    kept = ("PATH", "LANG", "HOME", "LD_LIBRARY_PATH", "PYTHONPATH", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ}
