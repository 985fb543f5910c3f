# SPDX-License-Identifier: Apache-2.0
"""Profiles on disk: written, replaced and removed with what belongs to them.

Layer: config. Runs in: the main thread.

    NAME.toml             the keys                        0600
    NAME.password         a secret file, named by a key   0600
    NAME.imported-password, NAME.proxy-password, NAME.crt, NAME.key: likewise
    NAME.vpn-rest         what an import had no key for   0600

Each file is written beside its place and renamed, so that no reader sees half of
one. All of a profile's files are written before the first is renamed, and secrets
come before the profile that refers to them.

Source: docs/reference/files.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets as randomness
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from sevpn.config.keys import KEYS, Origin, read_key, unknown_key
from sevpn.config.paths import Paths
from sevpn.config.profile import MAX_PROFILE_SIZE, Settings, profile_path
from sevpn.config.savedsecret import IMPORTED
from sevpn.config.secret import Secret
from sevpn.errors import ConfigError

__all__ = [
    "COMPANIONS",
    "REST",
    "PlannedProfile",
    "plan_profile",
    "remove_profile",
    "replace_profile",
    "settings_of_keys",
    "toml_of",
    "write_profile",
]

REST: Final = "vpn-rest"
"""The suffix of what an import had no key for."""

COMPANIONS: Final = ("password", IMPORTED, "proxy-password", "crt", "key", REST)
"""Suffixes of the files that are removed with a profile: those that sevpn itself writes."""

_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600


def toml_of(keys: Mapping[str, object]) -> str:
    """Return a profile's text, its keys in the order of the reference page."""
    order = {name: place for place, name in enumerate(KEYS)}
    lines = [
        f"{name} = {_toml_value(keys[name])}"
        for name in sorted(keys, key=lambda name: order.get(name, len(order)))
    ]
    return "".join(line + "\n" for line in lines)


def _toml_value(value: object) -> str:
    match value:
        case bool() | int() | float():
            return json.dumps(value)
        case list() | tuple():
            items = cast("Sequence[object]", value)
            return f"[{', '.join(map(_toml_value, items))}]"
        case _:
            # A text of JSON is one of TOML but for DEL, which TOML wants escaped, too.
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


@dataclass(frozen=True, slots=True)
class PlannedProfile:
    """A profile that was looked at and can be written: :meth:`write` does."""

    path: Path
    """Where it will stand."""

    text: bytes
    """Its keys."""

    contents: Mapping[str, bytes]
    """Its secret files and the rest, by file name."""

    def write(self) -> list[Path]:
        """Write all of it, or nothing; return the files, the profile last.

        What an earlier profile of that name left beside it and this one does not
        refer to is removed: a secret of nobody.

        Raises:
            ConfigError: A file cannot be written.
        """
        written = _write_all(
            {
                **{
                    self.path.with_name(name): data
                    for name, data in self.contents.items()
                },
                self.path: self.text,
            }
        )
        for suffix in COMPANIONS:
            file = self.path.with_name(f"{self.path.stem}.{suffix}")
            if file not in written and file.name.encode("utf-8") not in self.text:
                with contextlib.suppress(FileNotFoundError):
                    _remove(file)
        return written


def settings_of_keys(
    keys: Mapping[str, object], path: Path, *, may_lack_user: bool = False
) -> Settings:
    """Return what keys mean, as if they stood in the profile *path*.

    Args:
        keys: As TOML has them.
        path: Where they stand, or will.
        may_lack_user: Whether `user` may be given later, in the profile or to `up`.

    Raises:
        ConfigError: There is no such key, a value is wrong, or two contradict each other.
    """
    origin = Origin("profile", path)
    fields: dict[str, Any] = {}
    for name, value in keys.items():
        if name not in KEYS:
            raise unknown_key(name, origin)
        fields[name] = read_key(name, value, origin)
    if "host" not in fields:
        raise ConfigError(f"'host' is missing in {path}: name the server")
    fields["name"] = path.stem
    settings = Settings(**fields)
    if may_lack_user and settings.user is None:
        msgspec.structs.replace(settings, user="somebody").check()
    else:
        settings.check()
    return settings


