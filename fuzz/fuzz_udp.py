# SPDX-License-Identifier: Apache-2.0
"""Any datagram, sealed or not: it is dropped and counted, or it is one frame of at most 1600 bytes, taken once.

Run: `python fuzz/fuzz_udp.py fuzz/corpus/udp`. The first byte of the input says
which version it is for (bit 0), and whether it is an inner packet to be sealed as
the peer does (bit 1) or comes as it is; the rest is the datagram.
"""

from __future__ import annotations

import sys
from ipaddress import IPv4Address

from sevpn.protocol.acceleration import Acceleration
from sevpn.protocol.udpterms import Terms
from sevpn.wire.accel import seal_of
from sevpn.wire.block import MAX_FRAME_SIZE

_KEYS = {1: bytes(range(20)), 2: bytes(range(128))}
_SEALS = {version: seal_of(version, key) for version, key in _KEYS.items()}


def check(data: bytes) -> None:
    kind, datagram = (data[0] if data else 0), data[1:]
    version = 1 + (kind & 1)
    if kind & 2:
        seal = _SEALS[version]
        (datagram,) = seal.seal_all([datagram], [bytes(seal.iv_size)])
    end = _an_end(version)

    taken = end.receive([(datagram, ("192.0.2.1", 1))] * 2, 1.0)
    if not taken:
        assert sum(end.dropped.values()) == 2
    else:
        (inner,) = taken
        assert len(inner.frame) <= MAX_FRAME_SIZE
        assert end.dropped["replayed"] + end.dropped["stale"] == 1


def _an_end(version: int) -> Acceleration:
    terms = Terms(
        version=2 if version == 2 else 1,
        send_key=_KEYS[version],
        receive_key=_KEYS[version],
        send_cookie=2,
        receive_cookie=0x01020304,
        is_fast=True,
        peer=IPv4Address("192.0.2.1"),
        port=1,
        reported=None,
    )
    return Acceleration(terms, iv_prefix=bytes(12), jitter=lambda: 0.0, now=0.0)


def main() -> None:
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
