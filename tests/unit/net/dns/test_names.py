# SPDX-License-Identifier: Apache-2.0
"""What is chosen once, and what is said when it is impossible."""

from __future__ import annotations

from pathlib import Path

import pytest

from sevpn.errors import HostError
from sevpn.net.dns.detect import Facts
from sevpn.net.dns.names import Names

STUB = Facts("nameserver 127.0.0.53\n", None, resolved="")


def test_the_way_is_chosen_once_because_later_the_file_may_be_ours() -> None:
    looked: list[tuple[str, Path]] = []

    def look(mode: str, etc: Path) -> Facts:
        looked.append((mode, etc))
        return STUB

    names = Names(tunnel="office", mode="auto", facts=look)

    assert names.decide().backend == "resolved"
    assert names.decide() is names.decide()
    assert looked == [("auto", Path("/etc"))]


def test_what_was_not_set_stands_nowhere() -> None:
    names = Names(tunnel="office", mode="auto", facts=lambda _mode, _etc: STUB)

    assert names.standing(None) == (
        "resolv.conf sends programs to systemd-resolved",
        False,
    )


def test_what_is_impossible_is_said_each_time() -> None:
    names = Names(
        tunnel="office",
        mode="file",
        split=True,
        facts=lambda _mode, _etc: STUB,
    )

    for _ in range(2):
        with pytest.raises(HostError, match="--split-dns"):
            names.decide()
