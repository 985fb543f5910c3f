# SPDX-License-Identifier: Apache-2.0
"""From a command line to a job: settings, credentials, trust, identity.

Layer: cli. Runs in: the main thread, before the event loop: a person may be asked.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from getpass import getpass
from pathlib import Path
from typing import Any

from sevpn.config.hostsource import HostSource
from sevpn.config.paths import Paths
from sevpn.config.profile import Settings, settings_for
from sevpn.config.secret import PasswordHash, resolve
from sevpn.net.host import Host
from sevpn.net.identity import machine_digest, machine_seed, stable_mac, unique_id
from sevpn.protocol.credentials import (
    Anonymous,
    Credentials,
    Password,
    PlainPassword,
)
from sevpn.protocol.identity import ClientIdentity
from sevpn.transport.stream import SecureStream
from sevpn.transport.tls import TrustPolicy
from sevpn.tunnel.connections import session_options
from sevpn.tunnel.opening import Destination
from sevpn.tunnel.policy import FOREVER, Rules
from sevpn.tunnel.supervisor import Job
from sevpn.wire.ethernet import MacAddress

_NOBODY = "anonymous"

__all__ = ["Prepared", "mac_of", "prepare", "settings_of"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job, and the host that it is for."""

    job: Job
    """What the tunnel is told."""

    host: Host
    """This host, for this tunnel; nothing has been done to it yet."""

    paths: Paths
    """Where this user's files lie."""

    @property
    def run_dir(self) -> Path:
        """The tunnel's own folder of run files."""
        return self.paths.runtime_dir / self.job.name


def settings_of(
    target: str,
    *,
    name: str | None,
    overrides: Mapping[str, Any],
    environ: Mapping[str, str],
) -> Settings:
    """Bring profile, environment and command line together.

    Raises:
        ConfigError: Any of them is wrong.
    """
    paths = Paths.for_user(environ, os.geteuid())
    options = dict(overrides)
    if name is not None:
        options["name"] = name
    return settings_for(target, paths=paths, environ=environ, options=options)


def prepare(
    target: str,
    *,
    name: str | None,
    overrides: Mapping[str, Any],
    environ: Mapping[str, str],
) -> Prepared:
    """Make all that `up` needs; asks for a password where the settings say so.

    Raises:
        ConfigError: Profile, environment, command line or a secret is wrong.
        HostError: A secret cannot be had on this host.
    """
    settings = settings_of(target, name=name, overrides=overrides, environ=environ)
    paths = Paths.for_user(environ, os.geteuid())
    seed = machine_seed()
    job = Job(
        name=settings.tunnel_name,
        settings=settings,
        destination=Destination(
            host=settings.host,
            port=settings.port,
            hub=settings.hub,
            credentials=_credentials(settings, environ),
            trust=TrustPolicy(
                ca_file=settings.ca,
                server_name=settings.server_name,
                pins=settings.pin,
                insecure=settings.insecure,
            ),
            family=settings.ip,
            hello_s=settings.connect_timeout,
            options=session_options(
                settings.connections, is_half_duplex=settings.half_duplex
            ),
        ),
        identify=_identify(settings, seed),
        mac=mac_of(settings),
        rules=_rules(settings),
        connections=settings.connections,
    )
    host = Host(
        tunnel=job.name, runtime_dir=paths.runtime_dir, dns_mode=settings.dns_mode
    )
    return Prepared(job, host, paths)


def mac_of(settings: Settings) -> MacAddress:
    """Return the TAP's address: the one asked for, else one that stays the same."""
    if settings.mac is not None:
        return MacAddress.parse(settings.mac)
    return stable_mac(settings.tunnel_name, seed=machine_seed())


def _rules(settings: Settings) -> Rules:
    return Rules(
        delay_s=settings.reconnect_delay,
        max_delay_s=settings.reconnect_max_delay,
        retries=FOREVER if settings.retries == "forever" else settings.retries,
        once=settings.once,
    )


def _credentials(settings: Settings, environ: Mapping[str, str]) -> Credentials:
    reference = settings.password_reference
    if reference is None:
        # A server wants a name even of who has none, and looks it up on the hub.
        return Anonymous(settings.user or _NOBODY)
    user = settings.user or ""
    source = HostSource(environ, ask=getpass if sys.stdin.isatty() else None)
    secret = resolve(
        reference, source, question=f"Password of {user} on {settings.host}: "
    )
    if isinstance(secret, PasswordHash):
        return Password(user, secret.reveal())
    if settings.login == "plain":
        return PlainPassword(user, secret.reveal())
    return Password.of(user, secret.reveal())


def _identify(
    settings: Settings, seed: bytes
) -> Callable[[SecureStream], ClientIdentity]:
    """Return what the login tells of this host; see docs/explanation/privacy.md."""
    session_id, machine_id = (
        unique_id(settings.tunnel_name, seed=seed),
        machine_digest(seed=seed),
    )

    def identify(stream: SecureStream) -> ClientIdentity:
        return ClientIdentity(
            unique_id=session_id,
            machine_id=machine_id,
            privacy=settings.privacy,
            client_address=stream.local_address,
            server_address=stream.peer_address,
            server_port=settings.port,
            server_host=settings.host,
            hostname=socket.gethostname(),
            os_version=platform.release(),
        )

    return identify
