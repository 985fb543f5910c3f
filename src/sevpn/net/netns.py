# SPDX-License-Identifier: Apache-2.0
"""Work in another network namespace, while this process stays where it is.

Layer: net. Runs in: one thread of its own per namespace, for whoever calls; the
caller waits, so that nothing runs at the same time.

A network namespace belongs to a thread. A socket, and a TAP, keep the one that they
were opened in, whoever uses them later. So one thread moves into the namespace, and
all that is done to its network is done by that thread:

    control thread                        thread in NAME
      Supervisor ──> HostInNamespace ──run──> Host: TAP, addresses, routes, firewall
      transport: sockets to the server        programs that it starts
                                              /proc/sys/net

`ip netns exec NAME` shows a program the files below /etc/netns/NAME in place of those
below /etc; name servers are therefore set in /etc/netns/NAME/resolv.conf.

Source: setns(2), network_namespaces(7), ip-netns(8).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

from sevpn.errors import HostError, PrivilegeError

if TYPE_CHECKING:
    from sevpn.net.host import Host

__all__ = ["NetworkNamespace", "etc_folders", "host_in"]

P = ParamSpec("P")
T = TypeVar("T")

_NAMED: Final = Path("/run/netns")
"""Where `ip netns add` puts the names."""

_ETC: Final = Path("/etc/netns")

_MAX_FOLDERS: Final = 1024
_CLONE_NEWNET: Final = 0x40000000


class NetworkNamespace:
    """A network namespace, by its name or its file.

    Nothing is looked at before :meth:`run`: the thread must not exist yet when a
    process forks.

    Args:
        text: A name that `ip netns list` shows, or a path with a `/` in it, such as
            /proc/PID/ns/net.
    """

    def __init__(self, text: str) -> None:
        self.path = Path(text) if "/" in text else _NAMED / text
        """The file that stands for it."""
        self._thread: ThreadPoolExecutor | None = None

    @property
    def is_entered(self) -> bool:
        """Whether the thread is inside."""
        return self._thread is not None

    @property
    def etc(self) -> Path | None:
        """The folder of its resolv.conf; `None` for a namespace without a name."""
        name = self.path.name
        return _ETC / name if self.path == _NAMED / name else None

    def run(
        self, function: Callable[P, T], /, *arguments: P.args, **named: P.kwargs
    ) -> T:
        """Call *function* inside, and return what it returns or raise what it raises.

        Raises:
            HostError: There is no such namespace.
            PrivilegeError: No permission to enter it.
        """
        if self._thread is None:
            thread = ThreadPoolExecutor(1, thread_name_prefix="sevpn-netns")
            try:
                thread.submit(_enter, self.path).result()
            except BaseException:
                thread.shutdown()
                raise
            self._thread = thread
        return self._thread.submit(function, *arguments, **named).result()

    def is_same_as(self, identity: str) -> bool:
        """Whether it is the one that :func:`sevpn.net.journal.network_namespace` called so."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        return f"{status.st_dev}:{status.st_ino}" == identity

    def close(self) -> None:
        """End the thread; safe to call again, and :meth:`run` begins another."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None


def host_in(namespace: NetworkNamespace, host: Host) -> Host:
    """Return *host* such that all that is asked of it is done inside *namespace*.

    Args:
        namespace: Where; left when the host is closed.
        host: Made with the namespace's file and its `etc`, and not used directly.
    """
    # It has no method of its own but `close`: whatever Host can, this one can.
    return cast("Host", _Moved(namespace, host))


class _Moved:
    """Stands in for a Host; each access and each call is carried out inside."""

    def __init__(self, namespace: NetworkNamespace, host: Host) -> None:
        self._namespace = namespace
        self._host = host

    def __getattr__(self, name: str) -> Any:
        value = self._namespace.run(getattr, self._host, name)
        if not callable(value):
            return value

        def call(*arguments: Any, **named: Any) -> Any:
            return self._namespace.run(value, *arguments, **named)

        return call

    def close(self) -> None:
        """Close the host and leave the namespace, if it was ever entered."""
        if self._namespace.is_entered:
            self._namespace.run(self._host.close)
            self._namespace.close()


def etc_folders(root: Path = _ETC) -> list[Path]:
    """Return the folders of files for namespaces, those of living namespaces and others."""
    try:
        return sorted(path for path in root.iterdir() if path.is_dir())[:_MAX_FOLDERS]
    except OSError:
        return []


def _enter(path: Path) -> None:
    """Move the calling thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot_enter(path, error.errno or 0) from error
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise _cannot_enter(path, ctypes.get_errno())
    finally:
        os.close(descriptor)


def _cannot_enter(path: Path, number: int) -> HostError:
    if number in {errno.EPERM, errno.EACCES}:
        return PrivilegeError(
            f"no permission to enter the network namespace {path}: run sevpn with sudo",
            operation="enter-netns",
        )
    if number in {errno.ENOENT, errno.ENOTDIR}:
        hint = (
            f"make it with `ip netns add {path.name}`"
            if path.parent == _NAMED
            else "give --netns a name of `ip netns list`, or a path such as /proc/PID/ns/net"
        )
        return HostError(
            f"there is no network namespace {path}: {hint}", operation="enter-netns"
        )
    reason = (
        "it is no network namespace" if number == errno.EINVAL else os.strerror(number)
    )
    return HostError(
        f"cannot enter {path}: {reason}; give --netns a name of `ip netns list`, or a path such as /proc/PID/ns/net",
        operation="enter-netns",
    )
