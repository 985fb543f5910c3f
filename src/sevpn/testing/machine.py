# SPDX-License-Identifier: Apache-2.0
"""Machines for tests: a network and a file system of its own each, on one host.

Layer: testing. Runs in: any thread of a test; needs root.

A :class:`Machine` is a process that does nothing but hold a network namespace and
a mount namespace. What is started on it sees an empty network with `lo` up, an
empty /run, and an /etc and a /var that it may change: changes go to memory and
are gone with the machine. /etc/resolv.conf is a plain file with one name server.
It makes nothing that has a name on this host, and it ends with the test, however
that ends: its holder reads from a pipe of ours, and on its end kills all who live
in its network.

    veth:   client ── 192.0.2.2 ═══ 192.0.2.1 ── server

Several programs share a machine, as `sevpn up` and `sevpn status` do.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

__all__ = [
    "Finished",
    "Machine",
    "Snapshot",
    "bring_up",
    "connect",
    "end",
    "eventually",
    "host_facts",
    "open_machines",
]

_SETUP: Final = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/memory/etc /run/memory/etc.work /run/memory/var /run/memory/var.work
mount -t overlay -o lowerdir=/etc,upperdir=/run/memory/etc,workdir=/run/memory/etc.work overlay /etc
mount -t overlay -o lowerdir=/var,upperdir=/run/memory/var,workdir=/run/memory/var.work overlay /var
rm -f /etc/resolv.conf
printf 'nameserver 192.0.2.53\\nsearch lab.test\\n' > /etc/resolv.conf
ip link set lo up
echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter
echo 0 > /proc/sys/net/ipv4/conf/default/rp_filter
echo ready
cat > /dev/null
mine=$(readlink /proc/self/ns/net)
for process in /proc/[0-9]*; do
    if [ "$process" != /proc/$$ ] && [ "$(readlink "$process/ns/net" || true)" = "$mine" ]; then
        kill -9 "${process#/proc/}" || true
    fi
done 2> /dev/null
"""
"""Make the machine, hold it until the other end of standard input is closed, empty it."""

_PATIENCE_S: Final = 10.0
"""How long a program may take to end when it is told to."""

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that has ended."""

    code: int
    """Exit code; negative: the signal."""

    out: str
    """What it wrote to standard output."""

    err: str
    """What it wrote to standard error."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a machine's network looks like, for "the host is left as it was"."""

    links: tuple[str, ...]
    """Names of interfaces."""

    addresses: tuple[str, ...]
    """`interface address/prefix`, link-local ones apart."""

    routes: tuple[str, ...]
    """Routes of all tables, as `ip route` writes them."""

    rules: tuple[str, ...]
    """Policy rules."""

    resolv_conf: str
    """What /etc/resolv.conf is: kind and text."""

    leftovers: tuple[str, ...]
    """Files of sevpn below /run/sevpn, the lock of all tunnels apart, and in /etc."""

    def difference(self, later: Snapshot) -> list[str]:
        """Return what *later* has lost (`- …`) and gained (`+ …`), a line each."""
        lines: list[str] = []
        for name in self.__dataclass_fields__:
            ours, theirs = _lines(getattr(self, name)), _lines(getattr(later, name))
            lines += [f"- {name}: {line}" for line in ours if line not in theirs]
            lines += [f"+ {name}: {line}" for line in theirs if line not in ours]
        return lines


def _lines(fact: str | tuple[str, ...]) -> Sequence[str]:
    return fact.splitlines() if isinstance(fact, str) else fact


def eventually(
    check: Callable[[], Any], *, within_s: float = 30.0, what: str = "it"
) -> Any:
    """Return the first true answer of *check*, which is asked every 20 ms.

    The limit is for what never comes: a busy machine may take many times as long as
    an idle one.

    Raises:
        AssertionError: None came in time.
    """
    deadline = time.monotonic() + within_s
    while True:
        if answer := check():
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {within_s:g} s")
        time.sleep(0.02)


