# SPDX-License-Identifier: Apache-2.0
"""Addresses and routes through the TAP: set, changed, released, undone."""

from __future__ import annotations

import errno
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from sevpn.errors import HostError
from sevpn.net.host import Host, cleanup
from sevpn.net.model import HostState, Resolver, Route, Rule
from sevpn.net.nlsocket import KernelRefusedError
from sevpn.net.rtnetlink import Netlink
from sevpn.net.tap import Tap
from sevpn.testing.sandbox import add_uplink, ip, ip_json, sandboxed
from sevpn.wire.ethernet import MacAddress

pytestmark = pytest.mark.netns

SERVER = ip_address("203.0.113.7")
GATEWAY = "10.0.0.1"


def start(run: Path, tunnel: str = "office") -> tuple[Host, Tap]:
    (run / "resolv.conf").touch()
    host = Host(tunnel=tunnel, runtime_dir=run / "run", etc_dir=run)
    host.recover()
    tap = host.open_tap(None, MacAddress(b"\x5e\0\0\0\0" + tunnel.encode()[:1]), 1500)
    host.pin_server([SERVER])
    tap.set_carrier(True)
    return host, tap


def route(
    destination: str,
    gateway: str | None = GATEWAY,
    *,
    device: str = "sevpn0",
    onlink: bool = False,
) -> Route:
    return Route(
        ip_network(destination),
        ip_address(gateway) if gateway else None,
        device,
        50,
        onlink=onlink,
    )


def state(
    *routes: Route,
    address: str = "10.0.0.5/24",
    mtu: int = 1500,
    device: str = "sevpn0",
) -> HostState:
    return HostState(device, mtu, (ip_interface(address),), routes, None)


def shown(family: str = "") -> list[str]:
    """Return the routes into the TAP that we made."""
    lines = ip(f"{family} route show dev sevpn0 proto 224").splitlines()
    return [line.removesuffix("pref medium").strip() for line in lines]


def everything() -> str:
    """Return all that `ip` knows, link-local addresses and neighbours apart."""
    return "".join(
        ip(f"{what} show")
        for what in ("link", "-4 address", "-4 route", "-6 route", "rule")
    )


@sandboxed
def test_a_lease_without_routes_takes_its_subnet_and_nothing_else(
    tmp_path: Path,
) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    before = everything()
    host, _ = start(tmp_path)

    changes = host.apply(state(mtu=1400))

    assert [change.describe() for change in changes] == [
        "ip link set sevpn0 mtu 1400",
        "ip link set sevpn0 up",
        "ip address add 10.0.0.5/24 dev sevpn0",
    ]
    (address,) = ip_json("-4 address show dev sevpn0")
    assert address["mtu"] == 1400
    assert address["addr_info"][0]["local"] == "10.0.0.5"
    assert address["addr_info"][0]["broadcast"] == "10.0.0.255"
    assert "10.0.0.0/24 dev sevpn0 proto kernel" in ip("route")
    assert "default via 192.0.2.1 dev eth0" in ip("route")
    host.undo()
    assert everything() == before


@pytest.mark.parametrize(
    ("metric", "needs_halves"), [(0, True), (50, True), (100, False)]
)
def test_the_default_route_wins_over_an_uplink_of_any_metric(
    tmp_path: Path, metric: int, needs_halves: bool
) -> None:
    @sandboxed
    def scenario() -> None:
        add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1", metric=metric)
        before = everything()
        host, _ = start(tmp_path)

        host.apply(state(route("0.0.0.0/0")))

        halves = [
            "0.0.0.0/1 via 10.0.0.1 metric 50",
            "128.0.0.0/1 via 10.0.0.1 metric 50",
        ]
        assert sorted(shown()) == sorted(
            ["default via 10.0.0.1 metric 50", *(halves if needs_halves else [])]
        )
        for public in ("8.8.8.8", "198.41.0.4"):
            assert ip_json(f"route get {public}")[0]["dev"] == "sevpn0"
        assert ip_json(f"route get {SERVER}")[0]["dev"] == "eth0"
        host.undo()
        assert everything() == before

    scenario()


