# SPDX-License-Identifier: Apache-2.0
"""What the DHCP client can say, and the states that it can be in.

Layer: protocol; pure. Runs in: the control thread.

`protocol/dhcp.py` draws how one state leads to another.

Source: RFC 2131 section 4.4 and figure 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from sevpn.protocol.lease import Lease
from sevpn.wire.ethernet import MacAddress

__all__ = [
    "AddressConflict",
    "Bound",
    "Checking",
    "DhcpEvent",
    "Done",
    "Idle",
    "LeaseLost",
    "LeaseObtained",
    "LeaseRenewed",
    "Leased",
    "Rebinding",
    "Rebooting",
    "Renewing",
    "Requesting",
    "Selecting",
    "State",
    "Waiting",
]


# --- what the client says ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class LeaseObtained:
    """There is a lease, and nobody else has its address: it may be used."""

    lease: Lease
    """It."""


@dataclass(frozen=True, slots=True)
class LeaseRenewed:
    """The lease goes on."""

    lease: Lease
    """The new times, and perhaps other settings."""

    changed: bool
    """Whether anything but times and server is different."""


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The address may not be used from now on; the client asks for another by itself."""

    reason: str
    """One line for people."""


@dataclass(frozen=True, slots=True)
class AddressConflict:
    """Another host uses the address that we were given; it was declined."""

    mac: MacAddress
    """That host."""


DhcpEvent = LeaseObtained | LeaseRenewed | LeaseLost | AddressConflict
"""What `DhcpClient.next_event()` returns."""


# --- what it can be doing ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Idle:
    """Not started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebooting:
    """Asking whether the remembered address is still ours."""

    lease: Lease
    """The remembered one."""

    xid: int
    """The number of this exchange."""

    began_at: float
    """When it was asked first."""

    asked_at: float
    """When it was asked last."""

    retry_at: float
    """When to ask again."""

    give_up_at: float
    """When to ask for any address instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selecting:
    """Asking all servers for an address."""

    wanted: IPv4Address | None
    """Rather for this one."""

    xid: int
    """The number of this exchange."""

    began_at: float
    """When it was asked first."""

    retry_at: float
    """When to ask again."""

    sent_count: int
    """How often it was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requesting:
    """Asking one server for what it offered."""

    offer: Lease
    """That."""

    xid: int
    """The number of this exchange, that of the DISCOVER."""

    began_at: float
    """When the DISCOVER was sent."""

    asked_at: float
    """When it was asked last."""

    retry_at: float
    """When to ask again, or to give up."""

    sent_count: int
    """How often it was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checking:
    """Waiting whether anybody objects to our using the address."""

    lease: Lease
    """It, granted and not yet used."""

    until: float
    """How long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The address is ours, and nothing is due."""

    lease: Lease
    """It."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewing:
    """The address is ours; asking its server for more time."""

    lease: Lease
    """It."""

    xid: int
    """The number of the last REQUEST."""

    began_at: float
    """When it was asked first."""

    asked_at: float
    """When it was asked last."""

    retry_at: float
    """When to ask again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebinding:
    """The address is ours; asking any server for more time."""

    lease: Lease
    """It."""

    xid: int
    """The number of the last REQUEST."""

    began_at: float
    """When it was asked first, the lease's own server included."""

    asked_at: float
    """When it was asked last."""

    retry_at: float
    """When to ask again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Something was refused; asking anew after a while."""

    until: float
    """After so long."""


@dataclass(frozen=True, slots=True)
class Done:
    """Released; says and hears nothing more."""


Leased = Bound | Renewing | Rebinding
"""The address is ours."""

State = Idle | Rebooting | Selecting | Requesting | Checking | Leased | Waiting | Done
"""All of them."""
