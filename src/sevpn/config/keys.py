# SPDX-License-Identifier: Apache-2.0
r"""The keys of a profile: what each may hold, and how it is read.

Layer: config. Runs in: any thread. Looks at nothing outside its arguments.

A key is also the option `--key` of `up` (with `-` for `_`) and the environment
variable `SEVPN_KEY`. All three are read here, so that they take the same values
and are refused in the same words:

    value  --form (msgspec)-->  checked type and range  --read-->  value in Settings

A profile is read strictly: `port = "443"` is an error, since TOML has numbers.
Options and variables are texts, so there "443" is the number and "yes" is true.

Source: docs/reference/profile.md#keys.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

import msgspec

from sevpn.config.proxy import ENVIRONMENT, ProxyAddress, parse_proxy
from sevpn.config.secret import Reference, parse_reference
from sevpn.config.target import MAX_HUB_SIZE, check_tunnel_name, parse_host
from sevpn.errors import ConfigError

__all__ = ["KEYS", "Key", "Origin", "parse_duration", "read_key", "unknown_key"]

MAX_MTU: Final = 1586
"""The largest frame of a hub is 1600 bytes: docs/reference/protocol.md#sizes."""

MAX_CONNECTIONS: Final = 32
"""TCP connections of one session: docs/reference/protocol.md#more-connections."""

_MIN_MTU: Final = 576
_MAX_TABLE: Final = 2**32 - 1
_TABLES_OF_OTHERS: Final = frozenset({253, 254, 255})
"""default, main, local: what stands there decides for all packets."""
_MAX_TEXT_SIZE: Final = 255
_MAX_ITEMS: Final = 64
_DAY_S: Final = 86400.0

