# SPDX-License-Identifier: Apache-2.0
"""Passwords that an import has saved, as files beside their profiles.

Layer: config. Runs in: the control thread.

    profiles/NAME.toml                 password = "file:NAME.imported-password"
    profiles/NAME.imported-password    one line; mode 0600

The ending of the name says who wrote the file. A hub may forbid its users to store
the password (policy NoSavePassword); what the import of a file saved without being
told to is then removed, and what a person has put anywhere is left alone.

Source: docs/reference/files.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sevpn.config.secret import HashOf, Reference, SecretFile
from sevpn.errors import ConfigError

__all__ = ["IMPORTED", "forget_secret", "saved_secret_file"]

IMPORTED: Final = "imported-password"
"""The ending, after a dot, of files with passwords that an import has written."""


def saved_secret_file(reference: Reference | None) -> Path | None:
    """Return the file that *reference* names, if an import has written it."""
    plain = reference.reference if isinstance(reference, HashOf) else reference
    if isinstance(plain, SecretFile) and plain.path.name.endswith(f".{IMPORTED}"):
        return plain.path
    return None


def forget_secret(path: Path) -> bool:
    """Remove the file; return whether it was there.

    Raises:
        ConfigError: It cannot be removed.
    """
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(f"cannot remove {path}: {error.strerror}") from error
    return True
