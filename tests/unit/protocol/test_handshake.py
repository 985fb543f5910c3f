# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from sevpn.errors import (
    AuthenticationError,
    BusyError,
    ConfigError,
    ConnectionLostError,
    Failure,
    HubNotFoundError,
    LocalProtocolError,
    RefusedError,
    RemoteProtocolError,
    SevpnError,
)
from sevpn.protocol.credentials import Password, secure_password
from sevpn.protocol.envelope import is_signature, pack_response
from sevpn.protocol.handshake import (
    ClientHandshake,
    Event,
    HelloReceived,
    Redirected,
    Welcomed,
)
from sevpn.protocol.identity import ClientIdentity
from sevpn.protocol.messages import (
    Hello,
    LoginRequest,
    SessionOptions,
    Welcome,
    decode_login,
    encode_error,
    encode_hello,
    encode_noop,
    encode_welcome,
)
from sevpn.wire.http import HttpReader, Request
from sevpn.wire.pack import Pack, data, decode_pack, integer, ip_elements, text

VECTORS = {
    name: bytes.fromhex(value)
    for name, value in (
        line.split(":")
        for line in (Path(__file__).parents[2] / "vectors" / "messages.hex")
        .read_text()
        .splitlines()
        if line and not line.startswith("#")
    )
}

DATE = "Tue, 03 Mar 2026 12:00:00 GMT"
CREDENTIALS = Password.of("alice", "microsoft")
HELLO = Hello("SoftEther VPN Server", 444, 9807, bytes(range(20)))
WELCOME = Welcome(
    session_name="SID-ALICE-1",
    connection_name="CID-6",
    session_key=bytes(range(20)),
    policy={"DHCPForce": 1},
)
REDIRECT = Pack(
    [
        integer("Redirect", 1),
        *ip_elements("Ip", IPv4Address("192.0.2.7")),
        integer("Port", 443),
        data("Ticket", bytes(range(20))),
        data("Cert", b"\x30\x01a"),
    ]
)
SESSION_BYTES = b"\xff\xff\xff\xff\0\0\0\3abc\0\0\0\0"


def random(size: int) -> bytes:
    """Draw padding of 5 bytes."""
    return b"\0\5" if size == 2 else b"r" * size


def say(pack: Pack) -> bytes:
    return pack_response(pack, random=random, date=DATE)


def handshake(**changes: Any) -> ClientHandshake:
    values: dict[str, Any] = {
        "host": "192.0.2.1",
        "server": "vpn.example",
        "hub": "OFFICE",
        "credentials": CREDENTIALS,
        "identity": ClientIdentity(unique_id=bytes(16), machine_id=bytes(20)),
        "random": random,
        "date": DATE,
    }
    return ClientHandshake(**{**values, **changes})


class Talk:
    """A dialogue with the machine, as its server sees it."""

    def __init__(self, **changes: Any) -> None:
        self.client = handshake(**changes)
        self.requests = HttpReader("server")

    def heard(self) -> Request:
        """Return the next request of the client."""
        self.requests.feed(self.client.data_to_send())
        request = self.requests.next_message()
        assert isinstance(request, Request)
        assert self.requests.trailing() == b""
        return request

    def heard_login(self) -> LoginRequest:
        return decode_login(decode_pack(self.heard().body))

    def hears(self, stream: bytes) -> list[Event]:
        """Return the events that *stream* brings about."""
        self.client.receive_data(stream)
        return list(iter(self.client.next_event, None))

    def after_hello(self) -> Talk:
        assert is_signature(self.heard().body)
        assert self.hears(say(encode_hello(HELLO))) == [HelloReceived(HELLO)]
        assert self.heard_login().user == "alice"
        return self


def test_a_login_runs_from_the_signature_to_the_welcome() -> None:
    talk = Talk()

    signature = talk.heard()
    assert signature.is_for("POST", "/vpnsvc/connect.cgi")
    assert (signature.body, signature.header("Host")) == (b"VPNCONNECT", "192.0.2.1")
    assert talk.client.data_to_send() == b""
    assert talk.client.next_event() is None

    assert talk.hears(say(encode_hello(HELLO))) == [HelloReceived(HELLO)]
    login = talk.heard()
    assert login.is_for("POST", "/vpnsvc/vpn.cgi")
    assert (login.header("Host"), login.header("Date")) == ("192.0.2.1", DATE)
    request = decode_login(decode_pack(login.body))
    assert (request.hub, request.user) == ("OFFICE", "alice")
    assert request.secure_password == secure_password(
        CREDENTIALS.hashed, HELLO.challenge
    )
    assert decode_pack(login.body).get_data("pencore") == b"rrrrr"

    assert talk.hears(say(encode_welcome(WELCOME))) == [
        Welcomed(decoded_welcome(), b"")
    ]
    assert talk.client.data_to_send() == b""


def decoded_welcome() -> Welcome:
    policy = {
        e.name.removeprefix("policy:"): 0
        for e in encode_welcome(WELCOME)
        if ":" in e.name
    }
    return Welcome(
        session_name="SID-ALICE-1",
        connection_name="CID-6",
        session_key=bytes(range(20)),
        policy=policy | {"DHCPForce": 1},
    )


def test_the_dialogue_captured_from_a_server_of_5_01_is_understood() -> None:
    talk = Talk()
    talk.heard()

    (hello,) = talk.hears(VECTORS["captured-hello"])
    assert isinstance(hello, HelloReceived)
    assert hello.hello.build == 9674
    (welcomed,) = talk.hears(VECTORS["captured-welcome"] + SESSION_BYTES)
    assert isinstance(welcomed, Welcomed)
    assert welcomed.welcome.session_name == "SID-TEST-1"
    assert welcomed.trailing == SESSION_BYTES


def test_bytes_behind_the_welcome_belong_to_the_session() -> None:
    talk = Talk().after_hello()

    (event,) = talk.hears(say(encode_welcome(WELCOME)) + SESSION_BYTES)

    assert isinstance(event, Welcomed)
    assert event.trailing == SESSION_BYTES
    with pytest.raises(LocalProtocolError):
        talk.client.receive_data(b"more")


def test_noops_are_skipped_at_any_stage_and_never_answered() -> None:
    talk = Talk()
    talk.heard()

    assert talk.hears(say(encode_noop()) * 3) == []
    assert talk.client.data_to_send() == b""
    assert talk.hears(say(encode_hello(HELLO))) == [HelloReceived(HELLO)]
    talk.heard_login()
    # A server that asks another one for the password says more than the 30
    # noops of which official clients are content.
    for _ in range(100):
        assert talk.hears(say(Pack([integer("error", 0), integer("noop", 2)]))) == []
    assert talk.client.data_to_send() == b""
    assert len(talk.hears(say(encode_welcome(WELCOME)))) == 1


def test_what_is_asked_for_may_be_granted() -> None:
    talk = Talk(options=SessionOptions(max_connections=4, use_compress=True))
    talk.heard()
    talk.hears(say(encode_hello(HELLO)))

    assert talk.heard_login().options.use_compress
    granted = encode_welcome(
        Welcome(
            session_name="S",
            connection_name="C",
            session_key=bytes(range(20)),
            max_connections=8,
            use_compress=True,
        )
    )
    (event,) = talk.hears(say(granted))
    assert isinstance(event, Welcomed)
    assert (event.welcome.max_connections, event.welcome.use_compress) == (4, True)


def test_a_redirect_is_reported_and_ends_the_handshake() -> None:
    talk = Talk().after_hello()

    (event,) = talk.hears(say(REDIRECT))

    assert isinstance(event, Redirected)
    assert event.redirect.address == IPv4Address("192.0.2.7")
    reader = HttpReader("server")
    reader.feed(talk.client.data_to_send())
    farewell = reader.next_message()
    assert isinstance(farewell, Request)
    assert [element.name for element in decode_pack(farewell.body)] == ["pencore"]
    with pytest.raises(LocalProtocolError):
        talk.client.receive_eof()


