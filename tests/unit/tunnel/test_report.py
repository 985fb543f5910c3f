# SPDX-License-Identifier: Apache-2.0
"""What a tunnel says of itself: its events, and its status document."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address
from typing import Any, get_args

import msgspec
import pytest

from sevpn.config.profile import Settings
from sevpn.errors import ConnectionLostError, LeaseError
from sevpn.metrics import snapshot as document
from sevpn.metrics.counters import Counters
from sevpn.net.host import HostReport
from sevpn.net.model import HostState
from sevpn.net.wanted import Wanted
from sevpn.protocol.dhcp import Lease, StaticRoute
from sevpn.protocol.joining import Direction
from sevpn.protocol.messages import Hello, Welcome
from sevpn.protocol.neighbour import Proof, Proven
from sevpn.testing.clock import VirtualClock
from sevpn.tunnel import machine as m
from sevpn.tunnel.opening import OpenedSession, Peer
from sevpn.tunnel.policy import Run
from sevpn.tunnel.report import Event, Parts, Reporter, state_name
from sevpn.wire.ethernet import MacAddress

SETTINGS = Settings(host="vpn.example", hub="OFFICE")
MAC = MacAddress.parse("5e:00:53:00:00:01")
GATEWAY = IPv4Address("10.0.0.1")
RUN = Run(started_at=0.0)
HELLO = Hello("SoftEther VPN Server", 501, 9674, challenge=bytes(20))
RESET = ConnectionLostError("the connection ended: reset")
EMPTY = Parts(
    session=None,
    tap=None,
    mac=MAC,
    kernel="python",
    wanted=None,
    lease=None,
    latency_s=None,
    counters=None,
    host=HostReport(
        routes=(), rules=(), dns_backend="off", dns_reason="x", dns_servers=()
    ),
)


@dataclass
class Stream:
    """What is told of a stream."""

    peer_address: str = "192.0.2.7"
    certificate_sha256: str = "ab" * 32
    verified_by: str = "ca"
    tls_version: str = "TLSv1.3"
    cipher: str = "TLS_AES_256_GCM_SHA384"


@dataclass
class Card:
    """What is told of a TAP."""

    name: str = "sevpn0"
    has_header: bool = True


class Told:
    """A reporter, and all that it has told."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.clock = VirtualClock(5000.0)
        self.reporter = Reporter("office", settings, clock=self.clock)
        self.events: list[Event] = []
        self.reporter.subscribe(self.events.append)

    @property
    def last(self) -> Event:
        return self.events[-1]

    def document(self, **parts: Any) -> document.Tunnel:
        return self.reporter.snapshot(replace(EMPTY, **parts))

    def log_in(self, message: str = "", **welcome: Any) -> OpenedSession:
        opened = session(message=message, **welcome)
        self.reporter.logged_in(opened)
        return opened


def session(**welcome: Any) -> OpenedSession:
    return OpenedSession(
        stream=Stream(),  # type: ignore[arg-type]  # only what is told of it
        hello=HELLO,
        welcome=Welcome(
            session_name="SID-ALICE-1",
            connection_name="CID-1",
            session_key=bytes(20),
            **welcome,
        ),
        leftover=b"",
        peer=Peer(IPv4Address("192.0.2.1"), "192.0.2.1", 443, "00" * 32),
    )


def lease(**settings: Any) -> Lease:
    known: dict[str, Any] = {
        "address": IPv4Interface("10.0.0.5/24"),
        "router": GATEWAY,
        "server": GATEWAY,
        "server_mac": MAC,
        "obtained_at": 5000.0,
        "renew_at": 5000.0 + 1800,
        "rebind_at": 5000.0 + 3150,
        "expires_at": 5000.0 + 3600,
    }
    return Lease(**(known | settings))


def wanted(**state: Any) -> Wanted:
    known: dict[str, Any] = {
        "device": "sevpn0",
        "mtu": 1400,
        "addresses": (IPv4Interface("10.0.0.5/24"),),
        "routes": (),
        "resolver": None,
    }
    return Wanted(
        state=HostState(**(known | state)),
        warnings=(),
        address=IPv4Interface("10.0.0.5/24"),
        gateway=GATEWAY,
        carries_foreign_traffic=False,
    )


# --- events ------------------------------------------------------------------


