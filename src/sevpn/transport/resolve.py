# SPDX-License-Identifier: Apache-2.0
"""From a host name to addresses.

Layer: transport. Runs in: the control thread; the look-up itself in a thread of
its own, since the C library's resolver blocks and may do so for minutes. That
thread is a daemon: one that hangs does not keep the program from ending.

Source: RFC 8305 section 4 for the order of the addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address
from itertools import zip_longest
from typing import Final, Literal, TypeAlias

from sevpn.errors import ResolveError

__all__ = [
    "MAX_ADDRESSES",
    "Address",
    "Family",
    "LookUp",
    "interleave",
    "look_up",
    "resolve",
]

Address: TypeAlias = IPv4Address | IPv6Address
Family: TypeAlias = Literal["any", "4", "6"]
LookUp: TypeAlias = Callable[[str, Family], Awaitable[Sequence[Address]]]
"""Returns the addresses of a name, as many and in the order as it pleases; raises ResolveError."""

MAX_ADDRESSES: Final = 16
"""Addresses of one name that are used: our own choice, so that nobody makes us dial for ever."""

_FAMILIES: Final = {
    "any": socket.AF_UNSPEC,
    "4": socket.AF_INET,
    "6": socket.AF_INET6,
}
_VERSIONS: Final[dict[str, tuple[int, ...]]] = {"any": (4, 6), "4": (4,), "6": (6,)}


async def look_up(host: str, family: Family) -> Sequence[Address]:
    """Ask the system for the addresses of *host*; a :data:`LookUp`."""
    return await _look_up(host, family)


async def resolve(
    host: str, *, family: Family = "any", look_up: LookUp = look_up
) -> list[Address]:
    """Return the addresses of *host*, in the order in which to try them.

    Args:
        host: A name, or an address as text (IPv6 without brackets, a zone allowed).
        family: Which versions of IP count.
        look_up: Who is asked for what is no address.

    Raises:
        ResolveError: It has none. There is no deadline here: cancel the call.
    """
    literal = _literal(host)
    if literal is not None:
        if literal.version not in _VERSIONS[family]:
            raise ResolveError(
                f"{host} is an IPv{literal.version} address and --ip {family} rules it out: change one of them"
            )
        return [literal]
    found = await look_up(host, family)
    if not found:
        version = "" if family == "any" else f"IPv{family} "
        raise ResolveError(f"{host} has no {version}address: check the name, or --ip")
    return interleave(found)[:MAX_ADDRESSES]


def interleave(addresses: Sequence[Address]) -> list[Address]:
    """Return *addresses* with the families in turn, the first one's family first."""
    if not addresses:
        return []
    first = addresses[0].version
    ones = [address for address in addresses if address.version == first]
    others = [address for address in addresses if address.version != first]
    mixed = [a for pair in zip_longest(ones, others) for a in pair if a is not None]
    return list(dict.fromkeys(mixed))


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


async def _look_up(host: str, family: Family) -> list[Address]:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Address] | OSError] = loop.create_future()

    def tell(result: list[Address] | OSError) -> None:
        if not answer.done():
            answer.set_result(result)

    def ask() -> None:
        result: list[Address] | OSError
        try:
            result = _ask_system(host, family)
        except OSError as error:
            result = error
        except ValueError:  # no IDNA, or a NUL in it
            result = OSError(0, "the name is malformed")
        with contextlib.suppress(
            RuntimeError
        ):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(tell, result)

    try:
        threading.Thread(target=ask, name="sevpn-resolve", daemon=True).start()
    except RuntimeError as error:
        raise ResolveError(
            f"{host} cannot be looked up: this machine has no thread left, close other programs"
        ) from error
    result = await answer
    if isinstance(result, OSError):
        raise ResolveError(_explain(host, result)) from result
    return result


def _ask_system(host: str, family: Family) -> list[Address]:
    found = socket.getaddrinfo(host, None, _FAMILIES[family], socket.SOCK_STREAM)
    return [ipaddress.ip_address(entry[4][0]) for entry in found]


def _explain(host: str, error: OSError) -> str:
    match error.errno:
        case socket.EAI_NONAME:
            return f"{host} does not exist in the DNS: check the name"
        case socket.EAI_AGAIN:
            return f"{host} cannot be looked up now: is this machine on a network, and does its name server answer?"
        case _:
            return f"{host} cannot be looked up ({error.strerror}): check the name and this machine's name servers"
