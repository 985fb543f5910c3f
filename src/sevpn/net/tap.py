# SPDX-License-Identifier: Apache-2.0
"""The TAP: the network card whose cable is the tunnel.

Layer: net. Runs in: opened by the control thread; read and written by the data
thread; the carrier is switched by the control thread.

    open /dev/net/tun ── TUNSETIFF(TAP|NO_PI|TUN_EXCL|NO_CARRIER, name) ──> fd
    fd: read() = one frame the host sent, write() = one frame for the host

With offloads each of them begins with a virtio header of 10 bytes, and may be a
super-segment of up to 64 KB:

    TUNSETIFF(… |VNET_HDR) ── TUNSETVNETHDRSZ(10) ── TUNSETVNETLE ── TUNSETOFFLOAD(CSUM|TSO4|TSO6|…)

A kernel that does not know one of these gives a plain TAP, and the reason is told.

The interface is never made persistent: it vanishes with the descriptor, and its
addresses and routes with it, whatever ends the process. It stays over reconnects;
meanwhile its carrier is off.

Source: linux/if_tun.h; Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import re
import struct
from typing import Final

from sevpn.errors import HostError, InterfaceGoneError, PrivilegeError

__all__ = ["DEFAULT_NAME", "MAX_FRAME_SIZE", "Tap", "open_tap"]

DEFAULT_NAME: Final = "sevpn%d"
"""The kernel puts the smallest free number in place of `%d`."""

MAX_FRAME_SIZE: Final = 65536 + 18
"""What one read may return at most: the largest packet and a tagged Ethernet header."""

_TUN: Final = "/dev/net/tun"
_TUNSETIFF: Final = 0x400454CA
_TUNGETFEATURES: Final = 0x800454CF
_TUNSETCARRIER: Final = 0x400454E2
_TUNSETOFFLOAD: Final = 0x400454D0
_TUNSETVNETHDRSZ: Final = 0x400454D8
_TUNSETVNETLE: Final = 0x400454DC
_IFF_TAP: Final = 0x0002
_IFF_NO_CARRIER: Final = 0x0040
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_IFF_TUN_EXCL: Final = 0x8000

_HEADER_SIZE: Final = 10
_NO_HEADER: Final = bytes(_HEADER_SIZE)
"""The virtio header of a frame that is as it is."""

_TSO: Final = 0x01 | 0x02 | 0x04 | 0x08
"""TUN_F_CSUM, TSO4, TSO6 and TSO_ECN."""

_USO: Final = 0x20 | 0x40
"""TUN_F_USO4 and USO6, from kernel 6.2 on."""

_IFREQ: Final = struct.Struct("=16sH22x")
_NAME_SIZE: Final = 15
"""Bytes of an interface name, without the kernel's closing zero."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+(%d)?")


