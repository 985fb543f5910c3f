# SPDX-License-Identifier: Apache-2.0
"""The real programs that tests talk to, run on machines of testing/machine.py.

Layer: testing. Runs in: any thread of a test; needs root and `scripts/peers`.

The programs are Debian's, unpacked into .cache/peers and never installed: the
SoftEther server and client, dnsmasq, iperf3, tcpdump, freeradius. Each writes only
to the private /var and /run of the machine that it runs on.

    with Machine("server") as machine:
        server = SoftEtherServer(machine)
        server.create_hub("TEST", securenat=True)
        server.create_user("TEST", "alice", password="secret")
"""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sevpn.testing.machine import Machine, end, eventually

__all__ = [
    "PEERS",
    "Capture",
    "Dnsmasq",
    "OfficialClient",
    "SoftEtherServer",
    "missing_peers",
    "peer_environment",
]

PEERS: Final = Path(__file__).parents[3] / ".cache" / "peers" / "root"
"""Where `scripts/peers` unpacks; a checkout's own folder."""

_SERVER: Final = PEERS / "usr/libexec/softether/vpnserver/vpnserver"
_CLIENT: Final = PEERS / "usr/libexec/softether/vpnclient/vpnclient"
_VPNCMD: Final = PEERS / "usr/libexec/softether/vpncmd/vpncmd"
_START_S: Final = 20.0


def missing_peers() -> str | None:
    """Return why the peers cannot be used, or `None`."""
    if not (PEERS.parent / "stamp").exists():
        return "the test peers are not there: run scripts/peers"
    return None


def peer_environment() -> dict[str, str]:
    """Return what a peer needs in its environment to find its libraries."""
    libraries = [str(path) for path in sorted(PEERS.glob("usr/lib/*-linux-gnu*"))]
    libraries.append(str(PEERS / "usr/lib/freeradius"))
    return {"LC_ALL": "C", "LD_LIBRARY_PATH": ":".join(libraries)}


class SoftEtherServer:
    """Debian's SoftEther server, started and ready.

    Listens on TCP 443, 992, 1194 and 5555 of its machine. Its flood protection is
    off, since tests connect often.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        machine.sh("mkdir -p /var/lib/softether /var/log/softether /run/softether")
        self._process = self._start()
        self._edit_configuration()

    def _start(self) -> subprocess.Popen[str]:
        process = self.machine.popen(
            [_SERVER, "execsvc"],
            env=peer_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(
            lambda: {443, 5555} <= _listening_ports(self.machine),
            within_s=_START_S,
            what="the start of vpnserver",
        )
        return process

    def _edit_configuration(self) -> None:
        """Turn the flood protection off, which only the configuration file can."""
        path = "/var/lib/softether/vpn_server.config"
        self.stop()
        text = self.machine.read(path)
        text = text.replace("bool DisableDos false", "bool DisableDos true")
        self.machine.write(path, text)
        self._process = self._start()

    # --- life ---

    def stop(self) -> None:
        """End it as an administrator does; it says goodbye to nobody."""
        end(self._process)

    def kill(self) -> None:
        """End it at once."""
        end(self._process, 9)

    def start(self) -> None:
        """Start it again, with what it had configured."""
        self._process = self._start()

    # --- administration ---

    def command(self, *lines: str, hub: str | None = None) -> str:
        """Run vpncmd and return what it says.

        Raises:
            AssertionError: A command failed.
        """
        out = ""
        for line in lines:
            argv: list[str | Path] = [_VPNCMD, "127.0.0.1:5555", "/SERVER"]
            if hub is not None:
                argv.append(f"/ADMINHUB:{hub}")
            argv += ["/CMD", *_words(line)]
            done = self.machine.run(*argv, env=peer_environment(), timeout_s=30)
            assert done.code == 0, f"vpncmd {line}: {done.out}"
            out += done.out
        return out

    def create_hub(self, hub: str, *, securenat: bool = False) -> None:
        """Make a hub, with or without SecureNAT (DHCP, gateway 192.168.30.1)."""
        self.command(f"HubCreate {hub} /PASSWORD:hub")
        if securenat:
            self.command("SecureNatEnable", hub=hub)

    def create_user(self, hub: str, user: str, *, password: str | None = None) -> None:
        """Make a user with a password, or an anonymous one."""
        self.command(
            f"UserCreate {user} /GROUP:none /REALNAME:none /NOTE:none", hub=hub
        )
        if password is None:
            self.command(f"UserAnonymousSet {user}", hub=hub)
        else:
            self.command(f"UserPasswordSet {user} /PASSWORD:{password}", hub=hub)

    def set_policy(self, hub: str, user: str, **policy: str) -> None:
        """Set policies of a user: `DHCPForce="yes"`, `MultiLogins="1"`."""
        for name, value in policy.items():
            self.command(f"UserPolicySet {user} /NAME:{name} /VALUE:{value}", hub=hub)

    def bridge_tap(self, hub: str, device: str, address: str) -> str:
        """Bridge the hub to a new TAP of the server's machine; return its name.

        Args:
            hub: Which hub.
            device: Eleven letters at most.
            address: What the TAP gets, as CIDR.
        """
        self.command(f"BridgeCreate {hub} /DEVICE:{device} /TAP:yes")
        name = f"tap_{device}"
        eventually(
            lambda: any(link["ifname"] == name for link in self.machine.ip("link")),
            what=f"interface {name}",
        )
        self.machine.sh(f"ip addr add {address} dev {name}; ip link set {name} up")
        return name

    def sessions(self, hub: str) -> list[str]:
        """Return the names of the clients' sessions on a hub."""
        return re.findall(
            r"SID-(?!SECURENAT|LOCALBRIDGE)\S+", self.command("SessionList", hub=hub)
        )

    def disconnect(self, hub: str, session: str) -> None:
        """Throw a session out."""
        self.command(f"SessionDisconnect {session}", hub=hub)

    def certificate_sha256(self) -> str:
        """Return the fingerprint of its certificate, as `--pin` takes it."""
        script = (
            "import hashlib, ssl; pem = ssl.get_server_certificate(('127.0.0.1', 443));"
            "print(hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest())"
        )
        return "sha256:" + self.machine.python(script).strip()

    def set_certificate(self, certificate: Path, key: Path) -> None:
        """Use another certificate (PEM files of the host)."""
        self.command(f"ServerCertSet /LOADCERT:{certificate} /LOADKEY:{key}")


