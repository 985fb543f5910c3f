# SPDX-License-Identifier: Apache-2.0
"""What tests in namespaces share: machines are compared readably, and nothing is left.

The conftest.py of such a folder imports the hook and `leaves_nothing`; pytest finds them there. The
fixture of the session itself is one for all folders (tests/conftest.py), so that it
ends behind whatever any of them has made.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sevpn.testing.machine import Snapshot, host_facts, open_machines

__all__ = ["leaves_nothing", "nothing_is_left", "pytest_assertrepr_compare"]


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Show two unlike snapshots as what was lost and gained."""
    if op == "==" and isinstance(left, Snapshot) and isinstance(right, Snapshot):
        return ["the machine is not as it was:", *right.difference(left)]
    return None


@pytest.fixture(scope="session", autouse=True)
def leaves_nothing(nothing_is_left: None) -> None:
    """Tests of this folder are looked at behind."""


@pytest.fixture(scope="session")
def nothing_is_left() -> Iterator[None]:
    """Whatever the tests have made is gone when they have ended."""
    before = host_facts()
    yield
    after = host_facts()
    changed = [
        *(f"machine {name}" for name in open_machines()),
        *(f"- {fact}" for fact in before if fact not in after),
        *(f"+ {fact}" for fact in after if fact not in before),
    ]
    assert not changed, "the host is not as it was:\n" + "\n".join(changed)
