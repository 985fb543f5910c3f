# SPDX-License-Identifier: Apache-2.0
"""Which way this host is told its name servers, and why that one.

Layer: net. Runs in: the control thread; the decision is pure, see :func:`choose`.

Today there is one way, replacing `/etc/resolv.conf`. The reason still says whom
the file belongs to, because that tells what the replacement does not reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

__all__ = ["Choice", "Facts", "choose", "look"]

_MAX_SIZE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Facts:
    """What is looked at."""

    content: str | None
    """The text of resolv.conf, at most 64 KiB; `None` when it cannot be read."""

    link_target: str | None
    """Where it points when it is a symbolic link."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How the host is told."""

    backend: Literal["file", "off"]
    """The way."""

    reason: str
    """Why, for `sevpn status`."""


def look(etc: Path) -> Facts:
    """Return the facts about the resolv.conf below *etc*."""
    path = etc / "resolv.conf"
    try:
        target: str | None = str(path.readlink())
    except OSError:
        target = None
    try:
        with path.open("rb") as file:
            content: str | None = file.read(_MAX_SIZE).decode("utf-8", "replace")
    except OSError:
        content = None
    return Facts(content, target)


def choose(mode: str, facts: Facts) -> Choice:
    """Decide by the facts alone.

    Args:
        mode: `--dns-mode`: `auto`, `file` or `off`.
        facts: As they were before sevpn changed anything.
    """
    if mode == "off":
        return Choice("off", "--dns-mode off: name resolution is left alone")
    if mode == "file":
        return Choice("file", f"--dns-mode file: {_owner(facts)}")
    return Choice("file", _owner(facts))


def _owner(facts: Facts) -> str:
    content, target = facts.content or "", facts.link_target or ""
    servers = [
        words[1]
        for words in (line.split() for line in content.splitlines())
        if len(words) > 1 and words[0] == "nameserver"
    ]
    if "systemd/resolve" in target or servers == ["127.0.0.53"]:
        return (
            "resolv.conf belongs to systemd-resolved (127.0.0.53) and is replaced as a plain file; "
            "programs that ask systemd-resolved itself are not reached"
        )
    head = content[:1024]
    if "NetworkManager" in head:
        return (
            "resolv.conf belongs to NetworkManager, which may write it again when an uplink changes; "
            "it is replaced as a plain file"
        )
    if "resolvconf" in head or "resolvconf" in target:
        return (
            "resolv.conf belongs to resolvconf, which may write it again when an uplink changes; "
            "it is replaced as a plain file"
        )
    if facts.content is None:
        return "there is no resolv.conf that can be read; it is written as a plain file"
    return "resolv.conf is a plain file that nobody manages"
