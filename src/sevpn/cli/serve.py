# SPDX-License-Identifier: Apache-2.0
"""`sevpn serve`: run the embedded server until Ctrl-C."""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import signal
import sys
from collections.abc import Mapping
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any, Final

import click

from sevpn.cli.common import Output, command as make_command
from sevpn.config.frozen import hold_files, is_frozen
from sevpn.config.hostsource import HostSource
from sevpn.config.secret import parse_reference, resolve
from sevpn.errors import ConfigError
from sevpn.log import Form, configure
from sevpn.server.config import (
    DEFAULT_PORT,
    DhcpConfig,
    HubConfig,
    ServerConfig,
    StoredPassword,
    TapConfig,
    User,
    load_config,
)
from sevpn.server.server import Server

__all__ = ["command"]

_SUBNET: Final = "192.168.30.0/24"
_ONLY_WITHOUT_CONFIG: Final = ("listen", "hub", "user", "password", "anonymous", "dhcp", "tap", "tap_address", "names")  # fmt: skip

_PROOFS: Final = {
    "anonymous": "",
    "password": " --password prompt",
    "plain": " --password prompt",
    "certificate": " --cert FILE --key REF",
}
"""What else the line to connect with must say, by the kind of user."""


@make_command("serve")
@click.option("--config", metavar="FILE", type=click.Path(path_type=Path), help="Everything from this TOML file; excludes the other options.")  # fmt: skip
@click.option("--listen", metavar="ADDR[:PORT]", multiple=True, help=f"Where to listen; may be repeated. [127.0.0.1:{DEFAULT_PORT}]")  # fmt: skip
@click.option("--hub", metavar="NAME", help="Name of the hub. [DEFAULT]")
@click.option("--user", metavar="NAME", help="Let NAME log in with --password.")
@click.option("--password", metavar="REF", help="The user's password: prompt, file:PATH, env:NAME, cred:NAME, cmd:COMMAND, or hash:REF. [prompt]")  # fmt: skip
@click.option("--anonymous", is_flag=True, help="Let anybody log in as 'anonymous'.")
@click.option("--dhcp", metavar="SUBNET|off", help=f"The subnet of the hub: its first address is the gateway's, the rest is given out by DHCP. [{_SUBNET}]")  # fmt: skip
@click.option("--tap", metavar="NAME", help="Put a TAP interface of this host on the hub.")  # fmt: skip
@click.option("--tap-address", metavar="CIDR", help="The TAP's address.")
@click.option("--name", "names", metavar="NAME", multiple=True, help="A host name or address that the certificate is for; may be repeated.")  # fmt: skip
def command(output: Output, config: Path | None, **values: Any) -> int:
    """Run a small SoftEther server, for labs, demos and tests.

    It prints the line to connect with, its certificate's fingerprint included.
    """
    level = logging.DEBUG if output.debug else logging.INFO if output.verbose else logging.WARNING  # fmt: skip
    form = Form.JSON if output.as_json else Form.TERMINAL
    configure(sys.stderr, level=level, form=form)
    source = HostSource(os.environ, ask=_ask if sys.stdin.isatty() else None)
    if config is None:
        made = _config_of(values, source)
    else:
        _check_alone(values)
        made = load_config(config, source)
    return asyncio.run(_serve(Server(made), output))


def _ask(question: str) -> str:
    return getpass.getpass(question)


def _check_alone(values: Mapping[str, Any]) -> None:
    for name in _ONLY_WITHOUT_CONFIG:
        if values[name]:
            option = {"names": "name"}.get(name, name).replace("_", "-")
            raise click.UsageError(f"--{option} cannot be given with --config: write it into the file")  # fmt: skip


