# SPDX-License-Identifier: Apache-2.0
"""Whether the network underneath has moved away from under a tunnel.

Layer: tunnel; pure. Runs in: the control thread.

    before the Hello    judge_attempt   is there another way than when it was begun?
    from the Hello on   judge_live      does the connection still go the way that it began with?

A connection whose way has moved is dead and does not know it: its packets leave by
another uplink with the old one's address, and TCP would need minutes to give up.
One whose way is gone altogether is kept for as long as the host keeps its address:
a cable that is plugged in again, and a carrier that comes back, find it as it was.

An attempt may hang for as long as its time-out, and a waiting tunnel for as long as
its delay: either begins again at once when there is a way that there was not.
"""

from __future__ import annotations

from dataclasses import dataclass

from sevpn.net.model import Address
from sevpn.net.nexthop import NextHop
from sevpn.net.uplink import Underlay

__all__ = ["Live", "judge_attempt", "judge_live"]


@dataclass(frozen=True, slots=True)
class Live:
    """Where a connection goes."""

    peer: Address
    """Whom it is connected to: the server, or a proxy."""

    local: Address
    """This host's end."""

    hop: NextHop | None
    """Its way when it was dialled; `None`: not known."""


def judge_live(live: Live, now: Underlay) -> str | None:
    """Return why the connection is of no use any more; `None`: it may well be.

    Args:
        live: The connection.
        now: The network underneath, with the way to its peer.
    """
    if not live.local.is_loopback and _plain(live.local) not in now.addresses:
        return f"this host has lost the address {live.local}, which the connection began with"
    hop = now.ways.get(live.peer)
    if hop is None or live.hop is None or hop == live.hop:
        return None
    return f"the way to {live.peer} is {hop} now, and was {live.hop}"


def judge_attempt(then: Underlay, now: Underlay) -> str | None:
    """Return why an attempt should begin again; `None`: there is nothing new.

    Args:
        then: The network underneath when the attempt was begun, with the ways to the
            addresses that were known then.
        now: The same now.
    """
    for address, before in then.ways.items():
        hop = now.ways.get(address)
        if hop is not None and _with_source(hop) != _with_source(before):
            was = "none" if before is None else str(before)
            return f"the way to {address} is {hop} now, and was {was}"
    if fresh := now.defaults - then.defaults:
        hop, _ = min(fresh, key=lambda entry: (entry[1], str(entry[0])))
        return f"there is another uplink: default {hop}"
    return None


def _with_source(hop: NextHop | None) -> tuple[NextHop, Address | None] | None:
    return None if hop is None else (hop, hop.source)


def _plain(address: Address) -> Address:
    """Return *address* without a zone."""
    return type(address)(int(address))
