# SPDX-License-Identifier: Apache-2.0
"""A process killed at any step leaves nothing that the next one does not undo."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Self

import pytest

from sevpn.errors import HostError
from sevpn.net.host import Host, cleanup
from sevpn.net.lock import Lock, locked_tunnels, unlock
from sevpn.net.model import HostState, Resolver, Route
from sevpn.net.nft import Nftables
from sevpn.testing.sandbox import add_uplink, ip, mount, sandboxed
from sevpn.wire.ethernet import MacAddress

pytestmark = pytest.mark.netns

OLD = "nameserver 192.0.2.53\n"

LIFE = """
import os, signal, sys, time
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from sevpn.net.host import Host
from sevpn.net.lock import Lock
from sevpn.net.model import HostState, Resolver, Route, Rule
from sevpn.wire.ethernet import MacAddress

folder, name, stay = Path(sys.argv[1]), sys.argv[2], sys.argv[4] == "stay"
by_mark, by_policy = sys.argv[5] == "mark", sys.argv[5] == "policy"
lock_mode = sys.argv[6]

def live(fatal_step):
    steps = 0

    def checkpoint(line):
        nonlocal steps
        steps += 1
        if steps == fatal_step:
            os.kill(os.getpid(), signal.SIGKILL)

    def route(destination):
        return Route(ip_network(destination), ip_address("10.0.0.1"), tap.name, 50)

    lock = Lock(lock_mode, name, store=folder / "locks", checkpoint=checkpoint)
    host = Host(tunnel=name, runtime_dir=folder / "run", etc_dir=folder, by_mark=by_mark, policy=by_policy, connmark=by_policy, lock=lock, checkpoint=checkpoint)
    host.recover()
    tap = host.open_tap(None, MacAddress(b"\\x5e\\0\\0\\0\\0" + name.encode()[:1]), 1500)
    host.pin_server([ip_address("203.0.113.7"), ip_address("203.0.113.8")])
    tap.set_carrier(True)
    resolver = Resolver((ip_address("10.0.0.1"),))
    addresses = (ip_interface("10.0.0.5/24"), ip_interface("2001:db8:5::5/64"))
    six = Route(ip_network("2001:db8:9::/48"), None, tap.name, 50)
    marks = host.marks
    own_table = (
        Route(ip_network("0.0.0.0/0"), ip_address("10.0.0.1"), tap.name, 50, table=marks.table),
        Route(ip_network("192.0.2.0/24"), None, "", 0, table=marks.table, kind="throw"),
        Route(ip_network("2001:db8:9::/48"), None, tap.name, 50, table=marks.table),
        Route(ip_network("::/0"), None, "", 1024, table=marks.table, kind="unreachable"),
    )
    rules = tuple(Rule(family, marks.preference + 1, marks.table, marks.own, is_not=True) for family in (4, 6))
    excluded = (ip_network("198.51.100.0/24"),)
    if by_mark:
        marked = HostState(tap.name, 1400, addresses, own_table, resolver, rules)
        host.apply(marked)
        host.release_addresses()
        host.apply(marked)
    elif by_policy:
        replies = (Route(ip_network("0.0.0.0/0"), ip_address("10.0.0.1"), tap.name, 50, table=77),)
        conditions = ({"source": ip_network("10.0.0.5/32")}, {"mark": marks.reply})
        for state in 2 * (HostState(tap.name, 1400, addresses, replies, None, tuple(Rule(4, marks.preference, 77, **one) for one in conditions)),):
            host.apply(state)
            host.release_addresses()
    elif name != "plain":
        host.apply(HostState(tap.name, 1400, addresses, (route("0.0.0.0/0"), route("10.7.0.0/16"), six), resolver))
        if not stay:
            host.apply(HostState(tap.name, 1400, (ip_interface("10.0.0.6/24"),), (route("10.8.0.0/16"),), resolver))
            host.release_addresses()
            host.apply(HostState(tap.name, 1400, addresses, (route("0.0.0.0/0"),), resolver))
            host.apply(HostState(tap.name, 1400, addresses, own_table, None, rules, excluded))
    if stay:
        print("up", flush=True)
        sys.stdin.read()
    host.undo()
    print("steps", steps, flush=True)

if sys.argv[3] == "each":
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            live(int(line))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
else:
    live(int(sys.argv[3]))
