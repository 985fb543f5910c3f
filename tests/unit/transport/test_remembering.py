# SPDX-License-Identifier: Apache-2.0
"""A name that was found once need not be found again; without waiting for a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from ipaddress import IPv4Address
from typing import Any

import pytest

from sevpn.errors import ResolveError
from sevpn.transport.remembering import Remembering
from sevpn.transport.resolve import Address, Family

HOME = IPv4Address("192.0.2.1")
AWAY = IPv4Address("198.51.100.1")
NOT_FOUND = ResolveError("not now")


class NameServer:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.questions: list[asyncio.Future[Sequence[Address]]] = []

    async def __call__(self, _host: str, _family: Family) -> Sequence[Address]:
        question: asyncio.Future[Sequence[Address]] = asyncio.Future()
        self.questions.append(question)
        return await question

    async def answers(
        self, pending: Coroutine[Any, Any, Sequence[Address]], *addresses: Address
    ) -> Sequence[Address]:
        """Let *pending* ask, answer, and return what it makes of it."""
        task = asyncio.ensure_future(pending)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.questions[-1].set_result(addresses)
        return await task


def run(scene: Any) -> None:
    server = NameServer()
    asyncio.run(scene(server, Remembering(server, patience_s=0.0)))


def test_a_name_that_is_not_known_is_waited_for() -> None:
    async def scene(server: NameServer, look_up: Remembering) -> None:
        assert await server.answers(look_up("vpn", "any"), HOME) == (HOME,)

    run(scene)


def test_a_name_that_never_was_found_is_an_error() -> None:
    async def scene(server: NameServer, look_up: Remembering) -> None:
        task = asyncio.ensure_future(look_up("vpn", "any"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        server.questions[0].set_exception(NOT_FOUND)
        with pytest.raises(ResolveError):
            await task

    run(scene)


def test_without_an_answer_it_is_what_it_was_and_a_late_one_counts_next_time() -> None:
    async def scene(server: NameServer, look_up: Remembering) -> None:
        await server.answers(look_up("vpn", "any"), HOME)

        assert await look_up("vpn", "any") == (HOME,)
        assert await look_up("vpn", "any") == (HOME,)
        assert len(server.questions) == 2  # one that is open is not asked again
        server.questions[1].set_result([AWAY])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert await look_up("vpn", "any") == [AWAY]

    run(scene)


@pytest.mark.parametrize("is_error", [True, False])
def test_a_name_that_has_no_address_any_more_is_what_it_was(is_error: bool) -> None:
    async def scene(server: NameServer, _: Remembering) -> None:
        look_up = Remembering(server, patience_s=30.0)
        await server.answers(look_up("vpn", "any"), HOME)
        task = asyncio.ensure_future(look_up("vpn", "any"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if is_error:
            server.questions[1].set_exception(NOT_FOUND)
        else:
            server.questions[1].set_result(())

        assert await task == (HOME,)

    run(scene)


def test_an_answer_in_time_replaces_what_it_was() -> None:
    async def scene(server: NameServer, _: Remembering) -> None:
        look_up = Remembering(server, patience_s=30.0)
        await server.answers(look_up("vpn", "any"), HOME)

        assert await server.answers(look_up("vpn", "any"), AWAY) == (AWAY,)

    run(scene)


def test_names_and_versions_of_ip_are_remembered_apart() -> None:
    async def scene(server: NameServer, look_up: Remembering) -> None:
        await server.answers(look_up("vpn", "any"), HOME)

        assert await server.answers(look_up("vpn", "4"), AWAY) == (AWAY,)
        assert await server.answers(look_up("other", "any"), AWAY) == (AWAY,)

    run(scene)


def test_who_does_not_wait_any_longer_leaves_the_question_open() -> None:
    async def scene(server: NameServer, look_up: Remembering) -> None:
        task = asyncio.ensure_future(look_up("vpn", "any"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        assert await server.answers(look_up("vpn", "any"), HOME) == (HOME,)
        assert len(server.questions) == 1

    run(scene)
