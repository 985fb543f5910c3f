# SPDX-License-Identifier: Apache-2.0
"""A link between two machines with delay, loss, rate and more; needs no netem.

Layer: testing. Runs in: any thread of a test, and a process of its own; needs root.

    client ── eth0: TAP ══ this process: two lines ══ TAP: c2 ── server
                     outbound ──────────>
                       <────────── inbound

    link = Link(client, server, LinkSpec.both(Way(delay_s=0.05, rate_bits_per_s=1e8)))
    link.set(outbound=Way(delay_s=0.05, loss=0.01))    # while it runs

What happens to a frame is in testing/line.py. The TAPs pass TCP super-segments of
64 KB as one unit, always: a line decides about each wire frame of them, and if one is
lost or held back, the unit is cut there (testing/segments.py) and its halves go on as
units. So a link with loss treats every frame as a wire would and still costs little:
at 100 ms and 500 Mbit/s it takes 0.3 of a core, and a whole core carries 4 Gbit/s
without loss and 2.4 with 1 %. Plain TAPs would need two system calls for each frame.

The TAP's own queue before the line does not count: it is read at once. Times are kept
to about 0.1 ms on an idle machine; a super-segment arrives when its last frame does.
The process has the highest ordinary priority, and its counts say how late it was at
worst: a wire is never late, so beyond some milliseconds a figure means nothing.

Source: linux/if_tun.h; Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from sevpn.testing.line import Counts, Line, Way
from sevpn.testing.machine import Machine, bring_up
from sevpn.testing.segments import VIRTIO_SIZE, cut, train_of

__all__ = ["Counts", "Link", "LinkSpec", "Way"]

_PATIENCE_S: Final = 10.0

_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_IFF_TAP_NO_PI: Final = 0x0002 | 0x1000
_IFF_VNET_HDR: Final = 0x4000
_CHECKSUM_TSO4_TSO6: Final = 0x01 | 0x02 | 0x04
_IFREQ: Final = struct.Struct("=16sH22x")

_PACKET_SIZE: Final = VIRTIO_SIZE + 18 + 65536
"""What one read returns at most."""

_READ_COUNT: Final = 64
"""Packets that are read before the other side has its turn."""

_PLAIN: Final = Way()
"""A cable."""


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """Both directions of a link."""

    outbound: Way = _PLAIN
    """From the first machine, the client, to the other."""

    inbound: Way = _PLAIN
    """From the other machine to the first."""

    seed: int = 1
    """Of all chance."""

    @classmethod
    def both(cls, way: Way, *, seed: int = 1) -> Self:
        """Make a link that is the same in both directions."""
        return cls(way, way, seed)


class Link:
    """A link between two machines; it ends with the first at the latest.

    Args:
        one: The first machine, the client.
        other: The other.
        spec: What the link does.
        interfaces: Names of the ends on the two machines.
        addresses: Their addresses with prefix length; empty: none.

    Raises:
        AssertionError: It did not start; the text is the process's.
    """

    def __init__(
        self,
        one: Machine,
        other: Machine,
        spec: LinkSpec,
        *,
        interfaces: tuple[str, str] = ("eth0", "eth0"),
        addresses: tuple[str, str] = ("192.0.2.2/24", "192.0.2.1/24"),
    ) -> None:
        self.spec = spec
        """What it does now."""
        self._process = one.popen(
            [
                sys.executable,
                "-m",
                __name__,
                interfaces[0],
                str(other.pid),
                interfaces[1],
            ],
            stdin=subprocess.PIPE,
        )
        self._machine = one
        self._tell(spec)
        bring_up(one, interfaces[0], addresses[0])
        bring_up(other, interfaces[1], addresses[1])

    def set(self, *, outbound: Way | None = None, inbound: Way | None = None) -> None:
        """Change directions; `None`: not this one. Frames under way keep their time."""
        self.spec = LinkSpec(
            outbound or self.spec.outbound, inbound or self.spec.inbound, self.spec.seed
        )
        self._tell(self.spec)

    def counts(self) -> tuple[Counts, Counts]:
        """Return what became of the frames so far, outbound and inbound."""
        return self._tell(self.spec)

    def stop(self) -> None:
        """Cut it: its interfaces are gone."""
        self._machine.end(self._process)

    def _tell(self, spec: LinkSpec) -> tuple[Counts, Counts]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(asdict(spec)) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            _, reason = self._process.communicate(timeout=_PATIENCE_S)
            raise AssertionError(f"the link has ended:\n{reason}")
        outbound, inbound = json.loads(line)
        return Counts(**outbound), Counts(**inbound)


# --- the process -------------------------------------------------------------


class _End:
    """One TAP and the line that leads to it.

    Args:
        name: Of the TAP, or a template with `%d` at its end.
        way: What happens to frames on their way to this end.
        seed: Of the line.
    """

    def __init__(self, name: str, way: Way, seed: int) -> None:
        self.descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        flags = _IFF_TAP_NO_PI | _IFF_VNET_HDR
        answer = fcntl.ioctl(
            self.descriptor, _TUNSETIFF, _IFREQ.pack(name.encode(), flags)
        )
        fcntl.ioctl(self.descriptor, _TUNSETOFFLOAD, _CHECKSUM_TSO4_TSO6)
        self.name = _IFREQ.unpack(answer)[0].rstrip(b"\0").decode()
        self.line: Line[bytes] = Line(way, seed)

    def read(self) -> Generator[bytes]:
        """Yield packets that the machine sends."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_READ_COUNT):
                yield os.read(self.descriptor, _PACKET_SIZE)

    def deliver(self, now: float) -> None:
        """Write what has arrived; a machine whose interface is down loses it."""
        for run in self.line.take(now):
            packet = run.packet
            if run.count < train_of(packet).count:
                packet = cut(packet, run.first, run.count)
            with contextlib.suppress(OSError):
                os.write(self.descriptor, packet)


