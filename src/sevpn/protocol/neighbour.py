# SPDX-License-Identifier: Apache-2.0
"""Neighbours on the hub: polls answered, the tunnel proven, the gateway watched.

Layer: protocol; pure. Runs in: the control thread.

A tunnel is proven when something has come back through it after its address was
set. The best proof that comes counts, in this order:

    gateway       the gateway's answer to our ARP question
    dhcp-server   the DHCP server's answer to ours, if it is on this subnet
    hub-poll      the hub itself asks for our address, in a frame to us alone
    unicast       any other frame to us alone

    Idle ──start──> Asking ──the best that can come──────────> proven
                      │  └──anything less──> Settling ──0.5 s─> proven, by the best so far
                      └──10 s of silence──> not proven

Broadcasts prove nothing: a SecureNAT shouts every 5 s, whether or not it can
hear us.

Source: RFC 826, RFC 4861 section 7.2.4, RFC 5227 section 2.3;
docs/reference/dhcp.md#neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from typing import Final, Literal

from sevpn.errors import RemoteProtocolError
from sevpn.wire import arp
from sevpn.wire.ethernet import (
    EtherType,
    Frame,
    MacAddress,
    decode_frame,
    encode_frame,
)
from sevpn.wire.nd import (
    ALL_NODES,
    NeighbourAdvertisement,
    NeighbourSolicitation,
    decode_nd,
    encode_nd,
)

__all__ = [
    "GatewayWatch",
    "Latency",
    "NotProven",
    "Proof",
    "Proven",
    "Prover",
    "Silent",
    "announce",
    "answer_poll",
]

_ASK_AFTER_S: Final = (0.25, 0.25, 0.5)
_ASK_EVERY_S: Final = 1.0
_GRACE_S: Final = 0.5
"""How long a lesser proof waits for a better one; most gateways answer sooner."""

_PATIENCE_S: Final = 10.0

_WATCH_EVERY_S: Final = 2.5
_ASK_AGAIN_S: Final = 0.75
_SILENT_S: Final = 2.5
"""Four questions without an answer. With the 2.5 s before them: five seconds, where
the time-out of most sessions is twenty."""

_SILENT_AGAIN_S: Final = 5.0
_UNKNOWN_EVERY_S: Final = 15.0
_LATE_S: Final = 1.0

_FLOW_FRAMES: Final = 40
"""Within the patience: 200 kbit/s of full frames, more than a hub's usual chatter."""

_FLOW_PATIENCE_S: Final = 15.0

Proof = Literal["gateway", "dhcp-server", "hub-poll", "unicast"]
"""What a tunnel was proven by, best first."""

_PROOFS: Final[tuple[Proof, ...]] = ("gateway", "dhcp-server", "hub-poll", "unicast")


# --- single frames -----------------------------------------------------------


def announce(mac: MacAddress, address: IPv4Address) -> bytes:
    """Return the gratuitous ARP frame that tells the hub and the segment that *mac* has *address*."""
    return arp.announcement(mac, address)


def answer_poll(
    frame: bytes,
    *,
    mac: MacAddress,
    addresses: Collection[IPv4Address | IPv6Address],
) -> bytes | None:
    """Answer the hub's question for one of our addresses.

    The hub asks from 172.31.a.b, which strict reverse-path filtering of the host
    rejects in a split tunnel: unanswered, the address falls out of the hub's
    table, and a DHCPForce hub then drops whatever we send.

    Args:
        frame: Any frame from the hub.
        mac: The TAP's address.
        addresses: What the host has on the TAP, IPv6 without zones.

    Returns:
        The answer, or None if the frame is no such question. Other hosts'
        questions are the kernel's business.
    """
    try:
        ethernet = decode_frame(frame)
        if not ethernet.source.is_hub:
            return None
        if ethernet.ethertype == EtherType.ARP:
            return _answer_arp(arp.decode_arp(ethernet.payload), mac, addresses)
        if ethernet.ethertype == EtherType.IPV6:
            return _answer_nd(ethernet, mac, addresses)
    except RemoteProtocolError:
        pass
    return None


