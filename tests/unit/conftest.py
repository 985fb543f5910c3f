# SPDX-License-Identifier: Apache-2.0
"""What the unit tests share: laws are tested by examples, and not by the clock.

A law without a number of its own is tried with 40 examples, others each time, and with
a thousand by `make soak`.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A busy machine is no reason to fail: how long an example takes says nothing about
# the law. In CI hypothesis brings settings of its own, which stay otherwise.
settings.register_profile(
    "unhurried",
    settings(),
    max_examples=int(os.environ.get("SEVPN_TEST_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("unhurried")
