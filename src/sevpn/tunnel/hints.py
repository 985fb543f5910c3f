# SPDX-License-Identifier: Apache-2.0
"""What may be behind a trouble inside the tunnel, and what to do about it.

Layer: tunnel; pure. Runs in: the control thread.

A hub drops what its policy forbids without a word, so a client can only know
from the policy in the Welcome why nothing comes back. Source:
docs/reference/protocol-data.md#policies.
"""

from __future__ import annotations

from collections.abc import Mapping

from sevpn.errors import LeaseError, NotProvenError

__all__ = ["explain_no_lease", "explain_no_proof", "policy_warnings"]


def explain_no_lease(
    error: LeaseError, *, hub: str, policy: Mapping[str, int]
) -> LeaseError:
    """Return *error* with its likely cause and the next step."""
    if policy.get("DHCPFilter"):
        return LeaseError(
            f"{error}: the policy of hub {hub!r} drops DHCP (DHCPFilter); give an address with --no-dhcp and --address"
        )
    if policy.get("FilterIPv4"):
        return LeaseError(
            f"{error}: the policy of hub {hub!r} drops all IPv4 (FilterIPv4); ask its administrator"
        )
    return LeaseError(
        f"{error}: hub {hub!r} may have no DHCP server (SecureNAT off, bridge down) or drop DHCP; "
        "ask its administrator, or give an address with --no-dhcp and --address"
    )


def explain_no_proof(
    error: NotProvenError, *, gateway: object | None, policy: Mapping[str, int]
) -> NotProvenError:
    """Return *error* with its likely cause and the next step."""
    if policy.get("DHCPForce"):
        cause = (
            "the hub's policy DHCPForce drops what does not come from a leased address"
        )
    elif policy.get("FilterIPv4"):
        cause = "the hub's policy FilterIPv4 drops all IPv4"
    elif gateway is not None:
        cause = f"is {gateway} the right gateway (--gateway), and is it up?"
    else:
        cause = "is anybody else on the hub, and is the address right?"
    return NotProvenError(f"{error}: {cause}")


def policy_warnings(
    policy: Mapping[str, int], *, is_static: bool, hub: str
) -> tuple[str, ...]:
    """Return what the hub's policy will make difficult, one sentence each."""
    warnings: list[str] = []
    if is_static and policy.get("DHCPForce"):
        warnings.append(
            f"hub {hub!r} drops everything from addresses that its DHCP did not give (policy DHCPForce): "
            "leave out --no-dhcp"
        )
    if policy.get("FilterIPv4"):
        warnings.append(f"hub {hub!r} drops all IPv4 (policy FilterIPv4)")
    if policy.get("NoServer"):
        warnings.append(
            f"hub {hub!r} lets nobody open connections to this host (policy NoServer)"
        )
    return tuple(warnings)
