# SPDX-License-Identifier: Apache-2.0
"""This host's name servers, for one tunnel: chosen way, set, kept, restored.

Layer: net. Runs in: the control thread.

    decide     once, while everything is as the host has it
    set        by the way that was chosen
    mend       somebody else has written: ours again, at most three times a minute
    restore    what the host had, or what somebody else has written since
    orphans    what dead tunnels left

When another program writes resolv.conf while ours is set, theirs is what the host
has now: it is saved in place of the older copy, and comes back in the end. Whoever
goes on writing wins for the rest of the minute, because two programs that undo each
other serve nobody; `status` says so.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from sevpn.errors import HostError
from sevpn.log import get_logger
from sevpn.net.dns.backend import Backend, Owner
from sevpn.net.dns.detect import (
    Choice,
    Facts,
    choose,
    find_resolvconf,
    kind_of_resolvconf,
    look,
    sends_to_resolved,
    written_by,
)
from sevpn.net.dns.file import ResolvConf
from sevpn.net.dns.resolvconf import Resolvconf, owners
from sevpn.net.dns.resolved import Resolved, why_not
from sevpn.net.model import NamesWay, Resolver
from sevpn.net.plan import SetResolver

__all__ = ["Mended", "Names", "look_at_host", "orphans"]

log = get_logger(__name__)

_MENDS: Final = 3
_MENDS_PER_S: Final = 60.0
_AGAIN_S: Final = 5.0
"""After a failure: a daemon that is just being started takes about a second."""

_ETC: Final = Path("/etc")


@dataclass(frozen=True, slots=True)
class Mended:
    """What :meth:`Names.mend` found and did."""

    warning: str | None = None
    """One sentence for `status`; `None`: all was in place."""

    again_in_s: float | None = None
    """When to look again, for what must wait."""


def look_at_host(mode: str, etc: Path = _ETC) -> Facts:
    """Return the facts of this host that decide about *mode*; may ask systemd-resolved."""
    return look(etc, mode=mode, ask_resolved=why_not)


class Names:
    """The name servers of this host, for one tunnel.

    Args:
        tunnel: The tunnel's name.
        mode: `--dns-mode`.
        split: Whether only names of some domains go to the tunnel's servers.
        etc: Where resolv.conf is.
        facts: Looks at the host.
    """

    def __init__(
        self,
        *,
        tunnel: str,
        mode: str,
        split: bool = False,
        etc: Path = _ETC,
        facts: Callable[[str, Path], Facts] = look_at_host,
    ) -> None:
        self._tunnel = tunnel
        self._mode = mode
        self._split = split
        self._etc = etc
        self._facts = facts
        self.file = ResolvConf(etc)
        self._choice: Choice | None = None
        self._asks_resolved = False
        self._is_lost = False
        self._mended_at: deque[float] = deque(maxlen=_MENDS)

    def decide(self) -> Choice:
        """Return the way, chosen at the first call: later resolv.conf may be ours.

        Raises:
            HostError: What was asked for is impossible on this host.
        """
        if self._choice is None:
            facts = self._facts(self._mode, self._etc)
            self._choice = choose(self._mode, facts, split=self._split)
            self._asks_resolved = sends_to_resolved(facts)
        return self._choice

    def carry_out(self, change: SetResolver) -> None:
        """Set what *change* says, or take away what was set before.

        Raises:
            HostError: It cannot be done.
        """
        owner = Owner(self._tunnel, change.device)
        if change.resolver is not None:
            self._set(change.resolver, owner)
        elif change.before is not None:
            self._of(change.before.way).restore(owner)
        self._is_lost = False

    def _set(self, resolver: Resolver, owner: Owner) -> None:
        backend = self._of(resolver.way)
        try:
            backend.set(resolver, owner)
        except HostError:
            if resolver.way != "file":  # which is as it was
                with contextlib.suppress(HostError):  # the first error is told
                    backend.restore(owner)
            raise

    def mend(self, resolver: Resolver, device: str, *, now: float) -> Mended:
        """Look whether *resolver*, which was set, is still in place; else set it again.

        Args:
            resolver: What was set.
            device: The TAP.
            now: In seconds on a clock that never goes back.

        Raises:
            HostError: The program by which it was set is gone.
        """
        owner = Owner(self._tunnel, device)
        backend = self._of(resolver.way)
        if backend.is_in_place(resolver, owner):
            return self._look_past(resolver)
        who = "another program" if resolver.way == "resolved" else self._who()
        if len(self._mended_at) == _MENDS and now - self._mended_at[0] < _MENDS_PER_S:
            was_known, self._is_lost = self._is_lost, True
            left_s = _MENDS_PER_S - (now - self._mended_at[0])
            if was_known:
                return Mended(again_in_s=left_s)
            return Mended(
                f"{who} goes on changing this host's name servers: they are left so for a minute; "
                "end that, or leave names alone with --dns-mode off",
                left_s,
            )
        self._mended_at.append(now)
        self._is_lost = True
        try:
            backend.set(resolver, owner)
        except HostError as error:
            return Mended(str(error), _AGAIN_S)
        self._is_lost = False
        return Mended(
            f"{who} had changed this host's name servers; the tunnel's are set again"
        )

    def _look_past(self, resolver: Resolver) -> Mended:
        """Warn once when ours is in place, but programs do not ask there any more."""
        was_lost, self._is_lost = self._is_lost, False
        if resolver.way != "resolved" or not self._asks_resolved:
            return Mended()
        facts = look(self._etc, mode="file", ask_resolved=str)
        if sends_to_resolved(facts):
            return Mended()
        self._is_lost = True
        if was_lost:
            return Mended()
        return Mended(
            f"{written_by(facts.content, facts.link_target)} has replaced resolv.conf: programs do not ask "
            "systemd-resolved any more, so their names pass the tunnel by; end that, or start the tunnel again"
        )

    def standing(self, resolver: Resolver | None) -> tuple[str, bool]:
        """Return the reason for `status`, and whether *resolver* is what the host uses."""
        reason = self.decide().reason
        if resolver is None:
            return reason, False
        is_lost = self._is_lost
        if resolver.way == "file":
            is_lost = self.file.owner() != self._tunnel
        if is_lost:
            who = self._who()
            return f"{who} has changed the name servers since; they are left so", False
        return reason, True

    def watched(self, way: NamesWay) -> tuple[Path, ...]:
        """Return what to watch for :meth:`mend`."""
        return (*self._of(way).watched(), self._etc)

    def _of(self, way: NamesWay) -> Backend:
        if way == "resolved":
            return Resolved()
        if way == "file":
            return self.file
        backend = _resolvconf()
        if backend is None:
            raise HostError(
                "resolvconf, by which the name servers were set, is gone: install it again, or check "
                "/etc/resolv.conf by hand",
                operation="write-resolver",
            )
        return backend

    def _who(self) -> str:
        facts = look(self._etc, mode="file", ask_resolved=str)
        return written_by(facts.content, facts.link_target)


def _resolvconf() -> Resolvconf | None:
    program = find_resolvconf()
    kind = kind_of_resolvconf(program)
    if program is None or kind is None or kind == "resolvectl":
        return None
    return Resolvconf(program, kind)


def orphans(
    etc: Path, spared: Collection[str], *, name: str = "/etc/resolv.conf"
) -> list[tuple[str, Callable[[], object]]]:
    """Return what dead tunnels left of their name servers: a line and a step for each.

    Args:
        etc: Where resolv.conf is.
        spared: Names of the tunnels whose things stay.
        name: What to call it.
    """
    steps: list[tuple[str, Callable[[], object]]] = []
    file = ResolvConf(etc)
    owner = file.owner()
    if owner is None:
        if file.has_stale_copy:
            steps.append((f"forget the saved copy of {name}", file.forget_stale_copy))
    elif owner not in spared:
        steps.append((f"restore {name}", file.put_back))
    dead = [tunnel for tunnel in owners() if tunnel not in spared]
    program = _resolvconf() if etc == _ETC and dead else None
    if program is not None:
        steps += [
            (
                f"resolvconf -d for the dead tunnel {tunnel}",
                partial(program.restore, Owner(tunnel, "")),
            )
            for tunnel in dead
        ]
    return steps