class _Commands:
    """Specifications on standard input, a line each; the answer is a line of counts."""

    def __init__(self) -> None:
        self._unread = b""

    def read(self) -> list[LinkSpec] | None:
        """Return what has come; None: nothing will."""
        piece = os.read(0, 65536)
        *lines, self._unread = (self._unread + piece).split(b"\n")
        return [_decode(line) for line in lines] if piece else None

    @staticmethod
    def answer(outbound: Counts, inbound: Counts) -> None:
        text = json.dumps([asdict(outbound), asdict(inbound)])
        os.write(1, text.encode() + b"\n")


def _decode(line: bytes) -> LinkSpec:
    said: dict[str, Any] = json.loads(line)
    return LinkSpec(Way(**said["outbound"]), Way(**said["inbound"]), said["seed"])


def _run(name: str, other_pid: int, other_name: str) -> None:
    """Make the TAPs, move one to the other machine, and carry frames."""
    # A wire does not wait for its turn: late by 20 ms it would deliver a burst.
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    commands = _Commands()
    (spec,) = commands.read() or [LinkSpec()]
    one = _End(name, spec.inbound, 2 * spec.seed)
    other = _End("link%d", spec.outbound, 2 * spec.seed + 1)
    subprocess.run(
        [
            *("ip", "link", "set", other.name),
            *("netns", str(other_pid), "name", other_name),
        ],
        check=True,
    )
    commands.answer(other.line.counts, one.line.counts)
    try:
        _carry(commands, one, other)
    except OSError as error:
        if error.errno != errno.EBADFD:  # the other machine has gone, and its TAP
            raise


def _carry(commands: _Commands, one: _End, other: _End) -> None:
    """Carry frames until standard input is closed."""
    ways = {one.descriptor: (one, other), other.descriptor: (other, one)}
    while True:
        ready, _, _ = select.select([0, *ways], [], [], _wait_s(one, other))
        for descriptor in ready:
            if descriptor == 0:
                specs = commands.read()
                if specs is None:
                    return
                for said in specs:
                    other.line.way, one.line.way = said.outbound, said.inbound
                    commands.answer(other.line.counts, one.line.counts)
                continue
            source, target = ways[descriptor]
            for packet in source.read():
                target.line.offer(packet, train_of(packet), time.monotonic())
        now = time.monotonic()
        one.deliver(now)
        other.deliver(now)


def _wait_s(one: _End, other: _End) -> float | None:
    times = [at for end in (one, other) if (at := end.line.next_at()) is not None]
    return max(0.0, min(times) - time.monotonic()) if times else None


if __name__ == "__main__":
    _run(sys.argv[1], int(sys.argv[2]), sys.argv[3])
