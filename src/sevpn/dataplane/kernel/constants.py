# SPDX-License-Identifier: Apache-2.0
"""The numbers of the kernel's formats; `constants.pxd` has the same for C.

Layer: dataplane. Runs in: any thread. tests/unit/dataplane/test_kernel_files.py holds the two together.

Source: Linux, include/uapi/linux/virtio_net.h and if_ether.h; RFC 791, 8200, 9293,
768; docs/reference/protocol-data.md#items for blocks.
"""

from __future__ import annotations

import errno
from typing import Final

# --- errors of the TAP ---
EAGAIN: Final = errno.EAGAIN
EBADFD: Final = errno.EBADFD

# --- blocks ---
FULL_BATCH: Final = 128
LARGE_BATCH: Final = 32
KEEPALIVE_MARK: Final = 0xFFFFFFFF
MAX_BLOCK: Final = 3200
MAX_KEEPALIVE: Final = 512
MIN_FRAME: Final = 14
MAX_FRAME: Final = 1600

# --- the virtio header before each packet of the TAP ---
VIRTIO_SIZE: Final = 10
NEEDS_CHECKSUM: Final = 1
GSO_NONE: Final = 0
GSO_TCP4: Final = 1
GSO_TCP6: Final = 4
GSO_UDP: Final = 5
GSO_ECN: Final = 0x80

# --- datagrams of a socket ---
MESSAGES: Final = 32
MESSAGE_ROOM: Final = 65536
NAME_SIZE: Final = 28
"""Bytes of struct sockaddr_in6, the longer one."""

# --- Ethernet and IP ---
ETH_SIZE: Final = 14
IPV4: Final = 0x0800
ARP: Final = 0x0806
IPV6: Final = 0x86DD
VLAN: Final = 0x8100
VLAN_OUTER: Final = 0x88A8
ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMP6: Final = 58
NO_NEXT: Final = 59
DONT_FRAGMENT: Final = 0x4000
FRAGMENT: Final = 0x3FFF
FRAGMENT_OFFSET: Final = 0x1FFF
MAX_PACKET: Final = 65535
DHCP_CLIENT: Final = 68
DHCP_SERVER: Final = 67
DHCP6_CLIENT: Final = 546
ROUTER_ADVERTISEMENT: Final = 134
NEIGHBOUR_SOLICITATION: Final = 135

# --- TCP flags ---
FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10
URG: Final = 0x20
CWR: Final = 0x80

# --- what Merger finds out about a frame ---
ALONE: Final = 0
ODD: Final = 1
STRANGE: Final = 2
DATA: Final = 3

ALL_BITS: Final = 0xFFFFFFFF

# --- sizes of our own tables ---
MAX_FLOWS: Final = 32
MAX_PIECES: Final = 64
LARGE_FRAME: Final = 600
"""Smaller frames are never shed: acknowledgements, names, voice, pings."""
BURST: Final = 512
"""Frames that may be handed to TCP in one go."""
MAX_BATCHES: Final = 2048
"""Batches of one collection."""
PACKET_SIZE: Final = 65564
"""A virtio header, a tagged Ethernet header and the largest packet; one byte more would be too many."""
OUT_SIZE: Final = 1572864
"""Room for blocks: 256 KB of packets and the worst super-segment. Pages that are not touched cost nothing."""
BATCHES_SIZE: Final = 821264
"""Room for a burst of the largest frames, in batches; a chunk of a connection needs less."""
