# SPDX-License-Identifier: Apache-2.0
"""Which way this host is told its name servers, and why that one.

Layer: net. Runs in: the control thread; the decision is pure, see :func:`choose`.

    resolv.conf                        and                          way
    ---------------------------------  ---------------------------  ----------
    only 127.0.0.53, or `resolve` in   systemd-resolved answers     resolved
      nsswitch.conf                    it does not                  file
    written by resolvconf              openresolv or Debian's       resolvconf
                                       `resolvconf` is resolvectl,
                                         and resolved answers       resolved
                                       no such program              file
    systemd-resolved's list of         -                            file
      uplink servers
    by NetworkManager, anybody, none   -                            file

The list of uplink servers (/run/systemd/resolve/resolv.conf) is read by programs
that know nothing of links: with ours among its lines, names would still go to the
uplink's servers. So it is replaced, as a plain file is.

The reason names the facts that decided, and what the way does not reach.

Source: resolved.conf(5), systemd-resolved.service(8); resolvconf(8) of openresolv
3.12 and of Debian's resolvconf 1.91.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from sevpn.errors import HostError
from sevpn.net.model import NamesWay

__all__ = [
    "Choice",
    "Facts",
    "ResolvconfKind",
    "choose",
    "find_resolvconf",
    "kind_of_resolvconf",
    "look",
    "sends_to_resolved",
    "servers_in",
    "written_by",
]

ResolvconfKind: TypeAlias = Literal["openresolv", "debian", "resolvectl"]
"""Which program answers to the name `resolvconf`."""

_MAX_SIZE: Final = 1 << 16

_STUBS: Final = frozenset({"127.0.0.53", "127.0.0.54"})
"""Where systemd-resolved listens (systemd 247 knows the first, 251 both)."""

_NOT_ASKED: Final = "it was not asked"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is looked at."""

    content: str | None
    """The text of resolv.conf, at most 64 KiB; `None` when it cannot be read."""

    link_target: str | None
    """Where it points when it is a symbolic link."""

    has_nss_resolve: bool = False
    """Whether nsswitch.conf sends programs to systemd-resolved before the DNS."""

    resolvconf: ResolvconfKind | None = None
    """The `resolvconf` of this host; `None`: there is none."""

    resolved: str | None = None
    """Why systemd-resolved cannot be told; empty: it can; `None`: nobody asked it."""

    is_private: bool = False
    """Whether resolv.conf is that of another network namespace, which only its own
    programs read: no manager takes care of it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How the host is told."""

    backend: NamesWay | Literal["off"]
    """The way."""

    reason: str
    """Why, for `sevpn status`."""

    resolvconf: ResolvconfKind | None = None
    """Which program it is, for the way `resolvconf`."""


def look(etc: Path, *, mode: str, ask_resolved: Callable[[], str]) -> Facts:
    """Return the facts about the resolv.conf below *etc*.

    Args:
        etc: Where resolv.conf is; all but /etc is another namespace's.
        mode: `--dns-mode`, for which the facts are.
        ask_resolved: Says why systemd-resolved cannot be told, or nothing. Called
            only where the answer may count: it takes the bus.
    """
    path = etc / "resolv.conf"
    try:
        target: str | None = str(path.readlink())
    except OSError:
        target = None
    facts = Facts(_head(path), target)
    if etc != Path("/etc"):
        return Facts(facts.content, target, is_private=True)
    has_nss = _sends_to_resolved(_head(etc / "nsswitch.conf") or "")
    kind = kind_of_resolvconf(find_resolvconf())
    may_count = {
        "auto": _asks_stub(facts)
        or has_nss
        or (kind == "resolvectl" and _is_by_resolvconf(facts)),
        "resolved": True,
        "resolvconf": kind == "resolvectl",
    }
    resolved = ask_resolved() if may_count.get(mode, False) else None
    return Facts(facts.content, target, has_nss, kind, resolved)


