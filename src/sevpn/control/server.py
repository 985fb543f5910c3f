# SPDX-License-Identifier: Apache-2.0
"""The control socket: the tunnel's side.

Layer: control. Runs in: the control thread, on the event loop.

One :class:`ControlServer` per tunnel. It answers from whatever offers the four
verbs of :class:`Controlled`, and knows nothing else about tunnels.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from sevpn.control.protocol import MAX_LINE_SIZE, MAX_PATH_SIZE, Reply, Request
from sevpn.errors import ConfigError, HostError
from sevpn.log import get_logger
from sevpn.metrics.snapshot import Tunnel

__all__ = ["ControlServer", "Controlled", "Peer"]

log = get_logger(__name__)

_MAX_CLIENTS: Final = 32
_MAX_CLIENTS_OF_ONE: Final = 8
"""Connections of one user who is neither root nor the tunnel's own; those are not counted."""

_REQUEST_S: Final = 5.0
"""How long a connection may say nothing: nobody shall hold a place for ever."""

_MAX_WAITING_EVENTS: Final = 256
_SO_PEERGROUPS: Final = 59
_GROUP: Final = "sevpn"
_ENCODER = msgspec.json.Encoder()

Event = dict[str, Any]


class Controlled(Protocol):
    """What can be asked of a tunnel."""

    def snapshot(self) -> Tunnel:
        """Return what `status` shows."""
        ...

    def turn_off(self) -> None:
        """Begin to leave."""
        ...

    def heal(self) -> None:
        """Drop the session and begin again."""
        ...

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call *listener* with each event from now on, until the returned function is called."""
        ...


class Peer:
    """Who is at the other end, by the kernel's word."""

    def __init__(self, sock: socket.socket) -> None:
        credentials = sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
        )
        self.pid, self.uid, self.gid = struct.unpack("3i", credentials)
        self.groups = {self.gid, *_further_groups(sock)}

    def may_change(self) -> bool:
        """Whether this peer may turn the tunnel off or make it reconnect."""
        return self.uid in {0, os.geteuid()} or bool(self.groups & _service_groups())


class ControlServer:
    """Listens for as long as the tunnel lives.

    Args:
        tunnel: Who answers.
        path: Where the socket stands; a stale one there is replaced (the caller
            holds the tunnel's lock, so nobody else listens on it).
    """

    def __init__(self, tunnel: Controlled, path: Path) -> None:
        self._tunnel = tunnel
        self._path = path
        self._server: asyncio.Server | None = None
        self._clients: dict[asyncio.Task[None], int] = {}

    async def open(self) -> None:
        """Begin to listen.

        Raises:
            ConfigError: The path is too long for a socket, since the name is.
            HostError: The socket could not be made; nothing is left behind.
        """
        _check_length(self._path)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        try:
            self._server = await asyncio.start_unix_server(
                self._accept, self._path, limit=MAX_LINE_SIZE
            )
            self._path.chmod(0o666)
        except OSError as error:
            reason = error.strerror or str(error)
            raise HostError(
                f"the control socket {self._path} cannot be made ({reason}): check the folder and its owner",
                operation="open-control",
            ) from error

    async def close(self) -> None:
        """Stop listening, let clients go, remove the socket."""
        if self._server is not None:
            self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        with contextlib.suppress(OSError):
            self._path.unlink()

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        try:
            peer = Peer(writer.get_extra_info("socket"))
        except OSError:  # it has gone already
            writer.close()
            return
        if task is None or not self._has_room(peer):
            writer.close()
            return
        self._clients[task] = peer.uid
        try:
            await self._serve(peer, reader, writer)
        except (OSError, TimeoutError, ValueError, asyncio.CancelledError):
            pass  # the client went, or sent a line over the limit
        except Exception as error:  # noqa: BLE001 - the top of a task: one client must not end the tunnel
            log.error("control client failed", cause=error)
        finally:
            self._clients.pop(task, None)
            writer.close()

    def _has_room(self, peer: Peer) -> bool:
        if peer.uid in {0, os.geteuid()}:
            return True
        others = [uid for uid in self._clients.values() if uid not in {0, os.geteuid()}]
        return (
            len(others) < _MAX_CLIENTS and others.count(peer.uid) < _MAX_CLIENTS_OF_ONE
        )

    async def _serve(
        self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while line := await asyncio.wait_for(reader.readline(), _REQUEST_S):
            try:
                request = msgspec.json.decode(line, type=Request)
            except msgspec.MsgspecError as error:
                _send(writer, Reply(error=f"not a request: {error}"))
                return
            if request.command == "subscribe":
                await self._stream(request, writer)
                return
            _send(writer, self._answer(request, peer))
            await writer.drain()

    def _answer(self, request: Request, peer: Peer) -> Reply:
        if request.command == "status":
            return Reply(id=request.id, result=self._tunnel.snapshot())
        if not peer.may_change():
            return Reply(
                id=request.id,
                error=f"{request.command} is for root, the tunnel's own user and the group {_GROUP}: use sudo",
            )
        log.info("asked by a user", command=request.command, uid=peer.uid, pid=peer.pid)
        if request.command == "down":
            self._tunnel.turn_off()
        else:
            self._tunnel.heal()
        return Reply(id=request.id, result={})

    async def _stream(self, request: Request, writer: asyncio.StreamWriter) -> None:
        events: asyncio.Queue[Event] = asyncio.Queue(_MAX_WAITING_EVENTS)

        def listen(event: Event) -> None:
            if events.full():
                events.get_nowait()  # a slow reader loses the oldest, never the tunnel's time
            events.put_nowait(event)

        unsubscribe = self._tunnel.subscribe(listen)
        try:
            _send(writer, Reply(id=request.id, result={}))
            await writer.drain()
            while True:
                _send(writer, Reply(event=await events.get()))
                await writer.drain()
        finally:
            unsubscribe()


def _check_length(path: Path) -> None:
    size = len(os.fsencode(path))
    if size > MAX_PATH_SIZE:
        raise ConfigError(
            f"the control socket {path} cannot be made: its path has {size} bytes, and a socket's at most"
            f" {MAX_PATH_SIZE}: choose a shorter name with --name, or a shorter XDG_RUNTIME_DIR"
        )


def _send(writer: asyncio.StreamWriter, reply: Reply) -> None:
    writer.write(_ENCODER.encode(reply) + b"\n")


def _further_groups(sock: socket.socket) -> set[int]:
    try:
        # 1024 bytes is the most that Python takes; a peer in more than 256 groups
        # counts with its first group alone.
        listed = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
    except OSError:
        return set()
    return {gid for (gid,) in struct.iter_unpack("I", listed)}


def _service_groups() -> set[int]:
    try:
        return {grp.getgrnam(_GROUP).gr_gid}
    except KeyError:
        return set()
