# SPDX-License-Identifier: Apache-2.0
"""The TAP: made, named, switched, and what happens where it cannot be."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sevpn.errors import Failure, HostError, InterfaceGoneError, PrivilegeError
from sevpn.net import tap as tap_module
from sevpn.net.host import Host
from sevpn.net.rtnetlink import Netlink
from sevpn.net.tap import Tap, open_tap
from sevpn.testing.sandbox import ip, ip_json, mount, sandboxed
from sevpn.wire.ethernet import MacAddress

pytestmark = pytest.mark.netns

MAC = MacAddress.parse("5e:01:02:03:04:05")


def make_host(run: Path) -> Host:
    host = Host(tunnel="office", runtime_dir=run, etc_dir=run)
    host.recover()
    return host


@sandboxed
def test_a_tap_has_the_address_and_mtu_it_was_given_and_is_not_up(
    tmp_path: Path,
) -> None:
    host = make_host(tmp_path)
    tap = host.open_tap(None, MAC, 1380)

    (link,) = ip_json(f"link show {tap.name}")
    assert tap.name == "sevpn0"
    assert (link["address"], link["mtu"], link["operstate"]) == (str(MAC), 1380, "DOWN")
    assert "UP" not in link["flags"]
    assert link["ifalias"] == "sevpn office"
    host.undo()
    assert ip_json("link") == [
        entry for entry in ip_json("link") if entry["ifname"] == "lo"
    ]


@sandboxed
def test_a_template_takes_the_next_free_number_and_a_name_is_taken_as_it_is() -> None:
    taps = [open_tap(), open_tap(), open_tap("office%d"), open_tap("vpn.office-1")]

    assert [tap.name for tap in taps] == ["sevpn0", "sevpn1", "office0", "vpn.office-1"]
    for tap in taps:
        tap.close()
        tap.close()
        assert tap.fileno() == -1


@sandboxed
def test_frames_pass_in_both_directions_without_any_header() -> None:
    tap = open_tap("t0")
    ip("link set t0 address 5e:00:00:00:00:01")
    ip("address add 10.0.0.5/24 dev t0")
    ip("link set t0 up")
    tap.set_carrier(True)
    question = (
        bytes.fromhex(
            "ffffffffffff5e0000000099080600010800060400015e00000000990a000001"
        )
        + bytes(6)
        + bytes([10, 0, 0, 5])
    )

    answer = ask(tap, question)

    assert answer[:12] == bytes.fromhex("5e00000000995e0000000001")
    assert answer[20:22] == b"\x00\x02"
    tap.close()


def ask(tap: Tap, question: bytes) -> bytes:
    """Send an ARP question until it is answered: after the carrier comes, the kernel
    drops what it would send until its own worker has noticed."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        assert tap.write(memoryview(question)) == len(question)
        select.select([tap], [], [], 0.1)
        while (frame := tap.read()) is not None:
            if frame[12:14] == b"\x08\x06":
                return frame
    raise AssertionError("the host sent nothing")


@sandboxed
def test_the_carrier_is_off_at_first_and_then_as_it_is_switched() -> None:
    tap = open_tap("t0")
    ip("link set t0 up")
    netlink = Netlink()

    seen = []
    for is_on in (None, True, False, True):
        if is_on is not None:
            tap.set_carrier(is_on)
        link = netlink.link("t0")
        assert link is not None
        seen.append(link.has_carrier)

    assert seen == [False, True, False, True]
    netlink.close()
    tap.close()


@sandboxed
def test_nothing_to_read_is_none_and_a_tap_that_is_down_refuses_frames() -> None:
    tap = open_tap("t0")

    assert tap.read() is None
    with pytest.raises(OSError, match="Input/output") as caught:
        tap.write(bytes(60))
    assert caught.value.errno == errno.EIO
    tap.close()


@sandboxed
def test_a_tap_that_was_removed_by_others_is_a_typed_error() -> None:
    tap = open_tap("t0")
    ip("link delete t0")

    with pytest.raises(HostError, match="somebody has removed the interface") as caught:
        tap.set_carrier(True)
    assert caught.value.operation == "set-carrier"
    tap.close()


@sandboxed
def test_a_name_in_use_names_the_option() -> None:
    ip("link add v0 type veth peer name v1")
    ip("tuntap add theirs mode tap")
    tap = open_tap("t0")

    for name in ("t0", "v0", "theirs"):
        with pytest.raises(HostError, match="--tap") as caught:
            open_tap(name)
        assert caught.value.failure is Failure.HOST
        assert not isinstance(caught.value, PrivilegeError)
    tap.close()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a-name-too-long-", "too long"),
        ("bad/name", "cannot be used"),
        ("bad name", "cannot be used"),
        ("%d%d", "cannot be used"),
        ("a%db", "cannot be used"),
        ("", "cannot be used"),
        ("..", "cannot be used"),
        ("%s", "cannot be used"),
        ("tünnel", "cannot be used"),
    ],
)
def test_a_name_that_cannot_be_is_refused_before_anything_is_opened(
    name: str, reason: str
) -> None:
    with pytest.raises(HostError, match=reason):
        open_tap(name)


@sandboxed
def test_a_missing_driver_names_modprobe(tmp_path: Path) -> None:
    mount(tmp_path, Path("/dev/net"))

    with pytest.raises(HostError, match="modprobe tun"):
        open_tap()


@sandboxed
def test_a_device_file_that_is_not_the_driver_is_told(tmp_path: Path) -> None:
    (tmp_path / "tun").write_bytes(b"")
    mount(tmp_path, Path("/dev/net"))

    with pytest.raises(HostError, match="not the TUN driver"):
        open_tap()


