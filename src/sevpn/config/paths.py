# SPDX-License-Identifier: Apache-2.0
"""Where sevpn's files lie: below /etc and /run for root, below XDG's for others.

Layer: config. Runs in: any thread. Looks at nothing and creates nothing: only
who asks makes the difference.

                root                    any other user
    config      /etc/sevpn              $XDG_CONFIG_HOME/sevpn, else ~/.config/sevpn
    runtime     /run/sevpn              $XDG_RUNTIME_DIR/sevpn, else /run/user/UID/sevpn

Source: docs/reference/profile.md#files; XDG Base Directory Specification 0.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sevpn.errors import ConfigError

__all__ = ["Paths"]


@dataclass(frozen=True, slots=True)
class Paths:
    """The folders of one user; none of them needs to exist."""

    config_dir: Path
    """Profiles, secret files and known servers."""

    runtime_dir: Path
    """Run state, control sockets and undo journals; gone after a reboot."""

    state_dir: Path
    """What must outlive a reboot: the locks."""

    @classmethod
    def for_user(cls, environ: Mapping[str, str], euid: int) -> Paths:
        """Return the folders of the user *euid*.

        Args:
            environ: The environment; of no account for root, so that `sudo -E`
                does not lead root into a user's folders.
            euid: The effective user id.

        Raises:
            ConfigError: Neither XDG_CONFIG_HOME nor HOME names a folder.
        """
        if euid == 0:
            return cls(Path("/etc/sevpn"), Path("/run/sevpn"), Path("/var/lib/sevpn"))
        runtime = _folder(environ, "XDG_RUNTIME_DIR") or Path(f"/run/user/{euid}")
        config = _folder(environ, "XDG_CONFIG_HOME")
        state = _folder(environ, "XDG_STATE_HOME")
        home = _folder(environ, "HOME")
        if config is None:
            if home is None:
                raise ConfigError(
                    "neither XDG_CONFIG_HOME nor HOME names a folder: set HOME"
                )
            config = home / ".config"
        if state is None:
            state = config if home is None else home / ".local/state"
        return cls(config / "sevpn", runtime / "sevpn", state / "sevpn")

    @property
    def profiles_dir(self) -> Path:
        """The folder of `NAME.toml`."""
        return self.config_dir / "profiles"

    @property
    def locks_dir(self) -> Path:
        """The folder of the locks' texts."""
        return self.state_dir / "lock"


def _folder(environ: Mapping[str, str], name: str) -> Path | None:
    # The XDG rules say to ignore a relative path.
    path = Path(environ.get(name, ""))
    return path if path.is_absolute() else None
