# SPDX-License-Identifier: Apache-2.0
"""The shell of the tunnel's machine: carries out its actions and reports back.

Layer: tunnel. Runs in: the control thread, on the event loop. One per tunnel.

`machine.py` decides, this module does: each action is one method, each outcome
one event. The parts it joins, and the threads they live in:

    control thread                                      data thread
      Supervisor ── opening.py ── transport             Pump (frames)
                 ── connections.py ── more of them          on_connection_lost
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
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import Any, TypeVar, assert_never

from sevpn.config.profile import Settings
from sevpn.dataplane.path import is_compiled
from sevpn.dataplane.pump import Pump
from sevpn.errors import LeaseError, NotProvenError, SevpnError
from sevpn.log import get_logger
from sevpn.metrics.snapshot import Tunnel
from sevpn.net.host import Host
from sevpn.net.tap import Tap
from sevpn.net.wanted import DEFAULT_MTU, Wanted, wanted_state
from sevpn.protocol.dhcp import Lease
from sevpn.protocol.identity import ClientIdentity
from sevpn.protocol.joining import Direction
from sevpn.protocol.messages import Hello
from sevpn.protocol.neighbour import Proven
from sevpn.transport.stream import SecureStream
from sevpn.tunnel import machine as m
from sevpn.tunnel.connections import (
    ConnectionKeeper,
    KeeperListener,
    connections_to_open,
)
from sevpn.tunnel.hints import explain_no_lease, explain_no_proof, policy_warnings
from sevpn.tunnel.inside import Inside, InsideListener
from sevpn.tunnel.opening import (
    Address,
    Destination,
    OpenedSession,
    Peer,
    open_additional,
    open_session,
)
from sevpn.tunnel.policy import Rules
from sevpn.tunnel.report import Parts, Reporter
from sevpn.wire.ethernet import MacAddress

__all__ = ["Job", "Supervisor"]

log = get_logger(__name__)

T = TypeVar("T")

_LAST_WORDS_S = 0.05
"""Between the RELEASE and the end of the session: a server drops blocks that it reads
together with the end of the stream (5.01.9674: two or three of ten, and none after 20 ms)."""

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
        self._state: m.State = m.Down()
        self._events: asyncio.Queue[tuple[object | None, m.Event]] = asyncio.Queue()
        self._work: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tap: Tap | None = None
        self._pump: Pump | None = None
        self._session: OpenedSession | None = None
        self._inside: Inside | None = None
        self._keeper: ConnectionKeeper | None = None
        self._remembered: Lease | None = None
        self._wanted: Wanted | None = None
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
                    self._take(event)
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

    def subscribe(
        self, listener: Callable[[dict[str, Any]], None]
    ) -> Callable[[], None]:
        """Call *listener* with each event until the returned function is called."""
        return self.report.subscribe(listener)

    def snapshot(self) -> Tunnel:
        """Return the status document's TUNNEL as of now."""
        inside, is_set = self._inside, isinstance(self._state, m.Proving | m.Connected)
        return self.report.snapshot(
            Parts(
                session=self._session,
                tap=self._tap,
                mac=self._job.mac,
                kernel="python" if self._pump is None else self._pump.kernel,
                wanted=self._wanted if is_set else None,
                lease=None if inside is None else inside.lease,
                latency_s=None if inside is None else inside.latency_s,
                counters=None if self._pump is None else self._pump.counters,
                host=self._host.describe(),
                connections=0 if self._pump is None else self._pump.connection_count,
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
            case m.CloseSession():
                self._give_up()
                self._close_session(polite=True)
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
        self._open_tap()
        session = await open_session(
            self._job.destination,
            identify=self._job.identify,
            random=secrets.token_bytes,
            on_addresses=self._on_addresses,
            on_hello=self._on_hello,
        )
        self._begin_inside(session)
        if self._keeper is not None:
            # What the DHCP server answers would be lost before.
            await self._keeper.wait_until_heard(self._job.destination.hello_s)
        if self._job.settings.dhcp:
            _present(self._inside).begin_lease(
                hostname=self._job.settings.hostname, remembered=self._remembered
            )
        return m.SessionOpened()

    def _open_tap(self) -> None:
        if self._tap is not None:
            return
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
        )
        self._pump.start()
        self._host.watch(self._on_uplink_changed)

    async def _on_addresses(self, addresses: Sequence[Address]) -> None:
        self.report.resolved(addresses)
        self._host.pin_server(addresses)
        self._hear(m.AddressesKnown(), origin=asyncio.current_task())

    def _on_hello(self, stream: SecureStream, hello: Hello) -> None:
        self.report.greeted(stream, hello)
        self._hear(m.HelloSeen(), origin=asyncio.current_task())

    def _begin_inside(self, session: OpenedSession) -> None:
        pump = _present(self._pump)
        self._session = session
        self._inside = Inside(
            mac=self._job.mac,
            inject=pump.inject,
            clock=clock,
            random=secrets.token_bytes,
            listener=InsideListener(
                lease_changed=self._on_lease_changed,
                lease_lost=self._on_lease_lost,
                heard=self.report.heard,
            ),
        )
        self.report.logged_in(session)
        # While the stream is still ours to ask.
        peer = Peer.of(session.stream)
        direction = (
            Direction.TO_SERVER if session.welcome.half_connection else Direction.BOTH
        )
        pump.has_priority = session.welcome.qos
        # Listen before the first word is sent: what the hub says now is for us, too.
        pump.attach(
            session.stream,
            leftover=session.leftover,
            timeout_s=session.welcome.timeout_s,
            may_receive=direction.carries_to_client,
        )
        self._keep_connections(session, peer, direction)

    def _keep_connections(
        self, session: OpenedSession, peer: Peer, first: Direction
    ) -> None:
        wanted = connections_to_open(self._job.connections, session.welcome)
        self.report.granted(wanted, self._job.connections, session.welcome)
        if wanted == 1:
            return
        self._keeper = ConnectionKeeper(
            wanted=wanted,
            first=first,
            open_one=lambda: open_additional(
                self._job.destination,
                peer,
                session.welcome,
                identify=self._job.identify,
                random=secrets.token_bytes,
            ),
            sink=_present(self._pump),
            listener=KeeperListener(
                opened=self.report.connection_opened,
                failed=self.report.connection_failed,
                lost=self.report.connection_lost,
                given_up=self._on_lost,
            ),
            clock=clock,
        )
        self._keeper.start()

    async def _obtain_lease(self) -> m.Event:
        inside = _present(self._inside)
        if self._job.settings.dhcp:
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
        self._wanted = wanted_state(
            self._job.settings,
            lease=inside.lease,
            device=tap.name,
            found=self._host.find(),
        )
        self.report.warn(tap.notices)
        self.report.warn(self._wanted.warnings)
        self.report.warn(
            policy_warnings(
                self._policy(),
                is_static=inside.lease is None,
                hub=self._job.settings.hub,
            )
        )
        pump.sieve.is_open = True
        tap.set_carrier(True)
        self._host.apply(self._wanted.state)
        inside.configured([interface.ip for interface in self._wanted.state.addresses])
        self.report.configured(self._wanted, tap)
        return m.HostConfigured()

    async def _prove(self) -> m.Event:
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
        self.report.proven(proven)
        return m.Proven()

    async def _leave_and_restore(self) -> m.Event:
        if self._inside is not None and self._inside.release():
            await asyncio.sleep(_LAST_WORDS_S)
        self._close_session(polite=True)
        self._restore_host()
        return m.Left()

    def _policy(self) -> Mapping[str, int]:
        return {} if self._session is None else self._session.welcome.policy

    # --- taking down ---

    def _close_session(self, *, polite: bool) -> None:
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None
        if self._pump is not None:
            self._pump.sieve.is_open = False
            self._pump.detach(polite=polite)
        if self._inside is not None:
            self._inside.close()
            self._inside = None
        self._session = None

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
                self._tap.set_carrier(False)
            self._host.release_addresses()
        except SevpnError as error:
            log.error("addresses could not be taken off", cause=error)
            self.report.warn([str(error)])

    def _restore_host(self) -> None:
        if self._pump is not None:
            self._pump.stop()
            self._pump = None
        try:
            self._host.undo()
        except SevpnError as error:
            log.error("the host could not be restored", cause=error)
            self.restore_error = error
        if self._tap is not None:
            self._tap.close()
            self._tap = None

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
        if self._keeper is not None:
            self._keeper.lost(number, error)

    def _on_lease_changed(self, _lease: Lease) -> None:
        self._hear(m.LeaseChanged(), origin=self._inside)

    def _on_lease_lost(self, reason: str) -> None:
        log.warning("lease lost; asking for another", reason=reason)
        self.report.warn([f"the lease was lost ({reason}); another was asked for"])
        self._hear(m.LeaseLost(), origin=self._inside)

    def _on_uplink_changed(self) -> None:
        try:
            self._host.repin()
        except SevpnError as error:
            log.warning("the host route could not follow the uplink", cause=error)


def _post(
    loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: Any
) -> None:
    """Call from the data thread into the loop; a loop that has ended needs no news."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *arguments)


def _present(value: T | None) -> T:
    assert value is not None, "the machine does not begin this action without it"
    return value
