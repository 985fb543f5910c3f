# SPDX-License-Identifier: Apache-2.0
"""Secrets, and the references that a profile or an option names them by.

Layer: config. Runs in: the control thread, before the first connection; reading
a secret may wait for a person or a program.

    REF := "prompt"            ask on the terminal
         | "file:" PATH        the only line of a file that others cannot read
         | "env:" NAME         an environment variable
         | "cred:" NAME        a credential that systemd passes, systemd.exec(5)
         | "cmd:" COMMAND      the first line that a program prints; no shell
         | "keyring:" NAME     the desktop's keyring, service "sevpn"
         | "literal:" TEXT     the secret itself; only inside a 0600 profile
         | "hash:" REF         what the other forms give is the password's hash

The hash is the SHA-0 digest that SoftEther stores, as 40 hex digits or in
base64. It is as good as the password for a login, so it is a secret too.

A private key is named by the same forms, but for `prompt` and `hash`; there a file
and what a program prints may have many lines, and need not be text.

A reference that cannot be read is never repeated in an error: it is probably
the password itself, typed where its reference belongs.

Source: docs/reference/profile.md#secrets.
"""

from __future__ import annotations

import base64
import binascii
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, assert_never

from sevpn.errors import ConfigError

__all__ = [
    "CommandOutput",
    "Credential",
    "Environment",
    "HashOf",
    "Keyring",
    "Literal",
    "PasswordHash",
    "Prompt",
    "Reference",
    "Secret",
    "SecretFile",
    "SecretSource",
    "has_literal",
    "parse_reference",
    "resolve",
    "resolve_content",
]

HASH_SIZE: Final = 20
"""Bytes of a SoftEther password hash, which is a SHA-0 digest."""

MAX_CONTENT_SIZE: Final = 65536
"""Longest private key, with its certificates, in bytes; our own choice: some ten times a long one."""

MAX_SECRET_SIZE: Final = 4096
"""Longest secret in bytes; our own choice: a RADIUS password has at most 128."""

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:-]*")
_FORMS: Final = (
    "prompt, file:PATH, env:NAME, cred:NAME, cmd:COMMAND, keyring:NAME or hash:REF"
)


class Secret:
    """A text that never shows itself: `repr` and `str` are `***`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text; pass it on to where it is used, and nowhere else."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


class PasswordHash:
    """A SoftEther password hash, which never shows itself either."""

    __slots__ = ("_octets",)

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def reveal(self) -> bytes:
        """Return its :data:`HASH_SIZE` bytes."""
        return self._octets

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PasswordHash) and self._octets == other._octets

    def __hash__(self) -> int:
        return hash(self._octets)

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


# --- references --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prompt:
    """Ask a person."""


@dataclass(frozen=True, slots=True)
class SecretFile:
    """Read a file."""

    path: Path
    """Where; a profile's relative path has been joined to its folder."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Read an environment variable."""

    name: str
    """Which."""


@dataclass(frozen=True, slots=True)
class Credential:
    """Read a file of systemd's `$CREDENTIALS_DIRECTORY`."""

    name: str
    """Which; a file name, never a path."""


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """Run a program and take the first line that it prints."""

    argv: tuple[str, ...] = field(repr=False)
    """The program and its arguments, split as a shell would; at least one."""


@dataclass(frozen=True, slots=True)
class Keyring:
    """Ask the desktop's keyring."""

    name: str
    """The entry's user name; its service is `sevpn`."""


@dataclass(frozen=True, slots=True)
class Literal:
    """The secret itself."""

    secret: Secret
    """It."""


Plain = (
    Prompt | SecretFile | Environment | Credential | CommandOutput | Keyring | Literal
)


@dataclass(frozen=True, slots=True)
class HashOf:
    """What another reference gives is the hash of the password."""

    reference: Plain
    """That other reference."""


Reference = Plain | HashOf


# --- reading a reference -----------------------------------------------------


