# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from sevpn.metrics.counters import Counters


def test_drops_add_up_by_reason() -> None:
    counters = Counters()
    counters.drop("runt")
    counters.drop("tap-full", 3)
    counters.drop("runt", 2)

    assert counters.dropped_frames == {"runt": 3, "tap-full": 3}


def test_no_drop_leaves_no_trace() -> None:
    counters = Counters()
    counters.drop("runt", 0)

    assert counters.dropped_frames == {}