def plan_profile(
    paths: Paths,
    name: str,
    keys: Mapping[str, object],
    *,
    secrets: Mapping[str, Secret],
    rest: bytes | None = None,
    replace: bool = False,
    may_lack_user: bool = False,
) -> PlannedProfile:
    """Return a profile and its secret files, ready to be written.

    Args:
        paths: Where profiles are.
        name: Of the profile.
        keys: As TOML has them.
        secrets: Contents of secret files, by file name.
        rest: What an import had no key for.
        replace: Whether there may be a profile of that name already.
        may_lack_user: Whether `user` may be given later.

    Raises:
        ConfigError: The name or a key is wrong, or the profile exists.
    """
    path = profile_path(name, paths)
    settings_of_keys(keys, path, may_lack_user=may_lack_user)
    text = toml_of(keys).encode("utf-8")
    if len(text) > MAX_PROFILE_SIZE:
        raise ConfigError(f"the profile would be longer than {MAX_PROFILE_SIZE} bytes")
    if not replace and path.exists():
        raise ConfigError(
            f"there is a profile {name!r} already: give another --name, or --replace to overwrite it"
        )
    contents = {
        file: secret.reveal().encode("utf-8") for file, secret in secrets.items()
    }
    if rest is not None:
        contents[f"{name}.{REST}"] = rest
    return PlannedProfile(path, text, contents)


def write_profile(
    paths: Paths,
    name: str,
    keys: Mapping[str, object],
    *,
    secrets: Mapping[str, Secret],
    replace: bool = False,
) -> list[Path]:
    """Write a profile and its secret files; nothing is written if any of it is wrong.

    The arguments and errors are those of :func:`plan_profile` and of
    :meth:`PlannedProfile.write`; returned are the files that were written.
    """
    return plan_profile(paths, name, keys, secrets=secrets, replace=replace).write()


def replace_profile(path: Path, text: str) -> None:
    """Write a profile as it was edited.

    Raises:
        ConfigError: It cannot be written.
    """
    _write_all({path: text.encode("utf-8")})


def remove_profile(paths: Paths, name: str) -> list[Path]:
    """Remove a profile and the files that sevpn wrote for it; return which.

    Raises:
        ConfigError: There is none, or a file cannot be removed.
    """
    path = profile_path(name, paths)
    if not path.exists():
        raise ConfigError(f"there is no profile {name!r} in {paths.profiles_dir}")
    removed: list[Path] = []
    # The profile first: without it the others mean nothing.
    for file in (path, *(path.with_name(f"{name}.{suffix}") for suffix in COMPANIONS)):
        try:
            _remove(file)
        except FileNotFoundError:
            continue
        removed.append(file)
    return removed


def _remove(file: Path) -> None:
    try:
        file.unlink()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"cannot remove {file}: {error.strerror}") from error


def _write_all(contents: Mapping[Path, bytes]) -> list[Path]:
    """Write files; what can fail for want of room or rights comes before the first rename."""
    staged: dict[Path, Path] = {}
    try:
        for path, data in contents.items():
            temporary = path.with_name(f".{path.name}.{randomness.token_hex(4)}")
            staged[path] = temporary
            _write_new(temporary, data, path)
        _rename_all(staged)
    finally:
        for temporary in staged.values():
            with contextlib.suppress(OSError):
                temporary.unlink()
    return list(contents)


def _rename_all(staged: Mapping[Path, Path]) -> None:
    """Put written files into their places; those that were not there go if one cannot be put."""
    fresh: list[Path] = []
    for path, temporary in staged.items():
        is_fresh = not path.exists()
        try:
            temporary.replace(path)
        except OSError as error:
            for file in fresh:
                with contextlib.suppress(OSError):
                    file.unlink()
            raise ConfigError(f"cannot write {path}: {error.strerror}") from error
        if is_fresh:
            fresh.append(path)


def _write_new(temporary: Path, data: bytes, path: Path) -> None:
    try:
        path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