def parse_reference(
    text: str, *, allow_literal: bool = False, folder: Path | None = None
) -> Reference:
    """Read a reference.

    Args:
        text: As the module's docstring says.
        allow_literal: Whether `literal:` may stand in it; only where the text
            itself is kept from others, which argv is not.
        folder: What a relative path of `file:` is relative to; if not given,
            the working folder.

    Raises:
        ConfigError: It is none; the text tells the forms that there are, and
            repeats nothing of *text*. It begins with a verb: the caller puts
            the name of the key before it.
    """
    form, colon, rest = text.partition(":")
    if form == "hash" and colon:
        return HashOf(_parse_plain(rest, allow_literal=allow_literal, folder=folder))
    return _parse_plain(text, allow_literal=allow_literal, folder=folder)


def has_literal(reference: Reference | None) -> bool:
    """Whether *reference* holds the secret itself."""
    plain = reference.reference if isinstance(reference, HashOf) else reference
    return isinstance(plain, Literal)


def _parse_plain(text: str, *, allow_literal: bool, folder: Path | None) -> Plain:
    form, _colon, rest = text.partition(":")
    match form:
        case "prompt" if text == "prompt":
            return Prompt()
        case "file" if rest and rest.isprintable():
            path = Path(rest).expanduser() if rest.startswith("~/") else Path(rest)
            return SecretFile(path if folder is None else folder / path)
        case "env" if _VARIABLE.fullmatch(rest):
            return Environment(rest)
        case "cred" if _FILE_NAME.fullmatch(rest):
            return Credential(rest)
        case "cmd" if rest:
            return CommandOutput(_split_command(rest))
        case "keyring" if rest and rest.isprintable():
            return Keyring(rest)
        case "literal":
            return _parse_literal(rest, allow_literal=allow_literal)
        case _:
            literal = ", or in a profile literal:TEXT" if allow_literal else ""
            raise ConfigError(f"is no reference to a secret: write {_FORMS}{literal}")


def _parse_literal(text: str, *, allow_literal: bool) -> Literal:
    if not allow_literal:
        raise ConfigError(
            f"holds the secret itself, where other users can see it: write {_FORMS}"
        )
    if not text or len(text.encode("utf-8", "surrogatepass")) > MAX_SECRET_SIZE:
        raise ConfigError("is a literal: without a secret, or with too long a one")
    return Literal(Secret(text))


