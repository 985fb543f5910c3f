# SPDX-License-Identifier: Apache-2.0
"""A TAP device of this host on a hub: the local bridge of the embedded server.

Layer: server. Runs in: the event loop.

Real services run behind it: what the kernel sends on the interface enters the
hub, what the hub delivers arrives at the interface. The device exists while the
server runs. It is set up by ioctls alone, so that the server needs no netlink.

Source: Linux, Documentation/networking/tuntap.rst; netdevice(7).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

from sevpn.errors import HostError, PrivilegeError
from sevpn.server.config import TapConfig
from sevpn.server.hub import FrameBytes, Hub, Port
from sevpn.server.policy import Policy

__all__ = ["TapPort"]

_TUNSETIFF: Final = 0x400454CA
_IFF_TAP_NO_PI: Final = 0x0002 | 0x1000
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_SIOCSIFADDR: Final = 0x8916
_SIOCSIFNETMASK: Final = 0x891C
_SIOCSIFMTU: Final = 0x8922
_IFF_UP: Final = 1

_READ_SIZE: Final = 1601
_FRAMES_PER_TURN: Final = 128
_BULK: Final = struct.Struct("!12xH9xB").unpack_from


class TapPort(Port):
    """The device as a port.

    Args:
        config: Its name, address and MTU.
        hub: What it is plugged into.

    Raises:
        PrivilegeError: CAP_NET_ADMIN is missing.
        HostError: There is no `/dev/net/tun`, or the name is taken.
    """

    def __init__(self, config: TapConfig, hub: Hub) -> None:
        # Like a real local bridge: any number of addresses, exclusive MACs.
        super().__init__(f"TAP {config.name}", Policy(check_mac=True))
        self._hub = hub
        self._number = _open(config.name)
        try:
            _set_up(config)
        except BaseException:
            os.close(self._number)
            raise
        self.lost_count = 0
        """Frames that the kernel did not take."""
        hub.plug(self)
        asyncio.get_running_loop().add_reader(self._number, self._readable)

    def close(self) -> None:
        """Remove the device."""
        asyncio.get_running_loop().remove_reader(self._number)
        self._hub.unplug(self)
        os.close(self._number)

    def deliver(self, frames: Sequence[FrameBytes]) -> None:
        """Write frames to the interface; what the kernel does not take is lost, and counted."""
        write, number = os.write, self._number
        for frame in frames:
            try:
                write(number, frame)
            except OSError:
                self.lost_count += 1

    def _readable(self) -> None:
        read, number = os.read, self._number
        bulk: list[FrameBytes] = []
        others: list[FrameBytes] = []
        for _ in range(_FRAMES_PER_TURN):
            try:
                frame = read(number, _READ_SIZE)
            except OSError:
                break
            if len(frame) >= 34 and _BULK(frame) == (0x0800, 6):
                bulk.append(frame)
            else:
                others.append(frame)
        self._hub.forward(self, others, bulk)


def _open(name: str) -> int:
    try:
        number = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"/dev/net/tun cannot be opened ({error.strerror}): load the module 'tun', or leave out the TAP",
            operation="open-tap",
        ) from error
    request = struct.pack("16sH22x", name.encode(), _IFF_TAP_NO_PI)
    try:
        fcntl.ioctl(number, _TUNSETIFF, request)
    except OSError as error:
        os.close(number)
        kind = PrivilegeError if isinstance(error, PermissionError) else HostError
        raise kind(
            f"TAP {name!r} cannot be made ({error.strerror}): use another name, and run as root",
            operation="open-tap",
        ) from error
    return number


def _set_up(config: TapConfig) -> None:
    name = config.name.encode()
    steps: list[tuple[int, bytes]] = [
        (_SIOCSIFMTU, struct.pack("16sI20x", name, config.mtu))
    ]
    if config.address is not None:
        steps += [
            (_SIOCSIFADDR, _address_request(name, config.address.ip.packed)),
            (_SIOCSIFNETMASK, _address_request(name, config.address.netmask.packed)),
        ]
    with socket.socket(
        socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    ) as handle:
        try:
            for operation, request in steps:
                fcntl.ioctl(handle, operation, request)
            found = fcntl.ioctl(handle, _SIOCGIFFLAGS, struct.pack("16sH22x", name, 0))
            (flags,) = struct.unpack_from("H", found, 16)
            fcntl.ioctl(
                handle, _SIOCSIFFLAGS, struct.pack("16sH22x", name, flags | _IFF_UP)
            )
        except OSError as error:
            raise HostError(
                f"TAP {config.name!r} cannot be set up ({error.strerror})",
                operation="set-up-tap",
            ) from error


def _address_request(name: bytes, address: bytes) -> bytes:
    return struct.pack("16sH2x4s16x", name, socket.AF_INET, address)
