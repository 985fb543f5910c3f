# SPDX-License-Identifier: Apache-2.0
"""What a process costs, from what the kernel shows of it."""

from __future__ import annotations

import os

import pytest
from bench.costs import parse_report
from bench.processes import Usage, parse_stat

TICKS = os.sysconf("SC_CLK_TCK")


def test_times_are_found_behind_any_name() -> None:
    # pid (name) state parent group session tty group flags, 4 faults, user, system, …
    text = "12 (a) b) (S 1) S 1 1 1 0 -1 4194560 9 8 7 6 250 50 3 4 20 0 1 0 5 6 7"
    assert parse_stat(text) == (250 / TICKS, 50 / TICKS)


def test_what_was_used_meanwhile_is_the_difference() -> None:
    before = Usage(1.0, 2.0, {1: 2.5, 2: 0.5})
    after = Usage(2.0, 5.0, {1: 3.0, 3: 3.5})

    used = after.since(before)

    assert used == Usage(1.0, 3.0, {1: 0.5, 3: 3.5})
    assert used.total_s == 4.0
    assert used.busiest_s == 3.5


def test_the_share_of_the_kernel_is_taken_of_the_exact_time() -> None:
    assert Usage(0.01, 0.03, {1: 0.036}).kernel_s == pytest.approx(0.027)


def test_a_process_that_did_nothing_was_not_busy() -> None:
    used = Usage(0.0, 0.0, {})
    assert (used.total_s, used.busiest_s, used.kernel_s) == (0.0, 0.0, 0.0)


def test_a_profile_is_read_greatest_share_first() -> None:
    text = """# Overhead;Shared Object;Symbol
# ........
  12.50%;libssl.so.3            ;[.] SSL_write     -      -
  37.84%;[kernel.kallsyms]      ;[k] tcp_sendmsg   -      -

"""
    assert parse_report(text) == [
        (37.84, "[kernel.kallsyms]  [k] tcp_sendmsg"),
        (12.5, "libssl.so.3  [.] SSL_write"),
    ]
