# SPDX-License-Identifier: Apache-2.0
"""Real managers of name servers on a machine: systemd-resolved, openresolv, Debian's resolvconf.

Layer: testing. Runs in: any thread of a test; needs root and `scripts/peers`. They
end with the machine of testing/machine.py at the latest; this host's own resolver,
bus and resolv.conf are not touched.

    with Machine("client") as machine:
        resolved = SystemdResolved(machine, uplink={"eth0": "192.0.2.53"})
        machine.run("sevpn", "up", …)
        assert resolved.servers("sevpn0") == ["10.0.0.1"]

A tree of `scripts/peers` lies over the machine's /usr, so that each program is
where its package would have put it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sevpn.testing.machine import Finished, Machine, eventually
from sevpn.testing.peers import PEERS, peer_environment

__all__ = ["DebianResolvconf", "Openresolv", "SystemdResolved", "start_system_bus"]

RESOLVERS: Final = PEERS.parent / "resolvers"
"""Where `scripts/peers` unpacks them, a tree for each."""

_BUS: Final = """
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>
</busconfig>
"""
"""Everybody may do everything: who may is polkit's business, which is not here."""

_RESOLVED_CONF: Final = """
[Resolve]
DNS=
FallbackDNS=
LLMNR=no
MulticastDNS=no
DNSSEC=no
DNSOverTLS=no
ReadEtcHosts=no
"""


class Openresolv:
    """openresolv, with the name servers of an uplink.

    Args:
        machine: Where.
        uplink: The server of each interface.
    """

    def __init__(self, machine: Machine, *, uplink: Mapping[str, str]) -> None:
        self._machine = machine
        _lay_over(machine, RESOLVERS / "openresolv")
        for interface, server in uplink.items():
            self.add(interface, server)

    def add(self, interface: str, server: str) -> None:
        """Tell it of an interface, as a DHCP client would."""
        self._machine.check(
            "resolvconf", "-a", interface, text=f"nameserver {server}\n"
        )

    def entries(self) -> list[str]:
        """Return the names of all entries."""
        return self._machine.run("resolvconf", "-i").out.split()


class DebianResolvconf:
    """Debian's resolvconf, with the name servers of an uplink.

    Args:
        machine: Where.
        uplink: The server of each interface.
    """

    def __init__(self, machine: Machine, *, uplink: Mapping[str, str]) -> None:
        self._machine = machine
        _lay_over(machine, RESOLVERS / "resolvconf")
        machine.sh(
            "mkdir -p /run/resolvconf/interface; resolvconf --enable-updates;"
            "ln -sf /run/resolvconf/resolv.conf /etc/resolv.conf; resolvconf -u"
        )
        for interface, server in uplink.items():
            self.add(interface, server)

    def add(self, interface: str, server: str) -> None:
        """Tell it of an interface, as a DHCP client would."""
        self._machine.check(
            "resolvconf", "-a", f"{interface}.dhclient", text=f"nameserver {server}\n"
        )

    def entries(self) -> list[str]:
        """Return the names of all entries."""
        return self._machine.check("resolvconf", "-i").split()


class SystemdResolved:
    """systemd-resolved on a bus of its own, with the name servers of an uplink.

    Args:
        machine: Where.
        uplink: The server of each interface.
    """

    def __init__(self, machine: Machine, *, uplink: Mapping[str, str]) -> None:
        self._machine = machine
        _lay_over(machine, RESOLVERS / "systemd-resolved")
        machine.write("/etc/systemd/resolved.conf", _RESOLVED_CONF, mode="644")
        machine.sh(
            "grep -q '^systemd-resolve:' /etc/passwd ||"
            " echo 'systemd-resolve:x:997:997::/:/usr/sbin/nologin' >> /etc/passwd;"
            "grep -q '^systemd-resolve:' /etc/group || echo 'systemd-resolve:x:997:' >> /etc/group;"
            "install -d -o systemd-resolve -g systemd-resolve /run/systemd /run/systemd/resolve"
        )
        start_system_bus(machine)
        self._process: subprocess.Popen[str] | None = None
        self.start()
        machine.sh("ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf")
        for interface, server in uplink.items():
            self.ctl("dns", interface, server)
            self.ctl("default-route", interface, "yes")

    def start(self) -> None:
        """Start the daemon, and wait until it answers."""
        self._process = self._machine.popen(
            ["/usr/lib/systemd/systemd-resolved"],
            env=_libraries(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(
            lambda: self._ctl("status").code == 0, what="the start of systemd-resolved"
        )

    def stop(self) -> None:
        """End the daemon; the bus stays."""
        assert self._process is not None
        self._machine.end(self._process)
        self._process = None

    def ctl(self, *words: str) -> str:
        """Return what `resolvectl WORDS` says."""
        done = self._ctl(*words)
        assert done.code == 0, f"resolvectl {words}: {done.err}"
        return done.out

    def servers(self, interface: str) -> list[str]:
        """Return the name servers of an interface; none when there is no such one."""
        return _values(self._ctl("dns", interface).out)

    def domains(self, interface: str) -> list[str]:
        """Return its domains, those that are only routed with `~`."""
        return _values(self._ctl("domain", interface).out)

    def is_default(self, interface: str) -> bool:
        """Whether names without a domain's link go there, too."""
        return _values(self._ctl("default-route", interface).out) == ["yes"]

    def query(self, name: str) -> str:
        """Return the address that the host's programs get for *name*; empty: none."""
        done = self._ctl("query", "--legend=no", "--cache=no", "-4", name)
        return done.out.split()[1] if done.code == 0 else ""

    def _ctl(self, *words: str) -> Finished:
        return self._machine.run("/usr/bin/resolvectl", *words, env=_libraries())


def start_system_bus(machine: Machine) -> None:
    """Start a system bus of the machine's own, on which everybody may do everything."""
    machine.write("/run/dbus/system.conf", _BUS, mode="644")
    machine.popen(
        [
            _dbus_daemon(),
            "--config-file=/run/dbus/system.conf",
            "--nofork",
            "--nopidfile",
        ],
        env=peer_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    eventually(
        lambda: machine.run("test", "-S", "/run/dbus/system_bus_socket").code == 0,
        what="the start of the bus",
    )


def _values(line: str) -> list[str]:
    """Return what follows `Link 3 (eth0):`."""
    return line.partition("):")[2].split()


def _lay_over(machine: Machine, tree: Path) -> None:
    """Put the programs and files of *tree* where a package would have put them."""
    assert tree.exists(), f"{tree} is not there: run scripts/peers"
    for folder in ("usr/bin", "usr/sbin", "usr/lib"):
        if (tree / folder).exists():
            machine.check(
                *("mount", "-t", "overlay", "overlay"),
                *("-o", f"ro,lowerdir={tree / folder}:/{folder}", f"/{folder}"),
            )
    machine.sh(f"[ ! -d {tree}/etc ] || cp -a {tree}/etc/. /etc/")


def _dbus_daemon() -> Path:
    own = PEERS / "usr/bin/dbus-daemon"
    return own if own.exists() else Path("/usr/bin/dbus-daemon")


def _libraries() -> dict[str, str]:
    folders = sorted(
        (RESOLVERS / "systemd-resolved" / "usr/lib").glob("*-linux-gnu*/systemd")
    )
    return {"LD_LIBRARY_PATH": ":".join(map(str, folders)), "SYSTEMD_LOG_LEVEL": "info"}
