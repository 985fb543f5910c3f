# SPDX-License-Identifier: Apache-2.0
"""The reference page of the profile says what the program does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from sevpn.config.keys import KEYS
from sevpn.config.profile import Settings, load_profile
from sevpn.config.secret import (
    CommandOutput,
    Credential,
    Environment,
    HashOf,
    Keyring,
    Literal,
    Prompt,
    Reference,
    SecretFile,
    parse_reference,
)

PAGE = (Path(__file__).parents[3] / "docs/reference/profile.md").read_text("utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def rows(heading: str) -> list[list[str]]:
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [
        re.split(r"\s*\|\s*", line.strip("| \n"))
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    return [[cell.strip("` ") for cell in row] for row in cells]


def test_the_page_has_every_key_in_order() -> None:
    assert [row[0] for row in rows("Keys")] == list(KEYS)


def test_the_page_has_every_default() -> None:
    shown = {
        re.findall(r"`(\w+)`", line)[0]: line.split("|")[2].strip().strip("`")
        for line in PAGE.split("\n## Keys\n")[1].split("\n## ")[0].splitlines()
        if line.startswith("| `")
    }
    for field in msgspec.structs.fields(Settings):
        text = shown[field.name]
        if field.required or field.default is None:
            assert text == "", field.name
            continue
        value = tomllib.loads(f"v = {text}")["v"]
        assert (tuple(value) if isinstance(value, list) else value) == field.default


@pytest.mark.parametrize("text", EXAMPLES)
def test_each_example_is_a_good_profile(tmp_path: Path, text: str) -> None:
    path = tmp_path / "example.toml"
    path.write_text(text, "utf-8")
    path.chmod(0o600)

    load_profile(path).check()


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


def test_each_reference_of_the_page_is_read() -> None:
    references = [row[0] for row in rows("Secrets")]

    assert len(references) == 8
    for text in references:
        whole = text.replace("REF", "prompt").replace("COMMAND", "pass show x")
        assert text.startswith(_form_of(parse_reference(whole, allow_literal=True)))


def _form_of(reference: Reference) -> str:
    forms: dict[type[Reference], str] = {
        Prompt: "prompt",
        SecretFile: "file:",
        Environment: "env:",
        Credential: "cred:",
        CommandOutput: "cmd:",
        Keyring: "keyring:",
        HashOf: "hash:",
        Literal: "literal:",
    }
    return forms[type(reference)]
