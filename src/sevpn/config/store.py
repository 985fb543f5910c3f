# SPDX-License-Identifier: Apache-2.0
"""Profiles on disk: written, replaced and removed with what belongs to them.

Layer: config. Runs in: the main thread.

    NAME.toml             the keys                        0600
    NAME.password         a secret file, named by a key   0600
    NAME.imported-password, NAME.proxy-password, NAME.crt, NAME.key: likewise
    NAME.vpn-rest         what an import had no key for   0600

Each file is written beside its place and renamed, so that no reader sees half of
one, and secrets come before the profile that refers to them.

Source: docs/reference/files.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets as randomness
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from sevpn.config.keys import KEYS, Origin, read_key, unknown_key
from sevpn.config.paths import Paths
from sevpn.config.profile import MAX_PROFILE_SIZE, Settings, profile_path
from sevpn.config.savedsecret import IMPORTED
from sevpn.config.secret import Secret
from sevpn.errors import ConfigError

__all__ = [
    "COMPANIONS",
    "REST",
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


def settings_of_keys(keys: Mapping[str, object], path: Path) -> Settings:
    """Return what keys mean, as if they stood in the profile *path*.

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
    settings.check()
    return settings


def write_profile(
    paths: Paths,
    name: str,
    keys: Mapping[str, object],
    *,
    secrets: Mapping[str, Secret],
    rest: bytes | None = None,
    replace: bool = False,
) -> list[Path]:
    """Write a profile and its secret files; nothing is written if any of it is wrong.

    Args:
        paths: Where profiles are.
        name: Of the profile.
        keys: As TOML has them.
        secrets: Contents of secret files, by file name.
        rest: What an import had no key for.
        replace: Whether there may be a profile of that name already.

    Returns:
        The files that were written.

    Raises:
        ConfigError: The name or a key is wrong, the profile exists, or a file cannot
            be written.
    """
    path = profile_path(name, paths)
    settings_of_keys(keys, path)
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
    written = [_write(path.with_name(file), data) for file, data in contents.items()]
    return [*written, _write(path, text)]


def replace_profile(path: Path, text: str) -> None:
    """Write a profile as it was edited.

    Raises:
        ConfigError: It cannot be written.
    """
    _write(path, text.encode("utf-8"))


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
            file.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigError(f"cannot remove {file}: {error.strerror}") from error
        removed.append(file)
    return removed


def _write(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{randomness.token_hex(4)}")
    try:
        path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    return path