def choose(mode: str, facts: Facts, *, split: bool = False) -> Choice:
    """Decide by the facts alone.

    Args:
        mode: `--dns-mode`: `auto`, `resolved`, `resolvconf`, `file` or `off`.
        facts: As they were before sevpn changed anything.
        split: Whether only names of some domains are to go to the tunnel's servers.

    Raises:
        HostError: What was asked for is impossible on this host.
    """
    choice = _choose(mode, facts)
    if split and choice.backend not in {"resolved", "off"}:
        raise HostError(
            "--split-dns needs systemd-resolved, which alone asks different servers for different names, and here "
            f"{choice.reason}: leave it out, or let systemd-resolved answer this host's names",
            operation="choose-resolver",
        )
    return choice


def sends_to_resolved(facts: Facts) -> bool:
    """Whether this host's programs ask systemd-resolved."""
    return _is_resolveds(facts)


def written_by(content: str | None, link_target: str | None) -> str:
    """Name the program that a resolv.conf says it is by; "somebody else" if it does not."""
    head, target = (content or "")[:1024], link_target or ""
    # Debian's resolvconf explains 127.0.0.53 in its own header.
    if "systemd/resolve" in target or "man:systemd-resolved" in head:
        return "systemd-resolved"
    if "NetworkManager" in head or "NetworkManager" in target:
        return "NetworkManager"
    if "resolvconf" in head or "resolvconf" in target:
        return "resolvconf"
    if "dhclient" in head or "dhcpcd" in head:
        return "a DHCP client"
    return "somebody else"


# --- decisions ---------------------------------------------------------------


def _choose(mode: str, facts: Facts) -> Choice:
    if mode == "off":
        return Choice("off", "--dns-mode off: name resolution is left alone")
    if facts.is_private:
        return _private(mode)
    match mode:
        case "resolved":
            return _by_resolved(facts)
        case "resolvconf":
            return _by_program(facts, "--dns-mode resolvconf: ", is_forced=True)
        case "file":
            return Choice("file", f"--dns-mode file: {_file_reason(facts)}")
        case _:
            return _automatic(facts)


def _by_resolved(facts: Facts) -> Choice:
    if facts.resolved != "":
        raise _impossible("resolved", facts.resolved or _NOT_ASKED)
    reason = (
        "programs ask systemd-resolved"
        if _is_resolveds(facts)
        else "programs that read resolv.conf are not reached"
    )
    return Choice("resolved", f"--dns-mode resolved: {reason}")


def _automatic(facts: Facts) -> Choice:
    if _is_resolveds(facts):
        file = "nsswitch.conf" if facts.has_nss_resolve else "resolv.conf"
        if facts.resolved == "":
            return Choice("resolved", f"{file} sends programs to systemd-resolved")
        return Choice(
            "file",
            f"{file} sends programs to systemd-resolved, which cannot be told "
            f"({facts.resolved or _NOT_ASKED}): resolv.conf is replaced",
        )
    if _is_by_resolvconf(facts):
        return _by_program(facts, "", is_forced=False)
    return Choice("file", _file_reason(facts))


def _private(mode: str) -> Choice:
    if mode in {"resolved", "resolvconf"}:
        raise _impossible(mode, "it does not reach into another network namespace")
    return Choice("file", "the network namespace has a resolv.conf of its own")


