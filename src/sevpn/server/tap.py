# SPDX-License-Identifier: Apache-2.0
"""A TAP device of this host on a hub: the local bridge of the embedded server.

Layer: server. Runs in: the event loop.

Real services run behind it: what the kernel sends on the interface enters the
hub, what the hub delivers arrives at the interface. The device exists while the
server runs. It is set up by ioctls alone, so that the server needs no netlink.

With the compiled kernel of the data path, super-segments cross it as they do in the
client: `Cutter` cuts what the host sends, `Merger` merges what it is given.

Source: Linux, Documentation/networking/tuntap.rst; netdevice(7).
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from sevpn.dataplane.path import is_compiled
from sevpn.errors import HostError, PrivilegeError
from sevpn.net.tap import Tap, open_tap
from sevpn.server.config import TapConfig
from sevpn.server.hub import FrameBytes, Hub, Port
from sevpn.server.policy import Policy
from sevpn.server.stretch import Stretch

__all__ = ["TapPort"]

_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_SIOCSIFADDR: Final = 0x8916
_SIOCSIFNETMASK: Final = 0x891C
_SIOCSIFMTU: Final = 0x8922
_IFF_UP: Final = 1

_FRAMES_PER_TURN: Final = 128
_BURST_FRAMES: Final = 512
_BURST_BYTES: Final = 256 * 1024
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
        self._tap = _open(config.name)
        try:
            # One that comes after the device is on waits for the kernel's link watcher,
            # which on a busy host may be slower than a neighbour's patience.
            self._tap.set_carrier(True)
            _set_up(config)
        except BaseException:
            self._tap.close()
            raise
        self.lost_count = 0
        """Frames that the kernel did not take."""
        self._packets = _Packets(self._tap, self, hub) if is_compiled() else None
        reader = self._packets.read if self._packets else self._readable
        hub.plug(self)
        asyncio.get_running_loop().add_reader(self._tap.fileno(), reader)

    def close(self) -> None:
        """Remove the device."""
        asyncio.get_running_loop().remove_reader(self._tap.fileno())
        self._hub.unplug(self)
        self._tap.close()

    def deliver(self, frames: Sequence[FrameBytes]) -> None:
        """Write frames to the interface; what the kernel does not take is lost, and counted."""
        write = self._packets.write if self._packets else self._write_each
        self.lost_count += len(frames) - write(frames)

    def deliver_stretch(self, stretch: Stretch) -> None:
        """Write frames to the interface, likewise."""
        if self._packets is None:
            self.deliver(stretch.frames())
        else:
            self.lost_count += len(stretch) - self._packets.write_stretch(stretch)

    def _write_each(self, frames: Sequence[FrameBytes]) -> int:
        """Write frame by frame; return how many the kernel took."""
        write, taken = self._tap.write, 0
        for frame in frames:
            try:
                write(frame)
            except OSError:
                continue
            taken += 1
        return taken

    def _readable(self) -> None:
        read = self._tap.read
        bulk: list[FrameBytes] = []
        others: list[FrameBytes] = []
        for _ in range(_FRAMES_PER_TURN):
            try:
                frame = read()
            except OSError:
                break
            if frame is None:
                break
            if len(frame) >= 34 and _BULK(frame) == (0x0800, 6):
                bulk.append(frame)
            else:
                others.append(frame)
        self._hub.forward(self, others, bulk)


class _Packets:
    """The device on the compiled kernel, with super-segments where the driver has them.

    Args:
        tap: The device.
        port: Whose it is.
        hub: What the port is plugged into.
    """

    def __init__(self, tap: Tap, port: TapPort, hub: Hub) -> None:
        # Where nothing was compiled this is not needed.
        from sevpn.dataplane.kernel.cut import Cutter  # noqa: PLC0415
        from sevpn.dataplane.kernel.merge import Merger  # noqa: PLC0415

        self._port = port
        self._hub = hub
        self._cutter = Cutter(tap.fileno(), has_header=tap.has_header)
        self._merger = Merger(tap.fileno(), has_header=tap.has_header)

    def read(self) -> None:
        """Let what the host sends into the hub."""
        cutter, runs = self._cutter, self._hub.runs
        try:
            groups = cutter.collect(_BURST_FRAMES, _BURST_BYTES, 1, False)  # noqa: FBT003 - C has positions alone
        except OSError:
            return
        for _, begin, end, _ in groups:
            count = runs.walk(cutter.out, begin, end)
            stretch = Stretch(cutter.out, runs.starts, runs.sizes, 0, count)
            self._hub.forward_stretch(self._port, stretch)

    def write(self, frames: Sequence[FrameBytes]) -> int:
        """Write frames, merged where that may be; return how many the kernel took."""
        sizes = array("i", map(len, frames))
        starts = array("i", accumulate(sizes, initial=0))
        data = bytearray().join(frames)
        return self._merger.write(data, starts, sizes, 0, len(sizes))

    def write_stretch(self, stretch: Stretch) -> int:
        """Likewise."""
        data, starts, sizes = stretch.data, stretch.starts, stretch.sizes
        return self._merger.write(data, starts, sizes, stretch.first, stretch.count)


def _open(name: str) -> Tap:
    try:
        return open_tap(name, offload=is_compiled())
    except HostError as error:
        kind = PrivilegeError if isinstance(error, PrivilegeError) else HostError
        raise kind(
            f"TAP {name!r} cannot be made ({error}): use another name, and run as root",
            operation="open-tap",
        ) from error


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
