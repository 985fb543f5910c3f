# SPDX-License-Identifier: Apache-2.0
"""Programs that pass all tunnels by.

Layer: net. Runs in: the short-lived `bypass` and `cleanup` commands.

A program, and all that it starts, is put into a control group of its own. A table in
the packet filter marks what its sockets send, and rules of tunnels in `mark` mode send
what bears that mark to the main table (`routing.py`). The address that such a packet
left with was chosen before it was marked, so it is translated to the uplink's.

    sevpn-bypass, a control group     one for all programs; gone with the last of them
    table inet sevpnbypass            likewise

Questions for names go the way of everybody's, to the name servers that are set now:
those of a tunnel answer inside it only.

Source: cgroups(7); nft(8), "socket cgroupv2".
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Final

from sevpn.errors import HostError, PrivilegeError
from sevpn.net.dns.uplink import named_servers
from sevpn.net.marks import BYPASS_MARK
from sevpn.net.model import Address
from sevpn.net.nft import Nftables

__all__ = ["bypassing", "remove_if_unused", "ruleset"]

_GROUP: Final = "sevpn-bypass"
_TABLE: Final = "sevpnbypass"
_FILTERS_ROOT: Final = Path("/sys/fs/cgroup")
"""What the packet filter's library looks for a group below."""

_MAX_MOUNTS: Final = 1 << 20


def ruleset(group: str, resolvers: Sequence[Address]) -> str:
    """Return the commands that load the table, or load it anew.

    Args:
        group: The group, as the packet filter's library finds it.
        resolvers: The name servers that are set now.
    """
    asked = "meta l4proto { tcp, udp } th dport 53"
    ours = f'socket cgroupv2 level 1 "{group}"'
    lines = [
        f"table inet {_TABLE}",
        f"delete table inet {_TABLE}",
        f"table inet {_TABLE} {{",
        "chain out {",
        "type route hook output priority mangle; policy accept;",
        *(
            f"{asked} {'ip' if server.version == 4 else 'ip6'} daddr {server} accept"
            for server in resolvers
        ),
        f"{ours} meta mark set {BYPASS_MARK:#x}",
        "}",
        "chain leave {",
        "type nat hook postrouting priority srcnat; policy accept;",
        f"meta mark {BYPASS_MARK:#x} masquerade",
        "}",
        "}",
    ]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def bypassing(etc: Path) -> Generator[None]:
    """Let what is started within the block pass all tunnels by.

    The calling process is in the group for the length of the block, and leaves it; its
    children stay.

    Args:
        etc: Where resolv.conf is.

    Raises:
        HostError: This host has no control groups of version 2, or the packet filter
            refused.
        PrivilegeError: No permission.
    """
    mount = _mount()
    if mount is None:
        raise _no_hierarchy()
    group = mount / _GROUP
    before = mount / _own_group().lstrip("/")
    try:
        group.mkdir(exist_ok=True)
        # The filter finds the group by its name when the table is loaded.
        name = str(group.relative_to(_FILTERS_ROOT))
        _load(ruleset(name, named_servers(etc)))
        _enter(group)
    except OSError as error:
        raise _no_group(group, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            _enter(before)


def remove_if_unused() -> list[str]:
    """Remove group and table when no program is in the group any more.

    Returns:
        A line for each thing that was removed; none is fine.

    Raises:
        HostError: The packet filter refused.
    """
    mount = _mount()
    if mount is None:
        return []
    group = mount / _GROUP
    try:
        group.rmdir()
    except OSError:
        return []  # it is not there, or somebody is in it
    done = [f"rmdir {group}"]
    nftables = Nftables()
    try:
        if nftables.has_table(_TABLE):
            nftables.run(f"delete table inet {_TABLE}")
            done.append(f"nft delete table inet {_TABLE}")
    finally:
        nftables.close()
    return done


def _load(text: str) -> None:
    nftables = Nftables()
    try:
        nftables.run(text)
    finally:
        nftables.close()


def _enter(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")


def _mount() -> Path | None:
    """Return where control groups of version 2 are, if that is where the filter looks."""
    with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="replace") as file:
        lines = file.read(_MAX_MOUNTS).splitlines()
    for line in lines:
        before, _, after = line.partition(" - ")
        place = Path(before.split()[4])
        if after.startswith("cgroup2 ") and place.is_relative_to(_FILTERS_ROOT):
            return place
    return None


def _own_group() -> str:
    """Return the control group of this process, of version 2."""
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        number, _, path = line.split(":", 2)
        if number == "0":
            return path
    raise _no_hierarchy()


def _no_hierarchy() -> HostError:
    return HostError(
        f"there are no control groups of version 2 below {_FILTERS_ROOT}, by which a program is told from others: "
        "boot with systemd.unified_cgroup_hierarchy=1, or keep a user out with --exclude-uid",
        operation="bypass",
    )


def _no_group(group: Path, error: OSError) -> HostError:
    if isinstance(error, PermissionError):
        return PrivilegeError(
            f"no permission to use the control group {group}: run sevpn with sudo",
            operation="bypass",
        )
    return HostError(
        f"cannot make the control group {group}: {error.strerror}; keep a user out with --exclude-uid instead",
        operation="bypass",
    )
