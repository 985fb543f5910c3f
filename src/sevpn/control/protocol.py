# SPDX-License-Identifier: Apache-2.0
"""The language of the control socket.

Layer: control. Runs in: any thread.

A Unix stream socket in the tunnel's run folder. Each side sends JSON objects, one
a line, of at most :data:`MAX_LINE_SIZE` bytes:

    client  {"id": 1, "command": "status"}
    server  {"id": 1, "result": {…}}            or {"id": 1, "error": "…"}

`status` answers with the status document's TUNNEL. `down` and `reconnect` answer
`{}` once they are begun; after `down` the server closes the connection when the
host is restored. `subscribe` answers `{}`, then sends `{"event": {…}}` for each
event until the client goes.

Everybody whom the folder's mode lets in may ask; `down` and `reconnect` are for
root, the tunnel's own user and members of the group `sevpn`, told by the
kernel's word on the peer (SO_PEERCRED, SO_PEERGROUPS; unix(7)).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = [
    "MAX_LINE_SIZE",
    "MAX_PATH_SIZE",
    "SOCKET_NAME",
    "Command",
    "Reply",
    "Request",
]

SOCKET_NAME = "control.sock"
"""The socket's name in the tunnel's run folder."""

MAX_LINE_SIZE = 1 << 20
"""Bytes of one line; a status document is a few KiB."""

MAX_PATH_SIZE = 107
"""Bytes of the socket's path: sun_path has 108 with the 0 at its end; unix(7)."""

Command = Literal["status", "down", "reconnect", "subscribe"]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client wants."""

    id: int
    """Chosen by the client; comes back in the answer."""

    command: Command
    """One of the four."""


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line from the tunnel."""

    id: int | None = None
    """The request that this answers; absent on events."""

    result: Any = None
    """The answer, when there was no error."""

    error: str | None = None
    """One line for people: why not."""

    event: dict[str, Any] | None = None
    """An event of a subscription."""
