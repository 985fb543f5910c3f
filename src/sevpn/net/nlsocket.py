# SPDX-License-Identifier: Apache-2.0
"""One netlink socket: a request goes down, its answer comes up.

Layer: net. Runs in: the control thread (or any other, one at a time).

    request   header, message, attributes      flags: REQUEST|ACK, or DUMP for lists
    answer    objects …, then ACK or DONE       or ERROR with the kernel's sentence

    header := size u32, type u16, flags u16, sequence u32, port u32   (host order)

The kernel answers within the call that sends the request, so a blocking socket
never really blocks: no event loop, no thread. What is inside the messages is the
business of `rtnetlink.py`.

Source: RFC 3549; linux/netlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

from sevpn.errors import HostError, PrivilegeError

__all__ = [
    "NLM_F_APPEND",
    "NLM_F_CREATE",
    "NLM_F_ECHO",
    "NLM_F_EXCL",
    "NLM_F_REPLACE",
    "KernelRefusedError",
    "NetlinkSocket",
]

NLM_F_ECHO: Final = 0x8
"""The answer shows what was put into the table, or taken from it."""

NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800

_NLM_F_REQUEST: Final = 0x1
_NLM_F_ACK: Final = 0x4
_NLM_F_DUMP_INTR: Final = 0x10
_NLM_F_DUMP: Final = 0x300
_NLM_F_CAPPED: Final = 0x100
_NLM_F_ACK_TLVS: Final = 0x200

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLMSGERR_ATTR_MSG: Final = 1

_SOL_NETLINK: Final = 270
_OPTIONS: Final = (10, 11, 12)
"""CAP_ACK: errors without a copy of the request; EXT_ACK: with a sentence;
GET_STRICT_CHK: lists of one table only."""

_HEADER: Final = struct.Struct("=IHHII")
_FLAGS_AND_SEQUENCE: Final = struct.Struct("=HI")
_ERROR_CODE: Final = struct.Struct("=i")
_ATTRIBUTE: Final = struct.Struct("=HH")

_RECEIVE_SIZE: Final = 1 << 16
"""The kernel fills at most 32 KiB at a time; a cut message would be an error here."""

_ANSWER_S: Final = 5.0
"""The kernel answers in the call itself; a longer wait means that it never will."""

_LIST_TRIES: Final = 4
"""How often a list is asked for again when it changed while it was read."""


class KernelRefusedError(Exception):
    """The kernel's no; leaves `net/` as a :class:`HostError` only.

    Args:
        number: The error number.
        text: The kernel's sentence, or the number's usual one.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number

    def translated(self, what: str, operation: str) -> HostError:
        """Return it as an error for people.

        Args:
            what: What was tried, to follow "cannot".
            operation: For programs.
        """
        if self.number in {errno.EPERM, errno.EACCES}:
            return PrivilegeError(
                f"no permission to {what}: run sevpn with sudo, or give it the capability CAP_NET_ADMIN",
                operation=operation,
            )
        return HostError(
            f"cannot {what}: {self._explained(operation)}", operation=operation
        )

    def _explained(self, operation: str) -> str:
        match self.number:
            case errno.EOPNOTSUPP | errno.EAFNOSUPPORT if operation == "add-rule":
                return (
                    f"this kernel has no policy routing ({self}): leave out --route-mode mark, --lock, "
                    "--policy-route-table and --ipv6 block"
                )
            case errno.ENETUNREACH | errno.EHOSTUNREACH:
                return (
                    f"{self}; its gateway is not reachable from here (see `ip route`)"
                )
            case errno.EEXIST:
                return "a route of the same destination and metric is there already; choose another --metric"
            case errno.ENODEV:
                return "the interface is gone"
            case errno.ENETDOWN:
                return "the interface is down; somebody turned it off"
            case errno.EOPNOTSUPP | errno.EAFNOSUPPORT:
                return f"this kernel does not support it ({self})"
            case _:
                return str(self)