class Machine:
    """A host of its own; see the module. Close it, or use it in a `with`."""

    def __init__(self, name: str) -> None:
        self.name = f"{name}-{secrets.token_hex(3)}"
        self._children: dict[subprocess.Popen[str], signal.Signals] = {}
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", _SETUP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": _PATH, "LC_ALL": "C"},
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            _, reason = self._holder.communicate()
            raise OSError(f"no private machine can be made here: {reason.strip()}")
        _open.append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process that holds the namespaces."""
        return self._holder.pid

    def close(self) -> None:
        """End what was started here, who was left by that, and the machine.

        Raises:
            AssertionError: Somebody could not be ended.
        """
        for child, number in reversed(self._children.items()):
            end(child, number)
        self._children.clear()
        try:
            self._end_strays()
        finally:
            os.killpg(self.pid, signal.SIGKILL)
            self._holder.communicate()
            _open.remove(self)

    def _end_strays(self) -> None:
        """End daemons: their parents have gone, but they live in our network."""
        deadline = time.monotonic() + _PATIENCE_S
        while strays := self._strays():
            for pid in strays:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert time.monotonic() < deadline, f"{self.name}: {strays} do not end"
            time.sleep(0.005)

    def _strays(self) -> list[int]:
        network = _network(self.pid)
        strays: list[int] = []
        for process in _processes():
            # A zombie has no network any more, and others end while we look.
            with contextlib.suppress(OSError):
                if process.group != self.pid and _network(process.pid) == network:
                    strays.append(process.pid)
        return strays

    # --- programs ---

    def popen(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        ended_by: signal.Signals = signal.SIGTERM,
        **settings: Any,
    ) -> subprocess.Popen[str]:
        """Start a program here; it is ended with the machine at the latest.

        Args:
            argv: The program and its arguments.
            env: More of its environment.
            ended_by: By which signal it is ended with the machine.
            settings: More of what `subprocess.Popen` takes.
        """
        environment = {"PATH": _PATH, "LC_ALL": "C.UTF-8", "HOME": "/root"}
        environment |= _settings_of_the_run()
        options: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "start_new_session": True,
        }
        child: subprocess.Popen[str] = subprocess.Popen(
            [*self._enter(), *map(str, argv)],
            env=environment | dict(env or {}),
            **(options | settings),
        )
        self._children[child] = ended_by
        return child

    def run(
        self,
        *argv: str | Path,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        text: str | None = None,
    ) -> Finished:
        """Run a program to its end.

        Raises:
            AssertionError: It did not end in time; it is ended then.
        """
        settings: dict[str, Any] = {} if text is None else {"stdin": subprocess.PIPE}
        child = self.popen(argv, env=env, **settings)
        try:
            out, err = child.communicate(text, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            end(child, signal.SIGKILL)
            out, err = child.communicate()
            raise AssertionError(
                f"{argv} took longer than {timeout_s:g} s:\n{out}\n{err}"
            ) from None
        finally:
            del self._children[child]
        return Finished(child.returncode, out, err)

    def check(self, *argv: str | Path, **settings: Any) -> str:
        """Run a program that must succeed, and return its output."""
        done = self.run(*argv, **settings)
        assert done.code == 0, f"{argv}: exit {done.code}\n{done.out}{done.err}"
        return done.out

    def sh(self, script: str, **settings: Any) -> str:
        """Run a shell script that must succeed, and return its output."""
        return self.check("sh", "-ec", script, **settings)

    def python(self, script: str, *argv: str, **settings: Any) -> str:
        """Run a Python script that must succeed, and return its output."""
        return self.check(sys.executable, "-c", script, *argv, **settings)

    def end(self, child: subprocess.Popen[str]) -> None:
        """End a program that was started here."""
        end(child)
        del self._children[child]

    def _enter(self) -> list[str]:
        return [
            "nsenter",
            f"--net=/proc/{self.pid}/ns/net",
            f"--mount=/proc/{self.pid}/ns/mnt",
            f"--wd={Path.cwd()}",
            "--",
        ]

    # --- questions ---

    def ip(self, *words: str) -> list[dict[str, Any]]:
        """Return what `ip -j WORDS` says."""
        answer: list[dict[str, Any]] = json.loads(
            self.check("ip", "-j", *words) or "[]"
        )
        return answer

    def pings(
        self,
        address: str,
        *,
        count: int = 10,
        wait_s: float = 1.0,
        size: int = 0,
        netns: str | None = None,
    ) -> bool:
        """Whether *address*, an IPv4 one, answers one of *count* ICMP echoes, *wait_s* apart.

        Each has *size* bytes of payload. A late answer to an earlier one counts, too.
        With *netns* it is asked from a namespace on this machine.
        """
        place = () if netns is None else ("ip", "netns", "exec", netns)
        ping = (
            sys.executable,
            "-c",
            _PING,
            address,
            str(count),
            f"{wait_s:g}",
            str(size),
        )
        return self.run(*place, *ping).code == 0

    def read(self, path: str) -> str:
        """Return a file's text as this machine sees it."""
        return self.check("cat", path)

    def write(self, path: str, text: str, *, mode: str = "600") -> None:
        """Write a file on this machine."""
        self.check(
            "sh",
            "-ec",
            'mkdir -p "$(dirname "$1")"; umask 077; cat > "$1"; chmod "$2" "$1"',
            "write",
            path,
            mode,
            text=text,
        )

    def snapshot(self) -> Snapshot:
        """Return what the network and sevpn's files look like."""
        return Snapshot(
            links=tuple(sorted(link["ifname"] for link in self.ip("link"))),
            addresses=tuple(self._addresses()),
            routes=tuple(
                sorted(
                    # A cable that was plugged in just now may still be said to be down.
                    " ".join(line.replace(" linkdown", "").split())
                    for family in ("-4", "-6")
                    for line in self.check(
                        "ip", family, "route", "show", "table", "all"
                    ).splitlines()
                    if " fe80:" not in line
                    and not line.startswith(("fe80:", "multicast", "anycast", "ff00"))
                )
            ),
            rules=tuple(self.check("ip", "rule").splitlines()),
            resolv_conf=self.sh(
                'stat -c "%F %a" /etc/resolv.conf; readlink /etc/resolv.conf || true; cat /etc/resolv.conf'
            ),
            leftovers=tuple(
                self.sh(
                    # The lock of all tunnels stays: removing a lock file is a race.
                    "find /run/sevpn ! -type d ! -path /run/sevpn/lock 2>/dev/null || true;"
                    "find /etc -maxdepth 1 -name '.resolv.conf*' 2>/dev/null || true"
                ).split()
            ),
        )

    def _addresses(self) -> Generator[str]:
        for link in self.ip("address"):
            for address in link["addr_info"]:
                if address["scope"] != "link":
                    yield f"{link['ifname']} {address['local']}/{address['prefixlen']}"


