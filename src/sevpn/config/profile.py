# SPDX-License-Identifier: Apache-2.0
"""Settings: all that a person wants of one tunnel; and profiles, which keep them.

Layer: config. Runs in: the main thread, before a tunnel starts.

    option of `up`  over  environment SEVPN_KEY  over  profile NAME.toml  over  default

Each layer is a mapping of keys to values; :func:`settings_for` brings them
together for a target. What one key may hold is in `keys.py`; here is what keys
mean together, and which files are trusted.

A profile can name programs to run (`password = "cmd:…"`), so one that others may
write to is refused. One that holds a secret itself must be kept from being read
too: mode 0600, owned by the user.

Source: docs/reference/profile.md.
"""

from __future__ import annotations

import difflib
import os
import stat
import tomllib
from collections.abc import Mapping
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from sevpn.config.keys import KEYS, Origin, read_key, unknown_key
from sevpn.config.paths import Paths
from sevpn.config.proxy import ProxyAddress
from sevpn.config.secret import (
    HashOf,
    Literal as LiteralSecret,
    Prompt,
    Reference,
    Secret,
    SecretFile,
    has_literal,
)
from sevpn.config.target import (
    DEFAULT_HUB,
    DEFAULT_PORT,
    Target,
    check_tunnel_name,
    is_profile_word,
    parse_target,
    tunnel_name,
)
from sevpn.errors import ConfigError

__all__ = [
    "DEFAULT_RECONNECT_DELAY_S",
    "Auth",
    "Settings",
    "from_environment",
    "load_profile",
    "merged",
    "profile_names",
    "profile_path",
    "settings_for",
]

DEFAULT_RECONNECT_DELAY_S: Final = 5.0

Auth = Literal["anonymous", "password", "plain", "certificate"]
"""The ways to log in."""

_SECRETS: Final = tuple(key for key in KEYS if KEYS[key].is_secret)

