# SPDX-License-Identifier: Apache-2.0
"""What a policy in the Welcome explains."""

from __future__ import annotations

import pytest

from sevpn.errors import Failure, LeaseError, NotProvenError
from sevpn.protocol.neighbour import Silent
from sevpn.protocol.policy import POLICY_NAMES
from sevpn.tunnel.hints import (
    describe_policy,
    explain_no_lease,
    explain_no_proof,
    explain_silence,
    policy_warnings,
)


@pytest.mark.parametrize(
    ("policy", "word"),
    [
        ({}, "SecureNAT"),
        ({"DHCPFilter": 1}, "DHCPFilter"),
        ({"FilterIPv4": 1}, "FilterIPv4"),
        ({"DHCPFilter": 0}, "SecureNAT"),
    ],
)
def test_a_missing_lease_names_its_likely_cause(
    policy: dict[str, int], word: str
) -> None:
    explained = explain_no_lease(LeaseError("no address"), hub="TEST", policy=policy)

    assert str(explained).startswith("no address")
    assert word in str(explained)
    assert "'TEST'" in str(explained)


@pytest.mark.parametrize(
    ("policy", "gateway", "word"),
    [
        ({"DHCPForce": 1}, "10.0.0.1", "DHCPForce"),
        ({"FilterIPv4": 1}, None, "FilterIPv4"),
        ({"PrivacyFilter": 1}, "10.0.0.1", "PrivacyFilter"),
        ({"PrivacyFilter": 1}, None, "PrivacyFilter"),
        ({"ArpDhcpOnly": 1}, None, "ArpDhcpOnly"),
        ({"ArpDhcpOnly": 1}, "10.0.0.1", "--gateway"),
        ({"FilterIPv4": 1, "PrivacyFilter": 1}, "10.0.0.1", "FilterIPv4"),
        ({}, "10.0.0.1", "--gateway"),
        ({}, None, "anybody else"),
    ],
)
def test_a_missing_proof_names_its_likely_cause(
    policy: dict[str, int], gateway: str | None, word: str
) -> None:
    explained = explain_no_proof(
        NotProvenError("nothing came"), gateway=gateway, policy=policy
    )

    assert word in str(explained)


def test_what_a_policy_makes_difficult_is_said_once_and_only_then() -> None:
    hard = {"DHCPForce": 1, "FilterIPv4": 1, "NoServer": 1}

    assert policy_warnings({}, is_static=True, hub="H") == ()
    assert len(policy_warnings(hard, is_static=False, hub="H")) == 2
    assert len(policy_warnings(hard, is_static=True, hub="H")) == 3


@pytest.mark.parametrize(
    ("policy", "word"),
    [
        ({"CheckIP": 1}, "CheckIP"),
        ({"CheckMac": 1}, "--mac"),
        ({"DHCPForce": 1, "CheckIP": 1}, "DHCPForce"),
    ],
)
def test_addresses_of_others_explain_a_missing_proof(
    policy: dict[str, int], word: str
) -> None:
    explained = explain_no_proof(
        NotProvenError("nothing came"), gateway="10.0.0.1", policy=policy
    )

    assert word in str(explained)


@pytest.mark.parametrize(
    "name",
    [
        *("CheckIP", "FilterNonIP", "FilterIPv6", "AutoDisconnect"),
        *("PrivacyFilter", "ArpDhcpOnly"),
    ],
)
def test_each_policy_that_may_surprise_is_warned_of(name: str) -> None:
    (said,) = policy_warnings({name: 60}, is_static=True, hub="H")

    assert name in said


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"NoBridge": 1}, "3 MAC addresses at most"),
        ({"MaxMac": 7}, "7 MAC addresses at most"),
        ({"NoRouting": 1}, "4 IPv4 addresses at most"),
        ({"MaxIP": 9}, "9 IPv4 addresses at most"),
    ],
)
def test_what_cuts_hosts_behind_a_bridge_off_is_told_to_a_bridge_only(
    policy: dict[str, int], words: str
) -> None:
    (said,) = policy_warnings(policy, is_static=False, is_bridge=True, hub="H")

    assert words in said
    assert f"policy {next(iter(policy))}" in said
    assert "ask its administrator" in said
    assert policy_warnings(policy, is_static=False, hub="H") == ()


def test_a_host_that_forwards_is_told_that_it_may_not() -> None:
    ordinary = {"NoRouting": 1, "NoBridge": 1}

    (said,) = policy_warnings(ordinary, is_static=False, is_router=True, hub="H")

    assert "NoRouting" in said
    assert "masquerade" in said


def test_a_policy_is_described_by_the_servers_names_and_in_words() -> None:
    policy = {"Access": 1, "MaxMac": 3, "NoRouting": 1, "NoServer": 0, "TimeOut": 20}

    assert describe_policy(policy) == (
        "NoRouting (no routing for others)",
        "MaxMac (at most 3 MAC addresses)",
    )


def test_every_policy_that_is_described_is_one_of_the_servers() -> None:
    described = describe_policy(dict.fromkeys(POLICY_NAMES, 1))
    unnamed = {"Access", "DHCPNoServer", "NoBroadcastLimiter", "MonitorPort"}
    unnamed |= {"MaxConnection", "TimeOut", "MultiLogins", "NoQoS", "Ver3"}
    unnamed |= {"DHCPv6NoServer", "NoIPv6DefaultRouterInRAWhenIPv6"}

    assert {text.split()[0] for text in described} == set(POLICY_NAMES) - unnamed


@pytest.mark.parametrize(
    ("has_server_spoken", "words"),
    [(True, "the gateway 10.0.0.1 has not answered"), (False, "carried nothing")],
)
def test_silence_says_whether_the_gateway_has_gone_or_the_way(
    has_server_spoken: bool, words: str
) -> None:
    error = explain_silence(
        Silent(2.5, has_server_spoken=has_server_spoken), gateway="10.0.0.1"
    )

    assert words in str(error)
    assert "2.5 s" in str(error)
    assert error.failure is Failure.TEMPORARY