def test_each_state_has_a_name_of_the_document() -> None:
    names = [
        state_name(state)
        for state in (
            *(m.Down(), m.Resolving(RUN), m.Connecting(RUN), m.Authenticating(RUN)),
            *(m.Leasing(RUN), m.Configuring(RUN), m.Proving(RUN)),
            *(m.Connected(RUN, since=1.0), m.Waiting(RUN, retry_at=1.0)),
            *(m.Disconnecting(None), m.Failed(RESET)),
        )
    ]

    assert sorted(names) == sorted(get_args(document.State))


def test_an_event_has_the_same_five_keys_and_a_time() -> None:
    told = Told()

    told.reporter.changed(m.Resolving(RUN), error=None, now=0.0)

    assert set(told.last) == {"at", "event", "state", "text", "facts"}
    at = dt.datetime.fromisoformat(told.last["at"])
    assert at.tzinfo == dt.UTC
    assert (told.last["event"], told.last["state"]) == ("state", "resolving")
    assert (told.last["text"], told.last["facts"]) == ("", {})


@pytest.mark.parametrize(
    ("retry_at", "text", "retry_in_s"),
    [
        (105.0, "; next attempt in 5 s", 5.0),
        (101.0, "; next attempt in 1 s", 1.0),
        (100.4, "; next attempt now", 0.4),
        (100.0, "; next attempt now", 0.0),
        (90.0, "; next attempt now", 0.0),
    ],
)
def test_who_waits_says_why_and_how_long(
    retry_at: float, text: str, retry_in_s: float
) -> None:
    told = Told()

    told.reporter.changed(m.Waiting(RUN, retry_at=retry_at), error=RESET, now=100.0)

    assert told.last["text"] == f"{RESET}{text}"
    assert told.last["facts"] == {
        "error": str(RESET),
        "failure": RESET.failure.value,
        "retry_in_s": retry_in_s,
    }


def test_the_last_error_stays_when_the_tunnel_goes_on() -> None:
    told = Told()
    told.reporter.changed(m.Waiting(RUN, retry_at=1.0), error=RESET, now=0.0)
    told.reporter.changed(m.Resolving(RUN), error=None, now=1.0)

    assert told.document().last_error == str(RESET)
    assert told.document().state == "resolving"

    told.reporter.changed(m.Failed(LeaseError("no lease")), error=None, now=2.0)
    assert told.document().last_error == str(RESET)


def test_a_listener_hears_until_it_has_heard_enough() -> None:
    told = Told()
    heard: list[str] = []
    end = told.reporter.subscribe(lambda event: heard.append(event["text"]))

    told.reporter.warn(["one"])
    end()
    told.reporter.warn(["two"])

    assert heard == ["one"]
    assert [event["text"] for event in told.events] == ["one", "two"]


def test_a_listener_that_leaves_while_it_hears_takes_nobody_s_event_away() -> None:
    told = Told()
    heard: list[str] = []

    def once(event: Event) -> None:
        heard.append(event["text"])
        end()

    end = told.reporter.subscribe(once)
    told.reporter.subscribe(lambda event: heard.append(event["text"]))

    told.reporter.warn(["one"])

    assert heard == ["one", "one"]


def test_the_look_up_names_all_addresses() -> None:
    told = Told()

    told.reporter.resolved([IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")])

    assert told.last["text"] == "vpn.example is 192.0.2.1, 2001:db8::1"
    assert told.last["facts"] == {"addresses": ["192.0.2.1", "2001:db8::1"]}


@pytest.mark.parametrize(
    ("verified_by", "words"),
    [
        ("ca", "certificate verified"),
        ("pin", "certificate pinned"),
        ("none", "certificate NOT verified"),
    ],
)
def test_the_greeting_says_whom_we_trust_and_why(verified_by: str, words: str) -> None:
    told = Told()

    told.reporter.greeted(Stream(verified_by=verified_by), HELLO)  # type: ignore[arg-type]  # what is told

    greeting = told.events[0]
    assert words in greeting["text"]
    assert "SoftEther VPN Server" in greeting["text"]
    assert greeting["facts"]["verified_by"] == verified_by
    server = told.document().server
    assert (server.address, server.build) == ("192.0.2.7", 9674)
    assert server.certificate_sha256 == "ab" * 32
    warnings = told.document().warnings
    assert len(warnings) == (verified_by == "none")
    assert all("--pin sha256:" + "ab" * 32 in warning for warning in warnings)


def test_a_password_that_is_shown_to_an_unknown_server_is_told_of() -> None:
    settings = Settings(host="vpn.example", user="alice", auth="plain")
    reporter = Reporter("office", settings, clock=lambda: 0.0)
    events: list[Event] = []
    reporter.subscribe(events.append)

    reporter.greeted(Stream(verified_by="none"), HELLO)  # type: ignore[arg-type]  # what is told

    assert "the password is shown to whoever it is" in events[-1]["text"]


def test_what_the_server_wants_to_tell_its_users_is_told() -> None:
    told = Told()

    told.log_in()
    assert [event["event"] for event in told.events] == ["logged-in"]

    told.log_in(message="Good day.")
    assert told.last["event"] == "message"
    assert told.last["facts"] == {"message": "Good day."}


def test_a_message_is_told_once_unless_it_changes() -> None:
    told = Told()

    for message in ("Good day.", "Good day.", " \n", "Good night."):
        told.log_in(message=message)

    said = [event["facts"] for event in told.events if event["event"] == "message"]
    assert said == [{"message": "Good day."}, {"message": "Good night."}]


def test_the_message_is_in_the_status_while_the_session_lasts() -> None:
    told = Told()
    opened = told.log_in(message="Good day.")

    shown = told.document(session=opened).session
    assert shown is not None
    assert shown.message == "Good day."


def test_a_hub_that_asks_to_leave_is_told_of_with_the_policys_name() -> None:
    told = Told()

    told.reporter.asked_to_leave(3600.0)

    assert told.last["event"] == "asked-to-leave"
    assert told.last["facts"] == {"after_s": 3600.0}
    assert "AutoDisconnect" in told.last["text"]


@pytest.mark.parametrize(
    ("lease_s", "span"),
    [
        (None, "for ever"),
        (30, "for 30 s"),
        (59, "for 59 s"),
        (60, "for 1 min"),
        (3599, "for 60 min"),
        (3600, "for 1 h"),
        (5400, "for 1.5 h"),
        (2 * 86400, "for 2 days"),
        (365 * 86400, "for 365 days"),
    ],
)
def test_a_lease_says_from_whom_and_for_how_long(
    lease_s: float | None, span: str
) -> None:
    told = Told()

    told.reporter.leased(
        lease(expires_at=None if lease_s is None else 5000.0 + lease_s)
    )

    assert told.last["text"] == f"10.0.0.5/24 from 10.0.0.1 {span}"
    assert told.last["facts"]["lease_s"] == lease_s


def test_what_was_wrong_in_a_lease_is_a_warning() -> None:
    told = Told()

    told.reporter.leased(lease(warnings=("option 3 is no address",)))

    assert [event["event"] for event in told.events] == ["warning", "leased"]
    assert told.document().warnings == ["option 3 is no address"]


def test_no_lease_is_no_event() -> None:
    told = Told()

    told.reporter.leased(None)

    assert told.events == []


def test_the_host_is_told_in_one_line() -> None:
    told = Told()

    told.reporter.configured(wanted(), Card())  # type: ignore[arg-type]  # only its name is told
    assert told.last["text"] == "sevpn0 has 10.0.0.5/24"

    told.reporter.configured(wanted(addresses=()), Card())  # type: ignore[arg-type]  # likewise
    assert told.last["text"] == "sevpn0 has no address"


# --- proofs and warnings -----------------------------------------------------


@pytest.mark.parametrize("by", get_args(Proof))
def test_each_kind_of_proof_has_its_words(by: Proof) -> None:
    told = Told()

    told.reporter.proven(Proven(by, None, MAC))
    without = told.last["text"]
    told.reporter.proven(Proven(by, 0.00123, MAC))

    assert without
    assert told.last["text"] == f"{without} in 1.23 ms"
    assert told.last["facts"] == {"by": by, "rtt_ms": 1.23}
    assert told.document().proven_at is not None


def test_what_was_proven_is_forgotten_with_its_session() -> None:
    told = Told()
    told.reporter.proven(Proven("gateway", None, MAC))

    told.reporter.new_attempt()
    assert told.document().proven_at is None

    told.reporter.heard()
    assert told.document().proven_at is not None
    told.reporter.proven(None)
    assert told.document().proven_at is None


@pytest.mark.parametrize(
    ("direction", "text"),
    [
        (Direction.BOTH, "connection 3 is open"),
        (Direction.TO_CLIENT, "connection 3 is open to this host"),
        (Direction.TO_SERVER, "connection 3 is open to the server"),
    ],
)
def test_a_further_connection_is_told_with_its_direction(
    direction: Direction, text: str
) -> None:
    told = Told()

    told.reporter.connection_opened(3, direction)

    assert told.last["event"] == "connection"
    assert told.last["text"] == text
    assert told.last["facts"] == {"number": 3, "direction": int(direction)}


def test_a_connection_that_ends_or_fails_is_told_and_is_no_error_of_the_tunnel() -> (
    None
):
    told = Told()

    told.reporter.connection_lost(2, RESET)
    told.reporter.connection_failed(RESET)

    assert [event["event"] for event in told.events] == [
        "connection-lost",
        "connection-failed",
    ]
    assert told.events[0]["facts"] == {"number": 2, "error": str(RESET)}
    assert told.document().last_error is None


@pytest.mark.parametrize(
    ("opened", "wanted", "warnings"),
    [(8, 8, []), (2, 1, []), (2, 8, ["the hub grants 2 of 8 connections"])],
)
def test_fewer_connections_than_wanted_are_warned_of(
    opened: int, wanted: int, warnings: list[str]
) -> None:
    told = Told()

    told.reporter.granted(opened, wanted, session(max_connections=opened).welcome)

    assert told.document().warnings == warnings


@pytest.mark.parametrize("is_granted", [True, False])
def test_half_duplex_that_is_not_granted_is_warned_of(is_granted: bool) -> None:
    told = Told(msgspec.structs.replace(SETTINGS, half_duplex=True))

    told.reporter.granted(2, 2, session(half_connection=is_granted).welcome)

    assert bool(told.document().warnings) is not is_granted


def test_the_open_connections_are_counted_beside_the_granted_ones() -> None:
    told = Told()
    opened = told.log_in(max_connections=8, half_connection=True)

    found = told.document(session=opened, connections=5).session

    assert found is not None
    assert (found.connections, found.max_connections, found.half_duplex) == (5, 8, True)


def test_a_warning_is_told_once_until_the_next_attempt() -> None:
    told = Told()

    told.reporter.warn(["beware", "beware"])
    told.reporter.warn(["beware"])
    assert [event["text"] for event in told.events] == ["beware"]

    told.reporter.new_attempt()
    assert told.document().warnings == []
    told.reporter.warn(["beware"])
    assert told.document().warnings == ["beware"]


def test_a_server_cannot_fill_the_memory_with_warnings() -> None:
    told = Told()

    told.reporter.warn(f"warning {n}" for n in range(1000))

    assert len(told.document().warnings) == len(told.events) == 32


# --- the document ------------------------------------------------------------


def test_a_tunnel_that_has_done_nothing_has_a_whole_document() -> None:
    found = msgspec.to_builtins(Told().document())

    assert found["state"] == "down"
    assert found["server"]["host"] == "vpn.example"
    for unknown in ("session", "interface", "lease", "dns", "proven_at", "last_error"):
        assert found[unknown] is None
    assert found["latency_ms"] == {"gateway": None}


def test_the_first_time_that_it_was_connected_is_never_forgotten() -> None:
    told = Told()
    told.reporter.changed(m.Proving(RUN), error=None, now=0.0)
    assert told.document().first_connected_at is None

    told.reporter.changed(m.Connected(RUN, since=1.0), error=None, now=1.0)
    first = told.document().first_connected_at
    assert first == told.document().since

    told.reporter.changed(m.Waiting(RUN, retry_at=9.0), error=RESET, now=2.0)
    told.reporter.new_attempt()
    assert told.document().first_connected_at == first


def test_sessions_after_the_first_are_reconnects() -> None:
    told = Told()
    counts = []

    for _ in range(3):
        counts.append(told.document().counters.reconnects)
        told.log_in()

    assert [*counts, told.document().counters.reconnects] == [0, 0, 1, 2]


def test_what_was_counted_is_copied() -> None:
    counters = Counters()
    counters.inbound_bytes, counters.outbound_frames = 7, 8
    told = Told()
    found = told.document(counters=counters).counters

    counters.inbound_bytes = 9
    assert (found.inbound_bytes, found.outbound_frames) == (7, 8)


def test_the_session_is_as_it_was_granted() -> None:
    told = Told()
    told.reporter.greeted(Stream(), HELLO)  # type: ignore[arg-type]  # what is told
    opened = told.log_in(policy={"DHCPForce": 1}, use_compress=True)

    found = told.document(session=opened).session

    assert found is not None
    assert (found.name, found.compressed) == ("SID-ALICE-1", True)
    assert found.policy == {"DHCPForce": 1}
    assert found.tls == document.Tls(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384")


@pytest.mark.parametrize(
    ("settings", "state", "mtu"),
    [
        (SETTINGS, None, 1500),
        (msgspec.structs.replace(SETTINGS, mtu=1300), None, 1300),
        (SETTINGS, wanted(), 1400),
    ],
)
def test_the_interface_has_the_mtu_that_it_will_have(
    settings: Settings, state: Wanted | None, mtu: int
) -> None:
    found = Told(settings).document(tap=Card(), wanted=state).interface

    assert found is not None
    assert (found.name, found.mac, found.mtu) == ("sevpn0", str(MAC), mtu)
    assert (found.offload, found.kernel) == ("gso", "python")


def test_a_lease_is_told_in_the_time_of_the_wall() -> None:
    told = Told()
    told.clock.advance(600)
    before = dt.datetime.now(dt.UTC)

    found = told.document(wanted=wanted(), lease=lease()).lease

    assert found is not None
    assert (found.address, found.gateway, found.server) == (
        "10.0.0.5/24",
        "10.0.0.1",
        "10.0.0.1",
    )
    left = dt.datetime.fromisoformat(found.expires_at or "") - before
    assert 2990 < left.total_seconds() <= 3600


def test_a_lease_without_an_end_is_never_renewed() -> None:
    found = Told().document(wanted=wanted(), lease=lease(expires_at=None)).lease

    assert found is not None
    assert (found.renew_at, found.expires_at) == (None, None)
    assert found.obtained_at is not None


def test_classless_routes_count_instead_of_the_others() -> None:
    network = IPv4Network("10.9.0.0/16")
    both = lease(
        static_routes=(StaticRoute(IPv4Network("10.8.0.0/16"), GATEWAY),),
        classless_routes=(StaticRoute(network, None), StaticRoute(network, GATEWAY)),
    )

    found = Told().document(wanted=wanted(), lease=both).lease

    assert found is not None
    assert found.routes == ["10.9.0.0/16 via link", "10.9.0.0/16 via 10.0.0.1"]


def test_a_static_address_has_no_server_and_no_times() -> None:
    settings = msgspec.structs.replace(SETTINGS, dns=(IPv4Address("10.0.0.53"),))

    found = Told(settings).document(wanted=wanted()).lease

    assert found is not None
    assert (found.server, found.obtained_at, found.expires_at) == (None, None, None)
    assert (found.gateway, found.dns) == ("10.0.0.1", ["10.0.0.53"])


def test_name_resolution_is_told_only_when_it_was_asked_for() -> None:
    report = HostReport(
        ("r",), ("pref 1",), "file", "nobody manages it", ("10.0.0.53",)
    )

    assert Told().document(host=report).dns is None
    for asked in ({"accept_dns": True}, {"dns": (IPv4Address("10.0.0.53"),)}):
        told = Told(msgspec.structs.replace(SETTINGS, **asked))
        assert told.document(host=report).dns == document.Dns(
            backend="file", reason="nobody manages it", servers=["10.0.0.53"]
        )
        shown = told.document(host=report)
        assert (shown.routes, shown.rules) == (["r"], ["pref 1"])


def test_the_gateway_s_latency_is_in_milliseconds() -> None:
    assert Told().document(latency_s=0.0123456).latency_ms == {"gateway": 12.35}


def test_a_network_that_moved_is_told_and_is_the_last_error() -> None:
    told = Told()

    told.reporter.roamed("the way is another")

    assert (told.last["event"], told.last["text"]) == ("roamed", "the way is another")
    assert told.last["facts"] == {"reason": "the way is another"}
    assert told.reporter.snapshot(EMPTY).last_error == "the way is another"


def test_a_gateway_that_falls_silent_is_told_once_until_it_answers() -> None:
    told = Told()
    told.reporter.proven(Proven("gateway", 0.001, MAC))
    told.events.clear()

    told.reporter.silent("it does not answer")
    told.reporter.silent("it still does not")
    assert [event["event"] for event in told.events] == ["silent"]
    assert told.reporter.snapshot(EMPTY).proven_at is None

    told.reporter.heard()
    assert told.reporter.snapshot(EMPTY).proven_at is not None
    told.reporter.silent("it does not answer again")
    assert [event["event"] for event in told.events] == ["silent", "silent"]
