# SPDX-License-Identifier: Apache-2.0
"""An account of the official client, and the profile that means the same.

Layer: config. Runs in: any thread. Looks at nothing outside its arguments.

    .vpn file ──cfgtext──> Folder ──import_account──> keys, secret files, rest
    profile + rest ──export_account──> Folder ──cfgtext──> .vpn file

What a profile has no key for is the rest. It is kept beside the profile, so that an
export gives back what the import was given. What would make the tunnel behave in
another way than the account did is told in a sentence.

Source: docs/reference/vpn-files.md; SoftEtherVPN Client.c (CiAccountToCfg,
CiLoadClientOption, CiLoadClientAuth).
"""

from __future__ import annotations

import base64
import hashlib
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sevpn.config.cfgtext import Folder, Number64, Value
from sevpn.config.obscure import obscure, reveal
from sevpn.config.proxy import ProxyAddress
from sevpn.config.savedsecret import IMPORTED
from sevpn.config.secret import HASH_SIZE, Secret
from sevpn.config.target import MAX_NAME_SIZE
from sevpn.errors import ConfigError

if TYPE_CHECKING:
    from sevpn.config.profile import Settings

__all__ = [
    "ExportSecrets",
    "Imported",
    "account_folders",
    "export_account",
    "import_account",
    "name_accounts",
    "profile_name",
]

FOREVER: Final = 4294967295
"""Of `NumRetry`: without end."""

_ANONYMOUS, _PASSWORD, _PLAIN, _CERTIFICATE, _SMART_CARD, _ENGINE = range(6)
_DIRECT = 0
_PROXIES: Final = {1: "http", 2: "socks4", 3: "socks5"}

_NO_HASH: Final = bytes(HASH_SIZE)
"""Stands for a password that was not saved."""

_TCP_HINTS: Final = frozenset({"tcp", "disable", "disabled", "no", "none"})
"""What stands behind a server's name to keep the official client from going through NATs."""

_UNBOUND: Final = frozenset({"", "::", "0.0.0.0"})  # noqa: S104 - a value of a file

_MAX_RETRY_S: Final = 300
_MIN_RETRY_S: Final = 5

