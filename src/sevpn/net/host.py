# SPDX-License-Identifier: Apache-2.0
"""This host: what one tunnel changes on it, and how it becomes what it was.

Layer: net. Runs in: the control thread. All calls block for milliseconds.

The life of one tunnel, as the supervisor leads it:

    recover            take the tunnel's lock; undo what dead processes left
    open_tap           the TAP, down and without carrier; stays over reconnects
    pin_server         routes to the server, past the tunnel; again after each look-up
      apply            addresses, routes, names; again whenever the wish changes
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

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, assert_never

from sevpn.errors import HostError
from sevpn.log import get_logger
from sevpn.net.dns.detect import Choice, choose, look
from sevpn.net.dns.file import ResolvConf
from sevpn.net.journal import (
    Journal,
    Record,
    TunnelLock,
    network_namespace,
    shared_lock,
)
from sevpn.net.model import Address, Alias, Found, HostState, Route
from sevpn.net.monitor import Monitor
from sevpn.net.nexthop import probe_addresses
from sevpn.net.plan import (
    AddAddress,
    AddRoute,
    Change,
    Made,
    MoveRoute,
    RemoveAddress,
    RemoveRoute,
    ServerRoutes,
    SetMtu,
    SetResolver,
    SetUp,
    plan,
    plan_removal,
    plan_server_routes,
    with_half_defaults,
)
from sevpn.net.repair import clean_dead
from sevpn.net.rtnetlink import Netlink
from sevpn.net.tap import DEFAULT_NAME, Tap, open_tap
from sevpn.net.tunnels import claims_of, living_tunnels, refuse_what_is_taken

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
    """Routes through the TAP, then those to the server, as `ip route` writes them."""

    dns_backend: str
    """`file` or `off`."""

    dns_reason: str
    """Why this way."""

    dns_servers: tuple[str, ...]
    """The name servers that are set now."""


class Host:
    """This host, for one tunnel.

    Args:
        tunnel: The tunnel's name; also the name of its run folder.
        runtime_dir: Where run folders are: `/run/sevpn`.
        etc_dir: Where resolv.conf is.
        dns_mode: `auto`, `file` or `off`.
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
        checkpoint: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._tunnel = tunnel
        self._run = runtime_dir
        folder = runtime_dir / tunnel
        self._lock = TunnelLock(folder)
        self._journal = Journal(folder)
        self._resolv_conf = ResolvConf(etc_dir)
        self._etc = etc_dir
        self._dns_mode = dns_mode
        self._dns_choice: Choice | None = None
        self._checkpoint = checkpoint
        self._netlink = Netlink()
        self._monitor: Monitor | None = None
        self._tap: Tap | None = None
        self._servers: tuple[Address, ...] = ()
        self._claims: frozenset[str] = frozenset()
        self._made = Made()
        self._wanted: HostState | None = None
        self._routes: tuple[Route, ...] = ()
        self._server_routes: tuple[Route, ...] = ()

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
                    self._resolv_conf,
                    mine=self._tunnel,
                    checkpoint=self._checkpoint,
                )
            except BaseException:
                if self._tap is None:
                    self._netlink.close()
                    self._lock.remove()
                raise
        for line in done:
            log.warning("a dead process had left this; undone", change=line)
        return done

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
            _ignore_router_advertisements(tap.name)
            alias = Alias(self._tunnel, self._servers)
            self._netlink.set_link(tap.name, mac=str(mac), mtu=mtu, alias=str(alias))
            self._tap = tap
            with shared_lock(self._run):
                self._write_journal()
        except BaseException:
            self._tap = None
            tap.close()
            raise
        return tap

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
        wanted = tuple(dict.fromkeys(addresses))
        with shared_lock(self._run):
            dropped = [address for address in self._servers if address not in wanted]
            self._servers = (*wanted, *dropped)
            self._write_journal()
            lost = self._pin(self._netlink.find()).lost
            self._unpin(keep=wanted)
            self._servers = wanted
            self._write_journal()
            self._write_alias()
        return lost

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
            self._choose_dns()
            found = self._netlink.find()
            state = self._without_dns_if_off(state)
            self._claim(state, found)
            changes = self._converge(found, with_half_defaults(state, found))
            self._wanted = state
        self._check_default(state)
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
            self._release()

    def repin(self) -> tuple[Change, ...]:
        """Follow the network underneath: call after the monitor has called.

        Routes to the server follow their next hop, come back when somebody has
        deleted them, and so do the addresses and routes of the last
        :meth:`apply`, with the half-defaults that are needed now.

        Returns:
            The steps that were needed.

        Raises:
            HostError: The kernel refused.
        """
        with shared_lock(self._run):
            found = self._netlink.find()
            changes = self._pin(found).changes
            if self._wanted is not None:
                wanted = with_half_defaults(self._wanted, found)
                changes += self._converge(self._netlink.find(), wanted)
        return changes

    def undo(self) -> None:
        """Make this host what it was: names, routes, addresses, the TAP, the files.

        Safe to call at any time and again.

        Raises:
            HostError: The first thing that could not be undone; the rest was. The
                journal then stays for `sevpn cleanup`.
        """
        if not self._lock.is_held and self._tap is None and not self._servers:
            self._lock.release()
            return
        self.unwatch()
        self._wanted = None
        errors: list[HostError] = []
        with self._collecting(errors), shared_lock(self._run):
            with self._collecting(errors):
                self._release()
            with self._collecting(errors):
                self._unpin(keep=())
                self._servers = ()
                self._server_routes = ()
            if self._tap is not None:
                self._tap.close()
                self._tap = None
            if not errors:
                self._journal.remove()
                self._lock.remove()
        self._claims = frozenset()
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
        self._netlink.close()
        if self._run.exists():
            with contextlib.suppress(HostError), shared_lock(self._run):
                self._lock.remove()
        self._lock.release()

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

    def watch(self, callback: Callable[[], None]) -> None:
        """Call *callback* on the running event loop after each change underneath.

        Our own changes count, too; :meth:`repin` then finds nothing to do.
        """
        self.unwatch()
        self._monitor = Monitor(callback)
        self._monitor.start()

    def unwatch(self) -> None:
        """Stop that; safe to call again."""
        if self._monitor is not None:
            self._monitor.stop()
            self._monitor = None

    def describe(self) -> HostReport:
        """Return what this tunnel has changed; reads resolv.conf, asks the kernel nothing."""
        choice = self._choose_dns()
        reason, servers = choice.reason, tuple[str, ...]()
        if self._made.resolver is not None:
            if self._resolv_conf.owner() == self._tunnel:
                servers = tuple(str(server) for server in self._made.resolver.servers)
            else:
                reason = (
                    "somebody else has written resolv.conf since; it is left as it is"
                )
        return HostReport(
            routes=tuple(str(route) for route in (*self._routes, *self._server_routes)),
            dns_backend=choice.backend,
            dns_reason=reason,
            dns_servers=servers,
        )

    def _choose_dns(self) -> Choice:
        # Decided once, before the file is ours and tells nothing any more.
        if self._dns_choice is None:
            self._dns_choice = choose(self._dns_mode, look(self._etc))
        return self._dns_choice

    # --- steps ---

    def _pin(self, found: Found) -> ServerRoutes:
        routes = plan_server_routes(found, self._servers)
        self._carry_out(routes.changes)
        self._server_routes = routes.standing
        return routes

    def _unpin(self, *, keep: Sequence[Address]) -> None:
        """Remove our routes to the servers, but those of *keep* and of other tunnels."""
        dropped = {address for address in self._servers if address not in keep}
        if not dropped:
            return
        found = self._netlink.find()
        living = living_tunnels(self._run, found, mine=self._tunnel).values()
        if not all(tunnel.has_record for tunnel in living):
            return  # one of them may need it; the last one, or cleanup, removes it
        shared = {address for tunnel in living for address in tunnel.servers}
        candidates = [
            entry
            for entry in found.routes
            if entry.route.destination.network_address in dropped
        ]
        self._carry_out(
            plan_removal(
                candidates, keep=shared, living_devices=found.devices_of_tunnels()
            )
        )

    def _release(self) -> None:
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
        empty = HostState(self._tap.name, mtu, (), (), None)
        errors: list[HostError] = []
        for change in plan(found, empty, made=self._made):
            if isinstance(change, SetUp):
                continue
            with self._collecting(errors):
                self._do(change)
        self._routes = ()
        if errors:
            raise errors[0]
        self._write_journal()

    def _converge(self, found: Found, wanted: HostState) -> tuple[Change, ...]:
        """Plan and carry out until the host, read again, needs no change."""
        done: list[Change] = []
        changes = plan(found, wanted, made=self._made)
        for _ in range(_CONVERGE_TRIES):
            if not changes:
                self._routes = wanted.routes
                return tuple(done)
            self._write_journal(about_to=wanted)
            self._carry_out(changes)
            self._write_journal()
            done += changes
            changes = plan(self._netlink.find(), wanted, made=self._made)
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
            case AddRoute():
                self._netlink.add_route(change.route)
            case MoveRoute():
                self._netlink.add_route(change.route, replace=True)
            case RemoveRoute():
                self._netlink.remove_route(change.route)
            case SetResolver():
                if change.resolver is None:
                    self._resolv_conf.restore()
                else:
                    self._resolv_conf.set(change.resolver, tunnel=self._tunnel)
                self._made = replace(self._made, resolver=change.resolver)
            case _:
                assert_never(change)

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
            )
        )

    def _write_alias(self) -> None:
        if self._tap is not None:
            self._netlink.set_link(
                self._tap.name, alias=str(Alias(self._tunnel, self._servers))
            )

    # --- what only one tunnel may have ---

    def _without_dns_if_off(self, state: HostState) -> HostState:
        if state.resolver is not None and self._dns_mode == "off":
            return replace(state, resolver=None)
        return state

    def _claim(self, state: HostState, found: Found) -> None:
        claims = claims_of(state)
        others = living_tunnels(self._run, found, mine=self._tunnel)
        refuse_what_is_taken(claims, others, resolver_owner=self._resolv_conf.owner())
        self._claims = claims

    # --- does it work ---

    def _check_default(self, state: HostState) -> None:
        routes = self._netlink.routes()
        for family in sorted(state.default_families):
            for address in probe_addresses(routes, family, device=state.device):
                hop = self._netlink.route_to(address)
                if hop is None or hop.device != state.device:
                    way = f"to {hop.device}" if hop is not None else "nowhere"
                    raise HostError(
                        f"the default route is set, and packets for {address} still go {way}: a policy rule or "
                        f"another VPN wins (`ip rule`, `ip route get {address}`); end that, or leave out "
                        "--accept-default-gateway",
                        operation="check-default",
                    )


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
            return clean_dead(netlink, runtime_dir, ResolvConf(etc_dir), only=tunnel)
    finally:
        netlink.close()


def _ignore_router_advertisements(device: str) -> None:
    """Let no router in the hub give this host addresses or a default route unasked.

    Where IPv6 is off there is nothing to do; where the settings are read-only
    (some containers) the kernel's default stays.
    """
    setting = _IPV6_SETTINGS / device / "accept_ra"
    try:
        setting.write_text("0", encoding="ascii")
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning(
            "router advertisements in the tunnel cannot be turned off",
            file=str(setting),
            cause=error,
        )
