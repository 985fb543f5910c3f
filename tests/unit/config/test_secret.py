# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import copy
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from sevpn.config.secret import (
    MAX_CONTENT_SIZE,
    MAX_SECRET_SIZE,
    CommandOutput,
    Credential,
    Environment,
    HashOf,
    Keyring,
    Literal,
    PasswordHash,
    Prompt,
    Reference,
    Secret,
    SecretFile,
    has_literal,
    parse_reference,
    resolve,
    resolve_content,
)
from sevpn.errors import ConfigError

DIGEST = bytes(range(20))


@dataclass
class FakeSource:
    """A host in memory."""

    answer: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    printed: bytes = b""
    entries: dict[str, str] = field(default_factory=dict)
    heard: list[object] = field(default_factory=list)

    def ask(self, question: str) -> str:
        self.heard.append(question)
        return self.answer

    def variable(self, name: str) -> str | None:
        return self.variables.get(name)

    def read_file(self, path: Path, *, limit: int = MAX_SECRET_SIZE) -> bytes:
        return self.files[str(path)][: limit + 2]

    def run(self, argv: tuple[str, ...], *, limit: int = MAX_SECRET_SIZE) -> bytes:
        assert limit >= MAX_SECRET_SIZE
        self.heard.append(argv)
        return self.printed

    def keyring(self, name: str) -> str | None:
        return self.entries.get(name)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("prompt", Prompt()),
        ("file:/etc/sevpn/pw", SecretFile(Path("/etc/sevpn/pw"))),
        ("file:pw", SecretFile(Path("pw"))),
        ("env:PW_1", Environment("PW_1")),
        ("cred:sevpn.password", Credential("sevpn.password")),
        ("cmd:pass show 'my vpn'", CommandOutput(("pass", "show", "my vpn"))),
        ("keyring:office", Keyring("office")),
        ("hash:env:H", HashOf(Environment("H"))),
        ("hash:prompt", HashOf(Prompt())),
    ],
)
def test_a_reference_is_read(text: str, reference: Reference) -> None:
    assert parse_reference(text) == reference


@pytest.mark.parametrize(
    "text",
    [
        "", "hunter2", "prompt:hunter2", "Prompt", "file:", "file:hunter2\n", "env:", "env:hunter-2",
        "cred:../hunter2", "cred:/hunter2", "cred:", "cmd:", "cmd:''", "cmd: ", "cmd:'hunter2", "keyring:",
        "keyring:hunter2\x1b", "hash:", "hash:hunter2", "hash:hash:env:hunter2", "literal:hunter2",
        "hash:literal:hunter2", " file:hunter2", "https://hunter2",
    ],
)  # fmt: skip
def test_a_malformed_reference_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_reference(text)

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_literal_is_taken_where_it_is_allowed() -> None:
    plain = parse_reference("literal:a:b ", allow_literal=True)
    hashed = parse_reference("hash:literal:abc", allow_literal=True)

    assert plain == Literal(Secret("a:b "))
    assert hashed == HashOf(Literal(Secret("abc")))


@pytest.mark.parametrize("text", ["literal:", "literal:" + "x" * (MAX_SECRET_SIZE + 1)])
def test_a_literal_has_a_size(text: str) -> None:
    with pytest.raises(ConfigError, match="literal: without a secret, or"):
        parse_reference(text, allow_literal=True)


def test_it_is_known_which_references_hold_the_secret_itself() -> None:
    literal = Literal(Secret("x"))

    assert has_literal(literal)
    assert has_literal(HashOf(literal))
    assert not has_literal(HashOf(Prompt()))
    assert not has_literal(Prompt())
    assert not has_literal(None)


def test_a_relative_file_of_a_profile_lies_beside_it() -> None:
    folder = Path("/etc/sevpn/profiles")

    assert parse_reference("file:pw", folder=folder) == SecretFile(folder / "pw")
    assert parse_reference("file:/pw", folder=folder) == SecretFile(Path("/pw"))


@pytest.mark.parametrize(
    "thing",
    [
        Secret("hunter2"),
        PasswordHash(b"hunter2hunter2hunter"),
        Literal(Secret("hunter2")),
        HashOf(Literal(Secret("hunter2"))),
        CommandOutput(("echo", "hunter2")),
    ],
)
def test_a_secret_never_shows_itself(thing: object) -> None:
    shown = f"{thing!r} {thing} {[thing]}"

    assert "hunter2" not in shown


def test_a_secret_is_not_pickled_or_copied_by_it() -> None:
    for thing in (Secret("x"), PasswordHash(DIGEST)):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(thing)
        with pytest.raises(TypeError, match="not pickled"):
            copy.copy(thing)


def test_secrets_are_values() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert PasswordHash(DIGEST) == PasswordHash(DIGEST) != PasswordHash(b"x" * 20)
    assert (
        len({Secret("a"), Secret("a"), PasswordHash(DIGEST), PasswordHash(DIGEST)}) == 2
    )
    assert Secret("a") != "a"


# --- fetching ----------------------------------------------------------------


def test_a_person_is_asked_and_may_mean_an_empty_password() -> None:
    source = FakeSource(answer="")

    assert resolve(Prompt(), source, question="Password for alice: ") == Secret("")
    assert source.heard == ["Password for alice: "]


