# SPDX-License-Identifier: Apache-2.0
"""The addresses of the names that the user includes or excludes."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from ipaddress import ip_address
from typing import Any

from sevpn.errors import ResolveError
from sevpn.transport.resolve import MAX_ADDRESSES, Address, Family
from sevpn.tunnel.places import Places


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


class Names:
    """Somebody to ask, who can be taught."""

    def __init__(self, **known: list[str]) -> None:
        self.known = known

    async def __call__(self, host: str, family: Family) -> Sequence[Address]:
        assert family == "any"
        if host not in self.known:
            raise ResolveError(f"{host} does not exist")
        return [ip_address(text) for text in self.known[host]]


def shown(places: Places) -> dict[str, list[str]]:
    return {name: list(map(str, found)) for name, found in places.known.items()}


@in_a_loop
async def test_all_names_are_asked_for_at_first() -> None:
    names = Names(office=["192.0.2.1"], home=["192.0.2.2"])
    places = Places(("office", "home", "nowhere"), names, changed=lambda: None)

    await places.first()
    places.stop()

    assert shown(places) == {"office": ["192.0.2.1"], "home": ["192.0.2.2"]}


@in_a_loop
async def test_what_is_new_goes_before_what_was_known_and_is_told() -> None:
    news = asyncio.Event()
    names = Names(office=["192.0.2.1"])
    places = Places(("office",), names, changed=news.set, again_s=0.0)
    await places.first()

    names.known = {"office": ["192.0.2.9"], "late": []}
    await news.wait()
    places.stop()

    assert shown(places) == {"office": ["192.0.2.9", "192.0.2.1"]}


@in_a_loop
async def test_what_is_gone_is_kept_and_is_no_news() -> None:
    told: list[bool] = []
    names = Names(office=["192.0.2.1", "192.0.2.2"])
    places = Places(("office",), names, changed=lambda: told.append(True), again_s=0.0)
    await places.first()

    for known in ({"office": ["192.0.2.2"]}, {}):
        names.known = known
        for _ in range(10):
            await asyncio.sleep(0)
    places.stop()

    assert shown(places) == {"office": ["192.0.2.1", "192.0.2.2"]}
    assert told == []


@in_a_loop
async def test_a_name_with_ever_new_addresses_takes_no_more_room() -> None:
    news = asyncio.Event()
    names = Names(office=["192.0.2.1"])
    places = Places(("office",), names, changed=news.set, again_s=0.0)
    await places.first()

    for number in range(2 * MAX_ADDRESSES):
        news.clear()
        names.known["office"] = [f"198.51.100.{number}"]
        await news.wait()
    places.stop()

    assert len(places.known["office"]) == MAX_ADDRESSES


@in_a_loop
async def test_without_names_nobody_is_asked() -> None:
    places = Places((), Names(), changed=lambda: None)

    await places.first()

    assert places.known == {}
