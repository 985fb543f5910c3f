# SPDX-License-Identifier: Apache-2.0
"""The kernel's reverse path filter, where it would drop answers to the tunnel's own sockets.

Layer: net. Runs in: the control thread, in the namespace of the routes.

A strict filter (`rp_filter` 1) asks by which way it would answer a packet, without the
mark of the socket that the packet is for: in `mark` mode that way is the tunnel, and
the server's packets, which come by the uplink, are dropped. A loose one (2) only asks
whether there is any way. So the uplink is made loose for as long as the tunnel lives;
what it was is in the journal before.

The value that counts is the larger one of `all` and the interface's own.

Source: Documentation/networking/ip-sysctl.rst of the kernel; RFC 3704.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Final

from sevpn.errors import HostError

__all__ = ["LOOSE", "loosen", "restore", "strict_devices"]

_SETTINGS: Final = Path("/proc/sys/net/ipv4/conf")
LOOSE: Final = 2
"""The value that only asks whether there is any way."""

_STRICT: Final = 1
_NAME: Final = re.compile(r"[^/\s]{1,15}")


def strict_devices(devices: Iterable[str]) -> dict[str, int]:
    """Return those of *devices* whose filter is strict, with the value of their own."""
    everywhere = _read("all")
    found: dict[str, int] = {}
    for device in devices:
        own = _read(device)
        if max(everywhere, own) == _STRICT:
            found[device] = own
    return found


def loosen(devices: Collection[str]) -> None:
    """Make the filter of *devices* loose.

    Raises:
        HostError: The setting cannot be written; the text says what to do.
    """
    for device in devices:
        try:
            (_SETTINGS / device / "rp_filter").write_text(str(LOOSE), encoding="ascii")
        except OSError as error:
            raise HostError(
                f"the reverse path filter of {device} is strict, which drops the server's answers, and it cannot be "
                f"changed ({error.strerror}): set net.ipv4.conf.{device}.rp_filter to 2, or use --route-mode host",
                operation="loosen-filter",
            ) from error


def restore(before: Mapping[str, int]) -> None:
    """Give devices back the value that they had, unless somebody has set another since.

    Raises:
        HostError: The setting cannot be written.
    """
    for device, value in before.items():
        if not _NAME.fullmatch(device) or _read(device) != LOOSE:
            continue
        try:
            (_SETTINGS / device / "rp_filter").write_text(str(value), encoding="ascii")
        except FileNotFoundError:
            continue  # it went this very moment
        except OSError as error:
            raise HostError(
                f"the reverse path filter of {device} cannot be set back to {value}: {error.strerror}",
                operation="restore-filter",
            ) from error


def _read(device: str) -> int:
    try:
        return int((_SETTINGS / device / "rp_filter").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