@pytest.mark.parametrize(
    ("host", "is_taken"),
    [("127.0.0.1", True), ("::1", True), ("192.0.2.1", False), ("localhost.x", False)],
)
def test_a_redirect_to_this_host_comes_only_from_this_host(
    host: str, is_taken: bool
) -> None:
    talk = Talk(host=host).after_hello()
    pack = Pack([e for e in REDIRECT if e.name != "Ip"] + [integer("Ip", 0x0100007F)])

    if is_taken:
        assert isinstance(talk.hears(say(pack))[0], Redirected)
    else:
        with pytest.raises(RemoteProtocolError, match="leads to this host itself"):
            talk.hears(say(pack))
        assert talk.client.next_event() is None


# --- refusals ---


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (8, HubNotFoundError),
        (9, AuthenticationError),
        (10, BusyError),
        (777, BusyError),
    ],
)
def test_a_refusal_of_the_login_is_raised_by_its_number(
    code: int, expected: type[RefusedError]
) -> None:
    talk = Talk().after_hello()

    with pytest.raises(expected, match=rf"vpn.example.*\(server error {code}\)"):
        talk.hears(say(encode_error(code)))
    assert talk.client.next_event() is None
    assert talk.client.data_to_send() == b""
    with pytest.raises(LocalProtocolError):
        talk.client.receive_data(b"")


def test_the_captured_refusal_of_a_wrong_password_is_raised() -> None:
    talk = Talk().after_hello()

    with pytest.raises(AuthenticationError, match="the server does not say which"):
        talk.hears(VECTORS["captured-refusal"])


def test_a_refusal_may_come_in_place_of_the_hello_and_no_login_is_sent() -> None:
    talk = Talk()

    with pytest.raises(BusyError, match="server error 105"):
        talk.hears(say(encode_error(105)))
    assert talk.client.data_to_send() == b""


def test_a_login_that_the_server_cannot_read_is_a_breach_of_protocol() -> None:
    talk = Talk().after_hello()

    with pytest.raises(RefusedError) as caught:
        talk.hears(say(encode_error(3)))
    assert caught.value.failure is Failure.PEER


def test_the_address_stands_for_a_server_without_a_name() -> None:
    talk = Talk(server=None).after_hello()

    with pytest.raises(HubNotFoundError, match=r"does not exist on 192\.0\.2\.1 "):
        talk.hears(say(encode_error(8)))


def test_a_hub_that_cannot_be_named_ends_the_handshake() -> None:
    talk = Talk(hub=" ")

    with pytest.raises(ConfigError):
        talk.hears(say(encode_hello(HELLO)))
    with pytest.raises(LocalProtocolError):
        talk.hears(b"")


# --- peers that are no SoftEther server ---


def answer(status: str, *headers: str, body: bytes = b"") -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""])
    return head.encode() + body


