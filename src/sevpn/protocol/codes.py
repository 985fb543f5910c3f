# SPDX-License-Identifier: Apache-2.0
"""The server's error numbers, and what each means for the one who logs in.

Layer: protocol; pure. Runs in: any thread.

A server refuses by one number. This module knows the name of each, turns those
that a login can meet into a sentence with the next step, and decides how the
tunnel goes on: try again later (TEMPORARY), correct the profile (CONFIG), give
another secret (SECRET), or ask the administrator (REFUSED). The numbers 2 to 5
mean that the two programs did not understand each other (PEER). A number that
nobody knows may pass, so it is tried again like a busy server.

Source: docs/reference/protocol.md#errors; SoftEtherVPN, Cedar/Cedar.h, ERR_…;
Cedar/Session.c, ClientThread().
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from sevpn.errors import (
    AccessDeniedError,
    AuthenticationError,
    BusyError,
    Failure,
    HubNotFoundError,
    RefusedError,
)

__all__ = ["ServerError", "error_from_code", "failure_of"]


class ServerError(enum.IntEnum):
    """Every error number, by the official symbol without its ERR_; 70 to 72 have none."""

    NO_ERROR = 0
    CONNECT_FAILED = 1
    SERVER_IS_NOT_VPN = 2
    DISCONNECTED = 3
    PROTOCOL_ERROR = 4
    CLIENT_IS_NOT_VPN = 5
    USER_CANCEL = 6
    AUTHTYPE_NOT_SUPPORTED = 7
    HUB_NOT_FOUND = 8
    AUTH_FAILED = 9
    HUB_STOPPING = 10
    SESSION_REMOVED = 11
    ACCESS_DENIED = 12
    SESSION_TIMEOUT = 13
    INVALID_PROTOCOL = 14
    TOO_MANY_CONNECTION = 15
    HUB_IS_BUSY = 16
    PROXY_CONNECT_FAILED = 17
    PROXY_ERROR = 18
    PROXY_AUTH_FAILED = 19
    TOO_MANY_USER_SESSION = 20
    LICENSE_ERROR = 21
    DEVICE_DRIVER_ERROR = 22
    INTERNAL_ERROR = 23
    SECURE_DEVICE_OPEN_FAILED = 24
    SECURE_PIN_LOGIN_FAILED = 25
    SECURE_NO_CERT = 26
    SECURE_NO_PRIVATE_KEY = 27
    SECURE_CANT_WRITE = 28
    OBJECT_NOT_FOUND = 29
    VLAN_ALREADY_EXISTS = 30
    VLAN_INSTALL_ERROR = 31
    VLAN_INVALID_NAME = 32
    NOT_SUPPORTED = 33
    ACCOUNT_ALREADY_EXISTS = 34
    ACCOUNT_ACTIVE = 35
    ACCOUNT_NOT_FOUND = 36
    ACCOUNT_INACTIVE = 37
    INVALID_PARAMETER = 38
    SECURE_DEVICE_ERROR = 39
    NO_SECURE_DEVICE_SPECIFIED = 40
    VLAN_IS_USED = 41
    VLAN_FOR_ACCOUNT_NOT_FOUND = 42
    VLAN_FOR_ACCOUNT_USED = 43
    VLAN_FOR_ACCOUNT_DISABLED = 44
    INVALID_VALUE = 45
    NOT_FARM_CONTROLLER = 46
    TRYING_TO_CONNECT = 47
    CONNECT_TO_FARM_CONTROLLER = 48
    COULD_NOT_HOST_HUB_ON_FARM = 49
    FARM_MEMBER_HUB_ADMIN = 50
    NULL_PASSWORD_LOCAL_ONLY = 51
    NOT_ENOUGH_RIGHT = 52
    LISTENER_NOT_FOUND = 53
    LISTENER_ALREADY_EXISTS = 54
    NOT_FARM_MEMBER = 55
    CIPHER_NOT_SUPPORTED = 56
    HUB_ALREADY_EXISTS = 57
    TOO_MANY_HUBS = 58
    LINK_ALREADY_EXISTS = 59
    LINK_CANT_CREATE_ON_FARM = 60
    LINK_IS_OFFLINE = 61
    TOO_MANY_ACCESS_LIST = 62
    TOO_MANY_USER = 63
    TOO_MANY_GROUP = 64
    GROUP_NOT_FOUND = 65
    USER_ALREADY_EXISTS = 66
    GROUP_ALREADY_EXISTS = 67
    USER_AUTHTYPE_NOT_PASSWORD = 68
    OLD_PASSWORD_WRONG = 69
    UNNAMED_70 = 70
    UNNAMED_71 = 71
    UNNAMED_72 = 72
    LINK_CANT_DISCONNECT = 73
    ACCOUNT_NOT_PRESENT = 74
    ALREADY_ONLINE = 75
    OFFLINE = 76
    NOT_RSA_1024 = 77
    SNAT_CANT_DISCONNECT = 78
    SNAT_NEED_STANDALONE = 79
    SNAT_NOT_RUNNING = 80
    SE_VPN_BLOCK = 81
    BRIDGE_CANT_DISCONNECT = 82
    LOCAL_BRIDGE_STOPPING = 83
    LOCAL_BRIDGE_UNSUPPORTED = 84
    CERT_NOT_TRUSTED = 85
    PRODUCT_CODE_INVALID = 86
    VERSION_INVALID = 87
    CAPTURE_DEVICE_ADD_ERROR = 88
    VPN_CODE_INVALID = 89
    CAPTURE_NOT_FOUND = 90
    LAYER3_CANT_DISCONNECT = 91
    LAYER3_SW_EXISTS = 92
    LAYER3_SW_NOT_FOUND = 93
    INVALID_NAME = 94
    LAYER3_IF_ADD_FAILED = 95
    LAYER3_IF_DEL_FAILED = 96
    LAYER3_IF_EXISTS = 97
    LAYER3_TABLE_ADD_FAILED = 98
    LAYER3_TABLE_DEL_FAILED = 99
    LAYER3_TABLE_EXISTS = 100
    BAD_CLOCK = 101
    LAYER3_CANT_START_SWITCH = 102
    CLIENT_LICENSE_NOT_ENOUGH = 103
    BRIDGE_LICENSE_NOT_ENOUGH = 104
    SERVER_CANT_ACCEPT = 105
    SERVER_CERT_EXPIRES = 106
    MONITOR_MODE_DENIED = 107
    BRIDGE_MODE_DENIED = 108
    IP_ADDRESS_DENIED = 109
    TOO_MANT_ITEMS = 110
    MEMORY_NOT_ENOUGH = 111
    OBJECT_EXISTS = 112
    FATAL = 113
    SERVER_LICENSE_FAILED = 114
    SERVER_INTERNET_FAILED = 115
    CLIENT_LICENSE_FAILED = 116
    BAD_COMMAND_OR_PARAM = 117
    INVALID_LICENSE_KEY = 118
    NO_VPN_SERVER_LICENSE = 119
    NO_VPN_CLUSTER_LICENSE = 120
    NOT_ADMINPACK_SERVER = 121
    NOT_ADMINPACK_SERVER_NET = 122
    BETA_EXPIRES = 123
    BRANDED_C_TO_S = 124
    BRANDED_C_FROM_S = 125
    AUTO_DISCONNECTED = 126
    CLIENT_ID_REQUIRED = 127
    TOO_MANY_USERS_CREATED = 128
    SUBSCRIPTION_IS_OLDER = 129
    ILLEGAL_TRIAL_VERSION = 130
    NAT_T_TWO_OR_MORE = 131
    DUPLICATE_DDNS_KEY = 132
    DDNS_HOSTNAME_EXISTS = 133
    DDNS_HOSTNAME_INVALID_CHAR = 134
    DDNS_HOSTNAME_TOO_LONG = 135
    DDNS_HOSTNAME_IS_EMPTY = 136
    DDNS_HOSTNAME_TOO_SHORT = 137
    MSCHAP2_PASSWORD_NEED_RESET = 138
    DDNS_DISCONNECTED = 139
    SPECIAL_LISTENER_ICMP_ERROR = 140
    SPECIAL_LISTENER_DNS_ERROR = 141
    OPENVPN_IS_NOT_ENABLED = 142
    NOT_SUPPORTED_AUTH_ON_OPENSOURCE = 143
    VPNGATE = 144
    VPNGATE_CLIENT = 145
    VPNGATE_INCLIENT_CANT_STOP = 146
    NOT_SUPPORTED_FUNCTION_ON_OPENSOURCE = 147
    SUSPENDING = 148
    HOSTNAME_MISMATCH = 149
    SSL_PROTOCOL_VERSION = 150
    SSL_SHARED_CIPHER = 151
    SSL_HANDSHAKE = 152


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What a number means to one who logs in; both texts may name hub, user, host."""

    what: str
    step: str