@pytest.mark.parametrize("metric", [20, 50, 1024])
def test_the_ipv6_default_route_wins_over_an_uplink_of_any_metric(
    tmp_path: Path, metric: int
) -> None:
    @sandboxed
    def scenario() -> None:
        add_uplink("eth0", "2001:db8::2/64", gateway="fe80::1", metric=metric)
        before = everything()
        host, _ = start(tmp_path)

        host.apply(state(route("::/0", "2001:db8:1::1"), address="2001:db8:1::5/64"))

        assert ip_json("-6 route get 2001:7fd::1")[0]["dev"] == "sevpn0"
        assert [line for line in ip("-6 route").splitlines() if "nexthop" in line] == []
        host.undo()
        assert everything() == before

    scenario()


@sandboxed
def test_a_gateway_outside_of_the_subnet_is_reached_on_the_link(tmp_path: Path) -> None:
    host, _ = start(tmp_path)

    host.apply(
        state(route("0.0.0.0/0", "10.99.0.1", onlink=True), address="10.0.0.5/32")
    )

    assert shown() == ["default via 10.99.0.1 metric 50 onlink"]
    host.undo()


@sandboxed
def test_applying_the_same_twice_changes_nothing(tmp_path: Path) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    host, _ = start(tmp_path)
    wanted = state(route("0.0.0.0/0"), route("10.7.0.0/16"), route("10.8.0.0/16", None))
    host.apply(wanted)
    once = everything()

    assert host.apply(wanted) == ()
    assert host.repin() == ()

    assert everything() == once
    host.undo()


@sandboxed
def test_a_renewed_lease_with_other_values_changes_only_what_differs(
    tmp_path: Path,
) -> None:
    host, _ = start(tmp_path)
    host.apply(state(route("10.7.0.0/16"), route("10.8.0.0/16")))

    changes = host.apply(state(route("10.7.0.0/16"), route("10.9.0.0/16"), mtu=1300))

    assert [change.describe() for change in changes] == [
        "ip route del 10.8.0.0/16 via 10.0.0.1 dev sevpn0 metric 50 proto 224",
        "ip link set sevpn0 mtu 1300",
        "ip route add 10.9.0.0/16 via 10.0.0.1 dev sevpn0 metric 50 proto 224",
    ]
    host.apply(state(route("10.7.0.0/16", "10.1.0.1"), address="10.1.0.5/16"))
    assert shown() == ["10.7.0.0/16 via 10.1.0.1 metric 50"]
    assert [
        entry["local"]
        for entry in ip_json("-4 address show dev sevpn0")[0]["addr_info"]
    ] == ["10.1.0.5"]
    host.undo()


@sandboxed
def test_a_drop_leaves_the_tap_and_the_way_to_the_server_and_nothing_else(
    tmp_path: Path,
) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    host, tap = start(tmp_path)
    wanted = state(route("0.0.0.0/0"), route("10.7.0.0/16"))
    host.apply(wanted)
    ip("address add 172.16.9.9/24 dev sevpn0")  # somebody else's

    host.release_addresses()

    assert shown() == []
    addresses = [
        entry["local"] for entry in ip_json("address show dev sevpn0")[0]["addr_info"]
    ]
    assert sorted(
        address for address in addresses if not address.startswith("fe80")
    ) == ["172.16.9.9"]
    assert any(address.startswith("fe80") for address in addresses)
    assert "203.0.113.7 via 192.0.2.1 dev eth0" in ip("route")
    netlink = Netlink()
    link = netlink.link("sevpn0")
    assert link is not None
    assert not link.has_carrier
    netlink.close()
    assert host.repin() == ()  # nothing of it comes back by an event

    tap.set_carrier(True)
    host.apply(wanted)
    assert ip_json("route get 8.8.8.8")[0]["dev"] == "sevpn0"
    host.undo()


@sandboxed
def test_the_halves_come_when_an_uplink_with_a_better_default_appears(
    tmp_path: Path,
) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1", metric=100)
    host, _ = start(tmp_path)
    host.apply(state(route("0.0.0.0/0")))

    add_uplink("usb0", "198.51.100.2/24", gateway="198.51.100.1")
    host.repin()

    assert ip_json("route get 8.8.8.8")[0]["dev"] == "sevpn0"
    assert ip_json(f"route get {SERVER}")[0]["dev"] == "usb0"
    ip("link delete usb0")
    host.repin()
    assert shown() == ["default via 10.0.0.1 metric 50"]
    host.undo()


