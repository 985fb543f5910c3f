# SPDX-License-Identifier: Apache-2.0
"""Ten thousand mutants of what comes from outside: no traceback, no hang, little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_KIB = 64 * 1024

_MUTATE = """
import importlib.util, random, resource, sys
from pathlib import Path

root, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
spec = importlib.util.spec_from_file_location(name, root / f"fuzz/fuzz_{name}.py")
target = importlib.util.module_from_spec(spec)
spec.loader.exec_module(target)
seeds = [path.read_bytes() for path in sorted((root / "fuzz/corpus" / name).iterdir())]
seeds = [seed for seed in seeds if 0 < len(seed) <= 100_000]
rng = random.Random(name)
for number in range(count):
    mutant = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(len(mutant)) if mutant else 0
        match rng.randrange(4):
            case 0: mutant[place : place + 1] = rng.randbytes(1)
            case 1: del mutant[place : place + rng.randint(1, 16)]
            case 2: mutant[place:place] = rng.randbytes(rng.randint(1, 16))
            case 3: mutant[place:place] = mutant[place : place + rng.randint(1, 64)]
    target.check(bytes(mutant))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "name", ["block", "dhcp", "frames", "http", "pack", "udp", "vpnfile"]
)
def test_each_mutant_ends_in_a_value_or_in_a_typed_error(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MUTATE, str(ROOT), name, "10000"],
        check=False,
        capture_output=True,
        text=True,
        timeout=1700,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < MOST_KIB
