# SPDX-License-Identifier: Apache-2.0
"""Does it work: what the kernel says of packets once all is as wanted.

Layer: net. Runs in: the control thread. Each check asks the kernel for a way or two.

That each route and rule is there does not say that packets follow them: a rule that is
asked earlier, or a route that is more specific, may be somebody else's.

    check_default   packets for the world go into the TAP
    check_own       those of the tunnel's own sockets do not
    check_replies   what leaves with a leased address leaves by the TAP

Source: ip-rule(8); `ip route get`.
"""

from __future__ import annotations

from collections.abc import Iterable

from sevpn.errors import HostError
from sevpn.net.marks import Marks
from sevpn.net.model import Address, HostState, family_of, network_of
from sevpn.net.nexthop import probe_addresses
from sevpn.net.rtnetlink import Netlink

__all__ = ["check_default", "check_own", "check_replies"]


def check_default(netlink: Netlink, state: HostState) -> None:
    """See that the default route of *state*, if it has one, is the one that counts.

    Raises:
        HostError: Packets for the world go elsewhere.
    """
    routes = netlink.routes()
    for family in sorted(state.default_families):
        for address in probe_addresses(routes, family, device=state.device):
            hop = netlink.route_to(address)
            if hop is None or hop.device != state.device:
                way = f"to {hop.device}" if hop is not None else "nowhere"
                raise HostError(
                    f"the default route is set, and packets for {address} still go {way}: a policy rule or "
                    f"another VPN wins (`ip rule`, `ip route get {address}`); end that, or leave out "
                    "--accept-default-gateway",
                    operation="check-default",
                )


def check_own(
    netlink: Netlink, state: HostState, servers: Iterable[Address], marks: Marks
) -> None:
    """See that the tunnel's own packets, known by their mark, do not go into the tunnel.

    Raises:
        HostError: They do.
    """
    for address in servers:
        hop = netlink.route_to(address, mark=marks.own)
        if hop is not None and hop.device == state.device:
            raise HostError(
                f"packets of the tunnel's own sockets, with the mark {marks.own:#x}, would go into the "
                f"tunnel: a policy rule before {marks.preference} sends them there (`ip rule`); remove "
                "it, give another --mark, or use --route-mode host",
                operation="check-mark",
            )


def check_replies(netlink: Netlink, state: HostState) -> None:
    """See that what leaves with a leased address leaves by the tunnel, if a rule says so.

    Raises:
        HostError: It does not.
    """
    sources = {rule.source for rule in state.rules if rule.source is not None}
    for address in state.addresses:
        if network_of(address.ip) not in sources:
            continue
        probe, *_ = probe_addresses((), family_of(address), device=state.device)
        hop = netlink.route_to(probe, source=address.ip)
        if hop is None or hop.device != state.device:
            way = f"by {hop.device}" if hop is not None else "nowhere"
            raise HostError(
                f"replies from {address.ip} still go {way}: a policy rule or a route of somebody else wins "
                "(`ip rule`); give another --policy-route-table",
                operation="check-replies",
            )