class Tap:
    """An open TAP.

    Args:
        name: As the kernel shows it.
        descriptor: Of `/dev/net/tun`, non-blocking; owned from now on.
        has_header: Whether packets bear a virtio header.
        notices: What this kernel lacks, a line each.
    """

    def __init__(
        self,
        name: str,
        descriptor: int,
        *,
        has_header: bool = False,
        notices: tuple[str, ...] = (),
    ) -> None:
        self._name = name
        self._descriptor = descriptor
        self._has_header = has_header
        self.notices = notices
        """What this kernel lacks, and what that means; a line each."""

    @property
    def has_header(self) -> bool:
        """Whether each packet bears a virtio header, and may be a super-segment."""
        return self._has_header

    @property
    def name(self) -> str:
        """The interface's name."""
        return self._name

    def fileno(self) -> int:
        """Return the descriptor, for selectors; -1 when closed."""
        return self._descriptor

    def read(self) -> bytes | None:
        """Return the next frame that the host sends, or `None` if there is none now.

        Only for a TAP without offloads: with them, the kernel of the data path reads
        the descriptor itself.

        Raises:
            OSError: The device is gone (EBADFD) or was turned off (EIO).
        """
        try:
            return os.read(self._descriptor, MAX_FRAME_SIZE)
        except BlockingIOError:
            return None

    def write(self, frame: bytes | bytearray | memoryview, /) -> int:
        """Give the host a frame, without checksum or virtio header; return its size.

        Raises:
            OSError: EIO while the interface is down, EINVAL for a frame that is
                no Ethernet frame, EAGAIN when the host's queue is full.
        """
        if self._has_header:
            return os.writev(self._descriptor, (_NO_HEADER, frame)) - _HEADER_SIZE
        return os.write(self._descriptor, frame)

    def set_carrier(self, is_on: bool, /) -> None:  # noqa: FBT001 - on or off is all there is
        """Plug or pull the cable, as the host sees it.

        Without a carrier the host's packets are swallowed and routes stay. When it
        comes, the kernel itself repeats duplicate address detection, multicast
        reports and router solicitations. Where the kernel has no switch
        (:attr:`notices` says so) nothing happens.

        Raises:
            InterfaceGoneError: The interface is gone.
        """
        try:
            _switch_carrier(self._descriptor, is_on=is_on)
        except OSError as error:
            raise InterfaceGoneError(
                f"cannot switch the carrier of {self._name}: {os.strerror(error.errno or 0)}; "
                "somebody has removed the interface",
                operation="set-carrier",
            ) from error

    def close(self) -> None:
        """Remove the interface; safe to call again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def open_tap(name: str | None = None, *, offload: bool = False) -> Tap:
    """Create a TAP, down and without a carrier.

    Args:
        name: Its name, or a template with `%d` at its end; :data:`DEFAULT_NAME` if
            `None`. At most 15 bytes.
        offload: Whether super-segments are wanted: a kernel that has none gives a
            plain TAP, and :attr:`Tap.notices` says so.

    Raises:
        HostError: No TUN driver, a name that cannot be or is in use.
        PrivilegeError: Without CAP_NET_ADMIN, or no access to the driver.
    """
    wanted = DEFAULT_NAME if name is None else name
    _check_name(wanted)
    descriptor = _open_driver()
    try:
        # EXCL: a persistent TAP of that name is somebody else's; it is not taken over.
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_TUN_EXCL
        features = _features(descriptor)
        flags |= _IFF_NO_CARRIER & features
        flags |= _IFF_VNET_HDR & features if offload else 0
        answer = _attach(descriptor, wanted, flags)
        tap = Tap(
            _IFREQ.unpack(answer)[0].rstrip(b"\0").decode("ascii"),
            descriptor,
            has_header=bool(flags & _IFF_VNET_HDR),
            notices=_lacks(descriptor, flags, offload=offload),
        )
        # From kernel 6.2 on IFF_NO_CARRIER has done it already; before, there is a
        # carrier from the start, but nothing is sent as long as the link is down.
        tap.set_carrier(False)
    except BaseException:
        os.close(descriptor)
        raise
    return tap


def _check_name(name: str) -> None:
    if len(name.encode()) > _NAME_SIZE:
        raise HostError(
            f"interface name {name!r} is too long: --tap takes at most {_NAME_SIZE} bytes",
            operation="open-tap",
        )
    if not _NAME.fullmatch(name) or name in {".", "..", "all", "default"}:
        raise HostError(
            f"interface name {name!r} cannot be used: --tap takes letters, digits, '-', '_', '.', and '%d' at the end",
            operation="open-tap",
        )


def _open_driver() -> int:
    try:
        return os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise PrivilegeError(
            f"no permission to open {_TUN}: run sevpn with sudo, or let this user read and write the device",
            operation="open-tap",
        ) from error
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENODEV, errno.ENXIO}:
            raise HostError(
                f"{_TUN} does not exist or has no driver: load it with `modprobe tun`; "
                "in a container, start it with --device /dev/net/tun",
                operation="open-tap",
            ) from error
        raise HostError(
            f"cannot open {_TUN}: {os.strerror(error.errno or 0)}", operation="open-tap"
        ) from error


def _features(descriptor: int) -> int:
    value = array.array("I", [0])
    try:
        fcntl.ioctl(descriptor, _TUNGETFEATURES, value)
    except OSError as error:
        raise HostError(
            f"{_TUN} is not the TUN driver ({os.strerror(error.errno or 0)}): create it with "
            "`mknod /dev/net/tun c 10 200` and load the driver with `modprobe tun`",
            operation="open-tap",
        ) from error
    return value[0]


def _switch_carrier(descriptor: int, *, is_on: bool) -> bool:
    """Plug or pull the cable; return whether this kernel can."""
    try:
        fcntl.ioctl(descriptor, _TUNSETCARRIER, array.array("i", [int(is_on)]))
    except OSError as error:
        # What the driver says to a request that it does not know; EBADFD is an
        # interface that is gone.
        if error.errno in {errno.EINVAL, errno.ENOTTY}:
            return False
        raise
    return True


def _lacks(descriptor: int, flags: int, *, offload: bool) -> tuple[str, ...]:
    """Ask for the offloads; return what this kernel lacks."""
    notices: list[str] = []
    if not _switch_carrier(descriptor, is_on=False):
        notices.append(
            "this kernel's TUN driver has no TUNSETCARRIER (Linux 5.0): the interface keeps its carrier while the tunnel is down"
        )
    if not flags & _IFF_NO_CARRIER:
        notices.append(
            "this kernel's TUN driver has no IFF_NO_CARRIER (Linux 6.2): the interface has a carrier before the tunnel is up"
        )
    if flags & _IFF_VNET_HDR:
        notices += _ask_for_offloads(descriptor)
    elif offload:
        notices.append(
            "this kernel's TUN driver has no IFF_VNET_HDR: frames cross the interface one by one"
        )
    return tuple(notices)


def _ask_for_offloads(descriptor: int) -> list[str]:
    # A driver that knows neither has headers of this size, in this machine's byte order.
    with contextlib.suppress(OSError):
        for request, value in ((_TUNSETVNETHDRSZ, _HEADER_SIZE), (_TUNSETVNETLE, 1)):
            fcntl.ioctl(descriptor, request, array.array("i", [value]))
    for offloads in (_TSO | _USO, _TSO):
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, _TUNSETOFFLOAD, offloads)
            return []
    return [
        "this kernel's TUN driver takes no TUNSETOFFLOAD: the host cuts its packets itself"
    ]


def _attach(descriptor: int, name: str, flags: int) -> bytes:
    try:
        return fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))
    except PermissionError as error:
        raise PrivilegeError(
            f"no permission to create the interface {name}: run sevpn with sudo, "
            "or give it the capability CAP_NET_ADMIN",
            operation="open-tap",
        ) from error
    except OSError as error:
        if error.errno in {errno.EBUSY, errno.EEXIST}:
            raise HostError(
                f"the interface {name} exists already: choose another name with --tap, or leave --tap out",
                operation="open-tap",
            ) from error
        if error.errno == errno.EINVAL:
            # TUNSETIFF answers EINVAL when an interface of another kind has the name.
            raise HostError(
                f"the interface name {name} is taken by something that is no TAP, or cannot be used: "
                "choose another with --tap",
                operation="open-tap",
            ) from error
        raise HostError(
            f"cannot create the interface {name}: {os.strerror(error.errno or 0)}",
            operation="open-tap",
        ) from error
