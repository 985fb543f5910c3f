# SPDX-License-Identifier: Apache-2.0
"""The fuzz target over its stored corpus; without atheris."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[3] / "fuzz"
CORPUS = sorted((FUZZ / "corpus" / "block").iterdir())

spec = importlib.util.spec_from_file_location("fuzz_block", FUZZ / "fuzz_block.py")
assert spec is not None
assert spec.loader is not None
fuzz_block = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz_block)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_the_invariant_holds_for_the_corpus(path: Path) -> None:
    fuzz_block.check(path.read_bytes())


def test_the_corpus_is_there() -> None:
    assert len(CORPUS) >= 10
