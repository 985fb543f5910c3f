# SPDX-License-Identifier: Apache-2.0
"""Any bytes: the same messages and the same end wherever the stream is cut, and no more held back than one message.

Run: `python fuzz/fuzz_http.py fuzz/corpus/http`. The first byte of the input
says who reads (odd: the server) and where the stream is cut, the rest is the
stream.
"""

from __future__ import annotations

import sys
from typing import Literal

from sevpn.errors import RemoteProtocolError
from sevpn.wire.http import MAX_HEADER_SIZE, HttpReader, Request, Response

MAX_BODY = 65536


def check(data: bytes) -> None:
    stream = data[1:]
    first = data[0] if data else 0
    role: Literal["client", "server"] = "server" if first & 1 else "client"
    whole, is_fault, rest = _read(stream, role, len(stream) or 1)
    cut = _read(stream, role, (first >> 1) + 1)

    assert cut[:2] == (whole, is_fault)
    if not is_fault:
        assert cut[2] == rest
    for message in whole:
        assert len(message.body) <= MAX_BODY
        assert all(name for name, _ in message.headers)
        if isinstance(message, Response):
            assert message.status_line.isprintable()
            assert message.body or not (message.carries_pack and message.is_whole)


def _read(
    stream: bytes, role: Literal["client", "server"], step: int
) -> tuple[list[Request | Response], bool, bytes]:
    reader = HttpReader(role, MAX_BODY)
    messages: list[Request | Response] = []
    for start in range(0, len(stream), step):
        reader.feed(stream[start : start + step])
        try:
            while (message := reader.next_message()) is not None:
                messages.append(message)
                if isinstance(message, Response) and not message.is_whole:
                    return messages, False, b""
        except RemoteProtocolError as error:
            _check_line(str(error))
            return messages, True, b""
        assert len(reader._held) <= max(MAX_HEADER_SIZE, MAX_BODY)  # noqa: SLF001 - the bound of what is held back
    return messages, False, reader.trailing()


def _check_line(line: str) -> None:
    assert line
    assert line.isprintable()


def main() -> None:
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
