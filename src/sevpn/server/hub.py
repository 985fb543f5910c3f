# SPDX-License-Identifier: Apache-2.0
"""A hub: a learning Ethernet switch with rules, and the addresses it knows.

Layer: server. Runs in: the event loop; knows neither sockets nor the loop.

Whatever is plugged in is a :class:`Port`: a session, the virtual gateway, a TAP.
The life of the frames of one batch:

    forward() ─> bulk: TCP over IPv4 between addresses seen in this second ──> target
             └─> all others, frame by frame:
                 shape ─> DHCP rules ─> source MAC ─> source IP ─> destination ─> targets
             then each target gets its frames in one call

    forward_stretch() ─> runs of packets between addresses seen in this second ──> target
                     └─> all others, frame by frame, likewise

The bulk path asks two questions per frame, or per run of frames where the compiled
kernel finds those, both answered by what the long way round has found out for this
port. That knowledge is thrown away each second, and at once when a table changes, so
it can be neither stale nor keep an address alive.

A session in monitor mode gets a copy of each frame that got in, and nothing else; while
there is one, all frames go the long way round.

The hub polls each address it knows, from a MAC 00:AE:… of its own, and forgets
those that stay silent. Real hubs forget lazily, when a new address comes; this one
in time, which is the worst case of theirs.

Source: docs/reference/protocol-data.md#mac-table and after; SoftEtherVPN, Cedar/Hub.c, StorePacket().
"""

from __future__ import annotations

import abc
import contextlib
import functools
import hashlib
import struct
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from sevpn.dataplane.kernel.runs import Runs
from sevpn.dataplane.kernel.scan import Scanner
from sevpn.errors import RemoteProtocolError
from sevpn.server.policy import Policy
from sevpn.server.stretch import Stretch
from sevpn.wire.arp import ArpOperation, ArpPacket, encode_arp
from sevpn.wire.dhcpv4 import MessageType, decode_message
from sevpn.wire.ethernet import EtherType, Frame, MacAddress, encode_frame
from sevpn.wire.nd import NeighbourSolicitation, encode_nd

__all__ = ["FrameBytes", "Hub", "Port", "has_frame_shape"]

FrameBytes = bytes | memoryview
"""A whole Ethernet frame. A view's bytes never change, but it keeps the chunk alive
that it was received with: whoever wants to keep the frame copies it."""

_MAX_MACS: Final = 65536
_MAX_ADDRESSES: Final = 65536
_MAC_LIFE_S: Final = 600.0
_EXCLUSIVE_S: Final = 13.0
_POLLED_S: Final = 60.0
_MAX_POLLS: Final = 1024
_FRESH_S: Final = 1.0
_MAX_BACKLOG: Final = 4096

_BROADCAST: Final = b"\xff" * 6
_NOBODY: Final = bytes(6)
_IPV4: Final = b"\x08\x00"
_IPV6: Final = b"\x86\xdd"
_ARP: Final = b"\x08\x06"
_VLAN: Final = b"\x81\x00"
_UDP: Final = 17
_ANY: Final = bytes(4)
_ANY6: Final = bytes(16)
_IPV6_LIMIT: Final = 15

_KEYS: Final = struct.Struct("12s14x4s").unpack_from
"""Both MAC addresses of a frame, and the IPv4 source."""


class Port(abc.ABC):
    """Something that is plugged into a hub.

    Args:
        name: For people.
        policy: What it may do.
    """

    def __init__(self, name: str, policy: Policy) -> None:
        self.name = name
        """For people."""
        self.policy = policy
        """What it may do."""
        self.macs: set[bytes] = set()
        """The hub's: MAC keys learned from it."""
        self.addresses: set[bytes] = set()
        """The hub's: IP addresses learned from it or leased to it, packed."""
        self.routes: dict[bytes, Port] = {}
        """The hub's: both MAC addresses of a frame -> where it goes, for a second."""
        self.sources: set[bytes] = set()
        """The hub's: IP sources that may be used, for a second."""

    @abc.abstractmethod
    def deliver(self, frames: Sequence[FrameBytes]) -> None:
        """Take frames from the hub."""

    def deliver_stretch(self, stretch: Stretch) -> None:
        """Take frames from the hub that lie in a buffer, and be done with it at the end."""
        self.deliver(stretch.frames())


@dataclass(slots=True)
class _Mac:
    port: Port
    used_at: float


@dataclass(slots=True)
class _Address:
    port: Port
    mac: bytes
    used_at: float
    is_leased: bool


_Outboxes = dict[Port, list[FrameBytes]]
"""Frames that are ready to be delivered, in their order."""


