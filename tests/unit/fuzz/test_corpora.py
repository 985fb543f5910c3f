# SPDX-License-Identifier: Apache-2.0
"""Each fuzz target over its stored corpus; without atheris."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest

FUZZ = Path(__file__).parents[3] / "fuzz"
NAMES = sorted(path.stem.removeprefix("fuzz_") for path in FUZZ.glob("fuzz_*.py"))

_MUCH = 3000
"""Bytes of a seed whose beginnings are tried: behind them nothing new begins."""


def target(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FUZZ / f"fuzz_{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def corpus(name: str) -> list[Path]:
    return sorted((FUZZ / "corpus" / name).iterdir())


TARGETS = {name: target(name) for name in NAMES}
SEEDS = [path for name in NAMES for path in corpus(name)]


@pytest.mark.parametrize(
    "path", SEEDS, ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_the_invariant_holds_for_the_corpus(path: Path) -> None:
    TARGETS[path.parent.name].check(path.read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_the_invariant_holds_for_each_beginning_of_each_seed(name: str) -> None:
    for path in corpus(name):
        seed = path.read_bytes()[:_MUCH]
        for size in range(0, len(seed), max(1, len(seed) // 50)):
            TARGETS[name].check(seed[:size])


@pytest.mark.parametrize("name", NAMES)
def test_the_invariant_holds_for_seeds_with_a_few_bytes_changed(name: str) -> None:
    rng = random.Random(2131)
    for path in corpus(name):
        seed = path.read_bytes()
        for _ in range(30 if seed else 0):
            mutant = bytearray(seed)
            for _ in range(rng.randint(1, 4)):
                mutant[rng.randrange(len(mutant))] = rng.randrange(256)
            TARGETS[name].check(bytes(mutant))


@pytest.mark.parametrize("name", NAMES)
def test_the_corpus_is_there(name: str) -> None:
    assert len(corpus(name)) >= 10


def test_no_corpus_is_without_its_target() -> None:
    assert {path.name for path in (FUZZ / "corpus").iterdir()} == set(NAMES)
