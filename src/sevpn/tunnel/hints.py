# SPDX-License-Identifier: Apache-2.0
"""What may be behind a trouble inside the tunnel, and what to do about it.

Layer: tunnel; pure. Runs in: the control thread.

A hub drops what its policy forbids without a word, so a client can only know
from the policy in the Welcome why nothing comes back. Source:
docs/reference/protocol-data.md#policies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sevpn.errors import Failure, LeaseError, NotProvenError, SevpnError, SilenceError
from sevpn.protocol.neighbour import Silent

__all__ = [
    "describe_policy",
    "explain_no_lease",
    "explain_no_proof",
    "explain_silence",
    "policy_warnings",
]

_NO_BRIDGE_MACS: Final = 3
_NO_ROUTING_IPS: Final = 4

_LIMITS: Final = {
    "DHCPFilter": "DHCP is dropped",
    "DHCPForce": "leased addresses only",
    "FilterIPv4": "IPv4 is dropped",
    "FilterIPv6": "IPv6 is dropped",
    "FilterNonIP": "all but IP is dropped",
    "NoBridge": "one machine only",
    "NoRouting": "no routing for others",
    "CheckMac": "no MAC address of others",
    "CheckIP": "no IPv4 address of others",
    "PrivacyFilter": "no traffic between users",
    "NoServer": "no incoming connections",
    "ArpDhcpOnly": "no broadcasts",
    "MaxMac": "at most {} MAC addresses",
    "MaxIP": "at most {} IPv4 addresses",
    "MaxIPv6": "at most {} IPv6 addresses",
    "MaxUpload": "at most {} bit/s to the hub",
    "MaxDownload": "at most {} bit/s from the hub",
    "RSandRAFilter": "router advertisements are dropped",
    "RAFilter": "router advertisements are dropped",
    "DHCPv6Filter": "DHCPv6 is dropped",
    "NoRoutingV6": "no IPv6 routing for others",
    "CheckIPv6": "no IPv6 address of others",
    "NoServerV6": "no incoming IPv6 connections",
    "NoIPv6DefaultRouterInRA": "no IPv6 default router",
    "FixPassword": "the password cannot be changed",
    "NoSavePassword": "the password must not be stored",
    "AutoDisconnect": "sessions end after {} s",
    "VLanId": "VLAN {}",
}
"""Policies that limit a user, in words; a number stands where the braces are."""


def describe_policy(policy: Mapping[str, int]) -> tuple[str, ...]:
    """Return what *policy* keeps the user from, by the server's name and in words."""
    return tuple(
        f"{name} ({words.format(policy[name])})"
        for name, words in _LIMITS.items()
        if policy.get(name)
    )


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
    elif policy.get("CheckIP"):
        cause = (
            "the hub's policy CheckIP drops an address that another session uses; "
            "is it free, and is the gateway right (--gateway)?"
        )
    elif policy.get("CheckMac"):
        cause = (
            "the hub's policy CheckMac drops a MAC address that another session uses; "
            "is it free (--mac), and is the gateway right (--gateway)?"
        )
    elif gateway is not None and policy.get("PrivacyFilter"):
        cause = (
            f"the hub's policy PrivacyFilter drops all frames between its users: if {gateway} is one of them, "
            "nothing of it comes back; ask the hub's administrator, and is the gateway right (--gateway)?"
        )
    elif policy.get("PrivacyFilter"):
        cause = (
            "the hub's policy PrivacyFilter drops all frames between its users, so that neighbours do not answer; "
            "name a gateway that is none of them with --gateway"
        )
    elif gateway is None and policy.get("ArpDhcpOnly"):
        cause = (
            "the hub's policy ArpDhcpOnly drops broadcasts other than ARP, DHCP and ICMPv6, so that only who is "
            "asked for by name answers; name a gateway with --gateway"
        )
    elif gateway is not None:
        cause = f"is {gateway} the right gateway (--gateway), and is it up?"
    else:
        cause = "is anybody else on the hub, and is the address right?"
    return NotProvenError(f"{error}: {cause}")


