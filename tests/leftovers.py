# SPDX-License-Identifier: Apache-2.0
"""What tests in namespaces share: machines are compared readably, and nothing is left.

A conftest.py imports both names; pytest finds them there.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sevpn.testing.machine import Snapshot, host_facts, open_machines

__all__ = ["nothing_is_left", "pytest_assertrepr_compare"]


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Show two unlike snapshots as what was lost and gained."""
    if op == "==" and isinstance(left, Snapshot) and isinstance(right, Snapshot):
        return ["the machine is not as it was:", *right.difference(left)]
    return None


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Whatever the tests of a folder made is gone when they have ended."""
    before = host_facts()
    yield
    after = host_facts()
    changed = [
        *(f"machine {name}" for name in open_machines()),
        *(f"- {fact}" for fact in before if fact not in after),
        *(f"+ {fact}" for fact in after if fact not in before),
    ]
    assert not changed, "the host is not as it was:\n" + "\n".join(changed)
