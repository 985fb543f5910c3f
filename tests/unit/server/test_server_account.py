# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass

import pytest

from sevpn.protocol.account import PasswordChangeRequest
from sevpn.protocol.credentials import hash_password, secure_password
from sevpn.server.account import Changed, decide_change
from sevpn.server.config import HubConfig, User
from sevpn.server.login import HubView
from sevpn.server.policy import Policy

CHALLENGE = bytes(range(20))


@dataclass
class FakeHub:
    """A hub as a wish sees it."""

    config: HubConfig
    is_online: bool = True
    session_count: int = 0

    def rival_count(self, user: str, unique_id: bytes) -> int:
        return 0 if user or unique_id else 1


USERS = (
    User.with_password("Alice", "secret"),
    User.with_password("radius", "secret", auth="plain"),
    User.with_password("fixed", "secret", policy=Policy(fix_password=True)),
    User.anonymous("guest"),
)


def answer(
    *, hub: str = "test", user: str = "alice", old: str = "secret", new: str = "better"
) -> Changed | int:
    known = FakeHub(HubConfig(name="Test", users=USERS))

    def find(name: str) -> HubView | None:
        return known if name.lower() == "test" else None

    wish = PasswordChangeRequest(
        hub,
        user,
        secure_password(hash_password(user, old), CHALLENGE),
        hash_password(user, new),
    )
    return decide_change(wish, challenge=CHALLENGE, find_hub=find)


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        ({"hub": "other"}, 8),
        ({"user": "nobody"}, 69),
        ({"old": "wrong"}, 69),
        ({"user": "radius"}, 68),
        ({"user": "guest"}, 68),
        ({"user": "fixed"}, 52),
        ({"user": "fixed", "old": "wrong"}, 52),
    ],
)
def test_a_wish_is_refused_by_its_number(wish: dict[str, str], code: int) -> None:
    assert answer(**wish) == code


def test_the_user_has_the_new_password_and_all_else_as_before() -> None:
    changed = answer(user="ALICE")

    assert isinstance(changed, Changed)
    assert (changed.hub, changed.user.name) == ("Test", "Alice")
    assert changed.user.password is not None
    assert changed.user.password.hashed_for("Alice") == hash_password("alice", "better")
    assert "better" not in repr(changed)
