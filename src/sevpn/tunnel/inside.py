# SPDX-License-Identifier: Apache-2.0
"""What lives inside the tunnel: the lease, the hub's polls, the proof.

Layer: tunnel. Runs in: the control thread, on the event loop.

The data thread hands over the few frames that are not the host's business (see
`dataplane/sieve.py`). :class:`Inside` shows each to the machines of `protocol/`
that live now, sends what they want to send, wakes them at their deadlines, and
tells its listener what they conclude:

    pump ──frames──> Inside ──> answer_poll        the hub's ARP and ND polls
                            ──> DhcpClient         the lease, all its life
                            ──> Ipv6Client         what routers offer, likewise
                            ──> Prover             until the tunnel is proven
                            ──> GatewayWatch       afterwards: latency, silence
    pump <──inject── Inside <── frames_to_send()

One :class:`Inside` lives as long as one session. The lease it ends with is
remembered by the supervisor for the next session's INIT-REBOOT.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from typing import Final

from sevpn.errors import LeaseError, NotProvenError
from sevpn.log import get_logger
from sevpn.protocol.dhcp import (
    AddressConflict,
    DhcpClient,
    Lease,
    LeaseLost,
    LeaseObtained,
    LeaseRenewed,
)
from sevpn.protocol.ipv6 import Ipv6Client, Ipv6Settings
from sevpn.protocol.neighbour import (
    GatewayWatch,
    Latency,
    NotProven,
    Proven,
    Prover,
    Silent,
    announce,
    answer_poll,
)
from sevpn.wire.ethernet import MacAddress

__all__ = ["LEASE_PATIENCE_S", "Inside", "InsideListener"]

log = get_logger(__name__)

LEASE_PATIENCE_S: Final = 20.0
"""How long a session may take to its first lease: DISCOVERs at 0, 1, 3, 7 and 15 s."""


@dataclass(frozen=True, slots=True)
class InsideListener:
    """Who is told what the machines conclude; called on the event loop."""

    lease_changed: Callable[[Lease], None]
    """A renewal brought other settings."""

    lease_lost: Callable[[str], None]
    """The address may not be used any more; says why."""

    heard: Callable[[], None]
    """Something came back through the tunnel after the proof."""

    silent: Callable[[Silent], None] = lambda _: None
    """The gateway does not answer any more."""

    ipv6_changed: Callable[[], None] = lambda: None
    """Routers in the hub offer something else than before."""


class Inside:
    """The machines inside one session.

    Args:
        mac: The TAP's address.
        inject: Sends whole Ethernet frames to the hub.
        clock: Seconds on the monotonic clock.
        random: Returns so many random bytes.
        listener: Whom to tell.
        activity: Returns when something last came from the server, on *clock*, and how
            many frames have come in altogether.
    """

    def __init__(
        self,
        *,
        mac: MacAddress,
        inject: Callable[[Sequence[bytes]], None],
        clock: Callable[[], float],
        random: Callable[[int], bytes],
        listener: InsideListener,
        activity: Callable[[], tuple[float, int]] = lambda: (-math.inf, 0),
    ) -> None:
        self._mac = mac
        self._inject = inject
        self._clock = clock
        self._random = random
        self._listener = listener
        self._activity = activity
        self._addresses: Collection[IPv4Address | IPv6Address] = ()
        self._dhcp: DhcpClient | None = None
        self._ipv6: Ipv6Client | None = None
        self._prover: Prover | None = None
        self._watch: GatewayWatch | None = None
        self._leased: asyncio.Future[Lease] | None = None
        self._proof: asyncio.Future[Proven] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.lease: Lease | None = None
        self.latency_s: float | None = None

    # --- what the supervisor asks for ---

    def begin_lease(self, *, hostname: str | None, remembered: Lease | None) -> None:
        """Start the DHCP client; it lives until :meth:`close`."""
        self._dhcp = DhcpClient(
            mac=self._mac, random=self._random, hostname=hostname, remembered=remembered
        )
        self._dhcp.start(self._clock())
        self._turn()

    def begin_ipv6(self) -> None:
        """Begin to listen to routers of IPv6, until :meth:`close`."""
        self._ipv6 = Ipv6Client(mac=self._mac, random=self._random)
        self._ipv6.start(self._clock())
        self._turn()

    @property
    def ipv6(self) -> Ipv6Settings:
        """What routers offer now."""
        return Ipv6Settings() if self._ipv6 is None else self._ipv6.settings

    async def obtain_lease(self) -> Lease:
        """Wait until there is a lease.

        Raises:
            LeaseError: None within :data:`LEASE_PATIENCE_S`; says what was heard.
        """
        if self.lease is not None:
            return self.lease
        self._leased = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(LEASE_PATIENCE_S):
                return await self._leased
        except TimeoutError:
            heard = (
                self._dhcp.what_was_heard
                if self._dhcp is not None
                else "nothing was sent"
            )
            raise LeaseError(
                f"no address by DHCP within {LEASE_PATIENCE_S:.0f} s ({heard})"
            ) from None
        finally:
            self._leased = None

    async def prove(
        self,
        address: IPv4Interface,
        *,
        gateway: IPv4Address | None,
        server: IPv4Address | None,
    ) -> Proven:
        """Ask through the tunnel until something comes back.

        Raises:
            NotProvenError: Nothing did within ten seconds.
        """
        self._proof = asyncio.get_running_loop().create_future()
        self._prover = Prover(
            mac=self._mac, address=address, gateway=gateway, server=server
        )
        self._prover.start(self._clock())
        self._turn()
        try:
            proven = await self._proof
        finally:
            self._proof = None
            self._prover = None
        is_by_gateway = proven.by == "gateway"
        self.latency_s = proven.rtt_s if is_by_gateway else None
        if gateway is not None:
            self._watch = GatewayWatch(
                mac=self._mac,
                address=address.ip,
                gateway=gateway,
                has_answered=is_by_gateway,
            )
            self._watch.start(self._clock())
            self._turn()
        return proven

    def configured(self, addresses: Collection[IPv4Address | IPv6Address]) -> None:
        """The host owns *addresses* now: answer the hub's polls for them, tell the segment."""
        self._addresses = addresses
        if self._dhcp is not None:
            self._dhcp.kernel_answers = True
        if self._ipv6 is not None:
            self._ipv6.kernel_answers = True
        self._inject(
            [
                announce(self._mac, address)
                for address in addresses
                if isinstance(address, IPv4Address)
            ]
        )

    def unconfigured(self) -> None:
        """The host owns no address of this tunnel any more."""
        self._addresses = ()
        self._watch = None
        if self._dhcp is not None:
            self._dhcp.kernel_answers = False
        if self._ipv6 is not None:
            self._ipv6.kernel_answers = False

    def release(self) -> bool:
        """Give the lease back, and return whether there was one.

        The frame is on its way when this returns; give the server a moment before
        the session is closed.
        """
        frames: list[bytes] = []
        if self._ipv6 is not None:
            self._ipv6.release()
            frames += self._ipv6.frames_to_send()
        if self._dhcp is not None and self.lease is not None:
            self._dhcp.release(self._clock())
            frames += self._dhcp.frames_to_send()
            self.lease = None
        if frames:
            self._inject(frames)
        return bool(frames)

    def close(self) -> None:
        """Stop all timers and forget the machines; waiters are cancelled."""
        if self._timer is not None:
            self._timer.cancel()
        self._dhcp = self._ipv6 = self._prover = self._watch = None
        for waiter in (self._leased, self._proof):
            if waiter is not None:
                waiter.cancel()

    # --- what the pump and the clock bring ---

    def receive_frames(self, frames: Sequence[bytes]) -> None:
        """Take the frames that the data thread handed over."""
        now = self._clock()
        answers: list[bytes] = []
        for frame in frames:
            answer = answer_poll(frame, mac=self._mac, addresses=self._addresses)
            if answer is not None:
                answers.append(answer)
            if self._dhcp is not None:
                self._dhcp.receive_frame(frame, now)
            if self._ipv6 is not None:
                self._ipv6.receive_frame(frame, now)
            if self._prover is not None:
                self._prover.receive_frame(frame, now)
            if self._watch is not None:
                self._watch.receive_frame(frame, now)
        if answers:
            self._inject(answers)
        self._turn()

    def wake(self) -> None:
        """Do what is due, now rather than by the alarm, which stands still while the machine sleeps."""
        now = self._clock()
        if self._watch is not None:
            heard_at, frames = self._activity()
            self._watch.saw(heard_at=heard_at, inbound_frames=frames)
        for machine in self._machines():
            if (
                machine is not None
                and (deadline := machine.next_deadline()) is not None
                and deadline <= now
            ):
                machine.handle_deadline(now)
        self._turn()

    def _turn(self) -> None:
        """Send what the machines want to send, hear what they say, set the next alarm."""
        self._hear_dhcp()
        self._hear_prover()
        self._hear_watch()
        if self._ipv6 is not None and self._ipv6.has_changed():
            self._listener.ipv6_changed()
        for machine in self._machines():
            if machine is not None and (frames := machine.frames_to_send()):
                self._inject(frames)
        self._set_alarm()

    def _machines(
        self,
    ) -> tuple[DhcpClient | Ipv6Client | Prover | GatewayWatch | None, ...]:
        return (self._dhcp, self._ipv6, self._prover, self._watch)

    def _set_alarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadlines = [
            at
            for machine in self._machines()
            if machine is not None and (at := machine.next_deadline()) is not None
        ]
        if deadlines:
            delay_s = max(0.0, min(deadlines) - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.wake)

    def _hear_dhcp(self) -> None:
        while self._dhcp is not None and (event := self._dhcp.next_event()) is not None:
            match event:
                case LeaseObtained(lease):
                    self.lease = lease
                    if self._leased is not None and not self._leased.done():
                        self._leased.set_result(lease)
                case LeaseRenewed(lease, changed):
                    self.lease = lease
                    log.debug("lease renewed", address=lease.address, changed=changed)
                    if changed:
                        self._listener.lease_changed(lease)
                case LeaseLost(reason):
                    self.lease = None
                    self._listener.lease_lost(reason)
                case AddressConflict(mac):
                    log.warning("address is used by another host; declined", mac=mac)

    def _hear_prover(self) -> None:
        while (
            self._prover is not None
            and (event := self._prover.next_event()) is not None
        ):
            if self._proof is None or self._proof.done():
                return
            match event:
                case Proven():
                    self._proof.set_result(event)
                case NotProven(reason):
                    self._proof.set_exception(NotProvenError(reason))

    def _hear_watch(self) -> None:
        while (
            self._watch is not None and (event := self._watch.next_event()) is not None
        ):
            match event:
                case Latency(rtt_s):
                    self.latency_s = self.latency_s if rtt_s is None else rtt_s
                    self._listener.heard()
                case Silent():
                    self.latency_s = None
                    self._listener.silent(event)
