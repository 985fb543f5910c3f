# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from hypothesis import given, strategies as st

from sevpn.errors import LocalProtocolError, RemoteProtocolError
from sevpn.wire.accel import (
    INNER_SIZE,
    Inner,
    Seal,
    SealV1,
    SealV2,
    decode_inner,
    encode_head,
    encode_inner,
    rc4_of_library,
    seal_of,
)

VECTORS = {
    name: bytes.fromhex(value)
    for name, value in (
        line.split(":")
        for line in (Path(__file__).parents[2] / "vectors" / "udp.hex")
        .read_text()
        .splitlines()
        if line and not line.startswith("#")
    )
}

INNER = Inner(0x01020304, 0x1122334455667788, 0x0102030405060708, b"ABCD")
SEALS: dict[int, Seal] = {1: SealV1(bytes(range(20))), 2: SealV2(bytes(range(128)))}
IVS = {1: bytes(range(0xA0, 0xB4)), 2: bytes(range(0xA0, 0xAC))}

inners = st.builds(
    Inner,
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=1600),
    st.booleans(),
)
versions = pytest.mark.parametrize("version", [1, 2])


def sealed(seal: Seal, inner: bytes, iv: bytes) -> bytes:
    (datagram,) = seal.seal_all([inner], [iv])
    return datagram


def opened(seal: Seal, datagram: bytes) -> bytes | None:
    (inner,) = seal.open_all([datagram])
    return inner


def test_the_vector_of_an_inner_packet_is_encoded_and_read() -> None:
    assert encode_inner(INNER, padding=3) == VECTORS["inner"]
    assert decode_inner(VECTORS["inner"]) == INNER


@versions
def test_the_vectors_are_sealed_and_opened_byte_for_byte(version: int) -> None:
    datagram = VECTORS[f"v{version}"]

    assert sealed(SEALS[version], VECTORS["inner"], IVS[version]) == datagram
    assert opened(SEALS[version], datagram) == VECTORS["inner"]
    assert len(datagram) == len(VECTORS["inner"]) + SEALS[version].overhead


@versions
@given(inner=inners, padding=st.integers(0, 40), iv=st.binary(min_size=20, max_size=20))
def test_what_was_sealed_is_read_again(
    version: int, inner: Inner, padding: int, iv: bytes
) -> None:
    seal = SEALS[version]
    datagram = sealed(seal, encode_inner(inner, padding=padding), iv[: seal.iv_size])

    assert decode_inner(opened(seal, datagram) or b"") == inner


@versions
@given(many=st.lists(st.tuples(inners, st.booleans()), max_size=9))
def test_many_are_sealed_and_opened_as_one_by_one(
    version: int, many: list[tuple[Inner, bool]]
) -> None:
    seal = SEALS[version]
    ivs = [bytes([number] * seal.iv_size) for number in range(len(many))]
    packets = [encode_inner(inner) for inner, _ in many]

    datagrams = seal.seal_all(packets, ivs)

    assert datagrams == [
        sealed(seal, packet, iv) for packet, iv in zip(packets, ivs, strict=True)
    ]
    came = [
        datagram if is_whole else bytes([datagram[0] ^ 1]) + datagram[1:]
        for datagram, (_, is_whole) in zip(datagrams, many, strict=True)
    ]
    assert seal.open_all(came) == [
        packet if is_whole else None
        for packet, (_, is_whole) in zip(packets, many, strict=True)
    ]


def test_a_head_is_what_inner_packets_begin_with() -> None:
    head = encode_head(INNER.cookie, INNER.tick, INNER.echo)

    assert encode_inner(INNER) == head + b"\0\4\0ABCD"


def test_a_datagram_of_version_2_that_was_cut_is_refused() -> None:
    for size in range(len(VECTORS["v2"])):
        assert opened(SEALS[2], VECTORS["v2"][:size]) is None


def test_a_cut_takes_of_version_1_its_padding_or_all() -> None:
    whole = sealed(SEALS[1], encode_inner(INNER, padding=31), IVS[1])

    for size in range(len(whole) - 31):
        assert opened(SEALS[1], whole[:size]) is None
    for size in range(len(whole) - 31, len(whole)):
        assert decode_inner(opened(SEALS[1], whole[:size]) or b"") == INNER


@given(data=st.data())
def test_a_datagram_of_version_2_with_another_bit_anywhere_is_refused(
    data: st.DataObject,
) -> None:
    mutant = bytearray(VECTORS["v2"])
    mutant[data.draw(st.integers(0, len(mutant) - 1))] ^= data.draw(st.integers(1, 255))

    assert opened(SEALS[2], bytes(mutant)) is None


def test_a_datagram_of_version_1_with_another_key_or_iv_is_refused() -> None:
    foreign = SealV1(bytes(20))
    changed = b"\xff" + VECTORS["v1"][1:]

    assert opened(foreign, VECTORS["v1"]) is None
    assert opened(SEALS[1], changed) is None


@versions
@given(garbage=st.binary(max_size=300))
def test_garbage_is_refused(version: int, garbage: bytes) -> None:
    assert opened(SEALS[version], garbage) is None


@given(garbage=st.binary(max_size=2100))
def test_any_bytes_are_an_inner_packet_or_refused(garbage: bytes) -> None:
    try:
        inner = decode_inner(garbage)
    except RemoteProtocolError:
        return
    assert len(inner.frame) <= min(1600, len(garbage) - INNER_SIZE)


def test_an_inner_packet_that_ends_early_is_refused() -> None:
    whole = encode_inner(INNER)

    for size in range(len(whole)):
        with pytest.raises(RemoteProtocolError):
            decode_inner(whole[:size])


def test_a_frame_of_1600_bytes_is_taken_and_one_of_1601_is_not() -> None:
    largest = INNER._replace(frame=bytes(1600))

    assert decode_inner(encode_inner(largest)) == largest
    with pytest.raises(RemoteProtocolError, match="1601"):
        decode_inner(encode_inner(INNER._replace(frame=bytes(1601))))


def test_any_flag_but_zero_means_deflated() -> None:
    packet = bytearray(encode_inner(INNER))
    packet[22] = 0x80

    assert decode_inner(bytes(packet)).is_deflated


def test_version_2_uses_the_first_32_bytes_of_its_key() -> None:
    other = SealV2(bytes(range(32)) + bytes(96))

    assert opened(other, VECTORS["v2"]) == VECTORS["inner"]


@pytest.mark.parametrize(("version", "size"), [(1, 19), (1, 21), (2, 32), (2, 127)])
def test_a_key_of_another_size_is_refused(version: int, size: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"{size} bytes"):
        seal_of(version, bytes(size))


@versions
def test_a_seal_never_shows_its_key(version: int) -> None:
    assert repr(seal_of(version, bytes({1: 20, 2: 128}[version]))).endswith("(***)")


class WithoutOldCiphers:
    """The library's cipher, where its OpenSSL came without RC4."""

    def __init__(self, *_: object) -> None:
        pass

    def encryptor(self) -> None:
        raise UnsupportedAlgorithm("RC4 is not supported")


def test_a_library_without_rc4_says_so_before_a_datagram_is_sealed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "cryptography.hazmat.primitives.ciphers.Cipher", WithoutOldCiphers
    )

    assert rc4_of_library() is None
    with pytest.raises(LocalProtocolError, match="no RC4"):
        SealV1(bytes(20))