_PING: Final = """
import socket, struct, sys, time
address, count, wait_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
payload = bytes(int(sys.argv[4]))
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
for number in range(count):
    head = struct.pack("!BBHHH", 8, 0, 0, 77, number)
    total = sum(struct.unpack("!4H", head))
    check = ~(total + (total >> 16)) & 0xFFFF
    try:
        sock.sendto(struct.pack("!BBHHH", 8, 0, check, 77, number) + payload, (address, 0))
    except OSError:
        time.sleep(wait_s)
        continue
    deadline = time.monotonic() + wait_s
    while (left := deadline - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            data, (source, _) = sock.recvfrom(2048)
        except TimeoutError:
            break
        size = (data[0] & 15) * 4
        if source == address and data[size] == 0 and data[size + 4:size + 6] == b"\\0M":
            sys.exit(0)
sys.exit(1)
"""


def connect(
    one: Machine,
    other: Machine,
    *,
    interfaces: tuple[str, str] = ("eth0", "eth0"),
    addresses: tuple[str, str] = ("192.0.2.2/24", "192.0.2.1/24"),
) -> None:
    """Join two machines by a cable; an empty address leaves its end without one."""
    subprocess.run(
        [
            *("ip", "link", "add", interfaces[0], "netns", str(one.pid)),
            *("type", "veth", "peer", "name", interfaces[1], "netns", str(other.pid)),
        ],
        check=True,
    )
    for machine, name, address in zip((one, other), interfaces, addresses, strict=True):
        bring_up(machine, name, address)


