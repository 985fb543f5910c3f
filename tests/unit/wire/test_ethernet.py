# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sevpn.errors import RemoteProtocolError
from sevpn.wire.ethernet import (
    BROADCAST,
    EtherType,
    Frame,
    MacAddress,
    decode_frame,
    encode_frame,
)

OURS = MacAddress.parse("5e:00:53:00:00:01")

macs = st.binary(min_size=6, max_size=6).map(MacAddress)
frames = st.builds(Frame, macs, macs, st.integers(0, 0xFFFF), st.binary(max_size=1586))


@pytest.mark.parametrize("text", ["5e:00:53:00:00:01", "5E-00-53-00-00-01"])
def test_a_mac_address_is_read_with_colons_or_hyphens(text: str) -> None:
    assert MacAddress.parse(text).octets == bytes.fromhex("5e0053000001")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5e:00:53:00:00",
        "5e:00:53:00:00:01:02",
        "5e0053000001",
        "5e:00:53-00:00:01",
        "5g:00:53:00:00:01",
        "5e:00:53:00:00:01\n",
        "\uff15e:00:53:00:00:01",
    ],
)
def test_any_other_text_is_no_mac_address(text: str) -> None:
    with pytest.raises(ValueError, match="no MAC address"):
        MacAddress.parse(text)


def test_a_mac_address_has_six_octets() -> None:
    with pytest.raises(ValueError, match="not 5"):
        MacAddress(bytes(5))


@given(macs)
def test_a_mac_address_is_written_as_it_is_read(mac: MacAddress) -> None:
    assert MacAddress.parse(str(mac)) == mac
    assert str(mac) == str(mac).lower()


def test_groups_stations_and_hubs_are_told_apart() -> None:
    group = MacAddress.parse("01:00:5e:00:00:fb")
    hub = MacAddress.parse("00:ae:12:34:56:78")

    assert (BROADCAST.is_broadcast, BROADCAST.is_multicast) == (True, True)
    assert (group.is_broadcast, group.is_multicast) == (False, True)
    assert (OURS.is_broadcast, OURS.is_multicast, OURS.is_hub) == (False, False, False)
    assert (hub.is_hub, hub.is_multicast) == (True, False)


def test_mac_addresses_are_sorted_by_their_octets() -> None:
    assert sorted([BROADCAST, OURS]) == [OURS, BROADCAST]


@given(frames)
def test_a_frame_is_read_as_it_was_written(frame: Frame) -> None:
    encoded = encode_frame(frame)

    assert decode_frame(encoded) == frame
    assert decode_frame(memoryview(encoded)) == frame


def test_a_short_frame_is_not_padded() -> None:
    assert len(encode_frame(Frame(BROADCAST, OURS, EtherType.ARP, b"x"))) == 15


@pytest.mark.parametrize("size", [0, 13])
def test_a_frame_without_a_whole_header_is_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"a frame of {size} bytes"):
        decode_frame(bytes(size))
