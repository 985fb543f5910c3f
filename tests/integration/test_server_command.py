# SPDX-License-Identifier: Apache-2.0
"""`sevpn serve` as a person or a script runs it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def serve(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sevpn", "serve", *arguments],
        env=dict(os.environ) | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stop(process: subprocess.Popen[str], number: int = signal.SIGINT) -> str:
    """End it and return the rest of what it said."""
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 0, err
    return out + err


def outcome(*arguments: str, **environment: str) -> tuple[int, str]:
    process = serve(*arguments, **environment)
    _, err = process.communicate(timeout=20)
    return process.returncode, err


def first_json(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    facts: dict[str, Any] = json.loads(process.stdout.readline())
    return facts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_the_line_to_connect_with_and_stops_on_a_signal(number: int) -> None:
    process = serve(
        "--listen",
        "127.0.0.1:0",
        "--user",
        "alice",
        "--password",
        "env:PW",
        PW="hunter2",
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]

    assert lines[0].startswith("serving on 127.0.0.1:")
    assert "hub DEFAULT, gateway 192.168.30.1/24" in lines[1]
    assert "--user alice --auth password" in lines[2]
    assert "--pin sha256:" in lines[2]
    rest = stop(process, number)
    assert "stopped" in rest
    assert "hunter2" not in "".join(lines) + rest


def test_json_tells_programs_where_it_is_and_what_happens() -> None:
    process = serve("--json", "--anonymous", "--listen", "127.0.0.1:0", "--hub", "LAB")
    facts = first_json(process)

    assert facts["event"] == "serving"
    assert facts["hubs"][0]["name"] == "LAB"
    (endpoint,) = facts["addresses"]
    socket.create_connection((endpoint["address"], endpoint["port"]), 5).close()
    assert len(facts["certificate_sha256"]) == 64
    stop(process)


def test_a_file_says_everything(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text(
        """
        listen = ["127.0.0.1:0", "[::1]:0"]
        [[hubs]]
        name = "OFFICE"
        users = [{ name = "guest", auth = "anonymous" }]
        """
    )
    process = serve("--json", "--config", str(path))
    facts = first_json(process)

    assert [one["address"] for one in facts["addresses"]] == ["127.0.0.1", "::1"]
    assert facts["hubs"] == [
        {
            "name": "OFFICE",
            "users": [{"name": "guest", "auth": "anonymous"}],
            "gateway": None,
        }
    ]
    stop(process)


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ((), 65, "nobody could log in"),
        (("--anonymous", "--listen", "nowhere"), 65, "'nowhere' is no address"),
        (("--anonymous", "--dhcp", "nonsense"), 65, "'nonsense' is no subnet"),
        (("--anonymous", "--dhcp", "10.0.0.0/30"), 65, "too small"),
        (("--anonymous", "--tap-address", "10.0.0.1/24"), 64, "needs --tap"),
        (
            ("--anonymous", "--tap", "t", "--tap-address", "x"),
            65,
            "'x' is no address",
        ),
        (("--password", "env:X"), 64, "needs --user"),
        (("--user", "a", "--password", "hunter2"), 65, "password"),
        (("--user", "a", "--password", "env:NONE"), 65, "NONE"),
        (("--user", "a b", "--password", "env:PW"), 65, "no name of a user"),
        (("--config", "/nowhere.toml"), 65, "cannot be read"),
        (("--config", "/nowhere.toml", "--hub", "A"), 64, "--hub cannot be given"),
        (("--anonymous", "--hub", "A B"), 65, "no name of a hub"),
    ],
)
def test_wrong_options_get_a_reason_and_their_code(
    arguments: tuple[str, ...], code: int, reason: str
) -> None:
    got, err = outcome(*arguments, PW="secret")

    assert got == code, err
    assert reason in err
    assert "Traceback" not in err
    assert "hunter2" not in err


def test_an_address_in_use_is_a_matter_of_this_host() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, err = outcome("--anonymous", "--listen", f"127.0.0.1:{port}")

    assert code == 78
    assert "cannot be listened on" in err