"""


class Life:
    """A process that leads one tunnel's life on the host."""

    def __init__(
        self,
        folder: Path,
        name: str = "office",
        *,
        stay: bool = False,
        by: str = "host",
        lock: str = "off",
    ) -> None:
        words = [
            sys.executable,
            "-c",
            LIFE,
            str(folder),
            name,
            "0",
            "stay" if stay else "go",
            by,
            lock,
        ]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if stay:
            assert self.process.stdout is not None
            assert self.process.stdout.readline() == "up\n"

    def end(self) -> str:
        """Let it end; return what it wrote last."""
        out, _ = self.process.communicate(timeout=30)
        return out

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.end()


class Lives:
    """The same life led again and again, each time killed at another step.

    The processes are forked from one that has imported all that they need: hundreds of
    them would take minutes to begin.
    """

    def __init__(
        self, folder: Path, name: str = "office", *, by: str = "host", lock: str = "off"
    ) -> None:
        words = [sys.executable, "-c", LIFE, str(folder), name, "each", "go", by, lock]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.steps = int(self._lead(0).split()[1])
        """How many steps it has."""
        assert self._said() == "0\n"

    def kill_at(self, step: int) -> None:
        """Lead it until a step, and no further."""
        assert self._lead(step) == f"{-signal.SIGKILL}\n"

    def _lead(self, fatal_step: int) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{fatal_step}\n")
        self._process.stdin.flush()
        return self._said()

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)


def prepare(folder: Path) -> str:
    """Make an uplink and a resolv.conf; return what must be there again at the end."""
    (folder / "resolv.conf").write_text(OLD, encoding="ascii")
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    return everything(folder)


def everything(folder: Path) -> str:
    files = sorted(path.name for path in folder.iterdir())
    content = (folder / "resolv.conf").read_text(encoding="ascii")
    shown = [
        ip(f"{what} show")
        for what in ("link", "-4 address", "-4 route", "-6 route", "rule", "-6 rule")
    ]
    shown += [ip(f"{family} route show table all proto 224") for family in ("-4", "-6")]
    return "".join([*shown, content, *files])


@sandboxed
def test_a_kill_at_each_step_is_undone_by_cleanup(tmp_path: Path) -> None:
    before = prepare(tmp_path)
    with Lives(tmp_path) as lives:
        assert lives.steps > 30
        assert everything(tmp_path) == before

        for step in range(1, lives.steps + 1):
            lives.kill_at(step)
            cleanup(tmp_path / "run", etc_dir=tmp_path)
            assert everything(tmp_path) == before, f"killed at step {step}"
            assert cleanup(tmp_path / "run", etc_dir=tmp_path) == []


@sandboxed
@pytest.mark.parametrize("by", ["mark", "policy"])
def test_a_kill_at_each_step_by_rules_is_undone_by_cleanup(
    tmp_path: Path, by: str
) -> None:
    before = prepare(tmp_path)
    filters = [
        Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter") for name in ("all", "eth0")
    ]
    for setting in filters:
        setting.write_text("1")
    nftables = Nftables()
    with Lives(tmp_path, by=by) as lives:
        for step in range(1, lives.steps + 1):
            lives.kill_at(step)
            cleanup(tmp_path / "run", etc_dir=tmp_path)
            assert everything(tmp_path) == before, f"killed at step {step}"
            assert [setting.read_text() for setting in filters] == ["1\n", "1\n"]
            assert nftables.tables() == []
    nftables.close()


@sandboxed
@pytest.mark.parametrize("by", ["host", "mark"])
def test_a_kill_at_each_step_of_a_lock_leaves_it_where_unlock_finds_it(
    tmp_path: Path, by: str
) -> None:
    before = prepare(tmp_path)
    store, nftables = tmp_path / "locks", Nftables()
    held = 0
    with Lives(tmp_path, "plain", by=by, lock="on") as lives:
        assert locked_tunnels(nftables) == []
        unlock([], nftables, store)
        assert everything(tmp_path) == before

        for step in range(1, lives.steps + 1):
            lives.kill_at(step)
            cleanup(tmp_path / "run", etc_dir=tmp_path)
            tables = locked_tunnels(nftables)
            held += len(tables)
            if tables:
                free = Lock("off", "plain", store=store)
                with pytest.raises(HostError, match="sevpn unlock"):
                    host_of(tmp_path, "plain", lock=free).recover()
            unlock(tables, nftables, store)
            assert locked_tunnels(nftables) == []
            assert everything(tmp_path) == before, f"killed at step {step}"
    assert 6 < held < lives.steps, "most steps are taken behind the lock, not all"
    nftables.close()


@sandboxed
def test_a_kill_at_each_step_of_a_lock_that_is_auto_leaves_none(
    tmp_path: Path,
) -> None:
    before = prepare(tmp_path)
    nftables = Nftables()
    with Lives(tmp_path, "plain", by="mark", lock="auto") as lives:
        for step in range(1, lives.steps + 1):
            lives.kill_at(step)
            cleanup(tmp_path / "run", etc_dir=tmp_path)
            assert nftables.tables() == [], f"killed at step {step}"
            assert everything(tmp_path) == before, f"killed at step {step}"
    nftables.close()


