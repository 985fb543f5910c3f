# SPDX-License-Identifier: Apache-2.0
"""What a hub asks of its clients and cannot make them do: to leave, to forget.

Layer: tunnel. Runs in: the control thread, on the event loop. One per tunnel.

    policy of the Welcome    what is done
    AutoDisconnect, seconds  the tunnel leaves so long after the Welcome, for good
    NoSavePassword           the password that an import has saved is removed; of one
                             that a person has stored it is said that it should not be

A session that is taken up again goes on with the time that it had left.

Source: docs/reference/protocol.md#policy; SoftEtherVPN, Cedar/Session.c,
SessionMain() and SessionConnect().
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sevpn.config.savedsecret import forget_secret, saved_secret_file
from sevpn.config.secret import Prompt, Reference
from sevpn.errors import ConfigError
from sevpn.protocol.messages import Welcome

__all__ = ["WishListener", "Wishes", "forget_password"]


@dataclass(frozen=True, slots=True)
class WishListener:
    """Who carries out, and tells."""

    leave: Callable[[float], None]
    """The tunnel has to leave; how many seconds it was granted."""

    warn: Callable[[tuple[str, ...]], None]
    """What to tell the user, one sentence each."""


class Wishes:
    """Follows what the hub of one tunnel asks for.

    Args:
        hub: The hub's name, for people.
        password: Where the password comes from; None: there is none.
        listener: Who carries out.
        clock: Seconds on a clock that goes on while the machine sleeps.
    """

    def __init__(
        self,
        *,
        hub: str,
        password: Reference | None,
        listener: WishListener,
        clock: Callable[[], float],
    ) -> None:
        self._hub = hub
        self._password = password
        self._listener = listener
        self._clock = clock
        self._session_key = b""
        self._leave_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def began(self, welcome: Welcome) -> None:
        """A session has begun, or one that was cut goes on."""
        limit_s = float(welcome.policy.get("AutoDisconnect", 0))
        if welcome.session_key != self._session_key:
            self._session_key = welcome.session_key
            self._leave_at = self._clock() + limit_s
        self.ended()
        if limit_s:
            self._wait(limit_s)
        self._listener.warn(
            forget_password(welcome.policy, self._password, hub=self._hub)
        )

    def ended(self) -> None:
        """The session has ended, or was cut."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, limit_s: float) -> None:
        def fire() -> None:
            # The loop's clock stops while the machine sleeps and ours does not.
            if self._clock() < self._leave_at:
                self._wait(limit_s)
            else:
                self._listener.leave(limit_s)

        left_s = max(0.0, self._leave_at - self._clock())
        self._timer = asyncio.get_running_loop().call_later(left_s, fire)


def forget_password(
    policy: Mapping[str, int], password: Reference | None, *, hub: str
) -> tuple[str, ...]:
    """Remove a saved password where *policy* wants it; return what to tell the user."""
    if not policy.get("NoSavePassword") or password is None:
        return ()
    rule = f"hub {hub!r} does not allow to store the password (policy NoSavePassword)"
    path = saved_secret_file(password)
    if path is not None:
        try:
            forgotten = forget_secret(path)
        except ConfigError as error:
            return (f"{rule}: {error}; remove it",)
        said = f"{rule}: {path}, which an import wrote, is removed; the next start asks for the password"
        return (said,) if forgotten else ()
    if isinstance(password, Prompt):
        return ()
    return (
        f"{rule}: what 'password' refers to was left alone; remove it and use 'prompt'",
    )