@sandboxed
def test_what_somebody_deleted_comes_back(tmp_path: Path) -> None:
    host, _ = start(tmp_path)
    host.apply(state(route("0.0.0.0/0")))

    ip("address flush dev sevpn0")
    assert len(host.repin()) == 2

    assert ip_json("route get 8.8.8.8")[0]["dev"] == "sevpn0"
    host.undo()


@sandboxed
def test_a_policy_rule_that_wins_is_an_error_and_not_connected(tmp_path: Path) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    ip("route add default via 192.0.2.1 table 100")
    ip("rule add lookup 100 priority 10")
    before = everything()
    host, _ = start(tmp_path)

    with pytest.raises(HostError, match="still go to eth0") as caught:
        host.apply(state(route("0.0.0.0/0")))

    assert caught.value.operation == "check-default"
    host.undo()
    assert everything() == before


@sandboxed
def test_other_peoples_halves_win_and_are_an_error(tmp_path: Path) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1", metric=100)
    ip("route add 128.0.0.0/1 via 192.0.2.1")
    host, _ = start(tmp_path)

    with pytest.raises(HostError, match="still go to eth0"):
        host.apply(state(route("0.0.0.0/0")))
    host.undo()


@sandboxed
def test_a_step_that_the_kernel_refuses_takes_the_others_back(tmp_path: Path) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    host, _ = start(tmp_path)
    host.apply(state(route("10.7.0.0/16")))
    before = everything()

    with pytest.raises(HostError, match="invalid gateway") as caught:
        host.apply(
            state(
                route("10.7.0.0/16"),
                route("10.8.0.0/16"),
                route("10.0.0.0/8", "198.18.0.1"),
                mtu=1300,
            )
        )

    assert caught.value.operation == "add-route"
    assert everything() == before
    host.undo()


@sandboxed
def test_a_tap_deleted_under_us_is_an_error_and_undo_still_works(
    tmp_path: Path,
) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    before = everything()
    host, _ = start(tmp_path)
    host.apply(state(route("0.0.0.0/0")))

    ip("link delete sevpn0")

    with pytest.raises(HostError, match="is gone"):
        host.repin()
    host.release_addresses()
    host.undo()
    assert everything() == before
    assert not (tmp_path / "run").exists()


@sandboxed
def test_a_static_route_over_the_server_leaves_the_server_outside(
    tmp_path: Path,
) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    host, _ = start(tmp_path)

    host.apply(state(route("203.0.113.0/24"), route("192.0.0.0/8")))

    assert ip_json(f"route get {SERVER}")[0]["dev"] == "eth0"
    assert ip_json("route get 203.0.113.8")[0]["dev"] == "sevpn0"
    assert ip_json("route get 192.0.2.1")[0]["dev"] == "eth0"
    host.undo()


@sandboxed
def test_five_hundred_routes_are_set_and_gone_again(tmp_path: Path) -> None:
    host, _ = start(tmp_path)
    wanted = state(
        *(route(f"10.{number // 250 + 1}.{number % 250}.0/24") for number in range(500))
    )

    assert len(host.apply(wanted)) == 502
    assert len(shown()) == 500

    host.undo()
    assert shown_anywhere() == ""


def shown_anywhere() -> str:
    return ip("route show proto 224")


@sandboxed
def test_undo_without_anything_done_and_twice_is_fine(tmp_path: Path) -> None:
    host = Host(tunnel="office", runtime_dir=tmp_path / "run", etc_dir=tmp_path)
    host.undo()
    assert not (tmp_path / "run").exists()
    host, _ = start(tmp_path)
    host.undo()
    host.undo()
    assert not (tmp_path / "run").exists()


