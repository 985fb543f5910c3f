# SPDX-License-Identifier: Apache-2.0
"""The shell of the tunnel's machine: carries out its actions and reports back.

Layer: tunnel. Runs in: the control thread, on the event loop. One per tunnel.

`machine.py` decides, this module does: each action is one method, each outcome
one event. The parts it joins, and the threads they live in:

    control thread                                      data thread
      Supervisor ── opening.py ── transport             Pump (frames)
                 ── livesession.py ── connections, UDP <─── on_connection_lost
                 ── inside.py  ── DHCP, polls, proof <──── on_frames
                 ── net.host   ── TAP, routes, DNS         on_lost ──> here
                 ── report.py  ── status document, events

At most one piece of work is under way: the task of the last action. Giving it up
cancels it, and what it has yet to report is not heard any more: each event knows
its origin (the task, or the session's :class:`Inside`), and an origin that is
gone has no say.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import socket
import time
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any, Final, TypeVar, assert_never

from sevpn.config.profile import Settings
from sevpn.dataplane.outbound import Outbound
from sevpn.dataplane.path import is_compiled
from sevpn.dataplane.pump import Pump
from sevpn.errors import InterfaceGoneError, LeaseError, NotProvenError, SevpnError
from sevpn.log import get_logger
from sevpn.metrics.counters import Counters
from sevpn.metrics.snapshot import Tunnel
from sevpn.net.dns.uplink import host_names
from sevpn.net.host import Host
from sevpn.net.marks import set_mark
from sevpn.net.nearproxy import loop_warnings
from sevpn.net.sleep import SleepWatch
from sevpn.net.tap import Tap
from sevpn.net.uplink import Underlay, Uplink, bind_to_uplink
from sevpn.net.wanted import DEFAULT_MTU, Wanted, bridged_state, wanted_state
from sevpn.protocol.credentials import Credentials
from sevpn.protocol.dhcp import Lease
from sevpn.protocol.identity import ClientIdentity
from sevpn.protocol.ipv6 import Ipv6Settings
from sevpn.protocol.messages import Hello
from sevpn.protocol.neighbour import Proof, Proven, Silent
from sevpn.transport.lookup import OwnLookUp
from sevpn.transport.remembering import Remembering
from sevpn.transport.resolve import LookUp
from sevpn.transport.stream import SecureStream
from sevpn.tunnel import machine as m
from sevpn.tunnel.hints import (
    explain_no_lease,
    explain_no_proof,
    explain_silence,
    policy_warnings,
)
from sevpn.tunnel.inside import Inside, InsideListener
from sevpn.tunnel.livesession import LiveSession, SessionWishes
from sevpn.tunnel.lockwatch import LockWatch
from sevpn.tunnel.opening import (
    Address,
    Destination,
    Joiner,
    OpenedSession,
    open_session,
)
from sevpn.tunnel.places import Places
from sevpn.tunnel.policy import Rules
from sevpn.tunnel.report import Parts, Reporter
from sevpn.tunnel.resuming import PROOF_S
from sevpn.tunnel.roaming import Live, judge_attempt, judge_live
from sevpn.tunnel.wishes import Wishes, WishListener
from sevpn.wire.ethernet import MacAddress

__all__ = ["Job", "Supervisor"]

log = get_logger(__name__)

T = TypeVar("T")

_LAST_WORDS_S = 0.05
"""Between the RELEASE and the end of the session: a server drops blocks that it reads
together with the end of the stream (5.01.9674: two or three of ten, and none after 20 ms)."""

_ASKED: Final = frozenset[Proof]({"gateway", "dhcp-server"})
"""Proofs that are answers: who gave one can be asked again."""

_ETC: Final = Path("/etc")

_NO_ADDRESS = IPv4Interface("0.0.0.0/32")
"""Of a tunnel with IPv6 alone: nobody is asked by ARP, and what comes is the proof."""


@dataclass(frozen=True, slots=True)
class Job:
    """All that one tunnel is told before it is turned on."""

    name: str
    """Its name on this host."""

    settings: Settings
    """What the user wants."""

    destination: Destination
    """Where, and as whom."""

    identify: Callable[[SecureStream], ClientIdentity]
    """What the login tells of this host."""

    mac: MacAddress
    """The TAP's address."""

    rules: Rules
    """Retries."""

    connections: int = 1
    """TCP connections to open, as far as they are granted; `destination.options` says
    how many are asked for."""

    renew_credentials: Callable[[], Awaitable[Credentials]] | None = None
    """Returns the credentials of each login after the first, where those of
    `destination` serve once; `None`: they serve for ever."""

    notices: tuple[str, ...] = ()
    """What the user should know of what was given, one sentence each."""

    bridge: str | None = None
    """The bridge that the TAP joins, instead of getting addresses and routes; `None`: none."""

    known: Mapping[str, Sequence[Address]] = field(
        default_factory=dict[str, Sequence[Address]]
    )
    """What the server's name resolved to in an earlier life."""

    remember: Callable[[str, Sequence[Address]], None] = lambda _name, _addresses: None
    """Keeps that for the next one."""


