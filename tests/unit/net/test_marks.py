# SPDX-License-Identifier: Apache-2.0
"""The numbers that belong to one tunnel."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sevpn.errors import ConfigError
from sevpn.net.marks import (
    MAX_SLOTS,
    Marks,
    check_numbers,
    free_slot,
    slot_of_rule,
    slot_of_table,
)
from sevpn.net.model import MAIN_TABLE, Rule

SLOTS = st.integers(0, MAX_SLOTS - 1)


def test_the_first_tunnel_has_the_numbers_of_the_reference_page() -> None:
    assert Marks.of(0) == Marks(
        own=0xE0E0, bypass=0xE0E1, reply=0xE0E2, table=57568, preference=9000
    )


def test_another_mark_changes_nothing_but_the_mark() -> None:
    assert Marks.of(2, own=7) == Marks(
        own=7, bypass=0xE0E1, reply=0xE102, table=57600, preference=9020
    )


@given(SLOTS, SLOTS, st.integers(0, 9))
def test_tables_and_rules_tell_whose_they_are(
    slot: int, other: int, number: int
) -> None:
    marks = Marks.of(slot)
    rule = Rule(4, marks.preference + number, MAIN_TABLE)

    assert slot_of_table(marks.table) == slot
    assert slot_of_rule(rule) == slot
    assert Marks.of(other).has(rule) == (other == slot)


def test_other_tables_and_preferences_are_nobodys() -> None:
    assert slot_of_table(MAIN_TABLE) is None
    assert slot_of_table(57569) is None
    assert slot_of_table(57568 + 16 * MAX_SLOTS) is None
    assert slot_of_rule(Rule(4, 8999, 1)) is None
    assert slot_of_rule(Rule(4, 32766, 1)) is None


def test_the_smallest_free_slot_is_taken() -> None:
    assert free_slot({0, 1, 3, -1}) == 2
    assert free_slot(set(range(MAX_SLOTS))) == MAX_SLOTS - 1


@pytest.mark.parametrize("number", [0xE0E0, 0xE0E1, 0xE0E0 + 16 * MAX_SLOTS - 1])
def test_numbers_of_sevpns_own_are_not_for_users(number: int) -> None:
    with pytest.raises(ConfigError, match="choose another --mark"):
        check_numbers(mark=number, table=None)
    with pytest.raises(ConfigError, match="choose another --policy-route-table"):
        check_numbers(mark=None, table=number)


@pytest.mark.parametrize("number", [1, 0xE0E0 - 1, 0xE0E0 + 16 * MAX_SLOTS, None])
def test_all_others_are(number: int | None) -> None:
    check_numbers(mark=number, table=number)
