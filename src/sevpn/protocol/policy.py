# SPDX-License-Identifier: Apache-2.0
"""The hub's policy for a session, as the Welcome lists it.

Layer: protocol; pure. Runs in: any thread.

Each entry is an INT element `policy:` and a name; yes and no are 1 and 0. The
server enforces nearly all of them by itself, silently; they are kept so that the
user can be told why nothing comes through. What an older server does not send
is 0.

Source: docs/reference/protocol.md#policy; SoftEtherVPN, Cedar/Protocol.c,
PackAddPolicy().
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from sevpn.wire.pack import Element, Pack, integer

__all__ = ["POLICY_NAMES", "decode_policy", "policy_elements"]

POLICY_NAMES: Final = (
    "Access",
    "DHCPFilter",
    "DHCPNoServer",
    "DHCPForce",
    "NoBridge",
    "NoRouting",
    "CheckMac",
    "CheckIP",
    "ArpDhcpOnly",
    "PrivacyFilter",
    "NoServer",
    "NoBroadcastLimiter",
    "MonitorPort",
    "MaxConnection",
    "TimeOut",
    "MaxMac",
    "MaxIP",
    "MaxUpload",
    "MaxDownload",
    "FixPassword",
    "MultiLogins",
    "NoQoS",
    "RSandRAFilter",
    "RAFilter",
    "DHCPv6Filter",
    "DHCPv6NoServer",
    "NoRoutingV6",
    "CheckIPv6",
    "NoServerV6",
    "MaxIPv6",
    "NoSavePassword",
    "AutoDisconnect",
    "FilterIPv4",
    "FilterIPv6",
    "FilterNonIP",
    "NoIPv6DefaultRouterInRA",
    "NoIPv6DefaultRouterInRAWhenIPv6",
    "VLanId",
    "Ver3",
)
"""The 39 names of policy elements, as the wire spells them after `policy:`."""


def decode_policy(pack: Pack) -> Mapping[str, int]:
    """Return the entries that *pack* has, by their names in :data:`POLICY_NAMES`."""
    return MappingProxyType(
        {
            name: pack.get_int(f"policy:{name}")
            for name in POLICY_NAMES
            if f"policy:{name}" in pack
        }
    )


def policy_elements(policy: Mapping[str, int]) -> tuple[Element, ...]:
    """Return all 39 elements; what *policy* does not name is 0."""
    return tuple(
        integer(f"policy:{name}", policy.get(name, 0)) for name in POLICY_NAMES
    )
