# SPDX-License-Identifier: Apache-2.0
"""The pump over the real TLS stream; the test plays the server with a blocking socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from reading import read_some
from sevpn import forms
from sevpn.errors import ConnectionLostError
from sevpn.server.certificate import make_identity, server_context
from sevpn.testing.rig import OUR_MAC, PumpRig
from sevpn.transport.stream import SecureStream
from sevpn.transport.tls import TrustPolicy, client_context
from sevpn.wire.block import BlockReader, encode_batch, encode_keepalive

pytestmark = pytest.mark.usefixtures("kernel")


@pytest.fixture(scope="module")
def context() -> ssl.SSLContext:
    return server_context(make_identity())


class TlsFarEnd:
    """A server behind TLS that the test speaks for."""

    def __init__(self, context: ssl.SSLContext) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.near = socket.create_connection(listener.getsockname())
            far, _ = listener.accept()
        far.settimeout(5.0)
        self.near.settimeout(0)
        shaking = threading.Thread(target=self._shake, args=(context, far))
        shaking.start()
        form: type[SecureStream] = forms.in_form("sevpn.transport.stream").SecureStream
        self.stream = form(
            self.near,
            client_context(TrustPolicy(insecure=True)),
            server_name=None,
            verified_by="none",
        )
        asyncio.run(self.stream.handshake())
        shaking.join()
        self.reader = BlockReader()

    def _shake(self, context: ssl.SSLContext, far: socket.socket) -> None:
        self.socket = context.wrap_socket(far, server_side=True)

    def frames(self, count: int) -> list[bytes]:
        got: list[bytes] = []
        while len(got) < count:
            got += self.reader.feed(self.socket.recv(65536))
        return got


@contextlib.contextmanager
def a_session(context: ssl.SSLContext, rig: PumpRig) -> Iterator[TlsFarEnd]:
    far = TlsFarEnd(context)
    rig.pump.attach(far.stream, leftover=b"", timeout_s=20.0)
    try:
        yield far
    finally:
        far.socket.close()


def frame(number: int, size: int = 1514) -> bytes:
    head = OUR_MAC.octets + bytes(6) + b"\x08\x00\x45" + bytes(8) + b"\x06" + bytes(10)
    return head + number.to_bytes(4, "big") + bytes(size - len(head) - 4)


def test_frames_pass_both_ways_in_order(context: ssl.SSLContext) -> None:
    frames = [frame(number) for number in range(400)]
    with PumpRig() as rig, a_session(context, rig) as far:
        for begin in range(0, len(frames), 40):
            part = frames[begin : begin + 40]
            rig.port.host_sends(*part)
            assert far.frames(40) == part
            far.socket.sendall(encode_batch(part))
            assert [rig.port.host_receives() for _ in part] == part


def test_more_than_one_read_takes_is_not_left_in_the_tls_layer(
    context: ssl.SSLContext,
) -> None:
    # No host reads along: what does not fit is dropped, but all must be seen.
    batch = encode_batch([frame(number) for number in range(128)])
    with PumpRig() as rig, a_session(context, rig) as far:
        for _ in range(20):
            far.socket.sendall(batch)
        far.socket.sendall(encode_keepalive(b""))
        for _ in range(500):
            rig.turn()
            if rig.counters.inbound_frames == 20 * 128:
                break

        assert rig.counters.inbound_frames == 20 * 128


def test_bytes_that_wait_in_the_tls_layer_at_the_start_are_seen(
    context: ssl.SSLContext,
) -> None:
    with PumpRig() as rig:
        far = TlsFarEnd(context)
        far.socket.sendall(b"x" + encode_batch([frame(1)]))
        while not (first := read_some(far.stream, 1)):
            pass
        assert first == b"x"  # the rest of the record is decrypted and waits
        rig.pump.attach(far.stream, leftover=b"", timeout_s=20.0)

        assert rig.port.host_receives() == frame(1)
        far.socket.close()


def test_a_server_that_does_not_read_loses_no_frame(context: ssl.SSLContext) -> None:
    frames = [frame(number) for number in range(6000)]
    with PumpRig() as rig, a_session(context, rig) as far:
        sending = threading.Thread(target=rig.port.host_sends, args=tuple(frames))
        sending.start()
        sending.join(0.5)
        assert sending.is_alive()  # held up: 9 MB find no room anywhere
        assert far.stream.pending_bytes < 512 * 1024

        assert far.frames(len(frames)) == frames
        sending.join(5.0)
        assert rig.counters.dropped_frames == {}


def test_a_polite_detach_says_close_notify(context: ssl.SSLContext) -> None:
    with PumpRig() as rig, a_session(context, rig) as far:
        rig.pump.inject([frame(1)])
        rig.pump.detach(polite=True)

        # A keep-alive may stand before or behind it; an end without close_notify
        # would raise here.
        assert far.frames(1) == [frame(1)]
        while far.socket.recv(65536):
            pass


@pytest.mark.parametrize("is_polite", [True, False])
def test_the_servers_end_is_a_lost_connection(
    context: ssl.SSLContext, is_polite: bool
) -> None:
    with PumpRig() as rig, a_session(context, rig) as far:
        far.frames(0)
        if is_polite:
            with contextlib.suppress(OSError):
                far.socket.unwrap()
        far.socket.close()

        assert isinstance(rig.lost_error(), ConnectionLostError)
