# SPDX-License-Identifier: Apache-2.0
"""Services for tests to reach: web, names, throughput, passwords.

Layer: testing. Runs in: any thread of a test; needs root, and but for the web
server `scripts/peers`. Each belongs to a machine of testing/machine.py and ends
with it at the latest.

    web = HttpServer(hub.server.machine, "198.51.100.1")
    assert fetch(client.machine, web.url).peer == "198.51.100.50"

    iperf = Iperf3(hub.server.machine, "198.51.100.1")
    assert iperf.measure(client.machine, seconds=2).bits_per_s > 1e8
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import IO, Any, Final

from sevpn.testing.machine import Machine, end, eventually
from sevpn.testing.peers import PEERS, peer_environment

__all__ = [
    "Fetched",
    "HttpServer",
    "Iperf3",
    "NameServer",
    "Radius",
    "Throughput",
    "fetch",
]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A page of :class:`HttpServer`."""

    peer: str
    """The address that the server saw the question come from."""

    size: int
    """Bytes that came."""


class HttpServer:
    """A web server that tells everybody who they are, and sends as much as they like.

    Args:
        machine: Where.
        address: On which of its addresses.
        port: On which port.
    """

    def __init__(self, machine: Machine, address: str, port: int = 80) -> None:
        self.url = f"http://{address}:{port}"
        """Where it is."""
        self._process = machine.popen(
            [sys.executable, "-c", _HTTP_SERVER, address, str(port)]
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            _, reason = self._process.communicate()
            raise AssertionError(f"the web server did not start:\n{reason}")

    def stop(self) -> None:
        """End it."""
        end(self._process)


def fetch(
    machine: Machine, url: str, *, size: int = 0, timeout_s: float = 30.0
) -> Fetched:
    """Ask a :class:`HttpServer` for *size* bytes.

    Raises:
        AssertionError: No answer, or not all of it.
    """
    said = machine.python(
        _HTTP_CLIENT, f"{url}/{size}", str(timeout_s), timeout_s=timeout_s + 5
    )
    peer, count = said.split()
    assert int(count) == size, f"{count} of {size} bytes came from {url}"
    return Fetched(peer, int(count))


_HTTP_SERVER: Final = """
import sys
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        left = int(self.path.strip("/") or 0)
        self.send_response(200)
        self.send_header("X-Peer", self.client_address[0])
        self.send_header("Content-Length", str(left))
        self.end_headers()
        while left > 0:
            left -= self.wfile.write(bytes(min(left, 1 << 16)))

    def log_message(self, *_):
        pass

# Not HTTPServer: it asks the DNS for its own name, which nobody answers here.
ThreadingTCPServer.allow_reuse_address = ThreadingTCPServer.daemon_threads = True
server = ThreadingTCPServer((sys.argv[1], int(sys.argv[2])), Handler)
print("ready", flush=True)
server.serve_forever()
"""

_HTTP_CLIENT: Final = """
import sys
from urllib.request import ProxyHandler, build_opener
opener = build_opener(ProxyHandler({}))
with opener.open(sys.argv[1], timeout=float(sys.argv[2])) as answer:
    count = 0
    while piece := answer.read(1 << 16):
        count += len(piece)
    print(answer.headers["X-Peer"], count)
"""


class NameServer:
    """A name server that answers each question for an IPv4 address alike.

    Args:
        machine: Where.
        address: On which of its addresses; UDP port 53.
        answer: The IPv4 address that all names have.
    """

    def __init__(self, machine: Machine, address: str, answer: str) -> None:
        self._process = machine.popen(
            [sys.executable, "-c", _NAME_SERVER, address, answer],
            stdin=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            _, reason = self._process.communicate()
            raise AssertionError(f"the name server did not start:\n{reason}")

    def asked(self) -> int:
        """Return how many questions have come."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("?\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def stop(self) -> None:
        """End it."""
        end(self._process)


_NAME_SERVER: Final = """
import select, socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 53))
print("ready", flush=True)
count = 0
while True:
    ready, _, _ = select.select([sock, sys.stdin], [], [])
    if sys.stdin in ready:
        if not sys.stdin.readline():
            break
        print(count, flush=True)
        continue
    question, peer = sock.recvfrom(2000)
    count += 1
    end = question.index(b"\\0", 12) + 5
    is_a = question[end - 3] == 1
    head = question[:2] + b"\\x81\\x80\\0\\1\\0" + bytes([is_a]) + b"\\0\\0\\0\\0"
    record = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x1e\\0\\4" + socket.inet_aton(sys.argv[2])
    sock.sendto(head + question[12:end] + (record if is_a else b""), peer)