def _answer_arp(
    packet: arp.ArpPacket,
    mac: MacAddress,
    addresses: Collection[IPv4Address | IPv6Address],
) -> bytes | None:
    if (
        packet.operation != arp.ArpOperation.REQUEST
        or packet.target_ip not in addresses
    ):
        return None
    return arp.answer(
        mac, packet.target_ip, to=packet.sender_mac, asked_by=packet.sender_ip
    )


def _answer_nd(
    frame: Frame, mac: MacAddress, addresses: Collection[IPv4Address | IPv6Address]
) -> bytes | None:
    question = decode_nd(frame.payload)
    if (
        not isinstance(question, NeighbourSolicitation)
        or question.target not in addresses
    ):
        return None
    is_anonymous = question.source.is_unspecified
    answer = NeighbourAdvertisement(
        source=question.target,
        destination=ALL_NODES if is_anonymous else question.source,
        target=question.target,
        target_mac=mac,
        is_solicited=not is_anonymous,
        is_override=True,
    )
    return encode_frame(
        Frame(
            question.source_mac or frame.source,
            mac,
            EtherType.IPV6,
            encode_nd(answer),
        )
    )


# --- the proof ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Proven:
    """Something came back through the tunnel."""

    by: Proof
    """What."""

    rtt_s: float | None
    """Seconds from our question to its answer; None: there was none, or more than one question."""

    mac: MacAddress
    """Who sent it."""


@dataclass(frozen=True, slots=True)
class NotProven:
    """Nothing came back within ten seconds."""

    reason: str
    """One line for people: who was asked."""


