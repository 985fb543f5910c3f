# SPDX-License-Identifier: Apache-2.0
"""Who logs in: from the settings to credentials, for now and for later attempts.

Layer: cli. Runs in: the main thread, before the event loop: a person may be asked;
credentials of later attempts are fetched in a thread beside the loop.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from sevpn.config.hostsource import HostSource
from sevpn.config.profile import Settings
from sevpn.config.savedsecret import saved_secret_file
from sevpn.config.secret import (
    PasswordHash,
    Prompt,
    Reference,
    Secret,
    resolve,
    resolve_content,
)
from sevpn.errors import ConfigError, SevpnError, SpentSecretError
from sevpn.protocol.credentials import (
    Anonymous,
    Certificate,
    Credentials,
    Password,
    PlainPassword,
)

if TYPE_CHECKING:
    from sevpn.config.keyfile import ClientKey

__all__ = ["Login", "client_key", "login_of"]

_NOBODY = "anonymous"


@dataclass(frozen=True, slots=True)
class Login:
    """Who logs in, now and at each later attempt."""

    credentials: Credentials
    """For the first attempt."""

    renew: Callable[[], Awaitable[Credentials]] | None = None
    """Returns those of a later attempt, where they serve once only."""

    notices: tuple[str, ...] = ()
    """What the user should know of them, one sentence each."""


def login_of(settings: Settings, environ: Mapping[str, str]) -> Login:
    """Fetch what the settings log in with; may ask a person.

    Raises:
        ConfigError: A secret, a certificate or its key is wrong.
        HostError: A secret cannot be had on this host.
    """
    source = HostSource(environ, ask=getpass if sys.stdin.isatty() else None)
    user = settings.user or _NOBODY
    if settings.cert is not None:
        return _certificate_login(settings, settings.cert, source)
    reference = settings.password_reference
    if reference is None:
        # A server wants a name even of who has none, and looks it up on the hub.
        return Login(Anonymous(user))
    saved = saved_secret_file(reference)
    if saved is not None and not saved.exists():
        # Forgotten because the hub wants it so; see tunnel/wishes.py.
        reference = Prompt()
    secret = resolve(
        reference, source, question=f"Password of {user} on {settings.host}: "
    )
    if isinstance(secret, PasswordHash):
        return Login(Password(user, secret.reveal()))
    if settings.otp is not None:
        return _one_time_login(settings.otp, user, secret, source)
    if settings.login == "plain":
        return Login(PlainPassword(user, secret.reveal()))
    return Login(Password.of(user, secret.reveal()))


def client_key(settings: Settings, path: Path, source: HostSource) -> ClientKey:
    """Read the certificate in *path* and its key; may ask for the pass phrase.

    Raises:
        ConfigError: See :func:`sevpn.config.keyfile.read_client_key`.
        HostError: A secret cannot be had on this host.
    """
    from sevpn.config.keyfile import read_certificate_file, read_client_key  # noqa: PLC0415 - for who has a key

    def ask() -> str:
        reference = settings.key_password
        if reference is None and not sys.stdin.isatty():
            raise ConfigError(
                f"the key of {path} has a pass phrase and there is no terminal to ask on: "
                "give --key-password REF, as in file:PATH"
            )
        secret = resolve(
            Prompt() if reference is None else reference,
            source,
            question=f"Pass phrase of {path}: ",
        )
        assert isinstance(secret, Secret)  # a hash is refused with the settings
        return secret.reveal()

    return read_client_key(
        read_certificate_file(path),
        None if settings.key is None else resolve_content(settings.key, source),
        name=str(path),
        ask=ask,
        now=dt.datetime.now(dt.UTC),
    )


def _certificate_login(settings: Settings, path: Path, source: HostSource) -> Login:
    key = client_key(settings, path, source)
    user = settings.user or ""
    return Login(Certificate(user, key.certificate, key.sign), notices=key.notices)


def _one_time_login(
    reference: Reference, user: str, password: Secret, source: HostSource
) -> Login:
    """Return a login whose second half is fetched anew for each attempt."""

    def fetch() -> Credentials:
        code = resolve(reference, source, question=f"One-time password of {user}: ")
        assert isinstance(code, Secret)  # a hash is refused with the settings
        return PlainPassword(user, password.reveal() + code.reveal())

    async def renew() -> Credentials:
        if isinstance(reference, Prompt):
            # Nobody may be there any more, and a question that is given up would
            # leave the terminal without echo.
            raise SpentSecretError(
                "a new login needs a new one-time password: run sevpn up again, "
                "or name a program that makes them with --otp cmd:COMMAND"
            )
        return await _in_thread(fetch)

    return Login(fetch(), renew=renew)


async def _in_thread(fetch: Callable[[], Credentials]) -> Credentials:
    """Run *fetch* beside the loop, in a thread that nobody waits for in the end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Credentials] = loop.create_future()

    def settle(result: Credentials | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        elif result is not None:
            future.set_result(result)

    def work() -> None:
        outcome: tuple[Credentials | None, BaseException | None]
        try:
            outcome = (fetch(), None)
        except SevpnError as error:
            outcome = (None, error)
        loop.call_soon_threadsafe(functools.partial(settle, *outcome))

    threading.Thread(target=work, name="one-time password", daemon=True).start()
    return await future
