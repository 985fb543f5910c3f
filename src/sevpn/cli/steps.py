# SPDX-License-Identifier: Apache-2.0
"""How a foreground `up` shows what it does.

Layer: cli. Runs in: the control thread; gets each event of the tunnel.

On a terminal a step is a line that appears when it begins and is completed when
it is done; elsewhere each event is a plain line; with `--json` it is an object
on standard output. Nothing heavier than the standard library is imported here:
this process lives as long as the tunnel.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any, Final, TextIO

from sevpn.cli.common import Output

__all__ = ["Steps"]

_LABELS: Final = {
    "resolving": "look-up",
    "connecting": "server",
    "authenticating": "login",
    "leasing": "address",
    "configuring": "host",
    "proving": "proof",
    "disconnecting": "leaving",
}
_DONE: Final = {
    "resolved": "look-up",
    "connected-to-server": "server",
    "logged-in": "login",
    "leased": "address",
    "configured": "host",
    "proven": "proof",
}
_ALWAYS: Final = frozenset({"connected", "waiting"})


class Steps:
    """Prints events.

    Args:
        output: How much, and in which form.
        stream: Where lines for people go.
    """

    def __init__(self, output: Output, stream: TextIO | None = None) -> None:
        self._output = output
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = output.is_terminal
        self._is_open = False

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event."""
        if self._output.as_json:
            with contextlib.suppress(
                OSError
            ):  # whoever read them has gone; the tunnel stays
                print(json.dumps(event), flush=True)  # noqa: T201 - the command's answer
        elif not self._output.quiet:
            self._show(event)

    def _show(self, event: dict[str, Any]) -> None:
        kind, state, text = event["event"], event["state"], event["text"]
        if kind == "state":
            self._show_state(state, text)
        elif kind in _DONE:
            self._line(_DONE[kind], text)
        else:
            self._line(kind, text)

    def _show_state(self, state: str, text: str) -> None:
        if state in _ALWAYS:
            self._line(state, text or "traffic flows")
        elif self._is_terminal and state in _LABELS and not text:
            self._write(f"\r\x1b[K{_LABELS[state]:<10} …")
            self._is_open = True

    def _line(self, label: str, text: str) -> None:
        if self._is_open:
            self._write("\r\x1b[K")
            self._is_open = False
        self._write(
            f"{label:<10} {text}\n"
            if self._is_terminal
            else f"sevpn: {label}: {text}\n"
        )

    def close(self) -> None:
        """Complete a line that was begun."""
        if self._is_open:
            self._write("\r\x1b[K")
            self._is_open = False

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            pass  # the terminal has gone; the tunnel goes on until its signal comes
