# SPDX-License-Identifier: Apache-2.0
"""The text of the lock, and what is stored of it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from sevpn.errors import HostError
from sevpn.net.lock import (
    Allowed,
    Lock,
    ruleset,
    store_addresses,
    stored_addresses,
    table_name,
)
from sevpn.net.nft import Nftables

OFFICE = Allowed(
    mark=0xE0E0,
    tunnels=("sevpn0",),
    servers=(ip_address("203.0.113.7"), ip_address("fe80::1%eth0")),
    resolvers=(ip_address("192.0.2.53"),),
    networks=(ip_network("10.0.0.0/8"), ip_network("10.7.0.0/16")),
    uids=(33,),
)


class Filter(Nftables):
    """A packet filter that only remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.there: set[str] = set()
        self.error: HostError | None = None
        self.shown = "what was loaded"

    def run(self, text: str) -> str:
        if self.error is not None:
            raise self.error
        self.said.append(text)
        names = {line.split()[-1] for line in text.splitlines() if "delete" in line}
        self.there -= names
        self.there |= {
            line.split()[2]
            for line in text.splitlines()
            if line.endswith(" {") and "inet" in line
        }
        return ""

    def listing(self, name: str) -> str | None:
        return self.shown if name in self.there else None


def test_the_table_says_who_may_leave_and_rejects_the_rest() -> None:
    text = ruleset("office", OFFICE, is_owned=False)

    assert text.startswith(
        "table inet sevpn_office\ndelete table inet sevpn_office\ntable inet sevpn_office {\n"
    )
    assert "flags owner" not in text
    for line in (
        'elements = { "sevpn0" }',
        "elements = { 203.0.113.7 }",
        "elements = { fe80::1 }",
        "elements = { 10.0.0.0/8 }",  # overlaps are merged: nft refuses them
        "meta mark 0xe0e0 ip daddr @servers4 accept",
        "meta skuid 33 accept",
        "type filter hook output priority filter - 10; policy drop;",
        "type filter hook forward priority filter - 10; policy drop;",
    ):
        assert line in text.splitlines()
    assert text.count("reject with icmpx type admin-prohibited") == 2


def test_a_table_of_auto_is_owned_by_the_process() -> None:
    first = ruleset("office", OFFICE, is_owned=True)
    then = ruleset("office", OFFICE, is_owned=True, is_there=True)

    assert first.startswith("table inet sevpn_office {\nflags owner\n")
    assert then == "delete table inet sevpn_office\n" + first


def test_without_any_address_the_sets_are_empty() -> None:
    assert "elements" not in ruleset("office", Allowed(mark=1), is_owned=False)


@given(
    st.sets(st.text("abcXYZ019._-", min_size=1, max_size=63), min_size=2, max_size=2)
)
def test_each_tunnel_has_a_table_of_its_own_that_nft_can_read(names: set[str]) -> None:
    first, second = map(table_name, names)

    assert first != second
    assert first.replace("_", "").isalnum()


