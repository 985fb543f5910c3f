# SPDX-License-Identifier: Apache-2.0
"""The stage of `sevpn demo`: two private namespaces with a cable between them.

Layer: cli. Runs in: processes of its own, one thread each (the server's has two).

    this host, untouched
      └─ demo process: private network and mounts     the client's side
           eth0 192.0.2.2 ═══ veth ═══ eth0 192.0.2.1
             └─ child: one more private network       the server's side
                  embedded server on port 443
                  hub DEMO ── virtual gateway 10.77.0.254: DHCP, names
                           └─ TAP 10.77.0.1 ── web server `files.demo`

All of it is gone when the processes are: there is nothing to remove.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import os
import secrets
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Generator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Final

from sevpn.config.secret import Secret
from sevpn.errors import HostError
from sevpn.net.namespace import (
    cover_folder,
    enter_private_namespaces,
    overlay_folder,
    unshare_network,
)
from sevpn.server.config import (
    DhcpConfig,
    HubConfig,
    ServerConfig,
    StoredPassword,
    TapConfig,
    User,
)
from sevpn.server.server import Server

__all__ = ["BULK_BYTES", "SERVER", "URL", "Stage", "raise_stage"]

SERVER: Final = "192.0.2.1"
"""The server's address outside the tunnel."""

URL: Final = "http://files.demo"
"""What is only reachable through the tunnel, by a name that only its DNS knows."""

BULK_BYTES: Final = 64 * 1024 * 1024
"""How much the bulk transfer moves: a second or two in pure Python."""

_NOWHERE: Final = "192.0.2.254"
_GATEWAY: Final = IPv4Interface("10.77.0.254/24")
_FILES: Final = IPv4Interface("10.77.0.1/24")
_CHUNK: Final = bytes(1024 * 1024)
_PATIENCE_S: Final = 10


@dataclass(frozen=True, slots=True)
class Stage:
    """What the play needs to know, and how it talks to the server's side."""

    pin: str
    """The server's certificate, as `--pin` takes it."""

    password: str
    """Of user `demo`."""

    has_private_etc: bool
    """Whether name servers can be set here; some kernels allow that to root alone."""

    orders: int
    """Descriptor: one byte written here cuts the client's connection at the server."""

    def cut(self) -> None:
        """Let the server reset the client's connection."""
        os.write(self.orders, b"c")


@contextlib.contextmanager
def raise_stage() -> Generator[Stage]:
    """Move this process onto the stage; the server's side ends with the block.

    Raises:
        PrivilegeError: The kernel allows no private namespaces; says what to do.
        HostError: Something else of the stage cannot be made.
    """
    enter_private_namespaces()
    cover_folder(Path("/run"))
    has_private_etc = _make_etc_private()
    _run("ip", "link", "set", "lo", "up")
    password = secrets.token_hex(8)
    told_reading, told_writing = os.pipe()
    orders_reading, orders_writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told_reading)
        os.close(orders_writing)
        _be_server(password, told_writing, orders_reading)
    os.close(told_writing)
    os.close(orders_reading)
    try:
        with os.fdopen(told_reading, "r") as told:
            _expect(told.readline(), "namespace")
            _lay_cable(child)
            os.write(orders_writing, b"s")
            pin = _expect(told.readline(), "pin")
        yield Stage(pin, password, has_private_etc, orders_writing)
    finally:
        os.close(orders_writing)  # the server's side ends when nobody gives orders
        os.waitpid(child, 0)


def _make_etc_private() -> bool:
    try:
        overlay_folder(Path("/etc"), memory=Path("/run/etc"))
    except HostError:
        return False
    # Whatever resolv.conf is on this host, here it is a plain file.
    path = Path("/etc/resolv.conf")
    path.unlink(missing_ok=True)
    path.write_text("nameserver 192.0.2.53\n")
    return True


def _lay_cable(child: int) -> None:
    _run(
        "ip",
        "link",
        "add",
        "eth0",
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        str(child),
    )
    _run("ip", "address", "add", "192.0.2.2/24", "dev", "eth0")
    _run("ip", "link", "set", "eth0", "up")
    # To nobody: what gets an answer has come through the tunnel.
    _run("ip", "route", "add", "default", "via", _NOWHERE)


def _expect(line: str, what: str) -> str:
    words = line.split()
    if not words or words[0] != what:
        raise HostError(
            f"the server's side of the demo did not start: {line.strip() or 'it ended'}",
            operation="demo-server",
        )
    return words[-1]


def _run(*argv: str) -> None:
    try:
        subprocess.run(argv, check=True, capture_output=True, timeout=_PATIENCE_S)
    except FileNotFoundError as error:
        raise HostError(
            f"{argv[0]} is missing: apt-get install iproute2", operation="demo-network"
        ) from error
    except subprocess.SubprocessError as error:
        raise HostError(
            f"{' '.join(argv)} failed: {error}", operation="demo-network"
        ) from error


# --- the server's side -------------------------------------------------------


def _be_server(password: str, told: int, orders: int) -> None:
    """Be the server's side until nobody gives orders; never returns."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the play, which ends us
    code = 1
    try:
        unshare_network()
        os.write(told, b"namespace ready\n")
        os.read(orders, 1)
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "address", "add", f"{SERVER}/24", "dev", "eth0")
        _run("ip", "link", "set", "eth0", "up")
        asyncio.run(_serve(password, told, orders))
        code = 0
    except Exception as error:  # noqa: BLE001 - the top of a process: the play must learn of it
        with contextlib.suppress(OSError):
            os.write(told, f"error: {type(error).__name__}: {error}\n".encode())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


async def _serve(password: str, told: int, orders: int) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    async with Server(_configuration(password)) as server:
        web = _Web((str(_FILES.ip), 80), _Files)
        threading.Thread(target=web.serve_forever, daemon=True).start()

        def obey() -> None:
            if os.read(orders, 1):
                for session in server.sessions():
                    server.cut(session)
            else:
                over.set()

        loop.add_reader(orders, obey)
        os.write(told, f"pin sha256:{server.certificate_sha256}\n".encode())
        await over.wait()
        web.shutdown()


def _configuration(password: str) -> ServerConfig:
    hub = HubConfig(
        name="DEMO",
        users=(User(name="demo", password=StoredPassword(Secret(password))),),
        gateway=_GATEWAY,
        names={"files.demo": _FILES.ip},
        dhcp=DhcpConfig(
            router=_FILES.ip,
            dns=(IPv4Address(_GATEWAY.ip),),
            domain="demo",
        ),
        tap=TapConfig(name="files", address=_FILES),
    )
    return ServerConfig(listen=(f"{SERVER}:443",), hubs=(hub,))


class _Web(socketserver.ThreadingTCPServer):
    """A web server; the library's own asks the DNS for its name before it listens."""

    daemon_threads = True
    allow_reuse_address = True


class _Files(http.server.BaseHTTPRequestHandler):
    """Answers `/` with a sentence and `/bulk` with many zeros."""

    def do_GET(self) -> None:
        """Answer one request."""
        size = BULK_BYTES if self.path == "/bulk" else 0
        text = b"" if size else f"hello {self.client_address[0]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(size or len(text)))
        self.end_headers()
        self.wfile.write(text)
        with contextlib.suppress(OSError):
            for _ in range(size // len(_CHUNK)):
                self.wfile.write(_CHUNK)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""
