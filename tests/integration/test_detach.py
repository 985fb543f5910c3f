# SPDX-License-Identifier: Apache-2.0
"""The child that `--detach` starts anew: whose terminal it has, and what its command is told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

COMMAND = """
import os, sys
from sevpn.cli.detach import start_again
sys.exit(start_again([sys.executable, "-c", sys.argv[1]], os.environ))
"""
"""Stands for the command: starts argv[1] as its child."""

BEGIN = """
import os, sys
from sevpn.cli.detach import handed_over
parent = handed_over(os.environ)
"""


def run(child: str, *, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command with a child of this program, until it and its output have ended."""
    return subprocess.run(
        [sys.executable, "-c", COMMAND, BEGIN + child],
        check=False,
        capture_output=True,
        text=True,
        input=text,
        timeout=20,
    )


def test_the_child_has_the_commands_terminal() -> None:
    done = run(
        "print('read', sys.stdin.readline()); print('oh', file=sys.stderr); parent.tell(7)",
        text="a line\n",
    )

    assert (done.returncode, done.stdout, done.stderr) == (7, "read a line\n\n", "oh\n")


def test_the_command_ends_while_the_child_stays() -> None:
    """The output ends, too: nobody has kept a piece of it."""
    done = run(
        "import time; print(os.getpid()); parent.leave(); print('unheard'); time.sleep(60)"
    )

    pid = int(done.stdout)
    try:
        assert done.returncode == 0
        assert Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    finally:
        subprocess.run(["kill", str(pid)], check=True)


def test_nothing_is_told_twice() -> None:
    done = run("parent.leave(); parent.tell(9); parent.leave()")

    assert done.returncode == 0


def test_a_child_that_says_nothing_speaks_by_its_exit_code() -> None:
    done = run("print('no such profile', file=sys.stderr); sys.exit(65)")

    assert (done.returncode, done.stderr) == (65, "no such profile\n")


def test_a_child_that_a_signal_ends_is_told_as_a_shell_would() -> None:
    assert run("os.kill(os.getpid(), 15)").returncode == 128 + 15


def test_a_launcher_that_never_gets_to_the_child_is_heard() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "import sys; sys.exit('no room in /tmp')"],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )

    assert (done.returncode, done.stderr) == (1, "no room in /tmp\n")


def test_a_program_whose_file_has_gone_is_a_failure_of_this_host() -> None:
    from sevpn.cli.detach import start_again
    from sevpn.errors import HostError

    with pytest.raises(HostError, match="cannot be started again"):
        start_again(["/nowhere/sevpn", "up"], {})


def test_the_child_keeps_the_socket_to_itself() -> None:
    """Neither its name nor its descriptor reaches the children of the child."""
    done = run(
        "import subprocess; before = os.environ.get('SEVPN_DETACHED')\n"
        "shown = subprocess.run(['ls', '-l', '/proc/self/fd'], capture_output=True, text=True).stdout\n"
        "print(before, 'socket:' in shown); parent.tell(0)"
    )

    assert done.stdout == "None False\n"


def test_a_command_that_sends_no_terminal_is_refused() -> None:
    program = (
        "import os, socket\n"
        "from sevpn.cli.detach import handed_over\n"
        "from sevpn.errors import ConfigError\n"
        "ours, theirs = socket.socketpair()\n"
        "ours.send(b'x')\n"
        "try:\n    handed_over({'SEVPN_DETACHED': str(theirs.detach())})\n"
        "except ConfigError as error:\n    print(error)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
    )

    assert done.stdout == "SEVPN_DETACHED is sevpn's own: unset it\n"


@pytest.mark.parametrize("value", ["", "x", "-1", "0", "99999999999999999999"])
def test_a_variable_that_somebody_else_has_set_is_refused(value: str) -> None:
    program = (
        "import os\n"
        "from sevpn.cli.detach import handed_over\n"
        "from sevpn.errors import ConfigError\n"
        "try:\n    handed_over(os.environ)\n"
        "except ConfigError as error:\n    print(error)\n"
    )
    environ: Mapping[str, str] = {"SEVPN_DETACHED": value}

    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env=environ,
        stdin=subprocess.DEVNULL,
        timeout=20,
    )

    assert done.stdout == "SEVPN_DETACHED is sevpn's own: unset it\n"
