# SPDX-License-Identifier: Apache-2.0
"""The fuzz targets of the handshake over their stored corpora; without atheris."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

FUZZ = Path(__file__).parents[3] / "fuzz"
CORPUS = {name: sorted((FUZZ / "corpus" / name).iterdir()) for name in ("pack", "http")}


def target(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FUZZ / f"fuzz_{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TARGETS = {name: target(name) for name in CORPUS}


@pytest.mark.parametrize(
    "path",
    [path for paths in CORPUS.values() for path in paths],
    ids=lambda path: f"{path.parent.name}-{path.name}",
)
def test_the_invariant_holds_for_the_corpus(path: Path) -> None:
    TARGETS[path.parent.name].check(path.read_bytes())


@pytest.mark.parametrize("name", CORPUS)
def test_the_invariant_holds_for_each_beginning_of_each_seed(name: str) -> None:
    for path in CORPUS[name]:
        seed = path.read_bytes()[:3000]
        for size in range(0, len(seed), max(1, len(seed) // 50)):
            TARGETS[name].check(seed[:size])


@pytest.mark.parametrize("name", CORPUS)
def test_the_corpus_is_there(name: str) -> None:
    assert len(CORPUS[name]) >= 10
