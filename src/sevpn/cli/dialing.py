# SPDX-License-Identifier: Apache-2.0
"""How a tunnel's sockets come to be, from its settings: version of IP, proxy, TLS.

Layer: cli. Runs in: the main thread, before the event loop: a person may be asked.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from getpass import getpass

from sevpn.config.hostsource import HostSource
from sevpn.config.profile import Settings
from sevpn.config.proxy import ENVIRONMENT, ProxyAddress, parse_proxy
from sevpn.config.secret import PasswordHash, resolve
from sevpn.errors import ConfigError
from sevpn.transport.dialing import Dialing
from sevpn.transport.proxy import Proxy

__all__ = ["dialing_of", "proxy_address"]


def dialing_of(settings: Settings, environ: Mapping[str, str]) -> Dialing:
    """Return how to dial; may ask a person for the proxy's password.

    Raises:
        ConfigError: The proxy or its password cannot be had.
        HostError: The password cannot be had on this host.
    """
    return Dialing(
        family=settings.ip,
        proxy=_proxy(settings, environ),
        legacy_tls=settings.legacy_tls,
    )


def proxy_address(
    settings: Settings, environ: Mapping[str, str]
) -> ProxyAddress | None:
    """Return the proxy that is to be used, if any.

    Raises:
        ConfigError: It is the environment's, which names none.
    """
    if settings.proxy != ENVIRONMENT:
        return settings.proxy
    for name in ("HTTPS_PROXY", "https_proxy"):
        if text := environ.get(name):
            try:
                return parse_proxy(text, allow_password=True)
            except ConfigError as error:
                raise ConfigError(f"{name} {error}") from None
    raise ConfigError(
        "'proxy' is env, and there is no HTTPS_PROXY in the environment: set it, or name the proxy itself"
    )


def _proxy(settings: Settings, environ: Mapping[str, str]) -> Proxy | None:
    address = proxy_address(settings, environ)
    if address is None:
        return None
    password = "" if address.password is None else address.password.reveal()
    if settings.proxy_password is not None:
        source = HostSource(environ, ask=getpass if sys.stdin.isatty() else None)
        question = f"Password of {address.user} on the proxy {address.host}: "
        secret = resolve(settings.proxy_password, source, question=question)
        assert not isinstance(secret, PasswordHash), "the settings were checked"
        password = secret.reveal()
    return Proxy(address.kind, address.host, address.port, address.user, password)
