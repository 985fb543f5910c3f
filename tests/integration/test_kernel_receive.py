# SPDX-License-Identifier: Apache-2.0
"""The kernel's receive.py, in both of its forms, on sockets of loopback."""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from kernel_forms import Form, each_form

_UDP_SEGMENT = 103
_UDP_GRO = 104

Place = tuple[str, int]


class Line:
    """A socket that is read, and others that send to it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._open = ExitStack()
        self.socket, self.place = self.another()

    def another(self) -> tuple[socket.socket, Place]:
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        made = self._open.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        made.bind((self._address, 0))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        return made, made.getsockname()[:2]

    def close(self) -> None:
        self._open.close()


@pytest.fixture(params=["127.0.0.1", "::1"])
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    made = Line(request.param)
    yield made
    made.close()


@each_form
def test_each_datagram_comes_with_its_sender(form: Form, line: Line) -> None:
    senders = [line.another() for _ in range(3)]
    sent: list[tuple[bytes, Place]] = []
    for number in (0, 0, 1, 2, 2, 0, 1):
        sock, place = senders[number]
        sent.append((os.urandom(10 * number + 1), place))
        sock.sendto(sent[-1][0], line.place)

    assert form.receiver().receive(line.socket.fileno()) == sent


@each_form
def test_one_call_reads_32_messages_and_the_next_one_the_rest(
    form: Form, line: Line
) -> None:
    receiver = form.receiver()
    sock, place = line.another()
    sent = [(number.to_bytes(2, "big"), place) for number in range(40)]
    for data, _ in sent:
        sock.sendto(data, line.place)

    assert receiver.receive(line.socket.fileno()) == sent[:32]
    assert receiver.receive(line.socket.fileno()) == sent[32:]
    assert receiver.receive(line.socket.fileno()) == []


@each_form
def test_what_the_kernel_joined_is_cut_again(form: Form, line: Line) -> None:
    line.socket.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
    sock, place = line.another()
    data = os.urandom(1000 * 9 + 77)
    step = (1000).to_bytes(2, "little")
    sock.sendmsg([data], [(socket.IPPROTO_UDP, _UDP_SEGMENT, step)], 0, line.place)
    sock.sendto(b"single", line.place)

    found = form.receiver().receive(line.socket.fileno())

    expected = [data[at : at + 1000] for at in range(0, len(data), 1000)]
    assert found == [(one, place) for one in [*expected, b"single"]]


@each_form
def test_the_largest_datagram_has_room_and_an_empty_one_is_none(
    form: Form, line: Line
) -> None:
    sock, place = line.another()
    largest = os.urandom(65_487)  # less than what fits over IPv4
    for data in (b"", largest, b"", b"after"):
        sock.sendto(data, line.place)

    found = form.receiver().receive(line.socket.fileno())

    assert found == [(largest, place), (b"after", place)]


@each_form
def test_an_error_of_the_socket_is_raised_once_and_nothing_is_lost(form: Form) -> None:
    line = Line("127.0.0.1")
    try:
        gone, place = line.another()
        gone.close()
        line.socket.connect(place)
        line.socket.send(b"nobody there")
        select.select([line.socket], [], [], 5)
        receiver = form.receiver()

        with pytest.raises(ConnectionRefusedError):
            receiver.receive(line.socket.fileno())
        assert receiver.receive(line.socket.fileno()) == []
    finally:
        line.close()


@each_form
def test_a_socket_that_is_closed_is_an_error(form: Form) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        form.receiver().receive(-1)


@each_form
def test_rooms_that_hold_little_cost_little(form: Form, line: Line) -> None:
    sock, _ = line.another()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    receivers = [form.receiver() for _ in range(50)]
    for receiver in receivers:
        for _ in range(32):
            sock.sendto(bytes(1400), line.place)
        assert len(receiver.receive(line.socket.fileno())) == 32

    # 50 times 2 MiB, if all of it were there; of each room it is the first page.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024
