# SPDX-License-Identifier: Apache-2.0
"""A hub that asks its clients to leave after a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from sevpn.protocol.messages import Welcome
from sevpn.tunnel.wishes import Wishes, WishListener


class Told:
    """Wishes on a clock whose readings are given one after the other."""

    def __init__(self, *readings: float) -> None:
        self.left_after: list[float] = []
        self.warned: list[str] = []
        self._readings: Iterator[float] = iter(readings)
        self.wishes = Wishes(
            hub="H",
            password=None,
            listener=WishListener(
                leave=self.left_after.append, warn=self.warned.extend
            ),
            clock=lambda: next(self._readings),
        )

    @property
    def has_read_all(self) -> bool:
        return next(self._readings, None) is None


def welcome(seconds: int, key: bytes = b"k" * 20) -> Welcome:
    return Welcome(
        session_name="SID-ALICE-1",
        connection_name="CID-1",
        session_key=key,
        policy={"AutoDisconnect": seconds},
    )


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_the_tunnel_leaves_when_its_time_is_over() -> None:
    async def play() -> None:
        # The Welcome; how long to wait: no more; the timer.
        told = Told(100.0, 160.0, 160.0)
        told.wishes.began(welcome(60))
        await turns()
        assert told.left_after == [60.0]
        assert told.has_read_all

    asyncio.run(play())


def test_a_timer_that_comes_early_by_a_clock_that_stood_still_is_set_again() -> None:
    async def play() -> None:
        told = Told(100.0, 160.0, 159.0, 160.0, 160.0)
        told.wishes.began(welcome(60))
        await turns()
        assert told.left_after == [60.0]

    asyncio.run(play())


def test_a_session_that_has_ended_asks_for_nothing() -> None:
    async def play() -> None:
        told = Told(100.0, 160.0)
        told.wishes.began(welcome(60))
        told.wishes.ended()
        await turns()
        assert told.left_after == []

    asyncio.run(play())


def test_a_session_that_is_taken_up_again_has_the_time_it_had_left() -> None:
    async def play() -> None:
        told = Told(100.0, 100.0, 160.0, 160.0)
        told.wishes.began(welcome(60))
        told.wishes.ended()
        told.wishes.began(welcome(60))
        await turns()
        assert told.left_after == [60.0]

    asyncio.run(play())


def test_another_session_has_all_of_its_time() -> None:
    async def play() -> None:
        told = Told(100.0, 100.0, 160.0, 160.0)
        told.wishes.began(welcome(60))
        told.wishes.ended()
        told.wishes.began(welcome(60, b"l" * 20))
        await turns()
        assert told.left_after == []
        told.wishes.ended()

    asyncio.run(play())


def test_a_hub_that_sets_no_time_asks_for_nothing() -> None:
    async def play() -> None:
        told = Told(100.0)
        told.wishes.began(welcome(0))
        await turns()
        assert told.left_after == []
        assert told.warned == []

    asyncio.run(play())
