# SPDX-License-Identifier: Apache-2.0
"""What all tests share: who may run, and what must not be left behind.

A test that cannot run here is skipped with its reason, which the closing summary
shows. In CI there is no such thing: the reason is a failure.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from leftovers import nothing_is_left
from sevpn.testing.peers import missing_peers

__all__ = ["nothing_is_left"]


def _obstacle(item: pytest.Item) -> str | None:
    if item.get_closest_marker("netns") and os.geteuid() != 0:
        return "needs root, to make network namespaces"
    if item.get_closest_marker("netns") and not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun: modprobe tun"
    if item.get_closest_marker("interop"):
        return missing_peers()
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    reason = _obstacle(item)
    if reason is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"cannot run in CI: {reason}", pytrace=False)
    pytest.skip(reason)