class OfficialClient:
    """Debian's SoftEther client, started and ready."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        machine.sh("mkdir -p /var/lib/softether /var/log/softether /run/softether")
        self._process = machine.popen(
            [_CLIENT, "execsvc"],
            env=peer_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(
            lambda: (
                machine.run(
                    _VPNCMD,
                    "127.0.0.1",
                    "/CLIENT",
                    "/CMD",
                    "VersionGet",
                    env=peer_environment(),
                ).code
                == 0
            ),
            within_s=_START_S,
            what="the start of vpnclient",
        )

    def command(self, line: str) -> str:
        """Run vpncmd and return what it says.

        Raises:
            AssertionError: The command failed.
        """
        done = self.machine.run(
            _VPNCMD,
            "127.0.0.1",
            "/CLIENT",
            "/CMD",
            *_words(line),
            env=peer_environment(),
        )
        assert done.code == 0, f"vpncmd {line}: {done.out}"
        return done.out

    def connect(
        self,
        *,
        server: str,
        hub: str,
        user: str,
        password: str,
        details: str = "/MAXTCP:1 /INTERVAL:1 /TTL:0 /HALF:no /BRIDGE:no /MONITOR:no /NOTRACK:no /NOQOS:yes /DISABLEUDP:yes",
    ) -> str:
        """Connect, and return the name of the interface."""
        self.command("NicCreate se0")
        self.command(
            f"AccountCreate t1 /SERVER:{server} /HUB:{hub} /USERNAME:{user} /NICNAME:se0"
        )
        self.command(f"AccountPasswordSet t1 /PASSWORD:{password} /TYPE:standard")
        self.command(f"AccountDetailSet t1 {details}")
        self.command("AccountConnect t1")
        eventually(
            lambda: "Connected" in self.command("AccountList"),
            within_s=15,
            what="the official client's connection",
        )
        return "vpn_se0"

    def stop(self) -> None:
        """End it."""
        end(self._process)


class Dnsmasq:
    """A DHCP (and DNS) server on an interface.

    Args:
        machine: Where.
        interface: On which interface.
        options: More of dnsmasq's long options, without the dashes:
            `dhcp-option=121,10.9.0.0/16,198.51.100.1`.
    """

    _numbers = itertools.count()

    def __init__(
        self, machine: Machine, interface: str, options: Sequence[str]
    ) -> None:
        self.machine = machine
        self._leases = f"/run/dnsmasq-{next(self._numbers)}.leases"
        self._process = machine.popen(
            [
                PEERS / "usr/sbin/dnsmasq",
                "--keep-in-foreground",
                "--user=root",
                "--conf-file=/dev/null",
                "--pid-file=",
                "--no-resolv",
                "--no-hosts",
                # Its check by ping holds the first offer back for three seconds.
                "--no-ping",
                "--bind-interfaces",
                f"--interface={interface}",
                "--except-interface=lo",
                f"--dhcp-leasefile={self._leases}",
                "--log-dhcp",
                "--log-facility=-",
                *(f"--{option}" for option in options),
            ],
            env=peer_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(
            lambda: machine.run("test", "-e", self._leases).code == 0,
            what="the start of dnsmasq",
        )

    def leases(self) -> list[str]:
        """Return the addresses that are leased."""
        return [
            line.split()[2]
            for line in self.machine.read(self._leases).splitlines()
            if line.strip()
        ]

    def stop(self) -> None:
        """End it."""
        end(self._process)


@dataclass
class Capture:
    """tcpdump on one interface, from now until :meth:`stop`."""

    machine: Machine
    """Where."""

    interface: str
    """On which interface."""

    expression: str = ""
    """What counts, in tcpdump's words; all if empty."""

    def __post_init__(self) -> None:
        """Start it."""
        self._process = self.machine.popen(
            [
                PEERS / "usr/bin/tcpdump",
                *("-Z", "root", "-n", "-l", "-e", "--immediate-mode"),
                *("-i", self.interface, self.expression),
            ],
            env=peer_environment(),
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if line.startswith("listening on"):
                return
        raise AssertionError(f"tcpdump does not run on {self.interface}")

    def stop(self) -> list[str]:
        """End it and return a line for each packet."""
        self._process.send_signal(2)
        out, _ = self._process.communicate(timeout=10)
        return out.splitlines()


def _words(line: str) -> list[str]:
    return line.split()


def _listening_ports(machine: Machine) -> set[int]:
    """Return the TCP ports that somebody listens on."""
    ports: set[int] = set()
    for line in (
        machine.read("/proc/net/tcp").splitlines()[1:]
        + machine.read("/proc/net/tcp6").splitlines()[1:]
    ):
        fields = line.split()
        if fields[3] == "0A":
            ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports
