# SPDX-License-Identifier: Apache-2.0
"""Private namespaces: networks and mounts that nobody else on the host sees.

Layer: net. Runs in: the main thread of a process that has no other thread, since
the kernel refuses a new user namespace to a process with several.

Without root a user namespace comes first: inside it this user is root, which the
kernel allows or not (:func:`explain_refusal` says what stands in the way).

Source: unshare(2), user_namespaces(7); `os.unshare` exists from Python 3.12 on.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

from sevpn.errors import HostError, PrivilegeError

__all__ = [
    "cover_folder",
    "enter_private_namespaces",
    "explain_refusal",
    "has_root",
    "overlay_folder",
    "unshare_network",
]

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 0x40000
_CAP_SYS_ADMIN: Final = 21
_CAP_NET_ADMIN: Final = 12


def has_root() -> bool:
    """Whether this process may make namespaces without a user namespace."""
    wanted = 1 << _CAP_SYS_ADMIN | 1 << _CAP_NET_ADMIN
    return _effective_capabilities() & wanted == wanted


def enter_private_namespaces() -> None:
    """Move this process into a network and a mount namespace of its own.

    What is mounted from now on is seen by this process and its children alone.
    The new network has nothing but a loopback interface that is down.

    Raises:
        PrivilegeError: The kernel does not allow it; says what to do.
    """
    if has_root():
        _unshare(_CLONE_NEWNET | _CLONE_NEWNS)
    else:
        uid, gid = os.getuid(), os.getgid()
        _unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWNS)
        _become_root(uid, gid)
    _mount(None, Path("/"), _MS_REC | _MS_PRIVATE, None)


def unshare_network() -> None:
    """Move this process into one more network namespace; the mounts stay shared.

    Raises:
        PrivilegeError: The kernel does not allow it.
    """
    _unshare(_CLONE_NEWNET)


def cover_folder(target: Path) -> None:
    """Let *target* be an empty folder in memory, in this mount namespace.

    Raises:
        HostError: The kernel refuses.
    """
    _mount_or_explain("tmpfs", target, "mode=755")


def overlay_folder(target: Path, *, memory: Path) -> None:
    """Let changes below *target* go to memory, in this mount namespace.

    Args:
        target: Shows what it showed, and may be changed.
        memory: An empty folder on a tmpfs of this namespace.

    Raises:
        HostError: The kernel refuses; some need root for it.
    """
    upper, work = memory / "upper", memory / "work"
    upper.mkdir(parents=True)
    work.mkdir()
    own = "" if has_root() and not _is_in_user_namespace() else ",userxattr"
    options = f"lowerdir={target},upperdir={upper},workdir={work}{own}"
    _mount_or_explain("overlay", target, options)


def explain_refusal(number: int) -> str:
    """Return what to do when the kernel refuses namespaces with this errno."""
    if _setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "AppArmor restricts user namespaces here: run it with sudo"
    if _setting("kernel/unprivileged_userns_clone") == "0":
        return "kernel.unprivileged_userns_clone is 0: run it with sudo, or set it to 1"
    if number == errno.ENOSPC or _setting("user/max_user_namespaces") == "0":
        return "user.max_user_namespaces is used up: run it with sudo, or raise it"
    return "a container or a security policy forbids it: run it with sudo, outside of the container"


def _unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise PrivilegeError(
            f"private namespaces are refused ({os.strerror(number)}): {explain_refusal(number)}",
            operation="unshare",
        )


def _become_root(uid: int, gid: int) -> None:
    """Be root inside the new user namespace, which outside stays this very user."""
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    except OSError as error:
        raise PrivilegeError(
            f"the user namespace cannot be set up ({error.strerror}): {explain_refusal(error.errno or 0)}",
            operation="map-user",
        ) from error


def _mount(kind: str | None, target: Path, flags: int, options: str | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    encoded = [None if text is None else text.encode() for text in (kind, options)]
    if libc.mount(
        encoded[0], os.fsencode(target), encoded[0], ctypes.c_ulong(flags), encoded[1]
    ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def _mount_or_explain(kind: str, target: Path, options: str) -> None:
    try:
        _mount(kind, target, 0, options)
    except OSError as error:
        raise HostError(
            f"{target} cannot be made private ({error.strerror}): run it with sudo",
            operation="mount",
        ) from error


def _is_in_user_namespace() -> bool:
    """Whether root here is some user outside."""
    return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _setting(name: str) -> str | None:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return None
