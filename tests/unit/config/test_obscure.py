# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64

import pytest
from hypothesis import given, strategies as st

from sevpn.config.obscure import KEYS, obscure, rc4, reveal
from sevpn.errors import ConfigError

PASSWORDS = st.text(
    st.characters(min_codepoint=32, exclude_characters="\x7f", codec="utf-8"),
    min_size=1,
    max_size=40,
)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [("microsoft", "A/YHkB9eAz25"), ("ppass", "Hu8FkQM="), ("hunter2", "BuoKlhVfXg==")],
)
def test_a_password_is_hidden_as_a_64_bit_machine_does(text: str, hidden: str) -> None:
    assert base64.b64encode(obscure(text)).decode() == hidden
    assert reveal(base64.b64decode(hidden)).reveal() == text


def test_what_a_32_bit_machine_hid_is_found_too() -> None:
    assert reveal(base64.b64decode("78zkk7v/Dg==")).reveal() == "hunter2"


@given(text=PASSWORDS, key=st.sampled_from(KEYS))
def test_no_password_is_a_text_by_both_keys(text: str, key: bytes) -> None:
    assert reveal(rc4(key, text.encode())).reveal() == text


@pytest.mark.parametrize("data", [b"\xff" * 40, bytes(5000)])
def test_what_is_no_text_or_too_long_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match="password"):
        reveal(data)