def _config_of(values: Mapping[str, Any], source: HostSource) -> ServerConfig:
    """Make a configuration of one hub from the options."""
    subnet = _subnet(values["dhcp"] or _SUBNET)
    tap = None
    if values["tap"]:
        tap = TapConfig(name=values["tap"], address=_interface(values["tap_address"]))
    elif values["tap_address"]:
        raise click.UsageError("--tap-address needs --tap")
    hub = HubConfig(
        name=values["hub"] or "DEFAULT",
        users=_users(values, source),
        gateway=None
        if subnet is None
        else IPv4Interface((subnet[1], subnet.prefixlen)),
        dhcp=None if subnet is None else DhcpConfig(),
        tap=tap,
    )
    listen = values["listen"] or (f"127.0.0.1:{DEFAULT_PORT}",)
    return ServerConfig(listen=listen, hubs=(hub,), names=values["names"]).checked()


def _users(values: Mapping[str, Any], source: HostSource) -> tuple[User, ...]:
    users: list[User] = []
    if values["user"]:
        try:
            reference = parse_reference(values["password"] or "prompt")
        except ConfigError as error:
            raise ConfigError(f"--password {error}") from None
        secret = resolve(reference, source, question=f"Password of {values['user']}: ")
        users.append(User(name=values["user"], password=StoredPassword(secret)))
    elif values["password"]:
        raise click.UsageError("--password needs --user")
    if values["anonymous"]:
        users.append(User.anonymous())
    if not users:
        raise ConfigError("nobody could log in: give --user NAME, --anonymous or --config FILE")  # fmt: skip
    return tuple(users)


async def _serve(server: Server, output: Output) -> int:
    """Run until a signal says otherwise."""
    hold_files(os.environ, frozen=is_frozen())
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    server.subscribe(lambda event: _show(event, output))
    await server.start()
    try:
        output.answer(_facts(server), "\n".join(_lines(server)))
        sys.stdout.flush()
        await ended.wait()
    finally:
        await server.stop()
    output.note("stopped")
    return 0


def _show(event: dict[str, Any], output: Output) -> None:
    words = " ".join(f"{name}={value}" for name, value in event.items() if name != "event")  # fmt: skip
    if output.as_json:
        output.answer(event, "")
        sys.stdout.flush()
    else:
        output.note(f"{event['event']}: {words}")


def _facts(server: Server) -> dict[str, Any]:
    return {
        "event": "serving",
        "addresses": [{"address": address, "port": port} for address, port in server.addresses],
        "certificate_sha256": server.certificate_sha256,
        "hubs": [
            {
                "name": hub.config.name,
                "users": [{"name": user.name, "auth": user.auth} for user in hub.config.users],
                "gateway": None if hub.config.gateway is None else str(hub.config.gateway),
            }
            for hub in server.hubs.values()
        ],
    }  # fmt: skip


def _lines(server: Server) -> list[str]:
    """Return what a person needs: where it is, and a command to copy for each user."""
    address, port = server.addresses[0]
    host = f"[{address}]" if ":" in address else address
    lines = [f"serving on {', '.join(_endpoint(*one) for one in server.addresses)}; Ctrl-C stops"]  # fmt: skip
    for hub in server.hubs.values():
        config = hub.config
        inside = f", gateway {config.gateway}" if config.gateway else ""
        lines.append(f"hub {config.name}{inside}; connect with one of:")
        for user in config.users:
            login = f"--auth {user.auth}{_PROOFS[user.auth]}"
            lines.append(
                f"  sevpn up {host}:{port}/{config.name} --user {user.name} {login} --pin sha256:{server.certificate_sha256}"
            )
    return lines


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _subnet(text: str) -> IPv4Network | None:
    if text == "off":
        return None
    try:
        subnet = IPv4Network(text)
    except ValueError as error:
        raise ConfigError(f"--dhcp {text!r} is no subnet ({error}): write it as in {_SUBNET}, or 'off'") from error  # fmt: skip
    if subnet.prefixlen > 29:
        raise ConfigError(f"--dhcp {text} is too small: give a /29 or larger")
    return subnet


def _interface(text: str | None) -> IPv4Interface | None:
    try:
        return None if text is None else IPv4Interface(text)
    except ValueError as error:
        raise ConfigError(f"--tap-address {text!r} is no address ({error}): write it as in 192.168.30.2/24") from error  # fmt: skip