MAX_PROFILE_SIZE: Final = 65536
"""Largest profile in bytes; our own choice: some fifty times a long one."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a person wants of one tunnel; each field is a key of a profile."""

    host: str
    """Name or address of the server; an IPv6 address without brackets."""

    port: int = DEFAULT_PORT
    """TCP port."""

    hub: str = DEFAULT_HUB
    """The hub to join."""

    name: str | None = None
    """The tunnel's name, if one was given; see :attr:`tunnel_name`."""

    user: str | None = None
    """Who logs in; None for anonymous."""

    auth: Auth | None = None
    """How, if given; see :attr:`login`."""

    password: Reference | None = None
    """Where the password is; None: not given. See :attr:`password_reference`."""

    otp: Reference | None = None
    """Where a one-time password is, to be appended to the password at each login."""

    cert: Path | None = None
    """File of the certificate to log in with: PEM, DER or PKCS #12."""

    key: Reference | None = None
    """Where its private key is; None: in the file of the certificate."""

    key_password: Reference | None = None
    """Where the pass phrase of key or PKCS #12 is; None: asked for if there is one."""

    ca: Path | None = None
    """File of CA certificates to trust instead of the system's."""

    server_name: str | None = None
    """The name that the certificate must bear, and SNI; None: the host."""

    pin: tuple[str, ...] = ()
    """Certificates trusted whoever signed them, as `sha256:` and 64 lower-case hex digits."""

    insecure: bool = False
    """Whether any certificate is accepted."""

    ip: Literal["any", "4", "6"] = "any"
    """The IP versions to reach the server by."""

    connections: int = 1
    """TCP connections of the session; with half duplex at least 2 are opened."""

    half_duplex: bool = False
    """Whether each connection is used in one direction only."""

    resume: bool = True
    """Whether a session is taken up again before there is a new login."""

    compress: bool = False
    """Whether each frame is deflated, if the server agrees."""

    udp: Literal["off", "auto", "on"] = "auto"
    """Whether frames may travel by UDP: where it helps, or wherever it can be had."""

    udp_v1: bool = False
    """Whether version 1 of UDP acceleration, which proves nothing, is used."""

    udp_port: int = 0
    """The local UDP port; 0: any."""

    proxy: ProxyAddress | Literal["env"] | None = None
    """Who connects in our place; `env`: whoever `HTTPS_PROXY` names."""

    proxy_password: Reference | None = None
    """Where the password for the proxy is; None: it needs none."""

    legacy_tls: bool = False
    """Whether TLS 1.0 and 1.1, and the keys and ciphers of their day, will do."""

    connect_timeout: float = 30.0
    """Seconds from the first look-up to the server's Hello."""

    tap: str = "sevpn%d"
    """Name of the interface; `%d` is a free number."""

    mac: str | None = None
    """Its MAC address, lower-case with colons; None: a stable one of our own."""

    mtu: int | None = None
    """Its MTU; None: what DHCP says, else 1500."""

    netns: str | None = None
    """The network namespace of the interface, by name or path; None: that of the process."""

    dhcp: bool = True
    """Whether an address is asked for by DHCP."""

    address: tuple[IPv4Interface | IPv6Interface, ...] = ()
    """Static addresses, when `dhcp` is off."""

    gateway: IPv4Address | IPv6Address | None = None
    """The gateway, instead of the lease's."""

    ipv6: Literal["auto", "block", "off"] = "auto"
    """Whether IPv6 in the tunnel is used as its routers offer it, refused, or left alone."""

    hostname: str | None = None
    """The name told to the DHCP server; None: none."""

    accept_default_gateway: bool = False
    """Whether the default route goes through the tunnel."""

    accept_static_routes: bool = False
    """Whether the routes of DHCP options 121, 249 and 33 are set."""

    metric: int = 50
    """Metric of the default route."""

    include: tuple[IPv4Network | IPv6Network | str, ...] = ()
    """Networks and hosts, by address or name, that are reached through the tunnel."""

    exclude: tuple[IPv4Network | IPv6Network | str, ...] = ()
    """Networks and hosts that are not."""

    exclude_uid: tuple[int, ...] = ()
    """Users whose packets pass the tunnel by; in `mark` mode."""

    lan: Literal["private", "none", "all"] | None = None
    """Which subnets of this host stay reachable beside the tunnel; None: none with a lock,
    else in `mark` mode those with private addresses, in `host` mode all."""

    route_mode: Literal["host", "mark"] = "host"
    """Whether routes stand in the main table, or in one of the tunnel's own."""

    mark: int | None = None
    """The firewall mark of the tunnel's own sockets; None: one of our own."""

    policy_route_table: int | None = None
    """The table for packets with an address of the tunnel; None: there is none."""

    connmark: bool = False
    """Whether what answers forwarded connections that came in by the tunnel uses it, too."""

    lock: Literal["off", "auto", "on"] = "off"
    """Whether nothing leaves but by the tunnel: while the process lives, or until it ends
    as it should."""

    lock_allow: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks that the lock lets everybody reach."""

    accept_dns: bool = False
    """Whether the resolvers of the lease are used."""

    dns: tuple[IPv4Address | IPv6Address, ...] = ()
    """Resolvers to use, instead of the lease's."""

    search: tuple[str, ...] = ()
    """Search domains, instead of the lease's; without a dot at the end."""

    split_dns: tuple[str, ...] = ()
    """Only names below these domains go to the resolvers; empty: all names do."""

    dns_mode: Literal["auto", "resolved", "resolvconf", "file", "off"] = "auto"
    """How resolvers are set."""

    reconnect_delay: float | None = None
    """Seconds before the first retry; None: :data:`DEFAULT_RECONNECT_DELAY_S`,
    and none at all after a proven session."""

    reconnect_max_delay: float = 60.0
    """Seconds to which the delay grows."""

    retries: int | Literal["forever"] | None = None
    """Retries before the first proof; None: as each kind of failure has it."""

    once: bool = False
    """Whether the first failure before a proof ends it."""

    privacy: Literal["minimal", "full"] = "minimal"
    """What of this host the login tells the server."""

    @property
    def target(self) -> Target:
        """Server and hub."""
        return Target(self.host, self.port, self.hub)

    @property
    def tunnel_name(self) -> str:
        """The name of the running tunnel; a profile's name has become `name`."""
        return self.name or tunnel_name(self.target)

    @property
    def login(self) -> Auth:
        """How to log in: `auth`, else by what is given."""
        if self.auth is not None:
            return self.auth
        if self.user is None:
            return "anonymous"
        if self.cert is not None:
            return "certificate"
        # A one-time password can only be checked by who is shown it.
        return "password" if self.otp is None else "plain"

    @property
    def password_reference(self) -> Reference | None:
        """Where the password is: asked for if not given; None if none is needed."""
        if self.login in {"anonymous", "certificate"}:
            return None
        return Prompt() if self.password is None else self.password

    @property
    def is_by_mark(self) -> bool:
        """Whether routes stand in a table of the tunnel's own; with a lock they do."""
        return self.route_mode == "mark" or self.lock != "off"

    @property
    def neighbourhood(self) -> Literal["private", "none", "all"]:
        """Which subnets of this host stay reachable beside the tunnel, in `mark` mode."""
        return self.lan or ("private" if self.lock == "off" else "none")

    @property
    def place_names(self) -> tuple[str, ...]:
        """The host names among what is included and excluded."""
        names = (
            place for place in (*self.include, *self.exclude) if isinstance(place, str)
        )
        return tuple(dict.fromkeys(names))

    @property
    def asks_for_names(self) -> bool:
        """Whether name servers are to be set on this host."""
        return bool(self.accept_dns or self.dns or self.split_dns)

    def check(self) -> None:
        """Refuse keys that contradict each other.

        Raises:
            ConfigError: Two do; the text names both and says what to do.
        """
        for is_wrong, reason in _contradictions(self):
            if is_wrong:
                raise ConfigError(reason)


