# SPDX-License-Identifier: Apache-2.0
"""A proxy on this host, whose own packets the tunnel would swallow.

Layer: net; pure. Runs in: the control thread, and the short-lived `plan` command.

    sevpn ──loopback──> proxy program ──> its upstream ──> VPN server
                             └── with a full tunnel: into the tunnel, which is
                                 carried by this very proxy

A host route or a mark holds what sevpn itself sends; what the proxy program sends is
another program's traffic, and sevpn does not know where it goes.
"""

from __future__ import annotations

from ipaddress import ip_address

from sevpn.config.profile import Settings

__all__ = ["loop_warnings"]


def loop_warnings(settings: Settings, proxy_host: str | None) -> tuple[str, ...]:
    """Return what is to be said of a proxy on this host, if anything.

    Nothing is said when only a part of the traffic goes into the tunnel, when the tunnel
    is in a network namespace of its own, and when something is excluded already: what
    that is good for cannot be seen from here.

    Args:
        settings: Of the tunnel.
        proxy_host: The name or address of the proxy; `None`: there is none.
    """
    if proxy_host is None or not _is_here(proxy_host) or settings.netns is not None:
        return ()
    is_full = settings.accept_default_gateway or any(
        not isinstance(place, str) and place.prefixlen <= 1
        for place in settings.include
    )
    if not is_full or settings.exclude or settings.exclude_uid:
        return ()
    return (
        (
            f"the proxy {proxy_host} runs on this host, and its own packets would go into the tunnel that it carries: "
            "give --exclude with the address that it connects to, or --route-mode mark and --exclude-uid with the user "
            "that it runs as, or start it with `sevpn bypass`"
        ),
    )


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        name = host.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")
