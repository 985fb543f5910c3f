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

More of them are in testing/services.py, other VPNs in testing/rivals.py.
"""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sevpn.testing.machine import Machine, end, eventually

__all__ = [
    "PEERS",
    "Capture",
    "Dnsmasq",
    "OfficialClient",
    "Radvd",
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


def _vpncmd(machine: Machine, where: Sequence[str], lines: Sequence[str]) -> str:
    """Run all *lines* in one vpncmd: it starts in 0.2 s and does each at once.

    Raises:
        AssertionError: A line failed; the text shows which.
    """
    if not lines:
        return ""
    script = f"/run/vpncmd-{next(_numbers)}"
    argv: list[str | Path] = [_VPNCMD, *where, f"/IN:{script}"]
    done = machine.run(
        *("sh", "-ec", 'cat > "$1"; shift; exec "$@"', "vpncmd", script),
        *argv,
        env=peer_environment(),
        text="".join(f"{line}\n" for line in lines),
    )
    # Its exit code is that of the last line; a line that fails does not stop it.
    done_count = done.out.count("The command completed successfully.")
    assert done_count == len(lines), f"vpncmd {lines}: {done.out}"
    return done.out


_numbers: Final = itertools.count(1)


class SoftEtherServer:
    """Debian's SoftEther server, started and ready.

    Listens on TCP 443, 992, 1194 and 5555 of its machine. Its flood protection is
    off, since tests connect often.

    Args:
        machine: Where.
        settings: What to change in its configuration file before it is used, each a
            word that stands there once or more:
            `{"IP_TABLE_EXPIRE_TIME_DHCP": "6000", "HUB_ARP_SEND_INTERVAL": "1000"}`
            (milliseconds) makes hubs forget and ask soon.
    """

    def __init__(
        self, machine: Machine, *, settings: Mapping[str, str] | None = None
    ) -> None:
        self.machine = machine
        self.password: str | None = None
        """Of its administrator; set it when the server has one."""
        machine.sh("mkdir -p /var/lib/softether /var/log/softether /run/softether")
        self._process = self._start()
        self._configure({"DisableDos": "true"} | dict(settings or {}))

    def _start(self) -> subprocess.Popen[str]:
        process = self.machine.popen(
            [_SERVER, "execsvc"],
            env=peer_environment(),
            # Told politely, its worker takes half a minute (5.01.9674).
            ended_by=signal.SIGKILL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(
            lambda: {443, 5555} <= _listening_ports(self.machine),
            within_s=_START_S,
            what="the start of vpnserver",
        )
        return process

    def _configure(self, settings: Mapping[str, str]) -> None:
        """Change what only the configuration file can; it is read at the start."""
        self.kill()
        path = "/var/lib/softether/vpn_server.config"
        text = self.machine.read(path)
        for name, value in settings.items():
            text, count = re.subn(rf"(?m)^(\s*\w+ {name}) .*$", rf"\g<1> {value}", text)
            assert count, f"the configuration knows no {name}"
        self.machine.write(path, text)
        self.start()

    # --- life ---

    def stop(self) -> None:
        """Tell it to end, and end what is left of it after some seconds."""
        self.command("Flush")
        end(self._process)

    def kill(self) -> None:
        """End it at once; its configuration has been saved, its sessions learn nothing."""
        self.command("Flush")
        end(self._process, signal.SIGKILL)

    def start(self) -> None:
        """Start it again, with what it had configured."""
        self._process = self._start()

    @property
    def worker_pid(self) -> int:
        """The process that does the work: a child of the one that is started."""
        return _worker(self._process)

    # --- administration ---

    def command(self, *lines: str, hub: str | None = None) -> str:
        """Run lines of vpncmd, on a hub or on the server, and return what it says.

        Raises:
            AssertionError: A line failed.
        """
        where = ["127.0.0.1:5555", "/SERVER"]
        if hub is not None:
            where.append(f"/ADMINHUB:{hub}")
        if self.password is not None:
            where.append(f"/PASSWORD:{self.password}")
        return _vpncmd(self.machine, where, lines)

    def create_hub(
        self,
        hub: str,
        *,
        securenat: bool = False,
        users: Mapping[str, str | None] | None = None,
    ) -> None:
        """Make a hub, in 0.2 s whatever is in it.

        Args:
            hub: Its name.
            securenat: With DHCP and the gateway 192.168.30.1.
            users: Passwords by name; `None`: an anonymous one.
        """
        lines = [f"HubCreate {hub} /PASSWORD:hub", f"Hub {hub}"]
        if securenat:
            lines.append("SecureNatEnable")
        for user, password in (users or {}).items():
            lines += _user_lines(user, password)
        self.command(*lines)

    def create_user(self, hub: str, user: str, *, password: str | None = None) -> None:
        """Make a user with a password, or an anonymous one."""
        self.command(*_user_lines(user, password), hub=hub)

    def create_radius_user(
        self, hub: str, user: str, *, server: str, secret: str
    ) -> None:
        """Make a user whose password a RADIUS server knows; the hub has one such server."""
        self.command(
            f"RadiusServerSet {server} /SECRET:{secret} /RETRY_INTERVAL:1000",
            *_user_lines(user, None),
            f"UserRadiusSet {user} /ALIAS:none",
            hub=hub,
        )

    def create_certificate_user(self, hub: str, user: str, certificate: Path) -> None:
        """Make a user who is known by a certificate: a PEM file of the host."""
        self.command(
            *_user_lines(user, None),
            f"UserCertSet {user} /LOADCERT:{certificate}",
            hub=hub,
        )

    def set_policy(self, hub: str, user: str, **policy: str) -> None:
        """Set policies of a user: `DHCPForce="yes"`, `MultiLogins="1"`."""
        self.command(
            *(
                f"UserPolicySet {user} /NAME:{name} /VALUE:{value}"
                for name, value in policy.items()
            ),
            hub=hub,
        )

    def set_dhcp(
        self,
        hub: str,
        *,
        pool: tuple[str, str] = ("192.168.30.10", "192.168.30.200"),
        expire_s: int = 7200,
        gateway: str = "192.168.30.1",
        dns: tuple[str, str] = ("192.168.30.1", "none"),
        domain: str = "none",
        routes: Sequence[str] = (),
    ) -> None:
        """Set what SecureNAT's DHCP server says, in the network 192.168.30.0/24.

        Args:
            hub: Which hub.
            pool: First and last address.
            expire_s: Time of a lease, seconds; 15 at least.
            gateway: The router, or `none`.
            dns: Two name servers, or `none`.
            domain: The domain, or `none`.
            routes: Option 121, each `10.9.0.0/255.255.0.0/192.168.30.1`.
        """
        self.command(
            f"DhcpSet /START:{pool[0]} /END:{pool[1]} /MASK:255.255.255.0"
            f" /EXPIRE:{expire_s} /GW:{gateway} /DNS:{dns[0]} /DNS2:{dns[1]}"
            f" /DOMAIN:{domain} /LOG:no /PUSHROUTE:{','.join(routes)}",
            hub=hub,
        )

    def set_online(self, hub: str, *, is_online: bool) -> None:
        """Take a hub offline, which ends its sessions, or online again."""
        self.command("Online" if is_online else "Offline", hub=hub)

    def bridge_tap(self, hub: str, device: str, address: str) -> str:
        """Bridge the hub to a new TAP of the server's machine; return its name.

        The network is this TAP's alone from now on: another test's TAP that is left
        with it would take the answers.

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
        self.machine.sh(
            f"ip addr flush to {address}; ip addr add {address} dev {name}; ip link set {name} up"
        )
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
        """Use another certificate: PEM files of the host, with a key of RSA."""
        self.command(f"ServerCertSet /LOADCERT:{certificate} /LOADKEY:{key}")