class NetlinkSocket:
    """A socket to the kernel's network, of the namespace it is first used in.

    Opened at the first use; :meth:`close` may be called any number of times.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0

    def close(self) -> None:
        """Close the socket; a later call opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(self, message: bytes, *, flags: int = 0) -> list[tuple[int, bytes]]:
        """Send one request and return the objects of its answer.

        Args:
            message: With its header; flags and sequence number are filled in here.
            flags: Those that belong to this kind of request.

        Returns:
            Type and whole message of each object; none for most writes.

        Raises:
            KernelRefusedError: The kernel said no.
            HostError: No netlink, or no answer.
        """
        objects, _ = self._exchange(message, flags | _NLM_F_ACK)
        return objects

    def ask_all(self, message: bytes) -> list[tuple[int, bytes]]:
        """Ask for a list; likewise.

        A list that changes while it is read is asked for again; if it never holds
        still, one with a gap is better than none: there is an event to come.
        """
        objects: list[tuple[int, bytes]] = []
        for _ in range(_LIST_TRIES):
            objects, is_whole = self._exchange(message, _NLM_F_DUMP)
            if is_whole:
                return objects
        return objects

    def _exchange(
        self, message: bytes, flags: int
    ) -> tuple[list[tuple[int, bytes]], bool]:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        request = bytearray(message)
        _FLAGS_AND_SEQUENCE.pack_into(
            request, 6, flags | _NLM_F_REQUEST, self._sequence
        )
        try:
            sock = self._open()
            sock.send(request)
            return self._answer(sock)
        except TimeoutError as error:
            self.close()
            raise HostError(
                "the kernel did not answer a netlink request", operation="netlink"
            ) from error
        except OSError as error:
            self.close()
            raise HostError(
                f"no netlink to the kernel: {os.strerror(error.errno or 0)}",
                operation="netlink",
            ) from error

    def _open(self) -> socket.socket:
        if self._socket is None:
            sock = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_RAW | socket.SOCK_CLOEXEC,
                socket.NETLINK_ROUTE,
            )
            sock.settimeout(_ANSWER_S)
            sock.bind((0, 0))
            for option in _OPTIONS:
                try:
                    sock.setsockopt(_SOL_NETLINK, option, 1)
                except OSError:
                    continue  # an older kernel: its errors say less and its lists are longer
            self._socket = sock
        return self._socket

    def _answer(self, sock: socket.socket) -> tuple[list[tuple[int, bytes]], bool]:
        """Return the objects, and whether the list held still while it was read."""
        objects: list[tuple[int, bytes]] = []
        is_whole = True
        while True:
            data, (sender, _) = sock.recvfrom(_RECEIVE_SIZE)
            if sender != 0:
                continue  # not from the kernel
            for kind, flags, sequence, body in _split(data):
                if sequence != self._sequence:
                    continue  # the late end of a request that was given up
                is_whole = is_whole and not flags & _NLM_F_DUMP_INTR
                if kind not in {_NLMSG_ERROR, _NLMSG_DONE}:
                    objects.append((kind, body))
                    continue
                # The end of a list bears a number, too: an error that came late.
                number, text = _read_error(
                    flags if kind == _NLMSG_ERROR else 0, body[_HEADER.size :]
                )
                if number:
                    raise KernelRefusedError(number, text)
                return objects, is_whole


def _split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Cut one datagram into (type, flags, sequence number, whole message)."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        size, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if size < _HEADER.size or offset + size > len(data):
            return  # cut: the kernel does not do this
        yield kind, flags, sequence, data[offset : offset + size]
        offset += (size + 3) & ~3


def _read_error(flags: int, body: bytes) -> tuple[int, str]:
    """Return the error number, 0 for none, and the kernel's sentence."""
    if len(body) < _ERROR_CODE.size:
        return 0, ""
    number = -_ERROR_CODE.unpack_from(body)[0]
    text = os.strerror(number) if number else ""
    if not flags & _NLM_F_ACK_TLVS or len(body) < _ERROR_CODE.size + _HEADER.size:
        return number, text
    request_size = _HEADER.unpack_from(body, 4)[0]
    offset = 4 + (_HEADER.size if flags & _NLM_F_CAPPED else (request_size + 3) & ~3)
    while offset + _ATTRIBUTE.size <= len(body):
        size, kind = _ATTRIBUTE.unpack_from(body, offset)
        if size < _ATTRIBUTE.size:
            break
        if kind == _NLMSGERR_ATTR_MSG:
            text = (
                body[offset + 4 : offset + size]
                .rstrip(b"\0")
                .decode("ascii", "replace")
            )
        offset += (size + 3) & ~3
    return number, text