def _contradictions(s: Settings) -> tuple[tuple[bool, str], ...]:
    has_secret = s.password is not None
    has_certificate = s.cert is not None
    delay = s.reconnect_delay if s.reconnect_delay is not None else 0.0
    return (
        (
            s.login == "anonymous" and has_secret and s.user is None,
            "a password is given without a user: add 'user'",
        ),
        (
            s.login == "anonymous" and has_secret,
            "'auth' is anonymous and a password is given: leave out one of them",
        ),
        (
            s.login != "anonymous" and s.user is None,
            f"'auth' is {s.login} without a user: add 'user'",
        ),
        (
            s.login == "certificate" and not has_certificate,
            "'auth' is certificate and there is none: add 'cert'",
        ),
        (
            s.login != "certificate" and has_certificate and s.user is None,
            "a certificate is given without a user: add 'user'",
        ),
        (
            s.login != "certificate" and has_certificate,
            f"'auth' is {s.login} and a certificate is given: leave out one of them",
        ),
        (
            not has_certificate and (s.key is not None or s.key_password is not None),
            "a key is given without its certificate: add 'cert'",
        ),
        (
            s.login == "certificate" and has_secret,
            "a certificate and a password are given: a key's pass phrase is 'key_password'",
        ),
        (
            s.otp is not None and s.login != "plain",
            f"'otp' is shown to the server with the password, and 'auth' is {s.login}: use plain",
        ),
        (
            any(
                isinstance(r, HashOf)
                for r in (s.otp, s.key, s.key_password, s.proxy_password)
            ),
            "'hash:' is for 'password' alone: the others are needed as they are",
        ),
        (
            s.login == "plain" and isinstance(s.password, HashOf),
            "'auth' is plain, which sends the password itself; 'password' gives only its hash",
        ),
        (
            s.proxy_password is not None
            and not (isinstance(s.proxy, ProxyAddress) and s.proxy.user),
            "'proxy_password' is given without a user: name him in 'proxy', as in http://USER@HOST:PORT",
        ),
        (
            s.insecure and bool(s.pin),
            "'insecure' accepts any certificate and 'pin' only one: leave out one of them",
        ),
        (
            s.insecure and s.ca is not None,
            "'insecure' accepts any certificate and 'ca' asks for signed ones: leave out one of them",
        ),
        (
            not s.dhcp and not s.address,
            "DHCP is off and there is no address: add 'address'",
        ),
        (
            s.mtu is not None
            and s.mtu < 1280
            and any(address.version == 6 for address in s.address),
            f"'address' has one of IPv6, which needs an MTU of 1280, and 'mtu' is {s.mtu}: leave out one of them",
        ),
        (
            s.dhcp and bool(s.address),
            "'address' is given and DHCP is on: turn it off with dhcp = false or --no-dhcp",
        ),
        (
            not s.dhcp and s.accept_static_routes,
            "'accept_static_routes' takes them from DHCP, and DHCP is off",
        ),
        (
            not s.dhcp and s.accept_default_gateway and s.gateway is None,
            "'accept_default_gateway' needs a gateway, and DHCP is off: add 'gateway'",
        ),
        (
            bool(s.exclude_uid) and not s.is_by_mark,
            "'exclude_uid' needs a routing table of the tunnel's own: add route_mode = \"mark\"",
        ),
        (
            s.lan in {"private", "none"} and not s.is_by_mark,
            f"'lan' can be {s.lan} only with a routing table of the tunnel's own: add route_mode = \"mark\"",
        ),
        (
            s.lock != "off" and s.netns is not None,
            "'lock' is about what leaves this host, and with 'netns' the tunnel is not for it: leave out one of them",
        ),
        (
            s.connmark and s.policy_route_table is None,
            "'connmark' sends answers by a table of its own: add 'policy_route_table'",
        ),
        (
            bool(s.lock_allow) and s.lock == "off",
            '\'lock_allow\' is given and there is no lock: add lock = "on" or "auto"',
        ),
        (
            bool(set(s.include) & set(s.exclude)),
            "'include' and 'exclude' name the same place: leave out one of them",
        ),
        (
            s.once and s.retries is not None,
            "'once' means no retries and 'retries' asks for some: leave out one of them",
        ),
        (
            delay > s.reconnect_max_delay,
            f"'reconnect_delay' ({delay:g} s) is longer than 'reconnect_max_delay' ({s.reconnect_max_delay:g} s)",
        ),
    )


