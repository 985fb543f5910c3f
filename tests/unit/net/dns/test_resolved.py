# SPDX-License-Identifier: Apache-2.0
"""What systemd-resolved is told, and what its refusals become; on a bus in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Self, cast

import pytest

from sevpn.errors import HostError, PrivilegeError
from sevpn.net.bus import BusError, Destination, SystemBus
from sevpn.net.dns.backend import Owner
from sevpn.net.dns.resolved import Resolved, settings_of, why_not
from sevpn.net.model import Resolver

OWNER = Owner("office", "sevpn0")
RESOLVER = Resolver(
    (ip_address("10.0.0.1"), ip_address("2001:db8::1")), ("corp.example",)
)
ALL = (
    [(2, b"\n\0\0\1"), (10, ip_address("2001:db8::1").packed)],
    [("corp.example", False), (".", True)],
)


@dataclass
class Bus:
    """A bus with a systemd-resolved that keeps what it is told, for one link."""

    calls: list[tuple[str, tuple[object, ...]]] = field(default_factory=list)
    servers: Any = field(default_factory=list)
    domains: Any = field(default_factory=list)
    errors: dict[str, BusError] = field(default_factory=dict)
    is_forgetful: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(
        self, _where: Destination, method: str, _signature: str = "", *values: Any
    ) -> tuple[Any, ...]:
        self.calls.append((method, values))
        if method in self.errors:
            raise self.errors[method]
        match method:
            case "SetLinkDNS" if not self.is_forgetful:
                self.servers = values[1]
            case "SetLinkDomains":
                self.domains = values[1]
            case "GetLink":
                return ("/org/freedesktop/resolve1/link/_37",)
            case "GetAll":
                # With the types of each, as properties come.
                return (
                    {
                        "DNS": ("a(iay)", self.servers),
                        "Domains": ("a(sb)", self.domains),
                    },
                )
            case _:
                pass
        return ()

    @property
    def methods(self) -> list[str]:
        return [method for method, _ in self.calls]


def connect(bus: Bus) -> Callable[[], SystemBus]:
    return lambda: cast("SystemBus", bus)  # it does what Resolved asks of one


def no_link(_name: str) -> int:
    raise OSError("no such device")


def resolved(bus: Bus, index_of: Callable[[str], int] = lambda _: 7) -> Resolved:
    return Resolved(connect(bus), index_of)


def test_all_servers_are_set_in_one_call_and_read_back() -> None:
    bus = Bus()

    resolved(bus).set(RESOLVER, OWNER)

    assert bus.calls == [
        ("SetLinkDNS", (7, ALL[0])),
        ("SetLinkDomains", (7, ALL[1])),
        ("SetLinkDefaultRoute", (7, True)),
        ("GetLink", (7,)),
        ("GetAll", ("org.freedesktop.resolve1.Link",)),
    ]
    assert resolved(bus).is_in_place(RESOLVER, OWNER)


def test_with_split_dns_only_the_domains_are_routed_and_nothing_by_default() -> None:
    bus = Bus()
    split = Resolver(RESOLVER.servers, ("a.example",), ("a.example", "b.example"))

    resolved(bus).set(split, OWNER)

    assert bus.domains == [("a.example", False), ("b.example", True)]
    assert ("SetLinkDefaultRoute", (7, False)) in bus.calls
    assert not resolved(bus).is_in_place(RESOLVER, OWNER)


def test_domains_that_differ_in_case_alone_are_one() -> None:
    resolver = Resolver(
        RESOLVER.servers, ("Corp.Example",), ("corp.example", "B.example", "b.example")
    )

    assert settings_of(resolver)[1] == [("corp.example", False), ("b.example", True)]


def test_settings_that_did_not_last_are_an_error_that_shows_them() -> None:
    bus = Bus(servers=[(2, b"\6\6\6\6")], is_forgetful=True)

    with pytest.raises(HostError, match=r"6\.6\.6\.6 corp\.example ~\."):
        resolved(bus).set(RESOLVER, OWNER)


def test_a_daemon_without_default_routes_is_fine() -> None:
    bus = Bus(
        errors={
            "SetLinkDefaultRoute": BusError(
                "no such method", name="org.freedesktop.DBus.Error.UnknownMethod"
            )
        }
    )

    resolved(bus).set(RESOLVER, OWNER)

    assert settings_of(RESOLVER) == (bus.servers, bus.domains)


@pytest.mark.parametrize(
    "name",
    [
        "org.freedesktop.DBus.Error.AccessDenied",
        "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
    ],
)
def test_a_refusal_is_one_of_privilege(name: str) -> None:
    bus = Bus(errors={"SetLinkDNS": BusError("not you", name=name)})

    with pytest.raises(PrivilegeError, match="does not let this user"):
        resolved(bus).set(RESOLVER, OWNER)
    assert bus.methods == ["SetLinkDNS"]


@pytest.mark.parametrize(
    "errors",
    [
        {"SetLinkDomains": BusError("bad domain")},
        {"SetLinkDefaultRoute": BusError("no answer")},
        {"GetAll": BusError("no answer")},
    ],
)
def test_any_other_error_names_the_way_out(errors: dict[str, BusError]) -> None:
    with pytest.raises(HostError, match="--dns-mode file"):
        resolved(Bus(errors=errors)).set(RESOLVER, OWNER)


def test_a_link_described_in_an_unknown_way_is_an_error() -> None:
    bus = Bus(servers=[(2,)], is_forgetful=True)

    with pytest.raises(HostError, match="in an unknown way"):
        resolved(bus).set(RESOLVER, OWNER)
    assert not resolved(bus).is_in_place(RESOLVER, OWNER)


def test_without_its_interface_nothing_is_set_and_nothing_is_to_be_restored() -> None:
    bus = Bus()

    with pytest.raises(HostError, match="there is no sevpn0"):
        resolved(bus, no_link).set(RESOLVER, OWNER)
    resolved(bus, no_link).restore(OWNER)

    assert bus.calls == []


def test_restoring_reverts_the_link() -> None:
    bus = Bus()

    resolved(bus).restore(OWNER)

    assert bus.calls == [("RevertLink", (7,))]


def test_a_link_that_has_just_gone_needs_no_restoring() -> None:
    gone = BusError("no", name="org.freedesktop.resolve1.NoSuchLink")

    resolved(Bus(errors={"RevertLink": gone})).restore(OWNER)


def test_a_daemon_that_does_not_answer_cannot_restore() -> None:
    with pytest.raises(HostError, match="no answer"):
        resolved(Bus(errors={"RevertLink": BusError("no answer")})).restore(OWNER)


def test_why_not_says_what_the_bus_says() -> None:
    def no_bus() -> SystemBus:
        raise BusError("there is no system bus")

    assert why_not(connect(Bus())) == ""
    assert why_not(connect(Bus(errors={"Ping": BusError("not there")}))) == "not there"
    assert why_not(no_bus) == "there is no system bus"
