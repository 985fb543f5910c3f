# SPDX-License-Identifier: Apache-2.0
"""How often the network is looked at."""

from __future__ import annotations

import pytest

from sevpn.net.monitor import rest_after


@pytest.mark.parametrize(("took_s", "rest_s"), [(0.005, 0.025), (0.2, 1.0), (3.0, 5.0)])
def test_a_long_look_takes_a_sixth_of_the_time_until_the_rest_is_five_seconds(
    took_s: float, rest_s: float
) -> None:
    assert rest_after(took_s) == pytest.approx(rest_s)