_ASK: Final = "ask the administrator of the server"
_WAIT: Final = "it may pass; try again later"
_LICENSE: Final = (
    "it may pass; otherwise the administrator of the server has to look at its licences"
)

_MEANINGS: Final = {
    1: _Meaning("{host} could not reach the server behind it", _WAIT),
    2: _Meaning(
        "{host} says that it is no VPN server", "check host and port in the profile"
    ),
    3: _Meaning(
        "{host} could not read our login", "report this with the server's version"
    ),
    4: _Meaning(
        "{host} found our login malformed", "report this with the server's version"
    ),
    5: _Meaning(
        "{host} does not take us for a VPN client",
        "report this with the server's version",
    ),
    7: _Meaning(
        "hub {hub!r} on {host} does not take this kind of login for {user!r}",
        "try another --auth (password, plain, certificate, anonymous), or ask which one is set up",
    ),
    8: _Meaning(
        "hub {hub!r} does not exist on {host}", "check 'hub' in the target or profile"
    ),
    9: _Meaning(
        "{host} refused the login of {user!r} to hub {hub!r}",
        "wrong user name or password; the server does not say which",
    ),
    10: _Meaning(
        "hub {hub!r} on {host} is offline",
        "it may come back; ask its administrator to set it online",
    ),
    11: _Meaning(
        "{host} removed the session", "try again; an administrator may have ended it"
    ),
    12: _Meaning(
        "hub {hub!r} on {host} denies access to {user!r}",
        "the account may be expired or blocked by its policy; ask the administrator",
    ),
    13: _Meaning("{host} does not know the session any more", "log in again"),
    14: _Meaning("{host} cannot add a connection to this session", "log in again"),
    15: _Meaning(
        "{host} takes no more connections for this session",
        "lower 'connections' in the profile",
    ),
    16: _Meaning(
        "hub {hub!r} on {host} has no room for another session",
        "wait until others leave, or ask its administrator to raise the limit",
    ),
    20: _Meaning(
        "{user!r} has as many sessions on hub {hub!r} as allowed",
        "end another one; one that was cut off vanishes after about 20 s",
    ),
    21: _Meaning("{host} has no licence for this session", _LICENSE),
    23: _Meaning("{host} met an internal error", _WAIT),
    33: _Meaning(
        "{host} takes no VPN clients",
        "it may be a bridge; use the address of the VPN server behind it",
    ),
    47: _Meaning("{host} is busy with an earlier attempt", _WAIT),
    48: _Meaning("{host} cannot reach the controller of its cluster", _WAIT),
    49: _Meaning(
        "the cluster of {host} has no member for hub {hub!r} at the moment", _WAIT
    ),
    51: _Meaning(
        "hub {hub!r} on {host} takes no empty password over the network",
        "set a password for {user!r}",
    ),
    52: _Meaning(
        "{user!r} has not the right for this on {host}",
        "a policy (FixPassword) or an option of hub {hub!r} forbids it; ask its administrator",
    ),
    63: _Meaning(
        "{host} has more users than it may",
        "ask its administrator; the server refuses everybody until then",
    ),
    68: _Meaning(
        "hub {hub!r} on {host} keeps no password of {user!r}",
        "it is checked elsewhere (RADIUS, a certificate): change it there",
    ),
    69: _Meaning(
        "{host} refused another password for {user!r} on hub {hub!r}",
        "wrong user name or old password; the server does not say which",
    ),
    77: _Meaning(
        "{host} does not support keys of this size", "use another certificate"
    ),
    81: _Meaning("a firewall product on {host} blocks VPN connections", _ASK),
    85: _Meaning("{host} does not trust a certificate", _ASK),
    86: _Meaning("{host} wants another VPN product", _ASK),
    87: _Meaning(
        "hub {hub!r} on {host} wants a newer client than we say to be",
        "ask its administrator to lower the minimum build",
    ),
    89: _Meaning("{host} wants a special VPN client", _ASK),
    101: _Meaning(
        "the clocks of {host} and this host differ too much", "set this host's clock"
    ),
    103: _Meaning("{host} has no client licence left", _LICENSE),
    104: _Meaning("{host} has no bridge licence left", _LICENSE),
    105: _Meaning(
        "{host} cannot take the login for a technical reason",
        "it may pass; hub {hub!r} may be cut off from the network",
    ),
    106: _Meaning("{host} found a certificate expired", _ASK),
    107: _Meaning(
        "hub {hub!r} on {host} does not let {user!r} monitor it",
        "ask for the monitor right",
    ),
    108: _Meaning(
        "hub {hub!r} on {host} does not let {user!r} bridge or route",
        "ask for the right to bridge",
    ),
    109: _Meaning(
        "hub {hub!r} on {host} does not accept logins from this network address",
        "ask its administrator, or connect from another network",
    ),
    111: _Meaning("{host} is short of memory", _WAIT),
    149: _Meaning(
        "{host} refuses this name for itself, or, with a server of 4.x, its DHCP server does not run",
        "give the name that its certificate has, or ask its administrator",
    ),
    113: _Meaning("{host} met a fatal error", _ASK),
    114: _Meaning("{host} could not check its licence", _LICENSE),
    115: _Meaning("{host} could not reach its licence server", _LICENSE),
    116: _Meaning("{host} finds the client's licence invalid", _ASK),
    119: _Meaning("{host} has no server licence", _LICENSE),
    120: _Meaning("{host} has no cluster licence", _LICENSE),
    123: _Meaning("{host} is a beta version that has expired", _ASK),
    124: _Meaning("{host} takes only the client of its own brand", _ASK),
    125: _Meaning("{host} is no server of the client's brand", _ASK),
    127: _Meaning("hub {hub!r} on {host} wants a client with another id", _ASK),
    138: _Meaning("the password of {user!r} must be set anew", _ASK),
    143: _Meaning(
        "{host} does not support this kind of login (it may need another edition)",
        "try another --auth, or ask its administrator",
    ),
    148: _Meaning("the machine of {host} is going to sleep", _WAIT),
}