"""


@dataclass(frozen=True, slots=True)
class Throughput:
    """What iperf3 measured."""

    outbound_bits_per_s: float
    """TCP payload of the client that arrived, bits each second."""

    inbound_bits_per_s: float
    """The same of the server."""

    payload_bytes: int
    """What arrived in all, of both."""

    retransmit_count: int
    """Segments that were sent again; 0 where the receiver was asked."""

    @property
    def bits_per_s(self) -> float:
        """Both directions together."""
        return self.outbound_bits_per_s + self.inbound_bits_per_s


class Iperf3:
    """An iperf3 server.

    Args:
        machine: Where.
        address: On which of its addresses; port 5201.
    """

    def __init__(self, machine: Machine, address: str) -> None:
        self._machine = machine
        self._address = address
        self._is_listening = threading.Event()
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        process = self._machine.popen(
            [_IPERF3, "--server", "--bind", self._address, "--forceflush"],
            env=peer_environment(),
        )
        assert process.stdout is not None
        self._is_listening = threading.Event()
        # What it goes on to say must be read: a full pipe stops its transfers.
        threading.Thread(
            target=_read_on, args=(process.stdout, self._is_listening), daemon=True
        ).start()
        self._await_listening()
        return process

    def prepare(self) -> None:
        """Wait until it takes the next client; called before each.

        After each test it closes its listening socket and opens another; who has
        connected to the old one meanwhile is cut.

        Raises:
            AssertionError: It does not.
        """
        self._await_listening()
        self._is_listening.clear()

    def _await_listening(self) -> None:
        if not self._is_listening.wait(_LISTENING_PATIENCE_S):
            raise AssertionError(f"iperf3 does not listen on {self._address}")

    def measure(
        self,
        client: Machine,
        *,
        seconds: int = 2,
        streams: int = 1,
        is_inbound: bool = False,
        is_both: bool = False,
    ) -> Throughput:
        """Send over TCP from *client*, or *is_inbound* to it, or *is_both* at once.

        Args:
            client: From where.
            seconds: How long.
            streams: TCP connections in each direction.
            is_inbound: The server sends.
            is_both: Both send.

        Raises:
            AssertionError: It did not work; the text is iperf3's.
        """
        argv = [_IPERF3, "--client", self._address, "--json"]
        argv += ["--time", str(seconds), "--parallel", str(streams)]
        argv += ["--bidir"] if is_both else ["--reverse"] if is_inbound else []
        self.prepare()
        done = client.run(*argv, env=peer_environment(), timeout_s=seconds + 45.0)
        said: dict[str, Any] = json.loads(done.out or "{}")
        sums: dict[str, Any] = said.get("end", {})
        if "sum_received" not in sums:
            # It may go on with a test whose client has left, and refuse others.
            end(self._process)
            self._process = self._start()
            raise AssertionError(f"iperf3: {said.get('error', done.err)}")
        ours = sums["sum_received"]
        theirs = sums.get("sum_received_bidir_reverse", _NOTHING)
        if is_inbound and not is_both:
            ours, theirs = theirs, ours
        return Throughput(
            outbound_bits_per_s=ours["bits_per_second"],
            inbound_bits_per_s=theirs["bits_per_second"],
            payload_bytes=ours["bytes"] + theirs["bytes"],
            retransmit_count=sums["sum_sent"].get("retransmits", 0),
        )

    def stop(self) -> None:
        """End it."""
        end(self._process)


def _read_on(said: IO[str], is_listening: threading.Event) -> None:
    with contextlib.suppress(ValueError, OSError):  # closed with its process
        for line in said:
            if "Server listening" in line:
                is_listening.set()


_LISTENING_PATIENCE_S: Final = 20.0
_IPERF3: Final = str(PEERS / "usr/bin/iperf3")
_NOTHING: Final = {"bits_per_second": 0.0, "bytes": 0}


class Radius:
    """FreeRADIUS with one user, for hubs of a server on the same machine.

    Args:
        machine: Where; it listens on 127.0.0.1, UDP 1812.
        user: Who is let in.
        password: With which password.
    """

    SECRET: Final = "shared"  # noqa: S105 - between two programs of one test
    """What the hub and the server share."""

    def __init__(self, machine: Machine, *, user: str, password: str) -> None:
        self._machine = machine
        machine.write("/etc/radius/radiusd.conf", _RADIUS.format(peers=PEERS))
        machine.write(
            "/etc/radius/users", f'{user} Cleartext-Password := "{password}"\n'
        )
        machine.sh("mkdir -p /run/radius")
        self._process = machine.popen(
            [
                PEERS / "usr/sbin/freeradius",
                *("-f", "-l", "/run/radius/log", "-n", "radiusd"),
                *("-d", "/etc/radius", "-D", PEERS / "usr/share/freeradius"),
            ],
            env=peer_environment(),
        )
        eventually(self._is_ready, what="the start of freeradius")

    def _is_ready(self) -> bool:
        said = self._machine.sh("cat /run/radius/log || true")
        assert self._process.poll() is None, f"freeradius has ended:\n{said}"
        return "Ready to process requests" in said

    def log(self) -> str:
        """Return what it has logged: a line for each login, right or wrong."""
        return self._machine.read("/run/radius/log")

    def stop(self) -> None:
        """End it."""
        end(self._process)


_RADIUS: Final = """
libdir = {peers}/usr/lib/freeradius
run_dir = /run/radius
log {{
    destination = files
    file = /run/radius/log
    auth = yes
}}
modules {{
    files {{
        filename = /etc/radius/users
    }}
    pap {{
    }}
}}
client hub {{
    ipaddr = 127.0.0.1
    secret = shared
}}
server lab {{
    listen {{
        type = auth
        ipaddr = 127.0.0.1
        port = 1812
    }}
    authorize {{
        files
        pap
    }}
    authenticate {{
        Auth-Type PAP {{
            pap
        }}
    }}
}}
"""