def test_the_same_is_not_loaded_twice_and_a_change_replaces_it(tmp_path: Path) -> None:
    nft = Filter()
    lock = Lock("on", "office", store=tmp_path / "lock", nftables=nft)

    assert lock.hold(OFFICE)
    assert not lock.hold(OFFICE)
    assert lock.hold(Allowed(mark=2))

    assert len(nft.said) == 2
    assert (tmp_path / "lock/office.nft").read_text() == nft.said[-1]
    assert (tmp_path / "lock/office.nft").stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_stored_is_not_loaded_either(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("no folder")
    nft = Filter()
    lock = Lock("on", "office", store=tmp_path / "lock", nftables=nft)

    with pytest.raises(HostError, match="cannot write below"):
        lock.hold(OFFICE)

    assert not nft.said
    assert not lock.is_held


@pytest.mark.parametrize("is_left_over", [False, True])
def test_what_cannot_be_put_in_place_leaves_the_packet_filter_as_it_was(
    tmp_path: Path, *, is_left_over: bool
) -> None:
    (tmp_path / "lock/office.nft/in-the-way").mkdir(parents=True)
    nft = Filter()
    if is_left_over:  # by a crash, or loaded early at boot: nothing may leave meanwhile
        nft.there.add(table_name("office"))
    lock = Lock("on", "office", store=tmp_path / "lock", nftables=nft)

    with pytest.raises(HostError, match="cannot write below"):
        lock.hold(OFFICE)

    assert nft.has_table(table_name("office")) == is_left_over
    assert not lock.is_held
    assert [path.name for path in (tmp_path / "lock").iterdir()] == ["office.nft"]


def test_a_lock_that_holds_follows_a_change_that_cannot_be_stored(
    tmp_path: Path,
) -> None:
    nft = Filter()
    lock = Lock("on", "office", store=tmp_path / "lock", nftables=nft)
    lock.hold(OFFICE)
    stored = (tmp_path / "lock/office.nft").read_text()
    (tmp_path / "lock/office.nft.new").mkdir()

    assert lock.hold(Allowed(mark=2))

    assert len(nft.said) == 2
    assert (tmp_path / "lock/office.nft").read_text() == stored


def test_what_the_packet_filter_refuses_is_not_stored(tmp_path: Path) -> None:
    nft = Filter()
    nft.error = HostError("no", operation="load-filter")

    with pytest.raises(HostError, match="no"):
        Lock("on", "office", store=tmp_path, nftables=nft).hold(OFFICE)

    assert not list(tmp_path.iterdir())


def test_what_somebody_removed_is_loaded_again() -> None:
    nft = Filter()
    lock = Lock("on", "office", nftables=nft)
    lock.hold(OFFICE)

    assert not lock.mend()
    nft.there.clear()
    assert lock.mend()

    assert nft.said[0] == nft.said[1]


def test_what_somebody_emptied_is_loaded_again() -> None:
    nft = Filter()
    lock = Lock("on", "office", nftables=nft)
    lock.hold(OFFICE)

    nft.shown = ""

    assert lock.mend()
    assert nft.said[0] == nft.said[1]
    assert not lock.mend()


def test_what_cannot_be_loaded_again_is_said_to_be_gone_and_tried_again() -> None:
    nft = Filter()
    lock = Lock("on", "office", nftables=nft)
    lock.hold(OFFICE)
    nft.there.clear()
    nft.error = HostError("no", operation="load-filter")

    with pytest.raises(HostError):
        lock.mend()
    assert not lock.is_held
    nft.error = None

    assert lock.mend()
    assert lock.is_held


def test_what_somebody_removed_just_before_the_end_is_no_error() -> None:
    nft = Filter()
    lock = Lock("on", "office", nftables=nft)
    lock.hold(OFFICE)
    nft.there.clear()

    lock.lift()

    assert len(nft.said) == 1


def test_lifted_it_is_gone_and_stays_gone() -> None:
    nft = Filter()
    lock = Lock("auto", "office", nftables=nft)
    lock.hold(OFFICE)

    lock.lift()
    lock.lift()

    assert nft.said[1:] == ["delete table inet sevpn_office"]
    assert not lock.is_held
    assert not lock.mend()


def test_a_change_that_is_refused_leaves_what_was_held() -> None:
    nft = Filter()
    lock = Lock("on", "office", nftables=nft)
    lock.hold(OFFICE)
    nft.error = HostError("no", operation="load-filter")

    with pytest.raises(HostError):
        lock.hold(Allowed(mark=2))
    nft.error = None

    assert lock.is_held
    assert lock.hold(Allowed(mark=2))


def test_without_a_lock_nothing_is_asked() -> None:
    nft = Filter()
    lock = Lock("off", "office", nftables=nft)

    assert not lock.hold(OFFICE)
    assert not lock.mend()
    lock.lift()
    lock.refuse_left_over()

    assert nft.said == []


def test_a_start_without_a_lock_behind_one_that_was_left_is_refused(
    tmp_path: Path,
) -> None:
    nft = Filter()
    Lock("on", "office", store=tmp_path, nftables=nft).hold(OFFICE)
    later = Lock("off", "office", store=tmp_path, nftables=nft)

    with pytest.raises(HostError, match="sevpn unlock"):
        later.refuse_left_over()
    Lock("off", "other", store=tmp_path, nftables=nft).refuse_left_over()


def test_without_its_library_the_package_is_named() -> None:
    nft = Nftables("libnothing-of-this-name.so.9")

    with pytest.raises(HostError, match="install the package nftables"):
        nft.run("list tables")


def test_addresses_are_remembered_over_a_restart(tmp_path: Path) -> None:
    known = {"vpn.example": [ip_address("203.0.113.7"), ip_address("2001:db8::7")]}

    store_addresses(tmp_path / "lock", "office", known)

    assert stored_addresses(tmp_path / "lock", "office") == known
    assert stored_addresses(tmp_path / "lock", "other") == {}


def test_a_damaged_store_is_no_error(tmp_path: Path) -> None:
    for content in (b"", b"{", b'{"a": 1}', b'{"a": ["no address"]}', b"\xff"):
        (tmp_path / "office.json").write_bytes(content)

        assert stored_addresses(tmp_path, "office") == {}


@pytest.mark.parametrize("has_forwarded", [True, False])
def test_with_connmark_what_a_dnat_rule_sends_on_is_handed_on(
    *, has_forwarded: bool
) -> None:
    text = ruleset(
        "office", replace(OFFICE, has_forwarded=has_forwarded), is_owned=False
    )

    _, routed = text.split("chain routed {")
    line = "iifname @tunnels ct status dnat accept"
    assert (line in routed) == has_forwarded
    assert text.count(line) == has_forwarded
