# SPDX-License-Identifier: Apache-2.0
"""What an embedded server is made of: its addresses, hubs, users and pools.

Layer: server. Runs in: the event loop, before the server starts.

The same classes are filled in code and from a TOML file, which is read strictly:

    listen = ["0.0.0.0:443"]

    [[hubs]]
    name = "OFFICE"
    gateway = "10.9.0.1/24"

    [[hubs.users]]
    name = "alice"
    password = "file:alice.secret"

    [hubs.dhcp]
    first = "10.9.0.10"
    last = "10.9.0.99"
    routes = [{ destination = "10.8.0.0/16", gateway = "10.9.0.2" }]

Source: docs/reference/serve.md.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from sevpn.config.secret import (
    PasswordHash,
    Secret,
    SecretSource,
    parse_reference,
    resolve,
)
from sevpn.errors import ConfigError
from sevpn.protocol.credentials import MAX_CERTIFICATE_SIZE, hash_password
from sevpn.protocol.udpterms import Version
from sevpn.server.certificate import UserCertificate
from sevpn.server.policy import Policy

__all__ = [
    "DEFAULT_PORT",
    "Auth",
    "DhcpConfig",
    "HubConfig",
    "Listen",
    "RouteConfig",
    "ServerConfig",
    "StoredPassword",
    "TapConfig",
    "User",
    "load_config",
]

DEFAULT_PORT: Final = 5555
"""The one of a real server's four ports that needs no privilege and is nobody else's."""

MAX_CONFIG_SIZE: Final = 1 << 20
"""Bytes of a configuration file at most; our own choice."""

_MAX_POOL_SIZE: Final = 65536
_LISTEN: Final = re.compile(
    r"(?:\[(?P<six>[^\]]*)\]|(?P<bare>[^\[\]]*:[^\[\]]*:[^\[\]]*)|(?P<four>[^:]*))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_NAME: Final = re.compile(r"[A-Za-z0-9_.@-]{1,255}")

Auth = Literal["password", "plain", "certificate", "anonymous"]
"""How a user proves who he is: by the hashed challenge or the plain password; by the
plain password only, as users of RADIUS do; by a certificate; or not at all."""


class StoredPassword:
    """A user's password, or its SoftEther hash; it never shows itself.

    Args:
        secret: Either.
    """

    __slots__ = ("_secret",)

    def __init__(self, secret: Secret | PasswordHash) -> None:
        self._secret = secret

    def hashed_for(self, user: str) -> bytes:
        """Return the 20-byte hash under which the server knows *user*'s password.

        The user name enters the hash, so a stored hash belongs to one name.
        """
        if isinstance(self._secret, PasswordHash):
            return self._secret.reveal()
        return hash_password(user, self._secret.reveal())

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoredPassword) and self._secret == other._secret

    def __hash__(self) -> int:
        return hash(self._secret)


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen."""

    address: IPv4Address | IPv6Address
    """Of this host; the unspecified address means all."""

    port: int
    """TCP port; 0 lets the kernel choose."""

    @classmethod
    def parse(cls, text: str) -> Listen:
        """Read `ADDRESS`, `ADDRESS:PORT`, `[ADDRESS6]:PORT` or `:PORT`.

        Raises:
            ConfigError: It is none of them.
        """
        found = _LISTEN.fullmatch(text)
        if found is not None:
            host = found["six"] or found["four"] or found["bare"] or "127.0.0.1"
            port = int(found["port"] or DEFAULT_PORT)
            try:
                address = ipaddress.ip_address(host)
            except ValueError:
                address = None
            if address is not None and port <= 65535:
                return cls(address=address, port=port)
        raise ConfigError(
            f"{text!r} is no address to listen on: write ADDRESS[:PORT], as in 127.0.0.1:{DEFAULT_PORT}"
        )


