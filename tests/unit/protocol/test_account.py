# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from sevpn.errors import (
    AuthenticationError,
    Failure,
    LocalProtocolError,
    RefusedError,
    RemoteProtocolError,
)
from sevpn.protocol.account import (
    ClientHubList,
    ClientPasswordChange,
    HubsListed,
    PasswordChanged,
    PasswordChangeRequest,
    decode_hub_list,
    decode_password_change,
    encode_hub_list,
    encode_hub_request,
    encode_password_change,
)
from sevpn.protocol.conversation import HelloReceived
from sevpn.protocol.credentials import Password, hash_password, secure_password
from sevpn.protocol.envelope import is_signature, pack_response
from sevpn.protocol.messages import (
    Hello,
    ServerRefusal,
    encode_error,
    encode_hello,
    encode_noop,
)
from sevpn.wire.http import HttpReader, Request
from sevpn.wire.pack import Pack, data, decode_pack, integer, text

DATE = "Tue, 03 Mar 2026 12:00:00 GMT"
HELLO = Hello("SoftEther VPN Server", 444, 9807, bytes(range(20)))
OLD = Password.of("alice", "old")
NEW = hash_password("alice", "new")


def hub_list() -> ClientHubList:
    return ClientHubList(
        host="192.0.2.1", server="vpn.example", random=bytes, date=DATE
    )


def password_change() -> ClientPasswordChange:
    return ClientPasswordChange(
        host="192.0.2.1",
        server="vpn.example",
        hub="OFFICE",
        old=OLD,
        new_hash=NEW,
        random=bytes,
        date=DATE,
    )


def requests_of(machine: ClientHubList | ClientPasswordChange) -> list[Request]:
    reader = HttpReader("server", 65536)
    reader.feed(machine.data_to_send())
    found: list[Request] = []
    while (message := reader.next_message()) is not None:
        assert isinstance(message, Request)
        found.append(message)
    return found


def say(machine: ClientHubList | ClientPasswordChange, pack: Pack) -> None:
    machine.receive_data(pack_response(pack, random=bytes, date=DATE))


def after_hello(machine: ClientHubList | ClientPasswordChange) -> Pack:
    """Bring *machine* to where it waits for its answer; return what it asks."""
    (signature,) = requests_of(machine)
    assert is_signature(signature.body)
    say(machine, encode_hello(HELLO))
    assert machine.next_event() == HelloReceived(HELLO)
    (asked,) = requests_of(machine)
    return decode_pack(asked.body)


# --- hubs ---


def test_the_hubs_of_a_server_are_listed() -> None:
    machine = hub_list()

    assert after_hello(machine).get_word("method") == "enum_hub"
    say(machine, encode_noop())
    assert machine.next_event() is None
    say(machine, encode_hub_list(("DEFAULT", "OFFICE")))
    assert machine.next_event() == HubsListed(("DEFAULT", "OFFICE"))
    with pytest.raises(LocalProtocolError):
        machine.receive_data(b"x")


def test_a_server_may_show_no_hub() -> None:
    assert decode_hub_list(encode_hub_list(())) == HubsListed(())


def test_names_of_hubs_are_safe_to_show() -> None:
    pack = Pack((text("HubName", "A\x1b[2J", "\x1b", "B\nC"), integer("NumHub", 3)))

    assert decode_hub_list(pack) == HubsListed(("A[2J", "B C"))


def test_a_server_may_refuse_to_list_its_hubs() -> None:
    machine = hub_list()
    after_hello(machine)

    with pytest.raises(RefusedError, match="server error 52"):
        say(machine, encode_error(52))


def test_an_answer_without_hubs_is_none() -> None:
    machine = hub_list()
    after_hello(machine)

    with pytest.raises(RemoteProtocolError, match="names no hubs"):
        say(machine, Pack((integer("error", 0),)))


def test_the_question_for_hubs_needs_its_method_alone() -> None:
    assert [element.name for element in encode_hub_request()] == ["method"]


# --- passwords ---


def test_another_password_is_asked_for_with_the_proof_of_the_old_one() -> None:
    machine = password_change()
    asked = after_hello(machine)

    assert asked.get_word("method") == "password"
    assert decode_password_change(asked) == PasswordChangeRequest(
        "OFFICE", "alice", secure_password(OLD.hashed, HELLO.challenge), NEW
    )
    say(machine, encode_error(0))
    assert machine.next_event() == PasswordChanged()


def test_the_hashes_are_forgotten_once_they_are_sent() -> None:
    machine = password_change()
    after_hello(machine)

    kept = {value for value in vars(machine).values() if isinstance(value, bytes)}
    assert not {NEW, OLD.hashed} & kept
    assert OLD not in vars(machine).values()


@pytest.mark.parametrize(
    ("code", "failure", "words"),
    [
        (8, Failure.CONFIG, "'OFFICE' does not exist"),
        (52, Failure.REFUSED, "FixPassword"),
        (68, Failure.REFUSED, "keeps no password of 'alice'"),
        (69, Failure.SECRET, "wrong user name or old password"),
    ],
)
def test_a_refusal_says_what_to_do(code: int, failure: Failure, words: str) -> None:
    machine = password_change()
    after_hello(machine)

    with pytest.raises(RefusedError, match=words) as caught:
        say(machine, encode_error(code))

    assert caught.value.failure is failure
    assert isinstance(caught.value, AuthenticationError) == (code == 69)


def test_an_answer_that_says_nothing_is_no_success() -> None:
    machine = password_change()
    after_hello(machine)

    with pytest.raises(RemoteProtocolError, match="whether it was done"):
        say(machine, Pack((integer("other", 1),)))


def test_a_refusal_at_the_hello_ends_it() -> None:
    machine = password_change()

    with pytest.raises(RefusedError, match="server error 105"):
        say(machine, encode_error(105))


@pytest.mark.parametrize("missing", ["hubname", "username", "new_password"])
def test_a_wish_without_its_parts_is_none(missing: str) -> None:
    whole = encode_password_change("H", OLD, NEW, HELLO.challenge)

    with pytest.raises(RemoteProtocolError):
        decode_password_change(
            Pack(element for element in whole if element.name != missing)
        )


def test_a_new_hash_of_another_size_is_none() -> None:
    whole = encode_password_change("H", OLD, NEW, HELLO.challenge)
    others = [element for element in whole if element.name != "new_password"]

    with pytest.raises(RemoteProtocolError, match="19 bytes instead of 20"):
        decode_password_change(Pack((*others, data("new_password", bytes(19)))))


def test_no_hash_is_in_the_representation() -> None:
    wish = decode_password_change(
        encode_password_change("H", OLD, NEW, HELLO.challenge)
    )

    assert repr(wish) == "PasswordChangeRequest(hub='H', user='alice')"
    assert decode_hub_list(encode_error(9)) == ServerRefusal(9)
