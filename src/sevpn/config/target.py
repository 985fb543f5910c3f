# SPDX-License-Identifier: Apache-2.0
"""Targets: the word after `up`, which names a profile or a server and hub.

Layer: config. Runs in: any thread.

    target  := profile name | HOST [":" PORT] ["/" HUB]
    HOST    := name | IPv4 address | "[" IPv6 address "]"

A word without `/`, `:` and `.` can only be a profile. With one of them it is a
profile if one of that name exists, which the caller finds out, and else a
server. Without a port it is 443, without a hub DEFAULT, the first hub of a new
SoftEther server.

Source: docs/reference/profile.md#targets.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from sevpn.errors import ConfigError

__all__ = [
    "DEFAULT_HUB",
    "DEFAULT_PORT",
    "MAX_NAME_SIZE",
    "Target",
    "check_tunnel_name",
    "is_profile_word",
    "parse_host",
    "parse_target",
    "tunnel_name",
]

DEFAULT_PORT: Final = 443
DEFAULT_HUB: Final = "DEFAULT"

MAX_HUB_SIZE: Final = 255
"""Longest hub name; SoftEtherVPN, Cedar/Cedar.h, MAX_HUBNAME_LEN."""

_MAX_HOST_SIZE: Final = 253
MAX_NAME_SIZE: Final = 63
"""Longest name of a tunnel and its profile."""

# Names that only the resolver can judge (IDN, an underscore) pass; what could
# not be a host name anywhere does not.
_HOST: Final = re.compile(r"[^\W_][\w.-]*", re.ASCII)
_FOREIGN_HOST: Final = re.compile(r"[^\W_][\w.-]*")
_ZONE: Final = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_TUNNEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True)
class Target:
    """A hub on a server."""

    host: str
    """Name or address of the server; an IPv6 address without brackets."""

    port: int = DEFAULT_PORT
    """TCP port, 1 to 65535."""

    hub: str = DEFAULT_HUB
    """Name of the hub, as typed; the server does not care about case."""

    def __str__(self) -> str:
        """Return the form that :func:`parse_target` takes, with nothing left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{self.hub}"


def is_profile_word(text: str) -> bool:
    """Whether *text* can only be a profile's name, never a server."""
    return not any(mark in text for mark in "/:.")


def parse_target(text: str) -> Target:
    """Read `HOST[:PORT][/HUB]`.

    Raises:
        ConfigError: It is no such text; the reason and the right form are named.
    """
    _refuse_foreign_forms(text)
    authority, slash, hub = text.partition("/")
    if slash and not _is_hub_name(hub):
        raise ConfigError(
            f"target {text!r} has no valid hub name after '/': write HOST[:PORT]/HUB"
        )
    host, port = _split_authority(authority, text)
    return Target(host, port, hub if slash else DEFAULT_HUB)


def parse_host(text: str) -> str:
    """Check a host name or address and return it as the resolver takes it.

    An IPv6 address may stand in brackets and carry a zone (`fe80::1%eth0`).

    Raises:
        ValueError: It cannot be a host; the text says why.
    """
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in host:
        address = ipaddress.IPv6Address(host)
        if address.scope_id is not None and not _ZONE.fullmatch(address.scope_id):
            raise ValueError(f"{text!r} has no valid zone")
        return str(address)
    shape = _HOST if host.isascii() else _FOREIGN_HOST
    if len(host) > _MAX_HOST_SIZE or not shape.fullmatch(host) or ".." in host:
        raise ValueError(f"{text!r} is neither a host name nor an address")
    if host.rstrip(".").rpartition(".")[2].isdecimal():
        # No top-level domain is a number, and some resolvers read 10.1 as 10.0.0.1.
        return str(ipaddress.IPv4Address(host))
    return host


def check_tunnel_name(text: str) -> str:
    """Check the name of a profile or a tunnel and return it.

    It becomes a file name, so it is one word of `A-Za-z0-9_.-` that begins with
    a letter or digit, at most 63 long.

    Raises:
        ValueError: It is not.
    """
    if not _TUNNEL_NAME.fullmatch(text):
        raise ValueError(
            f"{text!r} is no name: use up to {MAX_NAME_SIZE} of A-Z a-z 0-9 _ . -, a letter or digit first"
        )
    return text


def tunnel_name(target: Target) -> str:
    """Return the name of a tunnel that has no profile and was given none.

    Host and hub are reduced to `[a-z0-9.-]{1,63}`, so that the same target
    bears the same name at every start. Where letters outside ASCII were lost or
    the end was cut, eight hex digits of a digest keep different targets apart.
    """
    full = f"{target.host}-{target.hub}".casefold()
    reduced = re.sub(r"[^a-z0-9.]+", "-", full).strip("-.")
    if full.isascii() and 0 < len(reduced) <= MAX_NAME_SIZE:
        return reduced
    digest = hashlib.sha256(full.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{reduced[: MAX_NAME_SIZE - 9].rstrip('-.')}-{digest}".lstrip("-")


def _refuse_foreign_forms(text: str) -> None:
    if "://" in text:
        raise ConfigError(f"target {text!r} is a URL: write HOST[:PORT]/HUB")
    if "@" in text.partition("/")[0]:
        raise ConfigError(
            f"target {text!r} names a user: write HOST[:PORT]/HUB and give --user"
        )


def _is_hub_name(text: str) -> bool:
    return (
        0 < len(text.encode("utf-8", "surrogatepass")) <= MAX_HUB_SIZE
        and text.isprintable()
        and "/" not in text
        and text == text.strip()
    )


def _split_authority(authority: str, text: str) -> tuple[str, int]:
    if authority.startswith("["):
        host, bracket, rest = authority[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            raise ConfigError(
                f"target {text!r} is no bracketed IPv6 address: write [2001:db8::1]:443/HUB"
            )
        colon, port = rest[:1], rest[1:]
    elif authority.count(":") > 1:
        raise ConfigError(
            f"target {text!r} has several colons: put an IPv6 address into brackets, [2001:db8::1]:443/HUB"
        )
    else:
        host, colon, port = authority.partition(":")
    try:
        return parse_host(host), _parse_port(port) if colon else DEFAULT_PORT
    except ValueError as error:
        raise ConfigError(
            f"target {text!r} is wrong: {error}; write HOST[:PORT]/HUB"
        ) from error


def _parse_port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError(f"port {text!r} is not a number from 1 to 65535")
    return int(text)