def clock() -> float:
    """Return seconds on the clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Supervisor:
    """One tunnel, from turning on to its end.

    Args:
        job: What it is told.
        host: This host; the supervisor is its only user.
    """

    def __init__(self, job: Job, host: Host) -> None:
        self._job = job
        self._host = host
        self._destination = replace(
            job.destination,
            dialing=replace(
                job.destination.dialing,
                prepare=self._prepare_socket,
                resolve=Remembering(self._own_look_up(), known=job.known),
            ),
        )
        self._state: m.State = m.Down()
        self._events: asyncio.Queue[tuple[object | None, m.Event]] = asyncio.Queue()
        self._work: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tap: Tap | None = None
        self._pump: Pump | None = None
        self._session: LiveSession | None = None
        self._inside: Inside | None = None
        self._remembered: Lease | None = None
        self._wanted: Wanted | None = None
        self._counters: Counters | None = None
        self._places = Places(
            job.settings.place_names,
            self._destination.dialing.resolve,
            changed=self._on_wish_changed,
        )
        self._uplink = Uplink()
        self._sleep = SleepWatch(self.resumed)
        self._locks = LockWatch(host, self._warn)
        self._addresses: tuple[Address, ...] = ()
        self._underlay = Underlay()
        self._live: Live | None = None
        self._was_answered = False
        self._was_told_to_leave = False
        self._has_tried = False
        self._route_trouble: str | None = None
        self._wishes = Wishes(
            hub=job.settings.hub,
            password=job.settings.password,
            listener=WishListener(leave=self._leave_as_asked, warn=self._warn),
            clock=clock,
        )
        self.report = Reporter(job.name, job.settings, clock=clock)
        self.restore_error: SevpnError | None = None

    # --- what the faces use ---

    async def run(self) -> SevpnError | None:
        """Turn the tunnel on and stay until it has ended.

        Returns:
            The failure that ended it; `None` when it was turned off.
        """
        loop = asyncio.get_running_loop()
        self._hear(m.TurnOn())
        try:
            while True:
                origin, event = await self._events.get()
                if origin is None or origin is self._work or origin is self._inside:
                    self._take(self._judged(event))
                if isinstance(self._state, m.Down | m.Failed):
                    break
        finally:
            # Only a cancelled or broken run comes here with something left open.
            if not isinstance(self._state, m.Down | m.Failed):
                work = self._work
                self._give_up()
                if work is not None:
                    await asyncio.gather(work, return_exceptions=True)
                self._close_session(polite=False)
                await loop.run_in_executor(None, self._restore_host)
        return self._state.error if isinstance(self._state, m.Failed) else None

    def turn_off(self) -> None:
        """Begin to leave; :meth:`run` returns when the host is restored."""
        self._hear(m.TurnOff())

    def heal(self) -> None:
        """Drop the session and begin again at once."""
        self._hear(m.Heal())

    def resumed(self, slept_s: float) -> None:
        """Go on after the machine has slept.

        What slept for as long as the session's time-out has no session any more, and
        does not find out by itself before it has been silent for that long once more.

        Args:
            slept_s: How long, in seconds.
        """
        log.info("the machine has slept", slept_s=round(slept_s, 1))
        session = self._session
        if session is not None and slept_s < session.welcome.timeout_s:
            _present(self._inside).wake()
            return
        self._live = None
        reason = f"this machine has slept for {slept_s:.0f} s"
        self.report.roamed(reason)
        self._hear(m.Heal(reason))

    def subscribe(
        self, listener: Callable[[dict[str, Any]], None]
    ) -> Callable[[], None]:
        """Call *listener* with each event until the returned function is called."""
        return self.report.subscribe(listener)

    def snapshot(self) -> Tunnel:
        """Return the status document's TUNNEL as of now."""
        inside, session = self._inside, self._session
        is_set = isinstance(self._state, m.Proving | m.Connected | m.Resuming)
        return self.report.snapshot(
            Parts(
                session=None if session is None else session.opened,
                tap=self._tap,
                mac=self._job.mac,
                kernel="python" if self._pump is None else self._pump.kernel,
                wanted=self._wanted if is_set else None,
                lease=None if inside is None else inside.lease,
                latency_s=None if inside is None else inside.latency_s,
                counters=None if self._pump is None else self._pump.counters,
                host=self._host.describe(),
                connections=0 if self._pump is None else self._pump.connection_count,
                udp=None if session is None else session.udp,
            )
        )

    # --- the machine ---

    def _hear(self, event: m.Event, *, origin: object | None = None) -> None:
        """Queue *event*; it counts only while its *origin* is still the one in use."""
        self._events.put_nowait((origin, event))

    def _take(self, event: m.Event) -> None:
        step = m.step(
            self._state,
            event,
            now=clock(),
            rules=self._job.rules,
            jitter=random.uniform(-1, 1),
        )
        error = event.error if isinstance(event, m.StepFailed | m.SessionLost) else None
        if step.state != self._state:
            self.report.changed(step.state, error=error, now=clock())
        self._state = step.state
        for action in step.actions:
            self._begin(action)

    def _judged(self, event: m.Event) -> m.Event:
        """Add to what has happened to the connections whether their session may live on."""
        match event:
            case m.SessionLost(error):
                # Late news of connections that were given up on purpose.
                session = self._session
                is_left = session is not None and not session.has_connections
                if isinstance(self._state, m.Resuming) and is_left:
                    return m.TimerFired()
                return m.SessionLost(error, can_resume=self._can_resume(error))
            case _:
                return event

    def _can_resume(self, error: SevpnError | None) -> bool:
        return self._session is not None and self._session.may_go_on(error)

    def _begin(self, action: m.Action) -> None:
        match action:
            case m.OpenSession():
                self._start(self._open_session())
            case m.ObtainLease():
                self._start(self._obtain_lease())
            case m.ConfigureHost():
                self._start(self._configure_host())
            case m.Prove():
                self._start(self._prove())
            case m.ResumeSession():
                # At once: what is said of the old connections from now on is late news.
                self._live = None
                _present(self._session).leave(polite=True)
                self._start(self._resume_session())
            case m.CloseSession(polite):
                self._give_up()
                self._close_session(polite=polite)
            case m.ReleaseHost():
                self._give_up()
                self._release_host()
            case m.SetTimer(at):
                self._set_timer(at)
            case m.LeaveAndRestore():
                self._start(self._leave_and_restore())
            case _:
                assert_never(action)

    def _start(self, work: Coroutine[Any, Any, m.Event]) -> None:
        self._give_up()
        self._work = asyncio.create_task(self._carry_out(work))

    async def _carry_out(self, work: Coroutine[Any, Any, m.Event]) -> None:
        try:
            event = await work
        except SevpnError as error:
            event = m.StepFailed(error)
            if isinstance(self._state, m.Resolving | m.Connecting):
                self._locks.tell_of_others()
        except Exception as error:
            log.exception("a bug", cause=error)
            event = m.StepFailed(
                SevpnError(
                    f"a bug in sevpn: {type(error).__name__}: {error}; run with --debug and report it"
                )
            )
        self._hear(event, origin=asyncio.current_task())

    def _give_up(self) -> None:
        if self._work is not None:
            self._work.cancel()
            self._work = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, at: float) -> None:
        def fire() -> None:
            # The loop's clock stops while the machine sleeps and ours does not;
            # a timer that comes early by it is set again.
            if clock() < at:
                self._set_timer(at)
            else:
                self._hear(m.TimerFired())

        delay_s = max(0.0, at - clock())
        self._timer = asyncio.get_running_loop().call_later(delay_s, fire)

    # --- the actions ---

    async def _open_session(self) -> m.Event:
        self.report.new_attempt()
        self.report.warn(self._job.notices)
        self._open_tap()
        self._look_underneath()
        opened = await open_session(
            await self._next_destination(),
            identify=self._job.identify,
            random=secrets.token_bytes,
            on_addresses=self._on_addresses,
            on_hello=self._on_hello,
            on_redirect=self.report.redirected,
        )
        session = self._begin_inside(opened)
        # What the DHCP server answers would be lost before.
        await session.wait_until_both_ways(self._job.destination.hello_s)
        if self._job.settings.ipv6 == "auto" and self._job.bridge is None:
            _present(self._inside).begin_ipv6()
        if self._uses_dhcp:
            _present(self._inside).begin_lease(
                hostname=self._job.settings.hostname, remembered=self._remembered
            )
        return m.SessionOpened()

    async def _next_destination(self) -> Destination:
        """Return where to log in, with credentials that were not used before."""
        destination, renew = self._destination, self._job.renew_credentials
        if renew is None or not self._has_tried:
            self._has_tried = True
            return destination
        return replace(destination, credentials=await renew())

    def _open_tap(self) -> None:
        if self._tap is not None:
            if self._host.has_tap():
                return
            self._forget_tap()
        settings = self._job.settings
        self._tap = self._host.open_tap(
            settings.tap,
            self._job.mac,
            settings.mtu or DEFAULT_MTU,
            offload=is_compiled(),
        )
        loop = asyncio.get_running_loop()
        self._pump = Pump(
            self._tap,
            mac=self._job.mac,
            on_frames=lambda frames: _post(loop, self._on_frames, frames),
            on_lost=lambda error: _post(loop, self._on_lost, error),
            on_connection_lost=lambda number, error: _post(
                loop, self._on_connection_lost, number, error
            ),
            clock=clock,
            counters=self._counters,
        )
        self._counters = self._pump.counters
        self._pump.start()
        self._sleep.start()
        self._host.watch(self._on_uplink_changed, loop)
        if self._host.is_apart:
            self._uplink.watch(self._roam)
        self._host.watch_names(self._on_names_changed, loop)
        if self._host.is_locked:
            self._locks.start()

    def _forget_tap(self) -> None:
        """Let go of a TAP that is not there any more, so that there can be another."""
        if self._pump is not None:
            self._pump.stop()
            self._pump = None
        self._sleep.stop()
        self._host.forget_tap()
        self._tap = None

    async def _on_addresses(self, addresses: Sequence[Address]) -> None:
        if isinstance(self._state, m.Resolving):  # else a member's, after a redirect
            self.report.resolved(addresses)
        self._host.pin_server(addresses)
        self._addresses = tuple(addresses)
        self._look_underneath()
        proxy = self._destination.dialing.proxy
        dialled = self._job.settings.host if proxy is None else proxy.host
        if isinstance(self._state, m.Resolving):
            self._job.remember(dialled, addresses)
        self._hear(m.AddressesKnown(), origin=asyncio.current_task())

    def _on_hello(self, stream: SecureStream, hello: Hello) -> None:
        self.report.greeted(stream, hello)
        peer = stream.peer_address
        self._live = Live(peer, stream.local_address, self._underlay.ways.get(peer))
        self._hear(m.HelloSeen(), origin=asyncio.current_task())

    def _begin_inside(self, opened: OpenedSession) -> LiveSession:
        pump = _present(self._pump)
        settings = self._job.settings
        session = self._session = LiveSession(
            opened,
            SessionWishes(self._job.connections, settings.udp, settings.resume),
            pump=pump,
            joiner=Joiner(
                self._destination,
                opened.peer,
                opened.welcome,
                identify=self._job.identify,
                random=secrets.token_bytes,
            ),
            report=self.report,
            given_up=self._on_lost,
            clock=clock,
        )
        self._inside = Inside(
            mac=self._job.mac,
            inject=pump.inject,
            clock=clock,
            random=secrets.token_bytes,
            listener=InsideListener(
                lease_changed=self._on_lease_changed,
                lease_lost=self._on_lease_lost,
                heard=self.report.heard,
                silent=self._on_silent,
                ipv6_changed=self._on_wish_changed,
            ),
            activity=lambda: (pump.heard_at, pump.counters.inbound_frames),
        )
        self.report.logged_in(opened)
        self._wishes.began(opened.welcome)
        # Listen before the first word is sent: what the hub says now is for us, too.
        session.begin()
        return session

    async def _obtain_lease(self) -> m.Event:
        inside = _present(self._inside)
        if self._uses_dhcp:
            try:
                self._remembered = await inside.obtain_lease()
            except LeaseError as error:
                raise explain_no_lease(
                    error, hub=self._job.settings.hub, policy=self._policy()
                ) from error
        self.report.leased(inside.lease)
        return m.LeaseObtained()

    async def _configure_host(self) -> m.Event:
        inside, pump, tap = (
            _present(self._inside),
            _present(self._pump),
            _present(self._tap),
        )
        self._remembered = inside.lease
        await self._places.first()
        self._wanted = self._look_wanted(tap, inside.lease)
        self.report.warn(tap.notices)
        self.report.warn(self._wanted.warnings)
        if self._job.bridge is None:
            proxy = self._job.destination.dialing.proxy
            host = None if proxy is None else proxy.host
            self.report.warn(loop_warnings(self._job.settings, host))
        self.report.warn(
            policy_warnings(
                self._policy(),
                is_static=inside.lease is None and self._job.bridge is None,
                hub=self._job.settings.hub,
                is_bridge=self._job.bridge is not None,
            )
        )
        pump.sieve.is_transparent = self._job.bridge is not None
        pump.sieve.is_open = True
        tap.set_carrier(True)
        self._host.apply(self._wanted.state)
        inside.configured([interface.ip for interface in self._wanted.state.addresses])
        self.report.configured(self._wanted, tap)
        return m.HostConfigured()

    def _look_wanted(self, tap: Tap, lease: Lease | None) -> Wanted:
        """Return what the host should be like, given what it is like now."""
        if self._job.bridge is not None:
            return bridged_state(
                self._job.bridge,
                device=tap.name,
                mtu=self._job.settings.mtu,
                found=self._host.find(),
            )
        return wanted_state(
            self._job.settings,
            lease=lease,
            device=tap.name,
            found=self._host.find(),
            names_way=self._host.names_way,
            marks=self._host.marks,
            resolved=self._places.known,
            ipv6=Ipv6Settings() if self._inside is None else self._inside.ipv6,
            servers=() if self._host.is_apart else self._addresses,
        )

    @property
    def _uses_dhcp(self) -> bool:
        return self._job.settings.dhcp and self._job.bridge is None

    async def _prove(self) -> m.Event:
        if self._job.bridge is not None:
            # Whom to ask is the business of the hosts behind the bridge.
            self.report.proven(None)
            return m.Proven()
        inside, pump, wanted = (
            _present(self._inside),
            _present(self._pump),
            _present(self._wanted),
        )
        pump.sieve.is_proving = True
        try:
            proven: Proven | None = await inside.prove(
                wanted.address or _NO_ADDRESS,
                gateway=wanted.gateway,
                server=inside.lease.server if inside.lease else None,
            )
        except NotProvenError as error:
            explained = explain_no_proof(
                error, gateway=wanted.gateway, policy=self._policy()
            )
            if wanted.carries_foreign_traffic:
                raise explained from error
            self.report.warn([str(explained)])
            proven = None
        finally:
            pump.sieve.is_proving = False
        self._was_answered = proven is not None and proven.by in _ASKED
        self.report.proven(proven)
        return m.Proven()

    async def _resume_session(self) -> m.Event:
        session = _present(self._session)
        address = session.opened.peer.address
        await session.resume(
            has_way=lambda: self._look_for_way(address), dialled=self._on_dialled
        )
        await self._verify()
        self.report.resumed(address)
        return m.Resumed()

    def _on_dialled(self, stream: SecureStream) -> None:
        """Note where a session lives that is taken up again."""
        peer = stream.peer_address
        self._underlay = self._look(self._addresses)
        self._live = Live(peer, stream.local_address, self._underlay.ways.get(peer))

    def _look_for_way(self, address: Address) -> bool:
        """Look underneath, and say whether *address* can be reached."""
        self._underlay = self._look([*self._addresses, address])
        return self._underlay.ways[address] is not None

    async def _verify(self) -> None:
        """Ask the gateway or the DHCP server whether they still know us, if they ever answered.

        Where only the hub or somebody else was heard there is nobody to ask, and what
        the server sends in the session has to do.
        """
        inside, pump, wanted = (
            _present(self._inside),
            _present(self._pump),
            _present(self._wanted),
        )
        if not self._was_answered:
            return
        pump.sieve.is_proving = True
        try:
            async with asyncio.timeout(PROOF_S):
                await inside.prove(
                    wanted.address or _NO_ADDRESS,
                    gateway=wanted.gateway,
                    server=inside.lease.server if inside.lease else None,
                )
        except TimeoutError:
            raise NotProvenError(
                "the session was taken up again, and nothing answers in it"
            ) from None
        finally:
            pump.sieve.is_proving = False

    async def _leave_and_restore(self) -> m.Event:
        if self._inside is not None and self._inside.release():
            await asyncio.sleep(_LAST_WORDS_S)
        self._close_session(polite=True)
        self._restore_host()
        return m.Left()

    def _leave_as_asked(self, after_s: float) -> None:
        self.report.asked_to_leave(after_s)
        self._was_told_to_leave = True
        self.turn_off()

    def _warn(self, sentences: tuple[str, ...]) -> None:
        self.report.warn(sentences)

    def _policy(self) -> Mapping[str, int]:
        return {} if self._session is None else self._session.welcome.policy

    # --- taking down ---

    def _close_session(self, *, polite: bool) -> None:
        self._live = None
        if self._pump is not None:
            self._pump.sieve.is_open = False
        if self._session is not None:
            self._session.close(polite=polite)
            self._session = None
        self._wishes.ended()
        if self._inside is not None:
            self._inside.close()
            self._inside = None

    def _release_host(self) -> None:
        """Take off the host what belonged to the lease; a failure must not stop healing."""
        if self._inside is not None:
            self._inside.unconfigured()
        if self._pump is not None:
            self._pump.sieve.is_open = False
        self._wanted = None
        self.report.unproven()
        try:
            if self._tap is not None:
                with contextlib.suppress(InterfaceGoneError):
                    self._tap.set_carrier(False)
            self._host.release_addresses()
        except SevpnError as error:
            log.error("addresses could not be taken off", cause=error)
            self.report.warn([str(error)])

    def _restore_host(self) -> None:
        self._uplink.close()
        self._sleep.stop()
        self._places.stop()
        self._locks.stop()
        if self._pump is not None:
            self._pump.stop()
            self._pump = None
        try:
            self._host.undo(keep_lock=not self._is_end_wanted())
        except SevpnError as error:
            log.error("the host could not be restored", cause=error)
            self.restore_error = error
        if self._tap is not None:
            self._tap.close()
            self._tap = None

    def _is_end_wanted(self) -> bool:
        """Whether somebody on this host has asked for the end; then a lock is lifted."""
        asked = isinstance(self._state, m.Disconnecting) and self._state.error is None
        return asked and not self._was_told_to_leave

    # --- what the other parts report ---

    def _on_frames(self, frames: list[bytes]) -> None:
        if self._inside is not None:
            self._inside.receive_frames(frames)

    def _on_lost(self, error: SevpnError) -> None:
        if (
            self._inside is not None
        ):  # else it was given up while the news was on its way
            self._hear(m.SessionLost(error), origin=self._inside)

    def _on_connection_lost(self, number: int, error: SevpnError) -> None:
        if self._session is not None:
            self._session.connection_lost(number, error)

    def _on_lease_changed(self, _lease: Lease) -> None:
        self._hear(m.LeaseChanged(), origin=self._inside)

    def _on_lease_lost(self, reason: str) -> None:
        log.warning("lease lost; asking for another", reason=reason)
        self.report.warn([f"the lease was lost ({reason}); another was asked for"])
        self._hear(m.LeaseLost(), origin=self._inside)

    def _on_names_changed(self) -> None:
        try:
            warning = self._host.mend_names(now=clock()).warning
        except SevpnError as error:
            warning = str(error)
        if warning is not None:
            log.warning("name servers", finding=warning)
            self.report.warn([warning])

    def _on_silent(self, silent: Silent) -> None:
        """The gateway has answered before and does not now."""
        wanted = self._wanted
        # A session that is being taken up again is asked by who does it.
        if wanted is None or isinstance(self._state, m.Resuming):
            return
        outbound = _present(self._pump).outbound()
        if outbound is Outbound.SLOW:
            return  # the question may be waiting yet; there is another judgement to come
        if outbound is Outbound.STUCK:
            silent = replace(silent, has_server_spoken=False)
        error = explain_silence(silent, gateway=wanted.gateway)
        self.report.silent(str(error))
        if wanted.carries_foreign_traffic or not silent.has_server_spoken:
            self._hear(m.SessionLost(error), origin=self._inside)

    def _on_uplink_changed(self) -> None:
        self._sleep.look()
        try:
            if self._inside is not None and not self._host.has_tap():
                self._on_lost(
                    InterfaceGoneError(
                        "somebody has removed the interface of the tunnel: it is made again",
                        operation="watch",
                    )
                )
                return
            self._host.repin()
        except SevpnError as error:
            log.warning("the routes could not follow the uplink", cause=error)
            self._say_of_routes(str(error))
        else:
            self._say_of_routes(None)
        self._roam()
        # What follows from a move comes behind its first step: a connection.
        asyncio.get_running_loop().call_soon(self._on_wish_changed)

    def _say_of_routes(self, trouble: str | None) -> None:
        """Tell what keeps the routes from being as they should, for as long as it does."""
        if self._route_trouble is not None and self._route_trouble != trouble:
            self.report.withdraw({self._route_trouble})
        if trouble is not None:
            self.report.warn([trouble])
        self._route_trouble = trouble

    def _on_wish_changed(self) -> None:
        """Bring the host to what is wanted of it as it is now, while a session is set up.

        Other subnets of this host, other uplinks, other addresses of a name, and what
        routers in the hub say, may want other addresses and routes.
        """
        inside = self._inside
        if self._wanted is None or self._tap is None or inside is None:
            return
        try:
            wanted = self._look_wanted(self._tap, inside.lease)
            if wanted.state == self._wanted.state:
                return
            self._host.apply(wanted.state)
        except SevpnError as error:
            log.warning("the host could not follow what changed", cause=error)
            self.report.warn([str(error)])
            return
        before, self._wanted = self._wanted, wanted
        if wanted.state.addresses != before.state.addresses:
            inside.configured([each.ip for each in wanted.state.addresses])
        self.report.withdraw(set(before.warnings) - set(wanted.warnings))
        self.report.warn(wanted.warnings)

    # --- the network underneath ---

    def _prepare_socket(self, sock: socket.socket) -> None:
        """Do to each outer socket what has to be done before it connects."""
        try:
            set_mark(sock, self._host.marks.own)
        except PermissionError:
            # Nothing but `mark` mode depends on it.
            if self._host.is_by_mark:
                raise
        if not self._host.is_apart and not self._host.is_by_mark:
            bind_to_uplink(sock, self._underlay)

    def _own_look_up(self) -> LookUp:
        """Return who looks names up: behind a lock nobody but the tunnel itself can."""
        if self._job.settings.lock == "off":
            return self._job.destination.dialing.resolve
        return OwnLookUp(
            self._host.uplink_resolvers,
            hosts=lambda: host_names(_ETC),
            prepare=self._prepare_socket,
        )

    def _look(self, addresses: Iterable[Address]) -> Underlay:
        return self._uplink.look(addresses, mark=self._host.marks.own)

    def _look_underneath(self) -> None:
        """Remember what an attempt begins with."""
        self._underlay = self._look(self._addresses)

    def _roam(self) -> None:
        """Begin again at once if the network has moved away from under the tunnel."""
        try:
            now = self._look(self._addresses)
        except SevpnError as error:
            log.warning("the network underneath cannot be looked at", cause=error)
            return
        reason = (
            judge_attempt(self._underlay, now)
            if self._live is None
            else judge_live(self._live, now)
        )
        if reason is not None:
            self._underlay = now
            self._live = None
            self.report.roamed(reason)
            self._hear(m.Heal(reason, can_resume=self._can_resume(None)))


def _post(
    loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: Any
) -> None:
    """Call from the data thread into the loop; a loop that has ended needs no news."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *arguments)


def _present(value: T | None) -> T:
    assert value is not None, "the machine does not begin this action without it"
    return value
