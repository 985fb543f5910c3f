# SPDX-License-Identifier: Apache-2.0
"""The mailbox without its thread: orders are carried out by the test itself."""

from __future__ import annotations

import threading

import pytest

from sevpn.dataplane.mailbox import MAX_WAITING_FRAMES, Mailbox
from sevpn.errors import LocalProtocolError

FRAME = bytes(60)


def carry_out_until(mailbox: Mailbox, thread: threading.Thread) -> None:
    while thread.is_alive():
        mailbox.carry_out_orders()


def test_an_order_is_carried_out_where_orders_are_taken() -> None:
    mailbox = Mailbox()
    where: list[int] = []
    results: list[bool] = []
    thread = threading.Thread(
        target=lambda: results.append(
            mailbox.order(lambda: where.append(threading.get_ident()))
        )
    )
    thread.start()
    carry_out_until(mailbox, thread)
    mailbox.close()

    assert where == [threading.get_ident()]
    assert results == [True]


def test_what_an_order_raises_is_raised_where_it_was_given() -> None:
    mailbox = Mailbox()
    errors: list[str] = []

    def fail() -> None:
        raise ValueError("no")

    def give() -> None:
        with pytest.raises(ValueError, match="no"):
            mailbox.order(fail)
        errors.append("raised")

    thread = threading.Thread(target=give)
    thread.start()
    carry_out_until(mailbox, thread)
    mailbox.close()

    assert errors == ["raised"]


def test_an_order_that_is_still_waiting_when_the_box_closes_is_refused() -> None:
    mailbox = Mailbox()
    errors: list[str] = []

    def give() -> None:
        with pytest.raises(LocalProtocolError, match="has ended"):
            mailbox.order(lambda: None)
        errors.append("raised")

    thread = threading.Thread(target=give)
    thread.start()
    while not mailbox._orders:
        pass
    mailbox.close()
    thread.join()

    assert errors == ["raised"]


def test_a_closed_box_takes_no_order() -> None:
    mailbox = Mailbox()
    mailbox.close()
    mailbox.close()

    assert mailbox.order(lambda: None) is False
    mailbox.ring()


def test_frames_wait_in_order_until_they_are_taken() -> None:
    mailbox = Mailbox()
    mailbox.inject([bytes(14)])
    mailbox.inject([bytes(15), bytes(16)])

    assert mailbox.has_frames
    assert mailbox.take_frames() == ([bytes(14), bytes(15), bytes(16)], 0)
    assert not mailbox.has_frames
    assert mailbox.take_frames() == ([], 0)
    mailbox.close()


def test_frames_beyond_the_limit_are_refused_and_counted() -> None:
    mailbox = Mailbox()
    mailbox.inject([FRAME] * (MAX_WAITING_FRAMES - 1))
    mailbox.inject([FRAME] * 3)

    assert mailbox.take_frames() == ([FRAME] * MAX_WAITING_FRAMES, 2)
    mailbox.inject([FRAME])
    assert mailbox.take_frames() == ([FRAME], 0)
    mailbox.close()


@pytest.mark.parametrize("size", [0, 13, 1601])
def test_a_frame_that_fits_no_block_is_our_mistake(size: int) -> None:
    mailbox = Mailbox()
    with pytest.raises(LocalProtocolError, match=f"a frame of {size} bytes"):
        mailbox.inject([FRAME, bytes(size)])

    assert not mailbox.has_frames
    mailbox.close()


def test_the_bell_is_still_after_it_was_heard() -> None:
    mailbox = Mailbox()
    mailbox.ring()
    mailbox.ring()
    mailbox.hush()
    mailbox.hush()  # nobody rang: no harm
    mailbox.close()
