# SPDX-License-Identifier: Apache-2.0
"""A user who wants another password: from the wish to a new user or an error number.

Layer: server. Runs in: the event loop; pure, and constant in time where the proof is
compared.

    hub known -> 8      user known -> 69      auth is password -> 68
    policy allows -> 52      old password right -> 69

Source: docs/reference/protocol.md#other-methods; SoftEtherVPN, Cedar/Account.c,
ChangePasswordAccept().
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from sevpn.config.secret import PasswordHash
from sevpn.protocol.account import PasswordChangeRequest
from sevpn.protocol.credentials import secure_password
from sevpn.server.config import StoredPassword, User
from sevpn.server.login import Code, HubView

__all__ = ["Changed", "decide_change"]


@dataclass(frozen=True, slots=True)
class Changed:
    """The password is another one from now on."""

    hub: str
    """The hub's name as it is configured."""

    user: User
    """The user with the new password."""


def decide_change(
    wish: PasswordChangeRequest,
    *,
    challenge: bytes,
    find_hub: Callable[[str], HubView | None],
) -> Changed | int:
    """Decide about a wish for another password.

    Args:
        wish: What was asked.
        challenge: The 20 bytes of this connection's Hello.
        find_hub: Returns the hub of a name, whatever its case.

    Returns:
        What to change, or an error number.
    """
    hub = find_hub(wish.hub)
    if hub is None:
        return Code.HUB_NOT_FOUND
    user = hub.config.user(wish.user)
    if user is None:
        return Code.OLD_PASSWORD_WRONG
    if user.auth != "password" or user.password is None:
        return Code.NO_PASSWORD_USER
    policy = hub.config.policy if user.policy is None else user.policy
    if policy.fix_password:
        return Code.NOT_ENOUGH_RIGHT
    expected = secure_password(user.password.hashed_for(user.name), challenge)
    if not hmac.compare_digest(expected, wish.secure_old_password):
        return Code.OLD_PASSWORD_WRONG
    stored = StoredPassword(PasswordHash(wish.new_hash))
    return Changed(hub.config.name, msgspec.structs.replace(user, password=stored))
