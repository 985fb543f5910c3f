# SPDX-License-Identifier: Apache-2.0
"""The DHCP client: one lease inside the tunnel, from the first question to RELEASE.

Layer: protocol; pure. Runs in: the control thread.

It lives in the frame path: it is shown the frames that concern it and has its
own sent, so that no port is opened, no other DHCP client on the host is met, and
the lease is there before the host's network card has an address.

                  remembered, and not expired
     Idle ──start──────────────────────────> Rebooting ──ACK────────────┐
       │ otherwise                               │ NAK of its server,    │
       │                                         │ or 2 s of silence     │
       v                    OFFER                v                       v
    Selecting <──────────────────────────── Selecting             ┌─> Checking
       │  ^   ───────> Requesting ──ACK───────────────────────────┘      │ 0.3 s without
       │  │                │ 15 s of silence                             │ an objection
       │  ├────────────────┤                                             v
       │  │                │ NAK                                ┌───> Bound
       │  │                v                                    │        │ T1
       │  └─1 to 16 s── Waiting <──another host has it, 10 s──┐ ACK      v
       │                                                      ├───── Renewing
       │                                                      │          │ T2
       │ <── NAK of its server, or the end of the lease ──────┴───── Rebinding

    release() leads from anywhere to Done.

    state       sends                                again after
    Rebooting   REQUEST with 50, broadcast           1 s
    Selecting   DISCOVER, broadcast                  1, 2, 4, 8, 16, 16, … s ± 10 %
    Requesting  REQUEST with 50 and 54, broadcast    1, 2, 4, 8 s ± 10 %
    Checking    one ARP probe                        -
    Bound       one ARP announcement                 -
    Renewing    REQUEST to the server, unicast       half of the time to T2, at least 60 s
    Rebinding   REQUEST, broadcast                   half of the time left, at least 60 s
    Done        one RELEASE, unicast                 -

While the address is in use, a foreign ARP packet that claims it is answered by
one announcement; the next one within ten seconds costs us the address (DECLINE).

Times count on a clock that does not stop in suspend, so a timer may be found
long past: then the last thing that is due is done, and what was missed is not.

Source: RFC 2131 section 4.4 and figure 5; RFC 5227; docs/reference/dhcp.md.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Final, assert_never

from sevpn.errors import RemoteProtocolError
from sevpn.protocol.dhcpreply import Notebook, Reply, read_reply
from sevpn.protocol.dhcprequest import RequestWriter
from sevpn.protocol.dhcpstates import (
    AddressConflict,
    Bound,
    Checking,
    DhcpEvent,
    Done,
    Idle,
    Leased,
    LeaseLost,
    LeaseObtained,
    LeaseRenewed,
    Rebinding,
    Rebooting,
    Renewing,
    Requesting,
    Selecting,
    State,
    Waiting,
)
from sevpn.protocol.lease import Lease, StaticRoute, read_lease
from sevpn.wire import arp
from sevpn.wire.dhcpv4 import MessageType
from sevpn.wire.ethernet import BROADCAST, EtherType, Frame, MacAddress, decode_frame

__all__ = [
    "AddressConflict",
    "DhcpClient",
    "DhcpEvent",
    "Lease",
    "LeaseLost",
    "LeaseObtained",
    "LeaseRenewed",
    "StaticRoute",
]

_RETRY_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Delays between transmissions. RFC 2131 section 4.1 begins at 4 s, for networks
where a whole building boots at once; behind a tunnel there is one client."""

_REQUEST_COUNT: Final = 4
_REBOOT_RETRY_S: Final = 1.0
_REBOOT_PATIENCE_S: Final = 2.0
"""A server that does not know the address may say nothing (RFC 2131 section 4.3.2)."""

_PROBE_WAIT_S: Final = 0.3
"""RFC 5227 asks for three probes and up to 7 s, for media that wake up slowly; an
answer through a hub takes one round trip."""

_AFTER_CONFLICT_S: Final = 10.0
_DEFEND_INTERVAL_S: Final = 10.0
_SAME_CONFLICT_S: Final = 1.0
"""What comes so soon after our announcement was on its way before it."""

_RENEWAL_RETRY_S: Final = 60.0


