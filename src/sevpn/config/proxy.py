# SPDX-License-Identifier: Apache-2.0
"""The address of a proxy, as a person writes it.

Layer: config. Runs in: any thread. Looks at nothing outside its arguments.

    KIND://[USER@]HOST[:PORT]     KIND: http, socks4 or socks5

A password never stands in it, since options and profiles are read by others; the
variables that other programs take their proxy from do hold some, and there alone
it is allowed.

Source: docs/reference/profile.md#proxy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, cast
from urllib.parse import quote, unquote, urlsplit

from sevpn.config.secret import Secret
from sevpn.config.target import parse_host
from sevpn.errors import ConfigError

__all__ = ["ENVIRONMENT", "ProxyAddress", "ProxyKind", "parse_proxy"]

ProxyKind = Literal["http", "socks4", "socks5"]

ENVIRONMENT: Final = "env"
"""Stands for the proxy that `HTTPS_PROXY` names."""

# What other programs call the same: the name is looked up by the proxy in each case.
_KINDS: Final = {
    "http": "http",
    "socks4": "socks4",
    "socks4a": "socks4",
    "socks5": "socks5",
    "socks5h": "socks5",
}
_PORTS: Final = {"http": 8080, "socks4": 1080, "socks5": 1080}
_MAX_USER_SIZE: Final = 255


@dataclass(frozen=True, slots=True)
class ProxyAddress:
    """A proxy."""

    kind: ProxyKind
    """How it is spoken to."""

    host: str
    """Its name or address; an IPv6 address without brackets."""

    port: int
    """Its TCP port."""

    user: str = ""
    """Whom it knows us as; empty: nobody."""

    password: Secret | None = None
    """His password, if it stood in the address."""

    def __str__(self) -> str:
        """Return the form that :func:`parse_proxy` takes, without the password."""
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}://{user}{host}:{self.port}"


def parse_proxy(text: str, *, allow_password: bool = False) -> ProxyAddress:
    """Read the address of a proxy.

    Args:
        text: As the module says.
        allow_password: Whether `USER:PASSWORD@` may stand in it.

    Raises:
        ConfigError: It is none. The text begins with a verb, and repeats nothing
            of *text*, which may hold a password.
    """
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port, host = parts.port, parse_host(parts.hostname or "")
    except ValueError:
        raise _wrong() from None
    kind = _KINDS.get(parts.scheme)
    rest = parts.path.strip("/") + parts.query + parts.fragment
    user = unquote(parts.username or "")
    if kind is None or rest or port == 0 or not text.isprintable():
        raise _wrong()
    if len(user.encode()) > _MAX_USER_SIZE or not user.isprintable():
        raise _wrong()
    if parts.password is not None and not allow_password:
        raise ConfigError(
            "holds a password, where other users can see it: leave it out, and give 'proxy_password'"
        )
    password = None if parts.password is None else Secret(unquote(parts.password))
    return ProxyAddress(
        cast("ProxyKind", kind), host, port or _PORTS[kind], user, password
    )


def _wrong() -> ConfigError:
    return ConfigError(
        "is no proxy: write http://[USER@]HOST:PORT, socks4://… or socks5://…, or env for that of HTTPS_PROXY"
    )
