# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dpkt
import pytest
from hypothesis import given, strategies as st

from sevpn.errors import RemoteProtocolError
from sevpn.wire.icmp import Echo, EchoKind, decode_echo, encode_echo
from sevpn.wire.ipv4 import internet_checksum

numbers = st.integers(0, 0xFFFF)
echoes = st.builds(
    Echo, st.sampled_from(EchoKind), numbers, numbers, st.binary(max_size=1400)
)


@given(echoes)
def test_an_echo_is_read_as_it_was_written(echo: Echo) -> None:
    assert decode_echo(encode_echo(echo)) == echo


@given(echoes)
def test_an_independent_reader_sees_the_same_echo(echo: Echo) -> None:
    encoded = encode_echo(echo)
    other = dpkt.icmp.ICMP(encoded)

    assert (other.type, other.code) == (echo.kind, 0)
    assert (other.data.id, other.data.seq, other.data.data) == (
        echo.identifier,
        echo.sequence,
        echo.payload,
    )
    assert dpkt.dpkt.in_cksum(encoded) == 0


@pytest.mark.parametrize("start", ["0300", "0801", "0d00"])
def test_another_message_is_no_echo(start: str) -> None:
    unsummed = bytes.fromhex(start) + bytes(6)
    total = internet_checksum(unsummed).to_bytes(2, "big")

    assert decode_echo(unsummed[:2] + total + unsummed[4:]) is None


@pytest.mark.parametrize("size", range(10))
def test_an_echo_that_is_cut_anywhere_is_refused(size: int) -> None:
    encoded = encode_echo(Echo(EchoKind.REQUEST, 1, 2, b"ab"))

    with pytest.raises(RemoteProtocolError, match="cut or wrongly summed"):
        decode_echo(encoded[:size])
