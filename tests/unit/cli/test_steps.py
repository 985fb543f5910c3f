# SPDX-License-Identifier: Apache-2.0
"""What a person, a log and a program see of a tunnel's life."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from sevpn.cli.common import Output
from sevpn.cli.steps import Steps


def event(kind: str, state: str, text: str = "") -> dict[str, Any]:
    return {"at": "t", "event": kind, "state": state, "text": text, "facts": {}}


LIFE = [
    event("state", "resolving"),
    event("resolved", "resolving", "vpn.test is 192.0.2.1"),
    event("state", "connecting"),
    event("warning", "connecting", "beware"),
    event("state", "connected"),
    event("state", "waiting", "reset; next attempt now"),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(output: Output, stream: io.StringIO) -> str:
    steps = Steps(output, stream)
    for told in LIFE:
        steps(told)
    steps.close()
    return stream.getvalue()


def test_a_log_gets_plain_lines() -> None:
    assert shown(Output(), io.StringIO()).splitlines() == [
        "sevpn: look-up: vpn.test is 192.0.2.1",
        "sevpn: warning: beware",
        "sevpn: connected: traffic flows",
        "sevpn: waiting: reset; next attempt now",
    ]


def test_quiet_says_nothing() -> None:
    assert shown(Output(quiet=True), io.StringIO()) == ""


def test_a_terminal_sees_a_step_begin_and_complete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())

    text = shown(Output(), io.StringIO())

    assert "\r\x1b[Klook-up    …\r\x1b[Klook-up    vpn.test is 192.0.2.1\n" in text
    assert text.endswith("waiting    reset; next attempt now\n")


def test_a_program_gets_each_event_as_an_object(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown(Output(as_json=True), io.StringIO())

    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == LIFE


def test_a_reader_that_has_gone_does_not_end_the_tunnel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Closed())

    shown(Output(as_json=True), io.StringIO())
    shown(Output(), Closed())
