# SPDX-License-Identifier: Apache-2.0
"""The UDP socket beside a session's connections.

Layer: transport. Runs in: the control thread; the data thread owns the socket later.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

from sevpn.transport.dialing import Prepare

__all__ = ["open_udp"]


def open_udp(
    address: IPv4Address | IPv6Address, port: int, *, prepare: Prepare
) -> socket.socket:
    """Return a UDP socket that is bound to one of this host's addresses.

    Args:
        address: The one that the TCP connection leaves from.
        port: 0 for any that is free.
        prepare: As for every outer socket.

    Raises:
        OSError: The address is gone, or the port is taken.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        prepare(sock)
        sock.bind((str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock
