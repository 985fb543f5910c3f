# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address

from sevpn.protocol.credentials import Anonymous, Credentials, Ticket
from sevpn.protocol.identity import ClientIdentity
from sevpn.protocol.messages import (
    Hello,
    LoginRequest,
    Redirect,
    SessionOptions,
    decode_login,
    decode_login_answer,
    encode_login,
)
from sevpn.server.cluster import Cluster, Member

CERTIFICATE = b"\x30\x01\x00"


def login(credentials: Credentials) -> LoginRequest:
    return decode_login(
        encode_login(
            hub="TEST",
            credentials=credentials,
            identity=ClientIdentity(unique_id=bytes(16), machine_id=bytes(20)),
            hello=Hello("x", 502, 5187, bytes(20)),
            options=SessionOptions(),
        )
    )


def redirected(member: Cluster, *, now: float = 0.0) -> Redirect:
    controller = Cluster()
    controller.member = Member(
        address=IPv4Address("192.0.2.7"),
        port=443,
        certificate=CERTIFICATE,
        expect=lambda ticket, user: member.expect(ticket, user, now),
    )
    answer = decode_login_answer(controller.redirect("alice", "Good day."))
    assert isinstance(answer, Redirect)
    return answer


def test_a_redirect_names_the_member_and_what_it_presents() -> None:
    answer = redirected(Cluster())

    assert (str(answer.address), answer.ports) == ("192.0.2.7", (443,))
    assert (answer.certificate, answer.message) == (CERTIFICATE, "Good day.")


def test_a_ticket_logs_in_once_whoever_shows_it() -> None:
    member = Cluster()
    shown = login(Ticket("mallory", redirected(member).ticket))

    assert member.redeem(shown, 1.0) == "alice"
    assert member.redeem(shown, 1.0) is None


def test_a_ticket_is_good_for_a_minute() -> None:
    member = Cluster()
    shown = login(Ticket("alice", redirected(member).ticket))

    assert member.redeem(shown, 60.0) is None


def test_who_shows_no_ticket_needs_another_proof() -> None:
    member = Cluster()
    redirected(member)

    assert member.redeem(login(Anonymous("alice")), 1.0) is None
    assert member.redeem(login(Ticket("alice", bytes(20))), 1.0) is None


def test_tickets_that_nobody_shows_are_forgotten_oldest_first() -> None:
    member = Cluster()
    first, *_, last = [redirected(member).ticket for _ in range(4097)]

    assert member.redeem(login(Ticket("alice", first)), 1.0) is None
    assert member.redeem(login(Ticket("alice", last)), 1.0) == "alice"
