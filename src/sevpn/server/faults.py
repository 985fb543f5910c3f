# SPDX-License-Identifier: Apache-2.0
"""Faults on demand: what a server does wrong when it is told to.

Layer: server. Runs in: the event loop; pure data, changed between two awaits by
whoever tests a client.

A connection passes these stages. A fault that is set for a stage happens instead
of what the stage would do:

    ACCEPT ──TLS──> TLS ──signature──> HELLO ──login──> WELCOME ──> SESSION
    before TLS      before the         instead of       instead of   as soon as the
                    signature is read  the Hello        the answer   session begins

After :class:`Close`, :class:`AnswerError` at the Hello, and :class:`Send` unless it
goes on, the connection is over; after :class:`Silence` it stays open until the
client gives up.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from sevpn.errors import LocalProtocolError

__all__ = [
    "AnswerError",
    "Close",
    "CloseAfter",
    "Delay",
    "Fault",
    "Faults",
    "Send",
    "Silence",
    "Stage",
]


class Stage(enum.Enum):
    """Where in the life of a connection."""

    ACCEPT = "accept"
    """TCP is there, TLS not yet: bytes go out in the clear."""

    TLS = "tls"
    """TLS is there, nothing was read inside it."""

    HELLO = "hello"
    """The signature was read; the Hello is due."""

    WELCOME = "welcome"
    """The login was read and decided; its answer is due."""

    SESSION = "session"
    """The Welcome was sent."""


@dataclass(frozen=True, slots=True)
class AnswerError:
    """Answer with an error Pack; at HELLO and WELCOME only."""

    code: int
    """The error number."""


@dataclass(frozen=True, slots=True)
class Silence:
    """Say nothing from here on, and keep the connection open."""


@dataclass(frozen=True, slots=True)
class Delay:
    """Wait, and then do what is due."""

    seconds: float
    """How long."""


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection."""

    is_reset: bool = False
    """With RST instead of FIN."""


@dataclass(frozen=True, slots=True)
class CloseAfter:
    """Go on, and end the connection at a byte, counted inside TLS from its first one."""

    sent_bytes: int | None = None
    """After so many bytes to the client."""

    received_bytes: int | None = None
    """After so many bytes from the client, at the end of the TLS record."""

    is_reset: bool = False
    """With RST instead of FIN."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send these bytes instead of what is due: a malformed answer, Pack or block."""

    data: bytes = field(repr=False)
    """As they go into TLS; at ACCEPT, onto the wire."""

    goes_on: bool = False
    """Whether the connection then does what is due after all; else it is closed."""

    repeats: int = 1
    """How often they are sent; stops early when the client goes."""


Fault = AnswerError | Silence | Delay | Close | CloseAfter | Send
"""One thing that goes wrong."""


@dataclass(slots=True)
class _Planned:
    fault: Fault
    left: int | None


class Faults:
    """What goes wrong at the moment; at first nothing."""

    def __init__(self) -> None:
        self._stages: dict[Stage, list[_Planned]] = {}
        self.dhcp_drops: int | None = 0
        """So many DHCP requests get no answer; None is all of them. Counts down."""
        self.dhcp_naks: int | None = 0
        """So many DHCP REQUESTs get a NAK; likewise."""
        self.dhcp_options: Mapping[int, bytes | None] = {}
        """Options to put into each OFFER and ACK, nonsense or not; None takes one away."""
        self.is_gateway_mute = False
        """The virtual gateway answers neither ARP, echo nor names; DHCP goes on."""
        self.are_polls_silent = False
        """Hubs poll nobody."""
        self.is_pausing_reads = False
        """Sessions are not read; see also :meth:`Server.apply_faults`."""
        self.are_keepalives_silent = False
        """Sessions get no keep-alives."""
        self.sleeps_on_bursts = False
        """Sessions get 128 frames and then none for 256 ms, unless the client says
        something: what official servers do to one-way bursts. Beyond 1024 waiting
        frames are lost."""
        self.connections_end_together = False
        """A connection of a session that ends takes the others with it: what official
        servers before 5.02.5185 with OpenSSL 3 do where no close_notify came."""
        self.is_udp_lost = False
        """Datagrams of UDP acceleration arrive in neither direction."""
        self.udp_key_size: int | None = None
        """Bytes of the keys for UDP that the Welcome names; None: as it should be."""
        self.drops_frames = False
        """Hubs deliver nothing: the session lives, the network behind it does not."""

    def at(self, stage: Stage, fault: Fault, *, times: int | None = 1) -> None:
        """Plan a fault; several at one stage happen one after the other.

        Args:
            stage: Where.
            fault: What.
            times: On so many connections; None is on all of them.

        Raises:
            LocalProtocolError: That cannot happen there.
        """
        if isinstance(fault, AnswerError) and stage not in {Stage.HELLO, Stage.WELCOME}:
            raise LocalProtocolError(f"no error can be answered at stage {stage.value}")
        if isinstance(fault, CloseAfter) and stage is Stage.ACCEPT:
            raise LocalProtocolError(
                "bytes are counted inside TLS, which is not there yet at stage accept"
            )
        self._stages.setdefault(stage, []).append(_Planned(fault, times))

    def clear(self) -> None:
        """Heal everything."""
        self.__init__()  # type: ignore[misc]  # begins anew, whatever attributes there are

    def take(self, stage: Stage) -> Fault | None:
        """Return the fault that a connection meets at *stage*, and count it."""
        planned = self._stages.get(stage)
        if not planned:
            return None
        first = planned[0]
        if first.left is not None:
            first.left -= 1
            if first.left <= 0:
                planned.pop(0)
        return first.fault

    def take_dhcp_drop(self) -> bool:
        """Whether this DHCP request is to be dropped; counts it."""
        if self.dhcp_drops is None:
            return True
        self.dhcp_drops, is_due = max(0, self.dhcp_drops - 1), self.dhcp_drops > 0
        return is_due

    def take_dhcp_nak(self) -> bool:
        """Whether this DHCP REQUEST is to be refused; counts it."""
        if self.dhcp_naks is None:
            return True
        self.dhcp_naks, is_due = max(0, self.dhcp_naks - 1), self.dhcp_naks > 0
        return is_due