_NAMED: Final = frozenset(ServerError)
_PEER: Final = frozenset({2, 3, 4, 5})
_TEMPORARY: Final = frozenset(
    {1, 10, 11, 13, 14, 15, 16, 17, 18, 20, 21, 23, 47, 48, 49, 63}
    | {103, 104, 105, 111, 114, 115, 119, 120, 132, 139, 148, 152}
)


def failure_of(code: int) -> Failure:
    """Return how the tunnel goes on after a server's error *code*.

    A number that nobody knows is TEMPORARY: a newer server may have had a passing
    reason, and what is tried again ends by itself.
    """
    if code in _PEER:
        return Failure.PEER
    if code == ServerError.HUB_NOT_FOUND:
        return Failure.CONFIG
    if code in {ServerError.AUTH_FAILED, ServerError.OLD_PASSWORD_WRONG}:
        return Failure.SECRET
    if code in _TEMPORARY or code not in _NAMED:
        return Failure.TEMPORARY
    return Failure.REFUSED


def error_from_code(
    code: int,
    *,
    hub: str,
    user: str,
    host: str,
    no_save_password: bool = False,
    by_certificate: bool = False,
) -> RefusedError:
    """Return the exception for a server's refusal of a login; it is not raised.

    Args:
        code: The server's error number; unknown ones are allowed.
        hub: The hub that the login named.
        user: Its user name; empty for a login that named none.
        host: The server, as the user knows it.
        no_save_password: Whether the hub forbids to store the password.
        by_certificate: Whether the login was by a certificate.
    """
    meaning = _meaning(code, user, by_certificate=by_certificate)
    facts = {"hub": hub, "user": user, "host": host}
    line = f"{meaning.what.format(**facts)} (server error {code}): {meaning.step.format(**facts)}"
    if no_save_password and not by_certificate:
        line += "; this hub does not allow to store the password"
    failure = failure_of(code)
    return _class_for(failure)(line, code=code, failure=failure)


def _meaning(code: int, user: str, *, by_certificate: bool) -> _Meaning:
    if code == ServerError.AUTH_FAILED and by_certificate:
        return _Meaning(
            "{host} refused the certificate of {user!r} for hub {hub!r}",
            "the user may be another, or be known by another certificate, or this one is expired or revoked there; "
            "the server does not say which",
        )
    if code == ServerError.AUTH_FAILED and not user:
        return _Meaning(
            "{host} refused the anonymous login to hub {hub!r}",
            "name a user with --user, or ask for an anonymous one",
        )
    if code in _MEANINGS:
        return _MEANINGS[code]
    if code in _NAMED:
        name = ServerError(code).name
        return _Meaning(f"{{host}} refused the login with {name}", _ASK)
    return _Meaning(
        "{host} refused the login with a number that sevpn does not know",
        "it may pass; otherwise ask the administrator of the server",
    )


def _class_for(failure: Failure) -> type[RefusedError]:
    by_failure: dict[Failure, type[RefusedError]] = {
        Failure.CONFIG: HubNotFoundError,
        Failure.SECRET: AuthenticationError,
        Failure.TEMPORARY: BusyError,
        Failure.REFUSED: AccessDeniedError,
    }
    return by_failure.get(failure, RefusedError)
