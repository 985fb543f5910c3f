# SPDX-License-Identifier: Apache-2.0
"""One thread with a network and a mount table of its own, for tests of the host.

Layer: testing. Runs in: any thread; makes one more.

A namespace belongs to a thread, so a test can leave the machine's network alone
without being another process: what runs under :func:`sandboxed`, and the programs
that it starts, see an empty network (`lo` up) and may mount what they like. Both
are gone with the thread. Needs root.

    eth0 ── peer of eth0    an uplink: a pair of virtual cards, both here
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any, Final, ParamSpec

__all__ = ["add_uplink", "ip", "ip_json", "mount", "sandboxed", "wait_until_up"]

P = ParamSpec("P")

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWNET: Final = 0x40000000
_MS_REC_PRIVATE: Final = 0x4000 | 0x40000

_SETTLE_S: Final = 5.0

_libc: Final = ctypes.CDLL(None, use_errno=True)


def sandboxed(function: Callable[P, None]) -> Callable[P, None]:
    """Run *function* in a thread of its own with a network and mounts of its own."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        failures: list[BaseException] = []

        def body() -> None:
            try:
                _call("unshare", _libc.unshare(_CLONE_NEWNET | _CLONE_NEWNS))
                _call("mount", _libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None))
                ip("link set lo up")
                function(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - raised again below, where it belongs
                failures.append(error)

        thread = threading.Thread(target=body, name=f"sandbox of {function.__name__}")
        thread.start()
        thread.join()
        if failures:
            raise failures[0]

    return run


def ip(arguments: str) -> str:
    """Run `ip` with *arguments*, separated by blanks, and return what it writes."""
    done = subprocess.run(
        ["ip", *arguments.split()], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise AssertionError(f"ip {arguments}: {done.stderr.strip()}")
    return done.stdout


def ip_json(arguments: str) -> list[dict[str, Any]]:
    """Run `ip -j` with *arguments* and return its objects."""
    answer: list[dict[str, Any]] = json.loads(ip(f"-j {arguments}") or "[]")
    return answer


def add_uplink(
    name: str, address: str, *, gateway: str | None = None, metric: int = 0
) -> None:
    """Add a virtual card with a cable, an address and perhaps a default route.

    Args:
        name: Of the card; the other end of its cable is `NAME-peer`, up, without address.
        address: With prefix length.
        gateway: The default route's next hop.
        metric: The default route's metric.
    """
    version = "-6 " if ":" in address else ""
    if not any(link["ifname"] == name for link in ip_json("link")):
        ip(f"link add {name} type veth peer name {name}-peer")
        ip(f"link set {name}-peer up")
        ip(f"link set {name} up")
        wait_until_up(name, f"{name}-peer")
    ip(f"address add {address} dev {name}" + (" nodad" if version else ""))
    if gateway is not None:
        wanted = f" metric {metric}" if metric else ""
        ip(f"{version}route add default via {gateway} dev {name}{wanted}")


def wait_until_up(*names: str) -> None:
    """Wait until the kernel's worker has noticed the carriers: it takes milliseconds."""
    deadline = time.monotonic() + _SETTLE_S
    while any(
        link["operstate"] != "UP" for link in ip_json("link") if link["ifname"] in names
    ):
        if time.monotonic() > deadline:
            raise AssertionError(f"{' and '.join(names)} did not come up")
        time.sleep(0.002)


def mount(
    source: os.PathLike[str], target: os.PathLike[str], *, options: str = ""
) -> None:
    """Mount *source* over *target*, in this sandbox only; *options* as `mount -o` takes them."""
    bind = "bind" if not options else f"bind,{options}"
    subprocess.run(
        ["mount", "-o", bind, os.fspath(source), os.fspath(target)], check=True
    )


def _call(name: str, result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