class Dying(Nftables):
    """A packet filter whose process is killed after some commands."""

    def __init__(self, lives: int) -> None:
        super().__init__()
        self.lives = lives

    def run(self, text: str) -> str:
        if not self.lives:
            raise KeyboardInterrupt
        self.lives -= 1
        return super().run(text)


@sandboxed
def test_an_unlock_that_is_killed_midway_is_done_by_the_next_one(
    tmp_path: Path,
) -> None:
    before = prepare(tmp_path)
    store, nftables = tmp_path / "locks", Nftables()
    for lives in range(3):
        for name in ("plain", "dead"):
            Life(tmp_path, name, by="mark", lock="on", stay=True).kill()
        cleanup(tmp_path / "run", etc_dir=tmp_path)
        tables = locked_tunnels(nftables)
        assert len(tables) == 2

        if lives < 2:
            with pytest.raises(KeyboardInterrupt):
                unlock(tables, Dying(lives), store)
            assert len(locked_tunnels(nftables)) == 2 - lives
            # What is stored goes last: a reboot in between still finds it.
            assert len(list(store.glob("*.nft"))) == 2
        unlock(locked_tunnels(nftables), nftables, store)
        assert locked_tunnels(nftables) == []
        assert everything(tmp_path) == before
    nftables.close()


def host_of(folder: Path, name: str, *, lock: Lock | None = None) -> Host:
    return Host(tunnel=name, runtime_dir=folder / "run", etc_dir=folder, lock=lock)


@sandboxed
def test_a_lock_that_is_auto_leaves_none_that_was_on_for_the_next_start(
    tmp_path: Path,
) -> None:
    before = prepare(tmp_path)
    store = tmp_path / "locks"
    life = Life(tmp_path, "plain", lock="on", stay=True)
    assert (store / "plain.nft").exists()
    life.kill()

    host = host_of(tmp_path, "plain", lock=Lock("auto", "plain", store=store))
    host.recover()
    assert not (store / "plain.nft").exists()
    host.undo()

    nftables = Nftables()
    assert locked_tunnels(nftables) == []
    unlock([], nftables, store)
    nftables.close()
    assert everything(tmp_path) == before


@sandboxed
def test_a_start_whose_journal_cannot_be_written_leaves_no_lock(
    tmp_path: Path,
) -> None:
    before = prepare(tmp_path)
    (tmp_path / "run" / "plain" / "journal.new").mkdir(parents=True)
    lock = Lock("on", "plain", store=tmp_path / "locks")

    with pytest.raises(HostError):
        host_of(tmp_path, "plain", lock=lock).recover()

    nftables = Nftables()
    assert locked_tunnels(nftables) == []
    nftables.close()
    shutil.rmtree(tmp_path / "run")
    assert everything(tmp_path) == before


@sandboxed
def test_a_kill_at_every_third_step_is_undone_without_the_run_folder(
    tmp_path: Path,
) -> None:
    before = prepare(tmp_path)
    with Lives(tmp_path) as lives:
        for step in range(1, lives.steps + 1, 3):
            lives.kill_at(step)
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
            cleanup(tmp_path / "run", etc_dir=tmp_path)
            assert everything(tmp_path) == before, f"killed at step {step}"


@sandboxed
@pytest.mark.parametrize("by", ["host", "mark", "policy"])
def test_a_kill_during_cleanup_is_undone_by_the_next_one(
    tmp_path: Path, by: str
) -> None:
    before = prepare(tmp_path)
    for fatal_step in range(1, 20):
        life = Life(tmp_path, by=by, stay=True)
        life.kill()
        cleaner = subprocess.run(
            [sys.executable, "-c", CLEANER, tmp_path, str(fatal_step)],
            check=False,
            capture_output=True,
            text=True,
        )
        cleanup(tmp_path / "run", etc_dir=tmp_path)
        assert everything(tmp_path) == before
        if cleaner.returncode == 0:
            break
        assert cleaner.returncode == -signal.SIGKILL
    else:
        pytest.fail("cleanup has more steps than were tried")
    assert fatal_step > 3


CLEANER = """
import os, signal, sys
from pathlib import Path
from sevpn.net.host import Host
steps = 0

def checkpoint(line):
    global steps
    steps += 1
    if steps == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
host = Host(tunnel="other", runtime_dir=folder / "run", etc_dir=folder, checkpoint=checkpoint)
host.recover()
host.undo()
"""