@pytest.mark.parametrize("data", [b"s3cret ", b"s3cret \n", b"s3cret \r\n"])
def test_one_line_end_of_a_file_is_no_part_of_the_secret(data: bytes) -> None:
    source = FakeSource(files={"/pw": data})

    assert resolve(SecretFile(Path("/pw")), source) == Secret("s3cret ")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"alice\nhunter2\n", "several lines"),
        (b"hunter2\n\n", "several lines"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"hunter2\xff", "not UTF-8"),
        (b"hunter2\0", "NUL"),
        (b"hunter2" * 600, "longer than 4096"),
    ],
)
def test_a_file_that_holds_no_secret_is_refused_without_its_content(
    data: bytes, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        resolve(SecretFile(Path("/pw")), FakeSource(files={"/pw": data}))

    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_variable_is_read_when_it_is_set() -> None:
    source = FakeSource(variables={"A": "x\n", "EMPTY": ""})

    assert resolve(Environment("A"), source) == Secret("x\n")
    with pytest.raises(ConfigError, match="environment variable EMPTY is empty"):
        resolve(Environment("EMPTY"), source)
    with pytest.raises(ConfigError, match="environment variable NONE does not exist"):
        resolve(Environment("NONE"), source)


def test_a_variable_that_is_no_text_is_refused() -> None:
    source = FakeSource(variables={"A": "\udcff"})

    with pytest.raises(ConfigError, match="not UTF-8"):
        resolve(Environment("A"), source)


def test_a_credential_comes_from_the_folder_that_systemd_names() -> None:
    source = FakeSource(
        variables={"CREDENTIALS_DIRECTORY": "/run/credentials/u"},
        files={"/run/credentials/u/pw": b"x"},
    )

    assert resolve(Credential("pw"), source) == Secret("x")


def test_without_that_folder_the_unit_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="LoadCredential="):
        resolve(Credential("pw"), FakeSource())


def test_of_what_a_program_prints_the_first_line_counts() -> None:
    source = FakeSource(printed=b"s3cret\nlogin: alice\n")

    assert resolve(CommandOutput(("pass", "show")), source) == Secret("s3cret")
    assert source.heard == [("pass", "show")]


def test_a_program_that_prints_nothing_is_named() -> None:
    with pytest.raises(ConfigError, match="what 'pass' printed is empty"):
        resolve(CommandOutput(("pass", "show")), FakeSource())


def test_a_keyring_entry_is_read_or_missed_by_name() -> None:
    source = FakeSource(entries={"office": "x"})

    assert resolve(Keyring("office"), source) == Secret("x")
    with pytest.raises(
        ConfigError, match="entry 'home' of service 'sevpn' does not exist"
    ):
        resolve(Keyring("home"), source)


def test_a_literal_is_its_own_secret() -> None:
    assert resolve(Literal(Secret("x")), FakeSource()) == Secret("x")


@given(st.binary(min_size=20, max_size=20))
def test_a_hash_is_read_in_hex_and_in_base64(octets: bytes) -> None:
    for text in (octets.hex(), octets.hex().upper(), base64.b64encode(octets).decode()):
        reference = HashOf(Literal(Secret(f" {text}\n")))
        assert resolve(reference, FakeSource()) == PasswordHash(octets)


@pytest.mark.parametrize(
    "text", ["hunter2", "00" * 19, "00" * 21, "zz" * 20, "AAAA", "ünt"]
)
def test_what_is_no_hash_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError, match="40 hex digits") as caught:
        resolve(HashOf(Literal(Secret(text))), FakeSource())

    assert text not in str(caught.value)


# --- private keys ---------------------------------------------------------------

PEM = b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("file:/k", FakeSource(files={"/k": PEM})),
        ("env:K", FakeSource(variables={"K": PEM.decode()})),
        (
            "cred:k",
            FakeSource(variables={"CREDENTIALS_DIRECTORY": "/c"}, files={"/c/k": PEM}),
        ),
        ("cmd:pass show key", FakeSource(printed=PEM)),
        ("keyring:k", FakeSource(entries={"k": PEM.decode()})),
        (f"literal:{PEM.decode()}", FakeSource()),
    ],
)
def test_a_private_key_has_many_lines(text: str, source: FakeSource) -> None:
    reference = parse_reference(text, allow_literal=True)

    assert resolve_content(reference, source) == PEM


@pytest.mark.parametrize("text", ["prompt", "hash:file:/k"])
def test_a_private_key_is_neither_typed_nor_a_hash(text: str) -> None:
    with pytest.raises(ConfigError, match="can neither be typed nor be a hash"):
        resolve_content(parse_reference(text), FakeSource())


@pytest.mark.parametrize("text", ["env:K", "keyring:k"])
def test_a_private_key_that_is_not_there(text: str) -> None:
    with pytest.raises(ConfigError, match="does not exist, or is empty"):
        resolve_content(parse_reference(text), FakeSource())


def test_a_private_key_has_a_longest_size() -> None:
    source = FakeSource(printed=bytes(MAX_CONTENT_SIZE + 1))

    with pytest.raises(ConfigError, match="longer than 65536 bytes"):
        resolve_content(CommandOutput(("x",)), source)
