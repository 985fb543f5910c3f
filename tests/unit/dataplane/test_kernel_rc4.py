# SPDX-License-Identifier: Apache-2.0
"""The kernel's RC4, in both of its forms, beside the library's."""

from __future__ import annotations

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import ARC4
from cryptography.hazmat.primitives.ciphers import Cipher
from hypothesis import given, settings, strategies as st

from kernel_forms import Form, each_form


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
    assert form.rc4(key, data).hex() == sealed


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
    theirs = Cipher(ARC4(key), None).encryptor().update(data)

    assert form.rc4(key, data) == theirs
    assert form.rc4(key, theirs) == data == before


@each_form
@pytest.mark.parametrize("size", [0, 257])
def test_a_key_that_is_none_is_refused(form: Form, size: int) -> None:
    with pytest.raises(AssertionError, match="no key"):
        form.rc4(bytes(size), b"data")