@sandboxed
def test_the_next_start_undoes_what_the_dead_process_left_and_says_it(
    tmp_path: Path,
) -> None:
    before = prepare(tmp_path)
    Life(tmp_path, stay=True).kill()
    assert (tmp_path / "resolv.conf").read_text(encoding="ascii") != OLD

    host = Host(tunnel="office", runtime_dir=tmp_path / "run", etc_dir=tmp_path)
    done = host.recover()

    assert done == [
        "restore /etc/resolv.conf",
        "ip route del 203.0.113.7 via 192.0.2.1 dev eth0 proto 224",
        "ip route del 203.0.113.8 via 192.0.2.1 dev eth0 proto 224",
    ]
    host.undo()
    assert everything(tmp_path) == before


@sandboxed
def test_cleanup_does_not_touch_a_living_tunnel(tmp_path: Path) -> None:
    before = prepare(tmp_path)
    life = Life(tmp_path, stay=True)
    living = everything(tmp_path)

    assert cleanup(tmp_path / "run", etc_dir=tmp_path) == []
    assert cleanup(tmp_path / "run", etc_dir=tmp_path, tunnel="office") == []

    assert everything(tmp_path) == living
    life.end()
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "forget", ["run", "run/office", "run/office/journal", "run/office/lock", "run/lock"]
)
def test_a_living_tunnel_is_known_whatever_was_deleted(
    tmp_path: Path, forget: str
) -> None:
    @sandboxed
    def scenario() -> None:
        before = prepare(tmp_path)
        dead, living = (
            Life(tmp_path, "plain", stay=True),
            Life(tmp_path, "office", stay=True),
        )
        dead.kill()
        delete(tmp_path / forget)
        routes, names = (
            ip("route"),
            (tmp_path / "resolv.conf").read_text(encoding="ascii"),
        )

        cleanup(tmp_path / "run", etc_dir=tmp_path)

        assert ip("route") == routes
        assert (tmp_path / "resolv.conf").read_text(encoding="ascii") == names
        with pytest.raises(HostError, match="running already"):
            Host(
                tunnel="office", runtime_dir=tmp_path / "run", etc_dir=tmp_path
            ).recover()
        living.end()
        cleanup(tmp_path / "run", etc_dir=tmp_path)
        assert everything(tmp_path) == before

    scenario()


def delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@sandboxed
def test_a_dead_tunnel_is_cleaned_beside_a_living_one_that_needs_other_routes(
    tmp_path: Path,
) -> None:
    before = prepare(tmp_path)
    ours = Host(tunnel="mine", runtime_dir=tmp_path / "run", etc_dir=tmp_path)
    ours.recover()
    ours.open_tap(None, MacAddress(b"\x5e\0\0\0\0\1"), 1500)
    ours.pin_server([ip_address("203.0.113.8"), ip_address("203.0.113.9")])
    Life(tmp_path, stay=True).kill()

    cleanup(tmp_path / "run", etc_dir=tmp_path)

    lines = ip("route show proto 224").splitlines()
    assert [line.split()[0] for line in lines] == ["203.0.113.8", "203.0.113.9"]
    ours.undo()
    assert everything(tmp_path) == before


@sandboxed
def test_cleanup_of_one_tunnel_leaves_what_another_dead_one_left(
    tmp_path: Path,
) -> None:
    before = prepare(tmp_path)
    lives = [Life(tmp_path, name, stay=True) for name in ("plain", "dead")]
    for life in lives:
        life.kill()
    ip("route add 203.0.113.99 via 192.0.2.1 proto 224")  # nobody's

    done = cleanup(tmp_path / "run", etc_dir=tmp_path, tunnel="plain")

    assert done == [
        "ip route del 203.0.113.99 via 192.0.2.1 dev eth0 proto 224",
        "clear the run folder of plain",
    ]
    assert (tmp_path / "resolv.conf").read_text(encoding="ascii") != OLD
    assert (
        cleanup(tmp_path / "run", etc_dir=tmp_path, tunnel="dead")[-1]
        == "clear the run folder of dead"
    )
    assert everything(tmp_path) == before


@sandboxed
def test_cleanup_works_where_etc_is_read_only(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "resolv.conf").write_text(OLD, encoding="ascii")
    mount(etc, etc, options="ro")

    assert cleanup(tmp_path / "run", etc_dir=etc) == []


@sandboxed
def test_a_folder_deleted_under_a_living_tunnel_is_made_again_with_its_lock(
    tmp_path: Path,
) -> None:
    before = prepare(tmp_path)
    host = Host(tunnel="office", runtime_dir=tmp_path / "run", etc_dir=tmp_path)
    host.recover()
    host.open_tap(None, MacAddress(b"\x5e\0\0\0\0\1"), 1500)
    shutil.rmtree(tmp_path / "run")

    host.pin_server([ip_address("203.0.113.7")])

    with pytest.raises(HostError, match=f"process {os.getpid()}"):
        Host(tunnel="office", runtime_dir=tmp_path / "run", etc_dir=tmp_path).recover()
    host.undo()
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff" * 100,
        b"[]",
        b'{"schema": 9, "tunnel": "x"}',
        b"{" * (1 << 21),
    ],
)
def test_a_journal_that_cannot_be_read_hides_nothing(
    tmp_path: Path, content: bytes
) -> None:
    @sandboxed
    def scenario() -> None:
        before = prepare(tmp_path)
        Life(tmp_path, stay=True).kill()
        (tmp_path / "run/office/journal").write_bytes(content)

        cleanup(tmp_path / "run", etc_dir=tmp_path)

        assert everything(tmp_path) == before

    scenario()


@sandboxed
def test_what_somebody_did_after_the_crash_is_not_undone(tmp_path: Path) -> None:
    prepare(tmp_path)
    Life(tmp_path, stay=True).kill()
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.99\n", encoding="ascii")
    ip("route replace 203.0.113.7 via 192.0.2.9 dev eth0 proto static")

    cleanup(tmp_path / "run", etc_dir=tmp_path)

    assert (tmp_path / "resolv.conf").read_text(
        encoding="ascii"
    ) == "nameserver 192.0.2.99\n"
    assert "203.0.113.7 via 192.0.2.9 dev eth0 proto static" in ip("route")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resolv.conf"]


@sandboxed
def test_a_second_tunnel_may_not_take_what_only_one_can_have(tmp_path: Path) -> None:
    before = prepare(tmp_path)
    first = Life(tmp_path, stay=True)
    second = Host(tunnel="second", runtime_dir=tmp_path / "run", etc_dir=tmp_path)
    second.recover()
    tap = second.open_tap(None, MacAddress(b"\x5e\0\0\0\0\1"), 1500)
    default = Route(DEFAULT.destination, None, tap.name, 50)
    resolver = Resolver((ip_address("10.0.0.9"),))

    for forget in (nothing, lambda: shutil.rmtree(tmp_path / "run")):
        forget()
        with pytest.raises(HostError, match=r"'office'.*default route") as caught:
            second.apply(HostState(tap.name, 1500, (), (default,), None))
        assert caught.value.operation == "claim-default"
        with pytest.raises(HostError, match=r"'office'.*name servers") as caught:
            second.apply(HostState(tap.name, 1500, (), (), resolver))
        assert caught.value.operation == "claim-dns"

    first.end()
    second.apply(HostState(tap.name, 1500, (), (default,), resolver))
    second.undo()
    assert everything(tmp_path) == before


DEFAULT = Route(ip_network("0.0.0.0/0"), None, "", 50)


def nothing() -> None:
    """Forget nothing."""


@sandboxed
def test_the_claim_of_a_tunnel_outlives_a_drop(tmp_path: Path) -> None:
    prepare(tmp_path)
    hosts: list[tuple[Host, HostState]] = []
    for name in ("first", "second"):
        host = Host(tunnel=name, runtime_dir=tmp_path / "run", etc_dir=tmp_path)
        host.recover()
        tap = host.open_tap(None, MacAddress(b"\x5e\0\0\0\0" + name.encode()[:1]), 1500)
        tap.set_carrier(True)
        default = Route(DEFAULT.destination, None, tap.name, 50)
        hosts.append((host, HostState(tap.name, 1500, (), (default,), None)))
    (first, wanted), (second, other) = hosts
    first.apply(wanted)
    first.release_addresses()

    with pytest.raises(HostError, match="'first'"):
        second.apply(other)

    first.undo()
    second.apply(other)
    second.undo()


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_two_tunnels_at_once_end_in_either_order(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    @sandboxed
    def scenario() -> None:
        before = prepare(tmp_path)
        lives: dict[str, Callable[[], object]] = {}
        lives["a"] = Life(tmp_path, "office", stay=True).end
        lives["b"] = Life(tmp_path, "plain", stay=True).end

        lives[order[0]]()
        routes = ip("route show proto 224 dev eth0")
        lives[order[1]]()

        assert [line.split()[0] for line in routes.splitlines()] == [
            "203.0.113.7",
            "203.0.113.8",
        ]
        assert everything(tmp_path) == before

    scenario()
