# SPDX-License-Identifier: Apache-2.0
"""Which running tunnel a command means."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, overload

from sevpn.cli.common import nearest
from sevpn.config.paths import Paths
from sevpn.control import client
from sevpn.errors import ConfigError, ControlError

__all__ = ["chosen", "run_folders"]


def run_folders() -> tuple[Path, ...]:
    """Return the folders where running tunnels may be found: one's own, then root's."""
    own = Paths.for_user(os.environ, os.geteuid()).runtime_dir
    system = Paths.for_user({}, 0).runtime_dir
    return (own,) if own == system else (own, system)


@overload
def chosen(name: str | None, *, required: Literal[True]) -> tuple[str, Path]: ...
@overload
def chosen(
    name: str | None, *, required: Literal[False]
) -> tuple[str, Path] | None: ...
def chosen(name: str | None, *, required: bool) -> tuple[str, Path] | None:
    """Return the tunnel called *name*, or the only one, with its control socket.

    Raises:
        ControlError: *required*, and it does not run.
        ConfigError: No *name* was given, and several run.
    """
    if (
        name is not None
        and (path := client.socket_path(run_folders(), name)) is not None
    ):
        return name, path
    found = client.running(run_folders())
    if name is None and len(found) == 1:
        return next(iter(found.items()))
    if name is None and len(found) > 1:
        raise ConfigError(f"several tunnels run: name one of {', '.join(found)}")
    if not required:
        return None
    if name is None:
        raise ControlError("no tunnel runs: 'sevpn up TARGET' starts one")
    raise ControlError(
        f"no tunnel {name!r} runs{nearest(name, list(found))}: 'sevpn status' lists what runs"
    )
