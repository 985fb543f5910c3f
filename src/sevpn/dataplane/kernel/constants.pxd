# SPDX-License-Identifier: Apache-2.0
# The C half of constants.py: the same numbers.

cdef enum:
    FULL_BATCH = 128
    LARGE_BATCH = 32
    MAX_BLOCK = 3200
    MAX_KEEPALIVE = 512
    MIN_FRAME = 14
    MAX_FRAME = 1600
    VIRTIO_SIZE = 10
    NEEDS_CHECKSUM = 1
    GSO_NONE = 0
    GSO_TCP4 = 1
    GSO_TCP6 = 4
    GSO_UDP = 5
    GSO_ECN = 0x80
    MESSAGES = 32
    MESSAGE_ROOM = 65536
    NAME_SIZE = 28
    ETH_SIZE = 14
    IPV4 = 0x0800
    ARP = 0x0806
    IPV6 = 0x86DD
    VLAN = 0x8100
    VLAN_OUTER = 0x88A8
    ICMP = 1
    TCP = 6
    UDP = 17
    ICMP6 = 58
    NO_NEXT = 59
    DONT_FRAGMENT = 0x4000
    FRAGMENT = 0x3FFF
    FRAGMENT_OFFSET = 0x1FFF
    MAX_PACKET = 65535
    DHCP_CLIENT = 68
    DHCP_SERVER = 67
    DHCP6_CLIENT = 546
    ROUTER_ADVERTISEMENT = 134
    NEIGHBOUR_SOLICITATION = 135
    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10
    URG = 0x20
    CWR = 0x80
    ALONE = 0
    ODD = 1
    STRANGE = 2
    DATA = 3
    MAX_FLOWS = 32
    MAX_PIECES = 64
    LARGE_FRAME = 600
    BURST = 512
    MAX_BATCHES = 2048
    PACKET_SIZE = 65564
    OUT_SIZE = 1572864
    BATCHES_SIZE = 821264

cdef extern from "errno.h":
    const int EAGAIN
    const int EBADFD

cdef extern from *:
    """
    #define ALL_BITS 0xFFFFFFFFu
    #define KEEPALIVE_MARK 0xFFFFFFFFu
    """
    const unsigned int ALL_BITS
    const unsigned int KEEPALIVE_MARK
