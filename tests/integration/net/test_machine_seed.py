# SPDX-License-Identifier: Apache-2.0
"""What tells this machine from others, read from its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from sevpn.net.identity import machine_seed

ID = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")


def test_the_machine_id_counts_first_then_that_of_dbus(tmp_path: Path) -> None:
    write(tmp_path, "var/lib/dbus/machine-id", f"{OTHER}\n")
    assert machine_seed(tmp_path) == OTHER.encode()

    write(tmp_path, "etc/machine-id", f"{ID}\n")
    assert machine_seed(tmp_path) == ID.encode()


@pytest.mark.parametrize("text", ["", "uninitialized\n", ID[:-1], ID.upper(), ID * 20])
def test_a_machine_id_that_is_none_is_passed_over(tmp_path: Path, text: str) -> None:
    write(tmp_path, "etc/machine-id", text)
    write(tmp_path, "proc/sys/kernel/random/boot_id", "b00t\n")

    assert machine_seed(tmp_path).startswith(b"boot b00t ")


def test_without_any_file_there_is_still_a_seed_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    seed = machine_seed(tmp_path)

    assert len(seed) > len("boot  ")
    assert seed == machine_seed(tmp_path)
    assert list(tmp_path.iterdir()) == []