FOREIGN = {
    "a web server": (
        answer(
            "403 Forbidden",
            "Server: nginx",
            "Content-Type: text/html",
            "Content-Length: 13",
            body=b"<h1>403</h1>\n",
        ),
        r"like a web server, a captive portal or a proxy that inspects TLS, .*\('HTTP/1.1 403 Forbidden', Server: nginx, '<h1>403</h1>'\)",
    ),
    "a web page": (
        answer("200 OK", "Content-Type: text/html", "Content-Length: 2", body=b"hi"),
        r"'HTTP/1.1 200 OK', 'hi'",
    ),
    "a portal": (
        answer("302 Found", "Location: https://portal.example/login"),
        r"a captive portal or a web server.*Location: https://portal.example/login",
    ),
    "a portal by number": (
        answer("511 Network Authentication Required", "Content-Length: 0"),
        "a captive portal or a web server",
    ),
    "a proxy": (answer("407 Proxy Authentication Required"), "like a proxy"),
    "a proxy that says so": (answer("502 Bad Gateway", "Via: 1.1 squid"), "a proxy"),
    "a chunked page": (
        answer("200 OK", "Content-Type: text/html", "Transfer-Encoding: chunked"),
        "'HTTP/1.1 200 OK'",
    ),
    "an escape in the header": (
        answer("404 \x1b[31mNo", "Server: a\x1b[2Jb"),
        r"'HTTP/1.1 404 \[31mNo', Server: a\[2Jb",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("is_after_hello", [False, True])
def test_a_foreign_answer_names_its_status_and_what_it_may_be(
    name: str, is_after_hello: bool
) -> None:
    stream, reason = FOREIGN[name]
    talk = Talk().after_hello() if is_after_hello else Talk()

    with pytest.raises(RemoteProtocolError, match=reason) as caught:
        talk.hears(stream)
    assert str(caught.value).startswith("vpn.example answered like ")
    assert "check host and port" in str(caught.value)
    assert str(caught.value).isprintable()
    assert caught.value.failure is Failure.PEER


def test_a_foreign_answer_that_ends_early_is_named_too() -> None:
    talk = Talk()
    stream = answer("403 Forbidden", "Content-Length: 500", body=b"<html>")
    assert talk.hears(stream) == []

    with pytest.raises(RemoteProtocolError, match="403 Forbidden"):
        talk.client.receive_eof()


def raw(pack: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {len(pack)}\r\n\r\n"
    return head.encode() + pack


def announced(size: int) -> bytes:
    return raw(b"").replace(b"Length: 0", b"Length: %d" % size)


def many(count: int) -> Pack:
    return Pack([integer(f"x{i}", 1) for i in range(count)])


MALFORMED: dict[str, Callable[[Pack], bytes]] = {
    "no HTTP": lambda _: b"220 mail.example ESMTP\r\n",
    "another HTTP": lambda _: b"HTTP/2 200\r\n\r\n",
    "a header without colon": lambda _: b"HTTP/1.1 200 OK\r\nx\r\n\r\n",
    "an endless header": lambda _: b"HTTP/1.1 200 OK\r\nX: " + b"x" * 9000,
    "no length": lambda _: raw(b"").replace(b"Content-Length", b"X-Length"),
    "a length of 0": lambda _: raw(b""),
    "a length that is no number": lambda _: raw(b"").replace(b"h: 0", b"h: x"),
    "a length of 2 GiB": lambda _: announced(1 << 31),
    "a chunked Pack": lambda p: say(p).replace(b"Keep-Alive:", b"Transfer-Encoding:"),
    "no Pack": lambda _: raw(b"hello"),
    "a Pack that is cut": lambda p: raw(say(p).partition(b"\r\n\r\n")[2][:-7]),
    "a huge count": lambda _: raw(b"\xff\xff\xff\xff"),
    "too many elements": lambda _: raw(struct.pack(">I", 4097)),
    "one name twice": lambda _: raw(
        b"\0\0\0\2" + b"\0\0\0\2a\0\0\0\0\0\0\0\1\0\0\0\1" * 2
    ),
    "an empty Pack": lambda _: say(Pack()),
    "another Pack": lambda _: say(many(100)),
    "a part of another kind": lambda p: say(
        Pack(text(e.name, "x") if e.name in {"random", "session_key"} else e for e in p)
    ),
    "a part of another size": lambda p: say(
        Pack(
            data(e.name, bytes(3)) if e.name in {"random", "session_key"} else e
            for e in p
        )
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("stage", ["hello", "answer"])
def test_malformed_bytes_are_the_peers_fault_in_one_line_with_a_next_step(
    name: str, stage: str
) -> None:
    if stage == "hello":
        talk = Talk()
        talk.heard()
        good, begin, step = encode_hello(HELLO), "does not talk like", "check host"
    else:
        talk = Talk().after_hello()
        good, begin, step = encode_welcome(WELCOME), "answered the login", "report this"

    with pytest.raises(RemoteProtocolError) as caught:
        talk.hears(MALFORMED[name](good))

    assert str(caught.value).startswith(f"vpn.example {begin}")
    assert step in str(caught.value)
    assert str(caught.value).isprintable()
    assert caught.value.failure is Failure.PEER
    assert talk.client.next_event() is None
    assert talk.client.data_to_send() == b""


def test_a_hello_is_small_and_a_welcome_may_have_a_megabyte() -> None:
    talk = Talk()
    with pytest.raises(RemoteProtocolError, match="at most 8192"):
        talk.hears(announced(8193))

    talk = Talk().after_hello()
    long = encode_welcome(WELCOME).with_elements(data("future", bytes(1 << 19)))
    assert len(talk.hears(say(long))) == 1
    talk = Talk().after_hello()
    with pytest.raises(RemoteProtocolError, match="at most 1048576"):
        talk.hears(announced((1 << 20) + 1))


# --- ends and cuts ---

HELLO_BYTES = say(encode_hello(HELLO))
WELCOME_BYTES = say(encode_welcome(WELCOME))


def test_an_end_before_the_hello_means_probably_no_softether_server() -> None:
    for size in range(len(HELLO_BYTES)):
        client = handshake()
        client.receive_data(HELLO_BYTES[:size])

        with pytest.raises(ConnectionLostError, match="before its Hello: ") as caught:
            client.receive_eof()
        assert caught.value.failure is Failure.PEER
        with pytest.raises(LocalProtocolError):
            client.receive_eof()


def test_an_end_after_the_hello_may_pass() -> None:
    # Not after each byte, which takes most of a minute: 7 shares nothing with any field's size.
    for size in range(0, len(WELCOME_BYTES), 7):
        client = handshake()
        client.receive_data(HELLO_BYTES)
        client.receive_data(WELCOME_BYTES[:size])

        with pytest.raises(ConnectionLostError, match="before it answered") as caught:
            client.receive_eof()
        assert caught.value.failure is Failure.TEMPORARY


def outcome(chunks: list[bytes]) -> tuple[list[Event | str], bytes]:
    """Return what a dialogue comes to, and the session's bytes, however it is cut."""
    client = handshake()
    came: list[Event | str] = []
    left = b""
    for number, chunk in enumerate(chunks):
        try:
            client.receive_data(chunk)
        except SevpnError as error:
            return [*came, type(error).__name__], b""
        while (event := client.next_event()) is not None:
            if isinstance(event, Welcomed):
                left = event.trailing + b"".join(chunks[number + 1 :])
                return [*came, Welcomed(event.welcome, b"")], left
            came.append(event)
    return came, left


def pieces(stream: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(edge, len(stream)) for edge in at), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


cuts = st.lists(st.integers(0, 3000), max_size=8)


@given(cuts)
def test_a_handshake_does_not_depend_on_where_the_stream_is_cut(at: list[int]) -> None:
    stream = say(encode_noop()) + HELLO_BYTES + WELCOME_BYTES + SESSION_BYTES

    assert outcome(pieces(stream, at)) == (
        [HelloReceived(HELLO), Welcomed(decoded_welcome(), b"")],
        SESSION_BYTES,
    )


def test_a_handshake_is_read_byte_by_byte() -> None:
    stream = HELLO_BYTES + WELCOME_BYTES + SESSION_BYTES

    events, left = outcome([bytes([octet]) for octet in stream])
    assert len(events) == 2
    assert left == SESSION_BYTES


@given(cuts, st.sampled_from([8, 9, 3]))
def test_a_refusal_does_not_depend_on_where_the_stream_is_cut(
    at: list[int], code: int
) -> None:
    stream = HELLO_BYTES + say(encode_error(code))

    whole, _ = outcome([HELLO_BYTES, say(encode_error(code))])
    cut, _ = outcome(pieces(stream, at))
    # The Hello's event is lost with the refusal that came in the same read.
    assert cut[-1] == whole[-1]


@given(st.binary(max_size=200), st.sampled_from([b"", HELLO_BYTES]))
def test_any_bytes_are_understood_or_the_peers_fault(
    noise: bytes, before: bytes
) -> None:
    client = handshake()
    try:
        client.receive_data(before + noise)
    except RemoteProtocolError as error:
        assert str(error).isprintable()  # noqa: PT017 - waiting for more is right as well


@given(st.integers(0, len(WELCOME_BYTES) - 1), st.integers(1, 255))
def test_a_welcome_with_one_changed_byte_is_understood_or_refused(
    at: int, by: int
) -> None:
    changed = bytearray(WELCOME_BYTES)
    changed[at] ^= by
    client = handshake()
    client.receive_data(HELLO_BYTES)
    try:
        client.receive_data(changed)
    except (RemoteProtocolError, RefusedError) as error:
        assert str(error).isprintable()  # noqa: PT017 - many bytes do not matter


def test_no_secret_is_left_in_the_machine_after_the_login() -> None:
    talk = Talk().after_hello()

    held = repr(vars(talk.client))
    assert repr(CREDENTIALS.hashed)[2:-1] not in held
    assert "microsoft" not in held
