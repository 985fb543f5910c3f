# SPDX-License-Identifier: Apache-2.0
"""The lock (kill switch): what may leave this host while a tunnel is wanted.

Layer: net. Runs in: the control thread. :func:`ruleset` is pure.

    off   there is none
    auto  a table that the process owns: nobody else can remove it, and it vanishes
          with the process
    on    a table that stays, over crash, restart and `cleanup`, until the tunnel ends
          as it should, or `sevpn unlock`

One table in the family inet, replaced as a whole in one transaction, so that there
is no moment without it. What leaves by an interface other than the tunnel's is
rejected, not dropped: programs fail at once. Let through are

    the tunnel's own sockets (their mark) to the addresses that are really dialled
    the tunnel's own look-ups (their mark) to the uplink's name servers, port 53
    DHCP and neighbour discovery of the uplink
    what the user allows: --lock-allow, --exclude, --lan, --exclude-uid, `bypass`; and
    with --connmark what came in by the tunnel and a DNAT rule of this host sends on

A program with CAP_NET_ADMIN can set the mark, and then reach those addresses; what is
sent by raw frames (AF_PACKET) passes no such filter.

For `on` the text and the addresses are stored, so that a unit can load them before
the network starts, and a start behind the lock needs no look-up.

Source: nft(8); docs/reference/lock.md.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from sevpn.errors import HostError
from sevpn.log import get_logger
from sevpn.net.marks import BYPASS_MARK
from sevpn.net.model import Address, Family, Network
from sevpn.net.nft import Nftables

__all__ = [
    "Allowed",
    "Lock",
    "LockMode",
    "locked_tunnels",
    "ruleset",
    "store_addresses",
    "stored_addresses",
    "table_name",
    "unlock",
]

log = get_logger(__name__)

LockMode: TypeAlias = Literal["off", "auto", "on"]
"""See the module."""

_PREFIX: Final = "sevpn_"
_STAGED: Final = ".new"
"""Behind the name of a file that is about to replace the one without."""

_MAX_STORED: Final = 1 << 20
_MAX_ELEMENTS: Final = 4096
_FAMILIES: Final[tuple[Family, ...]] = (4, 6)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may leave."""

    mark: int
    """The mark of the tunnel's own sockets."""

    tunnels: tuple[str, ...] = ()
    """The interfaces by which everything may leave: the TAP."""

    servers: tuple[Address, ...] = ()
    """Whom the tunnel's own sockets may talk to."""

    resolvers: tuple[Address, ...] = ()
    """Whom they may ask for names."""

    networks: tuple[Network, ...] = ()
    """Whom everybody may talk to."""

    uids: tuple[int, ...] = ()
    """Users whose programs may do as they like."""

    has_forwarded: bool = False
    """Whether connections that come in by the tunnel, and that a rule of this host then
    sends to another destination (DNAT), are handed on."""


def table_name(tunnel: str) -> str:
    """Return the name of a tunnel's table: letters, digits and `_` only, one for each name."""
    safe = re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found[0]):02x}", tunnel)
    return f"{_PREFIX}{safe}"


