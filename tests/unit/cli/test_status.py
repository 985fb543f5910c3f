# SPDX-License-Identifier: Apache-2.0
"""How a tunnel's status reads, and what `--check` answers."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from sevpn.cli.status import Check, _bytes, _holds, render
from sevpn.metrics.snapshot import (
    Counters,
    Dns,
    Interface,
    Lease,
    Server,
    Session,
    State,
    Tls,
    Tunnel,
    Udp,
)

STATES: tuple[State, ...] = get_args(State)


def tunnel(**known: Any) -> Tunnel:
    least: dict[str, Any] = {
        "name": "office",
        "state": "connected",
        "since": "2026-01-31T12:00:00Z",
        "pid": 4711,
        "server": Server(host="vpn.example", port=443, hub="OFFICE"),
    }
    return Tunnel(**(least | known))


def shown(**known: Any) -> dict[str, str]:
    """Return the lines of a status by their keys; of several, the last."""
    rows = (line.partition(" ") for line in render(tunnel(**known)).splitlines())
    return {key: value.strip() for key, _, value in rows}


# --- --check -----------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
def test_a_tunnel_lives_unless_it_has_ended(state: State) -> None:
    assert _holds(tunnel(state=state), "live") == (state not in {"down", "failed"})


@pytest.mark.parametrize("state", STATES)
def test_a_tunnel_is_ready_while_it_is_connected(state: State) -> None:
    ready = tunnel(
        state=state,
        proven_at="2026-01-31T12:00:00Z",
        counters=Counters(reconnects=3),
    )

    assert _holds(ready, "ready") == (state == "connected")


@pytest.mark.parametrize("state", STATES)
def test_a_tunnel_has_started_up_once_it_was_connected_whatever_came_then(
    state: State,
) -> None:
    assert not _holds(tunnel(state=state), "startup")
    once = tunnel(state=state, first_connected_at="2026-01-31T12:00:00Z")
    assert _holds(once, "startup")


def test_each_check_is_decided() -> None:
    whole = tunnel(first_connected_at="2026-01-31T12:00:00Z")
    for check in get_args(Check):
        assert _holds(whole, check) is True


# --- the screen --------------------------------------------------------------


def test_a_status_of_nothing_yet_is_short() -> None:
    assert render(tunnel(state="resolving")).splitlines() == [
        "office:      resolving since 2026-01-31T12:00:00Z (pid 4711)",
        "server:      vpn.example port 443, hub OFFICE",
        "traffic:     0 B in, 0 B out",
    ]


def test_a_whole_status_is_one_screen() -> None:
    text = render(
        tunnel(
            server=Server(
                host="vpn.example",
                address="192.0.2.7",
                port=992,
                hub="OFFICE",
                product="SoftEther VPN Server",
                build=9674,
                verified_by="pin",
            ),
            session=Session(
                name="SID-ALICE-1", tls=Tls(version="TLSv1.3", cipher="AES")
            ),
            interface=Interface(name="sevpn0", mac="5e:00:53:00:00:01", mtu=1500),
            lease=Lease(
                address="10.0.0.5/24",
                gateway="10.0.0.1",
                server="10.0.0.1",
                expires_at="2026-01-31T13:00:00Z",
            ),
            latency_ms={"gateway": 1.5},
            routes=["default via 10.0.0.1 dev sevpn0", "192.0.2.7 via 198.51.100.1"],
            dns=Dns(backend="file", reason="nobody else", servers=["10.0.0.53"]),
            warnings=["beware"],
            last_error="reset",
        )
    )

    for line in (
        "server:      vpn.example (192.0.2.7) port 992, hub OFFICE",
        "             SoftEther VPN Server, build 9674; certificate pinned",
        "session:     SID-ALICE-1, TLSv1.3 AES",
        "interface:   sevpn0, 5e:00:53:00:00:01, MTU 1500",
        "address:     10.0.0.5/24 from 10.0.0.1 until 2026-01-31T13:00:00Z",
        "gateway:     10.0.0.1, 1.5 ms",
        "route:       default via 10.0.0.1 dev sevpn0",
        "route:       192.0.2.7 via 198.51.100.1",
        "dns:         10.0.0.53 (file: nobody else)",
        "warning:     beware",
        "last error:  reset",
    ):
        assert line in text.splitlines()
    assert len(text.splitlines()) <= 24


@pytest.mark.parametrize(
    ("session", "words"),
    [
        ({}, ""),
        ({"connections": 3, "max_connections": 4}, ", 3 connections"),
        (
            {"connections": 2, "max_connections": 2, "half_duplex": True},
            ", 2 connections, half duplex",
        ),
    ],
)
def test_several_connections_are_counted(session: dict[str, Any], words: str) -> None:
    tls = Tls(version="TLSv1.3", cipher="AES")
    lines = shown(session=Session(name="S", tls=tls, **session))
    assert lines["session:"] == f"S, TLSv1.3 AES{words}"


def test_datagrams_that_were_not_taken_are_told_by_reason() -> None:
    udp = Udp(state="up", version=2, dropped_datagrams={"foreign": 3, "stale": 1})
    session = Session(name="S", tls=Tls(version="TLSv1.3", cipher="AES"), udp=udp)

    lines = shown(session=session)

    assert lines["udp:"] == "up, version 2; not taken: 3 foreign, 1 stale"


@pytest.mark.parametrize(
    ("verified_by", "words"),
    [
        ("ca", "verified by CA"),
        ("pin", "pinned"),
        ("none", "NOT VERIFIED"),
        (None, "NOT VERIFIED"),
    ],
)
def test_nobody_reads_trust_where_there_is_none(verified_by: Any, words: str) -> None:
    server = Server(
        host="h", port=443, hub="H", product="p", build=1, verified_by=verified_by
    )

    assert f"certificate {words}" in render(tunnel(server=server))


def test_an_address_that_was_given_as_the_host_is_told_once() -> None:
    server = Server(host="192.0.2.7", address="192.0.2.7", port=443, hub="H")

    assert shown(server=server)["server:"] == "192.0.2.7 port 443, hub H"


def test_a_static_address_is_from_nobody_and_has_no_end() -> None:
    assert shown(lease=Lease(address="10.0.0.5/24"))["address:"] == "10.0.0.5/24 static"


def test_a_gateway_that_has_not_answered_yet_has_no_latency() -> None:
    lease = Lease(address="10.0.0.5/24", gateway="10.0.0.1")

    assert shown(lease=lease)["gateway:"] == "10.0.0.1"


def test_name_servers_that_are_not_set_are_not_shown() -> None:
    assert "dns:" not in shown(dns=Dns(backend="off", reason="asked for", servers=[]))


@pytest.mark.parametrize(
    ("counters", "text"),
    [
        (Counters(), "0 B in, 0 B out"),
        (
            Counters(inbound_bytes=1536, outbound_bytes=3 << 20),
            "1.5 KiB in, 3.0 MiB out",
        ),
        (Counters(reconnects=1), "0 B in, 0 B out; 1 reconnect"),
        (Counters(reconnects=2), "0 B in, 0 B out; 2 reconnects"),
        (
            Counters(dropped_frames={"queue": 2, "size": 3}, reconnects=1),
            "0 B in, 0 B out; 1 reconnect; 5 frames dropped",
        ),
    ],
)
def test_the_traffic_is_one_line(counters: Counters, text: str) -> None:
    assert shown(counters=counters)["traffic:"] == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2, "1.0 MiB"),
        (1024**3, "1.0 GiB"),
        (1024**4, "1.0 TiB"),
        (2048 * 1024**4, "2048.0 TiB"),
    ],
)
def test_bytes_have_the_unit_that_a_person_would_choose(count: int, text: str) -> None:
    assert _bytes(count) == text


def test_what_the_policy_keeps_the_user_from_is_a_line() -> None:
    session = Session(name="S", policy={"NoServer": 1, "MaxUpload": 1000, "Ver3": 1})

    lines = shown(session=session)

    assert lines["policy:"] == (
        "NoServer (no incoming connections), MaxUpload (at most 1000 bit/s to the hub)"
    )
    assert "policy:" not in shown(session=Session(name="S", policy={"Access": 1}))