class _Ready:
    """What goes from one stretch to the ports: for each of them in the order of the frames.

    Either frames of their own wait, or neighbours for one target, never both.
    """

    def __init__(self, stretch: Stretch) -> None:
        self._stretch = stretch
        self._outboxes: _Outboxes = {}
        self._target: Port | None = None
        self._first = 0
        self._end = 0

    def add(self, target: Port, first: int, end: int) -> None:
        """Add the frames from index *first* up to *end*."""
        if target is not self._target or first != self._end:
            self.deliver()
            self._target, self._first = target, first
        self._end = end

    def outboxes_behind(self) -> _Outboxes:
        """Return where frames of their own go, behind all that was added."""
        if self._target is not None:
            self.deliver()
        return self._outboxes

    def deliver(self) -> None:
        """Deliver what waits."""
        target, self._target = self._target, None
        if target is not None:
            target.deliver_stretch(self._stretch.part(self._first, self._end))
        if self._outboxes:
            outboxes, self._outboxes = self._outboxes, {}
            for port, frames in outboxes.items():
                port.deliver(frames)


class Hub:
    """The switch.

    Args:
        name: The hub's name; its own addresses derive from it.
        clock: Seconds on a monotonic clock.
        address_life_s: Seconds after which a silent learned address is forgotten.
        lease_life_s: Likewise, of an address from a DHCP ACK.
    """

    def __init__(
        self,
        name: str,
        *,
        clock: Callable[[], float],
        address_life_s: float = 60.0,
        lease_life_s: float = 300.0,
    ) -> None:
        digest = hashlib.sha256(name.upper().encode()).digest()
        self.mac = b"\x00\xae" + digest[:4]
        """The hub's own, from which it polls."""
        self.address = bytes((172, 31, 1 + digest[4] % 254, 1 + digest[5] % 254))
        """Likewise: 172.31.a.b."""
        self.drops: Counter[str] = Counter()
        """Frames dropped, by the rule that did it."""
        self.ports: list[Port] = []
        """What is plugged in."""
        self._monitors: list[Port] = []
        self._clock = clock
        self._address_life_s = address_life_s
        self._lease_life_s = lease_life_s
        self._macs: dict[bytes, _Mac] = {}
        self._addresses: dict[bytes, _Address] = {}
        self._swept_at = -_FRESH_S
        self._fresh_at = -_FRESH_S
        self._backlog: deque[tuple[Port, list[FrameBytes]]] = deque()
        self._is_forwarding = False

    # --- buffers --------------------------------------------------------------

    @functools.cached_property
    def scanner(self) -> Scanner:
        """The buffer that all connections of its sessions read into, one at a time."""
        return Scanner()

    @functools.cached_property
    def runs(self) -> Runs:
        """Finds runs, and makes batches of stretches: one for all ports."""
        return Runs()

    def encode(self, stretch: Stretch) -> memoryview:
        """Return batches of the frames, good until the next call."""
        data, starts, sizes = stretch.data, stretch.starts, stretch.sizes
        size = self.runs.encode(data, starts, sizes, stretch.first, stretch.count)
        return memoryview(self.runs.out)[:size]

    # --- ports ----------------------------------------------------------------

    def plug(self, port: Port) -> None:
        """Add a port."""
        self.ports.append(port)
        if port.policy.monitor_port:
            self._monitors.append(port)
        self._forget_routes()

    def unplug(self, port: Port) -> None:
        """Take a port away, with all that was learned from it."""
        if port not in self.ports:
            return
        self.ports.remove(port)
        if port in self._monitors:
            self._monitors.remove(port)
        for key in port.macs:
            self._macs.pop(key, None)
        for key in port.addresses:
            self._addresses.pop(key, None)
        port.macs.clear()
        port.addresses.clear()
        self._forget_routes()

    def mac_table(self) -> dict[MacAddress, Port]:
        """Return which MAC address is behind which port; those in VLANs are left out."""
        return {
            MacAddress(key): entry.port
            for key, entry in self._macs.items()
            if len(key) == 6
        }

    def address_table(self) -> dict[IPv4Address, Port]:
        """Return which IPv4 address is behind which port."""
        now = self._clock()
        return {
            IPv4Address(key): entry.port
            for key, entry in self._addresses.items()
            if len(key) == 4 and not self._is_expired(entry, now)
        }

    # --- frames ---------------------------------------------------------------

    def forward(
        self,
        source: Port,
        others: Iterable[FrameBytes],
        bulk: Sequence[FrameBytes] = (),
    ) -> None:
        """Take frames from a port and deliver them.

        A port may call this from its :meth:`Port.deliver`: such frames wait until
        the frames at hand have been delivered.

        Args:
            source: The port, plugged in.
            others: Frames of any kind, of at most 1600 bytes.
            bulk: Frames that are known to be TCP over untagged IPv4.
        """
        if self._is_forwarding:
            if len(self._backlog) < _MAX_BACKLOG:
                self._backlog.append((source, [*others, *bulk]))
            else:
                self.drops["backlog"] += 1
            return
        with self._turn():
            self._forward(source, others, bulk)

    def forward_stretch(self, source: Port, stretch: Stretch) -> None:
        """Take frames that lie in a buffer, which is the caller's again afterwards.

        Args:
            source: The port, plugged in.
            stretch: Frames of any kind.
        """
        if self._is_forwarding:
            self.forward(source, stretch.frames())
            return
        with self._turn():
            self._forward_stretch(source, stretch)

    @contextlib.contextmanager
    def _turn(self) -> Generator[None]:
        """Forward, and afterwards what was sent from within the deliveries."""
        self._is_forwarding = True
        try:
            yield
            while self._backlog:
                port, frames = self._backlog.popleft()
                if port in self.ports:
                    self._forward(port, frames, ())
        finally:
            self._is_forwarding = False

    def _forward(
        self, source: Port, others: Iterable[FrameBytes], bulk: Sequence[FrameBytes]
    ) -> None:
        now = self._freshened()
        outboxes: _Outboxes = {}
        last: Port | None = None
        outbox: list[FrameBytes] = []
        if self._monitors:  # who see only what is looked at
            others, bulk = [*bulk, *others], ()
        for frame in bulk:
            try:
                key, address = _KEYS(frame)
            except struct.error:  # shorter than an IPv4 header
                self.drops["malformed"] += 1
                continue
            target = source.routes.get(key)
            if target is None or address not in source.sources:
                self._forward_slowly(source, frame, now, outboxes)
                continue
            if target is not last:
                last = target
                outbox = outboxes.setdefault(target, [])
            outbox.append(frame)
        for frame in others:
            self._forward_slowly(source, frame, now, outboxes)
        for target, frames in outboxes.items():
            target.deliver(frames)

    def _forward_stretch(self, source: Port, stretch: Stretch) -> None:
        if self._monitors:
            self._forward(source, stretch.frames(), ())
            return
        now = self._freshened()
        ready = _Ready(stretch)
        data, starts, sizes = stretch.data, stretch.starts, stretch.sizes
        runs = self.runs.find(data, starts, sizes, stretch.first, stretch.count)
        for first, end, key, address in runs:
            for index in range(first, end):
                target = source.routes.get(key) if address in source.sources else None
                if target is not None:
                    ready.add(target, index, end)
                    break
                # Of a run that is not known yet, the first frame teaches what the rest needs.
                frame = stretch.frame(index)
                self._forward_slowly(source, frame, now, ready.outboxes_behind())
        ready.deliver()

    def _freshened(self) -> float:
        """Return what time it is; forget the routes of the last second."""
        now = self._clock()
        if now - self._fresh_at >= _FRESH_S:
            self._fresh_at = now
            self._forget_routes()
        return now

    def _forward_slowly(
        self,
        source: Port,
        frame: FrameBytes,
        now: float,
        outboxes: _Outboxes,
    ) -> None:
        whole = bytes(frame)
        reason = self._refuse(source, whole, now)
        if reason:
            self.drops[reason] += 1
            return
        self._snoop(whole, now)
        for monitor in self._monitors:
            outboxes.setdefault(monitor, []).append(whole)
        for target in self._targets(source, whole):
            outboxes.setdefault(target, []).append(whole)

    def _refuse(self, source: Port, frame: bytes, now: float) -> str:
        """Return why the frame does not get in, or nothing; learn from it if it does."""
        destination, sender, kind = frame[:6], frame[6:12], frame[12:14]
        if source.policy.monitor_port:
            return "monitor"
        if not has_frame_shape(frame) or sender == self.mac:
            return "malformed"
        reason = _filtered(source.policy, frame)
        if reason:
            return reason
        key = sender + frame[14:16] if kind == _VLAN else sender
        reason = self._learn_mac(source, key, now)
        if reason:
            return reason
        address = _source_address(frame)
        if address is not None:
            reason = self._learn_address(source, address, sender, now)
            if reason:
                return reason
            if kind != _ARP:
                source.sources.add(address)
        if destination == self.mac:
            return "to-hub"
        return ""

    def _targets(self, source: Port, frame: bytes) -> list[Port]:
        destination = frame[:6]
        key = destination + frame[14:16] if frame[12:14] == _VLAN else destination
        entry = None if destination[0] & 1 else self._macs.get(key)
        if entry is None:
            return [port for port in self.ports if self._may_reach(source, port, frame)]
        target = entry.port
        if not self._may_reach(source, target, frame):
            self.drops["same-port" if target is source else "policy"] += 1
            return []
        if frame[12:14] in (_IPV4, _IPV6) and not target.policy.dhcp_filter:
            source.routes[frame[:12]] = target
        return [target]

    def _may_reach(self, source: Port, target: Port, frame: bytes) -> bool:
        if target is source or target.policy.monitor_port:
            return False
        if source.policy.privacy_filter and target.policy.privacy_filter:
            return False
        if target.policy.dhcp_filter:
            ports = _udp_ports(frame)
            return ports is None or not {67, 68} & set(ports)
        return True

    # --- what is learned ------------------------------------------------------

    def _learn_mac(self, source: Port, key: bytes, now: float) -> str:
        entry = self._macs.get(key)
        if entry is not None and entry.port is source:
            entry.used_at = now
            return ""
        if (
            entry is not None
            and source.policy.check_mac
            and now - entry.used_at < _EXCLUSIVE_S
        ):
            return "check-mac"
        self._sweep_macs(now)
        limit = source.policy.mac_limit
        if limit is not None and len(source.macs) >= limit:
            return "mac-limit"
        if entry is None and len(self._macs) >= _MAX_MACS:
            return "mac-table-full"
        if entry is not None:
            entry.port.macs.discard(key)
        self._macs[key] = _Mac(source, now)
        source.macs.add(key)
        self._forget_routes()
        return ""

    def _sweep_macs(self, now: float) -> None:
        """Remove old entries; like real hubs, only when a new one comes, once a second."""
        if now - self._swept_at < _FRESH_S:
            return
        self._swept_at = now
        old = [
            key
            for key, entry in self._macs.items()
            if now - entry.used_at >= _MAC_LIFE_S
        ]
        for key in old:
            self._macs.pop(key).port.macs.discard(key)

    def _learn_address(
        self, source: Port, address: bytes, mac: bytes, now: float
    ) -> str:
        policy = source.policy
        # Both rules are about IPv4 alone.
        needs_lease = policy.dhcp_force and len(address) == 4
        is_exclusive = policy.check_ip and len(address) == 4
        entry = self._known(address, now)
        if entry is None:
            if needs_lease:
                return "dhcp-force"
            return self._add_address(source, address, mac, now)
        if entry.port is not source:
            if needs_lease:
                return "dhcp-force"
            if is_exclusive and now - entry.used_at < _EXCLUSIVE_S:
                return "check-ip"
            self._drop_address(address)
            return self._add_address(source, address, mac, now)
        entry.used_at = now
        entry.mac = mac
        return ""

    def _add_address(self, source: Port, address: bytes, mac: bytes, now: float) -> str:
        if not _is_private(address):
            return ""
        limit = source.policy.address_limit
        if len(address) == 16:
            limit = _IPV6_LIMIT if source.policy.no_routing else None
        if limit is not None:
            for known in tuple(source.addresses):
                self._known(known, now)
            if sum(len(known) == len(address) for known in source.addresses) >= limit:
                return "address-limit"
        if len(self._addresses) >= _MAX_ADDRESSES:
            return "address-table-full"
        self._addresses[address] = _Address(source, mac, now, is_leased=False)
        source.addresses.add(address)
        return ""

    def _known(self, address: bytes, now: float) -> _Address | None:
        """Return an address's entry, unless it is expired, which removes it."""
        entry = self._addresses.get(address)
        if entry is not None and self._is_expired(entry, now):
            self._drop_address(address)
            return None
        return entry

    def _is_expired(self, entry: _Address, now: float) -> bool:
        life = self._lease_life_s if entry.is_leased else self._address_life_s
        return now - entry.used_at >= life

    def _drop_address(self, address: bytes) -> None:
        entry = self._addresses.pop(address)
        entry.port.addresses.discard(address)
        self._forget_routes()

    def _snoop(self, frame: bytes, now: float) -> None:
        """Note what a DHCP ACK gives to whom, from whichever port it comes."""
        ports = _udp_ports(frame)
        if ports is None or ports[0] != 67 or ports[1] != 68:
            return
        try:
            message = decode_message(frame[14 + 4 * (frame[14] & 15) + 8 :])
        except RemoteProtocolError:
            return
        if message.message_type is not MessageType.ACK or not int(message.yiaddr):
            return
        owner = self._macs.get(message.chaddr.octets)
        if owner is None:
            return
        address = message.yiaddr.packed
        if address in self._addresses:
            self._drop_address(address)
        if len(self._addresses) < _MAX_ADDRESSES:
            self._addresses[address] = _Address(
                owner.port, message.chaddr.octets, now, is_leased=True
            )
            owner.port.addresses.add(address)

    def _forget_routes(self) -> None:
        for port in self.ports:
            port.routes.clear()
            port.sources.clear()

    # --- the hub's own traffic -------------------------------------------------

    def poll(self) -> None:
        """Ask each address used within a minute whether it is still there."""
        now = self._clock()
        questions: dict[Port, list[FrameBytes]] = {}
        for address, entry in tuple(self._addresses.items())[:_MAX_POLLS]:
            if self._known(address, now) is None:
                continue
            if now - entry.used_at < _POLLED_S:
                frame = self._question(address, MacAddress(entry.mac))
                questions.setdefault(entry.port, []).append(frame)
        for port, frames in questions.items():
            port.deliver(frames)

    def _question(self, address: bytes, mac: MacAddress) -> bytes:
        own = MacAddress(self.mac)
        if len(address) == 4:
            kind = EtherType.ARP
            payload = encode_arp(
                ArpPacket(
                    operation=ArpOperation.REQUEST,
                    sender_mac=own,
                    sender_ip=IPv4Address(self.address),
                    target_mac=MacAddress(_NOBODY),
                    target_ip=IPv4Address(address),
                )
            )
        else:
            kind = EtherType.IPV6
            target = IPv6Address(address)
            source = _link_local(self.mac)
            payload = encode_nd(NeighbourSolicitation(source, target, target, own))
        return encode_frame(Frame(mac, own, kind, payload))


