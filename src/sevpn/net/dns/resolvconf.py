# SPDX-License-Identifier: Apache-2.0
"""resolvconf: an entry of ours among those of the uplinks.

Layer: net. Runs in: the control thread. The program takes some 50 ms, and more
where it restarts a local name server; it has ten seconds.

    resolvconf -a tun.sevpn.TUNNEL     the entry comes on standard input
    resolvconf -d tun.sevpn.TUNNEL     it goes
    resolvconf -l                      all entries, each behind `# resolv.conf from …`
    resolvconf -u                      write resolv.conf again

Two programs have this name. openresolv takes `-m 0 -x`: the best metric, and no
entry but ours counts. Debian's knows no such options; there the name decides: what
begins with `tun` sorts before every uplink (interface-order(5)), and the uplinks'
servers stay behind ours.

The entry's name says whose it is. So what a crash leaves is found without a
journal; and /run, where entries live, does not outlive the machine.

Source: resolvconf(8) of openresolv 3.12; resolvconf(8), interface-order(5) of
Debian's resolvconf 1.91.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from sevpn.errors import HostError, PrivilegeError
from sevpn.net.dns.backend import Owner, server_texts
from sevpn.net.dns.detect import ResolvconfKind, servers_in
from sevpn.net.model import Resolver

__all__ = ["Resolvconf", "RunProgram", "entries", "entry_text", "owners", "run_program"]

_PREFIX: Final = "tun.sevpn."
_RUN: Final = Path("/run/resolvconf")
"""Where both programs keep what they know, unless openresolv is told otherwise."""

_TIMEOUT_S: Final = 10.0
_MAX_OUTPUT: Final = 1 << 20
_HEADER: Final = "# resolv.conf from "
_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"


class RunProgram(Protocol):
    """Runs a program to its end."""

    def __call__(self, argv: Sequence[str], text: str, *, fine: int = 0) -> str:
        """Return what it wrote to standard output.

        *fine* is an exit code that is as good as 0.

        Raises:
            HostError: It failed, or did not end in time.
        """
        ...


def run_program(argv: Sequence[str], text: str, *, fine: int = 0) -> str:
    """Run *argv* with *text* on its standard input, in a clean environment.

    Args:
        argv: The program and its arguments.
        text: ASCII.
        fine: An exit code that is as good as 0.

    Raises:
        HostError: It failed, or did not end within ten seconds; it is ended then,
            with its children.
    """
    # Files, not pipes: a daemon that a hook starts may keep them open for ever.
    with (
        os.fdopen(os.memfd_create("out"), "w+b") as out,
        os.fdopen(os.memfd_create("err"), "w+b") as err,
    ):
        code = _run(argv, text.encode("ascii"), out.fileno(), err.fileno())
        if code in {0, fine}:
            return os.pread(out.fileno(), _MAX_OUTPUT, 0).decode("utf-8", "replace")
        said = os.pread(err.fileno(), _MAX_OUTPUT, 0)
    if os.geteuid() and b"ermission denied" in said:
        raise PrivilegeError(
            "no permission to run resolvconf: run sevpn with sudo, or leave names alone with --dns-mode off",
            operation="write-resolver",
        )
    raise _cannot(_said(said) or f"it ended with {code}")


def _run(argv: Sequence[str], text: bytes, out: int, err: int) -> int:
    try:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            cwd="/",
            # Nothing of ours reaches its hooks: not the library path of a single-file
            # build, not a password in the environment.
            env={"PATH": _PATH, "LC_ALL": "C"},
            start_new_session=True,
        )
    except OSError as error:
        raise _cannot(f"it does not start: {os.strerror(error.errno or 0)}") from error
    assert child.stdin is not None
    # It fits into the pipe, whoever reads; who does not is none of our business.
    with contextlib.suppress(BrokenPipeError), child.stdin:
        child.stdin.write(text)
    try:
        return child.wait(_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise _cannot(f"it did not end within {_TIMEOUT_S:g} s") from error


def entry_text(resolver: Resolver, owner: Owner) -> str:
    """Return the entry: a resolv.conf without comments, which Debian's would drop."""
    lines = [f"nameserver {server}" for server in server_texts(resolver, owner)]
    if resolver.search:
        lines.append(f"search {' '.join(resolver.search)}")
    return "\n".join(lines) + "\n"


