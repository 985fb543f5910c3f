# SPDX-License-Identifier: Apache-2.0
"""Who this installation is to a hub: the same each time, and no one else's.

Layer: net. Runs in: the main thread, before a tunnel starts.

    seed        /etc/machine-id, else /var/lib/dbus/machine-id,
                else the boot's id with the host name
    unique id   HMAC-SHA-256(seed, "unique-id" and the tunnel's name), 16 bytes
    MAC         5e and 5 bytes of HMAC-SHA-256(seed, "mac" and the tunnel's name)

Both stay the same over restarts, so that a half-dead session of ours does not
count as a second login, and leases and neighbour tables keep their sense. Where a
system has no machine-id (some containers), nothing is written to make up for it:
the identity then lasts until the next boot.

The machine-id itself must not leave the machine (machine-id(5)); a keyed hash of
it tells nothing about it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
from pathlib import Path
from typing import Final

from sevpn.wire.ethernet import MacAddress

__all__ = ["machine_digest", "machine_seed", "stable_mac", "unique_id"]

_MACHINE_ID: Final = re.compile(rb"[0-9a-f]{32}")

_MAC_PREFIX: Final = b"\x5e"
"""Locally administered, unicast, and what SoftEther's own adapters begin with. Hubs
take 00:AE for themselves and treat CA and DA specially."""


def machine_seed(root: Path = Path("/")) -> bytes:
    """Return what tells this machine from others; a secret of the machine.

    Args:
        root: The root folder, for tests.
    """
    for name in ("etc/machine-id", "var/lib/dbus/machine-id"):
        content = _read(root / name)
        if _MACHINE_ID.fullmatch(content):
            return content
    boot = _read(root / "proc/sys/kernel/random/boot_id")
    # Containers share the boot's id with their host and have a name of their own.
    return b"boot " + boot + b" " + socket.gethostname().encode()


def unique_id(tunnel: str, *, seed: bytes) -> bytes:
    """Return the 16 bytes that tell the server one client from another."""
    return _derive(seed, "unique-id", tunnel)[:16]


def stable_mac(tunnel: str, *, seed: bytes) -> MacAddress:
    """Return the hardware address of the tunnel's TAP."""
    return MacAddress(_MAC_PREFIX + _derive(seed, "mac", tunnel)[:5])


def machine_digest(*, seed: bytes) -> bytes:
    """Return the 20 bytes that stand for this machine in a login."""
    return _derive(seed, "machine", "")[:20]


def _derive(seed: bytes, purpose: str, tunnel: str) -> bytes:
    return hmac.digest(seed, f"sevpn {purpose}\0{tunnel}".encode(), hashlib.sha256)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(256).strip()
    except OSError:
        return b""
