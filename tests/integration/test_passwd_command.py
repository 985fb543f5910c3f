# SPDX-License-Identifier: Apache-2.0
"""`sevpn passwd` and `sevpn hubs` as a person runs them, against `sevpn serve`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

# getpass throws away what was typed before it asks, so each answer waits for its question.
TERMINAL = """
import json, os, pty, sys
answers, argv = json.loads(sys.argv[1]), sys.argv[2:]
pid, fd = pty.fork()
if not pid:
    os.execv(argv[0], argv)
said = b""
try:
    for question, answer in answers:
        while question.encode() not in said:
            said += os.read(fd, 4096)
        said = b""
        os.write(fd, answer.encode() + b"\\n")
    while piece := os.read(fd, 4096):
        said += piece
except OSError:
    pass
print(said.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

OLD = ("Password of alice", "secret")


@dataclass
class Served:
    """A running `sevpn serve`."""

    target: str
    pin: str


@pytest.fixture
def served() -> Iterator[Served]:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "sevpn", "serve", "--json"),
            *("--listen", "127.0.0.1:0", "--user", "alice", "--password", "env:PW"),
        ],
        env=dict(os.environ) | {"PW": "secret"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    facts = json.loads(process.stdout.readline())
    (endpoint,) = facts["addresses"]
    yield Served(
        f"127.0.0.1:{endpoint['port']}", f"sha256:{facts['certificate_sha256']}"
    )
    process.terminate()
    process.communicate(timeout=20)


def command(served: Served, name: str, *words: str) -> list[str]:
    return [
        *(sys.executable, "-m", "sevpn", name, served.target, "--pin", served.pin),
        *words,
    ]


def on_terminal(
    served: Served, *answers: tuple[str, str]
) -> subprocess.CompletedProcess[str]:
    argv = command(served, "passwd", "--user", "alice")
    return subprocess.run(
        [sys.executable, "-c", TERMINAL, json.dumps(answers), *argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def unattended(
    served: Served, name: str, *words: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(served, name, *words),
        env=dict(os.environ) | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_new_password_is_asked_for_twice_and_not_shown(served: Served) -> None:
    new = ("New password of alice", "better")
    done = on_terminal(served, OLD, new, ("The same again", "better"))

    assert done.returncode == 0, done.stdout
    assert "is changed" in done.stdout
    assert "better" not in done.stdout
    again = on_terminal(served, OLD, new, ("The same again", "better"))
    assert again.returncode == 77
    assert "server error 69" in again.stdout


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ((OLD, ("New password", "a"), ("The same again", "b")), "differ"),
        ((OLD, ("New password", "")), "is empty"),
    ],
)
def test_what_was_mistyped_changes_nothing(
    served: Served, answers: tuple[tuple[str, str], ...], reason: str
) -> None:
    done = on_terminal(served, *answers)

    assert done.returncode == 65
    assert reason in done.stdout
    assert "nothing was changed" in done.stdout


def test_without_a_terminal_the_new_password_needs_a_reference(served: Served) -> None:
    done = unattended(served, "passwd", "--user", "alice", SEVPN_PASSWORD="secret")

    assert done.returncode == 65
    assert "--new-password REF" in done.stderr


def test_a_new_password_may_be_its_hash(served: Served) -> None:
    from sevpn.protocol.credentials import hash_password

    done = unattended(
        served,
        *("passwd", "--user", "alice", "--json", "--new-password", "hash:env:NEW"),
        SEVPN_PASSWORD="secret",
        NEW=hash_password("alice", "better").hex(),
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["changed"] is True
    old = unattended(
        served,
        *("passwd", "--user", "alice", "--new-password", "env:NEW"),
        SEVPN_PASSWORD="better",
        NEW="third",
    )
    assert old.returncode == 0, old.stderr
    assert "is the old one still" in old.stdout


def test_who_logs_in_without_a_password_has_none_to_change(served: Served) -> None:
    done = unattended(served, "passwd", "--new-password", "env:NEW", NEW="x")

    assert done.returncode == 65
    assert "'auth' is anonymous" in done.stderr
    assert "--user" in done.stderr


def test_a_literal_on_the_command_line_is_refused_and_not_repeated(
    served: Served,
) -> None:
    done = unattended(
        served,
        *("passwd", "--user", "alice", "--new-password", "hunter2"),
        SEVPN_PASSWORD="secret",
    )

    assert done.returncode == 65
    assert "hunter2" not in done.stderr


def test_hubs_are_lines_or_one_object(served: Served) -> None:
    assert unattended(served, "hubs").stdout == "DEFAULT\n"
    answer = json.loads(unattended(served, "hubs", "--json").stdout)
    assert answer["hubs"] == ["DEFAULT"]
    assert f"{answer['host']}:{answer['port']}" == served.target


def test_who_asks_for_hubs_needs_no_secret_that_fits(served: Served) -> None:
    done = unattended(served, "hubs", SEVPN_PASSWORD="secret", SEVPN_AUTH="plain")

    assert done.stdout == "DEFAULT\n", done.stderr


def test_a_server_that_is_not_there_is_69(served: Served) -> None:
    gone = Served("127.0.0.1:1", served.pin)

    assert unattended(gone, "hubs").returncode == 69
    wrong = Served(served.target, f"sha256:{'0' * 64}")
    assert unattended(wrong, "hubs").returncode == 79
