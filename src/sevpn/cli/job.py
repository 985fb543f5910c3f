# SPDX-License-Identifier: Apache-2.0
"""From a command line to a job: settings, credentials, trust, identity.

Layer: cli. Runs in: the main thread, before the event loop: a person may be asked.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from sevpn.cli.dialing import dialing_of
from sevpn.cli.login import login_of
from sevpn.config.paths import Paths
from sevpn.config.profile import Settings, settings_for
from sevpn.errors import ConfigError
from sevpn.net.host import Host
from sevpn.net.identity import machine_digest, machine_seed, stable_mac, unique_id
from sevpn.net.lock import Lock, store_addresses, stored_addresses
from sevpn.net.marks import check_numbers
from sevpn.net.model import Address
from sevpn.net.netns import NetworkNamespace, host_in
from sevpn.protocol.credentials import Credentials
from sevpn.protocol.identity import ClientIdentity
from sevpn.transport.stream import SecureStream
from sevpn.transport.tls import TrustPolicy
from sevpn.tunnel.connections import session_options
from sevpn.tunnel.opening import Destination, UdpWish
from sevpn.tunnel.policy import FOREVER, Rules
from sevpn.tunnel.supervisor import Job
from sevpn.wire.ethernet import MacAddress

__all__ = ["Prepared", "destination_of", "mac_of", "prepare", "settings_of"]


Mode: TypeAlias = Literal["client", "bridge", "monitor"]
"""What a session is: one host, a way between networks, or a watcher."""


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
    mode: Mode = "client",
    bridge: str | None = None,
) -> Prepared:
    """Make all that `up` needs; asks for a password where the settings say so.

    Args:
        target: A profile's name, or `HOST[:PORT][/HUB]`.
        name: What to call the tunnel; `None`: as the target says.
        overrides: What the command line says.
        environ: The environment.
        mode: What the session is to be.
        bridge: The bridge that the TAP joins; `None`: none.

    Raises:
        ConfigError: Profile, environment, command line or a secret is wrong.
        HostError: A secret cannot be had on this host.
    """
    settings = settings_of(target, name=name, overrides=overrides, environ=environ)
    paths = Paths.for_user(environ, os.geteuid())
    seed = machine_seed()
    login = login_of(settings, environ)
    known, remember = _remembered(settings, paths)
    job = Job(
        name=settings.tunnel_name,
        settings=settings,
        destination=destination_of(settings, login.credentials, environ, mode),
        identify=_identify(settings, seed),
        mac=mac_of(settings),
        rules=_rules(settings),
        connections=settings.connections,
        renew_credentials=login.renew,
        notices=login.notices,
        bridge=bridge,
        known=known,
        remember=remember,
    )
    return Prepared(job, _host(settings, paths), paths)


def _remembered(
    settings: Settings, paths: Paths
) -> tuple[Mapping[str, Sequence[Address]], Callable[[str, Sequence[Address]], None]]:
    """Return the addresses from before a restart, and who keeps them for the next one.

    Only a lock that is `on` outlives a restart, and needs them behind it.
    """
    if settings.lock != "on":
        return {}, lambda _name, _addresses: None
    folder, tunnel = paths.locks_dir, settings.tunnel_name

    def remember(name: str, addresses: Sequence[Address]) -> None:
        store_addresses(folder, tunnel, {name: addresses})

    return stored_addresses(folder, tunnel), remember


def destination_of(
    settings: Settings,
    credentials: Credentials,
    environ: Mapping[str, str],
    mode: Mode = "client",
) -> Destination:
    """Return where the settings lead, for *credentials*, to be what *mode* says.

    Raises:
        ConfigError: The proxy, or the secret it wants, is wrong.
        HostError: That secret cannot be had on this host.
    """
    return Destination(
        host=settings.host,
        port=settings.port,
        hub=settings.hub,
        credentials=credentials,
        trust=TrustPolicy(
            ca_file=settings.ca,
            server_name=settings.server_name,
            pins=settings.pin,
            insecure=settings.insecure,
        ),
        dialing=dialing_of(settings, environ),
        hello_s=settings.connect_timeout,
        options=session_options(
            settings.connections,
            is_half_duplex=settings.half_duplex,
            use_compress=settings.compress,
            can_resume=settings.resume,
            mode=mode,
        ),
        udp=None
        if settings.udp == "off"
        else UdpWish(1 if settings.udp_v1 else 2, settings.udp_port),
    )


def _host(settings: Settings, paths: Paths) -> Host:
    """Return this host, or the namespace on it that the tunnel is for."""
    check_numbers(mark=settings.mark, table=settings.policy_route_table)
    if settings.netns is None:
        return Host(
            tunnel=settings.tunnel_name,
            runtime_dir=paths.runtime_dir,
            # Where no names are set, it does not count which ways there are.
            dns_mode=settings.dns_mode if settings.asks_for_names else "off",
            split_dns=bool(settings.split_dns),
            by_mark=settings.is_by_mark,
            mark=settings.mark,
            policy=settings.policy_route_table is not None,
            connmark=settings.connmark,
            lock=Lock(settings.lock, settings.tunnel_name, store=paths.locks_dir),
            lock_allow=settings.lock_allow,
            lock_uids=settings.exclude_uid,
        )
    namespace = NetworkNamespace(settings.netns)
    etc = namespace.etc
    if etc is None and settings.dns_mode != "off" and settings.asks_for_names:
        raise ConfigError(
            f"name servers cannot be set for {namespace.path}: only a namespace with a name has a resolv.conf of its "
            "own, in /etc/netns/NAME; give --netns its name, or leave out --accept-dns and --dns"
        )
    host = Host(
        tunnel=settings.tunnel_name,
        runtime_dir=paths.runtime_dir,
        # Nobody but `ip netns exec` says whose names a namespace has.
        dns_mode=_mode_inside(settings, etc),
        split_dns=bool(settings.split_dns),
        etc_dir=etc or Path("/etc"),
        netns=namespace.path,
        by_mark=settings.is_by_mark,
        mark=settings.mark,
        policy=settings.policy_route_table is not None,
        connmark=settings.connmark,
    )
    return host_in(namespace, host)


def _mode_inside(settings: Settings, etc: Path | None) -> str:
    if etc is None or not settings.asks_for_names:
        return "off"
    return settings.dns_mode


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