# What every account has and no tunnel of ours differs by.
_SILENT: Final = frozenset(
    {
        "accountname", "additionalconnectioninterval", "adddefaultca", "bindlocalip", "bindlocalport",
        "connectiondisconnectspan", "createdatetime", "customhttpheader", "devicename", "disableqos",
        "hidenicinfowindow", "hidestatuswindow", "lastconnectdatetime", "noroutingtracking",
        "notls1", "portudp", "proxyname", "proxypassword", "proxyport", "proxyusername", "retryonservercert",
        "servercert", "checkservercert", "shortcutkey", "startupaccount", "updatedatetime", "useencrypt",
        "requirebridgeroutingmode", "requiremonitormode",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Imported:
    """What an account becomes."""

    name: str
    """The profile's name."""

    keys: Mapping[str, object]
    """Its keys, as TOML has them."""

    secrets: Mapping[str, Secret]
    """Files to write beside it, by their names; the keys refer to them."""

    rest: Folder
    """What it has no key for."""

    notices: tuple[str, ...]
    """What is other than it was, one sentence each, with what to do."""


@dataclass(frozen=True, slots=True)
class ExportSecrets:
    """What an export may tell; `None`: left out."""

    password_hash: bytes | None = None
    """For a login by password: the digest."""

    password: Secret | None = None
    """For a plain login: the password."""

    certificate: bytes | None = field(default=None, repr=False)
    """For a login by certificate: it (DER)."""

    key: bytes | None = field(default=None, repr=False)
    """Its private key (DER, PKCS #1), which stands in the file in clear."""

    proxy_password: Secret | None = None
    """For a proxy that knows us."""

    has_kept: bool = False
    """Whether secrets that the profile has no key for, and an import kept, are told, too."""


def account_folders(root: Folder) -> list[Folder]:
    """Return the accounts of a file: the one of an export, or all of a client's own configuration.

    Raises:
        ConfigError: There is none. The text begins with a verb.
    """
    if root.folder("ClientOption") is not None:
        return [root]
    database = root.folder("AccountDatabase")
    found = [] if database is None else [one for _, one in database.folders.values()]
    accounts = [one for one in found if one.folder("ClientOption") is not None]
    if not accounts:
        raise ConfigError(
            "has no account: neither ClientOption nor AccountDatabase is in it"
        )
    return accounts


def profile_name(text: str) -> str:
    """Return the name of an account as a profile can bear it."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-_.")[:MAX_NAME_SIZE]
    return plain or "imported"


def name_accounts(accounts: Sequence[Folder]) -> list[tuple[str, str]]:
    """Return of each account what it is called, and the name of its profile, unlike all others.

    The first of several that would bear one name has it; a number follows it for the others.
    """
    labels = [_label_of(account) for account in accounts]
    natural = [profile_name(label) for label in labels]
    taken: set[str] = set()
    names: list[str] = []
    for name in natural:
        number, free = 1, name
        while free in taken or (number > 1 and free in natural):
            number += 1
            free = f"{name[: MAX_NAME_SIZE - 1 - len(str(number))]}-{number}"
        taken.add(free)
        names.append(free)
    return list(zip(labels, names, strict=True))


def _label_of(account: Folder) -> str:
    option = account.folder("ClientOption") or Folder()
    for name in ("AccountName", "Hostname"):
        found = option.values.get(name.lower())
        if found is not None and isinstance(found[1], str) and found[1]:
            return found[1]
    return ""


# --- import ------------------------------------------------------------------


class _Reading:
    """One account while it is being read: values are taken out, the rest stays."""

    def __init__(self, account: Folder, name: str | None) -> None:
        option, auth = account.folder("ClientOption"), account.folder("ClientAuth")
        if option is None or auth is None:
            raise ConfigError(
                "has an account without ClientOption or ClientAuth: it was cut"
            )
        self.account, self.option, self.auth = account, option, auth
        self.name = name or profile_name(_label_of(account))
        self.keys: dict[str, object] = {}
        self.secrets: dict[str, Secret] = {}
        self.notices: list[str] = []

    def text(self, name: str, *, remove: bool = True) -> str:
        found = self._of(self.option, name, str, remove=remove)
        return found if isinstance(found, str) else ""

    def number(self, name: str, default: int, *, remove: bool = True) -> int:
        found = self._of(self.option, name, int, remove=remove)
        return found if isinstance(found, int) else default

    def truth(self, name: str, *, default: bool = False, remove: bool = True) -> bool:
        found = self._of(self.option, name, bool, remove=remove)
        return found if isinstance(found, bool) else default

    def octets(self, folder: Folder, name: str, *, remove: bool = True) -> bytes:
        found = self._of(folder, name, bytes, remove=remove)
        return found if isinstance(found, bytes) else b""

    @staticmethod
    def _of(
        folder: Folder, name: str, kind: type[Value], *, remove: bool
    ) -> Value | None:
        found = folder.take(name, kind)
        if found is not None and not remove:
            folder.set(name, found)
        return found

    def keep_secret(self, suffix: str, text: Secret) -> str:
        """Have a secret file written, and return its name."""
        file = f"{self.name}.{suffix}"
        self.secrets[file] = text
        return file

    def note(self, sentence: str) -> None:
        self.notices.append(sentence)


def import_account(account: Folder, *, name: str | None = None) -> Imported:
    """Return the profile of an account.

    Args:
        account: One of :func:`account_folders`; what is understood is taken out of it.
        name: What the profile is called; `None`: after the account.

    Raises:
        ConfigError: It cannot be meant, or logs in by a way that sevpn does not know.
            The text begins with a verb.
    """
    reading = _Reading(account, name)
    _read_target(reading)
    _read_login(reading)
    _read_trust(reading)
    _read_transport(reading)
    _read_proxy(reading)
    _read_life(reading)
    _tell_of_the_rest(reading)
    return Imported(
        reading.name,
        reading.keys,
        reading.secrets,
        reading.account,
        tuple(reading.notices),
    )


def _read_target(reading: _Reading) -> None:
    # Behind a slash stands how the official client is to find it; it is not part of the name.
    host, _, hint = reading.text("Hostname").partition("/")
    if not host:
        raise ConfigError("has an account without a server")
    if hint:
        reading.option.set("Hostname", f"/{hint}")
        if hint.lower() not in _TCP_HINTS:
            reading.note(
                f"the account names a way to its server through NATs (the hint {hint[:64]!r} behind its name), "
                "which sevpn does not go: it is kept for an export, and TCP to the server itself is used"
            )
    reading.keys["host"] = host.removeprefix("[").removesuffix("]")
    reading.keys["port"] = reading.number("Port", 443)
    hub = reading.text("HubName")
    if hub:
        reading.keys["hub"] = hub
    if reading.number("PortUDP", 0, remove=False):
        reading.note(
            "the account reaches its server over UDP alone (PortUDP), which sevpn does not do: TCP is used"
        )


def _read_login(reading: _Reading) -> None:
    found = reading.auth.take("AuthType", int)
    kind = found if isinstance(found, int) else _ANONYMOUS
    user = reading.auth.take("Username", str)
    if isinstance(user, str) and user:
        reading.keys["user"] = user
    elif kind != _ANONYMOUS:
        reading.note(
            "the account names no user: "
            f"add 'user' with `sevpn profile edit {reading.name}`, or give --user to `sevpn up`"
        )
    match kind:
        case 0:
            reading.keys["auth"] = "anonymous"
        case 1:
            if "user" not in reading.keys:
                # Else the login would be anonymous until there is one, and be refused.
                reading.keys["auth"] = "password"
            _read_hash(reading)
        case 2:
            _read_plain(reading)
        case 3:
            _read_certificate(reading)
        case 4 | 5:
            raise ConfigError(
                "logs in with a smart card or an OpenSSL engine, which sevpn does not do: "
                "export the certificate and its key to files, if the card allows it"
            )
        case _:
            raise ConfigError(f"logs in by an unknown way ({kind})")


def _read_hash(reading: _Reading) -> None:
    digest = reading.octets(reading.auth, "HashedPassword")
    if digest not in {b"", _NO_HASH}:
        if len(digest) != HASH_SIZE:
            raise ConfigError(
                "holds a password hash of a wrong size: it was changed by hand"
            )
        file = reading.keep_secret(IMPORTED, Secret(digest.hex()))
        reading.keys["password"] = f"hash:file:{file}"
        return
    reading.note("the account holds no password: it will be asked for")


def _read_plain(reading: _Reading) -> None:
    reading.keys["auth"] = "plain"
    hidden = reading.octets(reading.auth, "EncryptedPassword")
    if not hidden:
        reading.note("the account holds no password: it will be asked for")
        return
    reading.keys["password"] = f"file:{reading.keep_secret(IMPORTED, reveal(hidden))}"


def _read_certificate(reading: _Reading) -> None:
    certificate = reading.octets(reading.auth, "ClientCert")
    key = reading.octets(reading.auth, "ClientKey")
    if not certificate or not key:
        raise ConfigError(
            "logs in with a certificate, and does not hold it and its key"
        )
    label = "RSA PRIVATE KEY" if _is_pkcs1(key) else "PRIVATE KEY"
    reading.keys["auth"] = "certificate"
    reading.keys["cert"] = reading.keep_secret("crt", _pem("CERTIFICATE", certificate))
    file = reading.keep_secret("key", _pem(label, key))
    reading.keys["key"] = f"file:{file}"


def _pem(label: str, data: bytes) -> Secret:
    lines = textwrap.wrap(base64.b64encode(data).decode("ascii"), 64)
    return Secret(
        "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])
    )


def _is_pkcs1(key: bytes) -> bool:
    """Whether a private key stands alone: a number follows the version, not an algorithm."""
    inner = key[2 + (key[1] & 0x7F if len(key) > 1 and key[1] & 0x80 else 0) :]
    return inner[:3] == b"\x02\x01\x00" and inner[3:4] == b"\x02"


def _read_trust(reading: _Reading) -> None:
    account = reading.account
    check = account.take("CheckServerCert", bool)
    certificate = reading.octets(account, "ServerCert", remove=False)
    if isinstance(check, bool):
        account.set("CheckServerCert", check)
    if certificate and check:
        reading.keys["pin"] = [f"sha256:{hashlib.sha256(certificate).hexdigest()}"]
    elif not check:
        reading.note(
            "the account did not verify its server, and sevpn does: "
            "if its certificate is not signed by a known CA, add its fingerprint with 'pin'"
        )


def _read_transport(reading: _Reading) -> None:
    count = reading.number("MaxConnection", 1)
    if not 1 <= count <= 32:
        raise ConfigError("asks for a number of connections that is not from 1 to 32")
    reading.keys["connections"] = count
    if reading.truth("HalfConnection"):
        reading.keys["half_duplex"] = True
    if reading.truth("UseCompress"):
        reading.keys["compress"] = True
    if reading.truth("NoUdpAcceleration"):
        reading.keys["udp"] = "off"
    if not reading.truth("UseEncrypt", default=True, remove=False):
        reading.note("the account did not encrypt its traffic; sevpn always does")
    for name, instead in (
        ("RequireBridgeRoutingMode", "sevpn bridge"),
        ("RequireMonitorMode", "sevpn capture --monitor"),
    ):
        if reading.truth(name, remove=False):
            reading.note(
                f"the account joins its hub in another way ({name}): use `{instead}`"
            )
    if reading.text("BindLocalIP", remove=False) not in _UNBOUND:
        reading.note(
            "the account binds its connections to an address (BindLocalIP); sevpn leaves that to the routes"
        )


def _read_proxy(reading: _Reading) -> None:
    kind = reading.number("ProxyType", _DIRECT)
    if kind == _DIRECT:
        return
    scheme, host = _PROXIES.get(kind), reading.text("ProxyName")
    if scheme is None or not host:
        raise ConfigError(
            f"uses a proxy of an unknown kind ({kind}), or one without a name"
        )
    port, user = reading.number("ProxyPort", 0), reading.text("ProxyUsername")
    place = f"[{host}]" if ":" in host else host
    who = f"{_quoted(user)}@" if user else ""
    reading.keys["proxy"] = f"{scheme}://{who}{place}" + (f":{port}" if port else "")
    hidden = reading.octets(reading.option, "ProxyPassword", remove=bool(user))
    if hidden and user:
        reading.keys["proxy_password"] = (
            f"file:{reading.keep_secret('proxy-password', reveal(hidden))}"
        )
    elif hidden:
        reading.note(
            "the account has a password for its proxy and no user, so it is not shown to the proxy: "
            "it is kept for an export; if the proxy asks, name the user in 'proxy' and add 'proxy_password'"
        )
    if reading.text("CustomHttpHeader", remove=False):
        reading.note(
            "the account sends headers of its own to the proxy (CustomHttpHeader), which sevpn does not"
        )


def _quoted(user: str) -> str:
    return re.sub(
        r"[^A-Za-z0-9._~-]",
        lambda found: "".join(f"%{octet:02X}" for octet in found[0].encode()),
        user,
    )


def _read_life(reading: _Reading) -> None:
    count = reading.number("NumRetry", FOREVER)
    reading.keys["retries"] = "forever" if count == FOREVER else count
    interval_s = min(
        max(reading.number("RetryInterval", 15), _MIN_RETRY_S), _MAX_RETRY_S
    )
    reading.keys["reconnect_delay"] = f"{interval_s}s"
    if interval_s > 60:
        reading.keys["reconnect_max_delay"] = f"{interval_s}s"


def _tell_of_the_rest(reading: _Reading) -> None:
    names = sorted(
        name
        for name in reading.account.names()
        if name.rpartition("/")[2].lower() not in _SILENT
        and not name.startswith("ClientOption/Hostname")
    )
    if names:
        shown = ", ".join(repr(name)[1:-1][:64] for name in names[:8])
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        reading.note(f"kept for an export, without a meaning here: {shown}{more}")


# --- export ------------------------------------------------------------------


def export_account(
    settings: Settings, *, name: str, secrets: ExportSecrets, rest: Folder | None
) -> tuple[Folder, tuple[str, ...]]:
    """Return an account that means what a profile means, and what it cannot say.

    Args:
        settings: The profile.
        name: The account's name, unless *rest* has one.
        secrets: What is told.
        rest: What an import had no key for.
    """
    root = Folder() if rest is None else rest
    notices: list[str] = []
    for key in ("CreateDateTime", "LastConnectDateTime", "UpdateDateTime"):
        _default(root, key, Number64(0))
    _default(root, "StartupAccount", value=False)
    _default(root, "RetryOnServerCert", value=False)
    root.set("CheckServerCert", _checks_server(root, settings))
    if settings.pin and not _holds_pinned(root, settings.pin):
        root.take("ServerCert", bytes)
        notices.append(
            "the pinned certificate itself is not known, only its fingerprint: "
            "give it to the official client with AccountServerCertSet, or it will trust signed ones only"
        )
    _write_option(root.open("ClientOption"), settings, name, secrets)
    _write_auth(root.open("ClientAuth"), settings, secrets, notices)
    lost = [
        key
        for key, is_set in (
            ("address", bool(settings.address)),
            ("accept_default_gateway", settings.accept_default_gateway),
            ("accept_static_routes", settings.accept_static_routes),
            ("accept_dns", settings.accept_dns or bool(settings.dns)),
        )
        if is_set
    ]
    if lost:
        notices.append(
            f"an account has no place for {', '.join(lost)}: the official client leaves addresses, routes and names to others"
        )
    return root, tuple(notices)


def _checks_server(root: Folder, settings: Settings) -> bool:
    # An account that did not verify its server, and whose profile was given nothing to
    # verify it by, is given back as it was; the import told of it.
    was = root.values.get("checkservercert", ("", True))[1]
    return not settings.insecure and (was is True or bool(settings.pin or settings.ca))


def _default(folder: Folder, name: str, value: Value) -> None:
    if name.lower() not in folder.values:
        folder.set(name, value)


def _holds_pinned(root: Folder, pins: tuple[str, ...]) -> bool:
    found = root.values.get("servercert")
    if found is None or not isinstance(found[1], bytes):
        return False
    return f"sha256:{hashlib.sha256(found[1]).hexdigest()}" in pins


def _write_option(
    option: Folder, settings: Settings, name: str, secrets: ExportSecrets
) -> None:
    hint = option.take("Hostname", str)
    option.set("Hostname", settings.host + (hint if isinstance(hint, str) else ""))
    option.set("Port", settings.port)
    option.set("HubName", settings.hub)
    option.set("MaxConnection", settings.connections)
    option.set("HalfConnection", settings.half_duplex)
    option.set("UseCompress", settings.compress)
    option.set("NoUdpAcceleration", settings.udp == "off")
    forever = settings.retries is None or settings.retries == "forever"
    option.set("NumRetry", FOREVER if forever else int(settings.retries or 0))
    delay_s = (
        15 if settings.reconnect_delay is None else round(settings.reconnect_delay)
    )
    option.set("RetryInterval", min(max(delay_s, _MIN_RETRY_S), _MAX_RETRY_S))
    _write_proxy(option, settings, secrets)
    _default(option, "AccountName", name)
    _default(option, "DeviceName", "VPN")
    _default(option, "UseEncrypt", value=True)
    _default(option, "AdditionalConnectionInterval", 1)
    _default(option, "ConnectionDisconnectSpan", 0)
    _default(option, "PortUDP", 0)
    _default(option, "CustomHttpHeader", "")
    for key in (
        "HideStatusWindow",
        "HideNicInfoWindow",
        "RequireMonitorMode",
        "RequireBridgeRoutingMode",
        "DisableQoS",
        "NoRoutingTracking",
    ):
        _default(option, key, value=False)


def _write_proxy(option: Folder, settings: Settings, secrets: ExportSecrets) -> None:
    kinds = {scheme: number for number, scheme in _PROXIES.items()}
    proxy, secret = settings.proxy, secrets.proxy_password
    if not secrets.has_kept:
        option.take("ProxyPassword", bytes)
    if secret is not None:
        option.set("ProxyPassword", obscure(secret.reveal()))
    if isinstance(proxy, ProxyAddress):
        option.set("ProxyType", kinds[proxy.kind])
        option.set("ProxyName", proxy.host)
        option.set("ProxyPort", proxy.port)
        option.set("ProxyUsername", proxy.user)
    else:
        option.set("ProxyType", _DIRECT)
    # A proxy that an account does not use may be saved in it all the same.
    _default(option, "ProxyName", "")
    _default(option, "ProxyPort", 0)
    _default(option, "ProxyUsername", "")
    _default(option, "ProxyPassword", b"")


def _write_auth(
    auth: Folder, settings: Settings, secrets: ExportSecrets, notices: list[str]
) -> None:
    auth.set("Username", settings.user or "")
    match settings.login:
        case "anonymous":
            auth.set("AuthType", _ANONYMOUS)
        case "password":
            auth.set("AuthType", _PASSWORD)
            auth.set("HashedPassword", secrets.password_hash or _NO_HASH)
            if secrets.password_hash is None:
                notices.append(
                    "no password was exported: the official client will ask for it"
                )
        case "plain":
            auth.set("AuthType", _PLAIN)
            hidden = (
                b"" if secrets.password is None else obscure(secrets.password.reveal())
            )
            auth.set("EncryptedPassword", hidden)
            if not hidden:
                notices.append(
                    "no password was exported: the official client will ask for it"
                )
        case "certificate":
            auth.set("AuthType", _CERTIFICATE)
            auth.set("ClientCert", secrets.certificate or b"")
            auth.set("ClientKey", secrets.key or b"")
            if not (secrets.certificate and secrets.key):
                notices.append(
                    "certificate and key were not exported: give them to the official client by hand"
                )
