# SPDX-License-Identifier: Apache-2.0
"""Dialogues with the DHCP client on a virtual clock, told as text.

A :class:`Talk` prints what is said as it is said, so that pytest shows the whole
dialogue when a test fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address
from itertools import cycle

from sevpn.protocol.dhcp import (
    AddressConflict,
    DhcpClient,
    DhcpEvent,
    Lease,
    LeaseLost,
    LeaseObtained,
    LeaseRenewed,
)
from sevpn.wire.arp import ArpOperation, ArpPacket, decode_arp, encode_arp
from sevpn.wire.dhcpv4 import (
    CLIENT_PORT,
    SERVER_PORT,
    Message,
    MessageType,
    Op,
    Option,
    decode_message,
    encode_message,
)
from sevpn.wire.ethernet import (
    BROADCAST,
    EtherType,
    Frame,
    MacAddress,
    decode_frame,
    encode_frame,
)
from sevpn.wire.ipv4 import decode_ipv4
from sevpn.wire.udp import UdpDatagram, decode_udp, udp_frame

OURS = MacAddress.parse("5e:00:53:00:00:01")
SERVER = MacAddress.parse("5e:00:53:00:00:fe")
STRANGER = MacAddress.parse("5e:00:53:00:00:99")
HUB = MacAddress.parse("00:ae:12:34:56:78")
NOBODY = MacAddress(bytes(6))

SERVER_IP = IPv4Address("198.51.100.1")
OTHER_SERVER_IP = IPv4Address("192.168.30.1")
OUR_IP = IPv4Address("198.51.100.50")
ANY = IPv4Address(0)
ALL = IPv4Address("255.255.255.255")

USUAL: dict[int, str | None] = {
    54: "c6336401",
    51: "00000e10",
    1: "ffffff00",
    3: "c6336401",
}
"""Server 198.51.100.1, an hour, /24, router 198.51.100.1."""


class FixedRandom:
    """Bytes that count up, so that each xid differs; the jitter of all delays is 0 %."""

    def __init__(self) -> None:
        self._xids = cycle(range(1, 1 << 16))

    def __call__(self, size: int) -> bytes:
        if size == 1:
            return b"\x80"  # 0.9 + 0.2 * 128 / 255: a tenth of a per mille above 1
        return next(self._xids).to_bytes(size, "big")


def decode_dhcp(frame: bytes) -> Message:
    """Return the DHCP message in a frame."""
    return decode_message(
        decode_udp(decode_ipv4(decode_frame(frame).payload).payload).payload
    )


def dhcp_frame(
    message: Message,
    *,
    source_mac: MacAddress = SERVER,
    destination_mac: MacAddress = BROADCAST,
    source: IPv4Address = SERVER_IP,
    destination: IPv4Address = ALL,
    port: int = CLIENT_PORT,
) -> bytes:
    """Return a frame as a server would send it."""
    return udp_frame(
        UdpDatagram(SERVER_PORT, port, encode_message(message)),
        source_mac=source_mac,
        destination_mac=destination_mac,
        source=source,
        destination=destination,
    )


def arp_frame(
    operation: ArpOperation,
    sender: tuple[MacAddress, IPv4Address],
    target: tuple[MacAddress, IPv4Address],
    *,
    to: MacAddress = BROADCAST,
    source: MacAddress | None = None,
) -> bytes:
    """Return an ARP frame of anybody."""
    packet = ArpPacket(operation, *sender, *target)
    return encode_frame(
        Frame(to, source or sender[0], EtherType.ARP, encode_arp(packet))
    )


def as_text(frame: bytes) -> str:
    """Tell a frame that the client sent."""
    ethernet = decode_frame(frame)
    if ethernet.ethertype == EtherType.ARP:
        return _arp_text(decode_arp(ethernet.payload))
    packet = decode_ipv4(ethernet.payload)
    message = decode_message(decode_udp(packet.payload).payload)
    kind = message.message_type
    assert kind is not None
    words = [kind.name]
    for option, word in (
        (Option.REQUESTED_ADDRESS, "50"),
        (Option.SERVER_ID, "54"),
    ):
        if option in message.options:
            words.append(f"{word}={IPv4Address(message.options[option])}")
    if int(message.ciaddr):
        words.append(f"ciaddr={message.ciaddr}")
    to = "all" if ethernet.destination == BROADCAST else str(ethernet.destination)
    return f"{' '.join(words)} from {packet.source} to {to}"


def _arp_text(packet: ArpPacket) -> str:
    if packet.operation == ArpOperation.REPLY:
        return f"ARP {packet.sender_ip} is ours, to {packet.target_mac}"
    if not int(packet.sender_ip):
        return f"ARP probe {packet.target_ip}"
    if packet.sender_ip == packet.target_ip:
        return f"ARP announcement {packet.target_ip}"
    return f"ARP who has {packet.target_ip}"


def event_text(event: DhcpEvent) -> str:
    """Tell an event."""
    match event:
        case LeaseObtained(lease):
            return f"obtained {lease.address}"
        case LeaseRenewed(lease, changed):
            return f"renewed {lease.address}{' with changes' if changed else ''}"
        case LeaseLost(reason):
            return f"lost: {reason}"
        case AddressConflict(mac):
            return f"conflict with {mac}"


class Talk:
    """A client, a clock and whatever else is on the hub."""

    def __init__(
        self,
        *,
        hostname: str | None = None,
        remembered: Lease | None = None,
        start_at: float = 0.0,
    ) -> None:
        self.client = DhcpClient(
            mac=OURS, random=FixedRandom(), hostname=hostname, remembered=remembered
        )
        self.now = start_at
        self.frames: list[bytes] = []
        """All that the client sent."""
        self.lease: Lease | None = None
        """The one of the last event that had one."""
        self._did: list[str] = []
        self.client.start(start_at)
        self._collect()

    # --- what happens ---

    def hear(self, frame: bytes, *, at: float | None = None) -> None:
        """Show the client a frame, after all deadlines before it."""
        if at is not None:
            self.wait_until(at)
        self._print("<-", _short(frame))
        self.client.receive_frame(frame, self.now)
        self._collect()

    def wait_until(self, at: float) -> None:
        """Let time pass; each deadline is kept to the moment."""
        while (due := self.client.next_deadline()) is not None and due <= at:
            self.now = max(self.now, due)
            self.client.handle_deadline(self.now)
            self._collect()
        self.now = max(self.now, at)

    def jump_to(self, at: float) -> None:
        """Let time pass without any deadline: a suspended machine."""
        self.now = at
        self.client.handle_deadline(at)
        self._collect()

    def did(self) -> list[str]:
        """Return what the client sent and said since the last call."""
        self._collect()
        did, self._did = self._did, []
        return did

    def forget(self) -> None:
        """Drop what the client did so far."""
        self.did()

    # --- what a server says ---

    def reply(
        self,
        kind: MessageType,
        *,
        yiaddr: IPv4Address = OUR_IP,
        options: Mapping[int, str | None] | None = None,
        xid: int | None = None,
        chaddr: MacAddress = OURS,
        op: Op = Op.REPLY,
    ) -> Message:
        """Return an answer to the last DHCP message; options in hex, None leaves one out."""
        values = {53: f"{kind:02x}"} | USUAL | dict(options or {})
        return Message(
            op=op,
            xid=self.last_message().xid if xid is None else xid,
            chaddr=chaddr,
            yiaddr=ANY if kind is MessageType.NAK else yiaddr,
            options={
                code: bytes.fromhex(value)
                for code, value in values.items()
                if value is not None
            },
        )

    def offer(self, at: float | None = None, /, **options: str | None) -> None:
        """A server offers: `o51="00000e10"`."""
        self._say(MessageType.OFFER, at, options)

    def ack(self, at: float | None = None, /, **options: str | None) -> None:
        """A server grants."""
        self._say(MessageType.ACK, at, options)

    def nak(self, at: float | None = None, /, **options: str | None) -> None:
        """A server refuses."""
        self._say(MessageType.NAK, at, options)

    def get_lease(self, **options: str | None) -> Lease:
        """Go through the usual dialogue; return the lease."""
        self.offer(**options)
        self.ack(**options)
        self.wait_until(self.now + 0.3)
        assert self.lease is not None
        self.forget()
        return self.lease

    def last_message(self) -> Message:
        """Return the last DHCP message that the client sent."""
        for frame in reversed(self.frames):
            if decode_frame(frame).ethertype == EtherType.IPV4:
                return decode_dhcp(frame)
        raise AssertionError("the client sent no DHCP message")

    def _say(
        self, kind: MessageType, at: float | None, options: Mapping[str, str | None]
    ) -> None:
        if at is not None:
            self.wait_until(at)
        values = {int(name[1:]): value for name, value in options.items()}
        self.hear(dhcp_frame(self.reply(kind, options=values)))

    def _collect(self) -> None:
        for frame in self.client.frames_to_send():
            self.frames.append(frame)
            self._tell(as_text(frame))
        while (event := self.client.next_event()) is not None:
            if isinstance(event, LeaseObtained | LeaseRenewed):
                self.lease = event.lease
            self._tell(event_text(event))

    def _tell(self, text: str) -> None:
        self._did.append(text)
        self._print("->", text)

    def _print(self, arrow: str, text: str) -> None:
        print(f"{self.now:10.3f} {arrow} {text}")  # noqa: T201 - shown when a test fails


def _short(frame: bytes) -> str:
    try:
        message = decode_dhcp(frame)
    except Exception:  # noqa: BLE001 - tests send any bytes
        return f"{len(frame)} bytes {frame[:48].hex()}"
    kind = message.message_type
    return (
        f"{kind.name if kind else 'no type'} {message.yiaddr} {dict(message.options)}"
    )