def ruleset(
    tunnel: str, allowed: Allowed, *, is_owned: bool, is_there: bool = False
) -> str:
    """Return the commands that put the tunnel's table in place of what there is of it.

    Args:
        tunnel: The tunnel's name.
        allowed: What may leave.
        is_owned: Whether the table is to vanish with the process that loads it.
        is_there: Whether there is one; counts for an owned table only, which the
            kernel does not take where it has just been made without an owner.
    """
    name = table_name(tunnel)
    lines = [
        # Deleting it would fail where there is none.
        *([] if is_owned else [f"table inet {name}"]),
        *([f"delete table inet {name}"] if is_there or not is_owned else []),
        f"table inet {name} {{",
        *(["flags owner"] if is_owned else []),
        *_sets(allowed),
        "counter blocked {",
        "}",
        "chain guard {",
        'oifname "lo" accept',
        "oifname @tunnels accept",
        f"meta mark {allowed.mark:#x} ip daddr @servers4 accept",
        f"meta mark {allowed.mark:#x} ip6 daddr @servers6 accept",
        f"meta mark {allowed.mark:#x} meta l4proto {{ tcp, udp }} th dport 53 ip daddr @resolvers4 accept",
        f"meta mark {allowed.mark:#x} meta l4proto {{ tcp, udp }} th dport 53 ip6 daddr @resolvers6 accept",
        "ip daddr @allowed4 accept",
        "ip6 daddr @allowed6 accept",
        f"meta mark {BYPASS_MARK:#x} accept",
        *(f"meta skuid {uid} accept" for uid in allowed.uids),
        "udp sport 68 udp dport 67 accept",
        "udp sport 546 udp dport 547 accept",
        f"ip6 daddr {{ fe80::/10, ff02::/16 }} icmpv6 type {{ {_NEIGHBOURS} }} accept",
        *(
            f"ip6 daddr @{whom}6 icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept"
            for whom in ("servers", "resolvers")
        ),
        'counter name "blocked"',
        "reject with icmpx type admin-prohibited",
        "}",
        "chain out {",
        "type filter hook output priority filter - 10; policy drop;",
        "jump guard",
        "}",
        "chain routed {",
        "type filter hook forward priority filter - 10; policy drop;",
        "oifname @tunnels accept",
        "iifname @tunnels ct state established,related accept",
        *(["iifname @tunnels ct status dnat accept"] if allowed.has_forwarded else []),
        "ip daddr @allowed4 accept",
        "ip6 daddr @allowed6 accept",
        "ip saddr @allowed4 ct state established,related accept",
        "ip6 saddr @allowed6 ct state established,related accept",
        f"meta mark {BYPASS_MARK:#x} accept",
        'counter name "blocked"',
        "reject with icmpx type admin-prohibited",
        "}",
        "}",
    ]
    return "\n".join(lines) + "\n"


_NEIGHBOURS: Final = (
    "nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report"
)


def _sets(allowed: Allowed) -> list[str]:
    lines = [
        "set tunnels {",
        "type ifname",
        *_elements(f'"{d}"' for d in allowed.tunnels),
        "}",
    ]
    for family in _FAMILIES:
        kind = "ipv4_addr" if family == 4 else "ipv6_addr"
        for name, addresses in (
            ("servers", allowed.servers),
            ("resolvers", allowed.resolvers),
        ):
            members = (_plain(a) for a in addresses if a.version == family)
            lines += [
                f"set {name}{family} {{",
                f"type {kind}",
                *_elements(members),
                "}",
            ]
        lines += [
            f"set allowed{family} {{",
            f"type {kind}",
            "flags interval",
            *_elements(_without_overlaps(allowed.networks, family)),
            "}",
        ]
    return lines


def _without_overlaps(networks: Iterable[Network], family: Family) -> list[str]:
    """Return the networks of a family as texts; an interval set takes no overlaps."""
    if family == 4:
        fours = (net for net in networks if isinstance(net, IPv4Network))
        return [str(net) for net in collapse_addresses(fours)]
    sixes = (net for net in networks if isinstance(net, IPv6Network))
    return [str(net) for net in collapse_addresses(sixes)]


def _elements(members: Iterable[str]) -> list[str]:
    unique = list(dict.fromkeys(members))[:_MAX_ELEMENTS]
    return [f"elements = {{ {', '.join(unique)} }}"] if unique else []


def _plain(address: Address) -> str:
    """Write *address* without a zone, which a set has no room for."""
    return str(type(address)(int(address)))


