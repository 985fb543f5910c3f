# SPDX-License-Identifier: Apache-2.0
"""The documents say what is there: their links, tests, keys and commands exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import msgspec
import pytest

from sevpn.cli.exit import ExitCode
from sevpn.cli.main import cli
from sevpn.cli.options import tunnel_options
from sevpn.config.profile import load_profile
from sevpn.control.protocol import Command
from sevpn.metrics import snapshot

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as hosts of Markdown make them."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


def cited() -> Iterator[tuple[str, str, str]]:
    """Yield each citation of a page in the sources: by whom, which page, which anchor."""
    for folder in ("src", "tests", "fuzz", "bench"):
        for source in (ROOT / folder).rglob("*.py"):
            for page, anchor in re.findall(
                r"(docs/[\w/.-]+\.md)(?:#([\w-]+))?", source.read_text()
            ):
                yield str(source.relative_to(ROOT)), page, anchor


def test_every_page_that_a_source_cites_exists_with_its_anchor() -> None:
    missing = {
        f"{source}: {page}#{anchor}"
        for source, page, anchor in cited()
        if not (ROOT / page).exists() or (anchor and anchor not in anchors(ROOT / page))
    }

    assert missing == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    missing = []
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        found = (page.parent / path) if path else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            missing.append(target)

    assert missing == []


def test_every_test_in_the_feature_table_exists() -> None:
    named = re.findall(r"\[(test_\w+)\]\(([^)]+)\)", (ROOT / "README.md").read_text())

    assert len(named) > 30
    missing = [
        f"{path}: {name}"
        for name, path in named
        if f"def {name}(" not in (ROOT / path).read_text()
    ]
    assert missing == []


def test_every_test_that_a_reference_page_names_exists() -> None:
    there = {
        name
        for source in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"(?m)^(?:async )?def (test_\w+)", source.read_text())
    }
    named = {
        (page.name, name)
        for page in (ROOT / "docs/reference").rglob("*.md")
        for name in re.findall(r"`(test_\w+)`", page.read_text())
    }

    assert len(named) > 20
    assert {(page, name) for page, name in named if name not in there} == set()


def test_every_key_of_the_status_document_is_described() -> None:
    page = (ROOT / "docs/reference/status.md").read_text()
    structs = [
        value
        for value in vars(snapshot).values()
        if isinstance(value, type) and issubclass(value, msgspec.Struct)
    ]
    keys = {
        field.encode_name
        for struct in structs
        for field in msgspec.structs.fields(struct)
    }

    assert {
        key for key in keys if f"`{key}`" not in page and f'"{key}"' not in page
    } == set()


def test_every_exit_code_is_described() -> None:
    page = (ROOT / "docs/reference/exit-codes.md").read_text()

    assert [code for code in ExitCode if f"| {int(code)} |" not in page] == []


def test_every_kind_of_failure_has_its_errors() -> None:
    page = (ROOT / "docs/reference/errors.md").read_text()
    ends = [code for code in ExitCode if code >= ExitCode.USAGE]

    assert [code for code in ends if f"| {int(code)} |" not in page] == []


def test_every_command_of_the_control_socket_is_described() -> None:
    page = (ROOT / "docs/reference/control-socket.md").read_text()
    verbs = get_args(Command)

    assert len(verbs) == 4
    assert [verb for verb in verbs if f'"command": "{verb}"' not in page] == []


def test_every_option_of_up_is_a_described_key() -> None:
    page = (ROOT / "docs/reference/profile.md").read_text()
    made = click.command()(tunnel_options(lambda: None))
    names = [parameter.name for parameter in made.params]

    assert len(names) > 25
    assert [name for name in names if f"`{name}`" not in page] == []


def shown_commands() -> list[str]:
    lines = []
    for page in PAGES:
        for block in re.findall(r"(?ms)^```sh\n(.*?)^```", page.read_text()):
            lines += re.findall(r"(?m)^(?:sudo )?(sevpn .+)$", block)
    return sorted(set(lines))


@pytest.mark.parametrize("line", shown_commands())
def test_every_command_that_is_shown_can_be_given(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    with cli.make_context("sevpn", words) as context:
        name, command, rest = cli.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert command is not None
        with command.make_context(name, rest, parent=context):
            pass


def test_every_profile_that_is_shown_can_be_read(tmp_path: Path) -> None:
    count = 0
    for page in (ROOT / "README.md", *(ROOT / "docs/how-to").glob("*.md")):
        for block in re.findall(r"(?ms)^```toml\n(.*?)^```", page.read_text()):
            path = tmp_path / f"p{count}.toml"
            path.write_text(block)
            path.chmod(0o600)
            load_profile(path)
            count += 1

    assert count >= 1