def _by_program(facts: Facts, prefix: str, *, is_forced: bool) -> Choice:
    owner = "resolv.conf is written by resolvconf"
    if facts.resolvconf in {"openresolv", "debian"} and not _is_by_resolvconf(facts):
        # openresolv would replace a file that nobody has saved; Debian's would have no effect.
        raise _impossible("resolvconf", "resolv.conf is not written by resolvconf")
    match facts.resolvconf:
        case "resolvectl":
            if facts.resolved == "":
                return Choice(
                    "resolved", f"{prefix}`resolvconf` is systemd-resolved's here"
                )
            if is_forced:
                raise _impossible("resolvconf", facts.resolved or _NOT_ASKED)
            return Choice(
                "file",
                f"`resolvconf` is systemd-resolved's here, which cannot be told ({facts.resolved or _NOT_ASKED}): "
                "resolv.conf is replaced",
            )
        case "openresolv":
            reason = f"{prefix}{owner} (openresolv); ours are the only servers there"
            return Choice("resolvconf", reason, "openresolv")
        case "debian":
            reason = f"{prefix}{owner} (Debian's); ours are first, and other servers stay behind them"
            return Choice("resolvconf", reason, "debian")
        case None:
            if is_forced:
                raise _impossible("resolvconf", "there is no such program")
            return Choice(
                "file", f"{owner}, and there is no such program: it is replaced"
            )


def _impossible(mode: str, reason: str) -> HostError:
    return HostError(
        f"--dns-mode {mode} is impossible here: {reason}; use --dns-mode auto or file",
        operation="choose-resolver",
    )


def _file_reason(facts: Facts) -> str:
    if facts.content is None:
        return "there is no resolv.conf that can be read; it is written as a plain file"
    if _is_resolveds(facts):
        return (
            "resolv.conf belongs to systemd-resolved (127.0.0.53) and is replaced as a plain file; "
            "programs that ask systemd-resolved itself are not reached"
        )
    owner = written_by(facts.content, facts.link_target)
    if owner == "systemd-resolved":
        return (
            "resolv.conf is systemd-resolved's list of uplink servers and is replaced as a plain file; "
            "programs that ask systemd-resolved itself are not reached"
        )
    if owner == "somebody else":
        return "resolv.conf is a plain file that nobody manages"
    return (
        f"resolv.conf belongs to {owner}, which may write it again when an uplink changes; "
        "it is replaced as a plain file"
    )


# --- facts -------------------------------------------------------------------


def servers_in(text: str) -> list[str]:
    """Return what the `nameserver` lines of a resolv.conf name, right or wrong."""
    return [
        words[1]
        for words in map(str.split, text.splitlines())
        if len(words) > 1 and words[0] == "nameserver"
    ]


def _asks_stub(facts: Facts) -> bool:
    servers = servers_in(facts.content or "")
    return bool(servers) and set(servers) <= _STUBS


def _is_resolveds(facts: Facts) -> bool:
    return _asks_stub(facts) or facts.has_nss_resolve


def _is_by_resolvconf(facts: Facts) -> bool:
    return written_by(facts.content, facts.link_target) == "resolvconf"


def _sends_to_resolved(nsswitch: str) -> bool:
    """Whether the `hosts` line asks `resolve` before, or without, `dns`."""
    for line in nsswitch.splitlines():
        words = line.partition("#")[0].split()
        if words and words[0] == "hosts:":
            services = [word for word in words[1:] if word in {"resolve", "dns"}]
            return services[:1] == ["resolve"]
    return False


_PROGRAM_FOLDERS: Final = tuple(
    Path(folder)
    for folder in ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin")
)
"""Where `resolvconf` is looked for, whatever PATH says: it runs as root."""


def find_resolvconf(folders: Iterable[Path] = _PROGRAM_FOLDERS) -> Path | None:
    """Return the program, or `None`.

    Args:
        folders: Where to look, in this order.
    """
    candidates = (folder / "resolvconf" for folder in folders)
    return next((path for path in candidates if path.exists()), None)


def kind_of_resolvconf(program: Path | None) -> ResolvconfKind | None:
    """Return which one *program* is; `None` for none."""
    if program is None:
        return None
    # A link to resolvectl, or to a multi-call program: what runs depends on the name.
    if program.resolve().name in {"resolvectl", "systemd-resolve"}:
        return "resolvectl"
    text = _head(program) or ""
    return (
        "openresolv"
        if re.search(r"\bOPENRESOLV_VERSION\b|openresolv", text)
        else "debian"
    )


def _head(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_SIZE).decode("utf-8", "replace")
    except OSError:
        return None
