# SPDX-License-Identifier: Apache-2.0
"""Any bytes: the kernel finds the frames that the reference reader finds; merged and cut again they are what they were; no packet of the TAP raises.

Run: `python fuzz/fuzz_kernel.py fuzz/corpus/kernel`. The first byte of the input
says where the stream is cut, its upper bit whether TCP segments in it are given
right checksums, as hardly any mutant has them; the rest is the stream, and a packet
of the TAP with its virtio header. The kernel is the interpreted one: coverage of
its lines guides the search.
"""

from __future__ import annotations

import importlib.util
import struct
import sys
from array import array
from pathlib import Path
from types import ModuleType

from sevpn.errors import RemoteProtocolError
from sevpn.wire.block import BlockReader

KERNEL = Path(__file__).parents[1] / "src/sevpn/dataplane/kernel"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"fuzzed_{name}", KERNEL / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_scan, _merge, _cut = _load("scan"), _load("merge"), _load("cut")
_writes: list[bytes] = []


def _write_pieces(  # noqa: PLR0917 - takes the place of the system call
    _descriptor: int,
    head: bytearray,
    head_size: int,
    data: bytearray,
    starts: array[int],
    sizes: array[int],
    first: int,
    count: int,
) -> int:
    pieces = [
        data[starts[at] : starts[at] + sizes[at]] for at in range(first, first + count)
    ]
    _writes.append(bytes(head[:head_size]) + b"".join(pieces))
    return 0


_merge.__dict__["write_pieces"] = _write_pieces
SCANNER = _scan.Scanner()
MERGER = _merge.Merger(-1, has_header=True)
CUTTER = _cut.Cutter(-1, has_header=True)


def check(data: bytes) -> None:
    control, stream = (data[0], data[1:]) if data else (0, b"")
    step = (control & 0x7F) * 16 + 1

    frames = _check_scan(stream, step)
    if control & 0x80:
        frames = [_mended(frame) for frame in frames]
    _check_merge(frames)
    _check_cut(stream)


# --- scan --------------------------------------------------------------------


def _check_scan(stream: bytes, step: int) -> list[bytes]:
    expected, fault = _read(stream)
    state = _scan.BlockState()
    frames: list[bytes] = []
    found_fault = ""
    for at in range(0, len(stream), step):
        chunk = stream[at : at + step]
        SCANNER.room(state)[: len(chunk)] = chunk
        try:
            SCANNER.scan(state, len(chunk))
        except RemoteProtocolError as error:
            found_fault = str(error)
        places = zip(
            SCANNER.starts[: SCANNER.frame_count],
            SCANNER.sizes[: SCANNER.frame_count],
            strict=True,
        )
        frames += [bytes(SCANNER.arena[begin : begin + size]) for begin, size in places]
        kept = SCANNER.frame_count
        assert len(SCANNER.sift()) == kept - SCANNER.frame_count
        assert state.tail_size < len(state.tail)
        if found_fault:
            break
    assert found_fault == fault
    assert frames == expected
    return frames


def _read(stream: bytes) -> tuple[list[bytes], str]:
    reader = BlockReader()
    frames: list[bytes] = []
    try:
        for at in range(len(stream)):
            frames += reader.feed(stream[at : at + 1])
    except RemoteProtocolError as error:
        return frames, str(error)
    return frames, ""


# --- merge, and cut as its inverse -------------------------------------------


def _check_merge(frames: list[bytes]) -> None:
    starts, sizes = array("i", [0]), array("i")
    for frame in frames:
        starts.append(starts[-1] + len(frame))
        sizes.append(len(frame))
    _writes.clear()
    taken = MERGER.write(bytearray().join(frames), starts, sizes, 0, len(frames))
    assert taken == len(frames)
    received = []
    for packet in _writes:
        received += _cut_again(packet) if any(packet[:10]) else [packet[10:]]
    assert _by_flow(received) == _by_flow(frames)


def _cut_again(packet: bytes) -> list[bytes]:
    frames = _frames_of(CUTTER.cut(packet))
    assert len(frames) > 1
    assert not CUTTER.dropped_malformed
    return frames


def _by_flow(frames: list[bytes]) -> dict[bytes, list[bytes]]:
    """Sort frames by their flows, less what merging may change."""
    flows: dict[bytes, list[bytes]] = {}
    for frame in frames:
        segment = _segment(frame)
        flow = frame[:14] + segment[0] if segment else b""
        flows.setdefault(flow, []).append(_plain(frame) if segment else frame)
    return flows


def _segment(frame: bytes) -> tuple[bytes, int, int] | None:
    """Of a whole TCP segment: addresses with ports, where it begins and ends."""
    if len(frame) >= 54 and frame[12:15] == b"\x08\x00\x45" and frame[23] == 6:
        begin, end = 34, 14 + int.from_bytes(frame[16:18], "big")
        if int.from_bytes(frame[20:22], "big") & 0x3FFF:
            return None
    elif len(frame) >= 74 and frame[12:14] == b"\x86\xdd" and frame[20] == 6:
        begin = 54
        end = begin + int.from_bytes(frame[18:20], "big")
    else:
        return None
    if not begin + 20 <= end <= len(frame):
        return None
    return frame[26 if begin == 34 else 22 : begin + 4], begin, end


def _plain(frame: bytes) -> bytes:
    """Return the frame without padding, and without the identification of one that is not to be fragmented."""
    segment = _segment(frame)
    assert segment is not None
    _, begin, end = segment
    plain = bytearray(frame[:end])
    if begin == 34 and plain[20] & 0x40 and _sum(frame[14:34]) == 0xFFFF:
        plain[18:20] = plain[24:26] = bytes(2)
    for field in (24, begin + 16) if begin == 34 else (begin + 16,):
        # Both are zero in one's complement.
        if plain[field : field + 2] == b"\xff\xff":
            plain[field : field + 2] = bytes(2)
    return bytes(plain)


def _mended(frame: bytes) -> bytes:
    """Return the frame with right checksums, if it is a TCP segment."""
    segment = _segment(frame)
    if segment is None:
        return frame
    addresses, begin, end = segment
    mended = bytearray(frame)
    if begin == 34:
        mended[24:26] = bytes(2)
        struct.pack_into("!H", mended, 24, _sum(mended[14:34]) ^ 0xFFFF)
    mended[begin + 16 : begin + 18] = bytes(2)
    pseudo = addresses[:-4] + struct.pack("!HH", 6, end - begin)
    value = _sum(pseudo + bytes(mended[begin:end])) ^ 0xFFFF
    struct.pack_into("!H", mended, begin + 16, value)
    return bytes(mended)


def _sum(data: bytes | bytearray) -> int:
    data = bytes(data) + bytes(len(data) & 1)
    value: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while value > 0xFFFF:
        value = (value & 0xFFFF) + (value >> 16)
    return value


# --- cut ---------------------------------------------------------------------


def _check_cut(packet: bytes) -> None:
    frames = _frames_of(CUTTER.cut(packet))
    drops = CUTTER.dropped_runts + CUTTER.dropped_oversized + CUTTER.dropped_malformed
    assert len(frames) == CUTTER.frame_count
    assert bool(frames) != bool(drops)


def _frames_of(groups: list[tuple[int, int, int, int]]) -> list[bytes]:
    """Return the frames of whole batches."""
    found: list[bytes] = []
    for _, begin, end, count in groups:
        reader = BlockReader()
        frames = reader.feed(CUTTER.out[begin:end])
        assert len(frames) == count <= 512
        assert reader.batch_count == -(-count // 128)
        assert not reader.dropped_count
        found += frames
    return found


def main() -> None:
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
