# SPDX-License-Identifier: Apache-2.0
"""A session in monitor mode: copies of all frames of a hub, to a file or a pipe.

Layer: tunnel. Runs in: the control thread, on the event loop; frames are taken in the
data thread and written in a third.

    login in monitor mode ──> Pump ──frames──> Recorder ──queue──> writer ──> file

The pump moves frames as for a tunnel, only that the host's end is a recorder instead
of a TAP: nothing on this host is changed, and nothing is sent but keep-alives. A
reader that is too slow for the hub misses frames, which are counted; the session must
not wait for it.

Source: docs/reference/protocol.md#modes.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from sevpn import __version__
from sevpn.dataplane.pump import Pump
from sevpn.errors import HostError, SevpnError
from sevpn.tunnel.opening import Address, open_session
from sevpn.tunnel.supervisor import Job, clock
from sevpn.wire.pcapng import pcapng_head, pcapng_packet

__all__ = ["Recorder", "watch"]

_WAITING: Final = 8192
"""Frames that wait for a slow reader; a second of a busy hub."""

_AT_ONCE: Final = 128
"""Frames of one write at most."""

_LAST_S: Final = 5.0
_LOOK_S: Final = 0.25
"""How soon the end of the session, or of the reader, is noticed."""


class Recorder:
    """Takes frames as a TAP would, and writes them as a capture.

    Args:
        output: Where to, without a buffer of its own: a buffer would be flushed once
            more at the end of the program, and wait there for a reader that stands
            still.
        name: What the frames are of.
        patience_s: How long :meth:`close` waits for a slow reader.
    """

    has_header = False

    def __init__(
        self, output: io.RawIOBase, *, name: str, patience_s: float = _LAST_S
    ) -> None:
        self._output = output
        self._patience_s = patience_s
        self._failure: OSError | None = None
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self._nothing_to_read = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._taken_count = 0
        self.frame_count = 0
        """Frames that were written."""
        self.missed_count = 0
        """Frames that were not, since the reader was too slow or had gone; whole after :meth:`close`."""
        self.ended = threading.Event()
        """Set when nobody reads any more, or nothing can be written."""
        head = pcapng_head(name, f"sevpn {__version__}")
        self._thread = threading.Thread(
            target=self._write_on, args=(head,), name="sevpn-capture", daemon=True
        )
        self._thread.start()

    def fileno(self) -> int:
        """Return a descriptor that never has anything to read."""
        return self._nothing_to_read

    def read(self) -> bytes | None:
        """Return nothing: a watcher sends no frames."""
        return None

    def write(self, frame: bytes | memoryview, /) -> None:
        """Take one frame."""
        self._taken_count += 1
        if not self.ended.is_set():
            with contextlib.suppress(queue.Full):
                self._waiting.put_nowait(pcapng_packet(bytes(frame), at_s=time.time()))

    def close(self) -> None:
        """Write what waits, for `patience_s` at most, and let go."""
        deadline = time.monotonic() + self._patience_s
        with contextlib.suppress(queue.Full):
            # A reader that stands still leaves no room for this either.
            self._waiting.put(None, timeout=self._patience_s)
        self._thread.join(max(deadline - time.monotonic(), 0))
        self.missed_count = self._taken_count - self.frame_count
        os.close(self._nothing_to_read)

    def raise_failure(self) -> None:
        """Say why nothing more could be written; a reader that has gone is no failure.

        Raises:
            HostError: The disk is full, for example; the capture ends before that.
        """
        failure = self._failure
        if failure is not None and not isinstance(failure, BrokenPipeError):
            raise HostError(
                f"the capture could not be written on: {failure.strerror}; what was "
                f"written before, {self.frame_count} frames or more, can be read",
                operation="capture",
            ) from failure

    def _write_on(self, head: bytes) -> None:
        try:
            self._write_whole(head)
            while (block := self._waiting.get()) is not None:
                blocks = [block, *self._more()]
                self._write_whole(b"".join(blocks))
                self.frame_count += len(blocks)
        except OSError as error:
            self._failure = error
            self.ended.set()
        except ValueError:
            # Closed behind our back: nobody waits for this any more.
            self.ended.set()

    def _more(self) -> Iterator[bytes]:
        """Take what waits already, as far as one write may be large."""
        for _ in range(_AT_ONCE - 1):
            try:
                block = self._waiting.get_nowait()
            except queue.Empty:
                return
            if block is None:
                self._waiting.put(None)  # there is room: it was the last
                return
            yield block

    def _write_whole(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._output.write(rest) or 0 :]


async def watch(
    job: Job, begin: Callable[[], Recorder], *, over: asyncio.Event
) -> None:
    """Stay in the hub as a watcher until *over*, or until nobody reads any more.

    Args:
        job: Where to log in, and as whom.
        begin: Returns where the frames go; called once the login has succeeded.
        over: Set when it is enough.

    Raises:
        SevpnError: The login was refused, or the session was lost.
    """
    loop = asyncio.get_running_loop()
    lost: asyncio.Future[SevpnError] = loop.create_future()

    def on_lost(error: SevpnError) -> None:
        loop.call_soon_threadsafe(_settle, lost, error)

    async def need_no_routes(_: Sequence[Address]) -> None:
        """None is set here."""

    session = await open_session(
        job.destination,
        identify=job.identify,
        random=secrets.token_bytes,
        on_addresses=need_no_routes,
        on_hello=lambda _stream, _hello: None,
    )
    recorder = begin()
    pump = Pump(
        recorder,
        mac=job.mac,
        on_frames=lambda _frames: None,
        on_lost=on_lost,
        clock=clock,
    )
    pump.sieve.is_transparent = True
    pump.sieve.is_open = True
    pump.start()
    try:
        pump.attach(
            session.stream,
            leftover=session.leftover,
            timeout_s=session.welcome.timeout_s,
            is_compressed=session.welcome.use_compress,
        )
        while not (over.is_set() or recorder.ended.is_set() or lost.done()):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await over.wait()
    finally:
        pump.stop()
    if lost.done() and not over.is_set():
        raise lost.result()


def _settle(future: asyncio.Future[SevpnError], error: SevpnError) -> None:
    if not future.done():
        future.set_result(error)
