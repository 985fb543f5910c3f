# SPDX-License-Identifier: Apache-2.0
"""What a policy in the Welcome explains."""

from __future__ import annotations

import pytest

from sevpn.errors import LeaseError, NotProvenError
from sevpn.tunnel.hints import explain_no_lease, explain_no_proof, policy_warnings


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
