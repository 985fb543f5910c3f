# SPDX-License-Identifier: Apache-2.0
"""The name servers of the network underneath."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from sevpn.net.dns.uplink import MAX_UPLINK_SERVERS, host_names, uplink_servers


def lay(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


OURS = "# sevpn tunnel office: written by sevpn\nnameserver 10.0.0.1\n"


@pytest.mark.parametrize(
    ("files", "servers"),
    [
        ({"etc/resolv.conf": "nameserver 192.0.2.1\n"}, ["192.0.2.1"]),
        (
            {
                "etc/resolv.conf": OURS,
                "etc/.resolv.conf.sevpn-saved": "nameserver 192.0.2.1\nnameserver 2001:db8::1\n",
            },
            ["192.0.2.1", "2001:db8::1"],
        ),
        (
            {
                "etc/resolv.conf": "nameserver 127.0.0.53\n",
                "run/systemd/resolve/resolv.conf": "nameserver 10.0.0.1\nnameserver 192.0.2.1\n",
            },
            ["192.0.2.1"],
        ),
        (
            {
                "etc/resolv.conf": "nameserver 127.0.0.1\n",
                "run/resolvconf/interfaces/eth0.dhcp": "nameserver 192.0.2.1\n",
                "run/resolvconf/interfaces/tun.sevpn.office": "nameserver 10.9.9.9\n",
            },
            ["192.0.2.1"],
        ),
        ({"etc/resolv.conf": "nameserver nonsense\nnameserver\nsearch a\n"}, []),
        ({}, []),
    ],
    ids=["plain", "ours", "resolved", "resolvconf", "nonsense", "nothing"],
)
def test_those_of_before_the_tunnel_are_found(
    tmp_path: Path, files: dict[str, str], servers: list[str]
) -> None:
    lay(tmp_path, files)

    found = uplink_servers(
        tmp_path / "etc", ours=[ip_address("10.0.0.1")], root=tmp_path
    )

    assert [str(server) for server in found] == servers


def test_no_more_are_asked_than_anybody_needs(tmp_path: Path) -> None:
    lines = [f"nameserver 192.0.2.{number}\n" for number in range(1, 30)]
    lay(tmp_path, {"etc/resolv.conf": "".join(lines)})

    assert len(uplink_servers(tmp_path / "etc", root=tmp_path)) == MAX_UPLINK_SERVERS


def test_names_of_the_hosts_file_need_no_question(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {"hosts": "127.0.0.1 localhost\n192.0.2.7 VPN.test vpn # ours\nnonsense a\n\n"},
    )

    assert host_names(tmp_path) == {
        "localhost": [ip_address("127.0.0.1")],
        "vpn.test": [ip_address("192.0.2.7")],
        "vpn": [ip_address("192.0.2.7")],
    }