class Lock:
    """The lock of one tunnel.

    Args:
        mode: `auto` or `on`; with `off` all methods do nothing.
        tunnel: The tunnel's name.
        store: Where the text is stored with `on`; `None`: nowhere.
        nftables: The packet filter.
        checkpoint: Called before each step with a line about it, for tests that
            crash there.
    """

    def __init__(
        self,
        mode: LockMode,
        tunnel: str,
        *,
        store: Path | None = None,
        nftables: Nftables | None = None,
        checkpoint: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._mode = mode
        self._tunnel = tunnel
        self._store = store
        self._nftables = Nftables() if nftables is None else nftables
        self._checkpoint = checkpoint
        self._held: Allowed | None = None
        self._listing: str | None = None

    @property
    def is_on(self) -> bool:
        """Whether there is to be a lock at all."""
        return self._mode != "off"

    @property
    def is_held(self) -> bool:
        """Whether it was loaded and not lifted, nor removed without a way to load it again."""
        return self._listing is not None

    def hold(self, allowed: Allowed) -> bool:
        """Let nothing leave but *allowed*; replaces what was held.

        Returns:
            Whether that was a change.

        Raises:
            HostError: The packet filter refused: what was held before still is.
        """
        if not self.is_on or (self.is_held and allowed == self._held):
            return False
        self._load(allowed)
        return True

    def _load(self, allowed: Allowed) -> None:
        is_owned = self._mode == "auto"
        name = table_name(self._tunnel)
        is_there = self._nftables.has_table(name)
        text = ruleset(
            self._tunnel, allowed, is_owned=is_owned, is_there=is_owned and is_there
        )
        self._checkpoint("stage the lock")
        staged = self._stage(text)
        try:
            self._checkpoint("load the lock")
            self._nftables.run(text)
        except BaseException:
            if staged is not None:
                staged.unlink(missing_ok=True)
            raise
        if staged is not None:
            self._checkpoint("store the lock")
            self._put_in_place(staged, was_there=is_there)
        if is_owned and self._store is not None:
            # What an earlier run with `on` has stored would hold after a reboot.
            _forget(self._store, self._tunnel, keeps_addresses=True)
        self._held = allowed
        self._listing = self._nftables.listing(name)

    def mend(self) -> bool:
        """Load it again if somebody has removed or changed it.

        Returns:
            Whether that was so.

        Raises:
            HostError: The packet filter refused; call again later.
        """
        held = self._held
        if held is None:
            return False
        # A table that somebody has emptied is there, and holds nothing.
        listing = self._nftables.listing(table_name(self._tunnel))
        if listing is not None and listing == self._listing:
            return False
        self._listing = None
        self._load(held)
        return True

    def refuse_left_over(self) -> None:
        """Refuse to start without a lock behind one that an earlier run has left.

        Raises:
            HostError: There is one.
        """
        if self._mode != "off" or self._tunnel not in _stored(self._store):
            return
        if self._nftables.has_table(table_name(self._tunnel)):
            raise HostError(
                f"the lock of an earlier run of {self._tunnel!r} holds: start it with --lock on, or lift it with "
                "`sevpn unlock`",
                operation="lock",
            )

    def held_by_others(self, tunnels: Iterable[str]) -> list[str]:
        """Return whose locks hold, too, of *tunnels* and of those that are stored.

        Raises:
            HostError: There is no packet filter, although somebody has stored a lock.
        """
        names = {*tunnels, *_stored(self._store)} - {self._tunnel}
        return [
            name for name in sorted(names) if self._nftables.has_table(table_name(name))
        ]

    def lift(self) -> None:
        """Let everything leave again; safe to call again.

        Raises:
            HostError: The packet filter refused.
        """
        if self._held is None:
            return
        name = table_name(self._tunnel)
        self._checkpoint("lift the lock")
        if self._nftables.has_table(name):
            self._nftables.run(f"delete table inet {name}")
        self._held = self._listing = None

    def close(self) -> None:
        """Let go without lifting; a table of `auto` vanishes. Safe to call again."""
        self._nftables.close()

    def _stage(self, text: str) -> Path | None:
        """Write *text* beside what is stored, and return where; `None`: it is not stored.

        Raises:
            HostError: It cannot be written, and nothing is held yet. Later on, what may
                leave now counts for more than what will after a reboot.
        """
        if self._mode != "on" or self._store is None:
            return None
        try:
            return _write_beside(self._store / f"{self._tunnel}.nft", text)
        except OSError as error:
            self._not_stored(error)
            return None

    def _put_in_place(self, staged: Path, *, was_there: bool) -> None:
        """Make what was staged the stored text; likewise, and then no table is left that was not there."""
        try:
            staged.replace(staged.with_suffix(""))
        except OSError as error:
            with contextlib.suppress(OSError):
                staged.unlink()
            if self._held is None and not was_there:
                self._nftables.run(f"delete table inet {table_name(self._tunnel)}")
            self._not_stored(error)

    def _not_stored(self, error: OSError) -> None:
        if self._held is not None:
            log.error("the lock is not kept for a reboot", cause=error)
            return
        raise HostError(
            f"cannot write below {self._store}: {error.strerror}; --lock on needs it, to hold after a reboot",
            operation="store-lock",
        ) from error


def _write_beside(path: Path, text: str) -> Path:
    """Write *text* to the file that is to replace *path*, and return it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(path.name + _STAGED)
    try:
        with new.open("w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    return new


def _stored(store: Path | None) -> list[str]:
    """Return the tunnels whose lock is stored, or was about to be when its process died."""
    if store is None:
        return []
    with contextlib.suppress(OSError):
        names = [path.name.removesuffix(_STAGED) for path in store.glob("*.nft*")]
        return sorted({name.removesuffix(".nft") for name in names})
    return []


def _forget(store: Path, tunnel: str, *, keeps_addresses: bool = False) -> bool:
    """Delete what is stored of a lock, and say whether there was a text."""
    found = False
    for ending in ("nft", f"nft{_STAGED}"):
        with contextlib.suppress(OSError):
            (store / f"{tunnel}.{ending}").unlink()
            found = True
    if not keeps_addresses:
        with contextlib.suppress(OSError):
            (store / f"{tunnel}.json").unlink()
    with contextlib.suppress(OSError):
        store.rmdir()
    return found


# --- the addresses of names, for a start behind the lock -----------------------------


def store_addresses(
    store: Path, tunnel: str, known: Mapping[str, Sequence[Address]]
) -> None:
    """Remember what names resolved to; a folder that cannot be written is no error."""
    texts = {
        name: [_plain(address) for address in found] for name, found in known.items()
    }
    with contextlib.suppress(OSError):
        path = store / f"{tunnel}.json"
        _write_beside(path, msgspec.json.encode(texts).decode()).replace(path)


def stored_addresses(store: Path, tunnel: str) -> dict[str, list[Address]]:
    """Return what :func:`store_addresses` remembered; nothing where nothing can be read."""
    try:
        with (store / f"{tunnel}.json").open("rb") as file:
            data = file.read(_MAX_STORED)
        texts = msgspec.json.decode(data, type=dict[str, list[str]])
        return {
            name: [ip_address(text) for text in found] for name, found in texts.items()
        }
    except (OSError, ValueError, msgspec.MsgspecError):
        return {}


# --- unlock ----------------------------------------------------------------------


def locked_tunnels(nftables: Nftables) -> list[str]:
    """Return the names of the tables of locks that are there.

    Raises:
        HostError: There is no packet filter.
    """
    return [name for name in nftables.tables() if name.startswith(_PREFIX)]


def unlock(
    tables: Iterable[str], nftables: Nftables, store: Path, *, tunnel: str | None = None
) -> list[str]:
    """Lift locks that no process holds.

    Args:
        tables: The tables to remove.
        nftables: The packet filter.
        store: Where the texts are stored.
        tunnel: Whose lock it is; `None`: all that are stored.

    Returns:
        A line for each.

    Raises:
        HostError: The packet filter refused.
    """
    done: list[str] = []
    for table in tables:
        nftables.run(f"delete table inet {table}")
        done.append(f"nft delete table inet {table}")
    names = _stored(store) if tunnel is None else [tunnel]
    done += [f"rm {store / name}.nft" for name in names if _forget(store, name)]
    return done
