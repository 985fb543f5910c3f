# SPDX-License-Identifier: Apache-2.0
"""Any bytes: both readers find the same frames or the same fault, whatever the cut, and hold back at most one block.

Run: `python fuzz/fuzz_block.py fuzz/corpus/block`. The first byte of the input
says where the stream is cut, the rest is the stream.
"""

from __future__ import annotations

import sys

from sevpn.dataplane.buffers import BlockCutter
from sevpn.errors import RemoteProtocolError
from sevpn.wire.block import MAX_BLOCK_SIZE, MAX_FRAME_SIZE, MIN_FRAME_SIZE, BlockReader


def check(data: bytes) -> None:
    stream = data[1:]
    step = data[0] + 1 if data else 1
    expected, fault = _read(stream, 1)

    assert _read(stream, step) == (expected, fault) or fault
    assert all(MIN_FRAME_SIZE <= len(frame) <= MAX_FRAME_SIZE for frame in expected)
    found, found_fault = _cut(stream, step)
    assert found_fault == fault
    assert sorted(found) == sorted(expected)


def _read(stream: bytes, step: int) -> tuple[list[bytes], str]:
    reader = BlockReader()
    frames: list[bytes] = []
    try:
        for start in range(0, len(stream), step):
            frames += reader.feed(stream[start : start + step])
            assert len(reader._held) < MAX_BLOCK_SIZE  # noqa: SLF001 - the bound of what is held back
    except RemoteProtocolError as error:
        return frames, str(error)
    return frames, ""


def _cut(stream: bytes, step: int) -> tuple[list[bytes], str]:
    cutter = BlockCutter()
    frames: list[bytes] = []
    fault = ""
    for start in range(0, len(stream), step):
        try:
            cutter.feed(stream[start : start + step])
        except RemoteProtocolError as error:
            fault = str(error)
        frames += map(bytes, cutter.tcp_frames + cutter.others)
        assert len(cutter._carry) < 4 + MAX_BLOCK_SIZE  # noqa: SLF001 - likewise
        if fault:
            break
    return frames, fault


def main() -> None:
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
