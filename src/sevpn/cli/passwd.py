# SPDX-License-Identifier: Apache-2.0
"""`sevpn passwd`: changes one's own password on a hub."""

from __future__ import annotations

import asyncio
import os
import sys
from getpass import getpass
from typing import Any

import click

from sevpn.cli.common import Output, command as make_command
from sevpn.cli.job import destination_of, settings_of
from sevpn.cli.login import login_of
from sevpn.cli.options import given, login_options, server_options
from sevpn.config.hostsource import HostSource
from sevpn.config.keys import Origin, read_key
from sevpn.config.profile import Settings
from sevpn.config.secret import (
    HashOf,
    PasswordHash,
    Prompt,
    Reference,
    resolve,
)
from sevpn.errors import ConfigError
from sevpn.protocol.credentials import Password, hash_password

__all__ = ["command"]


@make_command("passwd")
@click.argument("target")
@login_options
@server_options
@click.option(
    "--new-password",
    metavar="REF",
    help="Where the new password is. [asked for, twice]",
)
def command(
    output: Output, target: str, new_password: str | None, **values: Any
) -> None:
    """Change one's own password on the hub of TARGET.

    The old password is the profile's, or --password. Only users whose password the
    hub itself keeps have one to change.
    """
    from sevpn.tunnel.account import change_password  # noqa: PLC0415 - brings TLS, which `--help` does not need

    settings = settings_of(
        target, name=None, overrides=given(values), environ=os.environ
    )
    output.start_log()
    old = _old(settings)
    new_hash = _new_hash(old.user, _reference(new_password))
    destination = destination_of(settings, old, os.environ)
    asyncio.run(change_password(destination, old, new_hash))
    text = f"the password of {old.user!r} on hub {settings.hub!r} of {settings.host} is changed"
    is_kept = settings.password is not None and not isinstance(
        settings.password, Prompt
    )
    if is_kept:
        text += "; what 'password' refers to is the old one still: change it there, too"
    output.answer(
        {
            "changed": True,
            "host": settings.host,
            "hub": settings.hub,
            "user": old.user,
        },
        text,
    )


def _old(settings: Settings) -> Password:
    if settings.login != "password":
        raise ConfigError(
            f"there is no password to change where 'auth' is {settings.login}: "
            "name the user with --user, and see that the hub itself keeps the password"
        )
    credentials = login_of(settings, os.environ).credentials
    assert isinstance(credentials, Password)  # as the login said
    return credentials


def _reference(text: str | None) -> Reference:
    if text is None:
        return Prompt()
    # The key is `password`'s, so that the same words are taken and refused.
    reference = read_key("password", text, Origin("option"))
    if isinstance(reference, HashOf):
        return reference
    assert isinstance(reference, Reference)
    return reference


def _new_hash(user: str, reference: Reference) -> bytes:
    source = HostSource(os.environ, ask=getpass if sys.stdin.isatty() else None)
    if isinstance(reference, Prompt) and not sys.stdin.isatty():
        raise ConfigError(
            "the new password is needed and there is no terminal to ask on: give --new-password REF, as in file:PATH"
        )
    secret = resolve(reference, source, question=f"New password of {user}: ")
    if isinstance(secret, PasswordHash):
        return secret.reveal()
    if not secret.reveal():
        raise ConfigError("the new password is empty: nothing was changed")
    if isinstance(reference, Prompt) and secret != resolve(
        reference, source, question="The same again: "
    ):
        raise ConfigError("the two new passwords differ: nothing was changed")
    return hash_password(user, secret.reveal())