def entries(listing: str) -> Mapping[str, frozenset[str]]:
    """Return the lines of each entry in what `resolvconf -l` writes."""
    found: dict[str, set[str]] = {}
    lines: set[str] = set()
    for line in listing.splitlines():
        if line.startswith(_HEADER):
            lines = found.setdefault(line.removeprefix(_HEADER).strip(), set())
        elif line.strip():
            lines.add(" ".join(line.split()))
    return {name: frozenset(value) for name, value in found.items()}


class Resolvconf:
    """The way `resolvconf`.

    Args:
        program: Its path.
        kind: Which of the two it is.
        run: Runs it.
        resolv_conf: The file that it writes.
    """

    def __init__(
        self,
        program: Path,
        kind: ResolvconfKind,
        run: RunProgram = run_program,
        resolv_conf: Path = Path("/etc/resolv.conf"),
    ) -> None:
        self._program = str(program)
        self._kind = kind
        self._run = run
        self._path = resolv_conf

    def set(self, resolver: Resolver, owner: Owner) -> None:
        """Add our entry, have resolv.conf written, and read both.

        Raises:
            HostError: The program failed, or resolv.conf does not show our servers.
        """
        text = entry_text(resolver, owner)
        options = ["-m", "0", "-x"] if self._kind == "openresolv" else []
        self._call("-a", _key(owner.tunnel), *options, text=text)
        if self._is_shown(resolver, owner):
            return
        # An entry as before writes nothing; and somebody may have written since.
        self._call("-u")
        if not self._is_shown(resolver, owner):
            raise _cannot(
                f"{self._path} does not show our servers: another program writes it; --dns-mode file replaces it"
            )

    def restore(self, owner: Owner) -> None:
        """Delete our entry; none is fine.

        Raises:
            HostError: The program failed.
        """
        options = ["-f"] if self._kind == "openresolv" else []
        self._call(*options, "-d", _key(owner.tunnel))

    def is_in_place(self, resolver: Resolver, owner: Owner) -> bool:
        """Whether our entry is there, and resolv.conf shows it."""
        try:
            found = self._entries().get(_key(owner.tunnel))
        except HostError:
            return False
        return found == frozenset(
            entry_text(resolver, owner).splitlines()
        ) and self._is_shown(resolver, owner)

    def watched(self) -> tuple[Path, ...]:
        """Return resolv.conf's folder, and where the programs keep entries.

        Not the folder above: Debian's writes its lock file there, even to list.
        """
        return (self._path.parent, *_folders(_RUN))

    def _is_shown(self, resolver: Resolver, owner: Owner) -> bool:
        """Whether resolv.conf names our first server before others, or a local one for it."""
        try:
            with self._path.open("rb") as file:
                text = file.read(1 << 16).decode("utf-8", "replace")
        except OSError:
            return False
        first = next(iter(servers_in(text)), "")
        return first == server_texts(resolver, owner)[0] or (
            first == "::1" or first.startswith("127.")
        )

    def _entries(self) -> Mapping[str, frozenset[str]]:
        # openresolv says by 1 that there is none.
        return entries(self._run([self._program, "-l"], "", fine=1))

    def _call(self, *words: str, text: str = "") -> None:
        self._run([self._program, *words], text)


def owners(run: Path = _RUN) -> list[str]:
    """Return the names of the tunnels that have an entry, living or dead.

    The program is not asked: it may be broken, and who has no entry needs none.

    Args:
        run: Where the programs keep what they know.
    """
    return sorted(
        path.name.removeprefix(_PREFIX)
        for folder in _folders(run)
        for path in folder.glob(f"{_PREFIX}*")
    )


def _folders(run: Path) -> tuple[Path, Path]:
    """Return where openresolv and where Debian's keeps entries."""
    return (run / "interfaces", run / "interface")


def _key(tunnel: str) -> str:
    return f"{_PREFIX}{tunnel}"


def _said(err: bytes) -> str:
    text = err.decode("utf-8", "replace").strip().splitlines()
    line = text[-1] if text else ""
    return "".join(character for character in line if character.isprintable())[:200]


def _cannot(reason: str) -> HostError:
    return HostError(
        f"cannot set the name servers by resolvconf: {reason}",
        operation="write-resolver",
    )