@sandboxed
def test_a_node_without_a_driver_behind_it_names_modprobe(tmp_path: Path) -> None:
    os.mknod(tmp_path / "tun", 0o20666, os.makedev(240, 77))
    mount(tmp_path, Path("/dev/net"))

    with pytest.raises(HostError, match="modprobe tun"):
        open_tap()


@sandboxed
def test_without_the_capability_the_next_step_is_named() -> None:
    drop_cap_net_admin()

    with pytest.raises(PrivilegeError, match="CAP_NET_ADMIN") as caught:
        open_tap()
    assert caught.value.failure is Failure.HOST


@sandboxed
def test_without_access_to_the_device_the_next_step_is_named(tmp_path: Path) -> None:
    os.mknod(tmp_path / "tun", 0o20600, os.makedev(10, 200))
    mount(tmp_path, Path("/dev/net"), options="nodev")

    with pytest.raises(PrivilegeError, match="sudo"):
        open_tap()


@sandboxed
def test_a_mac_or_mtu_that_the_kernel_refuses_leaves_no_tap(tmp_path: Path) -> None:
    host = make_host(tmp_path)

    with pytest.raises(HostError, match="mtu"):
        host.open_tap(None, MAC, 70000)
    with pytest.raises(HostError, match="mac"):
        host.open_tap(None, MacAddress.parse("01:00:5e:00:00:01"), 1500)

    assert [link["ifname"] for link in ip_json("link")] == ["lo"]
    host.undo()


@sandboxed
def test_no_router_in_the_hub_configures_this_host(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    tap = host.open_tap(None, MAC, 1500)

    setting = Path(f"/proc/sys/net/ipv6/conf/{tap.name}/accept_ra")
    assert setting.read_text(encoding="ascii").strip() == "0"
    host.undo()


def drop_cap_net_admin() -> None:
    """Take CAP_NET_ADMIN from this thread, which ends with its test."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    data[0] &= ~(1 << 12)
    assert libc.capset(header, data) == 0


# --- offloads ---

_VNET_HDR = 0x4000
_NO_CARRIER = 0x0040


def without(*missing: int) -> Callable[[int], int]:
    """A driver that lacks some features."""
    known = tap_module._features
    mask = ~sum(missing)
    return lambda descriptor: known(descriptor) & mask


@sandboxed
def test_with_offloads_each_packet_bears_a_header_and_a_frame_is_still_a_frame() -> (
    None
):
    tap = open_tap(offload=True)
    ip(f"link set {tap.name} up")
    tap.set_carrier(True)

    assert tap.has_header
    assert tap.notices == ()
    frame = bytes.fromhex("ffffffffffff5e00000000010806") + bytes(46)
    before = received(tap)
    assert tap.write(frame) == len(frame)
    assert received(tap) == before + 1
    tap.close()


def received(tap: Tap) -> int:
    """Frames that the host was given."""
    (link,) = ip_json(f"-s link show {tap.name}")
    return int(link["stats64"]["rx"]["packets"])


@sandboxed
def test_a_driver_without_virtio_headers_gives_a_plain_tap_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tap_module, "_features", without(_VNET_HDR))
    tap = open_tap(offload=True)

    assert not tap.has_header
    assert [notice for notice in tap.notices if "IFF_VNET_HDR" in notice]
    tap.close()


@sandboxed
def test_a_driver_without_a_carrier_switch_still_gives_a_tap_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tap_module, "_features", without(_NO_CARRIER))
    tap = open_tap()

    assert [notice for notice in tap.notices if "IFF_NO_CARRIER" in notice]
    ip(f"link set {tap.name} up")
    assert "LOWER_UP" not in ip_json(f"link show {tap.name}")[0]["flags"]
    tap.set_carrier(True)
    assert "LOWER_UP" in ip_json(f"link show {tap.name}")[0]["flags"]
    tap.close()


@sandboxed
def test_a_driver_that_cannot_switch_the_carrier_is_told_from_one_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tap_module, "_TUNSETCARRIER", 0x400454EE)  # no request at all
    tap = open_tap()

    assert [notice for notice in tap.notices if "TUNSETCARRIER" in notice]
    tap.set_carrier(True)
    monkeypatch.undo()
    ip(f"link del {tap.name}")
    with pytest.raises(InterfaceGoneError):
        tap.set_carrier(True)
    tap.close()


@sandboxed
@pytest.mark.parametrize("request_name", ["_TUNSETVNETHDRSZ", "_TUNSETVNETLE"])
def test_a_driver_that_lets_nobody_choose_the_header_has_the_usual_one(
    monkeypatch: pytest.MonkeyPatch, request_name: str
) -> None:
    monkeypatch.setattr(tap_module, request_name, 0x400454EE)  # no request at all
    tap = open_tap(offload=True)
    ip(f"link set {tap.name} up")
    tap.set_carrier(True)

    assert tap.has_header
    before = received(tap)
    frame = bytes.fromhex("ffffffffffff5e00000000010806") + bytes(46)
    assert tap.write(frame) == len(frame)
    assert received(tap) == before + 1
    tap.close()


@sandboxed
def test_a_driver_that_takes_no_offload_leaves_the_cutting_to_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tap_module, "_TSO", 1 << 30)
    tap = open_tap(offload=True)

    assert tap.has_header
    assert [notice for notice in tap.notices if "TUNSETOFFLOAD" in notice]
    tap.close()
