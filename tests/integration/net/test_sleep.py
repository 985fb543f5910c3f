# SPDX-License-Identifier: Apache-2.0
"""A machine that has slept is noticed; the sleep is simulated, the timer is real."""

from __future__ import annotations

import asyncio

from sevpn.net.sleep import SleepWatch


class Clocks:
    """How long the machine has slept so far."""

    def __init__(self) -> None:
        self.slept_s = 100.0

    def __call__(self) -> float:
        return self.slept_s


def test_what_the_clocks_differ_by_is_told_once() -> None:
    clocks, told = Clocks(), list[float]()
    watch = SleepWatch(told.append, time_slept=clocks)

    watch.look()
    clocks.slept_s += 3600.0
    watch.look()
    watch.look()

    assert told == [3600.0]


def test_two_clocks_that_are_not_read_at_once_are_no_sleep() -> None:
    clocks, told = Clocks(), list[float]()
    watch = SleepWatch(told.append, time_slept=clocks)

    clocks.slept_s += 0.9
    watch.look()

    assert told == []


def test_the_real_clocks_do_not_say_that_this_machine_sleeps_now() -> None:
    told = list[float]()
    watch = SleepWatch(told.append)

    watch.look()

    assert told == []


def test_the_timer_looks_by_itself_until_it_is_stopped() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        clocks, told = Clocks(), asyncio.Queue[float]()
        watch = SleepWatch(told.put_nowait, time_slept=clocks, every_s=1)
        watch.start()
        clocks.slept_s += 60.0

        assert await asyncio.wait_for(told.get(), 30) == 60.0

        watch.stop()
        watch.stop()
        watch.start()  # and again, as for another TAP
        assert loop.is_running()
        watch.stop()

    asyncio.run(scene())
