# SPDX-License-Identifier: Apache-2.0
"""What a hub lets a user do.

Layer: server. Runs in: the event loop; pure.

The Welcome announces 39 policies, `policy:<Name>`. Those that this server
enforces are the fields of :class:`Policy`; the others are announced with the
value that tells the truth about it, which is "no limit".

Source: docs/reference/protocol.md#policy; SoftEtherVPN, Cedar/Account.c,
policy_item and GetDefaultPolicy(); Cedar/Protocol.c, PackAddPolicy().
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

__all__ = ["MAX_CONNECTIONS", "Policy"]

MAX_CONNECTIONS: Final = 32
"""Connections that a session may have at most."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The policies that the server enforces, or that a client is asked to obey.

    The defaults are those of a user without an own policy on a real server.
    """

    access: bool = True
    """Whether the user may log in; if not, error 12."""

    dhcp_filter: bool = False
    """Drop DHCP in both directions."""

    dhcp_no_server: bool = False
    """Drop DHCP answers from this user."""

    dhcp_force: bool = False
    """Drop IPv4 and ARP from addresses that no DHCP ACK of this session gave."""

    no_bridge: bool = False
    """One MAC address only (3, in truth); always on for who did not ask to bridge."""

    no_routing: bool = False
    """Few IPv4 addresses only (4); always on likewise."""

    check_mac: bool = False
    """A MAC address of another session is refused until that was silent for 13 s."""

    check_ip: bool = False
    """An IPv4 address of another session is refused until that was silent for 13 s."""

    filter_ipv4: bool = False
    """Drop IPv4 and ARP from this user."""

    filter_ipv6: bool = False
    """Drop IPv6 from this user."""

    privacy_filter: bool = False
    """No frames between two users who both have this policy."""

    monitor_port: bool = False
    """The user may have a session that gets a copy of all frames; of a session: it is one."""

    max_mac: _Count = 0
    """Most MAC addresses of a session; 0 is no limit, 1 and 2 count as 3."""

    max_ip: _Count = 0
    """Most IPv4 addresses of a session; 0 is no limit, 1 to 3 count as 4."""

    max_connections: Annotated[int, msgspec.Meta(ge=1, le=MAX_CONNECTIONS)] = 32
    """Most connections of a session."""

    no_qos: bool = False
    """No connection of their own for urgent frames."""

    multi_logins: _Count = 0
    """Most sessions of the user at once; 0 is no limit."""

    timeout_s: Annotated[int, msgspec.Meta(ge=5, le=60)] = 20
    """Seconds of silence after which a connection, and a session, is given up."""

    fix_password: bool = False
    """The user may not change the password; error 52."""

    no_save_password: bool = False
    """Asks the client to forget the password."""

    auto_disconnect_s: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Asks the client to leave after so many seconds; 0 is never."""

    def for_session(self, *, is_bridge: bool, is_monitor: bool = False) -> Policy:
        """Return the policy of one session: ordinary clients neither bridge, route nor watch."""
        may_watch = self.monitor_port and is_monitor
        if is_bridge:
            return msgspec.structs.replace(self, monitor_port=may_watch)
        return msgspec.structs.replace(
            self, no_bridge=True, no_routing=True, monitor_port=may_watch
        )

    @property
    def mac_limit(self) -> int | None:
        """The most MAC addresses that a session may use, if there is a limit."""
        if self.no_bridge:
            return 3
        return max(self.max_mac, 3) if self.max_mac else None

    @property
    def address_limit(self) -> int | None:
        """The most IPv4 addresses that a session may use, if there is a limit."""
        if self.no_routing:
            return 4
        return max(self.max_ip, 4) if self.max_ip else None

    def announced(self) -> dict[str, int]:
        """Return the policies of a Welcome by their names on the wire; the rest is 0."""
        values = {
            "Access": self.access,
            "DHCPFilter": self.dhcp_filter,
            "DHCPNoServer": self.dhcp_no_server,
            "DHCPForce": self.dhcp_force,
            "NoBridge": self.no_bridge,
            "NoRouting": self.no_routing,
            "CheckMac": self.check_mac,
            "CheckIP": self.check_ip,
            "PrivacyFilter": self.privacy_filter,
            "MonitorPort": self.monitor_port,
            "FilterIPv4": self.filter_ipv4,
            "FilterIPv6": self.filter_ipv6,
            "FixPassword": self.fix_password,
            "NoBroadcastLimiter": True,  # nothing here limits broadcasts
            "NoQoS": self.no_qos,
            "MaxConnection": self.max_connections,
            "TimeOut": self.timeout_s,
            "MaxMac": self.max_mac,
            "MaxIP": self.max_ip,
            "MultiLogins": self.multi_logins,
            "NoSavePassword": self.no_save_password,
            "AutoDisconnect": self.auto_disconnect_s,
            "Ver3": True,
        }
        return {name: int(value) for name, value in values.items()}
