# SPDX-License-Identifier: Apache-2.0
"""Calls on the system's D-Bus.

Layer: net. Runs in: any thread, one at a time; each call blocks until its deadline
at most.

    with SystemBus() as bus:
        (path,) = bus.call(RESOLVE1, "GetLink", "i", 7)

and signals, for an event loop that watches the descriptor.

The only module that knows the D-Bus library, and it takes of it what needs no
socket: the layouts of messages and of the login. The library's own connection
waits for the bus's greeting without a limit, so sending and receiving is here,
every wait under one deadline per call. It is imported with the first connection:
a tunnel that sets no names, or sets them without a bus, does not pay for it.

Source: D-Bus Specification 0.43.
"""

from __future__ import annotations

import importlib
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

from sevpn.errors import HostError

__all__ = ["BusError", "Destination", "Signals", "SystemBus", "has_system_bus"]

TIMEOUT_S: Final = 3.0
"""For one call. Services answer within milliseconds; a machine that just starts may
take a second to start one."""

_MAX_REPLY: Final = 1 << 20
"""Bytes of one answer; none that is asked for here has a tenth of that."""

_METHOD_RETURN: Final = 2
_ERROR: Final = 3


class BusError(HostError):
    """The bus, or the service asked, did not do it.

    Args:
        message: One line for people, without advice: the caller knows what it wanted.
        name: The error's name on the bus, such as
            `org.freedesktop.DBus.Error.ServiceUnknown`; empty when there was no answer.
    """

    def __init__(self, message: str, *, name: str = "") -> None:
        super().__init__(message, operation="bus")
        self.name = name


@dataclass(frozen=True, slots=True)
class Destination:
    """What is called."""

    service: str
    """Name on the bus."""

    path: str
    """The object."""

    interface: str
    """The interface that the method belongs to."""


class _Message(Protocol):
    header: Any
    body: Sequence[Any]

    def serialise(self, serial: int) -> bytes: ...


_BUS: Final = Destination(
    "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus"
)


def has_system_bus() -> bool:
    """Whether there may be a system bus: its socket is there, or somebody names one."""
    named = "DBUS_SYSTEM_BUS_ADDRESS" in os.environ
    return named or Path("/run/dbus/system_bus_socket").is_socket()


class SystemBus:
    """A connection to the system bus.

    Args:
        timeout_s: For connecting, and again for each call.

    Raises:
        BusError: There is no bus, it refuses us, or it does not answer.
    """

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        self._library: Any = importlib.import_module("jeepney")
        self._timeout_s = timeout_s
        self._serial = 0
        self._parser: Any = self._library.Parser()
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC
        )
        try:
            self._log_in(time.monotonic() + timeout_s)
            self.call(_BUS, "Hello")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; safe to call again."""
        self._socket.close()

    def call(
        self,
        destination: Destination,
        method: str,
        signature: str = "",
        *values: object,
    ) -> tuple[Any, ...]:
        """Call a method and return what it returns.

        Args:
            destination: Of what.
            method: Its name.
            signature: The types of *values*, in the bus's notation.
            values: One for each complete type of *signature*.

        Raises:
            BusError: The service refused, does not exist, or does not answer.
        """
        deadline = time.monotonic() + self._timeout_s
        address = self._library.DBusAddress(
            destination.path,
            bus_name=destination.service,
            interface=destination.interface,
        )
        message: _Message = self._library.new_method_call(
            address, method, signature or None, values
        )
        self._serial += 1
        try:
            self._send(message.serialise(self._serial), deadline)
            reply = self._reply(deadline)
        except TimeoutError as error:
            raise BusError(
                f"{destination.service} did not answer within {self._timeout_s:g} s"
            ) from error
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise BusError(_one_line(f"the system bus broke off: {error}")) from error
        if reply.header.message_type.value == _ERROR:
            raise self._refused(reply)
        return tuple(reply.body)

    # --- signals ---

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def take(self) -> None:
        """Take what has come, without waiting, and forget it.

        Raises:
            BusError: The bus has gone.
        """
        self._socket.settimeout(0)
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            raise BusError(f"the system bus broke off: {error}") from error
        if not data:
            raise BusError("the system bus closed the connection")

    # --- steps ---

    def _log_in(self, deadline: float) -> None:
        auth: Any = importlib.import_module("jeepney.auth")
        buses: Any = importlib.import_module("jeepney.bus")
        try:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            self._socket.connect(buses.get_bus("SYSTEM"))
            self._send(b"\0", deadline)
            login: Any = auth.Authenticator(inc_null_byte=False)
            for line in login:
                self._send(line, deadline)
                login.feed(self._receive(1024, deadline))
            self._send(auth.BEGIN, deadline)
        except TimeoutError as error:
            raise BusError(
                f"the system bus did not answer within {self._timeout_s:g} s"
            ) from error
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise BusError(f"there is no system bus: {reason}") from error
        except (ValueError, RuntimeError) as error:
            raise BusError(
                _one_line(f"the system bus refused the login: {error}")
            ) from error

    def _reply(self, deadline: float) -> Any:
        """Return the answer to the last call; signals and the like are passed over."""
        size = 0
        field = self._library.HeaderFields.reply_serial
        while True:
            while (message := self._parser.get_next_message()) is not None:
                kind = message.header.message_type.value
                if (
                    kind in {_METHOD_RETURN, _ERROR}
                    and message.header.fields.get(field) == self._serial
                ):
                    return message
            data = self._receive(1 << 16, deadline)
            size += len(data)
            if size > _MAX_REPLY:
                raise ValueError(f"an answer of more than {_MAX_REPLY} bytes")
            self._parser.add_data(data)

    def _refused(self, reply: _Message) -> BusError:
        name = str(reply.header.fields.get(self._library.HeaderFields.error_name, ""))
        text = reply.body[0] if reply.body and isinstance(reply.body[0], str) else name
        return BusError(_one_line(text), name=name)

    def _send(self, data: bytes, deadline: float) -> None:
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
        self._socket.sendall(data)

    def _receive(self, size: int, deadline: float) -> bytes:
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
        data = self._socket.recv(size)
        if not data:
            raise ConnectionResetError("it closed the connection")
        return data


class Signals:
    """A connection of its own for signals that match one rule.

    What they say is not looked at: whoever hears one asks.

    Args:
        rule: A match rule, as the bus has them.
        timeout_s: For connecting, and for each of two calls.

    Raises:
        BusError: There is no bus, it refuses the rule, or it does not answer.
    """

    def __init__(self, rule: str, *, timeout_s: float = 1.0) -> None:
        self._bus = SystemBus(timeout_s=timeout_s)
        try:
            self._bus.call(_BUS, "AddMatch", "s", rule)
        except BaseException:
            self._bus.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor that is readable when there may be a signal."""
        return self._bus.fileno()

    def read(self) -> None:
        """Take what has come; it may be no signal.

        Raises:
            BusError: The bus has gone.
        """
        self._bus.take()

    def close(self) -> None:
        """End the connection; safe to call again."""
        self._bus.close()


def _one_line(text: str) -> str:
    """Return what a service said, fit for a terminal."""
    clean = "".join(character if character.isprintable() else " " for character in text)
    return clean.strip()[:200]
