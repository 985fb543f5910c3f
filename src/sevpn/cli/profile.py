# SPDX-License-Identifier: Apache-2.0
"""`sevpn profile …`: saved settings, and those of the official client.

Layer: cli. Runs in: the main thread.

    add NAME TARGET     the options of `up`, saved      list, show, edit, remove
    import FILE         .vpn, or the official client's whole configuration
    export NAME --vpn   what its AccountImport takes
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from getpass import getpass
from pathlib import Path
from typing import Any, Final

import click

from sevpn.cli.common import Output, command as make_command, fold_common_options
from sevpn.cli.login import client_key
from sevpn.cli.options import given, tunnel_options
from sevpn.config.cfgtext import MAX_SIZE, Folder, read_text, write_text
from sevpn.config.hostsource import HostSource
from sevpn.config.paths import Paths
from sevpn.config.profile import (
    Settings,
    load_profile,
    profile_names,
    profile_path,
)
from sevpn.config.secret import PasswordHash, Prompt, Reference, Secret, resolve
from sevpn.config.store import (
    REST,
    PlannedProfile,
    plan_profile,
    remove_profile,
    replace_profile,
    settings_of_keys,
    toml_of,
    write_profile,
)
from sevpn.config.target import parse_target
from sevpn.config.vpnfile import (
    ExportSecrets,
    account_folders,
    export_account,
    import_account,
    name_accounts,
    profile_name,
)
from sevpn.errors import ConfigError
from sevpn.protocol.credentials import Password

__all__ = ["command"]

_COMMENT: Final = "A connection setting of SoftEther VPN, written by sevpn."


@click.group("profile")
def command() -> None:
    """Saved settings: what `sevpn up NAME` uses."""


fold_common_options(command)


def _paths() -> Paths:
    return Paths.for_user(os.environ, os.geteuid())


def _existing(name: str, paths: Paths) -> Path:
    path = profile_path(name, paths)
    if not path.exists():
        raise ConfigError(f"there is no profile {name!r} in {paths.profiles_dir}")
    return path


# --- add, list, show, edit, remove -------------------------------------------


@make_command("add")
@click.argument("name")
@click.argument("target")
@tunnel_options
@click.option("--replace", is_flag=True, help="Overwrite a profile of that name.")
@click.option(
    "--store-password",
    is_flag=True,
    help="Ask for the password now, and keep its hash in a file of mode 0600 beside the profile.",
)
def add(
    output: Output,
    name: str,
    target: str,
    replace: bool,
    store_password: bool,
    **values: Any,
) -> None:
    """Save TARGET and the options given as profile NAME."""
    paths = _paths()
    place = parse_target(target)
    keys: dict[str, object] = {"host": place.host, "port": place.port, "hub": place.hub}
    keys |= given(values)
    secrets: dict[str, Secret] = {}
    if store_password:
        reference, secrets = _stored_password(name, keys)
        keys["password"] = reference
    files = write_profile(paths, name, keys, secrets=secrets, replace=replace)
    output.answer(
        {"profile": name, "files": [str(file) for file in files]},
        f"saved as {files[-1]}; connect with `sevpn up {name}`",
    )


def _stored_password(
    name: str, keys: Mapping[str, object]
) -> tuple[str, dict[str, Secret]]:
    user = str(keys.get("user") or "")
    if not user or "password" in keys:
        raise ConfigError(
            "--store-password asks for the password of --user, instead of --password"
        )
    if not sys.stdin.isatty():
        raise ConfigError(
            "--store-password asks on a terminal, and there is none: give --password with a reference"
        )
    text = getpass(f"Password of {user}: ")
    file = f"{name}.password"
    if keys.get("auth") == "plain":
        return f"file:{file}", {file: Secret(text)}
    return f"hash:file:{file}", {file: Secret(Password.of(user, text).hashed.hex())}


@make_command("list")
def list_profiles(output: Output) -> None:
    """List the profiles."""
    paths = _paths()
    rows: list[dict[str, str | None]] = []
    for name in profile_names(paths):
        try:
            settings = load_profile(profile_path(name, paths))
        except ConfigError as error:
            rows.append(
                {
                    "name": name,
                    "target": None,
                    "user": None,
                    "login": None,
                    "error": str(error),
                }
            )
        else:
            rows.append(
                {
                    "name": name,
                    "target": str(settings.target),
                    "user": settings.user,
                    "login": settings.login,
                    "error": None,
                }
            )
    width = max((len(str(row["name"])) for row in rows), default=0)
    lines = [
        f"{row['name']:<{width}}  " + (row["error"] or f"{row['target']}  {_who(row)}")
        for row in rows
    ]
    output.answer(
        {"profiles": rows}, "\n".join(lines) or f"no profiles in {paths.profiles_dir}"
    )


def _who(row: Mapping[str, str | None]) -> str:
    return row["user"] or (
        "(anonymous)" if row["login"] == "anonymous" else "(no user yet)"
    )


@make_command("show")
@click.argument("name")
def show(output: Output, name: str) -> None:
    """Print profile NAME; a secret that stands in it is left out."""
    path = _existing(name, _paths())
    load_profile(path)  # in its words, if it is wrong
    keys = {
        key: _without_literal(value)
        for key, value in tomllib.loads(path.read_text("utf-8")).items()
    }
    output.answer(
        {"name": name, "file": str(path), "keys": keys}, toml_of(keys).rstrip("\n")
    )


def _without_literal(value: object) -> object:
    if isinstance(value, str) and value.startswith(("literal:", "hash:literal:")):
        return value[: value.index("literal:") + len("literal:")] + "…"
    return value


@make_command("edit")
@click.argument("name")
def edit(output: Output, name: str) -> None:
    """Open profile NAME in $VISUAL or $EDITOR; what is wrong is not saved."""
    path = _existing(name, _paths())
    before = path.read_text("utf-8")
    text = before
    while True:
        edited = click.edit(text, extension=".toml", require_save=False)
        text = text if edited is None else edited
        if text == before:
            output.answer({"profile": name, "changed": False}, "nothing was changed")
            return
        try:
            _check(text, path)
        except ConfigError as error:
            if not (
                sys.stdin.isatty()
                and click.confirm(f"{error}\nEdit again?", default=True, err=True)
            ):
                raise
        else:
            break
    replace_profile(path, text)
    output.answer({"profile": name, "changed": True}, f"{path} was changed")


def _check(text: str, path: Path) -> None:
    try:
        keys = tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(f"it is no TOML: {error}") from None
    settings_of_keys(keys, path)


@make_command("remove")
@click.argument("name")
def remove(output: Output, name: str) -> None:
    """Remove profile NAME, and the secret files that sevpn wrote for it."""
    files = remove_profile(_paths(), name)
    output.answer(
        {"removed": [str(file) for file in files]},
        "removed " + ", ".join(str(file) for file in files),
    )


# --- import ------------------------------------------------------------------


@make_command("import")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--name", metavar="NAME", help="What to call the profile.")
@click.option("--replace", is_flag=True, help="Overwrite a profile of that name.")
def import_file(output: Output, file: Path, name: str | None, replace: bool) -> None:
    """Make a profile of a .vpn file, or one of each account of the official client.

    Its configuration is vpn_client.config. Passwords and keys go to files of mode 0600 beside
    the profile; what has no meaning here is kept for `profile export`.
    """
    paths = _paths()
    attempts = _plan_accounts(file, name, paths, replace=replace)
    for one in attempts:
        one.write()
    refused = [one for one in attempts if one.refusal]
    if refused and len(attempts) == 1:
        raise ConfigError(f"{file} {refused[0].refusal}")
    output.answer(
        {
            "imported": [one.answer() for one in attempts if not one.refusal],
            "refused": [
                {"account": one.label, "reason": one.refusal} for one in refused
            ],
        },
        "\n".join(line for one in attempts for line in one.lines()),
    )
    if refused:
        raise ConfigError(
            f"{file}: {len(refused)} of {len(attempts)} accounts could not be imported "
            f"({', '.join(repr(one.label)[:70] for one in refused[:8])}): the reason is said with each"
        )


@dataclass
class _Attempt:
    """An account on its way to a profile: refused as soon as there is a refusal."""

    label: str
    name: str
    is_renamed: bool = False
    planned: PlannedProfile | None = None
    files: list[Path] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    refusal: str = ""

    def write(self) -> None:
        if self.planned is not None:
            try:
                self.files = self.planned.write()
            except ConfigError as error:
                self.refusal = f"is not imported: {error}"

    def answer(self) -> dict[str, object]:
        return {
            "profile": self.name,
            "files": [str(path) for path in self.files],
            "notices": self.notices,
        }

    def lines(self) -> list[str]:
        if self.refusal:
            return [f"{self.label!r} was not imported: it {self.refusal}"]
        return [
            f"{self.name}: saved as {self.files[-1]}",
            *(f"  {notice}" for notice in self.notices),
        ]


def _plan_accounts(
    file: Path, name: str | None, paths: Paths, *, replace: bool
) -> list[_Attempt]:
    """Look at all accounts before one is written."""
    try:
        accounts = account_folders(read_text(_read_bounded(file)))
    except ConfigError as error:
        raise ConfigError(f"{file} {error}") from None
    if name is not None and len(accounts) > 1:
        raise ConfigError(f"{file} has {len(accounts)} accounts: leave out --name")
    return [
        _plan_account(
            account,
            _Attempt(
                label, name or own, is_renamed=not name and own != profile_name(label)
            ),
            paths,
            replace=replace,
        )
        for account, (label, own) in zip(accounts, name_accounts(accounts), strict=True)
    ]


def _plan_account(
    account: Folder, attempt: _Attempt, paths: Paths, *, replace: bool
) -> _Attempt:
    try:
        one = import_account(account, name=attempt.name)
    except ConfigError as error:
        attempt.refusal = str(error)
        return attempt
    attempt.notices = list(one.notices)
    if attempt.is_renamed:
        attempt.notices.append(
            f"another account of the file has the same name as a profile: this is {attempt.label!r}"
        )
    try:
        attempt.planned = plan_profile(
            paths,
            one.name,
            one.keys,
            secrets=one.secrets,
            rest=write_text(one.rest, comment="Kept from an import, for an export."),
            replace=replace,
            may_lack_user=True,
        )
    except ConfigError as error:
        attempt.refusal = f"makes no profile: {error}"
    return attempt


def _read_bounded(file: Path) -> bytes:
    try:
        if str(file) == "-":
            return sys.stdin.buffer.read(MAX_SIZE + 1)
        with file.open("rb") as stream:
            return stream.read(MAX_SIZE + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}") from error


# --- export ------------------------------------------------------------------


@make_command("export")
@click.argument("name")
@click.option(
    "--vpn", "as_vpn", is_flag=True, help="As the official client's .vpn file."
)
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path),
    help="Write to this file, of mode 0600. [standard output]",
)
@click.option("--no-secrets", is_flag=True, help="Leave out passwords and keys.")
def export(
    output: Output, name: str, as_vpn: bool, target: Path | None, no_secrets: bool
) -> None:
    """Print profile NAME, or write it to a file.

    With --vpn it is what the official client's AccountImport takes; its passwords are
    hidden there from nobody who wants to know them, so keep the file like a password.
    """
    paths = _paths()
    path = _existing(name, paths)
    settings = load_profile(path)
    settings.check()
    if not as_vpn:
        _deliver(path.read_bytes(), target)
        return
    secrets = ExportSecrets() if no_secrets else _secrets_of(settings, output)
    account, notices = export_account(
        settings, name=name, secrets=secrets, rest=_rest_of(path)
    )
    _deliver(write_text(account, comment=_COMMENT), target)
    for notice in notices:
        output.note(f"sevpn: {notice}")


def _deliver(data: bytes, target: Path | None) -> None:
    if target is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(data)
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from error


def _rest_of(path: Path) -> Folder | None:
    file = path.with_suffix(f".{REST}")
    try:
        return read_text(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ConfigError) as error:
        raise ConfigError(f"{file} {error}: remove it") from None


def _secrets_of(settings: Settings, output: Output) -> ExportSecrets:
    certificate, key = _certificate_of(settings, output)
    secret = _resolved(settings.password, output)
    digest: bytes | None = None
    if isinstance(secret, PasswordHash):
        digest = secret.reveal()
    elif secret is not None:
        digest = Password.of(settings.user or "", secret.reveal()).hashed
    told = _resolved(settings.proxy_password, output)
    return ExportSecrets(
        password_hash=digest,
        password=secret if isinstance(secret, Secret) else None,
        certificate=certificate,
        key=key,
        proxy_password=told if isinstance(told, Secret) else None,
        has_kept=True,
    )


def _certificate_of(
    settings: Settings, output: Output
) -> tuple[bytes | None, bytes | None]:
    if settings.cert is None:
        return None, None
    source = HostSource(os.environ, ask=getpass if sys.stdin.isatty() else None)
    try:
        found = client_key(settings, settings.cert, source)
    except ConfigError as error:
        output.note(f"sevpn: certificate and key are left out: {error}")
        return None, None
    return found.certificate, found.export()


def _resolved(
    reference: Reference | None, output: Output
) -> Secret | PasswordHash | None:
    """Return a secret; one that is asked for at each login has no place in a file."""
    if reference is None or isinstance(reference, Prompt):
        return None
    try:
        return resolve(reference, HostSource(os.environ, ask=None), question="")
    except ConfigError as error:
        output.note(f"sevpn: a secret is left out: {error}")
        return None


for _subcommand in (add, list_profiles, show, edit, remove, import_file, export):
    command.add_command(_subcommand)