# --- profiles ----------------------------------------------------------------


def profile_path(name: str, paths: Paths) -> Path:
    """Return the file of the profile *name*, which need not exist.

    Raises:
        ConfigError: *name* cannot be a profile's.
    """
    try:
        return paths.profiles_dir / f"{check_tunnel_name(name)}.toml"
    except ValueError as error:
        raise ConfigError(str(error)) from None


def profile_names(paths: Paths) -> list[str]:
    """Return the names of all profiles, sorted; none if the folder cannot be read."""
    try:
        found = sorted(paths.profiles_dir.glob("*.toml"))
    except OSError:
        return []
    return [path.stem for path in found]


def load_profile(path: Path) -> Settings:
    """Read a profile.

    What the keys mean together is not looked at: options may add to them. Call
    :meth:`Settings.check`, or use :func:`merged`, which does.

    Raises:
        ConfigError: It cannot be read, is no TOML, has an unknown key or a
            wrong value, or its permissions let others have a hand in it.
    """
    text, status = _read_profile(path)
    values = _parse_toml(text, path)
    origin = Origin("profile", path)
    fields: dict[str, Any] = {}
    for key, value in values.items():
        if key not in KEYS:
            raise unknown_key(key, origin)
        fields[key] = read_key(key, value, origin)
    if "host" not in fields:
        raise ConfigError(f"'host' is missing in {path}: name the server")
    if fields.setdefault("name", path.stem) != path.stem:
        raise ConfigError(
            f"'name' in {path} is not the profile's own, {path.stem!r}: leave it out"
        )
    settings = Settings(**fields)
    if any(has_literal(getattr(settings, key)) for key in _SECRETS):
        _refuse_readable(status, path)
    return settings


def _read_profile(path: Path) -> tuple[str, os.stat_result]:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            _refuse_writable(status, path)
            data = file.read(MAX_PROFILE_SIZE + 1)
        if len(data) > MAX_PROFILE_SIZE:
            raise ConfigError(f"{path} is longer than {MAX_PROFILE_SIZE} bytes")
        return data.decode("utf-8"), status
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason}") from None


