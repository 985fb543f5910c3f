# SPDX-License-Identifier: Apache-2.0
"""`sevpn bypass -- CMD`: run a program outside all tunnels."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Final

import click

from sevpn.cli.common import Output, command as make_command
from sevpn.config.paths import Paths
from sevpn.errors import ConfigError, HostError
from sevpn.net.bypass import bypassing, remove_if_unused
from sevpn.net.journal import shared_lock
from sevpn.net.marks import BYPASS_MARK
from sevpn.net.rtnetlink import Netlink

__all__ = ["command"]

_NOT_FOUND: Final = 127
"""Like a shell."""

_NOT_RUN: Final = 126
"""Likewise: it is there, and cannot be started."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


@make_command("bypass")
@click.option(
    "--user",
    metavar="NAME",
    help="As whom to run it. [who called sudo, else who calls]",
)
@click.argument("words", metavar="CMD...", nargs=-1, required=True)
def command(output: Output, user: str | None, words: tuple[str, ...]) -> int:
    """Run CMD, and all that it starts, outside all tunnels.

    The tunnel must be one by mark: started with --route-mode mark, or with a lock.
    Ends as CMD does; with 127 where there is no such program, with 126 where it cannot
    be started.
    """
    del output
    account = _account(user, os.environ)
    _refuse_without_tunnel()
    run = Paths.for_user(os.environ, os.geteuid()).runtime_dir
    try:
        with shared_lock(run), bypassing(Path("/etc")):
            try:
                child = _start(words, account)
            except OSError as error:
                return _not_run(words[0], error)
        with _passing_on(child):
            code = child.wait()
    finally:
        with shared_lock(run):
            remove_if_unused()
    return code if code >= 0 else 128 - code


def _not_run(name: str, error: OSError) -> int:
    """Say why program *name* was not started; return the status that tells it."""
    if isinstance(error, FileNotFoundError):
        code, step = _NOT_FOUND, "give its whole path, or see PATH"
    else:
        code, step = _NOT_RUN, "see that it is a program that the user may run"
    click.echo(f"sevpn: cannot run {name!r}: {error.strerror}; {step}", err=True)
    return code


def _start(
    words: tuple[str, ...], account: pwd.struct_passwd | None
) -> subprocess.Popen[bytes]:
    # It is the user's own program, in the user's own surroundings, but for our secrets.
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SEVPN_")
    }
    if account is None:
        return subprocess.Popen(words, env=environ)
    environ |= {
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
    }
    return subprocess.Popen(
        words,
        env=environ,
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=os.getgrouplist(account.pw_name, account.pw_gid),
    )


def _account(user: str | None, environ: Mapping[str, str]) -> pwd.struct_passwd | None:
    """Return as whom to run; `None`: as who calls."""
    name = user or (environ.get("SUDO_USER") if os.geteuid() == 0 else None)
    if name is None:
        return None
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(f"there is no user {name!r} on this host") from None


def _refuse_without_tunnel() -> None:
    netlink = Netlink()
    try:
        # In IPv6 there is such a rule in `host` mode, too, where it is refused.
        rules = netlink.rules(4)
    finally:
        netlink.close()
    if not any(rule.mark == BYPASS_MARK for rule in rules):
        raise HostError(
            "no tunnel runs that a program could pass by: start it with --route-mode mark, or with --lock",
            operation="bypass",
        )


@contextlib.contextmanager
def _passing_on(child: subprocess.Popen[bytes]) -> Generator[None]:
    """Hand the signals that end programs on to *child* instead."""

    def hand_on(number: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
