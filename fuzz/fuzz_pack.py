# SPDX-License-Identifier: Apache-2.0
"""Any bytes: a Pack that survives writing and reading, and messages of it that are safe to show; or the peer's fault.

Run: `python fuzz/fuzz_pack.py fuzz/corpus/pack`. The input is the body of a
message.
"""

from __future__ import annotations

import sys

from sevpn.errors import RemoteProtocolError
from sevpn.protocol.account import (
    HubsListed,
    PasswordChangeRequest,
    decode_hub_list,
    decode_password_change,
)
from sevpn.protocol.messages import (
    Hello,
    Redirect,
    SessionOptions,
    Welcome,
    decode_hello,
    decode_login,
    decode_login_answer,
)
from sevpn.wire.pack import (
    MAX_ELEMENT_COUNT,
    MAX_VALUE_COUNT,
    Pack,
    decode_pack,
    encode_pack,
)

EVERYTHING = SessionOptions(
    max_connections=32, use_compress=True, half_connection=True, qos=True
)


def check(data: bytes) -> None:
    try:
        pack = decode_pack(data)
    except RemoteProtocolError as error:
        _check_line(str(error))
        return
    assert len(pack) <= MAX_ELEMENT_COUNT
    assert all(1 <= len(element.values) <= MAX_VALUE_COUNT for element in pack)
    assert decode_pack(encode_pack(pack)) == pack
    for element in pack:
        pack.get_ip(element.name.partition("@")[0])
    _check_messages(pack)


def _check_messages(pack: Pack) -> None:
    for decode in (
        decode_hello,
        decode_login,
        _decode_answer,
        decode_hub_list,
        decode_password_change,
    ):
        try:
            message = decode(pack)
        except RemoteProtocolError as error:
            _check_line(str(error))
            continue
        match message:
            case Hello():
                assert message.product.isprintable()
                assert len(message.challenge) == 20
            case Welcome():
                assert message.session_name.isprintable()
                assert 5 <= message.timeout_s <= 60
                assert 1 <= message.max_connections <= 32
                assert all(line.isprintable() for line in message.message.split("\n"))
            case HubsListed():
                assert all(name and name.isprintable() for name in message.names)
            case PasswordChangeRequest():
                assert len(message.new_hash) == 20
            case Redirect():
                assert 1 <= len(message.ports) <= 128
                assert not message.address.is_unspecified
            case _:
                pass


def _decode_answer(pack: Pack) -> object:
    return decode_login_answer(pack, options=EVERYTHING)


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