def _link_local(mac: bytes) -> IPv6Address:
    """Return the link-local address that derives from a MAC address (RFC 4291, appendix A)."""
    identifier = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    return IPv6Address(b"\xfe\x80" + bytes(6) + identifier)


def has_frame_shape(frame: bytes) -> bool:
    """Whether a hub lets the frame in at all, whoever sends it."""
    sender = frame[6:12]
    if not 14 <= len(frame) <= 1600 or sender in (_NOBODY, _BROADCAST):
        return False
    if sender == frame[:6]:
        return False
    kind = frame[12:14]
    if kind == _ARP:
        return len(frame) >= 14 + 28
    if kind == _IPV4:
        return len(frame) >= 14 + 20
    return kind != _IPV6 or len(frame) >= 14 + 40


def _udp_ports(frame: bytes) -> tuple[int, int] | None:
    """Return the ports of an untagged, unfragmented IPv4 UDP datagram."""
    if frame[12:14] != _IPV4 or len(frame) < 34 or frame[23] != _UDP:
        return None
    if int.from_bytes(frame[20:22], "big") & 0x1FFF:
        return None
    begin = 14 + 4 * (frame[14] & 15)
    if len(frame) < begin + 8:
        return None
    return (
        int.from_bytes(frame[begin : begin + 2], "big"),
        int.from_bytes(frame[begin + 2 : begin + 4], "big"),
    )


