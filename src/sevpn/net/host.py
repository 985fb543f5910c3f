# SPDX-License-Identifier: Apache-2.0
"""This host: what one tunnel changes on it, and how it becomes what it was.

Layer: net. Runs in: the control thread. All calls block for milliseconds.

The life of one tunnel, as the supervisor leads it:

    recover            take the tunnel's lock; undo what dead processes left
    open_tap           the TAP, down and without carrier; stays over reconnects
    pin_server         routes to the server, past the tunnel; again after each look-up
      apply            addresses, routes, rules, names; again whenever the wish changes
      release_addresses  the session is lost: all of that goes, TAP and pins stay
    repin              the network underneath has changed
    undo               everything goes, the TAP last
    close              the run folder, once nothing else lies in it

Each change is in the journal before it is made (journal.py), is one step of a
plan (plan.py), and is taken back if a later step of the same plan fails. Only
objects that we made are removed.

What tunnels share (routes to a server, the default route, resolv.conf) is changed
under one lock for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, assert_never

from sevpn.errors import HostError
from sevpn.log import get_logger
from sevpn.net.connmark import ConnectionMarks
from sevpn.net.dns.names import Mended, Names
from sevpn.net.dns.uplink import uplink_servers
from sevpn.net.dns.watch import Watcher
from sevpn.net.journal import (
    Journal,
    Record,
    TunnelLock,
    network_namespace,
    shared_lock,
)
from sevpn.net.lock import Allowed, Lock
from sevpn.net.marks import Marks, free_slot
from sevpn.net.model import (
    Address,
    Alias,
    Found,
    HostState,
    NamesWay,
    Network,
    Route,
    Rule,
    network_of,
)
from sevpn.net.monitor import Monitor
from sevpn.net.plan import (
    AddAddress,
    AddRoute,
    AddRule,
    Change,
    Made,
    MoveRoute,
    Pins,
    RemoveAddress,
    RemoveRoute,
    RemoveRule,
    SetBridge,
    SetMtu,
    SetResolver,
    SetUp,
    plan,
    plan_pins,
    plan_removal,
    with_half_defaults,
)
from sevpn.net.repair import clean_dead, remove_folders
from sevpn.net.rtnetlink import Netlink
from sevpn.net.strictness import loosen, restore, strict_devices
from sevpn.net.tap import DEFAULT_NAME, Tap, open_tap
from sevpn.net.tunnels import (
    claims_of,
    living_tunnels,
    refuse_what_is_taken,
    taken_slots,
)
from sevpn.net.verify import check_default, check_own, check_replies

if TYPE_CHECKING:
    from sevpn.wire.ethernet import MacAddress

__all__ = ["Host", "HostReport", "cleanup"]

log = get_logger(__name__)

_ETC: Final = Path("/etc")
_CONVERGE_TRIES: Final = 3
"""How often a plan is made when others change the same things meanwhile."""

_IPV6_SETTINGS: Final = Path("/proc/sys/net/ipv6/conf")


@dataclass(frozen=True, slots=True)
class HostReport:
    """What a tunnel has changed, for `sevpn status`."""

    routes: tuple[str, ...]
    """Routes through the TAP, then those past it, as `ip route` writes them."""

    rules: tuple[str, ...]
    """Policy rules, as `ip rule` writes them; those of IPv6 begin with `-6`."""

    dns_backend: str
    """`resolved`, `resolvconf`, `file` or `off`."""

    dns_reason: str
    """Why this way."""

    dns_servers: tuple[str, ...]
    """The name servers that are set now."""

    is_locked: bool = False
    """Whether a lock holds."""


class Host:
    """This host, for one tunnel.

    Args:
        tunnel: The tunnel's name; also the name of its run folder.
        runtime_dir: Where run folders are: `/run/sevpn`.
        etc_dir: Where resolv.conf is.
        dns_mode: `auto`, `resolved`, `resolvconf`, `file` or `off`.
        split_dns: Whether only names of some domains go to the tunnel's servers.
        netns: The file of the network namespace that all of this happens in, when
            the tunnel's own sockets are in another: then nothing has to lead past
            the tunnel. See :func:`sevpn.net.netns.host_in`.
        by_mark: Whether the tunnel's own sockets are told by their firewall mark
            from what goes into the tunnel: then no routes to the server are needed.
        mark: Another firewall mark than that of :class:`Marks`.
        policy: Whether packets that come in by the tunnel may come from anywhere.
        connmark: Whether what answers their connections is to be marked.
        lock: The lock; `None`: there is none.
        lock_allow: What it lets everybody reach in any case.
        lock_uids: Whose programs it lets do as they like.
        checkpoint: Called before each step with a line about it, for tests that
            crash there.
    """

    def __init__(
        self,
        *,
        tunnel: str,
        runtime_dir: Path,
        etc_dir: Path = _ETC,
        dns_mode: str = "auto",
        netns: Path | None = None,
        split_dns: bool = False,
        by_mark: bool = False,
        mark: int | None = None,
        policy: bool = False,
        connmark: bool = False,
        lock: Lock | None = None,
        lock_allow: Sequence[Network] = (),
        lock_uids: Sequence[int] = (),
        checkpoint: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._tunnel = tunnel
        self._run = runtime_dir
        folder = runtime_dir / tunnel
        self._lock = TunnelLock(folder)
        self._journal = Journal(folder)
        self._etc = etc_dir
        self._dns_mode = dns_mode
        self._netns = netns
        self._by_mark = by_mark
        self._mark = mark
        self._gate = Lock("off", tunnel) if lock is None else lock
        self._policy = policy
        self._answers = ConnectionMarks(tunnel) if connmark else None
        self._lock_allow = tuple(lock_allow)
        self._lock_uids = tuple(lock_uids)
        self._beside: tuple[Network, ...] = ()
        self._inner: tuple[Network, ...] = ()
        self._asked: tuple[Address, ...] = ()
        self._slot = 0
        self._folders: tuple[Path, ...] = ()
        self._names = Names(tunnel=tunnel, mode=dns_mode, split=split_dns, etc=etc_dir)
        self._names_watcher: Watcher | None = None
        self._checkpoint = checkpoint
        self._netlink = Netlink()
        self._monitor: Monitor | None = None
        self._tap: Tap | None = None
        self._servers: tuple[Address, ...] = ()
        self._excluded: tuple[Network, ...] = ()
        self._filters: dict[str, int] = {}
        self._claims: frozenset[str] = frozenset()
        self._made = Made()
        self._wanted: HostState | None = None
        self._routes: tuple[Route, ...] = ()
        self._rules: tuple[Rule, ...] = ()
        self._pinned: tuple[Route, ...] = ()

    @property
    def is_apart(self) -> bool:
        """Whether the tunnel's own sockets are in another network namespace."""
        return self._netns is not None

    @property
    def is_by_mark(self) -> bool:
        """Whether packets of the tunnel's own sockets are told by their mark."""
        return self._by_mark

    @property
    def marks(self) -> Marks:
        """The tunnel's numbers; final once :meth:`recover` has returned."""
        return Marks.of(self._slot, self._mark)

    # --- the life of a tunnel ---

    def recover(self) -> list[str]:
        """Take the tunnel's lock and undo what dead processes left, of any tunnel.

        Returns:
            A line for each thing that was undone.

        Raises:
            HostError: The tunnel runs already, or something could not be undone.
        """
        with shared_lock(self._run):
            if not self._lock.take():
                raise self._is_running(self._journal.read())
            try:
                self._refuse_if_tap_lives()
                done = clean_dead(
                    self._netlink,
                    self._run,
                    self._etc,
                    mine=self._tunnel,
                    checkpoint=self._checkpoint,
                )
                # Before it is ours, and before anything is changed for nothing.
                self._names.decide()
                self._slot = self._free_slot()
                self._gate.refuse_left_over()
                # The journal first: a lock that nobody undoes would cut the network.
                self._write_journal()
                try:
                    self._hold()
                except BaseException:
                    self._journal.remove()
                    raise
            except BaseException:
                if self._tap is None:
                    self._netlink.close()
                    self._lock.remove()
                raise
        for line in done:
            log.warning("a dead process had left this; undone", change=line)
        return done

    def _free_slot(self) -> int:
        """Return numbers that nobody else has, not even somebody whose files are gone."""
        found = self._netlink.find()
        return free_slot(taken_slots(self._run, found, mine=self._tunnel))

    def _refuse_if_tap_lives(self) -> None:
        """Know a running tunnel of our name by its TAP: its lock may have been deleted."""
        living = self._netlink.find().tunnels().values()
        if self._tap is None and any(alias.tunnel == self._tunnel for alias in living):
            raise self._is_running(None)

    def _is_running(self, record: Record | None) -> HostError:
        process = (
            f" (process {record.pid})" if record is not None and record.pid else ""
        )
        return HostError(
            f"tunnel {self._tunnel!r} is running already{process}: end it with `sevpn down {self._tunnel}`, "
            "or give this one another --name",
            operation="lock",
        )

    def open_tap(
        self, name: str | None, mac: MacAddress, mtu: int, *, offload: bool = False
    ) -> Tap:
        """Create the TAP, down and without carrier.

        Args:
            name: Its name or a template; `None`: :data:`DEFAULT_NAME`.
            mac: Its hardware address.
            mtu: In bytes of one IP packet.
            offload: Whether super-segments are wanted, where the kernel has them.

        Raises:
            HostError: See :func:`sevpn.net.tap.open_tap`; or the kernel refuses
                the address or the MTU.
        """
        tap = open_tap(DEFAULT_NAME if name is None else name, offload=offload)
        try:
            _settle_ipv6(tap.name)
            alias = Alias(self._tunnel, self._servers)
            self._netlink.set_link(tap.name, mac=str(mac), mtu=mtu, alias=str(alias))
            self._tap = tap
            if self._policy:
                # What comes in by the TAP may come from where its route does not lead.
                loosen([tap.name])
            if self._answers is not None:
                self._answers.load(tap.name, self.marks)
            self._hold()
            with shared_lock(self._run):
                self._write_journal()
        except BaseException:
            self._tap = None
            tap.close()
            raise
        return tap

    def has_tap(self) -> bool:
        """Whether the TAP of :meth:`open_tap` is still there, under its name.

        Raises:
            HostError: The kernel did not answer.
        """
        link = None if self._tap is None else self._netlink.link(self._tap.name)
        alias = None if link is None else Alias.parse(link.alias)
        return alias is not None and alias.tunnel == self._tunnel

    def forget_tap(self) -> None:
        """Let go of a TAP that somebody has removed or renamed; what was on it went along."""
        self._wanted = None
        self._routes = ()
        self._made = replace(self._made, addresses=())
        if self._tap is not None:
            self._tap.close()
            self._tap = None

    def pin_server(self, addresses: Iterable[Address]) -> tuple[Address, ...]:
        """Hold each of *addresses* to today's best way past the tunnel.

        Addresses of an earlier call that are not among them are let go. A route
        that another tunnel needs, too, is shared: whoever ends first leaves it.

        Returns:
            Those that this host has no way to now; they are tried again by
            :meth:`repin`.

        Raises:
            HostError: The kernel refused.
        """
        if self.is_apart:
            return ()
        wanted = tuple(dict.fromkeys(addresses))
        with shared_lock(self._run):
            dropped = [address for address in self._servers if address not in wanted]
            self._servers = (*wanted, *dropped)
            self._write_journal()
            self._hold()
            lost = self._pin(self._netlink.find()).lost
            self._unpin(keep=(*wanted, *self._excluded))
            self._servers = wanted
            self._write_journal()
            self._write_alias()
            self._loosen_filters()
            self._hold()
        return tuple(address for address in wanted if address in lost)

    def apply(self, state: HostState) -> tuple[Change, ...]:
        """Bring the TAP, its routes and the names of this host to *state*.

        Returns:
            The steps that were needed; none when it was so already.

        Raises:
            HostError: The kernel refused a step (the ones before it are taken
                back), another tunnel has what only one can have, or packets for
                the world still do not go into the TAP. Call
                :meth:`release_addresses` or :meth:`undo` then.
        """
        with shared_lock(self._run):
            self._names.decide()
            found = self._netlink.find()
            state = self._without_dns_if_off(state)
            self._claim(state, found)
            self._beside = state.beside
            self._inner = tuple(address.network for address in state.addresses)
            self._hold()
            changes = self._pin(found).changes if self._by_mark else ()
            changes += self._exclude(state.excluded, found)
            changes += self._converge(found, with_half_defaults(state, found))
            self._wanted = state
        self._see_that_it_works(state)
        return changes

    def _exclude(
        self, excluded: tuple[Network, ...], found: Found
    ) -> tuple[Change, ...]:
        """Hold what is excluded to today's best way, before the tunnel takes the rest."""
        if excluded == self._excluded:
            return ()
        dropped = [place for place in self._excluded if place not in excluded]
        self._excluded = (*excluded, *dropped)
        self._write_journal()
        changes = self._pin(found).changes
        self._unpin(keep=(*self._servers, *excluded))
        self._excluded = excluded
        self._write_journal()
        self._write_alias()
        return changes

    def release_addresses(self) -> None:
        """Take away what came with the session: addresses, routes into the TAP, names.

        The TAP stays without a carrier, with the addresses that others gave it;
        the routes to the server stay, and so does the claim on the default route.

        Raises:
            HostError: Something could not be taken away; the rest was.
        """
        self._wanted = None
        with shared_lock(self._run):
            self._release(keep_names=self._gate.is_on)

    def repin(self) -> tuple[Change, ...]:
        """Follow the network underneath: call after the monitor has called.

        Routes to the server follow their next hop, come back when somebody has
        deleted them, and so do the addresses, routes and rules of the last
        :meth:`apply`, with the half-defaults that are needed now.

        Returns:
            The steps that were needed.

        Raises:
            HostError: The kernel refused; or all is as it should be, and somebody
                else's rule or route wins now (see :meth:`apply`).
        """
        with shared_lock(self._run):
            found = self._netlink.find()
            changes = self._pin(found).changes
            self._loosen_filters()
            wanted = self._wanted
            if wanted is not None:
                changes += self._converge(
                    self._netlink.find(), with_half_defaults(wanted, found)
                )
        if wanted is not None:
            self._see_that_it_works(wanted)
        return changes

    def undo(self, *, keep_lock: bool = False) -> None:
        """Make this host what it was: names, routes, addresses, the TAP, the files.

        Safe to call at any time and again.

        Args:
            keep_lock: Whether a lock that is `on` stays, because this is no end that
                anybody has asked for.

        Raises:
            HostError: The first thing that could not be undone; the rest was. The
                journal then stays for `sevpn cleanup`.
        """
        if not self._lock.is_held and self._tap is None and not self._servers:
            self._lock.release()
            return
        self.unwatch()
        self._unwatch_names()
        self._wanted = None
        errors: list[HostError] = []
        with self._collecting(errors), shared_lock(self._run):
            with self._collecting(errors):
                self._release()
            with self._collecting(errors):
                self._unpin(keep=())
                self._servers = ()
                self._pinned = ()
            with self._collecting(errors):
                self._restore_filters()
            remove_folders(self._folders)
            self._folders = ()
            if self._tap is not None:
                self._tap.close()
                self._tap = None
            if not errors:
                self._journal.remove()
                self._lock.remove()
        self._claims = frozenset()
        if self._answers is not None:
            self._answers.close()
        if not (keep_lock or errors):
            with self._collecting(errors):
                self._gate.lift()
        self._lock.release()
        self._netlink.close()
        if errors:
            raise errors[0]

    def close(self) -> None:
        """Give back the run folder; call last, when nobody else needs it any more.

        :meth:`undo` cannot delete it while a control socket lies in it. The journal
        of a failed undo stays. Safe to call at any time and again.
        """
        self.unwatch()
        self._unwatch_names()
        self._netlink.close()
        self._gate.close()
        if self._answers is not None:
            self._answers.close()
        if self._run.exists():
            with contextlib.suppress(HostError), shared_lock(self._run):
                if self._lock.is_held and self._has_nothing:
                    self._journal.remove()
                self._lock.remove()
        self._lock.release()

    @property
    def _has_nothing(self) -> bool:
        """Whether nothing was made yet, or nothing is left of it."""
        others = (*self._servers, *self._excluded, *self._filters)
        return self._tap is None and not others and self._made == Made()

    @contextlib.contextmanager
    def _collecting(self, errors: list[HostError]) -> Generator[None]:
        try:
            yield
        except HostError as error:
            errors.append(error)

    # --- looking ---

    def find(self) -> Found:
        """Return the host as it is now."""
        return self._netlink.find()

    def watch(
        self,
        callback: Callable[[], None],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Call *callback* on an event loop after each change underneath.

        Our own changes count, too; :meth:`repin` then finds nothing to do.

        Args:
            callback: What to call.
            loop: Where; the running one, if omitted.
        """
        self.unwatch()
        self._monitor = Monitor(callback)
        self._monitor.start(loop)

    def unwatch(self) -> None:
        """Stop that; safe to call again."""
        if self._monitor is not None:
            self._monitor.stop()
            self._monitor = None

    def _unwatch_names(self) -> None:
        if self._names_watcher is not None:
            self._names_watcher.stop()
            self._names_watcher = None

    def describe(self) -> HostReport:
        """Return what this tunnel has changed; reads resolv.conf, asks the kernel nothing."""
        choice, resolver = self._names.decide(), self._made.resolver
        reason, is_in_place = self._names.standing(resolver)
        servers = resolver.servers if resolver is not None and is_in_place else ()
        return HostReport(
            routes=tuple(map(str, (*self._routes, *self._pinned))),
            rules=tuple(
                f"-6 {rule}" if rule.family == 6 else str(rule) for rule in self._rules
            ),
            dns_backend=choice.backend,
            dns_reason=reason,
            dns_servers=tuple(str(server) for server in servers),
            is_locked=self.is_locked,
        )

    @property
    def names_way(self) -> NamesWay:
        """By what name servers are set on this host, if they are."""
        way = self._names.decide().backend
        return "file" if way == "off" else way

    def watch_names(
        self,
        callback: Callable[[], None],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Call *callback* on an event loop when name servers may have changed.

        Our own changes count, too; :meth:`mend_names` then finds nothing to do.

        Args:
            callback: What to call.
            loop: Where; the running one, if omitted.
        """
        if self._names_watcher is None and self._names.decide().backend != "off":
            self._names_watcher = Watcher(self._names.watched(self.names_way), callback)
            self._names_watcher.start(loop)

    def mend_names(self, *, now: float) -> Mended:
        """Set the name servers again if somebody else has changed them; see :class:`Names`.

        Args:
            now: In seconds on a clock that never goes back.

        Raises:
            HostError: Another process holds what tunnels share, or the program by
                which they were set is gone.
        """
        resolver = self._made.resolver
        if resolver is None or self._tap is None:
            return Mended()
        with shared_lock(self._run):
            mended = self._names.mend(resolver, self._tap.name, now=now)
        if mended.again_in_s is not None and self._names_watcher is not None:
            self._names_watcher.again_in(mended.again_in_s)
        return mended

    # --- the lock ---

    @property
    def is_locked(self) -> bool:
        """Whether nothing leaves but what the lock lets through."""
        return self._gate.is_held

    def uplink_resolvers(self) -> tuple[Address, ...]:
        """Return the name servers of the network underneath, and let us ask them.

        Raises:
            HostError: The packet filter refused.
        """
        resolver = self._made.resolver
        ours = () if resolver is None else resolver.servers
        self._asked = uplink_servers(self._etc, ours=ours)
        self._hold()
        return self._asked

    def locks_of_others(self) -> list[str]:
        """Return the tunnels whose locks hold on this host, too.

        Raises:
            HostError: The kernel or the packet filter did not answer.
        """
        living = self._netlink.find().tunnels().values()
        return self._gate.held_by_others(alias.tunnel for alias in living)

    def mend_lock(self) -> bool:
        """Load the lock again if somebody has removed it.

        Returns:
            Whether that was so.

        Raises:
            HostError: The packet filter refused.
        """
        return self._gate.mend()

    def _hold(self) -> None:
        """Let nothing leave but what the tunnel needs now."""
        self._gate.hold(
            Allowed(
                mark=self.marks.own,
                tunnels=() if self._tap is None else (self._tap.name,),
                servers=self._servers,
                resolvers=self._asked,
                networks=(*self._lock_allow, *self._beside),
                uids=self._lock_uids,
                has_forwarded=self._answers is not None,
            )
        )

    # --- steps ---

    def _pin(self, found: Found) -> Pins:
        """Let the main table lead past the tunnel where that is needed."""
        pins = plan_pins(found, (*self._servers_to_pin(), *self._excluded))
        self._carry_out(pins.changes)
        self._pinned = pins.standing
        return pins

    def _servers_to_pin(self) -> tuple[Address, ...]:
        """Return the servers that the main table alone must lead to.

        By mark that are those within a subnet of the TAP, which stands there, too.
        """
        if not self._by_mark:
            return self._servers
        return tuple(
            address
            for address in self._servers
            if any(address in network for network in self._inner)
        )

    def _loosen_filters(self) -> None:
        """Let answers to our own sockets pass strict filters; see `strictness.py`."""
        if not self._by_mark or self.is_apart:
            return
        hops = [
            self._netlink.route_to(address, mark=self.marks.own)
            for address in self._servers
            if address.version == 4
        ]
        devices = {hop.device for hop in hops if hop is not None} - {"lo"}
        new = devices - self._filters.keys()
        strict = strict_devices(sorted(new))
        # Another tunnel may have done it; who ends last sets it back.
        others = {
            device: before
            for device, before in self._filters_of_others().items()
            if device in new
        }
        if not strict and not others:
            return
        self._filters |= others | strict
        self._write_journal()
        for device in strict:
            self._checkpoint(f"sysctl net.ipv4.conf.{device}.rp_filter=2")
            log.info("reverse path filter made loose", device=device)
        loosen(strict)

    def _restore_filters(self) -> None:
        if not self._filters:
            return
        kept = self._filters_of_others()
        self._checkpoint("restore rp_filter")
        restore({dev: was for dev, was in self._filters.items() if dev not in kept})
        self._filters = {}

    def _filters_of_others(self) -> dict[str, int]:
        found = self._netlink.find()
        others = living_tunnels(self._run, found, mine=self._tunnel).values()
        return {
            device: was for tunnel in others for device, was in tunnel.filters.items()
        }

    def _unpin(self, *, keep: Sequence[Address | Network]) -> None:
        """Remove our routes past the tunnel, but those of *keep* and of other tunnels."""
        kept = set(map(network_of, keep))
        places = set(map(network_of, (*self._servers, *self._excluded)))
        dropped = places - kept
        if not dropped:
            return
        found = self._netlink.find()
        living = living_tunnels(self._run, found, mine=self._tunnel).values()
        if not all(tunnel.has_record for tunnel in living):
            return  # one of them may need it; the last one, or cleanup, removes it
        shared = {place for tunnel in living for place in tunnel.places}
        candidates = [
            entry for entry in found.routes if entry.route.destination in dropped
        ]
        self._carry_out(
            plan_removal(
                candidates, keep=shared, living_devices=found.devices_of_tunnels()
            )
        )

    def _release(self, *, keep_names: bool = False) -> None:
        if self._tap is None:
            return
        with contextlib.suppress(HostError):
            self._tap.set_carrier(False)
        found = self._netlink.find()
        link = found.link(self._tap.name)
        if link is None:  # somebody removed it; what was on it went along
            self._made = replace(self._made, addresses=())
            mtu = 1500
        else:
            mtu = link.mtu
        # Who has a lock has nobody to ask meanwhile, and must not be told of others.
        names = self._made.resolver if keep_names else None
        empty = HostState(self._tap.name, mtu, (), (), names)
        errors: list[HostError] = []
        for change in plan(found, empty, made=self._made, marks=self.marks):
            if isinstance(change, SetUp):
                continue
            with self._collecting(errors):
                self._do(change)
        self._routes = ()
        self._rules = ()
        with self._collecting(errors):
            self._unpin(keep=self._servers)
            self._excluded = ()
            self._pinned = tuple(
                route
                for route in self._pinned
                if route.destination in set(map(network_of, self._servers))
            )
        if errors:
            raise errors[0]
        self._write_journal()

    def _converge(self, found: Found, wanted: HostState) -> tuple[Change, ...]:
        """Plan and carry out until the host, read again, needs no change."""
        done: list[Change] = []
        changes = plan(found, wanted, made=self._made, marks=self.marks)
        for _ in range(_CONVERGE_TRIES):
            if not changes:
                self._routes, self._rules = wanted.routes, wanted.rules
                return tuple(done)
            self._write_journal(about_to=wanted)
            self._carry_out(changes)
            self._write_journal()
            done += changes
            changes = plan(
                self._netlink.find(), wanted, made=self._made, marks=self.marks
            )
        raise HostError(
            f"somebody else changes the network at the same time: {changes[0].describe()} did not last; "
            "look for a network manager that takes care of the TAP",
            operation="apply",
        )

    def _carry_out(self, changes: Iterable[Change]) -> None:
        """Make the changes in their order; if one fails, take those before it back."""
        done: list[Change] = []
        try:
            for change in changes:
                self._do(change)
                done.append(change)
        except HostError:
            for change in reversed(done):
                with contextlib.suppress(
                    HostError
                ):  # the first error is the one to tell
                    self._do(change.inverse())
            raise

    def _do(self, change: Change) -> None:
        line = change.describe()
        self._checkpoint(line)
        log.debug("host change", change=line)
        match change:
            case SetMtu():
                self._netlink.set_link(change.device, mtu=change.mtu)
            case SetUp():
                self._netlink.set_link(change.device, is_up=change.is_up)
            case SetBridge():
                self._set_bridge(change)
            case AddAddress():
                self._netlink.add_address(change.device, change.interface)
                self._made = replace(
                    self._made, addresses=(*self._made.addresses, change.interface)
                )
            case RemoveAddress():
                self._netlink.remove_address(change.device, change.interface)
                rest = tuple(
                    address
                    for address in self._made.addresses
                    if address != change.interface
                )
                self._made = replace(self._made, addresses=rest)
            case AddRoute() | MoveRoute() | RemoveRoute() | AddRule() | RemoveRule():
                self._route(change)
            case SetResolver():
                self._set_names(change)
                self._made = replace(self._made, resolver=change.resolver)
            case _:
                assert_never(change)

    def _set_bridge(self, change: SetBridge) -> None:
        if change.bridge is None:
            self._netlink.set_link(change.device, master=0)
            return
        bridge = self._netlink.link(change.bridge)
        if bridge is None or bridge.kind != "bridge":
            raise HostError(
                f"there is no bridge {change.bridge}: make it with `ip link add {change.bridge} type bridge` and "
                f"`ip link set {change.bridge} up`",
                operation="set-bridge",
            )
        self._netlink.set_link(change.device, master=bridge.index)

    def _route(
        self, change: AddRoute | MoveRoute | RemoveRoute | AddRule | RemoveRule
    ) -> None:
        match change:
            case AddRoute():
                self._netlink.add_route(change.route)
            case MoveRoute():
                self._netlink.add_route(change.route, replace=True)
            case RemoveRoute():
                self._netlink.remove_route(change.route)
            case AddRule():
                self._netlink.add_rule(change.rule)
            case RemoveRule():
                self._netlink.remove_rule(change.rule)

    def _write_journal(self, about_to: HostState | None = None) -> None:
        """Write what there is and what is about to be; the lock file, too, if it was deleted."""
        self._lock.take()
        addresses = [*self._made.addresses, *(about_to.addresses if about_to else ())]
        self._checkpoint("journal")
        self._journal.write(
            Record(
                tunnel=self._tunnel,
                pid=os.getpid(),
                namespace=network_namespace(),
                device=self._tap.name if self._tap else None,
                addresses=tuple(dict.fromkeys(str(address) for address in addresses)),
                servers=tuple(str(address) for address in self._servers),
                claims=tuple(sorted(self._claims)),
                resolver=self._made.resolver is not None
                or (about_to is not None and about_to.resolver is not None),
                netns="" if self._netns is None else str(self._netns),
                folders=tuple(map(str, self._folders)),
                excluded=tuple(map(str, self._excluded)),
                filters=self._filters,
                slot=self._slot,
            )
        )

    def _set_names(self, change: SetResolver) -> None:
        if change.resolver is not None:
            self._make_folders()
        self._names.carry_out(change)
        if self._names_watcher is not None:
            self._names_watcher.look_again()

    def _make_folders(self) -> None:
        """Make /etc/netns/NAME, and remember to remove it."""
        missing = [
            folder
            for folder in (self._etc, self._etc.parent)
            if self.is_apart and not folder.exists()
        ]
        if not missing:
            return
        self._folders = tuple(missing)
        self._write_journal()
        try:
            self._etc.mkdir(mode=0o755, parents=True)
        except OSError as error:
            raise HostError(
                f"cannot make {self._etc} for the name servers: {error.strerror}; leave names alone with --dns-mode off",
                operation="write-resolver",
            ) from error

    def _write_alias(self) -> None:
        if self._tap is not None:
            alias = Alias(self._tunnel, self._servers, is_complete=not self._excluded)
            self._netlink.set_link(self._tap.name, alias=str(alias))

    def _see_that_it_works(self, state: HostState) -> None:
        check_default(self._netlink, state)
        if self._by_mark and not self.is_apart:
            check_own(self._netlink, state, self._servers, self.marks)
        check_replies(self._netlink, state)

    # --- what only one tunnel may have ---

    def _without_dns_if_off(self, state: HostState) -> HostState:
        if state.resolver is not None and self._dns_mode == "off":
            return replace(state, resolver=None)
        return state

    def _claim(self, state: HostState, found: Found) -> None:
        claims = claims_of(state)
        if self.is_apart and "dns" in claims:
            claims = claims - {"dns"} | {f"dns {self._etc}"}
        others = living_tunnels(self._run, found, mine=self._tunnel)
        refuse_what_is_taken(claims, others, resolver_owner=self._names.file.owner())
        self._claims = claims


def cleanup(
    runtime_dir: Path, *, etc_dir: Path = _ETC, tunnel: str | None = None
) -> list[str]:
    """Undo what dead processes left; safe to call at any time and again.

    Args:
        runtime_dir: Where run folders are; may have been deleted.
        etc_dir: Where resolv.conf is.
        tunnel: Leave alone what the journals of other dead tunnels name.

    Returns:
        A line for each thing that was undone.

    Raises:
        HostError: Something could not be undone; the rest was.
    """
    netlink = Netlink()
    try:
        with shared_lock(runtime_dir):
            return clean_dead(netlink, runtime_dir, etc_dir, only=tunnel)
    finally:
        netlink.close()


def _settle_ipv6(device: str) -> None:
    """Let no router in the hub give this host addresses or a default route unasked.

    And let the link-local address be that of the MAC address, which sevpn speaks with.
    Where IPv6 is off there is nothing to do; where the settings are read-only
    (some containers) the kernel's default stays.
    """
    for name in ("accept_ra", "addr_gen_mode"):
        setting = _IPV6_SETTINGS / device / name
        try:
            setting.write_text("0", encoding="ascii")
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning(
                "a setting of IPv6 in the tunnel cannot be changed",
                file=str(setting),
                cause=error,
            )
