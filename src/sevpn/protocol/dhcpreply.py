# SPDX-License-Identifier: Apache-2.0
"""What servers say to a DHCP client: from a frame to a reply, and the memory of it.

Layer: protocol; pure. Runs in: the control thread.

Source: RFC 2131 section 4.1; docs/reference/dhcp.md#quirks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from sevpn.errors import RemoteProtocolError
from sevpn.protocol.lease import server_of
from sevpn.wire.dhcpv4 import CLIENT_PORT, Message, Op, Option, decode_message
from sevpn.wire.ethernet import BROADCAST, Frame, MacAddress
from sevpn.wire.ipv4 import IpProtocol, decode_ipv4
from sevpn.wire.udp import decode_udp

__all__ = ["Notebook", "Reply", "read_reply"]

_MAX_NOTES: Final = 4
_MAX_SHOWN: Final = 80
"""Characters of a server's own words that are shown."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's message, and where it came from."""

    message: Message
    """To us."""

    server: IPv4Address | None
    """Who says that it sent the message; None: it does not say, or nobody that can be."""

    source: IPv4Address
    """The sender of its packet."""

    mac: MacAddress
    """Where frames to the server go; broadcast if its frame did not tell."""

    @property
    def name(self) -> IPv4Address:
        """What to call the server."""
        return self.server or self.source

    @property
    def words(self) -> str:
        """The server's own words (option 56) in brackets and made harmless; often empty."""
        words = self.message.options.get(Option.MESSAGE, b"").rstrip(b"\0")
        if not words:
            return ""
        return f" ({words[:_MAX_SHOWN].decode('ascii', 'replace')!a})"


class Notebook:
    """What was asked and heard since the last lease, for the error that ends the wait."""

    def __init__(self) -> None:
        self._asked: Counter[str] = Counter()
        self._heard: dict[str, None] = {}

    def asked(self, kind: str) -> None:
        """A message of this kind was sent."""
        self._asked[kind] += 1

    def heard(self, what: str) -> None:
        """Something was heard; the newest few are kept, each once."""
        self._heard.pop(what, None)
        self._heard[what] = None
        if len(self._heard) > _MAX_NOTES:
            del self._heard[next(iter(self._heard))]

    def clear(self) -> None:
        """There is a lease: what led to it does not matter any more."""
        self._asked.clear()
        self._heard.clear()

    @property
    def summary(self) -> str:
        """All of it as a part of a sentence: `no answer to 4 DISCOVERs`."""
        asked = " and ".join(
            f"{count} {kind}{'s' if count > 1 else ''}"
            for kind, count in self._asked.items()
        )
        if not asked:
            return "nothing was asked"
        if not self._heard:
            return f"no answer to {asked}"
        return f"{'; '.join(self._heard)}; sent: {asked}"


def read_reply(frame: Frame, *, mac: MacAddress, notebook: Notebook) -> Reply | None:
    """Return the DHCP reply to *mac* that an IPv4 frame carries; None if it carries none.

    A DHCP message that cannot be read is noted: it may be the reason for silence.

    Raises:
        RemoteProtocolError: The packet or the datagram is malformed.
    """
    packet = decode_ipv4(frame.payload)
    if packet.protocol != IpProtocol.UDP or packet.is_fragment:
        return None
    datagram = decode_udp(packet.payload)
    if datagram.destination_port != CLIENT_PORT:
        return None
    try:
        message = decode_message(datagram.payload)
    except RemoteProtocolError as error:
        notebook.heard(f"{packet.source} sent what cannot be read: {error}")
        return None
    if message.op is not Op.REPLY or message.chaddr != mac:
        return None
    way_back = BROADCAST if frame.source.is_multicast else frame.source
    return Reply(message, server_of(message), packet.source, way_back)