def _refuse_writable(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is no file")
    if status.st_mode & 0o022:
        raise ConfigError(
            f"{path} can be written by other users, and a profile can run programs: chmod go-w {path}"
        )
    if status.st_uid not in {0, os.geteuid()}:
        raise ConfigError(
            f"{path} belongs to another user (uid {status.st_uid}), and a profile can run programs: "
            f"chown it to uid {os.geteuid()}"
        )


def _refuse_readable(status: os.stat_result, path: Path) -> None:
    if status.st_mode & 0o077 or status.st_uid != os.geteuid():
        raise ConfigError(
            f"{path} holds a secret and other users may read it: chmod 600 {path}"
        )


def _parse_toml(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Its text has the place and the kind, and at most one letter; it is not
        # chained, since the whole document may hang on it. A number of many
        # thousand digits is a plain ValueError.
        reason = "it nests too deep" if isinstance(error, RecursionError) else error
        raise ConfigError(f"{path} is no TOML: {reason}") from None


# --- layers ------------------------------------------------------------------


def from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    """Return what the variables `SEVPN_KEY` set, read and checked.

    An empty variable counts as none. `SEVPN_PASSWORD` holds the password itself
    and `SEVPN_PASSWORD_FILE` names a file; likewise with the other secrets. Other
    variables of that beginning are no concern of this module.

    Raises:
        ConfigError: One holds what its key may not, or both forms of a secret
            are set.
    """
    origin = Origin("environment")
    found: dict[str, object] = {}
    for key in KEYS:
        text = environ.get(f"SEVPN_{key.upper()}")
        if not text:
            continue
        found[key] = (
            LiteralSecret(Secret(text))
            if KEYS[key].is_secret
            else read_key(key, text, origin)
        )
    for key in _SECRETS:
        name = f"SEVPN_{key.upper()}"
        file = environ.get(f"{name}_FILE")
        if not file:
            continue
        if key in found:
            raise ConfigError(f"{name} and {name}_FILE are both set: unset one of them")
        found[key] = SecretFile(Path(file))
    return found


def merged(settings: Settings, overrides: Mapping[str, object]) -> Settings:
    """Return *settings* with some keys replaced, and checked together.

    Args:
        settings: The base; not changed.
        overrides: Keys, with `_`, and what options gave for them: texts,
            numbers, tuples of texts, or values that are read already.

    Raises:
        ConfigError: There is no such key, a value is wrong, or keys contradict
            each other.
    """
    changes = _read_options(overrides)
    result = msgspec.structs.replace(settings, **changes)
    result.check()
    return result


def settings_for(
    text: str,
    *,
    paths: Paths,
    environ: Mapping[str, str],
    options: Mapping[str, object],
) -> Settings:
    """Return the settings for a target as typed: all layers, checked together.

    Args:
        text: A profile's name, or `HOST[:PORT][/HUB]`.
        paths: Where profiles are.
        environ: The environment.
        options: Keys, with `_`, that options gave; see :func:`merged`.

    Raises:
        ConfigError: Any of it is wrong, or there is no such profile; the text
            names the nearest one.
    """
    base, is_profile = _base_of(text, paths)
    overrides = {**from_environment(environ), **_read_options(options)}
    if is_profile and overrides.get("name", base.name) != base.name:
        raise ConfigError(
            f"the tunnel of profile {base.name!r} bears its name: leave out --name and SEVPN_NAME"
        )
    return merged(base, overrides)


def _base_of(text: str, paths: Paths) -> tuple[Settings, bool]:
    path = _existing_profile(text, paths)
    if path is not None:
        return load_profile(path), True
    if is_profile_word(text):
        near = difflib.get_close_matches(text, profile_names(paths), n=1, cutoff=0.5)
        hint = f": did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"there is no profile {text!r} in {paths.profiles_dir}{hint or ': for a server write HOST/HUB'}"
        )
    target = parse_target(text)
    return Settings(host=target.host, port=target.port, hub=target.hub), False


def _existing_profile(text: str, paths: Paths) -> Path | None:
    try:
        path = profile_path(text, paths)
    except ConfigError:
        return None
    # Not `exists()`: a folder that may not be searched must not look empty.
    try:
        path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    return path


def _read_options(options: Mapping[str, object]) -> dict[str, object]:
    origin = Origin("option")
    read: dict[str, object] = {}
    for key, value in options.items():
        if key not in KEYS:
            raise unknown_key(key, origin)
        read[key] = read_key(key, value, origin)
    return read
