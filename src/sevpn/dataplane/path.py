# SPDX-License-Identifier: Apache-2.0
"""The way of the frames between the TAP and the blocks of connections, in either form.

Layer: dataplane. Runs in: the data thread.

The pump decides when frames move and over which connection; a path moves them:

    Inlet     one connection: room() ── the stream writes ──> take(): to the host, or to control
    FramePath one TAP:        collect(): from the host ──> groups of batches, each for one slot

`plain.py` is the form for the interpreter: one system call and no object per frame.
`compiled.py` is the form on top of the compiled kernel; with a TAP that takes
virtio headers it moves super-segments. Both pass the same tests.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, Protocol

from sevpn.dataplane.ports import FramePort
from sevpn.dataplane.sieve import CONTROL, HOST, Sieve
from sevpn.errors import LocalProtocolError
from sevpn.forms import is_python_wanted
from sevpn.metrics.counters import Counters, DropReason

__all__ = [
    "CHUNK_BYTES",
    "TAP_ERRORS",
    "FramePath",
    "Group",
    "Inlet",
    "is_compiled",
    "open_path",
    "sift",
]

CHUNK_BYTES: Final = 128 * 1024
"""Read from a connection per turn: chosen by bench/bench_pump.py."""

TAP_ERRORS: Final[dict[int | None, DropReason]] = {
    errno.EAGAIN: "tap-full",
    errno.ENOBUFS: "tap-full",
    errno.EIO: "tap-down",
}
"""Why the TAP did not take a frame; any other errno is `tap-refused`."""


class Group(NamedTuple):
    """Whole batches of one slot, to be sent in one go; a tuple, for there are thousands a second."""

    slot: int
    """Which of the slots; the number of slots itself for frames of priority."""

    data: bytes | memoryview
    """The batches; a view is good until the next :meth:`FramePath.collect`."""

    frames: int
    """How many there are, 1 to 512."""

    size: int
    """Their bytes."""


class Inlet(Protocol):
    """The inbound direction of one connection.

    The attributes tell what the last :meth:`take` brought.
    """

    has_items: bool
    """Whether anything was completed: a block, a keep-alive, an empty batch."""

    has_full_batch: bool
    """Whether the server may be asleep on more: a batch as large as it makes them ended."""

    has_fed_host: bool
    """Whether the host was given frames."""

    for_control: list[memoryview]
    """Frames that control should see; good until the next :meth:`room` of any inlet."""

    def room(self) -> memoryview:
        """Return where the next bytes of the connection go, at most :data:`CHUNK_BYTES`."""
        ...

    def take(self, size: int, /) -> None:
        """Take the *size* bytes that were written there.

        Raises:
            RemoteProtocolError: A size is over its limit; drop the connection.
        """
        ...


class FramePath(Protocol):
    """Between one TAP and any number of connections."""

    kernel: Literal["compiled", "python"]
    """Which form this is, as `status` shows it."""

    is_drained: bool
    """Whether the last :meth:`collect` left nothing at the TAP."""

    sheds: bool
    """Whether the next large frame of the host is to be dropped; false once it was."""

    def open_inlet(self) -> Inlet:
        """Return the inbound direction of a new connection."""
        ...

    def collect(
        self, frame_limit: int, *, slot_count: int, has_priority: bool
    ) -> list[Group]:
        """Read frames of the host, up to a limit of bytes or *frame_limit*, or a little over.

        Args:
            frame_limit: 1 or more.
            slot_count: Over how many slots the flows are spread; each keeps to one.
            has_priority: Whether frames of priority get the slot *slot_count*.

        Raises:
            OSError: The TAP is gone.
        """
        ...


def is_compiled() -> bool:
    """Whether the compiled form is there and wanted."""
    if is_python_wanted():
        return False
    # The pure form is not needed.
    from sevpn.dataplane.kernel import cut, merge, rc4, receive, runs, scan, wrap  # noqa: PLC0415

    return all(
        (module.__file__ or "").endswith(".so")
        for module in (cut, merge, rc4, receive, runs, scan, wrap)
    )


def open_path(
    port: FramePort,
    *,
    sieve: Sieve,
    counters: Counters,
    kernel: Literal["compiled", "python"] | None = None,
) -> FramePath:
    """Return the path behind *port*.

    Args:
        port: The TAP.
        sieve: Decides about inbound frames.
        counters: Counts them.
        kernel: Which form; the better one that there is, if omitted.

    Raises:
        LocalProtocolError: The port wants virtio headers, which the Python form
            does not speak.
    """
    if kernel == "compiled" or (kernel is None and is_compiled()):
        from sevpn.dataplane.compiled import CompiledPath  # noqa: PLC0415 - likewise

        return CompiledPath(port, sieve=sieve, counters=counters)
    if port.has_header:
        raise LocalProtocolError(
            "the TAP was opened with offloads, and there is no compiled kernel"
        )
    from sevpn.dataplane.plain import PlainPath  # noqa: PLC0415 - one form is enough

    return PlainPath(port, sieve=sieve, counters=counters)


def sift(
    frames: Sequence[memoryview], *, sieve: Sieve, counters: Counters
) -> tuple[list[memoryview], list[memoryview]]:
    """Return the host's and control's share of *frames*; the rest is counted as dropped."""
    decide = sieve.decide
    for_host: list[memoryview] = []
    for_control: list[memoryview] = []
    dropped = 0
    for frame in frames:
        verdict = decide(frame)
        if verdict & HOST:
            for_host.append(frame)
        if verdict & CONTROL:
            for_control.append(frame)
        dropped += not verdict
    counters.drop("not-ready", dropped)
    return for_host, for_control
