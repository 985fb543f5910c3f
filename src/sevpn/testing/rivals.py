# SPDX-License-Identifier: Apache-2.0
"""Other VPNs in user space, to compare with: OpenVPN and wireguard-go.

Layer: testing. Runs in: any thread of a test; needs root, /dev/net/tun and
`scripts/peers`, which unpacks them where the host's package sources have them.

Both ends are made alike: two machines, one process and one interface each.

    with Machine("server") as server, Machine("client") as client:
        connect(client, server)
        tunnel = join_by_openvpn(server, client, outer="192.0.2.1", folder=folder)
        assert client.pings(tunnel.server_address)

Source: openvpn(8) of 2.6; wg(8).
"""

from __future__ import annotations

import hashlib
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sevpn.testing.certs import Issued, make_authority
from sevpn.testing.machine import Machine, end, eventually
from sevpn.testing.peers import PEERS, peer_environment

__all__ = [
    "Joined",
    "join_by_openvpn",
    "join_by_wireguard",
    "missing_openvpn",
    "missing_wireguard",
]

_OPENVPN: Final = PEERS / "usr/sbin/openvpn"
_WIREGUARD: Final = PEERS / "usr/bin/wireguard-go"
_WG: Final = PEERS / "usr/bin/wg"


@dataclass(frozen=True, slots=True)
class Joined:
    """Two machines joined by a VPN."""

    server: subprocess.Popen[str]
    """The process of the side that listens."""

    client: subprocess.Popen[str]
    """The process of the side that calls."""

    server_address: str
    """What the server's machine has inside the tunnel."""

    client_address: str
    """What the client's machine has."""

    interface: str
    """The interface's name, on both machines."""

    took_s: float
    """From the start of the client to the first answer."""

    def stop(self) -> None:
        """End both."""
        end(self.client)
        end(self.server)


def missing_openvpn() -> str | None:
    """Return why OpenVPN cannot be used, or `None`."""
    return _missing("openvpn", _OPENVPN)


def missing_wireguard() -> str | None:
    """Return why wireguard-go cannot be used, or `None`."""
    return _missing("wireguard-go", _WIREGUARD) or _missing("wireguard-tools", _WG)


def _missing(package: str, program: Path) -> str | None:
    if program.exists():
        return None
    return f"scripts/peers found no package {package} for this host"


# --- OpenVPN -----------------------------------------------------------------


def join_by_openvpn(
    server: Machine, client: Machine, *, outer: str, folder: Path
) -> Joined:
    """Join two machines by OpenVPN: TAP, UDP, AES-256-GCM; wait until it carries.

    Each end knows the other by the fingerprint of its certificate.

    Args:
        server: Listens on UDP port 1195.
        client: Calls it.
        outer: The server's address as the client sees it.
        folder: Where certificates go; both machines see it.

    Raises:
        AssertionError: It did not start.
    """
    authority = make_authority(folder)
    here, there = authority.issue("openvpn-server"), authority.issue("openvpn-client")
    addresses = ("10.67.0.1", "10.67.0.2")
    listening = ["--tls-server", "--dh", "none", "--lport", "1195"]
    calling = ["--tls-client", "--remote", outer, "1195", "--nobind"]
    listener = _openvpn(server, here, there, addresses[0], listening)
    eventually(
        lambda: ":1195 " in server.sh("ss -lunH"), what="the start of OpenVPN's server"
    )
    began_at = time.monotonic()
    caller = _openvpn(client, there, here, addresses[1], calling)
    took_s = _await_answer((listener, caller), client, addresses[0], began_at)
    return Joined(listener, caller, addresses[0], addresses[1], "ovpn0", took_s)


def _await_answer(
    processes: Sequence[subprocess.Popen[str]],
    client: Machine,
    address: str,
    began_at: float,
) -> float:
    """Wait for the first answer through the tunnel; return how long it took."""
    try:
        eventually(
            lambda: client.pings(address, wait_s=0.3),
            within_s=20,
            what=f"the first answer of {address}",
        )
    except AssertionError:
        for process in processes:
            end(process)
        raise
    return time.monotonic() - began_at


def _openvpn(
    machine: Machine, own: Issued, other: Issued, address: str, words: Sequence[str]
) -> subprocess.Popen[str]:
    return machine.popen(
        [
            *(_OPENVPN, "--dev", "ovpn0", "--dev-type", "tap", "--proto", "udp"),
            *("--cert", own.certificate, "--key", own.key),
            *("--peer-fingerprint", _fingerprint(other.certificate)),
            *("--data-ciphers", "AES-256-GCM", "--disable-dco"),
            *("--ifconfig", address, "255.255.255.0", "--verb", "1", *words),
        ],
        env=peer_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _fingerprint(certificate: Path) -> str:
    """Return SHA-256 of a certificate, as OpenVPN wants it: with colons."""
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    digest = hashlib.sha256(loaded.public_bytes(Encoding.DER)).digest()
    return digest.hex(":").upper()


# --- WireGuard ---------------------------------------------------------------


def join_by_wireguard(server: Machine, client: Machine, *, outer: str) -> Joined:
    """Join two machines by wireguard-go, WireGuard in user space; wait until it carries.

    Args:
        server: Listens on UDP port 51820.
        client: Calls it.
        outer: The server's address as the client sees it.

    Raises:
        AssertionError: It did not start.
    """
    addresses = ("10.66.0.1", "10.66.0.2")
    processes: list[subprocess.Popen[str]] = []
    keys: list[str] = []
    began_at = 0.0
    for machine, address in zip((server, client), addresses, strict=True):
        began_at = time.monotonic()
        processes.append(_wireguard(machine))
        keys.append(_private_key(machine))
        machine.sh(f"ip addr add {address}/24 dev wg0; ip link set wg0 up")
    _wg(server, "listen-port", "51820", "peer", keys[1], "allowed-ips", "10.66.0.2/32")
    calling = ["endpoint", f"{outer}:51820", "allowed-ips", "10.66.0.1/32"]
    _wg(client, "peer", keys[0], *calling)
    took_s = _await_answer(processes, client, addresses[0], began_at)
    return Joined(processes[0], processes[1], addresses[0], addresses[1], "wg0", took_s)


def _wireguard(machine: Machine) -> subprocess.Popen[str]:
    process = machine.popen(
        [_WIREGUARD, "-f", "wg0"],
        env=peer_environment()
        | {"WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD": "1", "LOG_LEVEL": "error"},
        ended_by=signal.SIGKILL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    eventually(
        lambda: machine.run("test", "-S", "/var/run/wireguard/wg0.sock").code == 0,
        what="the start of wireguard-go",
    )
    return process


def _private_key(machine: Machine) -> str:
    """Make the machine's key, and return the public one."""
    machine.write("/run/wg.key", machine.check(_WG, "genkey", env=peer_environment()))
    _wg(machine, "private-key", "/run/wg.key")
    return machine.check(
        _WG, "show", "wg0", "public-key", env=peer_environment()
    ).strip()


def _wg(machine: Machine, *words: str) -> None:
    machine.check(_WG, "set", "wg0", *words, env=peer_environment())