_UNITS_S: Final[Mapping[str, float]] = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|)")
_YES: Final = frozenset({"yes", "on", "true", "1"})
_NO: Final = frozenset({"no", "off", "false", "0"})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was found: how an error names it, and what it may hold."""

    kind: Literal["profile", "option", "environment"]
    """Which of the three."""

    file: Path | None = None
    """The profile's file."""

    def label(self, key: str) -> str:
        """Return the key as the person wrote it."""
        match self.kind:
            case "profile":
                return f"{key!r} in {self.file}"
            case "option":
                return "--" + key.replace("_", "-")
            case "environment":
                return "SEVPN_" + key.upper()

    @property
    def folder(self) -> Path | None:
        """What a relative path is relative to; None for the working folder."""
        return self.file.parent if self.file is not None else None


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its type, and the words for what it may hold."""

    form: Any
    """The type that the value has in TOML, as msgspec takes it."""

    allowed: str
    """What is allowed, to follow `must be`."""

    read: Callable[[Any, Origin], object] | None = None
    """Makes the value of the checked form; raises ValueError for a wrong one."""

    is_secret: bool = False
    """Whether a wrong value must not be repeated."""

    is_list: bool = False
    """Whether it holds several values; a text is then split at commas and spaces."""


def read_key(name: str, value: object, origin: Origin) -> object:
    """Return what the key *name* holds, as :class:`~sevpn.config.profile.Settings` has it.

    Args:
        name: A name in :data:`KEYS`.
        value: As TOML gives it; for an option or a variable also a text.
        origin: Where it was found.

    Raises:
        ConfigError: It is not allowed; the text names the place, the value
            unless it may be a secret, and what is allowed.
    """
    key = KEYS[name]
    try:
        if origin.kind != "profile":
            value = _of_text(key, value)
        checked = msgspec.convert(value, key.form, strict=origin.kind == "profile")
        return checked if key.read is None else key.read(checked, origin)
    except ConfigError as error:
        raise ConfigError(f"{origin.label(name)} {error}") from None
    except (ValueError, OverflowError):
        # msgspec's own text names types, not what a person can write instead;
        # and it is not chained, since it may repeat a secret.
        shown = "" if key.is_secret else f" is {_shown(value)}, and"
        raise ConfigError(
            f"{origin.label(name)}{shown} must be {key.allowed}"
        ) from None


def unknown_key(name: str, origin: Origin) -> ConfigError:
    """Return the error for a key that there is not, with the nearest that there is."""
    word = name.lower().replace("-", "_").removeprefix("no_")
    near = difflib.get_close_matches(word, KEYS, n=1, cutoff=0.5)
    hint = f": did you mean {near[0]!r}?" if near else ""
    if origin.kind == "option":
        return ConfigError(f"there is no option {_shown(name)}{hint}")
    return ConfigError(f"there is no key {_shown(name)} in {origin.file}{hint}")


def parse_duration(value: str | float) -> float:
    """Return the seconds of `NUMBER[ms|s|m|h]`; a bare number means seconds.

    Raises:
        ValueError: It is no such text, negative, or not finite.
    """
    if isinstance(value, str):
        found = _DURATION.fullmatch(value.strip())
        if not found:
            raise ValueError("no duration")
        return float(found[1]) * _UNITS_S[found[2] or "s"]
    if not 0 <= value < float("inf"):
        raise ValueError("no duration")
    return float(value)


# --- readers -----------------------------------------------------------------


def _of_text(key: Key, value: object) -> object:
    """Return the value that a text of an option or a variable stands for."""
    if key.is_list:
        is_several = isinstance(value, (tuple, list))
        texts = cast("Sequence[object]", value) if is_several else (value,)
        return [
            word for text in texts for word in re.split(r"[,\s]+", str(text)) if word
        ]
    if key.form is bool and isinstance(value, str):
        word = value.strip().lower()
        if word not in _YES | _NO:
            raise ValueError("no truth value")
        return word in _YES
    if isinstance(value, (bool, int, float, str)) or key.is_secret:
        return value
    return str(value)  # a value that is read already: an address, a path


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _between(low: float, high: float) -> Callable[[Any, Origin], float]:
    def read(value: Any, _origin: Origin) -> float:
        seconds = parse_duration(value)
        if not low <= seconds <= high:
            raise ValueError("out of range")
        return seconds

    return read


def _each(read: Callable[[str], object]) -> Callable[[Any, Origin], object]:
    def read_all(values: Any, _origin: Origin) -> tuple[object, ...]:
        # The order counts (the first resolver is asked first); a repetition does not.
        return tuple(dict.fromkeys(read(value) for value in values))

    return read_all


def _all(values: Any, _origin: Origin) -> tuple[object, ...]:
    return tuple(dict.fromkeys(values))


def _text(read: Callable[[Any], object]) -> Callable[[Any, Origin], object]:
    def read_one(value: Any, _origin: Origin) -> object:
        return read(value)

    return read_one


def _printable(text: str) -> str:
    if not text.isprintable() or text != text.strip() or not _fits(text, MAX_HUB_SIZE):
        raise ValueError("not printable")
    return text


def _fits(text: str, size: int) -> bool:
    return 0 < len(text.encode("utf-8")) <= size


def _hub(text: str) -> str:
    if "/" in text:
        raise ValueError("no hub name")
    return _printable(text)


def _interface(text: str) -> IPv4Interface | IPv6Interface:
    if "/" not in text or "%" in text:
        raise ValueError("no prefix length, or a zone")
    interface = ipaddress.ip_interface(text)
    _usable(interface.ip)
    return interface


def _address(text: str) -> IPv4Address | IPv6Address:
    return _usable(ipaddress.ip_address(text))


def _usable(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if address.is_unspecified or address.is_multicast or address == _BROADCAST:
        raise ValueError("no host's address")
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise ValueError("a zone, which is the tunnel's interface anyway")
    return address


_BROADCAST: Final = IPv4Address("255.255.255.255")


def _domain(text: str) -> str:
    # It is written into resolv.conf and DHCP messages: nothing but labels.
    name = text.removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("no domain name")
    return name


_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def _pin(text: str) -> str:
    name, _, digits = text.partition(":")
    digits = digits.replace(":", "").lower()
    if name.lower() != "sha256" or not re.fullmatch("[0-9a-f]{64}", digits):
        raise ValueError("no pin")
    return f"sha256:{digits}"


def _mac(text: str) -> str:
    mac = text.lower().replace("-", ":")
    if not re.fullmatch("[0-9a-f]{2}(?::[0-9a-f]{2}){5}", mac):
        raise ValueError("no MAC address")
    octets = bytes.fromhex(mac.replace(":", ""))
    if octets[0] & 1 or not any(octets):
        raise ValueError("not one interface's")
    return mac


def _tap(text: str) -> str:
    # As the kernel's dev_valid_name(), with at most the one %d that it counts up.
    name = text.replace("%d", "0", 1)
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", name) or name in {".", ".."}:
        raise ValueError("no interface name")
    return text


def _netns(text: str) -> str:
    if "\0" in text or text in {".", ".."} or not text.isprintable():
        raise ValueError("no namespace")
    return text


def _place(text: str) -> IPv4Network | IPv6Network | str:
    """Return a network, or the name of a host."""
    if "%" in text:
        raise ValueError("a zone")
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        if re.fullmatch(r"[0-9.:/]+", text) or ":" in text or "/" in text:
            raise
        return _domain(text)
    if not network.prefixlen or network.is_multicast or network.is_loopback:
        raise ValueError("everything, or what never leaves its link")
    return network


def _network(text: str) -> IPv4Network | IPv6Network:
    place = _place(text)
    if isinstance(place, str):
        raise ValueError("a name, which a packet filter does not know")  # noqa: TRY004 - of a value
    return place


def _table(number: int) -> int:
    if number in _TABLES_OF_OTHERS:
        raise ValueError("a table of the system")
    return number


def _file(text: str, origin: Origin) -> Path:
    if not text or "\0" in text:
        raise ValueError("no path")
    path = Path(text).expanduser() if text.startswith("~/") else Path(text)
    return path if origin.folder is None else origin.folder / path


def _reference(value: object, origin: Origin) -> Reference:
    if isinstance(value, Reference):
        return value
    if not isinstance(value, str):
        raise ValueError("no text")  # noqa: TRY004 - of a value, not of a call
    return parse_reference(
        value, allow_literal=origin.kind == "profile", folder=origin.folder
    )


def _proxy(value: object, _origin: Origin) -> ProxyAddress | str:
    if isinstance(value, ProxyAddress):
        return value
    if value == ENVIRONMENT:
        return ENVIRONMENT
    # Not by ValueError: what is wrong with it may be a password in it.
    return parse_proxy(value if isinstance(value, str) else "")


def _family(value: int | str, _origin: Origin) -> str:
    if str(value) not in {"any", "4", "6"}:
        raise ValueError("no IP version")
    return str(value)


def _retries(value: int | str, _origin: Origin) -> int | Literal["forever"]:
    if value == "forever":
        return "forever"
    number = int(value) if re.fullmatch("[0-9]{1,9}", str(value)) else -1
    if number < 0:
        raise ValueError("no number of retries")
    return number


# --- the keys ----------------------------------------------------------------

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_TEXT_SIZE)]
_Texts = Annotated[list[_Text], msgspec.Meta(max_length=_MAX_ITEMS)]
_Path = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
_Connections = Annotated[int, msgspec.Meta(ge=1, le=MAX_CONNECTIONS)]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Mtu = Annotated[int, msgspec.Meta(ge=_MIN_MTU, le=MAX_MTU)]
_Metric = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_Mark = Annotated[int, msgspec.Meta(ge=1, le=2**32 - 1)]
_Uids = Annotated[
    list[Annotated[int, msgspec.Meta(ge=0, le=2**32 - 2)]],
    msgspec.Meta(max_length=_MAX_ITEMS),
]
_Table = Annotated[int, msgspec.Meta(ge=1, le=_MAX_TABLE)]
_Duration = str | int | float

_DURATION_WORDS: Final = "a duration like 500ms, 10s, 2m or 1h"
_TRUTH: Final = "true or false"
_HOSTS: Final = "a host name or an IP address"
_PLACES: Final = (
    "a list of networks like 10.0.0.0/8, addresses or host names; not everything"
)

KEYS: Final[Mapping[str, Key]] = {
    # where
    "host": Key(_Text, _HOSTS, _text(parse_host)),
    "port": Key(_Port, "a port number from 1 to 65535"),
    "hub": Key(_Text, "a hub's name", _text(_hub)),
    "name": Key(
        _Text, "up to 63 of A-Z a-z 0-9 _ . -, a letter or digit first", _text(check_tunnel_name)
    ),
    # login
    "user": Key(_Text, "a user name of at most 255 bytes", _text(_printable)),
    "auth": Key(
        Literal["anonymous", "password", "plain", "certificate"], "anonymous, password, plain or certificate"
    ),
    "password": Key(Any, "a reference to a secret", _reference, is_secret=True),
    "otp": Key(Any, "a reference to a secret", _reference, is_secret=True),
    "cert": Key(_Path, "the path of a file with a certificate", _file),
    "key": Key(Any, "a reference to a secret", _reference, is_secret=True),
    "key_password": Key(Any, "a reference to a secret", _reference, is_secret=True),
    # trust
    "ca": Key(_Path, "the path of a file of CA certificates", _file),
    "server_name": Key(_Text, _HOSTS, _text(parse_host)),
    "pin": Key(_Texts, "a list of sha256:HEX with 64 hex digits each", _each(_pin), is_list=True),
    "insecure": Key(bool, _TRUTH),
    # transport
    "ip": Key(int | str, "any, 4 or 6", _family),
    "connections": Key(_Connections, f"a number from 1 to {MAX_CONNECTIONS}"),
    "half_duplex": Key(bool, _TRUTH),
    "resume": Key(bool, _TRUTH),
    "compress": Key(bool, _TRUTH),
    "udp": Key(Literal["off", "auto", "on"], "off, auto or on"),
    "udp_v1": Key(bool, _TRUTH),
    "udp_port": Key(_Port, "a port number from 1 to 65535"),
    "proxy": Key(Any, "the address of a proxy", _proxy),
    "proxy_password": Key(Any, "a reference to a secret", _reference, is_secret=True),
    "legacy_tls": Key(bool, _TRUTH),
    "connect_timeout": Key(_Duration, f"{_DURATION_WORDS}, from 100ms to 1h", _between(0.1, 3600)),
    # interface
    "tap": Key(_Text, "an interface name of at most 15 letters, with %d for a free number", _text(_tap)),
    "mac": Key(_Text, "a MAC address like 5e:00:11:22:33:44, of one interface and not of a group", _text(_mac)),
    "mtu": Key(_Mtu, f"a number from {_MIN_MTU} to {MAX_MTU}"),
    "netns": Key(_Path, "a network namespace's name, or a path with a / in it", _text(_netns)),
    # addresses
    "dhcp": Key(bool, _TRUTH),
    "address": Key(
        _Texts, "a list of addresses with prefix length, like 192.0.2.5/24", _each(_interface), is_list=True
    ),
    "gateway": Key(_Text, "an IP address", _text(_address)),
    "ipv6": Key(Literal["auto", "block", "off"], "auto, block or off"),
    "hostname": Key(_Text, "a host name", _text(_domain)),
    # routing
    "accept_default_gateway": Key(bool, _TRUTH),
    "accept_static_routes": Key(bool, _TRUTH),
    "metric": Key(_Metric, "a number from 0 to 4294967295"),
    "include": Key(_Texts, _PLACES, _each(_place), is_list=True),
    "exclude": Key(_Texts, _PLACES, _each(_place), is_list=True),
    "exclude_uid": Key(_Uids, "a list of user ids, numbers", _all, is_list=True),
    "lan": Key(Literal["private", "none", "all"], "private, none or all"),
    "route_mode": Key(Literal["host", "mark"], "host or mark"),
    "mark": Key(_Mark, "a number from 1 to 4294967295"),
    "policy_route_table": Key(_Table, "a number from 1 to 4294967295, and not 253, 254 or 255", _text(_table)),
    "connmark": Key(bool, _TRUTH),
    # lock
    "lock": Key(Literal["off", "auto", "on"], "off, auto or on"),
    "lock_allow": Key(_Texts, "a list of networks like 10.0.0.0/8; not everything", _each(_network), is_list=True),
    # DNS
    "accept_dns": Key(bool, _TRUTH),
    "dns": Key(_Texts, "a list of IP addresses", _each(_address), is_list=True),
    "search": Key(_Texts, "a list of domain names", _each(_domain), is_list=True),
    "split_dns": Key(_Texts, "a list of domain names", _each(_domain), is_list=True),
    "dns_mode": Key(
        Literal["auto", "resolved", "resolvconf", "file", "off"], "auto, resolved, resolvconf, file or off"
    ),
    # life
    "reconnect_delay": Key(_Duration, f"{_DURATION_WORDS}, at most 24h", _between(0, _DAY_S)),
    "reconnect_max_delay": Key(_Duration, f"{_DURATION_WORDS}, from 1s to 24h", _between(1, _DAY_S)),
    "retries": Key(int | str, 'a number of retries, or "forever"', _retries),
    "once": Key(bool, _TRUTH),
    # privacy
    "privacy": Key(Literal["minimal", "full"], "minimal or full"),
}  # fmt: skip
"""Every key, in the order of the reference page."""