class OfficialClient:
    """Debian's SoftEther client, started and ready."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        machine.sh("mkdir -p /var/lib/softether /var/log/softether /run/softether")
        self._process = machine.popen(
            [_CLIENT, "execsvc"],
            env=peer_environment(),
            ended_by=signal.SIGKILL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self._answers, within_s=_START_S, what="the start of vpnclient")

    @property
    def pid(self) -> int:
        """The process that was started; a child of it does the work."""
        return self._process.pid

    @property
    def worker_pid(self) -> int:
        """The process that does the work."""
        return _worker(self._process)

    def _answers(self) -> bool:
        done = self.machine.run(
            *(_VPNCMD, "127.0.0.1", "/CLIENT", "/CMD", "VersionGet"),
            env=peer_environment(),
        )
        return done.code == 0

    def command(self, *lines: str) -> str:
        """Run lines of vpncmd and return what it says.

        Raises:
            AssertionError: A line failed.
        """
        return _vpncmd(self.machine, ["127.0.0.1", "/CLIENT"], lines)

    def connect(
        self,
        *,
        server: str,
        hub: str,
        user: str,
        password: str = "",
        proof: str | None = None,
        details: str = "/MAXTCP:1 /INTERVAL:1 /TTL:0 /HALF:no /BRIDGE:no /MONITOR:no /NOTRACK:no /NOQOS:yes /DISABLEUDP:yes",
    ) -> str:
        """Connect, and return the name of the interface.

        Args:
            server: Where, with its port.
            hub: Which hub.
            user: Who.
            password: By which password.
            proof: Another way to log in: a line of vpncmd about the account t1.
            details: What `AccountDetailSet` is told.
        """
        self.command(
            "NicCreate se0",
            f"AccountCreate t1 /SERVER:{server} /HUB:{hub} /USERNAME:{user} /NICNAME:se0",
            proof or f"AccountPasswordSet t1 /PASSWORD:{password} /TYPE:standard",
            f"AccountDetailSet t1 {details}",
            "AccountConnect t1",
        )
        eventually(self.is_connected, within_s=15, what="the client's connection")
        return "vpn_se0"

    def is_connected(self) -> bool:
        """Whether the account is connected; it may be connecting instead."""
        listed = self.command("AccountList")
        return re.search(r"(?m)^Status\s*\|Connected\s*$", listed) is not None

    def disconnect(self) -> None:
        """Leave the hub; the interface stays."""
        self.command("AccountDisconnect t1")

    def status(self) -> dict[str, str]:
        """Return what `AccountStatusGet` tells of the connection, name by name."""
        said = self.command("AccountStatusGet t1")
        rows = (line.partition("|") for line in said.splitlines() if "|" in line)
        return {name.strip(): value.strip() for name, _, value in rows}

    def stop(self) -> None:
        """End it at once."""
        end(self._process, signal.SIGKILL)


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
            words[2]
            for words in map(str.split, self.machine.read(self._leases).splitlines())
            if len(words) > 2  # the server's own identifier stands there, too
        ]

    def stop(self) -> None:
        """End it."""
        end(self._process)


class Radvd:
    """A router of IPv6 on an interface, which says a few things every few seconds.

    Args:
        machine: Where.
        interface: On which interface.
        says: What stands in its configuration for the interface:
            `prefix 2001:db8:5::/64 {};`.
    """

    _numbers = itertools.count()

    def __init__(self, machine: Machine, interface: str, says: str) -> None:
        number = next(self._numbers)
        config = f"/run/radvd-{number}.conf"
        machine.write(
            config,
            f"interface {interface} {{ AdvSendAdvert on; MinRtrAdvInterval 3; "
            f"MaxRtrAdvInterval 4; {says} }};\n",
        )
        self._process = machine.popen(
            [
                PEERS / "usr/sbin/radvd",
                *("--nodaemon", "--config", config, "--logmethod", "none"),
                *("--pidfile", f"/run/radvd-{number}.pid"),
            ],
            env=peer_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def stop(self) -> None:
        """End it; it says that it is no router any more."""
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
        self._process.send_signal(signal.SIGINT)
        out, _ = self._process.communicate(timeout=30)
        return [line for line in out.splitlines() if line]


def _worker(process: subprocess.Popen[str]) -> int:
    """Return the process that works: `execsvc` forks one child."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return int(children.split()[0]) if children.split() else process.pid


def _user_lines(user: str, password: str | None) -> list[str]:
    """Return the lines that make a user, inside a hub."""
    return [
        f"UserCreate {user} /GROUP:none /REALNAME:none /NOTE:none",
        f"UserAnonymousSet {user}"
        if password is None
        else f"UserPasswordSet {user} /PASSWORD:{password}",
    ]


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
