# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo

from sevpn.errors import RemoteProtocolError
from sevpn.protocol.credentials import (
    hash_password,
    secure_password,
    signed_digest,
)
from sevpn.protocol.messages import decode_login
from sevpn.server.config import HubConfig, User
from sevpn.server.login import Granted, HubView, Refused, decide
from sevpn.server.policy import Policy
from sevpn.testing.userkeys import UserKey, make_user_key
from sevpn.wire.pack import Element, Pack, data, integer, text

CHALLENGE = bytes(range(20))


@dataclass
class FakeHub:
    """A hub as a login sees it."""

    config: HubConfig
    is_online: bool = True
    session_count: int = 0
    rivals: int = 0

    def rival_count(self, user: str, unique_id: bytes) -> int:
        return 0 if any(unique_id) and user else self.rivals


def a_hub(
    policy: Policy | None = None,
    *,
    is_online: bool = True,
    session_count: int = 0,
    rivals: int = 0,
) -> FakeHub:
    users = (
        User.with_password("alice", "secret"),
        User.with_password("radius", "secret", auth="plain"),
        User.anonymous("anonymous"),
        User.with_password("locked", "secret", policy=Policy(access=False)),
    )
    config = HubConfig(name="Test", users=users, policy=policy or Policy())
    return FakeHub(config, is_online, session_count, rivals)


def answer(
    *elements: Element,
    hub: FakeHub | None = None,
    user: str = "alice",
    wall_s: float = 1e9,
) -> Granted | Refused:
    known = hub or a_hub()
    names = {element.name for element in elements}
    usual = (
        text("method", "login"),
        text("hubname", "TEST"),
        text("username", user),
        text("client_str", "sevpn VPN Client"),
        integer("client_build", 9807),
    )
    pack = Pack((*(one for one in usual if one.name not in names), *elements))

    def find(name: str) -> HubView | None:
        return known if name.lower() == "test" else None

    return decide(decode_login(pack), challenge=CHALLENGE, find_hub=find, wall_s=wall_s)


def proof(password: str = "secret", user: str = "alice") -> tuple[Element, Element]:
    secured = secure_password(hash_password(user, password), CHALLENGE)
    return integer("authtype", 1), data("secure_password", secured)


def plain(password: str = "secret") -> tuple[Element, Element]:
    return integer("authtype", 2), text("plain_password", password)


def code(decided: Granted | Refused) -> int:
    return decided.code if isinstance(decided, Refused) else 0


# --- proofs -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "elements", "expected"),
    [
        ("alice", proof(), 0),
        ("ALICE", proof(), 0),
        ("alice", plain(), 0),
        ("ALICE", plain(), 0),
        ("alice", plain(" secret\t"), 0),
        ("radius", plain(), 0),
        ("radius", proof(user="radius"), 9),
        ("alice", proof("wrong"), 9),
        ("alice", plain("wrong"), 9),
        ("alice", plain(""), 9),
        ("alice", plain("x" * 5000), 9),
        ("alice", (integer("authtype", 1),), 9),
        ("alice", (integer("authtype", 1), data("secure_password", bytes(19))), 9),
        ("alice", (integer("authtype", 1), data("secure_password", bytes(20))), 9),
        ("alice", (integer("authtype", 0),), 9),
        ("alice", (), 9),
        ("alice", (integer("authtype", 3), data("cert", b"x")), 9),
        ("alice", (integer("authtype", 99), data("ticket", bytes(20))), 9),
        ("nobody", proof(user="nobody"), 9),
        ("nobody", plain(), 9),
        ("nobody", (integer("authtype", 0),), 9),
        ("anonymous", (integer("authtype", 0),), 0),
        ("anonymous", proof("whatever"), 0),
        ("anonymous", plain("whatever"), 0),
        ("", (integer("authtype", 0),), 0),
    ],
)
def test_a_login_is_decided_by_its_proof(
    user: str, elements: tuple[Element, ...], expected: int
) -> None:
    assert code(answer(*elements, user=user)) == expected


@pytest.mark.parametrize("kind", [4, 5, 6, 50, 95, 96, 97, 98, 100, 0xFFFFFFFF])
@pytest.mark.parametrize("user", ["alice", "anonymous", "nobody"])
def test_types_for_use_inside_a_server_and_unknown_ones_are_refused(
    kind: int, user: str
) -> None:
    assert code(answer(integer("authtype", kind), user=user)) == 7


@pytest.mark.parametrize("missing", ["hubname", "username", "method"])
def test_a_login_without_its_elements_is_none(missing: str) -> None:
    elements = [
        text("method", "login"),
        text("hubname", "TEST"),
        text("username", "alice"),
    ]
    pack = Pack(element for element in elements if element.name != missing)

    with pytest.raises(RemoteProtocolError):
        decode_login(pack)


BOB = make_user_key(name="bob")


def certified(
    key: UserKey = BOB, challenge: bytes = CHALLENGE
) -> tuple[Element, Element, Element]:
    assert isinstance(key.key, RSAPrivateKey)
    sign = key.key.sign(signed_digest(challenge), PKCS1v15(), NoDigestInfo())
    return integer("authtype", 3), data("cert", key.der), data("sign", sign)


def a_hub_of_bob() -> FakeHub:
    users = (
        User.with_certificate("bob", BOB.pem),
        User.with_password("alice", "secret"),
    )
    return FakeHub(HubConfig(name="Test", users=users))


def test_a_certificate_and_its_key_prove_a_user() -> None:
    assert code(answer(*certified(), hub=a_hub_of_bob(), user="BOB")) == 0


@pytest.mark.parametrize(
    "elements",
    [
        certified(make_user_key(name="bob")),
        certified(challenge=bytes(20)),
        (*certified()[:2], data("sign", b"")),
        (*certified()[:2], data("sign", bytes(256))),
        (*certified()[:2], data("sign", bytes(4096))),
        (certified()[0], data("cert", BOB.pem), certified()[2]),
        (certified()[0], data("cert", b""), certified()[2]),
        certified()[:1],
        plain(""),
        plain("secret"),
        proof("", "bob"),
        (
            integer("authtype", 1),
            data("secure_password", secure_password(bytes(20), CHALLENGE)),
        ),
    ],
)
def test_nothing_else_proves_a_user_with_a_certificate(
    elements: tuple[Element, ...],
) -> None:
    assert code(answer(*elements, hub=a_hub_of_bob(), user="bob")) == 9


def test_an_expired_certificate_proves_nothing() -> None:
    end = BOB.parsed.not_valid_after_utc.timestamp()
    hub = a_hub_of_bob()

    assert code(answer(*certified(), hub=hub, user="bob", wall_s=end - 1)) == 0
    assert code(answer(*certified(), hub=hub, user="bob", wall_s=end + 1)) == 9


def test_a_certificate_does_not_prove_a_user_with_a_password() -> None:
    assert code(answer(*certified(), hub=a_hub_of_bob(), user="alice")) == 9
    assert code(answer(*certified(), hub=a_hub_of_bob(), user="nobody")) == 9


# --- hubs ---------------------------------------------------------------------


def test_an_unknown_hub_is_error_8_whatever_the_proof() -> None:
    assert code(answer(text("hubname", "OTHER"), *proof())) == 8
    assert code(answer(text("hubname", "OTHER"), *proof("wrong"))) == 8


def test_a_hub_that_is_offline_is_error_10_before_the_proof_is_looked_at() -> None:
    assert code(answer(*proof("wrong"), hub=a_hub(is_online=False))) == 10


def test_a_full_hub_is_error_16() -> None:
    assert code(answer(*proof(), hub=a_hub(session_count=256))) == 16


# --- rights -------------------------------------------------------------------


def test_a_user_without_access_is_error_12_after_the_right_proof_only() -> None:
    assert code(answer(*proof(user="locked"), user="locked")) == 12
    assert code(answer(*proof("wrong", "locked"), user="locked")) == 9


def test_monitor_mode_is_for_those_who_may() -> None:
    wish = integer("require_monitor_mode", 1)
    watchers = a_hub(Policy(monitor_port=True))

    assert code(answer(*proof(), wish)) == 107
    granted = answer(*proof(), wish, hub=watchers)
    assert isinstance(granted, Granted)
    assert granted.policy.monitor_port
    # Who may and does not ask for it is an ordinary user.
    usual = answer(*proof(), hub=watchers)
    assert isinstance(usual, Granted)
    assert not usual.policy.monitor_port


def test_bridge_mode_is_granted_unless_policy_forbids_both_ways() -> None:
    wish = integer("require_bridge_routing_mode", 1)

    granted = answer(*proof(), wish)
    assert isinstance(granted, Granted)
    assert not granted.policy.no_bridge
    strict = Policy(no_bridge=True, no_routing=True)
    assert code(answer(*proof(), wish, hub=a_hub(strict))) == 108


def test_an_ordinary_client_may_neither_bridge_nor_route() -> None:
    granted = answer(*proof())

    assert isinstance(granted, Granted)
    assert granted.policy.no_bridge
    assert granted.policy.no_routing


def test_a_client_whose_name_says_bridge_is_treated_as_one() -> None:
    granted = answer(*proof(), text("client_str", "My VPN Bridge"))

    assert isinstance(granted, Granted)
    assert not granted.policy.no_bridge


@pytest.mark.parametrize(
    ("policy", "build", "expected"),
    [
        (Policy(no_save_password=True), 6559, 87),
        (Policy(auto_disconnect_s=60), 6559, 87),
        (Policy(no_save_password=True), 6560, 0),
        (Policy(), 1, 0),
    ],
)
def test_an_old_client_is_refused_where_it_would_have_to_obey(
    policy: Policy, build: int, expected: int
) -> None:
    login = answer(*proof(), integer("client_build", build), hub=a_hub(policy))

    assert code(login) == expected


def test_the_password_flag_comes_with_the_error_of_a_known_user_only() -> None:
    hub = a_hub(Policy(no_save_password=True))

    assert answer(*proof("wrong"), hub=hub) == Refused(9, no_save_password=True)
    assert answer(*proof("wrong"), hub=hub, user="nobody") == Refused(9)


# --- sessions -----------------------------------------------------------------


def test_one_login_too_many_is_error_20() -> None:
    policy = Policy(multi_logins=2)

    assert code(answer(*proof(), hub=a_hub(policy, rivals=1))) == 0
    assert code(answer(*proof(), hub=a_hub(policy, rivals=2))) == 20
    assert code(answer(*proof(), hub=a_hub(rivals=100))) == 0


def test_the_unique_id_is_passed_on_if_it_has_the_right_size() -> None:
    hub = a_hub(Policy(multi_logins=1), rivals=1)

    assert code(answer(*proof(), data("UniqueId", b"u" * 16), hub=hub)) == 0
    assert code(answer(*proof(), data("UniqueId", b"u" * 15), hub=hub)) == 20
    assert code(answer(*proof(), data("UniqueId", bytes(16)), hub=hub)) == 20


@pytest.mark.parametrize(
    ("wanted", "half", "qos", "policy", "granted"),
    [
        (0, 0, 0, Policy(), 1),
        (1, 0, 0, Policy(), 1),
        (8, 0, 0, Policy(), 8),
        (0xFFFFFFFF, 0, 0, Policy(), 32),
        (8, 0, 0, Policy(max_connections=3), 3),
        (1, 1, 0, Policy(), 2),
        (1, 0, 1, Policy(), 2),
        (1, 1, 1, Policy(), 4),
        (1, 0, 1, Policy(no_qos=True), 1),
        (8, 1, 1, Policy(max_connections=1), 4),
    ],
)
def test_as_many_connections_are_granted_as_wishes_need_and_policy_allows(
    wanted: int, half: int, qos: int, policy: Policy, granted: int
) -> None:
    login = answer(
        *proof(),
        integer("max_connection", wanted),
        integer("half_connection", half),
        integer("qos", qos),
        hub=a_hub(policy),
    )

    assert isinstance(login, Granted)
    assert login.max_connections == granted
    assert login.is_half_duplex == bool(half)
    assert login.has_qos == (qos and not policy.no_qos)


def test_the_proof_is_not_in_the_representation() -> None:
    user = User.with_password("alice", "hunter2")

    assert "hunter2" not in repr(user)
    assert "***" in repr(user)