def explain_silence(silent: Silent, *, gateway: object | None) -> SevpnError:
    """Return what it means that the gateway does not answer any more."""
    if silent.has_server_spoken:
        return NotProvenError(
            f"the gateway {gateway} has not answered ARP for {silent.since_s:.1f} s, while the server is there: "
            "it is down, or the hub has cut it off; ask the hub's administrator"
        )
    return SilenceError(
        f"the tunnel has carried nothing for {silent.since_s:.1f} s, not even an answer of the gateway "
        f"{gateway}: the way to the server is dead, or the server is",
        failure=Failure.TEMPORARY,
    )


def policy_warnings(
    policy: Mapping[str, int],
    *,
    is_static: bool,
    hub: str,
    is_bridge: bool = False,
    is_router: bool = False,
) -> tuple[str, ...]:
    """Return what the hub's policy will make difficult, one sentence each.

    Args:
        policy: Of the Welcome.
        is_static: Whether this host chose its address.
        hub: Its name.
        is_bridge: Whether others speak through this tunnel with addresses of their own.
        is_router: Whether this host forwards packets of others. Every session that
            does not ask for bridge mode has NoRouting and NoBridge, so they are only
            told where they matter.
    """
    # The policy, empty where it does not matter; what the hub does; what to do.
    said = [
        (
            "DHCPForce" if is_static else "",
            "drops everything from addresses that its DHCP did not give",
            "leave out --no-dhcp",
        ),
        ("FilterIPv4", "drops all IPv4", ""),
        (
            "CheckIP" if is_static else "",
            "drops everything from an address that another session uses",
            "",
        ),
        ("FilterNonIP", "drops all but IP and ARP", ""),
        ("FilterIPv6", "drops all IPv6", ""),
        (
            "AutoDisconnect",
            f"ends sessions after {policy.get('AutoDisconnect')} s",
            "the tunnel leaves then",
        ),
        ("NoServer", "lets nobody open connections to this host", ""),
        (
            "PrivacyFilter",
            "drops all frames between users that have it, too",
            "other users, and a gateway that is one of them, cannot be reached",
        ),
        (
            "ArpDhcpOnly",
            "drops broadcasts and multicasts other than ARP, DHCP and ICMPv6",
            "programs that look for others by them (mDNS, NetBIOS) find nobody",
        ),
        *_of_a_bridge(policy, is_bridge=is_bridge),
        (
            "NoRouting" if is_router and not is_bridge else "",
            "drops what this host forwards for others under their own addresses",
            "translate it to the tunnel's address (masquerade), or use `sevpn bridge`",
        ),
    ]
    return tuple(
        f"hub {hub!r} {what} (policy {name})" + (f"; {advice}" if advice else "")
        for name, what, advice in said
        if name and policy.get(name)
    )


def _of_a_bridge(
    policy: Mapping[str, int], *, is_bridge: bool
) -> tuple[tuple[str, str, str], ...]:
    # The limits are those of docs/reference/protocol-data.md#mac-table and #ip-table.
    ask = "ask its administrator"
    return (
        (
            "NoBridge" if is_bridge else "",
            f"takes frames of {_NO_BRIDGE_MACS} MAC addresses at most, so that hosts behind the bridge are cut off",
            f"{ask} to allow bridging to this user",
        ),
        (
            "MaxMac" if is_bridge and not policy.get("NoBridge") else "",
            (
                f"takes frames of {max(policy.get('MaxMac', 0), _NO_BRIDGE_MACS)} MAC addresses at most: "
                "further hosts behind the bridge are cut off"
            ),
            f"{ask} for a higher limit",
        ),
        (
            "NoRouting" if is_bridge else "",
            f"takes packets of {_NO_ROUTING_IPS} IPv4 addresses at most: further hosts behind the bridge are cut off",
            f"{ask} to allow routing to this user",
        ),
        (
            "MaxIP" if is_bridge and not policy.get("NoRouting") else "",
            (
                f"takes packets of {max(policy.get('MaxIP', 0), _NO_ROUTING_IPS)} IPv4 addresses at most: "
                "further hosts behind the bridge are cut off"
            ),
            f"{ask} for a higher limit",
        ),
    )