@sandboxed
def test_names_are_left_alone_when_dns_is_off(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.53\n", encoding="ascii")
    host = Host(
        tunnel="office", runtime_dir=tmp_path / "run", etc_dir=tmp_path, dns_mode="off"
    )
    host.recover()
    host.open_tap(None, MacAddress(b"\x5e\0\0\0\0\1"), 1500)

    host.apply(HostState("sevpn0", 1500, (), (), Resolver((ip_address("10.0.0.1"),))))

    assert (tmp_path / "resolv.conf").read_text(
        encoding="ascii"
    ) == "nameserver 192.0.2.53\n"
    assert host.describe().dns_backend == "off"
    assert host.describe().dns_servers == ()
    host.undo()


@sandboxed
def test_the_report_tells_when_somebody_else_has_written_resolv_conf(
    tmp_path: Path,
) -> None:
    host, _ = start(tmp_path)
    host.apply(HostState("sevpn0", 1500, (), (), Resolver((ip_address("10.0.0.1"),))))
    assert host.describe().dns_servers == ("10.0.0.1",)
    assert "of its own" in host.describe().dns_reason

    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.99\n", encoding="ascii")

    assert host.describe().dns_servers == ()
    assert "somebody else" in host.describe().dns_reason
    host.release_addresses()
    assert (tmp_path / "resolv.conf").read_text(
        encoding="ascii"
    ) == "nameserver 192.0.2.99\n"
    host.undo()


@sandboxed
def test_the_run_folder_goes_when_the_last_file_in_it_has_gone(tmp_path: Path) -> None:
    host, _ = start(tmp_path)
    sock = tmp_path / "run/office/control.sock"
    sock.touch()

    host.undo()
    assert sock.exists()
    sock.unlink()
    host.close()
    host.close()

    assert not (tmp_path / "run").exists()


@sandboxed
def test_closing_without_undoing_leaves_the_journal_to_cleanup(tmp_path: Path) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    host, tap = start(tmp_path)

    host.close()
    tap.close()

    assert (tmp_path / "run/office/journal").exists()
    assert cleanup(tmp_path / "run", etc_dir=tmp_path) == [
        "ip route del 203.0.113.7 via 192.0.2.1 dev eth0 proto 224",
        "clear the run folder of office",
    ]


@sandboxed
def test_a_host_that_only_recovered_gives_its_folder_back(tmp_path: Path) -> None:
    host = Host(tunnel="office", runtime_dir=tmp_path / "run", etc_dir=tmp_path)
    host.recover()

    host.close()

    assert not (tmp_path / "run").exists()


# --- a table of its own ------------------------------------------------------------


def in_own_table(host: Host, *more: Route) -> HostState:
    marks = host.marks
    return HostState(
        "sevpn0",
        1500,
        (ip_interface("10.0.0.5/24"),),
        (
            *more,
            replace(route("0.0.0.0/0"), table=marks.table),
            Route(
                ip_network("10.5.0.0/16"), None, "", 0, table=marks.table, kind="throw"
            ),
        ),
        None,
        rules=(Rule(4, marks.preference + 2, marks.table, marks.own, is_not=True),),
    )


@sandboxed
def test_a_full_tunnel_by_mark_is_set_once_and_gone_again(tmp_path: Path) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    before = everything()
    host, _ = start(tmp_path)

    assert len(host.apply(in_own_table(host))) == 5
    assert host.apply(in_own_table(host)) == ()
    assert host.repin() == ()
    (way,) = ip_json("route get 24.0.0.1")
    assert way["dev"] == "sevpn0"

    host.undo()
    assert everything() == before


class WithoutRules(Netlink):
    """A kernel that was built without policy routing."""

    def add_rule(self, rule: Rule) -> None:
        refused = KernelRefusedError(errno.EOPNOTSUPP, "Operation not supported")
        raise refused.translated(f"add the rule {rule}", "add-rule")


@sandboxed
def test_a_kernel_without_policy_routing_is_told_and_all_taken_back(
    tmp_path: Path,
) -> None:
    add_uplink("eth0", "192.0.2.2/24", gateway="192.0.2.1")
    before = everything()
    host, _ = start(tmp_path)
    host._netlink.close()
    host._netlink = WithoutRules()

    with pytest.raises(
        HostError, match=r"pref 9002 .*no policy routing .*leave out --route-mode mark"
    ):
        host.apply(in_own_table(host))

    assert ip("route show table all proto 224 dev sevpn0") == ""
    host.undo()
    assert everything() == before
