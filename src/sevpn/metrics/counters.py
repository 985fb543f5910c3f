# SPDX-License-Identifier: Apache-2.0
"""What passed through a tunnel, in running totals.

Layer: metrics. Runs in: written by the data thread alone, once per batch; any
thread may read. A reader may see one total newer than another, never a torn one.

The totals count every frame that came from the hub, or was handed to a
connection. What was dropped instead of reaching its goal counts under a reason:

    reason           direction   why
    runt             both        shorter than an Ethernet header
    oversized        both        longer than 1600 bytes
    malformed        outbound    the TAP's offload header contradicts the packet
    standing         outbound    the queue at the TAP had not been empty for a while
    backlog          outbound    of several connections, the one of its flow takes nothing
    not-ready        inbound     the address is not set yet, and it is not DHCP or ARP
    tap-full         inbound     the kernel's queue of the TAP is full
    tap-down         inbound     the TAP is down
    tap-refused      inbound     the kernel refused the frame for another reason
    control-full     inbound     too many frames for the control thread in one batch
    inject-full      outbound    the control thread sends faster than the connection takes
    no-session       outbound    there is no session to send it on

Only the copy for the control thread is lost under `control-full` where the host
had the frame as well.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["Counters", "DropReason"]

DropReason = Literal[
    "runt",
    "oversized",
    "malformed",
    "standing",
    "backlog",
    "not-ready",
    "tap-full",
    "tap-down",
    "tap-refused",
    "control-full",
    "inject-full",
    "no-session",
]
"""Why a frame was dropped; docs/reference/status.md lists them."""


class Counters:
    """Totals since the tunnel was turned on."""

    __slots__ = (
        "dropped_frames",
        "inbound_bytes",
        "inbound_frames",
        "outbound_bytes",
        "outbound_frames",
    )

    def __init__(self) -> None:
        self.inbound_bytes = 0
        """Bytes of Ethernet frames that came from the hub."""
        self.outbound_bytes = 0
        """Bytes of Ethernet frames that were handed to a connection."""
        self.inbound_frames = 0
        """Frames that came from the hub."""
        self.outbound_frames = 0
        """Frames that were handed to a connection."""
        self.dropped_frames: dict[str, int] = {}
        """Frames dropped, by reason; a reason that never happened is absent."""

    def drop(self, reason: DropReason, count: int = 1) -> None:
        """Count *count* frames dropped for *reason*; none leaves no trace."""
        if count:
            self.dropped_frames[reason] = self.dropped_frames.get(reason, 0) + count