def bring_up(machine: Machine, interface: str, address: str) -> None:
    """Turn an interface on, with an address unless that is empty."""
    if address:
        machine.sh(f"ip addr add {address} dev {interface}")
    machine.sh(f"ip link set {interface} up")


def end(child: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
    """End a process and those of its session; return its exit code.

    A program's children may outlive it (vpnserver's worker does, by half a minute):
    whoever is left after some seconds is killed.

    Of one that was collected before nobody is signalled: its number may be somebody
    else's by now, as there are few of them. Who outlived it is ended with the machine.
    """
    for step in () if child.returncode is not None else (number, signal.SIGKILL):
        if _has_gone(child):
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, step)
        deadline = time.monotonic() + _PATIENCE_S
        while not _has_gone(child) and time.monotonic() < deadline:
            time.sleep(0.002)
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            stream.close()
    return child.wait(_PATIENCE_S)


def _has_gone(child: subprocess.Popen[str]) -> bool:
    if child.poll() is None:
        return False
    try:
        os.killpg(child.pid, 0)
    except ProcessLookupError:
        return True
    # Zombies that nobody has collected yet are still counted by the kernel.
    return all(process.group != child.pid for process in _processes())


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    group: int


def _network(pid: int) -> int:
    """Return the number of the network namespace that a process lives in."""
    return Path(f"/proc/{pid}/ns/net").stat().st_ino


def _processes() -> Generator[_Process]:
    """Yield all processes of this host that live."""
    for name in os.listdir("/proc"):  # noqa: PTH208 - names are all we need
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):
            text = Path("/proc", name, "stat").read_text()
            # The name before may contain anything: pid (name) state parent group …
            state, _, group, *_ = text.rpartition(")")[2].split()
            if state not in "ZX":
                yield _Process(int(name), int(group))


_open: Final[list[Machine]] = []


def open_machines() -> list[str]:
    """Return the names of the machines of this process that nobody has closed."""
    return [machine.name for machine in _open]


def host_facts() -> list[str]:
    """Return what tests must not change on the host itself, a line each."""
    facts: list[str] = []
    for words in ("link", "address", "route", "-6 route", "rule"):
        for line in subprocess.run(
            ["ip", "-o", *words.split()], capture_output=True, text=True, check=True
        ).stdout.splitlines():
            # Lifetimes of addresses and routes run down by themselves.
            fact = re.sub(r" (valid_lft|preferred_lft|expires) \S+", "", line)
            facts.append(f"ip {words}: {' '.join(fact.split())}")
    facts += [
        f"mount: {line.split()[4]}"
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
    ]
    names = Path("/etc/resolv.conf")
    facts.append(f"resolv.conf: {names.is_symlink()} {names.read_text()!r}")
    if Path("/run/sevpn").exists():
        facts.append("file: /run/sevpn")
    return facts


def _settings_of_the_run() -> dict[str, str]:
    """What programs under test are told: the form of the kernel, and to be measured if the tests are."""
    return {
        key: value
        for key, value in os.environ.items()
        if key.startswith(("COVERAGE_", "COV_CORE_")) or key == "SEVPN_KERNEL"
    }