class Prover:
    """Asks through a new tunnel until something comes back; good for one proof.

    Args:
        mac: The TAP's address.
        address: What the host has on the TAP.
        gateway: The router inside the tunnel; None: there is none.
        server: The DHCP server; asked if it is on the address's subnet.
    """

    def __init__(
        self,
        *,
        mac: MacAddress,
        address: IPv4Interface,
        gateway: IPv4Address | None,
        server: IPv4Address | None,
    ) -> None:
        self._mac = mac
        self._address = address.ip
        self._asked: dict[IPv4Address, Proof] = {}
        if server is not None and server in address.network and server != address.ip:
            self._asked[server] = "dhcp-server"
        if gateway is not None:
            self._asked[gateway] = "gateway"
        self._frames: list[bytes] = []
        self._sent_at: list[float] = []
        self._ask_at: float | None = None
        self._end_at: float | None = None
        self._best: Proven | None = None
        self._outcome: Proven | NotProven | None = None

    def start(self, now: float) -> None:
        """Ask for the first time."""
        self._end_at = now + _PATIENCE_S
        self._ask(now)

    def receive_frame(self, frame: bytes, now: float) -> None:
        """Take a frame from the hub; what is not to us alone is ignored."""
        if self._end_at is None:
            return
        try:
            proof = self._proof_in(decode_frame(frame), now)
        except RemoteProtocolError:
            return
        if proof is None:
            return
        if self._best is None:
            self._end_at = min(self._end_at, now + _GRACE_S)
        if self._best is None or _rank(proof) < _rank(self._best):
            self._best = proof
        if _rank(self._best) <= self._best_possible_rank():
            self._end()

    def next_event(self) -> Proven | NotProven | None:
        """Return the outcome once, when there is one."""
        outcome, self._outcome = self._outcome, None
        return outcome

    def frames_to_send(self) -> list[bytes]:
        """Return the frames that shall go to the hub now, and forget them."""
        frames, self._frames = self._frames, []
        return frames

    def next_deadline(self) -> float | None:
        """Return when :meth:`handle_deadline` wants to be called; None: never again."""
        if self._end_at is None:
            return None
        return self._end_at if self._ask_at is None else min(self._ask_at, self._end_at)

    def handle_deadline(self, now: float) -> None:
        """Ask again, or come to an end; early, late and repeated calls do no harm."""
        if self._end_at is None:
            return
        if now >= self._end_at:
            self._end()
        elif self._ask_at is not None and now >= self._ask_at:
            self._ask(now)

    def _ask(self, now: float) -> None:
        if not self._asked:
            return
        count = len(self._sent_at)
        self._sent_at.append(now)
        self._ask_at = now + (
            _ASK_AFTER_S[count] if count < len(_ASK_AFTER_S) else _ASK_EVERY_S
        )
        self._frames += [
            arp.question(self._mac, self._address, target) for target in self._asked
        ]

    def _end(self) -> None:
        self._end_at = None
        self._outcome = self._best or NotProven(self._why_not())

    def _why_not(self) -> str:
        names = {"gateway": "the gateway", "dhcp-server": "the DHCP server"}
        asked = " nor ".join(
            f"{names[proof]} {target}" for target, proof in self._asked.items()
        )
        silent = f"neither {asked}" if " nor " in asked else asked
        if not asked:
            return f"no frame to us came back within {_PATIENCE_S:.0f} s"
        verb = "answered" if " nor " in asked else "did not answer"
        return f"{silent} {verb} ARP within {_PATIENCE_S:.0f} s, and nothing else came back"

    def _best_possible_rank(self) -> int:
        ranks = [_PROOFS.index(proof) for proof in self._asked.values()]
        return min(ranks, default=_PROOFS.index("hub-poll"))

    def _proof_in(self, frame: Frame, now: float) -> Proven | None:
        if frame.destination != self._mac or frame.source == self._mac:
            return None
        if frame.ethertype == EtherType.ARP:
            packet = arp.decode_arp(frame.payload)
            asked = self._asked.get(packet.sender_ip)
            if asked is not None and packet.operation == arp.ArpOperation.REPLY:
                return Proven(asked, self._rtt_s(now), packet.sender_mac)
        if frame.source.is_hub:
            return Proven("hub-poll", None, frame.source)
        return Proven("unicast", None, frame.source)

    def _rtt_s(self, now: float) -> float | None:
        """Return the round trip; None if nobody can say which question was answered."""
        return now - self._sent_at[0] if len(self._sent_at) == 1 else None


def _rank(proven: Proven) -> int:
    return _PROOFS.index(proven.by)


# --- the watch ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Latency:
    """The gateway has answered."""

    rtt_s: float | None
    """Seconds from our question; None: nobody can say which of several it answers."""


@dataclass(frozen=True, slots=True)
class Silent:
    """The gateway, which answered before, does not; told again every few seconds."""

    since_s: float
    """Seconds since the first question that it did not answer."""

    has_server_spoken: bool
    """Whether anything has come from the server since: then it is the gateway that has
    gone, and not the server or the way to it."""