class DhcpClient:
    """Gets a lease and keeps it; never gives up by itself.

    Call :meth:`start`, then show it frames and deadlines, and after each of these
    collect its events and frames.

    Args:
        mac: The TAP's address; must stay the same over reconnects, since servers
            know a lease by it.
        random: Returns so many random bytes.
        hostname: What to tell servers as our name; left out if it is no host name,
            or one that SecureNAT does not answer.
        remembered: A lease of an earlier session, to ask for its address first.
    """

    def __init__(
        self,
        *,
        mac: MacAddress,
        random: Callable[[int], bytes],
        hostname: str | None = None,
        remembered: Lease | None = None,
    ) -> None:
        self._mac = mac
        self._random = random
        self._remembered = remembered
        self._write = RequestWriter(mac=mac, hostname=hostname)
        self._state: State = Idle()
        self._events: deque[DhcpEvent] = deque()
        self._frames: list[bytes] = []
        self._notebook = Notebook()
        self._refusal_count = 0
        self._defended_at = -math.inf
        self.kernel_answers = False
        """Whether the host has the address and answers ARP for it. While it is
        False and the address is ours, the client answers. Assign it freely."""

    # --- the verbs ---

    def start(self, now: float) -> None:
        """Begin to ask: for the remembered address if its lease has not expired, else for any."""
        lease = self._remembered
        if lease is None:
            self._discover(now, wanted=None)
        elif lease.expires_at is not None and lease.expires_at <= now:
            self._discover(now, wanted=lease.address.ip)
        else:
            # However much time is left: a DHCPForce hub forgets the lease with the
            # session, and lets nothing pass before it has seen an ACK again.
            self._reboot(lease, self._new_xid(), now, began_at=now)

    def receive_frame(self, frame: bytes, now: float) -> None:
        """Take a frame from the hub; whatever is not for the client is ignored.

        Raises nothing: anybody on the hub can send nonsense.
        """
        try:
            ethernet = decode_frame(frame)
            if ethernet.source == self._mac:
                return
            if ethernet.ethertype == EtherType.ARP:
                self._receive_arp(ethernet, arp.decode_arp(ethernet.payload), now)
            elif ethernet.ethertype == EtherType.IPV4:
                reply = read_reply(ethernet, mac=self._mac, notebook=self._notebook)
                if reply is not None:
                    self._receive_reply(reply, now)
        except RemoteProtocolError:
            return

    def next_event(self) -> DhcpEvent | None:
        """Return the oldest event that was not returned yet, or None."""
        return self._events.popleft() if self._events else None

    def frames_to_send(self) -> list[bytes]:
        """Return the frames that shall go to the hub now, oldest first, and forget them."""
        frames, self._frames = self._frames, []
        return frames

    def next_deadline(self) -> float | None:
        """Return when :meth:`handle_deadline` wants to be called; None: not by itself."""
        match self._state:
            case Idle() | Done():
                return None
            case Rebooting(retry_at=at, give_up_at=end):
                return min(at, end)
            case Selecting(retry_at=at) | Requesting(retry_at=at):
                return at
            case Renewing(retry_at=at) | Rebinding(retry_at=at):
                return at
            case Checking(until=at) | Waiting(until=at):
                return at
            case Bound(lease=lease):
                return None if math.isinf(lease.renew_at) else lease.renew_at
            case _:
                assert_never(self._state)

    def handle_deadline(self, now: float) -> None:
        """Do what is due; early, late and repeated calls do no harm."""
        due_at = self.next_deadline()
        if due_at is None or now < due_at:
            return
        match self._state:
            case Rebooting() as state:
                self._retry_reboot(state, now)
            case Selecting() as state:
                self._send_discover(state, now)
            case Requesting() as state:
                self._retry_request(state, now)
            case Checking(lease=lease):
                self._end_check(lease, now)
            case Bound() | Renewing() | Rebinding() as state:
                self._continue_lease(state, now)
            case Waiting() | Idle() | Done():  # the last two have no deadline
                self._discover(now, wanted=None)
            case _:
                assert_never(self._state)

    def release(self, now: float) -> None:  # noqa: ARG002 - as all verbs
        """Give the address back, if there is one, and end.

        Afterwards collect :meth:`frames_to_send` once more. RELEASE has no answer,
        and SecureNAT ignores it: nothing is waited for.
        """
        match self._state:
            case Checking(lease=lease) | Bound(lease=lease):
                self._release(lease)
            case Renewing(lease=lease) | Rebinding(lease=lease):
                self._release(lease)
            case _:
                pass  # there is nothing to give back
        self._state = Done()

    @property
    def what_was_heard(self) -> str:
        """What came of asking since the last lease, for an error: `no answer to 4 DISCOVERs`."""
        return self._notebook.summary

    # --- asking ---

    def _reboot(self, lease: Lease, xid: int, now: float, *, began_at: float) -> None:
        self._state = Rebooting(
            lease=lease,
            xid=xid,
            began_at=began_at,
            asked_at=now,
            retry_at=now + _REBOOT_RETRY_S,
            give_up_at=began_at + _REBOOT_PATIENCE_S,
        )
        self._ask(
            "REQUEST",
            self._write.reboot(xid=xid, secs=now - began_at, address=lease.address.ip),
        )

    def _retry_reboot(self, state: Rebooting, now: float) -> None:
        if now < state.give_up_at:
            self._reboot(state.lease, state.xid, now, began_at=state.began_at)
        else:
            self._discover(now, wanted=state.lease.address.ip)

    def _discover(self, now: float, *, wanted: IPv4Address | None) -> None:
        first = Selecting(
            wanted=wanted, xid=self._new_xid(), began_at=now, retry_at=now, sent_count=0
        )
        self._send_discover(first, now)

    def _send_discover(self, state: Selecting, now: float) -> None:
        self._state = replace(
            state,
            retry_at=now + self._delay_s(state.sent_count),
            sent_count=state.sent_count + 1,
        )
        self._ask(
            "DISCOVER",
            self._write.discover(
                xid=state.xid, secs=now - state.began_at, wanted=state.wanted
            ),
        )

    def _send_request(self, state: Requesting, now: float) -> None:
        self._state = replace(
            state,
            asked_at=now,
            retry_at=now + self._delay_s(state.sent_count),
            sent_count=state.sent_count + 1,
        )
        self._ask(
            "REQUEST",
            self._write.select(
                xid=state.xid,
                secs=now - state.began_at,
                address=state.offer.address.ip,
                server=state.offer.server,
            ),
        )

    def _retry_request(self, state: Requesting, now: float) -> None:
        if state.sent_count < _REQUEST_COUNT:
            self._send_request(state, now)
        else:
            self._notebook.heard(f"server {state.offer.server} did not grant its offer")
            self._discover(now, wanted=None)

    def _wait_after_refusal(self, now: float) -> None:
        """Ask anew after a while that grows: two servers may contradict each other for ever."""
        self._state = Waiting(until=now + self._delay_s(self._refusal_count))
        self._refusal_count += 1

    def _ask(self, kind: str, frame: bytes) -> None:
        self._notebook.asked(kind)
        self._frames.append(frame)

    def _delay_s(self, sent_count: int) -> float:
        delay_s = _RETRY_S[min(sent_count, len(_RETRY_S) - 1)]
        return delay_s * (0.9 + 0.2 * self._random(1)[0] / 255)

    def _new_xid(self) -> int:
        return int.from_bytes(self._random(4), "big")

    # --- the answers of servers ---

    def _receive_reply(self, reply: Reply, now: float) -> None:
        state = self._state
        match state:
            case Rebooting(xid=xid) if xid == reply.message.xid:
                self._answered_reboot(state, reply, now)
            case Selecting(xid=xid) if xid == reply.message.xid:
                self._answered_discover(state, reply, now)
            case Requesting(xid=xid) if xid == reply.message.xid:
                self._answered_request(state, reply, now)
            case Renewing(xid=xid) | Rebinding(xid=xid) if xid == reply.message.xid:
                self._answered_renewal(state, reply, now)
            case _:
                pass  # late, doubled, or to another client with our MAC

    def _answered_reboot(self, state: Rebooting, reply: Reply, now: float) -> None:
        match reply.message.message_type:
            case MessageType.ACK:
                lease = self._read(reply, asked_at=state.asked_at)
                if lease is None:
                    self._discover(now, wanted=None)
                else:
                    self._check(lease, now)
            case MessageType.NAK if self._counts(reply, asked=state.lease.server):
                self._discover(now, wanted=None)
            case _:
                pass

    def _answered_discover(self, state: Selecting, reply: Reply, now: float) -> None:
        match reply.message.message_type:
            case MessageType.OFFER if reply.server is None:
                self._notebook.heard(
                    f"an offer by {reply.source} does not name its server"
                )
            case MessageType.OFFER:
                offer = self._read(reply, asked_at=now)
                if offer is not None:
                    self._accept(offer, state, now)
            case MessageType.NAK:
                # SoftEther 4.x and 5.01 say so when their pool is empty. The next
                # DISCOVER goes out in its own time.
                self._notebook.heard(
                    f"server {reply.name} answered NAK to a DISCOVER{reply.words}:"
                    " it may have no free address"
                )
            case _:
                pass

    def _accept(self, offer: Lease, state: Selecting, now: float) -> None:
        self._notebook.heard(f"server {offer.server} offered {offer.address}")
        first = Requesting(
            offer=offer,
            xid=state.xid,
            began_at=state.began_at,
            asked_at=now,
            retry_at=now,
            sent_count=0,
        )
        self._send_request(first, now)

    def _answered_request(self, state: Requesting, reply: Reply, now: float) -> None:
        asked = state.offer.server
        match reply.message.message_type:
            case MessageType.ACK if reply.server not in (asked, None):
                # SecureNAT answers what another server was asked for, too.
                self._notebook.heard(
                    f"server {reply.name} answered a REQUEST to {asked}:"
                    " two DHCP servers on one hub do not go together"
                )
            case MessageType.ACK:
                granted = replace(reply, server=asked)
                lease = self._read(granted, asked_at=state.asked_at)
                if lease is None:
                    self._wait_after_refusal(now)
                else:
                    self._check(lease, now)
            case MessageType.NAK if self._counts(reply, asked=asked):
                self._wait_after_refusal(now)
            case _:
                pass

    def _answered_renewal(
        self, state: Renewing | Rebinding, reply: Reply, now: float
    ) -> None:
        held = state.lease
        match reply.message.message_type:
            case MessageType.ACK:
                lease = self._read(reply, asked_at=state.asked_at)
                if lease is not None:
                    self._renewed(held, lease, now)
            case MessageType.NAK if self._counts(reply, asked=held.server):
                self._lose(
                    f"server {reply.name} took {held.address.ip} back{reply.words}"
                )
                self._discover(now, wanted=None)
            case _:
                pass

    def _renewed(self, held: Lease, lease: Lease, now: float) -> None:
        if lease.address.ip == held.address.ip:
            self._state = Bound(lease=lease)
            is_changed = not lease.has_same_settings(held)
            self._events.append(LeaseRenewed(lease, changed=is_changed))
        else:
            self._lose(
                f"server {lease.server} gave {lease.address.ip} instead of {held.address.ip}"
            )
            self._discover(now, wanted=lease.address.ip)

    def _counts(self, reply: Reply, *, asked: IPv4Address) -> bool:
        """Say whether a NAK is of the server that was asked.

        A SecureNAT beside the right server refuses whatever is not of its own pool.
        """
        if reply.server == asked:
            self._notebook.heard(
                f"server {reply.name} answered NAK to a REQUEST{reply.words}"
            )
            return True
        self._notebook.heard(
            f"a NAK by {reply.name} was ignored: server {asked} was asked"
        )
        return False

    def _read(self, reply: Reply, *, asked_at: float) -> Lease | None:
        """Judge an OFFER or ACK; what cannot be used is noted."""
        try:
            return read_lease(
                reply.message,
                server=reply.name,
                server_mac=reply.mac,
                asked_at=asked_at,
            )
        except RemoteProtocolError as error:
            self._notebook.heard(f"what server {reply.name} gave was refused: {error}")
            return None

    # --- the life of a lease ---

    def _check(self, lease: Lease, now: float) -> None:
        self._state = Checking(lease=lease, until=now + _PROBE_WAIT_S)
        self._frames.append(arp.probe(self._mac, lease.address.ip))

    def _end_check(self, lease: Lease, now: float) -> None:
        if lease.expires_at is None or now < lease.expires_at:
            self._bind(lease)
        else:  # the machine was suspended meanwhile
            self._discover(now, wanted=lease.address.ip)

    def _bind(self, lease: Lease) -> None:
        self._state = Bound(lease=lease)
        self._refusal_count = 0
        self._notebook.clear()
        self._frames.append(arp.announcement(self._mac, lease.address.ip))
        self._events.append(LeaseObtained(lease))

    def _continue_lease(self, state: Leased, now: float) -> None:
        lease = state.lease
        if lease.expires_at is not None and now >= lease.expires_at:
            self._lose(
                f"the lease of {lease.address.ip} has expired: server {lease.server} did not renew it"
            )
            self._discover(now, wanted=lease.address.ip)
        elif now < lease.rebind_at:
            self._renew(state, now)
        else:
            self._rebind(state, now)

    def _renew(self, state: Leased, now: float) -> None:
        lease = state.lease
        xid = self._new_xid()
        began_at = now if isinstance(state, Bound) else state.began_at
        self._state = Renewing(
            lease=lease,
            xid=xid,
            began_at=began_at,
            asked_at=now,
            retry_at=_halfway(now, lease.rebind_at),
        )
        self._ask("REQUEST", self._write.renew(lease, xid=xid, secs=now - began_at))
        # The server may have got another network card: see _learn_server.
        is_unanswered = isinstance(state, Renewing)
        next_hop = _next_hop(lease)
        if next_hop is not None and (is_unanswered or lease.server_mac == BROADCAST):
            self._frames.append(arp.question(self._mac, lease.address.ip, next_hop))

    def _rebind(self, state: Leased, now: float) -> None:
        lease = state.lease
        xid = self._new_xid()
        began_at = now if isinstance(state, Bound) else state.began_at
        # T2 is over, so it was finite, and so is the end.
        assert lease.expires_at is not None
        self._state = Rebinding(
            lease=lease,
            xid=xid,
            began_at=began_at,
            asked_at=now,
            retry_at=_halfway(now, lease.expires_at),
        )
        self._ask("REQUEST", self._write.rebind(lease, xid=xid, secs=now - began_at))

    def _lose(self, reason: str) -> None:
        self._notebook.heard(reason)
        self._events.append(LeaseLost(reason))

    def _release(self, lease: Lease) -> None:
        self._frames.append(self._write.release(lease, xid=self._new_xid()))

    # --- ARP ---

    def _receive_arp(self, frame: Frame, packet: arp.ArpPacket, now: float) -> None:
        if packet.sender_mac == self._mac:
            return
        match self._state:
            case Checking(lease=lease):
                if _claims(frame, packet, lease) or _is_probe(packet, lease):
                    self._decline(lease, packet.sender_mac, now)
            case Bound(lease=lease) | Renewing(lease=lease) | Rebinding(lease=lease):
                if _claims(frame, packet, lease):
                    self._defend(lease, packet.sender_mac, now)
                else:
                    self._answer(lease, packet)
                    self._learn_server(packet, now)
            case _:
                pass

    def _defend(self, lease: Lease, mac: MacAddress, now: float) -> None:
        since_s = now - self._defended_at
        if since_s >= _DEFEND_INTERVAL_S:
            self._defended_at = now
            self._frames.append(arp.announcement(self._mac, lease.address.ip))
        elif since_s >= _SAME_CONFLICT_S:
            self._events.append(
                LeaseLost(f"{lease.address.ip} is used by another host too, {mac}")
            )
            self._decline(lease, mac, now)

    def _decline(self, lease: Lease, mac: MacAddress, now: float) -> None:
        self._notebook.heard(f"{lease.address.ip} is used by another host, {mac}")
        self._frames.append(self._write.decline(lease, xid=self._new_xid()))
        self._events.append(AddressConflict(mac))
        self._state = Waiting(until=now + _AFTER_CONFLICT_S)

    def _answer(self, lease: Lease, packet: arp.ArpPacket) -> None:
        """Answer who asks for our address while the host does not have it yet.

        SecureNAT asks before it answers a renewal, and a hub keeps an address in
        its table only while its polls are answered.
        """
        is_question = (
            packet.operation == arp.ArpOperation.REQUEST
            and packet.target_ip == lease.address.ip
        )
        if is_question and not self.kernel_answers:
            self._frames.append(
                arp.answer(
                    self._mac,
                    lease.address.ip,
                    to=packet.sender_mac,
                    asked_by=packet.sender_ip,
                )
            )

    def _learn_server(self, packet: arp.ArpPacket, now: float) -> None:
        """Renew at once where the server, or the way to it, has moved to."""
        state = self._state
        if (
            isinstance(state, Renewing)
            and packet.operation == arp.ArpOperation.REPLY
            and packet.sender_ip == _next_hop(state.lease)
            and packet.sender_mac != state.lease.server_mac
            and not packet.sender_mac.is_multicast
        ):
            lease = replace(state.lease, server_mac=packet.sender_mac)
            self._state = replace(state, lease=lease, asked_at=now)
            secs = now - state.began_at
            self._ask("REQUEST", self._write.renew(lease, xid=state.xid, secs=secs))


def _claims(frame: Frame, packet: arp.ArpPacket, lease: Lease) -> bool:
    """Say whether another host speaks as the owner of our address.

    A hub is none: it polls from an address that it made up, which may be ours.
    """
    return packet.sender_ip == lease.address.ip and not frame.source.is_hub


def _is_probe(packet: arp.ArpPacket, lease: Lease) -> bool:
    """Say whether another host is about to take our address (RFC 5227 section 2.1.1)."""
    return (
        packet.operation == arp.ArpOperation.REQUEST
        and not int(packet.sender_ip)
        and packet.target_ip == lease.address.ip
    )


def _next_hop(lease: Lease) -> IPv4Address | None:
    """Return whom to ask by ARP for the way to the server."""
    return lease.server if lease.server in lease.address.network else lease.router


def _halfway(now: float, end_at: float) -> float:
    """Return when to ask again: after half of the remaining time, at least a minute.

    RFC 2131 section 4.4.5.
    """
    return min(now + max(_RENEWAL_RETRY_S, (end_at - now) / 2), end_at)