def _split_command(text: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise ConfigError(
            f"has a command that cannot be split into words: {error}"
        ) from None
    if not words or not words[0]:
        raise ConfigError("has a cmd: without a program")
    return words


# --- fetching what it names --------------------------------------------------


class SecretSource(Protocol):
    """Where secrets come from: the host, or an in-memory twin in tests."""

    def ask(self, question: str) -> str:
        """Ask a person, without showing what is typed.

        Raises:
            ConfigError: Nobody can be asked.
        """
        ...

    def variable(self, name: str) -> str | None:
        """Return an environment variable."""
        ...

    def read_file(self, path: Path, *, limit: int = MAX_SECRET_SIZE) -> bytes:
        """Return a file's content.

        Raises:
            ConfigError: It cannot be read, others can read it, or it is longer
                than *limit* bytes and a line end.
        """
        ...

    def run(self, argv: tuple[str, ...], *, limit: int = MAX_SECRET_SIZE) -> bytes:
        """Run a program and return the beginning of what it prints.

        What it prints beyond *limit* bytes and a line end is not waited for.

        Raises:
            ConfigError: It failed, could not be run or took too long.
        """
        ...

    def keyring(self, name: str) -> str | None:
        """Return an entry of the keyring.

        Raises:
            HostError: There is no keyring here.
        """
        ...


def resolve(
    reference: Reference, source: SecretSource, *, question: str = "Password: "
) -> Secret | PasswordHash:
    """Fetch the secret that *reference* names.

    May wait for a person or a program. Call it once for each login that needs
    the secret anew.

    Args:
        reference: What to fetch.
        source: Where from.
        question: What a person is asked.

    Returns:
        A :class:`PasswordHash` for `hash:`, else a :class:`Secret`.

    Raises:
        ConfigError: It cannot be had, or is not what it should be; the text
            says what to do and holds nothing of the secret.
        HostError: There is no keyring here.
    """
    if isinstance(reference, HashOf):
        return _parse_hash(_fetch(reference.reference, source, question))
    return Secret(_fetch(reference, source, question))


def resolve_content(reference: Reference, source: SecretSource) -> bytes:
    """Fetch the private key that *reference* names: PEM, or anything else.

    Args:
        reference: What to fetch.
        source: Where from.

    Raises:
        ConfigError: It cannot be had; the text says what to do and holds nothing of it.
        HostError: There is no keyring here.
    """
    match reference:
        case SecretFile():
            content = source.read_file(reference.path, limit=MAX_CONTENT_SIZE)
        case Credential():
            path = _credential_path(reference, source)
            content = source.read_file(path, limit=MAX_CONTENT_SIZE)
        case CommandOutput():
            content = source.run(reference.argv, limit=MAX_CONTENT_SIZE)
        case Literal():
            content = reference.secret.reveal().encode("utf-8", "surrogateescape")
        case Environment():
            what = f"environment variable {reference.name}"
            content = _given(source.variable(reference.name), what)
        case Keyring():
            what = f"keyring entry {reference.name!r} of service 'sevpn'"
            content = _given(source.keyring(reference.name), what)
        case Prompt() | HashOf():
            raise ConfigError(
                "a private key can neither be typed nor be a hash: write file:PATH, cred:NAME or cmd:COMMAND"
            )
        case _:
            assert_never(reference)
    if len(content) > MAX_CONTENT_SIZE:
        raise ConfigError(f"the private key is longer than {MAX_CONTENT_SIZE} bytes")
    return content


def _given(text: str | None, what: str) -> bytes:
    if not text:
        raise ConfigError(f"{what} does not exist, or is empty")
    return text.encode("utf-8", "surrogateescape")


def _fetch(reference: Plain, source: SecretSource, question: str) -> str:
    match reference:
        case Prompt():
            # An empty password is a password; who is asked may mean it.
            return _checked(source.ask(question), "the answer")
        case Literal():
            return _checked(reference.secret.reveal(), "the literal secret")
        case SecretFile():
            return _only_line(source.read_file(reference.path), str(reference.path))
        case Environment():
            what = f"environment variable {reference.name}"
            return _present(source.variable(reference.name), what)
        case Credential():
            return _credential(reference, source)
        case CommandOutput():
            what = f"what {reference.argv[0]!r} printed"
            first = source.run(reference.argv).partition(b"\n")[0]
            return _only_line(first, what)
        case Keyring():
            what = f"keyring entry {reference.name!r} of service 'sevpn'"
            return _present(source.keyring(reference.name), what)
        case _:
            assert_never(reference)


def _credential(reference: Credential, source: SecretSource) -> str:
    path = _credential_path(reference, source)
    return _only_line(source.read_file(path), str(path))


def _credential_path(reference: Credential, source: SecretSource) -> Path:
    folder = source.variable("CREDENTIALS_DIRECTORY")
    if not folder:
        raise ConfigError(
            f"credential {reference.name!r} is not there: systemd passes it with LoadCredential="
        )
    return Path(folder) / reference.name


def _only_line(data: bytes, what: str) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{what} is not UTF-8 text") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if "\n" in text:
        raise ConfigError(f"{what} has several lines: the secret must be the only one")
    return _present(text, what)


def _present(text: str | None, what: str) -> str:
    if text is None:
        raise ConfigError(f"{what} does not exist")
    if not text:
        raise ConfigError(f"{what} is empty")
    return _checked(text, what)


def _checked(text: str, what: str) -> str:
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise ConfigError(f"{what} is not UTF-8 text") from None
    if size > MAX_SECRET_SIZE:
        raise ConfigError(f"{what} is longer than {MAX_SECRET_SIZE} bytes")
    if "\0" in text:
        raise ConfigError(f"{what} holds a NUL character")
    return text


def _parse_hash(text: str) -> PasswordHash:
    text = text.strip()
    try:
        # The lengths differ, 40 and 28, so that no text can be both.
        if len(text) == 2 * HASH_SIZE:
            octets = binascii.unhexlify(text)
        else:
            octets = base64.b64decode(text, validate=True)
    except ValueError:
        octets = b""
    if len(octets) != HASH_SIZE:
        raise ConfigError(
            "hash: names no password hash: it is 40 hex digits, or 20 bytes in base64"
        )
    return PasswordHash(octets)