class GatewayWatch:
    """Asks the gateway by ARP, for the latency and to notice when it has gone.

         ┌────────┐ 2.5 s  ┌────────┐ 0.75, 1.5, 2.25 s: asks again
         │ heard  ├───────>│ asked  ├──┐
         └────────┘        └─┬────┬─┘<─┘
              ^   answered   │    │ 2.5 s since the first question, while
              └──────────────┘    │ traffic flows 15 s: Silent, and again
              ^   answered   ┌────v───┐
              └──────────────┤ silent │  asks every 2.5 s
                             └────────┘

    So the death of a gateway is told five seconds after it at the latest. A gateway
    that has never answered says nothing by its silence: it is asked every 15 s.

    While much comes in, an answer may stand in line behind it. A deadline that is
    handled late, as after a machine has slept, asks anew instead of judging.

    Args:
        mac: The TAP's address.
        address: Ours.
        gateway: Whom to ask.
        has_answered: Whether it has answered before, as a :class:`Prover` asks.
    """

    def __init__(
        self,
        *,
        mac: MacAddress,
        address: IPv4Address,
        gateway: IPv4Address,
        has_answered: bool = False,
    ) -> None:
        self._mac = mac
        self._address = address
        self._gateway = gateway
        self._frames: list[bytes] = []
        self._events: list[Latency | Silent] = []
        self._has_answered = has_answered
        self._first_at: float | None = None  # of the questions without an answer
        self._is_only = True  # whether there is one question without an answer
        self._ask_at = math.inf
        self._judge_at = math.inf
        self._heard_at = -math.inf
        self._inbound = 0
        self._inbound_then = 0

    def start(self, now: float) -> None:
        """Ask for the first time."""
        self._ask(now)

    def saw(self, *, heard_at: float, inbound_frames: int) -> None:
        """Learn what else has come in; call it before :meth:`handle_deadline`.

        Args:
            heard_at: When something last came from the server, whatever it was.
            inbound_frames: How many frames have come in altogether.
        """
        self._heard_at = heard_at
        self._inbound = inbound_frames

    def receive_frame(self, frame: bytes, now: float) -> None:
        """Take a frame from the hub; all but the gateway's answer is ignored."""
        if self._first_at is None:
            return
        try:
            ethernet = decode_frame(frame)
            if ethernet.ethertype != EtherType.ARP or ethernet.destination != self._mac:
                return
            packet = arp.decode_arp(ethernet.payload)
        except RemoteProtocolError:
            return
        if (packet.operation, packet.sender_ip) == (
            arp.ArpOperation.REPLY,
            self._gateway,
        ):
            rtt_s = now - self._first_at if self._is_only else None
            self._events.append(Latency(rtt_s))
            self._has_answered = True
            self._first_at = None
            self._judge_at = math.inf
            self._ask_at = now + _WATCH_EVERY_S

    def next_event(self) -> Latency | Silent | None:
        """Return the oldest outcome that was not returned yet, or None."""
        return self._events.pop(0) if self._events else None

    def frames_to_send(self) -> list[bytes]:
        """Return the frames that shall go to the hub now, and forget them."""
        frames, self._frames = self._frames, []
        return frames

    def next_deadline(self) -> float | None:
        """Return when :meth:`handle_deadline` wants to be called; None before the start."""
        due_at = min(self._ask_at, self._judge_at)
        return None if math.isinf(due_at) else due_at

    def handle_deadline(self, now: float) -> None:
        """Ask, or tell of silence; early, late and repeated calls do no harm."""
        if self._first_at is not None and now >= self._judge_at:
            self._judge(self._first_at, now)
        if now >= self._ask_at:
            self._ask(now)

    def _judge(self, first_at: float, now: float) -> None:
        if now > self._judge_at + _LATE_S:
            self._first_at = None
            self._ask(now)
        elif (
            self._inbound - self._inbound_then >= _FLOW_FRAMES
            and now < first_at + _FLOW_PATIENCE_S
        ):
            self._judge_at = first_at + _FLOW_PATIENCE_S
        else:
            self._judge_at = now + _SILENT_AGAIN_S
            self._events.append(Silent(now - first_at, self._heard_at >= first_at))

    def _ask(self, now: float) -> None:
        self._frames.append(arp.question(self._mac, self._address, self._gateway))
        if self._first_at is None:
            self._first_at = now
            self._is_only = True
            self._inbound_then = self._inbound
            if self._has_answered:
                self._judge_at = now + _SILENT_S
        else:
            self._is_only = False
        if not self._has_answered:
            self._ask_at = now + _UNKNOWN_EVERY_S
        elif now < self._first_at + _SILENT_S:
            self._ask_at = now + _ASK_AGAIN_S
        else:
            self._ask_at = now + _WATCH_EVERY_S
