# SPDX-License-Identifier: Apache-2.0
"""What a capture does when its reader is slow, gone, or the disk full."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scapy.utils import PcapNgReader

from sevpn.errors import HostError
from sevpn.tunnel.watching import Recorder

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

FRAME = bytes(range(64))


class Full(io.RawIOBase):
    """A disk that takes some writes, and then no more."""

    def __init__(self, *, writes: int) -> None:
        super().__init__()
        self._left = writes
        self.failed = threading.Event()

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        if self._left == 0:
            self.failed.set()
            raise OSError(28, "No space left on device")
        self._left -= 1
        return memoryview(data).nbytes


class Narrow(io.FileIO):
    """A file that takes a few bytes at a time, as a pipe may."""

    def write(self, data: ReadableBuffer, /) -> int:
        return super().write(memoryview(data)[:7])


def test_a_reader_that_stands_still_does_not_keep_a_capture_from_ending() -> None:
    standing, pipe = os.pipe()
    with io.FileIO(pipe, "wb") as output, io.FileIO(standing):
        recorder = Recorder(output, name="hub", patience_s=0.1)
        for _ in range(20_000):
            recorder.write(FRAME)
        closing = threading.Thread(target=recorder.close, daemon=True)
        closing.start()
        closing.join(60)

        assert not closing.is_alive()
        assert recorder.frame_count + recorder.missed_count == 20_000
        assert recorder.missed_count > 0
        recorder.raise_failure()


def test_an_output_that_is_closed_before_a_standing_reader_goes_on_is_the_end() -> None:
    standing, pipe = os.pipe()
    with io.FileIO(pipe, "wb") as output:
        recorder = Recorder(output, name="hub", patience_s=0.1)
        for _ in range(20_000):
            recorder.write(FRAME)
        recorder.close()

    with io.FileIO(standing) as reading:
        while not recorder.ended.is_set():
            reading.read(1 << 16)

    recorder.raise_failure()


def test_a_full_disk_is_told_and_only_what_was_written_is_counted() -> None:
    disk = Full(writes=2)
    recorder = Recorder(disk, name="hub", patience_s=60)
    while not disk.failed.is_set():
        recorder.write(FRAME)
    assert recorder.ended.wait(60)
    recorder.write(FRAME)
    recorder.close()

    assert recorder.missed_count >= 1
    with pytest.raises(HostError, match="No space left on device"):
        recorder.raise_failure()


def test_a_reader_that_goes_ends_a_capture_in_good_order() -> None:
    reading, pipe = os.pipe()
    os.close(reading)
    with io.FileIO(pipe, "wb") as output:
        recorder = Recorder(output, name="hub", patience_s=60)

        assert recorder.ended.wait(60)
        recorder.close()
        recorder.raise_failure()
        assert recorder.frame_count == 0


def test_a_file_that_takes_little_at_a_time_gets_every_frame(tmp_path: Path) -> None:
    path = tmp_path / "hub.pcapng"
    with Narrow(path, "wb") as output:
        recorder = Recorder(output, name="hub", patience_s=60)
        for _ in range(100):
            recorder.write(FRAME)
        recorder.close()

    assert (recorder.frame_count, recorder.missed_count) == (100, 0)
    with PcapNgReader(str(path)) as capture:
        assert [bytes(frame) for frame in capture] == [FRAME] * 100