def _source_address(frame: bytes) -> bytes | None:
    """Return the IP address that a frame claims for its sender, if the rules look at it."""
    kind = frame[12:14]
    if kind == _ARP:
        address = frame[28:32]
    elif kind == _IPV4:
        ports = _udp_ports(frame)
        if ports is not None and ports in ((67, 68), (68, 67)):
            return None
        address = frame[26:30]
    elif kind == _IPV6:
        address = frame[22:38]
    else:
        return None
    return None if address in (_ANY, _ANY6) else address


def _is_private(address: bytes) -> bool:
    """Whether the hub remembers such an address: real ones leave the Internet's out."""
    if len(address) == 16:
        return address[0] & 0xFE == 0xFC or address[:2] == b"\xfe\x80"
    is_shared = address[0] == 100 and 64 <= address[1] < 128
    return is_shared or IPv4Address(address).is_private


def _filtered(policy: Policy, frame: bytes) -> str:
    """Return which policy of who sends it forbids *frame*, or nothing."""
    kind = frame[12:14]
    if policy.filter_ipv4 and kind in (_IPV4, _ARP):
        return "filter-ipv4"
    if policy.filter_ipv6 and kind == _IPV6:
        return "filter-ipv6"
    if policy.dhcp_filter or policy.dhcp_no_server:
        ports = _udp_ports(frame)
        if policy.dhcp_filter and ports is not None and {67, 68} & set(ports):
            return "dhcp-filter"
        if policy.dhcp_no_server and ports is not None and ports[0] == 67:
            return "dhcp-no-server"
    return ""
