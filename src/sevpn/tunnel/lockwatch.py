# SPDX-License-Identifier: Apache-2.0
"""Keeps a tunnel's lock in place, and tells when another tunnel's is in the way.

Layer: tunnel. Runs in: the control thread, on the event loop.

    somebody changes the packet filter ──> is the lock as it was? ──no──> load it again, warn
                                                                  ──cannot──> warn, again in 1 s
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from sevpn.errors import SevpnError
from sevpn.log import get_logger
from sevpn.net.host import Host
from sevpn.net.monitor import PACKET_FILTER, Monitor

__all__ = ["LockWatch"]

log = get_logger(__name__)

_AGAIN_S: Final = 1.0
"""After which a lock that could not be loaded again is tried once more."""


class LockWatch:
    """Watches the packet filter.

    Args:
        host: Whose lock it is.
        warn: Called with sentences for the user.
    """

    def __init__(self, host: Host, warn: Callable[[tuple[str, ...]], None]) -> None:
        self._host = host
        self._warn = warn
        self._monitor = Monitor(self._on_changed, PACKET_FILTER)

    def start(self) -> None:
        """Begin; the lock is loaded.

        Raises:
            HostError: No netlink.
        """
        self._monitor.start()

    def stop(self) -> None:
        """End; safe to call again."""
        self._monitor.stop()

    def tell_of_others(self) -> None:
        """Say whose lock may be why nothing gets through; there is no way to ask it."""
        with suppress(SevpnError):
            self._warn(
                tuple(
                    f"the lock of the tunnel {name!r} holds on this host, and rejects what this tunnel sends past it: end "
                    f"that with `sevpn down {name}` or `sevpn unlock`, or give it --lock-allow with the server's address"
                    for name in self._host.locks_of_others()
                )
            )

    def _on_changed(self) -> None:
        try:
            is_mended = self._host.mend_lock()
        except SevpnError as error:
            log.error("the lock is gone and cannot be loaded again", cause=error)
            self._warn((f"the lock is gone: {error}",))
            self._monitor.again_in(_AGAIN_S)
            return
        if is_mended:
            self._warn(
                (
                    "somebody has removed or changed the lock in the packet filter; it was loaded again",
                )
            )
