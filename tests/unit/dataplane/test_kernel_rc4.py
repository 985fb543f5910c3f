# SPDX-License-Identifier: Apache-2.0
"""The kernel's RC4, in both of its forms, beside the library's."""

from __future__ import annotations

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import ARC4
from cryptography.hazmat.primitives.ciphers import Cipher
from hypothesis import given, settings, strategies as st

from kernel_forms import Form, each_form


def one(form: Form, key: bytes, text: bytes) -> bytes:
    (found,) = form.rc4_all([key], [text])
    return found


def by_library(key: bytes, text: bytes) -> bytes:
    return Cipher(ARC4(key), None).encryptor().update(text)


@each_form
@pytest.mark.parametrize(
    ("key", "data", "sealed"),
    [
        (b"Key", b"Plaintext", "bbf316e8d940af0ad3"),
        (b"Wiki", b"pedia", "1021bf0420"),
        (b"Secret", b"Attack at dawn", "45a01f645fc35b383552544b9bf5"),
        (b"k", b"", ""),
    ],
)
def test_well_known_vectors(form: Form, key: bytes, data: bytes, sealed: str) -> None:
    assert one(form, key, data).hex() == sealed


@each_form
@settings(max_examples=60)
@given(
    key=st.sampled_from([5, 7, 8, 16, 20, 24, 32]).flatmap(
        lambda size: st.binary(min_size=size, max_size=size)
    ),
    data=st.binary(max_size=1600),
)
def test_it_is_the_librarys(form: Form, key: bytes, data: bytes) -> None:
    before = bytes(data)
    theirs = by_library(key, data)

    assert one(form, key, data) == theirs
    assert one(form, key, theirs) == data == before


@each_form
@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.binary(min_size=20, max_size=20), st.binary(max_size=300)),
        max_size=7,
    )
)
def test_neighbours_take_nothing_of_each_other(
    form: Form, many: list[tuple[bytes, bytes]]
) -> None:
    keys, texts = [key for key, _ in many], [text for _, text in many]

    assert form.rc4_all(keys, texts) == [by_library(*pair) for pair in many]


@each_form
def test_a_text_without_a_key_is_refused(form: Form) -> None:
    with pytest.raises(AssertionError, match="a key for each"):
        form.rc4_all([bytes(20)], [b"one", b"two"])


@each_form
@pytest.mark.parametrize("sizes", [(0,), (257,), (5, 6)])
def test_keys_that_are_none_are_refused(form: Form, sizes: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match="no key"):
        form.rc4_all([bytes(size) for size in sizes], [b"data"] * len(sizes))