class User(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody who may log in to a hub."""

    name: str
    """Compared without regard to case."""

    auth: Auth = "password"
    """How the user proves who he is."""

    password: StoredPassword | None = None
    """Needed for the two ways that have one; in a file, a reference to it."""

    certificate: UserCertificate | None = None
    """Needed for the way of that name; in a file, the path of its PEM or DER."""

    policy: Policy | None = None
    """What the user may do; if not given, the hub's."""

    @classmethod
    def with_password(
        cls,
        name: str,
        password: str,
        *,
        auth: Auth = "password",
        policy: Policy | None = None,
    ) -> User:
        """Make a user in code."""
        stored = StoredPassword(Secret(password))
        return cls(name=name, auth=auth, password=stored, policy=policy)

    @classmethod
    def with_certificate(
        cls, name: str, content: bytes, *, policy: Policy | None = None
    ) -> User:
        """Make a user who is known by a certificate: PEM or DER.

        Raises:
            ConfigError: It is none that a login can use.
        """
        certificate = UserCertificate(content)
        return cls(
            name=name, auth="certificate", certificate=certificate, policy=policy
        )

    @classmethod
    def anonymous(
        cls, name: str = "anonymous", *, policy: Policy | None = None
    ) -> User:
        """Make a user who needs no proof."""
        return cls(name=name, auth="anonymous", policy=policy)


class RouteConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """A route that DHCP tells the clients."""

    destination: IPv4Network
    """Where to."""

    gateway: IPv4Address
    """Through whom; 0.0.0.0 means on-link."""


class DhcpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The DHCP server of a hub's virtual gateway."""

    first: IPv4Address | None = None
    """The lowest address of the pool; by default the tenth of the subnet, or its second."""

    last: IPv4Address | None = None
    """The highest; by default the last of the subnet."""

    lease_s: Annotated[int, msgspec.Meta(ge=1, le=0xFFFFFFFF)] = 7200
    """Seconds that a lease lasts; 4294967295 is for ever."""

    renew_s: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Option 58; left out by default, as real servers do."""

    rebind_s: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Option 59; likewise."""

    is_router: bool = True
    """Whether option 3 is sent."""

    router: IPv4Address | None = None
    """What option 3 says; by default the virtual gateway."""

    dns: tuple[IPv4Address, ...] = ()
    """Option 6, at most 8."""

    domain: str | None = None
    """Option 15."""

    search: tuple[str, ...] = ()
    """Option 119, at most 16."""

    ntp: tuple[IPv4Address, ...] = ()
    """Option 42, at most 8."""

    mtu: Annotated[int, msgspec.Meta(ge=68, le=65535)] | None = None
    """Option 26."""

    routes: tuple[RouteConfig, ...] = ()
    """Options 121 and 249, at most 64."""

    route_options: tuple[Literal[121, 249], ...] = (121, 249)
    """Which of the two carry the routes."""

    ignores_server_id: bool = False
    """Answer a REQUEST that names another server, and NAK it, as SecureNAT does."""

    ignores_release: bool = False
    """Keep a lease that its owner gives back or declines, as SecureNAT does."""


class TapConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A TAP device of this host on a hub: a local bridge."""

    name: str
    """The interface; made when the server starts, gone with it."""

    address: IPv4Interface | None = None
    """Set on the interface if given."""

    mtu: Annotated[int, msgspec.Meta(ge=576, le=1586)] = 1500
    """The interface's MTU in bytes."""


class HubConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A virtual switch, and what is plugged into it besides sessions."""

    name: str = "DEFAULT"
    """Compared without regard to case."""

    users: tuple[User, ...] = ()
    """Who may log in."""

    is_online: bool = True
    """Whether anybody may, at first."""

    policy: Policy = Policy()
    """Of users who have no own."""

    message: str = ""
    """Text for people in the Welcome."""

    max_sessions: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 256
    """Sessions at once; one more gets error 16."""

    gateway: IPv4Interface | None = None
    """The virtual gateway: it answers ARP, echo requests, names and DHCP, and forwards nothing."""

    names: Mapping[str, IPv4Address] = {}
    """What the virtual gateway answers DNS questions with."""

    dhcp: DhcpConfig | None = None
    """The DHCP server; needs a virtual gateway."""

    tap: TapConfig | None = None
    """A TAP device on this hub."""

    udp: bool = True
    """Whether UDP acceleration is granted to who offers it."""

    udp_version: Version = 2
    """The highest version of it that is granted, whatever is offered."""

    polls: bool = True
    """Whether the hub polls the addresses it knows, as real ones do."""

    poll_interval_s: Annotated[float, msgspec.Meta(ge=0.05)] = 5.0
    """Seconds between two polls of an address."""

    address_life_s: Annotated[float, msgspec.Meta(ge=0.05)] = 60.0
    """Seconds after which a silent learned address is forgotten."""

    lease_life_s: Annotated[float, msgspec.Meta(ge=0.05)] = 300.0
    """Seconds after which a silent address of a DHCP ACK is forgotten."""

    def user(self, name: str) -> User | None:
        """Return the user of that name."""
        return next(
            (user for user in self.users if user.name.lower() == name.lower()), None
        )


class ServerConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """An embedded server."""

    listen: tuple[str, ...] = (f"127.0.0.1:{DEFAULT_PORT}",)
    """Where to listen, each as :meth:`Listen.parse` reads it; 1 to 16."""

    certificate: Path | None = None
    """PEM of the certificate, and of its key unless that stands elsewhere; made at start if not given."""

    key: Path | None = None
    """PEM of the key."""

    names: tuple[str, ...] = ()
    """Host names and addresses in a certificate made at start, besides the addresses listened on."""

    hubs: tuple[HubConfig, ...] = (HubConfig(),)
    """At least one."""

    product: str = "sevpn embedded server"
    """What the Hello says about this program."""

    version: int = 502
    """Its version there: 100 times major plus minor."""

    build: int = 5187
    """Its build there."""

    deadline_s: Annotated[float, msgspec.Meta(gt=0)] = 15.0
    """Seconds for the TLS handshake, and for each request before the session."""

    max_handshakes: Annotated[int, msgspec.Meta(ge=1)] = 256
    """Connections that have not logged in, at once; further ones are closed unanswered."""

    @property
    def endpoints(self) -> tuple[Listen, ...]:
        """Where to listen.

        Raises:
            ConfigError: One of them cannot be read.
        """
        return tuple(Listen.parse(text) for text in self.listen)

    def checked(self) -> ServerConfig:
        """Return this configuration.

        Raises:
            ConfigError: Its parts contradict each other.
        """
        _check_size("listen", self.endpoints, 1, 16)
        _check_size("hubs", self.hubs, 1, 64)
        _check_unique("hub", [hub.name for hub in self.hubs])
        if self.key is not None and self.certificate is None:
            raise ConfigError(
                "'key' is given without 'certificate': give both or neither"
            )
        for hub in self.hubs:
            _check_hub(hub)
        return self


def load_config(path: Path, source: SecretSource) -> ServerConfig:
    """Read a configuration file.

    Args:
        path: A TOML file; relative paths in it are relative to its folder.
        source: Where the passwords it refers to come from.

    Raises:
        ConfigError: It cannot be read, or is wrong; the text names the key.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_SIZE + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    if len(text) > MAX_CONFIG_SIZE:
        raise ConfigError(f"{path} is longer than {MAX_CONFIG_SIZE} bytes")
    return parse_config(text, source, name=str(path), folder=path.absolute().parent)


def parse_config(
    text: bytes, source: SecretSource, *, name: str, folder: Path
) -> ServerConfig:
    """Read a configuration file's content; see :func:`load_config`."""
    try:
        config = msgspec.toml.decode(
            text, type=ServerConfig, dec_hook=_reader(source, folder)
        )
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{name} is no TOML: {error}") from error
    return config.checked()


def _reader(source: SecretSource, folder: Path) -> Callable[[type, Any], Any]:
    """Return what turns the strings of a file into values; msgspec adds the key to its errors."""

    def password(text: str) -> StoredPassword:
        try:
            reference = parse_reference(text, folder=folder)
        except ConfigError as error:
            raise ConfigError(f"the password {error}") from None
        return StoredPassword(resolve(reference, source, question="password: "))

    def certificate(text: str) -> UserCertificate:
        path = folder / text
        try:
            with path.open("rb") as file:
                return UserCertificate(file.read(MAX_CERTIFICATE_SIZE))
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
        except ConfigError as error:
            raise ConfigError(f"{path} {error}") from error

    readers: Mapping[object, Callable[[str], object]] = {
        StoredPassword: password,
        UserCertificate: certificate,
        IPv4Address: IPv4Address,
        IPv4Interface: IPv4Interface,
        IPv4Network: IPv4Network,
        Path: folder.joinpath,
    }

    def read(kind: type, value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"a string is wanted, not {value!r}")  # noqa: TRY004 - msgspec wraps it
        try:
            return readers[kind](value)
        except ConfigError as error:
            raise ValueError(str(error)) from error

    return read


# --- checks -------------------------------------------------------------------


def _check_hub(hub: HubConfig) -> None:
    where = f"hub {hub.name!r}"
    _check_name("hub", hub.name)
    _check_size(f"users of {where}", hub.users, 0, 4096)
    _check_unique(f"user of {where}", [user.name for user in hub.users])
    _check_size(f"message of {where}", hub.message, 0, 20000)
    _check_size(f"names of {where}", hub.names, 0, 256)
    for user in hub.users:
        _check_user(user, where)
    if hub.tap is not None and not 1 <= len(hub.tap.name.encode()) <= 15:
        raise ConfigError(
            f"{hub.tap.name!r} of {where} is no name of an interface: it has 1 to 15 bytes"
        )
    if hub.dhcp is not None:
        if hub.gateway is None:
            raise ConfigError(
                f"{where} has 'dhcp' without 'gateway': give the gateway's address with its prefix"
            )
        _check_dhcp(hub.dhcp, hub.gateway, where)


def _check_user(user: User, where: str) -> None:
    _check_name(f"user of {where}", user.name)
    needs_password = user.auth in {"password", "plain"}
    if needs_password and user.password is None:
        raise ConfigError(
            f'user {user.name!r} of {where} has no password: give one, or auth = "anonymous"'
        )
    if user.auth == "anonymous" and user.password is not None:
        raise ConfigError(
            f"user {user.name!r} of {where} is anonymous and has a password: take one of them away"
        )
    if user.auth == "certificate" and user.password is not None:
        raise ConfigError(
            f"user {user.name!r} of {where} is known by a certificate and has a password: take one of them away"
        )
    if (user.auth == "certificate") != (user.certificate is not None):
        raise ConfigError(
            f"user {user.name!r} of {where}: 'certificate' and auth = \"certificate\" go together"
        )


def _check_dhcp(dhcp: DhcpConfig, gateway: IPv4Interface, where: str) -> None:
    first, last = pool_range(dhcp, gateway)
    if first > last or first not in gateway.network or last not in gateway.network:
        raise ConfigError(
            f"the pool {first} to {last} of {where} is no range of {gateway.network}"
        )
    if int(last) - int(first) >= _MAX_POOL_SIZE:
        raise ConfigError(
            f"the pool of {where} has more than {_MAX_POOL_SIZE} addresses"
        )
    for key, values, most in (
        ("dns", dhcp.dns, 8),
        ("ntp", dhcp.ntp, 8),
        ("search", dhcp.search, 16),
        ("routes", dhcp.routes, 64),
    ):
        _check_size(f"{key} of {where}", values, 0, most)


def pool_range(
    dhcp: DhcpConfig, gateway: IPv4Interface
) -> tuple[IPv4Address, IPv4Address]:
    """Return the lowest and the highest address of a pool."""
    network = gateway.network
    low = 10 if network.num_addresses > 16 else min(2, network.num_addresses - 1)
    high = -2 if network.num_addresses > 2 else -1
    return dhcp.first or network[low], dhcp.last or network[high]


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name of a {what}: letters, digits and _ . @ - are allowed"
        )


def _check_unique(what: str, names: list[str]) -> None:
    folded = [name.lower() for name in names]
    for name in names:
        if folded.count(name.lower()) > 1:
            raise ConfigError(
                f"{what} {name!r} is there twice; case makes no difference"
            )


def _check_size(what: str, values: Sized, least: int, most: int) -> None:
    count = len(values)
    if not least <= count <= most:
        raise ConfigError(f"{what} has {count} entries: {least} to {most} are allowed")
