# SPDX-License-Identifier: Apache-2.0
"""What all tests share.

A law is tried on many examples, and on a busy machine any one of them may be
slow for once: hypothesis must not call that a failure. `timeout` of the pytest
settings ends a test that really hangs. With CI in the environment hypothesis
takes its own profile, which tries the same examples in every run.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "local", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
if "CI" not in os.environ:
    settings.load_profile("local")
